package path

import (
	"bytes"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// trail is everything that the sensors have of one packet.
type trail struct {
	// seed is the packet as it was first seen, or as it must have been sent.
	seed packet.Header
	// sightings are in path order, copies removed.
	sightings []capture.Sighting
	// hits and flows are by namespace; hits in their sockets' order.
	hits  map[string][]ruletrace.Hit
	flows map[string][]nat.Event
	// drops are in the order of time.
	drops []skbdrop.Drop
}

// requestTrail finds the probe. NAT changes neither an echo's sequence number
// and data nor a SYN's sequence number, so the packet as it left its socket is
// recognised everywhere.
func requestTrail(in *Input) trail {
	sightings := byTime(in.Sightings)
	first := slices.IndexFunc(sightings, func(s capture.Sighting) bool {
		return s.Point.NetNS == in.Probe.NetNS && s.Header.Tuple == in.Probe.Tuple && isProbe(&s.Header, in.Probe)
	})
	if first < 0 {
		// Not seen where it was sent; an echo's data still tells it apart
		// elsewhere, as its place in the stream does a segment, and a SYN's tuple
		// does up to the first NAT.
		first = slices.IndexFunc(sightings, func(s capture.Sighting) bool {
			return isProbe(&s.Header, in.Probe) && (in.Probe.Tuple.Proto.IsICMP() || in.Probe.Segment != nil || s.Header.Tuple == in.Probe.Tuple)
		})
	}
	if first >= 0 {
		return collect(in, sightings[first].Header, once(in, sightings, first))
	}
	for i := range in.Hits {
		// It never reached an interface with the tuple that it was sent with:
		// the rules of its namespace dropped it, or translated it, or both.
		h := &in.Hits[i]
		if h.NetNS == in.Probe.NetNS && h.Header.Tuple.Source() == in.Probe.Tuple.Source() && isProbe(&h.Header, in.Probe) {
			same := func(s capture.Sighting) bool { return in.compare(&h.Header, &s.Header) == packet.Same }
			if first := slices.IndexFunc(sightings, same); first >= 0 {
				return collect(in, sightings[first].Header, once(in, sightings, first))
			}
			return collect(in, h.Header, nil)
		}
	}
	for i := range in.Drops {
		d := &in.Drops[i]
		if d.NetNS == in.Probe.NetNS && d.Header.Tuple.Source() == in.Probe.Tuple.Source() && isProbe(&d.Header, in.Probe) {
			return collect(in, d.Header, nil)
		}
	}
	return trail{seed: packet.Header{Tuple: in.Probe.Tuple}}
}

// compare says how far two headers are one packet. A ping that does not fit a
// link goes on in fragments, and these are put together and cut again on the
// way: it is known by its nonce, which its first fragment has.
func (in *Input) compare(a, b *packet.Header) packet.Likeness {
	whole := func(h *packet.Header) bool {
		return h.Tuple.Proto == in.Probe.Tuple.Proto && in.Probe.Tuple.Proto.IsICMP() && h.FragmentOffset == 0 && len(h.Payload) >= len(in.Probe.Nonce) && isOf(h, in.Probe)
	}
	if (a.IsFragment() || b.IsFragment()) && whole(a) && whole(b) && a.Tuple.ICMPType == b.Tuple.ICMPType {
		return packet.Same
	}
	return a.Compare(b)
}

func byTime(sightings []capture.Sighting) []capture.Sighting {
	return slices.SortedStableFunc(slices.Values(sightings), func(a, b capture.Sighting) int { return a.Time.Compare(b.Time) })
}

// isProbe reports whether a packet is the probe, whatever NAT did to it.
func isProbe(h *packet.Header, p Probe) bool {
	if h.Tuple.Proto != p.Tuple.Proto {
		return false
	}
	switch p.Tuple.Proto {
	case packet.TCP:
		if p.Segment != nil {
			return p.Segment.is(h)
		}
		return h.Flags.Has(packet.SYN) && !h.Flags.Has(packet.ACK)
	case packet.UDP:
		return isOf(h, p)
	}
	return h.Tuple.ICMPType == p.Tuple.ICMPType && isOf(h, p)
}

// isOf reports whether the data of an echo request or reply, or of a datagram,
// is the probe's: a rule hit has only the start of it.
func isOf(h *packet.Header, p Probe) bool {
	const enough = 8
	n := min(len(h.Payload), len(p.Nonce))
	return h.ICMPSeq == p.ICMPSeq && (n == len(p.Nonce) || n >= enough) && bytes.Equal(h.Payload[:n], p.Nonce[:n])
}

// once returns the sightings of the packet that sightings[first] is, up to its
// retransmission: the next time that the same content comes by the same point
// in the same direction. Sightings of the same instant may stand before it.
func once(in *Input, sightings []capture.Sighting, first int) []capture.Sighting {
	seed := &sightings[first]
	var same []capture.Sighting
	for i := range sightings {
		s := &sightings[i]
		if s.Time.Before(seed.Time) || in.compare(&seed.Header, &s.Header) != packet.Same {
			continue
		}
		if i > first && s.Point == seed.Point && s.Direction == seed.Direction {
			break
		}
		same = append(same, *s)
	}
	return same
}

// replyTrail finds what came back: the answer if there is one, otherwise an
// ICMP error that quotes the request or a reset. What reached the prober comes
// before what did not, an answer from elsewhere after all others, and what was
// seen at an interface before what only met rules: those of its own namespace
// may drop an answer before that.
func replyTrail(in *Input, request *trail) (trail, AnswerKind) {
	var best *capture.Sighting
	var bestKind AnswerKind
	bestRank := 0
	sightings := byTime(in.Sightings)
	for i := range sightings {
		s := &sightings[i]
		kind := answers(&s.Header, in.Probe, request)
		if kind == None {
			continue
		}
		rank := 2
		switch {
		case kind != Error && !request.sentTo(s.Header.Tuple):
			rank = 1
		case kind == Reply:
			rank = 3
		}
		if s.Point.NetNS == in.Probe.NetNS && s.Direction == capture.Ingress {
			rank += 3
		}
		if rank > bestRank {
			best, bestKind, bestRank = s, kind, rank
		}
	}
	if best == nil {
		for i := range in.Hits {
			if kind := answers(&in.Hits[i].Header, in.Probe, request); kind != None {
				return collect(in, in.Hits[i].Header, nil), kind
			}
		}
		for i := range in.Drops {
			if kind := answers(&in.Drops[i].Header, in.Probe, request); kind != None && !skbdrop.Benign(in.Drops[i]) {
				return collect(in, in.Drops[i].Header, nil), kind
			}
		}
		return trail{}, None
	}
	// The first sighting of the same packet is the seed: where it came from.
	first := slices.IndexFunc(sightings, func(s capture.Sighting) bool {
		return answers(&s.Header, in.Probe, request) == bestKind && in.compare(&best.Header, &s.Header) == packet.Same &&
			(bestKind == Error || request.sentTo(s.Header.Tuple) == request.sentTo(best.Header.Tuple))
	})
	return collect(in, sightings[first].Header, once(in, sightings, first)), bestKind
}

// answers says what a packet is to the request. An answer is known by its
// content: the target may have sent it from another one of its addresses.
func answers(h *packet.Header, p Probe, request *trail) AnswerKind {
	switch {
	case h.IsICMPError():
		if h.Quoted != nil && !redirects(h) && quotes(h, p, request) {
			return Error
		}
	case h.Tuple.Proto != p.Tuple.Proto:
	case p.Segment != nil:
		return p.Segment.answers(h, request)
	case p.Tuple.Proto == packet.TCP:
		if !h.Flags.Has(packet.ACK) || h.Ack != request.seed.Seq+1 || !request.sentFrom(h.Tuple) {
			return None
		}
		if h.Flags.Has(packet.RST) {
			return Reset
		}
		if h.Flags.Has(packet.SYN) {
			return Reply
		}
	case p.Tuple.Proto == packet.UDP:
		if answersQuery(h.Payload, p.Nonce) && request.sentFrom(h.Tuple) {
			return Reply
		}
	case h.Tuple.ICMPType == p.Tuple.Inverse().ICMPType && isOf(h, p):
		return Reply
	}
	return None
}

// answersQuery reports whether a datagram is the answer to a DNS query, the only
// datagram that is sent: it has the query's id, and the bit that says so (RFC
// 1035, section 4.1.1).
func answersQuery(answer, query []byte) bool {
	return len(answer) >= 3 && len(query) >= 3 && bytes.Equal(answer[:2], query[:2]) && answer[2]&0x80 != 0
}

func redirects(h *packet.Header) bool { return h.Tuple.Proto == packet.ICMP && h.Tuple.ICMPType == 5 }

// quotes reports whether an ICMP error is about the request, which may not have
// been seen itself. The quote may be as short as eight bytes, so the tuple
// decides where the content does not: it is one that the request was seen with,
// since NAT translates quotes too.
func quotes(h *packet.Header, p Probe, request *trail) bool {
	unseen := request.seed.Version == 0
	switch {
	case p.Tuple.Proto.IsICMP() && isProbe(h.Quoted, p):
		return true
	case unseen && p.Tuple.Proto.IsICMP() && len(h.Quoted.Payload) > 0:
		return false // another one of the same id
	case unseen:
		return request.knows(h.Quoted.Tuple)
	}
	switch h.Quotes(&request.seed) {
	case packet.Same:
		return true
	case packet.Compatible:
		return request.knows(h.Quoted.Tuple)
	}
	return false
}

// knows reports whether the packet was seen with the tuple anywhere.
func (t *trail) knows(tuple packet.Tuple) bool {
	if t.seed.Tuple == tuple {
		return true
	}
	return slices.ContainsFunc(t.sightings, func(s capture.Sighting) bool { return s.Header.Tuple == tuple })
}

// sentTo reports whether the packet was seen on its way to the source of an
// answer, sentFrom whether on its way from the destination of one.
func (t *trail) sentTo(answer packet.Tuple) bool {
	to := func(sent packet.Tuple) bool { return sent.Dst == answer.Src && sent.DstPort == answer.SrcPort }
	return to(t.seed.Tuple) || slices.ContainsFunc(t.sightings, func(s capture.Sighting) bool { return to(s.Header.Tuple) })
}

func (t *trail) sentFrom(answer packet.Tuple) bool {
	from := func(sent packet.Tuple) bool { return sent.Src == answer.Dst && sent.SrcPort == answer.DstPort }
	return from(t.seed.Tuple) || slices.ContainsFunc(t.sightings, func(s capture.Sighting) bool { return from(s.Header.Tuple) })
}

// collect gathers the rule hits, the conntrack events and the drops of the packet.
func collect(in *Input, seed packet.Header, sightings []capture.Sighting) trail {
	t := trail{
		seed:      seed,
		sightings: withoutCopies(in, order(sightings, in.Topology)),
		hits:      make(map[string][]ruletrace.Hit),
		flows:     make(map[string][]nat.Event),
	}
	for _, h := range in.Hits {
		if t.owns(in, &h) {
			t.hits[h.NetNS] = append(t.hits[h.NetNS], h)
		}
	}
	for _, e := range in.Events {
		if t.flowOf(e.Flow) {
			t.flows[e.Flow.NetNS] = append(t.flows[e.Flow.NetNS], e)
		}
	}
	t.drops = t.dropsOf(in, sightings)
	return t
}

// owns reports whether a rule hit is the packet's. A hit of nftables carries
// no payload, so the content seldom proves it: then the tuple must share its
// flow identity with one that the packet had in that namespace, up to the end
// that NAT may have rewritten before the rule.
func (t *trail) owns(in *Input, h *ruletrace.Hit) bool {
	switch in.compare(&t.seed, &h.Header) {
	case packet.Same:
		return true
	case packet.Different:
		return false
	}
	seen := false
	for i := range t.sightings {
		if t.sightings[i].Point.NetNS == h.NetNS {
			seen = true
			if sharesAnEnd(t.sightings[i].Header.Tuple, h.Header.Tuple) {
				return true
			}
		}
	}
	return !seen && in.Topology.Namespace(h.NetNS) != nil && sharesAnEnd(t.seed.Tuple, h.Header.Tuple)
}

// sharesAnEnd reports whether two tuples agree in what one NAT leaves alone:
// one of the two ends.
func sharesAnEnd(a, b packet.Tuple) bool {
	if a.Proto != b.Proto || a.ICMPType != b.ICMPType || a.ICMPCode != b.ICMPCode {
		return false
	}
	return (a.Src == b.Src && a.SrcPort == b.SrcPort) || (a.Dst == b.Dst && a.DstPort == b.DstPort)
}

// flowOf reports whether a conntrack entry is that of the packet.
func (t *trail) flowOf(f nat.Flow) bool {
	belongs := func(h *packet.Header) bool {
		tuple := h.Tuple
		if h.IsICMPError() && h.Quoted != nil {
			tuple = h.Quoted.Tuple // an error is related to the flow that it quotes
		}
		_, ok := f.Matches(tuple)
		return ok
	}
	seen := false
	for i := range t.sightings {
		if t.sightings[i].Point.NetNS == f.NetNS {
			seen = true
			if belongs(&t.sightings[i].Header) {
				return true
			}
		}
	}
	return !seen && belongs(&t.seed)
}
