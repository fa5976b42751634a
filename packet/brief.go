package packet

import "net/netip"

// Key is a tuple as capture files are searched by: of fixed size, without a
// pointer, cheap to hash and to compare. It is comparable. Its zero value
// stands for a frame that is not IP.
type Key struct {
	// Src and Dst are the addresses; IPv4 ones are mapped into IPv6
	// (::ffff:a.b.c.d).
	Src, Dst [16]byte
	// SrcPort and DstPort are ports. Of ICMP messages with an id (echo,
	// timestamp, …) SrcPort is the id, and DstPort is 0.
	SrcPort, DstPort uint16
	Proto            Proto
	// ICMPType is that of ICMP and ICMPv6 messages. The code is not in the key.
	ICMPType uint8
}

// Key returns the tuple as a key. The ICMP code is lost.
func (t Tuple) Key() Key {
	k := Key{SrcPort: t.SrcPort, DstPort: t.DstPort, Proto: t.Proto}
	if t.Src.IsValid() {
		k.Src = t.Src.As16()
	}
	if t.Dst.IsValid() {
		k.Dst = t.Dst.As16()
	}
	if t.Proto.IsICMP() {
		k.SrcPort, k.DstPort, k.ICMPType = t.ICMPID, 0, t.ICMPType
	}
	return k
}

// Tuple returns the key as a tuple, with ICMP code 0. Where both addresses are
// zero, as in a Brief that was cut before them, the tuple has none.
func (k Key) Tuple() Tuple {
	t := Tuple{Proto: k.Proto, SrcPort: k.SrcPort, DstPort: k.DstPort}
	if k.Src != [16]byte{} || k.Dst != [16]byte{} {
		t.Src, t.Dst = netip.AddrFrom16(k.Src).Unmap(), netip.AddrFrom16(k.Dst).Unmap()
	}
	if k.Proto.IsICMP() {
		t.SrcPort, t.DstPort, t.ICMPType, t.ICMPID = 0, 0, k.ICMPType, k.SrcPort
	}
	return t
}

// Inverse is Tuple.Inverse for a key.
func (k Key) Inverse() Key {
	k.Src, k.Dst = k.Dst, k.Src
	if k.Proto.IsICMP() {
		k.ICMPType = k.Proto.inverse(k.ICMPType)
	} else {
		k.SrcPort, k.DstPort = k.DstPort, k.SrcPort
	}
	return k
}

// Layer is one tunnel that a packet was found in.
type Layer struct {
	// Kind is what carries the packet.
	Kind TunnelKind
	// Src and Dst are the outer addresses, as in Key; zero for MPLS and PPPoE,
	// which have none.
	Src, Dst [16]byte
	// ID is the number of the virtual network: VNI, GRE key, last MPLS label,
	// session id; 0 for none.
	ID uint32
}

// TunnelKind is an encapsulation.
type TunnelKind uint8

// The encapsulations that are looked into.
const (
	NoTunnel TunnelKind = iota
	VXLAN
	Geneve
	GRE
	IPIP // any of IPv4 and IPv6 in any of them
	MPLS
	PPPoE
	ERSPAN
)

// MaxVLANs and MaxLayers bound what a Brief keeps; more is not looked into.
const (
	MaxVLANs  = 4
	MaxLayers = 4
)

// Brief is what the join of capture files needs of a packet, of fixed size and
// without a pointer. Of a packet in a tunnel it is the innermost one, and
// Layers are the tunnels around it.
type Brief struct {
	Key Key
	// Layers are the tunnels, outermost first; Tunnels says how many.
	Layers  [MaxLayers]Layer
	Tunnels uint8
	// VLANs are the tags outside of all tunnels, outermost first; VLANCount says
	// how many.
	VLANs     [MaxVLANs]uint16
	VLANCount uint8
	// Version is 4 or 6; 0 for what is not IP (then only VLANs are set, and Kind
	// says what).
	Version uint8
	// Kind says how far the packet could be decoded.
	Kind BriefKind
	// EtherSrc and EtherDst are the outermost hardware addresses, zero where the
	// link has none. SLL and SLL2 tell only the sender's.
	EtherSrc, EtherDst HardwareAddr
	// SLLInterface is the index of the interface where a frame of link type SLL2
	// was seen, so that a capture with "-i any" can be split by interface.
	SLLInterface uint32
	// SLLType is the packet type of SLL and SLL2, by which incoming and outgoing
	// are told: 0 to this machine, 1 broadcast, 2 multicast, 3 to somebody else, 4
	// outgoing. Other links leave it 0.
	SLLType uint8

	TTL uint8
	// IPID is the IPv4 identification, or that of an IPv6 fragment header.
	IPID uint32
	// FragmentOffset is in bytes. IsFragment is set for each fragment, the first
	// included.
	FragmentOffset uint16
	IsFragment     bool
	MoreFragments  bool
	// Length is the length of the IP packet with its header, as the header says;
	// where segmentation offload left that 0, as captured on the wire.
	Length uint32
	// DataLength is the number of bytes behind the transport header, not as
	// captured. Of a first fragment it is what this fragment holds, of a later
	// one all of that; it is 0 for ICMP errors.
	DataLength uint32
	// Checksum is the transport checksum as seen.
	Checksum uint16
	// Seq, Ack and Flags are TCP's.
	Seq, Ack uint32
	Flags    TCPFlags
	// ICMPSeq is an echo's sequence number, ICMPCode the code of any ICMP
	// message.
	ICMPSeq  uint16
	ICMPCode uint8
	// Mark is a hash of what NAT leaves alone of the packet, and distinguishes it
	// from others; equal packets have equal marks on every machine and in every
	// run. It covers IP version and protocol, and besides: of TCP sequence and
	// acknowledgement numbers, whether there is data, and flags but PSH and, with
	// data, FIN, which segmentation offload moves; not the payload, nor its length.
	// Of UDP the length in its header, the IPv4 id and the first 16 bytes of
	// payload; of ICMP the type, code, sequence number, IPv4 id and the first 16
	// bytes of payload; of an ICMP error its type and code and what is known of the
	// quoted packet (protocol, IPv4 id, TCP sequence number, UDP length and
	// payload, ICMP type, code, sequence number and payload); of later fragments
	// the id (IPv4), the offset and the first 16 bytes; of anything else the IPv4
	// id, the length and the first 16 bytes. Never addresses, ports, ICMP id, TTL,
	// checksum.
	//
	// Payload of which the capture cut part of the first 16 bytes is not covered at
	// all, so that captures which were cut at different lengths agree; BodyLength,
	// less than 16 and than DataLength, tells. Mark is 0 unless Kind is BriefIP.
	Mark uint64
	// Body is a hash of the first BodyLength bytes of payload, at most
	// PayloadBytes. Bodies compare only where BodyLength is the same.
	Body       uint32
	BodyLength uint8
	// Distinctive says that the payload, or the protocol's own numbers, tell the
	// packet from others of its kind: TCP always, otherwise as isDistinctive
	// judges the payload that was captured, and an ICMP error as its quote.
	Distinctive bool
	// Quoted is the key of the packet that an ICMP error quotes, as far as it goes,
	// and QuotedTTL its TTL; zero for everything else.
	Quoted    Key
	QuotedTTL uint8
}

// BriefKind is how far a packet was decoded.
type BriefKind uint8

// The kinds.
const (
	// BriefIP: an IP packet whose transport header was decoded, or whose
	// protocol has none that is known.
	BriefIP BriefKind = iota + 1
	// BriefCut: an IP packet that ends before its headers do; of TCP, UDP, SCTP
	// and ICMP before the fixed part of that header. The Key has what there is.
	BriefCut
	// BriefARP: ARP.
	BriefARP
	// BriefOther: a frame that is neither IP nor ARP.
	BriefOther
	// BriefBad: the link type is not known, the link header or a VLAN tag is not
	// whole, or an IP header contradicts itself.
	BriefBad
)
