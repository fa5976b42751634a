package path

import (
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// A packet that goes into a VXLAN device goes on inside of another packet, which
// has a way, rules and an end of its own until the other end takes it out again.
// So the stays in the tunnel are those of the carrier: in them the sightings show
// the carrier's header, and the hits are the carrier's.

// carrier is the trail of the packet that carried t's; nil when t's was not seen
// to be carried.
func (j *joiner) carrier(t *trail) *trail {
	var carried []capture.Sighting
	for _, s := range t.sightings {
		if s.Carrier != nil {
			carried = append(carried, outside(s))
		}
	}
	if len(carried) > 0 {
		c := gather(j.in, carried[0].Header, carried)
		return &c
	}
	// Rules of the namespace with the tunnel may have dropped it before any
	// interface saw it. Of such packets only the flow's own are traced.
	n := len(t.sightings)
	if n == 0 || t.sightings[n-1].Direction != capture.Egress {
		return nil
	}
	last := &t.sightings[n-1]
	link := linkOf(last.Point, j.in.Topology)
	if link == nil || link.Tunnel == nil {
		return nil
	}
	i := slices.IndexFunc(j.in.Hits, func(h ruletrace.Hit) bool {
		return h.NetNS == last.Point.NetNS && h.Hook == ruletrace.Output && carries(&h.Header, link.Tunnel)
	})
	if i < 0 {
		return nil
	}
	c := gather(j.in, j.in.Hits[i].Header, nil)
	return &c
}

// carries reports whether a packet is one that a tunnel sends.
func carries(h *packet.Header, t *topology.Tunnel) bool {
	return h.Tuple.Proto == packet.UDP && h.Tuple.DstPort == t.Port && (!t.Local.IsValid() || h.Tuple.Src == t.Local)
}

// outside is the sighting of the packet around one that was carried.
func outside(s capture.Sighting) capture.Sighting {
	s.Header, s.Carrier = *s.Carrier, nil
	return s
}

// carriedStays cuts the stays at the ends of a tunnel and gives those in it the
// rules that the carrier met.
func (j *joiner) carriedStays(leg string, c *trail, all []stay) []stay {
	for _, netns := range j.netnsOrder(leg) {
		hits := c.hits[netns]
		if len(hits) == 0 {
			continue
		}
		var here []int
		for i := range all {
			if all[i].netns == netns && all[i].carried {
				here = append(here, i)
			}
		}
		if len(here) > 0 {
			j.assign(hits, all, here)
			continue
		}
		at := j.place(leg, netns, all)
		for i := range all {
			if all[i].netns == netns {
				at = i + 1 // it went into the tunnel here
			}
		}
		all = slices.Insert(all, at, stay{visit: visit{netns: netns}, hits: hits, carried: true})
	}
	return all
}

// passage is the step between two stays of which one is in a tunnel: that the
// packet went in, or was taken out.
func (j *joiner) passage(t, c *trail, before, after *stay) *report.Step {
	if before.netns != after.netns || before.carried == after.carried {
		return nil
	}
	s := &report.Step{Kind: "tunnel", Confidence: report.Observed, Evidence: []string{}}
	name := "VXLAN"
	i := slices.IndexFunc(t.sightings, func(seen capture.Sighting) bool {
		return seen.Carrier != nil && seen.Point.NetNS == before.netns
	})
	if i >= 0 {
		name = tunnelName(&t.sightings[i].Header)
		s.Evidence = append(s.Evidence, j.ledger.Sighting(&t.sightings[i]))
	} else {
		// No interface saw the carrier; a rule that is traced for such packets did.
		s.Confidence = report.Reconstructed
		if link := linkOf(before.sightings[len(before.sightings)-1].Point, j.in.Topology); link != nil && link.Tunnel != nil {
			name = fmt.Sprintf("VXLAN VNI %d", link.Tunnel.ID)
		}
		s.Evidence = append(s.Evidence, j.ledger.Hit(&after.hits[0]))
	}
	if after.carried {
		s.Text = fmt.Sprintf("encapsulated in %s to %s", name, c.seed.Tuple.Dst)
	} else {
		s.Text = fmt.Sprintf("taken out of %s from %s", name, c.seed.Tuple.Src)
	}
	return s
}

// tunnelName names the innermost tunnel that a packet was found in.
func tunnelName(h *packet.Header) string {
	if n := len(h.Tunnels); n > 0 {
		return fmt.Sprintf("VXLAN VNI %d", h.Tunnels[n-1].ID)
	}
	return "VXLAN"
}
