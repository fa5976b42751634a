package diagnose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// The kernel's reasons for what programs and filters at a link drop
// (include/net/dropreason-core.h), and the function that drops for a program of
// the generic form, for which there is no reason (TestReasons).
const (
	genericXDP      = "do_xdp_generic"
	reasonXDP       = "XDP"
	reasonTCIngress = "TC_INGRESS"
	reasonTCEgress  = "TC_EGRESS"
)

// gate is a link at which a packet ended.
type gate struct {
	ns   *topology.Namespace
	link *topology.Link
}

// dropGate is the link at which the kernel dropped a packet for that reason, or
// in that function; nil when it did not say so.
func (s *scene) dropGate(words ...string) *gate {
	d := s.end.Drop
	if d == nil || !slices.Contains(words, d.Reason) && !slices.Contains(words, d.Function) {
		return nil
	}
	ns := s.now(d.NetNS)
	if ns == nil {
		return nil
	}
	i := slices.IndexFunc(ns.Links, func(l topology.Link) bool { return l.Index == d.Interface })
	if i < 0 {
		return nil
	}
	return &gate{ns, &ns.Links[i]}
}

// xdpDropped: a program at the entrance of a link dropped the packet before
// anything else saw it. The kernel says so; where it tells nothing, the other
// end of the wire saw the packet leave and this one did not see it come, and
// nothing else stands between the two.
func xdpDropped(s *scene) *cause {
	g, confidence := s.dropGate(reasonXDP, genericXDP), report.Observed
	if g == nil && s.end.Drop == nil {
		g, confidence = s.entrance(), report.Reconstructed
	}
	if g == nil || g.link.XDP == nil {
		return nil
	}
	program := programText(g.link.XDP)
	c := &cause{
		code: XDPDrop, outcome: report.Dropped, confidence: confidence, netns: g.ns.Name, iface: g.link.Name,
		summary: fmt.Sprintf("%s was dropped %s by an XDP program at %s (%s), before anything else saw it there.",
			s.what(), where(g.ns.Name), g.link.Name, program),
		evidence: []string{s.fact("link", g.ns.Name, "%s: %s", g.link.Name, program)},
		advice:   fmt.Sprintf("The program at %s decides, and whoever loaded it can change what it drops.", g.link.Name),
	}
	if confidence == report.Reconstructed {
		c.summary = fmt.Sprintf("%s was seen to leave %s and did not arrive at %s of %s: an XDP program is there (%s), which gets a packet before anything else sees it.",
			s.what(), the(s.end.NetNS), g.link.Name, the(g.ns.Name), program)
	}
	if plainName.MatchString(g.link.Name) {
		if line, ok := s.command(g.ns.Name, "ip link set dev %s %s off", g.link.Name, g.link.XDP.Mode); ok {
			c.advice += " To take it off:"
			c.fix = []string{line}
		}
	}
	return c
}

// entrance is the link that a packet was sent to over a wire, in a namespace
// that was watched, and that did not see it; nil when the packet ended
// otherwise, or the link cannot receive.
func (s *scene) entrance() *gate {
	if s.end.Kind != path.Vanished || s.end.NextNetNS == "" || !s.in.Sensors.Captured[s.end.NextNetNS] || !s.in.Sensors.Captured[s.end.NetNS] {
		return nil
	}
	out, ns := s.now(s.end.NetNS).Link(s.end.Interface), s.now(s.end.NextNetNS)
	if out == nil || out.Peer == nil || out.Peer.NetNS != s.end.NextNetNS {
		return nil
	}
	in, before := ns.Link(out.Peer.Interface), s.before(s.end.NextNetNS).Link(out.Peer.Interface)
	if in == nil || !in.Up || !in.Carrier || before == nil || before.XDP == nil {
		return nil
	}
	return &gate{ns, in}
}

func programText(p *topology.XDP) string {
	text := fmt.Sprintf("%s, program %d", p.Mode, p.ID)
	if p.Name != "" {
		text += " " + p.Name
	}
	return text
}

// ingressFiltered: the kernel says that a filter of tc at a link dropped the
// packet, or a chain at a device did of which the trace did not tell. A rule of
// such a chain that was traced is the sensors' own verdict.
func ingressFiltered(s *scene) *cause {
	if c := s.deviceChain(); c != nil {
		return c
	}
	for reason, egress := range map[string]bool{reasonTCIngress: false, reasonTCEgress: true} {
		if g := s.dropGate(reason); g != nil {
			return s.filteredAt(g, egress, report.Observed)
		}
	}
	return nil
}

// filterCounted: the packet ended at a link whose filters of tc dropped a packet
// meanwhile, and the kernel told no reason. The counter may be another packet's,
// so whatever else is proven comes first.
func filterCounted(s *scene) *cause {
	if s.end.Drop != nil || s.end.Kind != path.Vanished && s.end.Kind != path.Unseen {
		return nil
	}
	if g := s.countedIn(); g != nil {
		return s.filteredAt(g, false, report.Reconstructed)
	}
	if g := s.countedOut(); g != nil {
		return s.filteredAt(g, true, report.Reconstructed)
	}
	return nil
}

// filteredAt says that filters of a link dropped the packet.
func (s *scene) filteredAt(g *gate, egress bool, confidence report.Confidence) *cause {
	way, side := "came in by", "ingress"
	if egress {
		way, side = "was to leave by", "egress"
	}
	filters := filtersOf(g.link, egress)
	c := &cause{
		code: IngressFiltered, outcome: report.Dropped, confidence: confidence, netns: g.ns.Name, iface: g.link.Name,
		summary: fmt.Sprintf("%s was dropped %s by traffic control (tc) at %s, which it %s, outside of all firewall rules.",
			s.what(), where(g.ns.Name), g.link.Name, way),
		advice: "What tc filters there is not to be seen from here: look with \"tc filter show\" and \"bpftool net\".",
	}
	for _, f := range filters {
		c.evidence = append(c.evidence, s.fact("filter", g.ns.Name, "%s %s: %s", g.link.Name, side, f.Text))
	}
	if grown := s.dropsGrown(g); grown > 0 {
		c.evidence = append(c.evidence, s.fact("counter", g.ns.Name, "tc filters of %s dropped + %d", g.link.Name, grown))
	}
	switch len(filters) {
	case 0:
	case 1:
		c.summary += fmt.Sprintf(" One filter is there: %s.", filters[0].Text)
		c.advice = fmt.Sprintf("If this traffic is meant to pass, change that filter where it is set up (%q).", filters[0].Text)
		line, ok := s.command(g.ns.Name, "tc filter del dev %s %s pref %d", g.link.Name, side, filters[0].Preference)
		if ok && filters[0].Preference != 0 && plainName.MatchString(g.link.Name) {
			c.advice += " To remove it:"
			c.fix = []string{line}
		}
	default:
		var texts []string
		for _, f := range filters {
			texts = append(texts, f.Text)
		}
		c.summary += fmt.Sprintf(" Which of these filters did it is not known: %s.", strings.Join(texts, "; "))
		c.advice = fmt.Sprintf("If this traffic is meant to pass, find the filter that drops it (tc -s filter show dev %s %s) and change it where it is set up.", g.link.Name, side)
	}
	return c
}

func filtersOf(link *topology.Link, egress bool) []topology.Filter {
	var all []topology.Filter
	for _, f := range link.Filters {
		if f.Egress == egress {
			all = append(all, f)
		}
	}
	return all
}

// dropsGrown is by how much the filters of a link dropped more packets than
// before the probe.
func (s *scene) dropsGrown(g *gate) uint64 {
	before, now := s.before(g.ns.Name).Link(g.link.Name), s.now(g.ns.Name).Link(g.link.Name)
	if before == nil || now == nil || now.FilterDrops < before.FilterDrops {
		return 0
	}
	return now.FilterDrops - before.FilterDrops
}

// countedIn is the link that a packet came in by and went no further from, whose
// filters dropped some packet meanwhile. It is nil where something shows that
// the packet was past them.
func (s *scene) countedIn() *gate {
	hop := s.lastHop()
	if hop == nil || hop.Direction != capture.Ingress.String() || s.end.Kind != path.Vanished || s.end.NextNetNS != "" {
		return nil
	}
	past := func(step report.Step) bool {
		return step.Kind != "drop" && step.Hook != string(ruletrace.IngressHook) && step.Confidence == report.Observed
	}
	ns := s.now(s.end.NetNS)
	link := ns.Link(hop.Interface)
	if link == nil || slices.ContainsFunc(hop.Steps, past) {
		return nil
	}
	g := &gate{ns, link}
	if len(filtersOf(link, false)) == 0 || s.dropsGrown(g) == 0 {
		return nil
	}
	return g
}

// countedOut is the only link of the namespace where a packet ended whose
// filters of what leaves dropped some packet meanwhile.
func (s *scene) countedOut() *gate {
	netns := cmp.Or(s.end.NetNS, s.in.Probe.NetNS)
	ns := s.now(netns)
	if hop := s.lastHop(); ns == nil || s.end.NextNetNS != "" || hop != nil && hop.Direction == capture.Egress.String() && hop.Interface != "" {
		return nil
	}
	var found []*gate
	for i := range ns.Links {
		g := &gate{ns, &ns.Links[i]}
		if len(filtersOf(g.link, true)) > 0 && s.dropsGrown(g) > 0 {
			found = append(found, g)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// lastHop is the last place that the packet was seen at, nil when there is none.
func (s *scene) lastHop() *report.Hop {
	if n := len(s.path.Hops); n > 0 {
		return &s.path.Hops[n-1]
	}
	return nil
}

// deviceChain: nftables dropped the packet where it came in, no rule of any hook
// behind that was met, and one chain of nftables is asked at that device. Which
// rule it was is not known: the chain was not traced.
func (s *scene) deviceChain() *cause {
	end := s.end
	hop := s.lastHop()
	if end.Kind != path.Vanished || end.Drop == nil || end.Drop.Mechanism() != skbdrop.NetfilterDrop+"@nft_do_chain" ||
		hop == nil || hop.NetNS != end.NetNS || hop.Direction != capture.Ingress.String() {
		return nil
	}
	if slices.ContainsFunc(hop.Steps, func(step report.Step) bool { return step.Kind == "rule" || step.Kind == "policy" }) {
		return nil
	}
	var found []*ruletrace.BaseChain
	for i := range s.in.Chains[end.NetNS] {
		c := &s.in.Chains[end.NetNS][i]
		if c.Hook == ruletrace.IngressHook && slices.Contains(c.Devices, hop.Interface) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		return nil
	}
	chain := fmt.Sprintf("%s %s %s", found[0].Family, found[0].Table, found[0].Name)
	return &cause{
		code: IngressFiltered, confidence: report.Reconstructed, netns: end.NetNS, iface: hop.Interface,
		summary: fmt.Sprintf("%s was dropped %s at %s by nftables before any other rule was asked. One chain is asked there, %s; it was not traced, so which of its rules did it is not known.",
			s.what(), where(end.NetNS), hop.Interface, chain),
		evidence: []string{s.fact("chain", end.NetNS, "%s, hook ingress, device %s", chain, hop.Interface)},
		advice:   fmt.Sprintf("If this traffic is meant to pass, look for the rule that drops it in chain %s (nft list ruleset).", chain),
	}
}
