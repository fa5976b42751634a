package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// handover is the last time that a lost packet was given to a next hop that can
// be seen, and where it did not arrive.
type handover struct {
	ns   *topology.Namespace
	link *topology.Link
	// next is the next hop's address, entry the neighbour entry for it, owner
	// and far who has it, and on which interface.
	next  netip.Addr
	entry *topology.Neighbour
	owner *topology.Namespace
	far   *topology.Link
}

// handover returns nil unless all of it is known, and only one namespace has
// the next hop's address.
func (s *scene) handover() *handover {
	if s.end.Kind != path.Left && s.end.Kind != path.Vanished && s.end.FrameFor == "" || s.end.Drop != nil {
		return nil
	}
	for _, stay := range slices.Backward(staysOf(s.path.Hops)) {
		if stay.out == "" {
			continue
		}
		h := &handover{ns: s.now(stay.netns)}
		if h.link = h.ns.Link(stay.out); h.link == nil {
			return nil
		}
		target := addressOf(stay.after.Destination)
		hops := h.ns.Lookup(topology.Query{Source: stay.source, Target: target, Ingress: stay.in, Mark: s.end.Mark}).NextHops()
		if len(hops) != 1 || hops[0].Interface != stay.out {
			if stay.in == stay.out { // it was passed on by the bridge, not by routing
				continue
			}
			return nil
		}
		if h.next = hops[0].Gateway; !h.next.IsValid() {
			h.next = target
		}
		for i := range s.in.Topology.Namespaces {
			ns := s.now(s.in.Topology.Namespaces[i].Name)
			far := ns.Local(h.next)
			switch {
			case far == nil || !s.sameWire(h.ns, h.link, ns):
			case h.owner != nil || ns == h.ns:
				return nil
			default:
				h.owner, h.far = ns, far
			}
		}
		if h.owner == nil || h.far.MAC == "" {
			return nil
		}
		// By now the entry may have failed: then it is the one of before.
		for _, ns := range []*topology.Namespace{s.before(h.ns.Name), h.ns} {
			if n := neighbourOf(ns, h.next, h.link.Name); n != nil && n.MAC != "" {
				h.entry = n
			}
		}
		if h.entry == nil {
			return nil
		}
		return h
	}
	return nil
}

// neighbourOf is the neighbour entry for an address on a link, or nil.
func neighbourOf(ns *topology.Namespace, address netip.Addr, link string) *topology.Neighbour {
	i := slices.IndexFunc(ns.Neighbours, func(n topology.Neighbour) bool { return n.Address == address && n.Interface == link })
	if i < 0 {
		return nil
	}
	return &ns.Neighbours[i]
}

// sameWire reports whether a namespace is at the other end of a link's cable, or
// at another port of the bridge that is there.
func (s *scene) sameWire(ns *topology.Namespace, link *topology.Link, other *topology.Namespace) bool {
	if s.adjacent(ns, link, other) || link.Peer == nil {
		return s.adjacent(ns, link, other)
	}
	far := s.now(link.Peer.NetNS)
	port := far.Link(link.Peer.Interface)
	bridge := far.Link(portOf(port))
	return bridge != nil && s.adjacent(far, bridge, other)
}

// portOf is the name of the bridge that a link is a port of, empty for none.
func portOf(link *topology.Link) string {
	if link == nil {
		return ""
	}
	return link.Bridge
}

// staleNeighbour: the packet went out in a frame for a hardware address that
// the next hop does not have. An entry that somebody made permanent, or one
// that has not been tried since the next hop got another address.
func staleNeighbour(s *scene) *cause {
	h := s.handover()
	if h == nil || slices.ContainsFunc(h.owner.Links, func(l topology.Link) bool { return l.MAC == h.entry.MAC }) {
		return nil
	}
	c := &cause{
		code: NeighbourStale, netns: h.ns.Name, iface: h.link.Name, outcome: report.Lost, confidence: report.Reconstructed,
		summary: fmt.Sprintf("%s left %s at %s in a frame for %s, which is what its neighbour table has for %s (%s). The hardware address of %s, which has that address, is %s: it did not take the frame.",
			s.what(), the(h.ns.Name), h.link.Name, h.entry.MAC, h.next, h.entry.State, the(h.owner.Name), h.far.MAC),
		evidence: []string{
			s.fact("neighbour", h.ns.Name, "%s dev %s lladdr %s %s", h.next, h.link.Name, h.entry.MAC, h.entry.State),
			s.fact("link", h.owner.Name, "%s has %s and the hardware address %s", h.far.Name, h.next, h.far.MAC),
		},
		advice: "Delete the entry; the kernel asks again:",
	}
	c.fix = s.commands(h.ns.Name, []string{h.link.Name}, fmt.Sprintf("ip neigh del %s dev %s", h.next, h.link.Name))
	for _, f := range h.ns.Forwarding {
		if f.MAC == h.entry.MAC && f.Bridge == h.link.Name {
			c.summary += fmt.Sprintf(" What has %s is behind the port %s, and took it.", f.MAC, f.Interface)
			c.evidence = append(c.evidence, s.fact("bridge", h.ns.Name, "%s dev %s master %s %s", f.MAC, f.Interface, f.Bridge, f.State))
			c.advice = fmt.Sprintf("If that machine has the address %s as well, give one of the two another. Then delete the entry; the kernel asks again:", h.next)
		}
	}
	return c
}

// wrongPort: a frame for a machine behind one port of a bridge went to another
// port, where the bridge's forwarding table has the machine's hardware address.
// The frame may be the packet's, or the answer to the question for the hardware
// address of the bridge itself, without which nothing is sent.
func wrongPort(s *scene) *cause {
	if h := s.handover(); h != nil && h.entry.MAC == h.far.MAC && h.link.Kind == "bridge" {
		port := slices.IndexFunc(h.ns.Links, func(l topology.Link) bool {
			return l.Bridge == h.link.Name && l.Peer != nil && l.Peer.NetNS == h.owner.Name && l.Peer.Interface == h.far.Name
		})
		if port < 0 {
			return nil
		}
		c := s.misplaced(h.ns, &h.ns.Links[port], h.owner, h.far)
		if c != nil {
			c.outcome, c.summary = report.Lost, fmt.Sprintf("%s was for %s. ", s.what(), the(h.owner.Name))+c.summary
		}
		return c
	}
	o := s.outlook()
	if o == nil || o.link == nil || !s.unspoken(o) || o.farLink == nil || o.farLink.Bridge == "" {
		return nil
	}
	c := s.misplaced(o.far, o.farLink, o.ns, o.link)
	if c != nil {
		c.summary = fmt.Sprintf("%s could not be sent: %s gets no answer when it asks for %s. ", s.what(), the(o.ns.Name), o.next) + c.summary
		if s.unsent() {
			c.outcome = report.Unsent
		}
	}
	return c
}

// misplaced: the forwarding table of a bridge has a machine's interface behind
// another port than the one that leads to it.
func (s *scene) misplaced(ns *topology.Namespace, port *topology.Link, machine *topology.Namespace, far *topology.Link) *cause {
	at := slices.IndexFunc(ns.Forwarding, func(f topology.Forwarding) bool {
		return f.MAC == far.MAC && f.Bridge == port.Bridge && f.Interface != port.Name
	})
	right := slices.ContainsFunc(ns.Forwarding, func(f topology.Forwarding) bool { // perhaps in another VLAN
		return f.MAC == far.MAC && f.Interface == port.Name
	})
	if at < 0 || right || far.MAC == "" {
		return nil
	}
	wrong := ns.Forwarding[at]
	c := &cause{
		code: WrongPort, netns: ns.Name, iface: wrong.Interface, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s is behind the port %s of the bridge %s, and the bridge's forwarding table has its hardware address %s behind the port %s (%s): frames for it go there.",
			subject(machine.Name), port.Name, port.Bridge, far.MAC, wrong.Interface, wrong.State),
		evidence: []string{
			s.fact("bridge", ns.Name, "%s dev %s master %s %s", wrong.MAC, wrong.Interface, wrong.Bridge, wrong.State),
			s.fact("link", machine.Name, "%s has the hardware address %s", far.Name, far.MAC),
		},
		advice: "Delete the entry; the bridge learns the right one. If it comes back, two machines use one hardware address:",
	}
	c.fix = s.commands(ns.Name, []string{wrong.Interface}, fmt.Sprintf("bridge fdb del %s dev %s master", wrong.MAC, wrong.Interface))
	return c
}
