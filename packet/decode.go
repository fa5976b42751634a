package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	udpHeader  = 8
	sctpHeader = 12
	icmpHeader = 8
)

// Decode decodes a captured frame. wireLength is its length on the wire, which
// is more than len(data) when the capture cut it; it is needed where
// segmentation offload leaves the IP header without a length.
//
// A frame that is only short is no error: the Header has what there is, and
// PayloadCut or HeaderCut is set. The error says that the link header is
// missing or that the IP header contradicts itself; the Header then has what
// was decoded until there. Decode never panics, and the Header keeps no
// reference to data. A frame that is neither IP nor ARP has Version 0 and no
// ARP. What is in a tunnel is payload, and as the kernel does, it takes no
// Ethernet frame with an LLC header for IP.
func Decode(link LinkType, data []byte, wireLength int) (Header, error) {
	return decode(link, 0, data, wireLength, false)
}

// DecodeInner is Decode for a frame of a capture file: it looks into tunnels
// and behind LLC headers. Of a packet in a tunnel the Header is that of the
// innermost one, and Tunnels has what is around it; hardware addresses and
// VLANs are those outside. A tunnel whose inside is not IP leaves the packet
// that carries it. It agrees with Scan.
func DecodeInner(link LinkType, data []byte, wireLength int) (Header, error) {
	return decode(link, 0, data, wireLength, true)
}

// DecodeCarried is DecodeInner for a frame that was decoded to h, if that is a
// datagram of VXLAN that carries an IP packet; ok is false for any other. What
// goes into a tunnel device and what it makes of that are seen on one machine, so
// the two are told apart.
func DecodeCarried(link LinkType, data []byte, wireLength int, h *Header) (inner Header, ok bool) {
	if !h.toVXLAN() {
		return Header{}, false
	}
	inner, err := DecodeInner(link, data, wireLength)
	return inner, err == nil && len(inner.Tunnels) > 0 && inner.Tunnels[0].Kind == VXLAN
}

// DecodeNetwork is Decode for a packet without a link header, as NFLOG and
// nftables' trace deliver it, cut anywhere. etherType is its protocol; 0 takes
// the family from the IP version.
func DecodeNetwork(etherType uint16, data []byte, wireLength int) (Header, error) {
	return decode(LinkRaw, etherType, data, wireLength, false)
}

// decode turns a panic of the layers, which were not written for hostile
// input, into an error.
func decode(link LinkType, etherType uint16, data []byte, wire int, inner bool) (h Header, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decode packet: %v", r)
		}
	}()
	d := decoders.Get().(*decoder)
	d.inner = inner
	switch link {
	case LinkEthernet:
		err = d.ethernet(&h, data, wire)
	case LinkRaw:
		err = d.network(&h, etherType, data, wire)
	default:
		err = d.link(&h, link, data, wire)
	}
	decoders.Put(d)
	if err != nil {
		err = fmt.Errorf("decode packet: %w", err)
	}
	return h, err
}

// decoder holds the layers, so that decoding allocates only what a Header
// keeps. Errors of the layers are not asked for: they give up on lengths that
// a cut capture, a quoted packet or segmentation offload makes normal, and
// have set the fixed fields by then. What matters is checked here.
type decoder struct {
	eth   layers.Ethernet
	tag   layers.Dot1Q
	arp   layers.ARP
	ip4   layers.IPv4
	ip6   layers.IPv6
	ext   layers.IPv6ExtensionSkipper
	tcp   layers.TCP
	udp   layers.UDP
	sctp  layers.SCTP
	icmp4 layers.ICMPv4
	icmp6 layers.ICMPv6
	spare [tcpHeader]byte
	// inner says to look into tunnels, quoting is set while the packet inside an
	// ICMP error is decoded.
	inner, quoting bool
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// whole returns data, filled up with zeros to at least n bytes, so that a cut
// transport header decodes as far as it goes. No field crosses a 32-bit word:
// a word that was cut is left out.
func (d *decoder) whole(data []byte, n int) []byte {
	if len(data) >= n {
		return data
	}
	clear(d.spare[copy(d.spare[:], data[:len(data)&^3]):])
	return d.spare[:n]
}

func (d *decoder) ethernet(h *Header, data []byte, wire int) error {
	if err := d.eth.DecodeFromBytes(data, gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	h.EtherSrc, h.EtherDst = HardwareAddr(d.eth.SrcMAC), HardwareAddr(d.eth.DstMAC)
	if d.eth.EthernetType == layers.EthernetTypeLLC {
		f := frame{data: d.eth.Payload, wire: min(wire-len(d.eth.Contents), int(d.eth.Length))}
		if d.inner && f.snap() {
			return d.network(h, f.etherType, f.data, f.wire)
		}
		return nil
	}
	return d.network(h, uint16(d.eth.EthernetType), d.eth.Payload, wire-len(d.eth.Contents))
}

// link decodes a frame of a link type that only capture files have.
func (d *decoder) link(h *Header, link LinkType, data []byte, wire int) error {
	var b Brief // what the link header tells
	f := frame{data: data, wire: wire}
	if err := b.link(link, &f); err != nil {
		return fmt.Errorf("link type %s: %w", link, err)
	}
	h.EtherSrc = b.EtherSrc
	if f.etherType == noEtherType {
		return nil
	}
	return d.network(h, f.etherType, f.data, f.wire)
}

func (d *decoder) network(h *Header, etherType uint16, data []byte, wire int) error {
	for etherType == EtherTypeVLAN || etherType == EtherTypeQinQ || etherType == EtherTypeOldQinQ {
		h.EtherType = etherType
		if d.tag.DecodeFromBytes(data, gopacket.NilDecodeFeedback) != nil {
			h.HeaderCut, h.PayloadCut = true, true
			return nil
		}
		h.VLANs = append(h.VLANs, d.tag.VLANIdentifier)
		etherType, data, wire = uint16(d.tag.Type), d.tag.Payload, wire-len(d.tag.Contents)
	}
	if etherType == 0 && len(data) > 0 {
		switch data[0] >> 4 {
		case 4:
			etherType = EtherTypeIPv4
		case 6:
			etherType = EtherTypeIPv6
		default:
			return fmt.Errorf("neither IPv4 nor IPv6: version %d", data[0]>>4)
		}
	}
	h.EtherType = etherType
	wire = max(wire, len(data))
	switch etherType {
	case EtherTypeIPv4:
		return d.ipv4(h, data, wire)
	case EtherTypeIPv6:
		return d.ipv6(h, data, wire)
	case EtherTypeARP:
		d.neighbour(h, data)
	default:
		f := frame{etherType: etherType, data: data, wire: wire}
		if d.inner {
			if layer, ok := f.shim(MaxLayers - len(h.Tunnels)); ok {
				return d.enter(h, layer, f)
			}
		}
	}
	return nil
}

// enter decodes f, which was found in a tunnel, in place of the packet that
// carries it.
func (d *decoder) enter(h *Header, layer Layer, f frame) error {
	*h = Header{EtherSrc: h.EtherSrc, EtherDst: h.EtherDst, VLANs: h.VLANs, Tunnels: append(h.Tunnels, layer)}
	return d.network(h, f.etherType, f.data, f.wire)
}

// neighbour decodes ARP. Other address families than IPv4 over Ethernet leave
// h.ARP nil.
func (d *decoder) neighbour(h *Header, data []byte) {
	if d.arp.DecodeFromBytes(data, gopacket.NilDecodeFeedback) != nil {
		h.HeaderCut, h.PayloadCut = true, true
		return
	}
	arp := &d.arp
	if arp.Protocol != layers.EthernetTypeIPv4 || arp.HwAddressSize != 6 || arp.ProtAddressSize != 4 {
		return
	}
	h.ARP = &ARP{
		Request:    arp.Operation == layers.ARPRequest,
		SenderAddr: netip.AddrFrom4([4]byte(arp.SourceProtAddress)),
		TargetAddr: netip.AddrFrom4([4]byte(arp.DstProtAddress)),
		SenderMAC:  HardwareAddr(arp.SourceHwAddress),
		TargetMAC:  HardwareAddr(arp.DstHwAddress),
	}
}

func (d *decoder) ipv4(h *Header, data []byte, wire int) error {
	h.Version = 4
	if len(data) < ipv4Header {
		h.HeaderCut, h.PayloadCut = true, true
		return nil
	}
	ip := &d.ip4
	_ = ip.DecodeFromBytes(data, gopacket.NilDecodeFeedback)
	if ip.Version != 4 {
		return fmt.Errorf("IPv4 header has version %d", ip.Version)
	}
	h.Tuple.Src = netip.AddrFrom4([4]byte(ip.SrcIP))
	h.Tuple.Dst = netip.AddrFrom4([4]byte(ip.DstIP))
	h.Tuple.Proto = Proto(ip.Protocol)
	h.TTL = ip.TTL
	h.IPID = uint32(ip.Id)
	h.DontFragment = ip.Flags&layers.IPv4DontFragment != 0
	h.MoreFragments = ip.Flags&layers.IPv4MoreFragments != 0
	h.FragmentOffset = int(ip.FragOffset) * 8

	header := int(ip.IHL) * 4
	total := int(binary.BigEndian.Uint16(data[2:])) // the layer replaces a 0
	if total == 0 {
		total = wire // BIG TCP and other segmentation offload
	}
	if header < ipv4Header || total < header {
		return fmt.Errorf("IPv4 header of %d bytes in a packet of %d", header, total)
	}
	h.PayloadLength = total - header
	if len(data) < header {
		h.HeaderCut, h.PayloadCut = true, true
		return nil
	}
	return d.transport(h, data[header:min(total, len(data))])
}

func (d *decoder) ipv6(h *Header, data []byte, wire int) error {
	h.Version = 6
	if len(data) < ipv6Header {
		h.HeaderCut, h.PayloadCut = true, true
		return nil
	}
	ip := &d.ip6
	_ = ip.DecodeFromBytes(data, gopacket.NilDecodeFeedback)
	if ip.Version != 6 {
		return fmt.Errorf("IPv6 header has version %d", ip.Version)
	}
	h.Tuple.Src = netip.AddrFrom16([16]byte(ip.SrcIP))
	h.Tuple.Dst = netip.AddrFrom16([16]byte(ip.DstIP))
	h.TTL = ip.HopLimit
	h.FlowLabel = ip.FlowLabel

	length := int(ip.Length)
	if length == 0 && ip.NextHeader != layers.IPProtocolNoNextHeader {
		length = wire - ipv6Header // jumbo payload, RFC 2675, or BIG TCP without it
	}
	rest := data[ipv6Header:]
	rest = rest[:min(length, len(rest))]
	captured := len(rest)
	next, rest, ok := d.extensions(h, ip.NextHeader, rest)
	h.PayloadLength = length - (captured - len(rest))
	if !ok {
		h.HeaderCut, h.PayloadCut = true, true
		return nil
	}
	h.Tuple.Proto = Proto(next)
	return d.transport(h, rest)
}

// extensions steps over the extension headers (RFC 8200, section 4) and keeps
// what the fragment header says. It returns false when the capture, or the
// packet, ends among them.
func (d *decoder) extensions(h *Header, next layers.IPProtocol, rest []byte) (layers.IPProtocol, []byte, bool) {
	for {
		switch next {
		case layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Destination:
			if d.ext.DecodeFromBytes(rest, gopacket.NilDecodeFeedback) != nil {
				return next, rest, false
			}
			next, rest = d.ext.NextHeader, d.ext.Payload
		case layers.IPProtocolIPv6Fragment:
			if len(rest) < 8 {
				return next, rest, false
			}
			// The layer decodes only into a new packet.
			offset := binary.BigEndian.Uint16(rest[2:])
			h.FragmentOffset, h.MoreFragments = int(offset&^7), offset&1 != 0
			h.IPID = binary.BigEndian.Uint32(rest[4:])
			next, rest = layers.IPProtocol(rest[0]), rest[8:]
			if h.FragmentOffset != 0 {
				return next, rest, true
			}
		default:
			return next, rest, true
		}
	}
}

// transport decodes what follows the IP header; data ends where the packet or
// the capture does.
func (d *decoder) transport(h *Header, data []byte) error {
	if h.FragmentOffset != 0 {
		h.keep(data, 0)
		return nil
	}
	if d.inner && !d.quoting {
		f := frame{data: data, wire: h.PayloadLength}
		if layer, ok := f.tunnel(h.Tuple.Proto, MaxLayers-len(h.Tunnels)); ok {
			key := h.Tuple.Key()
			layer.Src, layer.Dst = key.Src, key.Dst
			return d.enter(h, layer, f)
		}
	}
	switch h.Tuple.Proto {
	case TCP:
		h.keep(data, d.decodeTCP(h, data))
	case UDP:
		_ = d.udp.DecodeFromBytes(d.whole(data, udpHeader), gopacket.NilDecodeFeedback)
		h.Tuple.SrcPort, h.Tuple.DstPort = uint16(d.udp.SrcPort), uint16(d.udp.DstPort)
		h.Checksum = d.udp.Checksum
		h.keep(data, udpHeader)
	case SCTP:
		_ = d.sctp.DecodeFromBytes(d.whole(data, sctpHeader), gopacket.NilDecodeFeedback)
		h.Tuple.SrcPort, h.Tuple.DstPort = uint16(d.sctp.SrcPort), uint16(d.sctp.DstPort)
		h.keep(data, sctpHeader)
	case ICMP, ICMPv6:
		d.decodeICMP(h, data)
	default:
		h.keep(data, 0)
	}
	return nil
}

// decodeTCP returns the length of the header.
func (d *decoder) decodeTCP(h *Header, data []byte) int {
	tcp, whole := &d.tcp, d.whole(data, tcpHeader)
	_ = tcp.DecodeFromBytes(whole, gopacket.NilDecodeFeedback)
	h.Tuple.SrcPort, h.Tuple.DstPort = uint16(tcp.SrcPort), uint16(tcp.DstPort)
	h.Seq, h.Ack, h.Window, h.Checksum = tcp.Seq, tcp.Ack, tcp.Window, tcp.Checksum
	h.Flags = TCPFlags(whole[13])
	for _, o := range tcp.Options {
		switch {
		case o.OptionType == layers.TCPOptionKindMSS && len(o.OptionData) == 2:
			h.MSS = binary.BigEndian.Uint16(o.OptionData)
		case o.OptionType == layers.TCPOptionKindTimestamps && len(o.OptionData) == 8:
			h.HasTimestamps = true
			h.Timestamp = binary.BigEndian.Uint32(o.OptionData)
			h.EchoedStamp = binary.BigEndian.Uint32(o.OptionData[4:])
		}
	}
	return max(int(tcp.DataOffset)*4, tcpHeader)
}

func (d *decoder) decodeICMP(h *Header, data []byte) {
	whole := d.whole(data, icmpHeader)
	// The second word of the header: id and sequence number of an echo, MTU or
	// length of the quote in an error.
	word := [2]uint16{binary.BigEndian.Uint16(whole[4:]), binary.BigEndian.Uint16(whole[6:])}
	tooBig, hasID := false, false
	if h.Tuple.Proto == ICMP {
		_ = d.icmp4.DecodeFromBytes(whole, gopacket.NilDecodeFeedback)
		h.Tuple.ICMPType, h.Tuple.ICMPCode = d.icmp4.TypeCode.Type(), d.icmp4.TypeCode.Code()
		h.Checksum = d.icmp4.Checksum
		switch h.Tuple.ICMPType {
		case layers.ICMPv4TypeEchoRequest, layers.ICMPv4TypeEchoReply,
			layers.ICMPv4TypeTimestampRequest, layers.ICMPv4TypeTimestampReply,
			layers.ICMPv4TypeInfoRequest, layers.ICMPv4TypeInfoReply,
			layers.ICMPv4TypeAddressMaskRequest, layers.ICMPv4TypeAddressMaskReply:
			hasID = len(data) >= icmpHeader
		case layers.ICMPv4TypeDestinationUnreachable:
			tooBig = h.Tuple.ICMPCode == layers.ICMPv4CodeFragmentationNeeded
		}
	} else {
		_ = d.icmp6.DecodeFromBytes(whole, gopacket.NilDecodeFeedback)
		h.Tuple.ICMPType, h.Tuple.ICMPCode = d.icmp6.TypeCode.Type(), d.icmp6.TypeCode.Code()
		h.Checksum = d.icmp6.Checksum
		switch h.Tuple.ICMPType {
		case EchoRequestV6, EchoReplyV6:
			hasID = len(data) >= icmpHeader
		case layers.ICMPv6TypePacketTooBig:
			tooBig = true
		case layers.ICMPv6TypeNeighborSolicitation, layers.ICMPv6TypeNeighborAdvertisement:
			if len(data) >= icmpHeader+16 {
				h.Neighbour = &Neighbour{
					Solicitation: h.Tuple.ICMPType == layers.ICMPv6TypeNeighborSolicitation,
					Target:       netip.AddrFrom16([16]byte(data[icmpHeader:])),
				}
			}
		}
	}
	if hasID {
		h.Tuple.ICMPID, h.ICMPSeq = word[0], word[1]
	}
	if tooBig {
		h.MTU = int(word[1])
		if h.Tuple.Proto == ICMPv6 {
			h.MTU |= int(word[0]) << 16
		}
	}
	if !h.IsICMPError() {
		h.keep(data, icmpHeader)
		return
	}
	h.Quoted = d.quoted(h, data)
	h.HeaderCut = len(data) < icmpHeader
	h.PayloadCut = h.Quoted == nil
}

// quoted decodes the packet inside an ICMP error. An error inside an error is
// decoded without its quote: RFC 1122, section 3.2.2, and RFC 4443, section
// 2.4, forbid such messages, and their depth would be the sender's choice.
func (d *decoder) quoted(h *Header, data []byte) *Header {
	if d.quoting || len(data) <= icmpHeader {
		return nil
	}
	d.quoting = true
	defer func() { d.quoting = false }()
	f := quote(h.Tuple.Proto, h.Tuple.ICMPType, data)
	q := &Header{}
	_ = d.network(q, f.etherType, f.data, f.wire) // a malformed quote is kept as far as it goes
	return q
}

// keep copies the start of the payload, which begins after header bytes of
// data.
func (h *Header) keep(data []byte, header int) {
	h.HeaderCut = len(data) < header
	data = data[min(header, len(data)):]
	data = data[:min(PayloadBytes, len(data))]
	if len(data) > 0 {
		h.Payload = bytes.Clone(data)
	}
	h.DataLength = max(h.PayloadLength-header, 0)
	h.PayloadCut = len(data) < min(PayloadBytes, h.DataLength)
}
