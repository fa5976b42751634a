package nat

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"github.com/pathtrace/pathtrace/internal/nfsocket"
	"github.com/pathtrace/pathtrace/packet"
)

// ctaTimestampEvent is CTA_TIMESTAMP_EVENT: when the event happened, in
// nanoseconds of the wall clock (include/uapi/linux/netfilter/nfnetlink_conntrack.h,
// since Linux 6.14). ti-mo/conntrack does not read it.
const ctaTimestampEvent = 27

// DecodeEvent decodes a conntrack message that was read in the namespace
// called netns. The boolean is false for messages of other parts of netfilter.
// An error means that the message was not understood; the socket stays usable.
func DecodeEvent(m nfsocket.Message, netns string) (Event, bool, error) {
	if m.Subsystem() != netfilter.NFSubsysCTNetlink {
		return Event{}, false, nil
	}
	decoded, err := decode(m.Netlink)
	if err != nil {
		return Event{}, true, fmt.Errorf("decode conntrack event: %w", err)
	}
	event := Event{
		Flow:     flowOf(decoded.Flow, netns),
		Seq:      m.Seq,
		Received: m.Received,
	}
	switch decoded.Type {
	case conntrack.EventNew:
		event.Kind = New
	case conntrack.EventUpdate:
		event.Kind = Update
	case conntrack.EventDestroy:
		event.Kind = Destroy
		event.Time = decoded.Flow.Timestamp.Stop
	}
	at, err := eventTime(m.Netlink)
	if err != nil {
		return Event{}, true, fmt.Errorf("decode conntrack event: %w", err)
	}
	if !at.IsZero() {
		event.Time = at
	}
	return event, true, nil
}

// decode decodes an event or one entry of a dump, which has the form of an
// update. Both tuples have addresses and the same protocol.
func decode(m netlink.Message) (conntrack.Event, error) {
	var event conntrack.Event
	if err := event.Unmarshal(m); err != nil {
		return event, err
	}
	for _, t := range []conntrack.Tuple{event.Flow.TupleOrig, event.Flow.TupleReply} {
		if !t.IP.SourceAddress.IsValid() || !t.IP.DestinationAddress.IsValid() {
			return event, errors.New("a tuple without addresses")
		}
	}
	if event.Flow.TupleOrig.Proto.Protocol != event.Flow.TupleReply.Proto.Protocol {
		return event, errors.New("tuples of different protocols")
	}
	return event, nil
}

// eventTime returns the zero time when the kernel gave none.
func eventTime(m netlink.Message) (time.Time, error) {
	_, attributes, err := netfilter.DecodeNetlink(m)
	if err != nil {
		return time.Time{}, err
	}
	var at time.Time
	for attributes.Next() {
		if attributes.Type() == ctaTimestampEvent {
			at = time.Unix(0, int64(attributes.Uint64()))
		}
	}
	return at, attributes.Err()
}

// flowOf leaves the library's types behind.
func flowOf(f *conntrack.Flow, netns string) Flow {
	flow := Flow{
		NetNS:    netns,
		ID:       f.ID,
		Zone:     max(f.Zone, f.TupleOrig.Zone, f.TupleReply.Zone),
		Mark:     f.Mark,
		Original: tupleOf(f.TupleOrig),
		Reply:    tupleOf(f.TupleReply),
		Status:   Status(f.Status),
		Timeout:  time.Duration(f.Timeout) * time.Second,
		Started:  f.Timestamp.Start,
	}
	if f.ProtoInfo.TCP != nil {
		flow.TCPState = tcpState(f.ProtoInfo.TCP.State)
	}
	return flow
}

func tupleOf(t conntrack.Tuple) packet.Tuple {
	tuple := packet.Tuple{
		Proto: packet.Proto(t.Proto.Protocol),
		Src:   t.IP.SourceAddress,
		Dst:   t.IP.DestinationAddress,
	}
	if tuple.Proto.IsICMP() {
		tuple.ICMPType, tuple.ICMPCode, tuple.ICMPID = t.Proto.ICMPType, t.Proto.ICMPCode, t.Proto.ICMPID
	} else {
		tuple.SrcPort, tuple.DstPort = t.Proto.SourcePort, t.Proto.DestinationPort
	}
	return tuple
}

// tcpStates are the kernel's names of enum tcp_conntrack
// (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
var tcpStates = [...]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT",
	"CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

func tcpState(state uint8) string {
	if int(state) < len(tcpStates) {
		return tcpStates[state]
	}
	return fmt.Sprintf("UNKNOWN(%d)", state)
}
