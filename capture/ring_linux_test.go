package capture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

const deadline = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace makes a namespace with the loopback up.
func namespace(t testing.TB) *netns.NS {
	t.Helper()
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	up(t, ns, "lo")
	return ns
}

func do(t testing.TB, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// up sets a link up and gives it addresses, without duplicate address
// detection, which would keep them from being used.
func up(t testing.TB, ns *netns.NS, name string, addresses ...string) {
	t.Helper()
	do(t, ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = 0x02 // IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
}

// connect makes a veth pair between two namespaces.
func connect(t testing.TB, a *netns.NS, aName string, b *netns.NS, bName string) {
	t.Helper()
	do(t, a, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: aName}, PeerName: bName, PeerNamespace: netlink.NsFd(b.FD()),
		})
	})
}

func points(t testing.TB, ns *netns.NS, name string) []Point {
	t.Helper()
	var points []Point
	do(t, ns, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			points = append(points, Point{NetNS: name, Interface: l.Attrs().Name, Index: l.Attrs().Index, Role: RoleVeth})
		}
		return err
	})
	return points
}

func open(t testing.TB, cfg RingConfig) *Ring {
	t.Helper()
	r, err := OpenRing(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// until runs the ring until a sighting satisfies done, and returns all that
// were delivered.
func until(t testing.TB, r *Ring, done func(Sighting) bool) []Sighting {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	found := false
	var sightings []Sighting
	if err := r.Run(ctx, func(s Sighting) {
		again, _ := packet.Decode(s.Link, s.Frame, s.Length)
		if diff := cmp.Diff(s.Header, again, cmpopts.EquateComparable(netip.Addr{})); diff != "" && s.Header.Version != 0 {
			t.Errorf("%s: its frame decodes to something else (-want +got):\n%s", s.Point, diff)
		}
		s.Frame = nil
		sightings = append(sightings, s)
		if done(s) {
			found = true
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Fatalf("not seen among %d packets: %s", len(sightings), summary(sightings))
	}
	return sightings
}

func summary(sightings []Sighting) (lines []string) {
	for _, s := range sightings {
		lines = append(lines, fmt.Sprintf("%d %s %s %s %s", s.Number, s.Point, s.Direction, s.Header.Tuple.Proto, s.Header.Tuple))
	}
	return lines
}

// send sends one datagram from a namespace.
func send(t testing.TB, ns *netns.NS, to, content string) {
	t.Helper()
	do(t, ns, func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close() //nolint:errcheck // a datagram socket
		_, err = c.Write([]byte(content))
		return err
	})
}

// sink receives datagrams to 127.0.0.1:9, so that nothing refuses them.
func sink(t testing.TB, ns *netns.NS) {
	t.Helper()
	do(t, ns, func() error {
		c, err := net.ListenPacket("udp", "127.0.0.1:9")
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err
	})
}

// places lists the sightings of one payload, as "point direction destination".
func places(all []Sighting, content string) (lines []string) {
	for _, s := range all {
		if string(s.Header.Payload) == content {
			lines = append(lines, fmt.Sprintf("%s %s %s", s.Point, s.Direction, s.Header.Tuple.Destination()))
		}
	}
	return lines
}

// count returns a condition that holds when a payload was seen n times.
func count(content string, n int) func(Sighting) bool {
	return func(s Sighting) bool {
		if string(s.Header.Payload) != content {
			return false
		}
		n--
		return n == 0
	}
}

// router is a namespace between a client on a bridge and a server.
type router struct {
	client, ns, server *netns.NS
}

func newRouter(t testing.TB) router {
	t.Helper()
	r := router{namespace(t), namespace(t), namespace(t)}
	connect(t, r.client, "eth0", r.ns, "port0")
	connect(t, r.server, "eth0", r.ns, "uplink")
	do(t, r.ns, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		port, err := netlink.LinkByName("port0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return err
		}
		for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+sysctl, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	up(t, r.client, "eth0", "10.1.0.2/24", "fd00:1::2/64")
	up(t, r.ns, "port0")
	up(t, r.ns, "br0", "10.1.0.1/24", "fd00:1::1/64")
	up(t, r.ns, "uplink", "10.2.0.1/24", "fd00:2::1/64")
	up(t, r.server, "eth0", "10.2.0.2/24", "fd00:2::2/64")
	for ns, gateways := range map[*netns.NS][]string{r.client: {"10.1.0.1", "fd00:1::1"}, r.server: {"10.2.0.1", "fd00:2::1"}} {
		do(t, ns, func() error {
			for _, gateway := range gateways {
				if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return r
}

func TestRingDirections(t *testing.T) {
	t.Parallel()
	router := newRouter(t)
	r := open(t, RingConfig{NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router")})
	for _, to := range []string{"10.2.0.2:9", "[fd00:2::2]:9"} {
		content := "to " + to
		send(t, router.client, to, content)
		got := until(t, r, count(content, 3))
		want := []string{"router/port0 ingress " + to, "router/br0 ingress " + to, "router/uplink egress " + to}
		if d := cmp.Diff(want, places(got, content)); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		var last Sighting
		nanoseconds := false
		for _, s := range got {
			if string(s.Header.Payload) != content {
				continue
			}
			if s.Time.Before(last.Time) {
				t.Errorf("%s at %s is before %s at %s", s.Point, s.Time, last.Point, last.Time)
			}
			nanoseconds = nanoseconds || s.Time.Nanosecond()%1000 != 0
			if last.Number != 0 && last.Header.Compare(&s.Header) != packet.Same {
				t.Errorf("%s does not show the packet of %s", s.Point, last.Point)
			}
			if want := 14 + int(s.Header.PayloadLength) + map[uint8]int{4: 20, 6: 40}[s.Header.Version]; s.Length != want {
				t.Errorf("%s: length %d, want %d", s.Point, s.Length, want)
			}
			last = s
		}
		if !nanoseconds {
			t.Error("no time has nanoseconds")
		}
	}
}

// TestRingLoopback sees each packet twice on an interface that it was not told
// about.
func TestRingLoopback(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	r := open(t, RingConfig{NetNS: ns, Name: "one"})
	send(t, ns, "127.0.0.1:9", "hello")
	got := until(t, r, count("hello", 2))
	want := []string{"one/if1 egress 127.0.0.1:9", "one/if1 ingress 127.0.0.1:9"}
	if d := cmp.Diff(want, places(got, "hello")); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if got[0].Number != 1 || got[1].Number != 2 || got[0].Point.Role != RoleOther {
		t.Errorf("numbers %d, %d, role %s", got[0].Number, got[1].Number, got[0].Point.Role)
	}
}

// TestRingInPlaceWriter looks in front of a rule that rewrites packets where
// they lie: the ring must have copied them before.
func TestRingInPlaceWriter(t *testing.T) {
	t.Parallel()
	ip6tables := testenv.Tool(t, "ip6tables-legacy")
	router := newRouter(t)
	do(t, router.ns, func() error {
		out, err := exec.CommandContext(t.Context(), ip6tables, "-w", "-t", "mangle", "-A", "PREROUTING", "-d", "2001:db8:66::/64",
			"-j", "DNPT", "--src-pfx", "2001:db8:66::/64", "--dst-pfx", "fd00:2::/64").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	// RFC 6296 adjusts the fifth word: 0xcee3 becomes 0.
	original, translated := netip.MustParseAddr("2001:db8:66:0:cee3::2"), netip.MustParseAddr("fd00:2::2")
	const rounds = 50
	r := open(t, RingConfig{NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router")})
	for range rounds {
		send(t, router.client, "[2001:db8:66:0:cee3::2]:9", "translated")
	}
	seen := map[string]map[netip.Addr]int{}
	for _, s := range until(t, r, count("translated", 3*rounds)) {
		if string(s.Header.Payload) == "translated" {
			if seen[s.Point.Interface] == nil {
				seen[s.Point.Interface] = map[netip.Addr]int{}
			}
			seen[s.Point.Interface][s.Header.Tuple.Dst]++
		}
	}
	// The tap of the bridge is in front of prerouting or, with br_netfilter,
	// behind it.
	delete(seen, "br0")
	want := map[string]map[netip.Addr]int{"port0": {original: rounds}, "uplink": {translated: rounds}}
	if d := cmp.Diff(want, seen, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if !packet.ChecksumNeutral(original, translated) {
		t.Errorf("%s and %s are not checksum-neutral", original, translated)
	}
}

// TestRingAgainstTcpdump compares an exchange with what tcpdump prints of it.
func TestRingAgainstTcpdump(t *testing.T) {
	testenv.Root(t) // tcpdump changes its groups, which needs more than one
	t.Parallel()
	tcpdump := testenv.Tool(t, "tcpdump")
	router := newRouter(t)
	answer := make(chan error, 1)
	do(t, router.server, func() error {
		c, err := net.ListenPacket("udp", "10.2.0.2:9")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			buffer := make([]byte, 100)
			n, from, err := c.ReadFrom(buffer)
			if err == nil {
				_, err = c.WriteTo(buffer[:n/2], from)
			}
			answer <- err
		}()
		return nil
	})
	// -Z: Debian's tcpdump wants to become a user that need not exist.
	cmd := exec.CommandContext(t.Context(), tcpdump, "-i", "uplink", "-n", "-t", "-l", "--immediate-mode", "-Z", "root", "-c", "2", "udp")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout strings.Builder
	cmd.Stdout = &stdout
	do(t, router.ns, cmd.Start)
	for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.HasPrefix(lines.Text(), "listening on"); {
	}
	r := open(t, RingConfig{
		NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router"),
		Selector: Selector{Proto: packet.UDP, Ports: []uint16{9}},
	})
	send(t, router.client, "10.2.0.2:9", "hello!")
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, s := range until(t, r, count("hel", 3)) {
		tuple := s.Header.Tuple
		if s.Point.Interface == "uplink" && tuple.Proto == packet.UDP && s.Header.Version == 4 {
			fmt.Fprintf(&got, "IP %s.%d > %s.%d: UDP, length %d\n", tuple.Src, tuple.SrcPort, tuple.Dst, tuple.DstPort, len(s.Header.Payload))
		}
	}
	if d := cmp.Diff(stdout.String(), got.String()); d != "" {
		t.Errorf("(-tcpdump +ring)\n%s", d)
	}
}

// TestRingFilterFromTheStart opens rings under a flood that their filter does
// not want.
func TestRingFilterFromTheStart(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	do(t, ns, func() error {
		c, err := net.Dial("udp", "127.0.0.1:7")
		if err != nil {
			return err
		}
		flood.Go(func() {
			defer c.Close() //nolint:errcheck // a datagram socket
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = c.Write([]byte("unwanted")) // refused by ICMP now and then
				}
			}
		})
		return nil
	})
	defer flood.Wait()
	defer close(stop)
	for range 8 {
		r := open(t, RingConfig{NetNS: ns, Selector: Selector{Proto: packet.UDP, Ports: []uint16{9}}})
		send(t, ns, "127.0.0.1:9", "wanted")
		for _, s := range until(t, r, count("wanted", 2)) {
			if s.Header.Tuple.DstPort != 9 && s.Header.Tuple.Proto == packet.UDP {
				t.Fatalf("passed the filter: %s", s.Header.Tuple)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRingOverrun(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	sink(t, ns)
	const sent, frames = 300, 1 << 16 / 512
	const lost = 2*sent - frames
	r := open(t, RingConfig{NetNS: ns, RingBytes: 1 << 16, Selector: Selector{Proto: packet.UDP, Ports: []uint16{9}}})
	for range sent {
		send(t, ns, "127.0.0.1:9", "x")
	}
	for limit := time.Now().Add(deadline); r.Stats().Lost < lost; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("%+v, want %d lost", r.Stats(), lost)
		}
	}
	// A context that is done delivers what is there.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	delivered := 0
	if err := r.Run(ctx, func(Sighting) { delivered++ }); err != nil {
		t.Fatal(err)
	}
	if delivered != frames {
		t.Errorf("delivered %d, want the %d that the ring holds", delivered, frames)
	}
	want := Stats{Received: frames, Lost: lost}
	if got := r.Stats(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := r.Stats(); got != want {
		t.Errorf("after Close: %+v, want %+v", got, want)
	}
	// The ring goes on behind the gap.
	again := open(t, RingConfig{NetNS: ns, RingBytes: 1 << 16})
	for i := range 200 {
		send(t, ns, "127.0.0.1:9", "lap")
		until(t, again, count("lap", 2))
		if again.Stats().Lost != 0 {
			t.Fatalf("lost in round %d", i)
		}
	}
}

func TestRingClose(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	cfg := RingConfig{NetNS: ns, Name: "one", Selector: Selector{Proto: packet.UDP, Ports: []uint16{9}}}

	t.Run("while Run waits", func(t *testing.T) {
		r := open(t, cfg)
		result, seen := make(chan error), make(chan struct{})
		twice := count("x", 2)
		go func() {
			result <- r.Run(context.Background(), func(s Sighting) {
				if twice(s) {
					close(seen)
				}
			})
		}()
		send(t, ns, "127.0.0.1:9", "x")
		<-seen
		if err := r.Run(t.Context(), nil); err == nil || errors.Is(err, os.ErrClosed) {
			t.Errorf("a second Run: %v", err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Run: %v", err)
		}
		if err := r.Run(t.Context(), nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Run after Close: %v", err)
		}
	})
	t.Run("by the receiver", func(t *testing.T) {
		r := open(t, cfg)
		send(t, ns, "127.0.0.1:9", "x")
		n := 0
		err := r.Run(t.Context(), func(Sighting) {
			n++
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		if !errors.Is(err, os.ErrClosed) || n != 1 {
			t.Errorf("Run delivered %d: %v", n, err)
		}
	})
	t.Run("and the context", func(t *testing.T) {
		r := open(t, cfg)
		for range 3 { // a ring can be read again
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() { result <- r.Run(ctx, func(Sighting) {}) }()
			cancel()
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("in a race", func(t *testing.T) {
		for range 15 {
			r := open(t, cfg)
			send(t, ns, "127.0.0.1:9", "x")
			result := make(chan error)
			go func() { result <- r.Run(context.Background(), func(Sighting) {}) }()
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if err := <-result; !errors.Is(err, os.ErrClosed) {
				t.Errorf("Run: %v", err)
			}
		}
	})
}

// inject sends a frame as it is.
func inject(t *testing.T, ns *netns.NS, name string, frame []byte) {
	t.Helper()
	do(t, ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // nothing is buffered
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index})
	})
}

// TestRingVLAN sees a tag in the frame where it leaves, and where it arrives
// the kernel has taken it off.
func TestRingVLAN(t *testing.T) {
	t.Parallel()
	sender, receiver := namespace(t), namespace(t)
	connect(t, sender, "eth0", receiver, "eth0")
	up(t, sender, "eth0")
	up(t, receiver, "eth0")
	selector := Selector{Proto: packet.UDP, Ports: []uint16{1}}
	rings := []*Ring{open(t, RingConfig{NetNS: sender, Selector: selector}), open(t, RingConfig{NetNS: receiver, Selector: selector})}
	inject(t, sender, "eth0", corpus(t)["vlan"])
	for i, r := range rings {
		ours := func(s Sighting) bool { return s.Header.Tuple.SrcPort == 1 }
		got := until(t, r, ours)
		if s := got[slices.IndexFunc(got, ours)]; !slices.Equal(s.Header.VLANs, []uint16{5}) || s.Length != len(corpus(t)["vlan"]) || s.Direction != []Direction{Egress, Ingress}[i] {
			t.Errorf("%s: VLANs %v, %d bytes", s.Direction, s.Header.VLANs, s.Length)
		}
	}
}

func TestRingUndecodable(t *testing.T) {
	t.Parallel()
	ns, peer := namespace(t), namespace(t)
	connect(t, ns, "eth0", peer, "eth0")
	up(t, ns, "eth0")
	up(t, peer, "eth0")
	r := open(t, RingConfig{NetNS: ns})
	frame := corpus(t)["udp 443"]
	frame[14] = 0x75 // IP version 7
	inject(t, ns, "eth0", frame)
	until(t, r, func(s Sighting) bool { return r.Stats().Undecodable == 1 && s.Header.EtherType == packet.EtherTypeIPv4 })
}

// TestRingTun has an interface without link headers beside others. Its packets
// pass the filter by offsets from the network header.
func TestRingTun(t *testing.T) {
	testenv.Root(t) // /dev/net/tun is often root's
	t.Parallel()
	ns := namespace(t)
	var tun *os.File
	do(t, ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			testenv.Skip(t, "/dev/net/tun: "+err.Error())
		}
		tun = os.NewFile(uintptr(fd), "tun")
		request, err := unix.NewIfreq("tun0")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	defer tun.Close() //nolint:errcheck // takes the interface with it
	up(t, ns, "tun0", "10.8.0.1/24", "fd00:8::1/64")
	for _, selector := range []Selector{
		{Proto: packet.UDP, Ports: []uint16{9}},
		{Proto: packet.UDP, Addresses: []netip.Addr{netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd00:8::2")}},
	} {
		r := open(t, RingConfig{NetNS: ns, Name: "vpn", Points: points(t, ns, "vpn"), Selector: selector})
		for _, to := range []string{"10.8.0.2:9", "[fd00:8::2]:9"} {
			send(t, ns, to, to)
			got := until(t, r, count(to, 1))
			if d := cmp.Diff([]string{"vpn/tun0 egress " + to}, places(got, to)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			// Back through the tunnel: the same packet from the other side.
			buffer := make([]byte, 1500)
			n, err := readDatagram(tun, buffer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tun.Write(buffer[:n]); err != nil {
				t.Fatal(err)
			}
			got = until(t, r, count(to, 1))
			if d := cmp.Diff([]string{"vpn/tun0 ingress " + to}, places(got, to)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		}
		send(t, ns, "10.8.0.3:8", "unwanted")
		send(t, ns, "10.8.0.2:9", "wanted")
		for _, s := range until(t, r, count("wanted", 1)) {
			if string(s.Header.Payload) == "unwanted" {
				t.Errorf("passed the filter: %s", s.Header.Tuple)
			}
		}
		for range 2 {
			if _, err := readDatagram(tun, make([]byte, 1500)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// readDatagram reads the next UDP packet, past what the kernel sends on its
// own.
func readDatagram(tun *os.File, buffer []byte) (int, error) {
	for {
		n, err := tun.Read(buffer)
		if err != nil {
			return 0, err
		}
		if h, err := packet.Decode(packet.LinkRaw, buffer[:n], n); err == nil && h.Tuple.Proto == packet.UDP {
			return n, nil
		}
	}
}

func TestOpenRingErrors(t *testing.T) {
	for _, cfg := range []RingConfig{
		{Name: "one", Snaplen: -1},
		{Name: "one", Snaplen: 1 << 16},
		{Name: "one", RingBytes: 1},
		{Name: "one", Selector: Selector{Proto: packet.ICMP, Ports: []uint16{1}}},
	} {
		if _, err := OpenRing(cfg); err == nil || !strings.HasPrefix(err.Error(), "open a packet ring on one: ") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// inUserNamespace runs tests of this binary again, in a user namespace of its
// own, where the process has no privilege on the machine.
func inUserNamespace(t *testing.T, flags uintptr, tests string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", tests, "-test.v")
	cmd.Env = append(os.Environ(), userNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		testenv.Skip(t, "user namespaces are forbidden: "+err.Error())
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

const userNamespace = "PATHTRACE_TEST_USER_NAMESPACE"

func TestUserNamespace(t *testing.T) {
	if os.Getenv(userNamespace) != "" {
		return
	}
	t.Run("own network", func(t *testing.T) {
		inUserNamespace(t, syscall.CLONE_NEWNET, "^TestRing(Directions|InPlaceWriter|Overrun|Close)$")
	})
	t.Run("no privilege", func(t *testing.T) {
		inUserNamespace(t, 0, "^TestOpenRingUnprivileged$")
	})
}

// TestOpenRingUnprivileged is run by TestUserNamespace in the network namespace
// of the machine, which the process has no right to.
func TestOpenRingUnprivileged(t *testing.T) {
	if os.Getenv(userNamespace) == "" {
		return
	}
	_, err := OpenRing(RingConfig{Name: "host"})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("%v", err)
	}
}

// BenchmarkOpenRing is what arming a namespace costs.
func BenchmarkOpenRing(b *testing.B) {
	ns := namespace(b)
	for b.Loop() {
		r, err := OpenRing(RingConfig{NetNS: ns})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkRing reads a full ring; the time is that of one packet.
func BenchmarkRing(b *testing.B) {
	ns := namespace(b)
	r := open(b, RingConfig{NetNS: ns, Selector: Selector{Proto: packet.UDP, Ports: []uint16{9}}})
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	var c net.Conn
	sink(b, ns)
	do(b, ns, func() (err error) {
		c, err = net.Dial("udp", "127.0.0.1:9")
		return err
	})
	defer c.Close() //nolint:errcheck // a datagram socket
	content := make([]byte, 100)
	b.ReportAllocs()
	n := 0
	for n < b.N {
		b.StopTimer()
		for range min(1000, b.N-n) {
			if _, err := c.Write(content); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := r.Run(ctx, func(Sighting) { n++ }); err != nil {
			b.Fatal(err)
		}
	}
	if lost := r.Stats().Lost; lost != 0 {
		b.Errorf("lost %d", lost)
	}
}

// BenchmarkRingLive reads while packets are sent as fast as one sender can;
// each is on the loopback twice.
func BenchmarkRingLive(b *testing.B) {
	ns := namespace(b)
	r := open(b, RingConfig{NetNS: ns, Selector: Selector{Proto: packet.UDP, Ports: []uint16{9}}})
	ctx, cancel := context.WithCancel(b.Context())
	result := make(chan error)
	go func() { result <- r.Run(ctx, func(Sighting) {}) }()
	var c net.Conn
	sink(b, ns)
	do(b, ns, func() (err error) {
		c, err = net.Dial("udp", "127.0.0.1:9")
		return err
	})
	defer c.Close() //nolint:errcheck // a datagram socket
	content := make([]byte, 100)
	for b.Loop() {
		if _, err := c.Write(content); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-result; err != nil {
		b.Fatal(err)
	}
	stats := r.Stats()
	b.ReportMetric(float64(stats.Lost)/float64(stats.Lost+stats.Received), "lost/packet")
	b.ReportMetric(float64(stats.Received)/b.Elapsed().Seconds(), "packets/s")
}
