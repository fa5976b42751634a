package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// sentBack: a router sent the packet out by the interface that it had come in
// by, back to the machine that it came from, because it knows nothing better
// than its default route. What became of the packet afterwards, in circles or at
// a firewall, follows from that.
func sentBack(s *scene) *cause {
	b := s.bounce()
	if b == nil {
		return nil
	}
	c := &cause{
		code: NoRoute, netns: b.ns.Name, iface: b.link.Name, confidence: report.Reconstructed, byRule: true, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s came to %s, which has no route to %s: %q sent it back to where it had come from%s.",
			s.what(), the(b.ns.Name), b.network, b.route.Text, b.sender()),
		evidence: []string{s.fact("route", b.ns.Name, "%s", b.route.Text)},
		advice:   fmt.Sprintf("%s needs a route to %s, if that is behind it; otherwise the route of %s that leads there is wrong.", subject(b.ns.Name), b.network, the(b.from)),
	}
	if via := b.onward; via != nil {
		c.evidence = append(c.evidence, s.fact("route", via.owner.Name, "%s", via.route.Text))
		c.advice = fmt.Sprintf("%s needs a route to %s; %s, which is connected to it, has one:", subject(b.ns.Name), b.network, via.owner.Name)
		c.fix = s.commands(b.ns.Name, []string{via.link.Name}, via.command())
	}
	if rule := s.seen.Rule; rule != nil {
		c.mechanism = fmt.Sprintf("sent back, and then dropped %s in chain %s by %q", where(s.seen.NetNS), chainOf(rule), rule.Text)
	}
	return c
}

// bounce is a namespace that sent a packet back where it had come from.
type bounce struct {
	ns *topology.Namespace
	// link is the interface by which the packet came and went, route the default
	// route that it was sent by, from the namespace that it came from and that
	// was to have it again, empty when that is not visible.
	link  *topology.Link
	route *topology.Route
	from  string
	// onward is what leads on, nil when it is not visible; network is the one
	// that a route is missing to.
	onward  *onward
	network netip.Prefix
}

// sender names the machine that the packet went back to, if it is visible.
func (b *bounce) sender() string {
	if b.from == "" {
		return ""
	}
	return ", " + the(b.from)
}

// bounce returns nil unless it is known which of two routes that lead to one
// another is wrong: another machine leads on, or the one that the packet came
// from has a route of its own for it and the packet did not go round.
func (s *scene) bounce() *bounce {
	hops := s.path.Hops
	for i := 0; i+1 < len(hops); i++ {
		in, out := &hops[i], &hops[i+1]
		if in.Direction != "ingress" || out.Direction != "egress" || in.NetNS != out.NetNS || in.Interface != out.Interface || in.Bridge != "" {
			continue
		}
		q := topology.Query{Source: addressOf(in.Tuple.Source), Target: addressOf(out.Tuple.Destination), Ingress: in.Interface, Proto: s.in.Probe.Tuple.Proto}
		if b := s.bouncedBy(s.now(in.NetNS), q); b != nil {
			return b
		}
	}
	return nil
}

// bouncedBy is the bounce of a packet that left a namespace by the interface
// that it had come in by, or nil.
func (s *scene) bouncedBy(ns *topology.Namespace, q topology.Query) *bounce {
	b := &bounce{ns: ns, link: ns.Link(q.Ingress)}
	decision := ns.Lookup(q)
	if b.link == nil || decision.Undetermined || decision.Route == nil || decision.Route.Interface != q.Ingress || !everywhere(decision.Route.Destination) {
		return nil
	}
	b.route, b.from = decision.Route, s.ownerOf(decision.Route.Gateway)
	meant := s.now(b.from).Lookup(topology.Query{Source: q.Source, Target: q.Target}).Route
	if meant != nil && (everywhere(meant.Destination) || ns.Local(meant.Gateway) == nil) {
		meant = nil
	}
	switch b.onward = s.leadsOn(ns, q); {
	case b.onward != nil && (meant != nil || s.leg == "reply"):
		b.network = b.onward.route.Destination
	case meant != nil && len(circle(s.path.Hops)) == 0:
		b.network = meant.Destination
	default:
		return nil
	}
	return b
}

// onward is a visible machine that is connected to a namespace and leads to a
// target: its address, the namespace's link towards it, and the route that it
// would take.
type onward struct {
	owner *topology.Namespace
	via   netip.Addr
	link  *topology.Link
	route *topology.Route
}

// command is the route to it.
func (o *onward) command() string {
	prefix := o.route.Destination.String()
	if o.route.Destination.Bits() == 0 {
		prefix = "default"
	}
	return fmt.Sprintf("%s route add %s via %s dev %s", ipCommand(o.via), prefix, o.via, o.link.Name)
}

// leadsOn is the only machine that is connected to a namespace, by another link
// than the one that the packet came in by, forwards, and has a route to the
// target that does not lead back; nil when there is none, or several.
func (s *scene) leadsOn(ns *topology.Namespace, q topology.Query) *onward {
	var found *onward
	for i := range ns.Links {
		link := &ns.Links[i]
		if !link.Up || link.Bridge != "" || link.Name == q.Ingress || link.Kind == "loopback" {
			continue
		}
		for _, other := range s.connected(ns, link) {
			o := s.leads(ns, link, other, q)
			if o == nil {
				continue
			}
			if found != nil {
				return nil
			}
			found = o
		}
	}
	return found
}

// leads is how another namespace at a link leads to the target; nil when it does
// not.
func (s *scene) leads(ns *topology.Namespace, link *topology.Link, other *topology.Namespace, q topology.Query) *onward {
	for _, p := range familyOf(link, q.Target) {
		for k := range other.Links {
			at := &other.Links[k]
			for _, a := range familyOf(at, q.Target) {
				if !p.Contains(a.Addr()) || ns.Local(a.Addr()) != nil {
					continue
				}
				if on, _ := forwards(other, at, q.Target); !on {
					continue
				}
				d := other.Lookup(topology.Query{Source: q.Source, Target: q.Target, Ingress: at.Name, Proto: q.Proto})
				if d.Undetermined || d.Route == nil || len(d.NextHops()) != 1 || d.NextHops()[0].Interface == at.Name {
					continue
				}
				return &onward{owner: other, via: a.Addr(), link: link, route: d.Route}
			}
		}
	}
	return nil
}

// connected are the visible namespaces at the other end of a link's cable, or
// behind another port of the bridge that the cable ends at.
func (s *scene) connected(ns *topology.Namespace, link *topology.Link) []*topology.Namespace {
	var all []*topology.Namespace
	for i := range s.in.Topology.Namespaces {
		other := s.now(s.in.Topology.Namespaces[i].Name)
		if other.Name != ns.Name && (s.adjacent(ns, link, other) || s.acrossBridge(link, other)) {
			all = append(all, other)
		}
	}
	return all
}

// acrossBridge reports whether a link's cable ends at a port of a bridge that a
// cable of the other namespace ends at as well.
func (s *scene) acrossBridge(link *topology.Link, other *topology.Namespace) bool {
	if link.Peer == nil {
		return false
	}
	between := s.now(link.Peer.NetNS)
	port := between.Link(link.Peer.Interface)
	if port == nil || port.Bridge == "" {
		return false
	}
	return slices.ContainsFunc(between.Links, func(l topology.Link) bool {
		return l.Bridge == port.Bridge && l.Name != port.Name && l.Peer != nil && l.Peer.NetNS == other.Name
	})
}
