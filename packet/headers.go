package packet

import "encoding/binary"

// HeaderLength is how many bytes at the start of a captured frame are headers:
// what stands behind them is payload of the transport. Of an ICMP error the
// headers of the packet that it quotes are among them, and an ARP packet and a
// message of neighbour discovery are nothing else. What is not understood counts
// as payload, but for the bytes where an IP header should be.
//
// A frame that is cut there decodes to the same Header without Payload.
func HeaderLength(link LinkType, data []byte) int {
	switch link {
	case LinkEthernet:
		if len(data) < ethernetBytes {
			return len(data)
		}
		return ethernetBytes + networkLength(binary.BigEndian.Uint16(data[ethernetBytes-2:]), data[ethernetBytes:])
	case LinkRaw:
		return ipLength(data, false)
	}
	return 0
}

const (
	ethernetBytes = 14
	tagLength     = 4
	udpBytes      = 8
	sctpBytes     = 12
)

func networkLength(etherType uint16, data []byte) int {
	n := 0
	for etherType == EtherTypeVLAN || etherType == EtherTypeQinQ || etherType == EtherTypeOldQinQ {
		if len(data) < n+tagLength {
			return len(data)
		}
		etherType, n = binary.BigEndian.Uint16(data[n+2:]), n+tagLength
	}
	switch etherType {
	case EtherTypeARP:
		return len(data)
	case EtherTypeIPv4, EtherTypeIPv6:
		return n + ipLength(data[n:], false)
	}
	return n
}

// ipLength is the length of the IP header and of those that follow it; quoted
// says that the packet stands in an ICMP error.
func ipLength(data []byte, quoted bool) int {
	n, proto, fragment := 0, Proto(0), false
	switch {
	case len(data) >= ipv4Header && data[0]>>4 == 4:
		n, proto = max(int(data[0]&0xf)*4, ipv4Header), Proto(data[9])
		fragment = binary.BigEndian.Uint16(data[6:])&0x1fff != 0
	case len(data) >= ipv6Header && data[0]>>4 == 6:
		n, proto, fragment = extensionsLength(data)
	default:
		n, fragment = ipv6Header, true
	}
	if n >= len(data) || quoted && lengthless(data) {
		return len(data)
	}
	if !fragment {
		n += transportLength(proto, data[n:], quoted)
	}
	return min(n, len(data))
}

// lengthless reports whether an IP header leaves the packet's length to what
// was captured of it.
func lengthless(data []byte) bool {
	if data[0]>>4 == 4 {
		return binary.BigEndian.Uint16(data[2:]) == 0
	}
	return binary.BigEndian.Uint16(data[4:]) == 0
}

// extensionsLength steps over IPv6's extension headers (RFC 8200, section 4).
func extensionsLength(data []byte) (n int, proto Proto, fragment bool) {
	const hopByHop, routing, fragmentHeader, destination = 0, 43, 44, 60
	proto, n = Proto(data[6]), ipv6Header
	for {
		rest := data[min(n, len(data)):]
		switch proto {
		case hopByHop, routing, destination:
			if len(rest) < 2 {
				return len(data), proto, false
			}
			proto, n = Proto(rest[0]), n+(int(rest[1])+1)*8
		case fragmentHeader:
			if len(rest) < 8 {
				return len(data), proto, false
			}
			proto, n = Proto(rest[0]), n+8
			if binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				return n, proto, true
			}
		default:
			return n, proto, false
		}
	}
}

func transportLength(proto Proto, data []byte, quoted bool) int {
	switch proto {
	case TCP:
		if len(data) < tcpHeader {
			return len(data)
		}
		return max(int(data[12]>>4)*4, tcpHeader)
	case UDP:
		return udpBytes
	case SCTP:
		return sctpBytes
	case ICMP, ICMPv6:
		h := Header{Tuple: Tuple{Proto: proto}}
		if len(data) > icmpHeader {
			h.Tuple.ICMPType = data[0]
		}
		switch {
		case proto == ICMPv6 && h.Tuple.ICMPType >= 133 && h.Tuple.ICMPType <= 137: // RFC 4861
			return len(data)
		case h.IsICMPError() && !quoted && len(data) > icmpHeader:
			if (data[icmpHeader]>>4 == 6) != (proto == ICMPv6) {
				return icmpHeader + ipv6Header
			}
			return icmpHeader + ipLength(data[icmpHeader:], true)
		}
		return icmpHeader
	}
	return 0
}
