//go:build linux

package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

func TestBuild(t *testing.T) {
	t.Parallel()
	testenv.Privileged(t)
	for _, scenario := range lab.Scenarios() {
		for _, backend := range scenario.Backends {
			t.Run(scenario.Name+"/"+string(backend), func(t *testing.T) {
				t.Parallel()
				for _, tool := range scenario.Tools(lab.Options{Backend: backend}) {
					testenv.Tool(t, tool)
				}
				network, err := lab.Build(t.Context(), scenario.Name, lab.Options{Backend: backend})
				if err != nil {
					t.Fatal(err)
				}
				if err := ping(network.NetNS(scenario.Source), scenario.Target, 2*time.Second); err != nil {
					t.Errorf("no answer from %s: %v", scenario.Target, err)
				}
				if err := network.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// ping sends one echo request from a namespace and waits for the answer.
func ping(from *netns.NS, target netip.Addr, timeout time.Duration) error {
	network, proto, kind, local := "ip6:ipv6-icmp", 58, icmp.Type(ipv6.ICMPTypeEchoRequest), "::"
	if target.Is4() {
		network, proto, kind, local = "ip4:icmp", 1, ipv4.ICMPTypeEcho, "0.0.0.0"
	}
	var conn *icmp.PacketConn
	if err := from.Do(func() (err error) {
		conn, err = icmp.ListenPacket(network, local)
		return err
	}); err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written that could be lost
	id := os.Getpid() & 0xffff
	message, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("lab")}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: target.AsSlice()}); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		length, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := icmp.ParseMessage(proto, buffer[:length])
		if err != nil {
			return err
		}
		switch answer.Type {
		case ipv4.ICMPTypeEchoReply, ipv6.ICMPTypeEchoReply:
			return nil
		case ipv4.ICMPTypeDestinationUnreachable, ipv6.ICMPTypeDestinationUnreachable:
			return fmt.Errorf("%v code %d", answer.Type, answer.Code)
		}
	}
}
