package nat

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// network is a client behind a router that masquerades, and a server.
//
//	client fd5a::2, ::3 ── fd5a::1 router 2001:db8::1 ── 2001:db8::2 server
//	     10.1.0.2, .3   ── 10.1.0.1         192.0.2.1 ── 192.0.2.2
type network struct {
	client, router, server *netns.NS
	nft, conntrack         string
}

const masquerade = `table inet n {
	chain prerouting {
		type nat hook prerouting priority -100;
		meta nfproto ipv4 tcp dport 8080 dnat ip to 192.0.2.2:80
		meta nfproto ipv6 tcp dport 8080 dnat ip6 to [2001:db8::2]:80
	}
	chain postrouting { type nat hook postrouting priority 100; oifname "out" masquerade; }
}`

var (
	client4, other4  = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")
	client6, other6  = netip.MustParseAddr("fd5a::2"), netip.MustParseAddr("fd5a::3")
	inside4, inside6 = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd5a::1")
	router4, router6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	server4, server6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
)

// newNetwork builds the network and waits until the server can be reached,
// before the router tracks anything.
func newNetwork(t testing.TB) *network {
	t.Helper()
	testenv.Privileged(t)
	n := &network{nft: testenv.Tool(t, "nft"), conntrack: testenv.Tool(t, "conntrack")}
	for _, ns := range []**netns.NS{&n.client, &n.router, &n.server} {
		made, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = made.Close() })
		*ns = made
		// Duplicate address detection takes two seconds, also for link-local
		// addresses, without which no neighbour is asked.
		n.do(t, made, func() error {
			return sysctl(map[string]string{"ipv6/conf/default/accept_dad": "0"})
		})
	}
	n.do(t, n.router, func() error {
		if err := sysctl(map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}); err != nil {
			return err
		}
		for name, peer := range map[string]*netns.NS{"in": n.client, "out": n.server} {
			link := &netlink.Veth{
				LinkAttrs:     netlink.LinkAttrs{Name: name},
				PeerName:      "eth0",
				PeerNamespace: netlink.NsFd(peer.FD()),
			}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
		}
		return errors.Join(
			configure("in", "10.1.0.1/24", "fd5a::1/64"),
			configure("out", "192.0.2.1/24", "2001:db8::1/64"))
	})
	n.do(t, n.client, func() error {
		return configure("eth0", "10.1.0.2/24", "10.1.0.3/24", "fd5a::2/64", "fd5a::3/64")
	})
	n.do(t, n.server, func() error { return configure("eth0", "192.0.2.2/24", "2001:db8::2/64") })
	routes := func(ns *netns.NS, gateways ...netip.Addr) {
		n.do(t, ns, func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			for _, gateway := range gateways {
				_, all, _ := net.ParseCIDR("::/0")
				if gateway.Is4() {
					_, all, _ = net.ParseCIDR("0.0.0.0/0")
				}
				route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: gateway.AsSlice()}
				if err := netlink.RouteAdd(route); err != nil {
					return err
				}
			}
			return nil
		})
	}
	routes(n.client, inside4, inside6)
	routes(n.server, router4, router6)
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := errors.Join(
			n.pingWithin(50*time.Millisecond, client4, server4, 1),
			n.pingWithin(50*time.Millisecond, client6, server6, 1))
		if err == nil {
			return n
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// sysctl writes settings below net of the thread's namespace.
func sysctl(settings map[string]string) error {
	for file, value := range settings {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// configure gives the thread's namespace addresses that may be used at once.
func configure(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if address.IP.To4() == nil {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			return err
		}
	}
	// Asking a neighbour again would take a second, if the first question came
	// before the link was ready.
	err = sysctl(map[string]string{
		"ipv4/neigh/" + name + "/retrans_time_ms": "10",
		"ipv6/neigh/" + name + "/retrans_time_ms": "10",
	})
	return errors.Join(err, netlink.LinkSetUp(link))
}

func (n *network) do(t testing.TB, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// rules loads a ruleset into the router.
func (n *network) rules(t testing.TB, ruleset string) {
	t.Helper()
	n.do(t, n.router, func() error {
		cmd := exec.Command(n.nft, "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		return nil
	})
}

// tool runs conntrack in the router and returns what it printed.
func (n *network) tool(t testing.TB, args ...string) string {
	t.Helper()
	var out strings.Builder
	n.do(t, n.router, func() error {
		cmd := exec.Command(n.conntrack, args...)
		cmd.Stdout = &out
		return cmd.Run()
	})
	return out.String()
}

// ping sends one echo request with an id from the client and waits for the
// reply.
func (n *network) ping(t testing.TB, from, to netip.Addr, id uint16) {
	t.Helper()
	if err := n.pingWithin(5*time.Second, from, to, id); err != nil {
		t.Fatal(err)
	}
}

func (n *network) pingWithin(timeout time.Duration, from, to netip.Addr, id uint16) error {
	// An IPv4 socket shows the IP header, too.
	family, request, reply, header := "ip4:icmp", packet.EchoRequest, packet.EchoReply, 20
	if to.Is6() {
		family, request, reply, header = "ip6:ipv6-icmp", packet.EchoRequestV6, packet.EchoReplyV6, 0
	}
	var conn *net.IPConn
	err := n.client.Do(func() (err error) {
		conn, err = net.DialIP(family, &net.IPAddr{IP: from.AsSlice()}, &net.IPAddr{IP: to.AsSlice()})
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is buffered
	message := binary.BigEndian.AppendUint16([]byte{request, 0, 0, 0}, id)
	message = append(message, 0, 1)
	// ICMPv6 checksums are the kernel's work.
	binary.BigEndian.PutUint16(message[2:], ^(uint16(request)<<8 + id + 1))
	if _, err := conn.Write(message); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	for answer := make([]byte, 128); ; {
		size, err := conn.Read(answer)
		if err != nil {
			return err
		}
		got := answer[min(header, size):size]
		if len(got) == 8 && got[0] == reply && binary.BigEndian.Uint16(got[4:]) == id {
			return nil
		}
	}
}

// exchange opens a TCP connection from the client, to a listener of the server
// on port 80, sends a line, reads it back, and closes it from both sides.
func (n *network) exchange(t testing.TB, from, to netip.AddrPort) {
	t.Helper()
	listenAddr := netip.AddrPortFrom(server4, 80)
	if to.Addr().Is6() {
		listenAddr = netip.AddrPortFrom(server6, 80)
	}
	var listener *net.TCPListener
	n.do(t, n.server, func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(listenAddr))
		return err
	})
	defer listener.Close() //nolint:errcheck // nothing is buffered
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		_, writeErr := conn.Write([]byte(line))
		served <- errors.Join(err, writeErr, conn.Close())
	}()
	var conn *net.TCPConn
	n.do(t, n.client, func() (err error) {
		conn, err = net.DialTCP("tcp", net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
		return err
	})
	_, err := conn.Write([]byte("hello\n"))
	line, readErr := bufio.NewReader(conn).ReadString('\n')
	if err := errors.Join(err, readErr, conn.Close(), <-served); err != nil || line != "hello\n" {
		t.Fatalf("read %q: %v", line, err)
	}
}

// datagrams sends one UDP packet from the client to each of the server's ports.
func (n *network) datagrams(t testing.TB, first, count int) {
	t.Helper()
	n.do(t, n.client, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // nothing is buffered
		for i := range count {
			to := &unix.SockaddrInet4{Port: first + i, Addr: server4.As4()}
			if err := unix.Sendto(fd, []byte("x"), 0, to); err != nil {
				return err
			}
		}
		return nil
	})
}
