// Package offline explains captures that were made by others: it reads files,
// has internal/flows join what they saw, and puts the result into the words of
// report. It knows no kernel: every translation in it is reconstructed from
// content, and a cause is named only where packets alone prove it.
//
// It opens files and does nothing else outside; times are handed in.
package offline

import (
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
)

// Input is what was read of capture files.
type Input struct {
	// Captures are the files that could be read, with the indexes that Result and
	// Clocks use; Refused are the others.
	Captures []Capture
	Refused  []Refused
	// Clocks are nil for a single capture.
	Clocks []flows.Clock
	Result *flows.Result
	Logs   Logs

	Version           string
	Started, Finished time.Time

	// traced are the endings of flows that the trace tells, by their numbers.
	traced map[int]ending
	// streams are Captures, to be read once more.
	streams []flows.Capture
}

// Capture is what is known of a capture file behind its packets.
type Capture struct {
	// Name is as the report prints it, Point what the names of its places begin
	// with, and Machine that of the machine it comes from, where the file tells.
	Name, Point, Machine string
	Format               string
	Interfaces           []capture.FileInterface
	Problem              *capture.FileProblem
	// points names Interfaces; nil when that is not known.
	points *points
}

// Refused is a file of which nothing could be used.
type Refused struct {
	Name string
	Err  error
}
