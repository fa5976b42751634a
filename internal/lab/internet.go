//go:build linux

package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// googleAddresses are those of dns.google, as the real one has them.
var googleAddresses = []netip.Addr{
	netip.MustParseAddr("8.8.8.8"),
	netip.MustParseAddr("8.8.4.4"),
	netip.MustParseAddr("2001:4860:4860::8888"),
	netip.MustParseAddr("2001:4860:4860::8844"),
}

// zone is what the internet's name server knows.
var zone = map[string][]netip.Addr{
	"dns.google.":         googleAddresses,
	"proxy.example.":      {vpnProxy},
	"repository.example.": {vpnRepository},
	"intranet.example.":   {vpnIntranet},
}

// discardPort is where connections are read to their end (RFC 863).
const discardPort = 9

// google makes a namespace answer as dns.google: to pings by its kernel, to
// DNS over UDP and TCP, and to HTTP. What is sent to the discard port is
// acknowledged.
func (b *builder) google(internet *node) {
	for _, address := range googleAddresses {
		internet.addr("lo", netip.PrefixFrom(address, address.BitLen()).String())
		internet.listenUDP(address, 53, b.network.serveDatagrams)
		internet.listenTCP(address, 53, b.network.serveStream)
		internet.listenTCP(address, 80, serveHTTP)
		internet.listenTCP(address, discardPort, discard)
	}
}

// listenUDP serves datagrams at an address of the namespace until the network
// is closed.
func (n *node) listenUDP(address netip.Addr, port uint16, serve func(*net.UDPConn)) {
	n.do(fmt.Sprintf("listen on %s port %d in %s", address, port, n.name), func() error {
		var conn *net.UDPConn
		err := n.ns.Do(func() (err error) {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.disguise.address(address), port)))
			return err
		})
		if err != nil {
			return err
		}
		n.undo(conn.Close)
		n.network.services.Go(func() { serve(conn) })
		return nil
	})
}

// listenTCP serves connections at an address of the
// namespace until the network is closed.
func (n *node) listenTCP(address netip.Addr, port uint16, serve func(net.Conn)) {
	n.do(fmt.Sprintf("listen on %s port %d in %s", address, port, n.name), func() error {
		var listener *net.TCPListener
		err := n.ns.Do(func() (err error) {
			listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.disguise.address(address), port)))
			return err
		})
		if err != nil {
			return err
		}
		connections := &connections{open: make(map[net.Conn]bool)}
		n.undo(connections.close)
		n.undo(listener.Close)
		n.network.services.Go(func() { acceptAll(listener, connections, serve) })
		return nil
	})
}

// serveDatagrams answers DNS queries until the socket is closed.
func (n *Network) serveDatagrams(conn *net.UDPConn) {
	buffer := make([]byte, 1500)
	for {
		length, client, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		if answer, err := n.resolve(buffer[:length]); err == nil {
			// A client that has gone need not be told.
			_, _ = conn.WriteToUDPAddrPort(answer, client)
		}
	}
}

// serveStream answers DNS queries on a connection, each with its length before
// it (RFC 1035, 4.2.2).
func (n *Network) serveStream(conn net.Conn) {
	for {
		var length uint16
		if binary.Read(conn, binary.BigEndian, &length) != nil {
			return
		}
		query := make([]byte, length)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer, err := n.resolve(query)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// discard reads a connection to its end.
func discard(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// serveHTTP answers the first request of a connection, and ends it.
func serveHTTP(conn net.Conn) {
	if _, err := conn.Read(make([]byte, 4096)); err == nil {
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello\n")
	}
}

// resolve answers a query from the zone.
func (n *Network) resolve(query []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	header.Response, header.Authoritative, header.RecursionAvailable = true, true, true
	addresses, known := zone[strings.ToLower(question.Name.String())]
	switch {
	case n.refuseDNS.Load():
		header.RCode, addresses = dnsmessage.RCodeRefused, nil
	case !known:
		header.RCode = dnsmessage.RCodeNameError
	}
	answer := dnsmessage.NewBuilder(nil, header)
	answer.EnableCompression()
	if err := answer.StartQuestions(); err != nil {
		return nil, err
	}
	if err := answer.Question(question); err != nil {
		return nil, err
	}
	if err := answer.StartAnswers(); err != nil {
		return nil, err
	}
	resource := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 300}
	for _, address := range addresses {
		switch {
		case question.Type == dnsmessage.TypeA && address.Is4():
			err = answer.AResource(resource, dnsmessage.AResource{A: address.As4()})
		case question.Type == dnsmessage.TypeAAAA && address.Is6():
			err = answer.AAAAResource(resource, dnsmessage.AAAAResource{AAAA: address.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return answer.Finish()
}
