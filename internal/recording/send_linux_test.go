package recording_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pings is the number of echo requests of a flow.
const pings = 3

// ping sends echo requests, each when the one before was answered; where there
// will be no answer, one behind the other.
func ping(id uint16, from, target string, size int, answered bool) func(*recorder) {
	return func(r *recorder) {
		to := netip.MustParseAddr(target)
		network, local, kind := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho)
		answer := icmp.Type(ipv4.ICMPTypeEchoReply)
		if to.Is6() {
			network, local, kind, answer = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
		}
		var conn *icmp.PacketConn
		if err := r.network.NetNS(from).Do(func() (err error) {
			conn, err = icmp.ListenPacket(network, local)
			return err
		}); err != nil {
			r.Fatal(err)
		}
		defer conn.Close()
		data := bytes.Repeat([]byte("pathtrace "), size/10+1)[:size]
		for seq := 1; seq <= pings; seq++ {
			echo, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: int(id), Seq: seq, Data: data}}).Marshal(nil)
			if err == nil {
				_, err = conn.WriteTo(echo, &net.IPAddr{IP: to.AsSlice()})
			}
			if err != nil {
				r.Fatal(err)
			}
			for answered && !r.heard(conn, answer, int(id), seq) {
			}
		}
	}
}

// heard reads one message and reports whether it is the answer.
func (r *recorder) heard(conn *icmp.PacketConn, kind icmp.Type, id, seq int) bool {
	buffer := make([]byte, 1<<16)
	if err := conn.SetReadDeadline(time.Now().Add(settle)); err != nil {
		r.Fatal(err)
	}
	n, _, err := conn.ReadFrom(buffer)
	if err != nil {
		r.Fatal(err)
	}
	protocol := 1
	if kind == ipv6.ICMPTypeEchoReply {
		protocol = 58
	}
	message, err := icmp.ParseMessage(protocol, buffer[:n])
	if err != nil || message.Type != kind {
		return false
	}
	echo, ok := message.Body.(*icmp.Echo)
	return ok && echo.ID == id && echo.Seq == seq
}

// query asks a name server for the addresses of dns.google.
func query(from, port, server string) func(*recorder) {
	return func(r *recorder) {
		question, err := (&dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 4242, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("dns.google."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}},
		}).Pack()
		if err != nil {
			r.Fatal(err)
		}
		conn := r.dial("udp", from, port, server)
		defer conn.Close()
		if _, err := conn.Write(question); err != nil {
			r.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1500)); err != nil {
			r.Fatal(err)
		}
	}
}

// fetch asks for a page over HTTP, and ends the connection.
func fetch(from, port, server string) func(*recorder) {
	return func(r *recorder) {
		conn := r.dial("tcp", from, port, server)
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\nHost: recording.example\r\n\r\n"); err != nil {
			r.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			r.Fatal(err)
		}
	}
}

// upload sends data on a connection at once, and ends it when the other side
// has.
func upload(from, port, server string, size int) func(*recorder) {
	return func(r *recorder) {
		conn := r.dial("tcp", from, port, server).(*net.TCPConn)
		defer conn.Close()
		if _, err := conn.Write(bytes.Repeat([]byte("pathtrace "), size/10)); err != nil {
			r.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			r.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			r.Fatal(err)
		}
	}
}

// dial connects a socket of a namespace that has a certain port.
func (r *recorder) dial(network, from, port, server string) net.Conn {
	ctx, cancel := context.WithTimeout(r.Context(), settle)
	defer cancel()
	to := netip.MustParseAddrPort(server)
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), netip.MustParseAddrPort("0.0.0.0:"+port).Port())
	if to.Addr().Is6() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())
	}
	var conn net.Conn
	err := r.network.NetNS(from).Do(func() (err error) {
		if network == "udp" {
			conn, err = new(net.Dialer).DialUDP(ctx, network, local, to)
		} else {
			conn, err = new(net.Dialer).DialTCP(ctx, network, local, to)
		}
		return err
	})
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(settle))
	}
	if err != nil {
		r.Fatal(err)
	}
	return conn
}
