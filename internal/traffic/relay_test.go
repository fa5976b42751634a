package traffic

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TestRelayed follows a connection beyond the proxy that takes it, while the same
// port of the proxy's host is translated for somebody else; whatever order the
// sensors deliver in, and whether the proxy is known before.
func TestRelayed(t *testing.T) {
	bridge, third := netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("172.17.0.3")
	for name, tt := range map[string]struct {
		client, target netip.Addr
		home, at       string // the proxy's namespace, and the target's
	}{
		"elsewhere":     {own, third, "host", "third"},
		"to itself":     {own, own, "host", "cnt"},
		"of the source": {own, third, "cnt", "third"},
	} {
		for seed := range uint64(300) {
			b := newBed(Config{Wanted: func(t packet.Tuple) bool { return seed%3 > 0 || t.DstPort == 8080 }})
			if tt.home == "cnt" {
				b.cfg.Own = func(a netip.Addr) bool { return a == own || a == bridge }
			}
			relays := []Relay{{NetNS: tt.home, Proto: packet.TCP, Port: 8080, Target: netip.AddrPortFrom(tt.target, 80)}}
			known := seed%2 == 0 || tt.at == "cnt" || seed%3 == 0 // or it would be others' business
			if known {
				b.Relays(relays)
			}
			first, second := tcp(tt.client, host, 4000, 8080), tcp(bridge, tt.target, 5000, 80)
			there := func(t packet.Tuple, seq uint32) packet.Header { return segment(t, packet.SYN, seq, 0, 0) }
			back := func(t packet.Tuple, seq uint32) packet.Header {
				return segment(t.Inverse(), packet.SYN|packet.ACK, seq+1, seq+1, 0)
			}
			pass := func(h packet.Header, from, to string) {
				b.see(from, "eth0", capture.Egress, h)
				b.see(to, "eth0", capture.Ingress, h)
			}
			meet := func(netns string, h packet.Header) {
				hit := &ruletrace.Hit{NetNS: netns, Hook: ruletrace.Output, Header: h, Egress: "eth0"}
				// It is told later than it was.
				told := start.Add(b.clock + 20*time.Millisecond)
				b.later = append(b.later, delivery{"trace", func() { b.Hit(hit, told) }})
			}
			meet("cnt", there(first, 100))
			if tt.home == "cnt" {
				b.see("cnt", "lo", capture.Egress, there(first, 100))
				b.see("cnt", "lo", capture.Ingress, there(first, 100))
				b.see("cnt", "lo", capture.Egress, back(first, 100))
				b.see("cnt", "lo", capture.Ingress, back(first, 100))
			} else {
				pass(there(first, 100), "cnt", "host")
				pass(back(first, 100), "host", "cnt")
			}
			meet(tt.home, there(second, 200))
			pass(there(second, 200), tt.home, tt.at)
			b.hear(nat.New, second, second.Inverse())
			pass(back(second, 200), tt.at, tt.home)
			// Somebody else's, whose destination is translated.
			outside, inside := tcp(other, host, 6000, 8080), tcp(other, tt.target, 6000, 80)
			b.see(tt.home, "up", capture.Ingress, there(outside, 300))
			b.see(tt.home, "eth0", capture.Egress, there(inside, 300))
			b.see(tt.at, "eth0", capture.Ingress, there(inside, 300))
			b.shuffle(seed)
			if !known {
				b.Relays(relays)
			}
			at := slices.IndexFunc(b.Flows(), func(f *Flow) bool { return f.Tuple == first })
			if at < 0 {
				t.Fatalf("%s, seed %d: flows %v", name, seed, b.Flows())
			}
			f := b.Flows()[at]
			if len(f.Carriers()) != 1 || f.Carriers()[0].Tuple != second || !f.Carriers()[0].Answered() {
				t.Fatalf("%s, seed %d: carriers %+v", name, seed, f.Carriers())
			}
			want := []string{
				tt.home + "/eth0 egress " + second.String(), tt.at + "/eth0 ingress " + second.String(),
				tt.at + "/eth0 egress " + second.Inverse().String(), tt.home + "/eth0 ingress " + second.Inverse().String(),
				"1 events, 1 hits, 0 drops",
			}
			if diff := cmp.Diff(want, seen(f.Carriers()[0])); diff != "" {
				t.Fatalf("%s, seed %d (-want +got):\n%s", name, seed, diff)
			}
			if got := f.Evidence(); len(got.Sightings) != 8 || len(got.Events) != 1 {
				t.Errorf("%s, seed %d: %d sightings, %d events", name, seed, len(got.Sightings), len(got.Events))
			}
			f.Judge(start.Add(b.clock))
			b.Forget(f)
			if left := b.names[keyOf(second)]; left != nil && left.Number == 0 {
				t.Errorf("%s, seed %d: what carried the flow on is still there", name, seed)
			}
		}
	}
}

// TestRelayedDue shows that a connection which a proxy lets wait is due, and one to
// which it passes data is not, whatever else the proxy waits for.
func TestRelayedDue(t *testing.T) {
	for _, answers := range []bool{false, true} {
		b := newBed(Config{})
		b.Relays([]Relay{{NetNS: "host", Proto: packet.TCP, Port: 8080, Target: netip.AddrPortFrom(far, 80)}})
		flow, pending := tcp(own, host, 4000, 8080), tcp(host, far, 5000, 80)
		b.see("cnt", "eth0", capture.Egress, segment(flow, packet.SYN, 100, 0, 0))
		b.see("cnt", "eth0", capture.Ingress, segment(flow.Inverse(), packet.SYN|packet.ACK, 900, 101, 0))
		b.see("cnt", "eth0", capture.Egress, segment(flow, packet.ACK, 101, 901, 50))
		b.see("host", "up", capture.Egress, segment(pending, packet.SYN, 500, 0, 0))
		if answers {
			b.see("cnt", "eth0", capture.Ingress, segment(flow.Inverse(), packet.ACK, 901, 151, 20))
			b.see("cnt", "eth0", capture.Egress, segment(flow, packet.ACK, 151, 921, 0))
		}
		b.flush()
		f := b.Flows()[0]
		if len(f.Carriers()) != 1 {
			t.Fatalf("carriers %+v", f.Carriers())
		}
		if due := f.Due(start.Add(b.clock+2*time.Second), time.Second); due == answers {
			t.Errorf("data came back: %v, due: %v", answers, due)
		}
	}
}

// keyOf is the name that a packet with a tuple has in the table.
func keyOf(t packet.Tuple) packet.Tuple {
	h := segment(t, packet.SYN, 1, 0, 0)
	key, _ := nameOf(&h)
	return key
}
