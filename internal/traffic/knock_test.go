package traffic

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TestKnock drops what others send to the source behind the translation of its
// destination: it is a flow that was not let in, whatever order the sensors deliver
// in, with what was seen of it before.
func TestKnock(t *testing.T) {
	for seed := range uint64(20) {
		b := newBed(Config{Older: true})
		before, after := tcp(other, host, 5000, 8080), tcp(other, own, 5000, 80)
		syn := segment(before, packet.SYN, 100, 0, 0)
		translated, cut := syn, packet.Header{Version: 4, Tuple: after, HeaderCut: true}
		translated.Tuple, translated.HeaderCut = after, true // as nft's traces are
		b.see("host", "up", capture.Ingress, syn)
		b.meet("host", ruletrace.Forward, translated).Verdict = ruletrace.Drop
		b.later = append(b.later, delivery{"drops", func() {
			b.Drop(skbdrop.Drop{NetNS: "host", Header: cut, Reason: "NETFILTER_DROP", Function: "nft_do_chain"}, time.Time{})
		}})
		b.meet("host", ruletrace.Forward, segment(tcp(far, own, 5001, 80), packet.SYN, 200, 0, 0)).Verdict = ruletrace.Accept
		b.shuffle(seed)
		if len(b.Flows()) > 0 {
			t.Fatalf("seed %d: it counts at once", seed)
		}
		b.Admit(start.Add(time.Second))
		if len(b.Flows()) != 1 {
			t.Fatalf("seed %d: %d flows, want 1", seed, len(b.Flows()))
		}
		f := b.Flows()[0]
		want := []string{"host/up ingress " + before.String(), "0 events, 1 hits, 1 drops"}
		if diff := cmp.Diff(want, seen(f)); diff != "" {
			t.Errorf("seed %d (-want +got):\n%s", seed, diff)
		}
		if p := f.Probes("cnt")[0]; !f.Inbound || p.NetNS != "host" || !p.Outside || p.Tuple != before {
			t.Errorf("seed %d: inbound %v, followed from %+v", seed, f.Inbound, p)
		}
	}
}

// TestKnocksAlike drops datagrams that are all alike: each has its own way in.
func TestKnocksAlike(t *testing.T) {
	b := newBed(Config{Older: true})
	for port := range uint16(3) {
		before := datagram(packet.Tuple{Proto: packet.UDP, Src: other, SrcPort: 5000 + port, Dst: host, DstPort: 5353}, "the same question")
		before.IPID = 100 + uint32(port)
		after := before
		after.Tuple.Dst, after.Tuple.DstPort = own, 53
		b.see("host", "up", capture.Ingress, before)
		hit := b.meet("host", ruletrace.Forward, after)
		hit.Verdict, hit.ConntrackID = ruletrace.Drop, uint32(port)+1
	}
	b.flush()
	b.Admit(start.Add(time.Second))
	if len(b.Flows()) != 3 {
		t.Fatalf("%d flows", len(b.Flows()))
	}
	for i, f := range b.Flows() {
		want := []string{fmt.Sprintf("host/up ingress %s:%d → %s:5353", other, 5000+i, host), "0 events, 1 hits, 0 drops"}
		if diff := cmp.Diff(want, seen(f)); diff != "" {
			t.Errorf("flow %d (-want +got):\n%s", i+1, diff)
		}
	}
}

// TestAnswerOpensNothing is told of the source's answer to a connection before the
// connection's own first packet, and again after the flow was given up.
func TestAnswerOpensNothing(t *testing.T) {
	b := newBed(Config{Older: true})
	there := tcp(other, own, 5000, 80)
	syn, answer := segment(there, packet.SYN, 1, 0, 0), segment(there.Inverse(), packet.SYN|packet.ACK, 9, 2, 0)
	b.meet("cnt", ruletrace.Output, answer).Verdict = ruletrace.Drop
	b.see("cnt", "eth0", capture.Ingress, syn)
	b.flush()
	if len(b.Flows()) != 1 || !b.Flows()[0].Inbound || b.Flows()[0].Existing || len(b.Flows()[0].Evidence().Hits) != 1 {
		t.Fatalf("flows %+v", b.Flows())
	}
	b.Forget(b.Flows()[0])
	b.see("cnt", "eth0", capture.Egress, answer)
	b.flush()
	if len(b.Flows()) != 0 {
		t.Errorf("an answer that is sent again is a flow: %+v", b.Flows()[0])
	}
}

// TestKnockUnseen knows of such a packet from the kernel's drop alone.
func TestKnockUnseen(t *testing.T) {
	b := newBed(Config{Older: true})
	b.Drop(skbdrop.Drop{NetNS: "host", Header: packet.Header{Version: 4, Tuple: tcp(other, own, 5000, 80), Flags: packet.SYN, HeaderCut: true}}, start)
	if early := b.Knocked(start.Add(lag / 2)); !early.IsZero() {
		t.Errorf("it counts until %s, when sensors may still tell more", early)
	}
	until := b.Knocked(start.Add(2 * lag))
	b.Admit(until)
	if until.IsZero() || len(b.Flows()) != 1 || b.Flows()[0].Probes("cnt")[0].NetNS != "host" {
		t.Errorf("flows %+v", b.Flows())
	}
}

// TestNoKnock keeps what is no flow of others from counting as one.
func TestNoKnock(t *testing.T) {
	query := packet.Tuple{Proto: packet.UDP, Src: own, SrcPort: 4000, Dst: far, DstPort: 53}
	dropped := func(b *bed, netns string, h packet.Header) *ruletrace.Hit {
		hit := b.meet(netns, ruletrace.Forward, h)
		hit.Verdict, hit.ConntrackID = ruletrace.Drop, 7
		return hit
	}
	b := newBed(Config{Older: true})
	dropped(b, "host", datagram(query.Inverse(), "a question itself"))
	b.flush()
	if b.Admit(start.Add(time.Second)); len(b.Flows()) != 1 {
		t.Error("a datagram that conntrack takes for a new flow counts as none")
	}
	for name, tt := range map[string]struct {
		cfg  Config
		do   func(*bed)
		want int
	}{
		"flows of the source alone": {Config{}, func(b *bed) { dropped(b, "host", segment(tcp(other, own, 1, 80), packet.SYN, 1, 0, 0)) }, 0},
		"an answer that is told of first": {Config{Older: true}, func(b *bed) {
			dropped(b, "host", datagram(query.Inverse(), "an answer to it"))
			b.see("cnt", "eth0", capture.Egress, datagram(query, "a question"))
		}, 1},
		"the answer to an older flow": {Config{Older: true}, func(b *bed) {
			dropped(b, "host", datagram(query.Inverse(), "an answer to it")).Reply = true
		}, 0},
		"what conntrack knows nothing of": {Config{Older: true}, func(b *bed) {
			dropped(b, "host", datagram(query.Inverse(), "an answer, or not")).ConntrackID = 0
		}, 0},
		"to its own loopback address": {Config{Older: true}, func(b *bed) {
			dropped(b, "host", segment(tcp(host, netip.MustParseAddr("127.0.0.1"), 1, 80), packet.SYN, 1, 0, 0))
		}, 0},
		"to another machine with the address": {Config{Older: true, Leads: func(netns string, a netip.Addr) bool { return netns != "host" || a != own }}, func(b *bed) {
			dropped(b, "host", segment(tcp(other, own, 1, 80), packet.SYN, 1, 0, 0))
		}, 0},
		"the answer to a connection": {Config{Older: true}, func(b *bed) {
			dropped(b, "host", segment(tcp(other, own, 443, 4000), packet.SYN|packet.ACK, 1, 2, 0))
		}, 0},
		"what others sent to others": {Config{Older: true}, func(b *bed) { dropped(b, "host", segment(tcp(other, far, 1, 80), packet.SYN, 1, 0, 0)) }, 0},
		"not what was asked for": {Config{Older: true, Wanted: func(t packet.Tuple) bool { return t.DstPort == 443 }}, func(b *bed) {
			dropped(b, "host", segment(tcp(other, own, 1, 80), packet.SYN, 1, 0, 0))
		}, 0},
		"a flow of the source to itself by the host": {Config{Older: true}, func(b *bed) {
			there := tcp(own, host, 4000, 8080)
			b.see("cnt", "eth0", capture.Egress, segment(there, packet.SYN, 7, 0, 0))
			b.hear(nat.New, there, tcp(own, own, 80, 4000))
			dropped(b, "host", segment(tcp(own, own, 4000, 80), packet.SYN, 7, 0, 0))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(tt.cfg)
			tt.do(b)
			b.flush()
			b.Admit(start.Add(time.Second))
			inbound := 0
			for _, f := range b.Flows() {
				inbound += boolInt(f.Inbound)
			}
			if len(b.Flows()) != tt.want || inbound > 0 {
				t.Errorf("%d flows, %d of them inbound, want %d and none", len(b.Flows()), inbound, tt.want)
			}
		})
	}
}
