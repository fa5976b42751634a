package offline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
)

// Config says how captures are read.
type Config struct {
	// MaxFlows bounds memory; 0 means flows.DefaultMaxFlows.
	MaxFlows int
	// Progress is called now and then while files are read; nil for none.
	Progress func(Progress)
}

// Progress is how far reading is: bytes of all files in all passes, and packets
// of this pass. Size is 0 when it is not known.
type Progress struct {
	Read, Size int64
	Packets    uint64
}

// Read reads captures, or the trace among the logs where there is none, twice when
// there are several: their clocks are compared first. A file of which nothing can be
// used is left out and listed; the error says so when none is left, or when the trace
// that is to do without captures does not tell where a packet was. When ctx ends, what was read until then is
// returned, and the result says that it was interrupted.
func Read(ctx context.Context, sources []Source, logs Logs, cfg Config) (*Input, error) {
	in := &Input{Logs: logs}
	r := &reading{cfg: cfg}
	names := pointsOf(sources)
	for i := range sources {
		o := &opener{source: sources[i], points: names[i], seen: Capture{Name: names[i].file}}
		if err := o.probe(); err != nil {
			in.Refused = append(in.Refused, Refused{names[i].file, err})
			continue
		}
		r.openers = append(r.openers, o)
	}
	if len(sources) == 0 {
		return in, r.trace(ctx, in)
	}
	if len(r.openers) == 0 {
		return nil, refusedError(in.Refused)
	}
	if err := r.distinct(); err != nil {
		return nil, err
	}
	err := r.run(ctx, in)
	for _, o := range r.openers {
		in.Captures = append(in.Captures, o.seen)
	}
	if err != nil {
		return in, err
	}
	return in, in.followDropped(ctx)
}

// refusedError says why no file can be used, a line for each.
func refusedError(all []Refused) error {
	var errs []error
	for _, r := range all {
		errs = append(errs, fmt.Errorf("read %s: %w", r.Name, r.Err))
	}
	return errors.Join(errs...)
}

// reading is the reading of some captures.
type reading struct {
	cfg     Config
	openers []*opener
	// passes are to be made, done were made.
	passes, done int
}

func (r *reading) run(ctx context.Context, in *Input) error {
	captures := make([]flows.Capture, len(r.openers))
	for i, o := range r.openers {
		captures[i] = flows.Capture{
			Name: o.points.file, Open: o.open, Point: o.points.point, Skip: isRecords,
		}
	}
	in.streams = captures
	cfg := flows.Config{MaxFlows: r.cfg.MaxFlows, Patience: flows.Patience, Progress: r.progress}
	r.passes = 1
	var err error
	if len(captures) > 1 {
		r.passes = 2
		cfg.Clocks, err = flows.Measure(ctx, captures, r.progress)
		switch {
		case err != nil && ctx.Err() != nil:
			in.Result = &flows.Result{Interrupted: true}
			return nil
		case err != nil:
			return fmt.Errorf("compare clocks: %w", err)
		}
		in.Clocks = cfg.Clocks
		r.done++
	}
	if in.Result, err = flows.Join(ctx, captures, cfg); err != nil {
		return err
	}
	in.Result.Interrupted = in.Result.Interrupted || ctx.Err() != nil
	return nil
}

// trace takes a trace of rules for the capture that is not there.
func (r *reading) trace(ctx context.Context, in *Input) error {
	if len(in.Logs.Hits) == 0 {
		return fmt.Errorf("no line of a trace in %s: trace again while packets pass, or add a capture", in.Logs.trace)
	}
	in.Logs.alone = true
	in.streams = []flows.Capture{hitCapture(&in.Logs)}
	in.Captures = []Capture{{Name: in.Logs.trace, Format: "trace of rules"}}
	var err error
	in.Result, err = flows.Join(ctx, in.streams, flows.Config{MaxFlows: r.cfg.MaxFlows})
	if err != nil || ctx.Err() != nil {
		return err
	}
	if err := in.Logs.placed(in.Result.Packets); err != nil {
		return err
	}
	return in.followDropped(ctx)
}

// distinct refuses captures of which the user has called one as another: a report
// could not tell their places apart.
func (r *reading) distinct() error {
	called := make(map[capture.Point]*opener)
	for _, o := range r.openers {
		for i, of := range o.begins {
			if isRecords(of) {
				continue
			}
			at := o.points.point(i, of)
			at.Index = 0
			other := called[at]
			if other != nil && other != o && (o.points.given != "" || other.points.given != "") {
				return fmt.Errorf("both %s and %s are called %s: give each a name of its own by --point", other.points.file, o.points.file, at)
			}
			called[at] = o
		}
	}
	return nil
}

// progress tells how far this is.
func (r *reading) progress(packets uint64) {
	if r.cfg.Progress == nil {
		return
	}
	p := Progress{Packets: packets}
	for _, o := range r.openers {
		size := o.size.Load()
		p.Size += int64(r.passes) * size
		p.Read += int64(r.done)*size + o.position.Load()
	}
	r.cfg.Progress(p)
}

// opener opens one capture, again for each pass, and keeps what is known of it
// besides its packets.
type opener struct {
	source         Source
	points         points
	position, size atomic.Int64
	seen           Capture
	// begins are the interfaces that the file describes before its first packets.
	begins []capture.FileInterface
}

// probe reports why nothing of a file can be used.
func (o *opener) probe() error {
	f, err := capture.OpenFile(o.source.Path)
	if err == nil {
		_, size := f.Position()
		o.size.Store(size)
		var first capture.Batch
		_ = f.Next(&first) // a file without packets has a place, too
		o.begins = f.Interfaces()
		return f.Close()
	}
	if inner := errors.Unwrap(err); inner != nil {
		return inner // without the path, which the caller knows
	}
	return err
}

func (o *opener) open() (flows.Reader, error) {
	f, err := capture.OpenFile(o.source.Path)
	if err != nil {
		return nil, err
	}
	return &reader{File: f, opener: o}, nil
}

// reader is a file that tells its opener what became of it.
type reader struct {
	*capture.File
	opener *opener
}

// Next is File.Next.
func (r *reader) Next(b *capture.Batch) error {
	err := r.File.Next(b)
	read, _ := r.Position()
	r.opener.position.Store(read)
	return err
}

// Close is File.Close. The reading goroutine calls it when it has ended, before
// the join returns.
func (r *reader) Close() error {
	r.opener.seen = Capture{
		Name: r.opener.points.file, Point: r.opener.points.prefix(r.Interfaces()), Machine: r.opener.points.machine(r.Interfaces()),
		Format: r.Format(), Interfaces: r.Interfaces(), Problem: r.Problem(), points: &r.opener.points,
	}
	return r.File.Close()
}
