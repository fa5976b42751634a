package ruletrace

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	vishnetlink "github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// space is a network namespace of a test.
type space struct {
	t  testing.TB
	ns *netns.NS
}

func newSpace(t testing.TB) space {
	t.Helper()
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	s := space{t, ns}
	s.up("lo")
	return s
}

// do runs f in the namespace and fails the test with its error.
func (s space) do(f func() error) {
	s.t.Helper()
	if err := s.ns.Do(f); err != nil {
		s.t.Fatal(err)
	}
}

func (s space) up(link string) {
	s.t.Helper()
	s.do(func() error {
		l, err := vishnetlink.LinkByName(link)
		if err != nil {
			return err
		}
		return vishnetlink.LinkSetUp(l)
	})
}

func (s space) address(link, prefix string) {
	s.t.Helper()
	s.do(func() error {
		l, err := vishnetlink.LinkByName(link)
		if err != nil {
			return err
		}
		addr, err := vishnetlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		return vishnetlink.AddrAdd(l, addr)
	})
}

func (s space) route(destination, gateway string) {
	s.t.Helper()
	s.do(func() error {
		_, dst, err := net.ParseCIDR(destination)
		if err != nil {
			return err
		}
		return vishnetlink.RouteAdd(&vishnetlink.Route{Dst: dst, Gw: net.ParseIP(gateway)})
	})
}

func (s space) sysctl(name, value string) {
	s.t.Helper()
	s.do(func() error {
		return os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
	})
}

// veth joins two namespaces.
func veth(a space, nameA string, b space, nameB string) {
	a.t.Helper()
	a.do(func() error {
		return vishnetlink.LinkAdd(&vishnetlink.Veth{
			LinkAttrs: vishnetlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: vishnetlink.NsFd(b.ns.FD()),
		})
	})
	a.up(nameA)
	b.up(nameB)
}

// tool runs a tool in the namespace and returns what it printed.
func (s space) tool(name string, args ...string) string {
	s.t.Helper()
	path := testenv.Tool(s.t, name)
	var out []byte
	s.do(func() error {
		var err error
		if out, err = exec.Command(path, args...).CombinedOutput(); err != nil {
			s.t.Logf("%s %q: %s", name, args, out)
		}
		return err
	})
	return string(out)
}

// nft loads a ruleset.
func (s space) nft(ruleset string) {
	s.t.Helper()
	path := testenv.Tool(s.t, "nft")
	s.do(func() error {
		cmd := exec.Command(path, "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		out, err := cmd.CombinedOutput()
		if err != nil {
			s.t.Logf("nft: %s", out)
		}
		return err
	})
}

// router is client – router – server with IPv4 and IPv6, forwarding.
type router struct{ client, router, server space }

var (
	clientAddr  = netip.MustParseAddr("10.1.0.2")
	serverAddr  = netip.MustParseAddr("10.2.0.2")
	clientAddr6 = netip.MustParseAddr("fd00:1::2")
	serverAddr6 = netip.MustParseAddr("fd00:2::2")
)

func newRouter(t testing.TB) router {
	t.Helper()
	r := router{newSpace(t), newSpace(t), newSpace(t)}
	veth(r.client, "eth0", r.router, "left")
	veth(r.server, "eth0", r.router, "right")
	for _, x := range []struct {
		s            space
		link, prefix string
	}{
		{r.client, "eth0", "10.1.0.2/24"},
		{r.client, "eth0", "fd00:1::2/64"},
		{r.router, "left", "10.1.0.1/24"},
		{r.router, "left", "fd00:1::1/64"},
		{r.router, "right", "10.2.0.1/24"},
		{r.router, "right", "fd00:2::1/64"},
		{r.server, "eth0", "10.2.0.2/24"},
		{r.server, "eth0", "fd00:2::2/64"},
	} {
		x.s.address(x.link, x.prefix)
	}
	r.client.route("0.0.0.0/0", "10.1.0.1")
	r.client.route("::/0", "fd00:1::1")
	r.server.route("0.0.0.0/0", "10.2.0.1")
	r.server.route("::/0", "fd00:2::1")
	r.router.sysctl("net.ipv4.ip_forward", "1")
	r.router.sysctl("net.ipv6.conf.all.forwarding", "1")
	return r
}

// nonce is what the tests' echo requests carry.
var nonce = []byte("0123456789abcdef")

const echoID = 4711

func echoMatch() Match {
	return Match{Proto: packet.ICMP, Source: clientAddr, Target: serverAddr, ICMPID: echoID, Nonce: nonce}
}

// ping sends an echo request and reports whether the answer came. A drop is
// awaited with a deadline.
func (s space) ping(target netip.Addr, id, seq int, wait time.Duration) bool {
	s.t.Helper()
	network, protocol, kind, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if target.Is6() {
		network, protocol, kind, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var conn *icmp.PacketConn
	s.do(func() error {
		var err error
		conn, err = icmp.ListenPacket(network, "")
		return err
	})
	defer conn.Close() //nolint:errcheck // test
	request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: seq, Data: append(slices.Clone(nonce), "tail"...)}}).Marshal(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: target.AsSlice()}); err != nil {
		s.t.Logf("send: %v", err)
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	buffer := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return false
		}
		m, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil {
			s.t.Fatal(err)
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && m.Type == reply && echo.ID == id && echo.Seq == seq {
			return true
		}
	}
}

// answered is how long an answer that must come may take; unanswered how long
// a test waits for one that must not.
const (
	answered   = 5 * time.Second
	unanswered = 50 * time.Millisecond
)

// listener reads a namespace's trace messages.
type listener struct {
	t    testing.TB
	conn *netlink.Conn
	d    *TraceDecoder
	seq  uint64
	raw  []netlink.Message
}

func (s space) listen(name string) *listener {
	s.t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: s.ns.FD()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.JoinGroup(TraceGroup); err != nil {
		s.t.Fatal(err)
	}
	return &listener{t: s.t, conn: conn, d: NewTraceDecoder(name, s.interfaces())}
}

// interfaces returns a name function for the namespace's interfaces.
func (s space) interfaces() func(uint32) string {
	names := map[uint32]string{}
	s.do(func() error {
		links, err := vishnetlink.LinkList()
		for _, l := range links {
			names[uint32(l.Attrs().Index)] = l.Attrs().Name
		}
		return err
	})
	return func(index uint32) string { return names[index] }
}

// hits drains what the kernel queued.
func (l *listener) hits() []Hit {
	l.t.Helper()
	var hits []Hit
	for {
		more, err := readable(l.conn)
		if err != nil {
			l.t.Fatal(err)
		}
		if !more {
			return hits
		}
		messages, err := l.conn.Receive()
		if err != nil {
			l.t.Fatal(err)
		}
		for _, m := range messages {
			l.seq++
			l.raw = append(l.raw, m)
			hit, ok, err := l.d.Decode(m, l.seq)
			if err != nil {
				l.t.Fatal(err)
			}
			if ok {
				hits = append(hits, hit)
			}
		}
	}
}

// resolved drains and resolves.
func (l *listener) resolved(r *Resolver) []Hit {
	l.t.Helper()
	hits := l.hits()
	for i := range hits {
		if err := r.Resolve(context.Background(), &hits[i]); err != nil {
			l.t.Errorf("resolve %+v: %v", hits[i].Rule, err)
		}
	}
	return hits
}

func (s space) arm(cfg ArmConfig) *Arming {
	s.t.Helper()
	cfg.NetNS = s.ns
	a, err := Arm(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = a.Close() })
	for _, err := range a.Missing() {
		s.t.Errorf("missing: %v", err)
	}
	return a
}

func (s space) resolver(name string) *Resolver {
	r := NewResolver(s.ns, name)
	s.t.Cleanup(func() { _ = r.Close() })
	return r
}

// line is what the tests compare of a hit.
func line(h Hit) string {
	number := ""
	if h.Rule.Number != 0 {
		number = "#" + string(rune('0'+h.Rule.Number))
	}
	return strings.Join([]string{
		string(h.Hook), string(h.Rule.Backend), h.Rule.Family, h.Rule.Table, h.Base, h.Rule.Chain + number,
		string(h.Kind), string(h.Verdict), h.Rule.Text,
	}, "|")
}

func lines(hits []Hit) []string {
	var list []string
	for _, h := range hits {
		list = append(list, line(h))
	}
	return list
}

func TestTraceNFT(t *testing.T) {
	r := newRouter(t)
	r.router.nft(`table inet fw {
	chain pre {
		type filter hook prerouting priority raw; policy accept;
		ip saddr 10.1.0.0/24 counter accept comment "from the left"
	}
	chain block {
		icmp type echo-request drop
	}
	chain through {
		type filter hook forward priority 10; policy accept;
		ip protocol icmp jump block
	}
}`)
	r.router.arm(ArmConfig{Match: echoMatch()})
	l := r.router.listen("router")
	if r.client.ping(serverAddr, echoID, 1, unanswered) {
		t.Fatal("the rule did not drop")
	}
	hits := l.resolved(r.router.resolver("router"))
	want := []string{
		`prerouting|nft|inet|fw|pre|pre#1|rule|accept|ip saddr 10.1.0.0/24 counter accept comment "from the left"`,
		`forward|nft|inet|fw|through|through#1|rule|jump|ip protocol icmp jump block`,
		`forward|nft|inet|fw|through|block#1|rule|drop|icmp type echo-request drop`,
	}
	if got := lines(hits); !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	last := hits[2]
	if last.Ingress != "left" || last.Egress != "right" || last.Priority != 10 || last.Header.Tuple.Dst != serverAddr || last.Header.Tuple.ICMPID != echoID {
		t.Errorf("last hit: %+v", last)
	}
	if hits[0].Rule.Comment != "from the left" {
		t.Errorf("comment %q", hits[0].Rule.Comment)
	}
}
