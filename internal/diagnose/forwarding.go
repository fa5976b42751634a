package diagnose

import (
	"fmt"
	"net/netip"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// forwardingOff: the packet came in for somebody else, was neither forwarded
// nor refused by a rule, and the switch that lets it be forwarded is off. IPv4
// asks the switch of the interface that it came in by (ip_error,
// net/ipv4/route.c), IPv6 that of all (ip6_forward, net/ipv6/ip6_output.c).
func forwardingOff(s *scene) *cause {
	ns := s.now(s.end.NetNS)
	if s.end.Kind != path.Vanished || ns == nil || !s.end.Tuple.Dst.IsValid() || ns.Local(s.end.Tuple.Dst) != nil || s.end.Bridged || s.end.NextNetNS != "" { // the last: it has left
		return nil
	}
	link := ns.Link(s.end.Interface)
	if link == nil {
		return nil
	}
	if link.Bridge != "" {
		if link = ns.Link(link.Bridge); link == nil {
			return nil
		}
	}
	if s.end.Drop != nil && s.end.Drop.Reason != "IP_INADDRERRORS" {
		return nil
	}
	on, key := forwards(ns, link, s.end.Tuple.Dst)
	if on {
		return nil
	}
	c := &cause{
		code: ForwardingOff, confidence: report.Reconstructed,
		summary:  fmt.Sprintf("%s came to %s at %s and was to be forwarded, but forwarding is off there (%s = 0).", s.what(), the(ns.Name), s.end.Interface, key),
		evidence: []string{s.fact("setting", ns.Name, "%s = 0", key)},
	}
	if s.end.Drop != nil {
		c.confidence = report.Observed
	}
	if line, ok := s.command(ns.Name, "sysctl -w %s=1", key); ok {
		c.advice, c.fix = subject(ns.Name)+" has to forward packets:", []string{line}
	}
	return c
}

// forwards reports whether a namespace forwards what comes in by a link for a
// target, and which setting says so.
func forwards(ns *topology.Namespace, link *topology.Link, target netip.Addr) (on bool, key string) {
	switch {
	case target.Is6():
		return ns.All.ForwardIPv6, "net.ipv6.conf.all.forwarding"
	case !ns.All.ForwardIPv4:
		return link.Settings.ForwardIPv4, "net.ipv4.ip_forward"
	}
	return link.Settings.ForwardIPv4, "net.ipv4.conf." + link.Name + ".forwarding"
}
