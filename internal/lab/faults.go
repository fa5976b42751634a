//go:build linux

package lab

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Fault is something that can be broken in a scenario. A fault that is a rule
// concerns pings only, so that names can still be resolved.
type Fault struct {
	// Name is the kind of the fault, followed by "@namespace" when it is not on
	// the host.
	Name string
	// Summary is one line.
	Summary string
	// Probe shows the fault; nil is the scenario's own.
	Probe *Probe
	// NoFix says that no command on the visible machines mends it.
	NoFix bool
	// Root says that only root can make it, or see what comes of it, outside of user
	// namespaces.
	Root bool
	// tools are the programs that it takes beside those of the scenario.
	tools []string

	// elsewhere says that the probe does not take the scenario's way.
	elsewhere bool
	// netns is where it is, outcome what comes of it, without the rule, which
	// rule gives; nil for a fault that is no rule. The outcome's NetNS is netns
	// unless it says otherwise. apply makes the fault, given the node of netns;
	// nil inserts the rule.
	netns   string
	outcome Truth
	rule    func(Backend) Rule
	apply   func(*node, Rule)
}

// ByRule says that the fault is a filter rule or policy that ends the
// scenario's own probe: all else works as in the healthy network.
func (f *Fault) ByRule() bool { return f.rule != nil && f.Probe == nil }

// Probe is what is sent to see whether a network works.
type Probe struct {
	// Kind is ping, ping6 or tcp, as pathtrace's commands; or dns, which is the
	// query that a ping of dns.google begins with.
	Kind string
	// Source is the namespace that it is sent from, HostName for the host; empty
	// means the scenario's.
	Source string
	// Target is the scenario's, or for dns its resolver, unless it is set.
	Target netip.Addr
	// Said is what a resolver hears from the name server of dns.
	Said string
	// Port is that of tcp.
	Port uint16
	// Size is that of a ping's data, 0 the usual; DF keeps it in one piece.
	Size int
	DF   bool
	// SendBytes is how many bytes follow the handshake of tcp.
	SendBytes int
	// Flags are further arguments of the command.
	Flags []string
}

// Args are pathtrace's arguments that send the probe.
func (p *Probe) Args() []string {
	kind, target := p.Kind, p.Target.String()
	switch {
	case kind == "dns":
		kind, target = "ping", "dns.google"
	case p.Port != 0:
		target = netip.AddrPortFrom(p.Target, p.Port).String()
	}
	args := []string{kind, target}
	if p.Source != HostName {
		args = append(args, "--netns", p.Source)
	}
	if p.Size != 0 {
		args = append(args, "--size", strconv.Itoa(p.Size))
	}
	if p.DF {
		args = append(args, "--df")
	}
	if p.SendBytes != 0 {
		args = append(args, "--send-bytes", strconv.Itoa(p.SendBytes))
	}
	return append(args, p.Flags...)
}

// ProbeOf is what shows the faults of Options.Break, or that the network is
// healthy if there are none.
func (s *Scenario) ProbeOf(names string) *Probe {
	p := Probe{Kind: "ping"}
	if s.Target.Is6() {
		p.Kind = "ping6"
	}
	for _, fault := range s.Broken(names) {
		if fault.Probe != nil {
			patient := slices.Contains(p.Flags, patientTimeout) // for the fault that is met first
			if p = *fault.Probe; patient {
				p.Flags = slices.Clone(p.Flags)
				if i := slices.Index(p.Flags, "--timeout"); i >= 0 {
					p.Flags[i+1] = patientTimeout
				}
			}
		}
	}
	if p.Source == "" {
		p.Source = s.Source
	}
	if !p.Target.IsValid() {
		p.Target = s.Target
		if p.Kind == "dns" {
			p.Target = s.Resolver
		}
	}
	return &p
}

// The faults that every scenario has on its host, unless that is a mere bridge.
const (
	ForwardDrop   = "forward-drop"
	ForwardPolicy = "forward-policy"
	Reject        = "reject"
	ReplyDrop     = "reply-drop"
	DNSDrop       = "dns-drop"
	DNSRefused    = "dns-refused"
)

// filter is where the rules of a scenario's host filter forwarded packets: the
// chains for requests and for replies, and how nothing is left that accepts a
// request.
type filter struct {
	ipv6 bool
	// source is where the requests come from.
	source string
	// Each is the name of a chain, in nft of the table in inet.
	table, requests, replies, base    string
	iptablesRequests, iptablesReplies string
	dropByPolicy                      func(host *node, backend Backend)
}

// faults are those on the host.
func (f filter) faults() []Fault {
	proto, prohibited := "icmp", "icmp-admin-prohibited"
	if f.ipv6 {
		proto, prohibited = "icmpv6", "icmp6-adm-prohibited"
	}
	rule := func(chain, text, iptables string) func(Backend) Rule {
		return func(backend Backend) Rule {
			if backend == NFT {
				return nftRule("inet", f.table, chain, text)
			}
			return iptablesRule(backend, f.ipv6, "filter", iptables)
		}
	}
	return []Fault{
		{
			Name: ForwardDrop, Summary: "a rule on the host drops the request", netns: HostName,
			outcome: dropped("request", "forward"),
			rule: rule(f.requests, proto+` type echo-request drop comment "no pings from containers"`,
				echoRule(f.iptablesRequests, f.ipv6, "request", "no pings from containers", "DROP")),
		}, {
			Name: ForwardPolicy, Summary: "no rule on the host accepts the request, and the policy is drop", netns: HostName,
			outcome: Truth{Outcome: "dropped", Leg: "request", Code: "FILTER_POLICY_DROP", Hook: "forward"},
			rule:    rule(f.base, "policy drop", ":FORWARD DROP"),
			apply:   func(host *node, rule Rule) { f.dropByPolicy(host, rule.Backend) },
		}, {
			Name: Reject, Summary: "a rule on the host rejects the request", netns: HostName,
			outcome: Truth{Outcome: "rejected", Leg: "request", Code: "FILTER_REJECTED", Hook: "forward"},
			rule: rule(f.requests, proto+` type echo-request reject with `+proto+` admin-prohibited comment "pings are prohibited"`,
				echoRule(f.iptablesRequests, f.ipv6, "request", "pings are prohibited", "REJECT --reject-with "+prohibited)),
		}, {
			Name: ReplyDrop, Summary: "a rule on the host drops the reply", netns: HostName,
			outcome: dropped("reply", "forward"),
			rule: rule(f.replies, proto+` type echo-reply drop comment "no echo replies from outside"`,
				echoRule(f.iptablesReplies, f.ipv6, "reply", "no echo replies from outside", "DROP")),
		}, {
			Name: DNSDrop, Summary: "a rule on the host drops the DNS query", netns: HostName,
			Probe:   &Probe{Kind: "dns", Said: "no answer within 5s"},
			outcome: Truth{Outcome: "dropped", Leg: "request", Code: "DNS_FAILED", Hook: "forward"},
			rule: rule(f.requests, `udp dport 53 drop comment "no DNS from containers"`,
				"-A "+f.iptablesRequests+` -p udp -m udp --dport 53 -m comment --comment "no DNS from containers" -j DROP`),
		}, {
			Name: DNSRefused, Summary: "the DNS server refuses to answer", netns: HostName, NoFix: true,
			Probe:   &Probe{Kind: "dns", Said: "REFUSED"},
			outcome: Truth{Outcome: "unsent", Leg: "request", Code: "DNS_FAILED", NetNS: f.source},
			apply:   func(host *node, _ Rule) { host.network.refuseDNS.Store(true) },
		},
	}
}

// dropAt is a fault in another namespace than the host. Its rule is written
// with iptables there.
func dropAt(name, netns, leg, hook, comment string, ipv6 bool) Fault {
	return Fault{
		Name:    name + "@" + netns,
		Summary: "a rule in " + netns + " drops the " + leg,
		netns:   netns,
		outcome: dropped(leg, hook),
		rule: func(backend Backend) Rule {
			return iptablesRule(beside(backend), ipv6, "filter", echoRule(strings.ToUpper(hook), ipv6, leg, comment, "DROP"))
		},
	}
}

// echoRule is the line of iptables-save that matches an echo request or reply.
func echoRule(chain string, ipv6 bool, leg, comment, target string) string {
	match, types := "-p icmp -m icmp --icmp-type ", map[string]string{"request": "8", "reply": "0"}
	if ipv6 {
		match, types = "-p ipv6-icmp -m icmp6 --icmpv6-type ", map[string]string{"request": "128", "reply": "129"}
	}
	return "-A " + chain + " " + match + types[leg] + ` -m comment --comment "` + comment + `" -j ` + target
}

func dropped(leg, hook string) Truth {
	return Truth{Outcome: "dropped", Leg: leg, Code: "FILTER_DROP", Hook: hook}
}
