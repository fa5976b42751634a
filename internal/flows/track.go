package flows

import (
	"slices"

	"github.com/pathtrace/pathtrace/internal/memory"
	"github.com/pathtrace/pathtrace/packet"
)

// track is what is kept of one tuple with one TTL at one place. A tuple that a
// new TCP connection uses again gets a new track. There may be a million, so it
// holds no pointer and little else; what few tracks have is beside the table.
type track struct {
	key packet.Key
	ttl uint8
	// superseded says that a newer connection has the tuple, again that it took
	// the tuple of another.
	superseded, again      bool
	hasStream, distinctive bool
	// opens says that a SYN was seen that begins a connection, accepts one that
	// answers it.
	opens, accepts bool
	// acks says that ack is the furthest that was acknowledged, resends that resent
	// is the end of what was sent again after a silence, and partial that sum does
	// not have all packets.
	acks, resends, partial bool
	place                  int32
	flags                  packet.TCPFlags
	lastIPID               uint16
	lastMark               uint64
	// before are hashes of packets with an IPv4 id before the last: copies of several
	// that went on together come after all of them.
	before              [4]uint32
	first, last         int64
	bytes, stream, data uint64

	// sum is of hashes of the packets. It does not depend on their order, nor that of
	// TCP on how the stream was cut.
	sum uint64

	// alike counts packets that look like the one before, among them.
	packets, common, copies, repeated, alike uint32
	// begin is the sequence number of a SYN, high the one behind what was seen of
	// the stream.
	begin, high uint32
	ack, resent uint32
}

// pageTracks is how many tracks are allocated at once.
const pageTracks = 1 << 10

// tracks is the table of tracks.
type tracks struct {
	arena memory.Arena // of the pages
	pages [][]track
	count int
	// slots are indexes plus one, by hash; a table of open addressing.
	slots []int32
	// quoted are the packets that tracks of ICMP errors are about.
	quoted map[int32]quote
}

// quote is the packet that an ICMP error is about, and the error's code.
type quote struct {
	key  packet.Key
	code uint8
}

func newTracks() *tracks {
	return &tracks{slots: make([]int32, 1<<12), quoted: make(map[int32]quote)}
}

func (t *tracks) at(i int32) *track { return &t.pages[i/pageTracks][i%pageTracks] }

// find is the track of an item at a place, made when there is none.
func (t *tracks) find(i *item, q *quote, place int32) (*track, int32) {
	mask := uint64(len(t.slots) - 1)
	slot := slotHash(i.hash, place) & mask
	for ; t.slots[slot] != 0; slot = (slot + 1) & mask {
		index := t.slots[slot] - 1
		tr := t.at(index)
		if tr.key != i.key || tr.place != place || tr.ttl != i.ttl || q != nil && t.quoted[index] != *q {
			continue
		}
		if tr.begins(i) {
			tr.superseded = true
			index = t.add(i, q, place)
			t.at(index).again = true
			t.slots[slot] = index + 1
		}
		return t.at(index), index
	}
	index := t.add(i, q, place)
	t.slots[slot] = index + 1
	if t.count > len(t.slots)/2 {
		t.rehash(2 * len(t.slots))
	}
	return t.at(index), index
}

// begins reports whether an item begins another connection than the track's.
func (t *track) begins(i *item) bool {
	return i.key.Proto == packet.TCP && i.flags.Has(packet.SYN) && !i.has(laterFragment|cutShort) &&
		t.hasStream && t.begin != i.seq && t.packets > 0
}

func (t *tracks) add(i *item, q *quote, place int32) int32 {
	if t.count%pageTracks == 0 && t.count/pageTracks == len(t.pages) {
		t.pages = append(t.pages, memory.Make[track](&t.arena, pageTracks))
	}
	index := int32(t.count)
	t.count++
	*t.at(index) = track{key: i.key, place: place, ttl: i.ttl, first: i.time, last: i.time}
	if q != nil {
		t.quoted[index] = *q
	}
	return index
}

func (t *tracks) rehash(n int) {
	t.slots = make([]int32, n)
	mask := uint64(n - 1)
	for i := range int32(t.count) {
		tr := t.at(i)
		if tr.superseded {
			continue
		}
		hash := hashKey(&tr.key)
		if q, ok := t.quoted[i]; ok {
			hash = mix(hash, hashKey(&q.key))
		}
		slot := slotHash(hash, tr.place) & mask
		for t.slots[slot] != 0 {
			slot = (slot + 1) & mask
		}
		t.slots[slot] = i + 1
	}
}

func slotHash(hash uint64, place int32) uint64 {
	return ((hash ^ uint64(place)<<8) * 0x9e3779b97f4a7c15) >> 20
}

// copyTime is how soon a packet that looks the same is a copy of the one before
// and no retransmission: TCP never sends one that fast.
const copyTime = 1_000_000

// count adds a packet to its track. It reports false for a further copy of the
// packet before.
func (t *track) count(i *item, common bool) bool {
	if t.packets > 0 && (i.mark == t.lastMark && t.copied(i) || t.copiedBefore(i)) {
		t.copies++
		return false
	}
	if i.ipid != 0 {
		t.before[t.packets%uint32(len(t.before))] = fold(i)
	}
	if t.packets > 0 && i.mark == t.lastMark {
		t.alike++
	}
	silence := i.time - t.last
	t.lastMark, t.lastIPID = i.mark, i.ipid
	t.first, t.last = min(t.first, i.time), max(t.last, i.time)
	t.packets++
	t.bytes += uint64(i.length)
	if common {
		t.common++
	}
	t.add(i)
	t.flags |= i.flags
	if i.flags.Has(packet.SYN) {
		t.opens, t.accepts = t.opens || !i.flags.Has(packet.ACK), t.accepts || i.flags.Has(packet.ACK)
	}
	t.distinctive = t.distinctive || i.has(distinctive)
	if i.key.Proto == packet.TCP && !i.has(laterFragment|cutShort) {
		t.countStream(i, silence)
	}
	return true
}

// add adds a packet to the sum. A segment adds the hash of its end and takes away
// that of its beginning, so that segments side by side add as much as one of both.
func (t *track) add(i *item) {
	switch {
	case i.has(fragment|cutShort) || i.mark == 0 || i.key.Proto != packet.TCP && uint32(i.bodyLength) < min(i.data, packet.MarkPayload):
		t.partial = true
	case i.key.Proto != packet.TCP:
		t.sum += mix(i.mark, uint64(i.ipid))
	case i.streamLength() > 0:
		t.sum += mix(uint64(i.seq+i.streamLength()), 0) - mix(uint64(i.seq), 0)
	}
}

// streamLength is how far a segment goes in the stream: SYN and FIN count as a
// byte.
func (i *item) streamLength() uint32 {
	if i.flags&(packet.SYN|packet.FIN) != 0 {
		return i.data + 1
	}
	return i.data
}

// copied reports whether an item with the same content as the one before is
// that very packet.
func (t *track) copied(i *item) bool {
	apart := max(i.time-t.last, t.last-i.time)
	switch {
	case i.ipid != t.lastIPID || apart > 1000*copyTime:
		return false
	case i.ipid != 0:
		return true
	}
	return apart < copyTime && i.key.Proto == packet.TCP && (i.data > 0 || i.flags.Has(packet.SYN))
}

// copiedBefore reports whether an item is a copy of one of the packets before the
// last.
func (t *track) copiedBefore(i *item) bool {
	return i.ipid != 0 && i.mark != 0 && max(i.time-t.last, t.last-i.time) <= 1000*copyTime && slices.Contains(t.before[:], fold(i))
}

// fold is a hash of what copies have in common.
func fold(i *item) uint32 {
	h := mix(i.mark, uint64(i.ipid)<<32|uint64(i.length))
	return uint32(h>>32) | 1 // 0 stands for none
}

// resendTime is how long a sender waits before it sends again what was not
// acknowledged, at least. What comes sooner may have been overtaken on its way.
const resendTime = 100_000_000

func (t *track) countStream(i *item, silence int64) {
	length := i.streamLength()
	end := i.seq + length
	if !t.hasStream {
		t.hasStream, t.begin, t.high = true, i.seq, i.seq
	}
	t.data += uint64(length)
	ahead := int32(end - t.high)
	switch {
	case ahead > 0:
		t.stream += uint64(min(uint32(ahead), length))
		t.high = end
	case length > 0:
		t.repeated++
		if silence >= resendTime {
			t.resend(i)
		}
	}
	if i.flags.Has(packet.ACK) && (!t.acks || int32(i.ack-t.ack) > 0) {
		t.acks, t.ack = true, i.ack
	}
}

// resend notes a SYN or data that was sent again. That the end of a connection
// is, tells nothing of the data.
func (t *track) resend(i *item) {
	end := i.seq + i.data
	if i.flags.Has(packet.SYN) {
		end++
	}
	if end != i.seq && (!t.resends || int32(end-t.resent) > 0) {
		t.resends, t.resent = true, end
	}
}

// lookup finds a track by tuple and place, whatever its TTL.
func (t *tracks) lookup(key packet.Key, place int32) (int32, bool) {
	mask := uint64(len(t.slots) - 1)
	for slot := slotHash(hashKey(&key), place) & mask; t.slots[slot] != 0; slot = (slot + 1) & mask {
		if tr := t.at(t.slots[slot] - 1); tr.key == key && tr.place == place {
			return t.slots[slot] - 1, true
		}
	}
	return 0, false
}
