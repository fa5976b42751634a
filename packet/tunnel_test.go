package packet

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// tunnelled is a frame with a packet in tunnels.
type tunnelled struct {
	frame []byte
	inner []byte  // the packet that is to be found, without its link
	want  []Layer // around it, nil when it is not to be found
}

// tunnels builds a frame for each encapsulation.
func tunnels(t testing.TB) map[string]tunnelled {
	all := frames(t)
	syn, echo := all["tcp"], all["echo6"] // with Ethernet headers
	ip, ip6 := syn[etherHeader:], echo[etherHeader:]
	arp, tagged := all["arp"], all["qinq"]

	src, dst := Tuple{Src: src4, Dst: dst4}.Key().Src, Tuple{Src: src4, Dst: dst4}.Key().Dst
	src6, dst6 := src6.As16(), dst6.As16()
	layer := func(kind TunnelKind, id uint32) Layer {
		l := Layer{Kind: kind, Src: src, Dst: dst, ID: id}
		if kind == MPLS || kind == PPPoE {
			l.Src, l.Dst = [16]byte{}, [16]byte{}
		}
		return l
	}
	in4 := func(proto layers.IPProtocol, content ...[]byte) []byte {
		return serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(proto), gopacket.Payload(slices.Concat(content...)))
	}
	in6 := func(proto layers.IPProtocol, content ...[]byte) []byte {
		return serialize(t, ethernet(layers.EthernetTypeIPv6), ipv6(proto), gopacket.Payload(slices.Concat(content...)))
	}
	udp := func(port uint16, content ...[]byte) []byte {
		return serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolUDP),
			&layers.UDP{SrcPort: 50000, DstPort: layers.UDPPort(port)}, gopacket.Payload(slices.Concat(content...)))
	}
	link := func(etherType uint16, content ...[]byte) []byte {
		return slices.Concat(dstMAC, srcMAC, binary.BigEndian.AppendUint16(nil, etherType), slices.Concat(content...))
	}
	const gre = layers.IPProtocolGRE
	vni := []byte{8, 0, 0, 0, 0, 0, 42, 0}
	greIP := []byte{0, 0, 8, 0}
	nested := func(depth int) []byte {
		p := ip
		for range depth {
			p = in4(gre, greIP, p)[etherHeader:]
		}
		return append(slices.Concat(dstMAC, srcMAC), append([]byte{8, 0}, p...)...)
	}
	first := bytes.Clone(udp(4789, vni, syn))
	first[etherHeader+6] = 0x20 // more fragments

	return map[string]tunnelled{
		"vxlan":             {udp(4789, vni, syn), ip, []Layer{layer(VXLAN, 42)}},
		"vxlan of Linux":    {udp(8472, vni, echo), ip6, []Layer{layer(VXLAN, 42)}},
		"vxlan with policy": {udp(4789, []byte{0x88, 0, 0, 1, 0xff, 0xff, 0xff, 0}, syn), ip, []Layer{layer(VXLAN, 0xffffff)}},
		"vxlan, tagged":     {udp(4789, vni, tagged), ip, []Layer{layer(VXLAN, 42)}},
		"vxlan, fragmented": {first, ip, []Layer{layer(VXLAN, 42)}},
		"vxlan of ARP":      {udp(4789, vni, arp), nil, nil},
		"vxlan, no number":  {udp(4789, make([]byte, 8), syn), nil, nil},
		"another port":      {udp(4790, vni, syn), nil, nil},
		"geneve":            {udp(6081, []byte{0, 0, 0x65, 0x58, 0, 0, 9, 0}, syn), ip, []Layer{layer(Geneve, 9)}},
		"geneve, options":   {udp(6081, []byte{2, 0x40, 0x65, 0x58, 0, 0, 9, 0}, make([]byte, 8), syn), ip, []Layer{layer(Geneve, 9)}},
		"geneve of IPv6":    {udp(6081, []byte{0, 0, 0x86, 0xdd, 0, 0, 9, 0}, ip6), ip6, []Layer{layer(Geneve, 9)}},
		"geneve, version 1": {udp(6081, []byte{0x40, 0, 0x65, 0x58, 0, 0, 9, 0}, syn), nil, nil},
		"gre":               {in4(gre, greIP, ip), ip, []Layer{layer(GRE, 0)}},
		"gre, all fields":   {in4(gre, []byte{0xb0, 0, 8, 0, 1, 2, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1}, ip), ip, []Layer{layer(GRE, 7)}},
		"gre over IPv6":     {in6(gre, []byte{0x20, 0, 0x86, 0xdd, 0, 0, 0, 7}, ip6), ip6, []Layer{{GRE, src6, dst6, 7}}},
		"gre of Ethernet":   {in4(gre, []byte{0x20, 0, 0x65, 0x58, 0, 0, 1, 0}, tagged), ip, []Layer{layer(GRE, 256)}},
		"gre of MPLS":       {in4(gre, []byte{0, 0, 0x88, 0x47, 0, 2, 0x51, 0x40}, ip), ip, []Layer{layer(GRE, 0), layer(MPLS, 37)}},
		"gre, routed":       {in4(gre, []byte{0x40, 0, 8, 0, 0, 0, 0, 0}, ip), nil, nil},
		"gre of PPTP":       {in4(gre, []byte{0x20, 1, 0x88, 0x0b, 0, 0, 0, 0}, ip), nil, nil},
		"erspan I":          {in4(gre, []byte{0, 0, 0x88, 0xbe}, syn), ip, []Layer{layer(ERSPAN, 0)}},
		"erspan II":         {in4(gre, []byte{0x10, 0, 0x88, 0xbe, 0, 0, 0, 1}, []byte{0x11, 0x56, 0xc2, 0x9a, 0, 0, 0, 0}, syn), ip, []Layer{layer(ERSPAN, 0x29a)}},
		"erspan III": {
			in4(gre, []byte{0x10, 0, 0x22, 0xeb, 0, 0, 0, 1}, []byte{0x20, 0x0a, 0, 5, 1, 2, 3, 4, 0, 0, 0, 0}, tagged), ip, []Layer{layer(ERSPAN, 5)},
		},
		"erspan III, longer": {
			in4(gre, []byte{0x10, 0, 0x22, 0xeb, 0, 0, 0, 1}, []byte{0x20, 0x0a, 0, 5, 1, 2, 3, 4, 0, 0, 0, 1}, make([]byte, 8), syn), ip, []Layer{layer(ERSPAN, 5)},
		},
		"4in4":           {in4(layers.IPProtocolIPv4, ip), ip, []Layer{layer(IPIP, 0)}},
		"6in4":           {in4(layers.IPProtocolIPv6, ip6), ip6, []Layer{layer(IPIP, 0)}},
		"4in6":           {in6(layers.IPProtocolIPv4, ip), ip, []Layer{{IPIP, src6, dst6, 0}}},
		"6in6":           {in6(layers.IPProtocolIPv6, ip6), ip6, []Layer{{IPIP, src6, dst6, 0}}},
		"4in4 of IPv6":   {in4(layers.IPProtocolIPv4, ip6), nil, nil},
		"mpls":           {link(0x8847, []byte{0, 1, 0x20, 64, 0, 1, 0x01, 64}, ip), ip, []Layer{layer(MPLS, 16)}},
		"mpls of IPv6":   {link(0x8847, []byte{0, 1, 0x01, 64}, ip6), ip6, []Layer{layer(MPLS, 16)}},
		"pseudowire":     {link(0x8847, []byte{0, 1, 0x01, 64}, syn), ip, []Layer{layer(MPLS, 16)}},
		"control word":   {link(0x8847, []byte{0, 1, 0x01, 64, 0, 0, 0, 9}, syn), ip, []Layer{layer(MPLS, 16)}},
		"no last label":  {link(0x8847, bytes.Repeat([]byte{0, 1, 0, 64}, 20), ip), nil, nil},
		"pppoe":          {link(0x8864, []byte{0x11, 0, 0, 17, 0, byte(2 + len(ip)), 0, 0x21}, ip, []byte{0, 0, 0}), ip, []Layer{layer(PPPoE, 17)}},
		"pppoe of IPv6":  {link(0x8864, []byte{0x11, 0, 0, 17, 0, byte(2 + len(ip6)), 0, 0x57}, ip6), ip6, []Layer{layer(PPPoE, 17)}},
		"pppoe of LCP":   {link(0x8864, []byte{0x11, 0, 0, 17, 0, 6, 0xc0, 0x21, 9, 0, 0, 4}), nil, nil},
		"pppoe, padding": {link(0x8864, []byte{0x11, 0, 0, 17, 0, 2, 0, 0x21}, ip), nil, nil},
		"vxlan of MPLS":  {udp(4789, vni, link(0x8847, []byte{0, 1, 0x01, 64}, ip)), ip, []Layer{layer(VXLAN, 42), layer(MPLS, 16)}},
		"vxlan of LCP":   {udp(4789, vni, link(0x8864, []byte{0x11, 0, 0, 17, 0, 6, 0xc0, 0x21, 9, 0, 0, 4})), nil, nil},
		"four deep":      {nested(4), ip, slices.Repeat([]Layer{layer(GRE, 0)}, 4)},
		// Of five the innermost is payload.
		"five deep": {nested(5), in4(gre, greIP, ip)[etherHeader:], slices.Repeat([]Layer{layer(GRE, 0)}, 4)},
	}
}

func TestTunnels(t *testing.T) {
	for name, tt := range tunnels(t) {
		t.Run(name, func(t *testing.T) {
			got := scan(LinkEthernet, tt.frame, len(tt.frame))
			// The packet by itself, or the frame as live capture takes it.
			want := Brief{}
			if tt.want != nil {
				Scan(LinkRaw, tt.inner, len(tt.inner), &want)
				if want.Tunnels != 0 { // what is too deep
					want = Brief{Key: Tuple{Src: src4, Dst: dst4, Proto: protoGRE}.Key(), Version: 4, Kind: BriefIP}
				}
			} else if h, err := Decode(LinkEthernet, tt.frame, len(tt.frame)); err != nil {
				t.Fatal(err)
			} else {
				want = Brief{Key: h.Tuple.Key(), Version: h.Version, Kind: BriefOther}
				if h.Version != 0 {
					want.Kind = BriefIP
				}
			}
			if got.Key != want.Key || got.Version != want.Version || got.Kind != want.Kind || want.Mark != 0 && got.Mark != want.Mark {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if !slices.Equal(got.Layers[:got.Tunnels], tt.want) {
				t.Errorf("layers %+v\nwant   %+v", got.Layers[:got.Tunnels], tt.want)
			}
			if got.VLANCount != 0 || got.EtherSrc != HardwareAddr(srcMAC) {
				t.Errorf("from outside: VLANs %v, %s", got.VLANs, got.EtherSrc)
			}
			for n := range len(tt.frame) + 1 {
				if d := disagreement(LinkEthernet, tt.frame[:n], len(tt.frame)); d != "" {
					t.Errorf("cut to %d bytes: %s", n, d)
				}
			}
		})
	}
}

// TestDecodeOuter leaves live capture as it was: what is in a tunnel is
// payload.
func TestDecodeOuter(t *testing.T) {
	for name, tt := range tunnels(t) {
		h, err := Decode(LinkEthernet, tt.frame, len(tt.frame))
		if err != nil || h.Tunnels != nil {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
		if name == "vxlan" && (h.Tuple.DstPort != 4789 || h.TTL != 64) {
			t.Errorf("%s: %+v", name, h)
		}
	}
}
