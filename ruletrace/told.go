package ruletrace

import (
	"encoding/binary"
	"net/netip"

	"github.com/pathtrace/pathtrace/packet"
)

// told is a packet as a line of text tells it. It is turned back into the
// headers that the line was printed from, and these are decoded as those of any
// packet are, so that both can be compared.
type told struct {
	src, dst netip.Addr
	// length is that of the IP header: of the whole packet in IPv4, of what is
	// behind the fixed header in IPv6.
	length    int
	ttl       uint8
	id        uint32
	flowLabel uint32
	options   []byte // IPv4's
	// df and mf are bits of IPv4, and mf that of an IPv6 fragment header; offset
	// is in bytes.
	df, mf bool
	offset int
	// fragment says that an IPv6 packet has a fragment header, extended that it
	// has other extension headers, of unknown length.
	fragment, extended bool
	// proto is unknownProto where the line does not tell it.
	proto int

	ports                    bool
	sourcePort, targetPort   uint16
	numbers                  bool // seq and ack are told
	seq, ack                 uint32
	flags                    packet.TCPFlags
	window                   uint16
	tcpOptions               []byte
	icmp                     bool
	icmpType, icmpCode       uint8
	word                     uint32 // behind ICMP's checksum: id and sequence number, MTU
	wordTold                 bool
	payload                  []byte // behind the first eight bytes of the transport header
	quoted                   *told
	etherSource, etherTarget packet.HardwareAddr
	etherType                uint16
	vlans                    []uint16
}

const unknownProto = -1

// header decodes what was told. Fields that no line tells are zero, and HeaderCut
// says so.
//
// Of a TCP segment of which the numbers are not told, as in nft monitor, the flags
// are left out when ACK is among them: packet.Header.Compare takes flags as a sign
// that the acknowledgement number in front of them was captured.
func (p *told) header() packet.Header {
	data := p.bytes()
	// What contradicts itself is kept as far as it goes: a rule was hit all the
	// same.
	h, _ := packet.DecodeNetwork(0, data, len(data))
	if p.proto == unknownProto {
		h.HeaderCut, h.PayloadCut = true, true
	}
	if p.proto == int(packet.TCP) && !p.numbers && p.offset == 0 {
		h.Window = p.window
		if !p.flags.Has(packet.ACK) {
			h.Flags = p.flags
		}
	}
	h.EtherSrc, h.EtherDst, h.VLANs = p.etherSource, p.etherTarget, p.vlans
	if p.etherType != 0 {
		h.EtherType = p.etherType
	}
	return h
}

// bytes are the headers.
func (p *told) bytes() []byte {
	transport := p.transport()
	if p.src.Is4() {
		header := make([]byte, 20, 80+len(transport))
		options := p.options[:min(40, len(p.options)&^3)]
		header[0] = 4<<4 | byte(5+len(options)/4)
		binary.BigEndian.PutUint16(header[2:], uint16(p.length))
		binary.BigEndian.PutUint16(header[4:], uint16(p.id))
		place := uint16(p.offset / 8)
		if p.df {
			place |= 1 << 14
		}
		if p.mf {
			place |= 1 << 13
		}
		binary.BigEndian.PutUint16(header[6:], place)
		header[8], header[9] = p.ttl, byte(max(p.proto, 0))
		copy(header[12:], p.src.AsSlice())
		copy(header[16:], p.dst.AsSlice())
		return append(append(header, options...), transport...)
	}
	header := make([]byte, 40, 48+len(transport))
	binary.BigEndian.PutUint32(header, 6<<28|p.flowLabel&0xfffff)
	binary.BigEndian.PutUint16(header[4:], uint16(p.length))
	header[7] = p.ttl
	copy(header[8:], p.src.AsSlice())
	copy(header[24:], p.dst.AsSlice())
	switch {
	case p.extended || p.proto == unknownProto:
		return header // the next header is 0, an extension header that is missing
	case p.fragment:
		header[6] = 44
		place := uint16(p.offset) &^ 7
		if p.mf {
			place |= 1
		}
		extension := binary.BigEndian.AppendUint16([]byte{byte(p.proto), 0}, place)
		header = append(header, binary.BigEndian.AppendUint32(extension, p.id)...)
	default:
		header[6] = byte(p.proto)
	}
	return append(header, transport...)
}

// transport is the transport header as far as it is told, with what is known of
// what follows it.
func (p *told) transport() []byte {
	switch proto := packet.Proto(max(p.proto, 0)); {
	case p.offset != 0:
		return nil
	case proto.IsICMP():
		return p.message()
	case !p.ports:
		return nil
	case proto == packet.TCP && p.numbers:
		options := p.tcpOptions[:min(40, len(p.tcpOptions)&^3)]
		b := p.portBytes()
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, byte(5+len(options)/4)<<4, byte(p.flags))
		b = binary.BigEndian.AppendUint16(b, p.window)
		return append(append(b, 0, 0, 0, 0), options...)
	case proto == packet.UDP:
		return append(append(p.portBytes(), 0, 0, 0, 0), p.payload...)
	}
	return p.portBytes()
}

func (p *told) portBytes() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.sourcePort), p.targetPort)
}

// message is an ICMP message.
func (p *told) message() []byte {
	if !p.icmp {
		return nil
	}
	b := []byte{p.icmpType, p.icmpCode, 0, 0}
	switch {
	case p.quoted != nil:
		return append(binary.BigEndian.AppendUint32(b, p.word), p.quoted.bytes()...)
	case p.wordTold:
		return append(binary.BigEndian.AppendUint32(b, p.word), p.payload...)
	}
	return b
}
