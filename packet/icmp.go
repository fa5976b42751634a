package packet

// isError reports whether a type of ICMP or ICMPv6 is that of an error message
// (RFC 792, RFC 4443).
func (p Proto) isError(icmpType uint8) bool {
	switch p {
	case ICMP:
		switch icmpType {
		case 3, 4, 5, 11, 12:
			return true
		}
	case ICMPv6:
		return icmpType < 128
	}
	return false
}

// hasICMPID reports whether messages of a type have an id and a sequence
// number: echo, timestamp, information and address mask, and their replies.
func (p Proto) hasICMPID(icmpType uint8) bool {
	switch p {
	case ICMP:
		switch icmpType {
		case EchoReply, EchoRequest, 13, 14, 15, 16, 17, 18:
			return true
		}
	case ICMPv6:
		return icmpType == EchoRequestV6 || icmpType == EchoReplyV6
	}
	return false
}

// quote returns the packet inside an ICMP error; message is the error with its
// header, which must be there. Extensions may follow the quote, whose length is
// then given in words of 4 or 8 bytes (RFC 4884, section 4).
func quote(p Proto, icmpType uint8, message []byte) frame {
	f := frame{etherType: EtherTypeIPv4, data: message[icmpHeader:]}
	length := 0
	switch {
	case p == ICMPv6:
		f.etherType = EtherTypeIPv6
		if icmpType == 1 || icmpType == 3 { // unreachable, time exceeded
			length = int(message[4]) * 8
		}
	case icmpType == 3 || icmpType == 11 || icmpType == 12: // and parameter problem
		length = int(message[5]) * 4
	}
	if length > 0 {
		f.data = f.data[:min(length, len(f.data))]
	}
	f.wire = len(f.data)
	return f
}

// inverse returns the ICMP type of the answer: echo request and echo reply
// swapped, others as they are.
func (p Proto) inverse(icmpType uint8) uint8 {
	switch {
	case p == ICMP && icmpType == EchoRequest:
		return EchoReply
	case p == ICMP && icmpType == EchoReply:
		return EchoRequest
	case p == ICMPv6 && icmpType == EchoRequestV6:
		return EchoReplyV6
	case p == ICMPv6 && icmpType == EchoReplyV6:
		return EchoRequestV6
	}
	return icmpType
}
