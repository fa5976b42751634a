package ruletrace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// armTraffic arms a namespace for a source, until the test ends.
func (s space) armTraffic(own, near []netip.Addr) *Arming {
	s.t.Helper()
	a, err := Arm(ArmConfig{NetNS: s.ns, Name: "x", Traffic: &Traffic{Own: own, Near: near}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = a.Close() })
	return a
}

// TestTraffic injects packets of a source, what comes back to it behind whatever
// NAT, and strangers, and looks whether they are traced.
func TestTraffic(t *testing.T) {
	var (
		other  = netip.MustParseAddr("203.0.113.9")
		near   = netip.MustParseAddr("10.9.0.1")
		other6 = netip.MustParseAddr("2001:db8::9")
		near6  = netip.MustParseAddr("fd00:9::1")
		public = netip.MustParseAddr("198.51.100.1")
	)
	const syn, ack = 0x02, 0x10
	tcp := func(src, dst netip.Addr, flags byte) []byte {
		if src.Is6() {
			return ipv6Packet(6, src, dst, tcpSegment(4000, 443, flags))
		}
		return ipv4Packet(6, src, dst, 0, tcpSegment(4000, 443, flags))
	}
	tests := []struct {
		name string
		// before are packets that came by earlier.
		before [][]byte
		packet []byte
		want   bool
	}{
		{"SYN", nil, tcp(clientAddr, other, syn), true},
		{"SYN to it", nil, tcp(other, clientAddr, syn), true},
		{"UDP", nil, ipv4Packet(17, clientAddr, other, 0, udpDatagram(1, 2)), true},
		{"ping", nil, ipv4Packet(1, clientAddr, other, 0, icmpMessage(8, 0, 7)), true},
		{"error to it", nil, ipv4Packet(1, other, clientAddr, 0, icmpMessage(3, 1, 0, tcp(clientAddr, other, syn)...)), true},
		{"somebody else's SYN", nil, tcp(other, public, syn), false},
		{"behind masquerade", nil, tcp(near, other, syn), true},
		{"answer before it is translated", nil, tcp(other, near, syn|ack), true},
		{"answer to an address that nobody has, from one that was sent to", [][]byte{tcp(clientAddr, other, syn)}, tcp(other, public, syn|ack), true},
		{"answer to an address that nobody has", nil, tcp(other, public, syn|ack), false},
		{"IPv6", nil, tcp(clientAddr6, other6, syn), true},
		{"IPv6 behind masquerade", nil, tcp(near6, other6, syn), true},
		{"IPv6 ping", nil, ipv6Packet(58, clientAddr6, other6, icmpMessage(128, 0, 7)), true},
		{"IPv6 of others", nil, tcp(other6, serverAddr6, syn), false},
	}
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.nft(seen)
	l := to.listen("x")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := space{t, to.ns}
			a := to.armTraffic([]netip.Addr{clientAddr, clientAddr6}, []netip.Addr{near, near6})
			from.inject("out", to, "in", tt.before...)
			l.hits()
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

// TestTrafficBudget shows that each direction of a flow has a budget, that all
// flows share one, that strangers have another, and that what is beyond is counted.
func TestTrafficBudget(t *testing.T) {
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.nft(seen)
	near, other := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("203.0.113.9")
	a := to.armTraffic([]netip.Addr{clientAddr}, []netip.Addr{near})
	l := to.listen("x")
	datagrams := func(src netip.Addr, flows, each int) [][]byte {
		var all [][]byte
		for port := range flows {
			for range each {
				all = append(all, ipv4Packet(17, src, other, 0, udpDatagram(uint16(1000+port), 53)))
			}
		}
		return all
	}
	from.inject("out", to, "in", datagrams(clientAddr, 2, 20)...)
	if got := len(l.hits()); got != 2*flowBurst {
		t.Errorf("traced %d packets of two flows, want %d", got, 2*flowBurst)
	}
	if n, err := a.Untraced(); n != 0 || err != nil {
		t.Errorf("%d untraced (%v), want none: a flow's own budget is what it asked for", n, err)
	}
	loose := 0
	for _, some := range slices.Collect(slices.Chunk(datagrams(near, 2*looseBurst, 1), 50)) { // a socket holds only so many
		from.inject("out", to, "in", some...)
		loose += len(l.hits())
	}
	if loose < looseBurst || loose >= 2*looseBurst {
		t.Errorf("traced %d of %d packets that may be others', want about %d", loose, 2*looseBurst, looseBurst)
	}
	if n, err := a.Untraced(); int(n) != 2*looseBurst-loose || err != nil {
		t.Errorf("%d untraced (%v), want %d", n, err, 2*looseBurst-loose)
	}
	from.inject("out", to, "in", ipv4Packet(6, clientAddr, other, 0, tcpSegment(1, 2, 2)))
	if got := len(l.hits()); got != 1 {
		t.Errorf("traced %d packets of the source after strangers had used up their budget, want 1", got)
	}
}

// TestTrafficConntrack shows that an answer is traced behind connection tracking
// whatever address it still has, and that tracing switches no tracking on.
func TestTrafficConntrack(t *testing.T) {
	for _, nat := range []bool{false, true} {
		r := newRouter(t)
		rules := "table ip t {\nchain f { type filter hook forward priority 0; }\n}"
		if nat {
			rules = "table ip t {\nchain p {\ntype nat hook postrouting priority 100; oifname right masquerade\n}\nchain i { type filter hook prerouting priority 0; }\n}"
		}
		r.router.nft(rules)
		r.router.armTraffic([]netip.Addr{clientAddr}, nil)
		l := r.router.listen("router")
		if !r.client.ping(serverAddr, echoID, 1, answered) {
			t.Fatal("no answer")
		}
		var back []Hit
		for _, h := range l.hits() {
			if h.Header.Tuple.ICMPType == packet.EchoReply {
				back = append(back, h)
			}
		}
		if len(back) == 0 {
			t.Errorf("NAT %v: no rule was traced that the answer met", nat)
		}
		if entries := r.router.entries(); (entries != "0") != nat {
			t.Errorf("NAT %v: entries %q", nat, entries)
		}
	}
}

// TestTrafficTranslated shows that what others open to the source is traced from
// forward on when its destination is translated to the source's, and once.
func TestTrafficTranslated(t *testing.T) {
	for name, rules := range map[string]func(space){
		"nft": func(s space) {
			s.nft("table ip t {\nchain p {\ntype nat hook prerouting priority -100; udp dport 8080 dnat to 10.2.0.2:80\n}\nchain f {\ntype filter hook forward priority -300; udp dport 80 drop\n}\n}")
		},
		"iptables-legacy": func(s space) {
			s.tool("iptables-legacy", strings.Fields("-t nat -A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 10.2.0.2:80")...)
			s.tool("iptables-legacy", strings.Fields("-A FORWARD -p udp --dport 80 -j DROP")...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t)
			rules(space{t, r.router.ns})
			r.router.armTraffic([]netip.Addr{serverAddr}, nil)
			l := r.router.listen("router")
			n := r.router.openNFLog(t.TempDir())
			gateway := netip.MustParseAddr("10.1.0.1")
			r.client.inject("eth0", r.router, "left",
				ipv4Packet(17, clientAddr, gateway, 0, udpDatagram(5000, 8080)), ipv4Packet(17, clientAddr, gateway, 0, udpDatagram(5000, 9)))
			hits := append(l.hits(), n.drained(t)...)
			for i := range hits {
				if err := r.router.resolver("router").Resolve(t.Context(), &hits[i]); err != nil {
					t.Error(err)
				}
			}
			if len(hits) != 1 || hits[0].Verdict != Drop || hits[0].Hook != Forward || hits[0].Header.Tuple.Destination() != "10.2.0.2:80" {
				t.Errorf("traced %q, want what was dropped alone", lines(hits))
			}
		})
	}
}

// TestTrafficDescribed shows that what is added is told in nft's words, and is
// what nft lists.
func TestTrafficDescribed(t *testing.T) {
	s := newSpace(t)
	s.nft("table bridge b {\nchain c { type filter hook forward priority 0; }\n}\ntable netdev n {\nchain c { type filter hook ingress device lo priority 0; }\n}")
	a := s.armTraffic([]netip.Addr{clientAddr, clientAddr6}, []netip.Addr{serverAddr})
	listed := s.tool("nft", "list", "ruleset")
	for _, table := range a.Tables() {
		if !strings.Contains(listed, "table "+table+" ") || !strings.Contains(a.Describe(), "table "+table+" ") {
			t.Errorf("table %s is not in\n%s\nand\n%s", table, listed, a.Describe())
		}
	}
	families := []string{"ip ", "ip6 ", "bridge ", "netdev "}
	if !slices.EqualFunc(a.Tables(), families, strings.HasPrefix) {
		t.Errorf("tables %q, want one of each of %q", a.Tables(), families)
	}
	if len(a.Missing()) > 0 {
		t.Errorf("missing: %v", a.Missing())
	}
}
