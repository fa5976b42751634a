package live_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// datagram is a UDP probe.
func datagram(n *lab.Network, source, target string) live.Config {
	cfg := connection(n, source, target)
	cfg.Kind, cfg.Payload = "udp", []byte("pathtrace\n")
	return cfg
}

// serveUDP has a socket in a namespace until the test ends; answer says what is
// sent back, and from where when that is not the socket itself. A nil answer
// takes datagrams in silence.
func serveUDP(t *testing.T, n *lab.Network, netns, address string, answer func(conn *net.UDPConn, payload []byte, client netip.AddrPort)) {
	t.Helper()
	var conn *net.UDPConn
	if err := n.NetNS(netns).Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = conn.Close(); serving.Wait() })
	if answer == nil {
		return
	}
	serving.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			length, client, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			answer(conn, buffer[:length], client)
		}
	})
}

// repeat answers with what was asked.
func repeat(conn *net.UDPConn, payload []byte, client netip.AddrPort) {
	_, _ = conn.WriteToUDPAddrPort(payload, client)
}

// TestUDP sends datagrams: answered through NAT, by an answer that repeats the
// request or has no content at all, taken in silence, refused, and lost.
func TestUDP(t *testing.T) {
	t.Parallel()
	masquerade := "request observed masquerade host postrouting source 172.19.0.2:port → 203.0.113.1:port [nft ip nat postrouting] ip saddr 172.19.0.0/24 masquerade"
	between := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/vethd04b7a9 egress", "cnt02/eth0 ingress"}
	delivered := endedBy(report.Delivered, "OK", "cnt02", "", "", between, nil)
	delivered.Confidence = report.Reconstructed
	silent := endedBy(report.Inconclusive, "NO_REPLY", "host", "", "", byHandThere, nil)
	silent.Translations = []string{masquerade}
	lost := endedBy(report.Lost, "NAT_MISSING", "host", "", "", byHandThere, nil)
	lost.Confidence = report.Reconstructed
	published := "request observed dnat host prerouting destination 203.0.113.1:8053 → 172.17.0.2:53 " +
		"[iptables-nft ip nat DOCKER] -A DOCKER ! -i docker0 -p udp -m udp --dport 8053 -j DNAT --to-destination 172.17.0.2:53"
	for name, tt := range map[string]struct {
		scenario       string
		options        lab.Options
		source, target string
		payload        string
		listen         [2]string // a namespace and an address there
		answer         func(*net.UDPConn, []byte, netip.AddrPort)
		rule           []string
		want           verdict
	}{
		"answered": {
			scenario: "netns-by-hand", source: "mynamespace", target: "8.8.8.8:5000", payload: "pathtrace\n",
			listen: [2]string{"internet", "8.8.8.8:5000"}, answer: repeat,
			want: answeredAt("mynamespace", byHandThere, byHandBack, masquerade),
		},
		"empty": {
			scenario: "netns-by-hand", source: "mynamespace", target: "8.8.8.8:5000",
			listen: [2]string{"internet", "8.8.8.8:5000"}, answer: repeat,
			want: answeredAt("mynamespace", byHandThere, byHandBack, masquerade),
		},
		"another content": {
			scenario: "netns-by-hand", source: "mynamespace", target: "8.8.8.8:5000", payload: "x",
			listen: [2]string{"internet", "8.8.8.8:5000"},
			answer: func(c *net.UDPConn, _ []byte, client netip.AddrPort) {
				repeat(c, []byte("a password of somebody"), client)
			},
			want: answeredAt("mynamespace", byHandThere, byHandBack, masquerade),
		},
		"taken in silence": {
			scenario: "docker-bridge", source: "cnt01", target: "172.17.0.3:5000", payload: "pathtrace\n",
			listen: [2]string{"cnt02", "172.17.0.3:5000"}, want: delivered,
		},
		"nobody listens": {
			scenario: "docker-bridge", source: "cnt01", target: "172.17.0.3:5000", payload: "pathtrace\n",
			want: refusedBy("cnt02", between,
				[]string{"cnt02/eth0 egress", "host/vethd04b7a9 ingress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}),
		},
		"silence outside": {
			scenario: "netns-by-hand", source: "mynamespace", target: "8.8.8.8:5000", payload: "pathtrace\n",
			listen: [2]string{"internet", "8.8.8.8:5000"}, want: silent,
		},
		"not translated": {
			scenario: "netns-by-hand", options: lab.Options{Break: "no-masquerade"}, source: "mynamespace", target: "8.8.8.8:5000", payload: "pathtrace\n",
			listen: [2]string{"internet", "8.8.8.8:5000"}, answer: repeat, want: lost,
		},
		"published": {
			scenario: "docker-bridge", source: "client", target: "203.0.113.1:8053", payload: "pathtrace\n",
			listen: [2]string{"cnt01", "172.17.0.2:53"}, answer: repeat,
			rule: strings.Fields("iptables-nft -t nat -A DOCKER ! -i docker0 -p udp --dport 8053 -j DNAT --to-destination 172.17.0.2:53"),
			want: answeredAt("client", dockerThere, dockerBack, published),
		},
		"published, from the host": {
			scenario: "docker-bridge", source: "host", target: "203.0.113.1:8053", payload: "",
			listen: [2]string{"cnt01", "172.17.0.2:53"}, answer: repeat,
			rule: strings.Fields("iptables-nft -t nat -A DOCKER ! -i docker0 -p udp --dport 8053 -j DNAT --to-destination 172.17.0.2:53"),
			want: answeredAt("host", dockerThere[2:], dockerBack[:3], strings.Replace(published, "prerouting", "output", 1)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, tt.scenario, tt.options)
			if tt.listen[0] != "" {
				serveUDP(t, n, tt.listen[0], tt.listen[1], tt.answer)
			}
			if tt.rule != nil {
				command(t, n.Host, tt.rule...)
				command(t, n.Host, strings.Fields("iptables-nft -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p udp --dport 53 -j ACCEPT")...)
			}
			cfg := datagram(n, tt.source, tt.target)
			cfg.Payload = []byte(tt.payload)
			if tt.want.Outcome != report.Replied && tt.want.Outcome != report.Rejected {
				cfg.Timeout = impatient
			}
			r := trace(t, n, cfg)
			tell(t, tt.want, shorten(r))
		})
	}
}

// TestUDPPrefixTranslation sends a datagram without content through stateless
// translation, of which no conntrack tells.
func TestUDPPrefixTranslation(t *testing.T) {
	t.Parallel()
	n := build(t, "ipv6-masquerade", lab.Options{})
	serveUDP(t, n, "internet", "[2001:4860:4860::8888]:5000", repeat)
	cfg := datagram(n, "cnt01", "[2001:4860:4860::8888]:5000")
	cfg.Payload = nil
	r := trace(t, n, cfg)
	got := shorten(r)
	want := answeredAt("cnt01", n.Scenario.Request, n.Scenario.Reply)
	got.Translations = nil
	tell(t, want, got)
	var kinds []string
	for _, tr := range r.Translations {
		kinds = append(kinds, fmt.Sprintf("%s %s %s", tr.Leg, tr.NetNS, tr.Kind))
	}
	tell(t, []string{"request host masquerade", "request gateway nptv6", "reply gateway nptv6"}, kinds)
}

// TestUDPFromElsewhere has the target answer from another of its addresses.
func TestUDPFromElsewhere(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	address, err := net.ResolveUDPAddr("udp", "172.17.0.99:5000")
	if err != nil {
		t.Fatal(err)
	}
	h := handle(t, n.NetNS("cnt02"))
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: address.IP, Mask: net.CIDRMask(16, 32)}}); err != nil {
		t.Fatal(err)
	}
	var other *net.UDPConn
	if err := n.NetNS("cnt02").Do(func() (err error) { other, err = net.ListenUDP("udp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	serveUDP(t, n, "cnt02", "172.17.0.3:5000", func(_ *net.UDPConn, payload []byte, client netip.AddrPort) { repeat(other, payload, client) })
	cfg := datagram(n, "cnt01", "172.17.0.3:5000")
	cfg.Timeout = impatient
	r := trace(t, n, cfg)
	if r.Verdict.Outcome != report.Dropped || r.Verdict.Code != "ANSWER_FROM_ELSEWHERE" || !strings.Contains(r.Verdict.Summary, "172.17.0.99:5000") {
		t.Errorf("verdict %s %s %q", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary)
	}
}

// TestUDPCount sends several datagrams, each from a port of its own.
func TestUDPCount(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	serveUDP(t, n, "cnt02", "172.17.0.3:5000", repeat)
	cfg := datagram(n, "cnt01", "172.17.0.3:5000")
	cfg.Count = 3
	r := trace(t, n, cfg)
	var outcomes []report.Outcome
	for _, try := range r.Tries {
		outcomes = append(outcomes, try.Outcome)
	}
	tell(t, []report.Outcome{report.Replied, report.Replied, report.Replied}, outcomes)
}
