package topology

import (
	"net/netip"
	"testing"
)

// TestLeads tells the source's address from the same address of another machine.
func TestLeads(t *testing.T) {
	const to = "10.0.0.2"
	route := func(prefix, gateway, link string) []Route {
		r := Route{Destination: netip.MustParsePrefix(prefix), Interface: link, Type: "unicast", Table: 254}
		if gateway != "" {
			r.Gateway = netip.MustParseAddr(gateway)
		}
		return []Route{r}
	}
	cable := func(netns, far string) Link {
		return Link{Name: "v", Kind: "veth", Peer: &Peer{NetNS: netns, Interface: far}}
	}
	bridge := func(ports ...Link) []Link {
		for i := range ports {
			ports[i].Bridge = "br0"
		}
		return append(ports, Link{Name: "br0", Kind: "bridge"})
	}
	for name, tt := range map[string]struct {
		links  []Link
		routes []Route
		want   bool
	}{
		"by a cable":                          {[]Link{cable("cnt", "eth0")}, route("10.0.0.0/24", "", "v"), true},
		"by a cable to another":               {[]Link{cable("other", "eth0")}, route("10.0.0.0/24", "", "v"), false},
		"by a bridge":                         {bridge(cable("cnt", "eth0")), route("10.0.0.0/24", "", "br0"), true},
		"by a bridge with others":             {bridge(cable("other", "eth0")), route("10.0.0.0/24", "", "br0"), false},
		"by a bridge without ports":           {bridge(), route("10.0.0.0/24", "", "br0"), false},
		"by a bridge of bridges":              {bridge(cable("hub", "p")), route("10.0.0.0/24", "", "br0"), true},
		"by a bridge with a tunnel":           {bridge(Link{Name: "vx", Kind: "vxlan"}), route("10.0.0.0/24", "", "br0"), true},
		"by a gateway":                        {[]Link{cable("other", "eth0")}, route("0.0.0.0/0", "192.0.2.1", "v"), true},
		"without a route":                     {nil, nil, true},
		"where the address is its own":        {[]Link{{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix(to + "/24")}}}, nil, false},
		"by a link of which nothing is known": {[]Link{{Name: "eth0"}}, route("10.0.0.0/24", "", "eth0"), true},
	} {
		s := &Snapshot{Namespaces: []Namespace{
			{Name: "here", Links: tt.links, Routes: tt.routes, Policy: []Policy{{Action: "lookup", Table: 254, SuppressPrefix: -1, SuppressGroup: -1}}},
			{Name: "cnt", Links: []Link{{Name: "eth0", Kind: "veth"}}},
			{Name: "other", Links: []Link{{Name: "eth0", Kind: "veth"}}},
			{Name: "hub", Links: []Link{{Name: "br1", Kind: "bridge"}, {Name: "p", Kind: "veth", Bridge: "br1"}}},
		}}
		if got := s.Leads("here", netip.MustParseAddr(to), "cnt"); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (&Snapshot{}).Leads("nowhere", netip.MustParseAddr(to), "cnt") {
		t.Error("a namespace that is not known leads there")
	}
}
