// Package skbdrop sees the packets that the kernel throws away, with its own
// reason and the function that did it: a small BPF program at the tracepoint
// kfree_skb. The program itself selects the traced flow, so other traffic pays
// for a look at its header where it is dropped, and for nothing else.
//
// It needs Linux 5.17 with BTF, and CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN)
// in the initial user namespace. One sensor sees any number of network
// namespaces. On the host it changes nothing: program and buffer belong to
// descriptors and are gone when these close.
package skbdrop

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Drop is one packet, or one copy of it, that the kernel freed and did not
// deliver. It is the end of the packet only when nothing saw it afterwards:
// copies made for floods and taps end, too.
type Drop struct {
	// NetNS is the namespace's name, as the sensor was told it.
	NetNS string
	// Time is the kernel's, on the wall clock of packet captures. The kernel
	// stamps it with its monotonic clock; it is converted with the distance of
	// the two clocks when the record is read, found to within a microsecond.
	Time time.Time
	// Interface is the ifindex of the packet's device in NetNS: the one it came
	// in by until it is routed, then the one it was to leave by. It is 0 when
	// the packet had none.
	Interface int
	// Reason is the name of the running kernel's enum skb_drop_reason without
	// its prefix; "REASON_N" when it is none of that enum.
	Reason string
	// Function is the kernel function that freed the packet, empty if unknown.
	Function string
	// Header is decoded from the network header on, so it has no Ethernet
	// addresses.
	Header packet.Header
}

// Mechanism names the drop as "IP_INNOROUTES@ip_error".
func (d *Drop) Mechanism() string {
	if d.Function == "" {
		return d.Reason
	}
	return d.Reason + "@" + d.Function
}

// The reasons that decisions depend on.
const (
	NoSocket      = "NO_SOCKET"
	NetfilterDrop = "NETFILTER_DROP"
	NotSpecified  = "NOT_SPECIFIED"
	// QueuePurge is that a queue was emptied: its owner went away, such as a socket,
	// a neighbour, an interface.
	QueuePurge = "QUEUE_PURGE"
)

// benign are the ends of packets, or of copies of them, that belong to healthy
// traffic: by reason the functions, none for any.
var benign = map[string][]string{
	// The answer to a ping that has no ping socket: raw sockets got their copy.
	NoSocket: {"ping_rcv", "icmp_rcv", "icmpv6_rcv"},
	// Frames for somebody else: floods and mirror copies.
	"OTHERHOST": nil,
	// What a socket still held when it was closed.
	QueuePurge: {"inet_sock_destruct", "sk_stream_kill_queues", "skb_queue_purge_reason"},
	// Multicast that nobody joined, segments that carried nothing new.
	NotSpecified: {"ip6_mc_input", "tcp_v4_rcv", "tcp_v6_rcv", "ip_rcv_finish_core"},
}

// Benign reports whether a drop is part of healthy traffic and says nothing
// about the fate of a packet.
func Benign(d Drop) bool {
	if d.Reason == "IP_INADDRERRORS" && d.Function == "ip6_forward" {
		return d.Header.Tuple.Src.IsLinkLocalUnicast() || d.Header.Tuple.Dst.IsLinkLocalUnicast()
	}
	if d.Reason == NoSocket && !d.Header.Tuple.Proto.IsICMP() {
		return false
	}
	functions, ok := benign[d.Reason]
	return ok && (functions == nil || slices.Contains(functions, d.Function))
}

// Stats count what the sensor delivered and lost.
type Stats struct {
	// Received drops were delivered. Lost ones did not fit into the ring.
	// Undecodable ones were delivered by the kernel and not understood.
	Received, Lost, Undecodable uint64
}

// NotSupportedError says that this kernel lacks something. errors.Is with
// errors.ErrUnsupported reports true for it.
type NotSupportedError struct {
	// Feature is what is missing and what would provide it.
	Feature string
	Err     error
}

// Error implements error.
func (e *NotSupportedError) Error() string {
	return fmt.Sprintf("this kernel does not support %s: %v", e.Feature, e.Err)
}

// Unwrap returns the cause.
func (e *NotSupportedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, errors.ErrUnsupported) true.
func (e *NotSupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// PermissionError says that BPF programs may not be loaded. errors.Is with
// fs.ErrPermission reports true for it.
type PermissionError struct{ Err error }

// Error implements error.
func (e *PermissionError) Error() string {
	return fmt.Sprintf("the kernel's drop reasons need CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, outside of user namespaces: %v", e.Err)
}

// Unwrap returns the kernel's answer.
func (e *PermissionError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, fs.ErrPermission) true.
func (e *PermissionError) Is(target error) bool { return target == fs.ErrPermission }
