package traffic

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/attempt"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

var (
	own    = netip.MustParseAddr("172.17.0.2")
	host   = netip.MustParseAddr("203.0.113.1")
	far    = netip.MustParseAddr("198.51.100.7")
	other  = netip.MustParseAddr("198.51.100.8")
	public = netip.MustParseAddr("192.0.2.77")
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func tcp(src, dst netip.Addr, sport, dport uint16) packet.Tuple {
	return packet.Tuple{Proto: packet.TCP, Src: src, Dst: dst, SrcPort: sport, DstPort: dport}
}

// segment is a TCP packet; n makes its numbers.
func segment(t packet.Tuple, flags packet.TCPFlags, seq, ack uint32, length int) packet.Header {
	return packet.Header{
		Version: 4, EtherType: packet.EtherTypeIPv4, Tuple: t, TTL: 64, IPID: seq&0xffff | 1, Flags: flags, Seq: seq, Ack: ack,
		DataLength: length, PayloadLength: 20 + length,
	}
}

func datagram(t packet.Tuple, payload string) packet.Header {
	return packet.Header{
		Version: 4, EtherType: packet.EtherTypeIPv4, Tuple: t, TTL: 64, Payload: []byte(payload), DataLength: len(payload), PayloadLength: 8 + len(payload),
	}
}

// bed delivers to a table, a millisecond apart.
type bed struct {
	*Table
	clock time.Duration
	later []delivery
}

// delivery is what a sensor delivers when flush is called. One sensor keeps its
// order.
type delivery struct {
	sensor string
	do     func()
}

func newBed(cfg Config) *bed {
	cfg.NetNS, cfg.Own = "cnt", func(a netip.Addr) bool { return a == own || a.IsLoopback() }
	return &bed{Table: New(cfg)}
}

func (b *bed) at(netns, iface string, direction capture.Direction, h packet.Header) capture.Sighting {
	b.clock += time.Millisecond
	return capture.Sighting{Point: capture.Point{NetNS: netns, Interface: iface}, Direction: direction, Time: start.Add(b.clock), Length: 14 + 20 + h.PayloadLength, Header: h}
}

func (b *bed) see(netns, iface string, direction capture.Direction, h packet.Header) {
	s := b.at(netns, iface, direction, h)
	b.later = append(b.later, delivery{netns, func() { b.Sighting(s) }})
}

func (b *bed) hear(kind nat.EventKind, original, reply packet.Tuple) {
	e := nat.Event{Kind: kind, Flow: nat.Flow{NetNS: "host", ID: 7, Original: original, Reply: reply}}
	b.later = append(b.later, delivery{"conntrack", func() { b.Event(e, time.Time{}) }})
}

func (b *bed) meet(netns string, hook ruletrace.Hook, h packet.Header) *ruletrace.Hit {
	hit := &ruletrace.Hit{NetNS: netns, Hook: hook, Header: h, Egress: "eth0"}
	b.later = append(b.later, delivery{"trace", func() { b.Hit(hit, time.Time{}) }})
	return hit
}

func (b *bed) flush() {
	for _, d := range b.later {
		d.do()
	}
	b.later = nil
}

// shuffle delivers in a random order, but for that of each sensor.
func (b *bed) shuffle(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	left := b.later
	b.later = nil
	for len(left) > 0 {
		sensor := left[r.IntN(len(left))].sensor
		at := slices.IndexFunc(left, func(d delivery) bool { return d.sensor == sensor })
		left[at].do()
		left = slices.Delete(left, at, at+1)
	}
}

// seen is what a flow has: its sightings by place, and how many events, hits and
// drops.
func seen(f *Flow) []string {
	e := f.Evidence()
	var all []string
	for _, s := range e.Sightings {
		all = append(all, fmt.Sprintf("%s/%s %s %s", s.Point.NetNS, s.Point.Interface, s.Direction, s.Header.Tuple))
	}
	return append(all, fmt.Sprintf("%d events, %d hits, %d drops", len(e.Events), len(e.Hits), len(e.Drops)))
}

// TestMasquerade follows a connection behind a masquerade, and one that is
// translated without conntrack, with its data, while others do the same; whatever
// order the sensors deliver in.
func TestMasquerade(t *testing.T) {
	for seed := range uint64(50) {
		b := newBed(Config{})
		inside, outside := tcp(own, far, 4000, 443), tcp(host, far, 61000, 443)
		stranger := tcp(other, far, 4000, 443)
		syn, answer := segment(inside, packet.SYN, 100, 0, 0), segment(inside.Inverse(), packet.SYN|packet.ACK, 900, 101, 0)
		translated := func(h packet.Header, t packet.Tuple) packet.Header { h.Tuple = t; return h }
		b.see("cnt", "eth0", capture.Egress, syn)
		b.see("host", "veth", capture.Ingress, syn)
		b.meet("host", ruletrace.Postrouting, syn)
		b.hear(nat.New, inside, outside.Inverse())
		b.see("host", "up", capture.Egress, translated(syn, outside))
		// A router that keeps no state gives it another address.
		again := tcp(public, far, 61000, 443)
		b.see("gw", "wan", capture.Egress, translated(syn, again))
		b.meet("gw", ruletrace.Prerouting, translated(answer, again.Inverse()))
		b.see("gw", "wan", capture.Ingress, translated(answer, again.Inverse()))
		b.see("host", "up", capture.Ingress, translated(answer, outside.Inverse()))
		b.see("cnt", "eth0", capture.Ingress, answer)
		// Data behind what opens the connection.
		data := segment(inside, packet.ACK, 101, 901, 50)
		b.see("cnt", "eth0", capture.Egress, data)
		b.see("host", "up", capture.Egress, translated(data, outside))
		b.see("gw", "wan", capture.Egress, translated(data, again))
		// Somebody else's, with the same ports.
		b.see("host", "veth2", capture.Ingress, segment(stranger, packet.SYN, 5000, 0, 0))
		b.see("host", "up", capture.Egress, segment(tcp(host, far, 61001, 443), packet.SYN, 5000, 0, 0))
		b.see("host", "up", capture.Egress, segment(tcp(host, far, 61001, 443), packet.ACK, 5001, 1, 50))
		b.hear(nat.New, stranger, tcp(host, far, 61001, 443).Inverse())
		b.shuffle(seed)
		if len(b.Flows()) != 1 {
			t.Fatalf("seed %d: %d flows, want 1", seed, len(b.Flows()))
		}
		want := []string{
			"cnt/eth0 egress " + inside.String(),
			"host/veth ingress " + inside.String(),
			"host/up egress " + outside.String(),
			"gw/wan egress " + again.String(),
			"gw/wan ingress " + again.Inverse().String(),
			"host/up ingress " + outside.Inverse().String(),
			"cnt/eth0 ingress " + inside.Inverse().String(),
			"cnt/eth0 egress " + inside.String(),
			"host/up egress " + outside.String(),
			"gw/wan egress " + again.String(),
			"1 events, 2 hits, 0 drops",
		}
		if diff := cmp.Diff(want, seen(b.Flows()[0])); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
		if f := b.Flows()[0]; !f.Answered() || f.Failing(start.Add(b.clock)) {
			t.Errorf("seed %d: answered %v, failing %v", seed, f.Answered(), f.Failing(start.Add(b.clock)))
		}
	}
}

// TestForwarded shows that what a host forwards is none of its own flows, although
// it leaves with an address of the host.
func TestForwarded(t *testing.T) {
	b := newBed(Config{})
	passing := segment(tcp(netip.MustParseAddr("172.18.0.9"), far, 5000, 80), packet.SYN, 77, 0, 0)
	b.see("cnt", "br0", capture.Ingress, passing)
	left := passing
	left.Tuple.Src = own
	b.see("cnt", "eth0", capture.Egress, left)
	back := segment(left.Tuple.Inverse(), packet.SYN|packet.ACK, 1, 78, 0)
	b.see("cnt", "eth0", capture.Ingress, back)
	b.flush()
	if len(b.Flows()) != 0 {
		t.Errorf("%d flows, want none: %q", len(b.Flows()), seen(b.Flows()[0]))
	}
}

// TestOlder shows flows that were there before and those that others open: they
// count where they are asked for, and nowhere else.
func TestOlder(t *testing.T) {
	for _, older := range []bool{false, true} {
		b := newBed(Config{Older: older})
		b.see("cnt", "eth0", capture.Egress, segment(tcp(own, far, 4000, 443), packet.ACK, 100, 200, 10))
		b.see("cnt", "eth0", capture.Ingress, segment(tcp(other, own, 5000, 22), packet.SYN, 300, 0, 0))
		b.see("cnt", "eth0", capture.Egress, segment(tcp(own, other, 22, 5000), packet.SYN|packet.ACK, 400, 301, 0))
		b.flush()
		want := 0
		if older {
			want = 2
			if b.Flows()[1].Answered() {
				t.Error("an answer that nobody has acknowledged made a connection")
			}
		}
		b.see("cnt", "eth0", capture.Ingress, segment(tcp(other, own, 5000, 22), packet.ACK, 301, 401, 0))
		b.flush()
		if len(b.Flows()) != want {
			t.Fatalf("older %v: %d flows, want %d", older, len(b.Flows()), want)
		}
		if older && (!b.Flows()[0].Existing || b.Flows()[0].Inbound || b.Flows()[1].Existing || !b.Flows()[1].Inbound || !b.Flows()[1].Answered()) {
			t.Errorf("flows %+v and %+v", b.Flows()[0], b.Flows()[1])
		}
	}
}

// TestStalled shows data that does not get through, in either direction, and that
// what is merely under way, or repeated once, is not that.
func TestStalled(t *testing.T) {
	inside := tcp(own, far, 4000, 443)
	out := func(flags packet.TCPFlags, seq, ack uint32, length int) func(*bed) {
		return func(b *bed) { b.see("cnt", "eth0", capture.Egress, segment(inside, flags, seq, ack, length)) }
	}
	in := func(flags packet.TCPFlags, seq, ack uint32, length int) func(*bed) {
		return func(b *bed) {
			b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), flags, seq, ack, length))
		}
	}
	onTheWay := func(seq uint32, length int) func(*bed) {
		return func(b *bed) {
			b.see("host", "up", capture.Ingress, segment(inside.Inverse(), packet.ACK, seq, 101, length))
		}
	}
	wait := func(b *bed) { b.clock += 2 * time.Second }
	const ack = packet.ACK
	handshake := []func(*bed){out(packet.SYN, 100, 0, 0), in(packet.SYN|ack, 900, 101, 0), out(ack, 101, 901, 0)}
	tests := []struct {
		name string
		more []func(*bed)
		want *Stall
	}{
		{"nothing", nil, nil},
		{"acknowledged", []func(*bed){out(ack, 101, 901, 50), in(ack, 901, 151, 0)}, nil},
		{"under way", []func(*bed){out(ack, 101, 901, 50)}, nil},
		{"repeated once", []func(*bed){out(ack, 101, 901, 50), out(ack, 101, 901, 50)}, nil},
		{
			"sent again and again",
			[]func(*bed){out(ack, 101, 901, 20), in(ack, 901, 121, 0), out(ack, 121, 901, 1000), out(ack, 1121, 901, 5), out(ack, 121, 901, 1000), out(ack, 121, 901, 1000)},
			&Stall{Seq: 121, Length: 1000, Acked: 20, Sent: 1025},
		},
		{"again and again, and then through", []func(*bed){out(ack, 101, 901, 20), out(ack, 101, 901, 20), out(ack, 101, 901, 20), in(ack, 901, 121, 0)}, nil},
		{"an answer", []func(*bed){in(ack, 901, 101, 500), out(ack, 101, 1401, 0), wait}, nil},
		{"an answer under way", []func(*bed){in(ack, 901, 101, 500)}, nil},
		{"a hole that is filled", []func(*bed){in(ack, 1401, 101, 10), out(ack, 101, 901, 0), out(ack, 101, 901, 0), in(ack, 901, 101, 500), out(ack, 101, 1411, 0), wait}, nil},
		{"a young hole", []func(*bed){in(ack, 2361, 101, 10), out(ack, 101, 901, 0), in(ack, 2371, 101, 10), out(ack, 101, 901, 0)}, nil},
		{
			"a hole",
			[]func(*bed){in(ack, 2361, 101, 10), out(ack, 101, 901, 0), wait, in(ack, 2371, 101, 20), out(ack, 101, 901, 0)},
			&Stall{Seq: 901, Incoming: true, Length: 1460, Largest: 60, Since: 2002 * time.Millisecond, Sent: 1490},
		},
		{"a hole that nobody waits for", []func(*bed){in(ack, 2361, 101, 10), out(ack, 101, 901, 0), out(ack|packet.FIN, 101, 901, 0), wait}, nil},
		{"on its way again and again", []func(*bed){onTheWay(901, 2920), onTheWay(901, 1460), onTheWay(901, 1460), wait}, &Stall{Seq: 901, Incoming: true, Sent: 2920}},
		{"on its way and there", []func(*bed){onTheWay(901, 1460), onTheWay(901, 1460), onTheWay(901, 1460), in(ack, 901, 101, 1460), out(ack, 101, 2361, 0), wait}, nil},
		{"closed by both", []func(*bed){in(ack|packet.FIN, 901, 101, 500), out(ack|packet.FIN, 101, 1402, 0), in(ack, 1402, 102, 0), wait}, nil},
	}
	for _, tt := range tests {
		b := newBed(Config{})
		for _, do := range slices.Concat(handshake, tt.more) {
			do(b)
		}
		b.flush()
		now := start.Add(b.clock)
		got := b.Flows()[0].Stalled(now)
		if got != nil && got.Seen != nil {
			if at := map[bool]string{true: "host", false: "cnt"}[got.Incoming]; got.Seen.Header.Seq != got.Seq || got.Seen.Point.NetNS != at {
				t.Errorf("%s: %+v was seen", tt.name, got.Seen)
			}
			got.Seen = nil
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if got := b.Flows()[0].Failing(now); got != (tt.want != nil) {
			t.Errorf("%s: failing %v", tt.name, got)
		}
	}
}

// TestStalledDue shows that an upload that does not get through is due although the
// other end goes on sending.
func TestStalledDue(t *testing.T) {
	inside := tcp(own, far, 4000, 443)
	b := newBed(Config{})
	out := func(flags packet.TCPFlags, seq, ack uint32, length int) {
		b.see("cnt", "eth0", capture.Egress, segment(inside, flags, seq, ack, length))
	}
	out(packet.SYN, 100, 0, 0)
	b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), packet.SYN|packet.ACK, 900, 101, 0))
	b.clock += time.Hour // nothing is to do
	for n := range uint32(8) {
		out(packet.ACK, 101, 901+n, 1460)
		b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), packet.ACK, 901+n, 101, 1))
		b.clock += time.Second
		b.flush()
		if due := b.Flows()[0].Due(start.Add(b.clock), 5*time.Second); due != (n >= 4) {
			t.Errorf("after %d s: due %v", n+1, due)
		}
	}
}

// TestStalledFrom shows that what is sent again and again is followed from where it
// comes by first, whichever of the times each place has kept or seen so far.
func TestStalledFrom(t *testing.T) {
	inside := tcp(own, far, 4000, 443)
	way := []struct {
		netns     string
		direction capture.Direction
	}{{"server", capture.Egress}, {"router", capture.Ingress}, {"router", capture.Egress}, {"host", capture.Ingress}, {"cnt", capture.Ingress}}
	for times := 3; times < 20; times++ {
		for _, unseen := range []string{"", "server", "router", "host"} {
			b := newBed(Config{})
			b.see("cnt", "eth0", capture.Egress, segment(inside, packet.SYN, 100, 0, 0))
			reply := func(flags packet.TCPFlags, seq uint32, length int, seen func(netns string) bool) {
				for _, at := range way {
					if seen(at.netns) {
						b.see(at.netns, "eth0", at.direction, segment(inside.Inverse(), flags, seq, 101, length))
					}
				}
			}
			all := func(string) bool { return true }
			reply(packet.SYN|packet.ACK, 900, 0, all)
			for seq := range uint32(firstPackets) {
				reply(packet.ACK, 901+seq, 1, all)
				b.see("cnt", "eth0", capture.Egress, segment(inside, packet.ACK, 101, 902+seq, 0))
			}
			for n := range times {
				b.clock += 100 * time.Millisecond << (n % 8)
				reply(packet.ACK, 901+firstPackets, 1460, func(netns string) bool {
					return netns != "cnt" && (n < times-1 || netns != unseen)
				})
			}
			b.clock += 2 * time.Second
			b.flush()
			stall := b.Flows()[0].Stalled(start.Add(b.clock))
			if stall == nil || stall.Seen == nil {
				t.Fatalf("sent %d times: %+v", times, stall)
			}
			if seen := stall.Seen; seen.Point.NetNS != "server" {
				t.Errorf("sent %d times, the last of them not seen at %q: followed from %s %s", times, unseen, seen.Point.NetNS, seen.Direction)
			}
		}
	}
}

// TestSilence shows how long nothing had come when the source closed, unless the
// far end had closed before.
func TestSilence(t *testing.T) {
	inside := tcp(own, far, 4000, 443)
	for _, first := range []capture.Direction{capture.Egress, capture.Ingress} {
		b := newBed(Config{})
		b.see("cnt", "eth0", capture.Egress, segment(inside, packet.SYN, 100, 0, 0))
		b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), packet.SYN|packet.ACK, 900, 101, 0))
		b.see("cnt", "eth0", capture.Egress, segment(inside, packet.ACK, 101, 901, 50))
		b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), packet.ACK, 901, 151, 300))
		b.see("cnt", "eth0", capture.Egress, segment(inside, packet.ACK, 151, 1201, 0))
		b.clock += 3 * time.Second
		if first == capture.Ingress {
			b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), packet.ACK|packet.FIN, 1201, 151, 0))
		}
		b.see("cnt", "eth0", capture.Egress, segment(inside, packet.ACK|packet.FIN, 151, 1201, 0))
		b.flush()
		want := map[capture.Direction]time.Duration{capture.Egress: 3002 * time.Millisecond}[first]
		if got, largest := b.Flows()[0].Silence(); got != want || largest != map[bool]int{true: 340}[want > 0] {
			t.Errorf("closed first by a %s: silent for %s, packets of up to %d bytes; want %s", first, got, largest, want)
		}
	}
}

// TestBudget shows that of a long flow the first packets and the latest are kept,
// and all are counted; and that more flows than there is room for are told.
func TestBudget(t *testing.T) {
	b := newBed(Config{MaxFlows: 2})
	inside := tcp(own, far, 4000, 443)
	b.see("cnt", "eth0", capture.Egress, segment(inside, packet.SYN, 100, 0, 0))
	const more = 1000
	for i := range uint32(more) {
		b.see("cnt", "eth0", capture.Egress, segment(inside, packet.ACK, 101+i, 900, 1))
	}
	for port := range uint16(5) {
		b.see("cnt", "eth0", capture.Egress, datagram(packet.Tuple{Proto: packet.UDP, Src: own, Dst: far, SrcPort: 1000 + port, DstPort: 53}, fmt.Sprintf("question %d", port)))
	}
	b.flush()
	f := b.Flows()[0]
	kept := f.Evidence().Sightings
	if len(kept) != firstPackets+lastPackets || kept[0].Header.Seq != 100 || kept[len(kept)-1].Header.Seq != 100+more {
		t.Errorf("%d packets kept, from %d to %d", len(kept), kept[0].Header.Seq, kept[len(kept)-1].Header.Seq)
	}
	if counts := f.Counts(); len(counts) != 1 || counts[0].Packets != more+1 || counts[0].Bytes != 54*(more+1)+more {
		t.Errorf("counts %+v", counts)
	}
	if flows, _ := b.Unfollowed(); len(b.Flows()) != 2 || flows != 4 {
		t.Errorf("%d flows and %d unfollowed, want 2 and 4", len(b.Flows()), flows)
	}
	b.Forget(f)
	b.see("cnt", "eth0", capture.Egress, segment(tcp(own, other, 4001, 443), packet.SYN, 5, 0, 0))
	b.flush()
	if len(b.Flows()) != 2 {
		t.Errorf("%d flows after one was given up and another began, want 2", len(b.Flows()))
	}
}

// TestRefused shows a packet that a rule of the source drops before any interface
// sees it, one that the kernel drops for want of a neighbour, and an ICMP error
// behind NAT.
func TestRefused(t *testing.T) {
	b := newBed(Config{})
	dropped, parked, bounced := tcp(own, far, 1, 80), tcp(own, other, 2, 80), tcp(own, far, 3, 80)
	hit := b.meet("cnt", ruletrace.Output, segment(dropped, packet.SYN, 1, 0, 0))
	b.flush()
	b.Drop(skbdrop.Drop{NetNS: "cnt", Time: start, Reason: "NEIGH_FAILED", Header: segment(parked, packet.SYN, 2, 0, 0)}, time.Time{})
	b.see("cnt", "eth0", capture.Egress, segment(bounced, packet.SYN, 3, 0, 0))
	outside := tcp(host, far, 3, 80)
	b.see("host", "up", capture.Egress, segment(outside, packet.SYN, 3, 0, 0))
	quoted := segment(outside, packet.SYN, 3, 0, 0)
	icmp := packet.Header{Version: 4, Tuple: packet.Tuple{Proto: packet.ICMP, Src: public, Dst: host, ICMPType: 3, ICMPCode: 13}, Quoted: &quoted}
	b.see("host", "up", capture.Ingress, icmp)
	inner := quoted
	inner.Tuple = bounced
	b.see("cnt", "eth0", capture.Ingress, packet.Header{Version: 4, Tuple: packet.Tuple{Proto: packet.ICMP, Src: public, Dst: own, ICMPType: 3, ICMPCode: 13}, Quoted: &inner})
	b.flush()
	if len(b.Flows()) != 3 {
		t.Fatalf("%d flows, want 3", len(b.Flows()))
	}
	if e := b.Flows()[0].Evidence(); len(e.Hits) != 1 || b.Flows()[0].Tuple != dropped || hit.NetNS != "cnt" {
		t.Errorf("dropped by a rule: %+v", e)
	}
	if e := b.Flows()[1].Evidence(); len(e.Drops) != 1 || b.Flows()[1].Tuple != parked {
		t.Errorf("parked: %+v", e)
	}
	if f := b.Flows()[2]; len(f.Evidence().Sightings) != 4 || f.Talk.Refused.IsZero() || !f.Failing(start.Add(b.clock)) {
		t.Errorf("bounced: %q, refused %s", seen(f), f.Talk.Refused)
	}
}

// TestAttempt shows that a flow has the process that wanted it, in whatever order
// the two are told, also where a rule sent it elsewhere; and what is left.
func TestAttempt(t *testing.T) {
	resolver, port := netip.MustParseAddr("127.0.0.11"), uint16(41234)
	for _, first := range []bool{true, false} {
		b := newBed(Config{})
		wants := func(at time.Duration, pid int, proto packet.Proto, to netip.AddrPort, connect bool) delivery {
			return delivery{"attempts", func() {
				b.Attempt(attempt.Attempt{Time: start.Add(at), PID: pid, Command: "curl", Proto: proto, To: to, Connect: connect})
			}}
		}
		b.see("cnt", "eth0", capture.Egress, segment(tcp(own, far, 4000, 443), packet.SYN, 1, 0, 0))
		query := packet.Tuple{Proto: packet.UDP, Src: own, Dst: resolver, SrcPort: 5000, DstPort: port}
		b.see("cnt", "lo", capture.Egress, datagram(query, "a question"))
		asked := query
		asked.DstPort = 53
		b.hear(nat.New, asked, query.Inverse())
		tries := []delivery{
			wants(0, 12, packet.TCP, netip.AddrPortFrom(far, 443), true),
			wants(time.Millisecond, 13, packet.UDP, netip.AddrPortFrom(resolver, 53), false),
			wants(0, 14, packet.TCP, netip.AddrPortFrom(other, 80), true),
			wants(time.Millisecond, 14, packet.TCP, netip.AddrPortFrom(other, 80), true),
			wants(0, 15, packet.UDP, netip.AddrPortFrom(other, 53), true), // tells its own address
			wants(time.Hour, 16, packet.TCP, netip.AddrPortFrom(far, 443), true),
		}
		if first {
			b.later = append(tries, b.later...)
		} else {
			b.later = append(b.later, tries...)
		}
		b.flush()
		pids := make(map[packet.Tuple]int)
		for _, f := range b.Flows() {
			pids[f.Tuple] = f.PID
		}
		if diff := cmp.Diff(map[packet.Tuple]int{tcp(own, far, 4000, 443): 12, query: 13}, pids, cmp.Comparer(func(a, b packet.Tuple) bool { return a == b })); diff != "" {
			t.Errorf("first %v, processes (-want +got):\n%s", first, diff)
		}
		var unsent []string
		for _, f := range b.Unsent(func(netip.Addr) netip.Addr { return netip.Addr{} }) {
			unsent = append(unsent, fmt.Sprintf("%d %s", f.PID, f.Tuple.Destination()))
		}
		if diff := cmp.Diff([]string{"14 198.51.100.8:80", "16 198.51.100.7:443"}, unsent); diff != "" {
			t.Errorf("first %v, unsent (-want +got):\n%s", first, diff)
		}
	}
}

// TestLateAttempts has two flows to one place begin before the attempts that they
// came of are told: each has its own, and nothing is left.
func TestLateAttempts(t *testing.T) {
	b := newBed(Config{})
	begun := func(port uint16) time.Duration {
		b.clock += 100 * time.Millisecond
		b.see("cnt", "eth0", capture.Egress, segment(tcp(own, far, port, 443), packet.SYN, uint32(port), 0, 0))
		return b.clock
	}
	first, second := begun(4000), begun(4001)
	b.flush()
	for pid, at := range []time.Duration{first, second} {
		b.Attempt(attempt.Attempt{Time: start.Add(at - time.Millisecond), PID: 12 + pid, Command: "curl", Proto: packet.TCP, To: netip.AddrPortFrom(far, 443), Connect: true})
	}
	if flows := b.Flows(); flows[0].PID != 12 || flows[1].PID != 13 {
		t.Errorf("the flows are of %d and %d, want 12 and 13", flows[0].PID, flows[1].PID)
	}
	if unsent := b.Unsent(func(netip.Addr) netip.Addr { return netip.Addr{} }); len(unsent) > 0 {
		t.Errorf("unsent: %s", unsent[0].Tuple)
	}
}

// TestTaken shows that a table which is told only what another one took comes to
// the same flows, whatever passes by beside them and in whatever order it is told.
func TestTaken(t *testing.T) {
	refused := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		older := seed%2 == 0
		cfg := Config{
			NetNS: "cnt", Own: func(a netip.Addr) bool { return a == own }, Older: older, MaxFlows: 6,
			Wanted: func(t packet.Tuple) bool { return seed%3 == 0 || t.DstPort != 444 },
		}
		one, two := New(cfg), New(cfg)
		// The flows of the host to a port are taken for those of a proxy.
		relays := []Relay{{NetNS: "host", Proto: packet.TCP, Port: 444, Target: netip.AddrPortFrom(far, 443)}, {NetNS: "cnt", Proto: packet.UDP, Port: 443, Target: netip.AddrPortFrom(far, 444)}}
		one.Relays(relays)
		two.Relays(relays)
		clock := start
		for range 400 {
			clock = clock.Add(time.Duration(r.IntN(100)) * time.Millisecond)
			told := pick(r, clock)
			if told(one) {
				told(two)
			} else {
				refused++
			}
			if r.IntN(100) == 0 && len(one.Flows()) > 0 {
				i := r.IntN(len(one.Flows()))
				one.Forget(one.Flows()[i])
				two.Forget(two.Flows()[i])
			}
		}
		if diff := cmp.Diff(state(one), state(two)); diff != "" {
			t.Fatalf("seed %d (-first +second):\n%s", seed, diff)
		}
	}
	if refused < 500 {
		t.Errorf("only %d times there was nothing to take", refused)
	}
}

// state is what a table knows, in words.
func state(table *Table) []string {
	var words []string
	for _, f := range table.Flows() {
		words = append(words, fmt.Sprintf("%d %s since %s by %d, existing %v, inbound %v, complete %v: %+v", f.Number, f.Tuple, f.Began, f.PID, f.Existing, f.Inbound, table.Complete(f), f.Counts()))
		words = append(words, seen(f)...)
		for _, c := range f.Carriers() {
			words = append(words, fmt.Sprintf("carried on by %s since %s, answered %v", c.Tuple, c.Began, c.Answered()))
		}
		words = append(words, fmt.Sprintf("answered %v, failing %v, over %v", f.Answered(), f.Failing(table.now), f.Over(table.now)))
	}
	flows, packets := table.Unfollowed()
	return append(words, fmt.Sprintf("%d unfollowed of %d packets, %d packets, %d attempts", flows, packets, table.Packets(), len(table.attempts)))
}

// pick is what some sensor delivers at a time: of a few flows, some of which are
// the source's, with an address of the host behind it.
func pick(r *rand.Rand, at time.Time) func(*Table) bool {
	proto := []packet.Proto{packet.TCP, packet.UDP}[r.IntN(2)]
	end := []netip.Addr{own, own, host, other}[r.IntN(4)]
	tuple := packet.Tuple{Proto: proto, Src: end, Dst: far, SrcPort: uint16(4000 + r.IntN(4)), DstPort: uint16(443 + r.IntN(2))}
	flags := []packet.TCPFlags{packet.SYN, packet.ACK, packet.RST}[r.IntN(3)]
	h := segment(tuple, flags, uint32(r.IntN(3)), 0, r.IntN(2))
	if proto == packet.UDP {
		h = datagram(tuple, fmt.Sprintf("the payload %d", r.IntN(5)))
	}
	if r.IntN(3) == 0 {
		h.Tuple = h.Tuple.Inverse()
	}
	netns := []string{"cnt", "host"}[r.IntN(2)]
	switch r.IntN(8) {
	case 0:
		return func(t *Table) bool {
			return t.Hit(&ruletrace.Hit{NetNS: netns, Hook: ruletrace.Output, Header: h, Egress: "eth0"}, at)
		}
	case 1:
		return func(t *Table) bool {
			return t.Drop(skbdrop.Drop{NetNS: netns, Time: at, Reason: "NEIGH_FAILED", Header: h}, at)
		}
	case 2:
		kind := []nat.EventKind{nat.New, nat.Existing}[r.IntN(2)]
		reply := h.Tuple.Inverse()
		reply.Dst = host
		e := nat.Event{Kind: kind, Received: at, Flow: nat.Flow{NetNS: netns, ID: uint32(r.IntN(9)), Original: h.Tuple, Reply: reply}}
		return func(t *Table) bool { return t.Event(e, at) }
	case 3:
		a := attempt.Attempt{Time: at, PID: 1 + r.IntN(3), Proto: proto, To: netip.AddrPortFrom(far, tuple.DstPort), Connect: proto == packet.TCP}
		return func(t *Table) bool { return t.Attempt(a) }
	}
	s := capture.Sighting{Point: capture.Point{NetNS: netns, Interface: "eth0"}, Direction: []capture.Direction{capture.Egress, capture.Ingress}[r.IntN(2)], Time: at, Length: 60, Header: h}
	return func(t *Table) bool { return t.Sighting(s) }
}

// TestDays has very many flows begin and end, amid very many packets of others: what
// is kept does not grow, and each flow gets its own.
func TestDays(t *testing.T) {
	b := newBed(Config{})
	const flows = 20_000
	random := rand.New(rand.NewPCG(1, 2))
	for i := range uint32(flows) {
		inside := tcp(own, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), uint16(1024+i%60000), 443)
		outside := inside
		outside.Src, outside.SrcPort = host, uint16(2048+i%60000)
		stranger := segment(tcp(other, far, uint16(i), 80), packet.SYN, random.Uint32(), 0, 0)
		b.see("host", "up", capture.Egress, stranger)
		first := random.Uint32()
		syn := segment(inside, packet.SYN, first, 0, 0)
		b.see("cnt", "eth0", capture.Egress, syn)
		syn.Tuple = outside
		b.see("host", "up", capture.Egress, syn)
		e := nat.Event{Kind: nat.New, Flow: nat.Flow{NetNS: "host", ID: i + 1, Original: inside, Reply: outside.Inverse()}}
		b.later = append(b.later, delivery{"conntrack", func() { b.Event(e, time.Time{}) }})
		b.see("cnt", "eth0", capture.Ingress, segment(inside.Inverse(), packet.RST|packet.ACK, 0, first+1, 0))
		b.flush()
		now := start.Add(b.clock)
		for _, f := range b.Flows() {
			if f.Over(now) {
				if e := f.Evidence(); len(e.Sightings) != 3 || len(e.Events) != 1 {
					t.Fatalf("flow %d: %q", f.Number, seen(f))
				}
				b.Forget(f)
			}
		}
	}
	// A refused connection counts as over a second later, at four milliseconds each.
	const atOnce = 300
	if n := len(b.Flows()); n > atOnce || len(b.names) > 2*n || len(b.contents) > n || len(b.tracked) > n {
		t.Errorf("%d flows, %d names, %d contents, %d of conntrack are kept", n, len(b.names), len(b.contents), len(b.tracked))
	}
	if n := len(b.strays.queue); n > 2*atOnce+200 || len(b.strays.byName) > n || len(b.strays.byContent) > n {
		t.Errorf("%d strays, %d names and %d contents of them are kept", n, len(b.strays.byName), len(b.strays.byContent))
	}
	if flows, _ := b.Unfollowed(); flows > 0 {
		t.Errorf("%d flows were not followed", flows)
	}
}

// BenchmarkStranger is a packet of others, on a host that is busy with them.
func BenchmarkStranger(b *testing.B) {
	table := New(Config{NetNS: "cnt", Own: func(a netip.Addr) bool { return a == own }})
	s := capture.Sighting{Point: capture.Point{NetNS: "host", Interface: "up"}, Direction: capture.Egress, Time: start, Header: segment(tcp(other, far, 1, 80), packet.ACK, 1, 2, 1000)}
	b.ReportAllocs()
	for i := range b.N {
		s.Header.Tuple.SrcPort, s.Time = uint16(i), s.Time.Add(time.Microsecond)
		table.Sighting(s)
	}
}
