package skbdrop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/bpfring"
	"github.com/pathtrace/pathtrace/packet"
)

// Config selects a flow, or everything, in some namespaces.
type Config struct {
	// All selects every packet; the flow does not count then.
	All   bool
	Proto packet.Proto
	// Nonce is the start of an echo's data, at least 16 bytes; NAT leaves it
	// alone. It is unused for protocols with ports.
	Nonce []byte
	// Ports are the prober's ports, at least one; unused for ICMP. A packet of
	// which NAT rewrote that port is not seen.
	Ports []uint16
	// Namespaces are the names of the namespaces to watch by their inode number;
	// Sensor.Add adds more.
	Namespaces map[uint32]string
	// Buffer is the size of the ring in bytes, a power of two and at least a
	// page; 0 means 256 KiB, some 1000 drops.
	Buffer int
}

const (
	nonceSize     = 16
	maxNamespaces = 1 << 12
	defaultBuffer = 256 << 10
)

// Sensor delivers the drops of one flow, or all, in the namespaces that it
// watches.
type Sensor struct {
	config  Config
	mu      sync.Mutex // of the names
	names   map[uint32]string
	inside  *ebpf.Map // those namespaces, for the program
	reasons map[uint32]string
	counter *ebpf.Map
	ring    bpfring.Ring

	received, undecodable atomic.Uint64
}

// Open loads the program and attaches it. Every drop after it returned is
// seen. The error is a *PermissionError, a *NotSupportedError, or something
// unexpected.
func Open(config Config) (*Sensor, error) {
	s := &Sensor{config: config, names: make(map[uint32]string)}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the kernel's drops: %w", err), s.Close())
	}
	return s, nil
}

func (s *Sensor) open() error {
	c := &s.config
	if !c.All && c.Proto.IsICMP() && len(c.Nonce) < nonceSize {
		return fmt.Errorf("a nonce of %d bytes, want at least %d", len(c.Nonce), nonceSize)
	}
	if !c.All && !c.Proto.IsICMP() && len(c.Ports) == 0 {
		return errors.New("no port to select by")
	}
	if c.Buffer == 0 {
		c.Buffer = defaultBuffer
	}
	// Maps first: without privilege they are refused before the kernel's types
	// are read for nothing.
	ring, err := s.ring.Map(&ebpf.MapSpec{Name: "pathtrace_drops", Type: ebpf.RingBuf, MaxEntries: uint32(c.Buffer)})
	if err != nil {
		return refusal(err, "BPF ring buffers (Linux 5.8)")
	}
	if s.counter, err = s.ring.Counter(); err != nil {
		return refusal(err, "BPF array maps")
	}
	text, err := s.ring.Map(&ebpf.MapSpec{
		Name: "pathtrace_text", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(format)), MaxEntries: 1,
		Flags: unix.BPF_F_RDONLY_PROG, Contents: []ebpf.MapKV{{Key: uint32(0), Value: []byte(format)}},
	})
	if err == nil {
		err = text.Freeze()
	}
	if err != nil {
		return refusal(err, "constant BPF maps (Linux 5.2)")
	}
	if s.inside, err = s.ring.Map(&ebpf.MapSpec{Name: "pathtrace_netns", Type: ebpf.Hash, KeySize: 4, ValueSize: 1, MaxEntries: maxNamespaces}); err != nil {
		return refusal(err, "BPF hash maps")
	}
	for inode, name := range c.Namespaces {
		if err := s.Add(inode, name); err != nil {
			return err
		}
	}
	l, err := kernelLayout()
	if err != nil {
		return err
	}
	s.reasons = l.reasons
	if err := s.ring.Open(ring); err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	a := assembler{layout: l, config: c}
	// A raw tracepoint program, which may not follow pointers by itself but
	// needs no second look at the kernel's types to be attached.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pathtrace_drop", Type: ebpf.RawTracepoint, License: "GPL",
		Instructions: a.program(descriptors{ring: ring.FD(), lost: s.counter.FD(), format: text.FD(), namespaces: s.inside.FD()}),
	})
	if err != nil {
		return refusal(err, "BPF programs at raw tracepoints")
	}
	defer program.Close() //nolint:errcheck // the link holds it
	attached, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "kfree_skb", Program: program})
	if err != nil {
		return refusal(err, "BPF programs at the tracepoint kfree_skb")
	}
	s.ring.CloseFirst(attached.Close)
	return nil
}

// Add watches a further namespace, by its inode number.
func (s *Sensor) Add(inode uint32, name string) error {
	s.mu.Lock()
	s.names[inode] = name
	s.mu.Unlock()
	if err := s.inside.Put(inode, uint8(1)); err != nil {
		return fmt.Errorf("watch the kernel's drops in %s: %w", name, err)
	}
	return nil
}

// name is that of a namespace, empty when it was not told.
func (s *Sensor) name(inode uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[inode]
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
	err := s.ring.Read(ctx, func(record []byte) {
		d, err := s.decode(record)
		if err != nil {
			s.undecodable.Add(1)
			return
		}
		if s.owns(&d.Header) {
			s.received.Add(1)
			emit(d)
		}
	})
	if err != nil {
		return fmt.Errorf("watch the kernel's drops: %w", err)
	}
	return nil
}

// decode reads a record of the program.
func (s *Sensor) decode(b []byte) (Drop, error) {
	if len(b) < recordSize {
		return Drop{}, fmt.Errorf("a record of %d bytes", len(b))
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	function, _, _ := bytes.Cut(b[recordFunction:recordPacket], []byte{0})
	d := Drop{
		NetNS: s.name(word(recordNetNS)), Interface: int(word(recordIndex)),
		Time:   bpfring.WallClock(time.Duration(binary.NativeEndian.Uint64(b[recordTime:]))),
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
	if s.config.All {
		return true
	}
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

// Stats may be called at any time, also after Close.
func (s *Sensor) Stats() Stats {
	return Stats{Received: s.received.Load(), Lost: s.ring.Lost(), Undecodable: s.undecodable.Load()}
}

// Close detaches the program and wakes Run. It may be called twice.
func (s *Sensor) Close() error { return s.ring.Close() }
