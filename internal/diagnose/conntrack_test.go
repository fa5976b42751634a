package diagnose_test

import (
	"maps"
	"testing"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// vanished lets the request end on the host, without a rule, while the counters
// of conntrack grew.
func (o *outward) vanished(drop *skbdrop.Drop, fill topology.Conntrack, grew map[string]uint64) {
	o.path.Request.Hops = o.path.Request.Hops[:2]
	end := &o.path.Request.End
	end.Kind, end.Interface, end.Next, end.Drop = path.Vanished, "docker0", "an outgoing interface of host", drop
	after := *o.input.Topology
	after.Namespaces = append([]topology.Namespace(nil), after.Namespaces...)
	before, now := o.input.Topology.Namespace(topology.HostName), after.Namespace(topology.HostName)
	for i := range before.Links {
		before.Links[i].Settings.ForwardIPv4 = true
	}
	before.All.ForwardIPv4, now.All.ForwardIPv4 = true, true
	before.Conntrack, now.Conntrack = fill, fill
	before.Counters, now.Counters = map[string]uint64{"conntrack_drop": 7, "conntrack_insert_failed": 3}, make(map[string]uint64)
	maps.Copy(now.Counters, before.Counters)
	for name, by := range grew {
		now.Counters[name] += by
	}
	o.input.After = &after
}

// What these need cannot be made in a namespace: the limit of the table is the
// machine's, and two packets meet at their confirmation by chance.
func TestConntrackCauses(t *testing.T) {
	t.Parallel()
	dropped := &skbdrop.Drop{NetNS: topology.HostName, Reason: skbdrop.NetfilterDrop, Function: "nf_hook_slow"}
	full, roomy := topology.Conntrack{Count: 262144, Max: 262144}, topology.Conntrack{Count: 90, Max: 262144}
	for _, test := range []struct {
		name  string
		drop  *skbdrop.Drop
		fill  topology.Conntrack
		grew  map[string]uint64
		rival []string

		code       string
		confidence report.Confidence
		fix        string
	}{
		{
			name: "full", drop: dropped, fill: full, grew: map[string]uint64{"conntrack_drop": 1},
			code: diagnose.ConntrackFull, confidence: report.Observed, fix: "sysctl -w net.netfilter.nf_conntrack_max=524288",
		}, {
			name: "full, without the kernel's record", fill: full, grew: map[string]uint64{"conntrack_drop": 1, "conntrack_early_drop": 4},
			code: diagnose.ConntrackFull, confidence: report.Reconstructed, fix: "sysctl -w net.netfilter.nf_conntrack_max=524288",
		}, {
			name: "full, and nothing was dropped for it", drop: dropped, fill: full,
			code: diagnose.KernelDrop, confidence: report.Observed,
		}, {
			name: "not full", drop: dropped, fill: roomy, grew: map[string]uint64{"conntrack_drop": 1},
			code: diagnose.KernelDrop, confidence: report.Observed,
		}, {
			name: "full, and the kernel had another reason", drop: &skbdrop.Drop{NetNS: topology.HostName, Reason: "IP_CSUM"}, fill: full,
			grew: map[string]uint64{"conntrack_drop": 1}, code: diagnose.KernelDrop, confidence: report.Observed,
		}, {
			name: "race", drop: dropped, fill: roomy, grew: map[string]uint64{"conntrack_insert_failed": 1, "conntrack_drop": 1}, rival: []string{"sighting-9", "conntrack-1"},
			code: diagnose.ConntrackRace, confidence: report.Observed,
		}, {
			name: "no other packet of the flow", drop: dropped, fill: roomy, grew: map[string]uint64{"conntrack_insert_failed": 1},
			code: diagnose.KernelDrop, confidence: report.Observed,
		}, {
			name: "another packet, and nothing failed", drop: dropped, fill: roomy, rival: []string{"sighting-9", "conntrack-1"},
			code: diagnose.KernelDrop, confidence: report.Observed,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := newOutward("172.17.0.2", "8.8.8.8")
			o.vanished(test.drop, test.fill, test.grew)
			o.path.Request.End.Rival = test.rival
			d := diagnose.Diagnose(o.input)
			if d.Verdict.Code != test.code || d.Verdict.Confidence != test.confidence {
				t.Errorf("%s, %s; want %s, %s\n%s", d.Verdict.Code, d.Verdict.Confidence, test.code, test.confidence, d.Verdict.Summary)
			}
			fix := ""
			for _, f := range d.Findings {
				for _, line := range f.Fix {
					fix += line
				}
			}
			if fix != test.fix {
				t.Errorf("fix %q, want %q", fix, test.fix)
			}
		})
	}
}

// Which rules drop a packet because it is INVALID.
func TestInvalid(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		backend ruletrace.Backend
		text    string
		state   string // as traced
		code    string
	}{
		{ruletrace.NFT, "ct state invalid drop", "", diagnose.ConntrackInvalid},
		{ruletrace.NFT, "ct state invalid drop", "invalid", diagnose.ConntrackInvalid},
		{ruletrace.NFT, `iifname "eth0" ct state invalid counter packets 1 bytes 60 drop`, "", diagnose.ConntrackInvalid},
		{ruletrace.NFT, "ct state invalid,untracked drop", "", diagnose.FilterDrop},
		{ruletrace.NFT, "ct state invalid,untracked drop", "invalid", diagnose.ConntrackInvalid},
		{ruletrace.NFT, "ct state { invalid, untracked } drop", "untracked", diagnose.FilterDrop},
		{ruletrace.NFT, "ct state vmap { invalid : drop, established : accept, related : accept }", "", diagnose.ConntrackInvalid},
		{ruletrace.NFT, "ct state vmap { invalid : drop, new : drop, established : accept }", "", diagnose.FilterDrop},
		{ruletrace.NFT, "ct state vmap { invalid : drop, new : drop, established : accept }", "new", diagnose.FilterDrop},
		{ruletrace.NFT, "ct state != { established, related } drop", "invalid", diagnose.FilterDrop},
		{ruletrace.NFT, `icmp type echo-reply drop comment "not --ctstate INVALID"`, "", diagnose.FilterDrop},
		{ruletrace.NFT, `drop comment "ct state invalid"`, "", diagnose.FilterDrop},
		{ruletrace.IPTablesLegacy, "-A FORWARD -m conntrack --ctstate INVALID -j DROP", "", diagnose.ConntrackInvalid},
		{ruletrace.IPTablesLegacy, "-A FORWARD -m state --state INVALID -j DROP", "", diagnose.ConntrackInvalid},
		{ruletrace.IPTablesNFT, "-A FORWARD -m conntrack --ctstate INVALID,NEW -j DROP", "new", diagnose.FilterDrop},
		{ruletrace.IPTablesNFT, "-A FORWARD -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP", "invalid", diagnose.FilterDrop},
		{ruletrace.IPTablesNFT, `-A FORWARD -p icmp -m comment --comment "was --ctstate INVALID" -j DROP`, "", diagnose.FilterDrop},
	} {
		o := newOutward("172.17.0.2", "8.8.8.8")
		end := &o.path.Request.End
		end.Kind, end.Hook, end.Verdict, end.State = path.Dropped, ruletrace.Forward, ruletrace.Drop, test.state
		end.Rule = &report.Rule{Backend: string(test.backend), Family: "ip", Table: "filter", Chain: "FORWARD", Text: test.text}
		v := diagnose.Diagnose(o.input).Verdict
		if v.Code != test.code {
			t.Errorf("%s with a packet %q: %s, want %s", test.text, test.state, v.Code, test.code)
		}
		if v.Rule == nil || v.Hook != "forward" {
			t.Errorf("%s: the rule is gone", test.text)
		}
	}
}
