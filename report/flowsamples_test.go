package report

import (
	"fmt"
	"time"
)

// passed makes a point of a flow that a capture of the name file saw.
func passed(leg, file string, t Tuple, ttl int, packets, bytes uint64) FlowPoint {
	return FlowPoint{
		Place: Place{Capture: file + ".pcap", NetNS: file}, Leg: leg, Tuple: &t, TTL: ttl, Packets: packets, Bytes: bytes, Joined: packets,
	}
}

// between gives a point the time from the leg's first one, in microseconds.
func between(p FlowPoint, low, high int) FlowPoint {
	p.Delay = &Delay{Low: time.Duration(low) * time.Microsecond, High: time.Duration(high) * time.Microsecond}
	return p
}

func translated(field, from, to string) Translation {
	kind := map[string]string{"source": "snat", "destination": "dnat"}[field]
	return Translation{Kind: kind, Field: field, From: from, To: to, Leg: "request", Confidence: Reconstructed}
}

// table is the start of every sample of captures.
func table(files string, summary string, verdict Verdict) *Report {
	verdict.Summary, verdict.Confidence = summary, Reconstructed
	return &Report{
		Schema: Schema, Tool: Tool{Version: "v0.1.0"}, Started: began, Finished: at(2000),
		Request: Request{Kind: "analyze", Target: files, Source: Source{Kind: "capture"}}, Verdict: verdict,
	}
}

// pingPair is one ping that two captures saw, before NAT and behind it.
func pingPair() *Report {
	r := table("cnt.pcap, up.pcap", "The ping of 172.17.0.2 to 192.0.2.80 was answered: 4 packets there and 4 back.", Verdict{Outcome: Replied, Leg: "reply", Code: "OK"})
	inside, outside := echo4("172.17.0.2", "192.0.2.80", 8), echo4("10.254.10.252", "192.0.2.80", 8)
	r.Flows = []Flow{{
		Number: 1, Tuple: inside, Translated: &outside, Outcome: Replied, Leg: "reply", Code: "OK", Started: began, Elapsed: 3100 * time.Millisecond,
		Points: []FlowPoint{
			passed("request", "cnt", inside, 64, 4, 392), between(passed("request", "up", outside, 63, 4, 392), 31, 44),
			passed("reply", "up", echo4("192.0.2.80", "10.254.10.252", 0), 57, 4, 392), between(passed("reply", "cnt", echo4("192.0.2.80", "172.17.0.2", 0), 56, 4, 392), 28, 40),
		},
		Translations: []Translation{translated("source", "172.17.0.2", "10.254.10.252")},
	}}
	r.Totals = &Totals{Packets: 16, Bytes: 1568, Flows: 1, Selected: 1, Outcomes: map[Outcome]int{Replied: 1}, Translated: 1}
	r.Captures = []Capture{
		{File: "cnt.pcap", Point: "cnt", Format: "pcap", LinkType: "ETHERNET", Packets: 8, Bytes: 784, Started: began, Finished: at(3_100_000)},
		{
			File: "up.pcap", Point: "up", Format: "pcap", LinkType: "ETHERNET", Packets: 8, Bytes: 784, Started: at(31), Finished: at(3_099_960),
			Offset: &Offset{Reference: "cnt.pcap", Low: -0.000028, High: 0.000031, Confidence: Reconstructed, Shared: 8},
		},
	}
	return r
}

// manyFlows are 3 flows that did not go well, one that is not clear, and many
// that did.
func manyFlows() *Report {
	r := table("cnt.pcap, br.pcap, up.pcap", "1 of 100004 flows got no answer, 1 was rejected. Packets are missing in 1 more. Not everything is clear about 1. The other 100000 went well.", Verdict{Outcome: Lost, Leg: "request", Code: "NO_REPLY"})
	syn, masqueraded := segment("172.17.0.2:40312", "198.51.100.7:443"), segment("203.0.113.5:61001", "198.51.100.7:443")
	refused := segment("172.17.0.3:51002", "198.51.100.7:25")
	query := Tuple{Protocol: "udp", Source: "172.17.0.2:33333", Destination: "192.0.2.53:53"}
	bulk, inner := segment("[fd5a:ceb9:ed8d:1::2]:40404", "[2001:db8:ff66:fe0a:77e5:61d8:20eb:aba5]:8080"), segment("[fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5]:40404", "[2001:db8:ff66:fe0a:77e5:61d8:20eb:aba5]:80")
	kind, code := 3, 13
	r.Flows = []Flow{
		{
			Number: 1, Tuple: syn, Translated: &masqueraded, Outcome: Lost, Leg: "request", Code: "NO_REPLY", Started: at(0), Elapsed: 3 * time.Second,
			Points: []FlowPoint{
				passed("request", "cnt", syn, 64, 3, 180), passed("request", "br", syn, 64, 3, 180), passed("request", "up", masqueraded, 63, 2, 120),
			},
			Fall:         &Fall{Leg: "request", From: 1, To: 2, Packets: 1},
			Translations: []Translation{translated("source", "172.17.0.2:40312", "203.0.113.5:61001")},
		},
		{
			Number: 2, Tuple: refused, Outcome: Rejected, Leg: "request", Code: "FILTER_REJECTED", Started: at(9),
			Points: []FlowPoint{
				passed("request", "cnt", refused, 64, 1, 60), passed("request", "br", refused, 64, 1, 60),
				{Place: Place{Capture: "up.pcap", NetNS: "up"}, Leg: "request"},
			},
			Fall: &Fall{Leg: "request", From: 1, To: 2, Packets: 1},
			Errors: []FlowError{{
				Place: Place{Capture: "cnt.pcap", NetNS: "cnt"}, Text: "administratively prohibited", About: refused, TTL: 64, Packets: 1,
				Tuple: Tuple{Protocol: "icmp", Source: "172.17.0.1", Destination: "172.17.0.3", ICMPType: &kind, ICMPCode: &code},
			}},
		},
		{
			Number: 3, Tuple: bulk, Translated: &inner, Outcome: Replied, Leg: "reply", Code: "INCONCLUSIVE", Started: at(400), Elapsed: time.Minute,
			Points: []FlowPoint{
				passed("request", "cnt", bulk, 64, 90210, 130_000_123), between(passed("request", "up", inner, 63, 88123, 120_000_456), -20, 1310),
				passed("reply", "up", segment(inner.Destination, inner.Source), 61, 40100, 2_406_000), passed("reply", "cnt", segment(bulk.Destination, bulk.Source), 60, 40100, 2_406_000),
			},
			Fall:         &Fall{Leg: "request", From: 0, To: 1, Bytes: 9_999_667},
			Translations: []Translation{translated("source", bulk.Source, inner.Source), translated("destination", bulk.Destination, inner.Destination)},
		},
		{
			Number: 4, Tuple: query, Outcome: Inconclusive, Leg: "request", Code: "INCONCLUSIVE", Started: at(700),
			Points:    []FlowPoint{passed("request", "cnt", query, 64, 1, 71)},
			Ambiguous: []string{"its content does not tell it from other flows: 2 of them may be the same one before or after NAT"},
		},
	}
	for n := 2; n <= 5; n++ {
		e := r.Flows[1].Errors[0]
		e.Tuple.Source = fmt.Sprintf("172.17.0.%d", n)
		r.Flows[1].Errors = append(r.Flows[1].Errors, e)
	}
	r.Flows[2].Points[1].Repeated, r.Flows[2].Points[1].Copies = 12, 3
	twice := passed("request", "cnt", segment("172.17.0.2:41005", "198.51.100.7:443"), 63, 10, 1200)
	for n := 5; n <= 60; n++ {
		t := segment(fmt.Sprintf("172.17.0.2:%d", 41000+n), "198.51.100.7:443")
		r.Flows = append(r.Flows, Flow{
			Number: n, Tuple: t, Outcome: Replied, Leg: "reply", Code: "OK", Started: at(n),
			Points: []FlowPoint{
				passed("request", "cnt", t, 64, 10, 1200), passed("request", "br", t, 64, 10, 1200),
				passed("reply", "br", segment(t.Destination, t.Source), 57, 9, 9000), passed("reply", "cnt", segment(t.Destination, t.Source), 57, 9, 9000),
			},
		})
	}
	r.Flows[4].Points[1] = twice
	r.Totals = &Totals{
		Packets: 4_000_123, Bytes: 5_100_000_000, Others: 31, Bad: 2, Untimed: 1, Flows: 100_004, Selected: 100_004, Falling: 3, Translated: 2, Ambiguous: 1,
		Outcomes: map[Outcome]int{Lost: 1, Rejected: 1, Replied: 100_001, Inconclusive: 1}, Evicted: 250, EvictedPackets: 1200, Interrupted: true,
	}
	r.Captures = []Capture{
		{File: "cnt.pcap", Point: "cnt", Format: "pcap, big endian", LinkType: "ETHERNET", Packets: 2_000_000, Bytes: 2_550_000_000},
		{
			File: "br.pcap", Format: "pcapng, gzip", LinkType: "ETHERNET, LINUX_SLL", Packets: 1_000_123, Bytes: 1_275_000_000, Skipped: 645,
			Problem: "stopped at byte 5043: record 7 claims 4325376 bytes, 645 are left; 645 bytes were skipped",
			Offset:  &Offset{Reference: "cnt.pcap", Low: -48.85149, High: -48.85051, Confidence: Reconstructed, Shared: 1500, Drift: -0.000012},
			Places: []CapturePlace{
				{Place: Place{Capture: "br.pcap", NetNS: "host", Interface: "docker0"}, Packets: 1_000_000, Bytes: 1_274_900_000},
				{Place: Place{Capture: "br.pcap", NetNS: "host", Interface: "ens192", VLANs: []int{10, 20}, Tunnels: []string{"VXLAN 42"}}, Packets: 123, Bytes: 100_000},
				{Place: Place{Capture: "br.pcap", NetNS: "host", Interface: "tun0"}},
			},
		},
		{
			File: "up.pcap", Point: "up", Format: "pcap", LinkType: "ETHERNET", Packets: 1_000_000, Bytes: 1_275_000_000,
			Offset: &Offset{Reference: "cnt.pcap", Low: 0.2, High: 0.21, Confidence: Assumed, Shared: 3},
		},
		{File: "core.pcap", Problem: "it is text, not a capture file: pcap and pcapng can be read"},
		{File: "other.pcap", Point: "other", LinkType: "RAW", Packets: 1, Bytes: 60, Offset: &Offset{Reference: "cnt.pcap", Confidence: Assumed}},
	}
	return r
}

// noFlows is a capture in which nothing was found.
func noFlows() *Report {
	r := table("empty.pcap", "There is no packet in it.", Verdict{Outcome: Inconclusive, Leg: "request", Code: "INCONCLUSIVE"})
	r.Flows = []Flow{}
	r.Totals = &Totals{Outcomes: map[Outcome]int{}}
	r.Captures = []Capture{{File: "empty.pcap", Point: "empty", Format: "pcap", LinkType: "ETHERNET"}}
	return r
}

// selected is a table of some flows.
func selected() *Report {
	r := manyFlows()
	r.Request.Selection = "--dport 443 -p tcp"
	r.Flows = append(r.Flows[:1:1], r.Flows[4:6]...)
	r.Totals.Selected, r.Totals.Interrupted, r.Totals.Evicted = 3, false, 0
	r.Totals.Outcomes = map[Outcome]int{Lost: 1, Replied: 2}
	r.Totals.Falling, r.Totals.Translated, r.Totals.Ambiguous = 1, 1, 0
	r.Captures = r.Captures[:1]
	r.Verdict.Summary = "1 of 3 flows got no answer. The other 2 went well."
	return r
}

func hostileTable() *Report {
	const evil = "\x1b[2J\x1b]0;owned\x07\u202egpj.exe\u2066\u200b\x9b31m\xff\r\nREPLIED"
	r := manyFlows()
	r.Request.Target, r.Request.Selection, r.Verdict.Summary = evil, evil, evil
	place := Place{Capture: evil, Machine: evil, NetNS: evil, Interface: evil, Direction: evil, Tunnels: []string{evil}}
	tuple := Tuple{Protocol: evil, Source: evil, Destination: evil}
	for i := range r.Flows {
		f := &r.Flows[i]
		f.Tuple, f.Translated, f.Code, f.Ambiguous = tuple, &tuple, evil, []string{evil}
		for k := range f.Points {
			f.Points[k].Place, f.Points[k].Tuple = place, &Tuple{Protocol: evil, Source: fmt.Sprint(k, evil), Destination: evil}
		}
		f.Errors = []FlowError{{Place: place, Tuple: tuple, Text: evil, About: tuple}}
	}
	for i := range r.Captures {
		c := &r.Captures[i]
		c.File, c.Point, c.Format, c.LinkType, c.Problem = evil, "at "+evil, evil, evil, evil
		c.Offset = &Offset{Reference: evil, Confidence: Confidence(evil), Shared: i}
		c.Places = append(c.Places, CapturePlace{Place: place})
	}
	return r
}
