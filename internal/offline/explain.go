package offline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Explain reads the captures once more for one flow, an index into the result's
// flows, and reports on the way of one of its packets and of its answer: the
// first that did not get through, or else the first.
func Explain(ctx context.Context, in *Input, index int) (*report.Report, error) {
	f := &in.Result.Flows[index]
	courses, err := flows.Follow(ctx, in.streams, in.Clocks, f)
	if err != nil {
		return nil, fmt.Errorf("follow flow %d: %w", f.Number, err)
	}
	r := Table(in, Selection{Flow: f.Number}, 0)
	e := &explanation{in: in, flow: f, course: courses[0], ledger: path.NewLedger(), report: r, said: &r.Flows[0]}
	e.choose()
	e.legs()
	r.Request = report.Request{Kind: "analyze", Target: r.Request.Target, Address: f.Request.Tuple().Dst.String(), Source: r.Request.Source}
	if len(e.request) > 0 {
		r.Request.Packet = path.Describe(&e.sight(e.request[0]).Header)
	}
	e.translate()
	e.traced()
	e.tracked()
	e.ruled()
	e.judge()
	e.note()
	r.Evidence = e.ledger.Entries()
	return r, nil
}

// explanation is a report of one flow that is being made.
type explanation struct {
	in     *Input
	flow   *flows.Flow
	course *flows.Course
	ledger *path.Ledger
	report *report.Report
	said   *report.Flow
	// request and reply are the sightings of the packet that is explained and of
	// what came back, in path order; parts of packets after the first are left
	// out. End is set when what came back is an ICMP error.
	request, reply []int
	end            *flows.Sight
	// hits are the rules that the packet met, conntrack what that said of the
	// flow last.
	hits []*ruletrace.Hit
	// drop is the rule that ended a leg, nil when none is known to.
	drop      *ruletrace.Hit
	dropLeg   string
	conntrack []*nat.Event
	// lost says that the packet is not the first, but the first that did not get
	// as far as others; answerLost that it is what came back that did not.
	lost, answerLost bool
}

func (e *explanation) sight(i int) *flows.Sight { return &e.course.Sights[i] }

// choose finds the packet that is explained and its answer.
func (e *explanation) choose() {
	first, failed := e.first(func(p *flows.Packet) bool { return !p.Reply }), e.failed()
	if first == nil {
		return
	}
	chosen := first
	if failed != nil && failed.Reply {
		if asked := e.asked(failed); asked != nil {
			chosen = asked
		}
		e.request, e.reply, e.answerLost = stops(e.course, chosen), stops(e.course, failed), true
		return
	}
	if failed != nil {
		chosen, e.lost = failed, failed != first
	}
	e.request = stops(e.course, chosen)
	e.reply = e.answer(e.sight(e.request[0]))
}

// legs are the ways of the packet and of its answer.
func (e *explanation) legs() {
	e.report.Legs.Request, e.report.Legs.Reply = e.leg(e.request), e.leg(e.reply)
}

// first is the first packet of the flow that is like that; nil for none.
func (e *explanation) first(like func(*flows.Packet) bool) *flows.Packet {
	for i := range e.course.Packets {
		if p := &e.course.Packets[i]; !p.Error && like(p) {
			return p
		}
	}
	return nil
}

// failed is the first packet that was seen last where the count falls; nil for
// none.
func (e *explanation) failed() *flows.Packet {
	fall := e.flow.Fall
	if fall == nil || e.flow.Outcome == flows.Rejected || fall.Reply && e.flow.Outcome != flows.Replied {
		return nil
	}
	return e.first(func(p *flows.Packet) bool {
		last := e.sight(p.Sights[len(p.Sights)-1]).Stop
		return p.Reply == fall.Reply && !p.Ambiguous && last == fall.From && e.watched(p)
	})
}

// asked is the last packet that an answer answers; nil for none.
func (e *explanation) asked(answer *flows.Packet) *flows.Packet {
	var last *flows.Packet
	reply := e.sight(answer.Sights[0])
	for i := range e.course.Packets {
		p := &e.course.Packets[i]
		s := e.sight(p.Sights[0])
		if p.Error || p.Reply || !wantsAnswer(&s.Header) || !answers(&reply.Header, &s.Header) || e.sameClock(reply, s) && reply.Time.Before(s.Time) {
			continue
		}
		last = p
	}
	return last
}

// wantsAnswer reports whether a packet is more than an acknowledgement.
func wantsAnswer(h *packet.Header) bool {
	return h.Tuple.Proto != packet.TCP || h.DataLength > 0 || h.Flags&(packet.SYN|packet.FIN) != 0
}

// watched reports whether all captures ran when a packet passed.
func (e *explanation) watched(p *flows.Packet) bool {
	at := e.sight(p.Sights[0]).Time.UnixNano()
	for i := range e.in.Clocks {
		if at < e.in.Clocks[i].First || at > e.in.Clocks[i].Last {
			return false
		}
	}
	return true
}

// stops are the sightings of a packet, one for each stop.
func stops(c *flows.Course, p *flows.Packet) []int {
	var all []int
	for _, i := range p.Sights {
		if n := len(all); n == 0 || c.Sights[all[n-1]].Stop != c.Sights[i].Stop {
			all = append(all, i)
		}
	}
	return all
}

// answer is what came back for a request: a packet that answers it by its
// numbers, or an ICMP error about it.
func (e *explanation) answer(request *flows.Sight) []int {
	for i := range e.course.Packets {
		p := &e.course.Packets[i]
		s := e.sight(p.Sights[0])
		if s.Time.Before(request.Time) && e.sameClock(s, request) {
			continue
		}
		switch {
		case p.Error:
			if e.end == nil && slices.ContainsFunc(e.request, func(k int) bool { return s.Header.Quotes(&e.sight(k).Header) != packet.Different }) {
				e.end = s
			}
		case p.Reply && answers(&s.Header, &request.Header):
			e.end = nil // of a packet that was sent once more
			return stops(e.course, p)
		}
	}
	if e.end == nil {
		return nil
	}
	return e.errorSights()
}

// errorSights are the sightings of the ICMP error that ended the exchange.
func (e *explanation) errorSights() []int {
	var all []int
	for i := range e.course.Sights {
		s := e.sight(i)
		if s.Stop < 0 && s.Header.Compare(&e.end.Header) == packet.Same && !slices.ContainsFunc(all, func(k int) bool { return e.sight(k).Place == s.Place }) {
			all = append(all, i)
		}
	}
	slices.SortStableFunc(all, func(a, b int) int { return int(e.sight(b).Header.TTL) - int(e.sight(a).Header.TTL) })
	return all
}

func (e *explanation) sameClock(a, b *flows.Sight) bool {
	return e.in.Result.Places[a.Place].Capture == e.in.Result.Places[b.Place].Capture
}

// answers reports whether a packet answers another by the protocol's numbers.
func answers(reply, request *packet.Header) bool {
	switch request.Tuple.Proto {
	case packet.TCP:
		if reply.Flags.Has(packet.RST) {
			return true
		}
		end := request.Seq + uint32(request.DataLength)
		if request.Flags&(packet.SYN|packet.FIN) != 0 {
			end++
		}
		return reply.Flags.Has(packet.ACK) && int32(reply.Ack-end) >= 0
	case packet.ICMP, packet.ICMPv6:
		return reply.ICMPSeq == request.ICMPSeq
	}
	return true
}

// leg turns sightings into hops, with what happened between them.
func (e *explanation) leg(sights []int) []report.Hop {
	hops := make([]report.Hop, 0, len(sights))
	for n, i := range sights {
		s := e.sight(i)
		place := e.in.place(s.Place)
		h := report.Hop{
			Machine: place.Machine, NetNS: place.NetNS, Interface: place.Interface, Role: string(roleOf(s)), Direction: direction(s),
			Time: s.Time, Tuple: path.ReportTuple(s.Header.Tuple), TTL: int(s.Header.TTL), Length: s.Length,
			Steps: []report.Step{}, Evidence: []string{e.evidence(s)},
		}
		if e.in.Logs.timeless() {
			h.Time = time.Time{}
		}
		if n > 0 {
			before := &hops[n-1]
			before.Steps = append(before.Steps, e.between(e.sight(sights[n-1]), s)...)
		}
		hops = append(hops, h)
	}
	return hops
}

func roleOf(s *flows.Sight) capture.Role {
	if s.Point.Role == "" {
		return capture.RoleOther
	}
	return s.Point.Role
}

// direction is empty where the capture does not tell.
func direction(s *flows.Sight) string {
	if s.Direction == 0 {
		return ""
	}
	return s.Direction.String()
}

func (e *explanation) evidence(s *flows.Sight) string {
	seen := s.Sighting
	if e.in.Logs.timeless() {
		seen.Time = time.Time{}
	}
	return e.ledger.Sighting(&seen)
}

// between says what happened to a packet from one place to the next.
func (e *explanation) between(a, b *flows.Sight) []report.Step {
	var steps []report.Step
	ids := []string{e.evidence(a), e.evidence(b)}
	add := func(kind, text string, dull bool) {
		steps = append(steps, report.Step{Kind: kind, Text: text, Confidence: report.Reconstructed, Evidence: ids, Dull: dull})
	}
	if from, to := a.Header.Tuple.Source(), b.Header.Tuple.Source(); from != to {
		add("nat", change("source", from, to), false)
	}
	if from, to := a.Header.Tuple.Destination(), b.Header.Tuple.Destination(); from != to {
		add("nat", change("destination", from, to), false)
	}
	if a.Header.Tuple.Proto.IsICMP() && a.Header.Tuple.ICMPID != b.Header.Tuple.ICMPID {
		add("nat", fmt.Sprintf("id %d → %d", a.Header.Tuple.ICMPID, b.Header.Tuple.ICMPID), false)
	}
	switch passed := int(a.Header.TTL) - int(b.Header.TTL); {
	case passed == 1:
		add("route", fmt.Sprintf("one router: TTL %d → %d", a.Header.TTL, b.Header.TTL), false)
	case passed > 1:
		add("route", fmt.Sprintf("%d routers, of which the captures show none: TTL %d → %d", passed, a.Header.TTL, b.Header.TTL), false)
	case passed == 0:
		add("bridge", fmt.Sprintf("no router: TTL %d stays", a.Header.TTL), true)
	}
	if from, to := vlans(e.in.place(a.Place).VLANs), vlans(e.in.place(b.Place).VLANs); from != to {
		kind := "bridge"
		if a.Header.TTL != b.Header.TTL {
			kind = "route"
		}
		add(kind, fmt.Sprintf("%s → %s", from, to), false)
	}
	if from, to := tunnels(&a.Header), tunnels(&b.Header); from != to {
		switch {
		case from == "":
			add("route", "goes on inside "+to, false)
		case to == "":
			add("route", "comes out of "+from, false)
		default:
			add("route", fmt.Sprintf("changes from %s to %s", from, to), false)
		}
	}
	switch x, y := a.Header.IsFragment(), b.Header.IsFragment(); {
	case !x && y:
		add("route", "is cut into fragments", false)
	case x && !y:
		add("route", "its fragments are put together", false)
	}
	if x, y := a.Header.DataLength, b.Header.DataLength; a.Header.Tuple.Proto == packet.TCP && x != y && x > 0 && y > 0 && !a.Header.IsFragment() && !b.Header.IsFragment() {
		add("route", fmt.Sprintf("segmentation offload: a segment of %d bytes here, of %d there", x, y), true)
	}
	return steps
}

// change says what NAT did to one field.
func change(field, from, to string) string { return fmt.Sprintf("%s %s → %s", field, from, to) }

// tunnels names what a packet is in.
func tunnels(h *packet.Header) string {
	names := make([]string, 0, len(h.Tunnels))
	for i := range h.Tunnels {
		l := &h.Tunnels[i]
		outer := packet.Key{Src: l.Src, Dst: l.Dst}.Tuple()
		name := tunnelText(l)
		if outer.Src.IsValid() && !outer.Src.IsUnspecified() {
			name += fmt.Sprintf(" from %s to %s", outer.Src, outer.Dst)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", in it ")
}
