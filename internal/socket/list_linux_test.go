package socket

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSockets lists what this process has in a namespace and finds itself as
// the one that holds it.
func TestSockets(t *testing.T) {
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err == nil {
		err = handle.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	var listener, both net.Listener
	var client, server net.Conn
	var datagrams net.PacketConn
	if err := ns.Do(func() (err error) {
		if listener, err = net.Listen("tcp4", "127.0.0.1:8080"); err != nil {
			return err
		}
		if both, err = net.Listen("tcp", ":8081"); err != nil {
			return err
		}
		if datagrams, err = net.ListenPacket("udp6", "[::]:8080"); err != nil {
			return err
		}
		if client, err = net.Dial("tcp4", "127.0.0.1:8080"); err != nil {
			return err
		}
		server, err = listener.Accept()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Close() error }{listener, both, client, server, datagrams} {
		defer c.Close()
	}
	from := client.LocalAddr().(*net.TCPAddr).AddrPort()
	tuple := func(proto packet.Proto, src, dst string) packet.Tuple {
		s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
		return packet.Tuple{Proto: proto, Src: s.Addr(), SrcPort: s.Port(), Dst: d.Addr(), DstPort: d.Port()}
	}
	for name, tt := range map[string]struct {
		query Query
		tuple packet.Tuple
		local string // empty: none takes it
	}{
		"listening":        {Query{Proto: packet.TCP, Local: 8080}, tuple(packet.TCP, "127.0.0.1:1", "127.0.0.1:8080"), "127.0.0.1:8080"},
		"another address":  {Query{Proto: packet.TCP, Local: 8080}, tuple(packet.TCP, "127.0.0.1:1", "127.0.0.2:8080"), ""},
		"of both versions": {Query{Proto: packet.TCP, Local: 8081}, tuple(packet.TCP, "127.0.0.1:1", "127.0.0.1:8081"), "[::]:8081"},
		"UDP, IPv6 only":   {Query{Proto: packet.UDP, Local: 8080}, tuple(packet.UDP, "127.0.0.1:1", "127.0.0.1:8080"), ""},
		"UDP":              {Query{Proto: packet.UDP, Local: 8080}, tuple(packet.UDP, "[::1]:1", "[::1]:8080"), "[::]:8080"},
		"accepted":         {Query{Proto: packet.TCP, Local: 8080, Connected: true}, tuple(packet.TCP, from.String(), "127.0.0.1:8080"), "127.0.0.1:8080"},
		"connected":        {Query{Proto: packet.TCP, Remote: 8080, Connected: true}, tuple(packet.TCP, "127.0.0.1:8080", from.String()), from.String()},
	} {
		all, err := List(ns, tt.query)
		if err != nil {
			t.Fatal(err)
		}
		got := Taking(all, tt.tuple)
		if tt.local == "" {
			if len(got) != 0 {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Local.String() != tt.local {
			t.Errorf("%s: %+v of %+v, want %s", name, got, all, tt.local)
			continue
		}
		if got[0].Remote.IsValid() != tt.query.Connected {
			t.Errorf("%s: the other end is %s", name, got[0].Remote)
		}
		for what, pids := range map[string][]int{"all": nil, "own": {os.Getpid()}} {
			holder, ok := Holders(t.Context(), []uint32{got[0].Inode}, pids...)[got[0].Inode]
			if !ok || holder.PID != os.Getpid() || holder.Command == "" || holder.Forwards.IsValid() || holder.NetNS == 0 || holder.NetNS == ns.ID() {
				t.Errorf("%s, of %s processes: held by %+v (%v), want pid %d in another namespace", name, what, holder, ok, os.Getpid())
			}
		}
		if others := Holders(t.Context(), []uint32{got[0].Inode}, 1); len(others) != 0 && os.Getpid() != 1 {
			t.Errorf("%s: held by process 1: %+v", name, others)
		}
	}
}

// BenchmarkHolders looks for a socket that nobody has, in all processes.
func BenchmarkHolders(b *testing.B) {
	for b.Loop() {
		Holders(b.Context(), []uint32{1 << 31})
	}
}
