package flows

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// Course is one flow, packet by packet.
type Course struct {
	// Sights are the sightings of its packets and of ICMP errors about them, by
	// time on the reference clock.
	Sights []Sight
	// Packets are which of them are one packet, by the first of their sightings.
	Packets []Packet
	// Cut says that there were more than MaxSights, which are left out.
	Cut bool
}

// Sight is one packet at one stop.
type Sight struct {
	// Reply and Stop say which of Flow.Out or Flow.Back; Stop is -1 for an ICMP
	// error, and Place where that was seen.
	Reply bool
	Stop  int
	Place int
	// Sighting has the time on the reference clock, and the number of the record
	// among those of the flow.
	capture.Sighting
	// Offset is where the record begins in its capture.
	Offset int64
	mark   uint64
	ipid   uint16
	body   uint32
	bodyN  uint8
}

// Packet is one packet on its way.
type Packet struct {
	Reply bool
	// Sights are indexes into Course.Sights, in the order of the stops. Several
	// at one stop are the parts that the packet was cut into, or that it was made
	// of.
	Sights []int
	// Ambiguous says that more packets looked like it, and it could not be told
	// which was which: it may have been seen elsewhere, too.
	Ambiguous bool
	// Error is an ICMP error and no packet of the flow.
	Error bool
}

// MaxSights bounds how many sightings of a flow are followed.
const MaxSights = 20_000

// Follow reads the captures once more for the packets of some flows. The
// captures, the clocks and the flows must be those of the join.
func Follow(ctx context.Context, captures []Capture, clocks []Clock, flows ...*Flow) ([]*Course, error) {
	src, err := open(ctx, captures)
	if err != nil {
		return nil, err
	}
	defer src.close()
	w := &follower{places: newPlaces(captures), stops: make(map[stopKey][]stopAt), fragments: make(map[fragmentKey]stopAt)}
	courses := make([]*Course, len(flows))
	for i, f := range flows {
		courses[i] = &Course{}
		w.add(f, courses[i])
	}
	if err := walk(ctx, src, clocks, func(int, *chunk) {}, w.visit); err != nil && !errors.Is(err, ctx.Err()) {
		return nil, err
	}
	for i, f := range flows {
		courses[i].join(f, slackOf(clocks))
	}
	return courses, nil
}

// follower picks out the packets of flows.
type follower struct {
	places *places
	stops  map[stopKey][]stopAt
	// fragments are the stops of first fragments.
	fragments map[fragmentKey]stopAt
}

// stopKey is a tuple at a place; quoted by an ICMP error when error is set.
type stopKey struct {
	place int
	key   packet.Key
	error bool
}

// stopAt is a stop of a flow; -1 stands for its ICMP errors.
type stopAt struct {
	flow   *Flow
	course *Course
	reply  bool
	stop   int
	ttl    uint8
}

func (w *follower) add(f *Flow, c *Course) {
	for reply, stops := range [][]Stop{f.Out, f.Back} {
		for i := range stops {
			k := stopKey{place: stops[i].Place, key: stops[i].Key}
			w.stops[k] = append(w.stops[k], stopAt{f, c, reply == 1, i, stops[i].TTL})
		}
	}
	for i := range f.Errors {
		k := stopKey{f.Errors[i].Place, f.Errors[i].About, true}
		w.stops[k] = append(w.stops[k], stopAt{flow: f, course: c, stop: -1})
	}
}

func (w *follower) visit(captureIndex int, c *chunk, at int) {
	i := &c.items[at]
	place := w.places.at(captureIndex, c, i)
	if place < 0 || !i.has(timed) || !i.has(isIP) {
		return
	}
	stop, ok := w.stop(c, i, place)
	if !ok {
		return
	}
	course := stop.course
	if len(course.Sights) == MaxSights {
		course.Cut = true
		return
	}
	r := &c.batch.Records[at]
	s := Sight{
		Reply: stop.reply, Stop: stop.stop, Place: int(place), Offset: r.Offset,
		mark: i.mark, ipid: i.ipid, body: i.body, bodyN: i.bodyLength,
	}
	s.Point, s.Direction, s.Length = w.places.list[place].Point, r.Direction, int(r.Length)
	s.Time, s.Number = timeOf(i.time), uint64(len(course.Sights)+1)
	s.Header, _ = packet.DecodeInner(r.Link, r.Data, int(r.Length)) // what Scan understood has a header
	course.Sights = append(course.Sights, s)
}

// stop is where on a flow's way a packet was seen.
func (w *follower) stop(c *chunk, i *item, place int32) (stopAt, bool) {
	k := stopKey{place: int(place), key: i.key}
	if i.rare >= 0 && c.rare[i.rare].quoted != (packet.Key{}) {
		quoted := stopKey{int(place), c.rare[i.rare].quoted, true}
		if len(w.stops[quoted]) > 0 { // else the error is a flow of its own
			k = quoted
		}
	}
	key := fragmentKey{i.key.Src, i.key.Dst, i.key.Proto, i.ipid, place}
	if i.has(laterFragment) {
		stop, ok := w.fragments[key]
		return stop, ok
	}
	var stop stopAt
	for _, s := range w.stops[k] {
		// A tuple that is used again belongs to another flow later.
		if i.time < s.flow.Started || i.time > s.flow.Started+s.flow.Elapsed {
			continue
		}
		if stop.flow == nil || s.ttl == i.ttl {
			stop = s
		}
	}
	if i.has(fragment) && stop.flow != nil {
		if len(w.fragments) >= maxFragments {
			clear(w.fragments)
		}
		w.fragments[key] = stop
	}
	return stop, stop.flow != nil
}

// join finds out which sightings are one packet.
func (c *Course) join(f *Flow, slack int64) {
	j := &courseJoin{course: c, next: make([][]int, len(c.Sights)), before: make([][]int, len(c.Sights)), unclear: make([]bool, len(c.Sights))}
	for reply, stops := range [][]Stop{f.Out, f.Back} {
		at := make([][]int, len(stops))
		for i := range c.Sights {
			if s := &c.Sights[i]; s.Stop >= 0 && s.Reply == (reply == 1) {
				at[s.Stop] = append(at[s.Stop], i)
			}
		}
		for to := 1; to < len(at); to++ {
			for from := to - 1; from >= 0; from-- {
				j.match(at[from], at[to], slack)
			}
		}
	}
	j.errors()
	j.packets()
}

// errors joins the sightings of each ICMP error.
func (j *courseJoin) errors() {
	last := make(map[class]int)
	for i := range j.course.Sights {
		s := &j.course.Sights[i]
		if s.Stop >= 0 || s.Header.Quoted == nil {
			continue
		}
		before, ok := last[s.class()]
		if ok && j.course.Sights[before].Place != s.Place && j.apart(before, i) <= horizon {
			j.link(before, i)
		}
		last[s.class()] = i
	}
}

// courseJoin is the join of a course under way.
type courseJoin struct {
	course *Course
	// next and before are the sightings of the same packet at a later and an
	// earlier stop.
	next, before [][]int
	unclear      []bool
}

// class is what sightings of one packet have in common. It is comparable.
type class struct {
	mark   uint64
	ipid   uint16
	offset int
}

func (s *Sight) class() class { return class{s.mark, s.ipid, s.Header.FragmentOffset} }

// match finds the packets that two stops share, of those that have no partner at
// the stops between.
func (j *courseJoin) match(from, to []int, slack int64) {
	sights := j.course.Sights
	alike := make(map[class][2][]int)
	for _, i := range from {
		if len(j.next[i]) == 0 {
			a := alike[sights[i].class()]
			a[0] = append(a[0], i)
			alike[sights[i].class()] = a
		}
	}
	for _, i := range to {
		if len(j.before[i]) == 0 {
			a := alike[sights[i].class()]
			a[1] = append(a[1], i)
			alike[sights[i].class()] = a
		}
	}
	delays := emptyBounds()
	var several [][2][]int
	for _, a := range alike {
		if len(a[0]) == 1 && len(a[1]) == 1 && sights[a[0][0]].mayBe(&sights[a[1][0]]) {
			if apart := j.apart(a[0][0], a[1][0]); apart <= horizon+slack && apart >= -slack-clockJitter {
				delays.add(apart)
				j.link(a[0][0], a[1][0])
				continue
			}
		}
		if len(a[0]) > 0 && len(a[1]) > 0 {
			several = append(several, a)
		}
	}
	slices.SortFunc(several, func(a, b [2][]int) int { return cmp.Compare(a[0][0], b[0][0]) })
	for _, a := range several {
		j.matchSeveral(a[0], a[1], delays, slack)
	}
	j.matchParts(from, to, delays, slack)
	j.matchParts(to, from, delays, slack)
}

// clockJitter is how far the times of two interfaces of one machine may be out
// of order, in nanoseconds.
const clockJitter = 1_000_000

func (j *courseJoin) apart(a, b int) int64 {
	return j.course.Sights[b].Time.Sub(j.course.Sights[a].Time).Nanoseconds()
}

// mayBe reports whether two sightings may be one packet.
func (s *Sight) mayBe(o *Sight) bool {
	return (s.bodyN != o.bodyN || s.body == o.body) && (s.Header.IsFragment() || o.Header.IsFragment() ||
		s.Header.DataLength == o.Header.DataLength || s.Header.Tuple.Proto == packet.TCP)
}

func (j *courseJoin) link(a, b int) {
	j.next[a] = append(j.next[a], b)
	j.before[b] = append(j.before[b], a)
}

// usual is how long packets take that look like others: as those do that do
// not.
func usual(delays bounds, slack int64) (low, high int64) {
	if delays.empty() {
		return -slack - clockJitter, horizon + slack
	}
	margin := max(clockJitter, delays.high-delays.low)
	return delays.low - margin, delays.high + margin
}

// matchSeveral tells packets apart by time that look alike: one is the other's
// when no third is possible.
func (j *courseJoin) matchSeveral(from, to []int, delays bounds, slack int64) {
	if delays.empty() && len(from) == len(to) && j.inStep(from, to, slack) {
		for k := range from {
			j.link(from[k], to[k])
		}
		return
	}
	low, high := usual(delays, slack)
	possible := func(a, b int) bool {
		apart := j.apart(a, b)
		return apart >= low && apart <= high && j.course.Sights[a].mayBe(&j.course.Sights[b])
	}
	only := func(i int, of []int, possible func(i, k int) bool) (int, int) {
		found, n := -1, 0
		for _, k := range of {
			if possible(i, k) {
				found = k
				n++
			}
		}
		return found, n
	}
	type pairing struct{ a, b int }
	var sure []pairing
	for _, a := range from {
		b, n := only(a, to, possible)
		if n > 1 {
			j.unclear[a] = true
			continue
		}
		if n == 0 {
			continue
		}
		if back, n := only(b, from, func(i, k int) bool { return possible(k, i) }); n == 1 && back == a {
			sure = append(sure, pairing{a, b})
		} else {
			j.unclear[a], j.unclear[b] = true, true
		}
	}
	for _, b := range to {
		if _, n := only(b, from, func(i, k int) bool { return possible(k, i) }); n > 1 {
			j.unclear[b] = true
		}
	}
	for _, p := range sure {
		j.link(p.a, p.b)
	}
}

// inStep reports whether each packet arrived before the next one that looks like
// it was sent.
func (j *courseJoin) inStep(from, to []int, slack int64) bool {
	if slack > clockJitter {
		return false
	}
	for k := range from {
		if apart := j.apart(from[k], to[k]); apart < 0 || apart > horizon ||
			k+1 < len(from) && j.apart(from[k+1], to[k]) >= 0 {
			return false
		}
	}
	return true
}

// matchParts finds the packets that whole ones were cut into: TCP segments by
// the bytes of the stream that they hold, fragments by their id.
func (j *courseJoin) matchParts(wholes, parts []int, delays bounds, slack int64) {
	low, high := usual(delays, slack)
	sights := j.course.Sights
	for _, p := range parts {
		if len(j.next[p]) > 0 && len(j.before[p]) > 0 {
			continue
		}
		found := -1
		for _, w := range wholes {
			a, b := w, p
			if stopOrder(&sights[w], &sights[p]) > 0 {
				a, b = p, w
			}
			apart := j.apart(a, b)
			if apart < low || apart > high || !j.holds(w, p) {
				continue
			}
			if slices.Contains(j.next[a], b) {
				found = -1
				break
			}
			if len(j.next[p])+len(j.before[p]) > 0 && linkedTo(j, p, sights[w].Stop) {
				found = -1
				break
			}
			if found >= 0 {
				j.unclear[p] = true
				found = -1
				break
			}
			found = w
		}
		if found < 0 {
			continue
		}
		if stopOrder(&sights[found], &sights[p]) > 0 {
			j.link(p, found)
		} else {
			j.link(found, p)
		}
	}
}

// linkedTo reports whether a sighting is joined to one at a stop.
func linkedTo(j *courseJoin, i, stop int) bool {
	at := func(k int) bool { return j.course.Sights[k].Stop == stop }
	return slices.ContainsFunc(j.next[i], at) || slices.ContainsFunc(j.before[i], at)
}

func stopOrder(a, b *Sight) int { return cmp.Compare(a.Stop, b.Stop) }

// holds reports whether packet p may be a part of packet w.
func (j *courseJoin) holds(w, p int) bool {
	whole, part := &j.course.Sights[w].Header, &j.course.Sights[p].Header
	if part.IsFragment() {
		return !whole.IsFragment() && part.FragmentOffset+part.PayloadLength <= whole.PayloadLength &&
			(whole.Version == 4 && whole.IPID == part.IPID && whole.IPID != 0 || whole.Version == 6 && j.sameFragments(w, p))
	}
	if whole.Tuple.Proto != packet.TCP || part.DataLength == 0 || part.DataLength >= whole.DataLength || part.Ack != whole.Ack {
		return false
	}
	ahead := part.Seq - whole.Seq
	return int64(ahead)+int64(part.DataLength) <= int64(whole.DataLength)
}

// sameFragments reports whether the first fragment of the packet that p is a
// part of was recognised as w.
func (j *courseJoin) sameFragments(w, p int) bool {
	part := &j.course.Sights[p]
	for _, first := range slices.Concat(j.next[w], j.before[w]) {
		f := &j.course.Sights[first]
		if f.Stop == part.Stop && f.Header.IsFragment() && f.Header.FragmentOffset == 0 && f.Header.IPID == part.Header.IPID {
			return true
		}
	}
	return false
}

// packets collects what is joined.
func (j *courseJoin) packets() {
	sights := j.course.Sights
	done := make([]bool, len(sights))
	for i := range sights {
		if done[i] {
			continue
		}
		p := Packet{Reply: sights[i].Reply, Error: sights[i].Stop < 0}
		for queue := []int{i}; len(queue) > 0; queue = queue[1:] {
			k := queue[0]
			if done[k] {
				continue
			}
			done[k] = true
			p.Sights = append(p.Sights, k)
			p.Ambiguous = p.Ambiguous || j.unclear[k]
			queue = append(queue, j.next[k]...)
			queue = append(queue, j.before[k]...)
		}
		slices.SortFunc(p.Sights, func(a, b int) int {
			return cmp.Or(cmp.Compare(sights[a].Stop, sights[b].Stop), cmp.Compare(a, b))
		})
		j.course.Packets = append(j.course.Packets, p)
	}
}
