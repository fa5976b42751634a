package skbdrop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/packet"
)

// Config selects a flow.
type Config struct {
	Proto packet.Proto
	// Nonce is the start of an echo's data, at least 16 bytes; NAT leaves it
	// alone. It is unused for protocols with ports.
	Nonce []byte
	// Ports are the prober's ports, at least one; unused for ICMP. A packet of
	// which NAT rewrote that port is not seen.
	Ports []uint16
	// Namespaces are the names of namespaces by their inode number. Drops in
	// others are delivered without one.
	Namespaces map[uint32]string
	// Buffer is the size of the ring in bytes, a power of two and at least a
	// page; 0 means 256 KiB, some 1000 drops.
	Buffer int
}

const (
	nonceSize     = 16
	defaultBuffer = 256 << 10
)

// Sensor delivers the drops of one flow.
type Sensor struct {
	config  Config
	reasons map[uint32]string
	reader  *ringbuf.Reader
	closers []func() error // in the order of closing
	closed  sync.Once
	err     error // of closing
	counter *ebpf.Map

	lost, received, undecodable atomic.Uint64
}

// Open loads the program and attaches it. Every drop after it returned is
// seen. The error is a *PermissionError, a *NotSupportedError, or something
// unexpected.
func Open(config Config) (*Sensor, error) {
	s := &Sensor{config: config}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the kernel's drops: %w", err), s.Close())
	}
	return s, nil
}

func (s *Sensor) open() error {
	c := &s.config
	if c.Proto.IsICMP() && len(c.Nonce) < nonceSize {
		return fmt.Errorf("a nonce of %d bytes, want at least %d", len(c.Nonce), nonceSize)
	}
	if !c.Proto.IsICMP() && len(c.Ports) == 0 {
		return errors.New("no port to select by")
	}
	if c.Buffer == 0 {
		c.Buffer = defaultBuffer
	}
	// Maps first: without privilege they are refused before the kernel's types
	// are read for nothing.
	ring, err := s.newMap(&ebpf.MapSpec{Name: "pathtrace_drops", Type: ebpf.RingBuf, MaxEntries: uint32(c.Buffer)})
	if err != nil {
		return refusal(err, "BPF ring buffers (Linux 5.8)")
	}
	if s.counter, err = s.newMap(&ebpf.MapSpec{Name: "pathtrace_lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return refusal(err, "BPF array maps")
	}
	text, err := s.newMap(&ebpf.MapSpec{
		Name: "pathtrace_text", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(format)), MaxEntries: 1,
		Flags: unix.BPF_F_RDONLY_PROG, Contents: []ebpf.MapKV{{Key: uint32(0), Value: []byte(format)}},
	})
	if err == nil {
		err = text.Freeze()
	}
	if err != nil {
		return refusal(err, "constant BPF maps (Linux 5.2)")
	}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return &NotSupportedError{Feature: "BTF (CONFIG_DEBUG_INFO_BTF)", Err: err}
	}
	l, err := readLayout(spec)
	if err != nil {
		return &NotSupportedError{Feature: "drop reasons (Linux 5.17)", Err: err}
	}
	s.reasons = l.reasons
	if s.reader, err = ringbuf.NewReader(ring); err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	s.closers = slices.Insert(s.closers, 0, s.reader.Close)
	a := assembler{layout: l, config: c}
	// A raw tracepoint program, which may not follow pointers by itself but
	// needs no second look at the kernel's types to be attached.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pathtrace_drop", Type: ebpf.RawTracepoint, License: "GPL",
		Instructions: a.program(maps{ring: ring.FD(), lost: s.counter.FD(), format: text.FD()}),
	})
	if err != nil {
		return refusal(err, "BPF programs at raw tracepoints")
	}
	defer program.Close() //nolint:errcheck // the link holds it
	attached, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "kfree_skb", Program: program})
	if err != nil {
		return refusal(err, "BPF programs at the tracepoint kfree_skb")
	}
	s.closers = slices.Insert(s.closers, 0, attached.Close)
	return nil
}

func (s *Sensor) newMap(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(spec)
	if err == nil {
		s.closers = append(s.closers, m.Close)
	}
	return m, err
}

// refusal says what an error of the kernel means.
func refusal(err error, feature string) error {
	if errors.Is(err, fs.ErrPermission) {
		return &PermissionError{Err: err}
	}
	return &NotSupportedError{Feature: feature, Err: err}
}

// Run emits drops until ctx is done, then those that happened before, and
// returns nil. After Close the error is os.ErrClosed. Only one goroutine at a
// time may call it.
func (s *Sensor) Run(ctx context.Context, emit func(Drop)) error {
	stop := context.AfterFunc(ctx, func() { _ = s.reader.Flush() }) // fails only when closed, which Run sees
	defer stop()
	var record ringbuf.Record
	for {
		err := s.reader.ReadInto(&record)
		switch {
		case errors.Is(err, ringbuf.ErrFlushed):
			return nil
		case errors.Is(err, os.ErrClosed):
			return fmt.Errorf("watch the kernel's drops: %w", os.ErrClosed)
		case err != nil:
			return fmt.Errorf("watch the kernel's drops: %w", err)
		}
		d, err := s.decode(record.RawSample)
		if err != nil {
			s.undecodable.Add(1)
			continue
		}
		if s.owns(&d.Header) {
			s.received.Add(1)
			emit(d)
		}
	}
}

// decode reads a record of the program.
func (s *Sensor) decode(b []byte) (Drop, error) {
	if len(b) < recordSize {
		return Drop{}, fmt.Errorf("a record of %d bytes", len(b))
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	function, _, _ := bytes.Cut(b[recordFunction:recordPacket], []byte{0})
	d := Drop{
		NetNS: s.config.Namespaces[word(recordNetNS)], Interface: int(word(recordIndex)),
		Time:   wallClock(time.Duration(binary.NativeEndian.Uint64(b[recordTime:]))),
		Reason: s.reasons[word(recordReason)], Function: functionName(string(function)),
	}
	if d.Reason == "" {
		d.Reason = fmt.Sprintf("REASON_%d", word(recordReason))
	}
	length := int(word(recordLength)) + int(int32(word(recordData)-word(recordNetwork)))
	captured := min(word(recordCaptured), packetSize)
	var err error
	d.Header, err = packet.DecodeNetwork(0, b[recordPacket:recordPacket+captured], length)
	return d, err
}

// functionName takes what the kernel and the compiler add off a symbol:
// "tcp_v4_rcv.cold", "nft_do_chain [nf_tables]", "0xffffffff81000000".
func functionName(symbol string) string {
	symbol, _, _ = strings.Cut(symbol, " ")
	symbol, _, _ = strings.Cut(symbol, ".")
	if strings.HasPrefix(symbol, "0x") {
		return ""
	}
	return symbol
}

// owns decides exactly what the program decided by the bytes at fixed places.
func (s *Sensor) owns(h *packet.Header) bool {
	if h.IsICMPError() {
		return h.Quoted != nil && s.owns(h.Quoted)
	}
	if h.Tuple.Proto != s.config.Proto {
		return false
	}
	if s.config.Proto.IsICMP() {
		return bytes.HasPrefix(h.Payload, s.config.Nonce[:nonceSize])
	}
	return slices.Contains(s.config.Ports, h.Tuple.SrcPort) || slices.Contains(s.config.Ports, h.Tuple.DstPort)
}

// wallClock converts a time of CLOCK_MONOTONIC to one of CLOCK_REALTIME, which
// is what packet captures have. It reads both clocks, three times, and takes
// the pair that is closest together.
func wallClock(monotonic time.Duration) time.Time {
	read := func(clock int32) time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(clock, &t) // these two clocks always exist
		return time.Duration(t.Nano())
	}
	closest, distance := time.Duration(math.MaxInt64), time.Duration(0)
	for range 3 {
		before := read(unix.CLOCK_MONOTONIC)
		wall := read(unix.CLOCK_REALTIME)
		if took := read(unix.CLOCK_MONOTONIC) - before; took < closest {
			closest, distance = took, wall-before-took/2
		}
	}
	return time.Unix(0, int64(monotonic+distance))
}

// Stats may be called at any time, also after Close.
func (s *Sensor) Stats() Stats {
	s.countLost()
	return Stats{Received: s.received.Load(), Lost: s.lost.Load(), Undecodable: s.undecodable.Load()}
}

// countLost reads the program's counter. Once closed, the last count stays.
func (s *Sensor) countLost() {
	var lost uint64
	if s.counter != nil && s.counter.Lookup(uint32(0), &lost) == nil {
		s.lost.Store(lost)
	}
}

// Close detaches the program and wakes Run. It may be called twice.
func (s *Sensor) Close() error {
	s.closed.Do(func() {
		s.countLost()
		for _, c := range s.closers {
			s.err = errors.Join(s.err, c())
		}
	})
	return s.err
}
