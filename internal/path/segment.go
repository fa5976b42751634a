package path

import (
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// Segment identifies data on a TCP connection: no NAT changes its place in the
// stream.
type Segment struct {
	// Seq is the sequence number of its first byte, Length the number of bytes:
	// the same byte repeated in a smaller segment is another packet.
	Seq    uint32
	Length int
}

// Is reports whether a packet is the segment, whichever way it goes.
func (s *Segment) Is(h *packet.Header) bool {
	return h.Seq == s.Seq && h.DataLength == s.Length && !h.Flags.Has(packet.SYN) && !h.Flags.Has(packet.RST)
}

// answers says what a packet of the other direction is to the segment.
func (s *Segment) answers(h *packet.Header, request *trail) AnswerKind {
	switch {
	case h.HeaderCut || h.Flags.Has(packet.SYN) || !request.sentFrom(h.Tuple):
	case h.Flags.Has(packet.RST):
		return Reset
	case h.Flags.Has(packet.ACK) && Reaches(h.Ack, s.Seq+uint32(s.Length)):
		return Reply
	}
	return None
}

// Reaches reports whether a sequence number is at or behind another one: they
// begin again at 0 (RFC 9293, section 3.4).
func Reaches(seq, other uint32) bool { return int32(seq-other) >= 0 }

// Sending is what the rest of its connection says about a segment.
type Sending struct {
	// Times is how often it left its source.
	Times int
	// Passed is the length of the largest smaller packet, with its IP header,
	// that was sent after the segment's first byte, and to which the far end
	// answered that this is missing; 0 when there was none.
	Passed   int
	Evidence []string
}

// sending looks for what became of a segment and of those behind it at the
// source. What the far end says to a reset tells nothing of data (RFC 5961,
// section 3.2), so the end of the connection is the end of the search.
func (j *joiner) sending(request *trail) *Sending {
	p, own := j.in.Probe, request.seed.Tuple // as it left: a rule of the source may have translated it
	var s Sending
	var smaller *capture.Sighting
	begun := false // its first byte was sent, in this segment or a larger one
	for _, at := range byTime(j.in.Sightings) {
		h := &at.Header
		sent := at.Direction == capture.Egress && h.Tuple == own
		begun = begun || sent && h.Seq == p.Segment.Seq && h.DataLength > 0
		switch {
		case at.Point.NetNS != p.NetNS:
		case sent && h.Flags&(packet.RST|packet.FIN) != 0:
			return &s
		case sent && p.Segment.Is(h):
			s.Times++
			s.Evidence = append(s.Evidence, j.ledger.Sighting(&at))
		case sent && begun && p.Segment.follows(h) && (smaller == nil || Length(h) > Length(&smaller.Header)):
			smaller = &at
		case at.Direction == capture.Ingress && h.Tuple == own.Inverse() && smaller != nil && s.Passed == 0 &&
			h.Flags&^packet.PSH == packet.ACK && h.Ack == p.Segment.Seq:
			// The far end repeats what it waits for when something behind that
			// arrives (RFC 5681, section 3.2).
			s.Passed = Length(&smaller.Header)
			s.Evidence = append(s.Evidence, j.ledger.Sighting(smaller), j.ledger.Sighting(&at))
		}
	}
	return &s
}

// follows reports whether a packet holds less data than the segment, from
// behind it in the stream.
func (s *Segment) follows(h *packet.Header) bool {
	return h.DataLength > 0 && h.DataLength < s.Length && h.Seq != s.Seq && Reaches(h.Seq, s.Seq)
}

// The headers of IP and TCP without options, and of an echo (RFC 791, RFC 8200,
// RFC 9293, RFC 792).
const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	echoHeader = 8
)

// Overhead is the length of the headers of an echo or of TCP without options.
func Overhead(t packet.Tuple) int {
	header := echoHeader
	if t.Proto == packet.TCP {
		header = tcpHeader
	}
	if t.Dst.Is6() {
		return ipv6Header + header
	}
	return ipv4Header + header
}

// Length is that of a packet with its IP header, which is what an MTU limits.
// Of IPv4 options nothing is known.
func Length(h *packet.Header) int {
	if h.Version == 6 {
		return ipv6Header + h.PayloadLength
	}
	return ipv4Header + h.PayloadLength
}

// TooBig reports whether a packet is the ICMP error that says that another one
// is too big for the way on (RFC 1191, RFC 8201).
func TooBig(h *packet.Header) bool {
	t := h.Tuple
	return t.Proto == packet.ICMP && t.ICMPType == 3 && t.ICMPCode == 4 || t.Proto == packet.ICMPv6 && t.ICMPType == 2
}

// shrunk adds to the way of a connection's first packet that a later one was too
// big for the way on, and that the sender was told so.
func (j *joiner) shrunk(leg *Leg, request *trail) {
	all := byTime(j.in.Sightings)
	about := func(s capture.Sighting) bool {
		return TooBig(&s.Header) && s.Header.Quoted != nil && request.knows(s.Header.Quoted.Tuple)
	}
	first := slices.IndexFunc(all, about)
	told := slices.ContainsFunc(all, func(s capture.Sighting) bool {
		return about(s) && s.Point.NetNS == j.in.Probe.NetNS && s.Direction == capture.Ingress
	})
	if !told || len(leg.Hops) == 0 {
		return
	}
	s := &all[first]
	at := len(leg.Hops) - 1
	for i := range leg.Hops {
		if s.Direction == capture.Egress && leg.Hops[i].NetNS == s.Point.NetNS && leg.Hops[i].Direction == capture.Ingress.String() {
			at = i
		}
	}
	size := ""
	if s.Header.Quoted.PayloadLength > 0 {
		size = fmt.Sprintf(" of %d bytes", Length(s.Header.Quoted))
	}
	leg.Hops[at].Steps = append(leg.Hops[at].Steps, report.Step{
		Kind: "route", Confidence: report.Observed, Evidence: []string{j.ledger.Sighting(s)},
		Text: fmt.Sprintf("a later packet%s was larger than the MTU of the way on (%d); an ICMP error told the sender so", size, s.Header.MTU),
	})
}
