package path

import (
	"cmp"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
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

// withoutCopies removes the sightings of copies that a flooding bridge made
// for ports behind which the packet's owner does not live. They are not hops,
// and their silent end is no loss.
func withoutCopies(ordered []capture.Sighting, topo *topology.Snapshot) []capture.Sighting {
	foreign := make(map[capture.Point]bool)
	for i := range ordered {
		if s := &ordered[i]; s.Direction == capture.Ingress && forAnother(s, topo) {
			foreign[s.Point] = true
		}
	}
	kept := slices.DeleteFunc(slices.Clone(ordered), func(s capture.Sighting) bool {
		if s.Direction == capture.Ingress {
			return foreign[s.Point]
		}
		peer := peerOf(s.Point, topo)
		return peer != nil && foreign[capture.Point{NetNS: peer.NetNS, Interface: peer.Interface, Index: peer.Index, Role: roleOf(peer, topo)}]
	})
	return withoutDeadFloods(kept, topo)
}

func roleOf(peer *topology.Peer, topo *topology.Snapshot) capture.Role {
	if link := topo.Namespace(peer.NetNS).Link(peer.Interface); link != nil {
		return link.Role
	}
	return ""
}

// forAnother reports whether an end host received a frame for somebody else's
// hardware address.
func forAnother(s *capture.Sighting, topo *topology.Snapshot) bool {
	link := linkOf(s.Point, topo)
	to := s.Header.EtherDst
	if link == nil || link.Bridge != "" || link.Kind == "bridge" || link.MAC == "" {
		return false
	}
	if to == (packet.HardwareAddr{}) || to[0]&1 == 1 { // no Ethernet, or multicast
		return false
	}
	return to.String() != link.MAC
}

// withoutDeadFloods keeps, of several copies that left by ports of one bridge,
// the one that was seen again afterwards. When none was, all stay.
func withoutDeadFloods(ordered []capture.Sighting, topo *topology.Snapshot) []capture.Sighting {
	type bridge struct{ netns, name string }
	ports := make(map[bridge][]int)
	for i := range ordered {
		link := linkOf(ordered[i].Point, topo)
		if ordered[i].Direction == capture.Egress && link != nil && link.Bridge != "" {
			key := bridge{ordered[i].Point.NetNS, link.Bridge}
			ports[key] = append(ports[key], i)
		}
	}
	dead := make(map[int]bool)
	for _, copies := range ports {
		goesOn := func(i int) bool {
			peer := peerOf(ordered[i].Point, topo)
			return peer != nil && slices.ContainsFunc(ordered[i+1:], func(s capture.Sighting) bool {
				return s.Direction == capture.Ingress && s.Point.NetNS == peer.NetNS && s.Point.Interface == peer.Interface
			})
		}
		if len(copies) > 1 && slices.ContainsFunc(copies, goesOn) {
			for _, i := range copies {
				dead[i] = !goesOn(i)
			}
		}
	}
	kept := ordered[:0:0]
	for i := range ordered {
		if !dead[i] {
			kept = append(kept, ordered[i])
		}
	}
	return kept
}

// visit is one stay of a packet in a namespace.
type visit struct {
	netns     string
	sightings []capture.Sighting
}

// visits cuts ordered sightings into stays. A packet that comes in after it
// went out is on its next stay, also in the same namespace.
func visits(ordered []capture.Sighting) []visit {
	var all []visit
	for _, s := range ordered {
		if n := len(all); n > 0 && all[n-1].netns == s.Point.NetNS {
			last := all[n-1].sightings
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
	stageBridgeEgress
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
