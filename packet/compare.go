package packet

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"net/netip"
)

// Likeness is how far the content of two headers says that they are one
// packet, seen twice.
type Likeness uint8

// The degrees of likeness.
const (
	// Different: something contradicts that no NAT changes.
	Different Likeness = iota
	// Compatible: nothing contradicts, but what both captured is too little to
	// tell one packet from another.
	Compatible
	// Same: what both captured agrees and is distinctive. It is one packet, or
	// an exact copy of it that only time and order tell apart: a retransmission
	// over IPv6, a second pure ACK with the same numbers, a repeated datagram.
	Same
)

// String returns the name of the degree.
func (l Likeness) String() string {
	switch l {
	case Different:
		return "different"
	case Compatible:
		return "compatible"
	case Same:
		return "same"
	}
	return "unknown"
}

// Compare says how far h and o are one packet. It looks only at what NAT
// leaves alone and never at addresses, ports, the ICMP id, TTL, checksums, MSS,
// DSCP or the flow label.
//
// They are Different when one of these differs: IP version, protocol, place in
// a fragmented packet, length behind the IP header, IPv4 identification if
// neither is 0, TCP sequence and acknowledgement numbers and flags (PSH is set
// and cleared by segmentation offload), ICMP type, code, sequence number and
// MTU, the target of a neighbour discovery message, ARP addresses, the payload
// as far as both captured it, the packet that an ICMP error quotes. So an echo
// reply always differs from its request; a UDP answer may well repeat its
// question and be told from it by its direction only.
//
// They are the Same when, besides, one of these holds: the IPv4 identification
// is not 0; TCP numbers and flags were captured on both sides; the common
// payload is distinctive (at least four bytes that neither repeat nor count
// up, which the padding of pings does); the quoted packets are the Same. TCP
// timestamps that both have and that differ make it Compatible: a
// retransmission, or a middlebox that rewrites them.
//
// A fragment and the whole packet that it was cut from are Compatible.
func (h *Header) Compare(o *Header) Likeness { return h.compare(o, false) }

// Quotes says how far h is an ICMP error about the packet o. It is Compare
// with the packet that h quotes, except that a quote may have lost its length:
// some senders store it in their own byte order.
func (h *Header) Quotes(o *Header) Likeness {
	if h.Quoted == nil {
		return Different
	}
	return h.Quoted.compare(o, true)
}

func (h *Header) compare(o *Header, quote bool) Likeness {
	if !h.located() || !o.located() {
		if h.Version != 0 && o.Version != 0 && h.Version != o.Version {
			return Different
		}
		return Compatible
	}
	if h.Version != o.Version || h.Tuple.Proto != o.Tuple.Proto || !equal(h.ARP, o.ARP) {
		return Different
	}
	if h.Version == 0 {
		if h.EtherType != o.EtherType {
			return Different
		}
		return Compatible
	}
	hasID := h.Version == 4 && h.IPID != 0 && o.IPID != 0
	if hasID && h.IPID != o.IPID {
		return Different
	}
	if h.IsFragment() != o.IsFragment() {
		return h.compareFragment(o)
	}
	if h.FragmentOffset != o.FragmentOffset || h.MoreFragments != o.MoreFragments ||
		!quote && h.PayloadLength != o.PayloadLength {
		return Different
	}
	return h.compareTransport(o, hasID)
}

// located reports whether the transport was reached, or there is none.
func (h *Header) located() bool { return !h.HeaderCut || h.Tuple.Proto != 0 }

// compareFragment compares a fragment with a packet that is none.
func (h *Header) compareFragment(o *Header) Likeness {
	fragment, packet := h, o
	if o.IsFragment() {
		fragment, packet = o, h
	}
	if fragment.FragmentOffset+fragment.PayloadLength > packet.PayloadLength {
		return Different
	}
	if fragment.FragmentOffset == 0 && fragment.compareTransport(packet, false) == Different {
		return Different
	}
	return Compatible
}

// compareTransport compares what follows the IP headers. distinctive says that
// these have already told the packet from others.
func (h *Header) compareTransport(o *Header, distinctive bool) Likeness {
	n := min(len(h.Payload), len(o.Payload))
	if !bytes.Equal(h.Payload[:n], o.Payload[:n]) {
		return Different
	}
	distinctive = distinctive || isDistinctive(h.Payload[:n])
	if h.FragmentOffset != 0 {
		return likeness(distinctive)
	}
	switch h.Tuple.Proto {
	case TCP:
		if h.hasSeq() && o.hasSeq() && h.Seq != o.Seq {
			return Different
		}
		if h.hasFlags() && o.hasFlags() {
			if h.Ack != o.Ack || (h.Flags^o.Flags)&^PSH != 0 {
				return Different
			}
			distinctive = true
		}
		if h.HasTimestamps && o.HasTimestamps && (h.Timestamp != o.Timestamp || h.EchoedStamp != o.EchoedStamp) {
			return Compatible
		}
	case ICMP, ICMPv6:
		if h.HeaderCut || o.HeaderCut {
			break
		}
		if h.Tuple.ICMPType != o.Tuple.ICMPType || h.Tuple.ICMPCode != o.Tuple.ICMPCode ||
			h.ICMPSeq != o.ICMPSeq || h.MTU != o.MTU || !equal(h.Neighbour, o.Neighbour) {
			return Different
		}
		if h.Quoted != nil && o.Quoted != nil {
			switch h.Quoted.compare(o.Quoted, true) {
			case Different:
				return Different
			case Same:
				distinctive = true
			}
		}
	}
	return likeness(distinctive)
}

// hasSeq reports whether the TCP sequence number was captured; a quote may end
// before or behind it. hasFlags is the same for the words up to the flags.
func (h *Header) hasSeq() bool   { return !h.HeaderCut || h.Seq != 0 }
func (h *Header) hasFlags() bool { return !h.HeaderCut || h.Flags != 0 }

func likeness(distinctive bool) Likeness {
	if distinctive {
		return Same
	}
	return Compatible
}

// equal compares what two pointers point at. What one side did not capture
// equals anything.
func equal[T comparable](a, b *T) bool { return a == nil || b == nil || *a == *b }

// isDistinctive reports whether a payload says more than a repeated or
// counting pattern: at least four of its bytes do not go on as the two before
// them did.
func isDistinctive(payload []byte) bool {
	surprises := 0
	for i := 2; i < len(payload); i++ {
		if payload[i]-payload[i-1] != payload[i-1]-payload[i-2] {
			if surprises++; surprises == 4 {
				return true
			}
		}
	}
	return false
}

// Fingerprint is what Compare looks at, as a key for maps: headers that
// captured the same part of one packet have the same fingerprint, whatever NAT
// did between them. The same fingerprint is a reason to Compare and no proof:
// content is in it as a hash, and pings with an empty payload share it. A
// packet of which less was captured at one point than at another has two
// fingerprints. They hold within one process only.
type Fingerprint struct {
	version            uint8
	proto              Proto
	icmpType, icmpCode uint8
	etherType          uint16 // of what is not IP
	icmpSeq            uint16
	ipID               uint16 // IPv4's
	flags              TCPFlags
	seq, ack           uint32
	moreFragments      bool
	fragmentOffset     int
	length, mtu        int
	content            uint64 // hash of the payload or of the ARP packet
	quoted             uint64 // hash of the quoted packet's fingerprint
}

var fingerprintSeed = maphash.MakeSeed()

// Fingerprint returns the header's fingerprint.
func (h *Header) Fingerprint() Fingerprint {
	f := Fingerprint{
		version:        h.Version,
		proto:          h.Tuple.Proto,
		icmpType:       h.Tuple.ICMPType,
		icmpCode:       h.Tuple.ICMPCode,
		icmpSeq:        h.ICMPSeq,
		flags:          h.Flags &^ PSH,
		seq:            h.Seq,
		ack:            h.Ack,
		moreFragments:  h.MoreFragments,
		fragmentOffset: h.FragmentOffset,
		length:         h.PayloadLength,
		mtu:            h.MTU,
		content:        maphash.Bytes(fingerprintSeed, h.Payload),
	}
	switch h.Version {
	case 0:
		f.etherType = h.EtherType
		if h.ARP != nil {
			f.content = maphash.Comparable(fingerprintSeed, *h.ARP)
		}
	case 4:
		f.ipID = uint16(h.IPID)
	}
	if h.Quoted != nil {
		quoted := h.Quoted.Fingerprint()
		quoted.length = 0 // as in Quotes
		f.quoted = maphash.Comparable(fingerprintSeed, quoted)
	}
	return f
}

// ChecksumNeutral reports whether rewriting address a to b, or back, is what
// NPTv6 does (RFC 6296): both are IPv6, the first 64 bits hold another prefix,
// at most one 16-bit word of the last 64 bits was adjusted, and the one's
// complement sum of the address, and so the transport checksum, stays as it
// was. It is false when nothing changed.
func ChecksumNeutral(a, b netip.Addr) bool {
	if a == b || !a.Is6() || !b.Is6() || a.Is4In6() || b.Is4In6() {
		return false
	}
	from, to := a.As16(), b.As16()
	sumFrom, sumTo, adjusted := 0, 0, 0
	for i := 0; i < len(from); i += 2 {
		wordFrom, wordTo := binary.BigEndian.Uint16(from[i:]), binary.BigEndian.Uint16(to[i:])
		sumFrom += int(wordFrom)
		sumTo += int(wordTo)
		if i >= 8 && wordFrom != wordTo {
			adjusted++
		}
	}
	// Sums that are equal modulo 0xffff are equal in one's complement.
	return adjusted <= 1 && (sumFrom-sumTo)%0xffff == 0
}
