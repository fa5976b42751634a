package ruletrace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	nflog "github.com/florianl/go-nflog/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	// traceGroup is the group that the kernel sends legacy traces to
	// (net/netfilter/nf_log.c, trace_loginfo).
	traceGroup = 0
	// nflogBytes of each packet are copied: room for an ICMP error that quotes
	// a packet, with options and the payload that identifies it.
	nflogBytes = 512
	// nflogBuffer is the socket's receive buffer in bytes.
	nflogBuffer = 16 << 20
)

// NFLogConfig says where to read legacy traces.
type NFLogConfig struct {
	// NetNS is the namespace, which NFLog does not close; Name is what reports
	// call it.
	NetNS *netns.NS
	Name  string
	// InterfaceName turns an interface index of the namespace into its name.
	// Nil leaves the names out.
	InterfaceName func(index uint32) string
	// JournalDir is where the change of nf_log is written down first. Empty
	// means the first of the usual places that can be written (see Cleanup).
	JournalDir string
}

// NFLog reads what legacy x_tables log about packets that carry the trace
// mark. It holds NFLOG group 0 of the namespace and, until Run has ended or
// Close was called, points net.netfilter.nf_log.2 and .10 at it. A child
// process puts them back if this one is killed.
//
// Open it only where LegacyTables finds tables.
type NFLog struct {
	cfg  NFLogConfig
	nf   *nflog.Nflog
	logs *logSettings

	hits    chan Hit
	ended   chan struct{} // the library's reader has ended
	closing chan struct{}
	// draining is set when the reader shall end with what is queued.
	draining atomic.Bool
	stop     context.CancelFunc
	readErr  error // written before ended is closed

	received, lost, overruns, undecodable atomic.Uint64
	next                                  uint32 // the kernel's next number; the reader's own
	numbered                              bool
	seq                                   uint64

	once     sync.Once
	closeErr error
}

// OpenNFLog takes group 0 and points the namespace's loggers at it. Messages
// are kept by the kernel from the moment that it returns; Run delivers them.
// It returns a *BusyError when the group belongs to somebody else and a
// *PermissionError without the right to take it. GuardMain must have been
// called.
func OpenNFLog(cfg NFLogConfig) (_ *NFLog, err error) {
	if cfg.InterfaceName == nil {
		cfg.InterfaceName = func(uint32) string { return "" }
	}
	n := &NFLog{
		cfg: cfg, hits: make(chan Hit), ended: make(chan struct{}), closing: make(chan struct{}),
	}
	fail := func(err error) error {
		if errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), unix.EPERM.Error()) {
			// The library flattens its errors to text.
			return &PermissionError{Op: "take NFLOG group 0", NetNS: cfg.Name, Err: err}
		}
		return fmt.Errorf("open NFLOG in %s: %w", cfg.Name, err)
	}
	// Looking first leaves the holder undisturbed: the library's first command
	// unbinds.
	if busy := groupHolder(cfg); busy != nil {
		return nil, busy
	}
	n.nf, err = nflog.Open(&nflog.Config{
		NetNS: cfg.NetNS.FD(), Group: traceGroup, Copymode: nflog.CopyPacket, Bufsize: nflogBytes,
		// One message at a time: a batch would wait for up to 100 others.
		QThresh: 1, Timeout: 1,
		Flags: nflog.FlagSeq,
	})
	if err != nil {
		return nil, fail(err)
	}
	defer func() {
		if err != nil {
			_ = n.nf.Close()
		}
	}()
	if err := n.nf.Con.SetReadBuffer(nflogBuffer); err != nil {
		return nil, fail(err)
	}
	socket, err := duplicate(n.nf.Con)
	if err != nil {
		return nil, fail(err)
	}
	defer socket.Close() //nolint:errcheck // the guard has its own
	if n.logs, err = openLogSettings(cfg, socket); err != nil {
		return nil, fail(err)
	}
	if busy := groupHolder(cfg); busy != nil {
		// What was read may be what somebody else has set meanwhile.
		return nil, errors.Join(busy, n.logs.abandon())
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	if err := n.nf.RegisterWithErrorFunc(ctx, n.onMessage, n.onError); err != nil {
		stop()
		if busy := groupHolder(cfg); busy != nil {
			err = busy // somebody was faster
		} else {
			err = fail(err)
		}
		return nil, errors.Join(err, n.logs.abandon())
	}
	// The group is ours, and with it the settings.
	if err := n.logs.point(); err != nil {
		return nil, errors.Join(fail(err), n.Close())
	}
	return n, nil
}

// Run delivers hits until ctx is done, then points the loggers back, delivers
// everything that the kernel had queued, and returns nil. It may be called
// once.
func (n *NFLog) Run(ctx context.Context, emit func(Hit)) error {
	done := ctx.Done()
	var restored error
	for {
		select {
		case hit := <-n.hits:
			emit(hit)
		case <-done:
			done = nil
			// Nothing new comes after this, so that the queue has an end.
			restored = n.logs.restore()
			n.draining.Store(true)
			_ = n.nf.Con.SetReadDeadline(past) // fails only when closed; then the reader ends too
		case <-n.ended:
			return errors.Join(restored, n.readErr)
		}
	}
}

// Stats returns what was counted so far.
func (n *NFLog) Stats() Stats {
	return Stats{
		Received: n.received.Load(), Lost: n.lost.Load(),
		Overruns: n.overruns.Load(), Undecodable: n.undecodable.Load(),
	}
}

// Describe returns what was changed in the namespace.
func (n *NFLog) Describe() string { return n.logs.describe() }

// Close puts the loggers back, ends Run and gives the group up. It may be
// called twice.
func (n *NFLog) Close() error {
	n.once.Do(func() {
		close(n.closing)
		restored := n.logs.restore() // while the group is still ours
		_ = n.nf.Con.SetReadDeadline(past)
		<-n.ended
		n.closeErr = errors.Join(restored, n.logs.Close(), n.nf.Close())
		if n.closeErr != nil {
			n.closeErr = fmt.Errorf("close NFLOG in %s: %w", n.cfg.Name, n.closeErr)
		}
	})
	return n.closeErr
}

// The library reads in a goroutine that ends when a callback returns other
// than 0. That goroutine alone reads the socket, so the draining is done in its
// callbacks: a deadline in the past makes each read return at once, with a
// message lost to nobody, and the socket itself says whether there is more.
var past = time.Unix(1, 0)

// drainRead bounds a read of what poll(2) says is there. It is reached only
// when the message turns out to be unreadable and nothing follows it.
const drainRead = 20 * time.Millisecond

const (
	goOn = 0
	end  = 1
)

// onError is called by the reader when a read fails.
func (n *NFLog) onError(err error) int {
	select {
	case <-n.closing:
		return n.finish(nil)
	default:
	}
	switch {
	case errors.Is(err, unix.ENOBUFS):
		n.overruns.Add(1)
		return goOn
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return n.finish(fmt.Errorf("read NFLOG in %s: %w", n.cfg.Name, err))
	case !n.draining.Load():
		return goOn
	}
	more, err := readable(n.nf.Con)
	if err != nil || !more {
		return n.finish(err)
	}
	if err := n.nf.Con.SetReadDeadline(time.Now().Add(drainRead)); err != nil {
		return n.finish(err)
	}
	return goOn
}

// onMessage is called by the reader for each message.
func (n *NFLog) onMessage(a nflog.Attribute) int {
	if a.Seq != nil {
		if n.numbered {
			n.lost.Add(uint64(*a.Seq - n.next))
		}
		n.next, n.numbered = *a.Seq+1, true
	}
	if hit, ok := n.hit(a); ok {
		select {
		case n.hits <- hit:
		case <-n.closing:
			return n.finish(nil)
		}
	}
	if n.draining.Load() {
		if err := n.nf.Con.SetReadDeadline(past); err != nil {
			return n.finish(err)
		}
	}
	return goOn
}

// finish ends the reader.
func (n *NFLog) finish(err error) int {
	n.readErr = err
	n.stop()
	close(n.ended)
	return end
}

// hit turns a message into a hit. The bool is false for what is no trace: rules
// of others may log to the same group.
func (n *NFLog) hit(a nflog.Attribute) (Hit, bool) {
	if a.Prefix == nil {
		return Hit{}, false
	}
	trace, ok := parseTracePrefix(*a.Prefix)
	if !ok {
		return Hit{}, false
	}
	if a.Payload == nil || a.Hook == nil {
		n.undecodable.Add(1)
		return Hit{}, false
	}
	header, err := packet.DecodeNetwork(0, *a.Payload, len(*a.Payload))
	if err != nil && header.Version == 0 {
		n.undecodable.Add(1)
		return Hit{}, false
	}
	family := "ip"
	if header.Version == 6 {
		family = "ip6"
	}
	n.seq++
	n.received.Add(1)
	hit := Hit{
		NetNS: n.cfg.Name, Seq: n.seq, Kind: trace.kind, Legacy: true,
		Rule: Rule{
			Backend: IPTablesLegacy, Family: family, Table: trace.table, Chain: trace.chain, Number: trace.number,
		},
		Hook:    hookOf(protoINet, uint32(*a.Hook)),
		Ingress: n.name(a.InDev), Egress: n.name(a.OutDev),
		BridgePort: n.name(a.PhysInDev), BridgeOutPort: n.name(a.PhysOutDev),
		Header: header,
	}
	hit.Base = strings.ToUpper(string(hit.Hook))
	hit.ChainType, hit.Priority = legacyChain(trace.table, hit.Hook)
	if a.Timestamp != nil {
		hit.Time = *a.Timestamp
	}
	if a.Mark != nil {
		hit.Mark = *a.Mark
	}
	return hit, true
}

func (n *NFLog) name(index *uint32) string {
	if index == nil || *index == 0 {
		return ""
	}
	return n.cfg.InterfaceName(*index)
}

// readable reports whether the socket has a message or an error to read.
func readable(c *netlink.Conn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var ready int
	var pollErr error
	err = raw.Control(func(fd uintptr) {
		for {
			ready, pollErr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if !errors.Is(pollErr, unix.EINTR) {
				return
			}
		}
	})
	return ready > 0, errors.Join(err, pollErr)
}

// duplicate returns a second descriptor of the socket.
func duplicate(c *netlink.Conn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied int
	var copyErr error
	if err := raw.Control(func(fd uintptr) {
		copied, copyErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if copyErr != nil {
		return nil, os.NewSyscallError("fcntl", copyErr)
	}
	return os.NewFile(uintptr(copied), "nflog"), nil
}

// groupHolder returns who holds group 0 in the namespace, or nil.
func groupHolder(cfg NFLogConfig) *BusyError {
	var busy *BusyError
	// An unreadable list says nothing; the kernel's answer to the bind will.
	_ = cfg.NetNS.Do(func() error {
		if portID, held := groupPort(); held {
			busy = &BusyError{NetNS: cfg.Name, PortID: portID}
			busy.PID, busy.Process = socketOwner(portID)
		}
		return nil
	})
	return busy
}

// groupPort returns the netlink address of the thread's namespace's holder of
// group 0.
func groupPort() (portID uint32, held bool) {
	text, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_log")
	if err != nil {
		return 0, false
	}
	// group, port id, queue length, copy mode, copy range, timeout, references
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != strconv.Itoa(traceGroup) {
			continue
		}
		id, err := strconv.ParseUint(fields[1], 10, 32)
		return uint32(id), err == nil
	}
	return 0, false
}

// socketOwner finds the process that has the netfilter netlink socket with that
// address in the thread's namespace.
func socketOwner(portID uint32) (pid int, process string) {
	file, err := os.Open("/proc/thread-self/net/netlink")
	if err != nil {
		return 0, ""
	}
	defer file.Close() //nolint:errcheck // read only
	inode := ""
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		fields := strings.Fields(lines.Text())
		if len(fields) >= 10 && fields[1] == strconv.Itoa(unix.NETLINK_NETFILTER) && fields[2] == strconv.FormatUint(uint64(portID), 10) {
			inode = fields[9]
			break
		}
	}
	if inode == "" {
		return 0, ""
	}
	// The guard of a run has the socket too: the older of the two is the run.
	oldest := uint64(math.MaxUint64)
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		found, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			continue
		}
		if started, err := processStart(found); err == nil && (started < oldest || started == oldest && found < pid) {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", found))
			oldest, pid, process = started, found, strings.TrimSpace(string(comm))
		}
	}
	return pid, process
}
