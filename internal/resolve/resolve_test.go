//go:build linux

package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/socket"
	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The first thread stays out of other namespaces: /proc/PID shows that thread.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a source with a cable to a name server.
type network struct {
	source *container.Source
	server *netns.NS
	etc    string
}

// Addresses of a network: of the source, and of the server.
const (
	near4, near6 = "192.0.2.1/24", "2001:db8::1/64"
	far4, far6   = "192.0.2.53/24", "2001:db8::53/64"
)

// newNetwork makes a source with a root directory of its own. The source has a
// link-local address and those given.
func newNetwork(t *testing.T, addresses ...string) *network {
	t.Helper()
	testenv.Privileged(t)
	n := new(network)
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
	n.server = spaces[1]
	if err := handles[0].LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.server.FD()),
	}); err != nil {
		t.Fatal(err)
	}
	for i, list := range [][]string{append(addresses, "fe80::1/64"), {far4, far6, "fe80::53/64"}} {
		for _, name := range []string{"lo", "eth0"} {
			link, err := handles[i].LinkByName(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := handles[i].LinkSetUp(link); err != nil {
				t.Fatal(err)
			}
			for _, text := range list {
				address, err := netlink.ParseAddr(text)
				if err != nil {
					t.Fatal(err)
				}
				address.Flags = unix.IFA_F_NODAD
				if name == "eth0" {
					if err := handles[i].AddrAdd(link, address); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	root := t.TempDir()
	n.etc = filepath.Join(root, "etc")
	if err := os.Mkdir(n.etc, 0o755); err != nil {
		t.Fatal(err)
	}
	source, err := container.Find(t.Context(), container.Config{PID: process(t, spaces[0], root)})
	if err != nil {
		t.Fatal(err)
	}
	source.Name = "cnt01"
	t.Cleanup(func() { _ = source.Close() })
	n.source = source
	return n
}

// process makes something with a pid whose network namespace is ns and whose
// root directory is root: a thread.
func process(t *testing.T, ns *netns.NS, root string) int {
	t.Helper()
	ready, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	var tid int
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its goroutine
		defer close(ended)
		tid = unix.Gettid()
		ready <- errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(ns.FD(), unix.CLONE_NEWNET), unix.Chroot(root))
		<-end
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(end)
		<-ended
	})
	return tid
}

func (n *network) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.etc, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// serve answers DNS queries at port 53 of the server, over UDP and TCP.
func (n *network) serve(t *testing.T, answer func(q dnsmessage.Question, tcp, edns bool) dnsmessage.Message) {
	t.Helper()
	packets, listener := n.listen(t, unix.SOCK_DGRAM), n.listen(t, unix.SOCK_STREAM)
	ctx, cancel := context.WithCancel(context.Background())
	reply := func(query []byte, tcp bool) []byte {
		var message dnsmessage.Message
		if err := message.Unpack(query); err != nil || len(message.Questions) != 1 {
			t.Errorf("query %x: %v", query, err)
			return nil
		}
		response := answer(message.Questions[0], tcp, len(message.Additionals) > 0)
		response.ID, response.Response = message.ID, true
		response.Questions = message.Questions
		packed, err := response.Pack()
		if err != nil {
			t.Error(err)
		}
		return packed
	}
	var running sync.WaitGroup
	running.Go(func() {
		buffer := make([]byte, 4096)
		for {
			size, from, err := packets.Recvfrom(ctx, buffer, 0)
			if err != nil {
				return
			}
			answer := reply(buffer[:size], false)
			// What is not an answer to this query must not disturb.
			forged := append([]byte{answer[0] + 1}, answer[1:]...)
			for _, packet := range [][]byte{forged, []byte("garbage"), answer} {
				_ = packets.Sendto(ctx, packet, 0, from)
			}
		}
	})
	running.Go(func() {
		for {
			conn, _, err := listener.Accept(ctx, 0)
			if err != nil {
				return
			}
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err == nil {
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(conn, query); err == nil {
					answer := reply(query, true)
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
				}
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		_ = packets.Close()
		_ = listener.Close()
	})
}

// listen opens a socket at port 53 of the server. Package net would look up
// the interfaces of link-local clients in another namespace.
func (n *network) listen(t *testing.T, kind int) *socket.Conn {
	t.Helper()
	conn, err := socket.Socket(unix.AF_INET6, kind, 0, "dns", &socket.Config{NetNS: n.server.FD()})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		conn.SetsockoptInt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		conn.Bind(&unix.SockaddrInet6{Port: 53}),
	); err != nil {
		t.Fatal(err)
	}
	if kind == unix.SOCK_STREAM {
		if err := conn.Listen(8); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

func record(name string, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET}, Body: body}
}

func a(address string) dnsmessage.ResourceBody {
	return &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()}
}

func aaaa(address string) dnsmessage.ResourceBody {
	return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(address).As16()}
}

func alias(name string) dnsmessage.ResourceBody {
	return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(name)}
}

// zone is an answerer that knows these records.
func zone(records ...dnsmessage.Resource) func(dnsmessage.Question, bool, bool) dnsmessage.Message {
	return func(q dnsmessage.Question, tcp, edns bool) (m dnsmessage.Message) {
		name := q.Name.String()
		if code, found := map[string]dnsmessage.RCode{"refused.": dnsmessage.RCodeRefused, "broken.": dnsmessage.RCodeServerFailure}[name]; found {
			m.RCode = code
			return m
		}
		if name == "old." && edns {
			m.RCode = dnsmessage.RCodeFormatError
			return m
		}
		m.RCode = dnsmessage.RCodeNameError
		for _, r := range records {
			if strings.EqualFold(r.Header.Name.String(), name) {
				m.RCode = dnsmessage.RCodeSuccess
				_, isAlias := r.Body.(*dnsmessage.CNAMEResource)
				_, is6 := r.Body.(*dnsmessage.AAAAResource)
				if isAlias || is6 == (q.Type == dnsmessage.TypeAAAA) {
					m.Answers = append(m.Answers, r)
				}
				if isAlias {
					name = r.Body.(*dnsmessage.CNAMEResource).CNAME.String()
				}
			}
		}
		if q.Name.String() == "large." && !tcp {
			m.Truncated, m.Answers = true, nil
		}
		return m
	}
}

var records = zone(
	record("dns.google.", a("198.51.100.8")), record("dns.google.", aaaa("2001:db8:8::8")),
	record("four.", a("198.51.100.4")), record("six.", aaaa("2001:db8:8::6")),
	record("alias.", alias("second.")), record("second.", alias("DNS.google.")), record("DNS.google.", aaaa("2001:db8:8::9")),
	record("circle.", alias("circle.")),
	record("large.", aaaa("2001:db8:8::7")), record("old.", aaaa("2001:db8:8::5")),
	record("web.corp.example.", a("198.51.100.80")), record("a.web.", a("198.51.100.81")),
)

func TestLookup(t *testing.T) {
	n := newNetwork(t, near4, near6)
	n.serve(t, records)
	n.write(t, "hosts", "127.0.0.1 localhost\n192.0.2.7 box\nfe80::7%eth0 linked\n192.0.2.8 dns.google\n")
	for _, conf := range []string{
		"nameserver 192.0.2.53\n", "nameserver 2001:db8::53\n", "nameserver fe80::53%eth0\n", "nameserver 192.0.2.53\noptions use-vc\n",
		"nameserver 203.0.113.1\nnameserver 127.0.0.1\nnameserver 192.0.2.53\n", // unreachable, refused, good
	} {
		n.write(t, "resolv.conf", conf+"search corp.example\n")
		servers := parseResolvConf([]byte(conf)).servers
		server := servers[len(servers)-1]
		for _, tt := range []struct {
			name string
			want Family
			out  Result
		}{
			{"dns.google", IPv6, Result{Address: netip.MustParseAddr("2001:db8:8::8"), How: "DNS server " + server.String(), Server: server}},
			{"dns.google", IPv4, Result{Address: netip.MustParseAddr("192.0.2.8"), How: "hosts file"}},
			{"DNS.GOOGLE.", IPv6, Result{Address: netip.MustParseAddr("2001:db8:8::8"), How: "DNS server " + server.String(), Server: server}},
			{"alias", IPv6, Result{Address: netip.MustParseAddr("2001:db8:8::9"), How: "DNS server " + server.String(), Server: server}},
			{"large", IPv6, Result{Address: netip.MustParseAddr("2001:db8:8::7"), How: "DNS server " + server.String(), Server: server}},
			{"old", IPv6, Result{Address: netip.MustParseAddr("2001:db8:8::5"), How: "DNS server " + server.String(), Server: server}},
			{"web", Any, Result{Address: netip.MustParseAddr("198.51.100.80"), How: "DNS server " + server.String(), Server: server}},
			{"a.web", IPv4, Result{Address: netip.MustParseAddr("198.51.100.81"), How: "DNS server " + server.String(), Server: server}},
			{"four", Any, Result{Address: netip.MustParseAddr("198.51.100.4"), How: "DNS server " + server.String(), Server: server}},
			{"six", Any, Result{Address: netip.MustParseAddr("2001:db8:8::6"), How: "DNS server " + server.String(), Server: server}},
			{"box", Any, Result{Address: netip.MustParseAddr("192.0.2.7"), How: "hosts file"}},
			{"linked", IPv6, Result{Address: netip.MustParseAddr("fe80::7"), Zone: "eth0", How: "hosts file"}},
		} {
			got, err := Lookup(t.Context(), Config{Source: n.source, Name: tt.name, Want: tt.want})
			if err != nil || got != tt.out {
				t.Errorf("%q, %s %s: got %+v, %v; want %+v", conf, tt.name, tt.want, got, err, tt.out)
			}
		}
	}
}

// TestLookupFails: each error says who was asked and what was said.
func TestLookupFails(t *testing.T) {
	n := newNetwork(t, near4)
	n.serve(t, records)
	for _, tt := range []struct {
		name, conf string
		want       Family
		kind       Kind
		says       []string
	}{
		{"nosuch", "nameserver 192.0.2.53", IPv6, NoSuchName, []string{`"nosuch" does not exist in cnt01`, "192.0.2.53 (from /etc/resolv.conf)", "NXDOMAIN"}},
		{"nosuch", "nameserver 192.0.2.53\nsearch corp.example", IPv6, NoSuchName, []string{`"nosuch.corp.example": NXDOMAIN`, `asked for "nosuch": NXDOMAIN`}},
		{"four", "nameserver 192.0.2.53", IPv6, NoAddress, []string{"no IPv6 address in cnt01", "198.51.100.4", "pathtrace ping"}},
		{"six", "nameserver 192.0.2.53", IPv4, NoAddress, []string{"no IPv4 address", "2001:db8:8::6", "pathtrace ping6"}},
		{"circle", "nameserver 192.0.2.53", IPv6, NoAddress, []string{"exists and has no IPv6 address", "no record of type AAAA"}},
		{"refused", "nameserver 192.0.2.53", IPv6, NoAnswer, []string{"cannot be resolved in cnt01", "REFUSED"}},
		{"broken", "nameserver 192.0.2.53", Any, NoAnswer, []string{"SERVFAIL"}},
		{"four", "nameserver 203.0.113.1", IPv4, NoAnswer, []string{"203.0.113.1", "network is unreachable"}},
		{"four", "nameserver 127.0.0.1", IPv4, NoAnswer, []string{"127.0.0.1", "connection refused"}},
		{"four", "", IPv4, NoAnswer, []string{"127.0.0.1", "connection refused"}},
		{"four", "nameserver fe80::53%eth9", IPv4, NoAnswer, []string{"fe80::53%eth9", `no interface "eth9"`}},
		{"four", "nameserver 192.0.2.99\noptions timeout:1 attempts:1", IPv4, NoAnswer, []string{"192.0.2.99", "no answer within 1s"}},
	} {
		n.write(t, "resolv.conf", tt.conf)
		_, err := Lookup(t.Context(), Config{Source: n.source, Name: tt.name, Want: tt.want})
		var failure *Error
		if !errors.As(err, &failure) || failure.Kind != tt.kind {
			t.Errorf("%s with %q: got %v, want kind %d", tt.name, tt.conf, err, tt.kind)
			continue
		}
		for _, part := range tt.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s with %q: got %q, want %q in it", tt.name, tt.conf, err, part)
			}
		}
	}
}

// TestLookupOrder: of both families, the one that the source can use.
func TestLookupOrder(t *testing.T) {
	for _, tt := range []struct {
		name      string
		addresses []string
		want      string
	}{
		{"both", []string{near4, near6}, "2001:db8:0::9"},
		{"IPv4 only", []string{near4}, "192.0.2.9"},
		{"a unique local address", []string{near4, "fd00::1/0"}, "192.0.2.9"},
		{"IPv6 only", []string{near6}, "2001:db8:0::9"},
		{"none", nil, "2001:db8:0::9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t, tt.addresses...)
			n.write(t, "hosts", "192.0.2.9 target\n2001:db8:0::9 target\n")
			got, err := Lookup(t.Context(), Config{Source: n.source, Name: "target"})
			if err != nil || got.Address != netip.MustParseAddr(tt.want) {
				t.Errorf("got %+v, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestLiteral(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Family
		out  Result
		says string
	}{
		{"192.0.2.1", Any, Result{Address: netip.MustParseAddr("192.0.2.1")}, ""},
		{"2001:db8::1", IPv6, Result{Address: netip.MustParseAddr("2001:db8::1")}, ""},
		{"[2001:db8::1]", Any, Result{Address: netip.MustParseAddr("2001:db8::1")}, ""},
		{"::ffff:192.0.2.1", IPv4, Result{Address: netip.MustParseAddr("192.0.2.1")}, ""},
		{"fe80::1%eth0", IPv6, Result{Address: netip.MustParseAddr("fe80::1"), Zone: "eth0"}, ""},
		{"fe80::1", Any, Result{}, "link-local: name the interface"},
		{"192.0.2.1", IPv6, Result{}, "192.0.2.1 is not an IPv6 address"},
		{"2001:db8::1", IPv4, Result{}, "is not an IPv4 address"},
		{"0.0.0.0", Any, Result{}, "not the address of a host"},
		{"", Any, Result{}, "neither an address nor a host name"},
		{"a..b", Any, Result{}, "neither an address nor a host name"},
		{"evil\x1b[31m", Any, Result{}, `"evil\x1b[31m" is neither`},
		{strings.Repeat("a", 64), Any, Result{}, "neither an address nor a host name"},
		{strings.Repeat("a.", 127) + "b", Any, Result{}, "neither an address nor a host name"},
	} {
		got, err := Lookup(t.Context(), Config{Name: tt.name, Want: tt.want})
		if got != tt.out || (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: got %+v, %v; want %+v, %q", tt.name, got, err, tt.out, tt.says)
		}
	}
}

// TestLookupCancelled ends at once, although the server would let us wait.
func TestLookupCancelled(t *testing.T) {
	n := newNetwork(t, near4)
	n.write(t, "resolv.conf", "nameserver 192.0.2.53\n")
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Bool
	var packets net.PacketConn
	if err := n.server.Do(func() (err error) {
		packets, err = net.ListenPacket("udp4", ":53")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, _, err := packets.ReadFrom(make([]byte, 512)); err == nil {
			asked.Store(true)
			cancel()
		}
	}()
	started := time.Now()
	_, err := Lookup(ctx, Config{Source: n.source, Name: "four", Want: IPv4})
	if !errors.Is(err, context.Canceled) || time.Since(started) > 4*time.Second || !asked.Load() {
		t.Errorf("got %v after %v", err, time.Since(started))
	}
	_ = packets.Close()
	<-done
	cancel()
}

func FuzzParse(f *testing.F) {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("dns.google."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}
	message := records(question, false, true)
	message.ID, message.Response, message.Questions = 7, true, []dnsmessage.Question{question}
	packed, err := message.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := parse(data, 7, question)
		for _, address := range got.addresses {
			if !ok || !address.Is6() {
				t.Errorf("address %v", address)
			}
		}
	})
}
