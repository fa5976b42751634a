//go:build linux

package lab

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
)

// ResolverName is the name of the program that holds the sockets of Docker's
// embedded DNS server, which are in the containers' namespaces.
const ResolverName = "dockerd"

// embeddedAddress is where a container on a user-defined network of Docker's
// finds its name server.
var embeddedAddress = netip.MustParseAddr("127.0.0.11")

// runResolver passes on, over one socket, the queries that come to another one,
// with the ids that they have, and the answers back. Both sockets are handed in.
func runResolver(args []string) error {
	flags := flag.NewFlagSet(ResolverName, flag.ContinueOnError)
	upstream := flags.String("upstream", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp", *upstream)
	if err != nil {
		return err
	}
	var sockets [2]net.PacketConn
	for i, name := range []string{"queries", "upstream"} {
		if sockets[i], err = net.FilePacketConn(os.NewFile(uintptr(4+i), name)); err != nil {
			return err
		}
	}
	if err := sayReady(); err != nil {
		return err
	}
	pass(sockets[0], sockets[1], to)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// pass carries datagrams from clients to a server, and answers back to the client
// whose message had the same id.
func pass(clients, server net.PacketConn, to net.Addr) {
	var lock sync.Mutex
	waiting := make(map[[2]byte]net.Addr)
	copying := func(from net.PacketConn, each func(message []byte, source net.Addr)) {
		buffer := make([]byte, 1<<16)
		for {
			n, source, err := from.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n > 2 { // an error may be an earlier datagram's
				each(buffer[:n], source)
			}
		}
	}
	go copying(clients, func(query []byte, client net.Addr) {
		lock.Lock()
		waiting[[2]byte(query)] = client
		lock.Unlock()
		_, _ = server.WriteTo(query, to)
	})
	go copying(server, func(answer []byte, _ net.Addr) {
		lock.Lock()
		client := waiting[[2]byte(answer)]
		delete(waiting, [2]byte(answer))
		lock.Unlock()
		if client != nil {
			_, _ = clients.WriteTo(answer, client)
		}
	})
}

// embeddedDNS gives a container Docker's name server at 127.0.0.11: rules of the
// container lead to the port of a socket there that a process of the host holds.
// As Docker does it, that asks the server upstream from the container's
// namespace.
func (n *node) embeddedDNS(container *node, upstream netip.Addr) {
	upstream = n.disguise.address(upstream)
	var port uint16
	n.do("run the embedded DNS server of "+container.name, func() error {
		var queries, asking *net.UDPConn
		err := container.ns.Do(func() (err error) {
			if queries, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(embeddedAddress, 0))); err != nil {
				return err
			}
			asking, err = net.ListenUDP("udp4", nil)
			return err
		})
		if err != nil {
			return err
		}
		port = queries.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		var files []*os.File
		for _, conn := range []*net.UDPConn{queries, asking} {
			file, err := conn.File()
			if err := errors.Join(err, conn.Close()); err != nil {
				return err
			}
			files = append(files, file)
			defer file.Close() //nolint:errcheck // the process has its own
		}
		return n.playing(ResolverName, files, "-upstream", netip.AddrPortFrom(upstream, 53).String())
	})
	container.iptables(n.network.Options.Backend, false, fmt.Sprintf(`
*nat
:DOCKER_OUTPUT -
:DOCKER_POSTROUTING -
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:%[1]d
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport %[1]d -j SNAT --to-source :53
`, port))
	n.resolvers[container.name] = embeddedAddress
}
