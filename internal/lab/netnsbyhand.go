//go:build linux

package lab

import (
	"net/netip"
	"slices"
)

func netnsByHand() Scenario {
	source := netip.MustParseAddr("172.19.0.2")
	return Scenario{
		Name:    "netns-by-hand",
		Summary: "a veth pair, a default route, forwarding and masquerade by hand",
		Picture: `mynamespace  veth1 172.19.0.2
  |
host         veth0 172.19.0.1
             eth0 203.0.113.1   masquerade
  |
internet     dns.google 8.8.8.8, 8.8.4.4
`,
		Command: []string{"ping", "8.8.8.8", "--netns", "mynamespace"},
		Try: [][]string{
			{"ping", "172.19.0.1", "--netns", "mynamespace"},
			{"ping", "172.19.0.2"},
			{"tcp", "8.8.8.8:80", "--netns", "mynamespace"},
			{"conntrack", "--nat"},
		},
		Source:   "mynamespace",
		Target:   ipv4Target,
		Resolver: ipv4Target,
		Backends: []Backend{NFT, IPTablesNFT, IPTablesLegacy},
		hidden:   []string{"internet"},
		Request:  []string{"mynamespace/veth1 egress", "host/veth0 ingress", "host/eth0 egress"},
		Reply:    []string{"host/eth0 ingress", "host/veth0 egress", "mynamespace/veth1 ingress"},
		Faults: slices.Concat(filter{
			source: "mynamespace", table: "filter", base: "forward", requests: "forward", replies: "forward",
			iptablesRequests: "FORWARD", iptablesReplies: "FORWARD",
			dropByPolicy: func(host *node, backend Backend) {
				if backend == NFT {
					host.nft("add chain inet filter forward { policy drop; }\n")
					return
				}
				host.iptables(backend, false, "*filter\n:FORWARD DROP\n")
			},
		}.faults(), byHandSteps(), byHandNAT(), byHandFilter().faults(), byHandConntrack(), byHandLinks(), reversePath("internet", lanHost), byHandHooks()),
		build: func(b *builder) { buildByHand(b, source) },
		translations: func(backend Backend) []Translation {
			if backend == NFT {
				return masqueraded(source, nftRule("ip", "nat", "postrouting", "ip saddr 172.19.0.0/24 masquerade"))
			}
			return masqueraded(source, iptablesRule(backend, false, "nat", "-A POSTROUTING -s 172.19.0.0/24 -j MASQUERADE"))
		},
	}
}

func buildByHand(b *builder, source netip.Addr) {
	options := b.network.Options
	space, host, internet := b.namespace("mynamespace"), b.namespace(HostName), b.namespace("internet")
	host.router()
	host.bridgeNF(false)

	b.wire(host, "veth0", space, "veth1")
	host.addr("veth0", "172.19.0.1/24")
	space.addr("veth1", source.String()+"/24")
	space.route("default", "172.19.0.1", "veth1")

	b.wire(host, "eth0", internet, "eth0")
	host.addr("eth0", lanHost.String()+"/24")
	host.route("default", lanGateway.String(), "eth0")
	internet.addr("eth0", lanGateway.String()+"/24")
	b.google(internet)

	if options.Backend == NFT {
		host.nft(`
table inet filter {
	chain forward {
		type filter hook forward priority filter; policy accept;
	}
}
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.19.0.0/24 masquerade
	}
}
`)
		return
	}
	host.iptables(options.Backend, false, "*nat\n-A POSTROUTING -s 172.19.0.0/24 -j MASQUERADE\n")
}

// byHandSteps are the steps that one may not have come to yet.
func byHandSteps() []Fault {
	return []Fault{
		{
			Name: "no-forwarding", Summary: "the host does not forward (net.ipv4.ip_forward = 0)",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "request", Code: "FORWARDING_OFF"},
			apply: func(host *node, _ Rule) { host.sysctl("net/ipv4/ip_forward", "0") },
		},
		{
			Name: "not-begun", Summary: "the pair is there, one end in mynamespace, and nothing else has been done there", netns: "mynamespace", outcome: unsent("NO_DEFAULT_ROUTE"),
			apply: func(space *node, _ Rule) {
				space.ip("addr flush dev veth1")
				space.ip("link set dev veth1 down")
				space.nodes[HostName].ip("link set dev veth0 down")
			},
		},
		{
			Name: "no-route-yet", Summary: "mynamespace has no default route, and the host does not forward yet", netns: "mynamespace",
			Probe: &Probe{Kind: "ping", Target: lanHost}, outcome: unsent("NO_DEFAULT_ROUTE"),
			apply: func(space *node, _ Rule) {
				space.ip("route del default")
				space.nodes[HostName].sysctl("net/ipv4/ip_forward", "0")
			},
		},
		{
			Name: "no-way-back", Summary: "the host has no route to mynamespace, and none at all to anybody", netns: HostName, outcome: unsent("RP_FILTER").at(HostName),
			apply: func(host *node, _ Rule) {
				host.ip("route del default")
				host.ip("route del 172.19.0.0/24 dev veth0")
			},
			Probe: &Probe{Kind: "ping", Target: lanHost},
		},
	}
}
