package path

import (
	"cmp"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// order puts the sightings of one packet into path order: kernel time first,
// and where two times are equal (taps of one skb share a stamp while any
// process has receive timestamps on) what topology knows.
func order(sightings []capture.Sighting, topo *topology.Snapshot) []capture.Sighting {
	sorted := slices.Clone(sightings)
	slices.SortStableFunc(sorted, func(a, b capture.Sighting) int { return a.Time.Compare(b.Time) })
	for start := 0; start < len(sorted); {
		end := start + 1
		for end < len(sorted) && sorted[end].Time.Equal(sorted[start].Time) {
			end++
		}
		untie(sorted[start:end], topo)
		start = end
	}
	return sorted
}

// untie orders sightings of one instant in place: again and again the first
// that no other of the remaining ones precedes.
func untie(same []capture.Sighting, topo *topology.Snapshot) {
	for i := range same {
		rest := same[i:]
		first := slices.IndexFunc(rest, func(s capture.Sighting) bool {
			return !slices.ContainsFunc(rest, func(other capture.Sighting) bool { return precedes(&other, &s, topo) })
		})
		if first > 0 {
			s := rest[first]
			copy(rest[1:first+1], rest[:first])
			rest[0] = s
		}
	}
}

// precedes reports whether a must have been seen before b.
func precedes(a, b *capture.Sighting, topo *topology.Snapshot) bool {
	if a.Point.NetNS == b.Point.NetNS {
		return a.Number < b.Number // one ring: the kernel's own order
	}
	peer := peerOf(a.Point, topo)
	return a.Direction == capture.Egress && b.Direction == capture.Ingress &&
		peer != nil && peer.NetNS == b.Point.NetNS && peer.Interface == b.Point.Interface
}

func linkOf(p capture.Point, topo *topology.Snapshot) *topology.Link {
	return topo.Namespace(p.NetNS).Link(p.Interface)
}

func peerOf(p capture.Point, topo *topology.Snapshot) *topology.Peer {
	if link := linkOf(p, topo); link != nil {
		return link.Peer
	}
	return nil
}

// withoutCopies keeps the sightings of one packet: those of copies that a
// flooding bridge or another one made are not hops, and their silent end is no
// loss. A frame that nobody took is followed to one that it was offered to.
func withoutCopies(in *Input, ordered []capture.Sighting) []capture.Sighting {
	foreign := make(map[place]bool)
	for i := range ordered {
		s := &ordered[i]
		if !forAnother(s, in.Topology) {
			continue
		}
		peer := peerOf(s.Point, in.Topology)
		if peer != nil {
			if link := in.Topology.Namespace(peer.NetNS).Link(peer.Interface); link != nil && link.Bridge == "" {
				continue // nobody copies on a wire between two
			}
			foreign[place{peer.NetNS, peer.Interface, capture.Egress}] = true
		}
		foreign[place{s.Point.NetNS, s.Point.Interface, s.Direction}] = true
	}
	kept := alongTheWay(in, slices.DeleteFunc(slices.Clone(ordered), func(s capture.Sighting) bool {
		return foreign[place{s.Point.NetNS, s.Point.Interface, s.Direction}]
	}))
	if n := len(kept); n > 0 && n < len(ordered) && bridged(&kept[n-1], in.Topology) && !in.dropped(&kept[n-1]) {
		return alongTheWay(in, ordered)
	}
	return kept
}

// dropped reports whether a rule dropped or rejected the packet, or a copy of
// it, in the namespace of a sighting.
func (in *Input) dropped(s *capture.Sighting) bool {
	return slices.ContainsFunc(in.Hits, func(h ruletrace.Hit) bool {
		return h.NetNS == s.Point.NetNS && (h.Verdict == ruletrace.Drop || h.Verdict == ruletrace.Reject) &&
			s.Header.Compare(&h.Header) == packet.Same
	})
}

// forAnother reports whether an end host received a frame for somebody else's
// hardware address, and not for one of the links above its own.
func forAnother(s *capture.Sighting, topo *topology.Snapshot) bool {
	return passesBy(s, topo) && len(above(s.Point, topo)) == 0
}

// passesBy reports whether a frame that came in by a link that is no bridge
// port is not for the link's own hardware address.
func passesBy(s *capture.Sighting, topo *topology.Snapshot) bool {
	link := linkOf(s.Point, topo)
	to := s.Header.EtherDst
	if s.Direction != capture.Ingress || link == nil || link.Bridge != "" || link.Kind == "bridge" || link.MAC == "" {
		return false
	}
	if to == (packet.HardwareAddr{}) || to[0]&1 == 1 { // no Ethernet, or multicast
		return false
	}
	return to.String() != link.MAC
}

// above returns the links that receive by another one, of which a macvlan has a
// hardware address of its own.
func above(p capture.Point, topo *topology.Snapshot) []*topology.Link {
	var all []*topology.Link
	for i := range topo.Namespaces {
		links := topo.Namespaces[i].Links
		for k := range links {
			if lower := links[k].Lower; lower != nil && lower.NetNS == p.NetNS && lower.Interface == p.Interface {
				all = append(all, &links[k])
			}
		}
	}
	return all
}

// bearer is the namespace that has the link above a point with a hardware address,
// empty when none that is known of has.
func bearer(p capture.Point, topo *topology.Snapshot, mac string) string {
	for i := range topo.Namespaces {
		n := &topo.Namespaces[i]
		if slices.ContainsFunc(n.Links, func(l topology.Link) bool {
			return l.MAC == mac && l.Lower != nil && l.Lower.NetNS == p.NetNS && l.Lower.Interface == p.Interface
		}) {
			return n.Name
		}
	}
	return ""
}

// visit is one stay of a packet in a namespace.
type visit struct {
	netns     string
	sightings []capture.Sighting
}

// visits cuts ordered sightings into stays. A packet that comes in after it
// went out is on its next stay, also in the same namespace; and so is one that
// goes into a tunnel or comes out of it.
func visits(ordered []capture.Sighting) []visit {
	var all []visit
	for _, s := range ordered {
		if n := len(all); n > 0 && all[n-1].netns == s.Point.NetNS {
			last := all[n-1].sightings
			if (s.Carrier == nil) != (last[0].Carrier == nil) {
				all = append(all, visit{netns: s.Point.NetNS, sightings: []capture.Sighting{s}})
				continue
			}
			if s.Direction == capture.Egress || last[len(last)-1].Direction == capture.Ingress {
				all[n-1].sightings = append(last, s)
				continue
			}
		}
		all = append(all, visit{netns: s.Point.NetNS, sightings: []capture.Sighting{s}})
	}
	return all
}

// stage is a place in the kernel's fixed order inside one namespace.
type stage int

// The stages. Bridge-family hooks surround the IP hooks; where br_netfilter
// hands bridged packets to IP's prerouting, that happens before the bridge
// device's own tap (stageBridgedPrerouting), otherwise after it.
const (
	stageIngress stage = iota
	stageNetdevIngress
	stageBridgePrerouting
	stageBridgedPrerouting
	stageBridgeInput
	stageBridgeDevice
	stageBridgeDeviceIngress // the netdev rules of the bridge device
	stagePrerouting
	stageRoute
	stageBridgeForward
	stageForward
	stageInput
	stageDeliver
	stageOutputRoute
	stageOutput
	stagePostrouting
	stageConfirm
	stageBridgeDeviceEgress
	stageBridgeEgress
	stageReturnedForward // IP's forward, of what goes back into its bridge
	stageBridgePostrouting
	stageNetdevEgress
	stageEgress
)

// element is one thing that happened to a packet during a visit. Exactly one
// of sighting and step is set.
type element struct {
	stage stage
	// priority is that of the base chain, for elements of one hook.
	priority int
	// group keeps records of different netlink sockets apart, seq is their
	// order within one.
	group int
	seq   uint64

	sighting *capture.Sighting
	step     *step
}

func compareElements(a, b element) int {
	if c := cmp.Compare(a.stage, b.stage); c != 0 {
		return c
	}
	if a.sighting != nil && b.sighting != nil {
		return 0 // already in path order
	}
	return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.group, b.group), cmp.Compare(a.seq, b.seq))
}
