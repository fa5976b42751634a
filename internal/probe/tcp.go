//go:build linux

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mdlayher/socket"
	"github.com/pathtrace/pathtrace/packet"
	"golang.org/x/sys/unix"
)

// TCP opens one connection.
type TCP struct {
	conn  *socket.Conn
	to    unix.Sockaddr
	tuple packet.Tuple
}

// NewTCP takes a port of its own, so that the tuple is known. It sends nothing.
func NewTCP(config Config) (*TCP, error) {
	to, err := config.address()
	if err != nil {
		return nil, err
	}
	t := &TCP{to: to, tuple: packet.Tuple{Proto: packet.TCP, Src: config.source(to), Dst: config.Target, DstPort: config.Port}}
	if t.conn, err = config.open(unix.SOCK_STREAM, unix.IPPROTO_TCP); err != nil {
		return nil, fmt.Errorf("open a TCP socket: %w", err)
	}
	// Each Send is a segment of its own.
	if err := t.conn.SetsockoptInt(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("open a TCP socket: %w", err), t.conn.Close())
	}
	if t.tuple.SrcPort, err = config.bind(t.conn); err != nil {
		return nil, errors.Join(fmt.Errorf("take a TCP port: %w", err), t.conn.Close())
	}
	return t, nil
}

// Tuple is that of the connection as it leaves the namespace. Its source
// address is the one that the kernel chooses, invalid when it knows no route.
func (t *TCP) Tuple() packet.Tuple { return t.tuple }

// Start sends the first SYN; the kernel repeats it until Close, and completes
// the connection by itself. The error is the kernel's: unix.ENETUNREACH
// without a route, unix.EPERM when a rule of the namespace drops it.
func (t *TCP) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	var connectErr error
	if err := raw.Control(func(fd uintptr) { connectErr = unix.Connect(int(fd), t.to) }); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if connectErr != nil && !errors.Is(connectErr, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", connectErr)
	}
	return nil
}

// Established waits until the kernel has completed the handshake. It returns how
// many bytes a full-size segment of the connection holds.
func (t *TCP) Established(ctx context.Context) (size int, err error) {
	err = t.conn.WriteFunc(ctx, "connect", func(fd int) error {
		_, err := unix.Getpeername(fd)
		if errors.Is(err, unix.ENOTCONN) {
			return unix.EAGAIN
		}
		return err
	})
	if err == nil {
		size, err = t.conn.GetsockoptInt(unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}
	if err != nil {
		return 0, fmt.Errorf("complete the handshake: %w", cause(err))
	}
	return size, nil
}

// Send hands bytes to the kernel, which sends them. What it sends at once is one
// segment when it is not more than Established said.
func (t *TCP) Send(ctx context.Context, length int) error {
	// Line ends mean the least to programs that read text.
	for data := bytes.Repeat([]byte{'\n'}, length); len(data) > 0; {
		n, err := t.conn.WriteContext(ctx, data)
		if err != nil {
			return fmt.Errorf("send %d bytes: %w", length, cause(err))
		}
		data = data[n:]
	}
	return nil
}

// askAgain is how often Acknowledged asks the kernel.
const askAgain = 2 * time.Millisecond

// Acknowledged waits until the far end has acknowledged all that was sent, and
// reports false when the context is done before.
func (t *TCP) Acknowledged(ctx context.Context) bool {
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return false
	}
	ticker := time.NewTicker(askAgain)
	defer ticker.Stop()
	for {
		left := -1
		if err := raw.Control(func(fd uintptr) {
			if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
				left = n
			}
		}); err != nil || left <= 0 {
			return err == nil && left == 0
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}

// Exchange sends a DNS message over an established connection and returns the
// one that comes back; a length stands before each (RFC 1035, section 4.2.2).
func (t *TCP) Exchange(ctx context.Context, message []byte) ([]byte, error) {
	if _, err := t.conn.WriteContext(ctx, append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)); err != nil {
		return nil, fmt.Errorf("send over TCP: %w", cause(err))
	}
	stream := reader{ctx, t.conn}
	var length [2]byte
	if _, err := io.ReadFull(stream, length[:]); err != nil {
		return nil, fmt.Errorf("receive over TCP: %w", cause(err))
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(stream, answer); err != nil {
		return nil, fmt.Errorf("receive over TCP: %w", cause(err))
	}
	return answer, nil
}

// reader reads a connection until a context is done.
type reader struct {
	ctx  context.Context
	conn *socket.Conn
}

func (r reader) Read(b []byte) (int, error) {
	n, err := r.conn.ReadContext(r.ctx, b)
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// Abort closes the connection with a RST, so that the kernel does not go on for
// minutes to repeat what is not acknowledged.
func (t *TCP) Abort() error {
	raw, err := t.conn.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
		err = errors.Join(controlErr, err)
	}
	return errors.Join(err, t.conn.Close())
}

// Close closes the connection in good order: an established one with a FIN, as
// a client that has nothing to ask. (A RST would save the kernel a minute of
// TIME_WAIT and look like a fault in the far end's log.) An attempt ends
// without a packet. It may be called twice.
func (t *TCP) Close() error { return t.conn.Close() }
