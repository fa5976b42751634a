package path

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// route adds the routing decision of a packet that is forwarded, or sent, in
// this namespace. It is computed from the tables, and it is called
// reconstructed when the packet was then seen to leave by that interface.
func (j *joiner) route(v *visit, all []element, origin bool) *element {
	ns := j.in.Topology.Namespace(v.netns)
	if ns == nil || !origin && !j.toBeRouted(v, all, ns) {
		return nil
	}
	query, at, ok := routed(v, all, origin)
	if !ok || ns.Delivers(query.Target) || endsBefore(all, element{stage: at}) {
		return nil
	}
	decision := ns.Lookup(query)
	s := &step{Step: report.Step{Kind: "route", Confidence: report.Reconstructed, Dull: origin}}
	if decision.Route != nil {
		s.Text = decision.Route.Text
	}
	left := leftBy(v, all, ns)
	switch {
	case left == "" && !decision.Undetermined && decision.Route == nil && len(ns.Policy) > 0:
		s.Text, s.Confidence = "no route to "+query.Target.String(), report.Assumed
		if decision.Policy != nil {
			s.Text = decision.Policy.Text
		}
	case decision.Undetermined || decision.Route == nil:
		s.Text, s.Confidence = "not determined", report.Assumed
		if left != "" {
			s.Text = "not determined by the tables; it left by " + left
		}
	case left == "":
		s.Confidence = report.Assumed
	case decision.Route.Interface != left:
		s.Text = fmt.Sprintf("%s, but it left by %s", decision.Route.Text, left)
		s.Confidence = report.Assumed
	}
	s.Evidence = []string{j.ledger.Add("route", v.netns, time.Time{}, "route for "+query.Target.String()+" from "+query.Source.String()+": "+s.Text)}
	return &element{stage: at, step: s}
}

// routed finds the tuple that was routed: after the destination's translation
// and before the source's.
func routed(v *visit, all []element, origin bool) (topology.Query, stage, bool) {
	var query topology.Query
	at, found := stageRoute, false
	if origin || (len(v.sightings) > 0 && v.sightings[0].Direction == capture.Egress) {
		at = stageOutputRoute
	}
	for i := range all {
		tuple, ok := all[i].tuple()
		if !ok {
			continue
		}
		if !found {
			query.Source = tuple.Src
			found = true
		}
		if all[i].stage < stagePostrouting || at == stageRoute && all[i].stage >= stageBridgeEgress {
			query.Target = tuple.Dst
		}
	}
	for i := range all {
		if s := all[i].step; s != nil && s.after.Dst.IsValid() && all[i].stage < stagePostrouting {
			query.Target = s.after.Dst
		}
	}
	if at == stageRoute && len(v.sightings) > 0 {
		query.Ingress = v.sightings[0].Point.Interface
		for _, s := range v.sightings {
			if s.Direction == capture.Ingress {
				query.Ingress = s.Point.Interface // the bridge device comes after its port
			}
		}
	}
	query.Mark = markBefore(all, at)
	if at == stageOutputRoute {
		// A mark set in output has the packet routed again (ip_route_me_harder).
		query.Mark = markBefore(all, stagePostrouting)
	}
	if !query.Target.IsValid() && found {
		for i := range all {
			if tuple, ok := all[i].tuple(); ok {
				query.Target = tuple.Dst
				break
			}
		}
	}
	return query, at, found
}

// markBefore is the netfilter mark that a packet had when it came to a place in
// the kernel's order, by the last rule before it that was met. A packet that
// met none has no mark: the kernel clears it between namespaces
// (skb_scrub_packet, net/core/skbuff.c).
func markBefore(all []element, at stage) uint32 {
	var mark uint32
	for i := range all {
		if s := all[i].step; s != nil && s.hit != nil && all[i].stage < at {
			mark = s.hit.Mark
		}
	}
	return mark
}

// toBeRouted reports whether a packet that came to this namespace got to its
// routing, or would have as far as its sightings tell: not when it went from
// port to port of a bridge, when it was not seen to come from the port to the
// bridge, nor when it left, or was to, without having come in, as what a macvlan
// sends does below it.
func (j *joiner) toBeRouted(v *visit, all []element, ns *topology.Namespace) bool {
	if len(v.sightings) == 0 && !slices.ContainsFunc(all, func(e element) bool { return e.stage != stageNetdevEgress }) {
		return false
	}
	if slices.ContainsFunc(all, func(e element) bool { return e.stage == stageBridgeDevice }) || len(v.sightings) == 0 {
		return true
	}
	first, last := &v.sightings[0], &v.sightings[len(v.sightings)-1]
	if first.Direction == capture.Egress || passesBy(first, j.in.Topology) {
		return false
	}
	in, out := ns.Link(first.Point.Interface), ns.Link(last.Point.Interface)
	if in == nil || in.Bridge == "" {
		return true
	}
	if last.Direction == capture.Egress {
		return out == nil || out.Bridge != in.Bridge || slices.ContainsFunc(all, func(e element) bool { return e.stage == stageBridgeEgress })
	}
	return false
}

// endsBefore reports whether a rule ended the packet before a place in the
// kernel's order.
func endsBefore(all []element, place element) bool {
	return slices.ContainsFunc(all, func(e element) bool {
		if e.stage == stageBridgedPrerouting {
			e.stage = stagePrerouting
		}
		return e.step != nil && e.step.ends() && cmp.Or(cmp.Compare(e.stage, place.stage), cmp.Compare(e.priority, place.priority)) < 0
	}) && !slices.ContainsFunc(all, func(e element) bool { return e.sighting != nil && e.stage > place.stage })
}

// leftBy is the interface that a packet was routed out of: where it was seen to
// leave, or what the rules that it met behind the routing decision were told.
// Empty when neither is known. A bridge port stands for its bridge.
func leftBy(v *visit, all []element, ns *topology.Namespace) string {
	for i := range all {
		if s := all[i].step; s != nil && s.hit != nil && s.hit.Egress != "" && s.hit.Rule.Family != "bridge" {
			return s.hit.Egress
		}
	}
	for _, s := range v.sightings {
		if s.Direction != capture.Egress {
			continue
		}
		if link := ns.Link(s.Point.Interface); link != nil && link.Bridge != "" {
			return link.Bridge
		}
		return s.Point.Interface
	}
	return ""
}
