package diagnose_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

var request = packet.Tuple{
	Proto: packet.TCP, Src: netip.MustParseAddr("172.17.0.2"), Dst: netip.MustParseAddr("198.51.100.1"), SrcPort: 40000, DstPort: 50000,
}

// judge diagnoses a path from cnt01 over the host, both of which were watched
// without a loss.
func judge(p *path.Path, change ...func(*diagnose.Input)) diagnose.Diagnosis {
	all := map[string]bool{"cnt01": true, topology.HostName: true, "gateway": true}
	in := diagnose.Input{
		Path: p, Probe: path.Probe{NetNS: "cnt01", Tuple: request}, Waited: 5 * time.Second,
		Topology: &topology.Snapshot{Target: request.Dst, Source: "cnt01", Namespaces: []topology.Namespace{
			{Name: "cnt01"}, {Name: topology.HostName}, {Name: "gateway"},
		}},
		Sensors: diagnose.Sensors{Captured: all, Traced: all},
	}
	for _, c := range change {
		c(&in)
	}
	return diagnose.Diagnose(in)
}

func dropped(rule report.Rule, t packet.Tuple) path.End {
	return path.End{Kind: path.Dropped, NetNS: topology.HostName, Hook: ruletrace.Forward, Verdict: ruletrace.Drop, Rule: &rule, Tuple: t}
}

func TestFixNamesTheServicePort(t *testing.T) {
	nft := report.Rule{Backend: "nft", Family: "ip", Table: "filter", Chain: "forward", Handle: 7}
	legacy := report.Rule{Backend: "iptables-legacy", Family: "ip", Table: "filter", Chain: "FORWARD", Number: 3}
	answered := path.Answer{Kind: path.Reply}
	for _, tt := range []struct {
		name string
		path path.Path
		want string
	}{
		{
			"request, nft",
			path.Path{Request: path.Leg{End: dropped(nft, request)}},
			"nft insert rule ip filter forward handle 7 ip saddr 172.17.0.2 ip daddr 198.51.100.1 tcp dport 50000 accept",
		}, {
			"answer, nft",
			path.Path{Answer: answered, Reply: path.Leg{End: dropped(nft, request.Inverse())}},
			"nft insert rule ip filter forward handle 7 ip saddr 198.51.100.1 ip daddr 172.17.0.2 tcp sport 50000 accept",
		}, {
			"request, iptables",
			path.Path{Request: path.Leg{End: dropped(legacy, request)}},
			"iptables-legacy -I FORWARD 3 -s 172.17.0.2 -d 198.51.100.1 -p tcp --dport 50000 -j ACCEPT",
		}, {
			"answer, iptables",
			path.Path{Answer: answered, Reply: path.Leg{End: dropped(legacy, request.Inverse())}},
			"iptables-legacy -I FORWARD 3 -s 198.51.100.1 -d 172.17.0.2 -p tcp --sport 50000 -j ACCEPT",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			findings := judge(&tt.path).Findings
			if len(findings) != 1 || len(findings[0].Fix) != 1 || findings[0].Fix[0] != tt.want {
				t.Errorf("got %+v, want the fix %q", findings, tt.want)
			}
		})
	}
}

// The kernel takes any name for a chain, and a fix is there to be pasted.
func TestNoFixWithANameThatIsACommand(t *testing.T) {
	for _, name := range []string{"x; reboot", "$(reboot)", "x\nreboot", "-x", ""} {
		p := path.Path{Request: path.Leg{End: dropped(report.Rule{Backend: "nft", Family: "ip", Table: "t", Chain: name, Handle: 7}, request)}}
		got := judge(&p)
		if got.Verdict.Code != diagnose.FilterDrop || len(got.Findings) != 0 {
			t.Errorf("chain %q: got verdict %s and findings %+v, want no fix", name, got.Verdict.Code, got.Findings)
		}
	}
}

func TestQueued(t *testing.T) {
	rule := report.Rule{Backend: "nft", Family: "ip", Table: "ids", Chain: "forward", Text: "queue to 3"}
	p := path.Path{Request: path.Leg{End: path.End{
		Kind: path.Vanished, NetNS: topology.HostName, Interface: "br0", Hook: ruletrace.Forward, Verdict: ruletrace.Queue, Rule: &rule,
	}}}
	v := judge(&p).Verdict
	if v.Code != diagnose.Queued || v.Rule == nil || v.Hook != "forward" || !strings.Contains(v.Summary, "chain ip ids forward") {
		t.Errorf("got %+v, want the rule that queued it", v)
	}
}

func TestBlindBehindTheLastSighting(t *testing.T) {
	p := path.Path{Request: path.Leg{End: path.End{
		Kind: path.Vanished, NetNS: topology.HostName, Interface: "ens192", Next: "gateway/zTrust", NextNetNS: "gateway",
	}}}
	if v := judge(&p).Verdict; v.Code != diagnose.KernelDrop {
		t.Errorf("with all sensors alive: got %s", v.Code)
	}
	v := judge(&p, func(in *diagnose.Input) {
		in.Sensors.Captured = map[string]bool{"cnt01": true, topology.HostName: true}
	}).Verdict
	if v.Outcome != report.Inconclusive || v.Confidence != report.Assumed || !strings.Contains(v.Summary, "capture in gateway") {
		t.Errorf("got %+v, want inconclusive because of the gateway's capture", v)
	}
}

// refusal is an ICMP error of the gateway that came back to the source.
func refusal(by string, kind, code uint8) path.Path {
	first := capture.Sighting{Header: packet.Header{Tuple: packet.Tuple{
		Proto: packet.ICMP, Src: netip.MustParseAddr("192.0.2.1"), Dst: request.Src, ICMPType: kind, ICMPCode: code,
	}}}
	return path.Path{
		Request: path.Leg{End: path.End{Kind: path.Vanished, NetNS: "gateway", Interface: "zTrust", Tuple: request}},
		Reply:   path.Leg{First: &first, Last: &first, End: path.End{Kind: path.Delivered, NetNS: "cnt01"}},
		Answer:  path.Answer{Kind: path.Error, By: first.Header.Tuple.Src, NetNS: by, Text: path.ErrorText(first.Header.Tuple)},
	}
}

func TestRefused(t *testing.T) {
	table := func(change func(*topology.Namespace)) func(*diagnose.Input) {
		return func(in *diagnose.Input) {
			ns := in.Topology.Namespace("gateway")
			ns.Policy = []topology.Policy{{Priority: 32766, Action: "lookup", Table: 254, SuppressPrefix: -1, SuppressGroup: -1}}
			change(ns)
		}
	}
	route := func(kind string) func(*diagnose.Input) {
		return table(func(ns *topology.Namespace) {
			ns.Routes = []topology.Route{{Destination: netip.MustParsePrefix("198.51.100.0/24"), Table: 254, Type: kind, Text: kind + " 198.51.100.0/24"}}
		})
	}
	rule := func(mark uint32) func(*diagnose.Input) {
		return table(func(ns *topology.Namespace) {
			ns.Policy = append([]topology.Policy{{Action: "prohibit", MarkMask: mark, SuppressPrefix: -1, SuppressGroup: -1, Text: "from all prohibit"}}, ns.Policy...)
		})
	}
	tests := []struct {
		name       string
		by         string
		kind, code uint8
		change     func(*diagnose.Input)
		want, says string
	}{
		{"prohibit route", "gateway", 3, 13, route("prohibit"), diagnose.RouteBlackhole, `got no further than gateway: its route "prohibit 198.51.100.0/24" prohibits it.`},
		{"unreachable route", "gateway", 3, 1, route("unreachable"), diagnose.RouteBlackhole, "unreachable 198.51.100.0/24"},
		{"policy rule", "gateway", 3, 13, rule(0), diagnose.RouteBlackhole, "from all prohibit"},
		{"policy rule for a mark that it may have", "gateway", 3, 13, func(in *diagnose.Input) {
			rule(1)(in)
			in.Sensors.Traced = nil
		}, diagnose.FilterRejected, "administratively prohibited"},
		{"neighbour", "gateway", 3, 1, route("unicast"), diagnose.Neighbour, "gateway (192.0.2.1) answered: host unreachable"},
		{"somebody else's router", "", 3, 1, route("unreachable"), diagnose.Neighbour, "192.0.2.1, beyond what is visible, answered"},
		{"the host", topology.HostName, 3, 0, route("unicast"), diagnose.NoRoute, "The host (192.0.2.1) answered"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := refusal(tt.by, tt.kind, tt.code)
			v := judge(&p, tt.change).Verdict
			if v.Outcome != report.Rejected || v.Code != tt.want || !strings.Contains(v.Summary, tt.says) {
				t.Errorf("got %s %s: %s\nwant %s: …%s…", v.Outcome, v.Code, v.Summary, tt.want, tt.says)
			}
		})
	}
}

func TestNoRouteIsSaidOnlyWhenSure(t *testing.T) {
	unseen := path.Path{Request: path.Leg{End: path.End{Kind: path.Unseen}}}
	policy := func(p ...topology.Policy) func(*diagnose.Input) {
		return func(in *diagnose.Input) { in.Topology.Namespace("cnt01").Policy = p }
	}
	if v := judge(&unseen, policy()).Verdict; v.Code != diagnose.NoDefaultRoute || v.Confidence != report.Assumed {
		t.Errorf("without a route: got %s, %s", v.Code, v.Confidence)
	}
	prohibit := topology.Policy{Action: "prohibit", SuppressPrefix: -1, SuppressGroup: -1}
	if v := judge(&unseen, policy(prohibit)).Verdict; v.Code != diagnose.RouteBlackhole {
		t.Errorf("with a policy rule that prohibits: got %s", v.Code)
	}
	byUser := topology.Policy{Action: "lookup", Table: 7, UIDs: &[2]uint32{0, 0}, SuppressPrefix: -1, SuppressGroup: -1}
	if v := judge(&unseen, policy(byUser)).Verdict; v.Code != diagnose.NotSeen {
		t.Errorf("with a policy rule that asks for the user: got %s", v.Code)
	}
}

// What is not visible may translate, too.
func TestNothingIsClaimedBeyondWhatIsVisible(t *testing.T) {
	left := path.Path{Request: path.Leg{End: path.End{Kind: path.Left, NetNS: topology.HostName, Interface: "ens192"}}}
	v := judge(&left).Verdict
	want := "The request left the host at ens192 with its addresses unchanged and no answer came back within 5s; what lies beyond is not visible."
	if v.Code != diagnose.NoReply || v.Summary != want {
		t.Errorf("got %s: %s\nwant %s", v.Code, v.Summary, want)
	}
	left.Request.End.CopyDropped = &report.Rule{Family: "ip", Table: "filter", Chain: "FORWARD"}
	if v := judge(&left).Verdict; !strings.Contains(v.Summary, "a rule of chain ip filter FORWARD dropped it or a copy of it") {
		t.Errorf("the drop of a copy is not told: %s", v.Summary)
	}
}

func TestReversePathFilter(t *testing.T) {
	p := path.Path{Request: path.Leg{End: path.End{
		Kind: path.Vanished, NetNS: topology.HostName, Interface: "br0", Next: "the routing of host", WayBack: "172.17.0.0/16 dev tun0",
	}}}
	v := judge(&p).Verdict
	if v.Code != diagnose.RPFilter || v.Confidence != report.Reconstructed || !strings.Contains(v.Summary, "(172.17.0.0/16 dev tun0)") {
		t.Errorf("got %+v, want the reverse path filter", v)
	}
}

func TestFamilyOfTheRule(t *testing.T) {
	for family, want := range map[string]string{
		"ip": diagnose.FilterDrop, "bridge": diagnose.BridgeFiltered, "netdev": diagnose.IngressFiltered,
	} {
		p := path.Path{Request: path.Leg{End: dropped(report.Rule{Backend: "nft", Family: family, Table: "t", Chain: "c", Handle: 7}, request)}}
		if v := judge(&p).Verdict; v.Code != want {
			t.Errorf("a rule of family %s: got %s, want %s", family, v.Code, want)
		}
	}
}

// A fix that is for another namespace must not run on the host.
func TestFixRunsInItsNamespace(t *testing.T) {
	end := dropped(report.Rule{Backend: "nft", Family: "ip", Table: "filter", Chain: "forward", Handle: 7}, request)
	end.NetNS = "gateway"
	p := path.Path{Request: path.Leg{End: end}}
	if got := judge(&p).Findings; len(got) != 0 {
		t.Errorf("got %+v for a namespace that no command leads into", got)
	}
	got := judge(&p, func(in *diagnose.Input) { in.Enter = map[string]string{"gateway": "ip netns exec gateway"} }).Findings
	if len(got) != 1 || !strings.HasPrefix(got[0].Fix[0], "ip netns exec gateway nft insert rule") {
		t.Errorf("got %+v, want a fix in the gateway", got)
	}
}

func TestRoutingLoop(t *testing.T) {
	p := refusal("gateway", 11, 0)
	there := []report.Hop{
		{NetNS: "cnt01", Interface: "eth0", Direction: "egress"},
		{NetNS: "gateway", Interface: "zTrust", Direction: "ingress"},
		{NetNS: "gateway", Interface: "zTrust", Direction: "egress"},
		{NetNS: topology.HostName, Interface: "up0", Direction: "ingress"},
		{NetNS: topology.HostName, Interface: "up0", Direction: "egress"},
	}
	p.Request.Hops = there
	if v := judge(&p).Verdict; v.Code != diagnose.TTLExpired {
		t.Errorf("without a circle: got %s", v.Code)
	}
	p.Request.Hops = append(there, there[1:]...)
	v := judge(&p).Verdict
	if v.Code != diagnose.RoutingLoop || !strings.Contains(v.Summary, "by way of gateway and the host until its TTL had run out; 192.0.2.1 answered: TTL exceeded") {
		t.Errorf("got %s: %s", v.Code, v.Summary)
	}
}

func TestDropThatTheTablesExplain(t *testing.T) {
	p := path.Path{Request: path.Leg{End: path.End{
		Kind: path.Vanished, NetNS: "gateway", Interface: "zTrust", Next: "an outgoing interface of gateway", Parked: true, Tuple: request,
		Drop: &skbdrop.Drop{NetNS: "gateway", Reason: skbdrop.NotSpecified, Function: "ip_error"},
	}}}
	v := judge(&p, func(in *diagnose.Input) {
		ns := in.Topology.Namespace("gateway")
		ns.Policy = []topology.Policy{{Action: "lookup", Table: 254, SuppressPrefix: -1, SuppressGroup: -1}}
		ns.Routes = []topology.Route{{Destination: netip.MustParsePrefix("198.51.100.0/24"), Table: 254, Type: "blackhole", Text: "blackhole 198.51.100.0/24"}}
	}).Verdict
	if v.Code != diagnose.RouteBlackhole || v.Mechanism != "NOT_SPECIFIED@ip_error" || !strings.HasSuffix(v.Summary, `its route "blackhole 198.51.100.0/24" throws it away in silence.`) {
		t.Errorf("got %s: %s", v.Code, v.Summary)
	}
}
