package offline

import (
	"fmt"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// traced puts the rules that the packet and its answer met into their legs.
func (e *explanation) traced() {
	for i := range e.in.Logs.Hits {
		h := &e.in.Logs.Hits[i]
		if at := e.met(h, e.request); at >= 0 {
			e.hits = append(e.hits, h)
			e.meets("request", h, e.report.Legs.Request, at)
		}
		if at := e.met(h, e.reply); at >= 0 {
			e.meets("reply", h, e.report.Legs.Reply, at)
		}
	}
}

// meets adds a rule that was met behind a place. One that dropped the packet where
// it was seen last is how it ended.
func (e *explanation) meets(leg string, h *ruletrace.Hit, hops []report.Hop, at int) {
	if drops(h) && at+1 < len(hops) {
		return // of a copy: the packet itself went on
	}
	hops[at].Steps = append(hops[at].Steps, e.hitStep(h))
	if drops(h) && e.drop == nil {
		e.drop, e.dropLeg = h, leg
	}
}

// met is the place behind which a packet met a rule, as an index into sights; -1
// when it was another packet. Rules see a packet before and behind the host's
// routing, so it has the TTL that it had there, or one less.
func (e *explanation) met(h *ruletrace.Hit, sights []int) int {
	at := -1
	for n, i := range sights {
		s := e.sight(i)
		if h.Header.Compare(&s.Header) == packet.Different || !endsMeet(h.Header.Tuple, s.Header.Tuple) {
			continue
		}
		lower := s.Header.TTL - h.Header.TTL // of the rule's
		switch {
		case h.Header.TTL == 0, lower == 0:
			at = n
		case lower == 1 && (n+1 == len(sights) || e.sight(sights[n+1]).Header.TTL < s.Header.TTL):
			return n
		}
	}
	return at
}

// endsMeet reports whether two tuples have an end in common, as those of one
// packet have before and behind one translation.
func endsMeet(a, b packet.Tuple) bool {
	return a.Proto == b.Proto && (a.Src == b.Src && a.SrcPort == b.SrcPort || a.Dst == b.Dst && a.DstPort == b.DstPort)
}

// hitStep says which rule a packet met and what came of it.
func (e *explanation) hitStep(h *ruletrace.Hit) report.Step {
	s := report.Step{
		Kind: "rule", Text: hitText(h), Hook: string(h.Hook), Rule: e.ruleOf(h),
		Confidence: report.Observed, Evidence: []string{e.ledger.Hit(h)}, Dull: true,
	}
	if h.Kind == ruletrace.HitPolicy {
		s.Kind = "policy"
	}
	if _, translates := h.Rule.Translation(); translates {
		s.Dull = false
	}
	if drops(h) {
		s.Kind, s.Dull = "drop", false
		if h.Verdict == ruletrace.Reject {
			s.Kind = "reject"
		}
	}
	return s
}

// hitText is the rule of a hit or, where no ruleset tells it, its place.
func hitText(h *ruletrace.Hit) string {
	switch {
	case h.Rule.Text != "":
		return h.Rule.Text
	case h.Kind == ruletrace.HitPolicy:
		return fmt.Sprintf("policy of %s %s", h.Rule.Table, h.Rule.Chain)
	case h.Rule.Number > 0:
		return fmt.Sprintf("rule %d of %s %s", h.Rule.Number, h.Rule.Table, h.Rule.Chain)
	}
	return fmt.Sprintf("a rule of %s %s", h.Rule.Table, h.Rule.Chain)
}

func drops(h *ruletrace.Hit) bool {
	return h.Verdict == ruletrace.Drop || h.Verdict == ruletrace.Reject
}

// ruleOf is the rule of a hit in the report's form. The networks that were saved
// are those of the host of the trace, not of one that a saved run is of.
func (e *explanation) ruleOf(h *ruletrace.Hit) *report.Rule {
	var networks []engine.Network
	if h.NetNS == "" {
		networks = e.in.Logs.Networks
	}
	r := path.Rule(h.Rule, networks)
	r.Text = hitText(h)
	return r
}

// dropped makes a rule that dropped the packet, or its answer, the verdict. It
// reports false when none did.
func (e *explanation) dropped() bool {
	h := e.drop
	if h == nil {
		return false
	}
	sights, name := e.request, ""
	if e.dropLeg == "reply" {
		sights, name = e.reply, "The answer to it, "
	}
	first, last := e.sight(sights[0]), e.sight(sights[len(sights)-1])
	v := &e.report.Verdict
	by := endingBy(h, e.dropLeg)
	v.Outcome, v.Leg, v.Code, v.Confidence, v.Hook = by.outcome, by.leg, by.code, report.Observed, string(h.Hook)
	v.NetNS, v.Interface, v.Rule = last.Point.NetNS, last.Point.Interface, e.ruleOf(h)
	v.Evidence = append(v.Evidence, e.evidence(last), e.ledger.Hit(h))
	request := e.sight(e.request[0])
	v.Summary = fmt.Sprintf("%s %s was seen at %s%s.", path.Describe(&request.Header), request.Header.Tuple, e.places(e.request), e.translated("request"))
	if name != "" {
		v.Summary += fmt.Sprintf(" %s%s, was seen at %s%s.", name, path.Describe(&first.Header), e.places(e.reply), e.translated("reply"))
	}
	v.Summary += fmt.Sprintf(" Behind %s it was %s in %s by %s, as the trace says.", e.placeName(last), by.outcome, hookName(h), hitText(h))
	return true
}

// hookName names where in the kernel a rule is.
func hookName(h *ruletrace.Hit) string {
	if h.Hook == "" {
		return fmt.Sprintf("%s %s", h.Rule.Table, h.Rule.Chain)
	}
	return string(h.Hook)
}

// textOf is one field of a tuple as translations print it.
func (e *explanation) textOf(field string, t packet.Tuple) string {
	if field == "destination" {
		return t.Destination()
	}
	return t.Source()
}
