package ruletrace

import (
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// Arrival is the first packet of a flow as it would come to the nat rules of
// prerouting.
type Arrival struct {
	Tuple packet.Tuple
	// Ingress is the interface: the bridge's for what comes by a port of it.
	Ingress string
	// Local says that the destination is an address of the namespace.
	Local bool
}

// class is the packet as a class of its own.
func (a Arrival) class() Class {
	c := Class{
		IPv6: a.Tuple.Dst.Is6(), Ingress: a.Ingress, Source: a.Tuple.Src, Target: a.Tuple.Dst,
		Local: a.Local, Foreign: !a.Local, State: "new", Proto: a.Tuple.Proto,
	}
	if c.Proto == packet.TCP || c.Proto == packet.UDP || c.Proto == packet.SCTP {
		c.SourcePort, c.TargetPort = a.Tuple.SrcPort, a.Tuple.DstPort
	}
	return c
}

// redirect is the rule that translates the destination of all packets of a class.
// The bool is false when there is none, and when that is not certain.
func (s *Ruleset) redirect(class Class) (Rule, bool) {
	courses, ok := s.Courses(Prerouting, class)
	if !ok {
		return Rule{}, false
	}
	var found []*Course
	for i := range courses {
		c := &courses[i]
		if len(found) > 0 && c.Base.Priority != found[0].Base.Priority {
			break
		}
		if c.Base.Type == "nat" && c.translates() || slices.ContainsFunc(c.Ends, func(e End) bool { return e.Verdict == VerdictUnknown }) {
			found = append(found, c)
		}
	}
	// Of chains with one priority it is not known which is asked first.
	if len(found) != 1 || !found[0].Ends[0].Sure || !found[0].Ends[0].redirects() {
		return Rule{}, false
	}
	return found[0].Ends[0].Rule, true
}

// translates reports whether packets may end otherwise than accepted as they
// are. For a nat chain that is no end: the next one is asked.
func (c *Course) translates() bool {
	return slices.ContainsFunc(c.Ends, func(e End) bool { return e.Verdict != Accept || e.Translation != "" })
}

// redirects reports whether what ends a nat chain of prerouting translates the
// destination.
func (e *End) redirects() bool {
	return e.Translation == "dnat" || e.Translation == "redirect" || e.Translation == "netmap"
}
