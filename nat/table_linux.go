package nat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	ctGet = 1 // IPCTNL_MSG_CT_GET

	// dumpBuffer is more than the kernel puts into one datagram of a dump
	// (32 KiB, NLMSG_GOODSIZE and max_recvmsg_len in net/netlink/af_netlink.c).
	dumpBuffer = 64 << 10
)

// PartialError says that some entries of a table were not understood.
type PartialError struct{ Undecodable int }

func (e *PartialError) Error() string {
	return fmt.Sprintf("%d entries of the conntrack table were not understood", e.Undecodable)
}

// Dump returns the selected flows of a namespace's conntrack table; name is
// the namespace's name in reports, nil the namespace of the calling thread.
// The table changes while it is read: it is no snapshot. The error is
// os.ErrPermission when CAP_NET_ADMIN is missing. With a *PartialError come
// the flows that were understood.
func Dump(ctx context.Context, ns *netns.NS, name string, filter Filter) ([]Flow, error) {
	flows, err := dump(ctx, ns, name, filter)
	if ctx.Err() != nil {
		err = ctx.Err() // and not the deadline by which it ended the read
	}
	if err != nil {
		return flows, fmt.Errorf("dump conntrack table of %s: %w", name, err)
	}
	return flows, nil
}

func dump(ctx context.Context, ns *netns.NS, name string, filter Filter) ([]Flow, error) {
	config := dialConfig(ns)
	config.MessageBufferSize = dumpBuffer
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing is written
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	request, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: netfilter.NFSubsysCTNetlink,
		MessageType: ctGet,
		Family:      netfilter.ProtoUnspec, // IPv4 and IPv6
		Flags:       netlink.Request | netlink.Dump,
	}, nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Send(request); err != nil {
		return nil, err
	}
	var flows []Flow
	var partial PartialError
	for message, err := range conn.ReceiveIter() {
		if err != nil {
			return nil, err
		}
		entry, err := decode(message)
		if err != nil {
			partial.Undecodable++
			continue
		}
		if flow := flowOf(entry.Flow, name); filter.match(&flow) {
			flows = append(flows, flow)
		}
	}
	if partial.Undecodable > 0 {
		return flows, &partial
	}
	return flows, nil
}

// Get returns the flow that a packet with this tuple belongs to, and false when
// there is none. The tuple is the flow's original or reply tuple, so that of a
// packet before NAT, and the flow is in no zone.
func Get(ns *netns.NS, name string, tuple packet.Tuple) (Flow, bool, error) {
	flow, err := get(ns, name, tuple)
	if errors.Is(err, unix.ENOENT) {
		return Flow{}, false, nil
	}
	if err != nil {
		return Flow{}, false, fmt.Errorf("look up %s in conntrack table of %s: %w", tuple, name, err)
	}
	return flow, true, nil
}

// get does not use the library's Get. The kernel marks its one answer as part
// of several (NLM_F_MULTI) and sends no end of them, for which
// mdlayher/netlink v1.11.2 would wait forever.
func get(ns *netns.NS, name string, tuple packet.Tuple) (flow Flow, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, dialConfig(ns))
	if err != nil {
		return Flow{}, err
	}
	defer conn.Close() //nolint:errcheck // nothing is written
	family := netfilter.ProtoIPv4
	if tuple.Src.Is6() {
		family = netfilter.ProtoIPv6
	}
	request, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: netfilter.NFSubsysCTNetlink,
		MessageType: ctGet,
		Family:      family,
		Flags:       netlink.Request,
	}, []netfilter.Attribute{attributeOf(tuple)})
	if err != nil {
		return Flow{}, err
	}
	if _, err := conn.Send(request); err != nil {
		return Flow{}, err
	}
	for message, err := range conn.ReceiveIter() {
		if err != nil {
			return Flow{}, err
		}
		if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			return Flow{}, err
		}
		entry, err := decode(message)
		if err != nil {
			return Flow{}, err
		}
		return flowOf(entry.Flow, name), nil
	}
	return Flow{}, io.ErrUnexpectedEOF
}

// attributeOf encodes a tuple as CTA_TUPLE_ORIG; the kernel looks it up in both
// directions (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
func attributeOf(t packet.Tuple) netfilter.Attribute {
	nested := func(typ uint16, children ...netfilter.Attribute) netfilter.Attribute {
		return netfilter.Attribute{Type: typ, Nested: true, Children: children}
	}
	short := func(typ, value uint16) netfilter.Attribute {
		return netfilter.Attribute{Type: typ, Data: netfilter.Uint16Bytes(value)}
	}
	src, dst := uint16(1), uint16(2) // CTA_IP_V4_SRC, CTA_IP_V4_DST
	if t.Src.Is6() {
		src, dst = 3, 4 // CTA_IP_V6_SRC, CTA_IP_V6_DST
	}
	proto := []netfilter.Attribute{{Type: 1, Data: []byte{byte(t.Proto)}}} // CTA_PROTO_NUM
	echo := uint16(4)                                                      // CTA_PROTO_ICMP_ID, _TYPE, _CODE
	switch t.Proto {
	case packet.ICMPv6:
		echo = 7 // CTA_PROTO_ICMPV6_ID, _TYPE, _CODE
		fallthrough
	case packet.ICMP:
		proto = append(proto, short(echo, t.ICMPID),
			netfilter.Attribute{Type: echo + 1, Data: []byte{t.ICMPType}},
			netfilter.Attribute{Type: echo + 2, Data: []byte{t.ICMPCode}})
	default:
		proto = append(proto, short(2, t.SrcPort), short(3, t.DstPort)) // CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
	}
	return nested(1, // CTA_TUPLE_ORIG
		nested(1, // CTA_TUPLE_IP
			netfilter.Attribute{Type: src, Data: t.Src.AsSlice()},
			netfilter.Attribute{Type: dst, Data: t.Dst.AsSlice()}),
		nested(2, proto...)) // CTA_TUPLE_PROTO
}

func dialConfig(ns *netns.NS) *netlink.Config {
	var config netlink.Config
	if ns != nil {
		config.NetNS = ns.FD()
	}
	return &config
}
