package diagnose

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/owner"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// byOwner is how a packet that rules of a program dropped is let pass by the means
// of that program, in words and commands: what it writes itself it keeps, and what
// others write into its chains is lost when it starts or reloads. The advice is
// empty where it is not certain that the packet passes then.
func byOwner(in *Input, v *report.Verdict, leg *path.Leg) (advice string, fix []string) {
	way := &owned{in: in, verdict: v, leg: leg}
	for _, of := range []func(*owned) (string, []string){(*owned).ufw, (*owned).docker, (*owned).firewalld} {
		if advice, fix = of(way); advice != "" {
			break
		}
	}
	return advice, fix
}

// owned is a packet that a rule or a policy dropped.
type owned struct {
	in      *Input
	verdict *report.Verdict
	leg     *path.Leg
}

// inIPTables reports whether what dropped the packet is in iptables' table filter.
func (o *owned) inIPTables() bool {
	return o.verdict.Rule.Table == "filter" && strings.HasPrefix(o.verdict.Rule.Backend, "iptables")
}

// called reports whether the packet was in a chain of the table in which it ended.
func (o *owned) called(chain string) bool {
	for i := range o.leg.Hops {
		for k := range o.leg.Hops[i].Steps {
			r := o.leg.Hops[i].Steps[k].Rule
			if o.leg.Hops[i].NetNS == o.verdict.NetNS && r != nil && r.Backend == o.verdict.Rule.Backend && r.Family == o.verdict.Rule.Family &&
				r.Table == o.verdict.Rule.Table && (r.Chain == chain || strings.HasSuffix(r.Text, " -j "+chain)) {
				return true
			}
		}
	}
	return false
}

// docker: rules in DOCKER-USER are the administrator's. The packet was there before
// Docker's own rules, or the policy behind them, dropped it.
func (o *owned) docker() (advice string, fix []string) {
	const user = "DOCKER-USER"
	r := o.verdict.Rule
	if r.Owner.Tool == owner.Docker && strings.HasPrefix(r.Owner.Purpose, "INTERNAL NETWORK") {
		return "The network was made with --internal, so that it leads nowhere else, and what leaves it is not translated. A container that is meant to reach others takes a second network: docker network connect.", []string{}
	}
	if !o.inIPTables() || r.Owner.Tool != owner.Docker && !o.leg.End.Policy || r.Chain == user || !o.called(user) {
		return "", nil
	}
	there := report.Rule{Backend: r.Backend, Family: r.Family, Table: r.Table, Chain: user}
	fix, what := []string{enter(o.in, o.verdict.NetNS) + accept(&there, true, o.leg.End.Tuple, o.verdict.Leg)}, "it"
	if o.verdict.Leg == "request" { // what keeps networks apart drops both directions
		fix, what = append(fix, enter(o.in, o.verdict.NetNS)+acceptAnswers(&there, o.leg.End.Tuple)), "it and its answers"
	}
	return fmt.Sprintf("If this traffic is meant to pass, accept %s in %s, which Docker asks first and leaves alone:", what, user), fix
}

// ufw: the rules that its command adds are in ufw-user-forward and the like. Those
// of its files are before them, answers among them.
func (o *owned) ufw() (advice string, fix []string) {
	r := o.verdict.Rule
	words := map[string]string{"forward": "route prepend allow", "input": "prepend allow", "output": "prepend allow out"}[o.verdict.Hook]
	user := "ufw-user-" + o.verdict.Hook
	if r.Family == "ip6" {
		user = "ufw6-user-" + o.verdict.Hook
	}
	if words == "" || !o.inIPTables() || !o.onHost() || o.verdict.Leg != "request" || r.Owner.Tool != owner.UFW && !o.leg.End.Policy || !o.called(user) {
		return "", nil
	}
	t := o.leg.End.Tuple
	proto, port := "", "" // ufw knows no ICMP
	if t.Proto == packet.TCP || t.Proto == packet.UDP {
		proto, port = fmt.Sprintf("proto %s ", t.Proto), fmt.Sprintf(" port %d", t.DstPort)
	}
	return "If this traffic is meant to pass, have ufw allow it:",
		[]string{fmt.Sprintf("ufw %s %sfrom %s to %s%s", words, proto, t.Src, t.Dst, port)}
}

// firewalldChain are the chains of a zone since version 1.0, in which forwarded
// packets belong to the zone of the interface that they came in by. Before those
// that end in pre a command gets nothing for certain.
var firewalldChain = regexp.MustCompile(`^filter_(?:IN|FWD)_.*$`)

// firewalld: a rich rule lets a packet into the zone before the zone's other rules.
// What is forwarded takes a policy; of one for single zones firewalld makes no rules
// unless it was told of an interface in them, the default zone among them.
func (o *owned) firewalld() (advice string, fix []string) {
	r, t := o.verdict.Rule, o.leg.End.Tuple
	zone := r.Owner.Zone
	if r.Owner.Tool != owner.Firewalld || !o.onHost() || !plainName.MatchString(zone) || !firewalldChain.MatchString(r.Chain) || strings.HasSuffix(r.Chain, "_pre") {
		return "", nil
	}
	rule := fmt.Sprintf(`rule priority="-1" family="%s" source address="%s" destination address="%s" %s accept`,
		map[bool]string{true: "ipv6", false: "ipv4"}[t.Src.Is6()], t.Src, t.Dst, richProto(t, o.verdict.Leg))
	if o.verdict.Hook == "input" {
		return "If this traffic is meant to pass, have firewalld accept it, with --permanent once more to keep it:",
			[]string{fmt.Sprintf("firewall-cmd --zone=%s --add-rich-rule='%s'", zone, rule)}
	}
	const policy = "firewall-cmd --permanent --policy=pathtrace"
	return "If this traffic is meant to pass, have firewalld accept it by a policy. What it was told without --permanent is forgotten then:",
		[]string{
			"firewall-cmd --permanent --new-policy=pathtrace",
			policy + " --add-ingress-zone=ANY",
			policy + " --add-egress-zone=ANY",
			fmt.Sprintf("%s --add-rich-rule='%s'", policy, rule),
			"firewall-cmd --reload",
		}
}

// richProto matches the protocol and the service's port in firewalld's language of
// rich rules.
func richProto(t packet.Tuple, leg string) string {
	switch {
	case t.Proto == packet.ICMPv6:
		return `protocol value="ipv6-icmp"`
	case t.SrcPort == 0 && t.DstPort == 0:
		return fmt.Sprintf(`protocol value="%s"`, t.Proto)
	case leg == "reply":
		return fmt.Sprintf(`source-port port="%d" protocol="%s"`, t.SrcPort, t.Proto)
	}
	return fmt.Sprintf(`port port="%d" protocol="%s"`, t.DstPort, t.Proto)
}

// onHost reports whether the packet ended on the host, whose files the programs
// read.
func (o *owned) onHost() bool { return o.verdict.NetNS == topology.HostName }

// lasting warns of what becomes of a rule that is put into a chain of a program's.
// Those that iptables always has are for all.
func lasting(r *report.Rule) string {
	if r.Owner.Tool == "" || slices.Contains([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}, r.Chain) {
		return ""
	}
	return fmt.Sprintf(" (%s writes that chain anew when it starts or reloads)", r.Owner.Name())
}
