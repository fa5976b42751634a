package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// dnatNoTarget: a rule sent the request on to another destination, and there
// nobody listens, or nobody lives at all.
func dnatNoTarget(s *scene) *cause {
	t := s.redirected()
	if t == nil {
		return nil
	}
	c := &cause{
		code: DNATNoTarget, evidence: t.Evidence,
		summary: fmt.Sprintf("The request for %s was sent on to %s %s (%s), and ", t.From, t.To, where(t.NetNS), ruleWords(t.Rule)),
	}
	target := addressOf(t.To)
	switch {
	case s.refusedBy(target):
		c.summary += fmt.Sprintf("nobody listens there: %s.", s.refusal())
		c.advice = fmt.Sprintf("Start what is to listen on %s, or correct the rule that names it.", t.To)
	case s.unclaimed(target):
		c.netns, c.iface = s.end.NetNS, s.now(s.end.NetNS).Lookup(topology.Query{Target: target}).Route.Interface
		c.summary += fmt.Sprintf("nobody behind %s answers for %s.", c.iface, target)
		c.advice = fmt.Sprintf("Start what had the address %s, or correct the rule that names it: a container may have another address since it was started again.", target)
		for _, n := range s.now(s.end.NetNS).Neighbours {
			if n.Address == target && n.Interface == c.iface {
				c.evidence = append(slices.Clone(c.evidence), s.fact("neighbour", s.end.NetNS, "%s dev %s %s", target, n.Interface, n.State))
			}
		}
	default:
		return nil
	}
	return c
}

// redirected is the translation of the destination with which the request
// ended; nil when there is none.
func (s *scene) redirected() *report.Translation {
	if s.leg != "request" {
		return nil
	}
	all := s.in.Path.Translations
	for i := range slices.Backward(all) {
		if t := &all[i]; t.Leg == "request" && t.Field == "destination" {
			if addressOf(t.To) == s.end.Tuple.Dst {
				return t
			}
			return nil
		}
	}
	return nil
}

// refusedBy reports whether the machine with an address said, or its kernel
// did, that nobody listens there.
func (s *scene) refusedBy(target netip.Addr) bool {
	if s.seen.Code != NoListener {
		return false
	}
	if first := s.in.Path.Reply.First; s.in.Path.Answer.Kind != path.None && first != nil {
		made := s.in.Path.Answer.NetNS // its source may be translated back before it is seen
		return first.Header.Tuple.Src == target || made != "" && s.now(made).Local(target) != nil
	}
	return s.end.Drop != nil && s.end.Drop.Reason == skbdrop.NoSocket
}

// refusal says in which words it was refused.
func (s *scene) refusal() string {
	if text := s.in.Path.Answer.Text; text != "" {
		return text
	}
	return "no socket took it"
}

// unclaimed reports whether the request ended because nobody on the link
// answered for an address.
func (s *scene) unclaimed(target netip.Addr) bool {
	ns := s.now(s.end.NetNS)
	if s.end.Kind != path.Vanished || ns == nil {
		return false
	}
	route := ns.Lookup(topology.Query{Source: s.end.Tuple.Src, Target: target}).Route
	if route == nil || route.Type != "unicast" || route.Gateway.IsValid() || len(route.NextHops) > 0 {
		return false
	}
	if d := s.end.Drop; d != nil {
		return d.Reason == "NEIGH_FAILED" || d.Function == "neigh_invalidate"
	}
	if s.seen.Code == Neighbour && s.in.Path.Answer.NetNS == s.end.NetNS { // a retransmission may be asking again by now
		return true
	}
	return slices.ContainsFunc(ns.Neighbours, func(n topology.Neighbour) bool {
		return n.Address == target && n.Interface == route.Interface && n.State == "failed"
	})
}

// noListener adds to a refusal by the target itself what is to be done about it.
func noListener(s *scene) *cause {
	ns := s.now(s.end.NetNS)
	t := s.end.Tuple
	if s.leg != "request" || s.seen.Code != NoListener || s.end.Kind != path.Delivered || ns.Local(t.Dst) == nil || t.DstPort == 0 {
		return nil
	}
	c := &cause{
		code: NoListener, summary: s.seen.Summary,
		advice: fmt.Sprintf("Start what is to listen at %s %s (ss -ln shows who listens where).", netip.AddrPortFrom(t.Dst, t.DstPort), where(ns.Name)),
	}
	if !t.Dst.IsLoopback() {
		c.advice = fmt.Sprintf("Start what is to listen at %s %s, or let it listen at that address and not at 127.0.0.1 alone (ss -ln shows who listens where).", netip.AddrPortFrom(t.Dst, t.DstPort), where(ns.Name))
	}
	if ns.Name == topology.HostName && slices.ContainsFunc(ns.Links, func(l topology.Link) bool { return l.Kind == "bridge" }) {
		c.advice += " If a container is meant that listens on that port: it is reached by an address of the host only when the port is published (docker run -p), and then only by those whom the rule for it takes."
	}
	return c
}
