package packet

import (
	"encoding/binary"
	"slices"
)

const (
	protoIPv4 Proto = 4  // RFC 2003
	protoIPv6 Proto = 41 // RFC 2473, RFC 4213
	protoGRE  Proto = 47

	portVXLAN      uint16 = 4789
	portLinuxVXLAN uint16 = 8472 // Linux's own, from before the assignment
	portGeneve     uint16 = 6081

	// vxlanHeader is the length of the header of RFC 7348.
	vxlanHeader = 8

	// maxLabels bounds an MPLS label stack.
	maxLabels = 16
)

// VXLANPorts are the UDP ports that VXLAN is sent to: that of RFC 7348, and
// Linux's own from before the assignment.
var VXLANPorts = []uint16{portVXLAN, portLinuxVXLAN}

// CarriedAt is where the IP packet begins that a VXLAN datagram carries, in bytes
// from its UDP header on, behind VXLAN's and an Ethernet header without a VLAN.
const CarriedAt = udpHeader + vxlanHeader + etherHeader

// mayTunnel reports whether an IP packet may carry another one: data is what
// follows its header.
func mayTunnel(p Proto, data []byte) bool {
	switch p {
	case UDP:
		return len(data) >= udpHeader && isTunnelPort(binary.BigEndian.Uint16(data[2:]))
	case protoIPv4, protoIPv6, protoGRE:
		return true
	}
	return false
}

func isTunnelPort(port uint16) bool {
	return port == portVXLAN || port == portLinuxVXLAN || port == portGeneve
}

// tunnel goes from what follows the IP header of a packet into the packet that
// this carries, and returns the tunnel, without addresses. Only when an IP
// packet is to be found there in at most room layers; otherwise it is false,
// and f is of no use.
func (f *frame) tunnel(p Proto, room int) (l Layer, ok bool) {
	if !mayTunnel(p, f.data) {
		return l, false
	}
	switch p {
	case UDP:
		port := binary.BigEndian.Uint16(f.data[2:])
		f.skip(udpHeader)
		if port == portGeneve {
			ok = f.geneve(&l)
		} else {
			ok = f.vxlan(&l)
		}
	case protoGRE:
		ok = f.gre(&l)
	case protoIPv4:
		l.Kind, f.etherType, ok = IPIP, EtherTypeIPv4, true
	case protoIPv6:
		l.Kind, f.etherType, ok = IPIP, EtherTypeIPv6, true
	}
	return l, ok && f.holdsIP(room-1)
}

// shim is tunnel for what lies between the link and the IP header: MPLS labels
// and PPPoE.
func (f *frame) shim(room int) (l Layer, ok bool) {
	switch f.etherType {
	case etherTypeMPLS, etherTypeMPLSMulticast:
		ok = f.mpls(&l)
	case etherTypePPPoE:
		ok = f.pppoe(&l)
	}
	return l, ok && f.holdsIP(room-1)
}

// holdsIP reports whether an IP packet comes next, with at most room shims
// before it.
func (f *frame) holdsIP(room int) bool {
	if room < 0 {
		return false
	}
	if f.isIP() {
		return true
	}
	next := *f
	_, ok := next.shim(room)
	return ok
}

// vxlan takes off RFC 7348's header: flags, of which one says that the network
// number is there, 24 bits reserved, the number, 8 bits reserved.
func (f *frame) vxlan(l *Layer) bool {
	if len(f.data) < vxlanHeader || f.data[0]&0x08 == 0 {
		return false
	}
	l.Kind, l.ID = VXLAN, binary.BigEndian.Uint32(f.data[4:])>>8
	f.skip(vxlanHeader)
	return f.ethernet()
}

// toVXLAN reports whether a packet may be a datagram of VXLAN.
func (h *Header) toVXLAN() bool {
	return h.Tuple.Proto == UDP && slices.Contains(VXLANPorts, h.Tuple.DstPort) && h.FragmentOffset == 0
}

// DecodeVXLAN decodes the Ethernet frame in the payload of a packet, if that is a
// datagram of VXLAN; the payload may have been cut anywhere. headers is how many
// bytes of it are headers: VXLAN's own and those of the packet inside; it is 0 where
// that is no IP packet.
func (h *Header) DecodeVXLAN(payload []byte) (inner Header, headers int) {
	if !h.toVXLAN() || len(payload) == 0 || payload[0]&0x08 == 0 {
		return Header{}, 0
	}
	if len(payload) < vxlanHeader+etherHeader {
		return Header{}, len(payload)
	}
	inside := payload[vxlanHeader:]
	inner, err := Decode(LinkEthernet, inside, len(inside))
	if err != nil || inner.Version == 0 {
		return Header{}, 0
	}
	return inner, vxlanHeader + HeaderLength(LinkEthernet, inside)
}

// geneve takes off RFC 8926's header: version and length of the options in
// words, flags, protocol, network number, 8 bits reserved, options.
func (f *frame) geneve(l *Layer) bool {
	if len(f.data) < 8 || f.data[0]>>6 != 0 {
		return false
	}
	l.Kind, l.ID = Geneve, binary.BigEndian.Uint32(f.data[4:])>>8
	f.etherType = binary.BigEndian.Uint16(f.data[2:])
	if !f.skip(8 + int(f.data[0]&0x3f)*4) {
		return false
	}
	if f.etherType == etherTypeBridged {
		return f.ethernet()
	}
	return true
}

// gre takes off a GRE header (RFC 2784, RFC 2890): flags and version, protocol,
// and as the flags say checksum, key and sequence number. Source routes
// (RFC 1701) and version 1, which is PPTP's, are not read.
func (f *frame) gre(l *Layer) bool {
	const checksum, routing, key, sequence, version = 0x8000, 0x4000, 0x2000, 0x1000, 0x0007
	const erspan2, erspan3 = 0x88be, 0x22eb
	if len(f.data) < 4 {
		return false
	}
	flags := binary.BigEndian.Uint16(f.data)
	f.etherType = binary.BigEndian.Uint16(f.data[2:])
	f.skip(4)
	if flags&(routing|version) != 0 || flags&checksum != 0 && !f.skip(4) {
		return false
	}
	l.Kind = GRE
	if flags&key != 0 {
		if len(f.data) < 4 {
			return false
		}
		l.ID = binary.BigEndian.Uint32(f.data)
		f.skip(4)
	}
	if flags&sequence != 0 && !f.skip(4) {
		return false
	}
	switch {
	case f.etherType == etherTypeBridged:
		return f.ethernet()
	case f.etherType == erspan2 && flags&sequence == 0: // type I has no header
		l.Kind = ERSPAN
		return f.ethernet()
	case f.etherType == erspan2:
		return f.erspan(l, 8)
	case f.etherType == erspan3:
		return f.erspan(l, 12)
	}
	return true
}

// erspan takes off the header of a mirrored frame, type II of 8 and type III of
// 12 bytes, of which the last bit says that 8 more follow
// (draft-foschiano-erspan-03). The session id is the low 10 bits of the second
// word of 16 bits.
func (f *frame) erspan(l *Layer, header int) bool {
	if len(f.data) < header {
		return false
	}
	l.Kind, l.ID = ERSPAN, uint32(binary.BigEndian.Uint16(f.data[2:])&0x03ff)
	if header == 12 && f.data[11]&1 != 0 {
		header += 8
	}
	return f.skip(header) && f.ethernet()
}

// mpls takes off a label stack (RFC 3032). The last label is kept: it names
// the network, those before it the way there.
func (f *frame) mpls(l *Layer) bool {
	const bottom = 0x100
	for range maxLabels {
		if len(f.data) < 4 {
			return false
		}
		entry := binary.BigEndian.Uint32(f.data)
		f.skip(4)
		if entry&bottom != 0 {
			l.Kind, l.ID = MPLS, entry>>12
			return f.labelled()
		}
	}
	return false
}

// labelled guesses what the last label announces, which nothing says: IP by
// its version, otherwise Ethernet, behind a control word (RFC 4385) or not.
func (f *frame) labelled() bool {
	if len(f.data) == 0 {
		return false
	}
	switch f.data[0] >> 4 {
	case 4:
		f.etherType = EtherTypeIPv4
	case 6:
		f.etherType = EtherTypeIPv6
	case 0:
		word := *f
		if word.skip(4) && word.ethernet() && word.isIP() {
			*f = word
			return true
		}
	}
	return f.isIP() || f.ethernet()
}

// pppoe takes off the header of a PPPoE session (RFC 2516): version and type,
// code, session id, length, and PPP's.
func (f *frame) pppoe(l *Layer) bool {
	if len(f.data) < 6 || f.data[0] != 0x11 || f.data[1] != 0 {
		return false
	}
	l.Kind, l.ID = PPPoE, uint32(binary.BigEndian.Uint16(f.data[2:]))
	length := int(binary.BigEndian.Uint16(f.data[4:]))
	f.skip(6)
	f.trim(length)
	return f.ppp()
}
