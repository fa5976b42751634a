package attempt

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch opens the sensor for a new namespace. stop ends it and returns what it saw.
func watch(t *testing.T) (ns *netns.NS, stop func() []Attempt) {
	t.Helper()
	testenv.Root(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	s, err := Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var seen []Attempt
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(a Attempt) { seen = append(seen, a) }) }()
	return ns, sync.OnceValue(func() []Attempt {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := s.Stats(); got.Lost > 0 || got.Received != uint64(len(seen)) {
			t.Errorf("counted %+v, and delivered %d", got, len(seen))
		}
		return seen
	})
}

// TestAttempts shows that what cannot be sent for want of a route is seen, of
// every kind of socket, with the process, and that nothing of another namespace
// is; and that whoever tries is told what the kernel tells him without a sensor.
func TestAttempts(t *testing.T) {
	ns, stop := watch(t)
	before := time.Now()
	try := func(network, address string) {
		conn, err := net.Dial(network, address)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s %s: reached", network, address)
		}
	}
	if err := ns.Do(func() error {
		try("tcp4", "192.0.2.1:80")
		try("tcp6", "[2001:db8::1]:443")
		try("udp4", "192.0.2.2:53")
		conn, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // test
		if _, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 3), Port: 9}); err == nil {
			t.Error("a datagram was sent")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := net.DialTimeout("tcp", "127.0.0.1:9", time.Second) // not in the namespace
	if err == nil {
		_ = elsewhere.Close()
	}
	seen := stop()
	name, err := os.ReadFile("/proc/thread-self/comm")
	if err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	var stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &stat); err != nil || stat.Ino != initialPIDNS {
		pid = 0
	}
	for i := range seen {
		if a := &seen[i]; a.Time.Before(before) || a.Time.After(time.Now()) || a.PID != pid || a.Command+"\n" != string(name) {
			t.Errorf("attempt %d: at %s by %q (%d)", i, a.Time, a.Command, a.PID)
		}
		seen[i].Time, seen[i].PID, seen[i].Command = time.Time{}, 0, ""
	}
	seen = slices.Compact(seen) // a dialer tries IPv6 more than once
	to := netip.MustParseAddrPort
	want := []Attempt{
		{Proto: packet.TCP, To: to("192.0.2.1:80"), Connect: true},
		{Proto: packet.TCP, To: to("[2001:db8::1]:443"), Connect: true},
		{Proto: packet.UDP, To: to("192.0.2.2:53"), Connect: true},
		{Proto: packet.UDP, To: to("192.0.2.3:9")},
	}
	if diff := cmp.Diff(want, seen, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

// TestMapped shows an IPv4 address that a socket of IPv6 sends to.
func TestMapped(t *testing.T) {
	ns, stop := watch(t)
	if err := ns.Do(func() error {
		if _, err := net.Dial("tcp", "[::ffff:192.0.2.1]:80"); err == nil {
			t.Error("reached")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seen := stop(); len(seen) != 1 || seen[0].To != netip.MustParseAddrPort("192.0.2.1:80") {
		t.Errorf("attempts %+v", seen)
	}
}
