package diagnose

import (
	"fmt"
	"strings"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// filtered judges a packet that a rule or a policy dropped or rejected.
func filtered(in *Input, leg string, l *path.Leg) report.Verdict {
	end := &l.End
	v := report.Verdict{
		Outcome: report.Dropped, Leg: leg, Code: FilterDrop, Confidence: report.Observed,
		NetNS: end.NetNS, Interface: end.Interface, Hook: string(end.Hook), Rule: end.Rule, Evidence: end.Evidence,
	}
	what := "The request"
	if leg == "reply" {
		what = "The answer"
	}
	place := fmt.Sprintf("%s in %s", where(end.NetNS), end.Hook)
	chain := fmt.Sprintf("%s %s %s", end.Rule.Family, end.Rule.Table, end.Rule.Chain)
	switch {
	case end.Policy:
		v.Code = FilterPolicyDrop
		v.Summary = fmt.Sprintf("%s was dropped %s by the policy of chain %s: no rule there accepted it.", what, place, chain)
	case end.Verdict == ruletrace.Reject:
		v.Outcome, v.Code = report.Rejected, FilterRejected
		v.Summary = fmt.Sprintf("%s was rejected %s by a rule of chain %s%s.", what, place, chain, answered(in, leg))
	default:
		v.Summary = fmt.Sprintf("%s was dropped %s by a rule of chain %s.", what, place, chain)
	}
	if end.Rule.Family == "bridge" || end.Bridged {
		v.Code = BridgeFiltered
	}
	if leg == "request" && in.Path.Request.First != nil && in.Path.Reply.Last != nil {
		v.Elapsed = in.Path.Reply.Last.Time.Sub(in.Path.Request.First.Time)
	}
	return v
}

// answered says what the rejecting host told the sender.
func answered(in *Input, leg string) string {
	if leg != "request" || in.Path.Answer.Kind == path.None {
		return "; no error message was seen to come back"
	}
	return fmt.Sprintf(", which answered: %s", in.Path.Answer.Text)
}

func where(netns string) string {
	if netns == topology.HostName {
		return "on the host"
	}
	return "in " + netns
}

// filterFinding proposes the rule that lets the packet pass: in front of the
// one that dropped it, in the syntax of that rule's owner. An accept anywhere
// else would not help, since a later table may still drop.
func filterFinding(in *Input, v *report.Verdict) (report.Finding, bool) {
	leg := &in.Path.Request
	if v.Leg == "reply" {
		leg = &in.Path.Reply
	}
	if v.Rule == nil || leg.End.Kind != path.Dropped {
		return report.Finding{}, false
	}
	f := report.Finding{
		Code: v.Code, Severity: "error", Evidence: v.Evidence,
		Summary: "If this traffic is meant to pass, accept it before that rule:",
		Fix:     []string{enter(in, v.NetNS) + accept(v.Rule, leg.End.Policy, leg.End.Tuple)},
	}
	if leg.End.Policy {
		f.Summary = "If this traffic is meant to pass, accept it and its answers in that chain:"
		f.Fix = append(f.Fix, enter(in, v.NetNS)+acceptAnswers(v.Rule))
	}
	return f, true
}

func enter(in *Input, netns string) string {
	if prefix := in.Enter[netns]; prefix != "" {
		return prefix + " "
	}
	return ""
}

// accept is the command that accepts a packet with the tuple before the rule,
// or at the end of the chain where its policy dropped it.
func accept(r *report.Rule, policy bool, t packet.Tuple) string {
	if r.Backend == string(ruletrace.NFT) {
		family := addressFamily(t.Src)
		match := fmt.Sprintf("%s saddr %s %s daddr %s %s accept", family, t.Src, family, t.Dst, nftProto(t))
		if policy || r.Handle == 0 {
			return fmt.Sprintf("nft add rule %s %s %s %s", r.Family, r.Table, r.Chain, match)
		}
		return fmt.Sprintf("nft insert rule %s %s %s handle %d %s", r.Family, r.Table, r.Chain, r.Handle, match)
	}
	match := fmt.Sprintf("-s %s -d %s -p %s%s -j ACCEPT", t.Src, t.Dst, t.Proto, iptablesPorts(t))
	if policy || r.Number == 0 {
		return fmt.Sprintf("%s%s -A %s %s", iptables(r), tableOption(r), r.Chain, match)
	}
	return fmt.Sprintf("%s%s -I %s %d %s", iptables(r), tableOption(r), r.Chain, r.Number, match)
}

// acceptAnswers is the command that accepts the answers to accepted flows.
func acceptAnswers(r *report.Rule) string {
	if r.Backend == string(ruletrace.NFT) {
		return fmt.Sprintf("nft add rule %s %s %s ct state established,related accept", r.Family, r.Table, r.Chain)
	}
	return fmt.Sprintf("%s%s -A %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", iptables(r), tableOption(r), r.Chain)
}

// nftProto matches the protocol and, where there is one, the port that the
// service has: the lower one, since the other is chosen at random.
func nftProto(t packet.Tuple) string {
	name := map[packet.Proto]string{packet.ICMPv6: "ipv6-icmp"}[t.Proto]
	if name == "" {
		name = t.Proto.String()
	}
	switch {
	case t.SrcPort == 0 && t.DstPort == 0:
		return "meta l4proto " + name
	case t.SrcPort < t.DstPort:
		return fmt.Sprintf("%s sport %d", name, t.SrcPort)
	}
	return fmt.Sprintf("%s dport %d", name, t.DstPort)
}

func iptablesPorts(t packet.Tuple) string {
	switch {
	case t.SrcPort == 0 && t.DstPort == 0:
		return ""
	case t.SrcPort < t.DstPort:
		return fmt.Sprintf(" --sport %d", t.SrcPort)
	}
	return fmt.Sprintf(" --dport %d", t.DstPort)
}

// iptables is the variant of the tool that owns the rule.
func iptables(r *report.Rule) string {
	name := "iptables"
	if r.Family == "ip6" {
		name = "ip6tables"
	}
	return name + strings.TrimPrefix(r.Backend, "iptables")
}

func tableOption(r *report.Rule) string {
	if r.Table == "filter" {
		return ""
	}
	return " -t " + r.Table
}
