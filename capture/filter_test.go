package capture

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// corpus are frames by what a filter should know them for.
func corpus(t testing.TB) map[string][]byte {
	const (
		TCP, UDP, ICMP, ICMPv6 = layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolICMPv4, layers.IPProtocolICMPv6
		v4, v6                 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	)
	frame := func(etherType layers.EthernetType, l ...gopacket.SerializableLayer) []byte {
		l = append([]gopacket.SerializableLayer{&layers.Ethernet{
			SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: etherType,
		}}, l...)
		buffer := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, l...); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(buffer.Bytes())
	}
	ip4 := func(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{
			Version: 4, TTL: 64, Protocol: proto,
			SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice(),
		}
	}
	ip6 := func(src, dst string, next layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: next,
			SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice(),
		}
	}
	options := func(ip *layers.IPv4) *layers.IPv4 {
		ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		return ip
	}
	fragment := ip4("10.9.9.1", "10.9.9.2", UDP)
	fragment.FragOffset = 185
	tcp := func(src, dst layers.TCPPort, syn bool) *layers.TCP {
		return &layers.TCP{SrcPort: src, DstPort: dst, SYN: syn, ACK: !syn}
	}
	udp := func(src, dst layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: src, DstPort: dst} }
	icmp := func(typ, code uint8) *layers.ICMPv4 {
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code)}
	}
	icmp6 := func(typ uint8) *layers.ICMPv6 {
		return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	}
	rest := gopacket.Payload(make([]byte, 40))
	const a4, b4, a6, b6 = "10.9.9.1", "10.9.9.2", "fd00:9::1", "fd00:9::2"
	hopByHop := frame(v6, ip6(a6, b6, layers.IPProtocolNoNextHeader), rest)
	hopByHop[14+6] = 0 // the serializer has no such header without a jumbo payload
	return map[string][]byte{
		"arp":              frame(layers.EthernetTypeARP, rest),
		"vlan":             frame(layers.EthernetTypeDot1Q, &layers.Dot1Q{VLANIdentifier: 5, Type: v4}, ip4(a4, b4, UDP), udp(1, 2)),
		"lldp":             frame(layers.EthernetTypeLinkLayerDiscovery, rest),
		"fragment":         frame(v4, fragment, rest),
		"hop-by-hop":       hopByHop,
		"echo":             frame(v4, ip4(a4, b4, ICMP), icmp(8, 0), rest),
		"echo reply":       frame(v4, ip4(a4, b4, ICMP), icmp(0, 0), rest),
		"echo6":            frame(v6, ip6(a6, b6, ICMPv6), icmp6(128), rest),
		"unreachable":      frame(v4, options(ip4(a4, b4, ICMP)), icmp(3, 1), rest),
		"unreachable6":     frame(v6, ip6(a6, b6, ICMPv6), icmp6(1), rest),
		"solicitation":     frame(v6, ip6(a6, b6, ICMPv6), icmp6(135), rest),
		"listener report":  frame(v6, ip6(a6, b6, ICMPv6), icmp6(143), rest),
		"tcp 443":          frame(v4, options(ip4(a4, b4, TCP)), tcp(443, 9999, false), rest),
		"tcp to 443":       frame(v6, ip6(a6, b6, TCP), tcp(9999, 443, false), rest),
		"tcp by address":   frame(v4, ip4(a4, "192.0.2.1", TCP), tcp(9998, 9999, false), rest),
		"tcp6 by address":  frame(v6, ip6("2001:db8::1", b6, TCP), tcp(9998, 9999, false), rest),
		"tcp6 near miss":   frame(v6, ip6("2001:db8::1:1", b6, TCP), tcp(9998, 9999, false), rest),
		"tcp other":        frame(v4, ip4(a4, b4, TCP), tcp(9998, 9999, false), rest),
		"tcp other SYN":    frame(v4, options(ip4(a4, b4, TCP)), tcp(9998, 9999, true), rest),
		"tcp6 other SYN":   frame(v6, ip6(a6, b6, TCP), tcp(9998, 9999, true), rest),
		"udp 443":          frame(v4, ip4(a4, b4, UDP), udp(9999, 443), rest),
		"udp6 443":         frame(v6, ip6(a6, b6, UDP), udp(443, 9999), rest),
		"udp other":        frame(v6, ip6(a6, b6, UDP), udp(9998, 9999), rest),
		"udp by address":   frame(v4, ip4("192.0.2.1", b4, UDP), udp(9998, 9999), rest),
		"sctp other":       frame(v4, ip4(a4, b4, layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 9998, DstPort: 9999}, rest),
		"gre by address":   frame(v4, ip4(a4, "192.0.2.1", layers.IPProtocolGRE), rest),
		"sctp6 by address": frame(v6, ip6(a6, "2001:db8::1", layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 9998, DstPort: 9999}, rest),
	}
}

var (
	ends = []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.7"),
	}
	always = []string{"arp", "vlan", "fragment", "hop-by-hop", "unreachable", "unreachable6", "solicitation"}
	// alwaysExpression is the same for tcpdump.
	alwaysExpression = `arp or ether proto 0x8100 or ether proto 0x88a8 or ether proto 0x9100
		or (ip and ip[6:2] & 0x3fff != 0)
		or (ip6 and (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 44 or ip6[6] = 60))
		or (icmp and (icmp[0] = 3 or icmp[0] = 4 or icmp[0] = 5 or icmp[0] = 11 or icmp[0] = 12))
		or (ip6 and ip6[6] = 58 and (ip6[40] < 128 or (ip6[40] >= 133 and ip6[40] <= 137)))`
	hosts  = "host 192.0.2.1 or host 192.0.2.7 or host 2001:db8::1"
	tcpEnd = "(ip and tcp[13] & 7 != 0) or (ip6 and ip6[6] = 6 and ip6[53] & 7 != 0)"
)

var selectors = []struct {
	name       string
	selector   Selector
	expression string
	want       []string // besides always; nil means everything of IP
}{
	{"everything", Selector{}, "ip or ip6", nil},
	{
		"icmp",
		Selector{Proto: packet.ICMP},
		"icmp or (ip6 and ip6[6] = 58)",
		[]string{"echo", "echo reply", "echo6", "listener report"},
	},
	{
		"icmpv6 with an address that means nothing",
		Selector{Proto: packet.ICMPv6, Addresses: ends},
		"icmp or (ip6 and ip6[6] = 58)",
		[]string{"echo", "echo reply", "echo6", "listener report"},
	},
	{
		"tcp",
		Selector{Proto: packet.TCP},
		"tcp",
		[]string{"tcp 443", "tcp to 443", "tcp by address", "tcp6 by address", "tcp6 near miss", "tcp other", "tcp other SYN", "tcp6 other SYN"},
	},
	{
		"tcp port",
		Selector{Proto: packet.TCP, Ports: []uint16{80, 443}},
		"tcp and (port 80 or port 443 or " + tcpEnd + ")",
		[]string{"tcp 443", "tcp to 443", "tcp other SYN", "tcp6 other SYN"},
	},
	{
		"tcp address",
		Selector{Proto: packet.TCP, Addresses: ends},
		"tcp and (" + hosts + " or " + tcpEnd + ")",
		[]string{"tcp by address", "tcp6 by address", "tcp other SYN", "tcp6 other SYN"},
	},
	{
		"udp port and address",
		Selector{Proto: packet.UDP, Addresses: ends, Ports: []uint16{443}},
		"udp and (port 443 or " + hosts + ")",
		[]string{"udp 443", "udp6 443", "udp by address"},
	},
	{"sctp address", Selector{Proto: packet.SCTP, Addresses: ends}, "sctp and (" + hosts + ")", []string{"sctp6 by address"}},
	{
		"any protocol, address",
		Selector{Addresses: ends},
		hosts + " or (tcp and (" + tcpEnd + "))",
		[]string{"tcp by address", "tcp6 by address", "tcp other SYN", "tcp6 other SYN", "udp by address", "gre by address", "sctp6 by address"},
	},
}

// forEthernet is the program without the parts that only the kernel can run.
func forEthernet(t testing.TB, s Selector) *bpf.VM {
	t.Helper()
	var p program
	s.frame(&p, bpf.LoadAbsolute{Off: 12, Size: 2}, etherHeader)
	vm, err := bpf.NewVM(p)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func passes(t testing.TB, vm *bpf.VM, frame []byte) bool {
	t.Helper()
	n, err := vm.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestSelector(t *testing.T) {
	all := corpus(t)
	for _, tt := range selectors {
		t.Run(tt.name, func(t *testing.T) {
			vm := forEthernet(t, tt.selector)
			var got, want []string
			for name, frame := range all {
				if passes(t, vm, frame) {
					got = append(got, name)
				}
				if tt.want == nil && name != "lldp" {
					want = append(want, name)
				}
			}
			if tt.want != nil {
				want = slices.Concat(always, tt.want)
			}
			slices.Sort(got)
			slices.Sort(want)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestSelectorAgainstTcpdump compares with what tcpdump compiles from an equal
// expression, on the corpus and on variations of it.
func TestSelectorAgainstTcpdump(t *testing.T) {
	tcpdump := testenv.Tool(t, "tcpdump")
	all := corpus(t)
	var varied [][]byte
	random := rand.New(rand.NewPCG(1, 2))
	for _, frame := range all {
		varied = append(varied, frame)
		for range 200 {
			f := bytes.Clone(frame)
			// Protocol, flags, addresses, types and ports, but no lengths.
			for _, offset := range []int{20, 21, 23, 33, 34, 35, 36, 37, 47, 54, 55, 56, 57, 67} {
				if random.IntN(4) == 0 && offset < len(f) {
					f[offset] = []byte{0, 1, 2, 3, 6, 17, 58, 128, 135, 187, byte(random.Uint32())}[random.IntN(11)]
				}
			}
			varied = append(varied, f)
		}
	}
	for _, tt := range selectors {
		t.Run(tt.name, func(t *testing.T) {
			want := compile(t, tcpdump, alwaysExpression+" or ("+tt.expression+")")
			got := forEthernet(t, tt.selector)
			for _, frame := range varied {
				if g, w := passes(t, got, frame), passes(t, want, frame); g != w {
					t.Fatalf("passes %v, tcpdump says %v: %x", g, w, frame)
				}
			}
		})
	}
}

func compile(t *testing.T, tcpdump, expression string) *bpf.VM {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), tcpdump, "-ddd", "-y", "EN10MB", strings.Join(strings.Fields(expression), " "))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tcpdump -ddd: %v\n%s", err, stderr.String())
	}
	var program []bpf.Instruction
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n")[1:] {
		var raw bpf.RawInstruction
		if _, err := fmt.Sscan(line, &raw.Op, &raw.Jt, &raw.Jf, &raw.K); err != nil {
			t.Fatal(err)
		}
		program = append(program, raw.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// TestSelectorCarried judges VXLAN packets by what they carry, whatever carries
// them.
func TestSelectorCarried(t *testing.T) {
	all := corpus(t)
	vxlan := func(outer gopacket.SerializableLayer, port layers.UDPPort, inner []byte) []byte {
		etherType := layers.EthernetTypeIPv4
		if outer.LayerType() == layers.LayerTypeIPv6 {
			etherType = layers.EthernetTypeIPv6
		}
		buffer := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true},
			&layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: etherType},
			outer, &layers.UDP{SrcPort: 40000, DstPort: port},
			&layers.VXLAN{ValidIDFlag: true, VNI: 42}, gopacket.Payload(inner))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(buffer.Bytes())
	}
	four := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: []byte{192, 0, 2, 1}, DstIP: []byte{192, 0, 2, 2}}
	six := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: netip.MustParseAddr("2001:db8::1").AsSlice(), DstIP: netip.MustParseAddr("2001:db8::2").AsSlice()}
	for _, tt := range selectors {
		t.Run(tt.name, func(t *testing.T) {
			bare, selector := forEthernet(t, tt.selector), tt.selector
			selector.Carried = true
			carried := forEthernet(t, selector)
			for name, frame := range all {
				if passes(t, bare, frame) != passes(t, carried, frame) {
					t.Errorf("%s is judged differently outside of tunnels", name)
				}
				for _, outer := range []gopacket.SerializableLayer{four, six} {
					for _, port := range []layers.UDPPort{4789, 8472} {
						if got, want := passes(t, carried, vxlan(outer, port, frame)), passes(t, bare, frame); got != want {
							t.Errorf("%s in %s to port %d passes %v, want %v", name, outer.LayerType(), port, got, want)
						}
					}
				}
			}
		})
	}
}

func TestSelectorProgram(t *testing.T) {
	many := make([]netip.Addr, 200)
	for i := range many {
		many[i] = netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)})
	}
	tests := []struct {
		name     string
		selector Selector
		want     string // of the error
	}{
		{"everything", Selector{}, ""},
		{"ends", Selector{Proto: packet.TCP, Addresses: ends, Ports: []uint16{443}}, ""},
		{"invalid address", Selector{Addresses: []netip.Addr{{}}}, "selector has an invalid address among [invalid IP]"},
		{"ports of ICMP", Selector{Proto: packet.ICMP, Ports: []uint16{1}}, "selector has ports, but protocol icmp has none"},
		{"too long", Selector{Addresses: many}, "selector with 200 addresses and 0 ports is too long for a kernel filter"},
	}
	for _, tt := range tests {
		program, err := tt.selector.Program()
		got := ""
		if err != nil {
			got = err.Error()
		} else if _, err := bpf.Assemble(program); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: error %q, want %q", tt.name, got, tt.want)
		}
	}
}
