// Package nat observes the kernel's connection tracking: the events and the
// table that say which tuple was translated to which. It needs CAP_NET_ADMIN
// in the network namespace's user namespace. It changes no flow and no rule;
// for what listening does change see internal/nfsocket.
//
// What the kernel does, each shown by a test of this package on Linux 6.18:
//
//   - NEW comes when the first packet is confirmed, with both tuples final. A
//     packet that is dropped before sends no event.
//   - A flow that began while nobody listened sends no event, not even at its
//     end. With nf_conntrack_events = 2, "nobody" means nobody on the machine:
//     a listener in one namespace makes the flows of all send events.
//   - An update tells only what changed; the state of a connection may be
//     missing.
//   - The id of an echo is rewritten like a port when it is taken.
//   - IPS_SRC_NAT and IPS_DST_NAT say that NAT was done, the *_DONE bits do not.
package nat

import (
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Status are the IPS_* bits of a conntrack entry
// (include/uapi/linux/netfilter/nf_conntrack_common.h).
type Status uint32

// The bits that pathtrace reads.
const (
	StatusSeenReply Status = 1 << 1 // IPS_SEEN_REPLY
	StatusAssured   Status = 1 << 2 // IPS_ASSURED
	StatusConfirmed Status = 1 << 3 // IPS_CONFIRMED
	StatusSrcNAT    Status = 1 << 4 // IPS_SRC_NAT
	StatusDstNAT    Status = 1 << 5 // IPS_DST_NAT
	StatusDying     Status = 1 << 9 // IPS_DYING
)

// Has reports whether all bits of want are set.
func (s Status) Has(want Status) bool { return s&want == want }

// Flow is one conntrack entry.
type Flow struct {
	// NetNS is the namespace's name as reports print it.
	NetNS string
	// ID is the kernel's id of the entry (CTA_ID); nftables' trace carries
	// the same number. It is a hash: among very many flows two may share one.
	ID uint32
	// Zone is the conntrack zone, 0 by default. Where only one direction is in
	// a zone, it is that one.
	Zone uint16
	Mark uint32
	// Original is the first packet's tuple, Reply the tuple that an answer is
	// expected to have. Reply is not the inverse of Original when NAT is done.
	Original, Reply packet.Tuple
	Status          Status
	// TCPState is the kernel's name of it ("SYN_SENT"), empty for others.
	TCPState string
	// Timeout is the time the entry has left to live; 0 when not told.
	Timeout time.Duration
	// Started is when the kernel made the entry; zero unless
	// net.netfilter.nf_conntrack_timestamp was on at that time.
	Started time.Time
}

// EventKind is what happened to a flow.
type EventKind uint8

// The kinds.
const (
	// New is sent when the first packet is confirmed, in postrouting or input.
	New EventKind = iota + 1
	Update
	Destroy
	// Existing is not an event: the flow was found in a dump.
	Existing
)

// String returns the kind as conntrack -E prints it.
func (k EventKind) String() string {
	switch k {
	case New:
		return "NEW"
	case Update:
		return "UPDATE"
	case Destroy:
		return "DESTROY"
	case Existing:
		return "EXISTING"
	}
	return "UNKNOWN"
}

// Event is one message of the kernel about a flow.
type Event struct {
	Kind EventKind
	Flow Flow
	// Seq is the message's place in its netlink socket. Rule hits of nftables
	// that were read from the same socket share the numbering, so the two are
	// in the kernel's order.
	Seq uint64
	// Time is the kernel's where it gives one (nf_conntrack_timestamp),
	// otherwise zero. Received is when pathtrace read the message.
	Time, Received time.Time
	// Resync says that no message told this: after messages were lost, a new
	// dump was compared with what was known. Seq and Time are zero, and what
	// happened in between is not known.
	Resync bool
}

// Filter selects flows. The zero value selects all.
type Filter struct {
	// Proto is the flow's protocol; 0 means all.
	Proto packet.Proto
}

// match reports whether the flow is selected.
func (f Filter) match(flow *Flow) bool {
	return f.Proto == 0 || f.Proto == flow.Original.Proto
}

// Field is the part of a tuple that was translated.
type Field string

// The fields.
const (
	Source      Field = "source"
	Destination Field = "destination"
)

// Translation is what NAT did to one field of a tuple. From and To are
// "address", or "address:port" where the protocol has ports; a changed ICMP id
// alone is shown as "address id N".
type Translation struct {
	Field    Field
	From, To string
}
