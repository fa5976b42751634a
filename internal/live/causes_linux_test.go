package live_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// TestCauses breaks each network in each way that is no filter rule, and
// compares the cause that a run names with what the lab broke; then it does
// what the report proposes, and the answer comes. Of the tools that write rules
// each fault takes one, so that together they take all. An ordinary user, whom the
// kernel does not tell of its drops, has each fault in one network.
func TestCauses(t *testing.T) {
	t.Parallel()
	tried := make(map[string]bool)
	for _, scenario := range lab.Scenarios() {
		for i, fault := range scenario.Faults {
			if fault.ByRule() {
				continue // TestTruth
			}
			options := lab.Options{Break: fault.Name, Backend: scenario.Backends[i%len(scenario.Backends)]}
			kind, _, _ := strings.Cut(fault.Name, "@")
			again := tried[kind]
			tried[kind] = tried[kind] || !fault.Root
			t.Run(name(scenario, options), func(t *testing.T) {
				t.Parallel()
				if fault.Root {
					testenv.Root(t)
				}
				if again {
					testenv.LeftToRoot(t)
				}
				n := build(t, scenario.Name, options)
				named(t, n, &fault)
			})
		}
	}
}

// named runs a fault's probe and holds the report against the truth.
func named(t *testing.T, n *lab.Network, fault *lab.Fault) {
	t.Helper()
	cfg := probing(n, n.Scenario.ProbeOf(fault.Name))
	sick := trace(t, n, cfg)
	truth := n.Truth()
	want := verdict{Outcome: report.Outcome(truth.Outcome), Leg: truth.Leg, Code: truth.Code, NetNS: truth.NetNS, Hook: truth.Hook}
	if truth.Rule.Text != "" {
		want.Rule = owned(ruleOf(t, n, truth.NetNS, truth.Rule))
	}
	got := shorten(sick)
	tell(t, want, verdict{Outcome: got.Outcome, Leg: got.Leg, Code: got.Code, NetNS: got.NetNS, Hook: got.Hook, Rule: got.Rule})
	if truth.Interface != "" && sick.Verdict.Interface != truth.Interface {
		t.Errorf("at %s, want %s", sick.Verdict.Interface, truth.Interface)
	}
	if t.Failed() {
		t.Fatalf("report:\n%s", text(t, sick))
	}
	t.Logf("report:\n%s", text(t, sick))
	if !fault.NoFix {
		mend(t, n, sick)
		well := trace(t, n, cfg)
		if !heals(well, cfg) {
			t.Errorf("after what was proposed:\n%s", text(t, well))
		}
	}
}

// heals reports whether a probe was answered after what was proposed. Of a name
// only the query is sent.
func heals(r *report.Report, cfg live.Config) bool {
	if cfg.Unresolved != nil {
		back := r.Legs.Reply
		return len(back) > 0 && back[len(back)-1].NetNS == cfg.Source.Name
	}
	return r.Verdict.Outcome == report.Replied && r.Verdict.Code == "OK"
}

// probing is the configuration of a run that sends a probe of the lab's.
func probing(n *lab.Network, p *lab.Probe) live.Config {
	cfg := from(n, p.Source, p.Target)
	cfg.Kind, cfg.Port = p.Kind, p.Port
	cfg.Size, cfg.DontFragment, cfg.SendBytes = p.Size, p.DF, p.SendBytes
	switch {
	case p.Kind == "dns":
		said := resolve.Said{Server: p.Target, Question: "dns.google", Answer: p.Said}
		cfg.Kind, cfg.Target = "ping", "dns.google"
		cfg.Unresolved = &resolve.Error{Kind: resolve.NoAnswer, Name: "dns.google", Source: p.Source, Said: []resolve.Said{said}}
	case p.Port != 0:
		cfg.Target = netip.AddrPortFrom(p.Target, p.Port).String()
	}
	if i := slices.Index(p.Flags, "--source-port"); i >= 0 {
		port, _ := strconv.ParseUint(p.Flags[i+1], 10, 16)
		cfg.SourcePort = uint16(port)
	}
	if i := slices.Index(p.Flags, "--timeout"); i >= 0 {
		cfg.Timeout, _ = time.ParseDuration(p.Flags[i+1])
	}
	return cfg
}

// mend runs the commands that the findings of a report propose.
func mend(t *testing.T, n *lab.Network, sick *report.Report) {
	t.Helper()
	done := 0
	for _, finding := range sick.Findings {
		for _, line := range finding.Fix {
			if strings.HasPrefix(line, `"`) {
				continue // for Docker's configuration: TestRenumber
			}
			in := lab.HostName
			if before, name, ok := strings.Cut(line, " netns "); ok && strings.HasPrefix(before, "ip link set dev ") {
				line = fmt.Sprintf("%s netns /proc/%d/fd/%d", before, os.Getpid(), n.NetNS(name).FD())
			}
			// The lab's namespaces have no names.
			if rest, ok := strings.CutPrefix(line, "ip netns exec "); ok {
				in, line, _ = strings.Cut(rest, " ")
			}
			command(t, n.NetNS(in), "sh", "-c", line)
			done++
		}
	}
	if done == 0 {
		t.Fatalf("no fix is proposed:\n%s", text(t, sick))
	}
}
