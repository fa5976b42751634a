package flows

import (
	"github.com/pathtrace/pathtrace/internal/memory"
	"github.com/pathtrace/pathtrace/packet"
)

// link is what a track has in common with others. It stands at the track's index,
// in a table of its own: packets are counted on one processor while they are
// recognised on another.
type link struct {
	key   packet.Key
	place int32
	edges [2]edge
}

// edge is what a track has in common with another.
type edge struct {
	peer int32 // index of the other track plus one; 0 for none
	// strong are packets that nothing else of the other's place can be, distinct
	// those of them whose content is their own, numbered those with an IPv4 id.
	// weak are packets that might as well be another's. The last three are counted
	// up to manyPackets.
	strong                   uint32
	distinct, numbered, weak uint16
	// low and high are the least and the most time from the peer to this track.
	low, high int64
}

// manyPackets is more than anything is decided by.
const manyPackets = 1<<16 - 1

// more counts one more, up to manyPackets.
func more(n *uint16) {
	if *n < manyPackets {
		*n++
	}
}

// links is the table of links.
type links struct {
	arena memory.Arena // of the pages
	pages [][]link
	count int
	// more are the edges that do not fit into a link.
	more map[int32][]edge
	// beyond takes what is said of edges that are too many.
	beyond edge
}

func newLinks() *links { return &links{more: make(map[int32][]edge)} }

func (l *links) at(i int32) *link { return &l.pages[i/pageTracks][i%pageTracks] }

// add makes the link of the next track.
func (l *links) add(key packet.Key, place int32) {
	if l.count == len(l.pages)*pageTracks {
		l.pages = append(l.pages, memory.Make[link](&l.arena, pageTracks))
	}
	*l.at(int32(l.count)) = link{key: key, place: place}
	l.count++
}

// maxEdges is how many edges of one track are kept besides those in it. What
// looks like more others belongs to none of them.
const maxEdges = 1 << 8

// edgeTo is the edge of track i to another, made when there is none.
func (l *links) edgeTo(i, peer int32) *edge {
	own := l.at(i)
	for k := range own.edges {
		switch own.edges[k].peer {
		case peer + 1:
			return &own.edges[k]
		case 0:
			own.edges[k] = edge{peer: peer + 1, low: 1<<63 - 1, high: -1 << 63}
			return &own.edges[k]
		}
	}
	more := l.more[i]
	for k := range more {
		if more[k].peer == peer+1 {
			return &more[k]
		}
	}
	if len(more) == maxEdges {
		l.beyond = edge{}
		return &l.beyond
	}
	l.more[i] = append(more, edge{peer: peer + 1, low: 1<<63 - 1, high: -1 << 63})
	return &l.more[i][len(more)]
}

// edgesOf calls each for the edges of a track.
func (l *links) edgesOf(i int32, each func(*edge)) {
	own := l.at(i)
	for k := range own.edges {
		if own.edges[k].peer == 0 {
			return
		}
		each(&own.edges[k])
	}
	more := l.more[i]
	for k := range more {
		each(&more[k])
	}
}

// edge is the edge of track i to another; nil when there is none.
func (l *links) edge(i, peer int32) *edge {
	own := l.at(i)
	for k := range own.edges {
		switch own.edges[k].peer {
		case peer + 1:
			return &own.edges[k]
		case 0:
			return nil
		}
	}
	more := l.more[i]
	for k := range more {
		if more[k].peer == peer+1 {
			return &more[k]
		}
	}
	return nil
}

// joined reports whether two tracks have shared packets that were nobody else's.
func (l *links) joined(a, b int32) bool {
	if e := l.edge(a, b); e != nil && e.strong > 0 {
		return true
	}
	e := l.edge(b, a)
	return e != nil && e.strong > 0
}

// between is what two tracks share, as the time from a to b.
func (l *links) between(a, b int32) (e edge, ok bool) {
	if f := l.edge(b, a); f != nil && f.strong > 0 {
		e, ok = *f, true
	}
	f := l.edge(a, b)
	if f == nil || f.strong == 0 {
		return e, ok
	}
	low, high := -f.high, -f.low
	if ok {
		e.strong, e.low, e.high = e.strong+f.strong, min(e.low, low), max(e.high, high)
		return e, true
	}
	e = *f
	e.low, e.high = low, high
	return e, true
}
