package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/attempt"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Trace is what is known of a trace of all flows of a source when it begins.
type Trace struct {
	// Run has the request and the surroundings, and no evidence.
	Run *Run
	// Wanted are the flows that are traced, Older says that those that are there
	// already are, too, and those that others open to the source.
	Wanted Selector
	Older  bool
}

// Selector selects flows by the tuple that their first packet has at the source.
// The zero value selects all, and so does each zero field.
type Selector struct {
	Proto      packet.Proto
	Src, Dst   netip.Prefix
	SourcePort uint16
	TargetPort uint16
}

// Selects reports whether a flow is selected.
func (s *Selector) Selects(t packet.Tuple) bool {
	return (s.Proto == 0 || s.Proto == t.Proto) &&
		(!s.Src.IsValid() || s.Src.Contains(t.Src)) && (!s.Dst.IsValid() || s.Dst.Contains(t.Dst)) &&
		(s.SourcePort == 0 || s.SourcePort == t.SrcPort) && (s.TargetPort == 0 || s.TargetPort == t.DstPort)
}

// Moment is one thing that a trace was told, or that it did, at its place in the
// order of these: whoever takes all of them in that order comes to what the trace
// came to. One of the fields behind Number is set.
type Moment struct {
	// Time is when it was told; of a packet it is the packet's.
	Time time.Time
	// Number is that of the hit.
	Number int

	// Begin is the first.
	Begin    *Trace
	Sighting *capture.Sighting
	Event    *nat.Event
	// Hit is a rule that a packet met, and again, under its number, when more is
	// known of the rule.
	Hit     *ruletrace.Hit
	Drop    *skbdrop.Drop
	Attempt *attempt.Attempt
	// Topology is the snapshot with further namespaces in it.
	Topology *topology.Snapshot
	// Surroundings are what was read again because a flow failed, Sensors what
	// these did so far.
	Surroundings *Surroundings
	Sensors      *Sensors
	// Engines are what container engines say of themselves.
	Engines *Engines
	// Proxies are the sockets of processes that pass on what comes there, in place of
	// those that were known; Connected those over which they now do.
	Proxies, Connected []socket.Owner
	// Unsent are the addresses that attempts which no packet came of would have
	// been sent from, by their targets.
	Unsent map[netip.Addr]netip.Addr
	// Admitted has what ended until then before it came to the source count as flows.
	Admitted  *time.Time
	Judgement *Judgement
	// Forgotten is the number of a flow that was given up.
	Forgotten int
	// End is the last of a trace that was not killed.
	End *Ending
	// Damaged says that something is missing here, and Note in the end what.
	Damaged bool
	Note    string
}

// Surroundings explain a failure.
type Surroundings struct {
	After  *topology.Snapshot
	Chains map[string][]ruletrace.BaseChain
}

// Engines are what container engines of the host say of themselves.
type Engines struct{ Views []engine.View }

// Sensors are those of a trace.
type Sensors struct {
	Stations              []Station
	KernelDrops, Attempts report.Sensor
}

// Judgement is that a flow was judged, and what of that does not follow from the
// evidence, or not from what is saved of it.
type Judgement struct {
	// Flow is its number.
	Flow int
	At   time.Time
	// Complete says that nothing was let go that may have been the flow's,
	// Interrupted that nobody waited any longer.
	Complete, Interrupted bool
	// Owner is the process that the flow belongs to, "curl (pid 812)"; Other says
	// that it is not of the command that is traced.
	Owner string
	Other bool
	// Asked and Said are what the two ends said, as far as it is worth a word.
	Asked, Said string
	// Redirects are the rules that translate the destination of such packets today, by
	// namespaces, where no sensor could tell which one did.
	Redirects map[string]ruletrace.Rule `json:",omitempty"`
}

// Ending is how a trace ended.
type Ending struct {
	Finished time.Time
	// Command is what ran meanwhile, without its arguments; nil when nothing did.
	Command *report.Command
	// Changes of the network meanwhile, and limits of the evidence, in words.
	Changes, Notes []string
}

// traceHead is the first record of a trace.
type traceHead struct {
	head
	Wanted Selector `json:"wanted"`
	Older  bool     `json:"older,omitempty"`
}

// Moment saves a moment of a trace. Into its end it notes what was not saved. Many
// packets may pass in a moment: when they are compressed they are in the file after
// Flush.
func (w *Writer) Moment(m *Moment) {
	w.locked(func() {
		switch {
		case m.Begin != nil:
			w.version = traceVersion
			if w.packed != nil {
				w.packed.lazy = true
			}
			w.writeAt(m.Time, recordTrace, 0, &traceHead{w.head(m.Begin.Run), m.Begin.Wanted, m.Begin.Older})
		case m.Sighting != nil:
			w.sighting(m.Sighting)
		case m.Hit != nil:
			w.hit(m.Time, m.Number, m.Hit)
		case m.Event != nil:
			w.writeAt(m.Time, recordEvent, w.events, m.Event)
			w.events++
		case m.Drop != nil:
			w.drop(m.Time, *m.Drop)
		case m.Attempt != nil:
			w.writeAt(m.Time, recordAttempt, w.attempts, m.Attempt)
			w.attempts++
		case m.Topology != nil:
			w.writeAt(m.Time, recordTopology, 0, m.Topology)
		case m.Surroundings != nil:
			w.writeAt(m.Time, recordAfter, 0, m.Surroundings)
		case m.Sensors != nil:
			w.writeAt(m.Time, recordSensors, 0, m.Sensors)
		case m.Engines != nil:
			w.writeAt(m.Time, recordEngines, 0, m.Engines)
		case m.Proxies != nil:
			w.writeAt(m.Time, recordProxies, 0, m.Proxies)
		case m.Connected != nil:
			w.writeAt(m.Time, recordConnected, 0, m.Connected)
		case m.Unsent != nil:
			w.writeAt(m.Time, recordUnsent, 0, m.Unsent)
		case m.Admitted != nil:
			w.writeAt(m.Time, recordAdmitted, 0, m.Admitted)
		case m.Judgement != nil:
			w.writeAt(m.Time, recordJudgement, m.Judgement.Flow, m.Judgement)
		case m.Forgotten != 0:
			w.writeAt(m.Time, recordForgotten, m.Forgotten, nil)
		case m.End != nil:
			m.End.Notes = append(m.End.Notes, w.payload.notes()...)
			w.writeAt(m.Time, recordEnd, 0, m.End)
		}
	})
}

// Flush has everything that was saved be in the file.
func (w *Writer) Flush() {
	w.locked(func() {
		if w.packed != nil {
			w.err = w.packed.Flush()
		}
	})
}

// Moments are the moments of a trace's bundle as they are read. A frame is valid
// until the next one is asked for. Behind those that the trace saved come notes:
// what is wrong with the bundle. The last is an error when there is no beginning.
func Moments(f File) iter.Seq2[Moment, error] {
	return func(yield func(Moment, error) bool) {
		r := traceReader{places: newPlaces()}
		for one, err := range packets(f) {
			if err != nil {
				yield(Moment{}, err)
				return
			}
			if m, ok := r.take(one.packet, one.from); ok && !yield(m, nil) {
				return
			}
		}
		if !r.begun {
			yield(Moment{}, r.missing("it ends before it says what was traced"))
			return
		}
		notes := r.notes(f.Problem())
		if !r.ended {
			notes = append([]string{"The bundle ends before the run did; this is what was known until then."}, notes...)
		}
		for _, note := range notes {
			if !yield(Moment{Note: note}, nil) {
				return
			}
		}
	}
}

// traceReader reads the records and packets of a trace's bundle.
type traceReader struct {
	damage
	places
	begun, ended bool
}

// take reads one packet of the file; ok is false when it says nothing.
func (r *traceReader) take(p *capture.Record, from *capture.FileInterface) (m Moment, ok bool) {
	m.Time = time.Unix(0, p.Time)
	if !isRecords(*from) {
		if !r.begun {
			return m, false
		}
		s, err := r.sighting(p, from)
		if err != nil {
			r.breaks(p, err)
			m.Damaged = true
			return m, true
		}
		s.Frame, s.Link = p.Data, p.Link
		m.Sighting = &s
		return m, true
	}
	one, ok := r.open(p)
	if !ok {
		m.Damaged = true
		return m, r.begun
	}
	ok, err := r.moment(&m, &one)
	if err != nil {
		r.breaks(p, err)
		return Moment{Time: m.Time, Damaged: true}, r.begun
	}
	return m, ok
}

// moment reads one record; ok is false for one that says nothing by itself, or is of
// a type that is not known.
func (r *traceReader) moment(m *Moment, one *record) (ok bool, err error) {
	if r.begun == (one.Type == recordTrace) {
		if r.begun {
			return false, errors.New("the bundle is of two traces")
		}
		return false, errors.New("it stands before what the bundle is of")
	}
	m.Number = one.ID
	switch one.Type {
	case recordTrace:
		m.Begin, err = readTrace(one.Data)
		r.begun = err == nil
	case recordPoint:
		return false, r.point(one)
	case recordEvent:
		m.Event, err = read[nat.Event](one)
	case recordHit:
		m.Hit, err = read[ruletrace.Hit](one)
	case recordDrop:
		m.Drop, err = read[skbdrop.Drop](one)
	case recordAttempt:
		m.Attempt, err = read[attempt.Attempt](one)
	case recordTopology:
		if m.Topology, err = read[topology.Snapshot](one); err == nil {
			err = checkSnapshot(m.Topology)
		}
	case recordAfter:
		if m.Surroundings, err = read[Surroundings](one); err == nil && m.Surroundings.After != nil {
			err = checkSnapshot(m.Surroundings.After)
		}
	case recordSensors:
		m.Sensors, err = read[Sensors](one)
	case recordEngines:
		m.Engines, err = read[Engines](one)
	case recordProxies:
		err = json.Unmarshal(one.Data, &m.Proxies)
	case recordConnected:
		err = json.Unmarshal(one.Data, &m.Connected)
	case recordUnsent:
		err = json.Unmarshal(one.Data, &m.Unsent)
	case recordAdmitted:
		m.Admitted, err = read[time.Time](one)
	case recordJudgement:
		m.Judgement, err = read[Judgement](one)
	case recordForgotten:
		m.Forgotten = one.ID
	case recordEnd:
		m.End, err = read[Ending](one)
		r.ended = err == nil
	default:
		return false, nil
	}
	return true, err
}

func read[T any](one *record) (*T, error) {
	value := new(T)
	if err := json.Unmarshal(one.Data, value); err != nil {
		return nil, err
	}
	return value, nil
}

func readTrace(data []byte) (*Trace, error) {
	var h traceHead
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, err
	}
	if err := checkSnapshot(h.Topology); err != nil {
		return nil, err
	}
	return &Trace{Run: h.run(), Wanted: h.Wanted, Older: h.Older}, nil
}

// checkSnapshot says what is wrong with the snapshot of a trace.
func checkSnapshot(s *topology.Snapshot) error {
	switch {
	case s == nil:
		return errors.New("it has no topology")
	case len(s.Namespaces) > maxSnapshot || len(s.Steps) > maxSnapshot:
		return fmt.Errorf("a topology of %d namespaces and %d steps", len(s.Namespaces), len(s.Steps))
	case s.Namespace(s.Source) == nil:
		return fmt.Errorf("a topology without its source %q", s.Source)
	}
	return nil
}
