package diagnose

import (
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
)

// outlook is how the namespace in which a packet ended would have sent it on.
type outlook struct {
	ns    *topology.Namespace
	query topology.Query
	// decision is its routing; link the interface of the chosen route, nil when
	// there is none, next the address that it asks for there.
	decision topology.Decision
	link     *topology.Link
	next     netip.Addr
	// far is the namespace at the other end of the link's cable, farLink its
	// interface there; both nil where that cannot be seen.
	far     *topology.Namespace
	farLink *topology.Link
	// owner is the visible namespace that has the next address, or nil.
	owner *topology.Namespace
}

// outlook returns nil unless the packet ended where it was to be routed, and
// nothing that was seen of its end has to do with something else.
func (s *scene) outlook() *outlook {
	ns := s.now(s.seen.NetNS)
	if ns == nil || s.end.Diverted || !s.stuck(ns) {
		return nil
	}
	return s.look(ns, s.query(ns))
}

// look is how a namespace would send a packet on.
func (s *scene) look(ns *topology.Namespace, q topology.Query) *outlook {
	o := &outlook{ns: ns, query: q}
	o.decision = ns.Lookup(o.query)
	if !s.in.Sensors.Traced[ns.Name] && slices.ContainsFunc(ns.Policy, func(p topology.Policy) bool { return p.MarkMask != 0 }) {
		o.decision.Undetermined = true // a rule that was not seen may have marked it
	}
	hops := o.decision.NextHops()
	if len(hops) == 0 && s.in.Topology.Zone != "" && s.seen.NetNS == s.in.Probe.NetNS {
		hops = []topology.NextHop{{Interface: s.in.Topology.Zone}}
	}
	if len(hops) != 1 {
		return o
	}
	o.link, o.next = ns.Link(hops[0].Interface), hops[0].Gateway
	if !o.next.IsValid() {
		o.next = o.query.Target
	}
	if o.link != nil && o.link.Peer != nil {
		o.far = s.now(o.link.Peer.NetNS)
		o.farLink = o.far.Link(o.link.Peer.Interface)
	}
	if name := s.ownerOf(o.next); name != "" {
		o.owner = s.now(name)
	}
	return o
}

// routingDrops are the kernel's words for packets that it could not route, or
// had no neighbour for. NOT_SPECIFIED may be that.
var routingDrops = []string{
	"IP_INNOROUTES", "IP_OUTNOROUTES", "NEIGH_FAILED", "NEIGH_QUEUEFULL", "NEIGH_DEAD", "NOT_SPECIFIED", "QUEUE_PURGE", "QDISC_DROP", "DEV_READY",
}

// stuck reports whether the packet ended in a namespace that had to route it:
// it was never sent, it came in and did not go out, or an ICMP error of that
// namespace says that it could not be sent on.
func (s *scene) stuck(ns *topology.Namespace) bool {
	if d := s.end.Drop; d != nil && !slices.Contains(routingDrops, d.Reason) {
		return false
	}
	if a := &s.in.Path.Answer; s.leg == "request" && a.Kind == path.Error && a.NetNS == ns.Name && s.end.NetNS == ns.Name {
		return true
	}
	switch s.end.Kind {
	case path.Unseen:
		return true
	case path.Vanished:
		return s.end.NetNS == ns.Name && s.end.Parked && !s.end.Bridged && s.end.WayBack == ""
	case path.Delivered, path.Left:
		return false
	}
	return false
}

// unsent reports whether the packet ended in the source, before any interface
// saw it.
func (s *scene) unsent() bool {
	return s.leg == "request" && s.path.First == nil && s.seen.NetNS == s.in.Topology.Source && s.end.Kind != path.Dropped
}

// query is the packet as the namespace in which it ended had to route it.
func (s *scene) query(ns *topology.Namespace) topology.Query {
	t := s.end.Tuple
	if d := s.end.Drop; !t.Dst.IsValid() && d != nil {
		t = d.Header.Tuple // it came to no interface
	}
	if !t.Dst.IsValid() {
		t = s.in.Probe.Tuple
		t.Dst = s.in.Topology.Target
	}
	q := topology.Query{
		Source: t.Src, Target: t.Dst, Mark: s.end.Mark, Proto: t.Proto, SourcePort: t.SrcPort, TargetPort: t.DstPort,
	}
	if n := len(s.path.Hops); n > 0 {
		if hop := &s.path.Hops[n-1]; hop.NetNS == ns.Name && hop.Direction == "ingress" {
			q.Ingress = hop.Interface
			if bridge := bridgeOf(ns, hop.Interface); bridge != nil {
				q.Ingress = bridge.Name
			}
		}
	}
	if q.Ingress == "" && ns.Name == s.in.Topology.Source {
		q.Egress = s.in.Topology.Zone
	}
	return q
}

// noRoute reports whether no route, and no policy rule of a kind that ends the
// lookup, takes the packet.
func (o *outlook) noRoute() bool {
	return o.decision.Route == nil && o.decision.Policy == nil && !o.decision.Undetermined && o.link == nil
}

// unspoken reports whether the next address was asked for and did not answer,
// or could not even be asked for.
func (s *scene) unspoken(o *outlook) bool {
	if o.link == nil {
		return false
	}
	if d := s.end.Drop; d != nil && (d.Reason == "NEIGH_FAILED" || d.Function == "neigh_invalidate") {
		return true
	}
	if s.seen.Code == Neighbour {
		return true
	}
	return slices.ContainsFunc(o.ns.Neighbours, func(n topology.Neighbour) bool {
		return n.Address == o.next && n.Interface == o.link.Name && (n.State == "failed" || n.State == "incomplete")
	})
}

// ipCommand is "ip", or "ip -6" for what has to do with IPv6.
func ipCommand(a netip.Addr) string {
	if a.Is6() {
		return "ip -6"
	}
	return "ip"
}

// familyOf tells the two families of links' addresses apart.
func familyOf(link *topology.Link, like netip.Addr) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(link.Addresses), func(p netip.Prefix) bool {
		return p.Addr().Is4() != like.Is4() || p.Addr().IsLinkLocalUnicast()
	})
}

// text is the chosen route as "ip route" prints it.
func (o *outlook) text() string {
	if o.decision.Route == nil {
		return "no route"
	}
	return o.decision.Route.Text
}
