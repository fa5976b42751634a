//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// otherWayBack gives a namespace a second cable to another one, which sends by
// it what is for an address: answers come in where no request went out.
func (n *node) otherWayBack(from *node, address netip.Addr) {
	n.wire(from, "port9", n, "eth9")
	n.addr("eth9", "192.0.2.1/24")
	from.addr("port9", "192.0.2.2/24")
	// A router asks from its own address there, not from that of the packet.
	from.sysctl("net/ipv4/conf/port9/arp_announce", "2")
	for _, end := range []*node{n, from} {
		end.wait("wait for the links of "+end.name, end.isReady)
	}
	if address.Is4() {
		from.ip(fmt.Sprintf("route add %s via 192.0.2.1 dev port9", address))
		return
	}
	from.ip(fmt.Sprintf("-6 route add %s via %s dev port9", address, n.linkLocal("eth9")))
}

// reversePath are the faults of answers that come to the host by another way:
// from is who sends them, address what they are for.
func reversePath(from string, address netip.Addr) []Fault {
	refused := Truth{Outcome: "dropped", Leg: "reply", Code: "RP_FILTER"}
	byRule := refused
	byRule.Hook, byRule.Interface = "prerouting", "eth9"
	kind := "ping"
	if address.Is6() {
		kind = "ping6"
	}
	all := []Fault{{
		Name: "rp-filter-rule", Probe: &Probe{Kind: kind},
		rule: func(backend Backend) Rule {
			if backend == NFT {
				return nftRule("inet", "reverse", "prerouting", "fib saddr . iif oif missing drop")
			}
			return iptablesRule(backend, address.Is6(), "raw", "-A PREROUTING -m rpfilter --invert -j DROP")
		},
		Summary: "answers come in by another interface than requests leave by, and a rule checks the reverse path", netns: HostName, outcome: byRule,
		apply: func(host *node, rule Rule) {
			host.otherWayBack(host.nodes[from], address)
			if rule.Backend == NFT {
				host.nft("add table inet reverse\nadd chain inet reverse prerouting { type filter hook prerouting priority raw + 10; }\n")
			}
			host.insert(rule)
		},
	}}
	if address.Is6() {
		return all // the kernel has no rp_filter for IPv6
	}
	return append(all, Fault{
		Name: "rp-filter", Summary: "answers come in by another interface than requests leave by, and that one's rp_filter is 1", netns: HostName, outcome: refused,
		apply: func(host *node, _ Rule) {
			host.otherWayBack(host.nodes[from], address)
			host.sysctl("net/ipv4/conf/eth9/rp_filter", "1")
		},
	})
}
