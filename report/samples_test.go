package report

import (
	"fmt"
	"time"
)

// The samples are reports as the networks of the lab give them, written by
// hand.

var began = time.Date(2026, 3, 14, 9, 26, 53, 589_793_238, time.UTC)

// at returns the time some microseconds after the probe was sent.
func at(microseconds int) time.Time {
	return began.Add(time.Duration(microseconds) * time.Microsecond)
}

// place makes a hop; t is its time in microseconds.
func place(t int, netns, iface, direction, bridge string, tuple Tuple, steps ...Step) Hop {
	role := "other"
	switch {
	case bridge != "":
		role = "veth"
	case iface == "br_ipv6_nw" || iface == "docker0":
		role = "bridge"
	case iface == "ens192":
		role = "uplink"
	case netns == "cnt01":
		role = "container"
	}
	return Hop{
		NetNS: netns, Interface: iface, Direction: direction, Bridge: bridge, Role: role, Time: at(t),
		Tuple: tuple, TTL: 64, Length: 104, Steps: steps, Evidence: []string{fmt.Sprintf("sighting-%d", t)},
	}
}

func echo6(source, destination string, kind int) Tuple {
	code, id := 0, 38
	return Tuple{Protocol: "icmpv6", Source: source, Destination: destination, ICMPType: &kind, ICMPCode: &code, ICMPID: &id}
}

func echo4(source, destination string, kind int) Tuple {
	t := echo6(source, destination, kind)
	t.Protocol = "icmp"
	return t
}

func step(kind, hook, text string, rule *Rule) Step {
	return Step{Kind: kind, Hook: hook, Text: text, Rule: rule, Confidence: Observed, Evidence: []string{"rule-1"}}
}

func dull(s Step) Step {
	s.Dull = true
	return s
}

func known(s Step, c Confidence) Step {
	s.Confidence = c
	return s
}

const (
	cnt01    = "fd5a:ceb9:ed8d:1::2"
	uplink6  = "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5"
	public6  = "2001:db8:ff66:fe0a:77e5:61d8:20eb:aba5"
	dnsReal6 = "2001:4860:4860::8888"
)

var (
	firewalld = &Rule{
		Backend: "nft", Family: "ip6", Table: "firewalld", Chain: "nat_POST_public_allow", Handle: 212,
		Text: `oifname != "lo" masquerade`, Owner: Owner{Tool: "firewalld", Zone: "public"},
	}
	snpt = &Rule{
		Backend: "iptables-legacy", Family: "ip6", Table: "mangle", Chain: "POSTROUTING", Number: 1,
		Text:    "-A POSTROUTING -s fd5a:ceb9:ed8d:fe0a::/64 -o zUntrust -j SNPT --src-pfx fd5a:ceb9:ed8d:fe0a::/64 --dst-pfx 2001:db8:ff66:fe0a::/64",
		Comment: "inside to outside",
	}
	dnpt = &Rule{
		Backend: "iptables-legacy", Family: "ip6", Table: "mangle", Chain: "PREROUTING", Number: 1,
		Text: "-A PREROUTING -d 2001:db8:ff66:fe0a::/64 -i zUntrust -j DNPT --src-pfx 2001:db8:ff66:fe0a::/64 --dst-pfx fd5a:ceb9:ed8d:fe0a::/64",
	}
)

// network1 is the start of every sample in the default network.
func network1() *Report {
	return &Report{
		Schema: Schema, Tool: Tool{Version: "v0.1.0"}, Started: began.Add(-80 * time.Millisecond), Finished: at(9000),
		Request: Request{
			Kind: "ping6", Target: "dns.google", Address: dnsReal6, Packet: "ICMPv6 echo id 38 seq 1",
			Source:   Source{Kind: "netns", Name: "cnt01", NetNS: "cnt01"},
			Resolved: "DNS server fd5a:ceb9:ed8d:53::53",
		},
		Sensors: []Sensor{
			{Name: "capture cnt01", State: "ok", Received: 2},
			{Name: "capture host", State: "ok", Received: 8},
			{Name: "conntrack host", State: "ok", Received: 2},
			{Name: "nft trace host", State: "ok", Received: 6},
		},
		Evidence: []Evidence{
			{ID: "sighting-0", Kind: "sighting", Time: began, NetNS: "cnt01", Text: "eth0 egress " + cnt01 + " -> " + dnsReal6 + " ttl 64 length 104"},
			{ID: "rule-1", Kind: "rule", NetNS: "host", Text: "nft trace: ip6 firewalld nat_POST_public_allow handle 212, verdict accept"},
		},
	}
}

func toHost() []Hop {
	request := echo6(cnt01, dnsReal6, 128)
	return []Hop{
		place(0, "cnt01", "eth0", "egress", "", request),
		place(11, "host", "veth671b926", "ingress", "br_ipv6_nw", request),
	}
}

func replied() *Report {
	r := network1()
	masqueraded, translated := echo6(uplink6, dnsReal6, 128), echo6(public6, dnsReal6, 128)
	r.Verdict = Verdict{
		Outcome: Replied, Leg: "reply", Code: "OK", Confidence: Observed, NetNS: "cnt01", Interface: "eth0",
		Summary:  "The source was masqueraded on host at ens192 and prefix-translated (NPTv6) on gateway at zUntrust.",
		Evidence: []string{"sighting-6700"}, Elapsed: 6700 * time.Microsecond,
	}
	r.Translations = []Translation{
		{Kind: "masquerade", NetNS: "host", Interface: "ens192", Hook: "postrouting", Field: "source", From: cnt01, To: uplink6, Leg: "request", Rule: firewalld, Confidence: Observed, Evidence: []string{"conntrack-1"}},
		{Kind: "nptv6", NetNS: "gateway", Interface: "zUntrust", Hook: "postrouting", Field: "source", From: uplink6, To: public6, Leg: "request", Rule: snpt, Confidence: Reconstructed, Evidence: []string{"sighting-58"}},
	}
	r.Legs.Request = append(toHost(),
		place(15, "host", "br_ipv6_nw", "ingress", "", echo6(cnt01, dnsReal6, 128),
			step("route", "", "default via fe80::fc:ff:fe00:1 dev ens192", nil),
			dull(step("policy", "forward", "accept", &Rule{Backend: "nft", Family: "inet", Table: "firewalld", Chain: "filter_FORWARD", Text: "policy accept"})),
			step("conntrack", "", "NEW", nil),
			step("rule", "postrouting", "masquerade", firewalld),
			step("nat", "postrouting", "source "+cnt01+" → "+uplink6, firewalld)),
		place(30, "host", "ens192", "egress", "", masqueraded),
		place(34, "router", "eth1", "ingress", "", masqueraded, step("route", "", "default via fd5a:ceb9:ed8d:fefc::1 dev eth0", nil)),
		place(41, "router", "eth0", "egress", "", masqueraded),
		place(44, "gateway", "zTrust", "ingress", "", masqueraded,
			step("rule", "postrouting", "SNPT", snpt),
			known(step("nat", "postrouting", "source "+uplink6+" → "+public6, snpt), Reconstructed)),
		place(58, "gateway", "zUntrust", "egress", "", translated),
	)
	back, inside := echo6(dnsReal6, public6, 129), echo6(dnsReal6, uplink6, 129)
	r.Legs.Reply = []Hop{
		place(6600, "gateway", "zUntrust", "ingress", "", back,
			known(step("nat", "prerouting", "destination "+public6+" → "+uplink6, dnpt), Reconstructed)),
		place(6610, "gateway", "zTrust", "egress", "", inside),
		place(6620, "router", "eth0", "ingress", "", inside),
		place(6630, "router", "eth1", "egress", "", inside),
		place(6640, "host", "ens192", "ingress", "", inside,
			step("nat", "prerouting", "destination "+uplink6+" → "+cnt01, nil)),
		place(6660, "host", "br_ipv6_nw", "egress", "", echo6(dnsReal6, cnt01, 129)),
		place(6670, "host", "veth671b926", "egress", "br_ipv6_nw", echo6(dnsReal6, cnt01, 129)),
		place(6700, "cnt01", "eth0", "ingress", "", echo6(dnsReal6, cnt01, 129), dull(step("deliver", "", "to the prober", nil))),
	}
	r.Tries = []Try{
		{Packet: "ICMPv6 echo id 38 seq 1", Outcome: Replied, Elapsed: 6700 * time.Microsecond},
		{Packet: "ICMPv6 echo id 38 seq 2", Outcome: Replied, Elapsed: 310 * time.Microsecond},
		{Packet: "ICMPv6 echo id 38 seq 3", Outcome: Lost},
	}
	return r
}

func opaque() *Report {
	r := replied()
	r.Tries = nil
	r.Translations = r.Translations[:1]
	r.Legs.Request = r.Legs.Request[:4]
	r.Legs.Reply = r.Legs.Reply[4:]
	r.Verdict.Summary = "The source was masqueraded on host at ens192."
	r.Notes = []string{"The request left host at ens192 towards fe80::fc:ff:fe00:1. What lies beyond is not visible; the answer came back to ens192 6.6 ms later."}
	return r
}

func droppedByPolicy() *Report {
	policy := &Rule{Backend: "iptables-nft", Family: "ip6", Table: "filter", Chain: "FORWARD", Number: 3, Text: "-P FORWARD DROP"}
	r := network1()
	r.Verdict = Verdict{
		Outcome: Dropped, Leg: "request", Code: "FILTER_POLICY_DROP", Confidence: Observed, NetNS: "host", Interface: "br_ipv6_nw",
		Hook: "forward", Rule: policy, Evidence: []string{"rule-1"},
		Summary:   "No rule of chain FORWARD in table filter on host accepted the request, and the chain's policy is DROP.",
		Mechanism: "NETFILTER_DROP at nf_hook_slow; conntrack never confirmed the flow",
	}
	r.Legs.Request = append(toHost(), place(15, "host", "br_ipv6_nw", "ingress", "", echo6(cnt01, dnsReal6, 128),
		step("route", "", "default via fe80::fc:ff:fe00:1 dev ens192", nil),
		step("drop", "forward", "policy drop", policy)))
	r.Findings = []Finding{{
		Code: "FILTER_POLICY_DROP", Severity: "error", Summary: "Nothing lets the container network out: accept it before the policy decides.",
		Fix: []string{
			"ip6tables-nft -I FORWARD -i br_ipv6_nw -o ens192 -s fd5a:ceb9:ed8d:1::/64 -j ACCEPT",
			"ip6tables-nft -I FORWARD -o br_ipv6_nw -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
		},
		Evidence: []string{"rule-1"},
	}}
	return r
}

// port is the tuple of a TCP segment.
func segment(source, destination string) Tuple {
	return Tuple{Protocol: "tcp", Source: source, Destination: destination}
}

func rejected() *Report {
	reject := &Rule{
		Backend: "nft", Family: "inet", Table: "filter", Chain: "forward", Handle: 7,
		Text: `ip daddr 198.51.100.0/24 counter packets 1 bytes 60 reject with icmp admin-prohibited comment "no partners"`, Comment: "no partners",
	}
	r := network1()
	kind, code := 3, 13
	r.Request = Request{
		Kind: "tcp", Target: "198.51.100.7:443", Address: "198.51.100.7:443", Packet: "TCP SYN",
		Source: Source{Kind: "container", Name: "web", Engine: "docker", NetNS: "web"},
	}
	syn := segment("172.17.0.2:40312", "198.51.100.7:443")
	r.Verdict = Verdict{
		Outcome: Rejected, Leg: "request", Code: "FILTER_REJECTED", Confidence: Observed, NetNS: "host", Interface: "docker0", Hook: "forward",
		Rule: reject, Summary: "A rule on host rejected the connection with ICMP communication administratively prohibited.", Evidence: []string{"rule-1"},
	}
	r.Legs.Request = []Hop{
		place(0, "web", "eth0", "egress", "", syn),
		place(9, "host", "vethc0ffee1", "ingress", "docker0", syn),
		place(12, "host", "docker0", "ingress", "", syn, step("reject", "forward", "reject", reject)),
	}
	answer := Tuple{Protocol: "icmp", Source: "172.17.0.1", Destination: "172.17.0.2", ICMPType: &kind, ICMPCode: &code}
	r.Legs.Reply = []Hop{
		place(38, "host", "", "egress", "", answer),
		place(40, "host", "docker0", "egress", "", answer),
		place(42, "host", "vethc0ffee1", "egress", "docker0", answer),
		place(45, "web", "eth0", "ingress", "", answer),
	}
	return r
}

func replyDropped() *Report {
	drop := &Rule{
		Backend: "iptables-legacy", Family: "ip", Table: "filter", Chain: "DOCKER-USER", Number: 2,
		Text: "-A DOCKER-USER -i ens192 -p icmp -j DROP",
	}
	r := network1()
	r.Request = Request{
		Kind: "ping", Target: "192.0.2.80", Address: "192.0.2.80", Packet: "ICMP echo id 38 seq 1",
		Source: Source{Kind: "pid", Name: "4711", NetNS: "c1"},
	}
	masquerade := &Rule{
		Backend: "iptables-legacy", Family: "ip", Table: "nat", Chain: "POSTROUTING", Number: 1,
		Text:  "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
		Owner: Owner{Tool: "docker", Network: "bridge", Bridge: "docker0", Purpose: "MASQUERADE"},
	}
	out, outside := echo4("172.17.0.2", "192.0.2.80", 8), echo4("10.254.10.252", "192.0.2.80", 8)
	r.Verdict = Verdict{
		Outcome: Dropped, Leg: "reply", Code: "FILTER_DROP", Confidence: Observed, NetNS: "host", Interface: "ens192", Hook: "forward",
		Rule: drop, Summary: "The answer came back to host, where rule 2 of chain DOCKER-USER dropped it.", Evidence: []string{"rule-1"},
	}
	r.Legs.Request = []Hop{
		place(0, "c1", "eth0", "egress", "", out),
		place(9, "host", "vethc0ffee1", "ingress", "docker0", out),
		place(12, "host", "docker0", "ingress", "", out,
			known(step("rule", "postrouting", "MASQUERADE", masquerade), Reconstructed),
			known(step("nat", "postrouting", "source 172.17.0.2 → 10.254.10.252", masquerade), Observed)),
		place(30, "host", "ens192", "egress", "", outside),
	}
	r.Legs.Reply = []Hop{
		place(700, "host", "ens192", "ingress", "", echo4("192.0.2.80", "10.254.10.252", 0),
			step("nat", "prerouting", "destination 10.254.10.252 → 172.17.0.2", nil),
			step("drop", "forward", "drop", drop)),
	}
	r.Findings = []Finding{{
		Code: "OTHER_TOOL", Severity: "note", Summary: "ufw's rules accept this packet, but Docker's chains stand before them.",
	}}
	return r
}

func inconclusive() *Report {
	r := network1()
	r.Verdict = Verdict{
		Outcome: Inconclusive, Leg: "request", Code: "INCONCLUSIVE", Confidence: Assumed,
		Summary: "The request was last seen on host at br_ipv6_nw and never at ens192; why is not known, because the rule trace could not run there.",
	}
	r.Legs.Request = append(toHost(), place(15, "host", "br_ipv6_nw", "ingress", "", echo6(cnt01, dnsReal6, 128),
		known(step("route", "", "default via fe80::fc:ff:fe00:1 dev ens192", nil), Assumed)))
	r.Sensors = []Sensor{
		{Name: "capture cnt01", State: "ok", Received: 1},
		{Name: "capture host", State: "degraded", Received: 812, Lost: 12, Reason: "the ring was full"},
		{Name: "nft trace host", State: "absent", Reason: "another program owns the tracing table: pathtrace, pid 3141"},
	}
	r.Notes = []string{"Rules on host match the user id of the sender: the application may be treated differently from the probe, which is sent by uid 0."}
	return r
}

func hostile() *Report {
	const evil = "\x1b[2J\x1b]0;owned\x07\u202egpj.exe\u2066\u200b\x9b31m\xff\r\nREPLIED"
	rule := &Rule{Backend: "nft", Family: "inet", Table: "t" + evil, Chain: "c" + evil, Handle: 4, Text: `drop comment "` + evil + `"`, Comment: evil}
	r := network1()
	r.Request.Source.Name, r.Request.Target, r.Request.Resolved, r.Request.Packet = evil, "naïve → "+evil, evil, evil
	tuple := echo6(evil, evil, 128)
	r.Verdict = Verdict{
		Outcome: Dropped, Leg: "request", Code: "FILTER_DROP", Confidence: Observed, NetNS: evil, Interface: evil, Hook: "forward",
		Rule: rule, Summary: evil, Mechanism: evil, Evidence: []string{evil},
	}
	r.Translations = []Translation{{Kind: evil, NetNS: evil, Field: evil, From: evil, To: evil, Rule: rule, Confidence: Confidence(evil)}}
	r.Legs.Request = []Hop{place(0, evil, evil, "egress", evil, tuple, step("drop", evil, evil, rule))}
	r.Legs.Reply = []Hop{place(1, evil, evil, "ingress", "", tuple, step(evil, "", evil, nil))}
	r.Findings = []Finding{{Code: evil, Severity: evil, Summary: evil, Fix: []string{"echo " + evil}, Evidence: []string{evil}}}
	r.Sensors = []Sensor{{Name: evil, State: "absent", Reason: evil}}
	r.Notes = []string{evil}
	r.Evidence = []Evidence{{ID: evil, Kind: evil, Machine: evil, NetNS: evil, Text: evil}}
	r.Tries = []Try{{Packet: evil, Outcome: Outcome(evil)}, {Packet: evil, Outcome: Outcome(evil)}}
	return r
}

func samples() map[string]func() *Report {
	return map[string]func() *Report{
		"replied": replied, "opaque": opaque, "dropped-by-policy": droppedByPolicy, "rejected": rejected,
		"reply-dropped": replyDropped, "inconclusive": inconclusive, "hostile": hostile,
		"ping-pair": pingPair, "flows": manyFlows, "no-flows": noFlows, "flows-selected": selected,
	}
}
