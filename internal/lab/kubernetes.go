//go:build linux

package lab

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The addresses of kubernetes: of pods, and of services.
var (
	kubePod     = netip.MustParseAddr("10.244.1.4")
	kubeWeb1    = netip.MustParseAddr("10.244.1.2")
	kubeWeb2    = netip.MustParseAddr("10.244.1.3")
	kubeWeb     = netip.MustParseAddr("10.96.0.10")
	kubeEmpty   = netip.MustParseAddr("10.96.0.20")
	kubeAPI     = netip.MustParseAddr("10.96.0.30")
	kubeSelf    = netip.MustParseAddr("10.96.0.40")
	kubeGone    = netip.MustParseAddr("10.96.0.50")
	kubeNobody  = netip.MustParseAddr("10.244.1.9")
	kubeForward = `-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD`
)

func kubernetes() Scenario {
	const masquerade = `-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE`
	return Scenario{
		Name:    "kubernetes",
		Summary: "a node of Kubernetes with pods and services, by kube-proxy's rules and without Kubernetes",
		Picture: `web-1  10.244.1.2:8080   web-2  10.244.1.3:8080   shell  10.244.1.4
  |                        |                        |
  +---------- cni0 --------+------------------------+
              10.244.1.1
  |
host          eth0 203.0.113.1      default/web    10.96.0.10:80, node port 30080
  |                                 default/empty  10.96.0.20:80, no endpoints
  +-- client 203.0.113.100          default/self   10.96.0.40:80, web-1 alone
  |
internet 203.0.113.254              dns.google 8.8.8.8, 8.8.4.4
`,
		Command: []string{"ping", "8.8.8.8", "--container", "shell"},
		Try: [][]string{
			{"tcp", "10.96.0.10:80", "--container", "shell"},
			{"tcp", "203.0.113.1:30080", "--container", "client"},
			{"tcp", "10.96.0.40:80", "--container", "web-1"},
			{"tcp", "10.96.0.20:80", "--container", "shell"},
			{"tcp", "10.96.0.10:80"},
		},
		Source:   "shell",
		Target:   ipv4Target,
		Resolver: ipv4Target,
		Backends: []Backend{IPTablesNFT, IPTablesLegacy},
		hidden:   []string{"internet"},
		Request: []string{
			"shell/eth0 egress", "host/veth4c1d7e30 ingress", "host/cni0 ingress", "host/eth0 egress",
		},
		Reply: []string{
			"host/eth0 ingress", "host/cni0 egress", "host/veth4c1d7e30 egress", "shell/eth0 ingress",
		},
		Faults: slices.Concat(filter{
			source: "shell", iptablesRequests: "FORWARD", iptablesReplies: "FORWARD",
			dropByPolicy: func(host *node, backend Backend) {
				host.iptables(backend, false, "*filter\n"+strings.Replace(kubeForward, "-A", "-D", 1)+"\n")
			},
		}.faults(), kubernetesFaults(masquerade)),
		build: buildKubernetes,
		translations: func(backend Backend) []Translation {
			return masqueraded(kubePod, iptablesRule(backend, false, "nat", masquerade))
		},
	}
}

func buildKubernetes(b *builder) {
	web1, web2, shell := b.namespace("web-1"), b.namespace("web-2"), b.namespace("shell")
	host, client, internet := b.namespace(HostName), b.namespace("client"), b.namespace("internet")
	host.router()
	host.bridgeNF(!b.network.Options.NoBridgeNF)

	host.bridge("cni0")
	host.addr("cni0", "10.244.1.1/24")
	for _, pod := range []struct {
		node    *node
		port    string
		address netip.Addr
	}{{web1, "veth1a9e5b02", kubeWeb1}, {web2, "veth2b8f6c13", kubeWeb2}, {shell, "veth4c1d7e30", kubePod}} {
		b.wire(host, pod.port, pod.node, "eth0")
		host.port(pod.port, "cni0")
		host.hairpin(pod.port) // as the plugin of flannel does
		pod.node.addr("eth0", pod.address.String()+"/24")
		pod.node.route("default", "10.244.1.1", "eth0")
	}
	for _, pod := range []*node{web1, web2} {
		pod.listenTCP(netip.IPv4Unspecified(), 8080, serveHTTP)
	}

	b.lan(internet, host, client)
	host.iptables(b.network.Options.Backend, false, kubeRules())
}

// kubeRules are those that kube-proxy 1.27 to 1.33 and flannel write in mode
// iptables, as iptables-save prints them. MASQUERADE has --random-fully there,
// which tells nothing here and would have ids and ports change. The policy is
// Docker's where both are, and libvirt's.
func kubeRules() string {
	web := kubeService{"default/web:http", kubeWeb, []netip.AddrPort{netip.AddrPortFrom(kubeWeb1, 8080), netip.AddrPortFrom(kubeWeb2, 8080)}}
	services := []kubeService{
		web,
		{"default/api:http", kubeAPI, []netip.AddrPort{netip.AddrPortFrom(kubeWeb1, 9090)}},
		{"default/self:http", kubeSelf, []netip.AddrPort{netip.AddrPortFrom(kubeWeb1, 8080)}},
		{"default/gone:http", kubeGone, []netip.AddrPort{netip.AddrPortFrom(kubeNobody, 8080)}},
	}
	var chains, portals, rest strings.Builder
	for _, s := range services {
		for _, chain := range s.chains() {
			fmt.Fprintf(&chains, ":%s -\n", chain)
		}
		portals.WriteString(s.portal())
		rest.WriteString(s.balance())
	}
	external, externalGone := "KUBE-EXT-"+web.hash(""), "KUBE-EXT-"+services[3].hash("")
	return `
*filter
:FORWARD DROP
:FLANNEL-FWD -
:KUBE-EXTERNAL-SERVICES -
:KUBE-FIREWALL -
:KUBE-FORWARD -
:KUBE-NODEPORTS -
:KUBE-PROXY-FIREWALL -
:KUBE-SERVICES -
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
` + kubeForward + `
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
` + kubeNoEndpoints + `
*nat
:FLANNEL-POSTRTG -
:KUBE-MARK-MASQ -
:KUBE-NODEPORTS -
:KUBE-POSTROUTING -
:KUBE-SERVICES -
:` + external + ` -
:` + externalGone + ` -
` + chains.String() + `-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j ` + external + `
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/gone:http" -m tcp --dport 30050 -j ` + externalGone + `
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE
-A ` + external + ` -m comment --comment "masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ
-A ` + external + ` -j KUBE-SVC-` + web.hash("") + `
-A ` + externalGone + ` -m comment --comment "masquerade traffic for default/gone:http external destinations" -j KUBE-MARK-MASQ
-A ` + externalGone + ` -j KUBE-SVC-` + services[3].hash("") + `
` + portals.String() + `-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
` + rest.String()
}

// kubeNoEndpoints is the rule for a service that no pod stands behind.
const kubeNoEndpoints = `-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment "default/empty:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable`

// kubeService is a service: namespace/name:port, its address, and the pods that
// it is served by.
type kubeService struct {
	name      string
	address   netip.Addr
	endpoints []netip.AddrPort
}

// hash is what chains are named with, for the service or for one of its
// endpoints (portProtoHash and servicePortEndpointChainName in kube-proxy).
func (s kubeService) hash(endpoint string) string {
	sum := sha256.Sum256([]byte(s.name + "tcp" + endpoint))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

func (s kubeService) chains() []string {
	all := []string{"KUBE-SVC-" + s.hash("")}
	for _, e := range s.endpoints {
		all = append(all, "KUBE-SEP-"+s.hash(e.String()))
	}
	return all
}

// portal is the rule that leads to the service.
func (s kubeService) portal() string {
	return fmt.Sprintf("-A KUBE-SERVICES -d %s/32 -p tcp -m comment --comment \"%s cluster IP\" -m tcp --dport 80 -j KUBE-SVC-%s\n", s.address, s.name, s.hash(""))
}

// balance are the rules that choose an endpoint and lead there.
func (s kubeService) balance() string {
	var text strings.Builder
	fmt.Fprintf(&text, "-A KUBE-SVC-%s ! -s 10.244.0.0/16 -d %s/32 -p tcp -m comment --comment \"%s cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ\n",
		s.hash(""), s.address, s.name)
	for i, e := range s.endpoints {
		chance := ""
		if left := len(s.endpoints) - i; left > 1 {
			chance = fmt.Sprintf(" -m statistic --mode random --probability %.11f", 1/float64(left))
		}
		fmt.Fprintf(&text, "-A KUBE-SVC-%s -m comment --comment \"%s -> %s\"%s -j KUBE-SEP-%s\n", s.hash(""), s.name, e, chance, s.hash(e.String()))
	}
	for _, e := range s.endpoints {
		fmt.Fprintf(&text, "%s\n%s\n", s.ownSource(e), s.translate(e))
	}
	return text.String()
}

// ownSource is the rule that masquerades what a pod sends to itself by way of
// the service.
func (s kubeService) ownSource(e netip.AddrPort) string {
	return fmt.Sprintf("-A KUBE-SEP-%s -s %s/32 -m comment --comment \"%s\" -j KUBE-MARK-MASQ", s.hash(e.String()), e.Addr(), s.name)
}

// translate is the rule that leads to a pod.
func (s kubeService) translate(e netip.AddrPort) string {
	return fmt.Sprintf("-A KUBE-SEP-%s -p tcp -m comment --comment \"%s\" -m tcp -j DNAT --to-destination %s", s.hash(e.String()), s.name, e)
}

// kubernetesFaults are those of services and of the rules for them.
func kubernetesFaults(masquerade string) []Fault {
	self := kubeService{"default/self:http", kubeSelf, []netip.AddrPort{netip.AddrPortFrom(kubeWeb1, 8080)}}
	remove := func(table, rule string) func(*node, Rule) {
		return func(host *node, _ Rule) {
			host.iptables(host.network.Options.Backend, false, "*"+table+"\n"+strings.Replace(rule, "-A", "-D", 1)+"\n")
		}
	}
	return []Fault{
		{
			Name: "no-endpoints", Summary: "the service has no endpoints: no pod is ready", netns: HostName, NoFix: true,
			Probe:   connecting("shell", kubeEmpty, 80),
			outcome: ended("rejected", "request", "FILTER_REJECTED", "forward"),
			rule:    func(backend Backend) Rule { return iptablesRule(backend, false, "filter", kubeNoEndpoints) },
			apply:   nothing,
		}, {
			Name: "endpoint-gone", Summary: "the endpoint of the service behind node port 30050 is an address that no pod has any more", netns: HostName, NoFix: true,
			Probe:   &Probe{Kind: "tcp", Source: "client", Target: lanHost, Port: 30050},
			outcome: refused("DNAT_NO_TARGET"), apply: nothing,
		}, {
			Name: "endpoint-refuses", Summary: "nothing listens on the port of the service's endpoint", netns: HostName, NoFix: true,
			Probe:   connecting("shell", kubeAPI, 80),
			outcome: refused("DNAT_NO_TARGET").at("web-1"), apply: nothing,
		}, {
			Name: "no-hairpin-masquerade", Summary: "a pod asks for a service that it serves itself, and the rule is missing that masquerades that", netns: HostName,
			Probe:   connecting("web-1", kubeSelf, 80),
			outcome: stopped("HAIRPIN_MISSING").at("web-1"),
			apply:   remove("nat", self.ownSource(self.endpoints[0])),
		}, {
			Name: "no-bridge-nf", Summary: "br_netfilter is off: answers from pods of the node go back by the bridge, untranslated", netns: HostName,
			Probe:   connecting("shell", kubeSelf, 80),
			outcome: stopped("HAIRPIN_MISSING").onReply().at("shell"),
			apply:   func(host *node, _ Rule) { host.bridgeNF(false) },
		}, {
			Name: "no-masquerade", Summary: "flannel's rule is missing that masquerades what leaves the cluster", netns: HostName,
			Probe:   pinging("shell", ipv4Target),
			outcome: unanswered("NAT_MISSING"),
			apply:   remove("nat", masquerade),
		}, {
			Name: "forward-policy-service", Summary: "flannel's rule is missing, and the policy drops what goes to a pod by a service", netns: HostName,
			Probe:   connecting("shell", kubeSelf, 80), // one pod: no dice
			outcome: ended("dropped", "request", "FILTER_POLICY_DROP", "forward"),
			rule:    func(backend Backend) Rule { return iptablesRule(backend, false, "filter", ":FORWARD DROP") },
			apply:   remove("filter", kubeForward),
		},
	}
}
