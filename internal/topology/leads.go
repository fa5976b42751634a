package topology

import (
	"net/netip"
	"slices"
)

// Leads reports whether what a namespace sends to an address may come to another
// namespace that has it. It does not where the address is the namespace's own, or is
// in a network that it has on a link which visibly leads elsewhere: the same private
// address is another machine's there.
func (s *Snapshot) Leads(netns string, address netip.Addr, to string) bool {
	ns := s.Namespace(netns)
	if ns == nil || ns.Local(address) != nil {
		return false
	}
	hops := ns.Lookup(Query{Target: address}).NextHops()
	return len(hops) == 0 || slices.ContainsFunc(hops, func(hop NextHop) bool {
		return hop.Gateway.IsValid() || s.reaches(ns, ns.Link(hop.Interface), to)
	})
}

// reaches reports whether a namespace may be on the segment behind a link.
func (s *Snapshot) reaches(ns *Namespace, link *Link, to string) bool {
	switch {
	case link == nil:
		return false
	case link.Kind == "bridge":
		return slices.ContainsFunc(ns.Links, func(port Link) bool {
			return port.Bridge == link.Name && (port.Peer == nil || s.wired(port.Peer, to))
		})
	case link.Peer != nil:
		return s.wired(link.Peer, to)
	}
	return true
}

// wired reports whether the far end of a cable is in a namespace, or at a bridge or
// out of sight, from where it may go on to it.
func (s *Snapshot) wired(peer *Peer, to string) bool {
	far := s.Namespace(peer.NetNS)
	if far == nil || peer.NetNS == to {
		return true
	}
	link := far.Link(peer.Interface)
	return link == nil || link.Bridge != ""
}
