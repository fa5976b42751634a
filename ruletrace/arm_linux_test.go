package ruletrace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	vishnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/packet"
)

// seen is a user's table that drops everything in prerouting, so that what was
// injected stays in the namespace; each traced packet shows as its policy.
const seen = `table inet seen {
	chain c {
		type filter hook prerouting priority raw; policy drop;
	}
}`

// TestMatch injects packets that a namespace may see of a flow, and strangers,
// and looks whether they are traced.
func TestMatch(t *testing.T) {
	var (
		other    = netip.MustParseAddr("203.0.113.9")
		other6   = netip.MustParseAddr("2001:db8::9")
		echo4    = Match{Proto: packet.ICMP, Source: clientAddr, Target: serverAddr, ICMPID: 7, Nonce: nonce}
		echo6    = Match{Proto: packet.ICMPv6, Source: clientAddr6, Target: serverAddr6, ICMPID: 7, Nonce: nonce}
		bare4    = Match{Proto: packet.ICMP, Source: clientAddr, Target: serverAddr, ICMPID: 7}
		tcp4     = Match{Proto: packet.TCP, Source: clientAddr, Target: serverAddr, SourcePort: 4000, TargetPort: 443}
		tcp6     = Match{Proto: packet.TCP, Source: clientAddr6, Target: serverAddr6, SourcePort: 4000, TargetPort: 443}
		udp4     = Match{Proto: packet.UDP, Source: clientAddr, Target: serverAddr, SourcePort: 4000, TargetPort: 53}
		anyPort4 = Match{Proto: packet.TCP, Target: serverAddr, TargetPort: 443}
	)
	const syn, rst, ack = 0x02, 0x04, 0x10
	wrong := []byte("not the nonce!!!")
	tests := []struct {
		name   string
		match  Match
		packet []byte
		want   bool
	}{
		{"echo", echo4, ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...)), true},
		{"echo after any NAT", echo4, ipv4Packet(1, other, other, 0, icmpMessage(8, 0, 99, nonce...)), true},
		{"echo reply after any NAT", echo4, ipv4Packet(1, other, other, 0, icmpMessage(0, 0, 99, nonce...)), true},
		{"somebody else's echo", echo4, ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, wrong...)), false},
		{"error with the nonce", echo4, ipv4Packet(1, other, other, 0, icmpMessage(3, 1, 0, ipv4Packet(1, other, other, 0, icmpMessage(8, 0, 99, nonce...))...)), true},
		{"error with another nonce", echo4, ipv4Packet(1, other, other, 0, icmpMessage(3, 1, 0, ipv4Packet(1, other, other, 0, icmpMessage(8, 0, 99, wrong...))...)), false},
		{"short error", echo4, ipv4Packet(1, other, clientAddr, 0, icmpMessage(11, 0, 0, ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7))...)), true},
		{"short error, source translated", echo4, ipv4Packet(1, other, other, 0, icmpMessage(11, 0, 0, ipv4Packet(1, other, serverAddr, 0, icmpMessage(8, 0, 7))...)), true},
		{"short error about another id", echo4, ipv4Packet(1, other, clientAddr, 0, icmpMessage(11, 0, 0, ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 8))...)), false},
		{"short error about TCP", echo4, ipv4Packet(1, other, clientAddr, 0, icmpMessage(11, 0, 0, ipv4Packet(6, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7))...)), false},
		{"later fragment", echo4, ipv4Packet(1, other, serverAddr, 100, wrong), true},
		{"later fragment of others", echo4, ipv4Packet(1, other, other, 100, wrong), false},
		{"later fragment like a stranger's echo", echo4, ipv4Packet(1, other, serverAddr, 100, icmpMessage(8, 0, 8, wrong...)), true},
		{"TCP to the target", echo4, ipv4Packet(6, clientAddr, serverAddr, 0, tcpSegment(4000, 443, syn)), false},
		{"echo without a nonce", bare4, ipv4Packet(1, other, serverAddr, 0, icmpMessage(8, 0, 7, wrong...)), true},
		{"reply without a nonce", bare4, ipv4Packet(1, serverAddr, other, 0, icmpMessage(0, 0, 7, wrong...)), true},
		{"stranger's id without a nonce", bare4, ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 8, wrong...)), false},

		{"IPv6 echo after any NAT", echo6, ipv6Packet(58, other6, other6, icmpMessage(128, 0, 99, nonce...)), true},
		{"IPv6 echo reply after any NAT", echo6, ipv6Packet(58, other6, other6, icmpMessage(129, 0, 99, nonce...)), true},
		{"IPv6 error with the nonce", echo6, ipv6Packet(58, other6, other6, icmpMessage(1, 1, 0, ipv6Packet(58, other6, other6, icmpMessage(128, 0, 99, nonce...))...)), true},
		{"IPv6 error with another nonce", echo6, ipv6Packet(58, other6, other6, icmpMessage(1, 1, 0, ipv6Packet(58, other6, other6, icmpMessage(128, 0, 99, wrong...))...)), false},
		{"IPv6 later fragment", echo6, ipv6Packet(44, other6, serverAddr6, append([]byte{58, 0, 0x01, 0x00, 0, 0, 0, 9}, wrong...)), true},
		{"IPv6 later fragment of others", echo6, ipv6Packet(44, other6, other6, append([]byte{58, 0, 0x01, 0x00, 0, 0, 0, 9}, wrong...)), false},
		{"IPv6 later fragment like a stranger's echo", echo6, ipv6Packet(44, other6, serverAddr6, append([]byte{58, 0, 0x01, 0x00, 0, 0, 0, 9}, icmpMessage(128, 0, 8, wrong...)...)), true},
		{"IPv6 first fragment", echo6, ipv6Packet(44, other6, other6, append([]byte{58, 0, 0x00, 0x01, 0, 0, 0, 9}, icmpMessage(128, 0, 99, nonce...)...)), true},

		{"TCP", tcp4, ipv4Packet(6, clientAddr, serverAddr, 0, tcpSegment(4000, 443, ack)), true},
		{"TCP back", tcp4, ipv4Packet(6, serverAddr, clientAddr, 0, tcpSegment(443, 4000, ack)), true},
		{"TCP, addresses translated", tcp4, ipv4Packet(6, other, other, 0, tcpSegment(4000, 443, ack)), true},
		{"TCP, DNAT to another port", tcp4, ipv4Packet(6, clientAddr, other, 0, tcpSegment(4000, 8443, ack)), true},
		{"TCP back, DNAT to another port", tcp4, ipv4Packet(6, other, clientAddr, 0, tcpSegment(8443, 4000, ack)), true},
		{"SYN, SNAT to another port", tcp4, ipv4Packet(6, other, serverAddr, 0, tcpSegment(5000, 443, syn)), true},
		{"SYN-ACK, SNAT to another port", tcp4, ipv4Packet(6, serverAddr, other, 0, tcpSegment(443, 5000, syn|ack)), true},
		{"RST, SNAT to another port", tcp4, ipv4Packet(6, serverAddr, other, 0, tcpSegment(443, 5000, rst)), true},
		{"data, SNAT to another port", tcp4, ipv4Packet(6, other, serverAddr, 0, tcpSegment(5000, 443, ack)), false},
		{"another service", tcp4, ipv4Packet(6, other, serverAddr, 0, tcpSegment(5000, 80, syn)), false},
		{"later fragment like a stranger's segment", tcp4, ipv4Packet(6, other, serverAddr, 100, tcpSegment(1, 2, ack)), true},
		{"UDP with these ports", tcp4, ipv4Packet(17, clientAddr, serverAddr, 0, udpDatagram(4000, 443)), false},
		{"error about TCP", tcp4, ipv4Packet(1, other, clientAddr, 0, icmpMessage(3, 13, 0, ipv4Packet(6, clientAddr, serverAddr, 0, tcpSegment(4000, 443, syn))...)), true},
		{"error about TCP, port translated", tcp4, ipv4Packet(1, other, other, 0, icmpMessage(3, 4, 0, ipv4Packet(6, other, serverAddr, 0, tcpSegment(5000, 443, ack))...)), true},
		{"error about another flow", tcp4, ipv4Packet(1, other, other, 0, icmpMessage(3, 4, 0, ipv4Packet(6, other, other, 0, tcpSegment(5000, 443, ack))...)), false},
		{"a ping to the target", tcp4, ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...)), false},
		{"IPv6 TCP", tcp6, ipv6Packet(6, clientAddr6, other6, tcpSegment(4000, 443, syn)), true},
		{"IPv6 error about TCP", tcp6, ipv6Packet(58, other6, clientAddr6, icmpMessage(2, 0, 0, ipv6Packet(6, clientAddr6, serverAddr6, tcpSegment(4000, 443, ack))...)), true},
		{"IPv6 packet for an IPv4 match", tcp4, ipv6Packet(6, clientAddr6, other6, tcpSegment(4000, 443, syn)), false},
		{"UDP, SNAT to another port", udp4, ipv4Packet(17, other, serverAddr, 0, udpDatagram(5000, 53)), true},
		{"unknown source port", anyPort4, ipv4Packet(6, other, serverAddr, 0, tcpSegment(5000, 443, ack)), true},
		{"unknown source port, back", anyPort4, ipv4Packet(6, serverAddr, other, 0, tcpSegment(443, 5000, ack)), true},
		{"unknown source port, other service", anyPort4, ipv4Packet(6, other, serverAddr, 0, tcpSegment(5000, 80, ack)), false},
	}
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.nft(seen)
	l := to.listen("x")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := space{t, to.ns}
			a := to.arm(ArmConfig{Match: tt.match})
			from.inject("out", to, "in", tt.packet)
			hits := l.hits()
			if got := len(hits) == 1 && hits[0].Kind == HitPolicy && hits[0].Verdict == Drop; got != tt.want || len(hits) > 1 {
				t.Errorf("traced %v, want %v: %q", got, tt.want, lines(hits))
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBudget shows that as many packets are traced as were asked for, and that
// strangers do not use up the tight rules' share.
func TestBudget(t *testing.T) {
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.nft(seen)
	to.arm(ArmConfig{Budget: 7, Match: Match{Proto: packet.TCP, Source: clientAddr, Target: serverAddr, SourcePort: 4000, TargetPort: 443}})
	l := to.listen("x")
	loose := ipv4Packet(6, netip.MustParseAddr("203.0.113.9"), serverAddr, 0, tcpSegment(5000, 443, 2))
	tight := ipv4Packet(6, clientAddr, serverAddr, 0, tcpSegment(4000, 443, 2))
	for _, p := range [][]byte{loose, tight} {
		from.inject("out", to, "in", slices.Repeat([][]byte{p}, 30)...)
		if got := len(l.hits()); got != 7 {
			t.Errorf("traced %d of 30 packets, want 7", got)
		}
	}
}

// TestArmPriority puts the arming below chains of unusual priority, and shows
// that its accept does not end what other tables do in the same hook.
func TestArmPriority(t *testing.T) {
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.nft(`table ip early {
	chain c {
		type filter hook prerouting priority -500; policy accept;
		counter drop
	}
}`)
	a := to.arm(ArmConfig{Match: echoMatch()})
	if want := "hook prerouting priority -501"; !strings.Contains(a.Describe(), want) {
		t.Errorf("no %q in\n%s", want, a.Describe())
	}
	l := to.listen("x")
	from.inject("out", to, "in", ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...)))
	hits := l.resolved(to.resolver("x"))
	want := []string{"prerouting|nft|ip|early|c|c#1|rule|drop|counter drop"}
	if got := lines(hits); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := to.tool("nft", "list", "chain", "ip", "early", "c"); !strings.Contains(got, "counter packets 1 ") {
		t.Errorf("the rule's counter says\n%s", got)
	}
}

// TestArmTwice arms one namespace for two flows. Each is traced, neither sees
// the other's tables, and one's end leaves the other alone.
func TestArmTwice(t *testing.T) {
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.nft(seen)
	tcp := Match{Proto: packet.TCP, Source: clientAddr, Target: serverAddr, SourcePort: 4000, TargetPort: 443}
	first := to.arm(ArmConfig{Match: echoMatch()})
	second := to.arm(ArmConfig{Match: tcp})
	if slices.Equal(first.Tables(), second.Tables()) {
		t.Fatalf("both are called %q", first.Tables())
	}
	l := to.listen("x")
	send := func(want int) {
		t.Helper()
		from.inject("out", to, "in", ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...)))
		from.inject("out", to, "in", ipv4Packet(6, clientAddr, serverAddr, 0, tcpSegment(4000, 443, 2)))
		if hits := l.hits(); len(hits) != want {
			t.Errorf("%d hits, want %d: %q", len(hits), want, lines(hits))
		}
	}
	send(2)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	send(1)
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	send(0)
	if got := to.tool("nft", "list", "tables"); strings.TrimSpace(got) != "table inet seen" {
		t.Errorf("left behind:\n%s", got)
	}
}

// TestArmOwned shows that others can neither delete nor flush the arming, and
// that it does not hinder their work.
func TestArmOwned(t *testing.T) {
	s := newSpace(t)
	a := s.arm(ArmConfig{Match: echoMatch()})
	s.nft("flush ruleset\ntable ip mine { }\n")
	got := s.tool("nft", "list", "tables")
	for _, want := range append(a.Tables(), "ip mine") {
		if !strings.Contains(got, "table "+want) {
			t.Errorf("no table %s in\n%s", want, got)
		}
	}
}

// TestArmConntrack sends a flow through a router that changes its destination,
// its port and its source: the answer has nothing of the flow that a stateless
// rule could know.
func TestArmConntrack(t *testing.T) {
	r := newRouter(t)
	published := netip.MustParseAddr("10.1.0.1")
	r.router.nft(`table ip n {
	chain before {
		type nat hook prerouting priority dstnat;
		udp dport 8080 dnat to 10.2.0.2:80
	}
	chain after {
		type nat hook postrouting priority srcnat;
		oifname "right" masquerade
	}
	chain watch {
		type filter hook forward priority filter; policy accept;
		udp sport 80 counter
		icmp type destination-unreachable counter
	}
}`)
	match := Match{Proto: packet.UDP, Source: clientAddr, Target: published, SourcePort: 4000, TargetPort: 8080}
	for _, tt := range []struct {
		name string
		mode ConntrackRules
		want []string
	}{
		{"auto", ConntrackAuto, []string{
			"forward|nft|ip|n|watch|watch#2|rule|continue|icmp type destination-unreachable counter",
			"forward|nft|ip|n|watch|watch|policy|accept|policy accept",
		}},
		{"never", ConntrackNever, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			router := space{t, r.router.ns}
			a := router.arm(ArmConfig{Match: match, Conntrack: tt.mode})
			l := router.listen("router")
			// Nobody listens on port 80: the server answers with an ICMP error
			// about the translated packet.
			from := r.client.udp(4000)
			if err := unix.Sendto(from, []byte("hello"), 0, &unix.SockaddrInet4{Port: 8080, Addr: published.As4()}); err != nil {
				t.Fatal(err)
			}
			var back []Hit
			for _, h := range l.resolved(router.resolver("router")) {
				if h.Ingress == "right" && h.Hook == Forward {
					back = append(back, h)
				}
			}
			if got := lines(back); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for _, h := range back {
				if h.State != "related" || !h.Reply || h.ConntrackID == 0 {
					t.Errorf("conntrack told %q reply=%v id=%d", h.State, h.Reply, h.ConntrackID)
				}
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if err := unix.Close(from); err != nil {
				t.Error(err)
			}
		})
	}
}

// udp returns a socket bound to the port.
func (s space) udp(port int) int {
	s.t.Helper()
	var fd int
	s.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	})
	return fd
}

// TestArmBridge traces rules of family bridge, which inet tables never see
// while bridged packets do not visit IP's hooks.
func TestArmBridge(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filtered, func(t *testing.T) {
			sw, a, b := newSpace(t), newSpace(t), newSpace(t)
			sw.do(func() error {
				return vishnetlink.LinkAdd(&vishnetlink.Bridge{LinkAttrs: vishnetlink.LinkAttrs{Name: "br0"}})
			})
			sw.up("br0")
			for _, x := range []struct {
				s      space
				port   string
				prefix string
			}{{a, "port1", "10.2.0.1/24"}, {b, "port2", "10.2.0.2/24"}} {
				veth(x.s, "eth0", sw, x.port)
				x.s.address("eth0", x.prefix)
				sw.do(func() error {
					port, err := vishnetlink.LinkByName(x.port)
					if err != nil {
						return err
					}
					bridge, err := vishnetlink.LinkByName("br0")
					if err != nil {
						return err
					}
					return vishnetlink.LinkSetMaster(port, bridge)
				})
			}
			sw.sysctl("net.bridge.bridge-nf-call-iptables", filtered)
			sw.nft(`table bridge fw {
	chain through {
		type filter hook forward priority 100; policy accept;
		ip protocol icmp counter drop comment "no ping"
	}
}
table ip ipfw {
	chain through {
		type filter hook forward priority filter; policy accept;
	}
}`)
			arming := sw.arm(ArmConfig{Match: echoMatch()})
			if n := len(arming.Tables()); n != 2 {
				t.Errorf("armed %q, want two tables", arming.Tables())
			}
			l := sw.listen("switch")
			if a.ping(serverAddr, echoID, 1, unanswered) {
				t.Fatal("the rule did not drop")
			}
			hits := l.resolved(sw.resolver("switch"))
			want := []string{`forward|nft|bridge|fw|through|through#1|rule|drop|ip protocol icmp counter drop comment "no ping"`}
			if filtered == "1" {
				want = slices.Insert(want, 0, "forward|nft|ip|ipfw|through|through|policy|accept|policy accept")
			}
			if got := lines(hits); !slices.Equal(got, want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			last := hits[len(hits)-1]
			if last.Ingress != "port1" || last.Egress != "port2" || last.Header.Tuple.Dst != serverAddr || last.Header.EtherType != 0x0800 || last.Header.EtherDst == (packet.HardwareAddr{}) {
				t.Errorf("last hit: %+v", last)
			}
		})
	}
}

// TestArmDevices traces rules at devices, which come before prerouting and
// behind postrouting. On the way out the kernel tells no link header. No chain
// is added at a device where nobody has one.
func TestArmDevices(t *testing.T) {
	for _, tt := range []struct {
		name, rules string
		tables      int
		want        []string
	}{
		{
			"ingress", "table netdev fw {\n chain c {\n type filter hook ingress device \"left\" priority -600;\n icmp type echo-request counter drop\n }\n}", 2,
			[]string{"ingress|nft|netdev|fw|c|c#1|rule|drop|icmp type echo-request counter drop"},
		}, {
			"ingress of inet", "table inet fw {\n chain c {\n type filter hook ingress device \"left\" priority 0;\n icmp type echo-request counter drop\n }\n}", 2,
			[]string{"ingress|nft|inet|fw|c|c#1|rule|drop|icmp type echo-request counter drop"},
		}, {
			"egress", "table netdev fw {\n chain c {\n type filter hook egress device \"right\" priority 0;\n icmp type echo-request counter drop\n }\n}", 2,
			[]string{"egress|nft|netdev|fw|c|c#1|rule|drop|icmp type echo-request counter drop"},
		}, {
			"two devices", "table netdev fw {\n chain c {\n type filter hook ingress devices = { \"left\", \"right\" } priority 0; policy drop;\n meta protocol arp accept\n }\n}", 2,
			[]string{"ingress|nft|netdev|fw|c|c|policy|drop|policy drop"},
		}, {
			"no device", "table ip fw {\n chain c {\n type filter hook forward priority 0; policy drop;\n }\n}", 1,
			[]string{"forward|nft|ip|fw|c|c|policy|drop|policy drop"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t)
			r.router.nft(tt.rules)
			arming := r.router.arm(ArmConfig{Match: echoMatch()})
			if n := len(arming.Tables()); n != tt.tables || len(arming.Missing()) > 0 {
				t.Errorf("armed %q, want %d tables; missing: %v", arming.Tables(), tt.tables, arming.Missing())
			}
			l := r.router.listen("router")
			if r.client.ping(serverAddr, echoID, 1, unanswered) {
				t.Fatal("the rule did not drop")
			}
			hits := l.resolved(r.router.resolver("router"))
			if got := lines(hits); !slices.Equal(got, tt.want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			h := hits[0]
			if h.Header.Tuple.Dst != serverAddr || h.Hook == IngressHook && h.Ingress != "left" || h.Hook == EgressHook && (h.Egress != "right" || h.Header.EtherType != packet.EtherTypeIPv4) {
				t.Errorf("hit: %+v", h)
			}
		})
	}
}

// TestArmFragments shows what becomes of the mark when a packet comes in
// fragments: without conntrack each fragment is traced, with it the
// reassembled packet.
func TestArmFragments(t *testing.T) {
	long := append(slices.Clone(nonce), make([]byte, 112)...)
	whole := icmpMessage(8, 0, echoID, long...)
	first := ipv4Packet(1, clientAddr, serverAddr, 0x2000, whole[:64])
	later := ipv4Packet(1, clientAddr, serverAddr, 64/8, whole[64:])
	for _, tt := range []struct {
		name, rule string
		want       int
	}{{"stateless", "counter", 2}, {"conntrack", "ct state new counter", 1}} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := newSpace(t), newSpace(t)
			veth(from, "out", to, "in")
			to.nft("table ip f {\n chain c {\n type filter hook prerouting priority 0; policy drop;\n " + tt.rule + "\n }\n}")
			to.arm(ArmConfig{Match: echoMatch()})
			l := to.listen("x")
			from.inject("out", to, "in", first)
			from.inject("out", to, "in", later)
			var policies []Hit
			for _, h := range l.hits() {
				if h.Kind == HitPolicy {
					policies = append(policies, h)
				}
			}
			if len(policies) != tt.want {
				t.Errorf("%d packets traced, want %d", len(policies), tt.want)
			}
		})
	}
}

// TestArmHooks shows that one mark lasts through every hook of the namespace,
// for both directions, and is gone behind a veth.
func TestArmHooks(t *testing.T) {
	r := newRouter(t)
	everywhere := "table inet everywhere {\n"
	for _, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
		everywhere += "chain x" + hook + " {\n type filter hook " + hook + " priority 0; policy accept;\n }\n"
	}
	everywhere += "}\n"
	var listeners []*listener
	for _, s := range []space{r.client, r.router, r.server} {
		s.nft(everywhere)
	}
	r.router.arm(ArmConfig{Match: echoMatch()})
	for _, s := range []space{r.client, r.router, r.server} {
		listeners = append(listeners, s.listen("x"))
	}
	if !r.client.ping(serverAddr, echoID, 1, answered) {
		t.Fatal("no answer")
	}
	var got []string
	for _, h := range listeners[1].resolved(r.router.resolver("x")) {
		got = append(got, string(h.Hook)+" "+h.Ingress+" "+h.Egress+" "+h.Header.Tuple.String())
	}
	want := []string{
		"prerouting left  10.1.0.2 → 10.2.0.2", "forward left right 10.1.0.2 → 10.2.0.2", "postrouting left right 10.1.0.2 → 10.2.0.2",
		"prerouting right  10.2.0.2 → 10.1.0.2", "forward right left 10.2.0.2 → 10.1.0.2", "postrouting right left 10.2.0.2 → 10.1.0.2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, i := range []int{0, 2} {
		if hits := listeners[i].hits(); len(hits) != 0 {
			t.Errorf("the mark crossed a veth: %q", lines(hits))
		}
	}
}

// TestArmErrors wants errors on which a caller can decide.
func TestArmErrors(t *testing.T) {
	s := newSpace(t)
	if _, err := Arm(ArmConfig{NetNS: s.ns, Name: "x"}); err == nil {
		t.Error("armed without a target")
	}
}
