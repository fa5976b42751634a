package diagnose

import (
	"fmt"
	"regexp"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// rpFilter: the packet's source is not where the packet came from, as routing
// has it, and the reverse-path check dropped the packet: the kernel's own
// (rp_filter, net/ipv4/fib_frontend.c), or a rule that asks the same.
func rpFilter(s *scene) *cause {
	if c := s.reversePathRule(); c != nil {
		return c
	}
	d := s.detour()
	if d == nil || !d.back {
		return s.forged()
	}
	c := d.cause(s)
	c.code = RPFilter
	if s.end.Drop != nil && !d.asked {
		c.confidence = report.Observed
	}
	if d.home == d.in && d.ownRoute() == nil {
		c.summary += fmt.Sprintf(" %s has the address %s, and the route to its network is missing.", d.home.Name, d.prefix)
		c.advice = "The kernel makes that route when the address is added; add it again:"
		c.fix = s.leadHome(d)
		return c
	}
	c.advice = fmt.Sprintf("Where the way there and the way back may differ, let %s take what it has any route back to (RFC 3704, loose mode):", d.in.Name)
	c.fix = s.commands(d.ns.Name, []string{d.in.Name}, fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", d.in.Name))
	return c
}

// forged: the kernel says that rp_filter dropped the packet, or rp_filter kept
// the question for the next hop's hardware address from being answered, and
// there is no route to the source at all: not even loose mode takes that.
func (s *scene) forged() *cause {
	if c := s.unroutedAsker(); c != nil {
		return c
	}
	ns := s.now(s.end.NetNS)
	if s.end.Kind != path.Vanished || s.end.Drop == nil || s.end.Drop.Reason != "IP_RPFILTER" || ns == nil {
		return nil
	}
	in := ns.Link(s.query(ns).Ingress)
	if in == nil {
		return nil
	}
	source, mode := s.end.Tuple.Src, max(ns.All.RPFilter, in.Settings.RPFilter)
	c := &cause{
		code: RPFilter, netns: ns.Name, iface: s.end.Interface, confidence: report.Observed, mechanism: s.seen.Mechanism,
		summary:  fmt.Sprintf("%s came to %s at %s and went no further: rp_filter is %d there, and ", s.what(), the(ns.Name), in.Name, mode),
		evidence: []string{s.fact("setting", ns.Name, "rp_filter of %s = %d (the larger of its own and that of all)", in.Name, mode)},
	}
	back := ns.Lookup(topology.Query{Source: s.end.Tuple.Dst, Target: source})
	if back.Route == nil && !back.Undetermined {
		c.summary += fmt.Sprintf("there is no route to its source %s.", source)
		c.evidence = append(c.evidence, s.fact("route", ns.Name, "no route to %s", source))
		c.advice = fmt.Sprintf("%s needs a route to %s by %s.", subject(ns.Name), source, in.Name)
		if owner := s.now(s.ownerOf(source)); owner != nil && s.adjacent(ns, in, owner) {
			c.advice = fmt.Sprintf("%s needs a route to %s:", subject(ns.Name), source)
			c.fix = s.commands(ns.Name, []string{in.Name}, fmt.Sprintf("ip route add %s dev %s", source, in.Name))
		}
		return c
	}
	c.summary += fmt.Sprintf("it would not send to its source %s by that interface.", source)
	c.advice = fmt.Sprintf("Give %s a route to %s by %s; or let that interface take what it has any route back to (RFC 3704, loose mode):", the(ns.Name), source, in.Name)
	if mode == 1 {
		c.fix = s.commands(ns.Name, []string{in.Name}, fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", in.Name))
	}
	return c
}

// unroutedAsker: the next hop has no route to who asks for its hardware
// address, and so takes the question for forged (arp_process, net/ipv4/arp.c).
func (s *scene) unroutedAsker() *cause {
	o := s.outlook()
	if o == nil || o.owner == nil || o.owner == o.ns || o.owner != o.far || !o.next.Is4() || !s.unspoken(o) {
		return nil
	}
	asker, in := o.query.Source, o.owner.Local(o.next)
	if !asker.IsValid() {
		asker = ownAddress(o.link, o.next)
	}
	mode := max(o.owner.All.RPFilter, in.Settings.RPFilter)
	back := o.owner.Lookup(topology.Query{Source: o.next, Target: asker})
	if !asker.IsValid() || mode == 0 || back.Route != nil || back.Policy != nil || back.Undetermined {
		return nil
	}
	c := &cause{
		code: RPFilter, netns: o.owner.Name, iface: in.Name, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s did not get to the gateway %s: %s has no route to %s, and so takes what it asks at %s for forged (rp_filter is %d there).",
			s.what(), o.next, the(o.owner.Name), asker, in.Name, mode),
		evidence: []string{
			s.fact("route", o.owner.Name, "no route to %s", asker),
			s.fact("setting", o.owner.Name, "rp_filter of %s = %d (the larger of its own and that of all)", in.Name, mode),
		},
		advice: fmt.Sprintf("%s needs a route to %s by %s:", subject(o.owner.Name), asker, in.Name),
		fix:    s.commands(o.owner.Name, []string{in.Name}, fmt.Sprintf("ip route add %s dev %s", asker, in.Name)),
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	return c
}

// reversePath is what a rule has in its text that drops what has no way back by
// the interface that it came in by: iptables' match rpfilter, nft's fib.
var reversePath = regexp.MustCompile(`-m rpfilter |fib saddr\b.*\biif\b.* oif (eq |== )?(missing|0)\b`)

// reversePathRule: such a rule dropped it.
func (s *scene) reversePathRule() *cause {
	if s.end.Kind != path.Dropped || s.end.Policy || s.end.Rule == nil || !reversePath.MatchString(s.end.Rule.Text) {
		return nil
	}
	ns := s.now(s.end.NetNS)
	if ns == nil {
		return nil
	}
	in := ns.Link(s.end.Interface)
	if bridge := bridgeOf(ns, s.end.Interface); bridge != nil {
		in = bridge
	}
	if in == nil {
		return nil
	}
	d := reverse(ns, in, s.end.Tuple.Src, s.end.Tuple.Dst)
	how, fact := "there is no way back to its source", fmt.Sprintf("no route to %s", s.end.Tuple.Src)
	if route := d.decision.Route; route != nil {
		hops := d.decision.NextHops()
		if d.decision.Undetermined || len(hops) != 1 || hops[0].Interface == in.Name {
			return nil
		}
		how = fmt.Sprintf("the way back to its source %s is by %s, because of %s", s.end.Tuple.Src, route.Interface, d.by())
		fact = route.Text
	}
	return &cause{
		code: RPFilter, confidence: report.Observed, evidence: []string{s.fact("route", ns.Name, "%s", fact)},
		summary: fmt.Sprintf("%s came to %s at %s and was dropped%s by a rule of chain %s that checks the reverse path: %s.",
			s.what(), the(ns.Name), in.Name, hooked(s.end), chainOf(s.end.Rule), how),
	}
}
