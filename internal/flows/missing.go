package flows

import (
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// fall is where most is missing in one direction.
func (j *join) fall(stops []Stop, reply bool) *Fall {
	f := fall(stops, reply)
	if f == nil {
		return nil
	}
	from, to := &stops[f.From], &stops[f.To]
	e, _ := j.links.between(from.track, to.track)
	f.Least = uint64(e.strong) != to.Packets
	return f
}

// swapped finds two stops that saw as much, and not the same: each has a packet
// that the other has not.
func swapped(stops []Stop, reply bool) *Fall {
	for i := 1; i < len(stops); i++ {
		a, b := &stops[i-1], &stops[i]
		if b.Joined > 0 && a.Common == a.Packets && b.Common == b.Packets && asMuch(a, b) && !same(a, b) {
			return &Fall{Reply: reply, From: i - 1, To: i, Packets: 1, Least: true}
		}
	}
	return nil
}

// asMuch reports whether two stops saw as many packets or, of TCP that carries
// data, as much of that.
func asMuch(a, b *Stop) bool {
	if a.Key.Proto == packet.TCP && a.Data > 0 {
		return a.Data == b.Data
	}
	return a.Packets == b.Packets
}

// same reports whether nothing tells what two stops saw apart.
func same(a, b *Stop) bool { return a.partial || b.partial || a.sum == b.sum }

// fall finds the stop behind which the most is missing. What was seen at any
// later stop is not missing: a place between may be on the way of some packets
// only.
func fall(stops []Stop, reply bool) *Fall {
	if len(stops) < 2 || !falls(stops) {
		return nil
	}
	var most *Fall
	packets := arrivals(stops, func(s *Stop) uint64 { return max(s.Common, s.Joined) })
	stream := arrivals(stops, func(s *Stop) uint64 { return s.Stream })
	data := arrivals(stops, func(s *Stop) uint64 { return s.Data })
	for i := 1; i < len(stops); i++ {
		a, b := &stops[i-1], &stops[i]
		f := Fall{Reply: reply, From: i - 1}
		if a.Key.Proto == packet.TCP && a.Stream > 0 {
			// By its stream alone, what came in another order were missing, and by all
			// data what was captured once more often.
			if a.Common != a.Packets || b.Common != b.Packets || stream[i].n >= a.Stream || data[i].n >= a.Data {
				continue
			}
			f.To, f.Bytes = stream[i].at, min(a.Stream-stream[i].n, a.Data-data[i].n)
		} else {
			if packets[i].n >= a.Common {
				continue
			}
			f.To, f.Packets = packets[i].at, a.Common-packets[i].n
		}
		if most == nil || max(f.Packets, f.Bytes) > max(most.Packets, most.Bytes) {
			most = &f
		}
	}
	return most
}

// arrival is how much of something came to a stop or further, and the first that
// saw that much.
type arrival struct {
	n  uint64
	at int
}

// falls reports whether anything is less at a stop than at the one before. Mostly
// nothing is.
func falls(stops []Stop) bool {
	for i := 1; i < len(stops); i++ {
		if a, b := &stops[i-1], &stops[i]; b.Stream < a.Stream || max(b.Common, b.Joined) < a.Common {
			return true
		}
	}
	return false
}

// arrivals are what came to each stop or further. Neighbours that share no packet
// are on different ways, so that what they saw adds up.
func arrivals(stops []Stop, count func(*Stop) uint64) []arrival {
	all := make([]arrival, len(stops))
	for i := len(stops) - 1; i >= 0; i-- {
		all[i] = arrival{count(&stops[i]), i}
		if i+1 == len(stops) {
			continue
		}
		switch next := all[i+1]; {
		case stops[i+1].Joined == 0:
			all[i].n += next.n
		case next.n > all[i].n:
			all[i] = next
		}
	}
	return all
}

// Unfinished reports whether something of a flow that was answered was not.
func (f *Flow) Unfinished() bool { return f.Unanswered > 0 || f.Unacknowledged != nil }

// unanswered is how many requests of a ping got no answer, and no ICMP error.
func (f *Flow) unanswered(places []Place) uint64 {
	if f.Outcome != Replied || !asks(&f.Request) {
		return 0
	}
	first := places[f.Out[0].Place].base
	there, back := seenAt(f.Out, places, first), seenAt(f.Back, places, first)
	for i := range f.Errors {
		if places[f.Errors[i].Place].base == first {
			back += f.Errors[i].Packets
		}
	}
	return there - min(there, back)
}

// seenAt is how many packets that differ were seen of one direction at a place. It
// may have seen them twice: before and behind NAT, or at all interfaces.
func seenAt(stops []Stop, places []Place, base int32) uint64 {
	var n uint64
	for i := range stops {
		if places[stops[i].Place].base == base {
			n = max(n, stops[i].Packets-stops[i].alike)
		}
	}
	return n
}

// unacknowledged finds what was sent again and not acknowledged. After a reset
// nothing is.
func (j *join) unacknowledged(f *Flow) *Unacknowledged {
	if f.Request.Proto != packet.TCP || f.has(packet.RST) {
		return nil
	}
	for reply, stops := range [2][]Stop{f.Out, f.Back} {
		for i := range stops {
			s := &stops[i]
			sent := j.tracks.at(s.track)
			back := slices.IndexFunc([2][]Stop{f.Back, f.Out}[reply], func(b Stop) bool { return b.Place == s.Place && b.Key == s.Key.Inverse() })
			if back < 0 || s.tracks > 1 || !sent.resends {
				continue
			}
			got := &[2][]Stop{f.Back, f.Out}[reply][back]
			if acks := j.tracks.at(got.track); got.tracks == 1 && (!acks.acks || int32(sent.resent-acks.ack) > 0) {
				return &Unacknowledged{reply == 1, s.Place}
			}
		}
	}
	return nil
}

// has reports whether a TCP flag was seen in either direction.
func (f *Flow) has(flag packet.TCPFlags) bool {
	seen := func(s Stop) bool { return s.Flags.Has(flag) }
	return slices.ContainsFunc(f.Out, seen) || slices.ContainsFunc(f.Back, seen)
}

// Whole reports whether the same was seen of a flow at two places or more: as many
// packets or, of TCP that carries data, as much of that.
func (f *Flow) Whole() bool {
	return len(f.Out) > 1 && len(f.Back) != 1 && level(f.Out) && level(f.Back)
}

// level reports whether all stops saw as much.
func level(stops []Stop) bool {
	return !slices.ContainsFunc(stops, func(s Stop) bool { return !asMuch(&stops[0], &s) || !same(&stops[0], &s) })
}
