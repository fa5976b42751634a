//go:build linux

package lab

import (
	"cmp"
	"slices"
	"strings"
)

// Broken returns the faults that Options.Break names, in the order in which a
// packet meets them.
func (s *Scenario) Broken(names string) []Fault {
	var all []Fault
	for name := range strings.SplitSeq(names, ",") {
		if fault, ok := s.fault(name); ok {
			all = append(all, fault)
		}
	}
	slices.SortStableFunc(all, func(a, b Fault) int { return s.compare(&a, &b) })
	return all
}

// Certain reports whether it is certain which of two faults ends a packet when
// both are there. It is not where both may act in one place, where the packet
// goes astray and may not come to the other, where neither is a filter rule and
// they may make up for one another, and where one spoils the answer and a rule
// drops it later: both are why.
func (s *Scenario) Certain(a, b *Fault) bool {
	own := s.ProbeOf("")
	for _, f := range []*Fault{a, b} {
		p := s.ProbeOf(f.Name)
		onTheWay := p.Kind == own.Kind && p.Source == own.Source && p.Target == own.Target && p.Port == own.Port && p.Size == own.Size && p.DF == own.DF && p.SendBytes == own.SendBytes
		if !onTheWay || f.elsewhere || s.place(f) < 0 || leg(f) < 0 {
			return false
		}
	}
	codes := []string{a.outcome.Code, b.outcome.Code}
	if slices.Contains(codes, "SHADOWED_ACCEPT") && slices.Contains(codes, "FILTER_POLICY_DROP") {
		return false // the accept of one is met before the policy of the other
	}
	first, second := a, b
	if s.compare(a, b) > 0 {
		first, second = b, a
	}
	lost, together := first.outcome.Outcome == "lost", s.place(first) == s.place(second) || !second.ByRule() && first.netns == second.netns
	switch {
	case !first.ByRule() && !second.ByRule():
		// Where an ICMP error is the outcome, the other may keep it from coming.
		return !lost && !together && first.outcome.Outcome != "rejected"
	case leg(first) < leg(second):
		return true
	case leg(first) == 1 && !(first.ByRule() && second.ByRule()):
		return false
	}
	return !lost && (!together || hook(first) >= 0 && hook(first) < hook(second))
}

// compare orders faults by leg, by the place on the way, and by the hook there.
func (s *Scenario) compare(a, b *Fault) int {
	return cmp.Or(cmp.Compare(leg(a), leg(b)), cmp.Compare(s.place(a), s.place(b)), cmp.Compare(hook(a), hook(b)))
}

func leg(f *Fault) int { return slices.Index([]string{"request", "reply"}, f.outcome.Leg) }

// place is the position of a fault's namespace on its leg; -1 when it is not
// on the scenario's way. What is not sent never leaves the source.
func (s *Scenario) place(f *Fault) int {
	if f.outcome.Outcome == "unsent" {
		return 0
	}
	return s.position(f.outcome.Leg, f.where())
}

// hooks in the order in which a packet passes them.
var hooks = []string{"ingress", "prerouting", "input", "forward", "output", "postrouting", "egress"}

func hook(f *Fault) int { return slices.Index(hooks, f.outcome.Hook) }

// where is the namespace that a packet ends in.
func (f *Fault) where() string { return cmp.Or(f.outcome.NetNS, f.netns) }
