//go:build linux

package probe

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/socket"
	"github.com/pathtrace/pathtrace/packet"
	"golang.org/x/sys/unix"
)

// UDP sends datagrams from a port of its own.
type UDP struct {
	// Payload is what each of them holds.
	Payload []byte

	conn  *socket.Conn
	to    unix.Sockaddr
	tuple packet.Tuple
}

// NewUDP takes a port, so that the tuple is known. It sends nothing.
func NewUDP(config Config, payload []byte) (*UDP, error) {
	to, err := config.address()
	if err != nil {
		return nil, err
	}
	u := &UDP{Payload: payload, to: to, tuple: packet.Tuple{Proto: packet.UDP, Src: config.source(to), Dst: config.Target, DstPort: config.Port}}
	if u.conn, err = config.open(unix.SOCK_DGRAM, unix.IPPROTO_UDP); err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	if u.tuple.SrcPort, err = config.bind(u.conn); err != nil {
		return nil, errors.Join(fmt.Errorf("take a UDP port: %w", err), u.conn.Close())
	}
	return u, nil
}

// Tuple is that of the datagrams as they leave the namespace. Its source
// address is the one that the kernel chooses, invalid when it knows no route.
func (u *UDP) Tuple() packet.Tuple { return u.tuple }

// Send sends one datagram. The error is the kernel's: unix.ENETUNREACH without
// a route, unix.EPERM when a rule of the namespace drops it.
func (u *UDP) Send(ctx context.Context) error {
	if err := u.conn.Sendto(ctx, u.Payload, 0, u.to); err != nil {
		return fmt.Errorf("send datagram: %w", cause(err))
	}
	return nil
}

// Receive waits for a datagram that is accepted, from whomever, and returns it.
func (u *UDP) Receive(ctx context.Context, accept func([]byte) bool) ([]byte, error) {
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := u.conn.Recvfrom(ctx, buffer, 0)
		if err != nil {
			return nil, fmt.Errorf("receive datagram: %w", cause(err))
		}
		if accept(buffer[:n]) {
			return buffer[:n], nil
		}
	}
}

// Close releases the socket. It may be called twice.
func (u *UDP) Close() error { return u.conn.Close() }
