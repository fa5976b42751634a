package live_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// discard is where the lab's machines read what is sent to them.
const discard = 9

// sending is a connection from the scenario's source over which data is sent.
func sending(n *lab.Network, target string, bytes int) live.Config {
	cfg := connection(n, n.Scenario.Source, target)
	cfg.SendBytes = bytes
	return cfg
}

// TestData sends data through healthy networks.
func TestData(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ scenario, target string }{
		{"ipv6-masquerade", "[2001:4860:4860::8888]"},
		{"ipv6-masquerade", "8.8.8.8"},
		{"docker-bridge", "8.8.8.8"},
		{"vpn-overlap", "172.20.0.5"},
		{"netns-by-hand", "8.8.8.8"},
	} {
		for _, size := range []int{1, 1448, 100_000, live.MaxSendBytes} {
			t.Run(fmt.Sprintf("%s %s %d", tt.scenario, tt.target, size), func(t *testing.T) {
				t.Parallel()
				n := build(t, tt.scenario, lab.Options{})
				r := trace(t, n, sending(n, fmt.Sprintf("%s:%d", tt.target, discard), size))
				want := fmt.Sprintf("All %d bytes that were then sent were acknowledged.", size)
				if r.Verdict.Outcome != report.Replied || r.Verdict.Code != "OK" || !strings.Contains(r.Verdict.Summary, want) {
					t.Errorf("%s %s: %s\nwant OK: %s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary, want)
				}
				for _, problem := range healthy(r) {
					t.Error(problem)
				}
			})
		}
	}
}

// TestDataToPublishedPort sends data to a server that ends the connection when
// it has read enough, also from where a rule of the source's own translates it.
func TestDataToPublishedPort(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"client", lab.HostName, "cnt01"} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			cfg := connection(n, source, "203.0.113.1:8080")
			cfg.SendBytes = 20_000
			r := trace(t, n, cfg)
			for _, problem := range healthy(r) {
				t.Error(problem)
			}
			var acked int
			if _, proxied, ok := strings.Cut(r.Verdict.Summary, "got there, too. It acknowledged "); ok {
				_, err := fmt.Sscanf(proxied, "%d of the 20000 bytes that were then sent; how many of them got further was not watched.", &acked)
				if err != nil || acked < 1448 {
					t.Errorf("docker-proxy acknowledged %d bytes (%v): %s", acked, err, r.Verdict.Summary)
				}
				return
			}
			_, after, _ := strings.Cut(r.Verdict.Summary, "The far end acknowledged ")
			_, err := fmt.Sscanf(after, "%d of 20000 bytes and then ended the connection.", &acked)
			if all := strings.Contains(r.Verdict.Summary, "All 20000 bytes"); !all && (err != nil || acked < 1448) {
				t.Errorf("%d bytes were acknowledged (%v): %s", acked, err, r.Verdict.Summary)
			}
		})
	}
}

// TestDataTooSlow has a server that reads nothing, so that its window closes:
// nothing is lost, and not all is acknowledged when the time is up.
func TestDataTooSlow(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	var listener net.Listener
	if err := n.NetNS("cnt02").Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8192) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg := connection(n, "cnt01", "172.17.0.3:7")
	cfg.SendBytes, cfg.Timeout = 100_000, impatient
	r := trace(t, n, cfg)
	if r.Verdict.Outcome != report.Inconclusive || !strings.Contains(r.Verdict.Summary, "nothing was seen to be lost") {
		t.Errorf("%s %s: %s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary)
		t.Log(text(t, r))
	}
}

// TestPathMTUDiscovery sends data where a link is too small for it and says so:
// what the sender learns is a step, and the data arrives.
func TestPathMTUDiscovery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scenario, target, netns, link string
	}{
		{"ipv6-masquerade", "[2001:4860:4860::8888]:9", "router", "eth1"},
		{"ipv6-masquerade", "8.8.8.8:9", "router", "eth1"},
		{"docker-bridge", "8.8.8.8:9", lab.HostName, "eth0"},
	} {
		t.Run(tt.scenario+" "+tt.target, func(t *testing.T) {
			t.Parallel()
			n := build(t, tt.scenario, lab.Options{})
			command(t, n.NetNS(tt.netns), "ip", "link", "set", "dev", tt.link, "mtu", "1400")
			r := trace(t, n, sending(n, tt.target, 100_000))
			if r.Verdict.Outcome != report.Replied || r.Verdict.Code != "OK" {
				t.Errorf("%s %s: %s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary)
			}
			const want = "a later packet of 1500 bytes was larger than the MTU of the way on (1400); an ICMP error told the sender so"
			if got := stepsOf(r, "a later packet"); len(got) != 1 || got[0] != tt.netns+": "+want {
				t.Errorf("got steps %q, want one in %s: %s", got, tt.netns, want)
			}
		})
	}
}

// stepsOf are the steps of the request whose text begins so, each after its
// namespace.
func stepsOf(r *report.Report, prefix string) []string {
	var all []string
	for _, hop := range r.Legs.Request {
		for _, step := range hop.Steps {
			if strings.HasPrefix(step.Text, prefix) {
				all = append(all, hop.NetNS+": "+step.Text)
			}
		}
	}
	return all
}

// TestDataNotByItsSize loses data for other reasons than its size, or for one
// that is no MTU.
func TestDataNotByItsSize(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, netns, rule string
		want              verdict
		summary           string
	}{
		{
			"a rule for large packets", lab.HostName, "-I FORWARD -p tcp -m length --length 1000:65535 -j DROP",
			verdict{Outcome: report.Dropped, Leg: "request", Code: "FILTER_DROP", NetNS: lab.HostName, Hook: "forward"},
			"then 0 of 20000",
		}, {
			"all data is swallowed out there", "internet", "-I INPUT -p tcp --tcp-flags PSH PSH -j DROP",
			verdict{Outcome: report.Lost, Leg: "request", Code: "NO_REPLY", NetNS: lab.HostName},
			"then 0 of 20000",
		}, {
			"answers to large packets are swallowed out there", "internet", "-I OUTPUT -p tcp --tcp-flags SYN,ACK ACK -j DROP",
			verdict{Outcome: report.Lost, Leg: "request", Code: "NO_REPLY", NetNS: lab.HostName},
			"then 0 of 20000",
		}, {
			"large packets are answered by a reset", "internet", "-I INPUT -p tcp -m length --length 1000:65535 -j REJECT --reject-with tcp-reset",
			verdict{Outcome: report.Inconclusive, Leg: "request", Code: "INCONCLUSIVE", NetNS: lab.HostName},
			"8.8.8.8 reset it",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			command(t, n.NetNS(tt.netns), "sh", "-c", "iptables-nft "+tt.rule)
			cfg := sending(n, "8.8.8.8:9", 20_000)
			cfg.Timeout = 4 * impatient
			r := trace(t, n, cfg)
			got := verdict{Outcome: r.Verdict.Outcome, Leg: r.Verdict.Leg, Code: r.Verdict.Code, NetNS: r.Verdict.NetNS, Hook: r.Verdict.Hook}
			tell(t, tt.want, got)
			if !strings.Contains(r.Verdict.Summary, tt.summary) {
				t.Errorf("%q, want %q in it", r.Verdict.Summary, tt.summary)
			}
			if t.Failed() {
				t.Log(text(t, r))
			}
		})
	}
}

// TestLargePing follows pings that leave in fragments, which are put together
// and cut anew on their way, through every place of healthy networks.
func TestLargePing(t *testing.T) {
	t.Parallel()
	vpn := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress", "host/tun0 egress"}
	for _, tt := range []struct {
		scenario, target string
		request          []string
	}{
		{"ipv6-masquerade", "", nil},
		{"docker-bridge", "", nil},
		{"vpn-overlap", "", nil},
		{"netns-by-hand", "", nil},
		{"vpn-overlap", "172.20.0.5", vpn},
	} {
		t.Run(tt.scenario+" "+tt.target, func(t *testing.T) {
			t.Parallel()
			n := build(t, tt.scenario, lab.Options{})
			cfg := probe(n)
			want, _ := n.Scenario.Path(n.Options)
			if tt.target != "" {
				cfg, want = ping(n, tt.target), tt.request
			}
			cfg.Size = 3000
			r := trace(t, n, cfg)
			var got []string
			for _, hop := range points(r.Legs.Request) {
				got = append(got, place(hop))
			}
			if diff := cmp.Diff(want, got); diff != "" || r.Verdict.Code != "OK" || !strings.HasSuffix(r.Request.Packet, " (fragmented)") {
				t.Errorf("%s of %s, through (-want +got):\n%s", r.Verdict.Code, r.Request.Packet, diff)
				t.Log(text(t, r))
			}
		})
	}
}

// TestFragmentsUnanswered says of what got no answer that it went in fragments.
func TestFragmentsUnanswered(t *testing.T) {
	t.Parallel()
	const words = "It went in fragments"
	n := build(t, "netns-by-hand", lab.Options{Break: "silent-target"})
	cfg := probing(n, n.Scenario.ProbeOf("silent-target"))
	for size, want := range map[int]bool{0: false, 3000: true} {
		cfg.Size = size
		if r := trace(t, n, cfg); r.Verdict.Code != "NO_REPLY" || strings.Contains(r.Verdict.Summary, words) != want {
			t.Errorf("size %d: %s: %s", size, r.Verdict.Code, r.Verdict.Summary)
		}
	}
}

// TestPingAgain sends a ping that is too big twice: what the source learnt of the
// first does not keep the second from coming to the place again.
func TestPingAgain(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{Break: "uplink-mtu"})
	for range 2 {
		r := trace(t, n, probing(n, n.Scenario.ProbeOf("uplink-mtu")))
		if r.Verdict.Outcome != report.Rejected || r.Verdict.Code != "MTU_EXCEEDED" || r.Verdict.NetNS != lab.HostName {
			t.Errorf("%s %s in %s, want rejected MTU_EXCEEDED in host", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.NetNS)
		}
	}
}

// TestLinkMTU shows what a link hands on to one with a smaller MTU: a VLAN tag
// more, and frames of segmentation offload of any size.
func TestLinkMTU(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	command(t, n.Host, "ip", "link", "set", "dev", "veth8c1f3e2", "mtu", "1400")
	command(t, n.Host, "ip", "link", "set", "dev", "docker0", "mtu", "1500") // for the answers
	cfg := probe(n)
	cfg.DontFragment = true
	const headers, tag = 28, 4
	for _, tt := range []struct {
		size int
		code string
	}{{1400 + tag - headers, "OK"}, {1400 + tag + 1 - headers, "MTU_BLACKHOLE"}} {
		cfg.Size = tt.size
		if r := trace(t, n, cfg); r.Verdict.Code != tt.code {
			t.Errorf("a ping with %d bytes: %s, want %s: %s", tt.size, r.Verdict.Code, tt.code, r.Verdict.Summary)
		}
	}
	// TCP repeats what is missing and what follows in one frame.
	if r := trace(t, n, sending(n, "8.8.8.8:9", 20_000)); r.Verdict.Code != "OK" {
		t.Errorf("data: %s: %s", r.Verdict.Code, r.Verdict.Summary)
	}
}

// TestMTUOutOfSight has the small link where nobody can look: what the far
// router says is believed, and what it does not say is concluded. What is
// proposed against that is in the words of the host's own rules, and helps.
func TestMTUOutOfSight(t *testing.T) {
	t.Parallel()
	said := verdict{Outcome: report.Rejected, Leg: "request", Code: "MTU_EXCEEDED", NetNS: lab.HostName, Confidence: report.Observed}
	silent := verdict{Outcome: report.Lost, Leg: "request", Code: "MTU_BLACKHOLE", NetNS: lab.HostName, Confidence: report.Reconstructed}
	for _, tt := range []struct {
		fault   string
		backend lab.Backend
		want    verdict
	}{
		{"mtu@router", lab.NFT, said},
		{"mtu-silent@router", lab.NFT, silent},
		{"mtu-silent@router", lab.IPTablesNFT, silent},
		{"mtu-silent4@router", lab.NFT, silent},
		{"mtu-silent4@router", lab.IPTablesLegacy, silent},
	} {
		t.Run(fmt.Sprint(tt.fault, " ", tt.backend), func(t *testing.T) {
			t.Parallel()
			n := build(t, "ipv6-masquerade", lab.Options{Break: tt.fault, Backend: tt.backend, Opaque: true})
			cfg := probing(n, n.Scenario.ProbeOf(tt.fault))
			cfg.Timeout = 4 * impatient
			r := trace(t, n, cfg)
			tell(t, tt.want, verdict{
				Outcome: r.Verdict.Outcome, Leg: r.Verdict.Leg, Code: r.Verdict.Code, NetNS: r.Verdict.NetNS, Confidence: r.Verdict.Confidence,
			})
			if t.Failed() || tt.want.Code == said.Code {
				t.Log(text(t, r))
				return
			}
			mend(t, n, r)
			if well := trace(t, n, cfg); !heals(well, cfg) {
				t.Errorf("after what was proposed:\n%s", text(t, well))
			}
		})
	}
}

// TestDataThroughOtherPorts follows data whose port NAT has changed.
func TestDataThroughOtherPorts(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"", "mtu-beyond", "uplink-mtu-silent"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{Break: fault})
			command(t, n.Host, "iptables-nft", "-t", "nat", "-I", "POSTROUTING", "-p", "tcp", "-o", "eth0", "-j", "MASQUERADE", "--to-ports", "20000-20010")
			cfg := sending(n, "8.8.8.8:9", 20_000)
			if fault == "mtu-beyond" {
				cfg.Timeout = 4 * impatient
			}
			r := trace(t, n, cfg)
			if truth := n.Truth(); r.Verdict.Code != truth.Code || string(r.Verdict.Outcome) != truth.Outcome {
				t.Errorf("%s %s, want %s %s", r.Verdict.Outcome, r.Verdict.Code, truth.Outcome, truth.Code)
				t.Log(text(t, r))
			}
		})
	}
}

// TestDataStalls stops a connection in the middle of its data, which leaves the
// source in frames of many segments.
func TestDataStalls(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	command(t, n.Host, "iptables-nft", "-I", "FORWARD", "-p", "tcp", "--dport", "9", "-j", "DROP")
	command(t, n.Host, "iptables-nft", "-I", "FORWARD", "-p", "tcp", "--dport", "9", "-m", "quota", "--quota", "30000", "-j", "ACCEPT")
	cfg := sending(n, "8.8.8.8:9", 100_000)
	cfg.Timeout = 4 * impatient
	r := trace(t, n, cfg)
	var acked int
	if _, err := fmt.Sscanf(r.Verdict.Summary, "The connection was made, and then %d of 100000 bytes were acknowledged.", &acked); err != nil || acked < 1448 || acked > 30_000 {
		t.Errorf("%d bytes were acknowledged (%v): %s", acked, err, r.Verdict.Summary)
	}
	want := "[iptables-nft ip filter FORWARD] -A FORWARD -p tcp -m tcp --dport 9 -j DROP"
	if got := shorten(r); got.Code != "FILTER_DROP" || got.NetNS != lab.HostName || got.Rule != want {
		t.Errorf("%s in %s by %s, want FILTER_DROP by %s", got.Code, got.NetNS, got.Rule, want)
	}
	if t.Failed() {
		t.Log(text(t, r))
	}
}

// TestSmallerStill has a link that says that it is too small, and behind it a
// smaller one that does not: what the sender sends after it was told is followed.
func TestSmallerStill(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{Break: "mtu-beyond"})
	command(t, n.Host, "ip", "link", "set", "dev", "eth0", "mtu", "1400")
	cfg := sending(n, "8.8.8.8:9", 20_000)
	cfg.Timeout = 4 * impatient // three retransmissions, also under load
	r := trace(t, n, cfg)
	if want := "A packet of 1400 bytes left the host"; r.Verdict.Code != "MTU_BLACKHOLE" || !strings.Contains(r.Verdict.Summary, want) {
		t.Errorf("%s: %s\nwant MTU_BLACKHOLE: %s", r.Verdict.Code, r.Verdict.Summary, want)
		t.Log(text(t, r))
	}
}
