package packet

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket/layers"
)

func scan(link LinkType, data []byte, wire int) Brief {
	b := Brief{Mark: 1, Tunnels: 3, VLANCount: 2, SLLType: 9} // what was there is gone afterwards
	Scan(link, data, wire, &b)
	return b
}

// disagreement says in which field Scan and DecodeInner differ about a frame;
// it is empty when they agree.
func disagreement(link LinkType, data []byte, wire int) string {
	b := scan(link, data, wire)
	h, err := DecodeInner(link, data, wire)
	if b.Kind == 0 {
		return "no kind"
	}
	bad := b.Kind == BriefBad
	switch {
	case err != nil && h.Version == 0 && b.Kind == BriefARP: // a layer that panics
		return ""
	case err == nil && bad && h.Version == 0: // a VLAN tag is missing, or there are too many
		f := frame{etherType: h.EtherType}
		if f.isTagged() && h.HeaderCut || len(h.VLANs) > maxTags {
			return ""
		}
		return "bad, but decoded"
	case (err != nil) != bad:
		return "error or not"
	case bad:
		return ""
	}
	type fields struct {
		Key                     Key
		Version, TTL            uint8
		IPID                    uint32
		Offset                  int
		More, Fragment          bool
		Checksum                uint16
		Seq, Ack                uint32
		Flags                   TCPFlags
		ICMPSeq                 uint16
		ICMPCode                uint8
		EtherSrc, EtherDst      HardwareAddr
		VLANs                   [MaxVLANs]uint16
		VLANCount, TunnelCount  int
		Tunnels                 [MaxLayers]Layer
		Quoted                  Key
		QuotedTTL               uint8
		Body                    uint32
		BodyLength              int
		ARP, Distinctive, IsCut bool
		DataLength              int
	}
	got := fields{
		Key: b.Key, Version: b.Version, TTL: b.TTL, IPID: b.IPID, Offset: int(b.FragmentOffset), More: b.MoreFragments,
		Fragment: b.IsFragment, Checksum: b.Checksum, Seq: b.Seq, Ack: b.Ack, Flags: b.Flags, ICMPSeq: b.ICMPSeq,
		ICMPCode: b.ICMPCode, EtherSrc: b.EtherSrc, EtherDst: b.EtherDst, VLANs: b.VLANs, Tunnels: b.Layers,
		VLANCount: int(b.VLANCount), TunnelCount: int(b.Tunnels),
		Quoted: b.Quoted, QuotedTTL: b.QuotedTTL, Body: b.Body, BodyLength: int(b.BodyLength), ARP: b.Kind == BriefARP,
		Distinctive: b.Distinctive, IsCut: b.Kind == BriefCut, DataLength: int(b.DataLength),
	}
	want := fields{
		Key: h.Tuple.Key(), Version: h.Version, TTL: h.TTL, IPID: h.IPID, Offset: h.FragmentOffset, More: h.MoreFragments,
		Fragment: h.IsFragment(), Checksum: h.Checksum, Seq: h.Seq, Ack: h.Ack, Flags: h.Flags, ICMPSeq: h.ICMPSeq,
		ICMPCode: h.Tuple.ICMPCode, EtherSrc: h.EtherSrc, EtherDst: h.EtherDst,
		VLANCount: min(len(h.VLANs), MaxVLANs), TunnelCount: len(h.Tunnels), BodyLength: len(h.Payload), ARP: h.EtherType == EtherTypeARP,
		Distinctive: isDistinctive(h.Payload), IsCut: h.HeaderCut, DataLength: h.DataLength,
	}
	copy(want.VLANs[:], h.VLANs)
	copy(want.Tunnels[:], h.Tunnels)
	if len(h.Payload) > 0 {
		want.Body = bodyOf(h.Payload)
	}
	if q := h.Quoted; q != nil {
		want.Quoted, want.QuotedTTL = q.Tuple.Key(), q.TTL
		want.Distinctive = isDistinctive(q.Payload)
		if q.Tuple.Proto == TCP && q.FragmentOffset == 0 {
			// Of a 0 a quote does not tell whether it was in the packet.
			want.Distinctive = q.Seq != 0 || got.Distinctive
		}
	} else if h.Tuple.Proto == TCP && h.FragmentOffset == 0 {
		want.Distinctive = b.Kind == BriefIP
		want.IsCut = h.HeaderCut && len(h.Payload) == 0 && got.IsCut // not when only options are missing
	}
	if h.EtherType == EtherTypeARP {
		want.IsCut = false // all that is known of ARP is that it is
	}
	if got.IsCut {
		want.DataLength = 0
	}
	if got != want {
		return "(-decoded +scanned)\n" + cmp.Diff(want, got)
	}
	header := int(b.Length) - h.PayloadLength
	switch {
	case b.Version == 4 && b.Length != 0 && (header < ipv4Header && b.Length < 60 || header > 60),
		b.Version == 6 && b.Length != 0 && (header < ipv6Header || header%8 != 0):
		return "length"
	}
	return ""
}

func TestScanAgrees(t *testing.T) {
	for name, frame := range frames(t) {
		for n := range len(frame) + 1 {
			if d := disagreement(LinkEthernet, frame[:n], len(frame)); d != "" {
				t.Errorf("%s cut to %d bytes: %s", name, n, d)
			}
			if n < etherHeader {
				continue
			}
			if d := disagreement(LinkRaw, frame[etherHeader:n], len(frame)-etherHeader); d != "" {
				t.Errorf("%s cut to %d bytes, raw: %s", name, n, d)
			}
		}
	}
}

// TestScanCut cuts every frame at every length: what a Brief says is then
// right, or zero.
func TestScanCut(t *testing.T) {
	all := frames(t)
	for name, tt := range tunnels(t) {
		all[name] = tt.frame
	}
	for name, frame := range all {
		whole := scan(LinkEthernet, frame, len(frame))
		// As long as the packet in the tunnel was not reached it is the outer one.
		h, err := Decode(LinkEthernet, frame, len(frame))
		if err != nil {
			t.Fatal(name, err)
		}
		outer := h.Tuple.Key()
		for n := range len(frame) {
			got := scan(LinkEthernet, frame[:n], len(frame))
			want := whole
			if got.Tunnels < whole.Tunnels {
				if got.Tunnels == 0 && !isPart(got.Key, outer) {
					t.Errorf("%s cut to %d bytes: %+v is no part of %+v", name, n, got.Key, outer)
				}
				continue
			}
			if !isPart(got.Key, whole.Key) || !isPart(got.Quoted, whole.Quoted) {
				t.Errorf("%s cut to %d bytes: %+v, quoted %+v", name, n, got.Key, got.Quoted)
			}
			if got.BodyLength > whole.BodyLength || got.BodyLength == whole.BodyLength && got.Body != whole.Body {
				t.Errorf("%s cut to %d bytes: body of %d bytes %#x", name, n, got.BodyLength, got.Body)
			}
			// Compared above; Mark in TestMarkCut.
			got.Key, got.Quoted, got.Body, got.BodyLength, got.Mark = want.Key, want.Quoted, want.Body, want.BodyLength, want.Mark
			got.Kind = want.Kind
			if slices.Equal(got.VLANs[:got.VLANCount], want.VLANs[:got.VLANCount]) {
				got.VLANs, got.VLANCount = want.VLANs, want.VLANCount
			}
			if !isPart(got, whole) {
				t.Errorf("%s cut to %d bytes (-whole +cut)\n%s", name, n, cmp.Diff(whole, got))
			}
		}
	}
}

// isPart reports whether each field of a is zero or that of b.
func isPart[T any](a, b T) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if f := x.Field(i); !f.IsZero() && !f.Equal(y.Field(i)) {
			return false
		}
	}
	return true
}

// TestScanOffload takes lengths from the wire where the header has none.
func TestScanOffload(t *testing.T) {
	all := frames(t)
	for name, header := range map[string]int{"gso": 20, "big tcp": 40} {
		const wire = 80000
		b := scan(LinkEthernet, all[name], wire)
		if b.Length != wire-14 || int(b.DataLength) != wire-14-header-36 || b.Kind != BriefIP {
			t.Errorf("%s: %+v", name, b)
		}
	}
}

// TestScanTags keeps as many tags as there is room for and reads on.
func TestScanTags(t *testing.T) {
	frame := frames(t)["tcp"]
	for n := range 20 {
		tagged := slices.Clone(frame[:12])
		for i := range n {
			tagged = append(tagged, 0x81, 0, 0xe0, byte(i+1)) // priority 7
		}
		tagged = append(tagged, frame[12:]...)
		b := scan(LinkEthernet, tagged, len(tagged))
		if n > maxTags {
			if b.Kind != BriefBad {
				t.Errorf("%d tags: %+v", n, b)
			}
			continue
		}
		want := [MaxVLANs]uint16{1, 2, 3, 4}
		clear(want[min(n, MaxVLANs):])
		if b.VLANs != want || int(b.VLANCount) != min(n, MaxVLANs) || b.Key.DstPort != 443 {
			t.Errorf("%d tags: %+v", n, b)
		}
	}
}

func TestScanAllocates(t *testing.T) {
	all := frames(t)
	for name, tt := range tunnels(t) {
		all[name] = tt.frame
	}
	var b Brief
	for name, frame := range all {
		if n := testing.AllocsPerRun(10, func() { Scan(LinkEthernet, frame, len(frame), &b) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	nflog := []byte{2, 0, 0, 5, 0, 8, 0, 9, 0x45, 0, 0, 0}
	if n := testing.AllocsPerRun(10, func() { Scan(LinkNFLOG, nflog, len(nflog), &b) }); n != 0 {
		t.Errorf("NFLOG: %v allocations", n)
	}
}

// FuzzScan holds Scan against DecodeInner on every link type.
func FuzzScan(f *testing.F) {
	for _, frame := range frames(f) {
		f.Add(uint16(LinkEthernet), frame, len(frame))
		f.Add(uint16(LinkRaw), frame[etherHeader:], len(frame)-etherHeader)
		f.Add(uint16(LinkNull), append([]byte{2, 0, 0, 0}, frame[etherHeader:]...), len(frame))
	}
	for _, tt := range tunnels(f) {
		f.Add(uint16(LinkEthernet), tt.frame, len(tt.frame))
	}
	f.Fuzz(func(t *testing.T, link uint16, data []byte, wire int) {
		wire = int(uint32(wire)) // what a file can hold
		if d := disagreement(LinkType(link), data, wire); d != "" {
			t.Error(d)
		}
		var b Brief
		if n := testing.AllocsPerRun(3, func() { Scan(LinkType(link), data, wire, &b) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		if b != scan(LinkType(link), data, wire) {
			t.Error("two results for one frame")
		}
		if int(b.Tunnels) > MaxLayers || int(b.VLANCount) > MaxVLANs || int(b.BodyLength) > min(PayloadBytes, len(data)) {
			t.Errorf("%+v", b)
		}
		if (b.Mark != 0) != (b.Kind == BriefIP) {
			t.Errorf("kind %d, mark %#x", b.Kind, b.Mark)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for _, bench := range []struct {
		name  string
		frame []byte
	}{
		{"tcp4", serialize(b, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), tcpSYN())},
		{"tcp4 data", serialize(b, ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), tcpSYN(), payload())},
		{"udp6", serialize(b, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolUDP), &layers.UDP{SrcPort: 5353, DstPort: 53}, payload())},
		{"vxlan", tunnels(b)["vxlan"].frame},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			var brief Brief
			for b.Loop() {
				Scan(LinkEthernet, bench.frame, len(bench.frame), &brief)
			}
			if brief.Kind != BriefIP {
				b.Fatalf("kind %d", brief.Kind)
			}
		})
	}
}
