package flows

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Clock is how a capture's clock stands to that of the reference capture.
type Clock struct {
	// Reference is the capture that it was compared with, an index; itself for
	// the first, and where Known is false.
	Reference int
	// Known says that the captures share packets, from which the rest follows.
	// Otherwise the clocks are taken to be one.
	Known bool
	// Low and High bound this clock minus the reference clock, in nanoseconds.
	// Bounded says that packets in both directions bound it; otherwise one side
	// is assumed: the fastest packet took at most AssumedDelay.
	Low, High int64
	Bounded   bool
	// Shared is the number of packets that were compared, Drift by how much the
	// clock gains on the reference clock in a second, in nanoseconds.
	Shared int
	Drift  float64
	// First and Last are the times of the capture's first and last packet on the
	// reference clock.
	First, Last int64
	knots       []knot
	// slack is how far the clocks may be apart at one time beyond what the knots
	// say: Low and High also have the drift.
	slack int64
}

// knot is the distance of two clocks at a time on the capture's own one.
type knot struct{ at, offset int64 }

// AssumedDelay is the longest that the fastest packet between two captures is
// assumed to take where nothing came back, in nanoseconds.
const AssumedDelay = 10_000_000

// OnReference turns a time of the capture into one on the reference clock.
func (c *Clock) OnReference(t int64) int64 { return t - c.offset(t) }

// offset is the distance of the clocks at a time of the capture's own: between
// the knots, and beyond them as the nearest two have it.
func (c *Clock) offset(t int64) int64 {
	switch n := len(c.knots); n {
	case 0:
		return 0
	case 1:
		return c.knots[0].offset
	default:
		i, _ := slices.BinarySearchFunc(c.knots, t, func(k knot, t int64) int { return cmp.Compare(k.at, t) })
		i = min(max(i, 1), n-1)
		a, b := c.knots[i-1], c.knots[i]
		if a.at == b.at {
			return a.offset
		}
		share := float64(t-a.at) / float64(b.at-a.at)
		return a.offset + int64(share*float64(b.offset-a.offset))
	}
}

// common is when all captures ran.
func common(clocks []Clock) (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	for i := range clocks {
		if clocks[i].First <= clocks[i].Last {
			from, to = max(from, clocks[i].First), min(to, clocks[i].Last)
		}
	}
	return from, to
}

// sample is a packet that is compared between captures.
type sample struct {
	// id is a hash of what NAT leaves alone, the IPv4 id included.
	id   uint64
	time int64
	key  packet.Key
	// iface is where in its capture it was seen.
	iface int32
	ttl   uint8
	// sure says that no other packet of its capture has the hash: all that have it
	// have one tuple, or the numbers of TCP.
	sure bool
}

// maxSamples is how many packets of a capture are compared: those with the
// smallest hash, which are the same ones in each capture.
const maxSamples = 1 << 15

// Measure reads the captures and tells how far their clocks are apart: the first
// is the reference. Packets that two captures share bound it, as none arrives
// before it was sent.
func Measure(ctx context.Context, captures []Capture, progress func(packets uint64)) ([]Clock, error) {
	src, err := open(ctx, captures)
	if err != nil {
		return nil, err
	}
	defer src.close()
	clocks := make([]Clock, len(captures))
	sets := make([][]sample, len(captures))
	var total uint64
	for i := range captures {
		skip := newPlaces(captures)
		clocks[i] = Clock{Reference: i, First: math.MaxInt64, Last: math.MinInt64}
		var s sampler
		for {
			c, err := src.next(ctx, i)
			if err != nil {
				if errors.Is(err, ctx.Err()) {
					return nil, ctx.Err()
				}
				return nil, err
			}
			if c == nil {
				break
			}
			for k := range c.items {
				it := &c.items[k]
				if !it.has(timed) || skip.at(i, c, it) < 0 {
					continue
				}
				clocks[i].First, clocks[i].Last = min(clocks[i].First, it.time), max(clocks[i].Last, it.time)
				s.add(it)
				total++
				if progress != nil && total%progressEvery == 0 {
					progress(total)
				}
			}
			src.done(c)
		}
		sets[i] = s.samples()
	}
	compareAll(clocks, sets)
	return clocks, nil
}

// sampler keeps the packets with the smallest hashes.
type sampler struct {
	kept  []sample
	limit uint64 // 0 for none yet
}

func (s *sampler) add(i *item) {
	if !i.has(isIP) || i.has(cutShort|laterFragment) || !i.has(distinctive) && i.ipid == 0 {
		return
	}
	id := mix(i.mark, uint64(i.ipid)<<32|uint64(i.data))
	if s.limit != 0 && id >= s.limit {
		return
	}
	s.kept = append(s.kept, sample{id, i.time, i.key, i.iface, i.ttl, true})
	if len(s.kept) == 2*maxSamples {
		slices.SortFunc(s.kept, func(a, b sample) int { return cmp.Compare(a.id, b.id) })
		s.kept = s.kept[:maxSamples]
		s.limit = s.kept[maxSamples-1].id
	}
}

// samples are the packets whose hash is no other's, by hash. A packet may have
// been seen at several interfaces, and with several TTLs or tuples, but not twice
// with all of them the same.
func (s *sampler) samples() []sample {
	slices.SortFunc(s.kept, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.iface, b.iface), cmp.Compare(a.ttl, b.ttl), compareKeys(&a.key, &b.key))
	})
	kept := s.kept[:min(len(s.kept), maxSamples)]
	var out []sample
	for len(kept) > 0 {
		n := alike(kept)
		unique := n <= maxPlaceSamples
		for i := 1; i < n; i++ {
			unique = unique && (kept[i].iface != kept[i-1].iface || kept[i].ttl != kept[i-1].ttl || kept[i].key != kept[i-1].key)
		}
		for i := 1; i < n && unique && kept[0].key.Proto != packet.TCP; i++ {
			if kept[i].key != kept[0].key {
				for k := range kept[:n] {
					kept[k].sure = false
				}
				break
			}
		}
		if unique {
			out = append(out, kept[:n]...)
		}
		kept = kept[n:]
	}
	return out
}

// maxPlaceSamples is how often a packet may have been seen in one capture to be
// compared.
const maxPlaceSamples = 16

// alike is how many samples at the beginning of a sorted list have one hash.
func alike(s []sample) int {
	n := 1
	for n < len(s) && s[n].id == s[0].id {
		n++
	}
	return n
}

// compareAll compares each capture with the reference, or with one that was
// compared with it.
func compareAll(clocks []Clock, sets [][]sample) {
	if len(clocks) == 0 {
		return
	}
	clocks[0].Known, clocks[0].Bounded = true, true
	for queue := []int{0}; len(queue) > 0; queue = queue[1:] {
		with := queue[0]
		for i := range clocks {
			if clocks[i].Known {
				continue
			}
			c, ok := compareClocks(sets[with], sets[i])
			if !ok {
				continue
			}
			base := &clocks[with]
			for k := range c.knots { // from with's clock to the reference's
				own := c.knots[k].at
				c.knots[k].offset = own - base.OnReference(own-c.knots[k].offset)
			}
			c.Low, c.High, c.Bounded, c.slack = c.Low+base.Low, c.High+base.High, c.Bounded && base.Bounded, c.slack+base.slack
			if c.Low <= 0 && c.High >= 0 { // one clock, most likely: that of one machine
				c.knots = []knot{{}}
			}
			c.First, c.Last = c.OnReference(clocks[i].First), c.OnReference(clocks[i].Last)
			clocks[i] = c
			queue = append(queue, i)
		}
	}
}

// distance is a packet that two captures share: the time on the second clock,
// and that minus the time on the first.
type distance struct {
	at, apart int64
	// later is 1 when the packet was at the second place after the first, -1 when
	// before, 0 when its TTL does not tell.
	later int
	key   packet.Key
}

// compareClocks finds the offset of b's clock from a's.
func compareClocks(a, b []sample) (Clock, bool) {
	// TCP's numbers are hardly ever another packet's, and a single mistake would
	// move a bound.
	shared := densest(match(a, b, func(s *sample) bool { return s.key.Proto == packet.TCP }))
	if len(shared) < enough {
		shared = densest(match(a, b, func(s *sample) bool { return s.sure }))
	}
	if len(shared) == 0 {
		shared = densest(match(a, b, func(*sample) bool { return true }))
	}
	if len(shared) == 0 {
		return Clock{}, false
	}
	c := Clock{Known: true, Shared: len(shared)}
	decide(shared)
	slices.SortFunc(shared, func(a, b distance) int { return cmp.Compare(a.at, b.at) })
	whole := boundsOf(shared)
	if whole.low <= whole.high {
		c.Low, c.High, c.Bounded, c.slack = whole.low, whole.high, whole.both, whole.high-whole.low
		c.knots = []knot{{shared[0].at, whole.low + (whole.high-whole.low)/2}}
		return c, true
	}
	c.drifting(shared)
	return c, true
}

// match are the packets that two sorted samples share, each sighting of one with
// each of the other, of those that are wanted.
func match(a, b []sample, wanted func(*sample) bool) []distance {
	var shared []distance
	for len(a) > 0 && len(b) > 0 {
		n, m := alike(a), alike(b)
		switch cmp.Compare(a[0].id, b[0].id) {
		case -1:
			a = a[n:]
		case 1:
			b = b[m:]
		default:
			for _, x := range a[:n] {
				for _, y := range b[:m] {
					if !wanted(&x) || !wanted(&y) {
						continue
					}
					shared = append(shared, distance{y.time, y.time - x.time, cmp.Compare(int(x.ttl), int(y.ttl)), y.key})
				}
			}
			a, b = a[n:], b[m:]
		}
	}
	return shared
}

// clusterWidth is how far the distances of packets may be apart: delays and
// drift, in nanoseconds.
const clusterWidth = 3_000_000_000

// densest is the largest set of distances that lie together; the rest is
// chance.
func densest(all []distance) []distance {
	slices.SortFunc(all, func(a, b distance) int { return cmp.Compare(a.apart, b.apart) })
	from, to := 0, 0
	for i, k := 0, 0; k < len(all); k++ {
		for all[k].apart-all[i].apart > clusterWidth {
			i++
		}
		if k+1-i > to-from {
			from, to = i, k+1
		}
	}
	return all[from:to]
}

// decide tells which of two places packets whose TTL stayed had passed first:
// packets of one direction before, those of the other after. The hypothesis that
// leaves room for an offset is the right one; where both do, or none, nothing is
// decided.
func decide(all []distance) {
	var forth, back bounds
	forth, back = emptyBounds(), emptyBounds()
	for i := range all {
		if all[i].later != 0 {
			continue
		}
		if forward(&all[i].key) {
			forth.add(all[i].apart)
		} else {
			back.add(all[i].apart)
		}
	}
	if forth.empty() || back.empty() {
		return
	}
	// If forth goes from the first place to the second, the offset is at most the
	// least of forth and at least the most of back.
	yes, no := back.high <= forth.low, forth.high <= back.low
	if yes == no {
		return
	}
	for i := range all {
		if all[i].later == 0 {
			all[i].later = -1
			if forward(&all[i].key) == yes {
				all[i].later = 1
			}
		}
	}
}

// forward tells the two directions of a flow apart: requests go to the smaller
// port.
func forward(k *packet.Key) bool {
	switch {
	case k.Proto.IsICMP():
		return k.ICMPType == packet.EchoRequest || k.ICMPType == packet.EchoRequestV6
	case k.SrcPort != k.DstPort:
		return k.SrcPort > k.DstPort
	}
	return slices.Compare(k.Src[:], k.Dst[:]) < 0
}

// bounds are the least and the most of something.
type bounds struct {
	low, high int64
	both      bool
}

func emptyBounds() bounds { return bounds{low: math.MaxInt64, high: math.MinInt64} }

func (b *bounds) add(v int64) { b.low, b.high = min(b.low, v), max(b.high, v) }
func (b *bounds) empty() bool { return b.low > b.high }

// boundsOf is where the offset lies, given all of the distances.
func boundsOf(all []distance) bounds {
	later, earlier, unknown := emptyBounds(), emptyBounds(), emptyBounds()
	for i := range all {
		switch all[i].later {
		case 1:
			later.add(all[i].apart)
		case -1:
			earlier.add(all[i].apart)
		default:
			unknown.add(all[i].apart)
		}
	}
	switch {
	case !later.empty() && !earlier.empty():
		return bounds{earlier.high, later.low, true}
	case !later.empty():
		return bounds{later.low - AssumedDelay, later.low, false}
	case !earlier.empty():
		return bounds{earlier.high, earlier.high + AssumedDelay, false}
	case unknown.low == unknown.high:
		return bounds{unknown.low, unknown.high, false}
	}
	return bounds{unknown.low - AssumedDelay, unknown.high + AssumedDelay, false}
}

// driftWindows is into how many parts the time is cut to follow a clock that
// drifts.
const driftWindows = 64

// drifting follows the offset over time by knots. Low and High bound it from the
// first packet to the last: by what is left of the distances when the drift is
// taken out.
func (c *Clock) drifting(all []distance) {
	size := max(len(all)/driftWindows, 16)
	for from := 0; from < len(all); from += size {
		part := all[from:min(from+size, len(all))]
		b := boundsOf(part)
		c.knots = append(c.knots, knot{part[len(part)/2].at, b.low/2 + b.high/2})
	}
	first, last := all[0].at, all[len(all)-1].at
	left := slices.Clone(all)
	for i := range left {
		left[i].apart -= c.offset(left[i].at)
	}
	b := boundsOf(left)
	if b.low > b.high { // it does not drift evenly
		b.low, b.high = b.high, b.low
	}
	course := emptyBounds()
	course.add(c.offset(first))
	course.add(c.offset(last))
	for i := range c.knots {
		course.add(c.knots[i].offset)
	}
	c.Low, c.High, c.Bounded, c.slack = course.low+b.low, course.high+b.high, b.both, b.high-b.low
	if last > first {
		c.Drift = float64(c.offset(last)-c.offset(first)) / (float64(last-first) / 1e9)
	}
}

// slackOf is how much the clocks may be apart beyond what is known.
func slackOf(clocks []Clock) int64 {
	var most int64
	for i := range clocks {
		most = max(most, clocks[i].slack)
	}
	return most
}

// timeOf is a time in nanoseconds as others have it.
func timeOf(t int64) time.Time { return time.Unix(t/1e9, t%1e9) }
