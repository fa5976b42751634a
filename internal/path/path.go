// Package path is the join: from what the sensors saw of one probe it builds
// the way of the request and of the reply, hop by hop, with the rules that the
// packet met and the translations that were done.
//
// It is pure: no I/O, no clock. Every statement that it makes names its
// evidence and how it is known (report.Confidence).
package path

import (
	"net/netip"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Input is everything that is known about a probe.
type Input struct {
	Probe     Probe
	Topology  *topology.Snapshot
	Sightings []capture.Sighting
	Events    []nat.Event
	// Hits are resolved: they carry hook, priority, text and verdict.
	Hits []ruletrace.Hit
	// Drops are what the kernel threw away, benign ones included.
	Drops []skbdrop.Drop
	// Owners are the processes that hold sockets, as far as that is known.
	Owners []socket.Owner
	// Inside says which namespaces were looked into with a packet capture that
	// works: only there is "not seen" a statement.
	Inside map[string]bool
	// Ledger numbers the evidence, going on where another join of the same run
	// ended; nil begins anew.
	Ledger *Ledger
	// Networks are Docker's, if it was asked.
	Networks []engine.Network
	// Redirects are the rules that translate the destination of such packets today,
	// by namespaces, where no sensor could tell which one did.
	Redirects map[string]ruletrace.Rule
}

// Probe is the packet that was sent, as it is known before it is seen.
type Probe struct {
	NetNS string
	// Outside says that NetNS did not send the packet but received it from where
	// nothing is visible: the answer has arrived when it goes back there.
	Outside bool
	Tuple   packet.Tuple
	// ICMPSeq and Nonce identify an echo request: the nonce is the start of
	// its data, which no NAT changes. A datagram's tuple tells it from others;
	// Nonce is the start of its payload where that is known. Unused for TCP.
	ICMPSeq uint16
	Nonce   []byte
	// Length is that of the packet with its IP header; 0 where it is not known
	// before it is sent.
	Length int
	// Segment is set where the packet is data on a TCP connection and not the
	// connection's beginning.
	Segment *Segment
}

// Path is the way of one probe and of what came back.
type Path struct {
	Request, Reply Leg
	// Answer says what the reply leg is: an answer of the target, or an ICMP
	// error or reset that ended the exchange.
	Answer Answer
	// Sending says how a segment fared beside the rest of its connection; nil
	// when the probe is none.
	Sending      *Sending
	Translations []report.Translation
	// Relay is the process that took the request and passes it on; nil for none.
	Relay *Relay
	// Older are the flows of the request that were in the table before it.
	Older    []Older
	Evidence []report.Evidence
}

// Older is a flow of which no event told the beginning although none was lost.
type Older struct {
	Flow     nat.Flow
	Evidence string
}

// Leg is one direction.
type Leg struct {
	Hops []report.Hop
	End  End
	// Packet describes the packet in its protocol's words; empty when it was
	// not seen.
	Packet string
	// First and Last are the packet as it was first and last seen.
	First, Last *capture.Sighting
}

// Answer is the kind of packet that came back.
type Answer struct {
	Kind AnswerKind
	// By is the source of the ICMP error or reset as the prober sees it, Text
	// what it says.
	By   netip.Addr
	Text string
	// TooBig says that the error is about the request's size, MTU is what it
	// says the way on carries; 0 when it does not.
	TooBig bool
	MTU    int
	// NetNS is the namespace that made the error, empty when it came from
	// beyond what is visible.
	NetNS string
	// Expected is set when the answer came from elsewhere: where it was first
	// seen its source is not what the request had been sent to there, which is
	// this. The port is 0 for pings.
	Expected netip.AddrPort
	// Unexpected says that the answer reached the prober, or a rule of its
	// namespace, with another source than the target that the prober sent to.
	Unexpected bool
}

// AnswerKind tells answers apart.
type AnswerKind string

// The kinds of answers. None: nothing that belongs to the probe came back.
const (
	None  AnswerKind = ""
	Reply AnswerKind = "reply"
	Error AnswerKind = "icmp error"
	Reset AnswerKind = "reset"
)

// EndKind says how a leg ended.
type EndKind string

// The ends of a leg.
const (
	// Unseen: no sensor saw the packet anywhere.
	Unseen EndKind = "unseen"
	// Delivered: it reached an address of the namespace it is in, and no rule
	// there dropped it.
	Delivered EndKind = "delivered"
	// Left: it went out of an interface behind which nothing is visible.
	Left EndKind = "left"
	// Dropped: a rule or policy dropped or rejected it.
	Dropped EndKind = "dropped"
	// Vanished: it was seen, and not where it had to be seen next.
	Vanished EndKind = "vanished"
)

// End is where and how a leg ended.
type End struct {
	Kind             EndKind
	NetNS, Interface string
	// Hook, Rule, Policy and Verdict are set for Dropped: the rule, or the
	// chain's policy, that did it; and with the verdict Queue for a packet that
	// Vanished in a user-space queue.
	Hook    ruletrace.Hook
	Rule    *report.Rule
	Policy  bool
	Verdict ruletrace.Verdict
	// State is what conntrack took a Dropped packet for ("invalid"), empty where
	// the trace does not tell. Accepted is the rule of an earlier filter table
	// that had accepted it in the same hook, AcceptedBy that rule's evidence.
	State      string
	Accepted   *report.Rule
	AcceptedBy []string
	// Mark is the packet's netfilter mark when it was to be routed.
	Mark uint32
	// Tuple is the packet's when it ended; Bridged says that it was on its way
	// from port to port of one bridge, not to be routed.
	Tuple   packet.Tuple
	Bridged bool
	// Next is the place where a vanished packet had to be seen next, in words,
	// and NextNetNS its namespace when that is another one; Tracked says that
	// conntrack had already confirmed its flow.
	Next      string
	NextNetNS string
	Tracked   bool
	// Parked says that a vanished packet may yet be waiting in the kernel for
	// the hardware address of its next hop: it had not reached the tap of an
	// outgoing interface.
	Parked  bool
	Gateway netip.Addr
	// FrameFor is set when the packet Left in a frame that came in by Interface
	// and is for this hardware address, which no visible link there has.
	FrameFor string
	// WayBack is set when the packet Vanished where rp_filter, as it is set,
	// drops it: the route to its source.
	WayBack string
	// Carried says that the packet was in a tunnel when it ended: Tuple, Rule and
	// all else are of the VXLAN packet around it.
	Carried bool
	// Diverted says that the last that is known of the packet is a rule that
	// translates its destination: where to is not known, and so neither is its
	// route. Tuple has the destination before that.
	Diverted bool
	// CopyDropped is the rule that dropped the packet or a copy of it in the
	// namespace that one of them then left.
	CopyDropped *report.Rule
	// Drop is the kernel's own record of the end, nil when there is none. For
	// Delivered it says that no socket was there.
	Drop *skbdrop.Drop
	// Rival is the evidence of another packet of the same flow for which
	// conntrack had entered the flow when netfilter dropped this one.
	Rival    []string
	Evidence []string
}
