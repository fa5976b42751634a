//go:build linux

package lab

import (
	"net/netip"
	"strings"
)

// unsent is the truth about a probe that never leaves its source.
func unsent(code string) Truth { return Truth{Outcome: "unsent", Leg: "request", Code: code} }

// stopped is the truth about a probe that ends in silence.
func stopped(code string) Truth { return Truth{Outcome: "dropped", Leg: "request", Code: code} }

// refused is the truth about a probe that an ICMP error or a reset ends.
func refused(code string) Truth { return Truth{Outcome: "rejected", Leg: "request", Code: code} }

// at gives a truth the namespace that is to blame, when the probe ended in
// another one.
func (t Truth) at(netns string) Truth {
	t.NetNS = netns
	return t
}

// by gives a truth the interface that the packet ended at.
func (t Truth) by(name string) Truth {
	t.Interface = name
	return t
}

// onReply says that it is the answer that the truth is about.
func (t Truth) onReply() Truth {
	t.Leg = "reply"
	return t
}

// change is a fault that is made by commands of iproute2 in one namespace.
func change(name, netns, summary string, outcome Truth, commands ...string) Fault {
	if netns != HostName {
		name += "@" + netns
	}
	return Fault{Name: name, Summary: summary, netns: netns, outcome: outcome, apply: func(n *node, _ Rule) {
		for _, command := range commands {
			n.ip(command)
		}
	}}
}

// noFix says that nothing that can be seen mends the fault.
func (f Fault) noFix() Fault {
	f.NoFix = true
	return f
}

// misplace makes an entry in a bridge's forwarding table that has a machine's
// interface behind a port, and that the bridge does not correct when it sees
// the machine elsewhere.
func (n *node) misplace(machine, name, port string) {
	n.run("", "bridge", "fdb", "replace", n.nodes[machine].hardware(name), "dev", port, "master", "sticky", "static")
}

// hardware is the hardware address of a link.
func (n *node) hardware(name string) string {
	var address string
	n.do("read the hardware address of "+name+" in "+n.name, func() error {
		link, err := n.link(name)
		if err == nil {
			address = link.Attrs().HardwareAddr.String()
		}
		return err
	})
	return address
}

// ip runs a command of iproute2.
func (n *node) ip(command string) {
	words := strings.Fields(command)
	if strings.HasPrefix(command, "link add ") {
		n.disguise.iface(words[2]) // from here on it is known as an interface
	}
	n.run("", "ip", words...)
}

// loses makes a link lose its carrier by setting the other end down, and waits
// until the kernel has told this end.
func (n *node) loses(name string, other *node, otherName string) {
	other.ip("link set dev " + otherName + " down")
	n.wait("wait until "+name+" in "+n.name+" has no carrier", func() (bool, error) {
		link, err := n.link(name)
		return err == nil && link.Attrs().OperState.String() != "up", err
	})
}

// byHandLinks are the steps by hand that one may forget or undo, and what else
// happens to links, addresses and routes.
func byHandLinks() []Fault {
	bridged := []string{
		"link add br0 type bridge", "link set dev br0 up", "addr del 172.19.0.1/24 dev veth0", "addr add 172.19.0.1/24 dev br0", "link set dev veth0 master br0",
	}
	return []Fault{
		change("no-default-route", "mynamespace", "mynamespace has no default route", unsent("NO_DEFAULT_ROUTE"), "route del default"),
		change("no-address", "mynamespace", "the interface of mynamespace has no address", unsent("NO_DEFAULT_ROUTE"), "addr flush dev veth1"),
		{
			Name: "peer-not-moved", Summary: "both ends of the veth pair are still on the host", netns: HostName,
			outcome: unsent("NO_DEFAULT_ROUTE").at("mynamespace"),
			apply: func(host *node, _ Rule) {
				host.ip("link del veth0")
				host.ip("link add veth0 type veth peer name veth1")
				for _, name := range []string{"veth0", "veth1"} {
					host.ip("link set dev " + name + " up")
				}
				host.ip("addr add 172.19.0.1/24 dev veth0")
			},
		},
		change("link-down", "mynamespace", "the interface of mynamespace is down", unsent("LINK_DOWN"), "link set dev veth1 down"),
		{
			Name: "lo-down@mynamespace", Summary: "the loopback of mynamespace is down", netns: "mynamespace",
			Probe: &Probe{Kind: "ping", Target: netip.MustParseAddr("172.19.0.2")}, outcome: unsent("LINK_DOWN"),
			apply: func(space *node, _ Rule) { space.ip("link set dev lo down") },
		},
		{
			Name: "veth-down", Summary: "the host's end of the veth pair is down", netns: HostName, outcome: unsent("LINK_DOWN"),
			apply: func(host *node, _ Rule) { host.nodes["mynamespace"].loses("veth1", host, "veth0") },
		},
		change("uplink-down", HostName, "the host's uplink is down", refused("LINK_DOWN"), "link set dev eth0 down").noFix(),
		{
			Name: "uplink-no-carrier", Summary: "nothing is at the other end of the host's uplink", netns: HostName, outcome: refused("LINK_DOWN"), NoFix: true,
			apply: func(host *node, _ Rule) { host.loses("eth0", host.nodes["internet"], "eth0") },
		},
		change("no-address", HostName, "the host's end of the veth pair has no address", unsent("NEIGHBOUR_UNREACHABLE").at("mynamespace"), "addr del 172.19.0.1/24 dev veth0"),
		change("wrong-gateway", "mynamespace", "the default route of mynamespace leads to an address that nobody has", unsent("NEIGHBOUR_UNREACHABLE"), "route replace default via 172.19.0.99"),
		change("dead-gateway", HostName, "the host's default route leads to an address that nobody has", refused("NEIGHBOUR_UNREACHABLE"), "route replace default via 203.0.113.77").noFix(),
		change("address-on-port", HostName, "the veth became a port of a bridge and kept the address", unsent("ADDRESS_ON_BRIDGE_PORT"),
			"link add br0 type bridge", "link set dev br0 up", "link set dev veth0 master br0"),
		change("bridge-no-address", HostName, "the veth became a port of a bridge, and its address is gone with nobody having it", unsent("NEIGHBOUR_UNREACHABLE").at("mynamespace"),
			"link add br0 type bridge", "link set dev br0 up", "addr del 172.19.0.1/24 dev veth0", "link set dev veth0 master br0"),
		change("bridge-down", HostName, "the bridge that took over the veth's address is down", unsent("LINK_DOWN"),
			append(bridged, "link set dev br0 down")...),
		change("port-listening", HostName, "the veth is a port of a bridge whose spanning tree is still listening", unsent("BRIDGE_PORT_BLOCKED"),
			append(bridged, "link set dev veth0 type bridge_slave state 1")...),
		change("no-default-route", HostName, "the host has no default route", refused("NO_ROUTE"), "route del default").noFix(),
		change("blackhole-route", HostName, "a blackhole route swallows the target", stopped("ROUTE_BLACKHOLE"), "route add blackhole 8.8.8.0/24"),
		{
			Name: "blackhole-reply", Summary: "a blackhole route swallows the answer", netns: HostName,
			outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "ROUTE_BLACKHOLE"},
			apply: func(host *node, _ Rule) {
				// With the reverse-path filter on, a source without a way back would be refused.
				host.sysctl("net/ipv4/conf/veth0/rp_filter", "0")
				host.ip("route add blackhole 172.19.0.2")
			},
		},
		change("unreachable-route", HostName, "an unreachable route covers the target", refused("ROUTE_BLACKHOLE"), "route add unreachable 8.0.0.0/8 metric 7"),
		change("prohibit-rule", HostName, "a policy rule prohibits the target", refused("ROUTE_BLACKHOLE"), "rule add to 8.8.8.8 prohibit priority 100"),
		change("blackhole-route", "mynamespace", "a blackhole route in mynamespace swallows the target", unsent("ROUTE_BLACKHOLE"), "route add blackhole 8.8.8.8"),
		{
			Name: "no-forwarding-ingress", Summary: "the host does not forward what comes in by veth0, while ip_forward reads 1", netns: HostName, outcome: stopped("FORWARDING_OFF"),
			apply: func(host *node, _ Rule) { host.sysctl("net/ipv4/conf/veth0/forwarding", "0") },
		},
		change("address-twice", HostName, "the host has the address of mynamespace as well", unsent("MARTIAN"), "addr add 172.19.0.2/32 dev lo"),
		{
			Name: "ttl", Summary: "a rule on the host lowers the TTL to 1", netns: HostName, outcome: refused("TTL_EXPIRED"), NoFix: true,
			apply: func(host *node, _ Rule) {
				if host.network.Options.Backend == NFT {
					host.nft("add table ip ttls\nadd chain ip ttls c { type filter hook prerouting priority mangle; }\nadd rule ip ttls c ip saddr 172.19.0.2 ip ttl set 1\n")
					return
				}
				host.iptables(host.network.Options.Backend, false, "*mangle\n-A PREROUTING -s 172.19.0.2/32 -j TTL --ttl-set 1\n")
			},
		},
		{
			Name: "dnat-loopback", Summary: "a rule on the host sends the packet to 127.0.0.1, where it may not go", netns: HostName,
			Probe:   patiently(connecting("mynamespace", netip.MustParseAddr("172.19.0.1"), 8081)),
			outcome: stopped("MARTIAN"),
			apply: func(host *node, _ Rule) {
				host.listenTCP(netip.MustParseAddr("127.0.0.1"), 8081, serveHTTP)
				if host.network.Options.Backend == NFT {
					host.nft("add chain ip nat prerouting { type nat hook prerouting priority dstnat; }\nadd rule ip nat prerouting tcp dport 8081 dnat to 127.0.0.1\n")
					return
				}
				host.iptables(host.network.Options.Backend, false, "*nat\n-A PREROUTING -p tcp -m tcp --dport 8081 -j DNAT --to-destination 127.0.0.1\n")
			},
		},
	}
}

// dockerLinks are faults of links and routes below Docker.
func dockerLinks() []Fault {
	return []Fault{
		{
			Name: "no-forwarding", Summary: "the host does not forward (net.ipv4.ip_forward = 0)", netns: HostName, outcome: stopped("FORWARDING_OFF"),
			apply: func(host *node, _ Rule) { host.sysctl("net/ipv4/ip_forward", "0") },
		},
		change("no-default-route", "cnt01", "the container has no default route", unsent("NO_DEFAULT_ROUTE"), "route del default"),
		change("no-default-route", HostName, "the host has no default route", refused("NO_ROUTE"), "route del default").noFix(),
		change("link-down", "cnt01", "the container's interface is down", unsent("LINK_DOWN"), "link set dev eth0 down"),
		{
			Name: "veth-down", Summary: "the host's end of the container's veth pair is down", netns: HostName, outcome: unsent("LINK_DOWN"),
			apply: func(host *node, _ Rule) { host.nodes["cnt01"].loses("eth0", host, "veth8c1f3e2") },
		},
		change("port-removed", HostName, "the container's veth is no longer a port of docker0", unsent("LINK_DOWN"), "link set dev veth8c1f3e2 nomaster"),
		change("bridge-down", HostName, "docker0 is down", unsent("LINK_DOWN"), "link set dev docker0 down"),
		change("uplink-down", HostName, "the host's uplink is down", refused("LINK_DOWN"), "link set dev eth0 down").noFix(),
		{
			Name: "uplink-no-carrier", Summary: "nothing is at the other end of the host's uplink", netns: HostName, outcome: refused("LINK_DOWN"), NoFix: true,
			apply: func(host *node, _ Rule) { host.loses("eth0", host.nodes["internet"], "port1") },
		},
		change("port-learning", HostName, "the container's port of docker0 is still learning", unsent("BRIDGE_PORT_BLOCKED"), "link set dev veth8c1f3e2 type bridge_slave state 2"),
		change("wrong-gateway", "cnt01", "the container's default route leads to an address that nobody has", unsent("NEIGHBOUR_UNREACHABLE"), "route replace default via 172.17.0.99"),
		change("dead-gateway", HostName, "the host's default route leads to an address that nobody has", refused("NEIGHBOUR_UNREACHABLE"), "route replace default via 203.0.113.77").noFix(),
		change("no-router", "cnt01", "the container's default route leads to the other container", stopped("FORWARDING_OFF").at("cnt02"), "route replace default via 172.17.0.3"),
		change("blackhole-route", HostName, "a blackhole route swallows the target", stopped("ROUTE_BLACKHOLE"), "route add blackhole 8.8.0.0/16"),
		change("prohibit-rule", HostName, "a policy rule prohibits what comes from the container", refused("ROUTE_BLACKHOLE"), "rule add from 172.17.0.2 prohibit priority 100"),
		{
			Name: "ttl", Summary: "a rule on the host lowers the TTL to 1", netns: HostName, outcome: refused("TTL_EXPIRED"), NoFix: true,
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*mangle\n-A PREROUTING -i docker0 -j TTL --ttl-set 1\n")
			},
		},
		{
			Name: "routing-loop", Summary: "the host sends the target to cnt02, which forwards and sends it back", netns: HostName,
			outcome: refused("ROUTING_LOOP").at("cnt02"),
			apply: func(host *node, _ Rule) {
				cnt02 := host.nodes["cnt02"]
				cnt02.sysctl("net/ipv4/ip_forward", "1")
				// Redirects would use up the allowance for ICMP errors to the sender.
				for _, key := range []string{"all", "default", "eth0"} {
					cnt02.sysctl("net/ipv4/conf/"+key+"/send_redirects", "0")
				}
				host.ip("route add 8.8.8.0/24 via 172.17.0.3 dev docker0")
			},
		},
		change("address-twice", HostName, "the host has the container's address as well", unsent("MARTIAN"), "addr add 172.17.0.2/32 dev lo"),
		{
			Name: "wrong-port", Summary: "docker0 has it, for good, that the container is behind another port", netns: HostName,
			outcome: unsent("BRIDGE_WRONG_PORT").at(HostName),
			apply:   func(host *node, _ Rule) { host.misplace("cnt01", "eth0", "vethd04b7a9") },
		},
		{
			Name: "wrong-port-later", Summary: "the same, when container and host know each other's hardware address", netns: HostName,
			outcome: Truth{Outcome: "lost", Leg: "reply", Code: "BRIDGE_WRONG_PORT"},
			apply: func(host *node, _ Rule) {
				host.nodes["cnt01"].knows("172.17.0.1", "eth0", host, "docker0")
				host.knows("172.17.0.2", "docker0", host.nodes["cnt01"], "eth0")
				host.misplace("cnt01", "eth0", "vethd04b7a9")
			},
		},
		change("stray-route", HostName, "the host has a route for the container's address to the other network", stopped("SUBNET_OVERLAP").onReply(), "route add 172.17.0.2/32 dev br-5f1c3a9d2b7e"),
		{
			Name: "stale-neighbour@cnt01", Summary: "the container has a permanent neighbour entry with a hardware address that its gateway does not have", netns: "cnt01",
			outcome: Truth{Outcome: "lost", Leg: "request", Code: "NEIGHBOUR_STALE"},
			apply: func(cnt01 *node, _ Rule) {
				cnt01.ip("neigh replace 172.17.0.1 lladdr 02:42:ac:11:00:98 dev eth0 nud permanent")
			},
		},
		{
			Name: "stale-neighbour", Summary: "the host has a permanent neighbour entry with a hardware address that the container does not have", netns: HostName,
			outcome: Truth{Outcome: "lost", Leg: "reply", Code: "NEIGHBOUR_STALE"},
			apply: func(host *node, _ Rule) {
				host.ip("neigh replace 172.17.0.2 lladdr 02:42:ac:11:00:99 dev docker0 nud permanent")
			},
		},
	}
}

// masqueradeLinks are faults of links and routes of IPv6.
func masqueradeLinks() []Fault {
	hopLimit := func(n *node) {
		n.iptables(beside(n.network.Options.Backend), true, "*mangle\n-A PREROUTING -d 2001:4860:4860::/48 -j HL --hl-set 1\n")
	}
	return []Fault{
		{
			Name: "no-forwarding", Summary: "the host does not forward IPv6", netns: HostName, outcome: stopped("FORWARDING_OFF"),
			apply: func(host *node, _ Rule) { host.sysctl("net/ipv6/conf/all/forwarding", "0") },
		},
		{
			Name: "no-forwarding@router", Summary: "the router does not forward IPv6", netns: "router", outcome: stopped("FORWARDING_OFF"),
			apply: func(router *node, _ Rule) { router.sysctl("net/ipv6/conf/all/forwarding", "0") },
		},
		{
			Name: "no-ipv6@cnt01", Summary: "IPv6 is off at the container's interface", netns: "cnt01", outcome: unsent("NO_DEFAULT_ROUTE"),
			apply: func(n *node, _ Rule) { n.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1") },
		},
		change("no-default-route", "cnt01", "the container has no IPv6 default route", unsent("NO_DEFAULT_ROUTE"), "-6 route del default"),
		change("no-default-route", HostName, "the host has no IPv6 default route", refused("NO_ROUTE"), "-6 route del default").noFix(),
		change("no-default-route", "router", "the router has no IPv6 default route", refused("NO_ROUTE"), "-6 route del default").noFix(),
		change("no-return-route", "gateway", "the gateway has no route back to the host's network",
			Truth{Outcome: "dropped", Leg: "reply", Code: "NO_ROUTE"}, "-6 route del default", "-6 route add 2001:4860::/32 via 2001:db8:ff66:ffff::1", "-6 route del fd5a:ceb9:ed8d:fe0a::/64"),
		change("link-down", "cnt01", "the container's interface is down", unsent("LINK_DOWN"), "link set dev eth0 down").noFix(),
		{
			Name: "veth-down", Summary: "the host's end of the container's veth pair is down", netns: HostName, outcome: unsent("LINK_DOWN"),
			apply: func(host *node, _ Rule) { host.nodes["cnt01"].loses("eth0", host, "veth671b926") },
		},
		change("port-removed", HostName, "the container's veth is no longer a port of the bridge", unsent("LINK_DOWN"), "link set dev veth671b926 nomaster"),
		change("uplink-down", HostName, "the host's uplink is down", refused("LINK_DOWN"), "link set dev ens192 down").noFix(),
		{
			Name: "no-carrier@router", Summary: "nothing is at the other end of the router's interface", netns: "router", outcome: refused("LINK_DOWN").at("gateway"), NoFix: true,
			apply: func(router *node, _ Rule) { router.loses("eth1", router.nodes["gateway"], "zTrust") },
		},
		change("port-listening", HostName, "the container's port of the bridge is still listening", unsent("BRIDGE_PORT_BLOCKED"), "link set dev veth671b926 type bridge_slave state 1"),
		change("wrong-gateway", "cnt01", "the container's default route leads to an address that nobody has", unsent("NEIGHBOUR_UNREACHABLE"),
			"-6 route del default", "-6 route add default via fd5a:ceb9:ed8d:1::99 dev eth0"),
		change("dead-gateway", "router", "the router's default route leads to an address that nobody has", refused("NEIGHBOUR_UNREACHABLE"),
			"-6 route del default", "-6 route add default via fd5a:ceb9:ed8d:fefc::99 dev eth1"),
		change("blackhole-route", HostName, "a blackhole route swallows the target", stopped("ROUTE_BLACKHOLE"), "-6 route add blackhole 2001:4860::/32"),
		change("prohibit-route", "router", "a prohibit route covers the target", refused("ROUTE_BLACKHOLE"), "-6 route add prohibit 2001:4860::/32"),
		change("unreachable-route", "cnt01", "an unreachable route in the container covers the target", unsent("ROUTE_BLACKHOLE"), "-6 route add unreachable 2001:4860::/32"),
		{
			Name: "hop-limit@router", Summary: "a rule in the router lowers the hop limit to 1", netns: "router", outcome: refused("TTL_EXPIRED"), NoFix: true,
			apply: func(router *node, _ Rule) { hopLimit(router) },
		},
		{
			Name: "address-tentative@cnt01", Summary: "duplicate address detection of the container's address has not ended", netns: "cnt01", outcome: refused("ADDRESS_TENTATIVE"),
			apply: func(n *node, _ Rule) {
				n.sysctl("net/ipv6/conf/eth0/accept_dad", "1")
				n.sysctl("net/ipv6/conf/eth0/dad_transmits", "600")
				n.ip("-6 addr del fd5a:ceb9:ed8d:1::2/64 dev eth0")
				n.ip("-6 addr add fd5a:ceb9:ed8d:1::2/64 dev eth0")
			},
		},
		{
			Name: "address-duplicate@cnt01", Summary: "somebody else on the bridge has the container's address", netns: "cnt01", outcome: refused("ADDRESS_TENTATIVE"), NoFix: true,
			apply: func(n *node, _ Rule) {
				host := n.nodes[HostName]
				host.ip("-6 addr add fd5a:ceb9:ed8d:1::2/64 dev br_ipv6_nw nodad")
				n.sysctl("net/ipv6/conf/eth0/accept_dad", "1")
				n.ip("-6 addr del fd5a:ceb9:ed8d:1::2/64 dev eth0")
				n.ip("-6 addr add fd5a:ceb9:ed8d:1::2/64 dev eth0")
				n.wait("wait for duplicate address detection", func() (bool, error) {
					addrs, err := n.addresses()
					for _, a := range addrs {
						if a.Flags&ifaDADFailed != 0 {
							return true, err
						}
					}
					return false, err
				})
			},
		},
	}
}

// ifaDADFailed is IFA_F_DADFAILED (include/uapi/linux/if_addr.h).
const ifaDADFailed = 0x08
