//go:build linux

package lab

import (
	"net/netip"
	"slices"
	"strings"
)

var (
	vpnHost     = netip.MustParseAddr("192.168.0.23")
	vpnGateway  = netip.MustParseAddr("192.168.0.1")
	vpnServer   = netip.MustParseAddr("198.51.100.7")
	vpnIntranet = netip.MustParseAddr("172.20.0.5")
	// vpnTwin is a machine behind the VPN with an address of docker0's network.
	vpnTwin = netip.MustParseAddr("172.17.5.5")
	// vpnCaller is a machine of the internet that can be looked into.
	vpnCaller = netip.MustParseAddr("203.0.113.100")
	// vpnProxy and vpnRepository are in the internet, for a real yum.
	vpnProxy      = netip.MustParseAddr("192.0.2.80")
	vpnRepository = netip.MustParseAddr("192.0.2.81")
)

func vpnOverlap() Scenario {
	return Scenario{
		Name:    "vpn-overlap",
		Summary: "Docker's network within the addresses that a VPN takes for itself",
		Picture: `cnt01  172.17.0.2:80
  |
docker0 172.17.0.1/16
host     tun0 10.8.0.2                 172.16.0.0/12 is routed into the VPN
         eth0 192.168.0.23             cnt01:80 is published as 8080
  |
internet 192.168.0.1                   dns.google 8.8.8.8, 8.8.4.4
  |                  |
client               vpn 198.51.100.7  tun0 10.8.0.1, intranet 172.20.0.5
203.0.113.100
`,
		Command: []string{"ping", "8.8.8.8", "--container", "cnt01"},
		Try: [][]string{
			{"ping", "172.20.0.5", "--container", "cnt01"},
			{"tcp", "8.8.8.8:80", "--container", "cnt01"},
			{"tcp", "192.168.0.23:8080", "--container", "client"},
			{"ping", "172.20.0.5"},
		},
		Source:   "cnt01",
		Target:   ipv4Target,
		Resolver: netip.MustParseAddr("8.8.4.4"),
		Backends: []Backend{IPTablesNFT, IPTablesLegacy},
		Engine:   true,
		hidden:   []string{"internet", "vpn", "intranet"},
		Request:  []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress", "host/eth0 egress"},
		Reply:    []string{"host/eth0 ingress", "host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"},
		Faults: slices.Concat(filter{
			source: "cnt01", iptablesRequests: "FORWARD", iptablesReplies: "FORWARD",
			dropByPolicy: func(host *node, backend Backend) {
				host.iptables(backend, false, "*filter\n:FORWARD DROP\n-D FORWARD -i docker0 ! -o docker0 -j ACCEPT\n")
			},
		}.faults(), vpnFaults(), vpnMTU()),
		build: buildVPNOverlap,
		translations: func(backend Backend) []Translation {
			return masqueradedAs(vpnHost, dockerCnt01, iptablesRule(backend, false, "nat", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"))
		},
	}
}

func buildVPNOverlap(b *builder) {
	engine := b.network.Options.Engine
	if !engine {
		b.namespace("cnt01")
	}
	host, client := b.namespace(HostName), b.namespace("client")
	internet, vpn := b.namespace("internet"), b.namespace("vpn")
	host.router()
	internet.router()
	for _, n := range []*node{host, internet} {
		n.bridgeNF(false)
	}
	if !engine {
		vpnContainer(host, b.nodes["cnt01"])
	}

	for _, machine := range []struct {
		node             *node
		port             string
		address, gateway netip.Addr
	}{
		{host, "port1", vpnHost, vpnGateway},
		{client, "port2", vpnCaller, netip.MustParseAddr("203.0.113.254")},
		{vpn, "port3", vpnServer, netip.MustParseAddr("198.51.100.1")},
	} {
		b.wire(internet, machine.port, machine.node, "eth0")
		internet.addr(machine.port, machine.gateway.String()+"/24")
		machine.node.addr("eth0", machine.address.String()+"/24")
		machine.node.route("default", machine.gateway.String(), "eth0")
	}
	b.google(internet)
	if engine {
		vpnForEngine(internet, vpn)
		return
	}

	b.tunnel(tunnelEnd{host, "tun0", vpnHost}, tunnelEnd{vpn, "tun0", vpnServer})
	host.addr("tun0", "10.8.0.2/24")
	vpn.addr("tun0", "10.8.0.1/24")
	vpn.addr("lo", vpnIntranet.String()+"/32", vpnTwin.String()+"/32")
	host.route("172.16.0.0/12", "10.8.0.1", "tun0")

	vpn.listenTCP(vpnIntranet, discardPort, discard)
	host.iptables(b.network.Options.Backend, false, vpnRules)
}

// vpnContainer connects the container to docker0, as Docker does.
func vpnContainer(host, cnt01 *node) {
	host.bridge("docker0")
	host.addr("docker0", "172.17.0.1/16")
	host.wire(host, "veth8c1f3e2", cnt01, "eth0")
	host.port("veth8c1f3e2", "docker0")
	cnt01.addr("eth0", dockerCnt01.String()+"/16")
	cnt01.route("default", "172.17.0.1", "eth0")
	cnt01.listenTCP(netip.IPv4Unspecified(), 80, serveHTTP)
}

// vpnForEngine prepares what a real VPN and a real proxy are started in: the
// server of the VPN is a router of its own, with the intranet and a name server
// behind it.
func vpnForEngine(internet, vpn *node) {
	internet.addr("lo", vpnProxy.String()+"/32", vpnRepository.String()+"/32")
	intranet := vpn.namespace("intranet")
	vpn.router()
	vpn.wire(vpn, "eth1", intranet, "eth0")
	vpn.addr("eth1", "172.20.0.1/24")
	intranet.addr("eth0", vpnIntranet.String()+"/24")
	intranet.route("default", "172.20.0.1", "eth0")
	vpn.listenUDP(netip.IPv4Unspecified(), 53, vpn.network.serveDatagrams)
}

// vpnRules are those that Docker writes for one published port, without
// docker-proxy; the policy of FORWARD is as somebody has it whose host forwarded
// before Docker came.
const vpnRules = `
*filter
:DOCKER -
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
*nat
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
`

// overlaps are the ways in which the VPN takes docker0's addresses: the name,
// in words, and the commands.
var overlaps = []struct {
	name, summary string
	commands      []string
}{
	{"bridge-route-gone", "the VPN client has removed docker0's own route", []string{"route del 172.17.0.0/16 dev docker0"}},
	{"same-prefix", "the VPN has a route for docker0's network, with a better metric", []string{
		"route del 172.17.0.0/16 dev docker0", "route add 172.17.0.0/16 dev docker0 src 172.17.0.1 metric 425",
		"route add 172.17.0.0/16 via 10.8.0.1 dev tun0 metric 50",
	}},
	{"two-halves", "the VPN has a route for each half of docker0's network", []string{
		"route add 172.17.0.0/17 via 10.8.0.1 dev tun0", "route add 172.17.128.0/17 via 10.8.0.1 dev tun0",
	}},
	{"policy-rule", "the VPN has a policy rule that asks a table of its own first", []string{
		"route add 172.16.0.0/12 via 10.8.0.1 dev tun0 table 100", "rule add to 172.16.0.0/12 lookup 100 priority 100",
	}},
}

// vpnFaults are the ways in which the VPN gets in the way. What the overlap does
// depends on docker0's rp_filter: with 1 the request dies there, otherwise the
// answer goes into the tunnel.
func vpnFaults() []Fault {
	takenAnswer := Truth{Outcome: "lost", Leg: "reply", Code: "SUBNET_OVERLAP"}
	var all []Fault
	for _, o := range overlaps {
		all = append(all,
			change(o.name, HostName, o.summary, takenAnswer, o.commands...),
			Fault{
				Name: o.name + "-strict", Summary: o.summary + "; docker0's rp_filter is 1", netns: HostName, outcome: stopped("SUBNET_OVERLAP"),
				apply: func(host *node, _ Rule) {
					host.nodes["cnt01"].knows("172.17.0.1", "eth0", host, "docker0")
					host.sysctl("net/ipv4/conf/docker0/rp_filter", "1")
					host.ipAll(o.commands)
				},
			})
	}
	taken := Truth{Outcome: "lost", Leg: "request", Code: "VPN_TAKES_TRAFFIC"}
	return append(all,
		Fault{
			Name: "gateway-unknown", Summary: "the VPN client has removed docker0's own route; docker0's rp_filter is 1, and the container has yet to find its gateway",
			netns: HostName, outcome: unsent("SUBNET_OVERLAP"),
			apply: func(host *node, _ Rule) {
				host.sysctl("net/ipv4/conf/docker0/rp_filter", "1")
				host.ipAll(overlaps[0].commands)
			},
		},
		Fault{
			Name: "forward-policy-taken", Summary: "the VPN client has removed docker0's own route, and Docker's policy drops what is forwarded into the VPN",
			netns: HostName, outcome: Truth{Outcome: "dropped", Leg: "reply", Code: "SUBNET_OVERLAP"},
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*filter\n:FORWARD DROP\n")
				host.ipAll(overlaps[0].commands)
			},
		},
		Fault{
			Name: "twin", Summary: "the container asks for a machine behind the VPN that has an address of docker0's network",
			netns: "cnt01", Probe: &Probe{Kind: "ping", Target: vpnTwin}, outcome: unsent("NEIGHBOUR_UNREACHABLE"), NoFix: true,
			apply: func(*node, Rule) {},
		},
		Fault{
			Name: "twin-of-host", Summary: "the host asks for a machine behind the VPN that has an address of docker0's network",
			netns: HostName, Probe: &Probe{Kind: "ping", Source: HostName, Target: vpnTwin}, outcome: unsent("NEIGHBOUR_UNREACHABLE"), NoFix: true,
			apply: func(*node, Rule) {},
		},
		change("redirect-gateway", HostName, "the VPN takes all traffic with two routes, and does not pass it on", taken, redirectGateway...),
		change("containers-taken", HostName, "a policy rule leads all traffic of containers into the VPN, which does not pass it on", taken,
			"route add default via 10.8.0.1 dev tun0 table 100", "rule add from 172.17.0.0/16 lookup 100 priority 100"),
		change("target-taken", HostName, "the VPN has a route for the target, and does not pass it on", taken,
			"route add 8.8.8.0/24 via 10.8.0.1 dev tun0"),
		Fault{
			Name: "dns-taken", Summary: "the VPN has a route for the DNS server, and does not pass it on", netns: HostName,
			Probe: &Probe{Kind: "dns", Said: "no answer within 5s"}, outcome: Truth{Outcome: "lost", Leg: "request", Code: "DNS_FAILED"},
			apply: func(host *node, _ Rule) { host.ip("route add 8.8.4.4 via 10.8.0.1 dev tun0") },
		},
		Fault{
			Name: "published-taken", Summary: "the VPN takes the container's answers to those who come from the internet", netns: HostName,
			Probe: connecting("client", vpnHost, 8080), outcome: Truth{Outcome: "lost", Leg: "reply", Code: "VPN_TAKES_TRAFFIC"},
			apply: func(host *node, _ Rule) { host.ipAll(redirectGateway) },
		},
		Fault{
			Name: "published-taken-strict", Summary: "the VPN would take the container's answers to those who come from the internet, and eth0's rp_filter is 1", netns: HostName,
			Probe: connecting("client", vpnHost, 8080), outcome: stopped("VPN_TAKES_TRAFFIC"),
			apply: func(host *node, _ Rule) {
				host.ipAll(redirectGateway)
				host.sysctl("net/ipv4/conf/eth0/rp_filter", "1")
			},
		})
}

// redirectGateway takes all traffic into the VPN but that to its server, as
// OpenVPN's option of that name does.
var redirectGateway = []string{
	"route add 198.51.100.7 via 192.168.0.1 dev eth0", "route add 0.0.0.0/1 via 10.8.0.1 dev tun0", "route add 128.0.0.0/1 via 10.8.0.1 dev tun0",
}

func (n *node) ipAll(commands []string) {
	for _, command := range commands {
		n.ip(command)
	}
}

// knows makes a namespace know the hardware address behind an address, as after
// earlier traffic.
func (n *node) knows(address, name string, other *node, otherName string) {
	n.do("tell "+n.name+" about "+address, func() error {
		link, err := other.link(otherName)
		if err != nil {
			return err
		}
		n.ip(strings.Join([]string{"neigh replace", address, "lladdr", link.Attrs().HardwareAddr.String(), "dev", name, "nud stale"}, " "))
		return n.err
	})
}
