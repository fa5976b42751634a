package live_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestNoFalseAlarm probes healthy networks in which others send, too: pings of
// the same target, connections to the same port, and flows that rules drop.
func TestNoFalseAlarm(t *testing.T) {
	t.Parallel()
	runs := 6
	if testing.Short() {
		runs = 2
	}
	number := 0
	for _, scenario := range lab.Scenarios() {
		for _, backend := range scenario.Backends {
			number++
			t.Run(fmt.Sprintf("%s %s", scenario.Name, backend), func(t *testing.T) {
				t.Parallel()
				third(t, number)
				n := build(t, scenario.Name, lab.Options{Backend: backend})
				want := expected(t, n)
				forwards := !n.Scenario.Bridged
				if forwards {
					dropOthers(t, n)
				}
				disturb(t, n)
				for i := range runs {
					quiet(t, n, want, i%2 == 1)
					if t.Failed() {
						return
					}
				}
				if !forwards {
					return
				}
				if dropped := droppedOthers(t, n); dropped < runs {
					t.Errorf("%d packets of others were dropped meanwhile, want many more", dropped)
				}
			})
		}
	}
}

// quiet probes a network in which others send until no sensor lost anything. With
// a loss, too, the report accuses nothing of having dropped the packet.
func quiet(t *testing.T, n *lab.Network, want answer, connect bool) {
	t.Helper()
	const attempts = 4
	for range attempts {
		cfg := probe(n)
		if connect {
			cfg = connection(n, n.Scenario.Source, netip.AddrPortFrom(n.Scenario.Target, 53).String())
		}
		r := trace(t, n, cfg)
		if id := echoID(r); !connect && 0 < id && id <= othersIDs {
			continue // conntrack takes the ping for one of theirs
		}
		if lossy(r) {
			if problems := accusations(r); len(problems) > 0 || r.Verdict.Outcome != report.Replied && r.Verdict.Outcome != report.Inconclusive {
				t.Errorf("with a loss: %s, %s, %q", r.Verdict.Outcome, r.Verdict.Code, problems)
			}
			continue
		}
		for _, problem := range healthy(r) {
			t.Errorf("connection %v: %s", connect, problem)
		}
		if !connect {
			tell(t, want, said(r))
		}
		return
	}
	t.Errorf("a sensor lost something in each of %d runs", attempts)
}

// othersIDs is how many ids the pings of others have, from 1 on.
const othersIDs = 50

// echoID is the id of the ping that a report is about, 0 when it is about none.
func echoID(r *report.Report) (id int) {
	_, echo, _ := strings.Cut(r.Request.Packet, " echo id ")
	_, _ = fmt.Sscanf(echo, "%d", &id)
	return id
}

// other is the address that others may not reach: another of the target's
// machine.
func other(n *lab.Network) netip.Addr {
	if n.Scenario.Target.Is6() {
		return netip.MustParseAddr("2001:4860:4860::8844")
	}
	return netip.MustParseAddr("8.8.4.4")
}

// forwardChain is where the host filters what it forwards.
func forwardChain(n *lab.Network) (family, table, chain string) {
	family = "ip"
	if n.Scenario.Target.Is6() {
		family = "ip6"
	}
	switch {
	case n.Options.Backend != lab.NFT:
		return family, "filter", "FORWARD"
	case n.Scenario.Name == "ipv6-masquerade":
		return "inet", "firewalld", "filter_FORWARD"
	}
	return "inet", "filter", "forward"
}

// dropOthers has the host drop all that is for the other address.
func dropOthers(t *testing.T, n *lab.Network) {
	t.Helper()
	family, table, chain := forwardChain(n)
	if n.Options.Backend == lab.NFT {
		address := map[bool]string{false: "ip", true: "ip6"}[other(n).Is6()]
		command(t, n.Host, "nft", "insert", "rule", family, table, chain, address, "daddr", other(n).String(), "counter", "drop")
		return
	}
	command(t, n.Host, iptables(n.Options.Backend, family), "-I", chain, "-d", other(n).String(), "-j", "DROP")
}

// iptables is the tool for a family.
func iptables(backend lab.Backend, family string) string {
	if family == "ip6" {
		return strings.Replace(string(backend), "ip", "ip6", 1)
	}
	return string(backend)
}

// droppedOthers reads how many packets that were.
func droppedOthers(t *testing.T, n *lab.Network) int {
	t.Helper()
	family, table, chain := forwardChain(n)
	first := rules(t, n.Host, string(n.Options.Backend), family, table, chain)[1]
	if n.Options.Backend != lab.NFT {
		return first.packets
	}
	var count int
	_, counter, _ := strings.Cut(first.text, "counter packets ")
	if _, err := fmt.Sscanf(counter, "%d", &count); err != nil {
		t.Fatalf("%q: %v", first.text, err)
	}
	return count
}

// disturb sends packets of other flows until the test ends.
func disturb(t *testing.T, n *lab.Network) {
	t.Helper()
	const most = 60_000 // packets of each kind, if the test takes that long
	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	t.Cleanup(func() {
		stop()
		sending.Wait()
	})
	sending.Go(func() {
		if err := n.Traffic(ctx, most); err != nil {
			t.Error(err)
		}
	})
	sending.Go(func() {
		if err := pings(ctx, n, most); err != nil {
			t.Error(err)
		}
	})
	sending.Go(func() {
		if err := connections(ctx, n, most); err != nil {
			t.Error(err)
		}
	})
}

// pings sends echo requests to the scenario's own target, with many ids.
func pings(ctx context.Context, n *lab.Network, packets int) error {
	network, kind := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho)
	if n.Scenario.Target.Is6() {
		network, kind = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest
	}
	var conn net.Conn
	if err := n.NetNS(n.Scenario.Source).Do(func() (err error) {
		conn, err = net.DialIP(network, nil, &net.IPAddr{IP: n.Scenario.Target.AsSlice()})
		return err
	}); err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it was only written to
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for i := range packets {
		echo, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 1 + i%othersIDs, Seq: 1 + i%3, Data: make([]byte, 56)}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := conn.Write(echo); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
	return nil
}

// connections opens and closes connections to the target's port 53.
func connections(ctx context.Context, n *lab.Network, count int) error {
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for range count {
		var conn *net.TCPConn
		err := n.NetNS(n.Scenario.Source).Do(func() (err error) {
			conn, err = new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(n.Scenario.Target, 53))
			return err
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := conn.Close(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
	return nil
}
