//go:build linux

package lab

import (
	"net/netip"
	"strings"
)

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
		stale("stale-snat", "the flow is an old one: the host translates it to an address that it had before",
			connecting("mynamespace", ipv4Target, 80), unanswered("CONNTRACK_STALE"),
			"-s 172.19.0.2 -d 8.8.8.8 --dport 80 --src-nat 203.0.113.77"),
	}
}

// fromPort has a probe be sent from a port of its own, as programs do whose old
// flows may still be known.
func fromPort(p *Probe) *Probe {
	fixed := patiently(p)
	fixed.Flags = append(fixed.Flags, "--source-port", "40000")
	return fixed
}

// stale is a fault of an entry of conntrack on the host that is older than its
// rules: options are those of conntrack(8), after the state.
func stale(name, summary string, probe *Probe, outcome Truth, options string) Fault {
	return Fault{
		Name: name, Summary: summary, netns: HostName, Probe: fromPort(probe), outcome: outcome, tools: []string{"conntrack"},
		apply: func(host *node, _ Rule) { host.entry(options) },
	}
}

// entry makes an entry of conntrack for a connection from that port that is not
// answered yet. One that is to translate nothing must say so, by a translation to
// what it is: otherwise the rules are asked for it all the same.
func (n *node) entry(options string) {
	n.run("", "conntrack", append(strings.Fields("-I -p tcp --state SYN_SENT --timeout 600 --sport 40000"), strings.Fields(options)...)...)
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
	published := connecting("client", lanHost, 8080)
	unpublished := stale("stale-unpublished", "the flow is an old one: it began before the container's port was published, and the host drops what is for itself", connecting("client", lanHost, 8083),
		stopped("CONNTRACK_STALE"), "-s 203.0.113.100 -d 203.0.113.1 --dport 8083 --dst-nat 203.0.113.1:8083")
	entry := unpublished.apply
	unpublished.apply = func(host *node, rule Rule) {
		host.publishPort("8083", "172.17.0.2", "80")
		// A reset would end the entry.
		host.iptables(host.network.Options.Backend, false, "*filter\n-A INPUT -p tcp -m tcp --dport 8083 -j DROP\n")
		entry(host, rule)
	}
	return []Fault{unpublished, stale("stale-dnat", "the flow is an old one: the host sends it to the address that the container had before", published,
		stopped("CONNTRACK_STALE"), "-s 203.0.113.100 -d 203.0.113.1 --dport 8080 --dst-nat 172.17.0.9:80"), {
		// Looks alike: the old flow is translated as the rules say, and a rule drops.
		Name: "old-flow", Summary: "the flow is an old one that is translated as the rules say, and a rule drops it", netns: HostName,
		Probe: fromPort(published), outcome: dropped("request", "forward"), tools: []string{"conntrack"},
		rule: func(backend Backend) Rule {
			return iptablesRule(backend, false, "filter", `-A DOCKER-USER -p tcp -m tcp --dport 80 -m comment --comment "no web" -j DROP`)
		},
		apply: func(host *node, rule Rule) {
			host.entry("-s 203.0.113.100 -d 203.0.113.1 --dport 8080 --dst-nat 172.17.0.2:80")
			host.insert(rule)
		},
	}, {
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
	unpublished := stale("stale-unpublished", "the flow is an old one: it began before the host sent that port on to the container, and the host drops what is for itself", connecting("router", masqueradeHost, 8080),
		stopped("CONNTRACK_STALE"), "-s fd5a:ceb9:ed8d:fe0a::1 -d fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5 --dport 8080 --dst-nat fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5")
	entry := unpublished.apply
	unpublished.apply = func(host *node, rule Rule) {
		host.nodes["cnt01"].listenTCP(netip.IPv6Unspecified(), 8080, serveHTTP)
		host.forwardPort6("8080", masqueradeContainer.String())
		host.iptables(beside(host.network.Options.Backend), true, "*filter\n-A INPUT -p tcp -m tcp --dport 8080 -j DROP\n")
		entry(host, rule)
	}
	return []Fault{
		unpublished,
		stale("stale-snat", "the flow is an old one: the host translates it to an address that it had before",
			connecting("cnt01", masqueradeTarget, 80), Truth{Outcome: "dropped", Leg: "reply", Code: "CONNTRACK_STALE"},
			"-s fd5a:ceb9:ed8d:1::2 -d 2001:4860:4860::8888 --dport 80 --src-nat fd5a:ceb9:ed8d:fe0a::77"),
		drop("invalid-drop", "forward", "filter", "FORWARD", pinging("cnt01", masqueradeTarget)),
		drop("invalid-drop-mangle", "postrouting", "mangle", "POSTROUTING", pinging("cnt01", masqueradeTarget)),
		drop("invalid-drop-tcp", "forward", "filter", "FORWARD", connecting("cnt01", masqueradeTarget, 80)),
	}
}
