package traffic

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
)

// Talk is how far a flow has come, as its source sees it.
type Talk struct {
	// Sent and Heard are when the source last sent and received a packet of the
	// flow.
	Sent, Heard time.Time
	// Answered is when the far end first answered: with a SYN and ACK, a datagram,
	// an echo. Refused is when it, or somebody on the way, ended the flow: a reset
	// in answer to a SYN, or an ICMP error.
	Answered, Refused time.Time
	// Ended is when the connection was over: closed by both sides, or reset.
	Ended time.Time
	// ResetBy is set when a connection that was made was reset: Far for the other
	// end, Near for the source.
	ResetBy Side
	// Asked and Said are the first bytes of data that the source and the far end
	// sent, at most packet.PayloadBytes each.
	Asked, Said []byte

	// seats are the places of each leg that the rest is taken from: a bridge of
	// the source, or its loopback interface, shows a packet twice.
	seats [2]*place

	// of TCP: what the far end has acknowledged, what the source has sent and how
	// often it sent the first byte that is not acknowledged; what the source has
	// acknowledged, and how far the data went that it received.
	begun            bool
	acked, sent      uint32
	repeats, segment int
	unmoved          time.Time // when that was first sent, or all before it acknowledged
	taken, received  uint32
	finished         [2]bool
	theirs           uint32 // the number of the far end's first byte
	// confirmed says that whoever opened the connection acknowledged the answer.
	confirmed bool

	// Of the data that comes: waiting is since when some has been there that the
	// source does not acknowledge, zero when there is none; behind is where the
	// first of it begins, from beyond what is missing; largest is the longest
	// packet with data, with its IP header.
	waiting time.Time
	behind  uint32
	largest int
	// moved is when data was last seen that was new, of either side; gone is when
	// the source closed the connection, or reset it, alone that the far end had not
	// done so.
	moved, gone time.Time
	alone       bool
}

// Side is one end of a flow.
type Side string

// The sides.
const (
	Nobody Side = ""
	Near   Side = "near"
	Far    Side = "far"
)

// Stall is data that does not get through although the connection was made.
type Stall struct {
	// Seq is the place in the stream of the first byte that is missing.
	Seq uint32
	// Length is the segment's, 0 when it is not known.
	Length int
	// Acked and Sent are how many bytes of the stream got through, and how many
	// were sent, as far as that is known.
	Acked, Sent int
	// Incoming says that it is the far end's data that does not come. Length is
	// then how many bytes are missing before those that came, 0 when none came.
	Incoming bool
	// Largest is the longest packet with the far end's data that came, with its IP
	// header, and Since is for how long packets came when the first byte was
	// missing already; both of an incoming stall.
	Largest int
	Since   time.Duration
	// Seen is the segment as it was first seen where it comes by first: the source's
	// where it leaves, and of the far end's the shortest that begins with the missing
	// byte. It is nil when nothing of that was kept.
	Seen *capture.Sighting
}

// often is how many times data is sent before it counts as stalled: what was lost
// once is repeated and gets there.
const often = 3

// overdue is how long data may be unacknowledged at the one who received it: an
// acknowledgement may be late by 200 ms (TCP_DELACK_MAX), and what was lost is
// repeated after as long (TCP_RTO_MIN).
const overdue = time.Second

// hear takes a packet that was seen at the source. It reports whether it is one
// more: the same packet may be seen at several places there.
func (t *Talk) hear(f *Flow, s *capture.Sighting) bool {
	h := &s.Header
	reply := f.isReply(h)
	if h.IsICMPError() {
		if s.Direction == capture.Ingress && ends(h) && t.Refused.IsZero() && t.Answered.IsZero() {
			t.Refused = s.Time
		}
		return false
	}
	seat := place{s.Point, s.Direction, reply}
	if at := &t.seats[boolInt(reply)]; *at == nil {
		*at = &seat
	} else if **at != seat {
		return false
	}
	if reply != f.Inbound {
		t.Heard = s.Time
	} else {
		t.Sent = s.Time
	}
	switch {
	case h.Tuple.Proto == packet.TCP:
		t.tcp(f, s, reply)
	case reply && t.Answered.IsZero():
		t.Answered = s.Time
	}
	if h.Tuple.Proto == packet.UDP {
		t.data(h, reply)
	}
	return true
}

// ends reports whether an ICMP error ends a flow: not one about a size, nor a
// redirect.
func ends(h *packet.Header) bool {
	t := h.Tuple
	if t.Proto == packet.ICMP {
		return t.ICMPType == 3 && t.ICMPCode != 4 || t.ICMPType == 11 || t.ICMPType == 12
	}
	return t.ICMPType == 1 || t.ICMPType == 3 || t.ICMPType == 4
}

// data keeps the first bytes of a direction.
func (t *Talk) data(h *packet.Header, reply bool) {
	if len(h.Payload) == 0 {
		return
	}
	if reply && t.Said == nil {
		t.Said = bytes.Clone(h.Payload)
	}
	if !reply && t.Asked == nil {
		t.Asked = bytes.Clone(h.Payload)
	}
}

func (t *Talk) tcp(f *Flow, s *capture.Sighting, reply bool) {
	h := &s.Header
	switch {
	case h.Flags.Has(packet.RST):
		switch {
		case reply && t.Answered.IsZero() && !f.Existing:
			t.Refused = s.Time
		case t.Ended.IsZero():
			t.ResetBy = map[bool]Side{true: Far, false: Near}[reply != f.Inbound]
		}
		if reply == f.Inbound {
			t.leave(s.Time)
		}
		t.end(s.Time)
		return
	case h.Flags.Has(packet.SYN):
		switch {
		case reply && t.Answered.IsZero():
			t.Answered, t.theirs, t.received, t.taken, t.acked = s.Time, h.Seq+1, h.Seq+1, h.Seq+1, h.Ack
		case !reply && !t.begun:
			t.begun, t.acked, t.sent = true, h.Seq+1, h.Seq+1
		}
		return
	}
	t.data(h, reply)
	if reply {
		t.reply(h, s.Time)
	} else {
		t.request(h, s.Time)
	}
	if h.Flags.Has(packet.FIN) {
		if reply == f.Inbound {
			t.leave(s.Time)
		}
		t.finished[boolInt(reply)] = true
		if t.finished[0] && t.finished[1] {
			t.end(s.Time)
		}
	}
}

func (t *Talk) end(at time.Time) {
	if t.Ended.IsZero() {
		t.Ended = at
	}
}

// leave notes that the source wants no more.
func (t *Talk) leave(at time.Time) {
	if t.gone.IsZero() {
		t.gone, t.alone = at, !t.finished[1]
	}
}

// request takes a segment of the side that opened the connection.
func (t *Talk) request(h *packet.Header, at time.Time) {
	if !t.begun { // the flow was there before
		t.begun, t.acked, t.sent = true, h.Seq, h.Seq
	}
	if h.DataLength > 0 {
		if h.Seq == t.acked {
			if t.repeats == 0 {
				t.unmoved = at
			}
			t.repeats++
			t.segment = h.DataLength
		}
		if end := h.Seq + uint32(h.DataLength); after(end, t.sent) {
			t.sent, t.moved = end, at
		}
	}
	t.confirmed = t.confirmed || h.Flags.Has(packet.ACK) && !t.Answered.IsZero()
	if h.Flags.Has(packet.ACK) && (t.taken == 0 || after(h.Ack, t.taken)) {
		t.taken = h.Ack
		if t.received == 0 || after(h.Ack, t.received) {
			t.received = h.Ack
		}
		if t.waiting = (time.Time{}); after(t.received, t.taken) {
			t.waiting, t.behind = at, t.received
		}
	}
}

// reply takes a segment of the other side.
func (t *Talk) reply(h *packet.Header, at time.Time) {
	if h.Flags.Has(packet.ACK) && t.begun && after(h.Ack, t.acked) {
		t.acked, t.repeats, t.segment, t.unmoved = h.Ack, 0, 0, at
	}
	end := h.Seq + uint32(h.DataLength)
	if h.DataLength == 0 || t.taken != 0 && !after(end, t.taken) {
		return // nothing, or nothing new
	}
	t.largest = max(t.largest, path.Length(h))
	if t.received == 0 || after(end, t.received) {
		t.received, t.moved = end, at
	}
	if t.waiting.IsZero() {
		t.waiting, t.behind = at, h.Seq
	} else if after(t.behind, h.Seq) {
		t.behind = h.Seq
	}
}

// after reports whether a sequence number is behind another one: they begin again
// at 0 (RFC 9293, section 3.4).
func after(seq, other uint32) bool { return int32(seq-other) > 0 }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Stalled says which data does not get through, as far as was seen until now; nil
// when none is known of. What the source sent and had to repeat is one kind. The
// other is data of the far end: the source has what is behind a place, and
// acknowledges no more than what is before it; or what comes next was seen on its
// way again and again, and the source does not acknowledge it.
func (f *Flow) Stalled(now time.Time) *Stall {
	t := &f.Talk
	if f.Tuple.Proto != packet.TCP || f.Inbound || t.Answered.IsZero() && !f.Existing {
		return nil
	}
	start := f.First.Seq + 1
	if t.repeats >= often && after(t.sent, t.acked) {
		s := &Stall{Seq: t.acked, Length: t.segment}
		if !f.Existing {
			s.Acked, s.Sent = int(t.acked-start), int(t.sent-start)
		}
		s.Seen = f.leaving(&path.Segment{Seq: s.Seq, Length: s.Length})
		return s
	}
	if !t.gone.IsZero() && t.gone.Before(now) {
		now = t.gone // what it did not wait for is not missed
	}
	s := &Stall{Seq: t.taken, Incoming: true, Largest: t.largest}
	times, furthest := 0, t.received
	s.Seen, times = f.onItsWay(t.taken, &furthest)
	if t.theirs != 0 {
		s.Acked, s.Sent = int(t.taken-t.theirs), int(furthest-t.theirs)
	}
	switch {
	case !t.waiting.IsZero() && after(t.received, t.taken) && now.Sub(t.waiting) > overdue:
		if after(t.behind, t.taken) {
			s.Length = int(t.behind - t.taken)
		}
		s.Since = t.Heard.Sub(t.waiting)
		return s
	case t.taken != 0 && times >= often && now.Sub(s.Seen.Time) > overdue:
		return s
	}
	return nil
}

// since is from when on the data of a stall did not get through, whatever else did.
func (f *Flow) since(s *Stall) time.Time {
	switch {
	case !s.Incoming:
		return f.Talk.unmoved
	case !f.Talk.waiting.IsZero():
		return f.Talk.waiting
	}
	return s.Seen.Time
}

// leaving finds a segment of the source's as it left first, of the times that are
// kept.
func (f *Flow) leaving(segment *path.Segment) (first *capture.Sighting) {
	for at, p := range f.kept {
		if at.reply || at.direction != capture.Egress || at.point.NetNS != f.NetNS {
			continue
		}
		for _, all := range [][]capture.Sighting{p.first, p.last} {
			for i := range all {
				if segment.Is(&all[i].Header) && (first == nil || all[i].Time.Before(first.Time)) {
					first = &all[i]
				}
			}
		}
	}
	return first
}

// onItsWay finds the shortest segment of the far end's that begins with a number,
// where it comes by first, and how often one that does was seen where it was seen
// most often. It moves furthest to the end of the data that was seen anywhere.
func (f *Flow) onItsWay(seq uint32, furthest *uint32) (first *capture.Sighting, times int) {
	var shortest []*capture.Sighting
	for at, p := range f.kept {
		if !at.reply {
			continue
		}
		here := 0
		for _, all := range [][]capture.Sighting{p.first, p.last} {
			for i := range all {
				h := &all[i].Header
				if h.DataLength == 0 || h.Tuple.Proto != packet.TCP {
					continue
				}
				if end := h.Seq + uint32(h.DataLength); after(end, *furthest) {
					*furthest = end
				}
				if h.Seq != seq {
					continue
				}
				here++
				if len(shortest) > 0 && h.DataLength < shortest[0].Header.DataLength {
					shortest = nil
				}
				if len(shortest) == 0 || h.DataLength == shortest[0].Header.DataLength {
					shortest = append(shortest, &all[i])
				}
			}
		}
		times = max(times, here)
	}
	return whereFirst(shortest), times
}

// whereFirst returns the first of the sightings of a packet that was sent several
// times at the place that it comes by first. That need not be the first of all: of
// the places on its way one may have kept a time that another one has not. It
// leaves soon after one place for the next, and is sent again much later: so the
// first place is the one that never sees it soon after another.
func whereFirst(all []*capture.Sighting) *capture.Sighting {
	type visit struct {
		first *capture.Sighting
		least time.Duration // since it was seen anywhere
	}
	slices.SortFunc(all, func(a, b *capture.Sighting) int { return a.Time.Compare(b.Time) })
	var visits []visit
	for i, s := range all {
		since := time.Duration(math.MaxInt64)
		if i > 0 {
			since = s.Time.Sub(all[i-1].Time)
		}
		at := slices.IndexFunc(visits, func(v visit) bool {
			return v.first.Point == s.Point && v.first.Direction == s.Direction
		})
		if at < 0 {
			visits = append(visits, visit{s, since})
		} else {
			visits[at].least = min(visits[at].least, since)
		}
	}
	if len(visits) == 0 {
		return nil
	}
	return slices.MaxFunc(visits, func(a, b visit) int { return cmp.Compare(a.least, b.least) }).first
}

// Silence says for how long nothing new had come or gone when the source closed
// the connection while the far end had it open, and how long the longest packet
// with data was that had come; 0 when that was not so.
func (f *Flow) Silence() (silent time.Duration, largest int) {
	t := &f.Talk
	if f.Tuple.Proto != packet.TCP || f.Inbound || !t.alone || t.moved.IsZero() {
		return 0, 0
	}
	return t.gone.Sub(t.moved), t.largest
}
