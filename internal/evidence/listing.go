package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/doctor"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/report"
)

// Listing is what a command that sends no probe makes its output from, the first
// record of its bundle. The events of conntrack come behind it, one by one.
type Listing struct {
	Command Command `json:"command"`
	// Version is the program's.
	Version string `json:"tool"`
	// Target is what topology was asked for, in words, and Topology what it
	// found.
	Target   string             `json:"target,omitempty"`
	Topology *topology.Snapshot `json:"topology,omitempty"`
	// Container is what the source's engine says of it, and Note whose network
	// namespace it is, for topology.
	Container *engine.Description `json:"container,omitempty"`
	Note      string              `json:"note,omitempty"`
	// Source is the place that doctor was asked for, and Examined what it read.
	Source   report.Source `json:"source,omitzero"`
	Examined *doctor.Input `json:"examined,omitempty"`
}

// Command is a command that sends no probe.
type Command string

// The commands.
const (
	Conntrack Command = "conntrack"
	Topology  Command = "topology"
	Doctor    Command = "doctor"
)

// maxSnapshot bounds the namespaces and the steps of a snapshot that is read: each
// step is looked for in each namespace. A command finds some hundreds.
const maxSnapshot = 1 << 12

// check says what is wrong with a listing that was read.
func (l *Listing) check() error {
	var s *topology.Snapshot
	switch l.Command {
	case Conntrack:
		return nil
	case Topology:
		s = l.Topology
	case Doctor:
		if l.Examined != nil {
			s = l.Examined.Topology
		}
	default:
		return fmt.Errorf("the command %q is not known", l.Command)
	}
	if s == nil {
		return fmt.Errorf("%s without a topology", l.Command)
	}
	if len(s.Namespaces) > maxSnapshot || len(s.Steps) > maxSnapshot {
		return fmt.Errorf("%s with %d namespaces and %d steps", l.Command, len(s.Namespaces), len(s.Steps))
	}
	return nil
}

// Piece is what one record of a listing's bundle says: one field is set.
type Piece struct {
	Listing *Listing
	Event   *nat.Event
	// Note is what the command said beside its output, or what is wrong with the
	// bundle.
	Note string
	// Ended says that the command came to its end.
	Ended bool
}

// Pieces are the records of a listing's bundle as they are read, the listing
// first. The last is an error when there is no listing.
func Pieces(f File) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		var r listingReader
		for one, err := range packets(f) {
			if err != nil {
				yield(Piece{}, err)
				return
			}
			if !isRecords(*one.from) {
				continue
			}
			if piece, ok := r.take(one.packet); ok && !yield(piece, nil) {
				return
			}
		}
		if err := r.missing("it ends before it says what it is of"); !r.begun && err != nil {
			yield(Piece{}, err)
			return
		}
		for _, note := range r.notes(f.Problem()) {
			if !yield(Piece{Note: note}, nil) {
				return
			}
		}
	}
}

// listingReader reads the records of a listing's bundle.
type listingReader struct {
	damage
	begun, ended bool
}

// take reads one record; ok is false when it says nothing.
func (r *listingReader) take(p *capture.Record) (piece Piece, ok bool) {
	one, ok := r.open(p)
	if !ok {
		return Piece{}, false
	}
	piece, err := r.piece(&one)
	if err != nil {
		r.breaks(p, err)
	}
	return piece, err == nil && piece != (Piece{})
}

func (r *listingReader) piece(one *record) (piece Piece, err error) {
	if !r.begun && one.Type != recordListing {
		return Piece{}, errors.New("it stands before what the bundle is of")
	}
	switch one.Type {
	case recordListing:
		if r.begun {
			return Piece{}, errors.New("the bundle is of two commands")
		}
		piece.Listing = new(Listing)
		if err = json.Unmarshal(one.Data, piece.Listing); err == nil {
			err = piece.Listing.check()
		}
		r.begun = err == nil
	case recordEvent:
		piece.Event = new(nat.Event)
		err = json.Unmarshal(one.Data, piece.Event)
	case recordNote:
		err = json.Unmarshal(one.Data, &piece.Note)
	case recordEnd:
		piece.Ended, r.ended = true, true
	}
	return piece, err
}

// notes say what the bundle lacks.
func (r *listingReader) notes(problem *capture.FileProblem) []string {
	notes := r.damage.notes(problem)
	if !r.ended {
		notes = append(notes, "The bundle ends before the command did; this is what was known until then.")
	}
	return notes
}
