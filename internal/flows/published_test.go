package flows

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// published are captures that others published, of which the truth is known.
func published(t *testing.T, names ...string) (captures []Capture, clocks []Clock, result *Result) {
	t.Helper()
	folder := testenv.SharedData(t)
	for _, name := range names {
		captures = append(captures, Capture{
			Name: name,
			Open: func() (Reader, error) { return capture.OpenFile(filepath.Join(folder, name)) },
			Point: func(index int, of capture.FileInterface) capture.Point {
				return capture.Point{NetNS: name, Interface: of.Name, Index: index}
			},
		})
	}
	var err error
	if len(names) > 1 {
		if clocks, err = Measure(context.Background(), captures, nil); err != nil {
			t.Fatal(err)
		}
	}
	if result, err = Join(context.Background(), captures, Config{Clocks: clocks}); err != nil {
		t.Fatal(err)
	}
	return captures, clocks, result
}

func follow(t *testing.T, captures []Capture, clocks []Clock, r *Result) []*Course {
	t.Helper()
	flows := make([]*Flow, len(r.Flows))
	for i := range r.Flows {
		flows[i] = &r.Flows[i]
	}
	courses, err := Follow(context.Background(), captures, clocks, flows...)
	if err != nil {
		t.Fatal(err)
	}
	return courses
}

func describe(r *Result) string {
	text := ""
	for i := range r.Flows {
		f := &r.Flows[i]
		text += fmt.Sprintf("%d %s %v %s\n", f.Number, f.Request.Proto, f.Outcome, f.Request.Tuple())
		for d, stops := range [][]Stop{f.Out, f.Back} {
			for _, s := range stops {
				text += fmt.Sprintf("   %d %v %s ttl %d packets %d copies %d repeated %d joined %d delay %v..%v\n", d, r.Places[s.Place].Point, s.Key.Tuple(), s.TTL, s.Packets, s.Copies, s.Repeated, s.Joined, time.Duration(s.DelayLow), time.Duration(s.DelayHigh))
			}
		}
		for _, e := range f.Errors {
			text += fmt.Sprintf("   error %s about %s\n", e.Key.Tuple(), e.About.Tuple())
		}
		for _, a := range f.Ambiguous {
			text += "   ? " + a + "\n"
		}
	}
	return text
}

// TestRewritten: files that a tool rewrote, record by record.
func TestRewritten(t *testing.T) {
	type change struct{ before, after string }
	for name, want := range map[string]map[change]bool{
		"test2.rewrite_pnat":    {{"96.17.211.172", "172.16.0.172"}: true},
		"test2.rewrite_portmap": {{"80", "8080"}: true}, "test.rewrite_portmap": {{"80", "8080"}: true},
		"test2.rewrite_mac": nil, "test2.rewrite_1ttl": nil, "test2.rewrite_vlan802.1ad": nil, "test2.rewrite_mtutrunc": nil, "test2.rewrite_dlthdlc": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c, clocks, r := published(t, "tcpreplay/test.pcap", "tcpreplay/"+name)
			if clocks[1].Low > 0 || clocks[1].High < 0 || !clocks[1].Known {
				t.Errorf("clock %+v", clocks[1])
			}
			found := make(map[change]bool)
			for i := range r.Flows {
				f := &r.Flows[i]
				for _, tr := range f.Translations {
					a, b := tr.Before.Tuple(), tr.After.Tuple()
					for _, p := range [][2]netip.Addr{{a.Src, b.Src}, {a.Dst, b.Dst}} {
						if p[0] != p[1] {
							found[ordered(change{p[0].String(), p[1].String()}, "96.17.211.172")] = true
						}
					}
					for _, p := range [][2]uint16{{a.SrcPort, b.SrcPort}, {a.DstPort, b.DstPort}} {
						if p[0] != p[1] {
							found[ordered(change{fmt.Sprint(p[0]), fmt.Sprint(p[1])}, "80")] = true
						}
					}
				}
				if len(f.Ambiguous) > 0 {
					t.Errorf("ambiguous: %v", f.Ambiguous)
				}
			}
			if len(found) != len(want) {
				t.Errorf("translations %v, want %v", found, want)
			}
			for c := range want {
				if !found[c] {
					t.Errorf("no translation %v in %v", c, found)
				}
			}
			// Record n is record n.
			joined, alone := 0, 0
			for _, course := range follow(t, c, clocks, r) {
				for _, p := range course.Packets {
					if len(p.Sights) != 2 {
						if !p.Ambiguous && !(name == "test2.rewrite_dlthdlc" && len(course.Sights[p.Sights[0]].Header.Tunnels) > 0) {
							alone++
						}
						continue
					}
					a, b := &course.Sights[p.Sights[0]], &course.Sights[p.Sights[1]]
					if !a.Time.Equal(b.Time) {
						t.Errorf("packets at %v and %v are taken for one", a.Time, b.Time)
					}
					joined++
				}
			}
			t.Logf("%d joined, %d alone", joined, alone)
			if alone > 0 {
				t.Errorf("%d packets were not recognised", alone)
			}
		})
	}
}

func ordered[T ~struct{ before, after string }](c T, first string) T {
	v := struct{ before, after string }(c)
	if v.after == first {
		v.before, v.after = v.after, v.before
	}
	return T(v)
}

// TestOneRouterApart: a ping before and behind a router, and two clocks.
func TestOneRouterApart(t *testing.T) {
	_, clocks, r := published(t, "packets/ip_ttl_source.pcapng", "packets/ip_ttl_dest.pcapng")
	want := -48851 * time.Millisecond
	low, high := time.Duration(clocks[1].Low), time.Duration(clocks[1].High)
	if low > want+500*time.Microsecond || high < want-500*time.Microsecond || high-low > 5*time.Millisecond {
		t.Errorf("clock from %v to %v, want %v", low, high, want)
	}
	t.Logf("clock from %v to %v bounded %v", low, high, clocks[1].Bounded)
	if len(r.Flows) != 1 || len(r.Flows[0].Out) != 2 || len(r.Flows[0].Back) != 2 || len(r.Flows[0].Translations) != 0 || r.Flows[0].Outcome != Replied ||
		r.Flows[0].Out[0].TTL != 128 || r.Flows[0].Out[1].TTL != 127 {
		t.Error(describe(r))
	}
}

// TestProxyIsNoNAT: a resolver asks anew.
func TestProxyIsNoNAT(t *testing.T) {
	_, clocks, r := published(t, "packets/dns_recursivequery_client.pcapng", "packets/dns_recursivequery_server.pcapng")
	if clocks[1].Low > 0 || clocks[1].High < 0 {
		t.Errorf("clock %+v", clocks[1])
	}
	if len(r.Flows) != 2 {
		t.Fatal(describe(r))
	}
	for i := range r.Flows {
		if len(r.Flows[i].Translations) > 0 {
			t.Error(describe(r))
		}
	}
}

// TestBothLegs: files that have a packet twice.
func TestBothLegs(t *testing.T) {
	t.Run("http-post-upload", func(t *testing.T) {
		c, clocks, r := published(t, "arkime/http-post-upload.pcap")
		if len(r.Flows) != 1 {
			t.Fatal(describe(r))
		}
		packets := follow(t, c, clocks, r)[0]
		for _, p := range packets.Packets {
			if len(p.Sights) != 2 {
				t.Fatalf("%+v\n%s", p, describe(r))
			}
			a, b := packets.Sights[p.Sights[0]], packets.Sights[p.Sights[1]]
			if delay := b.Time.Sub(a.Time); a.Header.TTL != 64 || b.Header.TTL != 63 || delay < 32*time.Microsecond || delay > 192*time.Microsecond {
				t.Errorf("TTL %d %d, %v apart", a.Header.TTL, b.Header.TTL, delay)
			}
		}
		if len(packets.Packets) != 17 {
			t.Errorf("%d packets, want 17", len(packets.Packets))
		}
	})
	t.Run("bug-76-nat-fuzzed", func(t *testing.T) {
		_, _, r := published(t, "suricata-verify/bug-76-nat-fuzzed.pcap")
		i := slices.IndexFunc(r.Flows, func(f Flow) bool {
			return f.Request.Tuple().String() == "10.10.10.2:53104 → 10.20.10.99:80" && len(f.Translations) > 0
		})
		if i < 0 {
			t.Fatal(describe(r))
		}
		f := &r.Flows[i]
		if f.Out[0].TTL != 63 || f.Out[1].TTL != 62 || f.Translated.Tuple().Source() != "10.1.1.1:53104" || len(f.Translations) != 2 {
			t.Error(describe(r))
		}
	})
	t.Run("ftp-start-tls", func(t *testing.T) {
		c, clocks, r := published(t, "ndpi/ftp-start-tls.pcap")
		if len(r.Flows) != 1 {
			t.Fatal(describe(r))
		}
		twice := 0
		course := follow(t, c, clocks, r)[0]
		for _, p := range course.Packets {
			s := course.Sights[p.Sights[0]]
			if from := s.Header.Tuple.Src.String(); len(p.Sights) == 2 {
				twice++
				if from != "10.220.50.76" || s.Header.TTL != 63 || course.Sights[p.Sights[1]].Header.TTL != 61 {
					t.Errorf("%v twice", s.Header.Tuple)
				}
			}
		}
		if twice != 16 {
			t.Errorf("%d packets twice, want 16\n%s", twice, describe(r))
		}
	})
	t.Run("vlan-collisions", func(t *testing.T) {
		_, _, r := published(t, "zeek/vlan-collisions.pcap")
		var vlans [][]uint16
		for _, p := range r.Places {
			vlans = append(vlans, p.VLANs)
		}
		if len(r.Places) != 3 {
			t.Errorf("places %v, want no VLAN, 42, 10/20", vlans)
		}
		for i := range r.Flows {
			for _, s := range slices.Concat(r.Flows[i].Out, r.Flows[i].Back) {
				if s.Copies > 0 {
					t.Error(describe(r))
				}
			}
		}
	})
	t.Run("ping-with-without-ethernet", func(t *testing.T) {
		c, clocks, r := published(t, "skydive/ping-with-without-ethernet.pcap")
		course := follow(t, c, clocks, r)
		if len(r.Flows) != 1 || len(course[0].Packets) != 1 || len(r.Flows[0].Out) != 2 || r.Flows[0].Out[0].TTL != 64 || r.Flows[0].Out[1].TTL != 63 {
			t.Fatal(describe(r))
		}
		if got := r.Places[r.Flows[0].Out[1].Place].Tunnels; len(got) != 2 || got[0].Kind != packet.GRE || got[1].Kind != packet.MPLS {
			t.Errorf("tunnels %v", got)
		}
	})
	t.Run("retis", func(t *testing.T) {
		c, clocks, r := published(t, "retis/test_events_packets.pcap")
		count := make(map[string]int)
		for _, course := range follow(t, c, clocks, r) {
			for _, s := range course.Sights {
				count[fmt.Sprintf("%d seq %d", s.Header.Tuple.ICMPType, s.Header.ICMPSeq)]++
			}
		}
		want := map[string]int{"8 seq 1": 7, "0 seq 1": 8, "8 seq 2": 5, "0 seq 2": 6}
		if !maps.Equal(count, want) {
			t.Errorf("sightings %v, want %v", count, want)
		}
	})
}
