package diagnose

import "github.com/pathtrace/pathtrace/packet"

// errorKind is a kind of ICMP error.
type errorKind struct {
	proto      packet.Proto
	kind, code uint8
}

// errorCodes are the causes that ICMP errors name (RFC 792, RFC 1812, RFC 4443).
var errorCodes = map[errorKind]string{
	{packet.ICMP, 3, 0}:   NoRoute,
	{packet.ICMP, 3, 1}:   Neighbour,
	{packet.ICMP, 3, 2}:   NoListener,
	{packet.ICMP, 3, 3}:   NoListener,
	{packet.ICMP, 3, 4}:   MTUExceeded,
	{packet.ICMP, 3, 9}:   FilterRejected,
	{packet.ICMP, 3, 10}:  FilterRejected,
	{packet.ICMP, 3, 13}:  FilterRejected,
	{packet.ICMP, 11, 0}:  TTLExpired,
	{packet.ICMPv6, 1, 0}: NoRoute,
	{packet.ICMPv6, 1, 1}: FilterRejected,
	{packet.ICMPv6, 1, 3}: Neighbour,
	{packet.ICMPv6, 1, 4}: NoListener,
	{packet.ICMPv6, 1, 5}: FilterRejected,
	{packet.ICMPv6, 1, 6}: FilterRejected,
	{packet.ICMPv6, 2, 0}: MTUExceeded,
	{packet.ICMPv6, 3, 0}: TTLExpired,
}

// ErrorCode is the cause that an ICMP error names by its type and code; empty for
// none.
func ErrorCode(proto packet.Proto, kind, code uint8) string {
	return errorCodes[errorKind{proto, kind, code}]
}
