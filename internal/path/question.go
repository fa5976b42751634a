package path

import (
	"bytes"

	"github.com/pathtrace/pathtrace/packet"
)

// domain is the port of name servers.
const domain = 53

// dnsHeader is the length of a DNS message's header; the questions follow it
// (RFC 1035, section 4.1.1).
const dnsHeader = 12

// SameQuestion reports whether two DNS messages, queries or answers, ask the same,
// as far as both were captured. The case of letters does not count.
func SameQuestion(a, b []byte) bool {
	one, other := question(a), question(b)
	n := min(len(one), len(other))
	return n > 0 && bytes.EqualFold(one[:n], other[:n])
}

// question is the first question of a DNS message, or its beginning where the
// message was cut: name, type and class. It is nil for what is none.
func question(message []byte) []byte {
	if len(message) <= dnsHeader {
		return nil
	}
	rest := message[dnsHeader:]
	for at := 0; at < len(rest); {
		label := int(rest[at])
		switch {
		case label > 63:
			return nil // compressed, which a first name cannot be
		case label == 0:
			return rest[:min(at+5, len(rest))] // type and class
		}
		at += 1 + label
	}
	return rest
}

// asks reports whether a datagram that is to be sent is a DNS query.
func asks(message []byte) bool {
	return len(message) > dnsHeader && message[2]&0x80 == 0 && message[5] == 1 && question(message) != nil
}

// isQuery reports whether a datagram is a DNS query to where name servers listen.
func isQuery(h *packet.Header) bool {
	return h.Tuple.Proto == packet.UDP && h.Tuple.DstPort == domain && len(h.Payload) > dnsHeader && h.Payload[2]&0x80 == 0
}
