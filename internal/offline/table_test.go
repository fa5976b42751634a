package offline

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// key makes a tuple; ends are "address:port", or addresses of a ping with id.
func key(proto packet.Proto, src, dst string, id uint16) packet.Key {
	t := packet.Tuple{Proto: proto}
	end := func(s string) (netip.Addr, uint16) {
		if a, err := netip.ParseAddrPort(s); err == nil {
			return a.Addr(), a.Port()
		}
		return netip.MustParseAddr(s), 0
	}
	t.Src, t.SrcPort = end(src)
	t.Dst, t.DstPort = end(dst)
	if proto.IsICMP() {
		t.ICMPType, t.ICMPID = packet.EchoRequest, id
		if proto == packet.ICMPv6 {
			t.ICMPType = packet.EchoRequestV6
		}
	}
	return t.Key()
}

// stopAt is a stop that saw so many packets.
func stopAt(place int, k packet.Key, n uint64) flows.Stop {
	return flows.Stop{Place: place, Key: k, TTL: 64, Packets: n, Bytes: 100 * n, Common: n}
}

// icmpError is an ICMP error; it comes from 192.0.2.1 or 2001:db8::1.
func icmpError(kind, code uint8, v6 bool) flows.Error {
	t := packet.Tuple{Proto: packet.ICMP, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("10.0.0.1"), ICMPType: kind}
	if v6 {
		t = packet.Tuple{Proto: packet.ICMPv6, Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("fd00::1"), ICMPType: kind}
	}
	return flows.Error{Key: t.Key(), Code: code, Packets: 1}
}

func TestCodeOf(t *testing.T) {
	out := []flows.Stop{stopAt(0, key(packet.TCP, "10.0.0.1:4000", "192.0.2.7:80", 0), 3)}
	back := []flows.Stop{stopAt(0, out[0].Key.Inverse(), 3)}
	syn, ack := slices.Clone(out), slices.Clone(out)
	syn[0].Flags, ack[0].Flags = packet.SYN, packet.ACK
	late := []flows.Stop{{Place: 1, Key: back[0].Key, Packets: 3}} // while not all captures ran
	refused := func(kind, code uint8, v6 bool) flows.Flow {
		return flows.Flow{Outcome: flows.Rejected, Request: out[0].Key, Out: out, Errors: []flows.Error{icmpError(kind, code, v6)}}
	}
	tests := []struct {
		name      string
		flow      flows.Flow
		leg, code string
	}{
		{"answered", flows.Flow{Outcome: flows.Replied, Out: out, Back: back}, "reply", "OK"},
		{"answered, less behind", flows.Flow{Outcome: flows.Replied, Out: out, Back: back, Fall: &flows.Fall{}}, "request", "INCONCLUSIVE"},
		{"answered, less on the way back", flows.Flow{Outcome: flows.Replied, Out: out, Back: back, Fall: &flows.Fall{Reply: true}}, "reply", "INCONCLUSIVE"},
		{"answered in part", flows.Flow{Outcome: flows.Replied, Out: out, Back: back, Unanswered: 1}, "reply", "INCONCLUSIVE"},
		{"not acknowledged", flows.Flow{Outcome: flows.Replied, Out: out, Back: back, Unacknowledged: &flows.Unacknowledged{}}, "request", "INCONCLUSIVE"},
		{"not acknowledged on the way back", flows.Flow{Outcome: flows.Replied, Out: out, Back: back, Unacknowledged: &flows.Unacknowledged{Reply: true}}, "reply", "INCONCLUSIVE"},
		{"to many", flows.Flow{Outcome: flows.OneWay, Out: out}, "request", "OK"},
		{"no answer", flows.Flow{Outcome: flows.Lost, Out: out}, "request", "NO_REPLY"},
		{"not seen where others were", flows.Flow{Outcome: flows.Lost, Out: out, Missing: []int{1}}, "request", "INCONCLUSIVE"},
		{"too big", flows.Flow{Outcome: flows.Lost, Out: out, Errors: []flows.Error{icmpError(3, 4, false)}}, "request", "MTU_EXCEEDED"},
		{"too big, IPv6", flows.Flow{Outcome: flows.Lost, Out: out, Errors: []flows.Error{icmpError(2, 0, true)}}, "request", "MTU_EXCEEDED"},
		{"answer lost", flows.Flow{Outcome: flows.Lost, Out: out, Back: back}, "reply", "REPLY_LOST_HERE"},
		{"answer when not all ran", flows.Flow{Outcome: flows.Lost, Out: out, Back: late}, "reply", "INCONCLUSIVE"},
		{"not clear", flows.Flow{Outcome: flows.Inconclusive, Out: out}, "request", "INCONCLUSIVE"},
		{"reset", flows.Flow{Outcome: flows.Rejected, Request: out[0].Key, Out: syn, Back: back}, "request", "NO_LISTENER"},
		{"reset of what stood", flows.Flow{Outcome: flows.Rejected, Request: out[0].Key, Out: ack, Back: back}, "request", "INCONCLUSIVE"},
		{"prohibited", refused(3, 13, false), "request", "FILTER_REJECTED"},
		{"host prohibited", refused(3, 10, false), "request", "FILTER_REJECTED"},
		{"prohibited, IPv6", refused(1, 1, true), "request", "FILTER_REJECTED"},
		{"no port", refused(3, 3, false), "request", "NO_LISTENER"},
		{"no port, IPv6", refused(1, 4, true), "request", "NO_LISTENER"},
		{"no network", refused(3, 0, false), "request", "NO_ROUTE"},
		{"no route, IPv6", refused(1, 0, true), "request", "NO_ROUTE"},
		{"no host", refused(3, 1, false), "request", "NEIGHBOUR_UNREACHABLE"},
		{"no host, IPv6", refused(1, 3, true), "request", "NEIGHBOUR_UNREACHABLE"},
		{"TTL", refused(11, 0, false), "request", "TTL_EXPIRED"},
		{"hop limit", refused(3, 0, true), "request", "TTL_EXPIRED"},
		{"fragments missing", refused(11, 1, false), "request", "INCONCLUSIVE"},
		{"policy of IPv6", refused(1, 5, true), "request", "FILTER_REJECTED"},
	}
	for _, tt := range tests {
		if leg, code := legOf(&tt.flow), codeOf(&tt.flow); leg != tt.leg || code != tt.code {
			t.Errorf("%s: leg %s, code %s, want %s, %s", tt.name, leg, code, tt.leg, tt.code)
		}
	}
}

// inputOf is two captures with four places, on two of which a flow was seen that
// both sides of NAT have, and there less of it.
func inputOf(all ...flows.Flow) *Input {
	place := func(index int, name string) flows.Place {
		return flows.Place{Capture: index, Point: capture.Point{Interface: name}, Packets: 10, Bytes: 1000, First: 1e18, Last: 1e18 + 5e9}
	}
	tunnel := place(1, "up")
	tunnel.VLANs, tunnel.Tunnels = []uint16{10, 20}, []packet.Layer{{Kind: packet.VXLAN, ID: 42}, {Kind: packet.IPIP}}
	for i := range all {
		all[i].Number = i + 1
	}
	return &Input{
		Captures: []Capture{
			{Name: "cnt.pcap", Point: "cnt", Format: "pcap", Interfaces: []capture.FileInterface{{Link: packet.LinkEthernet}}},
			{
				Name: "up.pcap", Point: "up", Format: "pcapng",
				Interfaces: []capture.FileInterface{{Link: packet.LinkEthernet}, {Link: packet.LinkRaw}, {Link: packet.LinkEthernet}, {Name: "pathtrace", Link: linkUser0}},
				Problem:    &capture.FileProblem{Text: "block 7 at byte 5043 ends inside its header", Stopped: true, Skipped: 3},
			},
		},
		Refused: []Refused{{"notes.txt", errors.New("it is text")}},
		Clocks:  []flows.Clock{{Known: true, Bounded: true}, {Known: true, Bounded: true, Low: -1_500_000, High: 500_000, Shared: 12, Drift: -12_000}},
		Result: &flows.Result{
			Places: []flows.Place{place(0, "cnt"), place(1, "up"), tunnel, place(0, "br")},
			Flows:  all, Packets: 40, Others: 2, Bad: 1, Evicted: 3, EvictedPackets: 5,
		},
	}
}

func natFlow() flows.Flow {
	inside, outside := key(packet.TCP, "172.17.0.2:40312", "198.51.100.7:443", 0), key(packet.TCP, "203.0.113.5:61001", "198.51.100.7:443", 0)
	f := flows.Flow{
		Outcome: flows.Replied, Request: inside, Translated: outside, Started: 1e18, Elapsed: 2e9, Missing: []int{3},
		Out:       []flows.Stop{stopAt(0, inside, 5), stopAt(2, outside, 5)},
		Back:      []flows.Stop{stopAt(2, outside.Inverse(), 5), stopAt(0, inside.Inverse(), 4)},
		Fall:      &flows.Fall{Reply: true, From: 0, To: 1, Packets: 1},
		Errors:    []flows.Error{icmpError(3, 4, false)},
		Ambiguous: []string{"something"},
	}
	f.Out[1].DelayLow, f.Out[1].DelayHigh, f.Out[1].Copies, f.Out[1].Repeated, f.Out[1].Joined = 31_000, 44_000, 2, 1, 5
	f.Translations = []flows.Translation{
		{From: 0, To: 1, Before: inside, After: outside, Packets: 5},
		{Reply: true, From: 0, To: 1, Before: outside.Inverse(), After: inside.Inverse(), Packets: 4},
	}
	return f
}

func TestTableFlow(t *testing.T) {
	r := Table(inputOf(natFlow()), Selection{}, 0)
	f := r.Flows[0]
	kind, code := 3, 4
	inside := report.Tuple{Protocol: "tcp", Source: "172.17.0.2:40312", Destination: "198.51.100.7:443"}
	outside := report.Tuple{Protocol: "tcp", Source: "203.0.113.5:61001", Destination: "198.51.100.7:443"}
	inverse := func(t report.Tuple) *report.Tuple {
		t.Source, t.Destination = t.Destination, t.Source
		return &t
	}
	cnt, br := report.Place{Capture: "cnt.pcap", Interface: "cnt"}, report.Place{Capture: "cnt.pcap", Interface: "br"}
	up := report.Place{Capture: "up.pcap", Interface: "up", VLANs: []int{10, 20}, Tunnels: []string{"VXLAN 42", "IPIP"}}
	translation := report.Translation{Kind: "snat", Field: "source", From: inside.Source, To: outside.Source, Leg: "request", Confidence: report.Reconstructed}
	want := report.Flow{
		Number: 1, Tuple: inside, Translated: &outside, Outcome: report.Replied, Leg: "reply", Code: "INCONCLUSIVE",
		Points: []report.FlowPoint{
			{Place: cnt, Leg: "request", Tuple: &inside, TTL: 64, Packets: 5, Bytes: 500},
			{Place: up, Leg: "request", Tuple: &outside, TTL: 64, Packets: 5, Bytes: 500, Copies: 2, Repeated: 1, Joined: 5, Delay: &report.Delay{Low: 31_000, High: 44_000}},
			{Place: br, Leg: "request"},
			{Place: up, Leg: "reply", Tuple: inverse(outside), TTL: 64, Packets: 5, Bytes: 500},
			{Place: cnt, Leg: "reply", Tuple: inverse(inside), TTL: 64, Packets: 4, Bytes: 400, Delay: &report.Delay{}},
		},
		Translations: []report.Translation{translation, {
			Kind: "dnat", Field: "destination", From: outside.Source, To: inside.Source, Leg: "reply", Confidence: report.Reconstructed,
		}},
		Fall: &report.Fall{Leg: "reply", From: 3, To: 4, Packets: 1},
		Errors: []report.FlowError{{
			Place: cnt, Text: "fragmentation needed (type 3 code 4)", Packets: 1,
			Tuple: report.Tuple{Protocol: "icmp", Source: "192.0.2.1", Destination: "10.0.0.1", ICMPType: &kind, ICMPCode: &code},
		}},
		Ambiguous: []string{"something"}, Started: timeOf(1e18), Elapsed: 2e9,
	}
	if diff := cmp.Diff(want, f, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(report.FlowError{}, "About")); diff != "" {
		t.Errorf("flow (-want +got):\n%s", diff)
	}
}

func TestTableCaptures(t *testing.T) {
	r := Table(inputOf(natFlow()), Selection{}, 0)
	want := []report.Capture{
		{
			File: "cnt.pcap", Point: "cnt", Format: "pcap", LinkType: "ETHERNET", Packets: 20, Bytes: 2000, Started: timeOf(1e18), Finished: timeOf(1e18 + 5e9),
			Places: []report.CapturePlace{
				{Place: report.Place{Capture: "cnt.pcap", Interface: "cnt"}, Packets: 10, Bytes: 1000},
				{Place: report.Place{Capture: "cnt.pcap", Interface: "br"}, Packets: 10, Bytes: 1000},
			},
		},
		{
			File: "up.pcap", Point: "up", Format: "pcapng", LinkType: "ETHERNET, RAW", Packets: 20, Bytes: 2000, Started: timeOf(1e18), Finished: timeOf(1e18 + 5e9),
			Problem: "block 7 at byte 5043 ends inside its header; reading stopped there; 3 bytes skipped", Skipped: 3,
			Offset: &report.Offset{Reference: "cnt.pcap", Low: -0.0015, High: 0.0005, Confidence: report.Reconstructed, Shared: 12, Drift: -0.000012},
			Places: []report.CapturePlace{
				{Place: report.Place{Capture: "up.pcap", Interface: "up"}, Packets: 10, Bytes: 1000},
				{Place: report.Place{Capture: "up.pcap", Interface: "up", VLANs: []int{10, 20}, Tunnels: []string{"VXLAN 42", "IPIP"}}, Packets: 10, Bytes: 1000},
			},
		},
		{File: "notes.txt", Problem: "it is text"},
	}
	if diff := cmp.Diff(want, r.Captures); diff != "" {
		t.Errorf("captures (-want +got):\n%s", diff)
	}
	in := inputOf()
	in.Clocks[1] = flows.Clock{}
	if got := Table(in, Selection{}, 0).Captures[1].Offset; *got != (report.Offset{Reference: "cnt.pcap", Confidence: report.Assumed}) {
		t.Errorf("offset of a clock that was not compared: %+v", got)
	}
}

// TestTranslationKinds: what changed, and how it looks from outside.
func TestTranslationKinds(t *testing.T) {
	tests := []struct {
		name          string
		before, after packet.Key
		neutral       bool
		want          string
	}{
		{"source", key(packet.ICMP, "10.0.0.1", "192.0.2.7", 1), key(packet.ICMP, "203.0.113.5", "192.0.2.7", 1), false, "snat source 10.0.0.1 203.0.113.5"},
		{
			"both", key(packet.UDP, "10.0.0.1:53", "192.0.2.7:53", 0), key(packet.UDP, "203.0.113.5:1", "192.0.2.8:5353", 0), false,
			"snat source 10.0.0.1:53 203.0.113.5:1; dnat destination 192.0.2.7:53 192.0.2.8:5353",
		},
		{
			"prefix", key(packet.ICMPv6, "fd00::1", "2001:db8::7", 1), key(packet.ICMPv6, "2001:db8:1::1", "2001:db8::7", 1), true,
			"nptv6 source fd00::1 2001:db8:1::1",
		},
		{
			"port and prefix", key(packet.UDP, "[fd00::1]:1", "[2001:db8::7]:2", 0), key(packet.UDP, "[2001:db8:1::1]:3", "[2001:db8::7]:2", 0), true,
			"snat source [fd00::1]:1 [2001:db8:1::1]:3",
		},
		{"IPv4 that happens to be neutral", key(packet.ICMP, "10.0.0.1", "192.0.2.7", 1), key(packet.ICMP, "10.0.1.0", "192.0.2.7", 1), true, "snat source 10.0.0.1 10.0.1.0"},
		{"only the id", key(packet.ICMP, "10.0.0.1", "192.0.2.7", 1), key(packet.ICMP, "10.0.0.1", "192.0.2.7", 2), false, ""},
	}
	for _, tt := range tests {
		f := flows.Flow{Out: []flows.Stop{stopAt(0, tt.before, 1), stopAt(1, tt.after, 1)}}
		var got []string
		for _, tr := range inputOf().translations(&f, &flows.Translation{To: 1, Before: tt.before, After: tt.after, Neutral: tt.neutral}) {
			got = append(got, strings.Join([]string{tr.Kind, tr.Field, tr.From, tr.To}, " "))
		}
		if strings.Join(got, "; ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTableSummary(t *testing.T) {
	k := key(packet.UDP, "10.0.0.1:5000", "192.0.2.7:53", 0)
	ping := key(packet.ICMP, "10.0.0.1", "192.0.2.7", 9)
	tcp := key(packet.TCP, "10.0.0.1:5000", "192.0.2.7:80", 0)
	of := func(o flows.Outcome, k packet.Key, back ...flows.Stop) flows.Flow {
		return flows.Flow{Outcome: o, Request: k, Translated: k, Out: []flows.Stop{stopAt(0, k, 4)}, Back: back}
	}
	falling := of(flows.Replied, ping, stopAt(0, ping.Inverse(), 3))
	falling.Out = append(falling.Out, stopAt(1, ping, 3))
	falling.Fall = &flows.Fall{To: 1, Packets: 1}
	unclear := of(flows.Replied, k, stopAt(0, k.Inverse(), 4))
	unclear.Ambiguous = []string{"something"}
	well := of(flows.Replied, k, stopAt(0, k.Inverse(), 4))
	twice := of(flows.Replied, k, stopAt(0, k.Inverse(), 3), stopAt(1, k.Inverse(), 1))
	twice.Out = append(twice.Out, stopAt(0, k, 9)) // with another TTL
	swapped := of(flows.Replied, ping, stopAt(0, ping.Inverse(), 3))
	swapped.Out = append(swapped.Out, stopAt(1, ping, 4))
	swapped.Fall = &flows.Fall{To: 1, Packets: 1, Least: true}
	hanging := of(flows.Replied, tcp, stopAt(0, tcp.Inverse(), 1))
	hanging.Unacknowledged = &flows.Unacknowledged{}
	some := of(flows.Replied, ping, stopAt(0, ping.Inverse(), 2))
	some.Unanswered = 2
	tests := []struct {
		flows []flows.Flow
		want  string
	}{
		{nil, "No flow was found: none of the packets is an IP packet with a time."},
		{[]flows.Flow{well}, "The udp flow from 10.0.0.1:5000 to 192.0.2.7:53 was answered: 4 packets there, 4 back."},
		{[]flows.Flow{twice}, "The udp flow from 10.0.0.1:5000 to 192.0.2.7:53 was answered: 9 packets there, 3 back."},
		{[]flows.Flow{falling}, "The ping from 10.0.0.1 to 192.0.2.7 was answered: 4 packets there, 3 back. On the way there 1 packet went missing between cnt and up."},
		{[]flows.Flow{swapped}, "The ping from 10.0.0.1 to 192.0.2.7 was answered: 4 packets there, 3 back. On the way there at least 1 packet went missing between cnt and up. As many were seen at both, and not the same ones."},
		{[]flows.Flow{of(flows.Lost, tcp)}, "The connection from 10.0.0.1:5000 to 192.0.2.7:80 got no answer: 4 packets, last seen at cnt."},
		{[]flows.Flow{of(flows.Lost, tcp, stopAt(1, tcp.Inverse(), 1))}, "The connection from 10.0.0.1:5000 to 192.0.2.7:80 was answered, and the answer did not come back: it was last seen at up."},
		{[]flows.Flow{of(flows.Rejected, tcp)}, "The connection from 10.0.0.1:5000 to 192.0.2.7:80 was rejected."},
		{[]flows.Flow{of(flows.Inconclusive, k)}, "How the udp flow from 10.0.0.1:5000 to 192.0.2.7:53 went is not clear: 4 packets there, nothing back."},
		{[]flows.Flow{of(flows.OneWay, k)}, "The udp flow from 10.0.0.1:5000 to 192.0.2.7:53 goes to many, and nobody answers that: 4 packets."},
		{[]flows.Flow{well, well}, "All 2 flows went well."},
		{
			[]flows.Flow{of(flows.Lost, tcp), of(flows.Rejected, tcp), falling, unclear, well},
			"1 of 5 flows got no answer, 1 was rejected. Packets are missing in 1 more. Not everything is clear about 1. The other 1 went well.",
		},
		{[]flows.Flow{of(flows.Rejected, tcp), of(flows.Rejected, tcp)}, "2 of 2 flows were rejected."},
		{[]flows.Flow{falling, well}, "Packets are missing in 1 of 2 flows. The other 1 went well."},
		{[]flows.Flow{hanging}, "The connection from 10.0.0.1:5000 to 192.0.2.7:80 was answered: 4 packets there, 1 back. What 10.0.0.1:5000 sent again was not acknowledged at cnt until the capture there ended. Whether it was lost behind cnt, or its acknowledgement, or nobody was there to acknowledge it, that capture does not tell."},
		{[]flows.Flow{some}, "The ping from 10.0.0.1 to 192.0.2.7 was answered: 4 packets there, 2 back. 2 requests got no answer."},
		{[]flows.Flow{falling, some, unclear, well}, "Packets are missing in 1 of 4 flows. Not everything was answered in 1. Not everything is clear about 1. The other 1 went well."},
		{[]flows.Flow{hanging, well}, "Not everything was answered in 1 of 2 flows. The other 1 went well."},
		{[]flows.Flow{unclear, well}, "Not everything is clear about 1 of 2 flows. The other 1 went well."},
	}
	for _, tt := range tests {
		if got := Table(inputOf(tt.flows...), Selection{}, 0).Verdict.Summary; got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	in := inputOf()
	in.Result.Packets = 0
	if got, want := Table(in, Selection{}, 0).Verdict.Summary, "No packet was found."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestTraceRanks: what the trace says was dropped failed, and stands before what is
// not clear.
func TestTraceRanks(t *testing.T) {
	k := key(packet.TCP, "10.0.0.1:5000", "192.0.2.7:80", 0)
	of := func(o flows.Outcome) flows.Flow {
		return flows.Flow{Outcome: o, Request: k, Translated: k, Out: []flows.Stop{stopAt(0, k, 4)}, Short: "too short"}
	}
	hit := &ruletrace.Hit{Verdict: ruletrace.Drop, Hook: "forward"}
	hit.Rule.Text = "-j DROP"
	in := inputOf(of(flows.Lost), of(flows.Inconclusive), of(flows.Inconclusive))
	in.traced = map[int]ending{3: endingBy(hit, "request")}
	in.rank()
	r := Table(in, Selection{}, 0)
	var got []string
	for i := range r.Flows {
		f := &r.Flows[i]
		got = append(got, fmt.Sprint(f.Number, f.Outcome, f.Code, f.Ambiguous))
	}
	want := []string{"1lostNO_REPLY[too short]", "2droppedFILTER_DROP[]", "3inconclusiveINCONCLUSIVE[too short]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := r.Verdict.Summary, "1 of 3 flows got no answer, 1 was dropped. Not everything is clear about 1."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := Table(in, Selection{Flow: 2}, 0).Verdict, "The connection from 10.0.0.1:5000 to 192.0.2.7:80 was dropped in forward by -j DROP, as the trace says."; got.Summary != want || got.Confidence != report.Observed {
		t.Errorf("%+v, want %q", got, want)
	}
}

// TestTableRows limits what is listed and not what is counted.
func TestTableRows(t *testing.T) {
	r := Table(inputOf(natFlow(), natFlow(), natFlow(), natFlow()), Selection{}, 2)
	want := report.Totals{
		Packets: 40, Bytes: 4000, Others: 2, Bad: 1, Flows: 4, Selected: 4, Outcomes: map[report.Outcome]int{report.Replied: 4},
		Falling: 4, Translated: 4, Ambiguous: 4, Evicted: 3, EvictedPackets: 5,
	}
	if diff := cmp.Diff(want, *r.Totals); diff != "" || len(r.Flows) != 2 {
		t.Errorf("%d rows, want 2; totals (-want +got):\n%s", len(r.Flows), diff)
	}
	var rest []int
	for f := range r.Rest {
		rest = append(rest, f.Number)
	}
	if diff := cmp.Diff([]int{3, 4}, rest); diff != "" {
		t.Errorf("flows behind the list (-want +got):\n%s", diff)
	}
	if r := Table(inputOf(natFlow(), natFlow()), Selection{Flow: 2}, 0); len(r.Flows) != 1 || r.Flows[0].Number != 2 || r.Totals.Selected != 1 || r.Totals.Flows != 2 {
		t.Errorf("flow 2: %+v", r.Totals)
	}
}

func TestSelection(t *testing.T) {
	f := natFlow()
	f.Number = 7
	tests := []struct {
		s    Selection
		has  bool
		want string
	}{
		{Selection{}, true, ""},
		{Selection{Flow: 7}, true, "--flow 7"},
		{Selection{Flow: 6}, false, "--flow 6"},
		{Selection{Proto: packet.TCP, DstPort: 443}, true, "-p tcp --dport 443"},
		{Selection{Proto: packet.UDP, DstPort: 443}, false, "-p udp --dport 443"},
		{Selection{Src: netip.MustParsePrefix("203.0.113.5/32"), SrcPort: 61001}, true, "--src 203.0.113.5 --sport 61001"},
		{Selection{Src: netip.MustParsePrefix("203.0.113.5/32"), SrcPort: 40312}, false, "--src 203.0.113.5 --sport 40312"},
		{Selection{Dst: netip.MustParsePrefix("172.16.0.0/12")}, true, "--dst 172.16.0.0/12"},
		{Selection{Dst: netip.MustParsePrefix("172.18.0.0/16")}, false, "--dst 172.18.0.0/16"},
		{Selection{Dst: netip.MustParsePrefix("2001:db8::/32")}, false, "--dst 2001:db8::/32"},
	}
	for _, tt := range tests {
		if got := tt.s.has(&f); got != tt.has || tt.s.String() != tt.want {
			t.Errorf("%+v: %v, %q, want %v, %q", tt.s, got, tt.s.String(), tt.has, tt.want)
		}
	}
}
