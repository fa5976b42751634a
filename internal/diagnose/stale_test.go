package diagnose_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// aged sends a datagram of an old flow, which the host translates to addresses
// that it once had: UDP, which no probe is sent over.
func aged(today ruletrace.NATAddresses) *outward {
	o := newOutward("172.17.0.2", "8.8.8.8")
	flow := nat.Flow{NetNS: topology.HostName, ID: 7, Original: o.path.Request.End.Tuple}
	flow.Original.Proto = packet.UDP
	flow.Reply = flow.Original.Inverse()
	flow.Reply.Dst = netip.MustParseAddr("203.0.113.77")
	o.masqueraded("203.0.113.77")
	o.path.Translations[0].Rule = nil
	o.path.Older = []path.Older{{Flow: flow, Evidence: "conntrack-1"}}
	o.input.NAT = map[string]ruletrace.NATAddresses{topology.HostName: today}
	return o
}

// TestStaleDestination has an old flow keep its destination although a rule would
// translate it today.
func TestStaleDestination(t *testing.T) {
	rule := ruletrace.Rule{Backend: ruletrace.NFT, Family: "ip", Table: "nat", Chain: "prerouting", Text: "udp dport 443 dnat to 172.17.0.3"}
	input := report.Rule{Backend: "nft", Family: "inet", Table: "filter", Chain: "input", Text: "drop"}
	for _, tt := range []struct {
		name   string
		change func(*outward)
		stale  bool
	}{
		{"dropped as if it were for the host", func(*outward) {}, true},
		{"nobody listens", func(o *outward) { o.path.Request.End.Kind, o.path.Request.End.Rule = path.Delivered, nil }, true},
		{"no rule would translate it", func(o *outward) { o.input.Redirects = nil }, false},
		{"dropped before the rules are asked", func(o *outward) { o.path.Request.End.Hook = ruletrace.Prerouting }, false},
		{"the flow was translated", func(o *outward) { o.path.Older[0].Flow.Reply.Src = netip.MustParseAddr("172.17.0.9") }, false},
		{"the rule was asked", func(o *outward) {
			hops := o.path.Request.Hops
			hops[len(hops)-1].Steps = []report.Step{{Kind: "rule", Rule: &report.Rule{Chain: rule.Chain, Text: rule.Text}}}
		}, false},
		{"the flow is the probe's own", func(o *outward) { o.path.Older = nil }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := aged(ruletrace.NATAddresses{Complete: true})
			flow := &o.path.Older[0].Flow
			flow.Reply = flow.Original.Inverse()
			o.path.Translations, o.path.Request.Hops = nil, o.path.Request.Hops[:2]
			o.path.Request.End = path.End{Kind: path.Dropped, NetNS: topology.HostName, Interface: "docker0", Hook: ruletrace.Input, Rule: &input, Tuple: flow.Original}
			o.input.Redirects = map[string]ruletrace.Rule{topology.HostName: rule}
			tt.change(o)
			d := diagnose.Diagnose(o.input)
			if got := d.Verdict.Code == diagnose.ConntrackStale; got != tt.stale {
				t.Errorf("%s: %s", d.Verdict.Code, d.Verdict.Summary)
			}
			if tt.stale && !strings.Contains(d.Verdict.Summary, rule.Text) {
				t.Errorf("the rule is not told: %s", d.Verdict.Summary)
			}
		})
	}
}

// TestStale has an old entry decide, and what looks like that.
func TestStale(t *testing.T) {
	old, other := netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("198.51.100.1")
	only := func(all ...netip.Addr) ruletrace.NATAddresses {
		return ruletrace.NATAddresses{Addresses: all, Complete: true}
	}
	for _, tt := range []struct {
		name   string
		today  ruletrace.NATAddresses
		change func(*outward)
		stale  bool
	}{
		{name: "rules lead elsewhere", today: only(other), stale: true},
		{name: "there are no rules any more", today: only(), stale: true},
		{name: "a rule leads there", today: only(other, old)},
		{name: "a map may lead there", today: ruletrace.NATAddresses{Addresses: []netip.Addr{other}}},
		{name: "rules were not read", today: ruletrace.NATAddresses{}, change: func(o *outward) { o.input.NAT = nil }},
		{name: "the flow is the probe's own", today: only(other), change: func(o *outward) { o.path.Older = nil }},
		{name: "a rule was seen to do it", today: only(other), change: func(o *outward) {
			o.path.Translations[0].Rule = &report.Rule{Backend: "nft", Family: "ip", Table: "nat", Chain: "c", Text: "masquerade"}
		}},
		{name: "the packet did not get that far", today: only(other), change: func(o *outward) { o.path.Translations = nil }},
		{name: "an address of the host's", today: only(other), change: func(o *outward) {
			o.host().Links[1].Addresses = append(o.host().Links[1].Addresses, netip.MustParsePrefix("203.0.113.77/24"))
		}},
		{name: "it was answered", today: only(other), change: func(o *outward) {
			o.path.Answer = path.Answer{Kind: path.Reply}
			o.path.Reply.End = path.End{Kind: path.Delivered, NetNS: "cnt01"}
		}},
		{name: "nothing was translated", today: only(other), change: func(o *outward) {
			o.path.Older[0].Flow.Reply = o.path.Older[0].Flow.Original.Inverse()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := aged(tt.today)
			if tt.change != nil {
				tt.change(o)
			}
			d := diagnose.Diagnose(o.input)
			if got := d.Verdict.Code == diagnose.ConntrackStale; got != tt.stale {
				t.Fatalf("%s: %s", d.Verdict.Code, d.Verdict.Summary)
			}
			if !tt.stale {
				return
			}
			const fix = "conntrack -D -p udp -s 172.17.0.2 -d 8.8.8.8 --sport 40000 --dport 443"
			if v := d.Verdict; v.Confidence != report.Reconstructed || len(d.Findings) != 1 || strings.Join(d.Findings[0].Fix, "; ") != fix {
				t.Errorf("%s, findings %+v; want the fix %q", v.Confidence, d.Findings, fix)
			}
		})
	}
}
