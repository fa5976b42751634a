package packet

import (
	"encoding/binary"
	"errors"
	"strconv"
)

// LinkType says how a captured frame begins. The numbers are those of capture
// files (https://www.tcpdump.org/linktypes.html).
type LinkType uint16

// The link types that are decoded. Live capture has the first and LinkRaw.
const (
	LinkEthernet LinkType = 1
	// LinkNull frames begin with the address family in the byte order of the
	// machine that captured, LinkLoop ones in network order.
	LinkNull LinkType = 0
	LinkLoop LinkType = 108
	LinkPPP  LinkType = 9
	// LinkRaw frames begin with the IP header; its version tells the family. The
	// other two numbers are what some systems write for it.
	LinkRaw        LinkType = 101
	LinkRaw12      LinkType = 12
	LinkRaw14      LinkType = 14
	LinkCHDLC      LinkType = 104
	LinkFrameRelay LinkType = 107
	LinkSLL        LinkType = 113
	LinkIPNET      LinkType = 226
	LinkIPv4       LinkType = 228
	LinkIPv6       LinkType = 229
	LinkNFLOG      LinkType = 239
	LinkSLL2       LinkType = 276
)

var linkNames = map[LinkType]string{
	LinkNull:       "NULL",
	LinkEthernet:   "ETHERNET",
	LinkPPP:        "PPP",
	LinkRaw:        "RAW",
	LinkRaw12:      "RAW",
	LinkRaw14:      "RAW",
	LinkCHDLC:      "C_HDLC",
	LinkFrameRelay: "FRELAY",
	LinkLoop:       "LOOP",
	LinkSLL:        "LINUX_SLL",
	LinkIPNET:      "IPNET",
	LinkIPv4:       "IPV4",
	LinkIPv6:       "IPV6",
	LinkNFLOG:      "NFLOG",
	LinkSLL2:       "LINUX_SLL2",
	// Not decoded, but met.
	50:  "PPP_HDLC",
	105: "IEEE802_11",
	127: "IEEE802_11_RADIOTAP",
	147: "USER0",
	187: "BLUETOOTH_HCI_H4",
	189: "USB_LINUX",
	220: "USB_LINUX_MMAPPED",
	253: "NETLINK",
}

// String returns the name in the registry, without its prefix, or the number.
func (l LinkType) String() string {
	if name, ok := linkNames[l]; ok {
		return name
	}
	return strconv.Itoa(int(l))
}

// Why a link header cannot be decoded. They are made once: a file may have
// millions of such frames.
var (
	errLinkType = errors.New("not supported")
	errLinkCut  = errors.New("the link header is not whole")
)

// link takes the link header off f, for every link type but Ethernet, and
// keeps what it tells of the sender and the interface.
func (b *Brief) link(link LinkType, f *frame) error {
	ok := false
	switch link {
	case LinkRaw, LinkRaw12, LinkRaw14:
		return nil
	case LinkIPv4:
		f.etherType = EtherTypeIPv4
		return nil
	case LinkIPv6:
		f.etherType = EtherTypeIPv6
		return nil
	case LinkNull, LinkLoop:
		ok = f.family()
	case LinkPPP:
		ok = f.ppp()
	case LinkCHDLC: // address, control, EtherType
		if ok = len(f.data) >= 4; ok {
			f.etherType = binary.BigEndian.Uint16(f.data[2:])
			f.skip(4)
		}
	case LinkFrameRelay:
		ok = f.frameRelay()
	case LinkSLL:
		ok = b.sll(f)
	case LinkSLL2:
		ok = b.sll2(f)
	case LinkIPNET: // Solaris: version, family, … zones
		if ok = len(f.data) >= 24; ok {
			f.etherType = afEtherType(uint32(f.data[1]))
			f.skip(24)
		}
	case LinkNFLOG:
		ok = f.nflog()
	default:
		return errLinkType
	}
	if !ok {
		return errLinkCut
	}
	return nil
}

// afEtherType returns the EtherType of an address family. AF_INET is 2
// everywhere; AF_INET6 is 10 on Linux, 24, 28 and 30 on the BSDs and macOS, 26
// on Solaris.
func afEtherType(family uint32) uint16 {
	switch family {
	case 2:
		return EtherTypeIPv4
	case 10, 24, 26, 28, 30:
		return EtherTypeIPv6
	}
	return noEtherType
}

// family takes off an address family in either byte order.
func (f *frame) family() bool {
	if len(f.data) < 4 {
		return false
	}
	f.etherType = afEtherType(binary.LittleEndian.Uint32(f.data))
	if f.etherType == noEtherType {
		f.etherType = afEtherType(binary.BigEndian.Uint32(f.data))
	}
	return f.skip(4)
}

// frameRelay takes off a Q.922 address of two to four bytes and what follows
// it: a protocol identifier (RFC 2427), or the EtherType that Cisco routers
// write there.
func (f *frame) frameRelay() bool {
	address := 1
	for address < min(4, len(f.data)) && f.data[address-1]&1 == 0 { // more follows
		address++
	}
	if address < 2 || !f.skip(address) || len(f.data) < 2 {
		return false
	}
	if f.data[0] != 0x03 { // unnumbered information
		f.etherType = binary.BigEndian.Uint16(f.data)
		return f.skip(2)
	}
	f.skip(1)
	if f.data[0] == 0 { // padding
		f.skip(1)
		if len(f.data) == 0 {
			return false
		}
	}
	switch f.data[0] {
	case 0xcc:
		f.etherType = EtherTypeIPv4
	case 0x8e:
		f.etherType = EtherTypeIPv6
	case 0x80: // SNAP
		if len(f.data) < 6 {
			return false
		}
		f.etherType = noEtherType
		if f.data[1]|f.data[2]|f.data[3] == 0 {
			f.etherType = binary.BigEndian.Uint16(f.data[4:])
		}
		return f.skip(6)
	default:
		f.etherType = noEtherType
	}
	return f.skip(1)
}

// The length of the headers that "-i any" writes.
const (
	sllHeader  = 16
	sll2Header = 20
)

// sll takes off a LINUX_SLL header: packet type, ARPHRD, length of the address,
// address, protocol.
func (b *Brief) sll(f *frame) bool {
	d := f.data
	if len(d) < sllHeader {
		return false
	}
	b.SLLType = d[1]
	b.sender(binary.BigEndian.Uint16(d[2:]), int(binary.BigEndian.Uint16(d[4:])), d[6:14])
	f.etherType = sllProtocol(binary.BigEndian.Uint16(d[14:]))
	return f.skip(sllHeader)
}

// sll2 takes off a LINUX_SLL2 header: protocol, two reserved bytes, interface
// index, ARPHRD, packet type, length of the address, address.
func (b *Brief) sll2(f *frame) bool {
	d := f.data
	if len(d) < sll2Header {
		return false
	}
	b.SLLInterface, b.SLLType = binary.BigEndian.Uint32(d[4:]), d[10]
	b.sender(binary.BigEndian.Uint16(d[8:]), int(d[11]), d[12:20])
	f.etherType = sllProtocol(binary.BigEndian.Uint16(d))
	return f.skip(sll2Header)
}

// sender keeps the sender's address where it is Ethernet's. The length is
// sometimes a lie.
func (b *Brief) sender(hardware uint16, length int, address []byte) {
	const ethernet, loopback = 1, 772 // ARPHRD_ETHER, ARPHRD_LOOPBACK
	if length == len(b.EtherSrc) && (hardware == ethernet || hardware == loopback) {
		b.EtherSrc = HardwareAddr(address)
	}
}

// sllProtocol returns the EtherType, of which numbers below 0x0600 are none
// but Linux's own.
func sllProtocol(protocol uint16) uint16 {
	if protocol < 0x0600 {
		return noEtherType
	}
	return protocol
}

// nflog takes off an NFLOG header and goes to the attribute that holds the
// packet. Lengths and types of the attributes are in the byte order of the
// machine that captured: types are small and not 0, which tells it.
func (f *frame) nflog() bool {
	const hardwareProtocol, payload = 1, 9 // NFULA_PACKET_HDR, NFULA_PAYLOAD
	if len(f.data) < 4 {
		return false
	}
	f.etherType = afEtherType(uint32(f.data[0]))
	f.skip(4)
	var order binary.ByteOrder = binary.LittleEndian
	if len(f.data) >= 4 && f.data[2] == 0 {
		order = binary.BigEndian
	}
	for len(f.data) >= 4 {
		length, kind := int(order.Uint16(f.data)), order.Uint16(f.data[2:])
		if length < 4 {
			return false
		}
		switch {
		case kind == payload:
			f.trim(length)
			return f.skip(4)
		case kind == hardwareProtocol && f.etherType == noEtherType && len(f.data) >= 6:
			f.etherType = sllProtocol(binary.BigEndian.Uint16(f.data[4:])) // as of bridges
		}
		if !f.skip((length + 3) &^ 3) {
			return false
		}
	}
	return false
}
