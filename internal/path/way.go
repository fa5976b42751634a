package path

import (
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
)

// alongTheWay returns, of the ordered sightings of one content, those of one
// packet, from the first one on. Floods, mirrors and rules that duplicate make
// copies, and these go other ways: kept is the way to the destination if one of
// them got there, otherwise the one that was seen last. Where a ring may have
// missed the packet, its way goes on at a sighting that none leads to.
func alongTheWay(in *Input, ordered []capture.Sighting) []capture.Sighting {
	leading := predecessors(in, ordered)
	goesOn := make([]bool, len(ordered))
	for _, all := range leading {
		for _, i := range all {
			goesOn[i] = true
		}
	}
	arrived := func(i int) bool {
		s := &ordered[i]
		link, ns := linkOf(s.Point, in.Topology), in.Topology.Namespace(s.Point.NetNS)
		return s.Direction == capture.Ingress && s.Carrier == nil && link != nil && link.Bridge == "" && ns.Delivers(s.Header.Tuple.Dst)
	}
	// steps counts the sightings on the longest way to each, 0 where none leads
	// there; from is the one before it.
	steps, from := make([]int, len(ordered)), make([]int, len(ordered))
	for i := range ordered {
		if i == 0 {
			steps[0] = 1
			continue
		}
		for _, before := range leading[i] {
			if steps[before] > 0 && steps[before] >= steps[i] {
				steps[i], from[i] = steps[before]+1, before
			}
		}
		for before := i - 1; before >= 0 && len(leading[i]) == 0 && steps[i] == 0; before-- {
			if steps[before] > 0 && !goesOn[before] && !arrived(before) {
				steps[i], from[i], goesOn[before] = steps[before]+1, before, true
			}
		}
	}
	last := -1
	for i := range ordered {
		if steps[i] > 0 && !goesOn[i] && (last < 0 || arrived(i) || !arrived(last)) {
			last = i
		}
	}
	var kept []capture.Sighting
	for i := last; i >= 0; i = from[i] {
		kept = append(kept, ordered[i])
		if i == 0 {
			break
		}
	}
	slices.Reverse(kept)
	return kept
}

// place is where a packet is seen, and in which direction.
type place struct {
	netns, iface string
	direction    capture.Direction
}

// predecessors returns for each sighting those before it of which it may be the
// next place.
func predecessors(in *Input, ordered []capture.Sighting) [][]int {
	all := make([][]int, len(ordered))
	at := make(map[place][]int)       // by place
	entered := make(map[string][]int) // ingress, by namespace
	passed := make(map[string][]int)  // egress of a link with others below it, by namespace
	var outside []int                 // egress to what is not visible
	visible := func(p *topology.Peer) bool { return p != nil && p.NetNS != "" && in.Inside[p.NetNS] }
	for i := range ordered {
		s := &ordered[i]
		ns := s.Point.NetNS
		link := linkOf(s.Point, in.Topology)
		if link == nil {
			link = &topology.Link{Name: s.Point.Interface}
		}
		switch {
		case s.Direction == capture.Ingress && link.Kind == "bridge":
			for _, before := range entered[ns] {
				if port := linkOf(ordered[before].Point, in.Topology); port != nil && port.Bridge == link.Name {
					all[i] = append(all[i], before)
				}
			}
		case s.Direction == capture.Ingress && link.Kind == "loopback":
			all[i] = at[place{ns, link.Name, capture.Egress}]
		case s.Direction == capture.Ingress && visible(link.Lower):
			all[i] = at[place{link.Lower.NetNS, link.Lower.Interface, capture.Ingress}]
		case s.Direction == capture.Ingress && visible(link.Peer):
			all[i] = at[place{link.Peer.NetNS, link.Peer.Interface, capture.Egress}]
		case s.Direction == capture.Ingress:
			all[i] = slices.Concat(outside, entered[ns])
		case link.Bridge != "":
			all[i] = slices.Concat(entered[ns], at[place{ns, link.Bridge, capture.Egress}])
		default:
			all[i] = slices.Concat(entered[ns], passed[ns])
		}
		all[i] = slices.Clone(all[i])
		slices.Sort(all[i])

		at[place{ns, link.Name, s.Direction}] = append(at[place{ns, link.Name, s.Direction}], i)
		switch {
		case s.Direction == capture.Ingress && link.Kind == "loopback": // what came back to its sender goes nowhere
		case s.Direction == capture.Ingress:
			entered[ns] = append(entered[ns], i)
		case visible(link.Lower):
			passed[link.Lower.NetNS] = append(passed[link.Lower.NetNS], i)
		case link.Kind == "bridge" || link.Kind == "loopback" || visible(link.Peer):
		default:
			outside = append(outside, i)
			if link.Kind != "" && link.Kind != "veth" {
				passed[ns] = append(passed[ns], i)
			}
		}
	}
	return all
}
