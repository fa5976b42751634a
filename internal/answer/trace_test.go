package answer

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// TestOverall holds the first words about a command's flows against what is known
// of them.
func TestOverall(t *testing.T) {
	query := func(number int, said string) report.Flow {
		return report.Flow{Number: number, Tuple: report.Tuple{Protocol: "udp", Destination: "8.8.8.8:53"}, Asked: "proxy.example A", Said: said}
	}
	proxy := func(number int, said string) report.Flow {
		return report.Flow{Number: number, Tuple: report.Tuple{Protocol: "tcp", Destination: "192.0.2.80:8888"}, Host: "proxy.example", Said: said}
	}
	const refused = "HTTP/1.1 407 Proxy Authentication Required"
	tests := []struct {
		name   string
		flows  []report.Flow
		failed []int
		silent []int
		status int
		want   string
	}{
		{"none", nil, nil, nil, 0, "nothing"},
		{"one is well", []report.Flow{query(1, "")}, nil, nil, 0, "The network is in order: the query of 8.8.8.8:53 for proxy.example A was answered. flow 1"},
		{"one failed", []report.Flow{query(1, "")}, []int{1}, nil, 1, "The query of 8.8.8.8:53 for proxy.example A failed. flow 1"},
		{
			"the second failed",
			[]report.Flow{query(1, ""), proxy(2, "")},
			[]int{2},
			nil, 1,
			"1 of 2 flows failed, the connection to 192.0.2.80:8888 (proxy.example) (flow 2). flow 2",
		},
		{
			"two failed",
			[]report.Flow{query(1, ""), proxy(2, ""), proxy(3, "")},
			[]int{3, 2},
			nil, 1,
			"2 of 3 flows failed, first the connection to 192.0.2.80:8888 (proxy.example) (flow 2). flow 2",
		},
		{
			"complaints",
			[]report.Flow{query(1, ""), proxy(2, refused), proxy(3, "HTTP/1.1 200 OK"), proxy(4, refused)},
			nil, nil, 1,
			`The network is in order: all 4 flows were answered. 192.0.2.80:8888 (proxy.example) answered "` + refused + `" (flows 2, 4). Flow 1, the query of 8.8.8.8:53 for proxy.example A: flow 1`,
		},
		{
			"no such name",
			[]report.Flow{query(1, "no such name (NXDOMAIN)")},
			nil, nil, 1,
			"The network is in order: the query of 8.8.8.8:53 for proxy.example A was answered. 8.8.8.8:53 answered the query for proxy.example A: no such name (NXDOMAIN) (flow 1). flow 1",
		},
		{"no such name, and no harm", []report.Flow{query(1, "no such name (NXDOMAIN)")}, nil, nil, 0, "The network is in order: the query of 8.8.8.8:53 for proxy.example A was answered. flow 1"},
		{
			"silence",
			[]report.Flow{query(1, ""), proxy(2, ""), proxy(3, "")},
			nil,
			[]int{2, 3},
			1,
			"No packet was seen to be lost: all 3 flows were answered. From 192.0.2.80:8888 (proxy.example) data came in packets of up to 300 bytes, and then nothing more until the connection was closed, 3s later: it is slow, or its larger packets are lost beyond what is visible (MTU) (flows 2, 3). Flow 2, the connection to 192.0.2.80:8888 (proxy.example): flow 2",
		},
		{
			"silence, and no harm",
			[]report.Flow{query(1, ""), proxy(2, "")},
			nil,
			[]int{2},
			0,
			"The network is in order: both flows were answered. Flow 1, the query of 8.8.8.8:53 for proxy.example A: flow 1",
		},
	}
	for _, tt := range tests {
		j := &Judged{rows: tt.flows, explained: make(map[int]*report.Report), failed: make(map[int]bool), Command: &report.Command{Status: tt.status}}
		explanation := func(number int) *report.Report {
			return &report.Report{Verdict: report.Verdict{Outcome: report.Replied, Code: diagnose.OK, Summary: "flow " + string(rune('0'+number))}}
		}
		for _, f := range tt.flows {
			j.well.first(f.Number, explanation(f.Number))
		}
		for _, number := range tt.failed {
			j.failed[number], j.explained[number] = true, explanation(number)
			j.explained[number].Verdict.Outcome = report.Lost
		}
		for _, number := range tt.silent {
			j.silences = append(j.silences, silence{number, "192.0.2.80:8888 (proxy.example)", 3 * time.Second, 300})
			j.silent.first(number, explanation(number))
		}
		r := Trace(&evidence.Run{Topology: &topology.Snapshot{Source: "cnt01"}}, j)
		if tt.want == "nothing" {
			tt.want = "No packet of a new flow left cnt01."
		}
		if diff := cmp.Diff(tt.want, r.Verdict.Summary); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if unsure := r.Verdict.Outcome == report.Inconclusive; unsure != (len(tt.silent) > 0 && tt.status != 0) {
			t.Errorf("%s: it is %s", tt.name, r.Verdict.Outcome)
		}
	}
}

// TestNothing: that nothing was sent is said where no packet was missed, and is no
// failure of a command that ended well.
func TestNothing(t *testing.T) {
	for _, tt := range []struct {
		name     string
		captured bool
		command  *report.Command
		outcome  report.Outcome
		code     string
	}{
		{"ended well", true, &report.Command{}, report.Unsent, diagnose.OK},
		{"failed", true, &report.Command{Status: 1}, report.Unsent, diagnose.NotSeen},
		{"how it ended is not known", true, &report.Command{Unknown: "its engine is gone"}, report.Unsent, diagnose.NotSeen},
		{"no command", true, nil, report.Unsent, diagnose.NotSeen},
		{"packets were missed", false, &report.Command{}, report.Inconclusive, diagnose.Inconclusive},
	} {
		run := &evidence.Run{Topology: &topology.Snapshot{Source: "cnt01"}, Stations: []evidence.Station{{NetNS: "cnt01", Captured: tt.captured}}}
		if v := Trace(run, &Judged{Command: tt.command}).Verdict; v.Outcome != tt.outcome || v.Code != tt.code {
			t.Errorf("%s: %s %s: %s", tt.name, v.Outcome, v.Code, v.Summary)
		}
	}
}
