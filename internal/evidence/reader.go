package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// maxRead bounds how many packets, and how many records of one type, are taken
// from a bundle: as many as a run keeps.
const maxRead = 1 << 14

// ErrNotBundle says that a capture file has no interface with records.
var ErrNotBundle = errors.New("not a bundle of pathtrace")

// ErrTrace says that the bundle is of a trace of all flows of a source: Moments
// reads it.
var ErrTrace = errors.New("the bundle is of a trace")

// ErrListing says that the bundle is of a command that sends no probe: Pieces
// reads it.
var ErrListing = errors.New("the bundle is of no run")

// File is a capture file that is read from its beginning.
type File interface {
	// Next fills the batch with the next records; io.EOF ends.
	Next(b *capture.Batch) error
	// Interfaces are those of the records so far.
	Interfaces() []capture.FileInterface
	// Problem is what is wrong with the file, nil for nothing.
	Problem() *capture.FileProblem
}

// packets are the packets of a file, each with its interface and valid until the next
// one is asked for. An error of reading comes last.
func packets(f File) iter.Seq2[saved, error] {
	return func(yield func(saved, error) bool) {
		var batch capture.Batch
		for {
			err := f.Next(&batch)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(saved{}, fmt.Errorf("read bundle: %w", err))
				return
			}
			interfaces := f.Interfaces()
			for i := range batch.Records {
				p := &batch.Records[i]
				if !yield(saved{p, &interfaces[p.Interface]}, nil) {
					return
				}
			}
		}
	}
}

// saved is a packet of a file, and the interface that it was saved for.
type saved struct {
	packet *capture.Record
	from   *capture.FileInterface
}

// Read reads a bundle. One that ends before its run did gives what was known
// until then: its last probe was interrupted, and no sensor is known to have
// missed nothing. What is wrong with the file is among the run's notes. The
// error is ErrNotBundle, ErrListing or ErrTrace, of a file of which no more than
// the beginning was read, or says that not even the beginning of the run is there.
func Read(f File) (*Run, error) {
	r := newReader()
	isBundle := false
	for one, err := range packets(f) {
		if err != nil {
			return nil, err
		}
		if isBundle = isBundle || slices.ContainsFunc(f.Interfaces(), isRecords); !isBundle {
			break
		}
		r.take(one.packet, one.from)
		if r.other != nil {
			return nil, r.other
		}
	}
	if !isBundle && !slices.ContainsFunc(f.Interfaces(), isRecords) {
		return nil, ErrNotBundle
	}
	return r.finish(f.Problem())
}

// reader puts a run together from records.
type reader struct {
	run *Run
	places

	stations map[int]Station
	events   map[int]nat.Event
	hits     map[int]ruletrace.Hit
	drops    map[int]skbdrop.Drop
	tries    map[int]Try

	damage
	// other is set when the bundle is no run's: what it is.
	other error
	ended bool
	last  int64 // time of the last record
}

func newReader() *reader {
	return &reader{
		places: newPlaces(), stations: make(map[int]Station), events: make(map[int]nat.Event), hits: make(map[int]ruletrace.Hit),
		drops: make(map[int]skbdrop.Drop), tries: make(map[int]Try),
	}
}

func isRecords(i capture.FileInterface) bool { return i.Name == Interface && i.Link == recordLink }

// take reads one packet of the file.
func (r *reader) take(p *capture.Record, from *capture.FileInterface) {
	if !isRecords(*from) {
		r.sighting(p, from)
		return
	}
	one, ok := r.open(p)
	if !ok {
		return
	}
	r.last = p.Time
	if err := r.record(&one); err != nil {
		r.breaks(p, err)
	}
}

// record reads one record. Those of an unknown type are left to whoever knows
// them.
func (r *reader) record(one *record) error {
	switch one.Type {
	case recordRun:
		return r.head(one.Data)
	case recordListing, recordTrace:
		if r.run == nil {
			r.other = map[recordType]error{recordListing: ErrListing, recordTrace: ErrTrace}[one.Type]
		}
		return nil
	case recordPoint:
		return r.point(one)
	case recordStation:
		return keep(r, r.stations, one)
	case recordEvent:
		return keep(r, r.events, one)
	case recordHit:
		return keep(r, r.hits, one)
	case recordDrop:
		return keep(r, r.drops, one)
	case recordTry:
		if err := keep(r, r.tries, one); err != nil {
			return err
		}
		if t := r.tries[one.ID]; t.Probe.Segment != nil && t.Data == nil {
			delete(r.tries, one.ID)
			return errors.New("a segment of no data")
		}
		return nil
	}
	if r.run == nil {
		return errors.New("it stands before what was asked")
	}
	switch one.Type {
	case recordDrops:
		return json.Unmarshal(one.Data, &r.run.KernelDrops)
	case recordEnd:
		return r.tail(one.Data)
	}
	return nil
}

// keep keeps a record in place of the one that had its id.
func keep[T any](r *reader, all map[int]T, one *record) error {
	if _, ok := all[one.ID]; !ok && len(all) == maxRead {
		r.left++
		return nil
	}
	var value T
	if err := json.Unmarshal(one.Data, &value); err != nil {
		return err
	}
	all[one.ID] = value
	return nil
}

func (r *reader) head(data []byte) error {
	var h head
	if err := json.Unmarshal(data, &h); err != nil {
		return err
	}
	if h.Topology == nil {
		return errors.New("it has no topology")
	}
	r.run = h.run()
	return nil
}

func (r *reader) tail(data []byte) error {
	var t tail
	if err := json.Unmarshal(data, &t); err != nil {
		return err
	}
	r.run.Finished, r.run.After, r.run.Chains, r.run.NAT, r.run.Redirects = t.Finished, t.After, t.Chains, t.NAT, t.Redirects
	r.run.Engines = t.Engines
	r.run.AsksSender, r.run.Owners, r.run.Notes = t.AsksSender, t.Owners, t.Notes
	r.ended = true
	return nil
}

// sighting reads a packet.
func (r *reader) sighting(p *capture.Record, from *capture.FileInterface) {
	if r.run == nil {
		return
	}
	r.last = p.Time
	s, err := r.places.sighting(p, from)
	if err != nil {
		r.broken++
		return
	}
	s.Link, s.Frame = p.Link, p.Data
	if inner, ok := s.Carried(); ok {
		s = inner // it was kept for that
	}
	s.Frame = nil
	to := &r.run.Sightings
	if Discovers(&s.Header) {
		to = &r.run.Discovery
	}
	if len(*to) == maxRead {
		r.left++
		return
	}
	*to = append(*to, s)
}

// finish puts the run together.
func (r *reader) finish(problem *capture.FileProblem) (*Run, error) {
	if r.run == nil {
		return nil, r.missing("it ends before it says what was asked")
	}
	run := r.run
	run.Stations, run.Events, run.Hits = inOrder(r.stations), inOrder(r.events), inOrder(r.hits)
	run.Drops, run.Tries = inOrder(r.drops), inOrder(r.tries)
	if !r.ended {
		r.interrupt()
	}
	run.Notes = append(run.Notes, r.notes(problem)...)
	return run, nil
}

// interrupt has the run end where the bundle does.
func (r *reader) interrupt() {
	run := r.run
	run.CutOff(time.Unix(0, r.last))
	run.Notes = append(run.Notes, "The bundle ends before the run did; this is what was known until then.")
	if n := len(run.Tries); n > 0 {
		run.Tries[n-1].Interrupted = true
	}
}

// inOrder are the values of records by id.
func inOrder[T any](all map[int]T) []T {
	var list []T
	for _, id := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[id])
	}
	return list
}
