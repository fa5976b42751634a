//go:build linux

package lab

import (
	"net/netip"
	"slices"
)

// The network that the hosts of the IPv4 scenarios are in, and what is beyond.
var (
	lanHost     = netip.MustParseAddr("203.0.113.1")
	lanClient   = netip.MustParseAddr("203.0.113.100")
	lanGateway  = netip.MustParseAddr("203.0.113.254")
	ipv4Target  = netip.MustParseAddr("8.8.8.8")
	dockerCnt01 = netip.MustParseAddr("172.17.0.2")
)

func dockerBridge() Scenario {
	return Scenario{
		Name:    "docker-bridge",
		Summary: "two bridges of Docker's, with Docker's rules and without Docker",
		Picture: `cnt01  172.17.0.2:80    cnt02  172.17.0.3    cnt03  172.18.0.2
  |                       |                    |
  +----- docker0 ---------+                br-5f1c3a9d2b7e 172.18.0.1
         172.17.0.1                            |
  host --+-------------------------------------+
         eth0 203.0.113.1                      cnt01:80 is published as 8080
  |
  +-- client 203.0.113.100
  |
internet 203.0.113.254                         dns.google 8.8.8.8, 8.8.4.4
`,
		Command: []string{"ping", "8.8.8.8", "--container", "cnt01"},
		Try: [][]string{
			{"ping", "172.18.0.2", "--container", "cnt01"},
			{"ping", "172.17.0.3", "--container", "cnt01"},
			{"tcp", "203.0.113.1:8080", "--container", "client"},
			{"tcp", "203.0.113.1:8080"},
			{"tcp", "203.0.113.1:8080", "--container", "cnt01"},
			{"tcp", "203.0.113.1:80", "--container", "client"},
			{"tcp", "172.17.0.2:80"},
			{"tcp", "8.8.8.8:80", "--container", "cnt03"},
			{"dns", "dns.google", "--container", "cnt03"},
		},
		Source:   "cnt01",
		Target:   ipv4Target,
		Resolver: ipv4Target,
		Backends: []Backend{IPTablesNFT, IPTablesLegacy},
		Engine:   true,
		hidden:   []string{"internet"},
		Request: []string{
			"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress", "host/eth0 egress",
		},
		Reply: []string{
			"host/eth0 ingress", "host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress",
		},
		Faults: slices.Concat(filter{
			source: "cnt01", iptablesRequests: "DOCKER-USER", iptablesReplies: "DOCKER-USER",
			dropByPolicy: func(host *node, backend Backend) {
				host.iptables(backend, false, "*filter\n-D FORWARD -i docker0 ! -o docker0 -j ACCEPT\n")
			},
		}.faults(), dockerNAT(), dockerFilter(), dockerConntrack(), dockerLinks(), reversePath("internet", lanHost), dockerHooks(), dockerMTU()),
		build: buildDockerBridge,
		translations: func(backend Backend) []Translation {
			return masqueraded(dockerCnt01, iptablesRule(backend, false, "nat", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"))
		},
	}
}

// masqueraded is what masquerading a flow from the source on the host does.
func masqueraded(source netip.Addr, rule Rule) []Translation {
	return masqueradedAs(lanHost, source, rule)
}

func masqueradedAs(host, source netip.Addr, rule Rule) []Translation {
	return []Translation{
		{Kind: "masquerade", NetNS: HostName, Hook: "postrouting", Leg: "request", Field: "source", From: source, To: host, Rule: rule},
		{Kind: "masquerade", NetNS: HostName, Hook: "prerouting", Leg: "reply", Field: "destination", From: host, To: source},
	}
}

func buildDockerBridge(b *builder) {
	options := b.network.Options
	if !options.Engine {
		for _, container := range []string{"cnt01", "cnt02", "cnt03"} {
			b.namespace(container)
		}
	}
	host, client, internet := b.namespace(HostName), b.namespace("client"), b.namespace("internet")
	host.router()
	host.bridgeNF(!options.NoBridgeNF)
	if !options.Engine {
		dockerContainers(host)
	}

	b.lan(internet, host, client)

	if !options.Engine {
		b.nodes["cnt01"].listenTCP(netip.IPv4Unspecified(), 80, serveHTTP)
		host.dockerProxy(8080, netip.AddrPortFrom(dockerCnt01, 80))
		host.iptables(options.Backend, false, dockerRules)
		host.embeddedDNS(b.nodes["cnt03"], ipv4Target)
	}
}

// lan connects the host and a client of its LAN to the internet, in whose namespace
// the switch between them is.
func (b *builder) lan(internet, host, client *node) {
	internet.bridge("lan")
	internet.bridgeNF(false)
	for _, machine := range []struct {
		node    *node
		port    string
		address netip.Addr
	}{{host, "port1", lanHost}, {client, "port2", lanClient}} {
		b.wire(internet, machine.port, machine.node, "eth0")
		internet.port(machine.port, "lan")
		machine.node.addr("eth0", machine.address.String()+"/24")
		machine.node.route("default", lanGateway.String(), "eth0")
	}
	internet.addr("lan", lanGateway.String()+"/24")
	b.google(internet)
}

// dockerContainers connects the containers to bridges, as Docker does.
func dockerContainers(host *node) {
	for _, bridge := range []struct {
		name, address     string
		ports, containers []string
	}{
		{"docker0", "172.17.0.1", []string{"veth8c1f3e2", "vethd04b7a9"}, []string{"cnt01", "cnt02"}},
		{"br-5f1c3a9d2b7e", "172.18.0.1", []string{"veth51e6f0c"}, []string{"cnt03"}},
	} {
		host.bridge(bridge.name)
		host.addr(bridge.name, bridge.address+"/16")
		address := netip.MustParseAddr(bridge.address)
		for i, name := range bridge.containers {
			container := host.nodes[name]
			host.wire(host, bridge.ports[i], container, "eth0")
			host.port(bridge.ports[i], bridge.name)
			address = address.Next()
			container.addr("eth0", address.String()+"/16")
			container.route("default", bridge.address, "eth0")
		}
	}
}

// dockerRules are those that Docker 20.10 to 27 writes, as iptables-save prints
// them, with the userland proxy on.
const dockerRules = `
*filter
:FORWARD DROP
:DOCKER -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-ISOLATION-STAGE-2 -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-5f1c3a9d2b7e -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-5f1c3a9d2b7e -j DOCKER
-A FORWARD -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j ACCEPT
-A FORWARD -i br-5f1c3a9d2b7e -o br-5f1c3a9d2b7e -j ACCEPT
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
*nat
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.18.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i br-5f1c3a9d2b7e -j RETURN
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
`

// docker28Rules put those that Docker 28 and later write, in the table filter, in
// place of dockerRules; docker0 has enable_icc=false.
const docker28Rules = `
*filter
-F FORWARD
-F DOCKER
-F DOCKER-ISOLATION-STAGE-1
-F DOCKER-ISOLATION-STAGE-2
-X DOCKER-ISOLATION-STAGE-1
-X DOCKER-ISOLATION-STAGE-2
:DOCKER-BRIDGE -
:DOCKER-CT -
:DOCKER-FORWARD -
:DOCKER-INTERNAL -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER ! -i br-5f1c3a9d2b7e -o br-5f1c3a9d2b7e -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-BRIDGE -o br-5f1c3a9d2b7e -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-CT -o br-5f1c3a9d2b7e -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -o docker0 -j DROP
-A DOCKER-FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-FORWARD -i br-5f1c3a9d2b7e -j ACCEPT
`
