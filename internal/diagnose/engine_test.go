package diagnose

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// TestEngineSays has an engine with networks of every kind, as Docker 20.10 was
// seen to describe them.
func TestEngineSays(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	rule := &report.Rule{}
	in := func(networks ...string) []engine.Attachment {
		var all []engine.Attachment
		for _, n := range networks {
			all = append(all, engine.Attachment{Network: n, Addresses: []netip.Addr{addr("172.17.0.2")}})
		}
		return all
	}
	views := []engine.View{{
		Engine: "docker",
		Networks: []engine.Network{
			{Name: "bridge", Prefixes: []netip.Prefix{prefix("172.17.0.0/16")}},
			{Name: "six", IPv6: true, Prefixes: []netip.Prefix{prefix("172.21.0.0/16"), prefix("fd00:5::/64")}},
			{Name: "hidden", Internal: true, Prefixes: []netip.Prefix{prefix("172.19.0.0/16")}},
			{Name: "secret", Internal: true, Prefixes: []netip.Prefix{prefix("172.22.0.0/16")}},
			{Name: "apart", Apart: true, Prefixes: []netip.Prefix{prefix("172.20.0.0/16")}},
			{Name: "host"},
		},
		Containers: []engine.Container{
			{ID: "v4", Name: "v4", Networks: in("bridge")},
			{ID: "both", Name: "both", Networks: in("bridge", "six")},
			{ID: "inner", Name: "inner", Networks: in("hidden")},
			{ID: "inner2", Name: "inner2", Networks: in("hidden", "secret")},
			{ID: "side", Name: "side", Mode: "container:inner"},
			{ID: "odd", Name: "odd name", Networks: in("hidden")},
			{ID: "apart", Name: "apart", Networks: in("apart")},
			{ID: "onhost", Name: "onhost", Mode: "host", Networks: in("host")},
			{
				ID: "web", Name: "web", Networks: in("bridge"),
				Published: []engine.Published{
					{Address: addr("127.0.0.1"), Host: 8443, Port: engine.Port{Protocol: "tcp", Number: 443}},
					{Address: addr("0.0.0.0"), Host: 8080, Port: engine.Port{Protocol: "tcp", Number: 80}},
				},
				Exposed: []engine.Port{{Protocol: "tcp", Number: 9000}},
			},
		},
	}}
	for _, tt := range []struct {
		name, id, code, target string
		source                 string
		port                   uint16
		rule                   *report.Rule
		leg                    string
		want                   string // part of the finding, empty for none
		fix                    int
	}{
		{name: "no IPv6", id: "v4", code: NoDefaultRoute, target: "2001:db8::9", want: "v4 is in no network with IPv6: it is off in network bridge.", fix: 2},
		{name: "IPv6 in one of two", id: "both", code: NoDefaultRoute, target: "2001:db8::9"},
		{name: "no IPv4 route", id: "v4", code: NoDefaultRoute, target: "192.0.2.9"},
		{name: "IPv6 dropped later", id: "v4", code: FilterDrop, target: "2001:db8::9"},
		{name: "internal", id: "inner", code: FilterDrop, target: "192.0.2.9", want: "Network hidden was made internal, and inner is in no other: docker lets nothing leave it.", fix: 1},
		{name: "two internal", id: "inner2", code: FilterDrop, target: "192.0.2.9", want: "Networks hidden and secret were made internal", fix: 1},
		{name: "internal of another", id: "side", code: FilterDrop, target: "192.0.2.9", want: "and inner is in no other", fix: 1},
		{name: "a name for no shell", id: "odd", code: FilterDrop, target: "192.0.2.9", want: "odd name is in no other"},
		{name: "within the internal one", id: "inner", code: FilterDrop, target: "172.19.0.9"},
		{name: "the reply", id: "inner", code: FilterDrop, target: "192.0.2.9", leg: "reply"},
		{name: "apart", id: "apart", code: BridgeFiltered, source: "172.20.0.2", target: "172.20.0.3", rule: rule, want: "enable_icc=false"},
		{name: "apart, not by a rule", id: "apart", code: Neighbour, source: "172.20.0.2", target: "172.20.0.3"},
		{name: "apart, elsewhere", id: "apart", code: FilterDrop, source: "172.20.0.2", target: "192.0.2.9", rule: rule},
		{name: "host network", id: "onhost", code: NoRoute, target: "2001:db8::9"},
		{name: "unknown container", id: "ffff", code: NoDefaultRoute, target: "2001:db8::9"},
		{name: "exposed", code: NoListener, target: "192.0.2.1", port: 9000, want: "web exposes port 9000/tcp and does not publish it: no port of the host leads there. It is reached at 172.17.0.2,"},
		{name: "published at 127.0.0.1", code: NoListener, target: "192.0.2.1", port: 8443, want: "web publishes 127.0.0.1:8443 for 443/tcp: at 192.0.2.1 that port leads nowhere."},
		{name: "published", code: FilterDrop, target: "192.0.2.1", port: 8080},
		{name: "neither", code: NoListener, target: "192.0.2.1", port: 9999},
		{name: "exposed, another host", code: NoListener, target: "192.0.2.9", port: 9000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			probe := path.Probe{NetNS: "src", Tuple: packet.Tuple{Proto: packet.TCP, Dst: addr(tt.target), DstPort: tt.port}}
			if tt.source != "" {
				probe.Tuple.Src = addr(tt.source)
			}
			s := &scene{in: &Input{
				Engines: views, SourceID: tt.id, Probe: probe,
				Topology: &topology.Snapshot{Source: "src", Target: addr(tt.target), Namespaces: []topology.Namespace{
					{Name: topology.HostName, Links: []topology.Link{{Name: "eth0", Up: true, Addresses: []netip.Prefix{prefix("192.0.2.1/24")}}}},
				}},
			}}
			v := &report.Verdict{Code: tt.code, NetNS: "src", Leg: "request", Rule: tt.rule}
			if tt.leg != "" {
				v.Leg = tt.leg
			}
			found := s.engineSays(v)
			if tt.want == "" && len(found) > 0 || tt.want != "" && (len(found) != 1 || !strings.Contains(found[0].Summary, tt.want)) {
				t.Fatalf("got %+v, want %q", found, tt.want)
			}
			if tt.want == "" {
				return
			}
			if len(found[0].Fix) != tt.fix || found[0].Code != tt.code {
				t.Errorf("got %+v, want %d commands", found[0], tt.fix)
			}
			known := func(id string) bool {
				return slices.ContainsFunc(s.facts, func(e report.Evidence) bool { return e.ID == id && e.Kind == "engine" })
			}
			if len(found[0].Evidence) != 1 || !known(found[0].Evidence[0]) {
				t.Errorf("evidence %q of %+v", found[0].Evidence, s.facts)
			}
		})
	}
}
