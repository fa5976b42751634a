package path

import (
	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/report"
)

// hops turns the elements of a stay into places and what happened after each.
func (j *joiner) hops(t *trail, netns string, all []element) []report.Hop {
	var hops []report.Hop
	for i := range all {
		e := &all[i]
		if e.sighting != nil {
			hops = append(hops, j.hop(e.sighting))
			continue
		}
		if len(hops) == 0 {
			// The packet was sent here: what it met before its first interface.
			hops = append(hops, j.origin(t, netns, all[i:]))
		}
		hop := &hops[len(hops)-1]
		hop.Steps = append(hop.Steps, e.step.Step)
	}
	return hops
}

func (j *joiner) hop(s *capture.Sighting) report.Hop {
	hop := report.Hop{
		NetNS: s.Point.NetNS, Interface: s.Point.Interface, Role: string(s.Point.Role), Direction: s.Direction.String(),
		Time: s.Time, Tuple: ReportTuple(s.Header.Tuple), TTL: int(s.Header.TTL), Length: s.Length,
		Steps: []report.Step{}, Evidence: []string{j.ledger.Sighting(s)},
	}
	if link := linkOf(s.Point, j.in.Topology); link != nil {
		hop.Bridge = link.Bridge
	}
	return hop
}

// origin is the hop of a packet that has not reached an interface yet, or was not
// seen at the one by which it came in.
func (j *joiner) origin(t *trail, netns string, all []element) report.Hop {
	hop := report.Hop{NetNS: netns, Role: string(capture.RoleOther), Direction: capture.Egress.String(), Tuple: ReportTuple(t.seed.Tuple), Steps: []report.Step{}, Evidence: []string{}}
	for i := range all {
		if s := all[i].step; s != nil && s.before.Src.IsValid() {
			hop.Tuple = ReportTuple(s.before)
			break
		}
		if tuple, ok := all[i].tuple(); ok {
			hop.Tuple = ReportTuple(tuple)
			break
		}
	}
	for i := range all {
		if s := all[i].step; s != nil && s.hit != nil && s.hit.Ingress != "" { // it came in, unseen
			hop.Direction = capture.Ingress.String()
			break
		}
	}
	return hop
}
