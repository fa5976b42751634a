package packet

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestMarkVectors keeps the hashes as they are: captures of different machines
// and versions are joined by them.
func TestMarkVectors(t *testing.T) {
	letters := []byte("abcdefghijklmnopqrstuvwxyz")
	for n, want := range map[int]uint64{
		0:  0x118f054f20bd6419,
		1:  0x57d4de3f8a5bb5ce,
		3:  0x103927e1bb3cfbe0,
		4:  0xd775f4a5517efc0e,
		7:  0xac135dbae4f6ff75,
		8:  0xfdde90ae98bd993a,
		15: 0x8632e7539099112b,
		16: 0xa5ff357655a47d13,
	} {
		if got := markOf(1, 2, letters[:n]); got != want {
			t.Errorf("mark of %d bytes is %#x, want %#x", n, got, want)
		}
	}
	for n, want := range map[int]uint32{
		0:  0x35a2b8b1,
		1:  0xcc3d250f,
		15: 0xe50fe919,
		16: 0xfe520875,
		17: 0xe8cfdcd7,
		26: 0xc43d2452,
	} {
		if got := bodyOf(letters[:n]); got != want {
			t.Errorf("body of %d bytes is %#x, want %#x", n, got, want)
		}
	}
	want := map[string]uint64{
		"big tcp":              0x1d74d793a122c032,
		"echo":                 0x8ec0fa39fcd5973f,
		"echo6":                0xc954f9873da64ed1,
		"esp":                  0xa2ef75b03223a70d,
		"extensions":           0xe89dd2141e723067,
		"fragment 1":           0xe7c86f07a545c61b,
		"fragment 2":           0x6f9baea3e2076ecc,
		"fragment 2/6":         0xe3b6311ce513c592,
		"fragmentation needed": 0x9cec43ad349d9cb7,
		"gso":                  0x52531d6a4f6c7d4f,
		"hop-by-hop":           0xe89dd2141e723067,
		"qinq":                 0xee9386abd2e5118d,
		"sctp":                 0x15d6f1a4dc8b3ffc,
		"solicitation":         0x57eb6c2b048f43ef,
		"tcp":                  0xee9386abd2e5118d,
		"too big":              0x71c12a79a81bd352,
		"udp options":          0xe7c86f07a545c61b,
	}
	for name, frame := range frames(t) {
		if got := scan(LinkEthernet, frame, len(frame)); got.Mark != want[name] {
			t.Errorf("%s: mark %#x, want %#x", name, got.Mark, want[name])
		}
	}
}

// TestMarkLengths tells payloads of different lengths apart that are the same
// as far as they go.
func TestMarkLengths(t *testing.T) {
	marks, bodies := map[uint64]int{}, map[uint32]int{}
	for n := range PayloadBytes + 1 {
		p := make([]byte, n)
		if n <= MarkPayload {
			if other, ok := marks[markOf(0, 0, p)]; ok {
				t.Errorf("marks of %d and %d bytes are the same", other, n)
			}
			marks[markOf(0, 0, p)] = n
		}
		if other, ok := bodies[bodyOf(p)]; ok {
			t.Errorf("bodies of %d and %d bytes are the same", other, n)
		}
		bodies[bodyOf(p)] = n
	}
}

// at is a range of bytes of a frame.
type at struct{ from, to int }

// TestMarkCovers flips every bit of what NAT, routers and offloads change,
// which must leave the Mark, and of what the Mark covers, which must not.
func TestMarkCovers(t *testing.T) {
	const ip, ip4, ip6 = 14, 14 + 20, 14 + 40 // where headers begin and end
	// MAC, TOS, TTL, checksum and addresses; class and flow label, hop limit and
	// addresses.
	free4 := []at{{0, 12}, {ip + 1, ip + 2}, {ip + 8, ip + 9}, {ip + 10, ip4}}
	free6 := []at{{0, 12}, {ip + 2, ip + 4}, {ip + 7, ip6}}
	id := at{ip + 4, ip + 6}
	all := frames(t)
	udp := &layers.UDP{SrcPort: 5353, DstPort: 53}
	all["udp"] = serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolUDP), udp, payload())
	all["udp6"] = serialize(t, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolUDP), udp, payload())
	quote := serialize(t, ipv4(layers.IPProtocolUDP), udp, payload())
	all["unreachable"] = serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote))

	const quoted4 = ip4 + icmpHeader // where a quoted IP header begins
	freeQuote := []at{{quoted4 + 1, quoted4 + 2}, {quoted4 + 8, quoted4 + 9}, {quoted4 + 10, quoted4 + 24}}
	quotedID := at{quoted4 + 4, quoted4 + 6}
	tests := map[string]struct{ free, covered []at }{
		"tcp": {
			append(free4, id, at{ip4, ip4 + 4}, at{ip4 + 14, ip4 + 36}), // ports; window, checksum, urgent pointer, options
			[]at{{ip4 + 4, ip4 + 12}},
		},
		"gso":        {append(free4, id, at{ip4 + 36, ip4 + 136}), []at{{ip4 + 4, ip4 + 12}}},
		"udp":        {append(free4, at{ip4, ip4 + 4}, at{ip4 + 6, ip4 + 8}, at{ip4 + 24, ip4 + 108}), []at{id, {ip4 + 4, ip4 + 6}, {ip4 + 8, ip4 + 24}}},
		"udp6":       {append(free6, at{ip6, ip6 + 4}, at{ip6 + 6, ip6 + 8}, at{ip6 + 24, ip6 + 108}), []at{{ip6 + 4, ip6 + 6}, {ip6 + 8, ip6 + 24}}},
		"echo":       {append(free4, at{ip4 + 2, ip4 + 6}, at{ip4 + 24, ip4 + 108}), []at{id, {ip4, ip4 + 2}, {ip4 + 6, ip4 + 24}}},
		"echo6":      {append(free6, at{ip6 + 2, ip6 + 6}, at{ip6 + 24, ip6 + 108}), []at{{ip6, ip6 + 2}, {ip6 + 6, ip6 + 24}}},
		"sctp":       {append(free4, at{ip4, ip4 + 12}, at{ip4 + 28, ip4 + 112}), []at{id, {ip4 + 12, ip4 + 28}}},
		"esp":        {append(free4, at{ip4 + 16, ip4 + 100}), []at{id, {ip4, ip4 + 16}}},
		"fragment 2": {append(free4, at{ip4 + 16, ip4 + 100}), []at{id, {ip4, ip4 + 16}}},
		// Of IPv6 the id is not covered: a host that put the packet together in
		// between cut it anew.
		"fragment 2/6": {append(free6, at{ip6 + 4, ip6 + 8}, at{ip6 + 24, ip6 + 108}), []at{{ip6 + 8, ip6 + 24}}},
		"fragmentation needed": { // quotes 8 bytes of TCP
			slices.Concat(free4, freeQuote, []at{id, {ip4 + 2, ip4 + 4}}),
			[]at{{ip4 + 1, ip4 + 2}, quotedID, {quoted4 + 24, quoted4 + 28}},
		},
		"unreachable": {
			slices.Concat(free4, freeQuote, []at{id, {quoted4 + 26, quoted4 + 28}, {quoted4 + 44, quoted4 + 128}}),
			[]at{quotedID, {quoted4 + 24, quoted4 + 26}, {quoted4 + 28, quoted4 + 44}},
		},
	}
	for name, tt := range tests {
		frame := all[name]
		mark := scan(LinkEthernet, frame, len(frame)).Mark
		if mark == 0 {
			t.Errorf("%s has no mark", name)
		}
		flip := func(ranges []at, same bool) {
			for _, r := range ranges {
				for bit := r.from * 8; bit < r.to*8; bit++ {
					frame[bit/8] ^= 1 << (bit % 8)
					if got := scan(LinkEthernet, frame, len(frame)).Mark; (got == mark) != same {
						t.Errorf("%s: bit %d of byte %d: the mark is the same: %v, want %v", name, bit%8, bit/8, !same, same)
					}
					frame[bit/8] ^= 1 << (bit % 8)
				}
			}
		}
		flip(tt.free, true)
		flip(tt.covered, false)
	}
}

// TestMarkRewritten rewrites all that NAT and routers change at once, at
// random, as often as there is time for.
func TestMarkRewritten(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 6))
	for range 2000 {
		segment, datagram := tcpSYN(), &layers.UDP{SrcPort: 5353, DstPort: 53}
		segment.Seq, segment.Ack, segment.ACK = random.Uint32(), random.Uint32(), true
		content := make([]byte, random.IntN(40))
		for i := range content {
			content[i] = byte(random.Uint32())
		}
		network := ipv4(layers.IPProtocolTCP)
		network.Id = uint16(random.Uint32())
		build := func(proto layers.IPProtocol, transport gopacket.SerializableLayer) Brief {
			network.Protocol = proto
			f := serialize(t, ethernet(layers.EthernetTypeIPv4), network, transport, gopacket.Payload(content))
			return scan(LinkEthernet, f, len(f))
		}
		before, beforeUDP := build(layers.IPProtocolTCP, segment), build(layers.IPProtocolUDP, datagram)
		network.TTL, network.TOS = byte(random.Uint32()), byte(random.Uint32())
		network.SrcIP = []byte{10, byte(random.Uint32()), byte(random.Uint32()), 1}
		network.DstIP = []byte{172, 16, byte(random.Uint32()), byte(random.Uint32())}
		segment.SrcPort, segment.DstPort = layers.TCPPort(random.Uint32()), layers.TCPPort(random.Uint32())
		datagram.SrcPort, datagram.DstPort = layers.UDPPort(random.Uint32()), layers.UDPPort(random.Uint32N(4000))
		segment.Options, segment.Padding = segment.Options[:random.IntN(3)], nil // stripped
		segment.Window, segment.PSH = uint16(random.Uint32()), len(content) > 0
		after, afterUDP := build(layers.IPProtocolTCP, segment), build(layers.IPProtocolUDP, datagram)
		if before.Mark != after.Mark || beforeUDP.Mark != afterUDP.Mark || before.Body != after.Body {
			t.Fatalf("marks %#x, %#x became %#x, %#x", before.Mark, beforeUDP.Mark, after.Mark, afterUDP.Mark)
		}
		if before.Key == after.Key || beforeUDP.Key == afterUDP.Key {
			t.Fatal("nothing was rewritten")
		}
		segment.Seq++
		if build(layers.IPProtocolTCP, segment).Mark == before.Mark {
			t.Fatal("another sequence number, the same mark")
		}
	}
}

// TestMarkSegmented marks what segmentation offload took for one packet like
// its first segment, and a fragmented datagram like its first fragment.
func TestMarkSegmented(t *testing.T) {
	big, first := tcpSYN(), tcpSYN()
	for _, s := range []*layers.TCP{big, first} {
		s.SYN, s.ACK = false, true
	}
	big.PSH, big.FIN = true, true
	whole := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), big, payload())
	part := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), first, payload()[:50])
	bare := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), first)
	mark := func(f []byte) uint64 { return scan(LinkEthernet, f, len(f)).Mark }
	if mark(whole) != mark(part) {
		t.Error("the first segment has another mark than all of them")
	}
	if mark(bare) == mark(part) {
		t.Error("a bare acknowledgement has the mark of the data behind it")
	}
	datagram := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload())
	fragment := bytes.Clone(datagram[:14+20+8+40])
	fragment[14+3] = 20 + 8 + 40
	fragment[14+6] = 0x20
	if mark(datagram) != mark(fragment) {
		t.Error("the first fragment has another mark than the datagram")
	}
}

// TestMarkCut agrees between captures that cut the payload at different
// lengths.
func TestMarkCut(t *testing.T) {
	frame := frames(t)["echo"]
	const payload = 14 + 20 + 8
	at := func(n int) Brief { return scan(LinkEthernet, frame[:n], len(frame)) }
	if a, b := at(payload), at(payload+15); a.Mark != b.Mark || a.Mark == 0 || b.BodyLength != 15 || b.DataLength != 100 {
		t.Errorf("%+v\n%+v", a, b)
	}
	if at(payload+15).Mark == at(payload+16).Mark || at(payload+16).Mark != at(len(frame)).Mark {
		t.Error("16 bytes of payload are what counts")
	}
}
