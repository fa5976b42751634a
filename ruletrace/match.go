package ruletrace

import (
	"net/netip"

	"github.com/pathtrace/pathtrace/packet"
)

// Match is the flow to trace, as its source sends it.
//
// A namespace further on may see the flow with other addresses, ports and ICMP
// ids. What Arm adds for a Match therefore comes in two strengths. A tight
// rule names what no NAT on the way changes; it has the whole budget. A loose
// rule names less, so a stranger's packet may match it too; it has a budget of
// its own, of at most 16 packets, so that strangers cannot use up the tight
// rules' share.
//
// An ICMP echo with a Nonce:
//   - tight: request and reply that carry the nonce, whatever NAT (also
//     stateless, NPTv6) did to addresses and id;
//   - tight: ICMP errors that quote so much of the packet that the nonce is
//     among it. The quoted IPv4 header must have no options, the quoted IPv6
//     packet no extension headers;
//   - tight: ICMP errors that quote less (RFC 792 asks for 8 bytes only) with
//     the ICMP id unchanged and one of the addresses still Source or Target.
//
// An ICMP echo without one: requests and replies with the id, where one of the
// addresses is still Source or Target. A NAT that rewrites the id on a
// collision escapes this, and only this.
//
// TCP, UDP and SCTP:
//   - tight: SourcePort and TargetPort in either direction, whatever the
//     addresses: catches SNAT that keeps the port (the usual case) and DNAT to
//     the same port;
//   - tight: SourcePort together with Source in either direction: catches DNAT
//     to another port;
//   - tight: ICMP errors that quote either;
//   - loose: Target together with TargetPort in either direction, for TCP only
//     SYN, SYN-ACK and RST: catches SNAT that had to change the port; and ICMP
//     errors that quote Target and TargetPort.
//
// All protocols, loose: later fragments (they have no ports and no nonce)
// between any and one of the two addresses.
//
// Only a NAT that changes everything a rule names escapes, for instance a full
// NAT of both ends and both ports before this namespace. The rules on conntrack's original tuple
// (see ArmConfig.Conntrack) then still catch what this namespace itself
// translates.
type Match struct {
	Proto packet.Proto
	// Source and Target are the flow's ends. Target decides the family. An
	// unspecified one (0.0.0.0 or ::) is any address of it: then TargetPort alone
	// matches, and fragments do not.
	// Source may be the zero Addr: then rules that need it are left out.
	Source, Target netip.Addr
	// SourcePort and TargetPort are 0 where the protocol has none or where
	// they are not known. With SourcePort 0 the loose TCP and UDP rules become
	// the tight ones.
	SourcePort, TargetPort uint16
	// ICMPID is an echo's identifier.
	ICMPID uint16
	// Nonce is the first 16 bytes of the echo's data; nil when not known.
	Nonce []byte
	// Carried has VXLAN packets traced that carry a packet of the flow. The outer
	// packet has to be of the same IP version, without options, and the inner one
	// without VLAN tags or IPv6 extension headers.
	Carried bool
}

// NonceBytes is the length of Match.Nonce.
const NonceBytes = 16

// ConntrackRules says whether rules on conntrack's original tuple are armed.
// They also catch NATed replies and ICMP errors that quote little, but a ct
// expression switches connection tracking on in the namespace.
type ConntrackRules uint8

// The choices.
const (
	// ConntrackAuto arms them where a rule that exists already tracks the
	// flow's family.
	ConntrackAuto ConntrackRules = iota
	// ConntrackNever does not.
	ConntrackNever
	// ConntrackAlways does. It is for callers who know that tracking is on.
	ConntrackAlways
)

// The budgets of ArmConfig, in packets.
const (
	// DefaultBudget is used when ArmConfig.Budget is 0.
	DefaultBudget = 64
	// looseBudget is the most that the loose rules trace.
	looseBudget = 16
)
