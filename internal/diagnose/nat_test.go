package diagnose_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// outward is a request of cnt01 that left the host, or the gateway behind it,
// and was not answered.
type outward struct {
	path  path.Path
	input diagnose.Input
}

func newOutward(source, target string) *outward {
	t := packet.Tuple{Proto: packet.TCP, Src: netip.MustParseAddr(source), Dst: netip.MustParseAddr(target), SrcPort: 40000, DstPort: 443}
	link := func(name string, addresses ...string) topology.Link {
		l := topology.Link{Name: name}
		for _, a := range addresses {
			l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
		}
		return l
	}
	o := &outward{path: path.Path{Request: path.Leg{End: path.End{Kind: path.Left, NetNS: topology.HostName, Interface: "eth0", Tuple: t}}}}
	hop := func(netns, name, direction string) {
		o.path.Request.Hops = append(o.path.Request.Hops, report.Hop{
			NetNS: netns, Interface: name, Direction: direction, Tuple: report.Tuple{Source: t.Source(), Destination: t.Destination()},
		})
	}
	hop("cnt01", "eth0", "egress")
	hop(topology.HostName, "docker0", "ingress")
	hop(topology.HostName, "eth0", "egress")
	all := map[string]bool{"cnt01": true, topology.HostName: true, "gateway": true}
	o.input = diagnose.Input{
		Path: &o.path, Probe: path.Probe{NetNS: "cnt01", Tuple: t}, Sensors: diagnose.Sensors{Captured: all, Traced: all},
		Topology: &topology.Snapshot{Source: "cnt01", Target: t.Dst, Namespaces: []topology.Namespace{
			{Name: "cnt01", Links: []topology.Link{link("eth0", "172.17.0.2/16")}},
			{
				Name:   topology.HostName,
				Links:  []topology.Link{link("docker0", "172.17.0.1/16"), link("eth0", "198.51.100.1/24", "10.1.0.5/16")},
				Policy: lookup(), Routes: routes("docker0", "172.17.0.0/16", "eth0", "0.0.0.0/0"),
			},
			{
				Name:   "gateway",
				Links:  []topology.Link{link("lan"), link("wan", "192.0.2.9/24")},
				Policy: lookup(), Routes: routes("wan", "0.0.0.0/0"),
			},
		}},
	}
	return o
}

func lookup() []topology.Policy {
	return []topology.Policy{{Action: "lookup", Table: 254, SuppressPrefix: -1, SuppressGroup: -1}}
}

// routes takes an interface and a prefix for each.
func routes(words ...string) []topology.Route {
	var all []topology.Route
	for pair := range slices.Chunk(words, 2) {
		all = append(all, topology.Route{
			Destination: netip.MustParsePrefix(pair[1]), Interface: pair[0], Table: 254, Type: "unicast", Text: pair[1] + " dev " + pair[0],
		})
	}
	return all
}

// on lets the packet go on to the gateway before it leaves.
func (o *outward) on() {
	first := o.path.Request.Hops[0].Tuple
	for _, name := range []string{"lan", "wan"} {
		direction := map[string]string{"lan": "ingress", "wan": "egress"}[name]
		o.path.Request.Hops = append(o.path.Request.Hops, report.Hop{NetNS: "gateway", Interface: name, Direction: direction, Tuple: first})
	}
	o.path.Request.End.NetNS, o.path.Request.End.Interface = "gateway", "wan"
}

// masqueraded gives the packet another source where it leaves.
func (o *outward) masqueraded(to string) {
	t := &o.path.Request.End.Tuple
	o.path.Translations = []report.Translation{{
		Kind: "snat", NetNS: topology.HostName, Interface: "eth0", Leg: "request", Field: "source", From: t.Source(), To: netip.AddrPortFrom(netip.MustParseAddr(to), t.SrcPort).String(),
		Rule: &report.Rule{Backend: "iptables-legacy", Family: "ip", Table: "nat", Chain: "POSTROUTING", Number: 3},
	}}
	t.Src = netip.MustParseAddr(to)
}

func (o *outward) host() *topology.Namespace { return o.input.Topology.Namespace(topology.HostName) }

// asked adds a question for the hardware address of an address, and its answer.
func (o *outward) asked(address string, answered bool) {
	a := netip.MustParseAddr(address)
	at := capture.Point{NetNS: topology.HostName, Interface: "eth0"}
	o.input.Discovery = append(o.input.Discovery, capture.Sighting{Point: at, Direction: capture.Ingress, Header: packet.Header{
		ARP: &packet.ARP{Request: true, SenderAddr: netip.MustParseAddr("198.51.100.254"), TargetAddr: a},
	}})
	if answered {
		o.input.Discovery = append(o.input.Discovery, capture.Sighting{Point: at, Direction: capture.Egress, Header: packet.Header{ARP: &packet.ARP{SenderAddr: a}}})
	}
}

func TestSourceThatAnswersDoNotReach(t *testing.T) {
	type want struct {
		code, netns string
		confidence  report.Confidence
		findings    []string // severities
		fix         string
	}
	missing := func(netns, fix string) want {
		return want{"NAT_MISSING", netns, report.Reconstructed, []string{"error"}, fix}
	}
	silent := want{"NO_REPLY", topology.HostName, report.Observed, nil, ""}
	warned := want{"NO_REPLY", topology.HostName, report.Observed, []string{"warning"}, ""}
	wrong := func(c report.Confidence) want {
		return want{"NAT_WRONG_ADDRESS", topology.HostName, c, []string{"error"}, "iptables-legacy -t nat -I POSTROUTING 3 -s 172.17.0.0/16 -o eth0 -j MASQUERADE"}
	}
	for name, tt := range map[string]struct {
		source, target string
		change         func(*outward)
		want           want
	}{
		"private, untranslated": {
			"172.17.0.2", "9.9.9.9", func(*outward) {},
			missing(topology.HostName, "nft add table ip nat"),
		},
		"private, untranslated, beside rules of iptables": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.input.Chains = map[string][]ruletrace.BaseChain{topology.HostName: {{Backend: ruletrace.IPTablesNFT, Family: "ip", Table: "filter", Name: "FORWARD", Type: "filter", Hook: ruletrace.Forward}}}
			},
			missing(topology.HostName, "iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE"),
		},
		"private, accepted before it is translated": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.input.Chains = map[string][]ruletrace.BaseChain{topology.HostName: {{Backend: ruletrace.NFT, Family: "inet", Table: "n", Name: "post", Type: "nat", Hook: ruletrace.Postrouting}}}
				o.path.Request.Hops[1].Steps = []report.Step{{Kind: "rule", Rule: &report.Rule{Backend: "nft", Family: "inet", Table: "n", Chain: "post", Text: `oifname "eth0" accept comment "x"`}}}
			},
			missing(topology.HostName, "nft insert rule inet n post ip saddr 172.17.0.0/16 oifname eth0 masquerade"),
		},
		"private, in a chain whose name is a command": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.input.Chains = map[string][]ruletrace.BaseChain{topology.HostName: {{Backend: ruletrace.NFT, Family: "ip", Table: "n", Name: "$(reboot)", Type: "nat", Hook: ruletrace.Postrouting}}}
			},
			missing(topology.HostName, "nft add table ip nat"),
		},
		"private, by an interface whose name is a command": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.path.Request.Hops[2].Interface, o.path.Request.End.Interface = "$(reboot)", "$(reboot)"
			},
			missing(topology.HostName, ""),
		},
		"for a private destination": {"172.17.0.2", "10.20.30.40", func(*outward) {}, warned},
		"global":                    {"198.18.0.2", "9.9.9.9", func(*outward) {}, silent},
		"of the uplink's own network, as a bridged machine of a LAN": {
			"10.1.2.3", "9.9.9.9", func(*outward) {}, silent,
		},
		"of a network that nobody on the way knows": {"172.31.0.2", "9.9.9.9", func(*outward) {}, silent},
		"through a gateway that has no route back":  {"172.17.0.2", "9.9.9.9", (*outward).on, missing(topology.HostName, "nft add table ip nat")},
		"through a gateway that has a route back, and is where it leaves": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.on()
				ns := o.input.Topology.Namespace("gateway")
				ns.Routes = append(ns.Routes, routes("lan", "172.17.0.0/16")...)
				o.input.Enter = map[string]string{"gateway": "ip netns exec gateway"}
			},
			missing("gateway", "ip netns exec gateway nft add table ip nat"),
		},
		"translated to an address of the host": {"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("198.51.100.1") }, silent},
		"translated to an address of its network that nobody has": {
			"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("198.51.100.7") }, wrong(report.Reconstructed),
		},
		"translated to one that was asked for": {
			"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("198.51.100.7"); o.asked("198.51.100.7", false) }, wrong(report.Observed),
		},
		"translated, while another one was asked for": {
			"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("198.51.100.7"); o.asked("198.51.100.8", false) }, wrong(report.Reconstructed),
		},
		"translated to one that is answered for by proxy": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.masqueraded("198.51.100.7")
				o.host().Proxied = []topology.Proxied{{Address: netip.MustParseAddr("198.51.100.7"), Interface: "eth0"}}
			},
			silent,
		},
		"translated to one that is routed elsewhere and answered for (proxy_arp)": {
			"172.17.0.2", "9.9.9.9", func(o *outward) {
				o.masqueraded("198.51.100.7")
				o.host().Link("eth0").Settings.ProxyARP = true
				o.host().Routes = append(o.host().Routes, routes("docker0", "198.51.100.7/32")...)
			},
			silent,
		},
		"translated to a global address that may be routed here":        {"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("192.0.2.77") }, warned},
		"translated to a private address of no network of the uplink's": {"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("192.168.7.7") }, wrong(report.Reconstructed)},
		"translated to another machine's address": {
			"172.17.0.2", "9.9.9.9", func(o *outward) { o.masqueraded("192.0.2.9") }, wrong(report.Reconstructed),
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOutward(tt.source, tt.target)
			tt.change(o)
			d := diagnose.Diagnose(o.input)
			got := want{code: d.Verdict.Code, netns: d.Verdict.NetNS, confidence: d.Verdict.Confidence}
			for _, f := range d.Findings {
				got.findings = append(got.findings, f.Severity)
				if len(f.Fix) > 0 && f.Severity == "error" {
					got.fix = f.Fix[0]
				}
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("verdict (-want +got):\n%s\n%s", diff, d.Verdict.Summary)
			}
		})
	}
}

// A translation that keeps no state is undone by a rule of its own, or not.
func TestOneWay(t *testing.T) {
	inside, outside, other := "fd00:1::2", "2001:db8:1::2", "fd00:9::2"
	request := report.Translation{
		Kind: "nptv6", NetNS: "gateway", Interface: "wan", Leg: "request", Field: "source", From: inside, To: outside,
		Rule: &report.Rule{Backend: "iptables-nft", Family: "ip6", Table: "mangle", Chain: "POSTROUTING", Text: "-A POSTROUTING -o wan -j SNPT --src-pfx fd00:1::/64 --dst-pfx 2001:db8:1::/64"},
	}
	back := func(to string) report.Translation {
		return report.Translation{Kind: "nptv6", NetNS: "gateway", Leg: "reply", Field: "destination", From: outside, To: to}
	}
	forward := report.Rule{Backend: "nft", Family: "ip6", Table: "f", Chain: "forward", Handle: 3}
	ended := func(hook ruletrace.Hook) path.End {
		return path.End{Kind: path.Dropped, NetNS: "gateway", Interface: "wan", Hook: hook, Verdict: ruletrace.Drop, Rule: &forward}
	}
	const fix = "ip netns exec gateway ip6tables-nft -t mangle -I PREROUTING -d 2001:db8:1::/64 -i wan -j DNPT --src-pfx 2001:db8:1::/64 --dst-pfx fd00:1::/64"
	for name, tt := range map[string]struct {
		translations []report.Translation
		end          path.End
		traced       bool
		code         string
		fix          []string
	}{
		"not translated back":                   {[]report.Translation{request}, ended(ruletrace.Forward), true, "NAT_PREFIX_MISMATCH", []string{fix}},
		"translated back to another prefix":     {[]report.Translation{request, back(other)}, ended(ruletrace.Forward), true, "NAT_PREFIX_MISMATCH", []string{fix}},
		"translated back, and dropped":          {[]report.Translation{request, back(inside)}, ended(ruletrace.Forward), true, "FILTER_DROP", nil},
		"dropped before it could be":            {[]report.Translation{request}, ended(ruletrace.Prerouting), true, "FILTER_DROP", nil},
		"where rules could not be traced":       {[]report.Translation{request}, ended(ruletrace.Forward), false, "FILTER_DROP", nil},
		"where conntrack had done it all":       {[]report.Translation{{Kind: "snat", NetNS: "gateway", Leg: "request", Field: "source", From: inside, To: outside}}, ended(ruletrace.Forward), true, "FILTER_DROP", nil},
		"where a chain's name is a command":     {[]report.Translation{named(request, "$(reboot)")}, ended(ruletrace.Forward), true, "NAT_PREFIX_MISMATCH", []string{}},
		"where the rule was not seen, at least": {[]report.Translation{unknown(request)}, ended(ruletrace.Forward), true, "NAT_PREFIX_MISMATCH", []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := path.Path{
				Translations: tt.translations, Answer: path.Answer{Kind: path.Reply},
				Reply: path.Leg{End: tt.end, Hops: []report.Hop{{NetNS: "gateway", Interface: "wan", Direction: "ingress", Tuple: report.Tuple{Source: "2001:db8::1", Destination: outside}}}},
			}
			d := judge(&p, func(in *diagnose.Input) {
				in.Sensors.Traced = map[string]bool{"gateway": tt.traced}
				in.Enter = map[string]string{"gateway": "ip netns exec gateway"}
			})
			if d.Verdict.Code != tt.code {
				t.Errorf("got %s, want %s: %s", d.Verdict.Code, tt.code, d.Verdict.Summary)
			}
			if tt.fix != nil {
				if len(d.Findings) != 1 {
					t.Fatalf("got %d findings, want 1", len(d.Findings))
				}
				if diff := cmp.Diff(tt.fix, d.Findings[0].Fix); diff != "" {
					t.Errorf("fix (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func named(t report.Translation, chain string) report.Translation {
	rule := *t.Rule
	rule.Chain = chain
	t.Rule = &rule
	return t
}

func unknown(t report.Translation) report.Translation {
	t.Rule = nil
	return t
}

// Without the kernel's drop records nothing shows what a bridged packet was
// translated to but the rule that it met.
func TestPortRefusesWhatARuleSentBack(t *testing.T) {
	for name, tt := range map[string]struct {
		rule    string
		hairpin bool
		want    string
	}{
		"to the sender":               {"-A DOCKER -p tcp -j DNAT --to-destination 172.17.0.2:80", false, "HAIRPIN_MISSING"},
		"to the sender, nft":          {"tcp dport 8080 dnat to 172.17.0.2", false, "HAIRPIN_MISSING"},
		"to another machine":          {"-A DOCKER -p tcp -j DNAT --to-destination 172.17.0.9:80", false, "KERNEL_DROP"},
		"to one of several":           {"-A DOCKER -p tcp -j DNAT --to-destination 172.17.0.2-172.17.0.9", false, "KERNEL_DROP"},
		"to the sender, hairpin mode": {"-A DOCKER -p tcp -j DNAT --to-destination 172.17.0.2:80", true, "KERNEL_DROP"},
		"nowhere":                     {"-A DOCKER -p tcp -j ACCEPT", false, "KERNEL_DROP"},
	} {
		t.Run(name, func(t *testing.T) {
			tuple := report.Tuple{Source: "172.17.0.2:40000", Destination: "198.51.100.1:8080"}
			p := path.Path{Request: path.Leg{
				End: path.End{Kind: path.Vanished, NetNS: topology.HostName, Interface: "veth0", Tuple: request, Next: "docker0 or another port of it"},
				Hops: []report.Hop{
					{NetNS: "cnt01", Interface: "eth0", Direction: "egress", Tuple: tuple},
					{
						NetNS: topology.HostName, Interface: "veth0", Bridge: "docker0", Direction: "ingress", Tuple: tuple,
						Steps: []report.Step{{Kind: "rule", Hook: "prerouting", Rule: &report.Rule{Backend: "nft", Family: "ip", Table: "nat", Chain: "DOCKER", Text: tt.rule}}},
					},
				},
			}}
			d := judge(&p, func(in *diagnose.Input) {
				forwards := topology.Settings{ForwardIPv4: true}
				host := in.Topology.Namespace(topology.HostName)
				host.All = forwards
				host.Links = []topology.Link{
					{Name: "docker0", Kind: "bridge", Up: true, Carrier: true, Settings: forwards}, {Name: "veth0", Bridge: "docker0", Port: &topology.Port{State: "forwarding", Hairpin: tt.hairpin}},
				}
			})
			if d.Verdict.Code != tt.want {
				t.Errorf("got %s, want %s: %s", d.Verdict.Code, tt.want, d.Verdict.Summary)
			}
			if tt.want == "HAIRPIN_MISSING" && (len(d.Findings) != 1 || !slices.Equal(d.Findings[0].Fix, []string{"bridge link set dev veth0 hairpin on"})) {
				t.Errorf("got %+v, want the port's hairpin mode", d.Findings)
			}
		})
	}
}
