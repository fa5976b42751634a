package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

// What a zero RingConfig stands for. The snaplen holds 64 bytes of payload
// behind Ethernet, two VLAN tags, IPv6 with 64 bytes of extension headers and a
// packet with the same quoted in an ICMP error, and makes frames of 512 bytes.
const (
	defaultSnaplen   = 432
	defaultRingBytes = 2 << 20 // 4096 packets
)

const (
	blockBytes = 1 << 16 // of contiguous memory; a multiple of every page size
	// frameOverhead is what precedes a packet in its frame: the header, the
	// link-layer address, room for link headers, each rounded up
	// (tpacket_rcv in net/packet/af_packet.c).
	frameOverhead = 80
	maxSnaplen    = blockBytes - frameOverhead
	// addressOffset is where the sockaddr_ll of a frame is:
	// TPACKET_ALIGN(sizeof(struct tpacket2_hdr)).
	addressOffset = (unix.SizeofTpacket2Hdr + unix.TPACKET_ALIGNMENT - 1) &^ (unix.TPACKET_ALIGNMENT - 1)
)

// RingConfig says what a ring sees. The zero value sees everything of the
// caller's namespace.
type RingConfig struct {
	// NetNS is the namespace; nil means the calling thread's. It may be closed
	// when OpenRing has returned.
	NetNS *netns.NS
	// Name is the namespace's name, for points that are made up.
	Name string
	// Points are the namespace's interfaces, found by Index. The ring sees all
	// interfaces; one that is not listed becomes "ifN" with RoleOther.
	Points   []Point
	Selector Selector
	// Snaplen is how many bytes of a frame are captured; 0 means 432.
	Snaplen int
	// RingBytes is the size of the ring, rounded down to 64 KiB; 0 means 2 MiB.
	// The kernel holds that much memory until Close.
	RingBytes int
}

// Ring is a TPACKET_V2 ring of an AF_PACKET socket: the kernel copies packets
// into it where it sees them, before anything that comes later in the stack can
// write into them. All interfaces of a namespace share it, so the order of its
// records is the order in which the namespace saw the packets. It sets no
// promiscuous mode.
//
// Its methods may be called from several goroutines.
type Ring struct {
	name   string
	points map[int]Point
	conn   *socket.Conn
	memory []byte
	// frameBytes and frames are the geometry of the ring, next the frame that
	// the kernel fills next, number the records read; all are Run's.
	frameBytes, frames, next int
	number                   uint64
	buffer                   []byte

	received, undecodable atomic.Uint64
	closed                atomic.Bool

	mu      sync.Mutex // of what follows, and of unmapping the memory
	running bool
	lost    uint64
}

// OpenRing starts to capture: every packet that the selector passes and that
// crosses an interface after OpenRing has returned will be delivered by Run or
// counted as lost. It takes some 10 ms, most of it an RCU grace period that
// rings opened at the same time share. It needs CAP_NET_RAW in the user namespace that owns the
// network namespace; errors.Is(err, fs.ErrPermission) tells that it is missing.
func OpenRing(cfg RingConfig) (*Ring, error) {
	r, err := openRing(cfg)
	where := ""
	if cfg.Name != "" {
		where = " on " + cfg.Name
	}
	switch {
	case errors.Is(err, unix.EPERM):
		needs := "CAP_NET_RAW"
		if call, ok := errors.AsType[*os.SyscallError](err); ok && call.Syscall == "setns" {
			needs = "CAP_SYS_ADMIN" // the namespace was not entered
		}
		return nil, fmt.Errorf("open a packet ring%s: needs %s: %w", where, needs, err)
	case err != nil:
		return nil, fmt.Errorf("open a packet ring%s: %w", where, err)
	}
	return r, nil
}

func openRing(cfg RingConfig) (*Ring, error) {
	if cfg.Snaplen == 0 {
		cfg.Snaplen = defaultSnaplen
	}
	if cfg.RingBytes == 0 {
		cfg.RingBytes = defaultRingBytes
	}
	if cfg.Snaplen < 0 || cfg.Snaplen > maxSnaplen || cfg.RingBytes < blockBytes {
		return nil, fmt.Errorf("snaplen %d or ring size %d out of range", cfg.Snaplen, cfg.RingBytes)
	}
	instructions, err := cfg.Selector.Program()
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, err
	}

	r := &Ring{
		name:       cfg.Name,
		points:     make(map[int]Point, len(cfg.Points)),
		frameBytes: align(frameOverhead + cfg.Snaplen),
		buffer:     make([]byte, cfg.Snaplen+frameOverhead),
	}
	for _, p := range cfg.Points {
		r.points[p.Index] = p
	}
	// Protocol 0 receives nothing: the socket is bound when filter and ring are
	// in place, so no packet slips past either.
	var options socket.Config
	if cfg.NetNS != nil {
		options.NetNS = cfg.NetNS.FD()
	}
	r.conn, err = socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", &options)
	if err != nil {
		return nil, err
	}
	if err := r.start(filter, cfg.RingBytes/blockBytes); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func align(n int) int { return (n + unix.TPACKET_ALIGNMENT - 1) &^ (unix.TPACKET_ALIGNMENT - 1) }

func (r *Ring) start(filter []bpf.RawInstruction, blocks int) error {
	if err := r.conn.SetBPF(filter); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if err := r.conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return fmt.Errorf("select TPACKET_V2: %w", err)
	}
	r.frames = blocks * (blockBytes / r.frameBytes)
	request := unix.TpacketReq{
		Block_size: blockBytes,
		Block_nr:   uint32(blocks),
		Frame_size: uint32(r.frameBytes),
		Frame_nr:   uint32(r.frames),
	}
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	var ringErr error
	err = raw.Control(func(fd uintptr) {
		if ringErr = unix.SetsockoptTpacketReq(int(fd), unix.SOL_PACKET, unix.PACKET_RX_RING, &request); ringErr != nil {
			return
		}
		// Not unix.Mmap: its Munmap holds a lock of the process while the kernel
		// waits out two RCU grace periods, and many rings are closed at once.
		size := uintptr(blocks * blockBytes)
		var memory unsafe.Pointer
		if memory, ringErr = unix.MmapPtr(int(fd), 0, nil, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); ringErr == nil {
			r.memory = unsafe.Slice((*byte)(memory), size)
		}
	})
	if err := errors.Join(err, ringErr); err != nil {
		return fmt.Errorf("map ring: %w", err)
	}
	if err := r.conn.Bind(&unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// networkOrder swaps the bytes of a 16-bit number on a little-endian machine.
func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// Run delivers what the ring sees, in the order of the kernel's records, until
// ctx is done. Then it delivers what was in the ring at that moment and returns
// nil. It returns an error that wraps os.ErrClosed when the ring is closed
// before. Only one Run may be active; emit may call Close.
func (r *Ring) Run(ctx context.Context, emit func(Sighting)) error {
	if err := r.acquire(); err != nil {
		return fmt.Errorf("read packet ring on %s: %w", r.name, err)
	}
	defer r.release()
	if err := r.read(ctx, emit); err != nil {
		return fmt.Errorf("read packet ring on %s: %w", r.name, err)
	}
	return nil
}

func (r *Ring) read(ctx context.Context, emit func(Sighting)) error {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := r.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = r.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the waiting Read; a closed socket woke it already
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	for ctx.Err() == nil {
		// The netpoller waits. An interrupted wait says so by ctx or closed.
		err := raw.Read(func(uintptr) bool { return r.ready() })
		switch {
		case r.closed.Load():
			return os.ErrClosed
		case err != nil && ctx.Err() == nil:
			return err
		}
		r.drain(ctx, emit)
	}
	// Packets that arrive from now on must not keep the loop going.
	for range r.frames {
		if r.closed.Load() || !r.ready() {
			break
		}
		emit(r.take())
	}
	return nil
}

// drain delivers until the ring is empty or there is a reason to stop.
func (r *Ring) drain(ctx context.Context, emit func(Sighting)) {
	for !r.closed.Load() && ctx.Err() == nil && r.ready() {
		emit(r.take())
	}
}

// frame returns the frame that the kernel fills next, and its status word,
// which passes the frame between kernel and user.
func (r *Ring) frame() (frame []byte, status *uint32) {
	perBlock := blockBytes / r.frameBytes
	offset := r.next/perBlock*blockBytes + r.next%perBlock*r.frameBytes
	frame = r.memory[offset : offset+r.frameBytes]
	return frame, (*uint32)(unsafe.Pointer(&frame[0]))
}

func (r *Ring) ready() bool {
	_, status := r.frame()
	return atomic.LoadUint32(status)&unix.TP_STATUS_USER != 0
}

// take reads the next frame, which must be ready, and gives it back to the
// kernel.
func (r *Ring) take() Sighting {
	frame, status := r.frame()
	header := *(*unix.Tpacket2Hdr)(unsafe.Pointer(&frame[0]))
	address := *(*unix.RawSockaddrLinklayer)(unsafe.Pointer(&frame[addressOffset]))
	// The copy frees the frame early, and the decoder never holds a pointer to
	// memory that will be unmapped.
	data := r.buffer[:copy(r.buffer, frame[header.Mac:int(header.Mac)+int(header.Snaplen)])]
	atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
	r.next = (r.next + 1) % r.frames
	r.number++
	r.received.Add(1)

	s := Sighting{
		Point:     r.point(int(address.Ifindex)),
		Time:      time.Unix(int64(header.Sec), int64(header.Nsec)),
		Direction: Ingress, // HOST, OTHERHOST and the rest: random on bridge ports
		Number:    r.number,
		Length:    int(header.Len),
	}
	if address.Pkttype == unix.PACKET_OUTGOING {
		s.Direction = Egress
	}
	tagged := header.Status&unix.TP_STATUS_VLAN_VALID != 0
	var err error
	if address.Hatype == arphrdEthernet || address.Hatype == arphrdLoopback {
		if tagged {
			data = retag(data, &header)
			s.Length += vlanTag
		}
		s.Link, s.Frame = packet.LinkEthernet, data
		s.Header, err = packet.Decode(packet.LinkEthernet, data, s.Length)
	} else {
		link := min(int(header.Net)-int(header.Mac), len(data)) // 0 for tun
		s.Length -= link
		s.Link, s.Frame = packet.LinkRaw, data[link:]
		s.Header, err = packet.DecodeNetwork(networkOrder(address.Protocol), data[link:], s.Length)
		if tagged {
			s.Header.VLANs = slices.Insert(s.Header.VLANs, 0, header.Vlan_tci&0xfff)
		}
	}
	if err != nil {
		r.undecodable.Add(1)
	}
	return s
}

// vlanTag is the length of an 802.1Q tag, which follows the two addresses.
const (
	vlanTag   = 4
	addresses = 12
)

// retag puts the VLAN tag back that the kernel took off a frame.
func retag(data []byte, header *unix.Tpacket2Hdr) []byte {
	protocol := packet.EtherTypeVLAN
	if header.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		protocol = header.Vlan_tpid
	}
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, protocol), header.Vlan_tci)
	return slices.Insert(data, min(addresses, len(data)), tag...)
}

func (r *Ring) point(index int) Point {
	if p, ok := r.points[index]; ok {
		return p
	}
	return Point{NetNS: r.name, Interface: fmt.Sprintf("if%d", index), Index: index, Role: RoleOther}
}

// Stats returns what Run has delivered and the kernel has dropped since
// OpenRing. It works after Close, too.
func (r *Ring) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collect()
	return Stats{Received: r.received.Load(), Lost: r.lost, Undecodable: r.undecodable.Load()}
}

// collect adds the kernel's count of drops, which reading sets to 0.
func (r *Ring) collect() {
	if stats, err := r.conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		r.lost += uint64(stats.Drops)
	}
}

// Close ends the capture and wakes Run. It may be called twice. The kernel
// takes some 25 ms for it, in which other rings can be closed.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Swap(true) {
		return nil
	}
	r.collect()
	err := r.conn.Close()
	if !r.running { // otherwise Run unmaps when it has left the memory
		err = errors.Join(err, r.unmap())
	}
	if err != nil {
		return fmt.Errorf("close packet ring on %s: %w", r.name, err)
	}
	return nil
}

func (r *Ring) acquire() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return os.ErrClosed
	}
	if r.running {
		return errors.New("it is being read already")
	}
	r.running = true
	return nil
}

func (r *Ring) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = false
	if r.closed.Load() {
		_ = r.unmap() // of the whole mapping: cannot fail
	}
}

// unmap also ends the kernel's side: the mapping holds the socket.
func (r *Ring) unmap() error {
	if r.memory == nil {
		return nil
	}
	memory := r.memory
	r.memory = nil
	return unix.MunmapPtr(unsafe.Pointer(&memory[0]), uintptr(len(memory)))
}
