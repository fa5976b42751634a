package live_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/florianl/go-nflog/v2"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/report"
)

// hold takes NFLOG group 0 in a namespace, as ulogd does.
func hold(t *testing.T, ns *netns.NS) {
	t.Helper()
	group, err := nflog.Open(&nflog.Config{NetNS: ns.FD(), Group: 0, Copymode: nflog.CopyPacket, Bufsize: 128})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(func() {
		stop()
		if err := group.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := group.RegisterWithErrorFunc(ctx, func(nflog.Attribute) int { return 0 }, func(error) int { return 1 }); err != nil {
		t.Fatal(err)
	}
}

// sensed returns a sensor of a report.
func sensed(t *testing.T, r *report.Report, name string) report.Sensor {
	t.Helper()
	for _, s := range r.Sensors {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no sensor %q in %+v", name, r.Sensors)
	return report.Sensor{}
}

// told reports whether the kernel told of its drops.
func told(t *testing.T, r *report.Report) bool {
	t.Helper()
	return sensed(t, r, "kernel drops").State == "ok"
}

// healthyBut are the objections to a healthy report, except about one sensor.
func healthyBut(r *report.Report, sensor string) []string {
	var all []string
	for _, problem := range healthy(r) {
		if !strings.HasPrefix(problem, "sensor "+sensor+" is ") {
			all = append(all, problem)
		}
	}
	return all
}

// TestGroupTaken traces where somebody else reads what legacy rules log. The
// sensor list names him, he keeps his group, and the report says what can be
// known without the rules: what was lost may have met one.
func TestGroupTaken(t *testing.T) {
	t.Parallel()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("NFLOG group 0 in host is taken by %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
	// Masquerade and SNAT look the same without the rule.
	const translation = "request observed snat host postrouting source 172.19.0.2 → 203.0.113.1 "
	tests := []struct {
		fault string
		want  verdict
	}{
		{"", answeredAt("mynamespace", byHandThere, byHandBack, translation)},
		{lab.ForwardDrop, endedBy(report.Inconclusive, "INCONCLUSIVE", "host", "", "", byHandThere[:2], nil)},
		{lab.ForwardPolicy, endedBy(report.Inconclusive, "INCONCLUSIVE", "host", "", "", byHandThere[:2], nil)},
		{lab.Reject, endedBy(report.Rejected, "FILTER_REJECTED", "host", "", "", byHandThere[:2], byHandBack[1:])},
		{lab.ReplyDrop, verdict{Outcome: report.Inconclusive, Leg: "reply", Code: "INCONCLUSIVE", NetNS: "host", Translations: []string{translation}, Request: byHandThere, Reply: byHandBack[:1]}},
	}
	for _, tt := range tests {
		t.Run(strings.TrimSpace("legacy "+tt.fault), func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{Backend: lab.IPTablesLegacy, Break: tt.fault})
			hold(t, n.Host)
			groups := read(t, n.Host, "/proc/thread-self/net/netfilter/nfnetlink_log")
			cfg := probe(n)
			cfg.Timeout = patient
			r := trace(t, n, cfg)

			s := sensed(t, r, "nflog host")
			if s.State != "absent" || s.Reason != holder {
				t.Errorf("the sensor is %s: %q, want absent: %q", s.State, s.Reason, holder)
			}
			if got := read(t, n.Host, "/proc/thread-self/net/netfilter/nfnetlink_log"); got != groups {
				t.Errorf("groups were\n%s\nand are\n%s", groups, got)
			}
			got := shorten(r)
			if tt.want.Code == "INCONCLUSIVE" {
				told := told(t, r)
				if told {
					// The kernel says that it was netfilter, and not which rule.
					tt.want.Outcome = report.Dropped
					tt.want.Code = map[string]string{"request": "KERNEL_DROP", "reply": "REPLY_LOST_HERE"}[got.Leg]
					if r.Verdict.Mechanism != "NETFILTER_DROP@nf_hook_slow" {
						t.Errorf("mechanism %s", r.Verdict.Mechanism)
					}
				}
				if (got.Confidence == report.Observed) != told {
					t.Errorf("the verdict is %s", got.Confidence)
				}
				tt.want.Confidence = got.Confidence
				if !strings.Contains(r.Verdict.Summary, "Rules could not be traced there") || strings.Contains(r.Verdict.Summary, "No rule") {
					t.Errorf("summary: %s", r.Verdict.Summary)
				}
			}
			tell(t, tt.want, got)
			if tt.fault == "" {
				for _, problem := range healthyBut(r, "nflog host") {
					t.Error(problem)
				}
			}
			if tt.fault == lab.ReplyDrop {
				// Only the kernel's drop shows the answer behind its translation.
				steps, confidence := r.Legs.Reply[0].Steps, report.Reconstructed
				if told(t, r) {
					confidence = report.Observed
				}
				i := slices.IndexFunc(steps, func(s report.Step) bool { return s.Kind == "nat" })
				if i < 0 || steps[i].Confidence != confidence {
					t.Errorf("the answer's steps: %+v", steps)
				}
			}
			if r.Verdict.Rule != nil {
				t.Errorf("a rule is named that was not seen: %s", owned(r.Verdict.Rule))
			}
		})
	}
	// Where there are no legacy tables nobody needs the group.
	t.Run("nft", func(t *testing.T) {
		t.Parallel()
		n := build(t, "netns-by-hand", lab.Options{Backend: lab.NFT})
		hold(t, n.Host)
		r := trace(t, n, probe(n))
		tell(t, expected(t, n), said(r))
		for _, problem := range healthy(r) {
			t.Error(problem)
		}
	})
}

// TestNoConntrackEvents traces where conntrack is told to be silent. What the
// rules and the packets show is enough.
func TestNoConntrackEvents(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.NFT, lab.IPTablesNFT, lab.IPTablesLegacy} {
		for _, fault := range []string{"", lab.ReplyDrop} {
			t.Run(strings.TrimSpace(string(backend)+" "+fault), func(t *testing.T) {
				t.Parallel()
				n := build(t, "netns-by-hand", lab.Options{Backend: backend, Break: fault})
				setting("host", "net/netfilter/nf_conntrack_events", "0")(t, n)
				r := trace(t, n, probe(n))
				want, got := expected(t, n), said(r)
				// What conntrack takes back has no other witness.
				want.Undone, got.Undone = nil, nil
				got.Translations = slices.DeleteFunc(got.Translations, func(t report.Translation) bool { return t.Leg == "reply" && t.Kind == "unknown" })
				tell(t, want, got)
				if s := sensed(t, r, "conntrack host"); s.State != "degraded" || !strings.Contains(s.Reason, "nf_conntrack_events = 0") {
					t.Errorf("the sensor is %s: %s", s.State, s.Reason)
				}
				if fault == "" {
					for _, problem := range healthyBut(r, "conntrack host") {
						t.Error(problem)
					}
				}
			})
		}
	}
}
