package traffic

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Relay is where a process passes on what comes to a port, over flows of its own,
// as docker-proxy does.
type Relay struct {
	// NetNS is the namespace in which its own flows begin.
	NetNS string
	Proto packet.Proto
	// Port is what it listens at, Target where it passes on.
	Port   uint16
	Target netip.AddrPort
}

// maxCarriers is how many flows are kept that may carry another one on: the first
// is most likely the one, the others are why that is not certain.
const maxCarriers = 4

// Relays says which relays there are, in place of those that were known. What they
// began while a flow to their port was there is kept with that flow's evidence.
func (t *Table) Relays(all []Relay) {
	t.relays = all
	for _, f := range slices.Clone(t.flows) {
		t.carriedOn(f)
	}
}

// carriedOn finds what may carry a flow on among what came before it was known.
func (t *Table) carriedOn(f *Flow) {
	if !slices.ContainsFunc(t.relays, func(r Relay) bool { return r.Takes(f) }) {
		return
	}
	for _, other := range t.flows {
		t.carries(other)
	}
	for _, s := range slices.Clone(t.strays.queue) {
		switch {
		case s.taken:
		case s.sighting != nil && s.sighting.Direction == capture.Egress:
			t.carry(s.sighting.Point.NetNS, &s.sighting.Header, s.sighting.Time, s.keys[0])
		case s.hit != nil && s.hit.Hook == ruletrace.Output:
			t.carry(s.hit.NetNS, &s.hit.Header, s.at, s.keys[0])
		case s.drop != nil:
			t.carry(s.drop.NetNS, &s.drop.Header, s.drop.Time, s.keys[0])
		}
	}
}

// Takes reports whether a flow may end at the relay.
func (r *Relay) Takes(f *Flow) bool { return f.Tuple.Proto == r.Proto && f.Tuple.DstPort == r.Port }

// sends reports whether a packet may begin a flow of the relay's.
func (r *Relay) sends(h *packet.Header) bool {
	first := h.Tuple.Proto != packet.TCP || h.Flags&(packet.SYN|packet.ACK) == packet.SYN
	return first && h.Tuple.Proto == r.Proto && netip.AddrPortFrom(h.Tuple.Dst, h.Tuple.DstPort) == r.Target
}

// carry opens the flow that a packet, which is on its way out of a namespace, begins
// to carry others on; nil when it carries none.
func (t *Table) carry(netns string, h *packet.Header, at time.Time, key packet.Tuple) *Flow {
	for i := range t.relays {
		r := &t.relays[i]
		if r.NetNS != netns || !r.sends(h) || t.strays.passedThrough(h, netns) {
			continue
		}
		if served := t.served(r, at); len(served) > 0 {
			f := &Flow{Tuple: h.Tuple, First: *h, Began: at, NetNS: netns}
			f.carry(served)
			return t.follow(f, key)
		}
	}
	return nil
}

// relayed reports whether a packet at the source may be of a flow that carries one of
// the source's on: between a relay elsewhere and its target, which the source may be
// itself, or on its way to a relay of the source's, unless a rule sends it on.
func (t *Table) relayed(s *capture.Sighting) bool {
	h := &s.Header
	return slices.ContainsFunc(t.relays, func(r Relay) bool {
		meant := netip.AddrPortFrom(h.Tuple.Dst, h.Tuple.DstPort) == r.Target || netip.AddrPortFrom(h.Tuple.Src, h.Tuple.SrcPort) == r.Target
		if r.NetNS == t.cfg.NetNS {
			meant = t.arrives(s) && opens(h) && h.Tuple.DstPort == r.Port
		}
		return meant && h.Tuple.Proto == r.Proto && len(t.served(&r, s.Time)) > 0
	})
}

// carries has the flows that one of the source's may carry on know of it.
func (t *Table) carries(f *Flow) {
	for i := range t.relays {
		r := &t.relays[i]
		if r.sends(&f.First) {
			f.carry(t.served(r, f.Began))
		}
	}
}

// carry has flows know that this one may carry them on.
func (f *Flow) carry(served []*Flow) {
	for _, s := range served {
		if s != f && !slices.Contains(s.carriers, f) {
			s.carriers = append(s.carriers, f)
			f.carrying++
		}
	}
}

// served are the flows that a relay may serve with what it begins at a time.
func (t *Table) served(r *Relay, at time.Time) (all []*Flow) {
	for _, f := range t.flows {
		if r.Takes(f) && !f.Existing && !f.Inbound && len(f.carriers) < maxCarriers && !f.Began.After(at) && !f.Judged {
			all = append(all, f)
		}
	}
	return all
}

// letCarriersGo gives up what carried a flow on alone.
func (t *Table) letCarriersGo(f *Flow) {
	for _, c := range f.carriers {
		needed := func(other *Flow) bool { return other == c || slices.Contains(other.carriers, c) }
		if !slices.ContainsFunc(t.flows, needed) {
			t.release(c)
		}
	}
}

// Carriers are the flows that may carry this one on: those that a relay to whose
// port it goes began meanwhile.
func (f *Flow) Carriers() []*Flow { return f.carriers }

// uncarried reports whether a flow that may carry this one on was not answered.
func (f *Flow) uncarried(now time.Time, patience time.Duration) bool {
	return slices.ContainsFunc(f.carriers, func(c *Flow) bool { return !c.Answered() && now.Sub(c.Began) > patience })
}
