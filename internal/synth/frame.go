package synth

import (
	"encoding/binary"
	"net/netip"

	"github.com/pathtrace/pathtrace/packet"
)

// frame is a packet as it is written: an Ethernet frame.
type frame struct {
	src, dst         netip.Addr
	proto            packet.Proto
	sport, dport     uint16 // of ICMP: sport is the id
	ttl              uint8
	ipid             uint16
	seq, ack         uint32
	flags            packet.TCPFlags
	icmpType         uint8
	icmpSeq          uint16
	payload          []byte
	from, to         byte // last bytes of the hardware addresses
	offset           int  // of a fragment, in bytes
	more, isFragment bool
	udpLength        int // of the whole datagram that a fragment is of
	fragmentID       uint32
}

const ethernet = 14

// build appends the frame's bytes.
func (f *frame) build(b []byte) []byte {
	b = append(b, 2, 0, 0, 0, 0, f.to, 2, 0, 0, 0, 0, f.from)
	transport := f.transport()
	if f.src.Is4() {
		b = append(b, 8, 0)
		b = f.ipv4(b, len(transport))
	} else {
		b = append(b, 0x86, 0xdd)
		b = f.ipv6(b, len(transport))
	}
	b = append(b, transport...)
	return b
}

func (f *frame) ipv4(b []byte, payload int) []byte {
	at := len(b)
	b = append(b, make([]byte, 20)...)
	h := b[at:]
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+payload))
	binary.BigEndian.PutUint16(h[4:], f.ipid)
	fragment := uint16(f.offset / 8)
	if f.more {
		fragment |= 0x2000
	}
	if f.ipid == 0 {
		fragment |= 0x4000
	}
	binary.BigEndian.PutUint16(h[6:], fragment)
	h[8], h[9] = f.ttl, byte(f.proto)
	copy(h[12:], f.src.AsSlice())
	copy(h[16:], f.dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum(h, 0))
	return b
}

func (f *frame) ipv6(b []byte, payload int) []byte {
	at := len(b)
	b = append(b, make([]byte, 40)...)
	h := b[at:]
	h[0] = 0x60
	h[6], h[7] = byte(f.proto), f.ttl
	copy(h[8:], f.src.AsSlice())
	copy(h[24:], f.dst.AsSlice())
	if f.isFragment {
		h[6] = 44
		payload += 8
		more := uint16(f.offset)
		if f.more {
			more |= 1
		}
		b = append(b, byte(f.proto), 0, byte(more>>8), byte(more))
		b = binary.BigEndian.AppendUint32(b, f.fragmentID)
	}
	binary.BigEndian.PutUint16(b[at+4:], uint16(payload))
	return b
}

func (f *frame) transport() []byte {
	if f.offset > 0 {
		return f.payload
	}
	var h []byte
	checksum := 6
	switch f.proto {
	case packet.TCP:
		h = make([]byte, 20, 20+len(f.payload))
		binary.BigEndian.PutUint16(h, f.sport)
		binary.BigEndian.PutUint16(h[2:], f.dport)
		binary.BigEndian.PutUint32(h[4:], f.seq)
		binary.BigEndian.PutUint32(h[8:], f.ack)
		h[12], h[13] = 5<<4, byte(f.flags)
		binary.BigEndian.PutUint16(h[14:], 64240)
		checksum = 16
	case packet.UDP:
		h = make([]byte, 8, 8+len(f.payload))
		binary.BigEndian.PutUint16(h, f.sport)
		binary.BigEndian.PutUint16(h[2:], f.dport)
		binary.BigEndian.PutUint16(h[4:], uint16(max(8+len(f.payload), f.udpLength)))
	default:
		h = make([]byte, 8, 8+len(f.payload))
		h[0] = f.icmpType
		binary.BigEndian.PutUint16(h[4:], f.sport)
		binary.BigEndian.PutUint16(h[6:], f.icmpSeq)
		checksum = 2
	}
	h = append(h, f.payload...)
	var start uint32
	if f.proto != packet.ICMP {
		var pseudo []byte
		pseudo = append(pseudo, f.src.AsSlice()...)
		pseudo = append(pseudo, f.dst.AsSlice()...)
		pseudo = append(pseudo, 0, byte(f.proto), byte(len(h)>>8), byte(len(h)))
		start = uint32(sum(pseudo, 0))
	}
	binary.BigEndian.PutUint16(h[checksum:], ^sum(h, start))
	return h
}

// sum is the Internet checksum's sum (RFC 1071), not complemented.
func sum(b []byte, start uint32) uint16 {
	s := start
	for len(b) > 1 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// key is the tuple as the join has it.
func (f *frame) key() packet.Key {
	t := packet.Tuple{Proto: f.proto, Src: f.src, Dst: f.dst, SrcPort: f.sport, DstPort: f.dport}
	if f.proto.IsICMP() {
		t = packet.Tuple{Proto: f.proto, Src: f.src, Dst: f.dst, ICMPID: f.sport, ICMPType: f.icmpType}
	}
	return t.Key()
}
