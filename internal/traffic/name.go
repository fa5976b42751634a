package traffic

import (
	"net/netip"

	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
)

// nameOf is the tuple that a packet's flow is known by, the same for both
// directions; false for packets of none. An ICMP error has the name of the flow
// that it is about.
func nameOf(h *packet.Header) (packet.Tuple, bool) {
	t := h.Tuple
	if h.IsICMPError() {
		if h.Quoted == nil {
			return packet.Tuple{}, false
		}
		t = h.Quoted.Tuple
	}
	if !unicast(t.Src) || !unicast(t.Dst) || h.FragmentOffset > 0 {
		return packet.Tuple{}, false
	}
	switch {
	case t.Proto.IsICMP() && t.ICMPType != packet.EchoRequest && t.ICMPType != packet.EchoReply &&
		t.ICMPType != packet.EchoRequestV6 && t.ICMPType != packet.EchoReplyV6:
		return packet.Tuple{}, false
	case t.Proto.IsICMP(), t.Proto == packet.TCP, t.Proto == packet.UDP, t.Proto == packet.SCTP:
		return undirected(t), true
	}
	return packet.Tuple{}, false
}

func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsMulticast() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// undirected is the same tuple for both directions of a flow.
func undirected(t packet.Tuple) packet.Tuple {
	if t.Proto.IsICMP() {
		if t.ICMPType == packet.EchoReply && t.Proto == packet.ICMP || t.ICMPType == packet.EchoReplyV6 && t.Proto == packet.ICMPv6 {
			return t.Inverse()
		}
		return t
	}
	if c := t.Src.Compare(t.Dst); c > 0 || c == 0 && t.SrcPort > t.DstPort {
		return t.Inverse()
	}
	return t
}

// namesOf are the tuples that a flow's packets have before NAT, behind it, and
// between the translation of the destination and that of the source.
func namesOf(f *nat.Flow) []packet.Tuple {
	before, after := f.Original, f.Original
	if translated, ok := f.Apply(f.Original); ok {
		after = translated
	}
	between := before
	between.Dst, between.DstPort = after.Dst, after.DstPort
	names := []packet.Tuple{undirected(before)}
	for _, t := range []packet.Tuple{after, between} {
		if name := undirected(t); name != names[0] && (len(names) < 2 || name != names[1]) {
			names = append(names, name)
		}
	}
	return names
}

// content is what NAT leaves alone of a packet, as far as a rule hit tells it,
// too: a place in a stream, or the start of a payload. The zero value is that of
// a packet that is not known by it.
type content struct {
	proto  packet.Proto
	kind   uint8 // TCP's flags, or an echo's type
	number uint32
	length int
	start  [8]byte
}

// contentOf is the content of a packet that may open a flow or answer one that
// does.
func contentOf(h *packet.Header) content {
	c := content{proto: h.Tuple.Proto, length: h.PayloadLength}
	switch h.Tuple.Proto {
	case packet.TCP:
		if !h.Flags.Has(packet.SYN) || h.HeaderCut && h.Seq == 0 { // nft's traces have no options
			return content{}
		}
		c.kind, c.number, c.length = uint8(h.Flags&(packet.SYN|packet.ACK)), h.Seq, 0
	case packet.UDP:
		if copy(c.start[:], h.Payload) < len(c.start) {
			return content{}
		}
	case packet.ICMP, packet.ICMPv6:
		c.kind, c.number = h.Tuple.ICMPType, uint32(h.ICMPSeq)
		if copy(c.start[:], h.Payload) < len(c.start) {
			return content{}
		}
	default:
		return content{}
	}
	return c
}

// opens reports whether a packet may be the first of a flow, or an answer to
// that: one that is worth keeping before its flow is known. Of a TCP connection
// of others the data is not.
func opens(h *packet.Header) bool {
	return h.Tuple.Proto != packet.TCP || h.Flags&(packet.SYN|packet.RST) != 0
}

// accepts reports whether a packet answers the first one of a TCP connection.
func accepts(h *packet.Header) bool {
	return h.Tuple.Proto == packet.TCP && h.Flags.Has(packet.SYN) && h.Flags.Has(packet.ACK)
}

// sharesAnEnd reports whether two tuples agree in one end, whichever way they go.
func sharesAnEnd(a, b packet.Tuple) bool {
	end := func(t packet.Tuple) [2]netip.AddrPort {
		return [2]netip.AddrPort{netip.AddrPortFrom(t.Src, t.SrcPort), netip.AddrPortFrom(t.Dst, t.DstPort)}
	}
	x, y := end(a), end(b)
	return x[0] == y[0] || x[1] == y[1] || x[0] == y[1] || x[1] == y[0]
}
