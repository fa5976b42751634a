package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/offline"
	"github.com/pathtrace/pathtrace/report"
)

// watchKind is the kind of request that watch reports.
const watchKind = "watch"

// flowPrinter prints the flows of a watched source, one after the other.
type flowPrinter struct {
	w      io.Writer
	output *outputFlags
	// printed says that something stands before.
	printed bool
}

// print prints a flow: a line, or a line of JSON, or all about one that failed.
func (p *flowPrinter) print(row report.Flow, r *report.Report) error {
	first := !p.printed
	p.printed = true
	if p.output.output.value == "json" {
		return report.JSONLine(p.w, r)
	}
	options := p.output.options(p.w)
	if row.Outcome == report.Replied || row.Outcome == report.Delivered {
		return report.FlowText(p.w, row, options)
	}
	if !first {
		if err := newline(p.w); err != nil {
			return err
		}
	}
	return errors.Join(report.Text(p.w, r, options), newline(p.w))
}

func newline(w io.Writer) error {
	_, err := io.WriteString(w, "\n")
	return err
}

// trace prints what exec or watch said, from its bundle. The exit status is that of
// the verdict where exec ran a command, whose own is in the report, and otherwise
// watch's. A trace that was killed is inconclusive at best.
func (f *analyzeFlags) trace(env *environment, source *offline.Source) error {
	file, err := capture.OpenFile(source.Path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	return f.output.to(env, func(w io.Writer) error {
		if err := f.printTrace(env, w, file); err != nil {
			return fmt.Errorf("%s: %w", source.Name, err)
		}
		return nil
	})
}

// printTrace prints a trace's bundle: of watch each flow while it is read, otherwise
// the report.
func (f *analyzeFlags) printTrace(env *environment, w io.Writer, file evidence.File) error {
	printer := flowPrinter{w: w, output: &f.output}
	replayed, err := answer.Replay(evidence.Moments(file), func(row report.Flow, r *report.Report) error {
		if r.Request.Kind != watchKind {
			return nil
		}
		return printer.print(row, r)
	})
	if err != nil {
		return err
	}
	r := replayed.Report
	if r.Request.Kind == watchKind {
		for _, note := range replayed.Notes {
			remark(env, nil, note)
		}
	} else {
		env.status = outcomeStatus(r)
		err = f.output.render(w, r)
	}
	if !replayed.Ended && env.status == exitOK {
		env.status = exitInconclusive
	}
	return err
}
