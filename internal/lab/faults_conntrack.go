//go:build linux

package lab

import "net/netip"

const unknownFlows = "drop what belongs to no known flow"

// invalidRule is the rule that administrators write first.
func invalidRule(backend Backend, ipv6 bool, table, chain string) Rule {
	return iptablesRule(backend, ipv6, table, "-A "+chain+` -m conntrack --ctstate INVALID -m comment --comment "`+unknownFlows+`" -j DROP`)
}

// byHandConntrack are the faults of connection tracking.
func byHandConntrack() []Fault {
	asymmetric := func(name, summary string, probe *Probe) Fault {
		return Fault{
			Name: name, Summary: summary, netns: HostName, Probe: probe, elsewhere: true,
			outcome: ended("dropped", "reply", "CONNTRACK_INVALID", "forward"),
			rule: func(backend Backend) Rule {
				if backend == NFT {
					return nftRule("inet", "filter", "forward", `ct state invalid drop comment "`+unknownFlows+`"`)
				}
				return invalidRule(backend, false, "filter", "FORWARD")
			},
			apply: func(host *node, rule Rule) {
				host.secondWay()
				host.insert(rule)
			},
		}
	}
	return []Fault{
		asymmetric("asymmetric", "requests leave by another way than the host, and the host drops answers of flows that it does not know", pinging("mynamespace", ipv4Target)),
		asymmetric("asymmetric-tcp", "connections leave by another way than the host, and the host drops answers of flows that it does not know", connecting("mynamespace", ipv4Target, 80)),
		{
			// Looks alike: the same rule stands there, and another one drops.
			Name: "established-only", Summary: "a rule drops all that belongs to no flow, after one about invalid packets", netns: HostName,
			Probe:   pinging("mynamespace", ipv4Target),
			outcome: dropped("request", "forward"),
			rule: func(Backend) Rule {
				return nftRule("inet", "guard", "guard", `ct state != { established, related } drop comment "no new flows"`)
			},
			apply: guard("forward", "filter + 20", "accept", "ct state invalid drop"),
		},
	}
}

// secondWay gives the requests of mynamespace a way to the internet beside the
// host, by which the answers do not come.
func (n *node) secondWay() {
	space, internet := n.nodes["mynamespace"], n.nodes["internet"]
	n.wire(space, "eth7", internet, "eth7")
	space.addr("eth7", "198.51.100.2/24")
	internet.addr("eth7", "198.51.100.1/24")
	space.routeFrom("8.8.8.8/32", "198.51.100.1", "eth7", netip.MustParseAddr("172.19.0.2"))
	internet.route("172.19.0.0/24", lanHost.String(), "eth0")
}

// dockerConntrack are those of Docker's bridge.
func dockerConntrack() []Fault {
	cnt01 := netip.MustParseAddr("172.17.0.2")
	return []Fault{{
		Name: "asymmetric", Summary: "a machine reaches the container by a way of its own, and the host drops the answers as of no known flow", netns: HostName,
		Probe:   connecting("client", cnt01, 80),
		outcome: ended("dropped", "reply", "CONNTRACK_INVALID", "forward"),
		rule:    func(backend Backend) Rule { return invalidRule(backend, false, "filter", "DOCKER-USER") },
		apply: func(host *node, rule Rule) {
			client, cnt01 := host.nodes["client"], host.nodes["cnt01"]
			host.wire(client, "eth7", cnt01, "eth7")
			client.addr("eth7", "198.51.100.1/24")
			cnt01.addr("eth7", "198.51.100.2/24")
			client.routeFrom("172.17.0.2/32", "198.51.100.2", "eth7", lanClient)
			host.insert(rule)
		},
	}}
}

// masqueradeConntrack are those of the gateway, whose prefix translation
// conntrack knows nothing of: every answer is INVALID to it.
func masqueradeConntrack() []Fault {
	drop := func(name, hook, table, chain string, probe *Probe) Fault {
		return Fault{
			Name: name + "@gateway", Summary: "the gateway translates prefixes, and drops what conntrack does not know", netns: "gateway", Probe: probe,
			outcome: ended("dropped", "reply", "CONNTRACK_INVALID", hook),
			rule:    func(backend Backend) Rule { return invalidRule(beside(backend), true, table, chain) },
		}
	}
	return []Fault{
		drop("invalid-drop", "forward", "filter", "FORWARD", pinging("cnt01", masqueradeTarget)),
		drop("invalid-drop-mangle", "postrouting", "mangle", "POSTROUTING", pinging("cnt01", masqueradeTarget)),
		drop("invalid-drop-tcp", "forward", "filter", "FORWARD", connecting("cnt01", masqueradeTarget, 80)),
	}
}
