package diagnose

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// martianDrops are the kernel's words for a source or a destination that may
// not be where it came in (ip_route_input_slow, fib_validate_source).
var martianDrops = []string{"IP_LOCALNET", "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE", "IP_INVALID_DEST", "INVALID_PROTO"}

// martian: the packet came in with a source that is an address of the
// namespace itself, or for a loopback address, or otherwise with an address
// that is not allowed on the wire.
func martian(s *scene) *cause {
	if c := s.claimed(); c != nil {
		return c
	}
	ns := s.now(s.end.NetNS)
	d := s.end.Drop
	if ns == nil || s.end.Kind != path.Vanished || s.end.Bridged || d != nil && !slices.Contains(martianDrops, d.Reason) && d.Reason != "IP_RPFILTER" {
		return nil
	}
	in := s.query(ns).Ingress
	if in == "" || ns.Link(in) == nil || ns.Link(in).Kind == "loopback" {
		return nil
	}
	t := s.end.Tuple
	c := &cause{code: Martian, netns: ns.Name, iface: s.end.Interface, confidence: report.Reconstructed, mechanism: s.seen.Mechanism}
	if d != nil {
		c.confidence = report.Observed
	}
	switch owner := ns.Local(t.Src); {
	case owner != nil && t.Src.Is4():
		c.summary = fmt.Sprintf("%s came to %s at %s with the source %s, which is an address of %s itself (on %s): the kernel takes it for forged.",
			s.what(), the(ns.Name), in, t.Src, the(ns.Name), owner.Name)
		c.evidence = []string{s.fact("address", ns.Name, "%s has %s", owner.Name, t.Src)}
		c.advice = fmt.Sprintf("%s belongs to %s. Take it from %s:", t.Src, the(s.in.Probe.NetNS), the(ns.Name))
		c.fix = s.takeAddress(ns, owner, t.Src)
	case t.Dst.Is4() && t.Dst.IsLoopback() || s.sentToLoopback():
		c.summary = fmt.Sprintf("%s was for a loopback address when %s came to route it: what comes in from outside may not go there.", s.what(), the(ns.Name))
		c.advice = fmt.Sprintf("Send it to an address that is not a loopback's; or, if that is what is meant, let it (then all that listens on the loopback can be reached by way of %s):", in)
		c.fix = s.commands(ns.Name, []string{in}, fmt.Sprintf("sysctl -w net.ipv4.conf.%s.route_localnet=1", in))
	case d != nil && d.Reason != "IP_RPFILTER":
		c.summary = fmt.Sprintf("%s came to %s at %s with an address that is not allowed there: %s → %s.", s.what(), the(ns.Name), in, t.Src, t.Dst)
		c.advice = "Correct the address: it is none that a packet on a wire may have there."
	default:
		return nil
	}
	return c
}

// sentToLoopback reports whether the last rule that is known of the packet gave
// it a loopback address as destination.
func (s *scene) sentToLoopback() bool {
	for _, hop := range slices.Backward(s.path.Hops) {
		for _, step := range slices.Backward(hop.Steps) {
			if hop.NetNS == s.end.NetNS && step.Rule != nil && loopbackTarget.MatchString(step.Rule.Text) {
				return true
			}
		}
	}
	return false
}

// loopbackTarget is what a DNAT rule to a loopback address has in its text.
var loopbackTarget = regexp.MustCompile(`(--to-destination|dnat (ip )?to) 127\.`)

// claimed: the machine that the packet was to be handed to has the packet's own
// source as an address. It does not answer when it is asked for its hardware
// address from there.
func (s *scene) claimed() *cause {
	o := s.outlook()
	if o == nil || o.owner == nil || o.owner == o.ns || !o.query.Source.Is4() || !s.unspoken(o) {
		return nil
	}
	link := o.owner.Local(o.query.Source)
	if link == nil {
		return nil
	}
	c := &cause{
		code: Martian, netns: o.owner.Name, iface: link.Name, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s could not be handed to %s: that has the address %s as well (on %s), and answers nobody who asks from its own address.",
			s.what(), the(o.owner.Name), o.query.Source, link.Name),
		evidence: []string{s.fact("address", o.owner.Name, "%s has %s", link.Name, o.query.Source)},
		advice:   fmt.Sprintf("%s belongs to %s. Take it from %s:", o.query.Source, the(o.ns.Name), the(o.owner.Name)),
		fix:      s.takeAddress(o.owner, link, o.query.Source),
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	return c
}

// takeAddress are the commands that take an address from a link.
func (s *scene) takeAddress(ns *topology.Namespace, link *topology.Link, a netip.Addr) []string {
	i := slices.IndexFunc(link.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	return s.commands(ns.Name, []string{link.Name}, fmt.Sprintf("ip addr del %s dev %s", link.Addresses[i], link.Name))
}
