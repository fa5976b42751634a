package flows

import (
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// pair is two tracks that share packets.
type pair struct {
	a, b    int32 // a < b
	edge          // low and high are the time from a to b
	verdict judgement
}

// judgement is what is made of a pair.
type judgement uint8

const (
	refused judgement = iota
	accepted
	// unclear pairs may be one flow; content does not tell.
	unclear
	// relay pairs may be one flow, or two with a program between them.
	relay
)

// pairs collects and judges what the tracks share.
func (j *join) pairs() []pair {
	all := j.collect()
	near := adjacent(all, j.tracks.count)
	for i := range all {
		all[i].verdict = j.judge(all, near, i)
	}
	return all
}

// collect merges the votes of both ends of each pair.
func (j *join) collect() []pair {
	all := make([]pair, 0, j.tracks.count)
	for i := range int32(j.tracks.count) {
		j.links.edgesOf(i, func(e *edge) {
			p := pair{a: e.peer - 1, b: i, edge: *e}
			if p.a > p.b {
				p.a, p.b = p.b, p.a
				p.low, p.high = -e.high, -e.low
			}
			all = append(all, p)
		})
	}
	slices.SortFunc(all, func(x, y pair) int {
		if x.a != y.a {
			return int(x.a) - int(y.a)
		}
		return int(x.b) - int(y.b)
	})
	merged := all[:0]
	for _, p := range all {
		if n := len(merged); n > 0 && merged[n-1].a == p.a && merged[n-1].b == p.b {
			m := &merged[n-1]
			m.strong += p.strong
			m.distinct, m.numbered, m.weak = sum(m.distinct, p.distinct), sum(m.numbered, p.numbered), sum(m.weak, p.weak)
			m.low, m.high = min(m.low, p.low), max(m.high, p.high)
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// sum adds up to manyPackets.
func sum(a, b uint16) uint16 { return uint16(min(uint32(a)+uint32(b), manyPackets)) }

// neighbours are the pairs of each track: those of track i are
// list[from[i]:from[i+1]].
type neighbours struct{ from, list []int32 }

func adjacent(all []pair, tracks int) neighbours {
	n := neighbours{from: make([]int32, tracks+2), list: make([]int32, 2*len(all))}
	for i := range all {
		n.from[all[i].a+2]++
		n.from[all[i].b+2]++
	}
	for i := 2; i < len(n.from); i++ {
		n.from[i] += n.from[i-1]
	}
	for i := range all {
		for _, t := range [2]int32{all[i].a, all[i].b} {
			n.list[n.from[t+1]] = int32(i)
			n.from[t+1]++
		}
	}
	return n
}

func (n *neighbours) of(t int32) []int32 { return n.list[n.from[t]:n.from[t+1]] }

// surer is how many times more packets have to speak for one pair than for
// another that excludes it. Two packets of TCP are hardly ever alike, so that
// there the other is one with a bit error in its addresses.
func surer(p packet.Proto) uint32 {
	if p == packet.TCP {
		return 4
	}
	return 8
}

// judge says whether a pair is one flow.
func (j *join) judge(all []pair, near neighbours, i int) judgement {
	p := &all[i]
	a, b := j.tracks.at(p.a), j.tracks.at(p.b)
	if a.key == b.key {
		if p.strong > 0 {
			return accepted
		}
		return refused
	}
	if onLink(&a.key) || onLink(&b.key) {
		return refused
	}
	if p.strong == 0 {
		if p.weak > 0 {
			return unclear
		}
		return refused
	}
	if j.backwards(p, a, b) {
		return refused
	}
	if j.rivals(all, near, p, p.a, b.place) || j.rivals(all, near, p, p.b, a.place) {
		return unclear
	}
	both := changedBoth(&a.key, &b.key)
	switch {
	case a.key.Proto == packet.TCP:
		return accepted
	case both && a.ttl == b.ttl:
		return relay
	case a.place == b.place && a.ttl == b.ttl && p.numbered < 2:
		return unclear // as well two flows of the same content
	case both && p.strong*2 < min(a.packets, b.packets):
		return unclear
	case p.distinct > 1, p.strong > 2, p.distinct == 1 && !both, j.answered(all, near, p):
		return accepted
	case p.numbered > 0 && !both && a.key.SrcPort == b.key.SrcPort && a.key.DstPort == b.key.DstPort:
		return accepted // the ids of packet and flow, or its ports, and one end
	}
	return unclear
}

// onLink reports whether packets of a tuple stay on their link, so that no NAT has
// them: no router forwards these addresses (RFC 4291, 2.5.2, 2.5.6 and 2.7; RFC
// 3927, 7; RFC 5771, 4). What every machine sends there is alike: membership
// reports, neighbour discovery, DHCP.
func onLink(k *packet.Key) bool {
	src, dst := netip.AddrFrom16(k.Src).Unmap(), netip.AddrFrom16(k.Dst).Unmap()
	return src.IsUnspecified() || src.IsLinkLocalUnicast() || dst.IsLinkLocalUnicast() ||
		dst.IsLinkLocalMulticast() || dst.IsInterfaceLocalMulticast() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// backwards reports whether a packet would have gained TTL on its way. Of captures
// with clocks of their own that has to be certain in spite of them.
func (j *join) backwards(p *pair, a, b *track) bool {
	if a.ttl == b.ttl {
		return false
	}
	var margin int64
	if j.places.list[a.place].Capture != j.places.list[b.place].Capture {
		margin = slackOf(j.cfg.Clocks)
	}
	if a.ttl > b.ttl {
		return p.high < -margin
	}
	return p.low > margin
}

// rivals reports whether track t shares as many packets with another track at a
// place while both lived, that is not part of the same flow.
func (j *join) rivals(all []pair, near neighbours, p *pair, t, place int32) bool {
	mine := p.a ^ p.b ^ t
	me, own := j.tracks.at(mine), j.tracks.at(t)
	for _, k := range near.of(t) {
		q := &all[k]
		other := q.a ^ q.b ^ t
		rival := j.tracks.at(other)
		if other == mine || rival.place != place || rival.key == own.key || q.strong == 0 || q.strong*surer(own.key.Proto) <= p.strong ||
			rival.first > me.last || me.first > rival.last {
			continue
		}
		if rival.key == me.key || j.links.joined(mine, other) {
			continue
		}
		return true
	}
	return false
}

// answered reports whether the answers of a pair's tracks are a pair, too.
func (j *join) answered(all []pair, near neighbours, p *pair) bool {
	a, b := j.tracks.at(p.a), j.tracks.at(p.b)
	back, ok := j.tracks.lookup(a.key.Inverse(), a.place)
	if !ok {
		return false
	}
	want := b.key.Inverse()
	for _, k := range near.of(back) {
		q := &all[k]
		other := j.tracks.at(q.a ^ q.b ^ back)
		if q.strong > 0 && other.key == want && other.place == b.place {
			return true
		}
	}
	return false
}

// changedBoth reports whether both ends differ.
func changedBoth(a, b *packet.Key) bool {
	source := a.Src != b.Src || a.SrcPort != b.SrcPort && !a.Proto.IsICMP()
	return source && (a.Dst != b.Dst || a.DstPort != b.DstPort)
}
