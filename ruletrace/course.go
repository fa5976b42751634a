package ruletrace

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// Ruleset are the rules of a namespace as text.
type Ruleset struct {
	Chains []Chain
	// Incomplete says that there may be chains that are not listed.
	Incomplete bool
	// index has the places of chains, once they are sorted.
	index map[chainID]int
}

// chainID names a chain: legacy tables have their own.
type chainID struct {
	family, table, name string
	legacy              bool
}

func (b *BaseChain) id() chainID {
	return chainID{b.Family, b.Table, b.Name, b.Backend == IPTablesLegacy}
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
	s.index = make(map[chainID]int, len(s.Chains))
	for i := range s.Chains {
		s.index[s.Chains[i].id()] = i
	}
}

// UnmarshalJSON reads a ruleset that was saved.
func (s *Ruleset) UnmarshalJSON(data []byte) error {
	type plain Ruleset
	if err := json.Unmarshal(data, (*plain)(s)); err != nil {
		return err
	}
	s.sort()
	return nil
}

// chain finds a chain, nil when there is none.
func (s *Ruleset) chain(id chainID) *Chain {
	i, ok := s.index[id]
	if s.index == nil {
		i = slices.IndexFunc(s.Chains, func(c Chain) bool { return c.id() == id })
		ok = i >= 0
	}
	if !ok {
		return nil
	}
	return &s.Chains[i]
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
	// Local says that Target is an address of this machine, Foreign that it is
	// none. Without either it is not known, except of what is forwarded.
	Local, Foreign bool
	// State is conntrack's view: new or established.
	State string
	// Proto is 0 for any; the ports, of TCP and UDP, are 0 for any.
	Proto                  packet.Proto
	SourcePort, TargetPort uint16
	// rewritten says that a rule may have changed the addresses and ports: none
	// of them is known any more.
	rewritten bool
	// redirected says that the destination may have been translated.
	redirected bool
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
		class = w.class
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
	return courses, !s.Incomplete
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
				w.class.rewritten = true
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
	return s.chain(chainID{from.Family, from.Table, name, from.Backend == IPTablesLegacy})
}

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
		m := met{takes: class.saved(words(rule.Text))}
		m.verdict, m.target = savedVerdict(rule.Text, func(name string) bool { return s.find(rule, name) != nil })
		m.unknown = m.verdict == VerdictUnknown
		return m
	}
	return class.listed(listedWords(rule.Text))
}
