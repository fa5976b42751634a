//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// trafficPace is the time between two packets of Traffic.
const trafficPace = time.Millisecond

// Traffic sends packets of flows other than the scenario's own, pings and DNS
// queries from its source and from the host to the other addresses of
// dns.google. It returns when all are sent or the context is done; the answers
// are not waited for.
func (n *Network) Traffic(ctx context.Context, packets int) (err error) {
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("traffic.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		return err
	}
	network, kind := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho)
	if n.Scenario.Target.Is6() {
		network, kind = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest
	}
	echo, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte("traffic")}}).Marshal(nil)
	if err != nil {
		return err
	}

	type flow struct {
		conn   net.Conn
		packet []byte
	}
	var flows []flow
	defer func() {
		for _, flow := range flows {
			err = errors.Join(err, flow.conn.Close())
		}
	}()
	for _, name := range []string{n.Scenario.Source, HostName} {
		err := n.NetNS(name).Do(func() error {
			for _, address := range googleAddresses {
				if address == n.Scenario.Target || address.Is6() != n.Scenario.Target.Is6() {
					continue
				}
				conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: address.AsSlice(), Port: 53})
				if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) {
					continue // the network is broken in a way that keeps others from sending, too
				}
				if err != nil {
					return err
				}
				flows = append(flows, flow{conn, query})
				raw, err := net.DialIP(network, nil, &net.IPAddr{IP: address.AsSlice()})
				if err != nil {
					return err
				}
				flows = append(flows, flow{raw, echo})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("send from %s: %w", name, err)
		}
	}
	if len(flows) == 0 {
		return nil
	}
	pace := time.NewTicker(trafficPace)
	defer pace.Stop()
	for i := range packets {
		flow := flows[i%len(flows)]
		// An error may be an earlier packet's: some faults reject them.
		_, _ = flow.conn.Write(flow.packet)
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
	return nil
}
