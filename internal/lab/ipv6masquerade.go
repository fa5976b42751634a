//go:build linux

package lab

import (
	"net/netip"
	"slices"
)

// The addresses of the network "ipv6-masquerade" that its truth speaks of.
var (
	masqueradeContainer = netip.MustParseAddr("fd5a:ceb9:ed8d:1::2")
	masqueradeHost      = netip.MustParseAddr("fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5")
	// masqueradePublic is masqueradeHost behind the gateway. RFC 6296 keeps the
	// checksum: what the prefix adds is taken from the next 16 bits, ed57.
	masqueradePublic = netip.MustParseAddr("2001:db8:ff66:0:77e5:61d8:20eb:aba5")
	masqueradeTarget = netip.MustParseAddr("2001:4860:4860::8888")
)

func ipv6Masquerade() Scenario {
	return Scenario{
		Name:    "ipv6-masquerade",
		Summary: "ping6 from a container through masquerade and NPTv6",
		Picture: `cnt01     eth0 fd5a:ceb9:ed8d:1::2
  |
host      veth671b926 > br_ipv6_nw fd5a:ceb9:ed8d:1::1
          ens192 fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5   firewalld, masquerade
  |
router    eth0 ... eth1
  |
gateway   zTrust fd5a:ceb9:ed8d:fefc::1
          zUntrust 2001:db8:ff66:ffff::2                   NPTv6
  |
internet  dns.google 2001:4860:4860::8888, ::8844
`,
		Command: []string{"ping6", "dns.google", "--container", "cnt01"},
		Try: [][]string{
			{"ping6", "fd5a:ceb9:ed8d:1::2"},
			{"ping6", "fd5a:ceb9:ed8d:1::1", "--container", "cnt01"},
			{"ping", "dns.google", "-4", "--container", "cnt01"},
			{"tcp", "dns.google:53", "--container", "cnt01"},
			{"conntrack", "--nat"},
			{"topology", "--container", "cnt01"},
		},
		Source:   "cnt01",
		Target:   masqueradeTarget,
		Resolver: netip.MustParseAddr("2001:4860:4860::8844"),
		Backends: []Backend{NFT, IPTablesNFT, IPTablesLegacy},
		Opaque:   true,
		Engine:   true,
		hidden:   []string{"internet"},
		prefixTranslated: []prefixTranslation{{
			inside: netip.MustParsePrefix("fd5a:ceb9:ed8d:fe0a::/64"), outside: netip.MustParsePrefix("2001:db8:ff66::/64"),
			address: masqueradeHost,
		}},
		opaque: []string{"router", "gateway"},
		Request: []string{
			"cnt01/eth0 egress", "host/veth671b926 ingress", "host/br_ipv6_nw ingress", "host/ens192 egress",
			"router/eth0 ingress", "router/eth1 egress", "gateway/zTrust ingress", "gateway/zUntrust egress",
		},
		Reply: []string{
			"gateway/zUntrust ingress", "gateway/zTrust egress", "router/eth1 ingress", "router/eth0 egress",
			"host/ens192 ingress", "host/br_ipv6_nw egress", "host/veth671b926 egress", "cnt01/eth0 ingress",
		},
		Faults:       masqueradeFaults(),
		build:        buildMasquerade,
		translations: masqueradeTranslations,
	}
}

func buildMasquerade(b *builder) {
	options := b.network.Options
	if !options.Engine {
		b.namespace("cnt01")
	}
	host := b.namespace(HostName)
	router, gateway := b.namespace("router"), b.namespace("gateway")
	internet := b.namespace("internet")
	for _, node := range []*node{host, router, gateway, internet} {
		node.router()
	}
	host.bridgeNF(!options.NoBridgeNF)

	if !options.Engine {
		masqueradeBridge(host, b.nodes["cnt01"])
	}

	b.wire(host, "ens192", router, "eth0")
	host.addr("ens192", masqueradeHost.String()+"/64", "10.254.10.252/24")
	router.addr("eth0", "fd5a:ceb9:ed8d:fe0a::1/64", "10.254.10.1/24")
	host.route("default", router.linkLocal("eth0"), "ens192")
	host.route("default", "10.254.10.1", "ens192")

	b.wire(router, "eth1", gateway, "zTrust")
	router.addr("eth1", "fd5a:ceb9:ed8d:fefc::2/64", "10.254.11.2/24")
	gateway.addr("zTrust", "fd5a:ceb9:ed8d:fefc::1/64", "10.254.11.1/24")
	router.route("default", "fd5a:ceb9:ed8d:fefc::1", "eth1")
	router.route("default", "10.254.11.1", "eth1")
	gateway.route("fd5a:ceb9:ed8d:fe0a::/64", "fd5a:ceb9:ed8d:fefc::2", "zTrust")
	gateway.route("10.254.10.0/24", "10.254.11.2", "zTrust")

	b.wire(gateway, "zUntrust", internet, "eth0")
	gateway.addr("zUntrust", "2001:db8:ff66:ffff::2/64", "203.0.113.2/24")
	internet.addr("eth0", "2001:db8:ff66:ffff::1/64", "203.0.113.1/24")
	gateway.route("default", "2001:db8:ff66:ffff::1", "zUntrust")
	gateway.route("default", "203.0.113.1", "zUntrust")
	internet.route("2001:db8:ff66::/48", "2001:db8:ff66:ffff::2", "eth0")
	b.google(internet)

	if !options.Engine {
		masqueradeFirewalld(host)
	}
	masqueradeGateway(gateway, beside(options.Backend))
}

// masqueradeBridge is what Docker makes of the container's network.
func masqueradeBridge(host, container *node) {
	host.wire(host, "veth671b926", container, "eth0")
	host.bridge("br_ipv6_nw")
	host.port("veth671b926", "br_ipv6_nw")
	host.addr("br_ipv6_nw", "fd5a:ceb9:ed8d:1::1/64", "172.26.0.1/16", "fe80::1/64")
	container.addr("eth0", "fd5a:ceb9:ed8d:1::2/64", "172.26.0.2/16")
	container.route("default", "fd5a:ceb9:ed8d:1::1", "eth0")
	container.route("default", "172.26.0.1", "eth0")
}

// masqueradeFirewalld are the rules of firewalld on the host, where the bridge is
// in the zone docker, which accepts, and ens192 in the zone public, which
// masquerades.
func masqueradeFirewalld(host *node) {
	backend := host.network.Options.Backend
	if backend == NFT {
		host.nft(masqueradeNFT)
		return
	}
	host.iptables(backend, true, masqueradeFilter+masqueradeNAT)
	host.iptables(backend, false, masqueradeNAT)
}

// masqueradeGateway is NPTv6, and masquerade for IPv4.
func masqueradeGateway(gateway *node, backend Backend) {
	gateway.iptables(backend, true, masqueradeNPT)
	gateway.iptables(backend, false, `
*nat
-A POSTROUTING -o zUntrust -j MASQUERADE
`)
}

const masqueradeNFT = `
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		jump filter_FORWARD_IN_ZONES
		ct state invalid drop
		jump filter_FORWARD_LAST
	}
	chain filter_FORWARD_IN_ZONES {
		iifname "br_ipv6_nw" goto filter_FWDI_docker
	}
	chain filter_FORWARD_LAST {
		reject with icmpx admin-prohibited
	}
	chain filter_FWDI_docker {
		jump filter_FWDI_docker_deny
		jump filter_FWDI_docker_allow
	}
	chain filter_FWDI_docker_deny {
	}
	chain filter_FWDI_docker_allow {
		accept
	}
}
table ip6 firewalld {
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10; policy accept;
		jump nat_POSTROUTING_ZONES
	}
	chain nat_POSTROUTING_ZONES {
		oifname "ens192" goto nat_POST_public
		goto nat_POST_public
	}
	chain nat_POST_public {
		jump nat_POST_public_deny
		jump nat_POST_public_allow
	}
	chain nat_POST_public_deny {
	}
	chain nat_POST_public_allow {
		oifname != "lo" masquerade
	}
}
table ip firewalld {
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10; policy accept;
		jump nat_POSTROUTING_ZONES
	}
	chain nat_POSTROUTING_ZONES {
		oifname "ens192" goto nat_POST_public
		goto nat_POST_public
	}
	chain nat_POST_public {
		jump nat_POST_public_deny
		jump nat_POST_public_allow
	}
	chain nat_POST_public_deny {
	}
	chain nat_POST_public_allow {
		oifname != "lo" masquerade
	}
}
`

const masqueradeFilter = `
*filter
:FORWARD_IN_ZONES -
:FORWARD_LAST -
:FWDI_docker -
:FWDI_docker_deny -
:FWDI_docker_allow -
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i lo -j ACCEPT
-A FORWARD -j FORWARD_IN_ZONES
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -j FORWARD_LAST
-A FORWARD_IN_ZONES -i br_ipv6_nw -g FWDI_docker
-A FORWARD_LAST -j REJECT --reject-with icmp6-adm-prohibited
-A FWDI_docker -j FWDI_docker_deny
-A FWDI_docker -j FWDI_docker_allow
-A FWDI_docker_allow -j ACCEPT
`

const masqueradeNAT = `
*nat
:POSTROUTING_ZONES -
:POST_public -
:POST_public_deny -
:POST_public_allow -
-A POSTROUTING -j POSTROUTING_ZONES
-A POSTROUTING_ZONES -o ens192 -g POST_public
-A POSTROUTING_ZONES -g POST_public
-A POST_public -j POST_public_deny
-A POST_public -j POST_public_allow
-A POST_public_allow ! -o lo -j MASQUERADE
`

// Conntrack on the gateway sees one side only of these translations: answers
// are INVALID to it, and so is the third packet of TCP's handshake. None may be
// dropped for that.
const (
	masqueradeSNPT = "-A POSTROUTING -s fd5a:ceb9:ed8d:fe0a::/64 -o zUntrust -j SNPT --src-pfx fd5a:ceb9:ed8d:fe0a::/64 --dst-pfx 2001:db8:ff66::/64"
	masqueradeDNPT = "-A PREROUTING -d 2001:db8:ff66::/64 -i zUntrust -j DNPT --src-pfx 2001:db8:ff66::/64 --dst-pfx fd5a:ceb9:ed8d:fe0a::/64"
	masqueradeNPT  = `
*filter
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i zTrust -o zUntrust -j ACCEPT
-A FORWARD -d fd5a:ceb9:ed8d::/48 -i zUntrust -o zTrust -j ACCEPT
-A FORWARD -j REJECT --reject-with icmp6-adm-prohibited
*mangle
` + masqueradeDNPT + `
-A PREROUTING -d 2001:db8:ff66:fefc::/64 -i zUntrust -j DNPT --src-pfx 2001:db8:ff66:fefc::/64 --dst-pfx fd5a:ceb9:ed8d:fefc::/64
` + masqueradeSNPT + `
-A POSTROUTING -s fd5a:ceb9:ed8d:fefc::/64 -o zUntrust -j SNPT --src-pfx fd5a:ceb9:ed8d:fefc::/64 --dst-pfx 2001:db8:ff66:fefc::/64
`
)

func masqueradeTranslations(backend Backend) []Translation {
	masquerade := Rule{Backend: NFT, Family: "ip6", Table: "firewalld", Chain: "nat_POST_public_allow", Text: `oifname != "lo" masquerade`}
	if backend != NFT {
		masquerade = iptablesRule(backend, true, "nat", "-A POST_public_allow ! -o lo -j MASQUERADE")
	}
	return []Translation{
		{
			Kind: "masquerade", NetNS: HostName, Hook: "postrouting", Leg: "request", Field: "source",
			From: masqueradeContainer, To: masqueradeHost, Rule: masquerade,
		}, {
			Kind: "nptv6", NetNS: "gateway", Hook: "postrouting", Leg: "request", Field: "source",
			From: masqueradeHost, To: masqueradePublic, Rule: iptablesRule(beside(backend), true, "mangle", masqueradeSNPT),
		}, {
			Kind: "nptv6", NetNS: "gateway", Hook: "prerouting", Leg: "reply", Field: "destination",
			From: masqueradePublic, To: masqueradeHost, Rule: iptablesRule(beside(backend), true, "mangle", masqueradeDNPT),
		}, {
			Kind: "masquerade", NetNS: HostName, Hook: "prerouting", Leg: "reply", Field: "destination",
			From: masqueradeHost, To: masqueradeContainer,
		},
	}
}

func masqueradeFaults() []Fault {
	host := filter{
		ipv6: true, source: "cnt01",
		table: "firewalld", base: "filter_FORWARD", requests: "filter_FWDI_docker_deny", replies: "filter_FORWARD",
		iptablesRequests: "FWDI_docker_deny", iptablesReplies: "FORWARD",
		dropByPolicy: func(host *node, backend Backend) {
			if backend == NFT {
				host.nft(`
add chain inet firewalld filter_FORWARD { policy drop; }
flush chain inet firewalld filter_FORWARD_LAST
flush chain inet firewalld filter_FWDI_docker_allow
add rule inet firewalld filter_FWDI_docker_allow udp dport 53 accept
`)
				return
			}
			host.iptables(backend, true, `
*filter
:FORWARD DROP
-F FORWARD_LAST
-F FWDI_docker_allow
-A FWDI_docker_allow -p udp -m udp --dport 53 -j ACCEPT
`)
		},
	}
	return append(slices.Concat(host.faults(), masqueradeNATFaults(), masqueradeFilter6().faults(), masqueradeConntrack(), masqueradeLinks(), reversePath("router", masqueradeHost), masqueradeHooks(), masqueradeMTU()),
		dropAt(ForwardDrop, "gateway", "request", "forward", "no pings to the internet", true),
		dropAt(ReplyDrop, "gateway", "reply", "forward", "no echo replies from the internet", true),
		dropAt("output-drop", "cnt01", "request", "output", "this container may not ping", true),
		dropAt("input-drop", "cnt01", "reply", "input", "no echo replies for this container", true),
	)
}
