package attempt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/bpfring"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

// initialPIDNS is the inode number of the initial PID namespace (PROC_PID_INIT_INO,
// include/linux/proc_ns.h).
const initialPIDNS = 0xEFFFFFFC

// ringBytes is the size of the ring: some 3000 attempts.
const ringBytes = 256 << 10

// Sensor delivers the attempts of one network namespace.
type Sensor struct {
	// initial says that the sensor runs in the initial PID namespace.
	initial bool
	counter *ebpf.Map
	ring    bpfring.Ring

	received atomic.Uint64
}

// Open loads the programs and attaches them. Every attempt in the namespace after
// it returned is seen. The error is a *PermissionError, a *NotSupportedError, or
// something unexpected.
func Open(ns *netns.NS) (*Sensor, error) {
	s := &Sensor{}
	if err := s.open(ns); err != nil {
		return nil, errors.Join(fmt.Errorf("watch what programs want to send to: %w", err), s.Close())
	}
	return s, nil
}

func (s *Sensor) open(ns *netns.NS) error {
	var stat unix.Stat_t
	s.initial = unix.Stat("/proc/self/ns/pid", &stat) == nil && stat.Ino == initialPIDNS
	cookie, err := cookieOf(ns)
	if err != nil {
		return &NotSupportedError{Feature: "numbers of network namespaces (Linux 5.14)", Err: err}
	}
	ring, err := s.ring.Map(&ebpf.MapSpec{Name: "pathtrace_tries", Type: ebpf.RingBuf, MaxEntries: ringBytes})
	if err != nil {
		return refusal(err, "BPF ring buffers (Linux 5.8)")
	}
	if s.counter, err = s.ring.Counter(); err != nil {
		return refusal(err, "BPF array maps")
	}
	root, err := cgroupRoot()
	if err != nil {
		return &NotSupportedError{Feature: "a mounted cgroup v2 hierarchy", Err: err}
	}
	if err := s.ring.Open(ring); err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	for i := range hooks {
		if err := s.attach(&hooks[i], root, ring.FD(), cookie); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sensor) attach(h *hook, root string, ring int, cookie uint64) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pathtrace_" + h.name, Type: ebpf.CGroupSockAddr, AttachType: h.attach, License: "GPL",
		Instructions: h.program(ring, s.counter.FD(), cookie),
	})
	if err != nil {
		return refusal(err, "BPF programs for socket addresses")
	}
	defer program.Close() //nolint:errcheck // the link holds it
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: h.attach, Program: program})
	if err != nil {
		return refusal(err, "BPF links at cgroups (Linux 5.7)")
	}
	s.ring.CloseFirst(attached.Close)
	return nil
}

// refusal says what an error of the kernel means.
func refusal(err error, feature string) error {
	if errors.Is(err, fs.ErrPermission) {
		return &PermissionError{Err: err}
	}
	return &NotSupportedError{Feature: feature, Err: err}
}

// cookieOf is the number that programs know a namespace by (SO_NETNS_COOKIE).
func cookieOf(ns *netns.NS) (uint64, error) {
	conn, err := socket.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0, "cookie", &socket.Config{NetNS: ns.FD()})
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cookie uint64
	controlErr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	return cookie, errors.Join(controlErr, err)
}

// cgroupRoot is where all of cgroup v2 is mounted (proc_pid_mountinfo(5)).
func cgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		separator := slices.Index(fields, "-")
		if separator > 4 && len(fields) > separator+1 && fields[separator+1] == "cgroup2" && fields[3] == "/" {
			return unescape(fields[4]), nil
		}
	}
	return "", errors.Join(lines.Err(), fs.ErrNotExist)
}

// unescape takes back what the kernel writes for spaces, tabs, line breaks and
// backslashes in a path.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// Run emits attempts until ctx is done, then those that happened before, and
// returns nil. After Close the error is os.ErrClosed. Only one goroutine at a time
// may call it.
func (s *Sensor) Run(ctx context.Context, emit func(Attempt)) error {
	err := s.ring.Read(ctx, func(record []byte) {
		if a, ok := decode(record); ok {
			s.received.Add(1)
			if !s.initial {
				a.PID = 0
			}
			emit(a)
		}
	})
	if err != nil {
		return fmt.Errorf("watch what programs want to send to: %w", err)
	}
	return nil
}

// decode reads a record of the programs.
func decode(b []byte) (Attempt, bool) {
	if len(b) < recordSize {
		return Attempt{}, false
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	address := netip.AddrFrom16([16]byte(b[recordAddress:]))
	if word(recordFamily) == unix.AF_INET {
		address = netip.AddrFrom4([4]byte(b[recordAddress:]))
	}
	command, _, _ := bytes.Cut(b[recordCommand:recordSize], []byte{0})
	a := Attempt{
		Time: bpfring.WallClock(time.Duration(binary.NativeEndian.Uint64(b[recordTime:]))),
		PID:  int(binary.NativeEndian.Uint64(b[recordPID:]) >> 32), Command: string(command),
		To:      netip.AddrPortFrom(address.Unmap(), binary.BigEndian.Uint16(b[recordPort:])),
		Connect: word(recordConnect) != 0,
	}
	switch word(recordProto) {
	case unix.IPPROTO_TCP, unix.IPPROTO_MPTCP:
		a.Proto = packet.TCP
	case unix.IPPROTO_UDP:
		a.Proto = packet.UDP
	case unix.IPPROTO_ICMP:
		a.Proto = packet.ICMP
	case unix.IPPROTO_ICMPV6:
		a.Proto = packet.ICMPv6
	default:
		return Attempt{}, false
	}
	return a, true
}

// Stats may be called at any time, also after Close.
func (s *Sensor) Stats() Stats {
	return Stats{Received: s.received.Load(), Lost: s.ring.Lost()}
}

// Close detaches the programs and wakes Run. It may be called twice.
func (s *Sensor) Close() error { return s.ring.Close() }
