package flows

import "github.com/pathtrace/pathtrace/internal/memory"

// window holds the packets that were seen last, at any place, by what NAT leaves
// alone of them.
type window struct {
	arena memory.Arena
	ring  []seen
	// heads are positions in the ring, by hash of the mark.
	heads []uint32
	// next counts all packets that were ever put in, from 1; those from waiting on
	// are yet to be recognised.
	next, waiting uint32
}

// seen is a packet in the window.
type seen struct {
	mark       uint64
	time       int64
	track      int32
	number     uint32 // the position, which says what came first
	before     uint32 // the packet before in the same bucket, 0 for none
	body       uint32
	ipid       uint16
	bodyLength uint8
	bits       itemBits
	waits      bool // to be recognised
}

// windowBits make the window's size: a quarter of a million packets.
const windowBits = 18

func newWindow() *window {
	w := &window{next: 1, waiting: 1}
	w.ring, w.heads = memory.Make[seen](&w.arena, 1<<windowBits), memory.Make[uint32](&w.arena, 1<<windowBits)
	return w
}

// maxAlike is how many packets that look like one are found, maxSteps how many are
// looked at for them.
const (
	maxAlike = 16
	maxSteps = 1 << 10
)

// at is the packet at a position.
func (w *window) at(position uint32) *seen { return &w.ring[position&(1<<windowBits-1)] }

// alike finds the sightings that may be of the same packet as s, and s itself,
// the latest first, not more than limit nanoseconds apart.
func (w *window) alike(s *seen, limit int64, into []*seen) []*seen {
	into = into[:0]
	steps := 0
	for at := w.heads[s.mark&(1<<windowBits-1)]; at != 0 && w.next-at < 1<<windowBits && len(into) < maxAlike && steps < maxSteps; steps++ {
		o := w.at(at)
		apart := s.time - o.time
		if apart > limit+horizon {
			break // what is before is older still, but for times that step back
		}
		if o.mark == s.mark && apart <= limit && apart >= -limit && o.track >= 0 && o.mayBe(s) {
			into = append(into, o)
		}
		if o.before >= at {
			break
		}
		at = o.before
	}
	return into
}

// mayBe reports whether nothing contradicts that they are one packet.
func (s *seen) mayBe(o *seen) bool {
	if s.ipid != o.ipid {
		return false
	}
	return s.bodyLength != o.bodyLength || s.body == o.body
}

// put adds a packet.
func (w *window) put(p *seen) *seen {
	at := w.next
	w.next++
	if w.next == 0 { // after four thousand million packets
		clear(w.heads)
		w.next, w.waiting = 1, 1
	}
	head := &w.heads[p.mark&(1<<windowBits-1)]
	s := w.at(at)
	*s = *p
	s.number, s.before, s.waits = at, *head, false
	*head = at
	return s
}
