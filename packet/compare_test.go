package packet

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// decoded builds a packet and decodes it.
func decoded(t *testing.T, l ...gopacket.SerializableLayer) Header {
	t.Helper()
	data := serialize(t, l...)
	h, err := DecodeNetwork(0, data, 0)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// errorAbout builds an ICMP error that quotes n bytes of a packet.
func errorAbout(t *testing.T, n int, quoted ...gopacket.SerializableLayer) Header {
	t.Helper()
	quote := serialize(t, quoted...)
	return decoded(t, ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(quote[:min(n, len(quote))]))
}

// natted4 and natted6 are ipv4 and ipv6 after all that NAT and forwarding may
// change in them.
func natted4(next layers.IPProtocol) *layers.IPv4 {
	ip := ipv4(next)
	ip.SrcIP, ip.DstIP, ip.TTL, ip.TOS = netip.MustParseAddr("203.0.113.9").AsSlice(), src4.AsSlice(), 61, 8
	return ip
}

func natted6(next layers.IPProtocol) *layers.IPv6 {
	ip := ipv6(next)
	ip.SrcIP, ip.HopLimit, ip.FlowLabel = netip.MustParseAddr("2001:db8:77::9").AsSlice(), 60, 1
	return ip
}

func TestCompare(t *testing.T) {
	id := func(ip *layers.IPv4, id uint16) *layers.IPv4 { ip.Id = id; return ip }
	tcp := func(change func(*layers.TCP)) *layers.TCP { p := tcpSYN(); change(p); return p }
	ping := func(id, seq uint16) *layers.ICMPv4 { p := echo4(); p.Id, p.Seq = id, seq; return p }
	ping6 := func(typ uint8, id, seq uint16, content gopacket.Payload) Header {
		icmp, echo := echo6(typ)
		echo.Identifier, echo.SeqNumber = id, seq
		if typ == EchoRequestV6 {
			return decoded(t, ipv6(layers.IPProtocolICMPv6), icmp, echo, content)
		}
		return decoded(t, natted6(layers.IPProtocolICMPv6), icmp, echo, content)
	}
	natPing6 := func(id, seq uint16, content gopacket.Payload) Header {
		icmp, echo := echo6(EchoRequestV6)
		echo.Identifier, echo.SeqNumber = id, seq
		return decoded(t, natted6(layers.IPProtocolICMPv6), icmp, echo, content)
	}
	udp4 := func(ip *layers.IPv4, port uint16, content string) Header {
		return decoded(t, ip, &layers.UDP{SrcPort: layers.UDPPort(port), DstPort: 53}, gopacket.Payload(content))
	}
	udp6 := func(ip *layers.IPv6, port uint16, content string) Header {
		return decoded(t, ip, &layers.UDP{SrcPort: layers.UDPPort(port), DstPort: 53}, gopacket.Payload(content))
	}
	pattern := make(gopacket.Payload, 56)
	for i := range pattern {
		pattern[i] = byte(i)
	}
	cut := func(h Header) Header { h.Payload, h.PayloadCut = h.Payload[:12], true; return h }
	query := "\x9a\x31\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03dns"
	v4, n4 := ipv4, natted4
	const TCP, UDP, ICMP = layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolICMPv4

	fragment := func(ip *layers.IPv4, offset uint16, more bool, content gopacket.Payload) Header {
		ip.Flags, ip.FragOffset = 0, offset/8
		if more {
			ip.Flags = layers.IPv4MoreFragments
		}
		return decoded(t, ip, content)
	}
	datagram := gopacket.Payload(serialize(t, v4(UDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload())[20:])

	tests := []struct {
		name string
		a, b Header
		want Likeness
	}{
		{
			"TCP with a clamped MSS", decoded(t, v4(TCP), tcpSYN()),
			decoded(t, n4(TCP), tcp(func(p *layers.TCP) { p.SrcPort, p.Options[0].OptionData = 1, []byte{4, 0} })), Same,
		},
		{
			"TCP, other sequence number", decoded(t, id(v4(TCP), 0), tcpSYN()),
			decoded(t, id(n4(TCP), 0), tcp(func(p *layers.TCP) { p.Seq++ })), Different,
		},
		{
			"TCP, other acknowledgement", decoded(t, id(v4(TCP), 0), tcpSYN()),
			decoded(t, id(n4(TCP), 0), tcp(func(p *layers.TCP) { p.Ack++ })), Different,
		},
		{
			"TCP, SYN against SYN-ACK", decoded(t, id(v4(TCP), 0), tcpSYN()),
			decoded(t, id(n4(TCP), 0), tcp(func(p *layers.TCP) { p.ACK = true })), Different,
		},
		{
			"TCP, PSH only", decoded(t, id(v4(TCP), 0), tcpSYN()),
			decoded(t, id(n4(TCP), 0), tcp(func(p *layers.TCP) { p.PSH = true })), Same,
		},
		{"TCP retransmission over IPv4 has its own id", decoded(t, v4(TCP), tcpSYN()), decoded(t, id(v4(TCP), 9), tcpSYN()), Different},
		{
			"TCP retransmission with a later timestamp", decoded(t, ipv6(TCP), tcpSYN()),
			decoded(t, ipv6(TCP), tcp(func(p *layers.TCP) { p.Options[2].OptionData = []byte{0, 0, 1, 0, 0, 0, 0, 9} })), Compatible,
		},
		{"TCP of other length", decoded(t, v4(TCP), tcpSYN()), decoded(t, n4(TCP), tcpSYN(), gopacket.Payload("x")), Different},

		{"UDP by identification", udp4(v4(UDP), 1000, ""), udp4(n4(UDP), 2000, ""), Same},
		{"UDP, other identification", udp4(v4(UDP), 1000, query), udp4(id(n4(UDP), 7), 1000, query), Different},
		{"UDP without identification", udp4(id(v4(UDP), 0), 1000, query), udp4(n4(UDP), 2000, query), Same},
		{"UDP6 by content", udp6(ipv6(UDP), 1000, query), udp6(natted6(UDP), 2000, query), Same},
		{"UDP6, other DNS id", udp6(ipv6(UDP), 1000, query), udp6(natted6(UDP), 1000, "\x9b"+query[1:]), Different},
		{"UDP6 without content", udp6(ipv6(UDP), 1000, ""), udp6(natted6(UDP), 2000, ""), Compatible},
		{"UDP against TCP", udp4(v4(UDP), 1000, ""), decoded(t, v4(TCP), tcpSYN()), Different},
		{"IPv4 against IPv6", udp4(v4(UDP), 1000, query), udp6(ipv6(UDP), 1000, query), Different},

		{"ping, id rewritten", decoded(t, v4(ICMP), echo4(), payload()), decoded(t, n4(ICMP), ping(26338, 5), payload()), Same},
		{"ping, other sequence number", decoded(t, id(v4(ICMP), 0), ping(77, 5), payload()), decoded(t, id(v4(ICMP), 0), ping(77, 6), payload()), Different},
		{"ping6 through NPTv6", ping6(EchoRequestV6, 38, 1, payload()), natPing6(38, 1, payload()), Same},
		{"ping6, nft saw 12 bytes of it", ping6(EchoRequestV6, 38, 1, payload()), cut(natPing6(38, 1, payload())), Same},
		{"ping6 request and reply", ping6(EchoRequestV6, 38, 1, payload()), ping6(EchoReplyV6, 38, 1, payload()), Different},
		{"ping6, only a pattern", ping6(EchoRequestV6, 38, 1, pattern), natPing6(38, 1, pattern), Compatible},
		{"ping6, zeros", ping6(EchoRequestV6, 38, 1, make(gopacket.Payload, 56)), natPing6(38, 1, make(gopacket.Payload, 56)), Compatible},
		{"ping6, other time", ping6(EchoRequestV6, 38, 1, payload()), natPing6(38, 1, append(gopacket.Payload{1}, payload()[1:]...)), Different},

		{
			"error, quote translated", errorAbout(t, 28, v4(TCP), tcpSYN()),
			errorAbout(t, 28, n4(TCP), tcp(func(p *layers.TCP) { p.SrcPort = 9 })), Same,
		},
		{
			"error about another packet", errorAbout(t, 28, v4(TCP), tcpSYN()),
			errorAbout(t, 28, v4(TCP), tcp(func(p *layers.TCP) { p.Seq++ })), Different,
		},

		{"fragment and its copy", fragment(v4(UDP), 0, true, datagram[:64]), fragment(n4(UDP), 0, true, datagram[:64]), Same},
		{"first and second fragment", fragment(v4(UDP), 0, true, datagram[:64]), fragment(v4(UDP), 64, false, datagram[64:]), Different},
		{"first fragment and the whole", fragment(v4(UDP), 0, true, datagram[:64]), decoded(t, n4(UDP), datagram), Compatible},
		{"the whole and its last fragment", decoded(t, n4(UDP), datagram), fragment(v4(UDP), 64, false, datagram[64:]), Compatible},
		{"fragment of a longer packet", fragment(v4(UDP), 800, false, datagram[64:]), decoded(t, n4(UDP), datagram), Different},
		{"fragment of another packet", fragment(id(v4(UDP), 3), 64, false, datagram[64:]), decoded(t, n4(UDP), datagram), Different},
	}
	for _, tt := range tests {
		for _, pair := range [][2]*Header{{&tt.a, &tt.b}, {&tt.b, &tt.a}} {
			if got := pair[0].Compare(pair[1]); got != tt.want {
				t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
			}
		}
		// Equally complete headers of one packet share the fingerprint.
		complete := tt.a.PayloadCut == tt.b.PayloadCut && tt.a.IPID != 0 == (tt.b.IPID != 0)
		if same := tt.a.Fingerprint() == tt.b.Fingerprint(); complete && tt.a.IsFragment() == tt.b.IsFragment() && same != (tt.want != Different) {
			t.Errorf("%s: same fingerprint %v, likeness %s", tt.name, same, tt.want)
		}
	}
}

func TestQuotes(t *testing.T) {
	syn := decoded(t, ipv4(layers.IPProtocolTCP), tcpSYN())
	about := errorAbout(t, 28, natted4(layers.IPProtocolTCP), tcpSYN())
	if got := about.Quotes(&syn); got != Same {
		t.Errorf("the error about the packet: %s", got)
	}
	if got := syn.Quotes(&about); got != Different {
		t.Errorf("no error at all: %s", got)
	}
	swapped := errorAbout(t, 28, natted4(layers.IPProtocolTCP), tcpSYN())
	swapped.Quoted.PayloadLength = 0x3800
	if got := swapped.Quotes(&syn); got != Same {
		t.Errorf("a quote with its length swapped: %s", got)
	}
	// Over IPv6, 8 bytes of TCP are no proof.
	without := syn
	without.IPID, about.Quoted.IPID = 0, 0
	if got := about.Quotes(&without); got != Compatible {
		t.Errorf("a short quote without identification: %s", got)
	}
}

func TestCompareARP(t *testing.T) {
	frame := frames(t)["arp"]
	other := bytes.Clone(frame)
	other[14+27]++ // target address
	a, _ := Decode(LinkEthernet, frame, 0)
	b, _ := Decode(LinkEthernet, other, 0)
	if got := a.Compare(&a); got != Compatible {
		t.Errorf("a request and its repetition: %s", got)
	}
	if got := a.Compare(&b); got != Different {
		t.Errorf("requests for two addresses: %s", got)
	}
	if a.Fingerprint() == b.Fingerprint() {
		t.Error("requests for two addresses share a fingerprint")
	}
}

func TestChecksumNeutral(t *testing.T) {
	tests := []struct {
		name, a, b string
		want       bool
	}{
		{"a ULA /64 behind 2001:db8:ff66::/64", "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5", "2001:db8:ff66:0:77e5:61d8:20eb:aba5", true},
		{"the same, not adjusted", "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5", "2001:db8:ff66:0:ed57:61d8:20eb:aba5", false},
		{"RFC 6296, section 3.1: a /48 adjusts the subnet", "fd01:203:405:1::1234", "2001:db8:1:d550::1234", true},
		{"two words of the interface changed", "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5", "2001:db8:ff66:0:77e4:61d9:20eb:aba5", false},
		{"masqueraded", "fd5a:ceb9:ed8d:1::2", "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5", false},
		{"nothing changed", "2001:db8::1", "2001:db8::1", false},
		{"zero and all ones are one number", "2001:db8:0:0::1", "2001:db8:0:ffff::1", true},
		{"IPv4", "192.0.2.1", "198.51.100.1", false},
		{"IPv4 in IPv6", "::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
	}
	for _, tt := range tests {
		a, b := netip.MustParseAddr(tt.a), netip.MustParseAddr(tt.b)
		if got := ChecksumNeutral(a, b); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if got := ChecksumNeutral(b, a); got != tt.want {
			t.Errorf("%s, reversed: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	frame := frames(b)["echo6"]
	h, err := Decode(LinkEthernet, frame, 0)
	if err != nil {
		b.Fatal(err)
	}
	other := h
	other.Tuple.Src = dst6
	b.Run("compare", func(b *testing.B) {
		for b.Loop() {
			if h.Compare(&other) != Same {
				b.Fatal("not the same")
			}
		}
	})
	b.Run("fingerprint", func(b *testing.B) {
		for b.Loop() {
			if h.Fingerprint() != other.Fingerprint() {
				b.Fatal("not the same")
			}
		}
	})
}
