package traffic

import (
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// stray is a piece of evidence whose flow is not known, or not yet: sensors
// deliver in any order. Exactly one of the last four is set.
type stray struct {
	keys    []packet.Tuple
	content content
	at      time.Time
	// taken says that it is in the indexes no more, claimed that a flow has it, or it
	// is others' for sure.
	taken, claimed bool

	sighting *capture.Sighting
	event    *nat.Event
	hit      *ruletrace.Hit
	drop     *skbdrop.Drop

	// followers came by the place of the sighting soon after it.
	followers []capture.Sighting
}

// strays keep the latest of them for a while.
type strays struct {
	queue []*stray // the oldest first
	// lost is when one had to go that was not old.
	lost      time.Time
	byName    map[packet.Tuple][]*stray
	byContent map[content][]*stray
	// following is how many followers there are.
	following int
}

// The bounds of followers: how many one stray has, how many there are, and for how
// long they are taken: the sensor that tells whose they are is late by less.
const (
	maxFollowers = 64
	maxFollowing = 1 << 14
	lag          = 500 * time.Millisecond
)

// follow keeps a packet that opens nothing, if what opened its flow came by the same
// place a moment ago and is a stray, too. Of connections that are others' for sure,
// or older, nothing is kept.
func (s *strays) follow(key packet.Tuple, packet *capture.Sighting) bool {
	for _, one := range slices.Backward(s.byName[key]) {
		if one.sighting == nil || one.sighting.Point != packet.Point {
			continue
		}
		if packet.Time.Sub(one.at) > lag || len(one.followers) == maxFollowers || s.following == maxFollowing {
			return false
		}
		follower := *packet
		follower.Frame = nil
		one.followers = append(one.followers, follower)
		s.following++
		return true
	}
	return false
}

func newStrays() strays {
	return strays{byName: make(map[packet.Tuple][]*stray), byContent: make(map[content][]*stray)}
}

// add keeps a stray, and lets the old ones go.
func (s *strays) add(one *stray) {
	if one.sighting != nil {
		one.sighting.Frame = nil
	}
	s.queue = append(s.queue, one)
	for _, key := range one.keys {
		s.byName[key] = append(s.byName[key], one)
	}
	if one.content != (content{}) {
		s.byContent[one.content] = append(s.byContent[one.content], one)
	}
	for len(s.queue) > 0 {
		oldest := s.queue[0]
		if oldest.at.IsZero() {
			oldest.at = one.at // it came before the first packet told the time
		}
		old := oldest.taken || one.at.Sub(oldest.at) > patience
		if !old && len(s.queue) <= maxStrays {
			break
		}
		if !old {
			s.lost = one.at
		}
		s.remove(oldest)
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
}

// remove takes a stray out of the indexes.
func (s *strays) remove(one *stray) {
	if !one.taken {
		s.following -= len(one.followers)
	}
	one.taken = true
	for _, key := range one.keys {
		shorten(s.byName, key, one)
	}
	shorten(s.byContent, one.content, one)
}

func shorten[K comparable](index map[K][]*stray, key K, one *stray) {
	var rest []*stray
	for _, other := range index[key] {
		if other != one {
			rest = append(rest, other)
		}
	}
	if rest == nil {
		delete(index, key)
		return
	}
	index[key] = rest
}

// take hands out what came under a name, in the order in which it came.
func (s *strays) take(key packet.Tuple) []*stray {
	all := s.byName[key]
	for _, one := range all {
		one.claimed = true
		s.remove(one)
	}
	return all
}

// drop lets go what came under a name.
func (s *strays) drop(key packet.Tuple) { s.take(key) }

// like returns the names of strays that are the same packet as the one with this
// content.
func (s *strays) like(h *packet.Header, c content) []packet.Tuple {
	var keys []packet.Tuple
	for _, one := range s.byContent[c] {
		if other := one.header(); other != nil && same(h, other) {
			keys = append(keys, one.keys...)
		}
	}
	return keys
}

// before returns the names of sightings that are a packet's in the same namespace with
// another destination: what its sender and the IP id tell, also of datagrams that are
// all alike, or of which nothing is kept.
func (s *strays) before(ended *stray) (keys []packet.Tuple) {
	h := ended.header()
	if h.IPID == 0 {
		return nil
	}
	netns := ""
	switch {
	case ended.hit != nil:
		netns = ended.hit.NetNS
	case ended.drop != nil:
		netns = ended.drop.NetNS
	}
	for _, one := range s.queue {
		if one.taken || one.sighting == nil || one.sighting.Point.NetNS != netns {
			continue
		}
		seen := &one.sighting.Header
		if seen.IPID == h.IPID && seen.Tuple.Proto == h.Tuple.Proto && seen.Tuple.Src == h.Tuple.Src && seen.Tuple.SrcPort == h.Tuple.SrcPort && seen.PayloadLength == h.PayloadLength {
			keys = append(keys, one.keys...)
		}
	}
	return keys
}

// passedThrough reports whether a packet came into the namespace before it leaves
// it: it is forwarded.
func (s *strays) passedThrough(h *packet.Header, netns string) bool {
	for _, one := range s.byContent[contentOf(h)] {
		if in := one.sighting; in != nil && in.Point.NetNS == netns && in.Direction == capture.Ingress && in.Point.Role != capture.RoleLoopback && same(h, &in.Header) {
			return true
		}
	}
	return false
}

func (s *stray) header() *packet.Header {
	switch {
	case s.sighting != nil:
		return &s.sighting.Header
	case s.hit != nil:
		return &s.hit.Header
	case s.drop != nil:
		return &s.drop.Header
	}
	return nil
}

// same reports whether two headers of the same content are one packet under two
// tuples. One end has to be the same, unless more than the 32 random bits that a
// connection begins with says so: among very many connections two may share these.
func same(a, b *packet.Header) bool {
	if a.Compare(b) == packet.Different {
		return false
	}
	numbered := a.IPID != 0 && a.IPID == b.IPID
	stamped := a.HasTimestamps && b.HasTimestamps && a.Timestamp == b.Timestamp
	return sharesAnEnd(a.Tuple, b.Tuple) || a.Tuple.Proto == packet.TCP && (numbered || stamped)
}
