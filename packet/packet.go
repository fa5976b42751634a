// Package packet is the vocabulary that every sensor shares: the Tuple that
// names a flow, the Header that was decoded from a frame, and the comparison
// of two headers that NAT cannot disturb.
//
// It observes nothing, needs nothing and changes nothing. It is the only
// importer of gopacket's layers.
package packet

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Proto is an IP protocol number (IANA "Assigned Internet Protocol Numbers").
type Proto uint8

// The protocols that pathtrace names.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
	SCTP   Proto = 132
)

// String returns the protocol's name as conntrack prints it, or its number.
func (p Proto) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// IsICMP reports whether the protocol is ICMP or ICMPv6.
func (p Proto) IsICMP() bool { return p == ICMP || p == ICMPv6 }

// The ICMP types that pathtrace tells apart (RFC 792, RFC 4443).
const (
	EchoReply     uint8 = 0
	EchoRequest   uint8 = 8
	EchoRequestV6 uint8 = 128
	EchoReplyV6   uint8 = 129
)

// Tuple names one direction of a flow. It is comparable. Addresses carry no
// zone (a zone belongs to the point where the packet was seen) and IPv4 is
// never in its IPv6-mapped form.
type Tuple struct {
	Proto    Proto
	Src, Dst netip.Addr
	// SrcPort and DstPort are 0 where the protocol has no ports.
	SrcPort, DstPort uint16
	// ICMPType, ICMPCode and ICMPID are 0 where the protocol is not ICMP or
	// ICMPv6; ICMPID also where the type has none.
	ICMPType, ICMPCode uint8
	ICMPID             uint16
}

// Source returns the source as "address", or "address:port" (IPv6 in
// brackets) where the protocol has ports.
func (t Tuple) Source() string { return endpoint(t.Proto, t.Src, t.SrcPort) }

// Destination is like Source for the destination.
func (t Tuple) Destination() string { return endpoint(t.Proto, t.Dst, t.DstPort) }

func endpoint(p Proto, a netip.Addr, port uint16) string {
	if !a.IsValid() {
		return "?"
	}
	if p.IsICMP() || port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

// Inverse returns the tuple of an answer that meets no NAT: addresses and
// ports swapped, echo request and echo reply swapped.
func (t Tuple) Inverse() Tuple {
	t.Src, t.Dst = t.Dst, t.Src
	t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	t.ICMPType = t.Proto.inverse(t.ICMPType)
	return t
}

// String returns the tuple as "source → destination".
func (t Tuple) String() string {
	return fmt.Sprintf("%s → %s", t.Source(), t.Destination())
}

// HardwareAddr is an Ethernet address.
type HardwareAddr [6]byte

// String returns the address as 02:00:00:00:00:01.
func (a HardwareAddr) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}

// TCPFlags are the flag bits of a TCP header, as on the wire (RFC 9293).
type TCPFlags uint16

// The TCP flags.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Has reports whether all bits of want are set.
func (f TCPFlags) Has(want TCPFlags) bool { return f&want == want }

// PayloadBytes is how much of the transport payload a Header keeps.
const PayloadBytes = 64

// Header is what was decoded from one frame. Fields that the frame does not
// have, or that were not captured, are zero. A Header aliases no buffer.
type Header struct {
	EtherSrc, EtherDst HardwareAddr
	EtherType          uint16
	// VLANs are the VLAN ids, outermost first.
	VLANs []uint16
	// Tunnels are the tunnels that the packet was found in, outermost first.
	// Only DecodeInner looks into them.
	Tunnels []Layer
	// Version is 4 or 6, and 0 when the frame is not IP (ARP has ARP set).
	Version uint8
	Tuple   Tuple
	// TTL is the TTL or hop limit.
	TTL uint8
	// IPID is the IPv4 identification, or that of an IPv6 fragment header.
	IPID uint32
	// FlowLabel is IPv6's; it names a flow, never a packet.
	FlowLabel uint32
	// PayloadLength is the number of bytes behind the IP header and its
	// options or extension headers, as the IP header says (not as captured).
	PayloadLength int
	// DataLength is the part of PayloadLength behind the transport header: for
	// TCP the bytes of the stream, from Seq on. It is 0 for ICMP errors.
	DataLength int
	// DontFragment is IPv4's DF bit.
	DontFragment bool
	// FragmentOffset is in bytes. A packet is a fragment when it is not 0 or
	// MoreFragments is set; later fragments have no ports.
	FragmentOffset int
	MoreFragments  bool
	// Checksum is the transport checksum as seen; on a veth it may not have
	// been filled in yet, so it is never "bad".
	Checksum uint16
	// Seq, Ack, Flags, Window, MSS and the timestamps are TCP's. MSS is 0 and
	// HasTimestamps false when the option is absent.
	Seq, Ack               uint32
	Flags                  TCPFlags
	Window, MSS            uint16
	HasTimestamps          bool
	Timestamp, EchoedStamp uint32
	// ICMPSeq is an echo's sequence number; MTU is that of a
	// fragmentation-needed or packet-too-big error.
	ICMPSeq uint16
	MTU     int
	// Payload is the start of the transport payload, at most PayloadBytes;
	// PayloadCut says that the capture ended before PayloadBytes did.
	Payload    []byte
	PayloadCut bool
	// HeaderCut says that the capture, or the quote, ended among the headers:
	// a zero field may then be one that was not captured.
	HeaderCut bool
	// Quoted is the packet inside an ICMP error, as its sender quoted it. An
	// error has no Payload.
	Quoted *Header
	// ARP and Neighbour are set for ARP packets and for ICMPv6 neighbour
	// solicitations and advertisements (RFC 826, RFC 4861).
	ARP       *ARP
	Neighbour *Neighbour
}

// ARP is an IPv4-over-Ethernet ARP packet.
type ARP struct {
	Request              bool
	SenderAddr           netip.Addr
	SenderMAC, TargetMAC HardwareAddr
	TargetAddr           netip.Addr
}

// Neighbour is an ICMPv6 neighbour solicitation or advertisement.
type Neighbour struct {
	Solicitation bool
	Target       netip.Addr
}

// IsFragment reports whether the packet is a fragment of a larger one.
func (h *Header) IsFragment() bool { return h.MoreFragments || h.FragmentOffset != 0 }

// IsICMPError reports whether the packet is an ICMP error message: it quotes
// the packet that it is about.
func (h *Header) IsICMPError() bool {
	return h.Tuple.Proto.isError(h.Tuple.ICMPType)
}
