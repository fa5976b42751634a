package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// conntrackStale: the packet belongs to a flow that was in the table before it,
// so no rule of the nat tables was asked. Either the flow's translation leads to
// an address that no rule leads to today and that is none of the namespace's own,
// and the packet was seen to be translated so; or the flow keeps its destination
// although a rule would translate it today, and the packet ended with that.
func conntrackStale(s *scene) *cause {
	for i := range s.in.Path.Older {
		older := &s.in.Path.Older[i]
		if t := s.outdated(older); t != nil {
			return s.stale(older, t)
		}
		if rule, ok := s.in.Redirects[older.Flow.NetNS]; ok && s.kept(older, rule) {
			return s.unasked(older, rule)
		}
	}
	return nil
}

// outdated is the translation that an older flow did and no rule would do today;
// nil when there is none, or that is not certain.
func (s *scene) outdated(older *path.Older) *report.Translation {
	netns := older.Flow.NetNS
	ns, today := s.now(netns), s.in.NAT[netns]
	if ns == nil || !today.Complete {
		return nil
	}
	for _, done := range older.Flow.Translations() {
		to := addressOf(done.To)
		if !to.IsValid() || to == addressOf(done.From) || ns.Local(to) != nil || slices.Contains(today.Addresses, to) {
			continue
		}
		for k := range s.in.Path.Translations {
			t := &s.in.Path.Translations[k]
			if t.NetNS == netns && t.Leg == "request" && t.Field == string(done.Field) && addressOf(t.To) == to && t.Rule == nil {
				return t
			}
		}
	}
	return nil
}

// kept reports whether the request ended in the namespace of an older flow with
// the destination that it came with, in a place behind the rules for it, and did
// not meet the one that would have translated it.
func (s *scene) kept(older *path.Older, rule ruletrace.Rule) bool {
	f, end := &older.Flow, &s.in.Path.Request.End
	if end.NetNS != f.NetNS || f.Reply.Src != f.Original.Dst || f.Reply.SrcPort != f.Original.DstPort || end.Tuple.Destination() != f.Original.Destination() {
		return false
	}
	for _, hop := range s.in.Path.Request.Hops {
		if hop.NetNS == f.NetNS && slices.ContainsFunc(hop.Steps, func(step report.Step) bool {
			return step.Rule != nil && step.Rule.Chain == rule.Chain && step.Rule.Text == rule.Text
		}) {
			return false
		}
	}
	switch end.Kind {
	case path.Delivered, path.Left:
		return true
	case path.Dropped:
		return end.Hook == ruletrace.Input || end.Hook == ruletrace.Forward || end.Hook == ruletrace.Postrouting
	}
	return false
}

// unasked: a rule for the destination was not asked.
func (s *scene) unasked(older *path.Older, rule ruletrace.Rule) *cause {
	netns := older.Flow.NetNS
	c := &cause{
		code: ConntrackStale, confidence: report.Reconstructed, byRule: true,
		summary: fmt.Sprintf("The request belongs to a flow that conntrack of %s knew before: the rules for translation were not asked, and it kept its destination %s. A new flow would be translated by a rule of chain %s %s %s: %s.",
			the(netns), older.Flow.Original.Destination(), rule.Family, rule.Table, rule.Chain, rule.Text),
		evidence: []string{older.Evidence, s.fact("rule", netns, "%s %s %s: %s", rule.Family, rule.Table, rule.Chain, rule.Text)},
		advice:   "Delete the old entry; the next packet is then translated as the rules say:",
	}
	if s.seen.NetNS != netns {
		c.netns = netns
	}
	if line, ok := s.command(netns, "conntrack -D %s", entryOptions(older.Flow.Original)); ok {
		c.fix = []string{line}
	}
	return c
}

func (s *scene) stale(older *path.Older, t *report.Translation) *cause {
	netns, to := older.Flow.NetNS, addressOf(t.To)
	verb := "was sent on to"
	if t.Field == string(nat.Source) {
		verb = "was given the source"
	}
	c := &cause{
		code: ConntrackStale, confidence: report.Reconstructed, byRule: true,
		summary: fmt.Sprintf("The request %s %s %s by an entry of conntrack that was there before it: the rules for translation were not asked, and none of them leads to that address today.",
			verb, to, where(netns)),
		evidence: append([]string{older.Evidence}, t.Evidence...),
		advice:   "Delete the old entry; the next packet is then translated as the rules say:",
	}
	if t.Field == string(nat.Destination) && s.owner(to) == "" {
		c.summary += " No visible namespace has it."
	}
	if s.seen.NetNS != netns {
		c.netns = netns
	}
	if s.leg == "reply" {
		c.summary += " " + s.seen.Summary
	}
	if line, ok := s.command(netns, "conntrack -D %s", entryOptions(older.Flow.Original)); ok {
		c.fix = []string{line}
	}
	return c
}

// owner is the namespace that has an address, empty when none is visible.
func (s *scene) owner(a netip.Addr) string {
	for i := range s.in.Topology.Namespaces {
		if ns := s.now(s.in.Topology.Namespaces[i].Name); ns.Local(a) != nil {
			return ns.Name
		}
	}
	return ""
}

// entryOptions are those of conntrack(8) that name one entry.
func entryOptions(t packet.Tuple) string {
	text := ""
	if t.Src.Is6() {
		text = "-f ipv6 "
	}
	text += fmt.Sprintf("-p %s -s %s -d %s", t.Proto, t.Src.WithZone(""), t.Dst.WithZone(""))
	if t.Proto.IsICMP() {
		option := "icmp"
		if t.Proto == packet.ICMPv6 {
			option = "icmpv6"
		}
		return text + fmt.Sprintf(" --%s-type %d --%s-code %d --%s-id %d", option, t.ICMPType, option, t.ICMPCode, option, t.ICMPID)
	}
	return text + fmt.Sprintf(" --sport %d --dport %d", t.SrcPort, t.DstPort)
}
