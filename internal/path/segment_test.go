package path_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// isn is the number of the connection's first byte: its data passes 0.
var isn = uint32(0xffffff00)

// tcp is a packet of a connection: of the server when the flow is answered.
func tcp(answer bool, flags packet.TCPFlags, seq, ack uint32, data int) packet.Header {
	t := packet.Tuple{
		Proto: packet.TCP, Src: netip.MustParseAddr(containerAddr), Dst: netip.MustParseAddr(targetAddr), SrcPort: 40000, DstPort: 9,
	}
	if answer {
		t = t.Inverse()
	}
	return packet.Header{Version: 6, Tuple: t, TTL: 64, PayloadLength: 32 + data, DataLength: data, Flags: flags, Seq: seq, Ack: ack}
}

// connected is a bed with the handshake at the source and a full-size segment
// that went as far as the bridge.
func connected() *bed {
	b := newBed()
	b.in.Probe = path.Probe{NetNS: "cnt01", Tuple: tcp(false, 0, 0, 0, 0).Tuple, Segment: &path.Segment{Seq: isn + 1, Length: 1428}}
	b.see("cnt01/eth0", capture.Egress, tcp(false, packet.SYN, isn, 0, 0))
	b.see("cnt01/eth0", capture.Ingress, tcp(true, packet.SYN|packet.ACK, 7, isn+1, 0))
	b.send(1428)
	return b
}

// send sends the first bytes of data as far as the bridge.
func (b *bed) send(length int) {
	h := tcp(false, packet.ACK|packet.PSH, isn+1, 8, length)
	b.see("cnt01/eth0", capture.Egress, h)
	b.see("host/veth0", capture.Ingress, h, bridgeMAC)
}

// small sends the segment behind the first one from the source.
func (b *bed) small() {
	b.see("cnt01/eth0", capture.Egress, tcp(false, packet.ACK|packet.PSH, isn+1429, 8, 16))
}

// acknowledge brings an acknowledgement to the source.
func (b *bed) acknowledge(ack uint32, flags packet.TCPFlags) {
	b.see("cnt01/eth0", capture.Ingress, tcp(true, flags, 8, ack, 0))
}

// What the packets of a connection are to one of its segments.
func TestSegment(t *testing.T) {
	type seen struct {
		Answer        path.AnswerKind
		Times, Passed int
	}
	for name, tt := range map[string]struct {
		build func(*bed)
		want  seen
	}{
		"alone":                       {func(*bed) {}, seen{Times: 1}},
		"repeated":                    {func(b *bed) { b.small(); b.send(1428); b.send(1428) }, seen{Times: 3}},
		"acknowledged":                {func(b *bed) { b.acknowledge(isn+1429, packet.ACK) }, seen{Answer: path.Reply, Times: 1}},
		"with more":                   {func(b *bed) { b.small(); b.acknowledge(isn+1445, packet.ACK) }, seen{Answer: path.Reply, Times: 1}},
		"in part":                     {func(b *bed) { b.send(1300); b.acknowledge(isn+1301, packet.ACK) }, seen{Times: 1}},
		"reset":                       {func(b *bed) { b.acknowledge(0, packet.RST) }, seen{Answer: path.Reset, Times: 1}},
		"what follows arrived":        {func(b *bed) { b.small(); b.acknowledge(isn+1, packet.ACK) }, seen{Times: 1, Passed: 40 + 32 + 16}},
		"said before anything follow": {func(b *bed) { b.acknowledge(isn+1, packet.ACK); b.small() }, seen{Times: 1}},
		"said to the end of it": {
			func(b *bed) {
				b.small()
				b.see("cnt01/eth0", capture.Egress, tcp(false, packet.RST|packet.ACK, isn+1445, 8, 0))
				b.acknowledge(isn+1, packet.ACK)
			}, seen{Times: 1},
		},
		"what follows is as large": {
			func(b *bed) {
				b.see("cnt01/eth0", capture.Egress, tcp(false, packet.ACK, isn+1429, 8, 1428))
				b.acknowledge(isn+1, packet.ACK)
			}, seen{Times: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := connected()
			tt.build(b)
			p := path.Join(b.in)
			got := seen{p.Answer.Kind, p.Sending.Times, p.Sending.Passed}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if want := "TCP PSH,ACK with 1428 bytes"; p.Request.Packet != want {
				t.Errorf("followed %q, want %q", p.Request.Packet, want)
			}
		})
	}
}

// An ICMP error about a later packet is a step of the connection's way where the
// error was made, if the sender got it.
func TestLaterPacketTooBig(t *testing.T) {
	large := tcp(false, packet.ACK, isn+1, 8, 1428)
	tooBig := packet.Header{
		Version: 6, TTL: 64, PayloadLength: 1240, MTU: 1400, Quoted: &large,
		Tuple: packet.Tuple{Proto: packet.ICMPv6, Src: netip.MustParseAddr(hostAddr), Dst: netip.MustParseAddr(containerAddr), ICMPType: 2},
	}
	const want = "  route: a later packet of 1500 bytes was larger than the MTU of the way on (1400); an ICMP error told the sender so [observed]"
	for name, arrives := range map[string]bool{"told": true, "not told": false} {
		t.Run(name, func(t *testing.T) {
			b := newBed()
			b.in.Probe = path.Probe{NetNS: "cnt01", Tuple: large.Tuple}
			syn := tcp(false, packet.SYN, isn, 0, 0)
			b.see("cnt01/eth0", capture.Egress, syn)
			b.see("host/veth0", capture.Ingress, syn, bridgeMAC)
			b.see("host/br0", capture.Ingress, syn, bridgeMAC)
			b.see("host/ens192", capture.Egress, syn)
			b.see("gateway/zTrust", capture.Ingress, syn)
			b.see("host/br0", capture.Egress, tooBig)
			b.see("host/veth0", capture.Egress, tooBig)
			if arrives {
				b.see("cnt01/eth0", capture.Ingress, tooBig)
			}
			lines := describe(path.Join(b.in).Request)
			got := ""
			for i, line := range lines {
				if line == want {
					got = lines[i-2] // the route stands between
				}
			}
			if place := "host/br0 ingress [" + containerAddr + "]:40000"; arrives && got != place || !arrives && got != "" {
				t.Errorf("the step stands below %q:\n%q", got, lines)
			}
		})
	}
}

// TestErrorsAboutRepetitions has the errors about a segment and its repetition
// dropped before they come to an interface, and only the second one's rule traced:
// that is the one that is told of.
func TestErrorsAboutRepetitions(t *testing.T) {
	b := newBed()
	sent := tcp(false, packet.ACK, isn+1, 8, 1428)
	sent.Version, sent.IPID = 4, 1
	sent.Tuple.Src, sent.Tuple.Dst = netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("198.51.100.7")
	b.in.Probe = path.Probe{NetNS: "cnt01", Tuple: sent.Tuple, Segment: &path.Segment{Seq: sent.Seq, Length: sent.DataLength}}
	for id := range uint32(2) {
		quoted := sent
		quoted.IPID += id
		b.see("cnt01/eth0", capture.Egress, quoted)
		tooBig := packet.Header{
			Version: 4, TTL: 64, PayloadLength: 556, IPID: 11 + id, MTU: 1400, Quoted: &quoted,
			Tuple: packet.Tuple{Proto: packet.ICMP, Src: netip.MustParseAddr("172.17.0.1"), Dst: sent.Tuple.Src, ICMPType: 3, ICMPCode: 4},
		}
		b.drop("host", "NETFILTER_DROP", "nft_do_chain", 0, tooBig.Tuple)
		b.in.Drops[id].Header = tooBig
		if id == 1 {
			b.hit("host", ruletrace.Output, 0, "filter", ruletrace.Drop, tooBig.Tuple, "icmp type destination-unreachable drop")
			h := tooBig
			h.Quoted = nil // a hit of nftables has too little of it
			b.in.Hits[0].Header = h
		}
	}
	p := path.Join(b.in)
	if end := &p.Reply.End; !p.Answer.TooBig || end.Kind != path.Dropped || end.NetNS != "host" || end.Rule == nil {
		t.Errorf("the answer is %+v and ended as %+v", p.Answer, *end)
	}
}

// TestErrorAboutLargerRepetition has the sender told of a smaller MTU, and the
// segment sent again by it vanish: what told of the first is no answer to that.
func TestErrorAboutLargerRepetition(t *testing.T) {
	b := newBed()
	large := tcp(false, packet.ACK, isn+1, 8, 1428)
	large.Version, large.IPID = 4, 1
	large.Tuple.Src, large.Tuple.Dst = netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("198.51.100.7")
	sent := large
	sent.IPID, sent.PayloadLength, sent.DataLength = 2, 1380, 1348
	b.in.Probe = path.Probe{NetNS: "cnt01", Tuple: sent.Tuple, Segment: &path.Segment{Seq: sent.Seq, Length: sent.DataLength}}
	b.see("cnt01/eth0", capture.Ingress, packet.Header{
		Version: 4, TTL: 64, PayloadLength: 556, IPID: 11, MTU: 1400, Quoted: &large,
		Tuple: packet.Tuple{Proto: packet.ICMP, Src: netip.MustParseAddr("172.17.0.1"), Dst: sent.Tuple.Src, ICMPType: 3, ICMPCode: 4},
	})
	b.see("cnt01/eth0", capture.Egress, sent)
	if p := path.Join(b.in); p.Answer.Kind != path.None {
		t.Errorf("the answer is %+v", p.Answer)
	}
}
