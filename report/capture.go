package report

import "time"

// Capture is a capture file that was read.
type Capture struct {
	File string `json:"file"`
	// Point is the name that its packets' place has in the report; of a file with
	// several places, what their names begin with, which may be nothing.
	Point string `json:"point"`
	// Format is the file's: "pcapng, gzip".
	Format   string `json:"format,omitempty"`
	LinkType string `json:"linktype"`
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	// Problem says why not all of the file could be read; Skipped bytes were not.
	Problem string `json:"problem,omitempty"`
	Skipped int64  `json:"skipped,omitempty"`
	// Started and Finished are the times of the first and the last packet on the
	// reference clock.
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	// Offset is nil for a capture that was compared with no other.
	Offset *Offset `json:"offset,omitempty"`
	// Places are those of a capture that has several; those that saw nothing come
	// last.
	Places []CapturePlace `json:"places,omitempty"`
}

// CapturePlace is one of the places of a capture.
type CapturePlace struct {
	Place
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Offset is how a capture's clock stands to that of another.
type Offset struct {
	// Reference is the file of the other capture.
	Reference string `json:"reference"`
	// Low and High bound this clock minus the reference clock, in seconds.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Confidence is reconstructed when packets in both directions bound it, and
	// assumed when only one side is bounded by packets, or none is.
	Confidence Confidence `json:"confidence"`
	// Shared is the number of packets that were compared; when it is 0 the two
	// clocks are taken for one.
	Shared int `json:"shared"`
	// Drift is by how many seconds the clock gains on the reference clock in a
	// second.
	Drift float64 `json:"drift,omitempty"`
}
