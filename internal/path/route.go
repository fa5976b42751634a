package path

import (
	"fmt"
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
	if ns == nil || bridgedThrough(v, ns) {
		return nil
	}
	query, at, ok := routed(v, all, origin)
	if !ok || ns.Local(query.Target) != nil {
		return nil
	}
	decision := ns.Lookup(query)
	s := &step{Step: report.Step{Kind: "route", Confidence: report.Reconstructed, Dull: origin}}
	if decision.Route != nil {
		s.Text = decision.Route.Text
	}
	left := leftBy(v, all, ns)
	switch {
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
	s.Evidence = []string{j.ledger.add("route", v.netns, time.Time{}, "route for "+query.Target.String()+" from "+query.Source.String()+": "+s.Text)}
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
	if at == stageRoute && len(v.sightings) > 0 {
		query.Ingress = v.sightings[0].Point.Interface
		for _, s := range v.sightings {
			if s.Direction == capture.Ingress {
				query.Ingress = s.Point.Interface // the bridge device comes after its port
			}
		}
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

// bridgedThrough reports whether a packet went from port to port of a bridge:
// no routing took place.
func bridgedThrough(v *visit, ns *topology.Namespace) bool {
	in, out := "", ""
	for _, s := range v.sightings {
		link := ns.Link(s.Point.Interface)
		if link == nil {
			continue
		}
		if link.Kind == "bridge" {
			return false
		}
		if s.Direction == capture.Ingress {
			in = link.Bridge
		} else {
			out = link.Bridge
		}
	}
	return in != "" && in == out
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
