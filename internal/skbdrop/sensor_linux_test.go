package skbdrop

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/probe"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// line is source – router – target, each in a namespace of its own, with a
// default route at both ends: 10.1.0.1 – 10.1.0.2, 10.2.0.2 – 10.2.0.1, and
// fd00:1::1 – fd00:1::2, fd00:2::2 – fd00:2::1.
type line struct{ source, router, target *netns.NS }

func newLine(t *testing.T) *line {
	t.Helper()
	testenv.Root(t)
	l := &line{}
	for _, ns := range []**netns.NS{&l.source, &l.router, &l.target} {
		made, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = made.Close() })
		*ns = made
	}
	within(t, l.router, func() error {
		for i, end := range []*netns.NS{l.source, l.target} {
			if err := netlink.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("to%d", i+1)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(end.FD()),
			}); err != nil {
				return err
			}
		}
		return errors.Join(address("to1", "10.1.0.2/24", "fd00:1::2/64"), address("to2", "10.2.0.2/24", "fd00:2::2/64"),
			write("net/ipv4/ip_forward", "1"), write("net/ipv6/conf/all/forwarding", "1"))
	})
	// A router that refuses the source answers no ARP request of it either.
	var router netlink.Link
	within(t, l.router, func() (err error) {
		router, err = netlink.LinkByName("to1")
		return err
	})
	for i, end := range []*netns.NS{l.source, l.target} {
		within(t, end, func() error {
			n := i + 1
			if err := address("eth0", fmt.Sprintf("10.%d.0.1/24", n), fmt.Sprintf("fd00:%d::1/64", n)); err != nil {
				return err
			}
			return errors.Join(route("0.0.0.0/0", fmt.Sprintf("10.%d.0.2", n)), route("::/0", fmt.Sprintf("fd00:%d::2", n)))
		})
	}
	within(t, l.source, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: netip.MustParseAddr("10.1.0.2").AsSlice(), HardwareAddr: router.Attrs().HardwareAddr,
		})
	})
	return l
}

func within(t *testing.T, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

func address(name string, prefixes ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, prefix := range prefixes {
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func route(to, gateway string) error {
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: netip.MustParseAddr(gateway).AsSlice()})
}

func write(key, value string) error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) }

// run starts a tool in the namespace of the calling thread.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// seen gathers drops.
type seen struct {
	mu    sync.Mutex
	all   []Drop
	added chan struct{}
}

func (s *seen) add(d Drop) {
	s.mu.Lock()
	s.all = append(s.all, d)
	s.mu.Unlock()
	select {
	case s.added <- struct{}{}:
	default:
	}
}

func (s *seen) copy() []Drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// wait returns when a drop fits, or fails the test.
func (s *seen) wait(t *testing.T, fits func(Drop) bool) Drop {
	t.Helper()
	late := time.After(patience)
	for {
		if i := slices.IndexFunc(s.copy(), fits); i >= 0 {
			return s.copy()[i]
		}
		select {
		case <-s.added:
		case <-late:
			t.Fatalf("no such drop among %+v", s.copy())
		}
	}
}

// watch opens a sensor and lets it run until stop is called.
func watch(t *testing.T, l *line, config Config) (s *Sensor, drops *seen, stop func()) {
	t.Helper()
	config.Namespaces = map[uint32]string{
		uint32(l.source.ID()): "source", uint32(l.router.ID()): "router", uint32(l.target.ID()): "target",
	}
	s, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	drops = &seen{added: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, drops.add) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, drops, stop
}

// ping prepares a ping from the source.
func ping(t *testing.T, ns *netns.NS, target string) *probe.Ping {
	t.Helper()
	p, err := probe.NewPing(probe.Config{NetNS: ns, Target: netip.MustParseAddr(target)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func send(t *testing.T, p *probe.Ping) {
	t.Helper()
	if err := p.Send(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// inner and far are the target's addresses; nowhere is behind no route.
const (
	far, far6         = "10.2.0.1", "fd00:2::1"
	nowhere, nowhere6 = "198.51.100.1", "2001:db8::1"
)

// TestReasons loses a ping in many ways, and compares what the kernel says.
func TestReasons(t *testing.T) {
	t.Parallel()
	nft := func(family, rule string) func() error {
		return func() error {
			return run("nft", fmt.Sprintf("add table %s t; add chain %s t c { type filter hook forward priority 0; }; add rule %s t c %s", family, family, family, rule))
		}
	}
	tests := []struct {
		name, target, netns, iface, want string
		ttl                              string       // that the source sends
		change                           func() error // in that namespace
	}{
		{name: "no route", target: nowhere, netns: "router", iface: "to1", want: "IP_INNOROUTES@ip_error"},
		{name: "no route, IPv6", target: nowhere6, netns: "router", iface: "to1", want: "IP_INNOROUTES@ip6_pkt_discard"},
		{
			name: "forwarding off", target: far, netns: "router", iface: "to1", want: "IP_INADDRERRORS@ip_error",
			change: func() error { return write("net/ipv4/ip_forward", "0") },
		},
		{
			name: "forwarding off, IPv6", target: far6, netns: "router", iface: "to1", want: "IP_INADDRERRORS@ip6_forward",
			change: func() error { return write("net/ipv6/conf/all/forwarding", "0") },
		},
		{
			name: "reverse path", target: far, netns: "router", iface: "to1", want: "IP_RPFILTER@ip_rcv_finish_core",
			change: func() error {
				link, err := netlink.LinkByName("to1")
				if err != nil {
					return err
				}
				subnet, _ := netlink.ParseIPNet("10.1.0.0/24")
				return errors.Join(write("net/ipv4/conf/to1/rp_filter", "1"), write("net/ipv4/conf/all/rp_filter", "1"),
					netlink.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: subnet, Scope: netlink.SCOPE_LINK}))
			},
		},
		{name: "nft", target: far, netns: "router", iface: "to1", want: "NETFILTER_DROP@nft_do_chain", change: nft("inet", "meta l4proto icmp drop")},
		{name: "nft, IPv6", target: far6, netns: "router", iface: "to1", want: "NETFILTER_DROP@nft_do_chain", change: nft("inet", "icmpv6 type echo-request drop")},
		{
			name: "iptables", target: far, netns: "router", iface: "to1", want: "NETFILTER_DROP@nf_hook_slow",
			change: func() error { return run("iptables-legacy", "-A", "FORWARD", "-p", "icmp", "-j", "DROP") },
		},
		{
			name: "TTL", target: far, netns: "router", iface: "to1", want: "IP_INHDR@ip_forward", ttl: "1",
		},
		{
			name: "nft at a device", target: far, netns: "router", iface: "to1", want: "NETFILTER_DROP@nft_do_chain",
			change: func() error {
				return run("nft", "add table netdev t; add chain netdev t c { type filter hook ingress device to1 priority 0; }; add rule netdev t c icmp type echo-request drop")
			},
		},
		{name: "tc, coming in", target: far, netns: "router", iface: "to1", want: "TC_INGRESS@__netif_receive_skb_core", change: classify("to1", "ingress")},
		{name: "tc, going out", target: far, netns: "router", iface: "to2", want: "TC_EGRESS@__dev_queue_xmit", change: classify("to2", "egress")},
		{name: "XDP", target: far, netns: "router", iface: "to1", want: "NOT_SPECIFIED@do_xdp_generic", change: swallow("to1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			testenv.Tool(t, "nft")
			testenv.Tool(t, "iptables-legacy")
			testenv.Tool(t, "tc")
			if tt.ttl != "" {
				within(t, l.source, func() error { return write("net/ipv4/ip_default_ttl", tt.ttl) })
			}
			if tt.change != nil {
				within(t, l.router, tt.change)
			}
			p := ping(t, l.source, tt.target)
			_, drops, _ := watch(t, l, Config{Proto: p.Tuple().Proto, Nonce: p.Nonce})
			before := time.Now()
			send(t, p)
			d := drops.wait(t, func(d Drop) bool { return !Benign(d) })
			// The compiler may have made a function of its own for one caller.
			if mechanism, _, _ := strings.Cut(d.Mechanism(), ".constprop"); mechanism != tt.want || d.NetNS != tt.netns {
				t.Errorf("dropped by %s in %q, want %s in %s", d.Mechanism(), d.NetNS, tt.want, tt.netns)
			}
			if d.Header.Tuple != p.Tuple() || d.Header.ICMPSeq != 1 {
				t.Errorf("packet %+v, want %+v", d.Header.Tuple, p.Tuple())
			}
			within(t, l.router, func() error {
				link, err := netlink.LinkByName(tt.iface)
				if err == nil && link.Attrs().Index != d.Interface {
					t.Errorf("interface %d, want %s, which is %d", d.Interface, tt.iface, link.Attrs().Index)
				}
				return err
			})
			if d.Time.Before(before) || d.Time.After(time.Now()) {
				t.Errorf("dropped at %s, not between %s and now", d.Time, before)
			}
		})
	}
}

// classify has a filter of tc drop all of IPv4 at a link, in one direction.
func classify(link, side string) func() error {
	return func() error {
		return errors.Join(run("tc", "qdisc", "add", "dev", link, "clsact"),
			run("tc", "filter", "add", "dev", link, side, "protocol", "ip", "bpf", "direct-action", "bytecode", "1,6 0 0 2"))
	}
}

// swallow has an XDP program of the generic form drop everything, also ARP, of
// which the source needs none.
func swallow(name string) func() error {
	return func() error {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 1), // XDP_DROP
			asm.Return(),
		}})
		if err != nil {
			return err
		}
		defer program.Close()
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, program.FD(), unix.XDP_FLAGS_SKB_MODE)
	}
}

// TestSourceDrops loses a ping before it has a device: the namespace is known.
func TestSourceDrops(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	testenv.Tool(t, "nft")
	within(t, l.source, func() error {
		return run("nft", "add table ip t; add chain ip t c { type filter hook output priority 0; }; add rule ip t c meta l4proto icmp drop")
	})
	p := ping(t, l.source, far)
	_, drops, _ := watch(t, l, Config{Proto: packet.ICMP, Nonce: p.Nonce})
	_ = p.Send(t.Context(), 1) // the kernel tells the sender
	if d := drops.wait(t, func(Drop) bool { return true }); d.NetNS != "source" || d.Mechanism() != "NETFILTER_DROP@nft_do_chain" {
		t.Errorf("dropped by %s in %q", d.Mechanism(), d.NetNS)
	}
}

// TestNoListener connects to a closed port, over both families.
func TestNoListener(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{far: "NO_SOCKET@tcp_v4_rcv", far6: "NO_SOCKET@tcp_v6_rcv"} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			tcp, err := probe.NewTCP(probe.Config{NetNS: l.source, Target: netip.MustParseAddr(target), Port: 80})
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close() //nolint:errcheck // only a test
			_, drops, _ := watch(t, l, Config{Proto: packet.TCP, Ports: []uint16{1, tcp.Tuple().SrcPort}})
			_ = tcp.Start(t.Context()) // what the socket is told is not of interest
			d := drops.wait(t, func(d Drop) bool { return !Benign(d) })
			if d.NetNS != "target" || d.Mechanism() != want || d.Header.Tuple != tcp.Tuple() || !d.Header.Flags.Has(packet.SYN) {
				t.Errorf("%s in %q of %v, want %s in target of %v", d.Mechanism(), d.NetNS, d.Header.Tuple, want, tcp.Tuple())
			}
		})
	}
}

// TestHealthy pings over both families: whatever is freed is benign.
func TestHealthy(t *testing.T) {
	t.Parallel()
	for _, target := range []string{far, far6} {
		l := newLine(t)
		p := ping(t, l.source, target)
		s, drops, stop := watch(t, l, Config{Proto: p.Tuple().Proto, Nonce: p.Nonce})
		send(t, p)
		// The answer ends in the kernel of the source, since the socket is deaf.
		drops.wait(t, func(d Drop) bool { return d.NetNS == "source" })
		stop()
		for _, d := range drops.copy() {
			if !Benign(d) {
				t.Errorf("%s: %s in %q of %v", target, d.Mechanism(), d.NetNS, d.Header.Tuple)
			}
		}
		if stats := s.Stats(); stats.Lost != 0 || stats.Undecodable != 0 || stats.Received == 0 {
			t.Errorf("%+v", stats)
		}
	}
}

// TestOthers drops pings of others beside the traced one, and looks at that of
// an error that is itself dropped: it belongs to the packet that it quotes.
func TestOthers(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	testenv.Tool(t, "nft")
	within(t, l.source, func() error { // the error never arrives
		return run("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c icmp type destination-unreachable drop")
	})
	p := ping(t, l.source, nowhere)
	_, drops, stop := watch(t, l, Config{Proto: packet.ICMP, Nonce: p.Nonce})
	send(t, p)
	quoting := drops.wait(t, func(d Drop) bool { return d.Header.IsICMPError() })
	if quoting.NetNS != "source" || quoting.Reason != NetfilterDrop || quoting.Header.Quoted.Tuple != p.Tuple() {
		t.Errorf("the error: %s in %q about %+v", quoting.Mechanism(), quoting.NetNS, quoting.Header.Quoted)
	}
	for range 20 {
		send(t, ping(t, l.source, nowhere))
	}
	if err := p.Send(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	drops.wait(t, func(d Drop) bool { return d.Header.ICMPSeq == 2 })
	stop()
	for _, d := range drops.copy() {
		if d.Header.Tuple != p.Tuple() && !d.Header.IsICMPError() {
			t.Errorf("somebody else's: %v", d.Header.Tuple)
		}
	}
}

// small opens a sensor for the router whose ring has room for few drops, and
// which nobody reads.
func small(t *testing.T, l *line, config Config) *Sensor {
	t.Helper()
	config.Namespaces, config.Buffer = map[uint32]string{uint32(l.router.ID()): "router"}, os.Getpagesize()
	s, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // for the second time in some tests
	return s
}

// TestNetlink loads thousands of rules in a namespace that is watched. The kernel
// frees its messages about them as it frees packets, and none is taken for one.
func TestNetlink(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	testenv.Tool(t, "nft")
	for name, config := range map[string]Config{"flow": {Proto: packet.TCP, Ports: []uint16{1}}, "all": {All: true}} {
		t.Run(name, func(t *testing.T) {
			s := small(t, l, config)
			rules := fmt.Sprintf("add table inet for_%s\nadd chain inet for_%[1]s c\n", name)
			for i := range 2000 { // messages of all lengths: what begins one may look like the version of IP
				rules += fmt.Sprintf("add rule inet for_%s c tcp dport %d comment \"%s\"\n", name, i+1, strings.Repeat("x", i%100))
			}
			file := filepath.Join(t.TempDir(), "rules")
			if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
				t.Fatal(err)
			}
			within(t, l.router, func() error { return run("nft", "-f", file) })
			// The router's own multicast may be dropped meanwhile, too.
			if stats := s.Stats(); stats.Lost > 10 {
				t.Errorf("%d drops were lost", stats.Lost)
			}
		})
	}
}

// TestLost has the ring overflow. The losses are counted, and the sensor works
// on.
func TestLost(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	p := ping(t, l.source, nowhere)
	s := small(t, l, Config{Proto: packet.ICMP, Nonce: p.Nonce})
	const sent = 100
	for i := range sent {
		if err := p.Send(t.Context(), uint16(i)); err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	var got int
	if err := s.Run(ended, func(Drop) { got++ }); err != nil {
		t.Fatal(err)
	}
	if stats := s.Stats(); got == 0 || stats.Lost == 0 || uint64(got) != stats.Received {
		t.Errorf("%d drops read of %d, %+v", got, sent, stats)
	}
	lost := s.Stats().Lost
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if s.Stats().Lost != lost {
		t.Errorf("after Close: %+v, want %d lost", s.Stats(), lost)
	}
}

// TestCloseWakes closes a sensor that waits.
func TestCloseWakes(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	s, err := Open(Config{Proto: packet.ICMP, Nonce: make([]byte, nonceSize)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background(), func(Drop) {}) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Run: %v, want %v", err, os.ErrClosed)
		}
	case <-time.After(patience):
		t.Fatal("Run does not end")
	}
}

// TestUnprivileged is for an ordinary user: the error names what is missing.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	s, err := Open(Config{Proto: packet.ICMP, Nonce: make([]byte, nonceSize)})
	if err == nil {
		_ = s.Close()
		t.Skip("may load BPF programs")
	}
	if _, ok := errors.AsType[*PermissionError](err); !ok || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_BPF") {
		t.Errorf("%v", err)
	}
}

// TestConfig refuses what would select nothing, or everything.
func TestConfig(t *testing.T) {
	t.Parallel()
	for _, config := range []Config{{}, {Proto: packet.TCP}, {Proto: packet.ICMP, Nonce: make([]byte, 8)}} {
		if s, err := Open(config); err == nil {
			_ = s.Close()
			t.Errorf("%+v was opened", config)
		}
	}
}

// FuzzDecode reads records that the program would not send.
func FuzzDecode(f *testing.F) {
	whole := make([]byte, recordSize)
	binary.NativeEndian.PutUint32(whole[recordCaptured:], packetSize)
	whole[recordPacket] = 0x45
	f.Add(whole)
	f.Add(whole[:10])
	s := &Sensor{config: Config{Proto: packet.ICMP, Nonce: make([]byte, nonceSize)}}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := s.decode(b)
		if err == nil && (d.Reason == "" || d.Time.IsZero()) {
			t.Errorf("%+v", d)
		}
		s.owns(&d.Header)
	})
}

// BenchmarkOpen is what a run pays before its probe is sent.
func BenchmarkOpen(b *testing.B) {
	testenv.Root(b)
	for b.Loop() {
		if _, err := loadLayout(); err != nil { // Open does it once in a process
			b.Fatal(err)
		}
		s, err := Open(Config{Proto: packet.ICMP, Nonce: make([]byte, nonceSize)})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// TestAll shows that with All every drop of the named namespaces is delivered, of
// whatever flow, and none of others; and that one can be named later.
func TestAll(t *testing.T) {
	t.Parallel()
	l, other := newLine(t), newLine(t)
	s, drops, stop := watch(t, l, Config{All: true})
	stranger, own := ping(t, other.source, nowhere), ping(t, l.source, nowhere)
	send(t, stranger)
	send(t, own)
	ofRouter := func(p *probe.Ping) func(Drop) bool {
		return func(d Drop) bool { return d.Header.Tuple == p.Tuple() && d.Mechanism() == "IP_INNOROUTES@ip_error" }
	}
	if d := drops.wait(t, ofRouter(own)); d.NetNS != "router" {
		t.Errorf("dropped in %q, want router", d.NetNS)
	}
	udp, err := probe.NewUDP(probe.Config{NetNS: l.source, Target: netip.MustParseAddr(nowhere6), Port: 9}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = udp.Close() })
	if err := udp.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	drops.wait(t, func(d Drop) bool { return d.Header.Tuple == udp.Tuple() && d.NetNS == "router" })
	if slices.ContainsFunc(drops.copy(), ofRouter(stranger)) {
		t.Error("a drop was delivered of a namespace that nobody named")
	}
	if err := s.Add(uint32(other.router.ID()), "other"); err != nil {
		t.Fatal(err)
	}
	send(t, stranger)
	if d := drops.wait(t, ofRouter(stranger)); d.NetNS != "other" {
		t.Errorf("dropped in %q, want other", d.NetNS)
	}
	stop()
}
