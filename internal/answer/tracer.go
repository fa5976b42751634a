package answer

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// maxUnread is how many hits are remembered of whose rules more may become known:
// the latest.
const maxUnread = 1 << 16

// Tracer comes from what a trace is told to what it says of the flows. A live
// trace and one that is replayed tell it the same moments in the same order. It is
// not safe for concurrent use.
type Tracer struct {
	// Run is what is known of the surroundings at this moment; its evidence is in
	// the flows.
	Run   *evidence.Run
	Table *traffic.Table

	unread map[int]*ruletrace.Hit // by number
	hits   int                    // so far
	unsent []*traffic.Flow
	judged Judged
	// proxies and connected are the sockets of processes that pass on.
	proxies, connected []socket.Owner
}

// NewTracer returns the tracer of a trace that begins. The source is in its topology.
func NewTracer(begin *evidence.Trace) *Tracer {
	own := Addresses(begin.Run.Topology)
	t := &Tracer{Run: begin.Run, unread: make(map[int]*ruletrace.Hit)}
	t.Table = traffic.New(traffic.Config{
		NetNS: begin.Run.Topology.Source, Own: func(a netip.Addr) bool { return own[a] || a.IsLoopback() },
		Leads:  func(netns string, a netip.Addr) bool { return t.Run.Topology.Leads(netns, a, t.Run.Topology.Source) },
		Wanted: begin.Wanted.Selects, Older: begin.Older,
	})
	return t
}

// Addresses are those of the source.
func Addresses(s *topology.Snapshot) map[netip.Addr]bool {
	own := make(map[netip.Addr]bool)
	source := s.Namespace(s.Source)
	for i := range source.Links {
		for _, p := range source.Links[i].Addresses {
			own[p.Addr()] = true
		}
	}
	return own
}

// Take takes a moment, but for a judgement, which is Judge's. It reports whether
// anything is different by it.
func (t *Tracer) Take(m *evidence.Moment) bool {
	switch {
	case m.Sighting != nil:
		return t.Table.Sighting(*m.Sighting)
	case m.Event != nil:
		return t.Table.Event(*m.Event, m.Time)
	case m.Hit != nil:
		return t.hit(m)
	case m.Drop != nil:
		return t.Table.Drop(*m.Drop, m.Time)
	case m.Attempt != nil:
		return t.Table.Attempt(*m.Attempt)
	case m.Topology != nil:
		t.Run.Topology = m.Topology
	case m.Surroundings != nil:
		t.Run.After, t.Run.Chains = m.Surroundings.After, m.Surroundings.Chains
	case m.Sensors != nil:
		t.Run.Stations, t.Run.KernelDrops, t.Run.Attempts = m.Sensors.Stations, m.Sensors.KernelDrops, m.Sensors.Attempts
	case m.Engines != nil:
		t.Run.Engines = m.Engines.Views
	case m.Proxies != nil:
		t.proxies = m.Proxies
		t.Run.Owners = slices.Concat(t.proxies, t.connected)
		t.Table.Relays(relays(t.proxies))
	case m.Connected != nil:
		t.connected = m.Connected
		t.Run.Owners = slices.Concat(t.proxies, t.connected)
	case m.Unsent != nil:
		t.unsent = t.Table.Unsent(func(target netip.Addr) netip.Addr { return m.Unsent[target] })
	case m.Admitted != nil:
		return t.Table.Admit(*m.Admitted)
	case m.Forgotten != 0:
		if f := t.Flow(m.Forgotten); f != nil {
			t.Table.Forget(f)
		}
	case m.End != nil:
		t.Run.Finished, t.Run.Notes = m.End.Finished, m.End.Notes
		t.judged.Changes, t.judged.Command = m.End.Changes, m.End.Command
	}
	return true
}

// relays are where processes pass on what comes to their sockets.
func relays(owners []socket.Owner) (all []traffic.Relay) {
	for i := range owners {
		if o := &owners[i]; o.Forwards.IsValid() {
			all = append(all, traffic.Relay{NetNS: cmp.Or(o.Home, o.NetNS), Proto: o.Proto, Port: o.Local.Port(), Target: o.Forwards})
		}
	}
	return all
}

// hit takes a rule that a packet met, or what has become known of one.
func (t *Tracer) hit(m *evidence.Moment) bool {
	if m.Number < t.hits {
		known := t.unread[m.Number]
		if known == nil {
			return false
		}
		*known = *m.Hit
		delete(t.unread, m.Number)
		return true
	}
	if !t.Table.Hit(m.Hit, m.Time) {
		return false
	}
	t.hits = m.Number + 1
	t.unread[m.Number] = m.Hit
	delete(t.unread, m.Number-maxUnread)
	return true
}

// Flows are those that are followed, and the attempts of which no packet came.
func (t *Tracer) Flows() []*traffic.Flow {
	return append(append([]*traffic.Flow(nil), t.Table.Flows()...), t.unsent...)
}

// Flow is the flow with a number, nil when there is none any more.
func (t *Tracer) Flow(number int) *traffic.Flow {
	for _, f := range t.Flows() {
		if f.Number == number {
			return f
		}
	}
	return nil
}

// Left are the flows that are still to be judged when a trace ends.
func (t *Tracer) Left(now time.Time) (left []*traffic.Flow) {
	for _, f := range t.Flows() {
		if !f.Judged || f.Due(now, t.Run.Waited) {
			left = append(left, f)
		}
	}
	return left
}

// Judgement is what a flow is judged by at this moment, beside the evidence.
func (t *Tracer) Judgement(f *traffic.Flow, now time.Time, owner Owner, interrupted bool) evidence.Judgement {
	return evidence.Judgement{
		Flow: f.Number, At: now, Complete: t.Table.Complete(f), Interrupted: interrupted,
		Owner: owner.Name, Other: owner.Other, Asked: asked(f), Said: said(f),
	}
}

// Judge explains a flow as it is now, and lets its evidence go.
func (t *Tracer) Judge(f *traffic.Flow, j *evidence.Judgement) (report.Flow, *report.Report) {
	t.Run.Finished, t.Run.Discovery, t.Run.Redirects = j.At, t.Table.Discovery(), j.Redirects
	r := Flow(t.Run, f, j.Complete, j.Interrupted)
	row := t.judged.Add(f, r, j, t.Table.Host(f.Tuple.Dst))
	f.Judge(j.At)
	return row, r
}

// Report is the report about all flows.
func (t *Tracer) Report() *report.Report {
	t.judged.Unfollowed, _ = t.Table.Unfollowed()
	return Trace(t.Run, &t.judged)
}

// Replayed is what a trace came to that was saved.
type Replayed struct {
	Report *report.Report
	// Ended says that the trace was not killed, and Notes what is wrong with the
	// bundle; of what is a report they are among its notes, too.
	Ended bool
	Notes []string
}

// Replay traces what was saved. each is called with each flow as it was judged, in
// that order. Of a trace that was killed the flows are judged that were left. An
// error is that of the moments, or each's.
func Replay(moments iter.Seq2[evidence.Moment, error], each func(report.Flow, *report.Report) error) (*Replayed, error) {
	p := replay{each: each}
	for m, err := range moments {
		if err == nil {
			err = p.take(&m)
		}
		if err != nil {
			return nil, err
		}
	}
	if !p.out.Ended {
		if err := p.cutOff(); err != nil {
			return nil, err
		}
	}
	p.tracer.Run.Notes = append(p.tracer.Run.Notes, p.out.Notes...)
	p.out.Report = p.tracer.Report()
	if v := &p.out.Report.Verdict; !p.out.Ended {
		v.Summary = "The run was ended before it was done. Until then: " + v.Summary
	}
	return &p.out, nil
}

// replay is a trace that is replayed.
type replay struct {
	tracer  *Tracer
	each    func(report.Flow, *report.Report) error
	damaged bool
	last    time.Time
	out     Replayed
}

func (p *replay) take(m *evidence.Moment) error {
	switch {
	case m.Begin != nil:
		p.tracer = NewTracer(m.Begin)
	case m.Note != "":
		p.out.Notes = append(p.out.Notes, m.Note)
		return nil
	case m.Damaged:
		p.damaged = true
	case m.Judgement != nil:
		if f := p.tracer.Flow(m.Judgement.Flow); f != nil {
			return p.judge(f, m.Judgement)
		}
	default:
		p.tracer.Take(m)
	}
	p.out.Ended = p.out.Ended || m.End != nil
	p.last = m.Time
	return nil
}

// judge judges a flow as it was judged. Where something of the bundle is missing it
// may be the flow's.
func (p *replay) judge(f *traffic.Flow, j *evidence.Judgement) error {
	j.Complete = j.Complete && !p.damaged
	return p.each(p.tracer.Judge(f, j))
}

// cutOff ends a trace where its bundle does.
func (p *replay) cutOff() error {
	p.tracer.Run.CutOff(p.last)
	for _, f := range p.tracer.Left(p.last) {
		j := p.tracer.Judgement(f, p.last, Owner{}, true)
		if err := p.judge(f, &j); err != nil {
			return err
		}
	}
	return nil
}
