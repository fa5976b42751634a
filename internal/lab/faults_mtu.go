//go:build linux

package lab

import "net/netip"

// The probes that are too big for a link with an MTU of 1400, the smallest of
// which is the VPN's own (tunnelMTU).
const (
	bigPing    = 1400
	sendEnough = 20_000
)

// big is a ping of a target that may not be fragmented; an invalid target is
// the scenario's.
func big(kind string, target netip.Addr) *Probe {
	return &Probe{Kind: kind, Target: target, Size: bigPing, DF: true}
}

// sending is a connection over which data is sent.
func sending(target netip.Addr) *Probe {
	return &Probe{Kind: "tcp", Target: target, Port: discardPort, SendBytes: sendEnough}
}

// uncounted says that the kernel does not count it.
func (t Truth) uncounted() Truth {
	t.Uncounted = true
	return t
}

// The lines of iptables that keep a host from saying that a packet is too big,
// and others from passing that on.
const (
	noErrors      = "-p icmp -m icmp --icmp-type 3 -j DROP\n"
	noErrors6     = "-p ipv6-icmp -m icmp6 --icmpv6-type 2 -j DROP\n"
	noBigPackets  = "-m length --length 1351:65535 -j DROP\n"
	filterInsert  = "*filter\n-I "
	smallMTU      = " mtu 1400"
	setLink       = "link set dev "
	exceeded      = "MTU_EXCEEDED"
	blackhole     = "MTU_BLACKHOLE"
	errorsSwallow = ", and a rule drops the ICMP errors that say so"
)

// dockerMTU are the ways in which the MTU stops packets of docker-bridge.
func dockerMTU() []Fault {
	return []Fault{
		{
			Name: "uplink-mtu", Summary: "the MTU of the host's uplink is 1400", netns: HostName, NoFix: true,
			Probe: big("ping", netip.Addr{}), outcome: refused(exceeded),
			apply: func(host *node, _ Rule) { host.ip(setLink + "eth0" + smallMTU) },
		}, {
			Name: "route-mtu", Summary: "the host's route to the internet has an MTU of 1400", netns: HostName, NoFix: true,
			Probe: big("ping", netip.Addr{}), outcome: refused(exceeded),
			apply: func(host *node, _ Rule) {
				host.ip("route replace default via 203.0.113.254 dev eth0 proto static" + smallMTU)
			},
		}, {
			Name: "uplink-mtu-silent", Summary: "the MTU of the host's uplink is 1400" + errorsSwallow, netns: HostName,
			Probe: sending(netip.Addr{}), outcome: stopped(blackhole),
			apply: func(host *node, _ Rule) {
				host.ip(setLink + "eth0" + smallMTU)
				host.iptables(host.network.Options.Backend, false, filterInsert+"OUTPUT "+noErrors)
			},
		}, {
			Name: "veth-mtu", Summary: "the host's end of the container's veth pair has a smaller MTU than the container's, and a ping is too big for it", netns: HostName,
			Probe: big("ping", netip.Addr{}), outcome: stopped(blackhole).uncounted(),
			apply: func(host *node, _ Rule) { host.ip(setLink + "veth8c1f3e2" + smallMTU) },
		}, {
			Name: "own-mtu@cnt01", Summary: "the MTU of the container's own interface is 1400", netns: "cnt01",
			Probe: big("ping", netip.Addr{}), outcome: unsent(exceeded).uncounted(),
			apply: func(cnt01 *node, _ Rule) { cnt01.ip(setLink + "eth0" + smallMTU) },
		}, {
			Name: "answer-mtu@cnt01", Summary: "the MTU of the container's own interface is 1400, and the answer to its ping, which left in fragments, is larger", netns: "cnt01",
			Probe: &Probe{Kind: "ping", Size: bigPing}, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: blackhole}.uncounted(),
			apply: func(cnt01 *node, _ Rule) { cnt01.ip(setLink + "eth0" + smallMTU) },
		}, {
			Name: "mtu-beyond", Summary: "something behind the host swallows large packets", netns: "internet",
			Probe: sending(netip.Addr{}), outcome: Truth{Outcome: "lost", Leg: "request", Code: blackhole}.at(HostName).uncounted(),
			apply: func(internet *node, _ Rule) {
				internet.iptables(beside(internet.network.Options.Backend), false, filterInsert+"INPUT "+noBigPackets)
			},
		},
	}
}

// masqueradeMTU are the same of ipv6-masquerade, where IPv6 routers fragment
// nothing.
func masqueradeMTU() []Fault {
	routerMTU := func(router *node) { router.ip(setLink + "eth1" + smallMTU) }
	return []Fault{
		{
			Name: "mtu@router", Summary: "the router's interface towards the gateway has an MTU of 1400", netns: "router",
			Probe: big("ping6", netip.Addr{}), outcome: refused(exceeded),
			apply: func(router *node, _ Rule) { routerMTU(router) },
		}, {
			Name: "mtu-silent@router", Summary: "the router's interface towards the gateway has an MTU of 1400" + errorsSwallow, netns: "router",
			Probe: sending(netip.Addr{}), outcome: stopped(blackhole),
			apply: func(router *node, _ Rule) {
				routerMTU(router)
				router.iptables(beside(router.network.Options.Backend), true, filterInsert+"OUTPUT "+noErrors6)
			},
		}, {
			Name: "mtu-silent-ping@router", Summary: "the router's interface towards the gateway has an MTU of 1400, and the host does not pass on the ICMP errors that say so", netns: "router",
			Probe: big("ping6", netip.Addr{}), outcome: stopped(blackhole),
			apply: func(router *node, _ Rule) {
				routerMTU(router)
				host := router.nodes[HostName]
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, true, filterInsert+"FORWARD "+noErrors6)
					return
				}
				host.nft("insert rule inet firewalld filter_FORWARD icmpv6 type packet-too-big drop\n")
			},
		}, {
			Name: "mtu-silent4@router", Summary: "the router's interface towards the gateway has an MTU of 1400" + errorsSwallow + " over IPv4", netns: "router",
			Probe: sending(ipv4Target), outcome: stopped(blackhole),
			apply: func(router *node, _ Rule) {
				routerMTU(router)
				router.iptables(beside(router.network.Options.Backend), false, filterInsert+"OUTPUT "+noErrors)
			},
		},
	}
}

// vpnMTU are those of the VPN, whose tunnel carries less than the container
// sends.
func vpnMTU() []Fault {
	return []Fault{
		{
			Name: "vpn-mtu", Summary: "a ping is too big for the VPN", netns: HostName, NoFix: true,
			Probe: big("ping", vpnIntranet), outcome: refused(exceeded),
			apply: func(*node, Rule) {},
		}, {
			Name: "vpn-mtu-silent", Summary: "the VPN's MTU is smaller and its ICMP errors are lost: small packets pass, large ones do not", netns: HostName,
			Probe: sending(vpnIntranet), outcome: stopped(blackhole),
			apply: func(host *node, _ Rule) {
				largeIntranet(host.nodes["vpn"])
				host.iptables(host.network.Options.Backend, false, filterInsert+"OUTPUT "+noErrors)
			},
		}, {
			Name: "vpn-mtu-silent-ping", Summary: "the VPN's MTU is smaller and its ICMP errors are lost: a ping is too big", netns: HostName, NoFix: true,
			Probe: big("ping", vpnIntranet), outcome: stopped(blackhole),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, filterInsert+"OUTPUT "+noErrors)
			},
		}, {
			Name: "vpn-mtu-beyond", Summary: "something in the VPN carries less than its tunnel does, and tells nobody", netns: "vpn",
			Probe: sending(vpnIntranet), outcome: Truth{Outcome: "lost", Leg: "request", Code: blackhole}.at(HostName).uncounted(),
			apply: func(vpn *node, _ Rule) {
				vpn.iptables(beside(vpn.network.Options.Backend), false, filterInsert+"INPUT "+noBigPackets)
			},
		},
	}
}

// largeIntranet makes the intranet's machine announce the segments of one whose
// own network carries 1500 bytes, and that knows of the tunnel nothing.
func largeIntranet(vpn *node) {
	vpn.ip("route replace 10.8.0.0/24 dev tun0 src 10.8.0.1 advmss 1460")
}
