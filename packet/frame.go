package packet

import "encoding/binary"

// The EtherTypes that are decoded.
const (
	EtherTypeIPv4    uint16 = 0x0800
	EtherTypeARP     uint16 = 0x0806
	EtherTypeVLAN    uint16 = 0x8100 // IEEE 802.1Q
	EtherTypeIPv6    uint16 = 0x86dd
	EtherTypeQinQ    uint16 = 0x88a8 // IEEE 802.1ad
	EtherTypeOldQinQ uint16 = 0x9100 // before 802.1ad, still in use

	etherTypeBridged       uint16 = 0x6558 // Ethernet inside GRE or Geneve
	etherTypeMPLS          uint16 = 0x8847
	etherTypeMPLSMulticast uint16 = 0x8848
	etherTypePPPoE         uint16 = 0x8864 // session stage

	// noEtherType stands for what has none, such as a PPP control protocol. The
	// number is reserved (RFC 1701).
	noEtherType uint16 = 0xffff
)

const (
	etherHeader = 14
	tagBytes    = 4
	// maxTags bounds a stack of VLAN tags. None is that deep but on purpose.
	maxTags = 16
)

// frame is what is left of a captured frame once headers were taken off its
// front. Its methods take off one more, and return false when it is not there,
// or not whole.
type frame struct {
	// etherType says how data begins; 0 when the IP version has to tell.
	etherType uint16
	data      []byte
	// wire is the length on the wire. It is at least len(data).
	wire int
}

// skip takes n bytes off.
func (f *frame) skip(n int) bool {
	if len(f.data) < n {
		return false
	}
	f.data, f.wire = f.data[n:], f.wire-n
	return true
}

// trim cuts what follows the first n bytes.
func (f *frame) trim(n int) {
	f.data, f.wire = f.data[:min(n, len(f.data))], min(n, f.wire)
}

// mac takes off an Ethernet header, and LLC where there is one.
func (f *frame) mac() bool {
	if len(f.data) < etherHeader {
		return false
	}
	f.etherType = binary.BigEndian.Uint16(f.data[12:])
	f.skip(etherHeader)
	if f.etherType >= 0x0600 {
		return true
	}
	f.trim(int(f.etherType)) // it is a length
	f.snap()
	return true
}

// snap takes off an LLC header that says SNAP and an EtherType (IEEE 802). Any
// other leaves noEtherType.
func (f *frame) snap() bool {
	d := f.data
	f.etherType = noEtherType
	if len(d) < 8 || d[0] != 0xaa || d[1] != 0xaa || d[2] != 3 || d[3]|d[4]|d[5] != 0 {
		return false
	}
	f.etherType = binary.BigEndian.Uint16(d[6:])
	return f.skip(8)
}

// isTagged reports whether a VLAN tag comes next.
func (f *frame) isTagged() bool {
	return f.etherType == EtherTypeVLAN || f.etherType == EtherTypeQinQ || f.etherType == EtherTypeOldQinQ
}

// untag takes off a VLAN tag and returns its id.
func (f *frame) untag() (uint16, bool) {
	if len(f.data) < tagBytes {
		return 0, false
	}
	id := binary.BigEndian.Uint16(f.data) & 0x0fff
	f.etherType = binary.BigEndian.Uint16(f.data[2:])
	return id, f.skip(tagBytes)
}

// ethernet takes off an Ethernet header with its VLAN tags.
func (f *frame) ethernet() bool {
	if !f.mac() {
		return false
	}
	for range maxTags {
		if !f.isTagged() {
			return true
		}
		if _, ok := f.untag(); !ok {
			return false
		}
	}
	return false
}

// ppp takes off a PPP header (RFC 1661, RFC 1662): the address and control
// bytes may be missing, and the protocol may be compressed to one byte.
func (f *frame) ppp() bool {
	if len(f.data) >= 2 && f.data[0] == 0xff && f.data[1] == 0x03 {
		f.skip(2)
	}
	if len(f.data) == 0 {
		return false
	}
	protocol, n := uint16(f.data[0]), 1
	if protocol&1 == 0 {
		if len(f.data) < 2 {
			return false
		}
		protocol, n = binary.BigEndian.Uint16(f.data), 2
	}
	switch protocol {
	case 0x0021:
		f.etherType = EtherTypeIPv4
	case 0x0057:
		f.etherType = EtherTypeIPv6
	case 0x0281:
		f.etherType = etherTypeMPLS
	case 0x0283:
		f.etherType = etherTypeMPLSMulticast
	default:
		f.etherType = noEtherType
	}
	return f.skip(n)
}

// ipv4 returns the length of an IPv4 header and of its packet, and whether
// they can be. A header of less than 20 bytes must have been ruled out.
func (f *frame) ipv4() (header, total int, ok bool) {
	header = int(f.data[0]&0x0f) * 4
	total = int(binary.BigEndian.Uint16(f.data[2:]))
	if total == 0 {
		total = f.wire // BIG TCP and other segmentation offload
	}
	return header, total, f.data[0]>>4 == 4 && header >= ipv4Header && total >= header
}

// isIP reports whether a whole IP header comes next that does not contradict
// itself.
func (f *frame) isIP() bool {
	switch f.etherType {
	case EtherTypeIPv4:
		if len(f.data) < ipv4Header {
			return false
		}
		_, _, ok := f.ipv4()
		return ok
	case EtherTypeIPv6:
		return len(f.data) >= ipv6Header && f.data[0]>>4 == 6
	}
	return false
}
