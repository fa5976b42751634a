package packet

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	srcMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	dstMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	src4   = netip.MustParseAddr("192.0.2.1")
	dst4   = netip.MustParseAddr("198.51.100.2")
	src6   = netip.MustParseAddr("2001:db8::1")
	dst6   = netip.MustParseAddr("2001:db8:ffff::2")
)

var cmpHeader = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}),
	cmpopts.EquateEmpty(),
}

func serialize(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	for i, layer := range l {
		if transport, ok := layer.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok && i > 0 {
			for _, below := range l[:i] {
				if network, ok := below.(gopacket.NetworkLayer); ok {
					if err := transport.SetNetworkLayerForChecksum(network); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buffer.Bytes())
}

func ethernet(next layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: srcMAC, DstMAC: dstMAC, EthernetType: next}
}

func ipv4(next layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 64, Id: 0x1234, Flags: layers.IPv4DontFragment, Protocol: next,
		SrcIP: src4.AsSlice(), DstIP: dst4.AsSlice(),
	}
}

func ipv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 63, FlowLabel: 0xabcde, NextHeader: next,
		SrcIP: src6.AsSlice(), DstIP: dst6.AsSlice(),
	}
}

func tcpSYN() *layers.TCP {
	return &layers.TCP{
		SrcPort: 40000, DstPort: 443, Seq: 0x01020304, SYN: true, Window: 64240,
		Options: []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{0x05, 0xb4}},
			{OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: []byte{0, 0, 0, 7, 0, 0, 0, 9}},
		},
	}
}

func echo4() *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(EchoRequest, 0), Id: 77, Seq: 5}
}

func echo6(t uint8) (*layers.ICMPv6, *layers.ICMPv6Echo) {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(t, 0)}, &layers.ICMPv6Echo{Identifier: 38, SeqNumber: 1}
}

// payload is 100 bytes that a timestamp and a pattern begin, as ping's do.
func payload() gopacket.Payload {
	p := []byte{0x31, 0xa7, 0x5d, 0x68, 0, 0, 0, 0, 0x9b, 0x2c, 0x0e, 0}
	for len(p) < 100 {
		p = append(p, byte(len(p)))
	}
	return p
}

// frames are the packets of the tests and the seeds of the fuzzer.
func frames(t testing.TB) map[string][]byte {
	frame := func(l ...gopacket.SerializableLayer) []byte { return serialize(t, l...) }
	udp := func() *layers.UDP { return &layers.UDP{SrcPort: 5353, DstPort: 53} }
	icmp6, echo := echo6(EchoRequestV6)

	quoted4 := frame(ipv4(layers.IPProtocolTCP), tcpSYN())
	icmpQuoted, echoQuoted := echo6(EchoRequestV6)
	quoted6 := frame(ipv6(layers.IPProtocolICMPv6), icmpQuoted, echoQuoted, payload())

	options := ipv4(layers.IPProtocolUDP)
	options.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}} // router alert
	first, later := ipv4(layers.IPProtocolUDP), ipv4(layers.IPProtocolUDP)
	first.Flags, later.Flags, later.FragOffset = layers.IPv4MoreFragments, 0, 185

	// Destination options, routing and fragment headers.
	chain := []byte{
		43, 0, 1, 4, 0, 0, 0, 0, // destination options, PadN
		44, 0, 253, 0, 0, 0, 0, 0, // routing, no segments left
		17, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef, // first fragment
	}
	datagram := frame(ipv4(layers.IPProtocolUDP), udp(), payload())[20:]
	hop := append([]byte{17, 0, 5, 2, 0, 0, 1, 0}, datagram...)
	laterFragment := append([]byte{17, 0, 0x05, 0xa8, 0xde, 0xad, 0xbe, 0xef}, payload()...)

	gso := frame(ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), tcpSYN(), payload())
	binary.BigEndian.PutUint16(gso[14+2:], 0)
	hopByHop := frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolNoNextHeader), gopacket.Payload(hop))
	hopByHop[14+6] = 0 // the serializer has no such header without a jumbo payload
	big := frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolTCP), tcpSYN(), payload())
	binary.BigEndian.PutUint16(big[14+4:], 0)

	return map[string][]byte{
		"tcp":          frame(ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), tcpSYN()),
		"udp options":  frame(ethernet(layers.EthernetTypeIPv4), options, udp(), payload()),
		"echo":         frame(ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolICMPv4), echo4(), payload()),
		"echo6":        frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolICMPv6), icmp6, echo, payload()),
		"sctp":         frame(ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 7, DstPort: 9}, payload()),
		"esp":          frame(ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolESP), payload()),
		"fragment 1":   frame(ethernet(layers.EthernetTypeIPv4), first, udp(), payload()),
		"fragment 2":   frame(ethernet(layers.EthernetTypeIPv4), later, payload()),
		"extensions":   frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolIPv6Destination), gopacket.Payload(append(chain, datagram...))),
		"hop-by-hop":   hopByHop,
		"fragment 2/6": frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolIPv6Fragment), gopacket.Payload(laterFragment)),
		"gso":          gso,
		"big tcp":      big,
		"qinq": frame(ethernet(layers.EthernetTypeQinQ), &layers.Dot1Q{VLANIdentifier: 10, Type: layers.EthernetTypeDot1Q},
			&layers.Dot1Q{VLANIdentifier: 20, Type: layers.EthernetTypeIPv4}, ipv4(layers.IPProtocolTCP), tcpSYN()),
		"arp": frame(ethernet(layers.EthernetTypeARP), &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
			SourceHwAddress: srcMAC, SourceProtAddress: src4.AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: dst4.AsSlice(),
		}),
		"solicitation": frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolICMPv6),
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)},
			&layers.ICMPv6NeighborSolicitation{TargetAddress: dst6.AsSlice()}),
		"fragmentation needed": frame(ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}, gopacket.Payload(quoted4[:28])),
		"too big": frame(ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolICMPv6),
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, gopacket.Payload(append([]byte{0, 1, 0, 0}, quoted6...))),
		"lldp": frame(ethernet(layers.EthernetTypeLinkLayerDiscovery), payload()),
		"stp":  frame(ethernet(layers.EthernetTypeLLC), payload()),
	}
}

func TestDecode(t *testing.T) {
	tuple4 := func(p Proto) Tuple { return Tuple{Proto: p, Src: src4, Dst: dst4} }
	tuple6 := func(p Proto) Tuple { return Tuple{Proto: p, Src: src6, Dst: dst6} }
	ports := func(t Tuple, src, dst uint16) Tuple { t.SrcPort, t.DstPort = src, dst; return t }
	icmp := func(t Tuple, typ, code uint8, id uint16) Tuple {
		t.ICMPType, t.ICMPCode, t.ICMPID = typ, code, id
		return t
	}
	start := []byte(payload())[:PayloadBytes]

	// What the frames have in common.
	ip4 := func(h Header) Header {
		h.EtherSrc, h.EtherDst = HardwareAddr(srcMAC), HardwareAddr(dstMAC)
		h.EtherType, h.Version, h.TTL, h.IPID = EtherTypeIPv4, 4, 64, 0x1234
		return h
	}
	df := func(h Header) Header { h.DontFragment = true; return ip4(h) }
	ip6 := func(h Header) Header {
		h.EtherSrc, h.EtherDst = HardwareAddr(srcMAC), HardwareAddr(dstMAC)
		h.EtherType, h.Version, h.TTL, h.FlowLabel = EtherTypeIPv6, 6, 63, 0xabcde
		return h
	}
	syn := func(h Header) Header {
		h.Seq, h.Flags, h.Window, h.MSS = 0x01020304, SYN, 64240, 1460
		h.HasTimestamps, h.Timestamp, h.EchoedStamp = true, 7, 9
		return h
	}
	bare := func(h Header) Header { // as quoted: without Ethernet
		h.EtherSrc, h.EtherDst = HardwareAddr{}, HardwareAddr{}
		return h
	}
	link := Header{EtherSrc: HardwareAddr(srcMAC), EtherDst: HardwareAddr(dstMAC)}
	arp, lldp := link, link
	arp.EtherType, lldp.EtherType = EtherTypeARP, 0x88cc
	arp.ARP = &ARP{Request: true, SenderAddr: src4, SenderMAC: HardwareAddr(srcMAC), TargetAddr: dst4}
	tagged := df(syn(Header{Tuple: ports(tuple4(TCP), 40000, 443), PayloadLength: 36, VLANs: []uint16{10, 20}}))

	want := map[string]Header{
		"tcp":         df(syn(Header{Tuple: ports(tuple4(TCP), 40000, 443), PayloadLength: 36})),
		"qinq":        tagged,
		"udp options": df(Header{Tuple: ports(tuple4(UDP), 5353, 53), PayloadLength: 108, DataLength: 100, Payload: start}),
		"echo":        df(Header{Tuple: icmp(tuple4(ICMP), 8, 0, 77), ICMPSeq: 5, PayloadLength: 108, DataLength: 100, Payload: start}),
		"echo6":       ip6(Header{Tuple: icmp(tuple6(ICMPv6), 128, 0, 38), ICMPSeq: 1, PayloadLength: 108, DataLength: 100, Payload: start}),
		"sctp":        df(Header{Tuple: ports(tuple4(SCTP), 7, 9), PayloadLength: 112, DataLength: 100, Payload: start}),
		"esp":         df(Header{Tuple: tuple4(50), PayloadLength: 100, DataLength: 100, Payload: start}),
		"fragment 1":  ip4(Header{Tuple: ports(tuple4(UDP), 5353, 53), PayloadLength: 108, DataLength: 100, Payload: start, MoreFragments: true}),
		"fragment 2":  ip4(Header{Tuple: tuple4(UDP), PayloadLength: 100, DataLength: 100, Payload: start, FragmentOffset: 1480}),
		"extensions": ip6(Header{
			Tuple: ports(tuple6(UDP), 5353, 53), PayloadLength: 108, DataLength: 100, Payload: start, MoreFragments: true, IPID: 0xdeadbeef,
		}),
		"fragment 2/6": ip6(Header{Tuple: tuple6(UDP), PayloadLength: 100, DataLength: 100, Payload: start, FragmentOffset: 1448, IPID: 0xdeadbeef}),
		"gso":          df(syn(Header{Tuple: ports(tuple4(TCP), 40000, 443), PayloadLength: 136, DataLength: 100, Payload: start})),
		"big tcp":      ip6(syn(Header{Tuple: ports(tuple6(TCP), 40000, 443), PayloadLength: 136, DataLength: 100, Payload: start})),
		"arp":          arp,
		"lldp":         lldp,
		"stp":          link,
		"solicitation": ip6(Header{
			Tuple: icmp(tuple6(ICMPv6), 135, 0, 0), PayloadLength: 24, DataLength: 16, Payload: dst6.AsSlice(),
			Neighbour: &Neighbour{Solicitation: true, Target: dst6},
		}),
		"fragmentation needed": df(Header{
			Tuple: icmp(tuple4(ICMP), 3, 4, 0), PayloadLength: 36, MTU: 1400,
			Quoted: new(bare(df(Header{
				Tuple: ports(tuple4(TCP), 40000, 443), Seq: 0x01020304, PayloadLength: 36, DataLength: 16, HeaderCut: true, PayloadCut: true,
			}))),
		}),
		"too big": ip6(Header{
			Tuple: icmp(tuple6(ICMPv6), 2, 0, 0), PayloadLength: 156, MTU: 0x10000,
			Quoted: new(bare(ip6(Header{
				Tuple: icmp(tuple6(ICMPv6), 128, 0, 38), ICMPSeq: 1, PayloadLength: 108, DataLength: 100, Payload: start,
			}))),
		}),
		"hop-by-hop": ip6(Header{Tuple: ports(tuple6(UDP), 5353, 53), PayloadLength: 108, DataLength: 100, Payload: start}),
	}
	all := frames(t)
	if len(all) != len(want) {
		t.Fatalf("%d frames, %d headers", len(all), len(want))
	}
	// Checksums are the serializer's.
	ignored := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Checksum" }, cmp.Ignore())
	for name, frame := range all {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(LinkEthernet, frame, len(frame))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want[name], got, cmpHeader, ignored); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			// The header keeps nothing of the buffer.
			clear(frame)
			if d := cmp.Diff(want[name], got, cmpHeader, ignored); d != "" {
				t.Errorf("after the buffer was reused (-want +got)\n%s", d)
			}
		})
	}
}

// TestDecodeChecksum reads the one field that the table leaves out.
func TestDecodeChecksum(t *testing.T) {
	all := frames(t)
	for name, offset := range map[string]int{"tcp": 16, "fragment 1": 6, "echo": 2} {
		h, err := Decode(LinkEthernet, all[name], 0)
		if want := binary.BigEndian.Uint16(all[name][34+offset:]); err != nil || h.Checksum != want || want == 0 {
			t.Errorf("%s: checksum %#x, %v; want %#x", name, h.Checksum, err, want)
		}
	}
}

// TestDecodeCut cuts every frame at every length: what is left decodes to a
// part of the whole, and what is missing is never an error.
func TestDecodeCut(t *testing.T) {
	for name, frame := range frames(t) {
		whole, err := Decode(LinkEthernet, frame, len(frame))
		if err != nil {
			t.Fatal(name, err)
		}
		for n := 14; n < len(frame); n++ {
			got, err := Decode(LinkEthernet, frame[:n], len(frame))
			if err != nil {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
				continue
			}
			if !bytes.HasPrefix(whole.Payload, got.Payload) {
				t.Errorf("%s cut to %d bytes: payload %x is none of %x", name, n, got.Payload, whole.Payload)
			}
			if len(got.Payload) < len(whole.Payload) && !got.PayloadCut {
				t.Errorf("%s cut to %d bytes: not marked as cut", name, n)
			}
			if got.Compare(&whole) == Different {
				t.Errorf("%s cut to %d bytes differs from the whole", name, n)
			}
		}
	}
}

// TestDecodeNetwork reads what nftables' trace gives: the network header and
// 20 bytes of the transport.
func TestDecodeNetwork(t *testing.T) {
	all := frames(t)
	tests := []struct {
		name      string
		etherType uint16
		bytes     int
		tuple     string
		seq       uint32
		payload   int
		cut       bool
	}{
		{"tcp", EtherTypeIPv4, 40, "192.0.2.1:40000 → 198.51.100.2:443", 0x01020304, 0, false},
		{"tcp", 0, 40, "192.0.2.1:40000 → 198.51.100.2:443", 0x01020304, 0, false},
		{"tcp", EtherTypeIPv4, 28, "192.0.2.1:40000 → 198.51.100.2:443", 0x01020304, 0, true},
		{"tcp", EtherTypeIPv4, 24, "192.0.2.1:40000 → 198.51.100.2:443", 0, 0, true},
		{"tcp", EtherTypeIPv4, 19, "? → ?", 0, 0, true},
		{"tcp", EtherTypeIPv4, 0, "? → ?", 0, 0, true},
		{"echo6", EtherTypeIPv6, 60, "2001:db8::1 → 2001:db8:ffff::2", 0, 12, true},
		{"echo6", 0, 60, "2001:db8::1 → 2001:db8:ffff::2", 0, 12, true},
		{"extensions", EtherTypeIPv6, 60, "2001:db8::1 → 2001:db8:ffff::2", 0, 0, true},
	}
	for _, tt := range tests {
		h, err := DecodeNetwork(tt.etherType, all[tt.name][14:14+tt.bytes], 0)
		if err != nil {
			t.Errorf("%s, %d bytes: %v", tt.name, tt.bytes, err)
			continue
		}
		if h.Tuple.String() != tt.tuple || h.Seq != tt.seq || len(h.Payload) != tt.payload || h.PayloadCut != tt.cut {
			t.Errorf("%s, %d bytes: %s seq %#x payload %d cut %v, want %s seq %#x payload %d cut %v", tt.name, tt.bytes,
				h.Tuple, h.Seq, len(h.Payload), h.PayloadCut, tt.tuple, tt.seq, tt.payload, tt.cut)
		}
	}
}

// TestQuoteExtensions leaves an MPLS label stack that follows the quote
// (RFC 4884) out of it.
func TestQuoteExtensions(t *testing.T) {
	quote := serialize(t, ipv4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload())
	binary.BigEndian.PutUint16(quote[2:], 500) // the packet was longer
	label := []byte{0x20, 0, 0, 0, 0, 8, 1, 1, 0xff, 0xff, 0xff, 0xff}
	frame := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(11, 0), Id: 20}, // 80 bytes
		gopacket.Payload(append(bytes.Clone(quote[:80]), label...)))
	h, err := Decode(LinkEthernet, frame, len(frame))
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte(payload())[:52]; !bytes.Equal(h.Quoted.Payload, want) || !h.Quoted.PayloadCut {
		t.Errorf("quoted payload %x, cut %v; want %x, cut", h.Quoted.Payload, h.Quoted.PayloadCut, want)
	}
}

// TestDecodePadding leaves out what fills a short frame up to 60 bytes.
func TestDecodePadding(t *testing.T) {
	frame := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolUDP), &layers.UDP{}, gopacket.Payload("ab"))
	frame = append(frame, make([]byte, 60-len(frame))...)
	h, err := Decode(LinkEthernet, frame, len(frame))
	if err != nil || string(h.Payload) != "ab" || h.PayloadCut {
		t.Errorf("payload %q, cut %v, %v", h.Payload, h.PayloadCut, err)
	}
}

func TestDecodeErrors(t *testing.T) {
	frame := frames(t)["tcp"]
	change := func(offset int, to byte) []byte {
		f := bytes.Clone(frame)
		f[offset] = to
		return f
	}
	arp := frames(t)["arp"]
	arp[14+4], arp[14+5] = 0x7f, 0x7d // 8+2*(127+125) is 0 in eight bits
	tests := map[string]struct {
		link LinkType
		data []byte
	}{
		"no link header":    {LinkEthernet, frame[:13]},
		"link type":         {LinkType(105), frame},
		"version":           {LinkEthernet, change(14, 0x65)},
		"header length":     {LinkEthernet, change(14, 0x44)},
		"total length":      {LinkEthernet, change(17, 19)},
		"neither 4 nor 6":   {LinkRaw, []byte{0x50, 0}},
		"a panicking layer": {LinkEthernet, arp},
	}
	for name, tt := range tests {
		if h, err := Decode(tt.link, tt.data, 0); err == nil {
			t.Errorf("%s: no error, header %+v", name, h)
		}
	}
}

func TestDecodeRaw(t *testing.T) {
	frame := frames(t)["echo6"]
	h, err := Decode(LinkRaw, frame[14:], 0)
	if err != nil || h.Tuple.ICMPID != 38 || h.EtherType != EtherTypeIPv6 {
		t.Errorf("%+v, %v", h, err)
	}
}

// FuzzDecode looks for panics and for headers that contradict themselves.
func FuzzDecode(f *testing.F) {
	for _, frame := range frames(f) {
		f.Add(frame, len(frame))
		f.Add(frame[:min(60, len(frame))], len(frame))
	}
	f.Fuzz(func(t *testing.T, data []byte, wire int) {
		h, err := Decode(LinkEthernet, data, wire)
		if len(h.Payload) > PayloadBytes || h.PayloadLength < 0 {
			t.Errorf("payload %d of %d bytes", len(h.Payload), h.PayloadLength)
		}
		if q := h.Quoted; q != nil && q.Quoted != nil {
			t.Error("the quote of a quote was decoded")
		}
		if err == nil && h.Compare(&h) == Different {
			t.Errorf("%+v differs from itself", h)
		}
		again, _ := Decode(LinkEthernet, data, wire)
		if h.Fingerprint() != again.Fingerprint() {
			t.Error("two fingerprints of one frame")
		}
		_, _ = DecodeNetwork(0, data, wire)
		_, _ = DecodeNetwork(EtherTypeIPv6, data, wire)
	})
}

func BenchmarkDecode(b *testing.B) {
	all := frames(b)
	for _, name := range []string{"tcp", "udp options", "echo6", "too big"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(LinkEthernet, all[name], len(all[name])); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
