package live_test

import (
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// TestFixes runs the commands that a report proposes, as they are printed, and
// probes again: the answer comes.
func TestFixes(t *testing.T) {
	t.Parallel()
	count := 0
	for _, scenario := range lab.Scenarios() {
		for _, options := range variants(scenario) {
			if options.Break == "" || options.Opaque || options.NoBridgeNF {
				continue
			}
			count++
			t.Run(name(scenario, options), func(t *testing.T) {
				t.Parallel()
				third(t, count)
				n := build(t, scenario.Name, options)
				heal(t, n, probe(n))
			})
		}
	}
	for _, backend := range []lab.Backend{lab.NFT, lab.IPTablesNFT, lab.IPTablesLegacy} {
		for _, tt := range rejected(backend) {
			count++
			t.Run(tt.name+" "+string(backend), func(t *testing.T) {
				t.Parallel()
				third(t, count)
				n := build(t, tt.scenario, lab.Options{Backend: backend})
				command(t, n.NetNS(tt.in), tt.change...)
				heal(t, n, connection(n, tt.source, tt.target))
			})
		}
	}
}

// heal probes, does what the findings propose, and probes again. It returns the
// first report.
func heal(t *testing.T, n *lab.Network, cfg live.Config) *report.Report {
	t.Helper()
	sick := trace(t, n, cfg)
	mend(t, n, sick)
	well := trace(t, n, cfg)
	for _, problem := range healthy(well) {
		t.Error(problem)
	}
	if well.Verdict.Outcome != report.Replied {
		t.Errorf("first it was\n%s\nand then\n%s", text(t, sick), text(t, well))
	}
	return sick
}
