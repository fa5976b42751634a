package cli

import (
	"bufio"
	"fmt"
	"io"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/offline"
	"github.com/pathtrace/pathtrace/report"
)

// remark says something beside the output of a command, and saves that it did.
func remark(env *environment, save *evidence.Writer, text string) {
	fmt.Fprintf(env.err, "pathtrace: %s\n", report.Escape(text)) //nolint:errcheck // nowhere left to tell
	save.Note(text)
}

// list prints what a command that sends no probe printed, from its bundle.
func (f *analyzeFlags) list(env *environment, source *offline.Source) error {
	file, err := capture.OpenFile(source.Path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	return f.output.to(env, func(w io.Writer) error {
		if err := f.printListing(env, w, file); err != nil {
			return fmt.Errorf("%s: %w", source.Name, err)
		}
		return nil
	})
}

// printListing prints a listing's bundle while it is read. The exit status is that
// of the command; one that was cut has none.
func (f *analyzeFlags) printListing(env *environment, w io.Writer, file evidence.File) error {
	ended := false
	flows := bufio.NewWriter(w)
	for piece, err := range evidence.Pieces(file) {
		switch {
		case err != nil:
		case piece.Listing != nil:
			err = f.begin(env, w, piece.Listing)
		case piece.Event != nil:
			err = printFlow(flows, *piece.Event, f.output.output.value)
		case piece.Note != "":
			remark(env, nil, piece.Note)
		case piece.Ended:
			ended = true
		}
		if err != nil {
			return err
		}
	}
	if !ended {
		env.status = exitInconclusive
	}
	return flows.Flush()
}

// begin prints what is known of a listing from its first record.
func (f *analyzeFlags) begin(env *environment, w io.Writer, l *evidence.Listing) error {
	switch l.Command {
	case evidence.Topology:
		return printWay(w, l, f.output.output.value)
	case evidence.Doctor:
		found := examined(l)
		env.status = checkupStatus(found)
		return printCheckup(w, found, f.output.output.value, f.output.color)
	}
	return nil
}
