package packet

import (
	"slices"
	"testing"
)

// TestLink puts every link header before the same packet.
func TestLink(t *testing.T) {
	const host = 4 // packet type "outgoing"
	all := frames(t)
	packet4, packet6 := all["tcp"][etherHeader:], all["echo6"][etherHeader:]
	mac := []byte{2, 0, 0, 0, 0, 1, 0, 0}
	nflog := func(family byte, attributes ...byte) []byte { return append([]byte{family, 0, 0, 5}, attributes...) }
	tests := []struct {
		name   string
		link   LinkType
		header []byte
		packet []byte
		trail  []byte
		want   Brief // what the link tells
	}{
		{name: "null", link: LinkNull, header: []byte{2, 0, 0, 0}, packet: packet4},
		{name: "null, big endian", link: LinkNull, header: []byte{0, 0, 0, 2}, packet: packet4},
		{name: "null, Linux", link: LinkNull, header: []byte{10, 0, 0, 0}, packet: packet6},
		{name: "null, NetBSD", link: LinkNull, header: []byte{24, 0, 0, 0}, packet: packet6},
		{name: "null, FreeBSD", link: LinkNull, header: []byte{28, 0, 0, 0}, packet: packet6},
		{name: "loop, macOS", link: LinkLoop, header: []byte{0, 0, 0, 30}, packet: packet6},
		{name: "raw", link: LinkRaw, packet: packet4},
		{name: "raw 12", link: LinkRaw12, packet: packet6},
		{name: "raw 14", link: LinkRaw14, packet: packet4},
		{name: "IPv4", link: LinkIPv4, packet: packet4},
		{name: "IPv6", link: LinkIPv6, packet: packet6},
		{name: "PPP", link: LinkPPP, header: []byte{0xff, 3, 0, 0x21}, packet: packet4},
		{name: "PPP, compressed", link: LinkPPP, header: []byte{0x57}, packet: packet6},
		{name: "Cisco HDLC", link: LinkCHDLC, header: []byte{0x0f, 0, 8, 0}, packet: packet4},
		{name: "frame relay", link: LinkFrameRelay, header: []byte{0x18, 0x61, 3, 0xcc}, packet: packet4},
		{name: "frame relay, padded", link: LinkFrameRelay, header: []byte{0x18, 0x61, 3, 0, 0x8e}, packet: packet6},
		{name: "frame relay, long address", link: LinkFrameRelay, header: []byte{0x18, 0x60, 0x60, 0x61, 3, 0xcc}, packet: packet4},
		{name: "frame relay, SNAP", link: LinkFrameRelay, header: []byte{0x18, 0x61, 3, 0, 0x80, 0, 0, 0, 8, 0}, packet: packet4},
		{name: "frame relay, Cisco", link: LinkFrameRelay, header: []byte{0x18, 0x61, 8, 0}, packet: packet4},
		{
			name: "SLL", link: LinkSLL, header: slices.Concat([]byte{0, host, 0, 1, 0, 6}, mac, []byte{8, 0}), packet: packet4,
			want: Brief{EtherSrc: HardwareAddr(srcMAC), SLLType: host},
		},
		{
			name: "SLL, VLAN", link: LinkSLL, header: slices.Concat([]byte{0, 1, 0, 1, 0, 6}, mac, []byte{0x81, 0, 0x30, 7, 8, 0}), packet: packet4,
			want: Brief{EtherSrc: HardwareAddr(srcMAC), SLLType: 1, VLANs: [4]uint16{7}, VLANCount: 1},
		},
		{name: "SLL, lying address length", link: LinkSLL, header: slices.Concat([]byte{0, 0, 0, 1, 0xff, 6}, mac, []byte{8, 0}), packet: packet4},
		{name: "SLL of a tunnel", link: LinkSLL, header: slices.Concat([]byte{0, 0, 0x03, 0x0a, 0, 4}, mac, []byte{8, 0}), packet: packet4},
		{
			name: "SLL2", link: LinkSLL2, header: slices.Concat([]byte{0x86, 0xdd, 0, 0, 0, 0, 1, 9, 0, 1, host, 6}, mac), packet: packet6,
			want: Brief{EtherSrc: HardwareAddr(srcMAC), SLLType: host, SLLInterface: 265},
		},
		{name: "IPNET", link: LinkIPNET, header: append([]byte{1, 26}, make([]byte, 22)...), packet: packet6},
		{
			name: "NFLOG", link: LinkNFLOG, packet: packet4, trail: []byte{0, 0, 0, 0},
			header: nflog(2, 5, 0, 10, 0, 0, 0, 0, 0, byte(4+len(packet4)), 0, 9, 0),
		},
		{
			name: "NFLOG, big endian", link: LinkNFLOG, packet: packet6,
			header: nflog(10, 0, 8, 0, 11, 0, 0, 0, 0, 0, byte(4+len(packet6)), 0, 9),
		},
		{
			name: "NFLOG of a bridge", link: LinkNFLOG, packet: packet4,
			header: nflog(7, 8, 0, 1, 0, 8, 0, 2, 0, byte(4+len(packet4)), 0, 9, 0),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frame := slices.Concat(tt.header, tt.packet, tt.trail)
			want := scan(LinkRaw, tt.packet, len(tt.packet))
			want.EtherSrc, want.SLLType, want.SLLInterface = tt.want.EtherSrc, tt.want.SLLType, tt.want.SLLInterface
			want.VLANs, want.VLANCount = tt.want.VLANs, tt.want.VLANCount
			if got := scan(tt.link, frame, len(frame)); got != want || got.Kind != BriefIP {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			for n := range len(frame) + 1 {
				if d := disagreement(tt.link, frame[:n], len(frame)); d != "" {
					t.Errorf("cut to %d bytes: %s", n, d)
				}
			}
			for n := range len(tt.header) {
				if got := scan(tt.link, frame[:n], len(frame)); got.Version != 0 || got.Kind == BriefIP {
					t.Errorf("cut to %d bytes of %d of header: %+v", n, len(tt.header), got)
				}
			}
			// Live capture's Decode knows the links as well.
			if h, err := Decode(tt.link, frame, len(frame)); err != nil || h.Tuple.Key() != want.Key {
				t.Errorf("decoded %s, %v", h.Tuple, err)
			}
		})
	}
}

func TestLinkOther(t *testing.T) {
	all := frames(t)
	tests := map[string]struct {
		link  LinkType
		frame []byte
		want  BriefKind
	}{
		"unknown link":       {LinkType(105), all["tcp"], BriefBad},
		"no link header":     {LinkEthernet, all["tcp"][:13], BriefBad},
		"neither 4 nor 6":    {LinkRaw, []byte{0x50, 0}, BriefBad},
		"AppleTalk loopback": {LinkNull, []byte{16, 0, 0, 0, 1, 2, 3, 4}, BriefOther},
		"PPP LCP":            {LinkPPP, []byte{0xff, 3, 0xc0, 0x21, 1, 1, 0, 4}, BriefOther},
		"802.2 over SLL":     {LinkSLL, append(make([]byte, 15), 4, 0x42, 0x42, 3), BriefOther},
		"no payload":         {LinkNFLOG, []byte{2, 0, 0, 0, 5, 0, 10, 0, 'x'}, BriefBad},
		"short attribute":    {LinkNFLOG, []byte{2, 0, 0, 0, 3, 0, 9, 0, 0x45}, BriefBad},
		"arp":                {LinkEthernet, all["arp"], BriefARP},
		"lldp":               {LinkEthernet, all["lldp"], BriefOther},
		"stp":                {LinkEthernet, all["stp"], BriefOther},
	}
	for name, tt := range tests {
		if got := scan(tt.link, tt.frame, len(tt.frame)); got.Kind != tt.want || got.Version != 0 {
			t.Errorf("%s: %+v, want kind %d", name, got, tt.want)
		}
		if d := disagreement(tt.link, tt.frame, len(tt.frame)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestSNAP reads IP behind an LLC header in a capture file, and not live: the
// kernel takes it for no IP either.
func TestSNAP(t *testing.T) {
	packet := frames(t)["tcp"][etherHeader:]
	frame := slices.Concat(dstMAC, srcMAC, []byte{0, byte(8 + len(packet)), 0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, packet, []byte{0, 0})
	if got := scan(LinkEthernet, frame, len(frame)); got.Kind != BriefIP || got.Key.DstPort != 443 {
		t.Errorf("%+v", got)
	}
	for n := range len(frame) + 1 {
		if d := disagreement(LinkEthernet, frame[:n], len(frame)); d != "" {
			t.Errorf("cut to %d bytes: %s", n, d)
		}
	}
	if h, err := Decode(LinkEthernet, frame, len(frame)); err != nil || h.Version != 0 {
		t.Errorf("live: %+v, %v", h, err)
	}
}

func TestLinkTypeString(t *testing.T) {
	for link, want := range map[LinkType]string{LinkEthernet: "ETHERNET", LinkRaw12: "RAW", LinkSLL2: "LINUX_SLL2", 999: "999"} {
		if got := link.String(); got != want {
			t.Errorf("%d is %q, want %q", link, got, want)
		}
	}
}
