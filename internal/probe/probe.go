//go:build linux

// Package probe sends the packets that are traced, from inside a network
// namespace. A probe is known before it is sent – its tuple and, for an echo,
// a nonce in its data – so that sensors can be armed for it and for nothing
// else.
//
// A ping needs CAP_NET_RAW in the namespace's user namespace. Nothing is
// changed on the host. What became of a probe is never asked of its socket: an
// error that the kernel returns is a hint, and an answer is for the sensors to
// see.
package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/mdlayher/socket"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Config says what is sent, and from where.
type Config struct {
	// NetNS is the namespace; nil means that of the calling thread.
	NetNS *netns.NS
	// Target is the address without a zone; Zone is the interface of a
	// link-local target.
	Target netip.Addr
	Zone   string
	// Port is the target's port; pings have none.
	Port uint16
	// SourcePort is the port that is sent from; 0 lets the kernel choose a free
	// one. Pings have none.
	SourcePort uint16
	// Size is the number of bytes of echo data, at least NonceSize; 0 means
	// 56, as ping sends.
	Size int
	// DontFragment lets nobody fragment a ping, this kernel included. What an
	// earlier ICMP error said of the path's MTU does not count: the packet is to
	// come to the narrow place again.
	DontFragment bool
}

const (
	// NonceSize is the number of random bytes at the start of an echo's data.
	NonceSize = 16
	// DefaultSize is that of Config.Size.
	DefaultSize = 56
	// MaxSize is the most that fits: IPv4's total length, less both headers.
	MaxSize = 65507
)

// Ping sends echo requests.
type Ping struct {
	// ID is the echo identifier, random and never 0.
	ID uint16
	// Nonce is the start of the echo data: NonceSize random bytes.
	Nonce []byte
	// Size is the number of bytes of echo data.
	Size int

	conn  *socket.Conn
	to    unix.Sockaddr
	tuple packet.Tuple
}

// NewPing opens the socket. Without CAP_NET_RAW the error is
// fs.ErrPermission. It sends nothing.
func NewPing(config Config) (*Ping, error) {
	if config.Size == 0 {
		config.Size = DefaultSize
	}
	if config.Size < NonceSize || config.Size > MaxSize {
		return nil, fmt.Errorf("ping with %d bytes of data: the size is from %d to %d", config.Size, NonceSize, MaxSize)
	}
	to, err := config.address()
	if err != nil {
		return nil, err
	}
	p := &Ping{to: to, Size: config.Size, Nonce: make([]byte, NonceSize)}
	random := make([]byte, 2)
	for p.ID == 0 {
		// rand.Read never fails.
		_, _ = rand.Read(random)
		p.ID = binary.NativeEndian.Uint16(random)
	}
	_, _ = rand.Read(p.Nonce)
	p.tuple = packet.Tuple{Proto: packet.ICMP, Src: config.source(to), Dst: config.Target, ICMPType: packet.EchoRequest, ICMPID: p.ID}
	if config.Target.Is6() {
		p.tuple.Proto, p.tuple.ICMPType = packet.ICMPv6, packet.EchoRequestV6
	}
	if p.conn, err = config.open(unix.SOCK_RAW, int(p.tuple.Proto)); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("open a raw socket for the ping (needs CAP_NET_RAW): %w", err)
		}
		return nil, fmt.Errorf("open a raw socket for the ping: %w", err)
	}
	if err := p.deafen(); err != nil {
		return nil, errors.Join(fmt.Errorf("open a raw socket for the ping: %w", err), p.conn.Close())
	}
	return p, nil
}

// deafen makes the kernel put no packet into the socket, which nobody reads.
func (p *Ping) deafen() error {
	if p.tuple.Proto == packet.ICMP {
		return p.conn.SetsockoptInt(unix.SOL_RAW, unix.ICMP_FILTER, -1) // each bit blocks a type
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	return p.conn.SetsockoptICMPv6Filter(unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
}

// Tuple is that of the echo requests. Its source is the address that the
// kernel chooses, invalid when it knows no route.
func (p *Ping) Tuple() packet.Tuple { return p.tuple }

// Send sends one echo request. The error is the kernel's: unix.ENETUNREACH
// without a route, unix.EPERM when a rule of the namespace drops it,
// unix.EMSGSIZE when it is too big.
func (p *Ping) Send(ctx context.Context, seq uint16) error {
	data := make([]byte, p.Size)
	for i := copy(data, p.Nonce); i < len(data); i++ {
		data[i] = byte(i)
	}
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.ID), Seq: int(seq), Data: data}}
	if p.tuple.Proto == packet.ICMPv6 {
		message.Type = ipv6.ICMPTypeEchoRequest
	}
	// The kernel fills in the checksum of ICMPv6.
	frame, err := message.Marshal(nil)
	if err != nil {
		return fmt.Errorf("send echo request: %w", err)
	}
	if err := p.conn.Sendto(ctx, frame, 0, p.to); err != nil {
		return fmt.Errorf("send echo request: %w", cause(err))
	}
	return nil
}

// Close releases the socket. It may be called twice.
func (p *Ping) Close() error { return p.conn.Close() }

// bind takes a port for a socket, but no address: that is left to the kernel,
// which may choose by the target.
func (c *Config) bind(conn *socket.Conn) (uint16, error) {
	var wildcard unix.Sockaddr = &unix.SockaddrInet4{Port: int(c.SourcePort)}
	if c.Target.Is6() {
		wildcard = &unix.SockaddrInet6{Port: int(c.SourcePort)}
	}
	if err := conn.Bind(wildcard); err != nil {
		return 0, err
	}
	local, err := conn.Getsockname()
	if err != nil {
		return 0, err
	}
	return addrPort(local).Port(), nil
}

// open opens a socket in the namespace.
func (c *Config) open(kind, protocol int) (*socket.Conn, error) {
	family := unix.AF_INET
	if c.Target.Is6() {
		family = unix.AF_INET6
	}
	var where socket.Config
	if c.NetNS != nil {
		where.NetNS = c.NetNS.FD()
	}
	conn, err := socket.Socket(family, kind, protocol, "probe", &where)
	if err != nil {
		return nil, err
	}
	if c.DontFragment {
		if family == unix.AF_INET {
			err = conn.SetsockoptInt(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		} else {
			err = errors.Join(
				conn.SetsockoptInt(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
				conn.SetsockoptInt(unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

// address returns the target for the kernel.
func (c *Config) address() (unix.Sockaddr, error) {
	if !c.Target.IsValid() || c.Target.Zone() != "" || c.Target.Is4In6() {
		return nil, fmt.Errorf("%q is not an address that a probe can be sent to", c.Target)
	}
	if c.Target.Is4() {
		return &unix.SockaddrInet4{Addr: c.Target.As4(), Port: int(c.Port)}, nil
	}
	to := &unix.SockaddrInet6{Addr: c.Target.As16(), Port: int(c.Port)}
	if c.Zone == "" {
		return to, nil
	}
	// The index is the namespace's. (net.InterfaceByName would dump all.)
	conn, err := c.open(unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, fmt.Errorf("find interface %q: %w", c.Zone, err)
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	request, err := unix.NewIfreq(c.Zone)
	if err != nil {
		return nil, fmt.Errorf("find interface %q: %w", c.Zone, err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find interface %q: %w", c.Zone, err)
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCGIFINDEX, request) })
	if err := errors.Join(controlErr, err); err != nil {
		return nil, fmt.Errorf("find interface %q: %w", c.Zone, err)
	}
	to.ZoneId = request.Uint32()
	return to, nil
}

// Source is the address that a namespace sends from to a target, as its kernel
// chooses; invalid when that knows no route. Nothing is sent.
func Source(ns *netns.NS, target netip.Addr) netip.Addr {
	c := Config{NetNS: ns, Target: target, Port: 9} // discard: a port has to be named
	to, err := c.address()
	if err != nil {
		return netip.Addr{}
	}
	return c.source(to)
}

// source asks the kernel which address it would send from, without a packet;
// invalid when it knows no route.
func (c *Config) source(to unix.Sockaddr) netip.Addr {
	conn, err := c.open(unix.SOCK_DGRAM, 0)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.Addr{}
	}
	// connect(2) of a UDP socket sends nothing: it looks up the route.
	controlErr := raw.Control(func(fd uintptr) { err = unix.Connect(int(fd), to) })
	if controlErr != nil || err != nil {
		return netip.Addr{}
	}
	local, err := conn.Getsockname()
	if err != nil {
		return netip.Addr{}
	}
	return addrPort(local).Addr()
}

func addrPort(address unix.Sockaddr) netip.AddrPort {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// cause strips what the socket package wraps around an error of the kernel.
func cause(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}
