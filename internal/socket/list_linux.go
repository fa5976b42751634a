package socket

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

// Query says which sockets are listed.
type Query struct {
	Proto packet.Proto
	// Local and Remote are ports; 0 is any.
	Local, Remote uint16
	// Connected asks for sockets that have another end, in place of those that
	// wait for anybody.
	Connected bool
}

// From include/uapi/linux/sock_diag.h and inet_diag.h.
const (
	sockDiagByFamily = 20
	requestLength    = 56 // struct inet_diag_req_v2
	messageLength    = 72 // struct inet_diag_msg
	attrOnlyIPv6     = 11 // INET_DIAG_SKV6ONLY
)

// The states of sockets (include/net/tcp_states.h); a UDP socket without another
// end has the one of a closed connection.
const (
	stateEstablished = 1
	stateClose       = 7
	stateListen      = 10
)

// List lists the sockets of a namespace for both versions of IP, with one dump
// of each, which the kernel filters.
func List(ns *netns.NS, query Query) ([]Socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns.FD()})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer conn.Close() //nolint:errcheck // everything was read
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		messages, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   query.request(family),
		})
		if err != nil {
			return nil, fmt.Errorf("list %s sockets: %w", query.Proto, err)
		}
		for i := range messages {
			if s, ok := decode(messages[i].Data, query.Proto); ok {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

func (q Query) request(family uint8) []byte {
	states := uint32(1<<stateListen | 1<<stateClose)
	if q.Connected {
		states = ^states
	}
	data := make([]byte, requestLength)
	data[0], data[1] = family, uint8(q.Proto)
	binary.NativeEndian.PutUint32(data[4:8], states)
	binary.BigEndian.PutUint16(data[8:], q.Local)
	binary.BigEndian.PutUint16(data[10:], q.Remote)
	return data
}

// decode reads a struct inet_diag_msg and the attributes behind it.
func decode(data []byte, proto packet.Proto) (Socket, bool) {
	if len(data) < messageLength {
		return Socket{}, false
	}
	family, state := data[0], data[1]
	end := func(portAt, addressAt int) netip.AddrPort {
		port := binary.BigEndian.Uint16(data[portAt:])
		if family == unix.AF_INET {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[addressAt:])), port)
		}
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(data[addressAt:])).Unmap(), port)
	}
	s := Socket{Proto: proto, Local: end(4, 8), Inode: binary.NativeEndian.Uint32(data[68:72])}
	if state != stateListen && state != stateClose {
		s.Remote = end(6, 24)
	}
	attributes, err := netlink.NewAttributeDecoder(data[messageLength:])
	if err != nil {
		return Socket{}, false
	}
	for attributes.Next() {
		if attributes.Type() == attrOnlyIPv6 {
			s.OnlyIPv6 = attributes.Uint8() != 0
		}
	}
	return s, attributes.Err() == nil
}
