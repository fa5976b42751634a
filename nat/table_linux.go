package nat

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
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

// Dump returns the selected flows of a namespace's conntrack table; name is
// the namespace's name in reports, nil the namespace of the calling thread.
// The table changes while it is read: it is no snapshot. The error is
// os.ErrPermission when CAP_NET_ADMIN is missing.
func Dump(ctx context.Context, ns *netns.NS, name string, filter Filter) ([]Flow, error) {
	flows, err := dump(ctx, ns, name, filter)
	if ctx.Err() != nil {
		err = ctx.Err() // and not the deadline by which it ended the read
	}
	if err != nil {
		return nil, fmt.Errorf("dump conntrack table of %s: %w", name, err)
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
	for message, err := range conn.ReceiveIter() {
		if err != nil {
			return nil, err
		}
		entry, err := decode(message)
		if err != nil {
			return nil, err
		}
		if flow := flowOf(entry.Flow, name); filter.match(&flow) {
			flows = append(flows, flow)
		}
	}
	return flows, nil
}

// Get returns the flow that a packet with this tuple belongs to, and false when
// there is none. The tuple is the flow's original or reply tuple, so that of a
// packet before NAT, and the flow is in no zone.
func Get(ns *netns.NS, name string, tuple packet.Tuple) (Flow, bool, error) {
	flow, err := get(ns, tuple)
	if errors.Is(err, unix.ENOENT) {
		return Flow{}, false, nil
	}
	if err != nil {
		return Flow{}, false, fmt.Errorf("look up %s in conntrack table of %s: %w", tuple, name, err)
	}
	return flowOf(&flow, name), true, nil
}

func get(ns *netns.NS, tuple packet.Tuple) (conntrack.Flow, error) {
	conn, err := conntrack.Dial(dialConfig(ns))
	if err != nil {
		return conntrack.Flow{}, err
	}
	defer conn.Close() //nolint:errcheck // nothing is written
	// The kernel looks the tuple up in both directions.
	return conn.Get(conntrack.Flow{TupleOrig: conntrack.Tuple{
		IP: conntrack.IPTuple{SourceAddress: tuple.Src, DestinationAddress: tuple.Dst},
		Proto: conntrack.ProtoTuple{
			Protocol:        uint8(tuple.Proto),
			SourcePort:      tuple.SrcPort,
			DestinationPort: tuple.DstPort,
			ICMPType:        tuple.ICMPType,
			ICMPCode:        tuple.ICMPCode,
			ICMPID:          tuple.ICMPID,
		},
	}})
}

func dialConfig(ns *netns.NS) *netlink.Config {
	var config netlink.Config
	if ns != nil {
		config.NetNS = ns.FD()
	}
	return &config
}
