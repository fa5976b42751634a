package offline

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// translate gives the translations of the flow the evidence of the packet that
// is explained.
func (e *explanation) translate() {
	e.report.Translations = append([]report.Translation{}, e.said.Translations...)
	for i := range e.report.Translations {
		t := &e.report.Translations[i]
		sights := e.request
		if t.Leg == "reply" {
			sights = e.reply
		}
		t.Evidence = []string{}
		for n := 1; n < len(sights); n++ {
			a, b := e.sight(sights[n-1]), e.sight(sights[n])
			from, to := a.Header.Tuple.Source(), b.Header.Tuple.Source()
			if t.Field == "destination" {
				from, to = a.Header.Tuple.Destination(), b.Header.Tuple.Destination()
			}
			if from == t.From && to == t.To {
				t.Evidence = []string{e.evidence(a), e.evidence(b)}
			}
		}
	}
}

// judge says how the exchange ended.
func (e *explanation) judge() {
	v := &e.report.Verdict
	*v = report.Verdict{Outcome: e.said.Outcome, Leg: e.said.Leg, Code: e.said.Code, Confidence: report.Reconstructed, Evidence: []string{}}
	if len(e.request) == 0 {
		v.Outcome, v.Summary = report.Inconclusive, "None of its packets could be followed."
		return
	}
	if e.dropped() {
		v.Summary += e.in.missing(e.flow) + e.in.unfinished(e.flow)
		return
	}
	first, last := e.sight(e.request[0]), e.sight(e.request[len(e.request)-1])
	v.Evidence = append(v.Evidence, e.evidence(last))
	v.NetNS, v.Interface = last.Point.NetNS, last.Point.Interface
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	name := fmt.Sprintf("%s %s", path.Describe(&first.Header), first.Header.Tuple)
	if e.lost {
		name = "Of this flow, " + name + " is the first packet that did not get as far as others. It"
	}
	say("%s was seen at %s%s.", name, e.places(e.request), e.translated("request"))
	switch {
	case e.end != nil && v.Outcome == report.Rejected:
		say("%s ended it with %q, seen at %s.", e.end.Header.Tuple.Src, path.ErrorText(e.end.Header.Tuple), e.places(e.reply))
	case len(e.reply) > 0 && v.Outcome == report.Rejected:
		say("A reset came back from %s, seen at %s.", e.sight(e.reply[0]).Header.Tuple.Source(), e.places(e.reply))
	case e.end != nil && v.Outcome == report.Replied:
		say("%s answered this one with %q, seen at %s; others of the flow got their answer.", e.end.Header.Tuple.Src, path.ErrorText(e.end.Header.Tuple), e.places(e.reply))
	case e.answerLost:
		at := e.sight(e.reply[len(e.reply)-1])
		v.NetNS, v.Interface = at.Point.NetNS, at.Point.Interface
		say("Of what came back, %s %s is the first packet that did not get as far as others. It was seen at %s.", path.Describe(&at.Header), at.Header.Tuple, e.places(e.reply))
		e.fell(at, say)
	case len(e.reply) > 0 && e.home():
		say("The answer came back, seen at %s%s.", e.places(e.reply), e.translated("reply"))
		if !e.in.Logs.timeless() {
			v.Elapsed = e.sight(e.reply[len(e.reply)-1]).Time.Sub(first.Time)
		}
	case len(e.reply) > 0 && v.Outcome == report.Inconclusive:
		say("An answer was seen at %s, and not at %s before the capture there ended.", e.places(e.reply), e.placeName(first))
	case len(e.reply) > 0:
		at := e.sight(e.reply[len(e.reply)-1])
		v.NetNS, v.Interface = at.Point.NetNS, at.Point.Interface
		say("The answer was seen at %s and not at %s, where the request had come from: between these two it went another way or was lost. What is between them is in no capture.", e.places(e.reply), e.placeName(first))
	case e.flow.Outcome == flows.OneWay:
	default:
		e.unanswered(say)
	}
	if len(e.reply) > 0 {
		v.Evidence = append(v.Evidence, e.evidence(e.sight(e.reply[len(e.reply)-1])))
	}
	v.Summary = strings.Join(said, " ") + e.in.missing(e.flow) + e.in.unfinished(e.flow)
}

// fell says where a packet was lost that was seen last at a stop where the count
// falls, or before.
func (e *explanation) fell(last *flows.Sight, say func(string, ...any)) {
	fall, to := e.flow.Fall, last.Stop+1
	if last.Stop >= fall.From {
		to = max(to, fall.To)
	}
	next := e.in.place(way(e.flow, fall.Reply)[to].Place)
	say("Behind %s it was not seen again; other packets of the flow were seen at %s next. Between these two it was lost, and what is between them is in no capture.", e.placeName(last), nameOf(next))
}

// unanswered says where a packet was seen last to which no answer was seen.
func (e *explanation) unanswered(say func(string, ...any)) {
	last := e.sight(e.request[len(e.request)-1])
	if fall := e.flow.Fall; fall != nil && !fall.Reply && last.Stop < len(e.flow.Out)-1 {
		e.fell(last, say)
		return
	}
	if len(e.flow.Missing) > 0 {
		var names []string
		for _, p := range e.flow.Missing {
			names = append(names, nameOf(e.in.place(p)))
		}
		say("It was not seen at %s, where packets for the same destination passed: it was lost before, or took another way.", list(names))
		return
	}
	switch {
	case e.flow.Request.Proto == packet.TCP && e.flow.Out[0].Flags.Has(packet.ACK):
		if e.acknowledges() {
			say("Its other direction is in no capture, although the sender acknowledges what it gets: it takes another way, or was left out.")
		} else {
			say("Nothing of its other direction was seen, and the sender acknowledges nothing new: it was left out, or nothing comes.")
		}
	case e.report.Verdict.Outcome == report.Lost:
		say("Nothing that answers it was seen anywhere. What lies behind %s is in no capture.", e.placeName(last))
		e.untilEnd(say)
	case e.flow.Request.Proto == packet.TCP || path.IsEcho(e.flow.Request.Tuple()):
		say("Nothing that answers it was seen.")
		e.untilEnd(say)
	default:
		say("Nothing that answers it was seen, which proves nothing: not every protocol answers.")
	}
	answered := func(ev *nat.Event) bool { return ev.Flow.Status.Has(nat.StatusSeenReply) }
	if len(e.conntrack) > 0 && !slices.ContainsFunc(e.conntrack, answered) {
		say("Conntrack has seen no answer either.")
	}
	if len(e.hits) > 0 {
		say("No rule of the trace dropped it.")
	}
}

// acknowledges reports whether the sender's acknowledgements went on.
func (e *explanation) acknowledges() bool {
	var first *packet.Header
	for i := range e.course.Sights {
		s := &e.course.Sights[i]
		if s.Reply || s.Stop < 0 || !s.Header.Flags.Has(packet.ACK) {
			continue
		}
		if first == nil {
			first = &s.Header
		} else if int32(s.Header.Ack-first.Ack) > 0 {
			return true
		}
	}
	return false
}

// untilEnd says when the capture ended that would have seen the answer, where
// that was soon.
func (e *explanation) untilEnd(say func(string, ...any)) {
	if waited := time.Duration(e.flow.Waited); waited < flows.Patience && !e.in.Logs.alone {
		say("The capture at %s ends %.1f ms after the first packet: it would not show a later answer.", e.placeName(e.sight(e.request[0])), float64(waited)/1e6)
	}
}

// home reports whether the answer came to where the request was first seen.
func (e *explanation) home() bool {
	return slices.ContainsFunc(e.reply, func(i int) bool { return e.sight(i).Place == e.sight(e.request[0]).Place })
}

// translated says what became of a leg's tuple on its way.
func (e *explanation) translated(leg string) string {
	var changes []string
	for _, field := range []string{"destination", "source"} {
		var chain []string
		known := report.Observed
		for i := range e.report.Translations {
			t := &e.report.Translations[i]
			if t.Leg != leg || t.Field != field {
				continue
			}
			if len(chain) == 0 {
				chain = append(chain, t.From)
			}
			chain = append(chain, t.To)
			if t.Confidence != report.Observed {
				known = t.Confidence
			}
		}
		if len(chain) > 0 {
			changes = append(changes, fmt.Sprintf("its %s translated %s (%s)", field, strings.Join(chain, " → "), known))
		}
	}
	if len(changes) == 0 {
		return ""
	}
	return ", " + strings.Join(changes, " and ")
}

// places names the places of sightings.
func (e *explanation) places(sights []int) string {
	var names []string
	for _, i := range sights {
		if name := e.placeName(e.sight(i)); len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	if len(names) > manyPlaces {
		return fmt.Sprintf("%d places, from %s to %s", len(names), names[0], names[len(names)-1])
	}
	return list(names)
}

// manyPlaces are too many for a sentence: the legs list them.
const manyPlaces = 3

func (e *explanation) placeName(s *flows.Sight) string { return nameOf(e.in.place(s.Place)) }

// nameOf names a place as a sentence does.
func nameOf(p report.Place) string {
	name := p.NetNS + "/" + p.Interface
	switch {
	case p.Interface == "":
		name = p.NetNS
	case p.NetNS == "":
		name = p.Interface
	}
	if len(p.VLANs) > 0 {
		name += " (" + vlans(p.VLANs) + ")"
	}
	return name
}

// vlans names tags, outermost first.
func vlans(ids []int) string {
	if len(ids) == 0 {
		return "no VLAN"
	}
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		names = append(names, strconv.Itoa(id))
	}
	return "VLAN " + strings.Join(names, ", in it ")
}

func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// note adds what limits the explanation, and names.
func (e *explanation) note() {
	r := e.report
	first := e.flow.Request.Tuple()
	for _, a := range []netip.Addr{first.Src, first.Dst} {
		if owner := e.in.Logs.owner(a); owner != "" {
			r.Notes = append(r.Notes, fmt.Sprintf("%s is %s.", a, owner))
		}
	}
	if e.course.Cut {
		r.Notes = append(r.Notes, fmt.Sprintf("The flow has more than %d sightings; those after them were not followed.", flows.MaxSights))
	}
	repeated, ambiguous := 0, 0
	for i := range e.course.Packets {
		if e.course.Packets[i].Ambiguous {
			ambiguous++
		}
	}
	for i := range e.flow.Out {
		repeated = max(repeated, int(e.flow.Out[i].Repeated))
	}
	if repeated > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("The sender repeated %d of its packets.", repeated))
	}
	if ambiguous > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("Of %s of packets that look alike it could not be told which are one packet.", plural(uint64(ambiguous), "sighting")))
	}
}
