package path

import (
	"net/netip"
	"testing"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TestRuleOwner: Docker's networks are those of the host, and only as far as the
// host has them.
func TestRuleOwner(t *testing.T) {
	prefix := netip.MustParsePrefix
	in := Input{
		Topology: &topology.Snapshot{Namespaces: []topology.Namespace{
			{Name: topology.HostName, Links: []topology.Link{
				{Name: "docker0", Addresses: []netip.Prefix{prefix("172.17.0.1/16")}},
				{Name: "other", Addresses: []netip.Prefix{prefix("172.29.0.1/16")}},
			}},
			{Name: "vm", Links: []topology.Link{{Name: "docker0", Addresses: []netip.Prefix{prefix("172.17.0.1/16")}}}},
		}},
		Networks: []engine.Network{
			{Name: "bridge", Bridge: "docker0", Prefixes: []netip.Prefix{prefix("fd00::/64"), prefix("172.17.0.0/16")}},
			{Name: "elsewhere", Bridge: "other", Prefixes: []netip.Prefix{prefix("172.18.0.0/16")}},
			{Name: "nowhere", Bridge: "br-0123456789ab", Prefixes: []netip.Prefix{prefix("172.19.0.0/16")}},
			{Name: "overlay"},
		},
	}
	j := &joiner{in: &in, networks: hostNetworks(&in)}
	for _, tt := range []struct{ netns, text, want string }{
		{topology.HostName, "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "Docker, network bridge, MASQUERADE"},
		{topology.HostName, "-A POSTROUTING -s 172.18.0.0/16 ! -o other -j MASQUERADE", ""},
		{topology.HostName, "-A POSTROUTING -s 172.19.0.0/16 ! -o br-0123456789ab -j MASQUERADE", ""},
		{"vm", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", ""},
	} {
		hit := ruletrace.Hit{NetNS: tt.netns, Rule: ruletrace.Rule{Backend: ruletrace.IPTablesNFT, Family: "ip", Table: "nat", Chain: "POSTROUTING", Text: tt.text}}
		if got := j.rule(&hit).Owner.String(); got != tt.want {
			t.Errorf("%s: %s: %q, want %q", tt.netns, tt.text, got, tt.want)
		}
	}
}
