//go:build linux

package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vishnetns "github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/net/icmp"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair makes two namespaces with a cable between them: 192.0.2.1 and .2,
// 2001:db8::1 and ::2, link-local addresses; and a default route at the near
// end for IPv4 only.
func pair(t *testing.T) (near, far *netns.NS) {
	t.Helper()
	testenv.Privileged(t)
	var handles []*netlink.Handle
	var spaces []*netns.NS
	for range 2 {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		handle, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			handle.Close()
			_ = ns.Close()
		})
		spaces, handles = append(spaces, ns), append(handles, handle)
	}
	err := handles[0].LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(spaces[1].FD()),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, addresses := range [][]string{{"192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"}, {"192.0.2.2/24", "2001:db8::2/64", "fe80::2/64"}} {
		link, err := handles[i].LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		// Otherwise the kernel adds a link-local address of its own, some time after
		// the link is up, and prefers it.
		if err := handles[i].LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
			t.Fatal(err)
		}
		for _, text := range addresses {
			address, err := netlink.ParseAddr(text)
			if err != nil {
				t.Fatal(err)
			}
			address.Flags = unix.IFA_F_NODAD
			if err := handles[i].AddrAdd(link, address); err != nil {
				t.Fatal(err)
			}
		}
		if err := handles[i].LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	for _, handle := range handles {
		awaitCarrier(t, handle)
	}
	return spaces[0], spaces[1]
}

// patience is how long something may take that comes about by itself, on the
// busiest machine.
const patience = 30 * time.Second

// awaitCarrier waits until the kernel has taken note that the cable's other end
// is up: before, IPv6 answers nobody.
func awaitCarrier(t *testing.T, handle *netlink.Handle) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		link, err := handle.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("eth0 is %s after %s", link.Attrs().OperState, patience)
		}
	}
}

func TestPing(t *testing.T) {
	near, far := pair(t)
	for _, tt := range []struct {
		name, target, zone, source, listen string
		proto                              packet.Proto
		kind                               uint8
		size, want                         int
	}{
		{"IPv4", "192.0.2.2", "", "192.0.2.1", "ip4:icmp", packet.ICMP, packet.EchoRequest, 0, 56},
		{"IPv6", "2001:db8::2", "", "2001:db8::1", "ip6:ipv6-icmp", packet.ICMPv6, packet.EchoRequestV6, 0, 56},
		{"link-local", "fe80::2", "eth0", "fe80::1", "ip6:ipv6-icmp", packet.ICMPv6, packet.EchoRequestV6, 0, 56},
		{"in fragments", "192.0.2.2", "", "192.0.2.1", "ip4:icmp", packet.ICMP, packet.EchoRequest, 4000, 4000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var listener *icmp.PacketConn
			if err := far.Do(func() (err error) {
				listener, err = icmp.ListenPacket(tt.listen, "")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			ping, err := NewPing(Config{NetNS: near, Target: netip.MustParseAddr(tt.target), Zone: tt.zone, Size: tt.size})
			if err != nil {
				t.Fatal(err)
			}
			defer ping.Close()
			want := packet.Tuple{
				Proto: tt.proto, Src: netip.MustParseAddr(tt.source), Dst: netip.MustParseAddr(tt.target),
				ICMPType: tt.kind, ICMPID: ping.ID,
			}
			if got := ping.Tuple(); got != want || ping.ID == 0 {
				t.Errorf("tuple %+v, want %+v", got, want)
			}
			if err := ping.Send(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			if err := listener.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			buffer := make([]byte, 8192)
			for {
				n, from, err := listener.ReadFrom(buffer)
				if err != nil {
					t.Fatal(err)
				}
				message, err := icmp.ParseMessage(int(tt.proto), buffer[:n])
				if err != nil {
					t.Fatal(err)
				}
				echo, ok := message.Body.(*icmp.Echo)
				if !ok || buffer[0] != tt.kind { // neighbour discovery
					continue
				}
				address, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
				if uint16(echo.ID) != ping.ID || echo.Seq != 7 || !bytes.HasPrefix(echo.Data, ping.Nonce) ||
					len(echo.Data) != tt.want || address.Unmap() != want.Src {
					t.Errorf("got id %d seq %d, %d bytes %x from %v", echo.ID, echo.Seq, len(echo.Data), echo.Data, from)
				}
				break
			}
			// The answer came back and the socket must not keep it.
			if n, err := queued(ping); err != nil || n != 0 {
				t.Errorf("%d bytes are queued in the socket (%v)", n, err)
			}
		})
	}
}

// queued returns how much the kernel put into the socket.
func queued(p *Ping) (n int, err error) {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	return n, errors.Join(controlErr, err)
}

func TestPingUnique(t *testing.T) {
	near, _ := pair(t)
	config := Config{NetNS: near, Target: netip.MustParseAddr("192.0.2.2")}
	first, err := NewPing(config)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := NewPing(config)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if bytes.Equal(first.Nonce, second.Nonce) || len(first.Nonce) != NonceSize {
		t.Errorf("nonces %x and %x", first.Nonce, second.Nonce)
	}
}

func TestUnreachable(t *testing.T) {
	near, _ := pair(t)
	for _, target := range []string{"198.51.100.1", "2001:db8:1::1"} {
		ping, err := NewPing(Config{NetNS: near, Target: netip.MustParseAddr(target)})
		if err != nil {
			t.Fatal(err)
		}
		defer ping.Close()
		if err := ping.Send(t.Context(), 1); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("ping %s: got %v, want %v", target, err, unix.ENETUNREACH)
		}
		if source := ping.Tuple().Src; source.IsValid() {
			t.Errorf("ping %s: source %v without a route", target, source)
		}
		tcp, err := NewTCP(Config{NetNS: near, Target: netip.MustParseAddr(target), Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		if err := tcp.Start(t.Context()); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("tcp %s: got %v, want %v", target, err, unix.ENETUNREACH)
		}
	}
}

func TestDontFragment(t *testing.T) {
	near, _ := pair(t)
	for _, target := range []string{"192.0.2.2", "2001:db8::2"} {
		ping, err := NewPing(Config{NetNS: near, Target: netip.MustParseAddr(target), Size: 4000, DontFragment: true})
		if err != nil {
			t.Fatal(err)
		}
		defer ping.Close()
		if err := ping.Send(t.Context(), 1); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("%s: got %v, want %v", target, err, unix.EMSGSIZE)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	near, _ := pair(t)
	for name, config := range map[string]Config{
		"no target":         {NetNS: near},
		"zone in target":    {NetNS: near, Target: netip.MustParseAddr("fe80::1%eth0")},
		"mapped target":     {NetNS: near, Target: netip.MustParseAddr("::ffff:192.0.2.2")},
		"no such interface": {NetNS: near, Target: netip.MustParseAddr("fe80::2"), Zone: "eth9"},
		"no room for nonce": {NetNS: near, Target: netip.MustParseAddr("192.0.2.2"), Size: NonceSize - 1},
		"too large":         {NetNS: near, Target: netip.MustParseAddr("192.0.2.2"), Size: MaxSize + 1},
	} {
		if ping, err := NewPing(config); err == nil {
			t.Errorf("%s: no error", name)
			_ = ping.Close()
		}
	}
}

func TestTCP(t *testing.T) {
	near, far := pair(t)
	for _, tt := range []struct{ network, target, zone, source string }{
		{"tcp4", "192.0.2.2", "", "192.0.2.1"},
		{"tcp6", "2001:db8::2", "", "2001:db8::1"},
		{"tcp6", "fe80::2", "eth0", "fe80::1"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			var listener net.Listener
			if err := far.Do(func() (err error) {
				listener, err = net.Listen(tt.network, ":0")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			port := uint16(listener.Addr().(*net.TCPAddr).Port)
			tcp, err := NewTCP(Config{NetNS: near, Target: netip.MustParseAddr(tt.target), Zone: tt.zone, Port: port})
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			if err := tcp.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			want := packet.Tuple{
				Proto: packet.TCP, Src: netip.MustParseAddr(tt.source), SrcPort: remote.Port(),
				Dst: netip.MustParseAddr(tt.target), DstPort: port,
			}
			if got := tcp.Tuple(); got != want || remote.Addr().Unmap().WithZone("") != want.Src {
				t.Errorf("tuple %v, want %v; the far end sees %v", got, want, remote)
			}
			// The far end sees the end of the stream, not a reset.
			if err := errors.Join(tcp.Close(), tcp.Close(), conn.SetReadDeadline(time.Now().Add(patience))); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("the far end reads %d bytes, %v", n, err)
			}
		})
	}
}

// TestSend sends data in segments of their own, and gives up with a reset.
func TestSend(t *testing.T) {
	near, far := pair(t)
	var listener net.Listener
	if err := far.Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	tcp, err := NewTCP(Config{NetNS: near, Target: netip.MustParseAddr("192.0.2.2"), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tcp.Start(ctx); err != nil {
		t.Fatal(err)
	}
	const timestamps = 12
	if size, err := tcp.Established(ctx); err != nil || size != 1500-40-timestamps {
		t.Fatalf("a full-size segment holds %d bytes (%v), want %d", size, err, 1500-40-timestamps)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	const bytes = 1 << 18 // more than a socket takes at once
	received := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, conn, bytes)
		received <- err
	}()
	if err := errors.Join(tcp.Send(ctx, bytes), <-received); err != nil {
		t.Fatal(err)
	}
	if !tcp.Acknowledged(ctx) {
		t.Error("not acknowledged")
	}
	if err := errors.Join(tcp.Abort(), tcp.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the far end sees %v, want a reset", err)
	}
}

// Nobody answers, so there is no connection to send data over.
func TestNotEstablished(t *testing.T) {
	near, _ := pair(t)
	tcp, err := NewTCP(Config{NetNS: near, Target: netip.MustParseAddr("192.0.2.77"), Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := tcp.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if size, err := tcp.Established(ctx); err == nil {
		t.Errorf("established, with segments of %d bytes", size)
	}
}
