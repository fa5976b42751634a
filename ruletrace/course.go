package ruletrace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// Ruleset are the rules of a namespace as text.
type Ruleset struct {
	Chains []Chain
	// incomplete says that there may be chains that are not listed.
	incomplete bool
}

// Chain is a chain with its rules. Type, Hook, Priority and Policy are those of
// a base chain.
type Chain struct {
	BaseChain
	Base  bool
	Rules []Rule
	// Read is false when the rules are not known.
	Read bool
}

// sort puts base chains in the order in which a packet meets them, others
// behind them.
func (s *Ruleset) sort() {
	hooks := []Hook{"", IngressHook, Prerouting, Input, Forward, Output, Postrouting, EgressHook}
	slices.SortStableFunc(s.Chains, func(a, b Chain) int {
		return cmp.Or(
			cmp.Compare(slices.Index(hooks, a.Hook), slices.Index(hooks, b.Hook)), cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Name, b.Name))
	})
}

// Class is a set of packets that a ruleset is asked about: all that have what is
// given here, whatever else they are, and whose destination nothing translated.
type Class struct {
	IPv6 bool
	// Ingress and Egress are empty in hooks that do not know them.
	Ingress, Egress string
	// Source and Target are invalid for any global address that is not this
	// machine's.
	Source, Target netip.Addr
	// State is conntrack's view: new or established.
	State string
	// Proto is 0 for any; the ports, of TCP and UDP, are 0 for any.
	Proto                  packet.Proto
	SourcePort, TargetPort uint16
}

// Course is what a base chain may do with the packets of a class.
type Course struct {
	Base BaseChain
	Ends []End
}

// End is one way in which a base chain may end for packets of a class.
type End struct {
	// Verdict is accept, drop or reject; VerdictUnknown where a rule is not
	// understood, or was not read.
	Verdict Verdict
	// Rule decided; for a policy its Text is the policy.
	Rule   Rule
	Policy bool
	// Sure says that no packet of the class that came so far escapes this end.
	Sure bool
	// Translation is what the rule does to addresses, empty for nothing.
	Translation string
}

// Lost reports whether no packet of the class gets through the chain. What is
// not understood counts as a way through.
func (c *Course) Lost() bool {
	return len(c.Ends) > 0 && !slices.ContainsFunc(c.Ends, func(e End) bool { return e.Verdict != Drop && e.Verdict != Reject })
}

// Accepts is the rule by which all packets of the class get through, nil when
// there is none: a policy is none.
func (c *Course) Accepts() *Rule {
	for i := range c.Ends {
		if e := &c.Ends[i]; e.Sure && e.Verdict == Accept && !e.Policy && e.Translation == "" && len(c.Ends) == 1 {
			return &e.Rule
		}
	}
	return nil
}

// Courses follows a class through the base chains of a hook, in the order in
// which packets meet them. Of each rule it is known that it takes the whole
// class, or none of it, or neither; what cannot be told from the class, as a
// port, is the last. ok is false when there may be chains that are not known.
func (s *Ruleset) Courses(hook Hook, class Class) (courses []Course, ok bool) {
	if s == nil {
		return nil, false
	}
	family := "ip"
	if class.IPv6 {
		family = "ip6"
	}
	for i := range s.Chains {
		c := &s.Chains[i]
		if !c.Base || c.Hook != hook || c.Family != family && c.Family != "inet" {
			continue
		}
		w := &courseWalk{set: s, class: class, left: maxCourse}
		ends, falls := w.chain(c, true, 0)
		if falls {
			policy := End{Verdict: c.Policy, Policy: true, Sure: len(ends) == 0, Rule: Rule{
				Backend: c.Backend, Family: c.Family, Table: c.Table, Chain: c.Name, Text: "policy " + string(c.Policy),
			}}
			if c.Backend != NFT {
				policy.Rule.Text = fmt.Sprintf(":%s %s", c.Name, strings.ToUpper(string(c.Policy)))
			}
			ends = append(ends, policy)
		}
		courses = append(courses, Course{Base: c.BaseChain, Ends: ends})
	}
	return courses, !s.incomplete
}

// The bounds of a walk: rules that are looked at, and chains within chains (the
// kernel allows 16, NFT_JUMP_STACK_SIZE).
const (
	maxCourse = 100_000
	maxJumps  = 16
)

type courseWalk struct {
	set   *Ruleset
	class Class
	left  int
}

// chain follows the class through a chain; sure says that all packets of the
// class that the base chain has not ended come here. falls says that packets may
// come to its end.
func (w *courseWalk) chain(c *Chain, sure bool, depth int) (ends []End, falls bool) {
	unknown := func(r Rule) []End { return append(ends, End{Verdict: VerdictUnknown, Rule: r}) }
	if !c.Read || depth > maxJumps {
		return unknown(Rule{Backend: c.Backend, Family: c.Family, Table: c.Table, Chain: c.Name}), true
	}
	returns := false
	for _, rule := range c.Rules {
		if w.left--; w.left < 0 {
			return unknown(rule), true
		}
		m := w.set.meets(rule, w.class)
		if m.takes == none {
			continue
		}
		all := m.takes == whole
		kind, translates := rule.Translation()
		switch {
		case m.unknown:
			ends, sure = unknown(rule), false
			continue
		case translates:
			ends = append(ends, End{Verdict: Accept, Rule: rule, Sure: sure && all, Translation: kind})
			if kind == "nptv6" || kind == "stateless" {
				continue // the packet goes on
			}
		case m.verdict == Accept || m.verdict == Drop || m.verdict == Reject:
			ends = append(ends, End{Verdict: m.verdict, Rule: rule, Sure: sure && all})
		case m.verdict == Jump || m.verdict == Goto:
			further, through := w.jump(rule, m.target, sure && all, depth)
			ends = append(ends, further...)
			sure = sure && len(further) == 0
			if m.verdict == Jump && through {
				continue
			}
			returns = returns || through
		case m.verdict == Return:
			returns = true
		case m.verdict == Continue:
			continue
		default:
			ends, sure = unknown(rule), false
			continue
		}
		if all {
			return ends, returns
		}
		sure = false
	}
	return ends, true
}

func (w *courseWalk) jump(rule Rule, target string, sure bool, depth int) (ends []End, falls bool) {
	next := w.set.find(rule, target)
	if next == nil {
		return []End{{Verdict: VerdictUnknown, Rule: rule}}, true
	}
	return w.chain(next, sure, depth+1)
}

// find is a chain of the table that a rule is in.
func (s *Ruleset) find(from Rule, name string) *Chain {
	i := slices.IndexFunc(s.Chains, func(c Chain) bool {
		return c.Name == name && c.Family == from.Family && c.Table == from.Table &&
			(c.Backend == IPTablesLegacy) == (from.Backend == IPTablesLegacy)
	})
	if i < 0 {
		return nil
	}
	return &s.Chains[i]
}

// share is how much of a class a condition takes.
type share int

const (
	none share = iota
	some
	whole
)

func (s share) not() share { return whole - s }

// both is the share of two conditions together.
func both(a, b share) share { return min(a, b) }

// met is what a rule does with a class.
type met struct {
	takes   share
	verdict Verdict
	target  string
	// unknown says that the verdict depends on what is not understood.
	unknown bool
}

func (s *Ruleset) meets(rule Rule, class Class) met {
	if strings.HasPrefix(rule.Text, "-A ") {
		w := words(rule.Text)
		m := met{takes: class.saved(w)}
		m.verdict, m.target = savedVerdict(rule.Text, func(name string) bool { return s.find(rule, name) != nil })
		m.unknown = m.verdict == VerdictUnknown
		return m
	}
	return class.listed(statements(rule.Text))
}

// saved is how much of the class the conditions of a line of iptables-save take.
func (c Class) saved(w []string) share {
	takes, negated := whole, false
	for i := 2; i < len(w); i++ {
		value := ""
		if i+1 < len(w) {
			value = w[i+1]
		}
		condition := some
		switch w[i] {
		case "-j", "-g", "--jump", "--goto":
			return takes
		case "!":
			negated = true
			continue
		case "-m", "--match", "--comment":
			i++
			continue
		case "-i", "--in-interface":
			condition = interfaceIs(c.Ingress, value, "+")
		case "-o", "--out-interface":
			condition = interfaceIs(c.Egress, value, "+")
		case "-s", "--source":
			condition = c.address(c.Source, value)
		case "-d", "--destination":
			condition = c.address(c.Target, value)
		case "--ctstate", "--state":
			condition = c.state(strings.Split(strings.ToLower(value), ","))
		case "-p", "--protocol":
			condition = c.proto(value)
		case "--dport", "--dports", "--destination-port", "--destination-ports":
			condition = anyOf(strings.Split(value, ","), func(v string) share { return portIs(c.TargetPort, v, ":") })
		case "--sport", "--sports", "--source-port", "--source-ports":
			condition = anyOf(strings.Split(value, ","), func(v string) share { return portIs(c.SourcePort, v, ":") })
		case "--dst-type":
			condition = c.typeOf(c.Target, value)
		case "--src-type":
			condition = c.typeOf(c.Source, value)
		default:
			if !strings.HasPrefix(w[i], "-") {
				continue // the value of an option that is not understood
			}
			takes, negated = both(takes, some), false
			continue
		}
		if negated {
			condition = condition.not()
		}
		takes, negated = both(takes, condition), false
		i++
	}
	return takes
}

// listed is what a line of nft does with the class.
func (c Class) listed(w []string) met {
	m := met{takes: whole, verdict: Continue}
	for i := 0; i < len(w); i++ {
		next := func(n int) string {
			if i+n < len(w) {
				return w[i+n]
			}
			return ""
		}
		switch word := w[i]; word {
		case "accept", "drop", "return", "continue":
			m.verdict = Verdict(word)
			return m
		case "reject":
			m.verdict = Reject
			return m
		case "jump", "goto":
			m.verdict, m.target = Verdict(word), next(1)
			return m
		case "masquerade", "redirect", "snat", "dnat":
			m.verdict = Accept
			return m
		case "counter":
			if next(1) == "packets" {
				i += 4
			}
		case "log":
			for slices.Contains([]string{"prefix", "level", "group", "flags", "snaplen", "queue-threshold"}, next(1)) {
				i += 2
			}
		case "queue", "vmap", "tproxy", "synproxy", "xt":
			m.unknown = true
			return m
		default:
			condition, used := c.match(w[i:])
			m.takes = both(m.takes, condition)
			i += used - 1
			if used > 0 && next(1) == "vmap" {
				m.unknown = true
				return m
			}
		}
	}
	return m
}

// match is how much of the class the condition takes that words begin with, and
// how many words it has.
func (c Class) match(w []string) (takes share, used int) {
	from := func(n int, selector func(values []string) share) (share, int) {
		if n < len(w) && w[n] == "." {
			return some, n + concatenation(w[n:])
		}
		values, negated, words := operand(w[n:])
		if words == 0 {
			return some, n
		}
		takes := selector(values)
		if negated {
			takes = takes.not()
		}
		return takes, n + words
	}
	if w[0] == "meta" && len(w) > 1 && slices.Contains([]string{"iifname", "oifname", "iif", "oif"}, w[1]) {
		takes, used = c.match(w[1:])
		return takes, used + 1
	}
	two := strings.Join(w[:min(2, len(w))], " ")
	switch {
	case w[0] == "iifname" || w[0] == "iif":
		return from(1, func(values []string) share {
			return anyOf(values, func(v string) share { return interfaceIs(c.Ingress, v, "*") })
		})
	case w[0] == "oifname" || w[0] == "oif":
		return from(1, func(values []string) share {
			return anyOf(values, func(v string) share { return interfaceIs(c.Egress, v, "*") })
		})
	case two == "ip saddr" || two == "ip6 saddr" || two == "ip daddr" || two == "ip6 daddr":
		if c.IPv6 != (w[0] == "ip6") {
			_, used := from(2, func([]string) share { return none })
			return none, used
		}
		address := c.Source
		if w[1] == "daddr" {
			address = c.Target
		}
		return from(2, func(values []string) share {
			return anyOf(values, func(v string) share { return c.address(address, v) })
		})
	case two == "meta l4proto" || two == "ip protocol" && !c.IPv6 || two == "ip6 nexthdr" && c.IPv6:
		return from(2, func(values []string) share { return anyOf(values, c.proto) })
	case w[0] == "tcp" || w[0] == "udp" || w[0] == "sctp" || w[0] == "icmp" || w[0] == "icmpv6":
		is := c.proto(w[0])
		if is == none || len(w) < 2 || w[1] != "dport" && w[1] != "sport" {
			_, used := from(2, func([]string) share { return some })
			return both(is, some), used
		}
		number := c.TargetPort
		if w[1] == "sport" {
			number = c.SourcePort
		}
		takes, used := from(2, func(values []string) share {
			return anyOf(values, func(v string) share { return portIs(number, v, "-") })
		})
		return both(is, takes), used
	case two == "ct state":
		return from(2, c.state)
	case two == "ct status":
		return from(2, func(values []string) share {
			if len(values) == 1 && values[0] == "dnat" {
				return none
			}
			return some
		})
	case w[0] == "ct" && len(w) > 1:
		_, used := from(2, func([]string) share { return some })
		return some, used
	case two == "meta nfproto":
		return from(2, func(values []string) share {
			return anyOf(values, func(v string) share {
				if (v == "ipv6") == c.IPv6 {
					return whole
				}
				return none
			})
		})
	case two == "fib daddr" && len(w) > 3 && w[2] == "type":
		return from(3, func(values []string) share {
			return anyOf(values, func(v string) share { return c.typeOf(c.Target, strings.ToUpper(v)) })
		})
	}
	return some, 1
}

// operand reads what a condition of nft compares with: a value, a list, or a set
// in braces. words is 0 for what is none of these.
func operand(w []string) (values []string, negated bool, words int) {
	if len(w) > 0 && (w[0] == "!=" || w[0] == "==") {
		negated, words = w[0] == "!=", 1
	}
	if words >= len(w) || slices.Contains([]string{"<", ">", "<=", ">=", "&", "vmap", "."}, w[words]) || strings.HasPrefix(w[words], "@") {
		return nil, false, 0
	}
	if w[words] != "{" {
		return strings.Split(w[words], ","), negated, words + 1
	}
	for i, word := range w[words+1:] {
		if word == "}" {
			return values, negated, words + 2 + i
		}
		values = append(values, strings.TrimSuffix(word, ","))
	}
	return nil, false, 0
}

// concatenation is how many words there are to the end of the set that several
// selectors together are looked up in, or to the word before a map of verdicts;
// where neither follows, all.
func concatenation(w []string) int {
	for i, word := range w {
		if word == "vmap" {
			return i
		}
		if strings.HasPrefix(word, "@") && !strings.Contains(word, ",") { // not @th,16,16
			return i + 1
		}
		if end := slices.Index(w[i:], "}"); word == "{" && end > 0 {
			return i + end + 1
		}
	}
	return len(w)
}

func anyOf(values []string, condition func(string) share) share {
	takes := none
	for _, v := range values {
		takes = max(takes, condition(v))
	}
	return takes
}

// interfaceIs compares an interface with a name or, with the wildcard at its
// end, the beginning of one.
func interfaceIs(name, pattern, wildcard string) share {
	beginning, wild := strings.CutSuffix(pattern, wildcard)
	switch {
	case name == "":
		return some
	case name == pattern || wild && strings.HasPrefix(name, beginning):
		return whole
	}
	return none
}

// proto compares the protocol with a name or a number.
func (c Class) proto(name string) share {
	if name == "all" || name == "0" {
		return whole
	}
	number, err := strconv.Atoi(name)
	if known, found := protocols[name]; found {
		number, err = int(known), nil
	}
	switch {
	case c.Proto == 0 || err != nil:
		return some
	case int(c.Proto) == number:
		return whole
	}
	return none
}

// protocols are the names that the tools print (protocols(5)).
var protocols = map[string]packet.Proto{
	"icmp": packet.ICMP, "icmpv6": packet.ICMPv6, "ipv6-icmp": packet.ICMPv6,
	"tcp": packet.TCP, "udp": packet.UDP, "sctp": packet.SCTP,
}

// portIs compares a port with a number or a range.
func portIs(number uint16, text, to string) share {
	first, last, found := strings.Cut(text, to)
	if !found {
		last = first
	}
	from, err := strconv.Atoi(first)
	until, err2 := strconv.Atoi(last)
	switch {
	case number == 0 || err != nil || err2 != nil:
		return some
	case from <= int(number) && int(number) <= until:
		return whole
	}
	return none
}

func (c Class) state(states []string) share {
	if slices.Contains(states, c.State) {
		return whole
	}
	return none
}

// address compares an address with a prefix, an address or a range.
func (c Class) address(a netip.Addr, text string) share {
	if first, last, found := strings.Cut(text, "-"); found {
		from, err := netip.ParseAddr(first)
		to, err2 := netip.ParseAddr(last)
		switch {
		case err != nil || err2 != nil:
			return some
		case !a.IsValid():
			return internet(netip.PrefixFrom(from, from.BitLen()))
		case from.Compare(a) <= 0 && a.Compare(to) <= 0:
			return whole
		}
		return none
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		one, err := netip.ParseAddr(text)
		if err != nil {
			return some
		}
		prefix = netip.PrefixFrom(one, one.BitLen())
	}
	switch {
	case !a.IsValid():
		return internet(prefix)
	case prefix.Contains(a):
		return whole
	}
	return none
}

// internet is how much of what is out in the internet a prefix takes.
func internet(p netip.Prefix) share {
	a := p.Addr()
	switch {
	case p.Bits() == 0:
		return whole
	case a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast():
		return none
	}
	return some
}

// typeOf compares the kernel's type of an address. What is out in the internet,
// and what is forwarded, is none of this machine's.
func (c Class) typeOf(a netip.Addr, kind string) share {
	switch {
	case a.IsValid() && kind == "LOCAL" && c.Ingress != "" && c.Egress != "":
		return none
	case a.IsValid():
		return some
	case kind == "LOCAL" || kind == "BROADCAST" || kind == "MULTICAST":
		return none
	case kind == "UNICAST":
		return whole
	}
	return some
}
