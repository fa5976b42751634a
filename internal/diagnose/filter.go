package diagnose

import (
	"fmt"
	"regexp"
	"slices"
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
	if end.Drop != nil {
		v.Mechanism = end.Drop.Mechanism()
	}
	what := "The request"
	if leg == "reply" {
		what = "The answer"
	}
	if end.Carried {
		what = "The VXLAN packet that carried " + strings.ToLower(what[:1]) + what[1:]
	}
	place := where(end.NetNS) + hooked(end)
	chain := chainOf(end.Rule)
	if o := end.Rule.Owner; o.Tool != "" {
		chain += fmt.Sprintf(" (%s)", o)
	}
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
	switch {
	case atDevice(end):
		v.Code = IngressFiltered
	case end.Rule.Family == "bridge" || end.Bridged:
		v.Code = BridgeFiltered
	}
	if leg == "request" && in.Path.Request.First != nil && in.Path.Reply.Last != nil {
		v.Elapsed = in.Path.Reply.Last.Time.Sub(in.Path.Request.First.Time)
	}
	return v
}

// atDevice reports whether a packet ended in one of the hooks at a device, which
// are before and behind all others. Tables of family inet may be asked there,
// too.
func atDevice(end *path.End) bool {
	return end.Rule != nil && end.Rule.Family == "netdev" || end.Hook == ruletrace.IngressHook || end.Hook == ruletrace.EgressHook
}

// hooked names the hook in which a packet ended, where that is known.
func hooked(end *path.End) string {
	if end.Hook == "" {
		return ""
	}
	return " in " + string(end.Hook)
}

func chainOf(r *report.Rule) string { return fmt.Sprintf("%s %s %s", r.Family, r.Table, r.Chain) }

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

// filterFinding proposes what lets the packet pass: the means of the program that
// the rule belongs to, or a rule in front of the one that dropped it, in its
// syntax. An accept anywhere else would not help, since a later table may still
// drop.
func filterFinding(in *Input, v *report.Verdict) (report.Finding, bool) {
	leg := &in.Path.Request
	if v.Leg == "reply" {
		leg = &in.Path.Reply
	}
	if v.Rule == nil || leg.End.Kind != path.Dropped && v.Code != Queued {
		return report.Finding{}, false
	}
	if !nameable(v.Rule) || v.NetNS != topology.HostName && in.Enter[v.NetNS] == "" {
		return report.Finding{}, false // pasted as it is, a command would run on the host
	}
	f := report.Finding{
		Code: v.Code, Severity: "error", Evidence: v.Evidence,
		Summary: "If this traffic is meant to pass, accept it before that rule" + lasting(v.Rule) + ":",
		Fix:     []string{enter(in, v.NetNS) + accept(v.Rule, leg.End.Policy, leg.End.Tuple, direction(v.Leg, &leg.End))},
	}
	if leg.End.Carried && leg.End.Hook == ruletrace.Forward { // the same rule meets what the other end sends
		back := leg.End.Tuple.Inverse()
		back.SrcPort, back.DstPort = 0, leg.End.Tuple.DstPort
		f.Fix = append(f.Fix, enter(in, v.NetNS)+accept(v.Rule, leg.End.Policy, back, "request"))
	}
	if f := unserved(v); f != nil {
		return *f, true
	}
	switch v.Code {
	case Queued:
		f.Summary = "Start the program that is to read the queue, or look why it drops. What needs no program is accepted before that rule:"
	case ConntrackInvalid:
		f.Summary = "Conntrack follows a flow only where it sees both directions: lead both this way, or, if the packet is to pass all the same, accept it before that rule:"
		if stateless(in, v.NetNS) {
			f.Summary = "Conntrack knows nothing of prefixes that are translated without state: to it no answer belongs to a flow. Accept what is to pass before that rule:"
		}
	}
	if leg.End.Policy && !atDevice(&leg.End) { // there answers do not come by, and flows are not known
		f.Summary = "If this traffic is meant to pass, accept it and its answers in that chain" + lasting(v.Rule) + ":"
		f.Fix = append(f.Fix, enter(in, v.NetNS)+acceptAnswers(v.Rule, leg.End.Tuple))
	}
	key := bridgeSwitch(v)
	switch {
	case key == "":
	case comesAgain(in, v):
		f.Summary = fmt.Sprintf("%s passes this on between ports of %s and routes it later: what rules for IP see of it on the bridge they take for the packet itself, and so do conntrack and NAT. Keep it from them (where nothing else needs that, as Docker's icc=false does):",
			subject(v.NetNS), bridgeName(in, v))
		f.Fix = []string{enter(in, v.NetNS) + "sysctl -w " + key + "=0"}
		return f, true // NAT would pass by what is let through here
	default:
		if v.Leg == "request" && !leg.End.Policy { // what keeps ports of one bridge apart drops both directions
			f.Fix = append(f.Fix, enter(in, v.NetNS)+accept(v.Rule, false, leg.End.Tuple.Inverse(), "reply"))
		}
		f.Summary = fmt.Sprintf("If this traffic is meant to pass, accept it there. (Where rules for IP are not to filter what a bridge passes on at all, set %s = 0.)", key)
	}
	if v.Code != Queued && v.Code != ConntrackInvalid && !leg.End.Carried {
		if advice, fix := byOwner(in, v, leg); advice != "" {
			f.Summary, f.Fix = advice, fix
		}
	}
	return f, true
}

// direction is the leg of what a rule ended: VXLAN packets are sent to the known
// port both ways.
func direction(leg string, end *path.End) string {
	if end.Carried {
		return "request"
	}
	return leg
}

// unserved is what there is to do where kube-proxy rejects what is for a service
// that no pod stands behind (writeNoEndpoints in its iptables proxier): accepting
// it would lead nowhere. It is nil for any other rule.
func unserved(v *report.Verdict) *report.Finding {
	service, ok := strings.CutSuffix(v.Rule.Comment, " has no endpoints")
	if !ok || !strings.HasPrefix(v.Rule.Chain, "KUBE-") {
		return nil
	}
	return &report.Finding{
		Code: v.Code, Severity: "error", Evidence: v.Evidence, Fix: []string{},
		Summary: fmt.Sprintf("No pod serves %s: kube-proxy rejects what is for a service without endpoints. See which pods it selects, and why none of them is ready (kubectl describe service, kubectl get endpointslices).", service),
	}
}

// bridgeSwitch is the setting that has rules for IP applied to what a bridge
// passes on, where that is why they dropped a packet; empty elsewhere.
func bridgeSwitch(v *report.Verdict) string {
	if v.Code != BridgeFiltered || v.Rule.Family == "bridge" {
		return ""
	}
	return callsRules(v.Rule.Family == "ip6")
}

// callsRules is the switch that has rules for IP asked about what bridges pass
// on.
func callsRules(ipv6 bool) string {
	if ipv6 {
		return "net.bridge.bridge-nf-call-ip6tables"
	}
	return "net.bridge.bridge-nf-call-iptables"
}

// comesAgain reports whether a request that was dropped on a bridge is also to
// be routed by the same namespace, after the machines that the bridge connects:
// by then conntrack would have its flow, as it was on the bridge, and NAT would
// pass it by.
func comesAgain(in *Input, v *report.Verdict) bool {
	return v.Leg == "request" && slices.ContainsFunc(in.Topology.Steps, func(step topology.Step) bool {
		return step.NetNS == v.NetNS && !step.Delivered && step.Route != ""
	})
}

// bridgeName is the bridge on which a packet was dropped.
func bridgeName(in *Input, v *report.Verdict) string {
	if bridge := bridgeOf(in.Topology.Namespace(v.NetNS), v.Interface); bridge != nil {
		return bridge.Name
	}
	return "a bridge"
}

// stateless reports whether the request was translated in a namespace in a way
// that conntrack does not know.
func stateless(in *Input, netns string) bool {
	return slices.ContainsFunc(in.Path.Translations, func(t report.Translation) bool {
		return t.NetNS == netns && t.Leg == "request" && (t.Kind == "nptv6" || t.Kind == "stateless")
	})
}

// plainName is what both a shell and nft take for a single word. The kernel
// takes any name, and whoever rules a namespace may give one that is a command.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*$`)

// nameable reports whether a rule's place can be written into a command.
func nameable(r *report.Rule) bool {
	return plainName.MatchString(r.Table) && plainName.MatchString(r.Chain)
}

func enter(in *Input, netns string) string {
	if prefix := in.Enter[netns]; prefix != "" {
		return prefix + " "
	}
	return ""
}

// accept is the command that accepts a packet of one leg with the tuple before
// the rule, or first in the chain where its policy dropped it: a rule at the end
// would not be met where an earlier one goes elsewhere.
func accept(r *report.Rule, policy bool, t packet.Tuple, leg string) string {
	if r.Backend == string(ruletrace.NFT) {
		family := addressFamily(t.Src)
		match := fmt.Sprintf("%s saddr %s %s daddr %s %s accept", family, t.Src, family, t.Dst, nftProto(t, leg))
		if policy || r.Handle == 0 {
			return fmt.Sprintf("nft insert rule %s %s %s %s", r.Family, r.Table, r.Chain, match)
		}
		return fmt.Sprintf("nft insert rule %s %s %s handle %d %s", r.Family, r.Table, r.Chain, r.Handle, match)
	}
	match := fmt.Sprintf("-s %s -d %s -p %s%s -j ACCEPT", t.Src, t.Dst, t.Proto, iptablesPorts(t, leg))
	if policy || r.Number == 0 {
		return fmt.Sprintf("%s%s -I %s %s", iptables(r), tableOption(r), r.Chain, match)
	}
	return fmt.Sprintf("%s%s -I %s %d %s", iptables(r), tableOption(r), r.Chain, r.Number, match)
}

// acceptAnswers is the command that accepts the answers to a packet with the
// tuple.
func acceptAnswers(r *report.Rule, t packet.Tuple) string {
	if r.Backend == string(ruletrace.NFT) {
		family := addressFamily(t.Src)
		return fmt.Sprintf("nft insert rule %s %s %s %s saddr %s %s daddr %s ct state established,related accept", r.Family, r.Table, r.Chain, family, t.Dst, family, t.Src)
	}
	return fmt.Sprintf("%s%s -I %s -s %s -d %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", iptables(r), tableOption(r), r.Chain, t.Dst, t.Src)
}

// nftProto matches the protocol and, where there is one, the service's port:
// the other one is chosen at random.
func nftProto(t packet.Tuple, leg string) string {
	name := map[packet.Proto]string{packet.ICMPv6: "ipv6-icmp"}[t.Proto]
	if name == "" {
		name = t.Proto.String()
	}
	switch {
	case t.SrcPort == 0 && t.DstPort == 0:
		return "meta l4proto " + name
	case leg == "reply":
		return fmt.Sprintf("%s sport %d", name, t.SrcPort)
	}
	return fmt.Sprintf("%s dport %d", name, t.DstPort)
}

func iptablesPorts(t packet.Tuple, leg string) string {
	switch {
	case t.SrcPort == 0 && t.DstPort == 0:
		return ""
	case leg == "reply":
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
