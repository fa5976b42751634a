package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// route makes a route of the main table; via is a gateway or empty.
func route(destination, via, dev string) topology.Route {
	r := topology.Route{
		Destination: netip.MustParsePrefix(destination), Interface: dev, Table: diagnose.MainTable, Type: "unicast",
		Text: strings.TrimSpace(destination+" via "+via) + " dev " + dev,
	}
	if via != "" {
		r.Gateway = netip.MustParseAddr(via)
	}
	return r
}

// rules are the policy rules that every namespace has.
func rules() []topology.Policy {
	var all []topology.Policy
	for _, ipv6 := range []bool{false, true} {
		for _, p := range []struct{ priority, table int }{{0, 255}, {32766, diagnose.MainTable}, {32767, 253}} {
			all = append(all, topology.Policy{Priority: p.priority, IPv6: ipv6, Action: "lookup", Table: p.table, SuppressPrefix: -1, SuppressGroup: -1})
		}
	}
	slices.SortStableFunc(all, func(a, b topology.Policy) int { return a.Priority - b.Priority })
	return all
}

// docker0 is a host with Docker's default bridge, one container, and a VPN that
// has addresses of its own.
func docker0() Input {
	forwards := topology.Settings{ForwardIPv4: true, ForwardIPv6: true}
	link := func(name, kind string, role capture.Role, addresses ...string) topology.Link {
		return topology.Link{Name: name, Kind: kind, Role: role, MTU: 1500, Up: true, Carrier: true, Settings: forwards, Addresses: prefixes(addresses...)}
	}
	host := topology.Namespace{
		Name: topology.HostName, All: forwards, Policy: rules(),
		Links: []topology.Link{
			link("docker0", "bridge", capture.RoleBridge, "172.17.0.1/16"),
			link("veth1", "veth", capture.RoleVeth),
			link("eth0", "", capture.RoleUplink, "192.168.0.23/24"),
			link("tun0", "tun", capture.RoleTunnel, "10.8.0.2/24"),
		},
		Routes: []topology.Route{
			route("0.0.0.0/0", "192.168.0.1", "eth0"), route("172.17.0.0/16", "", "docker0"),
			route("192.168.0.0/24", "", "eth0"), route("10.8.0.0/24", "", "tun0"),
		},
	}
	host.Links[1].Bridge, host.Links[1].Peer = "docker0", &topology.Peer{NetNS: "web", Interface: "eth0"}
	web := topology.Namespace{
		Name: "web", Policy: rules(),
		Links:  []topology.Link{link("eth0", "veth", capture.RoleContainer, "172.17.0.2/16")},
		Routes: []topology.Route{route("0.0.0.0/0", "172.17.0.1", "eth0"), route("172.17.0.0/16", "", "eth0")},
	}
	web.Links[0].Peer = &topology.Peer{NetNS: topology.HostName, Interface: "veth1"}
	chain := func(table, name, kind string, hook ruletrace.Hook, rules ...string) ruletrace.Chain {
		c := ruletrace.Chain{Base: true, Read: true, BaseChain: ruletrace.BaseChain{
			Backend: ruletrace.IPTablesNFT, Family: "ip", Table: table, Name: name, Type: kind, Hook: hook, Policy: ruletrace.Accept,
		}}
		for i, text := range rules {
			c.Rules = append(c.Rules, ruletrace.Rule{Backend: c.Backend, Family: "ip", Table: table, Chain: name, Number: i + 1, Text: text})
		}
		return c
	}
	return Input{
		Topology: &topology.Snapshot{Source: topology.HostName, Namespaces: []topology.Namespace{host, web}},
		Rules: map[string]*ruletrace.Ruleset{topology.HostName: {Chains: []ruletrace.Chain{
			chain("filter", "FORWARD", "filter", ruletrace.Forward),
			chain("nat", "POSTROUTING", "nat", ruletrace.Postrouting, "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"),
		}}},
		Enter: map[string]string{"web": "ip netns exec web"},
	}
}

// withIPv6 gives the bridge and its container addresses of IPv6, as kind does.
func withIPv6(in *Input) {
	host, web := &in.Topology.Namespaces[0], &in.Topology.Namespaces[1]
	host.Links[0].Addresses = append(host.Links[0].Addresses, netip.MustParsePrefix("fc00:f853:ccd:e793::1/64"))
	host.Routes = append(host.Routes, route("fc00:f853:ccd:e793::/64", "", "docker0"))
	web.Links[0].Addresses = append(web.Links[0].Addresses, netip.MustParsePrefix("fc00:f853:ccd:e793::2/64"))
	web.Routes = append(web.Routes, route("::/0", "fc00:f853:ccd:e793::1", "eth0"), route("fc00:f853:ccd:e793::/64", "", "eth0"))
}

// spare adds a modem without carrier, with a default route.
func spare(in *Input, table, metric int) {
	host := &in.Topology.Namespaces[0]
	host.Links = append(host.Links, topology.Link{Name: "wwan0", Role: capture.RoleOther, MTU: 1500, Up: true, Settings: host.All, Addresses: prefixes("10.99.0.2/30")})
	r := route("0.0.0.0/0", "10.99.0.1", "wwan0")
	r.Table, r.Metric, r.Flags = table, metric, []string{"linkdown"}
	host.Routes = append(host.Routes, r)
}

// routed adds a container that has its address at a pair which the host leads it
// by, as LXD's "routed" interfaces and Calico have.
func routed(in *Input, address string) {
	host := &in.Topology.Namespaces[0]
	host.Links = append(host.Links, topology.Link{
		Name: "cali1", Kind: "veth", Role: capture.RoleVeth, MTU: 1500, Up: true, Carrier: true, Settings: host.All,
		Addresses: prefixes("169.254.0.1/32"), Peer: &topology.Peer{NetNS: "pod", Interface: "eth0"},
	})
	host.Routes = append(host.Routes, route(address+"/32", "", "cali1"))
	in.Topology.Namespaces = append(in.Topology.Namespaces, topology.Namespace{
		Name: "pod", Policy: rules(),
		Links: []topology.Link{{
			Name: "eth0", Kind: "veth", Role: capture.RoleContainer, MTU: 1500, Up: true, Carrier: true,
			Addresses: prefixes(address + "/32"), Peer: &topology.Peer{NetNS: topology.HostName, Interface: "cali1"},
		}},
		Routes: []topology.Route{route("0.0.0.0/0", "169.254.0.1", "eth0"), route("169.254.0.1/32", "", "eth0")},
	})
}

// libvirt makes docker0 a bridge that Docker has nothing to do with, and takes
// the rule of address translation away.
func libvirt(in *Input) {
	host := &in.Topology.Namespaces[0]
	in.Rules[topology.HostName].Chains[1].Rules = nil
	host.Links[0].Name, host.Links[1].Bridge, host.Routes[1].Interface = "virbr1", "virbr1", "virbr1"
}

// nextHop makes the router visible that the host's default route leads to.
func nextHop(in *Input) *topology.Namespace {
	host := &in.Topology.Namespaces[0]
	host.Links[2].Kind, host.Links[2].Peer = "veth", &topology.Peer{NetNS: "router", Interface: "lan"}
	in.Topology.Namespaces = append(in.Topology.Namespaces, topology.Namespace{
		Name: "router", All: host.All, Policy: rules(),
		Links: []topology.Link{{
			Name: "lan", Kind: "veth", Role: capture.RoleRouter, MTU: 1500, Up: true, Carrier: true, Settings: host.All,
			Addresses: prefixes("192.168.0.1/24"), Peer: &topology.Peer{NetNS: topology.HostName, Interface: "eth0"},
		}},
		Routes: []topology.Route{route("0.0.0.0/0", "198.51.100.1", "wan"), route("192.168.0.0/24", "", "lan")},
	})
	return &in.Topology.Namespaces[len(in.Topology.Namespaces)-1]
}

// TestExamine changes a network that works, and wants what is to be said of it.
func TestExamine(t *testing.T) {
	t.Parallel()
	host := func(in *Input) *topology.Namespace { return &in.Topology.Namespaces[0] }
	web := func(in *Input) *topology.Namespace { return &in.Topology.Namespaces[1] }
	add := func(in *Input, routes ...topology.Route) { host(in).Routes = append(host(in).Routes, routes...) }
	daemon := func(in *Input, text string) {
		config, err := ParseDaemon([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		in.Docker.Config = config
	}
	for _, tt := range []struct {
		name   string
		change func(*Input)
		want   []string
		// says is a part of the first summary, fix the first of its commands.
		says, fix string
	}{
		{"healthy", func(*Input) {}, nil, "", ""},
		{"contained", func(in *Input) { add(in, route("172.16.0.0/12", "10.8.0.1", "tun0")) }, []string{"note SUBNET_OVERLAP"}, "That does no harm", ""},
		{"contained in the LAN", func(in *Input) { add(in, route("172.16.0.0/12", "", "eth0")) }, []string{"note SUBNET_OVERLAP"}, "leads to eth0", ""},
		{"a part that nobody has", func(in *Input) { add(in, route("172.17.5.0/24", "10.8.0.1", "tun0")) }, []string{"warning SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "What is for 172.17.5.0 leaves the host by tun0", ""},
		{"a part, and nobody is there", func(in *Input) {
			host(in).Links = slices.Delete(host(in).Links, 1, 2)
			add(in, route("172.17.0.0/24", "10.8.0.1", "tun0"))
		}, []string{"warning SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "leaves the host by tun0", ""},
		{"the container's own address", func(in *Input) { add(in, route("172.17.0.2/32", "10.8.0.1", "tun0")) }, []string{"error SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "What is for 172.17.0.2 of web leaves the host by tun0", "ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1 table 1000"},
		{"same prefix, better metric", func(in *Input) {
			add(in, route("172.17.0.0/16", "10.8.0.1", "tun0"))
			host(in).Routes[1].Metric = 425
		}, []string{"error SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "the route with the lower metric comes first", "ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1 table 1000"},
		{"same prefix, worse metric", func(in *Input) {
			worse := route("172.17.0.0/16", "10.8.0.1", "tun0")
			worse.Metric = 50
			add(in, worse)
		}, []string{"note SUBNET_OVERLAP"}, "", ""},
		{"another container network", func(in *Input) {
			host(in).Links = append(host(in).Links, topology.Link{Name: "br-0123456789ab", Kind: "bridge", Up: true, Carrier: true, Settings: host(in).All, Addresses: prefixes("172.17.4.1/24")})
			add(in, route("172.17.4.0/24", "", "br-0123456789ab"))
		}, []string{"warning SUBNET_OVERLAP", "note SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "leaves the host by br-0123456789ab", ""},
		{"own route gone", func(in *Input) { host(in).Routes = slices.Delete(host(in).Routes, 1, 2) }, []string{"error NO_ROUTE"}, "the route to its network is missing", "ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1"},
		{"own route gone, strict", func(in *Input) {
			host(in).Routes = slices.Delete(host(in).Routes, 1, 2)
			host(in).Links[0].Settings.RPFilter = 1
		}, []string{"error RP_FILTER"}, "rp_filter is 1", "ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1"},
		{"blackhole for nobody", func(in *Input) {
			r := route("172.17.9.0/24", "", "")
			r.Type = "blackhole"
			add(in, r)
		}, nil, "", ""},
		{"bridge down", func(in *Input) {
			host(in).Links[0].Up = false
			host(in).Routes = slices.Delete(host(in).Routes, 1, 2)
		}, []string{"error LINK_DOWN"}, "nothing gets through any of its ports", "ip link set dev docker0 up"},
		{"no carrier", func(in *Input) {
			host(in).Links[0].Carrier = false
			host(in).Links = slices.Delete(host(in).Links, 1, 2)
		}, []string{"note LINK_DOWN"}, "until a container is there", ""},
		{"a second interface that is down", func(in *Input) {
			second := web(in).Links[0]
			second.Name, second.Up, second.Addresses, second.Peer = "eth1", false, nil, &topology.Peer{NetNS: topology.HostName, Interface: "veth2"}
			web(in).Links = append(web(in).Links, second)
		}, []string{"warning LINK_DOWN"}, "eth1 of web is down; web has another one that is up", "ip netns exec web ip link set dev eth1 up"},
		{"address on a port", func(in *Input) { host(in).Links[1].Addresses = prefixes("172.17.0.9/16") }, []string{"warning ADDRESS_ON_BRIDGE_PORT"}, "that of veth1, a port of the bridge docker0", "ip addr del 172.17.0.9/16 dev veth1"},
		{"spanning tree", func(in *Input) { host(in).Links[1].Port = &topology.Port{State: "blocking"} }, []string{"note BRIDGE_PORT_BLOCKED"}, "second way", ""},
		{"no forwarding, nobody there", func(in *Input) {
			host(in).All.ForwardIPv4, host(in).Links[0].Settings.ForwardIPv4 = false, false
			host(in).Links = slices.Delete(host(in).Links, 1, 2)
		}, []string{"warning FORWARDING_OFF"}, "will reach nothing", "sysctl -w net.ipv4.ip_forward=1"},
		{"no forwarding, and nobody is led out yet", func(in *Input) {
			web(in).Routes = web(in).Routes[1:]
			host(in).All.ForwardIPv4, host(in).Links[0].Settings.ForwardIPv4 = false, false
		}, []string{"error NO_DEFAULT_ROUTE", "warning FORWARDING_OFF"}, "though the host translates", "ip netns exec web ip route add default via 172.17.0.1 dev eth0"},
		{"uplink does not forward", func(in *Input) { host(in).Links[2].Settings.ForwardIPv4 = false }, []string{"error FORWARDING_OFF"}, "conf.eth0.forwarding", "sysctl -w net.ipv4.conf.eth0.forwarding=1"},
		{"policy", func(in *Input) { in.Rules[topology.HostName].Chains[0].Policy = ruletrace.Drop }, []string{"error FILTER_POLICY_DROP"}, "by the policy of chain ip filter FORWARD", "iptables-nft -A FORWARD -i docker0 -o eth0 -j ACCEPT"},
		{"not read", func(in *Input) {
			in.Rules[topology.HostName].Chains[0].Policy = ruletrace.Drop
			in.Rules[topology.HostName].Chains[0].Read = false
		}, nil, "", ""},
		{"no NAT", func(in *Input) { in.Rules[topology.HostName].Chains[1].Rules = nil }, []string{"error NAT_MISSING"}, "Docker makes such a rule for each of its networks", "iptables-nft -t nat -I POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE"},
		{"no NAT, and Docker makes no rules", func(in *Input) {
			in.Rules[topology.HostName].Chains[1].Rules = nil
			daemon(in, `{"iptables": false}`)
		}, []string{"warning NAT_MISSING"}, "A router behind eth0 may know them", "iptables-nft -t nat -I POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE"},
		{"no NAT of the default bridge", func(in *Input) {
			in.Rules[topology.HostName].Chains[1].Rules = nil
			daemon(in, `{"ip-masq": false}`)
		}, []string{"warning NAT_MISSING"}, "A router behind eth0 may know them", "iptables-nft -t nat -I POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE"},
		{"no NAT of libvirt", libvirt, []string{"warning NAT_MISSING"}, "if the network is routed on purpose", "iptables-nft -t nat -I POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE"},
		{"no NAT, and the next has no way back", func(in *Input) {
			libvirt(in)
			nextHop(in)
		}, []string{"error NAT_MISSING"}, "The next on the way, router, has no route back to it", "iptables-nft -t nat -I POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE"},
		{"no NAT, and the next has a way back", func(in *Input) {
			libvirt(in)
			router := nextHop(in)
			router.Routes = append(router.Routes, route("172.17.0.0/16", "192.168.0.23", "lan"))
		}, nil, "", ""},
		{"no NAT on purpose", func(in *Input) {
			in.Rules[topology.HostName].Chains[1].Rules = nil
			in.Docker.Networks = []engine.Network{{Name: "bridge", Bridge: "docker0", Unmasked: true}}
		}, []string{"note NAT_MISSING"}, `Docker's network "bridge" is made without masquerading`, ""},
		{"no NAT into a tunnel", func(in *Input) {
			in.Rules[topology.HostName].Chains[1].Rules = nil
			host(in).Routes[0] = route("0.0.0.0/0", "10.8.0.1", "tun0")
		}, []string{"warning NAT_MISSING", "note VPN_TAKES_TRAFFIC"}, "at the other end of the tunnel", "iptables-nft -t nat -I POSTROUTING -s 172.17.0.0/16 -o tun0 -j MASQUERADE"},
		{"public addresses", func(in *Input) {
			in.Rules[topology.HostName].Chains[1].Rules = nil
			host(in).Links[0].Addresses, host(in).Routes[1] = prefixes("198.51.100.1/24"), route("198.51.100.0/24", "", "docker0")
			web(in).Links[0].Addresses = prefixes("198.51.100.2/24")
			web(in).Routes = []topology.Route{route("0.0.0.0/0", "198.51.100.1", "eth0")}
		}, nil, "", ""},
		{"no default route", func(in *Input) { web(in).Routes = web(in).Routes[1:] }, []string{"error NO_DEFAULT_ROUTE"}, "though the host translates", "ip netns exec web ip route add default via 172.17.0.1 dev eth0"},
		{"internal network", func(in *Input) {
			web(in).Routes = web(in).Routes[1:]
			in.Docker.Networks = []engine.Network{{Name: "inner", Bridge: "docker0", Internal: true}}
		}, nil, "", ""},
		{"internal network with a default route", func(in *Input) {
			in.Rules[topology.HostName].Chains[1].Rules = nil
			in.Docker.Networks = []engine.Network{{Name: "inner", Bridge: "docker0", Internal: true}}
		}, nil, "", ""},
		{"internal network of Podman", func(in *Input) {
			web(in).Routes = web(in).Routes[1:]
			in.Engines = []engine.View{{Engine: "podman", Networks: []engine.Network{{Name: "inner", Bridge: "docker0", Internal: true}}}}
		}, nil, "", ""},
		{"internal network of a user's engine", func(in *Input) {
			web(in).Routes = web(in).Routes[1:]
			in.Engines = []engine.View{{Engine: "podman", Owner: 1000, Networks: []engine.Network{{Name: "inner", Bridge: "docker0", Internal: true}}}}
		}, []string{"error NO_DEFAULT_ROUTE"}, "though the host translates", "ip netns exec web ip route add default via 172.17.0.1 dev eth0"},
		{"a network without NAT and default route", func(in *Input) {
			web(in).Routes, in.Rules[topology.HostName].Chains[1].Rules = web(in).Routes[1:], nil
		}, []string{"note NO_DEFAULT_ROUTE"}, "web has no IPv4 default route.", ""},
		{"offline", func(in *Input) { host(in).Routes = host(in).Routes[1:] }, []string{"error NO_ROUTE"}, "The host has no IPv4 default route", ""},
		{"a network of IPv6 on a host without", func(in *Input) { withIPv6(in) }, []string{"note NO_ROUTE"}, "The host has no IPv6 of its own", ""},
		{"a network of IPv6 on a host with link-local addresses", func(in *Input) {
			withIPv6(in)
			host(in).Links[2].Addresses = append(host(in).Links[2].Addresses, netip.MustParsePrefix("fe80::2/64"))
		}, []string{"note NO_ROUTE"}, "by IPv4 only", ""},
		{"a network of IPv6 on a host with a VPN's addresses", func(in *Input) {
			withIPv6(in)
			host(in).Links[3].Addresses = append(host(in).Links[3].Addresses, netip.MustParsePrefix("fd7a:115c:a1e0::1/128"), netip.MustParsePrefix("200:1234::1/7"))
		}, []string{"note NO_ROUTE"}, "by IPv4 only", ""},
		{"a network of IPv6 on a host with private addresses", func(in *Input) {
			withIPv6(in)
			host(in).Links[2].Addresses = append(host(in).Links[2].Addresses, netip.MustParsePrefix("fd12:3456::2/64"))
		}, []string{"warning NO_ROUTE"}, "no other IPv6 than that of the LAN", ""},
		{"a network of IPv6, and a host without its default route", func(in *Input) {
			withIPv6(in)
			host(in).Links[2].Addresses = append(host(in).Links[2].Addresses, netip.MustParsePrefix("2001:db8:1::2/64"))
		}, []string{"error NO_ROUTE"}, "The host has no IPv6 default route", ""},
		{"a second way out without carrier", func(in *Input) { spare(in, diagnose.MainTable, 2000) }, []string{"warning LINK_DOWN"}, "wwan0 of the host has no carrier", ""},
		{"a way out of another table without carrier", func(in *Input) { spare(in, 100, 0) }, []string{"warning LINK_DOWN"}, "wwan0 of the host has no carrier", ""},
		{"a way out of containers without carrier", func(in *Input) {
			spare(in, 100, 0)
			host(in).Policy = append([]topology.Policy{{Priority: 100, Action: "lookup", Table: 100, From: netip.MustParsePrefix("172.17.0.0/16"), SuppressPrefix: -1, SuppressGroup: -1}}, host(in).Policy...)
		}, []string{"error LINK_DOWN"}, "the host's way to the internet is by it", ""},
		{"the way out has no carrier", func(in *Input) { host(in).Links[2].Carrier = false }, []string{"error LINK_DOWN"}, "the host's way to the internet is by it", ""},
		{"a routed container in the network of a bridge", func(in *Input) { routed(in, "172.17.0.50") }, nil, "", ""},
		{"a routed container in the network of a bridge that is left over", func(in *Input) {
			host(in).Links = slices.Delete(host(in).Links, 1, 2)
			routed(in, "172.17.0.50")
		}, nil, "", ""},
		{"a routed container beside a bridge to the LAN", func(in *Input) {
			host(in).Links[2].Addresses, host(in).Links[2].Bridge = nil, "br0"
			host(in).Links = append(host(in).Links, topology.Link{Name: "br0", Kind: "bridge", Role: capture.RoleUplink, MTU: 1500, Up: true, Carrier: true, Settings: host(in).All, Addresses: prefixes("192.168.0.23/24")})
			host(in).Routes[0], host(in).Routes[2] = route("0.0.0.0/0", "192.168.0.1", "br0"), route("192.168.0.0/24", "", "br0")
			routed(in, "192.168.0.50")
		}, nil, "", ""},
		{"a pair that is no port", func(in *Input) { host(in).Links[1].Bridge = "" }, []string{"error LINK_DOWN"}, "veth1, which leads to web, is not a port of docker0", "ip link set dev veth1 master docker0"},
		{"another container with a container's address", func(in *Input) { routed(in, "172.17.0.2") }, []string{"error SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "What is for 172.17.0.2 of web leaves the host by cali1", "ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1 table 1000"},
		{"MTU of the uplink", func(in *Input) { host(in).Links[2].MTU = 1450 }, []string{"warning MTU_EXCEEDED"}, "that of eth0 1450", "ip netns exec web ip link set dev eth0 mtu 1450"},
		{"MTU of a tunnel", func(in *Input) {
			host(in).Links[3].MTU = 1400
			add(in, route("10.20.0.0/16", "10.8.0.1", "tun0"))
		}, []string{"note MTU_EXCEEDED"}, "that of tun0 1400", ""},
		{"conntrack nearly full", func(in *Input) { host(in).Conntrack = topology.Conntrack{Count: 81, Max: 100} }, []string{"warning CONNTRACK_FULL"}, "81 flows of at most 100", "sysctl -w net.netfilter.nf_conntrack_max=200"},
		{"conntrack full", func(in *Input) { web(in).Conntrack = topology.Conntrack{Count: 100, Max: 100} }, []string{"error CONNTRACK_FULL"}, "The conntrack table of web is full", "sysctl -w net.netfilter.nf_conntrack_max=200"},
		{"DNS server without a route", func(in *Input) {
			in.Servers = map[string][]netip.Addr{"web": {netip.MustParseAddr("2001:db8::53")}}
		}, []string{"error DNS_FAILED"}, "2001:db8::53 (no route)", ""},
		{"one of two DNS servers", func(in *Input) {
			in.Servers = map[string][]netip.Addr{"web": {netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("8.8.8.8")}}
		}, []string{"warning DNS_FAILED"}, "which is one of its DNS servers", ""},
		{"Docker's own DNS server", func(in *Input) {
			in.Servers = map[string][]netip.Addr{"web": {netip.MustParseAddr("127.0.0.11")}}
		}, nil, "", ""},
		{"routers are not listened to", func(in *Input) {
			host(in).Links[2].Addresses = append(host(in).Links[2].Addresses, netip.MustParsePrefix("2001:db8:1::2/64"))
			host(in).Links[2].Settings.AcceptRA = 1
		}, []string{"warning RA_IGNORED"}, "does not listen to router advertisements at eth0", "sysctl -w net.ipv6.conf.eth0.accept_ra=2"},
		{"routers are listened to", func(in *Input) {
			host(in).Links[2].Addresses = append(host(in).Links[2].Addresses, netip.MustParsePrefix("2001:db8:1::2/64"))
			host(in).Links[2].Settings.AcceptRA = 2
		}, nil, "", ""},
		{"a static route is enough", func(in *Input) {
			host(in).Links[2].Addresses = append(host(in).Links[2].Addresses, netip.MustParsePrefix("2001:db8:1::2/64"))
			host(in).Links[2].Settings.AcceptRA = 1
			add(in, route("::/0", "fe80::1", "eth0"))
		}, nil, "", ""},
		{"legacy beside nft", func(in *Input) {
			legacy := in.Rules[topology.HostName].Chains[1]
			legacy.Backend = ruletrace.IPTablesLegacy
			in.Rules[topology.HostName].Chains = append(in.Rules[topology.HostName].Chains, legacy)
		}, []string{"note LEGACY_BESIDE_NFT"}, "iptables-legacy and of iptables-nft", ""},
		{"bip is a network", func(in *Input) { daemon(in, `{"bip": "192.168.51.0/24"}`) }, []string{"error DOCKER_CONFIG"}, "the bridge's own address", `"bip": "192.168.51.1/24"`},
		{"bip is no prefix", func(in *Input) { daemon(in, `{"bip": "192.168.51.1"}`) }, []string{"error DOCKER_CONFIG"}, "Docker does not start", ""},
		{"bip", func(in *Input) { daemon(in, `{"bip": "192.168.51.1/24"}`) }, nil, "", ""},
		{"bip in the LAN", func(in *Input) { daemon(in, `{"bip": "192.168.0.200/24"}`) }, []string{"warning SUBNET_OVERLAP"}, "takes addresses of it", `"bip": "192.168.51.1/24"`},
		{"pool in the LAN", func(in *Input) { daemon(in, `{"default-address-pools": [{"base": "192.168.0.0/16", "size": 24}]}`) }, []string{"warning SUBNET_OVERLAP"}, "a network that gets these does not work", `"default-address-pools": [{"base": "10.201.0.0/20", "size": 24}]`},
		{"pool within the VPN", func(in *Input) {
			add(in, route("172.16.0.0/12", "10.8.0.1", "tun0"))
			daemon(in, `{"default-address-pools": [{"base": "172.20.0.0/16", "size": 24}]}`)
		}, []string{"note SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "", ""},
		{"pool that the VPN's table takes", func(in *Input) {
			r := route("172.16.0.0/12", "10.8.0.1", "tun0")
			r.Table = 100
			add(in, r)
			host(in).Policy = append([]topology.Policy{{Priority: 100, Action: "lookup", Table: 100, To: netip.MustParsePrefix("172.20.0.0/16"), SuppressPrefix: -1, SuppressGroup: -1}}, host(in).Policy...)
			daemon(in, `{"default-address-pools": [{"base": "172.20.0.0/16", "size": 24}]}`)
		}, []string{"warning SUBNET_OVERLAP", "note SUBNET_OVERLAP"}, "does not work", `"default-address-pools": [{"base": "192.168.64.0/20", "size": 24}]`},
		{"pool without a size", func(in *Input) { daemon(in, `{"default-address-pools": [{"base": "172.20.0.0/16"}]}`) }, []string{"error DOCKER_CONFIG"}, "Docker cannot use", ""},
		{"addresses of documentation are thrown away", func(in *Input) {
			for _, bogon := range []string{"192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"} {
				r := route(bogon, "", "")
				r.Type = "blackhole"
				add(in, r)
			}
			in.Rules[topology.HostName].Chains[0].Policy = ruletrace.Drop
		}, []string{"error FILTER_POLICY_DROP"}, "leaves by eth0", "iptables-nft -A FORWARD -i docker0 -o eth0 -j ACCEPT"},
		{"a policy rule throws addresses of documentation away", func(in *Input) {
			host(in).Policy = append([]topology.Policy{{Priority: 100, Action: "blackhole", To: netip.MustParsePrefix("192.0.2.0/24"), SuppressPrefix: -1, SuppressGroup: -1}}, host(in).Policy...)
			host(in).Routes[0] = route("0.0.0.0/0", "10.8.0.1", "tun0")
		}, []string{"note VPN_TAKES_TRAFFIC"}, "goes into the tunnel tun0", ""},
		{"somebody's name is a command", func(in *Input) {
			host(in).Links[0].Name, host(in).Links[1].Bridge, host(in).Routes[1].Interface = "br_;reboot", "br_;reboot", "br_;reboot"
			host(in).Links[0].Settings.ForwardIPv4 = false
		}, []string{"error FORWARDING_OFF"}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := docker0()
			tt.change(&in)
			got := Examine(in)
			var all []string
			for _, f := range got.Findings {
				all = append(all, f.Severity+" "+f.Code)
			}
			if diff := cmp.Diff(tt.want, all); diff != "" {
				t.Fatalf("(-want +got):\n%s\n%+v", diff, got.Findings)
			}
			if len(all) == 0 {
				return
			}
			first := got.Findings[0]
			fix := ""
			if len(first.Fix) > 0 {
				fix = first.Fix[0]
			}
			if !strings.Contains(first.Summary, tt.says) || fix != tt.fix {
				t.Errorf("%q, %q; want %q, %q", first.Summary, first.Fix, tt.says, tt.fix)
			}
		})
	}
}

// TestExamineUnchecked: what was not looked at is no clean bill of health.
func TestExamineUnchecked(t *testing.T) {
	t.Parallel()
	in := docker0()
	in.LeftOut = 7
	in.Rules[topology.HostName] = nil
	in.Unread = map[string]string{topology.HostName: "operation not permitted"}
	in.Topology.Namespaces[0].Links[1].Peer.NetNS = ""
	got := Examine(in)
	want := []report.Unchecked{
		{Check: "namespaces", Reason: "7 were left out, because there are too many; look at one container at a time"},
		{Check: "namespaces", Reason: "what is behind veth1 cannot be looked into"},
		{Check: "filter rules", Reason: "the rules of the host were not read completely: operation not permitted"},
		{Check: "address translation", Reason: "the rules of the host were not read completely: operation not permitted"},
	}
	if diff := cmp.Diff(want, got.Unchecked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, check := range []string{"filter rules", "address translation"} {
		if slices.Contains(got.Checked, check) {
			t.Errorf("%s is called well", check)
		}
	}
	in.Topology.Namespaces = in.Topology.Namespaces[1:]
	if got := Examine(in); len(got.Checked) > 0 || len(got.Unchecked) != 1 {
		t.Errorf("without the host: %+v", got)
	}
}

// manyRoutes is a host with n routes to parts of docker0's network, and one to a
// member of it.
func manyRoutes(n int) Input {
	in := docker0()
	host := &in.Topology.Namespaces[0]
	for i := range n {
		host.Routes = append(host.Routes, route(fmt.Sprintf("172.17.%d.%d/32", 16+i/250, i%250+1), "10.8.0.1", "tun0"))
	}
	host.Routes = append(host.Routes, route("172.17.0.2/32", "10.8.0.1", "tun0"))
	return in
}

// TestExamineManyRoutes: a host has thousands of routes in a network. Those of
// members are asked for, of the others a bounded number, and it is said that these
// are not all.
func TestExamineManyRoutes(t *testing.T) {
	t.Parallel()
	got := Examine(manyRoutes(2000))
	if want := []report.Unchecked{{Check: "overlapping networks", Reason: "where all of 172.17.0.0/16 goes: there are too many routes in it"}}; !slices.Equal(got.Unchecked, want) {
		t.Errorf("not checked: %v, want %v", got.Unchecked, want)
	}
	if first := got.Findings[0]; first.Severity != severe || !strings.Contains(first.Summary, "What is for 172.17.0.2 of web leaves the host by tun0") {
		t.Errorf("first of %d findings: %+v", len(got.Findings), first)
	}
}

// BenchmarkExamineManyRoutes is about the full routing table of a big network.
func BenchmarkExamineManyRoutes(b *testing.B) {
	in := manyRoutes(20_000)
	for b.Loop() {
		Examine(in)
	}
}

func TestParseDaemon(t *testing.T) {
	t.Parallel()
	if _, err := ParseDaemon([]byte(`{"bip": 5}`)); err == nil {
		t.Error("a number is taken for an address")
	}
	for _, text := range []string{`{}`, `{"bip": "", "dns": ["1.1.1.1"]}`} {
		if _, err := ParseDaemon([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
