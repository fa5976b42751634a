//go:build linux

package lab

import "net/netip"

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
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, false, "*nat\n-D POSTROUTING -s 172.19.0.0/24 -j MASQUERADE\n")
					return
				}
				host.nft("flush chain ip nat postrouting\n")
			},
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
		},
	}
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
			Name: "no-masquerade-user-defined", Summary: "the rule that masquerades the user-defined bridge's network is missing",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: connecting("cnt03", ipv4Target, 80),
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*nat\n-D POSTROUTING -s 172.18.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE\n")
			},
		},
	}
}

// masqueradeNATFaults are the faults of address translation on the way of
// ipv6-masquerade.
func masqueradeNATFaults() []Fault {
	return []Fault{
		{
			Name: "no-nat66", Summary: "the host does not masquerade: the container's ULA leaves as it is",
			netns: HostName, outcome: unanswered("NAT_MISSING"), Probe: pinging("cnt01", masqueradeTarget),
			apply: func(host *node, _ Rule) {
				if backend := host.network.Options.Backend; backend != NFT {
					host.iptables(backend, true, "*nat\n-D POST_public_allow ! -o lo -j MASQUERADE\n")
					return
				}
				host.nft("flush chain ip6 firewalld nat_POST_public_allow\n")
			},
		}, {
			Name: "no-nptv6@gateway", Summary: "the gateway translates no prefix: a ULA leaves for the internet",
			netns: "gateway", outcome: unanswered("NAT_MISSING"), Probe: pinging("cnt01", masqueradeTarget),
			apply: func(gateway *node, _ Rule) {
				gateway.iptables(beside(gateway.network.Options.Backend), true, "*mangle\n-F\n")
			},
		},
	}
}
