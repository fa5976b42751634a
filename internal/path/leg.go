package path

import (
	"math"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Join builds the path of a probe from everything that was seen.
func Join(in Input) *Path {
	j := &joiner{in: &in, ledger: in.Ledger, networks: hostNetworks(&in)}
	if j.ledger == nil {
		j.ledger = NewLedger()
	}
	request := requestTrail(&in)
	reply, kind := replyTrail(&in, &request)

	p := &Path{}
	p.Request = j.leg("request", &request, kind != None)
	if kind != None {
		p.Reply = j.leg("reply", &reply, false)
		p.Answer = j.answer(kind, &reply)
		if kind != Error {
			p.Answer.Expected = expected(&request, &reply)
			p.Answer.Unexpected = unexpected(&in, &request, &p.Reply.End)
		}
	}
	switch {
	case in.Probe.Segment != nil:
		p.Sending = j.sending(&request)
	case in.Probe.Tuple.Proto == packet.TCP:
		j.shrunk(&p.Request, &request)
	}
	p.Relay = j.relay(&p.Request, &request)
	p.Translations = j.translations
	p.Older = j.older(&request)
	p.Evidence = j.ledger.Entries()
	return p
}

// older are the flows that a packet belongs to and that were there before it, in
// the order in which it meets them.
func (j *joiner) older(t *trail) []Older {
	var all []Older
	for _, netns := range j.netnsOrder("request") {
		for _, e := range t.flows[netns] {
			if e.Kind == nat.Existing && !e.Resync {
				all = append(all, Older{Flow: e.Flow, Evidence: j.ledger.Event(&e)})
			}
		}
	}
	return all
}

type joiner struct {
	in           *Input
	ledger       *Ledger
	translations []report.Translation
	networks     []engine.Network
}

// hostNetworks are the networks of Docker's that the host has: the daemon that was
// asked may be that of another namespace.
func hostNetworks(in *Input) []engine.Network {
	host := in.Topology.Namespace(topology.HostName)
	return slices.DeleteFunc(slices.Clone(in.Networks), func(n engine.Network) bool { return !host.Has(n.Bridge, n.Prefixes) })
}

// rule is the rule of a hit in the report's form.
func (j *joiner) rule(h *ruletrace.Hit) *report.Rule { return j.ruleIn(h.NetNS, h.Rule) }

func (j *joiner) ruleIn(netns string, rule ruletrace.Rule) *report.Rule {
	if netns != topology.HostName {
		return Rule(rule, nil)
	}
	return Rule(rule, j.networks)
}

// step is a report step with what the end of the leg is judged by.
type step struct {
	report.Step
	hit *ruletrace.Hit
	// before is the tuple with which a translated packet came to the namespace,
	// or was made; after is its tuple behind the translation.
	before, after packet.Tuple
}

// ends reports whether the rule or policy of a step ended the packet.
func (s *step) ends() bool { return s.hit != nil && (s.Kind == "drop" || s.Kind == "reject") }

// leg builds one direction. That it was answered proves that it arrived.
func (j *joiner) leg(name string, t *trail, answered bool) Leg {
	var leg Leg
	if n := len(t.sightings); n > 0 {
		leg.First, leg.Last = &t.sightings[0], &t.sightings[n-1]
		leg.Packet = Describe(&leg.First.Header)
	} else if len(t.hits)+len(t.drops) > 0 {
		leg.Packet = Describe(&t.seed)
	}
	carrier := j.carrier(t)
	stays := j.stays(name, t, carrier)
	var last []element
	for i, s := range stays {
		again := slices.ContainsFunc(stays[:i], func(earlier stay) bool {
			return earlier.netns == s.netns && earlier.carried == s.carried && !j.merelyBridged(&earlier.visit)
		})
		own, first := t, i == 0
		if s.carried {
			own, first = carrier, i > 0 && stays[i-1].netns == s.netns
		}
		if i > 0 && len(leg.Hops) > 0 {
			if step := j.passage(t, carrier, &stays[i-1], &s); step != nil {
				hop := &leg.Hops[len(leg.Hops)-1]
				hop.Steps = append(hop.Steps, *step)
			}
		}
		last = j.elements(name, own, &s, first, again)
		leg.Hops = append(leg.Hops, j.hops(own, s.netns, last)...)
	}
	if len(stays) == 0 {
		leg.End = End{Kind: Unseen}
		return leg
	}
	ended := &stays[len(stays)-1].visit
	leg.End = j.end(ended, last)
	if stays[len(stays)-1].carried {
		leg.End.Carried = true
		if leg.End.Kind == Delivered {
			leg.End.Kind, leg.End.Next, leg.End.Parked = Vanished, "the tunnel device of "+leg.End.NetNS, false
		}
	}
	j.dropped(&leg, t, ended)
	if leg.End.Kind == Delivered && len(leg.Hops) > 0 {
		confidence := report.Assumed
		if answered || name == "reply" || passedRouting(last) {
			confidence = report.Reconstructed
		}
		hop := &leg.Hops[len(leg.Hops)-1]
		hop.Steps = append(hop.Steps, report.Step{
			Kind: "deliver", Text: "delivered to " + hop.NetNS, Confidence: confidence, Evidence: leg.End.Evidence,
			Dull: name == "reply" && hop.NetNS == j.in.Probe.NetNS, // the verdict says so
		})
	}
	return leg
}

// stay is a visit with the rule hits that belong to it.
type stay struct {
	visit
	hits []ruletrace.Hit
	// carried says that the packet was in a tunnel: what the stay has is of the
	// packet around it.
	carried bool
}

// stays are the visits of a packet in path order. A namespace in which only
// rules or the kernel's drops saw the packet (dropped before it reached an
// interface) is a stay too.
func (j *joiner) stays(leg string, t, carrier *trail) []stay {
	var all []stay
	for _, v := range visits(t.sightings) {
		s := stay{visit: v, carried: v.sightings[0].Carrier != nil}
		for i := range s.sightings {
			if s.carried {
				s.sightings[i] = outside(s.sightings[i])
			}
		}
		all = append(all, s)
	}
	for _, netns := range j.netnsOrder(leg) {
		hits := t.hits[netns]
		if len(hits) == 0 {
			continue
		}
		var here []int
		for i := range all {
			if all[i].netns == netns && !all[i].carried {
				here = append(here, i)
			}
		}
		hits = j.once(hits, max(len(here), 1))
		if len(here) == 0 {
			at := j.place(leg, netns, all)
			all = slices.Insert(all, at, stay{visit: visit{netns: netns}, hits: hits})
			continue
		}
		j.assign(hits, all, here)
	}
	if carrier != nil {
		all = j.carriedStays(leg, carrier, all)
	}
	for _, d := range t.drops {
		if !slices.ContainsFunc(all, func(s stay) bool { return s.netns == d.NetNS }) {
			all = slices.Insert(all, j.place(leg, d.NetNS, all), stay{visit: visit{netns: d.NetNS}})
		}
	}
	return all
}

// once leaves out the hits of a packet's retransmissions, of which content may
// tell no difference: a packet that stays in a namespace n times meets the rule
// that it meets first no more often.
func (j *joiner) once(hits []ruletrace.Hit, n int) []ruletrace.Hit {
	if j.in.Probe.Tuple.Proto != packet.TCP {
		return hits
	}
	first, met := make(map[bool]ruletrace.Hit), make(map[bool]int) // by socket
	return slices.DeleteFunc(slices.Clone(hits), func(h ruletrace.Hit) bool {
		f, ok := first[h.Legacy]
		if !ok {
			f, first[h.Legacy] = h, h
		}
		if h.Hook == f.Hook && h.Kind == f.Kind && h.Ingress == f.Ingress && h.Rule == f.Rule {
			met[h.Legacy]++
		}
		return met[h.Legacy] > n
	})
}

// netnsOrder lists the namespaces in the order in which the leg meets them.
func (j *joiner) netnsOrder(leg string) []string {
	var names []string
	for i := range j.in.Topology.Namespaces {
		names = append(names, j.in.Topology.Namespaces[i].Name)
	}
	if leg == "reply" {
		slices.Reverse(names)
	}
	return names
}

// place finds where a namespace without sightings stands among the stays.
func (j *joiner) place(leg, netns string, all []stay) int {
	names := j.netnsOrder(leg)
	own := slices.Index(names, netns)
	at := slices.IndexFunc(all, func(s stay) bool { return slices.Index(names, s.netns) > own })
	if at < 0 {
		return len(all)
	}
	return at
}

// assign distributes the hits of one namespace over its stays: within each
// socket hits are in the kernel's order, so a step back in the hook order is
// the next stay, and so is an ingress interface that the stay does not have:
// then it is the next one that has it.
func (j *joiner) assign(hits []ruletrace.Hit, all []stay, here []int) {
	type cursor struct {
		at   int
		last stage
	}
	cursors := map[bool]*cursor{false: {}, true: {}}
	for _, h := range hits {
		c := cursors[h.Legacy]
		place := j.hitStage(&h, nil)
		fits := func(i int) bool { return j.entersBy(&all[here[i]].visit, h.Ingress) }
		if place < c.last && c.at+1 < len(here) {
			c.at++
		}
		for at := c.at; at < len(here); at++ {
			if fits(at) {
				c.at = at
				break
			}
		}
		c.last = place
		stay := &all[here[c.at]]
		stay.hits = append(stay.hits, h)
	}
}

// entersBy reports whether a stay may have begun at the interface: it was seen
// there, or on a port of it, or nothing contradicts.
func (j *joiner) entersBy(v *visit, iface string) bool {
	if iface == "" || len(v.sightings) == 0 {
		return true
	}
	ns := j.in.Topology.Namespace(v.netns)
	return slices.ContainsFunc(v.sightings, func(s capture.Sighting) bool {
		link := ns.Link(s.Point.Interface)
		return s.Direction == capture.Ingress && (s.Point.Interface == iface || (link != nil && link.Bridge == iface))
	})
}

// elements are everything that happened during a stay, in the kernel's order.
// It is the first of the leg, or not; again says that IP had the packet in this
// namespace before.
func (j *joiner) elements(leg string, t *trail, s *stay, first, again bool) []element {
	v, hits := &s.visit, s.hits
	var all []element
	for i := range v.sightings {
		all = append(all, element{stage: j.sightingStage(&v.sightings[i]), sighting: &v.sightings[i]})
	}
	for i := range hits {
		if s := j.hitStep(&hits[i]); s != nil {
			all = append(all, element{
				stage: j.hitStage(&hits[i], v), priority: hits[i].Priority,
				group: boolInt(hits[i].Legacy), seq: hits[i].Seq, step: s,
			})
		}
	}
	slices.SortStableFunc(all, compareElements)

	origin := first && (len(v.sightings) == 0 || v.sightings[0].Direction == capture.Egress)
	if !s.carried { // what is translated there is not the packet
		all = j.translate(leg, t, v, all, origin)
	}
	if !again && !j.merelyBridged(v) {
		all = append(all, j.conntrack(leg, t, v, all)...)
	}
	if (!origin || len(hits) > 0) && !t.endedBeforeRouting(v) { // a sender's route alone is no news
		if e := j.route(v, all, origin); e != nil {
			all = append(all, *e)
		}
	}
	slices.SortStableFunc(all, compareElements)
	if s := diverted(all); s != nil {
		s.Dull = false
	}
	for i := range all {
		if all[i].step == nil || !all[i].step.ends() {
			continue
		}
		if s := shadowed(&all[i], all); s != nil {
			s.Dull = false
		}
	}
	return all
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (j *joiner) sightingStage(s *capture.Sighting) stage {
	link := linkOf(s.Point, j.in.Topology)
	bridge := link != nil && link.Kind == "bridge"
	switch {
	case s.Direction == capture.Ingress && bridge:
		return stageBridgeDevice
	case s.Direction == capture.Ingress:
		return stageIngress
	case bridge:
		return stageBridgeEgress
	}
	return stageEgress
}

// hitStage places a hit. Where br_netfilter hands bridged packets to IP, their
// prerouting comes before the bridge device's tap.
func (j *joiner) hitStage(h *ruletrace.Hit, v *visit) stage {
	bridge := h.Rule.Family == "bridge"
	switch h.Hook {
	case ruletrace.IngressHook:
		if j.isBridge(h.NetNS, h.Ingress) {
			return stageBridgeDeviceIngress
		}
		return stageNetdevIngress
	case ruletrace.Prerouting:
		if bridge {
			return stageBridgePrerouting
		}
		if v != nil && j.bridgedIn(v, &h.Header) {
			return stageBridgedPrerouting
		}
		return stagePrerouting
	case ruletrace.Input:
		if bridge {
			return stageBridgeInput
		}
		return stageInput
	case ruletrace.Forward:
		switch {
		case bridge:
			return stageBridgeForward
		case j.turnsBack(v):
			return stageReturnedForward
		}
		return stageForward
	case ruletrace.Output:
		if bridge {
			return stageBridgePostrouting
		}
		return stageOutput
	case ruletrace.Postrouting:
		if bridge {
			return stageBridgePostrouting
		}
		return j.postrouting(v)
	case ruletrace.EgressHook:
		if j.isBridge(h.NetNS, h.Egress) {
			return stageBridgeDeviceEgress
		}
		return stageNetdevEgress
	}
	return stageForward
}

func (j *joiner) isBridge(netns, name string) bool {
	link := j.in.Topology.Namespace(netns).Link(name)
	return link != nil && link.Kind == "bridge"
}

// postrouting is the place of IP's postrouting in a stay.
func (j *joiner) postrouting(v *visit) stage {
	if j.turnsBack(v) {
		return stageBridgePostrouting
	}
	return stagePostrouting
}

// turnsBack reports whether br_netfilter translated the packet to go back to its
// own bridge: it leaves by the bridge, and meets IP's forward and postrouting
// behind that, as bridged packets do.
func (j *joiner) turnsBack(v *visit) bool {
	if v == nil {
		return false
	}
	bridge := func(s capture.Sighting) bool {
		link := linkOf(s.Point, j.in.Topology)
		return link != nil && link.Kind == "bridge"
	}
	at := slices.IndexFunc(v.sightings, bridge)
	if at <= 0 || v.sightings[at].Direction == capture.Ingress || !j.bridgedIn(v, &v.sightings[0].Header) {
		return false
	}
	return linkOf(v.sightings[0].Point, j.in.Topology).Bridge == v.sightings[at].Point.Interface
}

// bridgedIn reports whether a stay began at a bridge port in a namespace whose
// br_netfilter calls IP's prerouting from the bridge.
func (j *joiner) bridgedIn(v *visit, h *packet.Header) bool {
	ns := j.in.Topology.Namespace(v.netns)
	if ns == nil || len(v.sightings) == 0 || v.sightings[0].Direction != capture.Ingress {
		return false
	}
	link := ns.Link(v.sightings[0].Point.Interface)
	if link == nil || link.Bridge == "" {
		return false
	}
	if h.Version == 4 {
		return ns.BridgeNF.IPv4
	}
	return ns.BridgeNF.IPv6
}

// merelyBridged reports whether a bridge passed a packet on from port to port
// and IP's hooks saw nothing of it.
func (j *joiner) merelyBridged(v *visit) bool {
	if len(v.sightings) < 2 || j.bridgedIn(v, &v.sightings[0].Header) {
		return false
	}
	first := linkOf(v.sightings[0].Point, j.in.Topology)
	return first != nil && first.Bridge != "" && v.sightings[0].Direction == capture.Ingress &&
		!slices.ContainsFunc(v.sightings, func(s capture.Sighting) bool {
			link := linkOf(s.Point, j.in.Topology)
			return link == nil || link.Bridge != first.Bridge
		})
}

// hitStep says what a hit did; nil for the ends of chains, which did nothing.
func (j *joiner) hitStep(h *ruletrace.Hit) *step {
	if h.Kind == ruletrace.HitReturn {
		return nil
	}
	s := &step{hit: h, Step: report.Step{
		Kind: "rule", Hook: string(h.Hook), Rule: j.rule(h), Text: h.Rule.Text,
		Confidence: report.Observed, Evidence: []string{j.ledger.Hit(h)}, Dull: true,
	}}
	if h.Kind == ruletrace.HitPolicy {
		s.Kind = "policy"
	}
	switch h.Verdict {
	case ruletrace.Drop:
		s.Kind, s.Dull = "drop", false
	case ruletrace.Reject:
		s.Kind, s.Dull = "reject", false
	case ruletrace.Queue:
		s.Dull = false
	}
	return s
}

// conntrack adds what the kernel's connection tracking said: NEW with the
// request's confirmation, if it opened the flow and was not dropped before, an
// update with the answer that caused it.
func (j *joiner) conntrack(leg string, t *trail, v *visit, before []element) []element {
	var all []element
	updated := false
	for _, e := range t.flows[v.netns] {
		translated := len(e.Flow.Translations()) > 0
		s := &step{Step: report.Step{Kind: "conntrack", Confidence: report.Observed, Dull: !translated}}
		at := element{seq: e.Seq, step: s, priority: -200}
		switch {
		case e.Kind == nat.New && leg == "request":
			if endsBefore(before, element{stage: stageConfirm}) || j.follows(t, &e.Flow) {
				continue
			}
			s.Text, at.stage = "NEW", stageConfirm
			if j.postrouting(v) != stagePostrouting {
				at.stage, at.priority = stageBridgePostrouting, math.MaxInt // at the end of postrouting
			}
		case e.Kind == nat.Existing && leg == "request":
			s.Text, at.stage = "the flow is in the table; no event of its beginning was seen", stagePrerouting
			if !e.Resync {
				s.Text = "the flow was in the table before"
			}
			s.Dull = false
		case e.Kind == nat.Update && leg == "reply" && !errorTrail(t) && !updated: // later packets bring more
			updated = true
			s.Text, at.stage = "UPDATE (answer seen)", stagePrerouting
			s.Dull = true
		default:
			continue
		}
		s.Evidence = []string{j.ledger.Event(&e)}
		all = append(all, at)
	}
	return all
}

// follows reports whether another packet of the flow was seen in its namespace
// before that of the trail.
func (j *joiner) follows(t *trail, f *nat.Flow) bool {
	own := slices.IndexFunc(t.sightings, func(s capture.Sighting) bool { return s.Point.NetNS == f.NetNS })
	return own >= 0 && slices.ContainsFunc(j.in.Sightings, func(s capture.Sighting) bool {
		_, belongs := f.Matches(s.Header.Tuple)
		return belongs && s.Point.NetNS == f.NetNS && s.Time.Before(t.sightings[own].Time) && t.seed.Compare(&s.Header) == packet.Different
	})
}

func errorTrail(t *trail) bool { return t.seed.IsICMPError() }

// tuple is the packet's as the element shows it.
func (e *element) tuple() (packet.Tuple, bool) {
	switch {
	case e.sighting != nil:
		return e.sighting.Header.Tuple, true
	case e.step != nil && e.step.hit != nil:
		return e.step.hit.Header.Tuple, e.step.hit.Header.Tuple.Src.IsValid()
	}
	return packet.Tuple{}, false
}
