//go:build linux

package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// unanswered is the truth about a probe that left and got no answer.
func unanswered(code string) Truth { return Truth{Outcome: "lost", Leg: "request", Code: code} }

// pinging is a probe that does not wait long for an answer that will not come.
func pinging(source string, target netip.Addr) *Probe {
	p := &Probe{Kind: "ping", Source: source, Target: target, Flags: []string{"--timeout", "1s"}}
	if target.Is6() {
		p.Kind = "ping6"
	}
	return p
}

// connecting is pinging over TCP.
func connecting(source string, target netip.Addr, port uint16) *Probe {
	p := pinging(source, target)
	p.Kind, p.Port = "tcp", port
	return p
}

// byHandNAT are the faults of address translation on the way out.
func byHandNAT() []Fault {
	return []Fault{
		{
			Name: "no-masquerade", Summary: "the host translates nothing: the rule for 172.19.0.0/24 is missing",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: pinging("mynamespace", ipv4Target),
			apply: func(host *node, _ Rule) { host.byHandNoNAT() },
		}, {
			Name: "no-nat", Summary: "the host has no rules for address translation at all",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: connecting("mynamespace", ipv4Target, 80),
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, false, "*nat\n-F\n")
					return
				}
				host.nft("delete table ip nat\n")
			},
		}, {
			Name: "snat-wrong-address", Summary: "the host translates to an address of its network that nobody has",
			netns: HostName, outcome: unanswered("NAT_WRONG_ADDRESS"), Probe: pinging("mynamespace", ipv4Target),
			apply: func(host *node, _ Rule) { host.byHandSNAT("203.0.113.77") },
		}, {
			Name: "snat-silent", Summary: "the host translates to a second address that it has, and the target is silent",
			netns: HostName, outcome: unanswered("NO_REPLY"), Probe: pinging("mynamespace", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) {
				host.addr("eth0", "203.0.113.77/24")
				host.byHandSNAT("203.0.113.77")
				host.nodes["internet"].silent()
			},
		}, {
			Name: "snat-routed", Summary: "the host translates to an address that is routed to it, and the target is silent",
			netns: HostName, outcome: unanswered("NO_REPLY"), Probe: pinging("mynamespace", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) {
				host.byHandSNAT("192.0.2.77")
				host.nodes["internet"].route("192.0.2.77/32", lanHost.String(), "eth0")
				host.nodes["internet"].silent()
			},
		}, {
			Name: "snat-proxied", Summary: "the host translates to an address that it answers for by proxy, and the target is silent",
			netns: HostName, outcome: unanswered("NO_REPLY"), Probe: pinging("mynamespace", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) {
				host.answerFor("203.0.113.77", "eth0")
				host.byHandSNAT("203.0.113.77")
				host.nodes["internet"].silent()
			},
		}, {
			Name: "silent-target", Summary: "the target answers no pings",
			netns: HostName, outcome: unanswered("NO_REPLY"), Probe: pinging("mynamespace", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) { host.nodes["internet"].silent() },
		}, {
			Name: "answer-elsewhere", Summary: "the target answers from another of its addresses",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "ANSWER_FROM_ELSEWHERE"},
			Probe: pinging("mynamespace", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) { host.nodes["internet"].answerAs("ip", ipv4Target, googleAddresses[1]) },
		}, {
			Name: "elsewhere-invalid", Summary: "the target answers from another of its addresses, and the host drops what belongs to no flow",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "ANSWER_FROM_ELSEWHERE"},
			Probe: pinging("mynamespace", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) {
				host.dropInvalid()
				host.nodes["internet"].answerAs("ip", ipv4Target, googleAddresses[1])
			},
		}, {
			Name: "dns-elsewhere", Summary: "the DNS server answers from another of its addresses",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "DNS_FAILED"},
			Probe: &Probe{Kind: "dns", Said: "no answer within 5s"}, NoFix: true,
			apply: func(host *node, _ Rule) { host.nodes["internet"].answerAs("ip", ipv4Target, googleAddresses[1]) },
		}, {
			Name: "stateless-one-way", Summary: "the host sets another source without conntrack, and nothing sets the answer's destination back",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "NAT_PREFIX_MISMATCH"},
			Probe: pinging("mynamespace", ipv4Target),
			apply: func(host *node, _ Rule) {
				host.byHandNoNAT()
				host.nft(`
table ip stateless {
	chain postrouting {
		type filter hook postrouting priority 300; policy accept;
		oifname "eth0" ip saddr 172.19.0.2 ip saddr set 203.0.113.1
	}
}
`)
			},
		}, {
			Name: "untracked-reply", Summary: "a rule keeps answers from connection tracking, so that they are not translated back",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "REPLY_LOST_HERE"},
			Probe: pinging("mynamespace", ipv4Target),
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, false, "*raw\n-A PREROUTING -i eth0 -p icmp -j CT --notrack\n")
					return
				}
				host.nft(`
table ip raw {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "eth0" ip protocol icmp notrack
	}
}
`)
			},
		}, {
			Name: "untracked-request", Summary: "a rule keeps requests from connection tracking, so that they are not translated",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: pinging("mynamespace", ipv4Target),
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, false, "*raw\n-A PREROUTING -i veth0 -p icmp -j CT --notrack\n")
					return
				}
				host.nft(`
table ip raw {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "veth0" ip protocol icmp notrack
	}
}
`)
			},
		}, {
			Name: "no-redirect-target", Summary: "the host redirects web requests to a proxy of its own that does not run",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET"},
			Probe: connecting("mynamespace", ipv4Target, 80), NoFix: true,
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, false, "*nat\n-A PREROUTING -i veth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128\n")
					return
				}
				host.nft(`
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "veth0" tcp dport 80 redirect to :3128
	}
}
`)
			},
		},
	}
}

// byHandNoNAT removes the rule that masquerades.
func (n *node) byHandNoNAT() {
	if backend := n.network.Options.Backend; backend != NFT {
		n.iptables(backend, false, "*nat\n-F POSTROUTING\n")
		return
	}
	n.nft("flush chain ip nat postrouting\n")
}

// byHandSNAT translates to an address in place of masquerading.
func (n *node) byHandSNAT(to string) {
	if backend := n.network.Options.Backend; backend != NFT {
		n.iptables(backend, false, "*nat\n-F POSTROUTING\n-A POSTROUTING -s 172.19.0.0/24 -o eth0 -j SNAT --to-source "+to+"\n")
		return
	}
	n.nft("flush chain ip nat postrouting\nadd rule ip nat postrouting ip saddr 172.19.0.0/24 oifname eth0 snat to " + to + "\n")
}

// answerAs makes a namespace send what it sends from one of its addresses with
// the source of another one.
func (n *node) answerAs(family string, from, to netip.Addr) {
	n.nft(fmt.Sprintf(`
table %[1]s elsewhere {
	chain postrouting {
		type filter hook postrouting priority 300; policy accept;
		%[1]s saddr %[2]s %[1]s saddr set %[3]s
	}
}
`, family, from, to))
}

// answerFor makes a namespace answer at a link for an address that it does not
// have.
func (n *node) answerFor(address, name string) {
	n.do("answer for "+address+" in "+n.name, func() error {
		link, err := n.link(name)
		if err != nil {
			return err
		}
		return n.handle.NeighAdd(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Flags: netlink.NTF_PROXY, IP: net.ParseIP(n.disguise.text(address)), Family: unix.AF_INET,
		})
	})
}

// silent makes a namespace answer no pings.
func (n *node) silent() {
	n.sysctl("net/ipv4/icmp_echo_ignore_all", "1")
	n.sysctl("net/ipv6/icmp/echo_ignore_all", "1")
}

// dockerNAT are the faults of address translation around Docker's bridges.
func dockerNAT() []Fault {
	return []Fault{
		{
			Name: "no-masquerade", Summary: "the rule that masquerades docker0's network is missing",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: pinging("cnt01", ipv4Target),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*nat\n-D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n")
			},
		}, {
			Name: "no-masquerade-br", Summary: "the rule that masquerades the user-defined bridge's network is missing",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: connecting("cnt03", ipv4Target, 80),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*nat\n-D POSTROUTING -s 172.18.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE\n")
			},
		}, {
			Name: "snat-wrong-address", Summary: "the host translates to an address of its network that nobody has",
			netns: HostName, outcome: unanswered("NAT_WRONG_ADDRESS"), Probe: connecting("cnt01", ipv4Target, 80),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*nat\n-I POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j SNAT --to-source 203.0.113.77\n")
			},
		}, {
			Name: "silent-target", Summary: "the target answers no pings",
			netns: HostName, outcome: unanswered("NO_REPLY"), Probe: pinging("cnt01", ipv4Target), NoFix: true,
			apply: func(host *node, _ Rule) { host.nodes["internet"].silent() },
		}, {
			Name: "no-pings@cnt02", Summary: "the other container is set to answer no pings",
			netns: "cnt02", outcome: unanswered("NO_REPLY"), Probe: pinging("cnt01", netip.MustParseAddr("172.17.0.3")),
			apply: func(cnt02 *node, _ Rule) { cnt02.silent() },
		}, {
			Name: "unknown-network", Summary: "the host does not translate towards a private network, and nobody there knows the containers",
			netns: HostName, outcome: unanswered("NO_REPLY"), Probe: pinging("cnt01", netip.MustParseAddr("10.20.30.40")),
			apply: func(host *node, _ Rule) {
				host.nodes["internet"].addr("lo", "10.20.30.40/32")
				host.iptables(host.network.Options.Backend, false, "*nat\n-I POSTROUTING -s 172.17.0.0/16 -d 10.0.0.0/8 -j ACCEPT\n")
			},
		}, {
			Name: "untracked-reply", Summary: "a rule keeps web traffic from connection tracking, so that answers are not translated back",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "REPLY_LOST_HERE"},
			Probe: connecting("cnt01", ipv4Target, 80),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*raw\n-A PREROUTING -i eth0 -p tcp -m tcp --sport 80 -j CT --notrack\n")
			},
		}, {
			Name: "answer-elsewhere", Summary: "the target answers from another of its addresses",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "ANSWER_FROM_ELSEWHERE"},
			Probe: connecting("cnt01", ipv4Target, 80), NoFix: true,
			apply: func(host *node, _ Rule) { host.nodes["internet"].answerAs("ip", ipv4Target, googleAddresses[1]) },
		}, {
			Name: "answer-elsewhere-lan", Summary: "the target answers a machine of the LAN from another of its addresses",
			netns: "client", outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "ANSWER_FROM_ELSEWHERE"},
			Probe: connecting("client", ipv4Target, 80), NoFix: true,
			apply: func(client *node, _ Rule) { client.nodes["internet"].answerAs("ip", ipv4Target, googleAddresses[1]) },
		}, {
			Name: "dnat-no-listener", Summary: "port 8081 is published, and nothing listens in the container",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET", NetNS: "cnt01"},
			Probe: connecting("client", lanHost, 8081), NoFix: true,
			apply: func(host *node, _ Rule) { host.publishPort("8081", "172.17.0.2", "81") },
		}, {
			Name: "hairpin-off", Summary: "without docker-proxy, the container asks for its own published port, and its bridge port is not in hairpin mode",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "request", Code: "HAIRPIN_MISSING"},
			Probe: connecting("cnt01", lanHost, 8080),
			apply: func(host *node, _ Rule) { host.withoutProxy(true) },
		}, {
			Name: "hairpin-own-source", Summary: "without docker-proxy, the container asks for its own published port, and nothing masquerades that",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "request", Code: "HAIRPIN_MISSING", NetNS: "cnt01"},
			Probe: connecting("cnt01", lanHost, 8080),
			apply: func(host *node, _ Rule) {
				host.withoutProxy(true)
				host.hairpin("veth8c1f3e2")
				host.iptables(host.network.Options.Backend, false, "*nat\n-D POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE\n")
			},
		}, {
			Name: "hairpin-short-way", Summary: "without docker-proxy and br_netfilter, a container asks for a port that another one of its bridge publishes",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "HAIRPIN_MISSING", NetNS: "cnt02"},
			Probe: connecting("cnt02", lanHost, 8080),
			apply: func(host *node, _ Rule) { host.withoutProxy(false) },
		}, {
			Name: "hairpin-lan", Summary: "the host sends a machine of the LAN back to another one there, with its source unchanged",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "HAIRPIN_MISSING", NetNS: "client"},
			Probe: connecting("client", lanHost, 8083),
			apply: func(host *node, _ Rule) { host.reflect() },
		}, {
			Name: "hairpin-lan-invalid", Summary: "the same, and the machine drops what belongs to no flow",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "HAIRPIN_MISSING", NetNS: "client"},
			Probe: connecting("client", lanHost, 8083),
			apply: func(host *node, _ Rule) {
				host.reflect()
				host.nodes["client"].dropInvalid()
			},
		}, {
			Name: "untracked-dnat", Summary: "a rule keeps the container's answers from connection tracking, so that they keep the container's address",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "REPLY_LOST_HERE", NetNS: "client"},
			Probe: connecting("client", lanHost, 8080),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*raw\n-A PREROUTING -i docker0 -p tcp -m tcp --sport 80 -j CT --notrack\n")
			},
		}, {
			Name: "stateless-dnat", Summary: "the host sets another destination without conntrack, and nothing sets the answer's source back",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "NAT_PREFIX_MISMATCH"},
			Probe: connecting("client", lanHost, 80),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*filter\n-I DOCKER-USER -p tcp -m tcp -j ACCEPT\n")
				host.nft(`
table ip stateless {
	chain prerouting {
		type filter hook prerouting priority -310; policy accept;
		iifname "eth0" ip daddr 203.0.113.1 tcp dport 80 ip daddr set 172.17.0.2
	}
}
`)
			},
		}, {
			Name: "netmap-no-target", Summary: "the host maps a network to one that has no machine",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET"},
			Probe: &Probe{Kind: "ping", Source: "client", Target: netip.MustParseAddr("198.51.100.2")}, NoFix: true,
			apply: func(host *node, _ Rule) {
				host.nodes["client"].route("198.51.100.0/24", lanHost.String(), "eth0")
				host.iptables(host.network.Options.Backend, false, `
*nat
-A PREROUTING -d 198.51.100.0/24 -j NETMAP --to 172.17.1.0/24
*filter
-I DOCKER-USER -d 172.17.0.0/16 -i eth0 -j ACCEPT
`)
			},
		}, {
			Name: "hairpin-no-listener", Summary: "without docker-proxy, a container asks for a published port that nothing listens on",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET", NetNS: "cnt01"},
			Probe: connecting("cnt02", lanHost, 8081), NoFix: true,
			apply: func(host *node, _ Rule) {
				host.withoutProxy(true)
				host.iptables(host.network.Options.Backend, false, "*nat\n-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:81\n")
			},
		}, {
			Name: "dnat-stale-address", Summary: "port 8082 is published to an address that no container has any more",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET"},
			Probe: &Probe{Kind: "tcp", Source: "client", Target: lanHost, Port: 8082}, NoFix: true,
			apply: func(host *node, _ Rule) { host.publishPort("8082", "172.17.0.9", "80") },
		}, {
			Name: "proxy-no-listener", Summary: "a container asks for port 8084, for which docker-proxy answers, and nothing listens in the container behind it",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "NO_LISTENER", NetNS: "cnt01"},
			Probe: connecting("cnt02", lanHost, 8084), NoFix: true,
			apply: func(host *node, _ Rule) { host.dockerProxy(8084, netip.AddrPortFrom(dockerCnt01, 84)) },
		}, {
			Name: "proxy-stale-address", Summary: "a container asks for port 8085, for which docker-proxy answers, and no container has the address behind it any more",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "request", Code: "NEIGHBOUR_UNREACHABLE"},
			Probe: &Probe{Kind: "tcp", Source: "cnt03", Target: lanHost, Port: 8085}, NoFix: true,
			apply: func(host *node, _ Rule) {
				host.dockerProxy(8085, netip.AddrPortFrom(netip.MustParseAddr("172.17.0.9"), 80))
			},
		},
	}
}

// publishPort adds the rules with which Docker publishes a container's port.
func (n *node) publishPort(port, address, to string) {
	n.iptables(n.network.Options.Backend, false, `
*nat
-A DOCKER ! -i docker0 -p tcp -m tcp --dport `+port+` -j DNAT --to-destination `+address+`:`+to+`
*filter
-A DOCKER -d `+address+`/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport `+to+` -j ACCEPT
`)
}

// withoutProxy makes the rules those of Docker with its userland proxy off
// (hairpin mode of the ports is left off), and says whether bridged packets
// pass them.
func (n *node) withoutProxy(bridgeNF bool) {
	n.bridgeNF(bridgeNF)
	n.iptables(n.network.Options.Backend, false, `
*nat
-F DOCKER
-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
`)
}

// reflect sends machines of the LAN that ask for port 8083 to another one there.
func (n *node) reflect() {
	n.nodes["internet"].listenTCP(lanGateway, 80, serveHTTP)
	n.iptables(n.network.Options.Backend, false, `
*nat
-I PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 8083 -j DNAT --to-destination 203.0.113.254:80
*filter
-I DOCKER-USER -i eth0 -o eth0 -j ACCEPT
`)
}

// dropInvalid drops what conntrack knows no flow for.
func (n *node) dropInvalid() {
	n.nft(`
table inet strict {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state invalid drop
	}
}
`)
}

// hairpin lets a bridge port send out what it received.
func (n *node) hairpin(name string) {
	n.do("set hairpin mode of "+name+" in "+n.name, func() error {
		link, err := n.link(name)
		if err != nil {
			return err
		}
		return n.handle.LinkSetHairpin(link, true)
	})
}

// masqueradeNATFaults are the faults of address translation on the way of
// ipv6-masquerade.
func masqueradeNATFaults() []Fault {
	return []Fault{
		{
			Name: "no-nat66", Summary: "the host does not masquerade: the container's ULA leaves as it is",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: pinging("cnt01", masqueradeTarget),
			apply: func(host *node, _ Rule) { host.noNAT66() },
		}, {
			Name: "no-nat66-nearby", Summary: "the host does not masquerade, and the gateway, which is asked, does not know the container",
			netns: HostName, outcome: Truth{Outcome: "lost", Leg: "reply", Code: "REPLY_LOST_HERE", NetNS: "gateway"},
			Probe: pinging("cnt01", netip.MustParseAddr("fd5a:ceb9:ed8d:fefc::1")),
			apply: func(host *node, _ Rule) { host.noNAT66() },
		}, {
			Name: "no-nptv6@gateway", Summary: "the gateway translates no prefix: a ULA leaves for the internet",
			netns: "gateway", outcome: unanswered("NAT_MISSING"), Probe: pinging("cnt01", masqueradeTarget),
			apply: func(gateway *node, _ Rule) {
				gateway.iptables(beside(gateway.network.Options.Backend), true, "*mangle\n-F\n")
			},
		}, {
			Name: "snat-wrong-address", Summary: "the host translates to an address of its network that nobody has",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "NAT_WRONG_ADDRESS"},
			Probe: &Probe{Kind: "ping6", Source: "cnt01", Target: masqueradeTarget},
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, true, "*nat\n-F POST_public_allow\n-A POST_public_allow ! -o lo -j SNAT --to-source fd5a:ceb9:ed8d:fe0a::77\n")
					return
				}
				host.nft("flush chain ip6 firewalld nat_POST_public_allow\nadd rule ip6 firewalld nat_POST_public_allow oifname != lo snat to fd5a:ceb9:ed8d:fe0a::77\n")
			},
		}, {
			Name: "silent-target", Summary: "the target answers no pings",
			netns: HostName, Probe: pinging("cnt01", masqueradeTarget), NoFix: true,
			outcome: Truth{Outcome: "lost", Leg: "request", Code: "NO_REPLY", NetNS: "gateway"},
			apply:   func(host *node, _ Rule) { host.nodes["internet"].silent() },
		}, {
			Name: "no-pings@gateway", Summary: "the gateway is set to answer no pings",
			netns: "gateway", outcome: unanswered("NO_REPLY"), Probe: pinging("cnt01", netip.MustParseAddr("fd5a:ceb9:ed8d:fefc::1")),
			apply: func(gateway *node, _ Rule) { gateway.silent() },
		}, {
			Name: "answer-elsewhere", Summary: "the target answers from another of its addresses",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "ANSWER_FROM_ELSEWHERE"},
			Probe: pinging("cnt01", masqueradeTarget), NoFix: true,
			apply: func(host *node, _ Rule) { host.nodes["internet"].answerAs("ip6", masqueradeTarget, googleAddresses[3]) },
		}, {
			Name: "no-dnpt@gateway", Summary: "the gateway translates prefixes on the way out and not on the way in",
			netns: "gateway", outcome: Truth{Outcome: "rejected", Leg: "reply", Code: "NAT_PREFIX_MISMATCH"},
			Probe: pinging("cnt01", masqueradeTarget),
			apply: func(gateway *node, _ Rule) {
				gateway.iptables(beside(gateway.network.Options.Backend), true, "*mangle\n-F PREROUTING\n")
			},
		}, {
			Name: "other-dnpt@gateway", Summary: "the gateway translates answers to another prefix than requests came from",
			netns: "gateway", outcome: Truth{Outcome: "rejected", Leg: "reply", Code: "NAT_PREFIX_MISMATCH"},
			Probe: pinging("cnt01", masqueradeTarget),
			apply: func(gateway *node, _ Rule) {
				backend := beside(gateway.network.Options.Backend)
				gateway.iptables(backend, true, "*mangle\n-F PREROUTING\n-A PREROUTING -d 2001:db8:ff66::/64 -i zUntrust -j DNPT --src-pfx 2001:db8:ff66::/64 --dst-pfx fd5a:ceb9:ed8d:fe0b::/64\n")
			},
		}, {
			Name: "hairpin-off", Summary: "the host sends the container's own requests for port 8080 back to it, and its bridge port is not in hairpin mode",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "request", Code: "HAIRPIN_MISSING"},
			Probe: connecting("cnt01", masqueradeHost, 8080),
			apply: func(host *node, _ Rule) {
				host.nodes["cnt01"].listenTCP(netip.IPv6Unspecified(), 8080, serveHTTP)
				host.bridgeNF(true)
				host.forwardPort6("8080", masqueradeContainer.String())
			},
		}, {
			Name: "hairpin-own-source", Summary: "the host sends the container's own requests for port 8080 back to it with the container's source",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "HAIRPIN_MISSING", NetNS: "cnt01"},
			Probe: connecting("cnt01", masqueradeHost, 8080),
			apply: func(host *node, _ Rule) {
				host.nodes["cnt01"].listenTCP(netip.IPv6Unspecified(), 8080, serveHTTP)
				host.bridgeNF(false)
				host.forwardPort6("8080", masqueradeContainer.String())
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, true, "*nat\n-F POST_public_allow\n-A POST_public_allow -o ens192 -j MASQUERADE\n")
					return
				}
				host.nft("flush chain ip6 firewalld nat_POST_public_allow\nadd rule ip6 firewalld nat_POST_public_allow oifname ens192 masquerade\n")
			},
		}, {
			Name: "dnat-no-listener", Summary: "the host sends port 8080 on to the container, where nothing listens",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET", NetNS: "cnt01"},
			Probe: connecting("router", masqueradeHost, 8080), NoFix: true,
			apply: func(host *node, _ Rule) { host.forwardPort6("8080", masqueradeContainer.String()) },
		}, {
			Name: "dnat-stale-address", Summary: "the host sends port 8080 on to an address that no container has",
			netns: HostName, outcome: Truth{Outcome: "rejected", Leg: "request", Code: "DNAT_NO_TARGET"},
			Probe: &Probe{Kind: "tcp", Source: "router", Target: masqueradeHost, Port: 8080}, NoFix: true,
			apply: func(host *node, _ Rule) { host.forwardPort6("8080", "fd5a:ceb9:ed8d:1::9") },
		},
	}
}

// noNAT66 removes the rule that masquerades IPv6.
func (n *node) noNAT66() {
	if backend := n.network.Options.Backend; backend != NFT {
		n.iptables(backend, true, "*nat\n-F POST_public_allow\n")
		return
	}
	n.nft("flush chain ip6 firewalld nat_POST_public_allow\n")
}

// forwardPort6 sends a TCP port of the host on to a container, as firewalld
// does.
func (n *node) forwardPort6(port, address string) {
	if backend := n.network.Options.Backend; backend != NFT {
		n.iptables(backend, true, `
*nat
-A PREROUTING -d `+masqueradeHost.String()+` -p tcp -m tcp --dport `+port+` -j DNAT --to-destination [`+address+`]:`+port+`
*filter
-I FORWARD -m conntrack --ctstate DNAT -j ACCEPT
`)
		return
	}
	n.nft(`
table ip6 firewalld {
	chain nat_PREROUTING {
		type nat hook prerouting priority dstnat + 10; policy accept;
		ip6 daddr ` + masqueradeHost.String() + ` tcp dport ` + port + ` dnat to [` + address + `]:` + port + `
	}
}
`)
}
