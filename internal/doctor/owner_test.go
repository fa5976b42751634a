package doctor

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TestUsers: rules are for DOCKER-USER only where Docker, or the policy behind it,
// drops what was there before.
func TestUsers(t *testing.T) {
	const chains = "*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n"
	const dockers = "-A DOCKER ! -i docker0 -o docker0 -j DROP\nCOMMIT\n"
	for name, tt := range map[string]struct {
		rules  string
		rule   string
		policy bool
		want   string
	}{
		"Docker's":          {chains + "-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n" + dockers, "-A DOCKER ! -i docker0 -o docker0 -j DROP", false, "DOCKER-USER"},
		"policy":            {chains + "-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n" + dockers, "", true, "DOCKER-USER"},
		"not called":        {chains + "-A FORWARD -o docker0 -j DOCKER\n" + dockers, "", true, ""},
		"called too late":   {chains + "-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -j DOCKER-USER\n" + dockers, "-A DOCKER ! -i docker0 -o docker0 -j DROP", false, ""},
		"somebody's":        {chains + "-A FORWARD -j DOCKER-USER\n-A FORWARD -j DROP\nCOMMIT\n", "-A FORWARD -j DROP", false, ""},
		"policy of another": {"*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", "", true, ""},
	} {
		rules, err := ruletrace.ReadRules("rules", strings.NewReader(tt.rules))
		if err != nil {
			t.Fatal(err)
		}
		e := &exam{in: &Input{Topology: &topology.Snapshot{}, Rules: map[string]*ruletrace.Ruleset{topology.HostName: &rules.Ruleset}}}
		end := ruletrace.End{Verdict: ruletrace.Drop, Policy: tt.policy, Rule: ruletrace.Rule{Backend: ruletrace.IPTablesLegacy, Family: "ip", Table: "filter", Chain: "FORWARD"}}
		for _, chain := range rules.Chains {
			for _, rule := range chain.Rules {
				if rule.Text == tt.rule {
					end.Rule = rule
				}
			}
		}
		if got := e.users(&end); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestBelongs names the network that Docker told, where the host has its bridge.
func TestBelongs(t *testing.T) {
	const bridge = "br-5f1c3a9d2b7e"
	host := topology.Namespace{Name: topology.HostName, Links: []topology.Link{{Name: bridge, Addresses: []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}}}}
	e := &exam{in: &Input{
		Topology: &topology.Snapshot{Namespaces: []topology.Namespace{host}},
		Docker:   Docker{Networks: []engine.Network{{Name: "app", Bridge: bridge, Prefixes: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}}}},
	}}
	docker := ruletrace.Rule{Backend: ruletrace.IPTablesNFT, Family: "ip", Table: "filter", Chain: "DOCKER-ISOLATION-STAGE-2", Text: "-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP"}
	if got, want := e.belongs(&docker), " That is Docker, network app, ISOLATION."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := e.belongs(&ruletrace.Rule{Backend: docker.Backend, Family: "ip", Table: "filter", Chain: "FORWARD", Text: "-A FORWARD -j DROP"}); got != "" {
		t.Errorf("somebody's rule: %q", got)
	}
	e.in.Topology.Namespaces[0].Links[0].Addresses[0] = netip.MustParsePrefix("172.19.0.1/16")
	if got, want := e.belongs(&docker), " That is Docker, bridge br-5f1c3a9d2b7e, ISOLATION."; got != want {
		t.Errorf("of a daemon elsewhere: %q, want %q", got, want)
	}
}
