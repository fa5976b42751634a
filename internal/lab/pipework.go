//go:build linux

package lab

import (
	"net/netip"
	"slices"
)

// pipeworkSource is H1.
var pipeworkSource = netip.MustParseAddr("192.168.103.3")

// pipeworkInside is the network that R1 learns of.
var pipeworkInside = netip.MustParsePrefix("192.168.103.0/24")

// ospfDown is the fault that R2's routing daemon does not run.
const ospfDown = "ospf-down@R2"

func pipeworkOSPF() Scenario {
	const snat = "-A POSTROUTING -o eth0 -j SNAT --to-source 203.0.113.1"
	return Scenario{
		Name:    "pipework-ospf",
		Summary: "containers as routers, on bridges made by hand",
		Picture: `H1        eth1 192.168.103.3
  |
  br3
  |
R2        eth2 192.168.103.2
          eth1 192.168.102.2
  |
  br2
  |
R1        eth2 192.168.102.1
          eth1 192.168.101.2
  |
host      br1 192.168.101.1            br1, br2 and br3 are the host's
          eth0 203.0.113.1             SNAT
  |
internet  dns.google 8.8.8.8, 8.8.4.4
`,
		Command: []string{"ping", "8.8.8.8", "--container", "H1"},
		Try: [][]string{
			{"ping", "192.168.101.1", "--container", "H1"},
			{"ping", "192.168.103.3"},
			{"tcp", "8.8.8.8:80", "--container", "H1"},
			{"topology", "--container", "H1"},
		},
		Source:   "H1",
		Target:   ipv4Target,
		Resolver: ipv4Target,
		Backends: []Backend{IPTablesNFT, IPTablesLegacy},
		hidden:   []string{"internet"},
		Request: []string{
			"H1/eth1 egress", "host/veth1pl1103 ingress", "host/veth2pl1102 egress", "R2/eth2 ingress",
			"R2/eth1 egress", "host/veth1pl1102 ingress", "host/veth2pl1101 egress", "R1/eth2 ingress",
			"R1/eth1 egress", "host/veth1pl1101 ingress", "host/br1 ingress", "host/eth0 egress",
		},
		Reply: []string{
			"host/eth0 ingress", "host/br1 egress", "host/veth1pl1101 egress", "R1/eth1 ingress",
			"R1/eth2 egress", "host/veth2pl1101 ingress", "host/veth1pl1102 egress", "R2/eth1 ingress",
			"R2/eth2 egress", "host/veth2pl1102 ingress", "host/veth1pl1103 egress", "H1/eth1 ingress",
		},
		Faults: slices.Concat(filter{
			source: "H1", iptablesRequests: "FORWARD", iptablesReplies: "FORWARD",
			dropByPolicy: func(host *node, backend Backend) {
				host.iptables(backend, false, "*filter\n-D FORWARD -i br1 -o eth0 -j ACCEPT\n")
			},
		}.faults(), pipeworkHalfBuilt()),
		build: buildPipework,
		translations: func(backend Backend) []Translation {
			all := masqueraded(pipeworkSource, iptablesRule(backend, false, "nat", snat))
			for i := range all {
				all[i].Kind = "snat"
			}
			return all
		},
	}
}

func buildPipework(b *builder) {
	h1, r2, r1 := b.namespace("H1"), b.namespace("R2"), b.namespace("R1")
	host, internet := b.namespace(HostName), b.namespace("internet")
	for _, n := range []*node{host, r1, r2} {
		n.router()
	}
	host.bridgeNF(false)

	for _, bridge := range []struct {
		name  string
		ports []pipeworkPort
	}{
		{"br1", []pipeworkPort{{r1, "eth1", "veth1pl1101", "192.168.101.2/24"}}},
		{"br2", []pipeworkPort{{r1, "eth2", "veth2pl1101", "192.168.102.1/24"}, {r2, "eth1", "veth1pl1102", "192.168.102.2/24"}}},
		{"br3", []pipeworkPort{{r2, "eth2", "veth2pl1102", "192.168.103.2/24"}, {h1, "eth1", "veth1pl1103", pipeworkSource.String() + "/24"}}},
	} {
		host.bridge(bridge.name)
		for _, p := range bridge.ports {
			b.wire(host, p.port, p.machine, p.iface)
			host.port(p.port, bridge.name)
			p.machine.addr(p.iface, p.address)
		}
	}
	host.addr("br1", "192.168.101.1/24")
	h1.route("default", "192.168.103.2", "eth1")
	r1.route("default", "192.168.101.1", "eth1")
	if !b.pipeworkOSPF(r1, r2) {
		r2.route("default", "192.168.102.1", "eth1")
		r1.route(pipeworkInside.String(), "192.168.102.2", "eth2")
	}
	host.route("192.168.102.0/24", "192.168.101.2", "br1")
	host.route("192.168.103.0/24", "192.168.101.2", "br1")

	b.wire(host, "eth0", internet, "eth0")
	host.addr("eth0", lanHost.String()+"/24")
	host.route("default", lanGateway.String(), "eth0")
	internet.addr("eth0", lanGateway.String()+"/24")
	b.google(internet)

	host.iptables(b.network.Options.Backend, false, `
*filter
:FORWARD DROP
-A FORWARD -i br1 -o eth0 -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
*nat
-A POSTROUTING -o eth0 -j SNAT --to-source 203.0.113.1
`)
}

// pipeworkOSPF has R1 and R2 exchange their routes over br2, the backbone area;
// br1 and br3 are areas that are told of and have no other routers. R1 tells of
// the default route.
func (b *builder) pipeworkOSPF(r1, r2 *node) bool {
	switch {
	case !b.network.Options.OSPF:
		return false
	case !b.keepsRoutes():
		b.network.Remarks = append(b.network.Remarks, "the routes of the routers are static, not learned by OSPF, which would put back what this fault takes away")
		return false
	}
	const (
		backbone = " ip ospf area 0\n ip ospf network point-to-point\n ip ospf dead-interval minimal hello-multiplier 4\n ip ospf retransmit-interval 1\n"
		stub     = " ip ospf passive\n ip ospf area "
		process  = " timers throttle spf 0 50 500\n timers throttle lsa all 0\n timers lsa min-arrival 0\n ospf router-id 0.0.0."
	)
	routers := []*ospfRouter{
		{node: r1, learned: pipeworkInside, interfaces: map[string]string{"eth2": backbone, "eth1": stub + "101\n"}, process: process + "1\n default-information originate\n"},
		{node: r2, learned: netip.MustParsePrefix("0.0.0.0/0"), interfaces: map[string]string{"eth1": backbone, "eth2": stub + "103\n"}, process: process + "2\n"},
	}
	if !b.ospf(routers...) {
		return false
	}
	b.network.stopOSPF = func(router string) {
		for _, r := range routers {
			if r.node.name == router {
				r.ospfd.stop()
			}
		}
		for _, r := range routers {
			r.node.wait("wait until "+r.node.name+" has forgotten its routes", func() (bool, error) { return !r.node.hasRoute(r.learned), nil })
		}
	}
	return true
}

// keepsRoutes reports whether no fault takes a route away from a router: zebra
// would put it back.
func (b *builder) keepsRoutes() bool {
	return !slices.ContainsFunc(b.network.Scenario.Broken(b.network.Options.Break), func(f Fault) bool {
		return f.netns != HostName && f.Name != ospfDown
	})
}

// pipeworkPort is an interface that pipework puts into a container: its name
// and address there, and its other end on the host.
type pipeworkPort struct {
	machine              *node
	iface, port, address string
}

// pipeworkHalfBuilt are the states that one may not have come past yet. What R1
// has no route for it sends back to the host, whose rules let nothing in that
// comes from br1 and goes there; without them it goes round. And what a bridge
// gives to the rules for IP is tracked there, untranslated, so that accepting it
// is not enough.
func pipeworkHalfBuilt() []Fault {
	policy := func(backend Backend) Rule { return iptablesRule(backend, false, "filter", ":FORWARD DROP") }
	const noReturn = "route del 192.168.103.0/24"
	return []Fault{
		change("port-listening", HostName, "H1's port of br3 is still listening", unsent("BRIDGE_PORT_BLOCKED"), "link set dev veth1pl1103 type bridge_slave state 1"),
		change("port-learning", HostName, "R1's port of br2 is still learning", refused("BRIDGE_PORT_BLOCKED"), "link set dev veth2pl1101 type bridge_slave state 2"),
		{
			Name: "port-learning-later", Summary: "the same, when R1 and R2 know each other's hardware address", netns: HostName,
			outcome: stopped("BRIDGE_PORT_BLOCKED"),
			apply: func(host *node, _ Rule) {
				r1, r2 := host.nodes["R1"], host.nodes["R2"]
				r2.knows("192.168.102.1", "eth1", r1, "eth2")
				r1.knows("192.168.102.2", "eth2", r2, "eth1")
				host.ip("link set dev veth2pl1101 type bridge_slave state 2")
			},
		},
		change("no-return-route", "R1", "R1 knows the gateway and not H1's network", stopped("NO_ROUTE").onReply().by("eth1"), noReturn),
		{
			Name: "no-return-route-loop@R1", Summary: "the same, and the host's rules let through what R1 sends back", netns: "R1", Probe: patiently(pinging("H1", ipv4Target)),
			outcome: stopped("NO_ROUTE").onReply().by("eth1"),
			apply: func(r1 *node, _ Rule) {
				r1.ip(noReturn)
				host := r1.nodes[HostName]
				host.iptables(host.network.Options.Backend, false, "*filter\n-A FORWARD -i br1 -o br1 -j ACCEPT\n")
			},
		},
		{
			Name: "no-route-inwards@R1", Summary: "the same, and the host pings H1", netns: "R1", Probe: patiently(pinging(HostName, pipeworkSource)), NoFix: true,
			outcome: stopped("NO_ROUTE").by("eth1"),
			apply:   func(r1 *node, _ Rule) { r1.ip(noReturn) },
		},
		change("no-return-route", HostName, "the host has no route to H1's network", Truth{Outcome: "lost", Leg: "reply", Code: "NO_ROUTE"}, noReturn),
		change("no-default-route", "R2", "R2 knows H1's network and not the gateway", refused("NO_ROUTE"), "route del default"),
		{
			Name: ospfDown, Summary: "OSPF does not run in R2: R1 and R2 have learned no routes from one another", netns: "R2", outcome: refused("NO_ROUTE"),
			apply: func(r2 *node, _ Rule) {
				if stop := r2.network.stopOSPF; stop != nil {
					stop("R2")
					return
				}
				r2.ip("route del default")
				r2.nodes["R1"].ip(noReturn)
			},
		},
		{
			Name: "bridge-nf-left-on", Summary: "what the host bridges passes its rules for IP, and their policy drops it", netns: HostName, Probe: pinging("H1", ipv4Target),
			outcome: ended("dropped", "request", "BRIDGE_FILTERED", "forward"), rule: policy,
			apply: func(host *node, _ Rule) { host.bridgeNF(true) },
		},
		{
			Name: "bridge-nf-untranslated", Summary: "the same, and a rule accepts it there: conntrack has the flow from the bridge, and SNAT passes it by", netns: HostName, elsewhere: true,
			outcome: Truth{Outcome: "lost", Leg: "request", Code: "NAT_MISSING"},
			apply: func(host *node, _ Rule) {
				host.bridgeNF(true)
				host.iptables(host.network.Options.Backend, false, "*filter\n:FORWARD ACCEPT\n")
			},
		},
	}
}
