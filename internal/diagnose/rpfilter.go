package diagnose

import (
	"fmt"
	"regexp"

	"github.com/pathtrace/pathtrace/internal/path"
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

// forged: the kernel says that rp_filter dropped the packet, and why is not
// known.
func (s *scene) forged() *cause {
	ns := s.now(s.end.NetNS)
	if s.end.Kind != path.Vanished || s.end.Drop == nil || s.end.Drop.Reason != "IP_RPFILTER" || ns == nil {
		return nil
	}
	in := s.query(ns).Ingress
	c := &cause{
		code: RPFilter, netns: ns.Name, confidence: report.Observed, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s came to %s at %s and went no further: rp_filter is on there, and the kernel would not send to its source %s by that interface.",
			s.what(), the(ns.Name), in, s.end.Tuple.Src),
		advice: fmt.Sprintf("Give %s a route to %s by %s; or let that interface take what it has any route back to (RFC 3704, loose mode):", the(ns.Name), s.end.Tuple.Src, in),
	}
	c.fix = s.commands(ns.Name, []string{in}, fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", in))
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
		if route.Interface == in.Name {
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
