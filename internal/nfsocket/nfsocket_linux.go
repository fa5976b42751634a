// Package nfsocket reads conntrack events and nftables trace of one network
// namespace from one netlink socket, so that the two stand in the order in
// which the kernel sent them. It decodes nothing.
//
// It needs CAP_NET_ADMIN in the network namespace's user namespace, which an
// ordinary user has in a user namespace of their own. It changes one thing on
// the host: with net.netfilter.nf_conntrack_events = 2, the default since Linux
// 6.0, flows that begin while the socket is open get the kernel's bookkeeping
// for events, in all namespaces of the machine. Flows that began while nobody
// listened never send an event.
//
// What the kernel does when the receive buffer is full (net/netlink/af_netlink.c,
// netlink_overrun; the tests show it): it reports ENOBUFS once, before the
// messages that are still queued, and goes on losing messages until the queue
// has been read empty. So a table that is read as soon as ENOBUFS is seen may
// already be out of date without another error; Run calls overrun only when
// the queue has been empty. The socket stays usable. NETLINK_NO_ENOBUFS, which
// would hide the loss, is never set.
//
// mdlayher/netlink is used and not ti-mo/netfilter, whose Conn gives no access
// to socket filters or the descriptor.
package nfsocket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	// defaultReadBuffer is what SO_RCVBUF is set to; the kernel doubles it. One
	// conntrack event takes about 1.3 KiB of it, so 50 000 events fit. Memory
	// is only used for what is queued.
	defaultReadBuffer = 32 << 20
	// messageSize is more than the kernel ever puts into one message of these
	// groups (NLMSG_GOODSIZE is a page, at most 8 KiB).
	messageSize = 64 << 10

	ctGetStats = 4 // IPCTNL_MSG_CT_GET_STATS_CPU
)

// Config says what to listen to. At least one of Conntrack and Trace is set.
type Config struct {
	// NetNS is the network namespace; nil means that of the calling thread.
	NetNS *netns.NS
	// Conntrack joins the groups of NEW, UPDATE and DESTROY.
	Conntrack bool
	// Trace joins the group of nftables trace.
	Trace bool
	// ReadBuffer is the receive buffer in bytes as SO_RCVBUF counts them; 0
	// means one that takes a burst of 50 000 conntrack events. Without
	// CAP_NET_ADMIN in the initial user namespace, net.core.rmem_max limits it.
	ReadBuffer int
	// Filter keeps conntrack events out. nftables trace is never filtered.
	Filter Filter
}

// Filter selects conntrack events in the kernel. It looks at what NAT does not
// change, and lets pass what it cannot decide on.
type Filter struct {
	// Proto is the flow's protocol; 0 means all.
	Proto packet.Proto
}

// Message is one message as the kernel sent it. The reader owns its data.
type Message struct {
	// Seq counts the messages of one socket from 1, in the kernel's order.
	Seq uint64
	// Netlink is the message with its netlink header.
	Netlink netlink.Message
	// Received is when the message was read, not when it was sent.
	Received time.Time
}

// Subsystem is the part of netfilter that sent the message (NFNL_SUBSYS_*,
// include/uapi/linux/netfilter/nfnetlink.h).
func (m Message) Subsystem() netfilter.SubsystemID {
	return netfilter.SubsystemID(m.Netlink.Header.Type >> 8)
}

// Stats count what a socket delivered and how often it lost messages; how many
// were lost each time, the kernel does not tell.
type Stats struct {
	Received, Overruns uint64
}

// Socket is an open netlink socket. One goroutine at a time may call Run or
// Drain; Stats and Close may be called from others.
type Socket struct {
	conn   *netlink.Conn
	buffer int

	seq       uint64
	overflown bool // an overrun was counted but not yet told

	received, overruns atomic.Uint64
	closed             atomic.Bool
	closeOnce          sync.Once
	closeErr           error
}

// Open opens the socket. What the kernel sends from then on is queued until
// Run reads it. The error is os.ErrPermission when CAP_NET_ADMIN is missing and
// errors.ErrUnsupported when the kernel lacks conntrack's netlink interface.
func Open(cfg Config) (*Socket, error) {
	var groups []netfilter.NetlinkGroup
	if cfg.Conntrack {
		groups = append(groups, netfilter.GroupCTNew, netfilter.GroupCTUpdate, netfilter.GroupCTDestroy)
	}
	if cfg.Trace {
		groups = append(groups, netfilter.GroupNFTrace)
	}
	if len(groups) == 0 {
		return nil, errors.New("open netfilter socket: nothing to listen to")
	}
	dial := &netlink.Config{MessageBufferSize: messageSize}
	if cfg.NetNS != nil {
		dial.NetNS = cfg.NetNS.FD()
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, dial)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	s := &Socket{conn: conn}
	if err := s.configure(cfg, groups); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	return s, nil
}

// configure joins the groups last, so that nothing arrives unfiltered.
func (s *Socket) configure(cfg Config, groups []netfilter.NetlinkGroup) error {
	size := cfg.ReadBuffer
	if size == 0 {
		size = defaultReadBuffer
	}
	// Tries SO_RCVBUFFORCE before SO_RCVBUF.
	if err := s.conn.SetReadBuffer(size); err != nil {
		return err
	}
	var err error
	if s.buffer, err = s.conn.ReadBuffer(); err != nil {
		return err
	}
	if cfg.Conntrack {
		if err := s.probeConntrack(); err != nil {
			return err
		}
	}
	if cfg.Filter != (Filter{}) {
		program, err := cfg.Filter.assemble()
		if err != nil {
			return err
		}
		if err := s.conn.SetBPF(program); err != nil {
			return err
		}
	}
	for _, group := range groups {
		if err := s.conn.JoinGroup(uint32(group)); err != nil {
			return fmt.Errorf("group %d: %w", group, err)
		}
	}
	return nil
}

// probeConntrack asks for conntrack's counters. Joining a group loads the
// module that sends the events in the background, a request waits for it; so
// nothing is missed, and a kernel without it is recognised.
func (s *Socket) probeConntrack() error {
	request, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: netfilter.NFSubsysCTNetlink,
		MessageType: ctGetStats,
		Flags:       netlink.Request | netlink.Dump,
	}, nil)
	if err != nil {
		return err
	}
	_, err = s.conn.Execute(request)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("conntrack events need CONFIG_NF_CT_NETLINK: %w", errors.ErrUnsupported)
	}
	return err
}

// Run hands every message to emit until ctx is done, then those that were
// queued by then, and returns nil. After an overrun it calls overrun, if that
// is not nil, as soon as the queue has been empty, so that what a table shows
// then and what follows on the socket leave no gap. It returns an error that
// is os.ErrClosed when the socket is closed before ctx is done.
func (s *Socket) Run(ctx context.Context, emit func(Message), overrun func()) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		_, err := s.receive(emit)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
				return s.fail(err)
			}
			return s.Drain(emit, overrun)
		}
		if err != nil {
			return s.fail(err)
		}
		if s.overflown {
			ready, err := s.ready()
			if err != nil {
				return s.fail(err)
			}
			if !ready {
				s.tell(overrun)
			}
		}
	}
}

// Drain is Run without waiting: it hands the messages to emit that are queued
// already, and returns.
func (s *Socket) Drain(emit func(Message), overrun func()) error {
	// A queue holds at most its buffer: whoever has read more than that has
	// read all that was there at the beginning, and need not chase a flood.
	for read := 0; read <= s.buffer; {
		ready, err := s.ready()
		if err != nil {
			return s.fail(err)
		}
		if !ready {
			break
		}
		n, err := s.receive(emit)
		if err != nil {
			return s.fail(err)
		}
		read += n
	}
	s.tell(overrun)
	return nil
}

// receive reads one datagram and returns its size. An overrun is noted and is
// not an error.
func (s *Socket) receive(emit func(Message)) (int, error) {
	messages, err := s.conn.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		s.overruns.Add(1)
		s.overflown = true
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	now := time.Now()
	size := 0
	for _, m := range messages {
		s.seq++
		s.received.Add(1)
		size += int(m.Header.Length)
		emit(Message{Seq: s.seq, Netlink: m, Received: now})
	}
	return size, nil
}

// tell reports an overrun that has not been told yet.
func (s *Socket) tell(overrun func()) {
	if !s.overflown {
		return
	}
	s.overflown = false
	if overrun != nil {
		overrun()
	}
}

// ready reports whether a message, or an overrun, can be read at once.
func (s *Socket) ready() (bool, error) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return false, err
	}
	n, pollErr := 0, error(nil)
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if n, pollErr = unix.Poll(fds, 0); !errors.Is(pollErr, unix.EINTR) {
				return
			}
		}
	})
	return n > 0, errors.Join(err, pollErr)
}

// fail names what ended the reader.
func (s *Socket) fail(err error) error {
	if s.closed.Load() {
		err = os.ErrClosed
	}
	return fmt.Errorf("read netfilter socket: %w", err)
}

// Stats may be called at any time, also after Close.
func (s *Socket) Stats() Stats {
	return Stats{Received: s.received.Load(), Overruns: s.overruns.Load()}
}

// Close leaves the groups and wakes a reader. It may be called twice.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		s.closed.Store(true)
		s.closeErr = s.conn.Close()
	})
	return s.closeErr
}
