package flows

import (
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// recogniser finds the sightings that are one packet.
type recogniser struct {
	links  *links
	window *window
	alike  []*seen
	// learned is how many packets told how long they were under way, most the
	// longest of these times.
	learned uint64
	most    int64
	slack   int64 // what is not known of the clocks
	// touched keeps the compiler from leaving out what has no other effect.
	touched uint64
}

// take takes a batch.
func (r *recogniser) take(b *sightings) {
	for i := range b.begun {
		r.links.add(b.begun[i].key, b.begun[i].place)
	}
	r.warm(b.packets)
	for i := range b.packets {
		r.recognise(&b.packets[i])
	}
}

// warm touches the memory that packets will need, as join.warm does.
func (r *recogniser) warm(packets []seen) {
	var touched uint64
	for i := range packets {
		touched += uint64(r.window.heads[packets[i].mark&(1<<windowBits-1)])
	}
	for i := range packets {
		if at := r.window.heads[packets[i].mark&(1<<windowBits-1)]; at != 0 {
			touched += r.window.at(at).mark
		}
		touched += uint64(r.links.at(packets[i].track).place)
	}
	r.touched = touched
}

// recognise looks for the other sightings of a packet. TCP is recognised by what
// came before: two of its packets are hardly ever alike. For anything else it has
// to be known what comes after, too, so that waits.
func (r *recogniser) recognise(p *seen) {
	r.catchUp(p.time)
	s := r.window.put(p)
	if r.links.at(s.track).key.Proto == packet.TCP {
		r.vote(s, horizon+r.slack)
	} else {
		s.waits = true
	}
}

// catchUp recognises the packets that nothing can be mistaken for that is yet to
// come.
func (r *recogniser) catchUp(now int64) {
	limit := r.limit()
	for w := r.window; w.waiting != w.next; w.waiting++ {
		s := w.at(w.waiting)
		if s.waits && s.time > now-limit && w.next-w.waiting < 1<<windowBits-1 {
			return
		}
		if s.waits && s.track >= 0 {
			r.vote(s, limit)
		}
	}
}

// vote notes which packets at other places, or under other tuples at its own, a
// packet may be.
func (r *recogniser) vote(s *seen, limit int64) {
	r.alike = r.window.alike(s, limit, r.alike)
	for k, o := range r.alike {
		at := r.links.at(o.track).place
		if o.track == s.track || slices.ContainsFunc(r.alike[:k], func(e *seen) bool { return e.track != s.track && r.links.at(e.track).place == at }) {
			continue
		}
		r.voteAt(s, at)
	}
}

// voteAt is vote for the packets at one place.
func (r *recogniser) voteAt(s *seen, at int32) {
	own := r.links.at(s.track)
	var found [maxAlike]*seen // one of each tuple
	tuples := 0
	var same *seen
	mistakable := false
	for _, o := range r.alike {
		tr := r.links.at(o.track)
		if o.track == s.track {
			continue
		}
		if tr.place == own.place && tr.key != own.key && at != own.place {
			mistakable = true // with what is at the other place
		}
		if tr.place != at || slices.ContainsFunc(found[:tuples], func(f *seen) bool { return r.links.at(f.track).key == tr.key }) {
			continue
		}
		if tr.key == own.key {
			same = o
		}
		found[tuples] = o
		tuples++
	}
	switch {
	case same != nil:
		r.strong(s, same, true)
	case tuples == 1 && (!mistakable || own.key.Proto == packet.TCP):
		r.strong(s, found[0], false)
	default:
		for _, o := range found[:tuples] {
			more(&r.links.edgeTo(s.track, o.track).weak)
		}
	}
}

// enough is how many packets tell how long all take.
const enough = 16

// limit is how long a packet may be under way from one place to another. Packets
// that look like others are told apart by it, so it is learned from TCP, whose
// packets do not.
func (r *recogniser) limit() int64 {
	if r.learned < enough {
		return horizon + r.slack
	}
	return min(4*r.most+clockJitter, horizon) + r.slack
}

// strong counts a packet that two tracks share.
func (r *recogniser) strong(s, o *seen, same bool) {
	if o.number > s.number {
		return // the later of the two counts it
	}
	e := r.links.edgeTo(s.track, o.track)
	e.strong++
	if s.bits&distinctive != 0 || same {
		more(&e.distinct)
	}
	if s.ipid != 0 {
		more(&e.numbered)
	}
	apart := s.time - o.time
	e.low, e.high = min(e.low, apart), max(e.high, apart)
	if r.links.at(s.track).key.Proto == packet.TCP {
		r.learned++
		r.most = max(r.most, apart, -apart)
	}
}
