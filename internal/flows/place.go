package flows

import (
	"fmt"
	"math"

	"github.com/pathtrace/pathtrace/packet"
)

// places gives each place a number when it is first seen.
type places struct {
	captures []Capture
	list     []Place
	// plain are the numbers of places without a scope, by capture and
	// interface; -1 where there is none yet, skipped for an interface without
	// packets.
	plain [][]int32
	rare  map[placeKey]int32
	// bases are the places that others of the same interface and VLAN are beside.
	bases map[placeKey]int32
}

type placeKey struct {
	capture, iface int32
	scope          scope
}

// maxPlaces bounds how many places a hostile file can make.
const maxPlaces = 1 << 12

const (
	unknownPlace int32 = -1
	skippedPlace int32 = -2
)

func newPlaces(captures []Capture) *places {
	return &places{captures: captures, plain: make([][]int32, len(captures)), rare: make(map[placeKey]int32), bases: make(map[placeKey]int32)}
}

// at is the place of an item; negative where its interface is skipped, or there
// are too many places.
func (p *places) at(captureIndex int, c *chunk, i *item) int32 {
	plain := p.plain[captureIndex]
	if int(i.iface) >= len(plain) {
		for len(plain) < len(c.interfaces) {
			place := unknownPlace
			if skip := p.captures[captureIndex].Skip; skip != nil && skip(c.interfaces[len(plain)]) {
				place = skippedPlace
			}
			plain = append(plain, place)
		}
		p.plain[captureIndex] = plain
	}
	if i.rare < 0 || c.rare[i.rare].scope == (scope{}) {
		if plain[i.iface] == unknownPlace {
			plain[i.iface] = p.add(captureIndex, i.iface, c, scope{})
		}
		return plain[i.iface]
	}
	if plain[i.iface] == skippedPlace {
		return skippedPlace
	}
	key := placeKey{int32(captureIndex), i.iface, c.rare[i.rare].scope}
	place, ok := p.rare[key]
	if !ok {
		place = p.add(captureIndex, i.iface, c, key.scope)
		p.rare[key] = place
	}
	return place
}

func (p *places) add(captureIndex int, iface int32, c *chunk, in scope) int32 {
	if len(p.list) >= maxPlaces {
		return skippedPlace
	}
	point := p.captures[captureIndex].Point(int(iface), c.interfaces[iface])
	if in.index > 0 {
		point.Index = int(in.index)
		point.Interface = fmt.Sprintf("if%d", in.index)
	}
	place := Place{Capture: captureIndex, Point: point, First: math.MaxInt64, Last: math.MinInt64}
	place.VLANs = append(place.VLANs, in.vlans[:in.tags]...)
	place.Tunnels = append(place.Tunnels, in.layers[:in.tunnels]...)
	index := int32(len(p.list))
	bare := placeKey{int32(captureIndex), iface, in}
	bare.scope.layers, bare.scope.tunnels = [packet.MaxLayers]packet.Layer{}, 0
	base, ok := p.bases[bare]
	if !ok {
		base = index
		p.bases[bare] = base
	}
	place.base = base
	p.list = append(p.list, place)
	return index
}
