//go:build linux

package lab

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// The addresses of macvlan's containers, and of all there for IPv6.
var (
	macvlanCnt01     = netip.MustParseAddr("203.0.113.11")
	macvlanCnt02     = netip.MustParseAddr("203.0.113.12")
	macvlanHostIPv6  = netip.MustParseAddr("fd3c:9e11:7a02:113::1")
	macvlanElsewhere = netip.MustParseAddr("198.18.7.1") // of the host
	macvlanCnt01IPv6 = netip.MustParseAddr("fd3c:9e11:7a02:113::11")
)

func macvlan() Scenario {
	return Scenario{
		Name:    "macvlan",
		Summary: "containers in the host's own network, by macvlans on its uplink",
		Picture: `cnt01     eth0 203.0.113.11      cnt02     eth0 203.0.113.12
  |       macvlan, mode bridge     |       macvlan, mode bridge
host      eth0 203.0.113.1 --------+
  |
internet  eth0 203.0.113.254   dns.google 8.8.8.8, 8.8.4.4
`,
		Command: []string{"ping", "8.8.8.8", "--container", "cnt01"},
		Try: [][]string{
			{"ping", lanHost.String(), "--container", "cnt01"},
			{"tcp", macvlanCnt02.String() + ":80", "--container", "cnt01"},
			{"ping", macvlanCnt01.String()},
			{"topology", "--container", "cnt01"},
		},
		Source:       "cnt01",
		Target:       ipv4Target,
		Resolver:     ipv4Target,
		Backends:     []Backend{NFT, IPTablesNFT, IPTablesLegacy},
		Bridged:      true,
		hidden:       []string{"internet"},
		Request:      []string{"cnt01/eth0 egress", "host/eth0 egress"},
		Reply:        []string{"host/eth0 ingress", "cnt01/eth0 ingress"},
		Faults:       macvlanFaults(),
		build:        buildMacvlan,
		translations: func(Backend) []Translation { return nil },
	}
}

func buildMacvlan(b *builder) {
	cnt01, cnt02, host, internet := b.namespace("cnt01"), b.namespace("cnt02"), b.namespace(HostName), b.namespace("internet")
	b.wire(host, "eth0", internet, "eth0")
	for _, machine := range []struct {
		node       *node
		ipv4, ipv6 netip.Addr
	}{{host, lanHost, macvlanHostIPv6}, {cnt01, macvlanCnt01, macvlanCnt01IPv6}, {cnt02, macvlanCnt02, netip.Addr{}}} {
		if machine.node != host {
			host.macvlan("eth0", machine.node)
		}
		machine.node.addr("eth0", machine.ipv4.String()+"/24")
		if machine.ipv6.IsValid() {
			machine.node.addr("eth0", machine.ipv6.String()+"/64")
		}
		machine.node.route("default", lanGateway.String(), "eth0")
	}
	cnt02.listenTCP(macvlanCnt02, 80, serveHTTP)
	internet.addr("eth0", lanGateway.String()+"/24")
	b.google(internet)
}

// macvlan puts a macvlan in bridge mode on a link, which becomes eth0 of another
// namespace.
func (n *node) macvlan(lower string, container *node) {
	n.do("create a macvlan on "+lower+" in "+n.name+" for "+container.name, func() error {
		link, err := n.link(lower)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = n.disguise.iface("eth0"), link.Attrs().Index, n.mac()
		attrs.Namespace = netlink.NsFd(container.ns.FD())
		return n.handle.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	})
	container.up("eth0")
}

func macvlanFaults() []Fault {
	isolated := func(name, netns, summary string, probe *Probe) Fault {
		return Fault{Name: name, Summary: summary, netns: netns, Probe: probe, outcome: unsent("MACVLAN_ISOLATED"), apply: nothing}
	}
	private := change("private", "cnt02", "cnt02's macvlan is in private mode", unsent("MACVLAN_ISOLATED").at("cnt01"), "link set dev eth0 type macvlan mode private")
	private.Probe = patiently(pinging("cnt01", macvlanCnt02))
	netdev := func(name, summary, leg, hook string) Fault {
		return Fault{
			Name: name, Summary: summary, netns: HostName, Probe: pinging("cnt01", ipv4Target),
			outcome: ended("dropped", leg, "INGRESS_FILTERED", hook).by("eth0"),
			rule:    atDevice("netdev", hookPlace{target: ipv4Target}.echo(leg)+` drop comment "not at this port"`),
			apply:   atDevices("netdev", hook, "accept", "eth0"),
		}
	}
	answer := isolated("answer-from-host", HostName, "the container asks another address of its host by way of the gateway, and the host answers directly", patiently(pinging("cnt01", macvlanElsewhere)))
	answer.Root = true // without the kernel's drops the answer is seen nowhere
	answer.outcome = stopped("MACVLAN_ISOLATED").onReply()
	answer.apply = func(host *node, _ Rule) {
		host.addr("lo", macvlanElsewhere.String()+"/32")
		internet := host.nodes["internet"]
		internet.route(macvlanElsewhere.String()+"/32", lanHost.String(), "eth0")
		internet.sysctl("net/ipv4/ip_forward", "1")
		internet.sysctl("net/ipv4/conf/all/send_redirects", "0")
		internet.sysctl("net/ipv4/conf/eth0/send_redirects", "0")
	}
	return []Fault{
		answer,
		isolated("to-host", "cnt01", "the container asks its own host, which a macvlan on the host's uplink never reaches", patiently(pinging("cnt01", lanHost))),
		isolated("to-host-ipv6", "cnt01", "the same over IPv6", patiently(pinging("cnt01", macvlanHostIPv6))).noFix(),
		isolated("from-host", HostName, "the host asks the container", patiently(pinging(HostName, macvlanCnt01))),
		isolated("from-host-ipv6", HostName, "the same over IPv6", patiently(pinging(HostName, macvlanCnt01IPv6))).noFix(),
		private,
		change("host-as-gateway", "cnt01", "the container's default route leads to its own host", unsent("MACVLAN_ISOLATED"), "route replace default via "+lanHost.String()),
		change("uplink-down", HostName, "the uplink, on which the macvlans are, is down", unsent("LINK_DOWN"), "link set dev eth0 down"),
		netdev("netdev-out", "a rule at the uplink drops requests on their way out", "request", "egress"),
		netdev("netdev-reply", "a rule at the uplink drops answers before the macvlan gets them", "reply", "ingress"),
	}
}
