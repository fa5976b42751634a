package path

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// The priorities of NAT in its hooks, include/uapi/linux/netfilter_ipv4.h.
const (
	destinationNAT = -100 // NF_IP_PRI_NAT_DST
	sourceNAT      = 100  // NF_IP_PRI_NAT_SRC
)

// change is one field of a packet's tuple that was rewritten during a stay.
type change struct {
	field    nat.Field
	from, to string
	// text is the change with the ICMP id where that changed too.
	text string
	// before and after are the whole tuples at both ends of the stay.
	before, after packet.Tuple
	// flow is the conntrack entry that did it, nil for stateless translation;
	// reply says that the packet goes against the flow's original direction,
	// derived that the packet was not seen on both sides of the change.
	flow           *nat.Event
	reply, derived bool
	// dropped is the kernel's record that shows the packet behind the change,
	// where that is known from it.
	dropped *skbdrop.Drop
}

// translate explains the rewriting of a stay: which field changed, by which
// rule, and how that is known. The change itself comes from the tuples before
// and after; who did it comes from the rule hit where the packet walked the
// nat chains (the first of a flow), from conntrack otherwise, and for
// translation that conntrack does not know from the content alone.
func (j *joiner) translate(leg string, t *trail, v *visit, all []element, origin bool) []element {
	before, after, ok := ends(all)
	if !ok {
		return all
	}
	dropped := t.droppedAs(v)
	if dropped != nil {
		after = dropped.Header.Tuple
	}
	seen := changes(before, after)
	flow := translatedFlow(t.flows[v.netns])
	reply := false
	if flow != nil {
		reply, _ = flow.Flow.Matches(before)
		if errorTrail(t) {
			reply = true
		}
		if origin {
			before = j.sentAs(leg, before, flow, reply)
		}
		if expected, ok := flow.Flow.Apply(before); ok && !leaves(v) {
			after = j.behind(v.netns, after, expected, all)
		}
	}
	for _, c := range changes(before, after) {
		c.dropped = dropped
		c.derived = !slices.ContainsFunc(seen, func(s change) bool { return s.text == c.text })
		if flow != nil && translates(&flow.Flow, c.field, reply) {
			c.flow, c.reply = flow, reply
		}
		if s := ruleOf(c.field, all); s != nil {
			j.byRule(leg, v, &c, s)
			continue
		}
		all = append(all, j.withoutRule(leg, v, &c))
	}
	return all
}

// sentAs returns the tuple with which a packet was made here: what its first
// rule hit or sighting shows may already be translated.
func (j *joiner) sentAs(leg string, first packet.Tuple, flow *nat.Event, reply bool) packet.Tuple {
	switch {
	case leg == "request" && j.in.Probe.Tuple.Src.IsValid():
		return j.in.Probe.Tuple
	case leg == "reply" && reply:
		sent := flow.Flow.Reply
		if after, ok := flow.Flow.Apply(sent); ok && after == first {
			return sent
		}
	}
	return first
}

// behind returns the tuple of a packet that was not seen to leave: as it was
// last seen, with what conntrack had already done to it. The destination is
// translated in prerouting or output; the source in postrouting, which such a
// packet is known to have got to only by its rule hit there, or in input. What
// is kept from conntrack is not translated.
func (j *joiner) behind(netns string, last, expected packet.Tuple, all []element) packet.Tuple {
	if slices.ContainsFunc(all, func(e element) bool { return e.step != nil && e.step.hit != nil && e.step.hit.Rule.Untracks() }) {
		return last
	}
	answer := isAnswer(last)
	at := element{stage: stagePrerouting, priority: destinationNAT}
	if j.in.Topology.Namespace(netns).Delivers(last.Src) {
		at.stage = stageOutput
	}
	if !endsBefore(all, at) {
		last.Dst, last.DstPort = expected.Dst, expected.DstPort
		if answer {
			last.ICMPID = expected.ICMPID
		}
	}
	here := j.in.Topology.Namespace(netns).Delivers(last.Dst) && !slices.ContainsFunc(all, func(e element) bool { return e.step != nil && e.step.ends() })
	if here || ruleOf(nat.Source, all) != nil {
		last.Src, last.SrcPort = expected.Src, expected.SrcPort
		if !answer {
			last.ICMPID = expected.ICMPID
		}
	}
	return last
}

// translates reports whether a flow's NAT rewrites the field of the packets of
// one direction: on the way back, the other one.
func translates(f *nat.Flow, field nat.Field, reply bool) bool {
	return slices.ContainsFunc(f.Translations(), func(t nat.Translation) bool { return (t.Field == field) != reply })
}

// ends are the tuples with which a packet came and went.
func ends(all []element) (before, after packet.Tuple, ok bool) {
	for i := range all {
		tuple, has := all[i].tuple()
		if !has {
			continue
		}
		if !ok {
			before, ok = tuple, true
		}
		after = tuple
	}
	return before, after, ok
}

// leaves reports whether the packet was seen to go out of an interface.
func leaves(v *visit) bool {
	n := len(v.sightings)
	return n > 0 && v.sightings[n-1].Direction == capture.Egress
}

func translatedFlow(events []nat.Event) *nat.Event {
	for i := range events {
		if len(events[i].Flow.Translations()) > 0 {
			return &events[i]
		}
	}
	return nil
}

// changes compares two tuples field by field.
func changes(before, after packet.Tuple) []change {
	var all []change
	idChanged := before.ICMPID != after.ICMPID
	add := func(field nat.Field, from, to string, addressChanged, carriesID bool) {
		text := fmt.Sprintf("%s %s → %s", field, from, to)
		if idChanged && carriesID {
			text = fmt.Sprintf("%s %s id %d → %s id %d", field, from, before.ICMPID, to, after.ICMPID)
		} else if !addressChanged {
			return
		}
		all = append(all, change{field: field, from: from, to: to, text: text, before: before, after: after})
	}
	answer := isAnswer(before)
	add(nat.Destination, before.Destination(), after.Destination(), before.Dst != after.Dst || before.DstPort != after.DstPort, answer)
	add(nat.Source, before.Source(), after.Source(), before.Src != after.Src || before.SrcPort != after.SrcPort, !answer)
	return all
}

// isAnswer reports whether a tuple is that of an echo reply: the id, which NAT
// treats as the prober's port, belongs to its destination.
func isAnswer(t packet.Tuple) bool {
	return t.Proto == packet.ICMPv6 && t.ICMPType == packet.EchoReplyV6 || t.Proto == packet.ICMP && t.ICMPType == packet.EchoReply
}

// ruleOf finds the step of the rule that rewrote the field.
func ruleOf(field nat.Field, all []element) *step {
	for i := range all {
		s := all[i].step
		if s == nil || s.hit == nil || s.hit.Kind != ruletrace.HitRule || s.Kind == "nat" && !s.stateless() {
			continue
		}
		if rewrites(s.hit, field) && s.hit.Verdict != ruletrace.Drop {
			return s
		}
	}
	return nil
}

// stateless reports whether the step is that of a rule that sets addresses or
// ports itself, perhaps several of them.
func (s *step) stateless() bool {
	kind, _ := s.hit.Rule.Translation()
	return kind == "stateless"
}

// rewrites reports whether the hit of a translating rule rewrites a field.
func rewrites(h *ruletrace.Hit, field nat.Field) bool {
	kind, ok := h.Rule.Translation()
	if !ok {
		return false
	}
	source := h.Hook == ruletrace.Postrouting || h.Hook == ruletrace.Input
	switch kind {
	case "masquerade", "snat":
		source = true
	case "dnat", "redirect":
		source = false
	case "nptv6":
		source = !strings.Contains(h.Rule.Text, "DNPT")
	case "stateless": // one rule may set both
		if field == nat.Source {
			return strings.Contains(h.Rule.Text, " saddr set ") || strings.Contains(h.Rule.Text, " sport set ")
		}
		return strings.Contains(h.Rule.Text, " daddr set ") || strings.Contains(h.Rule.Text, " dport set ")
	}
	return source == (field == nat.Source)
}

// byRule turns the hit of a translating rule into the step that says so.
func (j *joiner) byRule(leg string, v *visit, c *change, s *step) {
	kind, _ := s.hit.Rule.Translation()
	if s.Kind == "nat" {
		s.Text += "; " + c.text
	} else {
		s.Text = c.text
	}
	s.Kind, s.Dull, s.before, s.after = "nat", false, c.before, c.after
	s.Evidence = append(s.Evidence, j.proof(v, c)...)
	if leg == "request" || c.flow == nil {
		j.translations = append(j.translations, report.Translation{
			Kind: kind, NetNS: v.netns, Interface: j.at(v, c.field), Hook: s.Hook, Field: string(c.field),
			From: c.from, To: c.to, Leg: leg, Rule: s.Rule, Confidence: report.Observed, Evidence: s.Evidence,
		})
	}
}

// withoutRule explains a change for which no rule was hit: a later packet of a
// flow, an answer, or translation without state.
func (j *joiner) withoutRule(leg string, v *visit, c *change) element {
	s := &step{before: c.before, after: c.after, Step: report.Step{
		Kind: "nat", Text: c.text, Confidence: report.Observed, Evidence: j.proof(v, c),
	}}
	e := element{step: s, stage: j.postrouting(v), priority: sourceNAT}
	hook := ruletrace.Postrouting
	switch {
	case c.field == nat.Source && !leaves(v) && j.in.Topology.Namespace(v.netns).Local(c.after.Dst) != nil:
		e.stage, hook = stageInput, ruletrace.Input // what is delivered here never gets to postrouting
	case c.field == nat.Destination:
		e.stage, e.priority, hook = stagePrerouting, destinationNAT, ruletrace.Prerouting
		switch {
		case len(v.sightings) == 0 || v.sightings[0].Direction == capture.Egress:
			e.stage, hook = stageOutput, ruletrace.Output
		case j.bridgedIn(v, &v.sightings[0].Header):
			e.stage = stageBridgedPrerouting
		}
	}
	s.Hook = string(hook)
	known := report.Translation{
		NetNS: v.netns, Interface: j.at(v, c.field), Hook: s.Hook, Field: string(c.field),
		From: c.from, To: c.to, Leg: leg, Confidence: report.Observed, Evidence: s.Evidence,
	}
	if c.derived {
		s.Confidence, known.Confidence = report.Reconstructed, report.Reconstructed
	}
	switch {
	case c.flow != nil && c.reply:
		s.Text += " (" + j.undone(v.netns, c.field) + ")"
		return e
	case c.flow != nil:
		known.Kind, s.Text = "snat", s.Text+" (masquerade or SNAT; the rule was not seen)"
		if c.field == nat.Destination {
			known.Kind, s.Text = "dnat", strings.Replace(s.Text, "masquerade or SNAT", "DNAT", 1)
		}
		j.firstRule(c, v.netns, s, &known)
	case prefixTranslated(c, v):
		known.Kind, known.Confidence, s.Confidence = "nptv6", report.Reconstructed, report.Reconstructed
		s.Text += " (NPTv6: the checksum stayed; the rule was not seen)"
	case j.undoes(c, v.netns):
		s.Text += " (" + j.undone(v.netns, c.field) + "; conntrack did not tell)"
		s.Confidence = report.Reconstructed
		return e
	default:
		known.Kind = "unknown"
		s.Text += " (by which rule is not known)"
	}
	if leg == "request" && known.Rule == nil {
		j.redirected(c, v.netns, s, &known)
	}
	j.translations = append(j.translations, known)
	return e
}

// firstRule names the rule that the first packet of the flow met: the later
// ones do not walk the nat chains.
func (j *joiner) firstRule(c *change, netns string, s *step, known *report.Translation) {
	for i := range j.in.Hits {
		h := &j.in.Hits[i]
		if h.NetNS != netns || h.ChainType != "nat" || h.Kind != ruletrace.HitRule {
			continue
		}
		if _, ok := c.flow.Flow.Matches(h.Header.Tuple); !ok {
			continue
		}
		if kind, _ := h.Rule.Translation(); rewrites(h, c.field) {
			s.Rule, s.Confidence = j.rule(h), report.Reconstructed
			s.Text = c.text + " (the flow's first packet met the rule)"
			known.Kind, known.Rule, known.Confidence = kind, s.Rule, report.Reconstructed
			return
		}
	}
}

// redirected names the rule that translates the destination of such packets today, if
// it is to what the packet's was translated to.
func (j *joiner) redirected(c *change, netns string, s *step, known *report.Translation) {
	rule, ok := j.in.Redirects[netns]
	if !ok || c.field != nat.Destination || c.flow != nil && c.flow.Kind == nat.Existing || !speaksOf(rule.Text, c.after.Dst) {
		return
	}
	s.Rule, s.Confidence = j.ruleIn(netns, rule), report.Reconstructed
	s.Text = c.text + " (the rule was not seen; it is the one that does this today)"
	known.Kind, _ = rule.Translation()
	known.Rule, known.Confidence = s.Rule, report.Reconstructed
}

// speaksOf reports whether a rule names an address.
func speaksOf(text string, address netip.Addr) bool {
	for rest := text; ; {
		before, after, found := strings.Cut(rest, address.String())
		if !found {
			return false
		}
		const within = "0123456789abcdef." // the characters of a longer address
		if !strings.ContainsAny(before[max(0, len(before)-1):], within+":") && !strings.ContainsAny(after[:min(1, len(after))], within) {
			return true
		}
		rest = after
	}
}

// undoes reports whether a change takes back what a rule of the same namespace
// did to the request with conntrack's help: that translates answers back
// without being asked, and without a word where its events are switched off.
func (j *joiner) undoes(c *change, netns string) bool {
	return slices.ContainsFunc(j.translations, func(t report.Translation) bool {
		return t.NetNS == netns && t.Leg == "request" && t.Field != string(c.field) && t.From == c.to && t.To == c.from &&
			slices.Contains([]string{"masquerade", "snat", "dnat", "redirect", "netmap"}, t.Kind)
	})
}

// undone says which translation of the request an answer's change takes back.
func (j *joiner) undone(netns string, field nat.Field) string {
	opposite := string(nat.Source)
	if field == nat.Source {
		opposite = string(nat.Destination)
	}
	for _, t := range j.translations {
		if t.NetNS == netns && t.Leg == "request" && t.Field == opposite {
			return t.Kind + " undone"
		}
	}
	return "NAT undone"
}

// prefixTranslated recognises NPTv6 by what RFC 6296 demands: the address
// changed, the transport checksum did not, because the sums of the two
// addresses are equal.
func prefixTranslated(c *change, v *visit) bool {
	from, err1 := netip.ParseAddr(c.from)
	to, err2 := netip.ParseAddr(c.to)
	if err1 != nil || err2 != nil || !from.Is6() || !to.Is6() || len(v.sightings) < 2 {
		return false
	}
	first, last := v.sightings[0].Header, v.sightings[len(v.sightings)-1].Header
	return first.Checksum == last.Checksum && packet.ChecksumNeutral(from, to)
}

// at is the interface at which a field is rewritten, as a rule would name it:
// the last one for a source, the first one for a destination, the bridge in
// place of its port. Empty for what is sent here, whose destination is
// rewritten before any interface.
func (j *joiner) at(v *visit, field nat.Field) string {
	if len(v.sightings) == 0 || field == nat.Destination && v.sightings[0].Direction == capture.Egress {
		return ""
	}
	point := v.sightings[0].Point
	if field == nat.Source {
		point = v.sightings[len(v.sightings)-1].Point
	}
	if link := linkOf(point, j.in.Topology); link != nil && link.Bridge != "" {
		return link.Bridge
	}
	return point.Interface
}

// proof is the evidence of a change: the sightings around it, and the
// conntrack entry where there is one.
func (j *joiner) proof(v *visit, c *change) []string {
	var ids []string
	if n := len(v.sightings); n > 0 {
		ids = append(ids, j.ledger.Sighting(&v.sightings[0]))
		if n > 1 {
			ids = append(ids, j.ledger.Sighting(&v.sightings[n-1]))
		}
	}
	if c.flow != nil {
		ids = append(ids, j.ledger.Event(c.flow))
	}
	if c.dropped != nil {
		ids = append(ids, j.ledger.drop(c.dropped, j.interfaceName(c.dropped)))
	}
	return ids
}
