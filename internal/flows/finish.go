package flows

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// finish turns what was read into the result.
func (j *join) finish() {
	groups := j.groups()
	all := make([]Flow, len(groups), len(groups)+len(j.kept))
	var describing sync.WaitGroup
	parts := runtime.GOMAXPROCS(0)
	for part := range parts {
		describing.Go(func() {
			var d describer
			for i := part * len(groups) / parts; i < (part+1)*len(groups)/parts; i++ {
				all[i] = j.flow(&groups[i], &d)
			}
		})
	}
	describing.Wait()
	all = append(all, j.kept...)
	spans := j.spans()
	wait(all, j.places.list, spans, j.cfg.Patience)
	j.result.Flows = ranked(all)
	j.result.Places = j.places.list
	for i := range j.result.Places {
		if p := &j.result.Places[i]; p.First > p.Last {
			p.First, p.Last = 0, 0
		}
	}
	j.result.missing(spans)
}

// span is the time from a capture's first packet to its last.
type span struct{ first, last int64 }

func (j *join) spans() []span {
	all := make([]span, len(j.places.captures))
	for i := range all {
		all[i] = span{math.MaxInt64, math.MinInt64}
	}
	for i := range j.places.list {
		p := &j.places.list[i]
		s := &all[p.Capture]
		s.first, s.last = min(s.first, p.First), max(s.last, p.Last)
	}
	return all
}

// wait takes back that an answer was lost where the capture ended sooner than
// others were answered.
func wait(all []Flow, places []Place, spans []span, patience time.Duration) {
	usual := make([]int64, len(spans)) // the longest that an answer took
	for i := range all {
		f := &all[i]
		first := &places[f.Out[0].Place]
		from := f.Out[0].First
		for k := range f.Back {
			if s := &f.Back[k]; places[s.Place].base != first.base {
				from = max(from, s.First)
			} else if took := s.First - f.Out[0].First; took <= horizon {
				usual[first.Capture] = max(usual[first.Capture], took)
			}
		}
		f.Waited = max(spans[first.Capture].last-from, 0)
	}
	for i := range all {
		f := &all[i]
		first := &f.Out[0]
		if ran := places[first.Place].Capture; f.Unanswered > 0 && spans[ran].last-first.Last < usual[ran] {
			f.Unanswered-- // the last one was sent too late
		}
		if f.Outcome != Lost {
			continue
		}
		switch least := usual[places[f.Out[0].Place].Capture]; {
		case f.Waited == 0 && len(f.Back) > 0:
			f.Outcome = Inconclusive
			f.Ambiguous = append(f.Ambiguous, "the capture of its first place ended before the answer was seen elsewhere")
		case f.Waited < least:
			f.Outcome = Inconclusive
			f.Short = fmt.Sprintf("the capture ends %s after the first packet to be answered, and others waited up to %s", shortly(f.Waited), shortly(least))
		case f.Waited < patience.Nanoseconds() && len(f.Back) == 0:
			f.Outcome = Inconclusive
			f.Short = fmt.Sprintf("the capture ends %s after the first packet: a later answer is not in it", shortly(f.Waited))
		}
	}
}

// shortly is a time as a sentence has it.
func shortly(nanoseconds int64) string { return fmt.Sprintf("%.1f ms", float64(nanoseconds)/1e6) }

// ranked numbers flows, the worst first: what failed, then what cannot be told,
// then the larger ones.
func ranked(flows []Flow) []Flow {
	type rank struct {
		severity                  int
		missing, packets, started int64
		at                        int
	}
	ranks := make([]rank, len(flows))
	for i := range flows {
		f := &flows[i]
		ranks[i] = rank{f.severity(), -int64(f.missing()), -int64(f.packets()), f.Started, i}
	}
	slices.SortFunc(ranks, func(a, b rank) int {
		switch {
		case a.severity != b.severity:
			return a.severity - b.severity
		case a.missing != b.missing:
			return cmp.Compare(a.missing, b.missing)
		case a.packets != b.packets:
			return cmp.Compare(a.packets, b.packets)
		case a.started != b.started:
			return cmp.Compare(a.started, b.started)
		}
		return compareKeys(&flows[a.at].Request, &flows[b.at].Request)
	})
	for i := range ranks { // in place: flow ranks[i].at goes to i
		at := i
		held := flows[i]
		for next := ranks[at].at; next != i && next >= 0; next = ranks[at].at {
			flows[at] = flows[next]
			ranks[at].at = -1
			at = next
		}
		if ranks[at].at >= 0 {
			flows[at] = held
			ranks[at].at = -1
		}
	}
	for i := range flows {
		flows[i].Number = i + 1
	}
	return flows
}

func (f *Flow) severity() int {
	switch {
	case f.Outcome == Lost || f.Outcome == Rejected:
		return 0
	case f.Fall != nil:
		return 1
	case f.Unfinished():
		return 2
	case len(f.Ambiguous) > 0:
		return 3
	case f.Outcome == Inconclusive:
		return 4
	}
	return 5
}

func (f *Flow) missing() uint64 {
	if f.Fall == nil {
		return 0
	}
	return max(f.Fall.Packets, f.Fall.Bytes)
}

func (f *Flow) packets() uint64 {
	var n uint64
	for i := range f.Out {
		n = max(n, f.Out[i].Packets)
	}
	for i := range f.Back {
		n = max(n, f.Back[i].Packets)
	}
	return n
}

// describer has the memory that flows are described in: one piece for many.
type describer struct {
	tracks [2][]int32
	stops  []Stop
}

// take is room for n stops.
func (d *describer) take(n int) []Stop {
	const piece = 1 << 10
	if cap(d.stops)-len(d.stops) < n {
		d.stops = make([]Stop, 0, max(piece, n))
	}
	from := len(d.stops)
	d.stops = d.stops[:from+n]
	return d.stops[from : from : from+n]
}

// flow describes a group.
func (j *join) flow(g *group, d *describer) Flow {
	f := Flow{Started: math.MaxInt64}
	ended := int64(math.MinInt64)
	opposite := j.request(g)
	tracks := [2][]int32{d.tracks[0][:0], d.tracks[1][:0]}
	for _, m := range g.members {
		t := j.tracks.at(m.track)
		f.Started, ended = min(f.Started, t.first), max(ended, t.last)
		switch {
		case m.about:
			q := j.tracks.quoted[m.track]
			f.Errors = append(f.Errors, Error{Place: int(t.place), Key: t.key, Code: q.code, About: q.key, Packets: uint64(t.packets), TTL: t.ttl, First: t.first})
		case m.opposite == opposite:
			tracks[0] = append(tracks[0], m.track)
		default:
			tracks[1] = append(tracks[1], m.track)
		}
	}
	f.Elapsed = ended - f.Started
	d.tracks = tracks
	f.Out, f.Back = j.stops(tracks[0], d), j.stops(tracks[1], d)
	f.Request, f.Translated = f.Out[0].Key, f.Out[len(f.Out)-1].Key
	f.Translations = translations(&f)
	f.Fall = cmp.Or(j.fall(f.Out, false), j.fall(f.Back, true), swapped(f.Out, false), swapped(f.Back, true))
	f.Outcome = f.outcome(j.places.list)
	f.Unanswered, f.Unacknowledged = f.unanswered(j.places.list), j.unacknowledged(&f)
	f.doubt(g)
	return f
}

// request is the direction of the track that began a group.
func (j *join) request(g *group) (opposite bool) {
	first := int32(-1)
	for _, m := range g.members {
		if m.about {
			continue
		}
		if first < 0 || j.before(m.track, first) {
			first, opposite = m.track, m.opposite
		}
	}
	return opposite
}

// before reports whether track a rather than b began an exchange.
func (j *join) before(a, b int32) bool {
	x, y := j.tracks.at(a), j.tracks.at(b)
	return cmp.Or(-cmp.Compare(x.begun(), y.begun()), cmp.Compare(x.first, y.first)) < 0
}

// begun is above zero where a track's packets began an exchange, as they tell, and
// below where they answered. A capture may begin in the middle of it, and of two
// captures the clocks may not be known: then what is first tells nothing.
func (t *track) begun() int {
	const service = 1024 // ports below are those of services
	switch k := &t.key; {
	case asks(k), t.opens:
		return 2
	case t.accepts:
		return -2
	case k.Proto != packet.TCP:
		return 0
	case k.DstPort < service && k.SrcPort >= service:
		return 1
	case k.SrcPort < service && k.DstPort >= service:
		return -1
	}
	return 0
}

// asks reports whether a tuple is that of a request by its type.
func asks(k *packet.Key) bool {
	return k.Proto == packet.ICMP && k.ICMPType == packet.EchoRequest || k.Proto == packet.ICMPv6 && k.ICMPType == packet.EchoRequestV6
}

// stops are the places of one direction in the order of the packets.
func (j *join) stops(tracks []int32, d *describer) []Stop {
	if len(tracks) == 0 {
		return nil
	}
	if len(tracks) > 1 {
		slices.SortStableFunc(tracks, func(a, b int32) int { return -cmp.Compare(j.tracks.at(a).packets, j.tracks.at(b).packets) })
	}
	stops := d.take(len(tracks))
	for _, i := range tracks {
		t := j.tracks.at(i)
		at := slices.IndexFunc(stops, func(s Stop) bool { return s.Place == int(t.place) && s.Key == t.key && !j.links.joined(s.track, i) })
		if at < 0 {
			at = len(stops)
			stops = append(stops, Stop{Place: int(t.place), Key: t.key, TTL: t.ttl, First: t.first, Last: t.last, track: i})
		}
		s := &stops[at]
		s.tracks++
		s.Packets, s.Bytes, s.Common = s.Packets+uint64(t.packets), s.Bytes+t.bytes, s.Common+uint64(t.common)
		s.Copies, s.Repeated = s.Copies+uint64(t.copies), s.Repeated+uint64(t.repeated)
		s.Stream, s.Data = s.Stream+t.stream, s.Data+t.data
		s.alike += uint64(t.alike)
		s.sum, s.partial = s.sum+t.sum, s.partial || t.partial
		s.First, s.Last, s.Flags = min(s.First, t.first), max(s.Last, t.last), s.Flags|t.flags
	}
	j.order(stops)
	return stops
}

// order puts stops in the order of the packets: by TTL, then by time. What that
// leaves open is in the order of the captures, or against it where the first and
// the last place are.
func (j *join) order(stops []Stop) {
	if len(stops) == 1 {
		return
	}
	root := stops[0]
	for i := range stops {
		s := &stops[i]
		s.DelayLow, s.DelayHigh = s.First-root.First, s.First-root.First
		if e, ok := j.links.between(root.track, s.track); ok {
			s.DelayLow, s.DelayHigh = e.low, e.high
		}
	}
	known := func(a, b Stop) int {
		if a.TTL != b.TTL {
			return int(b.TTL) - int(a.TTL)
		}
		return cmp.Compare(a.DelayLow+a.DelayHigh, b.DelayLow+b.DelayHigh)
	}
	slices.SortStableFunc(stops, known)
	way := cmp.Compare(stops[len(stops)-1].Place, stops[0].Place)
	slices.SortStableFunc(stops, func(a, b Stop) int { return cmp.Or(known(a, b), way*cmp.Compare(a.Place, b.Place)) })
	for i := 1; i < len(stops); i++ { // by what neighbours say of each other
		for k := i; k > 0 && stops[k].TTL == stops[k-1].TTL && j.precedes(&stops[k], &stops[k-1]); k-- {
			stops[k], stops[k-1] = stops[k-1], stops[k]
		}
	}
	for i := range stops {
		s := &stops[i]
		if s.DelayLow, s.DelayHigh = 0, 0; i == 0 {
			continue
		}
		if e, ok := j.links.between(stops[0].track, s.track); ok {
			s.DelayLow, s.DelayHigh = e.low, e.high
		} else {
			s.DelayLow, s.DelayHigh = s.First-stops[0].First, s.First-stops[0].First
		}
		if e, ok := j.links.between(stops[i-1].track, s.track); ok {
			s.Joined = uint64(e.strong)
		}
	}
}

// precedes reports whether no packet that two stops share was at b before a, and
// some were at a before b.
func (j *join) precedes(a, b *Stop) bool {
	e, ok := j.links.between(a.track, b.track)
	return ok && e.low >= 0 && e.high > 0
}

// translations are the changes between stops.
func translations(f *Flow) []Translation {
	changes := 0
	for _, stops := range [2][]Stop{f.Out, f.Back} {
		for i := 1; i < len(stops); i++ {
			if stops[i].Key != stops[i-1].Key {
				changes++
			}
		}
	}
	if changes == 0 {
		return nil
	}
	all := make([]Translation, 0, changes)
	for reply, stops := range [2][]Stop{f.Out, f.Back} {
		for i := 1; i < len(stops); i++ {
			a, b := &stops[i-1], &stops[i]
			if a.Key == b.Key {
				continue
			}
			all = append(all, Translation{
				Reply: reply == 1, From: i - 1, To: i, Before: a.Key, After: b.Key, Packets: b.Joined,
				Neutral: neutral(&a.Key.Src, &b.Key.Src) || neutral(&a.Key.Dst, &b.Key.Dst),
			})
		}
	}
	return all
}

// neutral reports whether one address for another leaves the checksum as it is.
func neutral(a, b *[16]byte) bool {
	return *a != *b && packet.ChecksumNeutral(netip.AddrFrom16(*a).Unmap(), netip.AddrFrom16(*b).Unmap())
}

// outcome is how the flow ended, as its packets tell.
func (f *Flow) outcome(places []Place) Outcome {
	dst := f.Request.Tuple().Dst
	refused := slices.ContainsFunc(f.Errors, func(e Error) bool { return e.ends() })
	answered := slices.ContainsFunc(f.Back, func(s Stop) bool { return places[s.Place].base == places[f.Out[0].Place].base })
	sent := f.Out[0].Flags
	reset := f.Request.Proto == packet.TCP && slices.ContainsFunc(f.Back, func(s Stop) bool {
		// What resets a SYN acknowledges it; of a connection that stood before the
		// capture began, the receiver acknowledges data, too.
		return s.Flags.Has(packet.RST) && s.Flags&(packet.SYN|packet.PSH|packet.FIN) == 0 && s.Stream == 0 &&
			(!sent.Has(packet.ACK) || !s.Flags.Has(packet.ACK))
	})
	switch {
	case reset || refused && len(f.Back) == 0:
		return Rejected
	case answered:
		return Replied
	case len(f.Back) > 0:
		return Lost
	case dst.IsMulticast() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return OneWay
	case f.Request.Proto == packet.TCP && f.Out[0].Flags.Has(packet.ACK):
		return Inconclusive // the other direction took another way
	case f.Request.Proto == packet.TCP, asks(&f.Request):
		return Lost
	}
	return Inconclusive
}

// ends reports whether an ICMP error ends an exchange: the destination is
// unreachable, or the TTL ended, and not that a packet is too big.
func (e *Error) ends() bool {
	if e.Key.Proto == packet.ICMP {
		return e.Key.ICMPType == 3 && e.Code != 4 || e.Key.ICMPType == 11
	}
	return e.Key.ICMPType == 1 || e.Key.ICMPType == 3
}

// doubt says what could not be told.
func (f *Flow) doubt(g *group) {
	if g.unclear > 0 {
		f.Ambiguous = append(f.Ambiguous, fmt.Sprintf("its content does not tell it from other flows: %d of them may be the same one before or after NAT", g.unclear))
	}
	if g.relays > 0 {
		f.Ambiguous = append(f.Ambiguous, "the same data was seen between other addresses and ports with no lower TTL: NAT of both ends, or a program that passes it on")
	}
	if g.contradiction {
		f.Ambiguous = append(f.Ambiguous, "its packets go both ways under one tuple")
	}
}

// missing finds for each flow the places that saw others on the same way and not
// this one, although their capture ran.
func (r *Result) missing(spans []span) {
	type way struct {
		from int
		dst  [16]byte
	}
	words := (len(r.Places) + 63) / 64
	ways := make(map[way]int) // index into seen
	var seen []uint64         // a bit for each place
	at := make([]int, len(r.Flows))
	for i := range r.Flows {
		f := &r.Flows[i]
		w := way{f.Out[0].Place, f.Request.Dst}
		k, ok := ways[w]
		if !ok {
			k = len(seen)
			ways[w] = k
			seen = append(seen, make([]uint64, words)...)
		}
		at[i] = k
		for s := range f.Out {
			seen[k+f.Out[s].Place/64] |= 1 << (f.Out[s].Place % 64)
		}
	}
	for i := range r.Flows {
		f := &r.Flows[i]
		for word := range words {
			others := seen[at[i]+word]
			for s := range f.Out {
				if f.Out[s].Place/64 == word {
					others &^= 1 << (f.Out[s].Place % 64)
				}
			}
			for ; others != 0; others &= others - 1 {
				place := word*64 + bits.TrailingZeros64(others)
				if ran := spans[r.Places[place].Capture]; ran.first <= f.Started && f.Started <= ran.last {
					f.Missing = append(f.Missing, place)
				}
			}
		}
	}
}
