package traffic

import (
	"bytes"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// The budget of a flow.
const (
	// firstPackets and lastPackets are how many packets are kept of each
	// direction at each place: those that begin the flow, and the latest, among
	// them what is repeated when it stalls.
	firstPackets, lastPackets = 4, 8
	maxEvents                 = 32
	maxHits                   = 512
	maxDrops                  = 32
	maxNames                  = 16
	maxContents               = 16
)

// Flow is one flow of the source, or one that carries such a flow on.
type Flow struct {
	// Number counts from 1 in the order in which flows of the source began.
	Number int
	// NetNS is the namespace in which it begins.
	NetNS string
	// Tuple is that of the first packet at the source, First the packet; of a flow
	// that began before, it is that of the table and the rest of First is zero.
	Tuple packet.Tuple
	First packet.Header
	Began time.Time
	// Existing says that the flow was there before its first packet was seen,
	// Inbound that others opened it to the source.
	Existing, Inbound bool
	// Judged says that Judge was called.
	Judged bool
	Talk   Talk
	// PID and Command are the process that began the flow; 0 and empty where that is
	// not known.
	PID     int
	Command string
	// Question is what a DNS query asks for, "example.com AAAA", and Answer the
	// name of the error that came back; both may be empty.
	Question, Answer string

	// carriers are the flows that may carry it on.
	carriers []*Flow
	// carrying is how many flows it may carry on that were not judged.
	carrying  int
	failed    bool // when it was judged
	attempted bool // the attempt that it came of is known

	names    []packet.Tuple
	ids      []conntrackID
	contents []content
	kept     map[place]*packets
	places   []place // in the order in which they were first seen
	events   []nat.Event
	hits     []*ruletrace.Hit
	drops    []skbdrop.Drop
	refused  int // pieces of evidence that there was no room for
}

// place is one direction at one interface, of one leg.
type place struct {
	point     capture.Point
	direction capture.Direction
	reply     bool
}

// packets are those of a flow at a place.
type packets struct {
	first, last []capture.Sighting
	next        int // the oldest of last
	count       uint64
	bytes       uint64
	tuple       packet.Tuple
	began       time.Time
}

// Count is how much of a flow passed a place.
type Count struct {
	Point          capture.Point
	Direction      capture.Direction
	Reply          bool
	Tuple          packet.Tuple
	Packets, Bytes uint64
}

// Evidence is what was kept of a flow.
type Evidence struct {
	Sightings []capture.Sighting
	Events    []nat.Event
	Hits      []ruletrace.Hit
	Drops     []skbdrop.Drop
}

// Evidence returns what was kept, also of the flows that may carry it on; sightings
// in the order of time.
func (f *Flow) Evidence() Evidence {
	var e Evidence
	for _, f := range append([]*Flow{f}, f.carriers...) {
		e.Events, e.Drops = append(e.Events, f.events...), append(e.Drops, f.drops...)
		for _, at := range f.places {
			p := f.kept[at]
			e.Sightings = append(e.Sightings, p.first...)
			e.Sightings = append(e.Sightings, p.last...)
		}
		for _, h := range f.hits {
			e.Hits = append(e.Hits, *h)
		}
	}
	slices.SortStableFunc(e.Sightings, func(a, b capture.Sighting) int { return a.Time.Compare(b.Time) })
	return e
}

// Counts returns how much passed each place, in the order in which the places
// first saw the flow.
func (f *Flow) Counts() []Count {
	var all []Count
	places := slices.SortedStableFunc(slices.Values(f.places), func(a, b place) int { return f.kept[a].began.Compare(f.kept[b].began) })
	for _, at := range places {
		p := f.kept[at]
		all = append(all, Count{at.point, at.direction, at.reply, p.tuple, p.count, p.bytes})
	}
	return all
}

// trim lets go the evidence, when nobody needs it any more; counts stay.
func (f *Flow) trim() {
	if f.carrying > 0 || f.Number > 0 && !f.Judged {
		return
	}
	for _, p := range f.kept {
		p.first, p.last, p.next = nil, nil, 0
	}
	f.events, f.hits, f.drops = nil, nil, nil
}

// add takes a packet of the flow.
func (f *Flow) add(s *capture.Sighting) {
	kept := *s
	kept.Frame = nil
	at := place{s.Point, s.Direction, f.isReply(&s.Header)}
	p := f.kept[at]
	if p == nil {
		p = &packets{tuple: s.Header.Tuple, began: s.Time}
		if f.kept == nil {
			f.kept = make(map[place]*packets)
		}
		f.kept[at] = p
		f.places = append(f.places, at)
	}
	p.add(kept)
}

func (p *packets) add(s capture.Sighting) {
	p.count++
	p.bytes += uint64(s.Length)
	switch {
	case len(p.first) < firstPackets:
		p.first = append(p.first, s)
	case len(p.last) < lastPackets:
		p.last = append(p.last, s)
	default:
		p.last[p.next] = s
		p.next = (p.next + 1) % lastPackets
	}
}

// isReply reports whether a packet goes the other way than the flow's first. Both
// ends may be translated; then what one end keeps tells it.
func (f *Flow) isReply(h *packet.Header) bool {
	t := h.Tuple
	if h.IsICMPError() {
		return true
	}
	switch {
	case t.Proto.IsICMP():
		return t.ICMPType != f.Tuple.ICMPType
	case t.Src == f.Tuple.Src && t.SrcPort == f.Tuple.SrcPort, t.Dst == f.Tuple.Dst && t.DstPort == f.Tuple.DstPort:
		return false
	case t.Dst == f.Tuple.Src && t.DstPort == f.Tuple.SrcPort, t.Src == f.Tuple.Dst && t.SrcPort == f.Tuple.DstPort:
		return true
	case t.DstPort == f.Tuple.DstPort || t.SrcPort == f.Tuple.SrcPort:
		return false
	}
	return t.SrcPort == f.Tuple.DstPort || t.DstPort == f.Tuple.SrcPort
}

// has reports whether a packet is one of those that were kept, under whatever
// tuple.
func (f *Flow) has(h *packet.Header) bool {
	if same(&f.First, h) {
		return true
	}
	for _, p := range f.kept {
		for _, all := range [][]capture.Sighting{p.first, p.last} {
			if slices.ContainsFunc(all, func(s capture.Sighting) bool { return same(&s.Header, h) }) {
				return true
			}
		}
	}
	return false
}

func (f *Flow) event(e nat.Event) {
	switch {
	case len(f.events) < maxEvents:
		f.events = append(f.events, e)
	case e.Kind == nat.Destroy:
		f.events[maxEvents-1] = e
	default:
		f.refused++
	}
}

func (f *Flow) hit(h *ruletrace.Hit) {
	if len(f.hits) == maxHits {
		f.refused++
		return
	}
	f.hits = append(f.hits, h)
}

func (f *Flow) drop(d skbdrop.Drop) {
	if len(f.drops) == maxDrops {
		f.drops = slices.Delete(f.drops, maxDrops/2, maxDrops/2+1)
	}
	f.drops = append(f.drops, d)
}

// Probes are the packets by which the flow is judged: the first, and of an echo of
// the source's each that was kept.
func (f *Flow) Probes(netns string) []path.Probe {
	if f.Inbound && !f.Existing {
		return []path.Probe{f.opening()}
	}
	p := path.Probe{NetNS: netns, Tuple: f.Tuple}
	if f.Tuple.Proto == packet.TCP {
		return []path.Probe{p}
	}
	p.Nonce = bytes.Clone(f.First.Payload)
	if !f.Tuple.Proto.IsICMP() {
		return []path.Probe{p}
	}
	var all []path.Probe
	for _, at := range f.places {
		if at.reply || at.point.NetNS != netns {
			continue
		}
		for _, s := range slices.Concat(f.kept[at].first, f.kept[at].last) {
			h := &s.Header
			if slices.ContainsFunc(all, func(known path.Probe) bool { return known.ICMPSeq == h.ICMPSeq }) {
				continue
			}
			all = append(all, path.Probe{
				NetNS: netns, Tuple: h.Tuple, ICMPSeq: h.ICMPSeq, Nonce: bytes.Clone(h.Payload), Length: path.Length(h),
			})
		}
	}
	if len(all) == 0 {
		p.ICMPSeq = f.First.ICMPSeq
		all = append(all, p)
	}
	return all
}

// opening is the first packet of a flow that others opened, where it was seen first.
func (f *Flow) opening() path.Probe {
	p := path.Probe{NetNS: f.NetNS, Tuple: f.Tuple, ICMPSeq: f.First.ICMPSeq, Nonce: bytes.Clone(f.First.Payload)}
	var first *capture.Sighting
	for _, at := range f.places {
		if at.reply || len(f.kept[at].first) == 0 {
			continue
		}
		if s := &f.kept[at].first[0]; same(&f.First, &s.Header) && (first == nil || s.Time.Before(first.Time)) {
			first = s
		}
	}
	switch {
	case first != nil:
		p.NetNS, p.Outside, p.Tuple = first.Point.NetNS, first.Direction == capture.Ingress, first.Header.Tuple
		p.Nonce = bytes.Clone(first.Header.Payload)
	case len(f.hits) > 0: // it ended where no packet was seen
		p.NetNS, p.Outside = f.hits[0].NetNS, true
	case len(f.drops) > 0:
		p.NetNS, p.Outside = f.drops[0].NetNS, true
	}
	return p
}

// The times after which a flow counts as over although nothing says so.
const (
	idleDatagrams  = 30 * time.Second
	idleConnection = 10 * time.Minute
	// retrying is how long a client may still try again after an ICMP error: Linux
	// does so after a second when the error comes while connect(2) holds the socket
	// (tcp_v4_err in net/ipv4/tcp_ipv4.c, TCP_TIMEOUT_INIT).
	retrying = 2 * time.Second
	// settling is how long the evidence of an end may be on its way.
	settling = 100 * time.Millisecond
)

// Answered reports whether the far end answered, or the flow was there before. What
// others opened is answered by the source, and a connection then has to be confirmed.
func (f *Flow) Answered() bool {
	if f.Inbound && !f.Existing && f.Tuple.Proto == packet.TCP && !f.Talk.confirmed {
		return false
	}
	return !f.Talk.Answered.IsZero() || f.Existing && !f.Talk.Heard.IsZero()
}

// Failing reports whether the flow, as it is now, does not do what it was opened
// for.
func (f *Flow) Failing(now time.Time) bool {
	return f.failing(now) || f.uncarried(now, 0)
}

// failing is Failing of the flow alone.
func (f *Flow) failing(now time.Time) bool {
	return !f.Answered() && !(f.Existing && f.Talk.Sent.IsZero()) || f.Stalled(now) != nil
}

// Due reports whether it is time to judge the flow: it is over, or was not
// answered within patience, or its data does not get through for as long, or a relay
// took it and gets no answer itself. A flow that was judged is due again when it was
// answered after all.
func (f *Flow) Due(now time.Time, patience time.Duration) bool {
	if f.Judged {
		return f.failed && f.Answered() && f.Stalled(now) == nil
	}
	stall := f.Stalled(now)
	switch {
	case f.Over(now):
		return true
	case f.Existing && f.Talk.Sent.IsZero():
		return false
	case !f.Answered():
		return now.Sub(f.Began) > patience
	case stall != nil:
		return now.Sub(f.since(stall)) > patience
	}
	// What came back from a relay says that what carries this flow on works: another
	// flow that may be it, and is not answered, is somebody else's.
	relayed := f.Tuple.Proto != packet.TCP || f.Talk.largest > 0
	return !relayed && f.uncarried(now, patience)
}

// Over reports whether nothing more is to come.
func (f *Flow) Over(now time.Time) bool {
	t := &f.Talk
	last := f.Began
	for _, at := range []time.Time{t.Sent, t.Heard} {
		if at.After(last) {
			last = at
		}
	}
	switch {
	case !t.Ended.IsZero():
		return now.Sub(last) > settling
	case !t.Refused.IsZero():
		return now.Sub(last) > retrying
	case f.Tuple.Proto == packet.TCP:
		return now.Sub(last) > idleConnection
	}
	return now.Sub(last) > idleDatagrams
}

// Judge notes that the flow was judged as it is now, and lets its evidence go.
func (f *Flow) Judge(now time.Time) {
	if !f.Judged {
		for _, c := range f.carriers {
			c.carrying--
			c.trim()
		}
	}
	f.Judged, f.failed = true, f.failing(now)
	f.trim()
}
