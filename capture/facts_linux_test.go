package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// What the kernel does and this package relies on, where no other test shows
// it.

// tool runs a tool in a namespace.
func tool(t *testing.T, ns *netns.NS, stdin, name string, args ...string) {
	t.Helper()
	path := testenv.Tool(t, name)
	do(t, ns, func() error {
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	})
}

// TestRecvmsgInPlaceWriter is why there is a ring: a socket that is read with
// recvmsg shares the packet with the kernel, and shows what a rule behind the
// tap wrote into it. TestRingInPlaceWriter has the same rule.
func TestRecvmsgInPlaceWriter(t *testing.T) {
	t.Parallel()
	router := newRouter(t)
	tool(t, router.ns, "", "ip6tables-legacy", "-w", "-t", "mangle", "-A", "PREROUTING", "-d", "2001:db8:66::/64",
		"-j", "DNPT", "--src-pfx", "2001:db8:66::/64", "--dst-pfx", "fd00:2::/64")
	var fd int
	do(t, router.ns, func() (err error) {
		port, err := net.InterfaceByName("port0")
		if err != nil {
			return err
		}
		const all = uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		timeout := unix.NsecToTimeval(deadline.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: port.Index})
	})
	const rounds = 50
	for range rounds {
		send(t, router.client, "[2001:db8:66:0:cee3::2]:9", "translated")
	}
	translated, buffer := 0, make([]byte, 2048)
	for seen := 0; seen < rounds; {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) { // a signal of the Go runtime's
			continue
		}
		if err != nil {
			t.Fatalf("%d packets, then: %v", seen, err)
		}
		if h, err := packet.Decode(packet.LinkEthernet, buffer[:n], n); err == nil && string(h.Payload) == "translated" {
			seen++
			if h.Tuple.Dst == netip.MustParseAddr("fd00:2::2") {
				translated++
			}
		}
	}
	if translated == 0 {
		t.Errorf("none of %d packets shows the address that a later hook wrote", rounds)
	}
}

// TestBridgeTap: with br_netfilter the rules of prerouting come before the tap
// of the bridge, without it behind that one; the tap of the port is before both.
func TestBridgeTap(t *testing.T) {
	t.Parallel()
	for value, bridge := range map[string]string{"0": "10.9.9.9:9", "1": "10.2.0.2:9"} {
		t.Run("bridge-nf-call-iptables="+value, func(t *testing.T) {
			t.Parallel()
			router := newRouter(t)
			do(t, router.ns, func() error {
				return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(value), 0)
			})
			tool(t, router.ns, "table ip n {\n chain p {\n type nat hook prerouting priority -100\n ip daddr 10.9.9.9 dnat to 10.2.0.2\n }\n}", "nft", "-f", "-")
			r := open(t, RingConfig{NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router")})
			send(t, router.client, "10.9.9.9:9", "hello")
			want := []string{"router/port0 ingress 10.9.9.9:9", "router/br0 ingress " + bridge, "router/uplink egress 10.2.0.2:9"}
			if d := cmp.Diff(want, places(until(t, r, count("hello", 3)), "hello")); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestTapsAndDeviceRules: the tap is before the ingress rules of its interface
// and behind the egress ones. So a packet that an ingress rule drops was seen
// there, and one that an egress rule drops was not.
func TestTapsAndDeviceRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		hook, device string
		want         []string
	}{
		{"ingress", "port0", []string{"router/port0 ingress 10.2.0.2:9"}},
		{"egress", "uplink", []string{"router/port0 ingress 10.2.0.2:9", "router/br0 ingress 10.2.0.2:9"}},
	} {
		t.Run(tt.hook, func(t *testing.T) {
			t.Parallel()
			router := newRouter(t)
			tool(t, router.ns, fmt.Sprintf("table netdev d {\n chain c {\n type filter hook %s device %q priority 0\n udp dport 9 drop\n }\n}", tt.hook, tt.device), "nft", "-f", "-")
			r := open(t, RingConfig{NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router")})
			send(t, router.client, "10.2.0.2:9", "dropped")
			send(t, router.client, "10.2.0.2:10", "last")
			if d := cmp.Diff(tt.want, places(until(t, r, count("last", 3)), "dropped")); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestEqualTimes: while any socket of the machine wants the times of what it
// receives, a packet is stamped where it comes in, and all taps of ingress show
// that time. Without one each tap takes its own, which cannot be tested here:
// others may want them, too.
func TestEqualTimes(t *testing.T) {
	t.Parallel()
	router := newRouter(t)
	do(t, router.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	r := open(t, RingConfig{NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router")})
	// The kernel switches it on a moment later.
	for limit := time.Now().Add(deadline); ; {
		send(t, router.client, "10.2.0.2:9", "stamped")
		times := make(map[string]time.Time)
		for _, s := range until(t, r, count("stamped", 3)) {
			times[s.Point.Interface] = s.Time
		}
		if times["port0"].Equal(times["br0"]) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("port %s, bridge %s", times["port0"], times["br0"])
		}
	}
}

// TestChecksum: what was sent on this machine crosses a veth without its
// transport checksum, which hardware would fill in. The field has a sum of the
// addresses alone, so it is the same for packets of different content.
func TestChecksum(t *testing.T) {
	t.Parallel()
	router := newRouter(t)
	r := open(t, RingConfig{NetNS: router.ns, Name: "router", Points: points(t, router.ns, "router")})
	send(t, router.client, "10.2.0.2:9", "one")
	send(t, router.client, "10.2.0.2:9", "two")
	sums := make(map[string]uint16)
	for _, s := range until(t, r, count("two", 3)) {
		if s.Point.Interface == "port0" && s.Header.Tuple.Proto == packet.UDP {
			sums[string(s.Header.Payload)] = s.Header.Checksum
		}
	}
	if len(sums) != 2 || sums["one"] != sums["two"] || sums["one"] == 0 {
		t.Errorf("checksums %x", sums)
	}
}
