package capture

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
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

func isPayload(content string) func(Sighting) bool {
	return func(s Sighting) bool { return string(s.Header.Payload) == content }
}

func TestRingLoopback(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	r := open(t, RingConfig{NetNS: ns, Name: "one"})
	send(t, ns, "127.0.0.1:9", "hello")
	n := 0
	got := until(t, r, func(s Sighting) bool {
		if isPayload("hello")(s) {
			n++
		}
		return n == 2
	})
	want := []string{"1 one/if1 egress udp", "2 one/if1 ingress udp"}
	for i, w := range want {
		if g := fmt.Sprintf("%d %s %s %s", got[i].Number, got[i].Point, got[i].Direction, got[i].Header.Tuple.Proto); g != w {
			t.Errorf("got %s, want %s", g, w)
		}
	}
}
