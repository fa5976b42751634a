package packet

import "encoding/binary"

// Scan decodes a captured frame into b, whatever b held before. wire is its
// length on the wire, which is more than len(data) when the capture cut it.
//
// It is DecodeInner for capture files of millions of packets, and agrees with
// it: it looks into tunnels, it never panics, what was not captured is zero,
// and b.Kind says how far it got. It allocates nothing and keeps no reference
// to data.
func Scan(link LinkType, data []byte, wire int, b *Brief) {
	*b = Brief{}
	f := frame{data: data, wire: max(wire, len(data))}
	if link == LinkEthernet {
		if !f.mac() {
			b.Kind = BriefBad
			return
		}
		b.EtherDst, b.EtherSrc = HardwareAddr(data[0:6]), HardwareAddr(data[6:12])
	} else if b.link(link, &f) != nil {
		b.Kind = BriefBad
		return
	}
	for n := 0; f.isTagged(); n++ {
		id, ok := f.untag()
		if !ok || n == maxTags {
			b.Kind = BriefBad
			return
		}
		if n < MaxVLANs {
			b.VLANs[n] = id
			b.VLANCount++
		}
	}
	b.network(f)
}

// network decodes what follows the link header and its tags.
func (b *Brief) network(f frame) {
	if f.etherType == 0 && len(f.data) > 0 {
		switch f.data[0] >> 4 {
		case 4:
			f.etherType = EtherTypeIPv4
		case 6:
			f.etherType = EtherTypeIPv6
		default:
			b.Kind = BriefBad
			return
		}
	}
	switch f.etherType {
	case EtherTypeIPv4:
		b.ipv4(f, false)
	case EtherTypeIPv6:
		b.ipv6(f, false)
	case EtherTypeARP:
		b.Kind = BriefARP
	default:
		if layer, ok := f.shim(MaxLayers - int(b.Tunnels)); ok {
			b.enter(layer, f)
			return
		}
		b.Kind = BriefOther
	}
}

// enter decodes f, which was found in a tunnel, in place of the packet that
// carries it.
func (b *Brief) enter(l Layer, f frame) {
	b.Layers[b.Tunnels] = l
	b.Tunnels++
	b.network(f)
}

// ipv4 sets every field that an IP header has, for it may be the second one.
// quoted is set for the packet inside an ICMP error.
func (b *Brief) ipv4(f frame, quoted bool) {
	b.Version = 4
	d := f.data
	if len(d) < ipv4Header {
		b.Kind = BriefCut
		return
	}
	if d[0]>>4 != 4 {
		b.Kind = BriefBad
		return
	}
	b.Key.Src, b.Key.Dst = mapped(d[12:16]), mapped(d[16:20])
	b.Key.Proto = Proto(d[9])
	b.TTL = d[8]
	b.IPID = uint32(binary.BigEndian.Uint16(d[4:]))
	fragment := binary.BigEndian.Uint16(d[6:])
	b.FragmentOffset = fragment & 0x1fff * 8
	b.MoreFragments = fragment&0x2000 != 0
	b.IsFragment = fragment&0x3fff != 0
	header, total, ok := f.ipv4()
	if !ok {
		b.Kind = BriefBad
		return
	}
	b.Length = uint32(total)
	if len(d) < header {
		b.Kind = BriefCut
		return
	}
	b.transport(frame{data: d[header:min(total, len(d))], wire: total - header}, quoted)
}

// mapped returns an IPv4 address in its IPv6-mapped form.
func mapped(a []byte) (m [16]byte) {
	m[10], m[11] = 0xff, 0xff
	copy(m[12:], a[:4])
	return m
}

// ipv6 is ipv4 for IPv6.
func (b *Brief) ipv6(f frame, quoted bool) {
	b.Version = 6
	d := f.data
	if len(d) < ipv6Header {
		b.Kind = BriefCut
		return
	}
	if d[0]>>4 != 6 {
		b.Kind = BriefBad
		return
	}
	b.Key.Src, b.Key.Dst = [16]byte(d[8:24]), [16]byte(d[24:40])
	b.Key.Proto = 0
	b.TTL = d[7]
	b.IPID, b.FragmentOffset, b.IsFragment, b.MoreFragments = 0, 0, false, false
	next, length := d[6], int(binary.BigEndian.Uint16(d[4:]))
	if length == 0 && next != 59 { // no next header
		length = f.wire - ipv6Header // jumbo payload, RFC 2675, or BIG TCP without it
	}
	b.Length = uint32(ipv6Header + length)
	f.skip(ipv6Header)
	f = frame{data: f.data[:min(length, len(f.data))], wire: length}
	for b.FragmentOffset == 0 {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(f.data) < 2 {
				b.Kind = BriefCut
				return
			}
			next = f.data[0]
			if !f.skip(int(f.data[1])*8 + 8) {
				b.Kind = BriefCut
				return
			}
			continue
		case 44: // fragment
			if len(f.data) < 8 {
				b.Kind = BriefCut
				return
			}
			next = f.data[0]
			offset := binary.BigEndian.Uint16(f.data[2:])
			b.FragmentOffset, b.MoreFragments = offset&^7, offset&1 != 0
			b.IsFragment = offset&^6 != 0
			b.IPID = binary.BigEndian.Uint32(f.data[4:])
			f.skip(8)
			continue
		}
		break
	}
	b.Key.Proto = Proto(next)
	b.transport(f, quoted)
}

// The first byte of what a Mark covers says what it is of: the IP version of a
// whole packet or a first fragment, or that and one of these.
const (
	markLater uint64 = 0x10 // later fragment
	markError uint64 = 0x20 // ICMP error
	markQuote uint64 = 0x40 // TCP segment in an ICMP error
)

// markData tells a segment with data from the bare acknowledgement before it,
// which has the same numbers. It stands above TCP's flags.
const markData uint64 = 1 << 16

// transport decodes what follows the IP header. f ends where the packet or the
// capture does, and f.wire is the length that the IP header says.
func (b *Brief) transport(f frame, quoted bool) {
	d := f.data
	// Numbers of the IP header that NAT leaves alone.
	head := uint64(b.Version)<<56 | uint64(b.Key.Proto)<<48
	if b.Version == 4 {
		head |= uint64(b.IPID)
	}
	if b.FragmentOffset != 0 {
		b.payload(f, 0, head|markLater<<56|uint64(b.FragmentOffset)<<16, 0)
		return
	}
	if !quoted && mayTunnel(b.Key.Proto, d) {
		inner := f
		if layer, ok := inner.tunnel(b.Key.Proto, MaxLayers-int(b.Tunnels)); ok {
			layer.Src, layer.Dst = b.Key.Src, b.Key.Dst
			b.enter(layer, inner)
			return
		}
	}
	switch b.Key.Proto {
	case TCP:
		if len(d) < tcpHeader {
			b.cut(d, quoted, head)
			return
		}
		b.Kind = BriefIP
		b.ports(d)
		b.Seq, b.Ack = binary.BigEndian.Uint32(d[4:]), binary.BigEndian.Uint32(d[8:])
		b.Flags, b.Checksum = TCPFlags(d[13]), binary.BigEndian.Uint16(d[16:])
		b.Distinctive = true
		header := max(int(d[12]>>4)*4, tcpHeader)
		b.DataLength = uint32(max(f.wire-header, 0))
		if n := min(len(d)-header, PayloadBytes); n > 0 {
			b.Body, b.BodyLength = bodyOf(d[header:header+n]), uint8(n)
		}
		if quoted {
			b.quotedTCP(head)
			return
		}
		// Segmentation offload moves PSH and FIN from one segment to another.
		marked := uint64(b.Flags &^ PSH)
		if b.DataLength > 0 {
			marked = uint64(b.Flags&^(PSH|FIN)) | markData
		}
		b.Mark = markOf(uint64(b.Version)<<56|uint64(TCP)<<48|marked, uint64(b.Seq)<<32|uint64(b.Ack), nil)
	case UDP:
		if len(d) < udpHeader {
			b.cut(d, quoted, head)
			return
		}
		b.ports(d)
		b.Checksum = binary.BigEndian.Uint16(d[6:])
		b.payload(f, udpHeader, head|uint64(binary.BigEndian.Uint16(d[4:]))<<16, 0)
	case SCTP:
		if len(d) < sctpHeader {
			b.cut(d, quoted, head)
			return
		}
		b.ports(d)
		b.payload(f, sctpHeader, head, uint64(f.wire))
	case ICMP, ICMPv6:
		if len(d) < icmpHeader {
			b.cut(d, quoted, head)
			return
		}
		b.icmp(f, quoted, head)
	default:
		b.payload(f, 0, head, uint64(f.wire))
	}
}

func (b *Brief) ports(d []byte) {
	b.Key.SrcPort, b.Key.DstPort = binary.BigEndian.Uint16(d), binary.BigEndian.Uint16(d[2:])
}

// cut keeps of a transport header that is not whole the 32-bit words that are.
// No field crosses one.
func (b *Brief) cut(d []byte, quoted bool, head uint64) {
	b.Kind = BriefCut
	if len(d) < 4 {
		return
	}
	if b.Key.Proto.IsICMP() {
		b.Key.ICMPType, b.ICMPCode, b.Checksum = d[0], d[1], binary.BigEndian.Uint16(d[2:])
		return
	}
	b.ports(d)
	if b.Key.Proto != TCP || len(d) < 8 {
		return
	}
	b.Seq = binary.BigEndian.Uint32(d[4:])
	if quoted {
		b.Distinctive = true
		b.quotedTCP(head)
	}
	if len(d) >= 12 {
		b.Ack = binary.BigEndian.Uint32(d[8:])
	}
	if len(d) >= 16 {
		b.Flags = TCPFlags(d[13])
	}
}

// quotedTCP marks a quoted segment by what every quote has of it.
func (b *Brief) quotedTCP(head uint64) {
	b.Mark = markOf(head|markQuote<<56, uint64(b.Seq), nil)
}

// icmp decodes a message with a whole header.
func (b *Brief) icmp(f frame, quoted bool, head uint64) {
	d := f.data
	proto, kind := b.Key.Proto, d[0]
	b.Key.ICMPType, b.ICMPCode, b.Checksum = kind, d[1], binary.BigEndian.Uint16(d[2:])
	head |= uint64(kind)<<40 | uint64(d[1])<<32
	switch {
	case !proto.isError(kind):
		if proto.hasICMPID(kind) {
			b.Key.SrcPort, b.ICMPSeq = binary.BigEndian.Uint16(d[4:]), binary.BigEndian.Uint16(d[6:])
		}
		b.payload(f, icmpHeader, head|uint64(b.ICMPSeq)<<16, 0)
	case quoted: // RFC 1122, section 3.2.2, and RFC 4443, section 2.4, forbid it
		b.Kind = BriefIP
		b.Mark = markOf(head|markError<<56, 0, nil)
	default:
		b.Kind = BriefIP
		var q Brief
		if len(d) > icmpHeader {
			q.quote(quote(proto, kind, d))
		}
		b.Quoted, b.QuotedTTL, b.Distinctive = q.Key, q.TTL, q.Distinctive
		head &^= 0xffff // a router may number its errors as it likes
		b.Mark = markOf(head|markError<<56|uint64(q.Key.Proto)<<16, q.Mark, nil)
	}
}

// quote decodes the packet inside an ICMP error.
func (b *Brief) quote(f frame) {
	if f.etherType == EtherTypeIPv4 {
		b.ipv4(f, true)
	} else {
		b.ipv6(f, true)
	}
}

// payload keeps what follows a transport header, which must be whole, and
// marks the packet with it and two numbers. Where the capture cut what a Mark
// covers of the payload, it covers none of it: captures that were cut at
// different lengths then agree.
func (b *Brief) payload(f frame, header int, head, numbers uint64) {
	b.Kind = BriefIP
	p := f.data[header:]
	b.DataLength = uint32(max(f.wire-header, 0))
	if len(p) > 0 {
		p = p[:min(len(p), PayloadBytes)]
		b.Body, b.BodyLength = bodyOf(p), uint8(len(p))
		b.Distinctive = isDistinctive(p)
	}
	if len(p) < min(int(b.DataLength), MarkPayload) {
		p = nil
	}
	b.Mark = markOf(head, numbers, p[:min(len(p), MarkPayload)])
}
