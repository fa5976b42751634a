package offline

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// logFile is a log of published ones.
func logFile(folder, name string) []LogFile {
	return []LogFile{{Name: name, Open: func() (io.ReadCloser, error) { return os.Open(filepath.Join(folder, name)) }}}
}

// explained is the report of the flow that a predicate picks.
func explained(t *testing.T, in *Input, want func(*report.Flow) bool) *report.Report {
	t.Helper()
	table := Table(in, Selection{}, 0)
	i := slices.IndexFunc(table.Flows, func(f report.Flow) bool { return want(&f) })
	if i < 0 {
		t.Fatalf("no such flow among %d", len(table.Flows))
	}
	r, err := Explain(t.Context(), in, table.Flows[i].Number-1)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func interfaces(hops []report.Hop) string {
	var names []string
	for i := range hops {
		names = append(names, hops[i].Interface)
	}
	return strings.Join(names, " ")
}

// TestTraceHooks: nft names no hooks. Those of iptables' chains are known by their
// names; what the others show takes the rules.
func TestTraceHooks(t *testing.T) {
	const table = `
trace id 00000001 ip %[1]s %[2]s packet: iif "docker0" ip saddr 172.17.0.2 ip daddr 192.0.2.80 ip ttl 64 ip id 7 ip length 60 tcp sport 4000 tcp dport 81 tcp flags == syn tcp window 64240
trace id 00000001 ip %[1]s %[2]s policy accept
`
	const forward = `
trace id 00000002 ip %[1]s %[2]s packet: iif "docker0" oif "eth0" ip saddr 172.17.0.2 ip daddr 192.0.2.80 ip ttl 63 ip id 7 ip length 60 tcp sport 4000 tcp dport 81 tcp flags == syn tcp window 64240
trace id 00000002 ip %[1]s %[2]s rule tcp dport 81 drop (verdict drop)
`
	const ruleset = `
table ip fw {
	chain pre {
		type filter hook prerouting priority raw; policy accept;
	}
	chain forw {
		type filter hook forward priority filter; policy accept;
		tcp dport 81 drop
	}
}
`
	native := fmt.Sprintf(table, "fw", "pre") + fmt.Sprintf(forward, "fw", "forw")
	for name, tt := range map[string]struct{ trace, rules, want, note string }{
		"chains of iptables":       {trace: fmt.Sprintf(table, "raw", "PREROUTING") + fmt.Sprintf(forward, "filter", "FORWARD")},
		"others":                   {trace: native, want: "no line of the trace in t.txt tells where a packet was, because nft names no hooks: add --rules"},
		"others, and the rules":    {trace: native, rules: ruleset},
		"the first of iptables":    {trace: fmt.Sprintf(table, "raw", "PREROUTING") + fmt.Sprintf(forward, "fw", "forw"), note: "Of 1 of 2 rules of the trace it is not known where the packet was"},
		"forwarding, by its hook":  {trace: fmt.Sprintf(forward, "filter", "FORWARD"), want: "trace from prerouting or output on"},
		"a table called as theirs": {trace: fmt.Sprintf(table, "filter", "pre"), want: "because nft names no hooks"},
	} {
		t.Run(name, func(t *testing.T) {
			log := func(name, text string) []LogFile {
				return []LogFile{{Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}}
			}
			files := LogFiles{Trace: log("t.txt", tt.trace)}
			if tt.rules != "" {
				files.Rules = log("rules.txt", tt.rules)
			}
			logs, err := ReadLogs(files)
			if err != nil {
				t.Fatal(err)
			}
			in, err := Read(t.Context(), nil, logs, Config{})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r := explained(t, in, func(*report.Flow) bool { return true })
			if r.Verdict.Code != diagnose.FilterDrop || interfaces(r.Legs.Request) != "docker0" || !strings.Contains(strings.Join(r.Notes, "\n"), tt.note) {
				t.Errorf("%s at %s: %s; notes %q", r.Verdict.Code, interfaces(r.Legs.Request), r.Verdict.Summary, r.Notes)
			}
		})
	}
}

// TestTracesAlone: traces of rules that others published, without a capture.
func TestTracesAlone(t *testing.T) {
	folder := filepath.Join(testenv.SharedData(t), "logs")
	for name, tt := range map[string]struct {
		files          LogFiles
		source         string
		outcome        report.Outcome
		code           string
		request, reply string
		kind, from, to string
		chain          string
		number         int
		rules          []string // of the request that have to be among its steps
	}{
		"container to container": {
			files:  LogFiles{Trace: logFile(folder, "tonybai-docker0/trace-container-to-container.log"), Rules: logFile(folder, "tonybai-docker0/iptables-save.txt")},
			source: "192.168.0.2", outcome: report.Replied, code: diagnose.OK,
			request: "docker0 veth0594f4b veth57a3dec", reply: "docker0 veth57a3dec veth0594f4b", rules: []string{"filter FORWARD 6"},
		},
		"container to outside": {
			files:  LogFiles{Trace: logFile(folder, "tonybai-docker0/trace-container-to-external.log"), Rules: logFile(folder, "tonybai-docker0/iptables-save.txt")},
			source: "192.168.0.2", outcome: report.Replied, code: diagnose.OK,
			request: "docker0 eth0", reply: "eth0 docker0", kind: "masquerade", from: "192.168.0.2", to: "10.171.77.0", chain: "POSTROUTING", number: 1,
			rules: []string{"filter FORWARD 5", "nat POSTROUTING 1"},
		},
		"virtual machine": {
			files:  LogFiles{Trace: logFile(folder, "libvirt-nat/trace-vm-to-external.log")},
			source: "192.168.122.17:42954", outcome: report.Lost, code: diagnose.NoReply, request: "virbr0 bond0",
			rules: []string{"filter FORWARD 2", "nat POSTROUTING 3"},
		},
		"pod to service": {
			files:  LogFiles{Trace: logFile(folder, "gke-kubedns/trace-pod-to-kubedns.log"), Conntrack: logFile(folder, "gke-kubedns/conntrack-L.txt")},
			source: "10.24.12.40:36775", outcome: report.Inconclusive, code: diagnose.Inconclusive, request: "cbr0 eth0",
			kind: "dnat", from: "10.27.240.10:53", to: "10.24.9.31:53", chain: "KUBE-SEP-MQYG7Z5PYI3N6YFY", number: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			logs, err := ReadLogs(tt.files)
			if err != nil {
				t.Fatal(err)
			}
			in, err := Read(context.Background(), nil, logs, Config{})
			if err != nil {
				t.Fatal(err)
			}
			r := explained(t, in, func(f *report.Flow) bool { return f.Tuple.Source == tt.source })
			v := &r.Verdict
			if v.Outcome != tt.outcome || v.Code != tt.code || v.Elapsed != 0 {
				t.Errorf("%s %s: %s", v.Outcome, v.Code, v.Summary)
			}
			if got := interfaces(r.Legs.Request); got != tt.request {
				t.Errorf("request %q, want %q", got, tt.request)
			}
			if got := interfaces(r.Legs.Reply); got != tt.reply {
				t.Errorf("reply %q, want %q", got, tt.reply)
			}
			if !strings.Contains(v.Summary, "No rule of the trace dropped it.") && tt.outcome != report.Replied {
				t.Error(v.Summary)
			}
			var met []string
			for _, h := range r.Legs.Request {
				for _, s := range h.Steps {
					if s.Rule != nil {
						met = append(met, fmt.Sprintf("%s %s %d", s.Rule.Table, s.Rule.Chain, s.Rule.Number))
					}
				}
			}
			for _, rule := range tt.rules {
				if !slices.Contains(met, rule) {
					t.Errorf("no step for %s among %q", rule, met)
				}
			}
			at := slices.IndexFunc(r.Translations, func(tr report.Translation) bool { return tr.Leg == "request" })
			if (at >= 0) != (tt.kind != "") {
				t.Fatalf("translations %+v", r.Translations)
			}
			if at >= 0 {
				tr := &r.Translations[at]
				if tr.Kind != tt.kind || tr.From != tt.from || tr.To != tt.to || tr.Rule == nil || tr.Rule.Chain != tt.chain || tr.Rule.Number != tt.number {
					t.Errorf("translation %+v by %+v", tr, tr.Rule)
				}
			}
		})
	}
}
