package path

import (
	"fmt"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// clockError is how far the times of drops and of sightings may be apart
// beside what lies between the events: they come from two clocks.
const clockError = 10 * time.Microsecond

// dropsOf finds the drops of a packet in the namespaces on the way, by time.
// seen are its sightings with those of copies. Where only a copy was seen, only
// a copy was dropped.
func (t *trail) dropsOf(in *Input, seen []capture.Sighting) []skbdrop.Drop {
	at := func(sightings []capture.Sighting, netns string) bool {
		return slices.ContainsFunc(sightings, func(s capture.Sighting) bool { return s.Point.NetNS == netns })
	}
	var all []skbdrop.Drop
	for _, d := range in.Drops {
		if in.Topology.Namespace(d.NetNS) == nil || skbdrop.Benign(d) || at(seen, d.NetNS) && !at(t.sightings, d.NetNS) {
			continue
		}
		switch in.compare(&t.seed, &d.Header) {
		case packet.Same:
		case packet.Compatible:
			if !t.knows(d.Header.Tuple) {
				continue
			}
		default:
			continue
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b skbdrop.Drop) int { return a.Time.Compare(b.Time) })
	return all
}

// lastDrop is the drop of the packet in its last stay, after which nothing saw
// it: the end of the packet, and not of a copy. It is nil when there is none.
func (t *trail) lastDrop(v *visit) *skbdrop.Drop {
	for i := len(t.drops) - 1; i >= 0; i-- {
		d := &t.drops[i]
		if n := len(v.sightings); d.NetNS == v.netns && (n == 0 || !d.Time.Before(v.sightings[n-1].Time.Add(-clockError))) {
			return d
		}
	}
	return nil
}

// endedBeforeRouting reports whether the kernel says that it dropped the packet
// where it came in, by a filter of tc: no route was looked up for it.
func (t *trail) endedBeforeRouting(v *visit) bool {
	d := t.lastDrop(v)
	return d != nil && d.Reason == "TC_INGRESS"
}

// droppedAs is the kernel's drop of a packet during its last stay: it shows the
// packet behind the rules that translated it, where there is no tap.
// It is nil when the kernel told nothing of the kind.
func (t *trail) droppedAs(v *visit) *skbdrop.Drop {
	n, all := len(v.sightings), len(t.sightings)
	if n == 0 || leaves(v) || v.sightings[n-1].Number != t.sightings[all-1].Number || v.netns != t.sightings[all-1].Point.NetNS {
		return nil
	}
	d := t.lastDrop(v)
	if d == nil || !d.Header.Tuple.Src.IsValid() || d.Header.HeaderCut {
		return nil
	}
	return d
}

// dropped adds to a leg's end what the kernel said about it.
func (j *joiner) dropped(leg *Leg, t *trail, v *visit) {
	end := &leg.End
	d := t.lastDrop(v)
	if d == nil || end.Kind == Dropped && d.Reason != skbdrop.NetfilterDrop {
		return
	}
	end.Drop = d
	id := j.ledger.drop(d, j.interfaceName(d))
	end.Evidence = append(slices.Clone(end.Evidence), id)
	switch {
	case end.Kind == Dropped:
		return // the rule says it better
	case end.Kind == Delivered && d.Reason == skbdrop.NoSocket:
		return // it arrived, and nobody was there
	case end.Kind == Delivered:
		end.Kind, end.Next = Vanished, "a socket of "+end.NetNS
	case end.Kind == Left:
		end.Kind, end.Next = Vanished, "the other end of "+end.Interface
	}
	if d.Reason == skbdrop.NetfilterDrop {
		end.Rival = j.rival(t, d)
	}
	if n := len(leg.Hops); n == 0 || leg.Hops[n-1].NetNS != v.netns {
		hop := j.origin(t, v.netns, nil)
		if n > 0 { // an entrance that no tap is before
			hop.Direction, hop.Tuple, hop.TTL = capture.Ingress.String(), ReportTuple(d.Header.Tuple), int(d.Header.TTL)
		}
		hop.Interface, hop.Evidence = j.interfaceName(d), []string{id}
		leg.Hops = append(leg.Hops, hop)
	}
	hop := &leg.Hops[len(leg.Hops)-1]
	hop.Steps = append(hop.Steps, report.Step{Kind: "drop", Text: dropText(d), Confidence: report.Observed, Evidence: []string{id}})
}

// rival finds another packet of the dropped one's flow that was there before the
// drop, and the event of the flow that it opened.
func (j *joiner) rival(t *trail, d *skbdrop.Drop) []string {
	for _, e := range t.flows[d.NetNS] {
		if e.Kind != nat.New {
			continue
		}
		for i := range j.in.Sightings {
			s := &j.in.Sightings[i]
			reply, belongs := e.Flow.Matches(s.Header.Tuple)
			if belongs && !reply && s.Point.NetNS == d.NetNS && s.Time.Before(d.Time) && t.seed.Compare(&s.Header) == packet.Different {
				return []string{j.ledger.Sighting(s), j.ledger.Event(&e)}
			}
		}
	}
	return nil
}

func dropText(d *skbdrop.Drop) string {
	if d.Function == "" {
		return "by the kernel: " + d.Reason
	}
	return fmt.Sprintf("by the kernel: %s at %s", d.Reason, d.Function)
}

// interfaceName is the name of the interface that a dropped packet was at.
func (j *joiner) interfaceName(d *skbdrop.Drop) string {
	for _, link := range j.in.Topology.Namespace(d.NetNS).Links {
		if link.Index == d.Interface {
			return link.Name
		}
	}
	return ""
}

func (l *Ledger) drop(d *skbdrop.Drop, iface string) string {
	if iface != "" {
		iface = " at " + iface
	}
	return l.Add("drop", d.NetNS, d.Time, fmt.Sprintf("%s%s: %s %s at %s",
		d.Mechanism(), iface, d.Header.Tuple, Describe(&d.Header), d.Time.UTC().Format("15:04:05.000000000")))
}
