package nfsocket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tracked is a ruleset that tracks and traces what passes the loopback.
const tracked = `table inet t {
	chain trace { type filter hook output priority -350; meta nftrace set 1; }
	chain output { type filter hook output priority 0; ct state new accept; }
	chain postrouting { type filter hook postrouting priority 300; accept; }
	chain input { type filter hook input priority 0; accept; }
}`

// loopback returns a namespace with nothing but a loopback and a ruleset.
func loopback(t testing.TB, ruleset string) *netns.NS {
	t.Helper()
	testenv.Privileged(t)
	nft := testenv.Tool(t, "nft")
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	err = ns.Do(func() error {
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
			return err
		}
		load := exec.Command(nft, "-f", "-")
		load.Stdin = strings.NewReader(ruleset)
		out, err := load.CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// send sends one packet for each flow: UDP to the ports, or one TCP SYN or one
// echo request, all to the loopback.
func send(t testing.TB, ns *netns.NS, proto packet.Proto, ports ...uint16) {
	t.Helper()
	err := ns.Do(func() error {
		switch proto {
		case packet.UDP:
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd) //nolint:errcheck // nothing is buffered
			for _, port := range ports {
				to := &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
				if err := unix.Sendto(fd, []byte("x"), 0, to); err != nil {
					return err
				}
			}
			return nil
		case packet.TCP:
			_, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:9")))
			if !errors.Is(err, unix.ECONNREFUSED) {
				return errors.New("the connection was not refused")
			}
			return nil
		}
		conn, err := net.Dial("ip4:icmp", "127.0.0.1")
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // nothing is buffered
		_, err = conn.Write([]byte{8, 0, 0xf7, 0xff - 7, 0, 7, 0, 0})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, cfg Config) *Socket {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// drain runs the socket with a context that is done: what was sent before is
// queued already.
func drain(t testing.TB, s *Socket, overrun func()) []Message {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var messages []Message
	if err := s.Run(ctx, func(m Message) { messages = append(messages, m) }, overrun); err != nil {
		t.Fatal(err)
	}
	return messages
}

// begun returns the flows whose NEW event is among the messages.
func begun(t testing.TB, messages []Message) (flows []conntrack.Tuple) {
	t.Helper()
	for _, m := range messages {
		if m.Subsystem() != netfilter.NFSubsysCTNetlink {
			continue
		}
		var event conntrack.Event
		if err := event.Unmarshal(m.Netlink); err != nil {
			t.Fatal(err)
		}
		if event.Type == conntrack.EventNew {
			flows = append(flows, event.Flow.TupleOrig)
		}
	}
	return flows
}

func ports(first, n int) (ports []uint16) {
	for i := range n {
		ports = append(ports, uint16(first+i))
	}
	return ports
}

func TestRunDeliversWhatWasQueued(t *testing.T) {
	t.Parallel()
	ns := loopback(t, tracked)
	s := open(t, Config{NetNS: ns, Conntrack: true})
	const n = 100
	send(t, ns, packet.UDP, ports(1000, n)...)
	messages := drain(t, s, func() { t.Error("overrun") })
	for i, m := range messages {
		if m.Seq != uint64(i+1) || m.Received.IsZero() {
			t.Fatalf("message %d: seq %d, received %v", i, m.Seq, m.Received)
		}
	}
	flows := begun(t, messages)
	if len(flows) != n {
		t.Fatalf("%d NEW events, want %d", len(flows), n)
	}
	for i, flow := range flows {
		if got, want := int(flow.Proto.DestinationPort), 1000+i; got != want {
			t.Errorf("event %d: port %d, want %d", i, got, want)
		}
	}
	if got, want := s.Stats(), (Stats{Received: uint64(len(messages))}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestRunWaitsUntilDone(t *testing.T) {
	t.Parallel()
	ns := loopback(t, tracked)
	s := open(t, Config{NetNS: ns, Conntrack: true})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan struct{})
	done := make(chan error)
	var n int
	go func() {
		done <- s.Run(ctx, func(Message) {
			if n++; n == 1 {
				close(first)
			}
		}, nil)
	}()
	send(t, ns, packet.UDP, 1000)
	<-first
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The socket is as good as before.
	send(t, ns, packet.UDP, 1001)
	if flows := begun(t, drain(t, s, nil)); len(flows) != 1 {
		t.Errorf("%d NEW events after the first run, want 1", len(flows))
	}
}

// TestFilter needs the kernel: the user-space BPF machine lacks the extensions
// for netlink attributes.
func TestFilter(t *testing.T) {
	t.Parallel()
	ns := loopback(t, tracked)
	all := open(t, Config{NetNS: ns, Conntrack: true, Trace: true})
	for _, proto := range []packet.Proto{packet.UDP, packet.TCP, packet.ICMP} {
		some := open(t, Config{NetNS: ns, Conntrack: true, Trace: true, Filter: Filter{Proto: proto}})
		send(t, ns, packet.UDP, 1000+uint16(proto))
		send(t, ns, packet.TCP)
		send(t, ns, packet.ICMP)

		unfiltered, filtered := drain(t, all, nil), drain(t, some, nil)
		var want, got []Message
		others := 0
		for _, m := range unfiltered {
			if m.Subsystem() == netfilter.NFSubsysCTNetlink && protoOf(t, m) != proto {
				others++
				continue
			}
			want = append(want, m)
		}
		if others == 0 {
			t.Fatal("no events of other protocols to keep out")
		}
		got = append(got, filtered...)
		if len(got) != len(want) {
			t.Fatalf("%v: %d messages, want %d", proto, len(got), len(want))
		}
		traces := 0
		for i := range got {
			if got[i].Netlink.Header.Type != want[i].Netlink.Header.Type || !bytes.Equal(got[i].Netlink.Data, want[i].Netlink.Data) {
				t.Errorf("%v: message %d differs", proto, i)
			}
			if got[i].Subsystem() == netfilter.NFSubsysNFTables {
				traces++
			}
		}
		if traces < 3*3 {
			t.Errorf("%v: %d trace messages for three packets", proto, traces)
		}
	}
}

func protoOf(t testing.TB, m Message) packet.Proto {
	t.Helper()
	var event conntrack.Event
	if err := event.Unmarshal(m.Netlink); err != nil {
		t.Fatal(err)
	}
	return packet.Proto(event.Flow.TupleOrig.Proto.Protocol)
}

// TestOrder shows why one socket reads both: NEW comes when the flow is
// confirmed, behind the last rule of postrouting and before input.
func TestOrder(t *testing.T) {
	t.Parallel()
	ns := loopback(t, tracked)
	s := open(t, Config{NetNS: ns, Conntrack: true, Trace: true})
	send(t, ns, packet.UDP, 1000)
	var order []string
	for _, m := range drain(t, s, nil) {
		name := "conntrack"
		if m.Subsystem() == netfilter.NFSubsysNFTables {
			name = chainOf(t, m)
		}
		if len(order) == 0 || order[len(order)-1] != name {
			order = append(order, name)
		}
		if len(order) == 5 {
			break // what follows is the ICMP error: the port is closed
		}
	}
	if got, want := strings.Join(order, " "), "trace output postrouting conntrack input"; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
}

// chainOf reads NFTA_TRACE_CHAIN.
func chainOf(t testing.TB, m Message) string {
	t.Helper()
	_, attributes, err := netfilter.DecodeNetlink(m.Netlink)
	if err != nil {
		t.Fatal(err)
	}
	for attributes.Next() {
		if attributes.Type() == 2 {
			return attributes.String()
		}
	}
	t.Fatal("a trace message without a chain")
	return ""
}

// TestOverrun shows what the package comment says about a full buffer.
func TestOverrun(t *testing.T) {
	t.Parallel()
	ns := loopback(t, tracked)
	s := open(t, Config{NetNS: ns, Conntrack: true, ReadBuffer: 4 << 10})
	send(t, ns, packet.UDP, ports(1000, 500)...)
	told := 0
	messages := drain(t, s, func() {
		told++
		// The queue is empty: what happens now is not lost.
		send(t, ns, packet.UDP, 9000)
	})
	if told != 1 || s.Stats().Overruns != 1 {
		t.Errorf("told %d overruns, counted %d, want 1", told, s.Stats().Overruns)
	}
	messages = append(messages, drain(t, s, func() { t.Error("a second overrun") })...)
	flows := begun(t, messages)
	if n := len(flows); n < 2 || n >= 500 {
		t.Fatalf("%d events, want the first of 500 and one after the loss", n)
	}
	if last := flows[len(flows)-1].Proto.DestinationPort; last != 9000 {
		t.Errorf("the last event is that of port %d, want 9000", last)
	}
}

// TestCongestion shows the kernel's trap: the error is read first, and until
// the queue is empty everything is lost without another one.
func TestCongestion(t *testing.T) {
	t.Parallel()
	ns := loopback(t, tracked)
	s := open(t, Config{NetNS: ns, Conntrack: true, ReadBuffer: 4 << 10})
	send(t, ns, packet.UDP, ports(1000, 500)...)
	var messages []Message
	collect := func(m Message) { messages = append(messages, m) }
	if _, err := s.receive(collect); err != nil || !s.overflown || len(messages) != 0 {
		t.Fatalf("first read: %v, overflown %v, %d messages; want an overrun", err, s.overflown, len(messages))
	}
	if _, err := s.receive(collect); err != nil || len(messages) != 1 {
		t.Fatalf("second read: %v, %d messages; want one", err, len(messages))
	}
	send(t, ns, packet.UDP, 9000)
	for _, flow := range begun(t, drain(t, s, nil)) {
		if flow.Proto.DestinationPort == 9000 {
			t.Error("the event was delivered: the kernel no longer loses events until the queue is empty")
		}
	}
	if got := s.Stats().Overruns; got != 1 {
		t.Errorf("%d overruns, want only the first to be reported", got)
	}
}

// TestListeningStartsNoTracking: only a rule may switch conntrack on.
func TestListeningStartsNoTracking(t *testing.T) {
	t.Parallel()
	ns := loopback(t, `table inet t {
	chain c { type filter hook output priority 0; accept; }
}`)
	s := open(t, Config{NetNS: ns, Conntrack: true, Trace: true})
	send(t, ns, packet.UDP, 1000)
	if messages := drain(t, s, nil); len(messages) != 0 {
		t.Errorf("%d messages, want none", len(messages))
	}
	err := ns.Do(func() error {
		count, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil && strings.TrimSpace(string(count)) != "0" {
			t.Errorf("%s flows are tracked", count)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	s := open(t, Config{NetNS: loopback(t, tracked), Trace: true})
	done := make(chan error)
	go func() { done <- s.Run(t.Context(), func(Message) {}, nil) }()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("run ended with %v, want os.ErrClosed", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	if _, err := Open(Config{}); err == nil {
		t.Error("a socket that listens to nothing was opened")
	}
	for _, cfg := range []Config{{Conntrack: true}, {Trace: true}} {
		if err := withoutNetAdmin(func() error { _, err := Open(cfg); return err }); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%+v without CAP_NET_ADMIN: %v, want os.ErrPermission", cfg, err)
		}
	}
}

// withoutNetAdmin runs f on a thread that has no capabilities and then ends.
func withoutNetAdmin(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// TestUserNamespace runs the tests above as an ordinary user does: as root of
// a user namespace. SO_RCVBUFFORCE is refused there.
func TestUserNamespace(t *testing.T) {
	const inside = "PATHTRACE_TEST_USERNS"
	if os.Getenv(inside) != "" {
		t.Skip("inside")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^Test(Run|Filter|Order|Overrun)", "-test.v", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, os.ErrPermission) || strings.Contains(string(out), "--- SKIP: TestOrder"):
		testenv.Skip(t, "needs an unprivileged user namespace")
	case err != nil || !strings.Contains(string(out), "--- PASS: TestOrder"):
		t.Errorf("%v\n%s", err, out)
	}
}
