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
	if advice, fix := s.properRouter(ns); len(fix) > 0 {
		c.advice, c.fix = advice, fix
		return c
	}
	if line, ok := s.command(ns.Name, "sysctl -w %s=1", key); ok {
		c.advice, c.fix = subject(ns.Name)+" has to forward packets:", []string{line}
	}
	return c
}

// properRouter is what leads the source past a namespace that has one interface
// only, and so is no router, to the one that is there.
func (s *scene) properRouter(ns *topology.Namespace) (string, []string) {
	outward := 0
	for i := range ns.Links {
		if l := &ns.Links[i]; l.Kind != "loopback" && l.Up && len(l.Addresses) > 0 {
			outward++
		}
	}
	source := s.now(s.in.Topology.Source)
	target := s.in.Topology.Target
	route := source.Lookup(topology.Query{Source: s.in.Probe.Tuple.Src, Target: target}).Route
	if outward != 1 || s.leg != "request" || route == nil || !route.Gateway.IsValid() || ns.Local(route.Gateway) == nil || route.Destination.Bits() != 0 {
		return "", nil
	}
	link := source.Link(route.Interface)
	if link == nil {
		return "", nil
	}
	gateway := s.gateway(source, link, target)
	if !gateway.IsValid() || gateway == route.Gateway {
		return "", nil
	}
	return fmt.Sprintf("%s has no other interface than that: it is no router. The one that is there is %s:", subject(ns.Name), gateway),
		s.commands(source.Name, []string{link.Name}, fmt.Sprintf("%s route replace default via %s dev %s", ipCommand(gateway), gateway, link.Name))
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
