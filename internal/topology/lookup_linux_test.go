package topology

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// crossroads is a namespace with three cables and routes of all kinds.
func crossroads(t *testing.T) *space {
	t.Helper()
	s, far := newSpace(t), newSpace(t)
	s.forward()
	s.sysctl("ipv4/conf/all/rp_filter", "0")
	for i, name := range []string{"a0", "b0", "c0"} {
		s.connect(name, "", far, name)
		s.sysctl("ipv4/conf/"+name+"/rp_filter", "0")
		s.address(name, fmt.Sprintf("10.0.%d.1/24", i), fmt.Sprintf("fd00:%d::1/64", i))
	}
	s.address("c0", "172.16.0.1/12")
	s.awaitLocal6(3)
	main := []struct{ device, destination, gateway string }{
		{"b0", "172.17.0.0/16", ""},
		{"a0", "192.168.1.0/24", "10.0.0.9"},
		{"b0", "192.168.1.128/25", "10.0.1.9"},
		{"c0", "10.0.0.0/8", "10.0.2.9"},
		{"a0", "fd01::/16", "fd00:0::9"},
		{"b0", "fd01:1::/32", "fd00:1::9"},
	}
	for _, r := range main {
		s.route(netlink.Route{}, r.device, r.destination, r.gateway)
	}
	s.route(netlink.Route{Priority: 100}, "a0", "", "10.0.0.254")
	s.route(netlink.Route{Priority: 50}, "b0", "", "10.0.1.254")
	s.route(netlink.Route{Priority: 100}, "a0", "", "fd00:0::fe")
	s.route(netlink.Route{Priority: 50}, "b0", "", "fd00:1::fe")
	for kind, destination := range map[int]string{
		unix.RTN_BLACKHOLE: "192.168.16.0/24", unix.RTN_UNREACHABLE: "192.168.17.0/24", unix.RTN_PROHIBIT: "192.168.18.0/24",
	} {
		s.route(netlink.Route{Type: kind}, "", destination, "")
	}
	s.route(netlink.Route{Type: unix.RTN_UNREACHABLE}, "", "fd02::/16", "")
	s.route(netlink.Route{Table: 100}, "b0", "", "10.0.1.77")
	s.route(netlink.Route{Table: 100, Type: unix.RTN_THROW}, "", "192.168.1.0/24", "")
	s.route(netlink.Route{Table: 100}, "b0", "", "fd00:1::77")
	s.route(netlink.Route{Table: 101, Scope: netlink.SCOPE_LINK}, "c0", "0.0.0.0/0", "")
	s.route(netlink.Route{Table: 101}, "c0", "::/0", "")
	return s
}

// awaitLocal6 waits for the kernel's own routes to n global IPv6 addresses: it
// adds them from a work queue, some time after the address.
func (s *space) awaitLocal6(n int) {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := s.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		s.must(err)
		global := 0
		for _, r := range routes {
			if r.Dst != nil && r.Dst.IP.IsGlobalUnicast() {
				global++
			}
		}
		if global >= n {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d of %d local IPv6 routes", global, n)
		}
	}
}

func (s *space) rule(rule netlink.Rule) {
	s.t.Helper()
	if rule.Goto == 0 {
		rule.Goto = -1
	}
	if rule.SuppressPrefixlen == 0 {
		rule.SuppressPrefixlen = -1
	}
	rule.SuppressIfgroup, rule.Flow = -1, -1
	s.must(s.RuleAdd(&rule))
}

// TestLookup compares our decisions with the kernel's.
func TestLookup(t *testing.T) {
	for name, rules := range map[string][]netlink.Rule{
		"plain": nil,
		"rules": {
			{Priority: 100, Family: unix.AF_INET, Mark: 1, Mask: new(uint32(0xff)), Table: 100},
			{Priority: 100, Family: unix.AF_INET6, Mark: 1, Mask: new(uint32(0xff)), Table: 100},
			{Priority: 110, Family: unix.AF_INET, Src: network("10.9.0.0/16"), Table: 100},
			{Priority: 110, Family: unix.AF_INET6, Src: network("fd09::/16"), Table: 100},
			{Priority: 120, Family: unix.AF_INET, Dst: network("198.51.100.0/24"), Table: 101},
			{Priority: 130, Family: unix.AF_INET, IifName: "b0", Table: 101},
			{Priority: 130, Family: unix.AF_INET6, IifName: "b0", Table: 101},
			{Priority: 135, Family: unix.AF_INET, OifName: "c0", Table: 101},
			{Priority: 140, Family: unix.AF_INET, Dst: network("203.0.113.0/24"), Goto: 160},
			{Priority: 150, Family: unix.AF_INET, Dst: network("203.0.113.0/24"), Type: unix.FR_ACT_BLACKHOLE},
			{Priority: 160, Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN},
			{Priority: 170, Family: unix.AF_INET, Dst: network("192.0.2.0/24"), Type: unix.FR_ACT_PROHIBIT},
		},
		// What wg-quick(8) makes for AllowedIPs = 0.0.0.0/0.
		"full tunnel": {
			{Priority: 32764, Family: unix.AF_INET, Mark: 0xca6c, Mask: new(uint32(1<<32 - 1)), Invert: true, Table: 101},
			{Priority: 32764, Family: unix.AF_INET6, Mark: 0xca6c, Mask: new(uint32(1<<32 - 1)), Invert: true, Table: 101},
		},
		"before local": {{Priority: 0, Family: unix.AF_INET, Dst: network("10.0.0.1/32"), Table: 101}},
	} {
		t.Run(name, func(t *testing.T) {
			s := crossroads(t)
			for _, rule := range rules {
				s.rule(rule)
			}
			if name == "full tunnel" {
				for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
					// The library cannot say suppress_prefixlength 0 with a zero value.
					rule := netlink.NewRule()
					rule.Priority, rule.Family, rule.Table, rule.SuppressPrefixlen = 32763, family, unix.RT_TABLE_MAIN, 0
					s.must(s.RuleAdd(rule))
				}
			}
			snapshot, _ := discover(t, Config{Host: s.NS, Candidates: []Candidate{}})
			n := &snapshot.Namespaces[0]
			targets := map[bool][]string{
				false: {
					"10.0.0.1", "10.0.0.7", "10.0.1.9", "10.77.0.1", "172.16.5.5", "172.17.5.5", "172.31.255.1", "192.168.1.1",
					"192.168.1.200", "192.168.16.1", "192.168.17.1", "192.168.18.1", "198.51.100.1", "203.0.113.1", "192.0.2.1", "8.8.8.8", "127.0.0.1",
				},
				true: {"fd00:0::1", "fd00:0::7", "fd01:5::1", "fd01:1::1", "fd02::1", "2001:db8::1", "::1"},
			}
			queries := 0
			for six, list := range targets {
				sources := []string{"", "10.9.0.5", "10.8.0.5"}
				if six {
					sources = []string{"", "fd09::5", "fd08::5"}
				}
				for _, target := range list {
					for _, source := range sources {
						for _, ingress := range []string{"", "a0", "b0"} {
							for _, egress := range []string{"", "c0"} {
								for _, mark := range []uint32{0, 1, 0xca6c} {
									q := Query{Target: netip.MustParseAddr(target), Ingress: ingress, Egress: egress, Mark: mark}
									if (source == "") != (ingress == "") || egress != "" && ingress != "" {
										continue // sent from here without a source yet, or forwarded
									}
									if source != "" {
										q.Source = netip.MustParseAddr(source)
									}
									if loopback := q.Target.IsLoopback(); loopback && (ingress != "" || egress != "") {
										continue // martian
									}
									queries++
									compareWithKernel(t, s, n, q)
								}
							}
						}
					}
				}
			}
			if queries < 300 {
				t.Errorf("only %d queries", queries)
			}
		})
	}
}

func compareWithKernel(t *testing.T, s *space, n *Namespace, q Query) {
	t.Helper()
	options := &netlink.RouteGetOptions{Iif: q.Ingress, Oif: q.Egress, Mark: q.Mark, FIBMatch: true}
	if q.Source.IsValid() {
		options.SrcAddr = net.IP(q.Source.AsSlice())
	}
	routes, err := s.RouteGetWithOptions(net.IP(q.Target.AsSlice()), options)
	want := "none"
	if err == nil && len(routes) == 1 {
		r := routes[0]
		destination := "default"
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			destination = prefixOf(r.Dst).String()
		}
		if at(types, r.Type) == "local" {
			// Without rules the kernel keeps local and main in one tree and
			// says main.
			r.Table = tableLocal
		}
		want = fmt.Sprintf("%s %s via %v dev %d table %d", at(types, r.Type), destination, address(r.Gw), r.LinkIndex, r.Table)
	}
	decision := n.Lookup(q)
	got := "none"
	if r := decision.Route; r != nil && (r.Type == "unicast" || r.Type == "local") {
		destination := r.Destination.String()
		if r.Destination.Bits() == 0 {
			destination = "default"
		}
		got = fmt.Sprintf("%s %s via %v dev %d table %d", r.Type, destination, r.Gateway, n.Link(r.Interface).Index, r.Table)
	}
	if got != want && !decision.Undetermined {
		t.Errorf("%+v: got %s, the kernel says %s (%v)", q, got, want, err)
	}
}

// TestLookupLinkDown: a route over a cable without carrier is taken, unless
// the namespace is told otherwise.
func TestLookupLinkDown(t *testing.T) {
	s, far := newSpace(t), newSpace(t)
	s.connect("a0", "", far, "a0")
	s.address("a0", "10.0.0.1/24")
	far.must(far.LinkSetDown(far.link("a0")))
	target := netip.MustParseAddr("10.0.0.2")
	for value, want := range map[string]bool{"0": true, "1": false} {
		s.sysctl("ipv4/conf/a0/ignore_routes_with_linkdown", value)
		n := down(t, s, "a0")
		d := n.Lookup(Query{Target: target})
		if got := d.Route != nil; got != want {
			t.Errorf("ignore %s: got a route: %v, want %v", value, got, want)
		}
		if want && !slices.Contains(d.Route.Flags, "linkdown") {
			t.Errorf("flags %q", d.Route.Flags)
		}
		compareWithKernel(t, s, n, Query{Target: target})
	}
}

// down waits until the kernel has worked off what the loss of a carrier means,
// and returns a snapshot.
func down(t *testing.T, s *space, name string) *Namespace {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		snapshot, handles, err := Discover(t.Context(), Config{Host: s.NS, Candidates: []Candidate{}})
		if err != nil {
			t.Fatal(err)
		}
		s.must(handles.Close())
		link := snapshot.Namespaces[0].Link(name)
		// "down" when the far end happens to have the same index.
		if link.Up && !link.Carrier && (link.State == "lowerlayerdown" || link.State == "down") {
			return &snapshot.Namespaces[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("link %+v", link)
		}
	}
}

// TestLookupUndetermined is about what the snapshot or the query cannot know.
func TestLookupUndetermined(t *testing.T) {
	target := netip.MustParseAddr("192.0.2.1")
	direct := Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Interface: "a0", Table: tableMain, Type: "unicast"}
	ports := Policy{
		Priority: 10, Action: "lookup", Table: 100, Proto: packet.TCP, TargetPorts: &[2]uint16{80, 81},
		SuppressPrefix: -1, SuppressGroup: -1, Text: "10: ports",
	}
	main := Policy{Priority: 32766, Action: "lookup", Table: tableMain, SuppressPrefix: -1, SuppressGroup: -1, Text: "32766: main"}
	users := Policy{Priority: 10, Action: "lookup", Table: 100, UIDs: &[2]uint32{1000, 1000}, SuppressPrefix: -1, SuppressGroup: -1, Text: "10: users"}
	tunnel := direct
	tunnel.Interface, tunnel.Table = "tun0", 100
	double := direct
	double.Interface, double.NextHops = "", []NextHop{{Interface: "a0", Weight: 1}, {Interface: "b0", Weight: 1}}
	for _, tt := range []struct {
		name         string
		n            Namespace
		q            Query
		device       string
		undetermined bool
	}{
		{"ports unknown", Namespace{Routes: []Route{direct, tunnel}, Policy: []Policy{ports, main}}, Query{Target: target}, "a0", true},
		{"ports match", Namespace{Routes: []Route{direct, tunnel}, Policy: []Policy{ports, main}}, Query{Target: target, Proto: packet.TCP, TargetPort: 81}, "tun0", false},
		{"ports differ", Namespace{Routes: []Route{direct, tunnel}, Policy: []Policy{ports, main}}, Query{Target: target, Proto: packet.TCP, TargetPort: 82}, "a0", false},
		{"protocol differs", Namespace{Routes: []Route{direct, tunnel}, Policy: []Policy{ports, main}}, Query{Target: target, Proto: packet.UDP, TargetPort: 80}, "a0", false},
		{"user", Namespace{Routes: []Route{direct, tunnel}, Policy: []Policy{users, main}}, Query{Target: target}, "a0", true},
		{"several ways", Namespace{Routes: []Route{double}, Policy: []Policy{main}}, Query{Target: target}, "", true},
	} {
		d := tt.n.Lookup(tt.q)
		if d.Route == nil || d.Route.Interface != tt.device || d.Undetermined != tt.undetermined || (d.Why == "") == tt.undetermined {
			t.Errorf("%s: got %+v", tt.name, d)
		}
	}
	if hops := (Decision{Route: &double}).NextHops(); len(hops) != 2 {
		t.Errorf("next hops %v", hops)
	}
	var none *Namespace
	if d := none.Lookup(Query{Target: target}); d.Route != nil || d.Policy != nil {
		t.Errorf("nobody's decision: %+v", d)
	}
}

// TestTexts: the lines are those that "ip route show table all" and "ip rule"
// of iproute2 6.1 print ("pref medium" apart).
func TestTexts(t *testing.T) {
	s, far := newSpace(t), newSpace(t)
	s.connect("a0", "", far, "a0")
	s.connect("b0", "", far, "b0")
	s.address("a0", "10.0.0.1/24")
	s.route(netlink.Route{Protocol: unix.RTPROT_DHCP, Src: net.ParseIP("10.0.0.1"), Priority: 100}, "a0", "", "10.0.0.254")
	s.route(netlink.Route{Protocol: unix.RTPROT_STATIC, MTU: 1400}, "a0", "192.168.7.0/24", "10.0.0.7")
	s.route(netlink.Route{Type: unix.RTN_BLACKHOLE, Table: 42}, "", "192.168.8.0/24", "")
	s.route(netlink.Route{Protocol: 188, Priority: 20, Flags: int(netlink.FLAG_ONLINK)}, "a0", "192.168.9.1/32", "10.9.9.9")
	s.must(s.RouteAdd(&netlink.Route{Dst: network("192.168.10.0/24"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: s.link("a0").Attrs().Index, Gw: net.ParseIP("10.0.0.7"), Hops: 0},
		{LinkIndex: s.link("a0").Attrs().Index, Gw: net.ParseIP("10.0.0.8"), Hops: 2},
	}}))
	s.address("b0", "fd00::1/64")
	s.route(netlink.Route{Protocol: unix.RTPROT_STATIC}, "b0", "", "fe80::1")
	s.rule(netlink.Rule{Priority: 100, Family: unix.AF_INET, Mark: 1, Mask: new(uint32(0xff)), Src: network("10.0.0.0/8"), Table: 42})
	s.rule(netlink.Rule{Priority: 101, Family: unix.AF_INET, Mark: 2, Mask: new(uint32(1<<32 - 1)), Invert: true, Dst: network("10.0.0.1/32"), IifName: "lo", Table: 254, SuppressPrefixlen: 8})
	s.rule(netlink.Rule{Priority: 102, Family: unix.AF_INET6, OifName: "a0", IPProto: unix.IPPROTO_TCP, Dport: netlink.NewRulePortRange(80, 90), Sport: netlink.NewRulePortRange(7, 7), Table: 255})
	s.rule(netlink.Rule{Priority: 103, Family: unix.AF_INET, UIDRange: netlink.NewRuleUIDRange(0, 0), Goto: 32766})
	s.rule(netlink.Rule{Priority: 104, Family: unix.AF_INET, Type: unix.FR_ACT_PROHIBIT, Src: network("192.0.2.0/24")})
	snapshot, _ := discover(t, Config{Host: s.NS, Candidates: []Candidate{}})
	n := &snapshot.Namespaces[0]
	var routes, rules []string
	for _, r := range n.Routes {
		if !slices.Contains([]string{"lo"}, r.Interface) && r.Type != "multicast" && !(r.Destination.Addr().Is6() && r.Table == tableLocal) {
			routes = append(routes, r.Text)
		}
	}
	for _, p := range n.Policy {
		rules = append(rules, p.Text)
	}
	fe80 := "fe80::/64 dev a0 proto kernel metric 256"
	routes = slices.DeleteFunc(routes, func(text string) bool { return text == fe80 || text == "fe80::/64 dev b0 proto kernel metric 256" })
	slices.Sort(routes)
	wantRoutes := []string{
		"10.0.0.0/24 dev a0 proto kernel scope link src 10.0.0.1",
		"192.168.10.0/24 nexthop via 10.0.0.7 dev a0 weight 1 nexthop via 10.0.0.8 dev a0 weight 3",
		"192.168.7.0/24 via 10.0.0.7 dev a0 proto static mtu 1400",
		"192.168.9.1 via 10.9.9.9 dev a0 proto ospf metric 20 onlink",
		"blackhole 192.168.8.0/24 table 42",
		"broadcast 10.0.0.255 dev a0 table local proto kernel scope link src 10.0.0.1",
		"default via 10.0.0.254 dev a0 proto dhcp src 10.0.0.1 metric 100",
		"default via fe80::1 dev b0 proto static metric 1024",
		"fd00::/64 dev b0 proto kernel metric 256",
		"local 10.0.0.1 dev a0 table local proto kernel scope host src 10.0.0.1",
	}
	if diff := cmp.Diff(wantRoutes, routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	wantRules := []string{
		"0: from all lookup local", "0: from all lookup local",
		"100: from 10.0.0.0/8 fwmark 0x1/0xff lookup 42",
		"101: not from all to 10.0.0.1 fwmark 0x2 iif lo lookup main suppress_prefixlength 8",
		"102: from all oif a0 ipproto tcp sport 7 dport 80-90 lookup local",
		"103: from all uidrange 0-0 goto 32766",
		"104: from 192.0.2.0/24 prohibit",
		"32766: from all lookup main", "32766: from all lookup main",
		"32767: from all lookup default",
	}
	if diff := cmp.Diff(wantRules, rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}
