//go:build linux

package lab

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of vxlan-overlay: inside, and of the ends of the tunnel.
var (
	overlayCnt1 = netip.MustParseAddr("10.32.0.2")
	overlayCnt2 = netip.MustParseAddr("10.32.0.3")
	vtep1       = netip.MustParseAddr("10.0.1.1")
	vtep2       = netip.MustParseAddr("10.0.2.1")
)

const (
	overlayVNI  = 42
	overlayPort = 4789 // RFC 7348
	// overlayMTU leaves room for what goes around: IPv4, UDP, VXLAN, Ethernet.
	overlayMTU = 1450
)

func vxlanOverlay() Scenario {
	return Scenario{
		Name:    "vxlan-overlay",
		Summary: "containers of two hosts in one network, joined by VXLAN",
		Picture: `cnt1      eth0 10.32.0.2               cnt2      eth0 10.32.0.3
  |                                      |
host      br0                          host2     br0
          vxlan42  VNI 42                        vxlan42  VNI 42
          eth0 10.0.1.1                          eth0 10.0.2.1
  |                                      |
underlay  eth1 10.0.1.254 ------------ underlay  eth2 10.0.2.254
`,
		Command: []string{"ping", "10.32.0.3", "--container", "cnt1"},
		Try: [][]string{
			{"tcp", "10.32.0.3:80", "--container", "cnt1"},
			{"ping", "10.0.2.1"},
			{"topology", "--container", "cnt1"},
		},
		Source:   "cnt1",
		Target:   overlayCnt2,
		Resolver: overlayCnt2,
		Backends: []Backend{NFT, IPTablesNFT, IPTablesLegacy},
		Opaque:   true,
		Bridged:  true,
		Carried: []string{
			"host/eth0 egress", "underlay/eth1 ingress", "underlay/eth2 egress", "host2/eth0 ingress",
			"host2/eth0 egress", "underlay/eth2 ingress", "underlay/eth1 egress", "host/eth0 ingress",
		},
		opaque: []string{"underlay", "host2", "cnt2"},
		Request: []string{
			"cnt1/eth0 egress", "host/vethc1 ingress", "host/vxlan42 egress", "host/eth0 egress",
			"underlay/eth1 ingress", "underlay/eth2 egress",
			"host2/eth0 ingress", "host2/vxlan42 ingress", "host2/vethc2 egress", "cnt2/eth0 ingress",
		},
		Reply: []string{
			"cnt2/eth0 egress", "host2/vethc2 ingress", "host2/vxlan42 egress", "host2/eth0 egress",
			"underlay/eth2 ingress", "underlay/eth1 egress",
			"host/eth0 ingress", "host/vxlan42 ingress", "host/vethc1 egress", "cnt1/eth0 ingress",
		},
		Faults:       slices.Concat(overlayRules(), overlayTunnel(), overlayMTUs()),
		build:        buildOverlay,
		translations: func(Backend) []Translation { return nil },
	}
}

func buildOverlay(b *builder) {
	cnt1, host, underlay := b.namespace("cnt1"), b.namespace(HostName), b.namespace("underlay")
	host2, cnt2 := b.namespace("host2"), b.namespace("cnt2")
	for _, n := range []*node{host, underlay, host2} {
		n.router()
		n.bridgeNF(false)
	}
	b.wire(host, "eth0", underlay, "eth1")
	b.wire(host2, "eth0", underlay, "eth2")
	host.addr("eth0", vtep1.String()+"/24")
	host2.addr("eth0", vtep2.String()+"/24")
	underlay.addr("eth1", "10.0.1.254/24")
	underlay.addr("eth2", "10.0.2.254/24")
	host.route("default", "10.0.1.254", "eth0")
	host2.route("default", "10.0.2.254", "eth0")

	b.wire(host, "vethc1", cnt1, "eth0")
	b.wire(host2, "vethc2", cnt2, "eth0")
	cnt1.addr("eth0", overlayCnt1.String()+"/16")
	cnt2.addr("eth0", overlayCnt2.String()+"/16")
	for _, n := range []*node{cnt1, cnt2} {
		n.ip("link set dev eth0 mtu 1450")
	}
	host.overlay("vethc1", vtep1, overlayPeer{cnt2, overlayCnt2, vtep2})
	host2.overlay("vethc2", vtep2, overlayPeer{cnt1, overlayCnt1, vtep1})
	cnt2.listenUDP(overlayCnt2, 53, b.network.serveDatagrams)
	cnt2.listenTCP(overlayCnt2, 53, b.network.serveStream)
	cnt2.listenTCP(overlayCnt2, 80, serveHTTP)
	cnt2.listenTCP(overlayCnt2, discardPort, discard)
}

// overlayPeer is a container of the overlay that another host has.
type overlayPeer struct {
	container *node
	address   netip.Addr
	vtep      netip.Addr
}

// overlay joins a port and a VXLAN in a bridge. As Docker does for its overlay
// networks, the VXLAN learns nothing: it is told which host has a hardware address,
// and it answers itself who has an address.
func (n *node) overlay(port string, own netip.Addr, peer overlayPeer) {
	n.bridge("br0")
	n.port(port, "br0")
	n.do("create vxlan42 in "+n.name, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = n.disguise.iface("vxlan42"), overlayMTU, n.mac()
		return n.handle.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: overlayVNI, Port: overlayPort, Proxy: true, SrcAddr: n.disguise.address(own).AsSlice(),
		})
	})
	n.port("vxlan42", "br0")
	n.up("vxlan42")
	n.do("tell vxlan42 in "+n.name+" of "+peer.container.name, func() error {
		link, err := n.link("vxlan42")
		if err != nil {
			return err
		}
		far, err := peer.container.link("eth0")
		if err != nil {
			return err
		}
		mac := far.Attrs().HardwareAddr
		if err := n.handle.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
			HardwareAddr: mac, IP: n.disguise.address(peer.vtep).AsSlice(),
		}); err != nil {
			return err
		}
		return n.handle.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
			HardwareAddr: mac, IP: n.disguise.address(peer.address).AsSlice(),
		})
	})
}

// overlayRule is a rule about VXLAN packets.
func overlayRule(chain string) func(Backend) Rule {
	return func(backend Backend) Rule {
		return iptablesRule(beside(backend), false, "filter", "-A "+chain+` -p udp -m udp --dport 4789 -m comment --comment "no VXLAN" -j DROP`)
	}
}

// overlayRules are the rules that drop what the tunnel sends.
func overlayRules() []Fault {
	probe := pinging("cnt1", overlayCnt2)
	fault := func(name, netns, summary, leg, hook string) Fault {
		if netns != HostName {
			name += "@" + netns
		}
		return Fault{Name: name, Summary: summary, netns: netns, Probe: probe, outcome: dropped(leg, hook), rule: overlayRule(strings.ToUpper(hook))}
	}
	return []Fault{
		fault("vxlan-output-drop", HostName, "a rule on the host drops the VXLAN packets that it sends", "request", "output"),
		fault("vxlan-input-drop", "host2", "a rule on the other host drops the VXLAN packets that come to it", "request", "input"),
		fault("vxlan-forward-drop", "underlay", "a router between the hosts drops VXLAN packets", "request", "forward"),
		fault("vxlan-reply-drop", HostName, "a rule on the host drops the VXLAN packets that come to it", "reply", "input"),
	}
}

// overlayTunnel are the ways in which the ends of the tunnel do not find one
// another.
func overlayTunnel() []Fault {
	probe := pinging("cnt1", overlayCnt2)
	return []Fault{
		{
			Name: "wrong-vni@host2", Summary: "the other host's VXLAN has another number (VNI)", netns: "host2", Probe: probe, NoFix: true,
			outcome: stopped("TUNNEL_MISMATCH"),
			apply:   func(host2 *node, _ Rule) { host2.replaceVXLAN("id 43 dstport 4789") },
		}, {
			Name: "wrong-port@host2", Summary: "the other host's VXLAN has another UDP port", netns: "host2", Probe: probe, NoFix: true,
			outcome: stopped("TUNNEL_MISMATCH"),
			apply:   func(host2 *node, _ Rule) { host2.replaceVXLAN("id 42 dstport 8472") },
		}, {
			Name: "no-fdb-entry", Summary: "the host's VXLAN has not been told which host has the container", netns: HostName, Probe: probe, NoFix: true,
			outcome: stopped("TUNNEL_NO_REMOTE"),
			apply: func(host *node, _ Rule) {
				host.run("", "bridge", "fdb", "del", host.nodes["cnt2"].hardware("eth0"), "dev", "vxlan42", "dst", vtep2.String(), "self")
			},
		}, {
			Name: "wrong-remote", Summary: "the host's VXLAN has been told of a host that is not there", netns: HostName, NoFix: true,
			Probe:   &Probe{Kind: "ping", Target: overlayCnt2, Flags: []string{"--timeout", patientTimeout}},
			outcome: stopped("NEIGHBOUR_UNREACHABLE").at("underlay"),
			apply: func(host *node, _ Rule) {
				host.run("", "bridge", "fdb", "replace", host.nodes["cnt2"].hardware("eth0"), "dev", "vxlan42", "dst", "10.0.2.77", "self")
			},
		}, {
			Name: "no-underlay-route", Summary: "the host has no route to the other one", netns: HostName, Probe: probe, NoFix: true,
			outcome: stopped("NO_ROUTE"),
			apply:   func(host *node, _ Rule) { host.ip("route del default") },
		}, {
			Name: "vxlan-down", Summary: "the host's VXLAN is down", netns: HostName, Probe: probe, NoFix: true,
			outcome: unsent("LINK_DOWN"), // and with it went what it had been told of addresses
			apply:   func(host *node, _ Rule) { host.ip("link set dev vxlan42 down") },
		},
	}
}

// replaceVXLAN makes the VXLAN of a host again in another way.
func (n *node) replaceVXLAN(how string) {
	n.ip("link del vxlan42")
	n.ip("link add vxlan42 mtu 1450 type vxlan " + how + " local " + vtep2.String())
	n.ip("link set dev vxlan42 master br0")
	n.ip("link set dev vxlan42 up")
	n.run("", "bridge", "fdb", "append", n.nodes["cnt1"].hardware("eth0"), "dev", "vxlan42", "dst", vtep1.String(), "self")
}

// overlayMTUs are those of a tunnel that carries less than what is sent into it.
func overlayMTUs() []Fault {
	full := &Probe{Kind: "ping", Source: "cnt1", Target: overlayCnt2, Size: 1472, DF: true}
	return []Fault{
		{
			Name: "container-mtu@cnt1", Summary: "the container's MTU is that of the network below, and the VXLAN's is smaller", netns: "cnt1", Probe: full, NoFix: true,
			outcome: stopped("MTU_BLACKHOLE").at(HostName).uncounted(),
			apply: func(cnt1 *node, _ Rule) {
				for _, n := range []*node{cnt1, cnt1.nodes["cnt2"]} {
					n.ip("link set dev eth0 mtu 1500")
				}
			},
		}, {
			Name: "vxlan-mtu", Summary: "the VXLAN's MTU is that of the network below, so that its packets do not fit there", netns: HostName, Probe: full, NoFix: true,
			outcome: refused("MTU_EXCEEDED").uncounted(),
			apply: func(host *node, _ Rule) {
				for _, name := range []string{"cnt1", "cnt2"} {
					host.nodes[name].ip("link set dev eth0 mtu 1500")
				}
				for _, n := range []*node{host, host.nodes["host2"]} {
					n.ip("link set dev vxlan42 mtu 1500")
					n.ip("link set dev br0 mtu 1500")
				}
			},
		},
	}
}
