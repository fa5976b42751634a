package path

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Relay is a process at whose socket the request ended, and that passes on what
// comes there over flows of its own.
type Relay struct {
	// Kind is Proxy or Resolver.
	Kind RelayKind
	// Owner is the process and its socket. Of a resolver that is not known who
	// it is only the socket's namespace is set.
	Owner socket.Owner
	// Flows are what was passed on, in order; of a proxy at most one. None were seen
	// when it is empty.
	Flows []Passed
	// Evidence is what the process is known by.
	Evidence []string
}

// RelayKind tells relays apart.
type RelayKind string

// The kinds: docker-proxy, and a name server that asks others.
const (
	Proxy    RelayKind = "proxy"
	Resolver RelayKind = "resolver"
)

// Passed is a flow that is taken for what a relay passed on.
type Passed struct {
	Probe Probe
	// Held says that the process was seen to hold the socket that sent it;
	// otherwise it is known by where it went, or what it asked, and when.
	Held bool
	// Others is how many further packets may be meant as well.
	Others   int
	Evidence []string
}

// Words say what a flow is, and why it is taken for the request's.
func (r *Relay) Words(p *Passed) string {
	if r.Kind == Resolver {
		return fmt.Sprintf("After the query had arrived %s was asked the same question: taken by that, and by the time, for the query that is passed on.", p.Probe.Tuple.Destination())
	}
	text := fmt.Sprintf("%s passes on to %s, as its command line says; ", Process(&r.Owner), r.Owner.Forwards)
	if p.Held {
		text += "it holds the socket that this was sent from"
	} else {
		text += "this is what was sent there next"
	}
	switch {
	case p.Others == 1:
		text += ", as was one other packet"
	case p.Others > 1:
		text += fmt.Sprintf(", as were %d other packets", p.Others)
	}
	return text + "."
}

// relay looks for the process that took the request, names it, and finds what
// it passed on.
func (j *joiner) relay(leg *Leg, request *trail) *Relay {
	end := &leg.End
	if j.in.Probe.Segment != nil || end.Kind != Delivered || end.Drop != nil || len(leg.Hops) == 0 || end.Tuple.Proto.IsICMP() {
		return nil
	}
	r := &Relay{Owner: socket.Owner{NetNS: end.NetNS}}
	hop := &leg.Hops[len(leg.Hops)-1]
	if owners := socket.Find(j.in.Owners, end.NetNS, end.Tuple); len(owners) == 1 && owners[0].PID != 0 {
		r.Owner = owners[0]
		r.Evidence = []string{j.ledger.owner(&r.Owner)}
		if !r.Owner.Forwards.IsValid() {
			deliver := &hop.Steps[len(hop.Steps)-1]
			deliver.Text += ", to " + Process(&r.Owner)
			deliver.Evidence = slices.Concat(deliver.Evidence, r.Evidence)
		}
	} // or it is nobody's, or one of several processes': not determined
	switch {
	case r.Owner.Forwards.IsValid():
		r.Kind = Proxy
		hop.Steps = append(hop.Steps, report.Step{
			Kind: "proxy", Confidence: report.Reconstructed, Evidence: r.Evidence,
			Text: fmt.Sprintf("%s takes it, and passes on to %s over a connection of its own", Process(&r.Owner), r.Owner.Forwards),
		})
		j.passedOn(r, request)
	case asks(j.in.Probe.Nonce):
		r.Kind = Resolver
		j.askedOn(r, request)
	default:
		return nil
	}
	return r
}

// passedOn finds the packet that began the proxy's own flow: the first that its
// namespace sent to its target when the request had arrived.
func (j *joiner) passedOn(r *Relay, request *trail) {
	home := cmp.Or(r.Owner.Home, r.Owner.NetNS)
	all := j.openings(home, request, func(h *packet.Header) bool { return begins(h, &request.seed, r.Owner.Forwards) })
	held := slices.DeleteFunc(slices.Clone(all), func(o opening) bool { return !j.holds(&r.Owner, home, o.header.Tuple) })
	p := Passed{Held: len(held) > 0}
	if p.Held {
		all = held
	}
	if len(all) == 0 {
		return
	}
	p.Others = len(all) - 1
	p.Probe = Probe{NetNS: home, Tuple: all[0].header.Tuple}
	if p.Probe.Tuple.Proto == packet.UDP {
		p.Probe.Nonce = all[0].header.Payload
	}
	p.Evidence = slices.Concat(r.Evidence, []string{all[0].evidence()})
	r.Flows = []Passed{p}
}

// askedOn finds the queries with the request's question that somebody sent after
// it had arrived: a name server that does not know passes it on.
func (j *joiner) askedOn(r *Relay, request *trail) {
	var seen []*packet.Header
	for i := range j.in.Topology.Namespaces {
		netns := j.in.Topology.Namespaces[i].Name
		all := j.openings(netns, request, func(h *packet.Header) bool {
			return isQuery(h) && SameQuestion(h.Payload, j.in.Probe.Nonce) && j.in.direction(h.Tuple) == unknown
		})
		for _, o := range all {
			again := func(h *packet.Header) bool { return h.Tuple == o.header.Tuple || h.Compare(o.header) == packet.Same }
			if slices.ContainsFunc(seen, again) || !j.madeIn(netns, o.header) {
				continue // on its way through
			}
			seen = append(seen, o.header)
			r.Flows = append(r.Flows, Passed{
				Probe:    Probe{NetNS: netns, Tuple: o.header.Tuple, Nonce: o.header.Payload},
				Evidence: slices.Concat(r.Evidence, []string{o.evidence()}),
			})
		}
	}
}

// madeIn reports whether a namespace made a packet: no interface of it was seen
// to receive it before.
func (j *joiner) madeIn(netns string, h *packet.Header) bool {
	for _, s := range byTime(j.in.Sightings) {
		if s.Header.Compare(h) == packet.Same && s.Header.Tuple.DstPort == h.Tuple.DstPort {
			return s.Point.NetNS == netns && s.Direction == capture.Egress
		}
	}
	return true // known by a rule or its drop alone
}

// opening is the first packet of a flow, and what it is known by.
type opening struct {
	header   *packet.Header
	evidence func() string
}

// openings are the first packets of flows that a namespace sent after the request
// had arrived, of those that open one of interest. One that reached no interface is known by a rule
// or by its drop.
func (j *joiner) openings(netns string, request *trail, opens func(*packet.Header) bool) []opening {
	var all []opening
	known := make(map[packet.Tuple]bool)
	add := func(h *packet.Header, evidence func() string) {
		if !known[h.Tuple] && opens(h) {
			known[h.Tuple] = true
			all = append(all, opening{h, evidence})
		}
	}
	arrived := request.sightings[len(request.sightings)-1].Time
	for _, s := range byTime(j.in.Sightings) {
		switch {
		case s.Point.NetNS != netns || s.Direction != capture.Egress:
		case s.Time.After(arrived):
			add(&s.Header, func() string { return j.ledger.Sighting(&s) })
		default: // nor do its rules, whose time is not known, make it one that began later
			known[s.Header.Tuple] = true
		}
	}
	for i := range j.in.Hits {
		if h := &j.in.Hits[i]; h.NetNS == netns && h.Hook == ruletrace.Output {
			add(&h.Header, func() string { return j.ledger.Hit(h) })
		}
	}
	for i := range j.in.Drops {
		if d := &j.in.Drops[i]; d.NetNS == netns && d.Time.After(arrived) {
			add(&d.Header, func() string { return j.ledger.drop(d, j.interfaceName(d)) })
		}
	}
	return all
}

// begins reports whether a packet opens a flow to a target that carries on what
// another one opened: a connection, or a datagram of the same content.
func begins(h, request *packet.Header, target netip.AddrPort) bool {
	if h.Tuple.Proto != request.Tuple.Proto || netip.AddrPortFrom(h.Tuple.Dst, h.Tuple.DstPort) != target {
		return false
	}
	if h.Tuple.Proto == packet.TCP {
		return h.Flags.Has(packet.SYN) && !h.Flags.Has(packet.ACK)
	}
	return slices.Equal(h.Payload, request.Payload)
}

// holds reports whether a process was seen to hold the socket that sends with a
// tuple.
func (j *joiner) holds(owner *socket.Owner, netns string, sent packet.Tuple) bool {
	return slices.ContainsFunc(socket.Find(j.in.Owners, netns, sent.Inverse()), func(o socket.Owner) bool {
		return o.PID == owner.PID && o.Remote.IsValid()
	})
}

// Process names a process as people do who look for it.
func Process(o *socket.Owner) string { return fmt.Sprintf("%s (pid %d)", o.Command, o.PID) }

// owner adds which process holds a socket.
func (l *Ledger) owner(o *socket.Owner) string {
	text := fmt.Sprintf("socket %s %s: %s", o.Proto, o.Local, Process(o))
	if o.Forwards.IsValid() {
		text += fmt.Sprintf(", whose command line says that it passes on to %s", o.Forwards)
	}
	return l.Add("process", o.NetNS, time.Time{}, text)
}
