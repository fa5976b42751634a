package nat

import (
	"errors"
	"fmt"
	"io"

	"github.com/pathtrace/pathtrace/internal/textlog"
)

// maxLogEvents is how many events of a log are kept: as many as the table of a
// busy host has entries, and some 70 MB.
const maxLogEvents = 1 << 18

// Log is what a text says about flows: the saved output of conntrack(8), or
// /proc/net/nf_conntrack.
type Log struct {
	// Events are in the order of the lines; a line of a list is an Existing one.
	// Flow.NetNS is empty, for the text does not tell it. Seq counts the events.
	//
	// Time is zero: what conntrack -o timestamp prints is, but for new versions
	// on new kernels, when the tool read the message, so it is in Received.
	// Status has the bits that the line shows, Confirmed, Dying for a destroyed
	// flow, and what the tuples say about NAT. Started is known from XML with
	// -o ktimestamp only: the other form prints a date without a time zone.
	Events []Event
	// Lines is how many lines the file has, Skipped how many of them were not
	// understood. Expectations are left out.
	Lines, Skipped, Expectations int
	// Excess is how many events are not among Events because there are too many.
	Excess   int
	Problems textlog.Problems
}

// ReadLog reads the output of conntrack -E, -L or -D with any of its -o
// options, xml too, and /proc/net/nf_conntrack. Lines may have the prefix of a
// journal or of syslog before them. What is not understood is counted, and the
// rest is read; name is the file's in the error that says that nothing was, or
// that the source failed.
func ReadLog(name string, r io.Reader) (*Log, error) {
	lines := textlog.NewReader(r)
	looks := lines.Looks()
	log := &Log{}
	entry := "" // the lines so far of an entry in XML
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return log, fmt.Errorf("read %s: %w", name, err)
		}
		log.Lines++
		switch {
		case line.Cut:
			entry = ""
			log.broken(line, errors.New("the line is too long"))
		case entry == "" && !beginsEntry(line.Text):
			log.add(line, line.Text, parseLogLine)
		default:
			entry += line.Text
			if endsEntry(line.Text) || len(entry) > textlog.MaxLine {
				log.add(line, entry, parseXMLEntry)
				entry = ""
			}
		}
	}
	if entry != "" {
		log.broken(textlog.Line{Number: log.Lines, Text: entry}, errors.New("the file ends in an entry"))
	}
	if len(log.Events) == 0 && log.Expectations == 0 {
		return log, textlog.Unusable(name, looks, "what conntrack -E or -L prints, or /proc/net/nf_conntrack")
	}
	return log, nil
}

// errExpectation is a line about a connection that a helper expects.
var errExpectation = errors.New("an expectation")

// add takes the event that a parser finds in a line. The bool of the parser is
// false for lines that are about no flow: headings, counts, the frame of XML.
func (l *Log) add(line textlog.Line, text string, parse func(string) (Event, bool, error)) {
	event, ok, err := parse(text)
	switch {
	case errors.Is(err, errExpectation):
		l.Expectations++
	case err != nil:
		l.broken(line, err)
	case !ok:
	case len(l.Events) == maxLogEvents:
		if l.Excess++; l.Excess == 1 {
			l.Problems.Add(line.Number, fmt.Sprintf("more than %d events: this one and what follows is left out", maxLogEvents))
		}
	default:
		event.Seq = uint64(len(l.Events) + 1)
		l.Events = append(l.Events, event)
	}
}

func (l *Log) broken(line textlog.Line, err error) {
	l.Skipped++
	l.Problems.Add(line.Number, err.Error()+": "+textlog.Quote(line.Text))
}
