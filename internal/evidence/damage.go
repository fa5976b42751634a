package evidence

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pathtrace/pathtrace/capture"
)

// damage is what of a bundle could not be used.
type damage struct {
	// broken counts the packets and records that could not be read, newer the
	// records of a later version and left what was too much; problem is that of the
	// first record that broke.
	broken, newer, left int
	problem             error
}

// open reads what every record has; ok is false for one that is not understood.
func (d *damage) open(p *capture.Record) (one record, ok bool) {
	if err := json.Unmarshal(p.Data, &one); err != nil {
		d.breaks(p, err)
		return record{}, false
	}
	if one.Version > recordVersion {
		d.newer++
		return record{}, false
	}
	return one, true
}

// breaks counts a record that could not be read.
func (d *damage) breaks(p *capture.Record, err error) {
	d.broken++
	if d.problem == nil {
		d.problem = fmt.Errorf("record at byte %d: %w", p.Offset, err)
	}
}

// missing says why the first record is not there; nothing is what there is to
// say when no record is to blame.
func (d *damage) missing(nothing string) error {
	switch {
	case d.problem != nil:
		return fmt.Errorf("read bundle: %w", d.problem)
	case d.newer > 0:
		return errors.New("read bundle: a later version of pathtrace wrote it")
	}
	return errors.New("read bundle: " + nothing)
}

// notes say what is missing; problem is the file's.
func (d *damage) notes(problem *capture.FileProblem) (notes []string) {
	note := func(n int, text string) {
		if n > 0 {
			notes = append(notes, fmt.Sprintf("%d packets and records of the bundle "+text+".", n))
		}
	}
	note(d.broken, "could not be read and are missing here")
	note(d.newer, "were written by a later version of pathtrace and are missing here")
	note(d.left, "are more than a run has and are missing here")
	if problem != nil {
		notes = append(notes, fmt.Sprintf("The bundle is damaged: %s.", problem))
	}
	return notes
}
