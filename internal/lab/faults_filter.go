//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// filterPlace is a network whose packets are filtered in more places than
// FORWARD.
type filterPlace struct {
	// source is a namespace whose packets the host forwards to target, gateway
	// the host's address that it knows.
	source          string
	target, gateway netip.Addr
	// last is the last namespace before the target.
	last string
	// accept makes the host's own rules accept what it forwards.
	accept func(host *node, backend Backend)
}

func (p filterPlace) ipv6() bool { return p.target.Is6() }

// family is nft's word for the addresses, echo what matches an echo request or
// reply, there and in iptables.
func (p filterPlace) family() string {
	if p.ipv6() {
		return "ip6"
	}
	return "ip"
}

func (p filterPlace) echo(leg string) string {
	if p.ipv6() {
		return "icmpv6 type echo-" + leg
	}
	return "icmp type echo-" + leg
}

// beside is a rule in a table of nft beside the host's own.
func (p filterPlace) beside(text string) func(Backend) Rule {
	return func(Backend) Rule { return nftRule("inet", "guard", "guard", text) }
}

// guard makes that table, with one base chain; further lines stand before the
// rule.
func guard(hook, priority, policy string, lines ...string) func(*node, Rule) {
	return func(n *node, rule Rule) {
		if policy == "accept" {
			lines = append(slices.Clone(lines), rule.Text)
		}
		n.nft(fmt.Sprintf("table inet guard {\n\tchain guard {\n\t\ttype filter hook %s priority %s; policy %s;\n\t\t%s\n\t}\n}\n",
			hook, priority, policy, strings.Join(lines, "\n\t\t")))
	}
}

// accepting has the host's own table accept before another one is asked.
func (p filterPlace) accepting(then func(*node, Rule)) func(*node, Rule) {
	return func(host *node, rule Rule) {
		p.accept(host, host.network.Options.Backend)
		then(host, rule)
	}
}

// xt is a rule of iptables on the host, whatever its own are written with.
func (p filterPlace) xt(table, text string) func(Backend) Rule {
	return func(backend Backend) Rule { return iptablesRule(beside(backend), p.ipv6(), table, text) }
}

func ended(outcome, leg, code, hook string) Truth {
	return Truth{Outcome: outcome, Leg: leg, Code: code, Hook: hook}
}

// faults are the ways in which rules beside the scenario's own end a probe.
func (p filterPlace) faults() []Fault {
	ping, tcp := pinging(p.source, p.target), connecting(p.source, p.target, 80)
	return slices.Concat(p.shadowed(ping, tcp), []Fault{
		{
			Name: "raw-drop", Summary: "a rule in table raw drops the request before it is tracked", netns: HostName, Probe: ping,
			outcome: dropped("request", "prerouting"),
			rule:    p.xt("raw", echoRule("PREROUTING", p.ipv6(), "request", "not even tracked", "DROP")),
		}, {
			Name: "mangle-drop", Summary: "a rule in table mangle drops the request on its way out", netns: HostName, Probe: ping,
			outcome: dropped("request", "postrouting"),
			rule:    p.xt("mangle", echoRule("POSTROUTING", p.ipv6(), "request", "nothing goes out", "DROP")),
		}, {
			Name: "input-drop", Summary: "a rule drops pings to the host itself", netns: HostName, Probe: pinging(p.source, p.gateway),
			outcome: dropped("request", "input"),
			rule:    p.xt("filter", echoRule("INPUT", p.ipv6(), "request", "this host is not pinged", "DROP")),
		}, {
			Name: "input-policy", Summary: "no rule accepts pings to the host itself, and the policy of its table is drop", netns: HostName, Probe: pinging(p.source, p.gateway),
			outcome: ended("dropped", "request", "FILTER_POLICY_DROP", "input"),
			rule:    p.beside("policy drop"),
			apply:   guard("input", "filter", "drop", "tcp dport 22 accept", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept"),
		}, {
			Name: "host-output-drop", Summary: "a rule drops pings of the host itself", netns: HostName, Probe: pinging(HostName, p.target),
			outcome: dropped("request", "output"),
			rule:    p.beside(p.echo("request") + ` drop comment "this host does not ping"`),
			apply:   guard("output", "filter", "accept"),
		}, {
			Name: "set-drop", Summary: "a rule drops what is for an address in a set", netns: HostName, Probe: ping,
			outcome: dropped("request", "prerouting"),
			rule:    p.beside(fmt.Sprintf("%s daddr @banned drop", p.family())),
			apply: func(host *node, rule Rule) {
				host.nft(fmt.Sprintf("table inet guard {\n\tset banned {\n\t\ttype ipv%s_addr\n\t\telements = { %s }\n\t}\n}\n",
					map[bool]string{true: "6", false: "4"}[p.ipv6()], p.target))
				guard("prerouting", "mangle", "accept")(host, rule)
			},
		}, {
			Name: "reset", Summary: "a rule rejects web traffic with a RST", netns: HostName, Probe: tcp,
			outcome: ended("rejected", "request", "FILTER_REJECTED", "forward"),
			rule:    p.xt("filter", `-A FORWARD -p tcp -m tcp --dport 80 -m comment --comment "no web" -j REJECT --reject-with tcp-reset`),
		}, {
			Name: "reject-port", Summary: "a rule rejects web traffic as if nobody listened", netns: HostName, Probe: tcp,
			outcome: ended("rejected", "request", "FILTER_REJECTED", "forward"),
			rule: p.xt("filter", fmt.Sprintf(`-A FORWARD -p tcp -m tcp --dport 80 -m comment --comment "no web" -j REJECT --reject-with %s-port-unreachable`,
				map[bool]string{true: "icmp6", false: "icmp"}[p.ipv6()])),
		}, {
			Name: "queue", Summary: "a rule hands pings to a program that does not run", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "QUEUED", "forward"),
			rule:    p.xt("filter", echoRule("FORWARD", p.ipv6(), "request", "to the intrusion detection", "NFQUEUE --queue-num 7")),
		}, {
			Name: "no-listener", Summary: "nobody listens on the port of the target", netns: HostName, NoFix: true,
			Probe:   connecting(p.source, p.target, 81),
			outcome: Truth{Outcome: "rejected", Leg: "request", Code: "NO_LISTENER", NetNS: p.last},
			apply:   nothing,
		}, {
			Name: "no-listener-host", Summary: "nobody listens on the port of the host", netns: HostName, NoFix: true,
			Probe:   connecting(p.source, p.gateway, 81),
			outcome: Truth{Outcome: "rejected", Leg: "request", Code: "NO_LISTENER"},
			apply:   nothing,
		}, {
			Name: "ipsec-block", Summary: "an IPsec policy forbids the host to forward to the target", netns: HostName, NoFix: true, Probe: patiently(ping),
			outcome: Truth{Outcome: "dropped", Leg: "request", Code: "KERNEL_DROP"},
			apply:   func(host *node, _ Rule) { host.forbid(p.target, netlink.XFRM_DIR_FWD) },
		}, {
			Name: "ports-exhausted", Summary: "NAT has one port to choose, and another connection has it", netns: HostName, NoFix: true,
			Probe:   patiently(tcp),
			outcome: Truth{Outcome: "dropped", Leg: "request", Code: "KERNEL_DROP"},
			apply:   func(host *node, _ Rule) { p.exhaust(host) },
		},
	})
}

// patientTimeout is longer than the kernel may keep a packet for a neighbour.
const patientTimeout = "4s"

// patiently waits as long as that.
func patiently(p *Probe) *Probe {
	patient := *p
	patient.Flags = []string{"--timeout", patientTimeout}
	return &patient
}

// nothing is what is done where the probe alone shows the fault.
func nothing(*node, Rule) {}

// shadowed are accepts that another table does not know of.
func (p filterPlace) shadowed(ping, tcp *Probe) []Fault {
	return []Fault{
		{
			Name: "shadowed-drop", Summary: "the host's own rules accept the request, and a rule of another table drops it", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "SHADOWED_ACCEPT", "forward"),
			rule:    p.beside(p.echo("request") + ` drop comment "guarded"`),
			apply:   p.accepting(guard("forward", "filter + 20", "accept")),
		}, {
			Name: "shadowed-policy", Summary: "the host's own rules accept the request, and the policy of another table drops it", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "SHADOWED_ACCEPT", "forward"),
			rule:    p.beside("policy drop"),
			apply:   p.accepting(guard("forward", "filter + 20", "drop", "udp dport 53 accept", "ct state established,related accept")),
		}, {
			Name: "shadowed-reject", Summary: "the host's own rules accept the request, and a rule of another table rejects it", netns: HostName, Probe: tcp,
			outcome: ended("rejected", "request", "SHADOWED_ACCEPT", "forward"),
			rule:    p.beside(`tcp dport 80 reject with tcp reset comment "no web"`),
			apply:   p.accepting(guard("forward", "filter + 20", "accept")),
		}, {
			Name: "shadowed-reply", Summary: "the host's own rules accept the reply, and a rule of another table drops it", netns: HostName, Probe: ping,
			outcome: ended("dropped", "reply", "SHADOWED_ACCEPT", "forward"),
			rule:    p.beside(p.echo("reply") + ` drop comment "no answers"`),
			apply:   p.accepting(guard("forward", "filter + 20", "accept")),
		}, {
			Name: "shadowed-by-iptables", Summary: "a table of nft accepts the request, and a later rule of iptables drops it", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "SHADOWED_ACCEPT", "forward"),
			rule:    p.xt("filter", echoRule("FORWARD", p.ipv6(), "request", "no pings", "DROP")),
			apply: func(host *node, rule Rule) {
				guard("forward", "filter - 10", "accept")(host, Rule{Text: p.echo("request") + ` accept comment "pings may pass"`})
				host.insert(rule)
			},
		}, {
			// Looks alike: what a table that changes packets accepts is no decision.
			Name: "mangle-accept", Summary: "a rule in table mangle accepts the request, and one in table filter drops it", netns: HostName, Probe: ping,
			outcome: dropped("request", "forward"),
			rule:    p.xt("filter", echoRule("FORWARD", p.ipv6(), "request", "no pings", "DROP")),
			apply: func(host *node, rule Rule) {
				host.iptables(rule.Backend, p.ipv6(), "*mangle\n-A FORWARD -j ACCEPT\n")
				host.insert(rule)
			},
		},
	}
}

// forbid has an IPsec policy block what goes to an address.
func (n *node) forbid(target netip.Addr, dir netlink.Dir) {
	n.do("add an IPsec policy in "+n.name, func() error {
		target := n.disguise.address(target)
		all := net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if target.Is6() {
			all = net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		policy := &netlink.XfrmPolicy{
			Src: &all, Dst: &net.IPNet{IP: target.AsSlice(), Mask: net.CIDRMask(target.BitLen(), target.BitLen())},
			Dir: dir, Action: netlink.XFRM_POLICY_BLOCK,
		}
		// The node's handle speaks of links and routes only.
		return n.ns.Do(func() error { return netlink.XfrmPolicyAdd(policy) })
	})
}

// exhaust leaves NAT one port for connections to the target, and has another
// connection take it.
func (p filterPlace) exhaust(host *node) {
	host.nft(fmt.Sprintf(`
table %s one_port {
	chain postrouting {
		type nat hook postrouting priority srcnat - 5; policy accept;
		%s daddr %s tcp dport 80 masquerade to :5000
	}
}
`, p.family(), p.family(), p.target))
	host.ready()
	host.nodes[p.source].connect(p.target, 80)
}

// connect opens a connection and keeps it until the network is closed.
func (n *node) connect(target netip.Addr, port uint16) {
	n.do(fmt.Sprintf("connect from %s to %s", n.name, target), func() error {
		ctx, cancel := context.WithTimeout(n.ctx, readyWithin)
		defer cancel()
		var conn net.Conn
		err := n.ns.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(n.disguise.address(target), port).String())
			return err
		})
		if err == nil {
			n.undo(conn.Close)
		}
		return err
	})
}

func byHandFilter() filterPlace {
	return filterPlace{
		source: "mynamespace", target: ipv4Target, gateway: netip.MustParseAddr("172.19.0.1"),
		accept: func(host *node, backend Backend) {
			if backend == NFT {
				host.nft("add rule inet filter forward accept\n")
				return
			}
			host.iptables(backend, false, "*filter\n-A FORWARD -j ACCEPT\n")
		},
	}
}

func masqueradeFilter6() filterPlace {
	return filterPlace{
		source: "cnt01", target: masqueradeTarget, gateway: netip.MustParseAddr("fd5a:ceb9:ed8d:1::1"), last: "gateway",
		accept: func(*node, Backend) {}, // the zone of the bridge accepts
	}
}

// dockerFilter are those around Docker's bridge.
func dockerFilter() []Fault {
	p := filterPlace{
		source: "cnt01", target: ipv4Target, gateway: netip.MustParseAddr("172.17.0.1"),
		accept: func(*node, Backend) {}, // Docker's rules accept
	}
	cnt02 := netip.MustParseAddr("172.17.0.3")
	return append(p.faults(),
		Fault{
			Name: "shadowed-by-docker", Summary: "a table of nft accepts pings from the LAN to a container, and Docker's policy drops them", netns: HostName,
			Probe:   pinging("client", cnt02),
			outcome: ended("dropped", "request", "SHADOWED_ACCEPT", "forward"),
			rule:    func(backend Backend) Rule { return iptablesRule(backend, false, "filter", ":FORWARD DROP") },
			apply: func(host *node, _ Rule) {
				host.nodes["client"].route("172.17.0.0/16", lanHost.String(), "eth0")
				guard("forward", "filter - 10", "accept")(host, Rule{Text: `icmp type echo-request accept comment "pings may pass"`})
			},
		}, Fault{
			Name: "isolated", Summary: "a container on another of Docker's bridges is asked", netns: HostName,
			Probe:   pinging("cnt01", netip.MustParseAddr("172.18.0.2")),
			outcome: dropped("request", "forward"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", "-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP")
			},
			apply: nothing,
		}, Fault{
			Name: "unpublished", Summary: "Docker 28 drops what is for a container's port that is not published", netns: HostName,
			Probe:   connecting("client", dockerCnt01, 80),
			outcome: dropped("request", "forward"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", "-A DOCKER ! -i docker0 -o docker0 -j DROP")
			},
			apply: func(host *node, rule Rule) {
				host.nodes["client"].route("172.17.0.0/16", lanHost.String(), "eth0")
				host.iptables(rule.Backend, false, docker28Rules)
			},
		}, Fault{
			Name: "icc-off", Summary: "Docker 28 keeps containers of one bridge apart", netns: HostName,
			Probe:   pinging("cnt01", cnt02),
			outcome: ended("dropped", "request", "BRIDGE_FILTERED", "forward"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", "-A DOCKER-FORWARD -i docker0 -o docker0 -j DROP")
			},
			apply: func(host *node, rule Rule) { host.iptables(rule.Backend, false, docker28Rules) },
		}, Fault{
			Name: "no-listener@cnt02", Summary: "nobody listens on the port of the other container", netns: "cnt02", NoFix: true,
			Probe:   connecting("cnt01", cnt02, 80),
			outcome: Truth{Outcome: "rejected", Leg: "request", Code: "NO_LISTENER"}, apply: nothing,
		}, Fault{
			Name: "exposed", Summary: "the container's port is exposed and not published, and the host has none of that number", netns: HostName, NoFix: true,
			Probe:   connecting("client", lanHost, 80),
			outcome: Truth{Outcome: "rejected", Leg: "request", Code: "NO_LISTENER"}, apply: nothing,
		}, Fault{
			Name: "exposed-forward", Summary: "a container's port is exposed and not published, and somebody outside asks the container itself", netns: HostName,
			Probe:   connecting("client", dockerCnt01, 9000),
			outcome: Truth{Outcome: "dropped", Leg: "request", Code: "FILTER_POLICY_DROP", Hook: "forward"},
			rule:    func(backend Backend) Rule { return iptablesRule(backend, false, "filter", ":FORWARD DROP") },
			apply: func(host *node, _ Rule) {
				host.nodes["client"].ip("route add 172.17.0.0/16 via 203.0.113.1")
				host.nodes["cnt01"].listenTCP(netip.IPv4Unspecified(), 9000, serveHTTP)
			},
		}, Fault{
			Name: "input-drop@cnt02", Summary: "a rule in the other container drops the request", netns: "cnt02",
			Probe:   pinging("cnt01", cnt02),
			outcome: dropped("request", "input"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", echoRule("INPUT", false, "request", "this container is not pinged", "DROP"))
			},
		}, Fault{
			Name: "output-drop@cnt02", Summary: "a rule in the other container drops the reply", netns: "cnt02",
			Probe:   pinging("cnt01", cnt02),
			outcome: dropped("reply", "output"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", echoRule("OUTPUT", false, "reply", "this container does not answer", "DROP"))
			},
		},
	)
}
