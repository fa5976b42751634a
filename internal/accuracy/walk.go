//go:build linux

package accuracy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
)

const (
	// prompt is how long a ping by the kernel may take in a network without a
	// fault.
	prompt = 300 * time.Millisecond
	// attempts is how many pairs of machines are tried.
	attempts = 20
)

// walk finds a machine and an address in a network of which the kernel says
// that it answers the pings of the other: from where to where does not matter,
// and so finds ways that no scenario was made for.
func walk(ctx context.Context, n *lab.Network, seed uint64) (*lab.Probe, error) {
	random := rand.New(rand.NewPCG(seed, 1))
	sources := append([]string{lab.HostName}, n.Named...)
	targets := []netip.Addr{n.Scenario.Target, n.Scenario.Resolver}
	for _, name := range sources {
		found, err := addresses(n.NetNS(name))
		if err != nil {
			return nil, err
		}
		targets = append(targets, found...)
	}
	for range attempts {
		p := &lab.Probe{Kind: "ping", Source: sources[random.IntN(len(sources))], Target: targets[random.IntN(len(targets))]}
		if p.Target.Is6() {
			p.Kind = "ping6"
		}
		if answers(ctx, n.NetNS(p.Source), p.Target, random.IntN(1<<16)) {
			return p, nil
		}
	}
	return nil, errors.New("the kernel answers no ping in this network")
}

// addresses are those of a namespace that others may send to.
func addresses(ns *netns.NS) (all []netip.Addr, err error) {
	err = ns.Do(func() error {
		found, err := net.InterfaceAddrs()
		for _, address := range found {
			prefix, err := netip.ParsePrefix(address.String())
			if err == nil && prefix.Addr().IsGlobalUnicast() {
				all = append(all, prefix.Addr())
			}
		}
		return err
	})
	return all, err
}

// answers reports whether an address answers a plain ping.
func answers(ctx context.Context, from *netns.NS, target netip.Addr, id int) bool {
	network, address, proto, kind, wanted := "ip4:icmp", "0.0.0.0", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if target.Is6() {
		network, address, proto, kind, wanted = "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var conn *icmp.PacketConn
	if err := from.Do(func() (err error) {
		conn, err = icmp.ListenPacket(network, address)
		return err
	}); err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // its answer is known
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("walk")}}).Marshal(nil)
	if err != nil {
		return false
	}
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: target.AsSlice()}); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(prompt))
	for buffer := make([]byte, 1500); ; {
		length, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return false
		}
		message, err := icmp.ParseMessage(proto, buffer[:length])
		if err != nil {
			continue
		}
		if echo, ok := message.Body.(*icmp.Echo); ok && message.Type == wanted && echo.ID == id {
			return true
		}
	}
}
