package live_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// TestOSPF has FRR's daemons in R1 and R2 exchange routes. The path names the
// routers, and the protocol and the metric of each route, as "ip route" lists
// them.
func TestOSPF(t *testing.T) {
	t.Parallel()
	n := buildOSPF(t, "")
	r := trace(t, n, probe(n))
	for _, problem := range healthy(r) {
		t.Error(problem)
	}
	got := routers(append(r.Legs.Request, r.Legs.Reply...))
	want := []string{
		"R2: default via 192.168.102.1 dev eth1 proto ospf metric 20",
		"R1: default via 192.168.101.1 dev eth1 proto static",
		"host: default via 203.0.113.254 dev eth0 proto static",
		"host: 192.168.103.0/24 via 192.168.101.2 dev br1 proto static",
		"R1: 192.168.103.0/24 via 192.168.102.2 dev eth2 proto ospf metric 20",
		"R2: 192.168.103.0/24 dev eth2 proto kernel scope link src 192.168.103.2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	for router, route := range map[string]string{"R1": "192.168.103.0/24", "R2": "default"} {
		// zebra's routes refer to next hops, which "ip route" names first.
		listed := command(t, n.NetNS(router), "ip", "route", "show", route)
		if !strings.Contains(listed, "proto ospf metric 20") {
			t.Errorf("%s has the route %q", router, listed)
		}
	}
}

// TestOSPFDown is the same where R2's ospfd has ended: the report names both
// routes that are missing, and their commands heal.
func TestOSPFDown(t *testing.T) {
	t.Parallel()
	n := buildOSPF(t, "ospf-down@R2")
	r := heal(t, n, probe(n))
	if r.Verdict.Code != "NO_ROUTE" || r.Verdict.NetNS != "R2" || r.Verdict.Outcome != report.Rejected {
		t.Errorf("%s %s in %s:\n%s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.NetNS, text(t, r))
	}
	var fixes []string
	for _, f := range r.Findings {
		fixes = append(fixes, f.Fix...)
	}
	want := []string{
		"ip netns exec R2 ip route add default via 192.168.102.1 dev eth1",
		"ip netns exec R1 ip route add 192.168.103.0/24 via 192.168.102.2 dev eth2",
	}
	if diff := cmp.Diff(want, fixes); diff != "" {
		t.Errorf("fixes (-want +got):\n%s", diff)
	}
}

// buildOSPF builds pipework-ospf with FRR's daemons.
func buildOSPF(t *testing.T, broken string) *lab.Network {
	t.Helper()
	n := build(t, "pipework-ospf", lab.Options{Break: broken, OSPF: true, Peers: testenv.Peers(t)})
	if len(n.Remarks) > 0 {
		t.Fatalf("OSPF does not run: %s", n.Remarks)
	}
	return n
}

// routers are the routes that a packet took, with the namespaces.
func routers(leg []report.Hop) []string {
	var all []string
	for _, hop := range leg {
		for _, step := range hop.Steps {
			if step.Kind == "route" {
				all = append(all, hop.NetNS+": "+step.Text)
			}
		}
	}
	return all
}
