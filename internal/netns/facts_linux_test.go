package netns_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// The process's first thread stays with the main goroutine, so that no test runs
// in it.
func init() { runtime.LockOSThread() }

// TestFiles is about the files that tell of a namespace. For a thread that has
// entered one, /proc/thread-self/net is about that namespace; /proc/net is
// /proc/self/net and about that of the process's first thread; /proc/sys/net is
// about that of whoever opens a file there, and stays so for the file; and
// /sys/class/net is about that in which it was mounted.
func TestFiles(t *testing.T) {
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	var socket net.PacketConn
	var ttl *os.File
	err = ns.Do(func() (err error) {
		if socket, err = net.ListenPacket("udp4", ":0"); err != nil {
			return err
		}
		if ttl, err = os.OpenFile("/proc/sys/net/ipv4/ip_default_ttl", os.O_RDWR, 0); err != nil {
			return err
		}
		if _, err := ttl.WriteString("77"); err != nil {
			return err
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "inside0"}, PeerName: "inside1"}); err != nil {
			return err
		}
		entry := fmt.Sprintf(" %d ", inode(t, socket))
		for file, want := range map[string]bool{"/proc/thread-self/net/udp": true, "/proc/self/net/udp": false, "/proc/net/udp": false} {
			if got := strings.Contains(read(t, file), entry); got != want {
				t.Errorf("%s tells of the namespace of its reader: %v, want %v", file, got, want)
			}
		}
		if _, err := os.Stat("/sys/class/net/inside0"); err == nil {
			t.Error("/sys/class/net follows the thread")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = socket.Close(), ttl.Close() })
	if strings.Contains(read(t, "/proc/thread-self/net/udp"), fmt.Sprintf(" %d ", inode(t, socket))) {
		t.Error("/proc/thread-self/net is still about the namespace that the thread has left")
	}
	if got := strings.TrimSpace(read(t, "/proc/sys/net/ipv4/ip_default_ttl")); got == "77" {
		t.Error("/proc/sys/net tells of the other namespace")
	}
	value := make([]byte, 8)
	n, err := ttl.ReadAt(value, 0)
	if n == 0 || strings.TrimSpace(string(value[:n])) != "77" {
		t.Errorf("the file that was opened inside has %q, %v", value[:n], err)
	}
}

// TestSocket: a socket belongs to the namespace of the thread that opened it,
// wherever it is used.
func TestSocket(t *testing.T) {
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	var sockets [3]int
	openSocket := func(i int) func() error {
		return func() (err error) {
			sockets[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			return err
		}
	}
	for i, err := range []error{ns.Do(openSocket(0)), ns.Do(openSocket(1)), openSocket(2)()} {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(sockets[i]) })
	}
	var cookies [3]uint64
	for i, socket := range sockets {
		if cookies[i], err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
			t.Fatal(err)
		}
	}
	if cookies[0] != cookies[1] || cookies[0] == cookies[2] {
		t.Errorf("namespaces of the sockets: %d, %d and %d", cookies[0], cookies[1], cookies[2])
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// inode returns the number by which a socket is listed.
func inode(t *testing.T, socket net.PacketConn) uint64 {
	t.Helper()
	file, err := socket.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}
