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
// way: it is known by its nonce, which its first fragment has. Datagrams that
// content does not tell apart are one when they are of the probe's flow.
func (in *Input) compare(a, b *packet.Header) packet.Likeness {
	whole := func(h *packet.Header) bool {
		return h.Tuple.Proto == in.Probe.Tuple.Proto && in.Probe.Tuple.Proto.IsICMP() && h.FragmentOffset == 0 && len(h.Payload) >= len(in.Probe.Nonce) && isOf(h, in.Probe)
	}
	if (a.IsFragment() || b.IsFragment()) && whole(a) && whole(b) && a.Tuple.ICMPType == b.Tuple.ICMPType {
		return packet.Same
	}
	likeness := a.Compare(b)
	if in.Probe.Tuple.Proto == packet.UDP && likeness != packet.Different {
		return in.compareDatagrams(a, b, likeness)
	}
	return likeness
}

// compareDatagrams goes on where content ends: an answer may repeat what was
// asked, so one packet has one direction, and a content that many datagrams have
// is the probe's where the tuple is of its flow: it has the probe's own port and
// shares an end, or conntrack made one tuple of the other.
func (in *Input) compareDatagrams(a, b *packet.Header, content packet.Likeness) packet.Likeness {
	from, to := in.direction(a.Tuple), in.direction(b.Tuple)
	switch {
	case from != unknown && to != unknown && from != to:
		return packet.Different
	case in.separate(a.Tuple, b.Tuple):
		return packet.Different
	case from == unknown || from != to || a.IsFragment() || b.IsFragment():
		return content
	case sharesAnEnd(a.Tuple, b.Tuple) || in.oneFlow(a.Tuple, b.Tuple):
		return packet.Same
	}
	return content
}

// separate reports whether conntrack of one namespace has two tuples in two
// entries, one of them without the probe's own port: a name server passes on a
// query with the same content over a flow of its own.
func (in *Input) separate(a, b packet.Tuple) bool {
	if a == b || in.direction(a) != unknown && in.direction(b) != unknown {
		return false
	}
	of := func(e *nat.Event, t, not packet.Tuple) bool {
		_, has := e.Flow.Matches(t)
		_, other := e.Flow.Matches(not)
		return has && !other
	}
	for i := range in.Events {
		if !of(&in.Events[i], a, b) {
			continue
		}
		if slices.ContainsFunc(in.Events, func(e nat.Event) bool { return e.Flow.NetNS == in.Events[i].Flow.NetNS && of(&e, b, a) }) {
			return true
		}
	}
	return false
}

// direction is that of a packet on the probe's flow.
type direction int

const (
	unknown direction = iota
	there
	back
)

// direction tells by the probe's own port where a datagram goes, or by
// conntrack, which may have given the flow another one.
func (in *Input) direction(t packet.Tuple) direction {
	own := in.Probe.Tuple.SrcPort
	switch {
	case t.Proto != packet.UDP:
		return unknown
	case t.SrcPort == own && t.DstPort != own:
		return there
	case t.DstPort == own && t.SrcPort != own:
		return back
	}
	for i := range in.Events {
		f := &in.Events[i].Flow
		if reply, ok := f.Matches(t); ok && (f.Original.SrcPort == own || f.Reply.DstPort == own) {
			if reply {
				return back
			}
			return there
		}
	}
	return unknown
}

// oneFlow reports whether conntrack has both tuples in one entry.
func (in *Input) oneFlow(a, b packet.Tuple) bool {
	return slices.ContainsFunc(in.Events, func(e nat.Event) bool {
		_, first := e.Flow.Matches(a)
		_, second := e.Flow.Matches(b)
		return first && second
	})
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
			return p.Segment.Is(h)
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
		kind := in.answers(&s.Header, request)
		if kind == None || request.after(s) {
			continue
		}
		rank := 2
		switch {
		case kind != Error && !request.sentTo(s.Header.Tuple):
			rank = 1
		case kind == Reply:
			rank = 3
		}
		if s.Point.NetNS == in.Probe.NetNS && s.Direction == capture.Ingress && s.Carrier == nil {
			rank += 3
		}
		if rank > bestRank {
			best, bestKind, bestRank = s, kind, rank
		}
	}
	if best == nil {
		for i := range in.Hits {
			if kind := in.answers(&in.Hits[i].Header, request); kind != None {
				return collect(in, in.Hits[i].Header, nil), kind
			}
		}
		return in.droppedReply(request)
	}
	// The first sighting of the same packet is the seed: where it came from.
	first := slices.IndexFunc(sightings, func(s capture.Sighting) bool {
		return in.answers(&s.Header, request) == bestKind && !request.after(&s) && in.compare(&best.Header, &s.Header) == packet.Same &&
			(bestKind == Error || request.sentTo(s.Header.Tuple) == request.sentTo(best.Header.Tuple))
	})
	return collect(in, sightings[first].Header, once(in, sightings, first)), bestKind
}

// droppedReply finds an answer that only the kernel's drops know of: of several
// errors about one segment the first whose rule was traced, too.
func (in *Input) droppedReply(request *trail) (trail, AnswerKind) {
	var first trail
	firstKind := None
	for i := range in.Drops {
		kind := in.answers(&in.Drops[i].Header, request)
		if kind == None || skbdrop.Benign(in.Drops[i]) {
			continue
		}
		t := collect(in, in.Drops[i].Header, nil)
		if len(t.hits) > 0 {
			return t, kind
		}
		if firstKind == None {
			first, firstKind = t, kind
		}
	}
	return first, firstKind
}

// answers says what a packet is to the request. An answer is known by its
// content: the target may have sent it from another one of its addresses. A
// datagram is one by where it comes from and goes to.
func (in *Input) answers(h *packet.Header, request *trail) AnswerKind {
	p := in.Probe
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
		if in.repliesTo(h.Tuple, request) {
			return Reply
		}
	case h.Tuple.ICMPType == p.Tuple.Inverse().ICMPType && isOf(h, p):
		return Reply
	}
	return None
}

// repliesTo reports whether a datagram goes back on the request's flow, as the
// request was seen to be sent or as conntrack expects it. One from another
// address, but the same port, is from the target too, unless it answers
// something that the prober sent to that address.
func (in *Input) repliesTo(t packet.Tuple, request *trail) bool {
	for _, events := range request.flows {
		for i := range events {
			if reply, belongs := events[i].Flow.Matches(t); belongs && reply {
				return true
			}
		}
	}
	switch {
	case !request.sentFrom(t):
		return false
	case request.sentTo(t):
		return true
	}
	asked := func(s capture.Sighting) bool {
		return s.Point.NetNS == in.Probe.NetNS && s.Direction == capture.Egress && s.Header.Tuple == t.Inverse()
	}
	return t.SrcPort == in.Probe.Tuple.DstPort && !slices.ContainsFunc(in.Sightings, asked)
}

// after reports whether the request, a datagram, was first seen after a packet,
// which so cannot answer it.
func (t *trail) after(s *capture.Sighting) bool {
	return t.seed.Tuple.Proto == packet.UDP && len(t.sightings) > 0 && s.Time.Before(t.sightings[0].Time)
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
	case p.Segment != nil && h.Quoted.Seq == p.Segment.Seq && (!TooBig(h) || Length(&request.seed) > h.MTU):
		return request.knows(h.Quoted.Tuple) // it, or one of the repetitions that are as large
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
	t := gather(in, seed, withoutCopies(in, order(sightings, in.Topology)))
	t.drops = t.dropsOf(in, sightings)
	return t
}

// gather is collect without the drops, for sightings that are in path order.
func gather(in *Input, seed packet.Header, ordered []capture.Sighting) trail {
	t := trail{
		seed:      seed,
		sightings: ordered,
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
