package offline

import (
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// tracked adds what conntrack knew of the flow, in each namespace that was
// listened to: its translations are observed then, and those that no capture shows
// are told.
func (e *explanation) tracked() {
	e.conntrack = e.events()
	for _, event := range e.conntrack {
		id := e.ledger.Event(event)
		for _, t := range event.Flow.Translations() {
			e.observe("reply", opposite(t), id)
			if !e.observe("request", t, id) {
				e.unseen(t, id)
			}
		}
		if hop := e.lastHop(); hop != nil {
			state := "no answer seen"
			if event.Flow.Status.Has(nat.StatusSeenReply) {
				state = "answered"
			}
			hop.Steps = append(hop.Steps, report.Step{Kind: "conntrack", Text: "conntrack has the flow: " + state, Confidence: report.Observed, Evidence: []string{id}, Dull: true})
		}
	}
}

// unseen adds a translation that only conntrack tells of.
func (e *explanation) unseen(t nat.Translation, id string) {
	r := report.Translation{Kind: "snat", Field: string(t.Field), From: t.From, To: t.To, Leg: "request", Confidence: report.Observed, Evidence: []string{id}}
	if t.Field == nat.Destination {
		r.Kind = "dnat"
	}
	e.report.Translations = append(e.report.Translations, r)
	if hop := e.lastHop(); hop != nil {
		hop.Steps = append(hop.Steps, report.Step{
			Kind: "nat", Text: change(r.Field, r.From, r.To) + ", as conntrack says; no capture shows it",
			Confidence: report.Observed, Evidence: []string{id},
		})
	}
}

// opposite is what NAT does to the answers of a flow whose requests it translates.
func opposite(t nat.Translation) nat.Translation {
	t.From, t.To = t.To, t.From
	if t.Field == nat.Source {
		t.Field = nat.Destination
	} else {
		t.Field = nat.Source
	}
	return t
}

// observe makes a translation that captures show, and its step, an observed one.
// It reports false when they do not show it.
func (e *explanation) observe(leg string, t nat.Translation, id string) bool {
	at := slices.IndexFunc(e.report.Translations, func(r report.Translation) bool {
		return r.Leg == leg && r.Field == string(t.Field) && r.From == t.From && r.To == t.To
	})
	if at < 0 {
		return false
	}
	r := &e.report.Translations[at]
	r.Confidence = report.Observed
	r.Evidence = append(r.Evidence, id)
	hops := e.report.Legs.Request
	if leg == "reply" {
		hops = e.report.Legs.Reply
	}
	for i := range hops {
		for k := range hops[i].Steps {
			if s := &hops[i].Steps[k]; isChange(s, r) {
				s.Confidence = report.Observed
				s.Evidence = append(slices.Clone(s.Evidence), id)
			}
		}
	}
	return true
}

// events are what conntrack said last about the flow while it lived, one for each
// namespace.
func (e *explanation) events() []*nat.Event {
	var found []*nat.Event
	for i := range e.in.Logs.Events {
		ev := &e.in.Logs.Events[i]
		if !slices.ContainsFunc(e.flow.Out, func(s flows.Stop) bool {
			reply, ok := ev.Flow.Matches(s.Key.Tuple())
			return ok && !reply
		}) {
			continue
		}
		at := slices.IndexFunc(found, func(f *nat.Event) bool { return f.Flow.NetNS == ev.Flow.NetNS })
		switch {
		case at < 0:
			found = append(found, ev)
		case ev.Kind != nat.Destroy || !found[at].Flow.Status.Has(nat.StatusSeenReply):
			found[at] = ev // the end of a flow tells no more, and not what state it was in
		}
	}
	return found
}

// lastHop is the last hop of the request; nil when there is none.
func (e *explanation) lastHop() *report.Hop {
	if n := len(e.report.Legs.Request); n > 0 {
		return &e.report.Legs.Request[n-1]
	}
	return nil
}

// ruled names the rules of translations, where a trace or the saved rules tell
// them.
func (e *explanation) ruled() {
	e.unseenSource()
	for i := range e.report.Translations {
		t := &e.report.Translations[i]
		if t.Leg == "reply" {
			continue
		}
		if h := e.translatorHit(t); h != nil {
			t.Rule, t.Hook = e.ruleOf(h), string(h.Hook)
			t.Evidence = append(t.Evidence, e.ledger.Hit(h))
			if kind, ok := h.Rule.Translation(); ok {
				t.Kind = kind
			}
			continue
		}
		rule, ok := e.savedRule(t)
		if !ok || !e.ofThisHost(t) {
			continue
		}
		id := e.ledger.Add("rule", "", time.Time{}, "the one saved rule that makes this translation: "+rule.Text)
		e.addRule(t, rule, id)
		if t.Confidence == report.Observed {
			continue // that was, and not by which rule
		}
		t.Rule = path.Rule(rule, e.in.Logs.Networks)
		if kind, ok := rule.Translation(); ok {
			t.Kind = kind
		}
		t.Evidence = append(t.Evidence, id)
	}
}

// ofThisHost reports whether it is certain that a translation was done by the host
// that the rules are of: conntrack there says so, or there is no other one.
func (e *explanation) ofThisHost(t *report.Translation) bool {
	if t.Confidence == report.Observed {
		return true
	}
	others := 0
	for i := range e.report.Translations {
		if o := &e.report.Translations[i]; o.Leg == t.Leg && o.Field == t.Field {
			others++
		}
	}
	return others == 1 && t.Kind != "nptv6"
}

// addRule puts the saved rule of a translation behind the step that it explains. It
// follows from the rules, whatever is known of the translation.
func (e *explanation) addRule(t *report.Translation, rule ruletrace.Rule, id string) {
	for i := range e.report.Legs.Request {
		hop := &e.report.Legs.Request[i]
		at := slices.IndexFunc(hop.Steps, func(s report.Step) bool { return isChange(&s, t) })
		if at >= 0 {
			hop.Steps = slices.Insert(hop.Steps, at+1, report.Step{
				Kind: "rule", Text: rule.Text, Rule: path.Rule(rule, e.in.Logs.Networks), Confidence: report.Reconstructed, Evidence: []string{id},
			})
			return
		}
	}
}

// isChange reports whether a step is a translation.
func isChange(s *report.Step, t *report.Translation) bool {
	return s.Kind == "nat" && s.Text == change(t.Field, t.From, t.To)
}

// unseenSource adds the translation of the source that only a rule and the answer
// show: no place behind it saw the request, but what came back was for another
// address.
func (e *explanation) unseenSource() {
	if len(e.request) == 0 || slices.ContainsFunc(e.report.Translations, func(t report.Translation) bool { return t.Leg == "request" && t.Field == "source" }) {
		return
	}
	from := e.sight(e.request[0]).Header.Tuple.Source()
	for _, t := range e.report.Translations {
		added := report.Translation{Kind: "snat", Field: "source", From: from, To: t.From, Leg: "request", Confidence: report.Reconstructed, Evidence: t.Evidence}
		if t.Leg == "reply" && t.Field == "destination" && t.To == from && e.translatorHit(&added) != nil {
			e.report.Translations = slices.Insert(e.report.Translations, 0, added)
			return
		}
	}
}

// translatorHit is the hit of the rule that made a translation: one whose text
// says so or, where it is not known, the rule of the table nat behind which the
// packet was another.
func (e *explanation) translatorHit(t *report.Translation) *ruletrace.Hit {
	source := t.Field == "source"
	for i, h := range e.hits {
		if h.Kind != ruletrace.HitRule || h.ChainType != "nat" && h.Rule.Table != "nat" {
			continue
		}
		late := h.Hook == ruletrace.Postrouting || h.Hook == ruletrace.Input
		before := h.Header.Tuple.Destination()
		if source {
			before = h.Header.Tuple.Source()
		}
		if h.Hook != "" && late != source || before != t.From {
			continue // of another host's translation, too
		}
		if h.Rule.Text != "" {
			if _, ok := h.Rule.Translation(); ok {
				return h
			}
			continue
		}
		last := i+1 == len(e.hits)
		if source && last || !last && e.hits[i+1].Header.Tuple.Destination() != h.Header.Tuple.Destination() && !source {
			return h
		}
	}
	return nil
}

// savedRule is the one saved rule that makes a translation.
func (e *explanation) savedRule(t *report.Translation) (ruletrace.Rule, bool) {
	if e.in.Logs.Rules == nil {
		return ruletrace.Rule{}, false
	}
	for _, tr := range e.flow.Translations {
		if tr.Reply {
			continue
		}
		before, after := tr.Before.Tuple(), tr.After.Tuple()
		if t.Field == "destination" {
			after.Src, after.SrcPort, after.ICMPID = before.Src, before.SrcPort, before.ICMPID
		} else {
			before.Dst, before.DstPort = after.Dst, after.DstPort // it was translated before
		}
		if before == after || e.textOf(t.Field, before) != t.From {
			continue
		}
		return e.in.Logs.Rules.Translator(ruletrace.Rewrite{Before: before, After: after})
	}
	return ruletrace.Rule{}, false
}
