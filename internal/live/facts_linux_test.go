package live_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TestDrain shows that nothing has to be waited for: when the source has read
// its answer, all that a sensor can tell of the exchange is in its socket, in
// all namespaces. Reading until it is empty finds all of that, and nothing of
// an earlier exchange.
func TestDrain(t *testing.T) {
	t.Parallel()
	const exchanges = 1000
	n := build(t, "netns-by-hand", lab.Options{})
	source := n.NetNS(n.Scenario.Source)
	nonce := []byte("0123456789abcdef")
	arming, err := ruletrace.Arm(ruletrace.ArmConfig{
		NetNS: n.Host, Budget: 4 * exchanges,
		Match: ruletrace.Match{Proto: packet.ICMP, Source: netip.MustParseAddr("172.19.0.2"), Target: n.Scenario.Target, Nonce: nonce},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer arming.Close()

	// Packets have their id 4 bytes behind the start of the ICMP header, which
	// the nonce follows; events have it as CTA_PROTO_ICMP_ID.
	packetID := func(record []byte) (id uint16, ok bool) {
		at := bytes.Index(record, nonce) - 8
		if at < 0 {
			return 0, false
		}
		return binary.BigEndian.Uint16(record[at+4:]), true
	}
	eventID := func(record []byte) (id uint16, ok bool) {
		_, after, ok := bytes.Cut(record, []byte{6, 0, 4, 0})
		if !ok {
			return 0, false
		}
		return binary.BigEndian.Uint16(after), true
	}
	sensors := []struct {
		name   string
		socket int
		id     func([]byte) (uint16, bool)
		want   int
	}{
		{"packets in the source", tap(t, source), packetID, 2},
		{"packets on the host", tap(t, n.Host), packetID, 4},
		{"conntrack events on the host", group(t, n.Host, 1, 2), eventID, 2}, // NFNLGRP_CONNTRACK_NEW, _UPDATE
	}
	rules := group(t, n.Host, 9) // NFNLGRP_NFTRACE: only some messages have a packet
	wantRules := 0

	prober := echoSocket(t, source)
	for id := range uint16(exchanges) {
		exchange(t, prober, n.Scenario.Target, id, nonce)
		for _, s := range sensors {
			got := 0
			for _, record := range drain(t, s.socket) {
				switch of, ok := s.id(record); {
				case ok && of != id:
					t.Errorf("%s: a record of exchange %d came after it, in %d", s.name, of, id)
				case ok:
					got++
				}
			}
			if got != s.want {
				t.Errorf("exchange %d: %d %s, want %d", id, got, s.name, s.want)
			}
		}
		got := len(drain(t, rules))
		if id == 0 {
			wantRules = got
		}
		if got != wantRules || got == 0 {
			t.Errorf("exchange %d: %d trace messages, want %d", id, got, wantRules)
		}
	}
}

// echoSocket opens a socket for pings.
func echoSocket(t *testing.T, ns *netns.NS) *icmp.PacketConn {
	t.Helper()
	var socket *icmp.PacketConn
	if err := ns.Do(func() (err error) {
		socket, err = icmp.ListenPacket("ip4:icmp", "")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket
}

// exchange sends an echo request and reads the reply.
func exchange(t *testing.T, socket *icmp.PacketConn, target netip.Addr, id uint16, data []byte) {
	t.Helper()
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(id), Seq: 1, Data: data}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := socket.WriteTo(request, &net.IPAddr{IP: target.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	if err := socket.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 2048); ; {
		size, _, err := socket.ReadFrom(buffer)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := icmp.ParseMessage(1, buffer[:size])
		if err != nil {
			t.Fatal(err)
		}
		if echo, ok := reply.Body.(*icmp.Echo); ok && reply.Type == ipv4.ICMPTypeEchoReply && echo.ID == int(id) {
			return
		}
	}
}

// tap opens a socket that has every packet of a namespace.
func tap(t *testing.T, ns *netns.NS) int {
	t.Helper()
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	return socket(t, ns, unix.AF_PACKET, int(all))
}

// group opens a netlink socket that has the messages of netfilter's groups.
func group(t *testing.T, ns *netns.NS, groups ...int) int {
	t.Helper()
	fd := socket(t, ns, unix.AF_NETLINK, unix.NETLINK_NETFILTER)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

func socket(t *testing.T, ns *netns.NS, family, protocol int) (fd int) {
	t.Helper()
	if err := ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// drain reads what is in a socket, and waits for nothing.
func drain(t *testing.T, fd int) (records [][]byte) {
	t.Helper()
	for {
		buffer := make([]byte, 4096)
		size, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			return records
		}
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, buffer[:size])
	}
}

// TestNothingBehindRepetition shows that what is handed to the kernel when it has
// begun to repeat a segment stays there until that is acknowledged.
func TestNothingBehindRepetition(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{Break: "mtu-beyond"})
	var conn net.Conn
	if err := n.NetNS("cnt01").Do(func() (err error) { conn, err = net.DialTimeout("tcp4", "8.8.8.8:9", timeout); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	info := func() (info *unix.TCPInfo) {
		if err := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || info == nil {
			t.Fatal(err)
		}
		return info
	}
	if _, err := conn.Write(make([]byte, 1400)); err != nil { // in one segment, that the way swallows
		t.Fatal(err)
	}
	eventually(t, "two repetitions", func() string {
		if info().Total_retrans < 2 {
			return "not yet"
		}
		return ""
	})
	const small = 16
	if _, err := conn.Write(make([]byte, small)); err != nil {
		t.Fatal(err)
	}
	if left := info().Notsent_bytes; left != small {
		t.Errorf("%d bytes are not sent, want %d", left, small)
	}
}
