package evidence

import (
	"encoding/json"
	"time"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Interface is the name of the interface of a bundle whose packets are records.
const Interface = "pathtrace"

// recordLink is the link type of records: LINKTYPE_USER0.
const recordLink packet.LinkType = 147

// The versions of records: a run's are of the first, a listing's of the second and
// a trace's of the latest, so that a program that does not know these says that a
// later one wrote the bundle. Fields and types may be added under these numbers; what is there keeps its name
// and meaning. Older versions stay readable.
const (
	runVersion     = 1
	listingVersion = 2
	traceVersion   = 3
	recordVersion  = traceVersion
)

// record is one piece of evidence that is no packet. One that has the type and
// the id of an earlier one takes its place.
type record struct {
	Type    recordType      `json:"type"`
	Version int             `json:"version"`
	ID      int             `json:"id"`
	Data    json.RawMessage `json:"data"`
}

// recordType says what the data of a record is. The types that hold it are in
// the comments; their fields have the names that they have in Go, unless these
// say otherwise.
type recordType string

const (
	recordRun     recordType = "run"     // head, the first record
	recordPoint   recordType = "point"   // capture.Point; the id is an interface's number
	recordStation recordType = "station" // Station
	recordDrops   recordType = "kernel_drops"
	recordEvent   recordType = "event"   // nat.Event
	recordHit     recordType = "hit"     // ruletrace.Hit
	recordDrop    recordType = "drop"    // skbdrop.Drop
	recordTry     recordType = "try"     // Try
	recordListing recordType = "listing" // Listing, the first record of a command that sends no probe
	recordNote    recordType = "note"    // a string: what such a command said beside its output
	recordEnd     recordType = "end"     // tail, or Ending: the last record of a run that was not killed

	// Of a trace.
	recordTrace     recordType = "trace"     // traceHead, its first record
	recordAttempt   recordType = "attempt"   // attempt.Attempt
	recordTopology  recordType = "topology"  // topology.Snapshot
	recordAfter     recordType = "after"     // Surroundings
	recordSensors   recordType = "sensors"   // Sensors
	recordEngines   recordType = "engines"   // Engines
	recordProxies   recordType = "proxies"   // list of socket.Owner
	recordConnected recordType = "connected" // the same
	recordUnsent    recordType = "unsent"    // addresses by addresses
	recordAdmitted  recordType = "admitted"  // time.Time
	recordJudgement recordType = "judgement" // Judgement; the id is the flow's number
	recordForgotten recordType = "forgotten" // nothing; the id is the flow's number
)

// head is what is known of a run before its first probe.
type head struct {
	Request  report.Request     `json:"request"`
	Tool     string             `json:"tool"`
	Started  time.Time          `json:"started"`
	Waited   time.Duration      `json:"waited_ns"`
	Name     *diagnose.Name     `json:"name,omitempty"`
	Lookup   *Lookup            `json:"lookup,omitempty"`
	Enter    map[string]string  `json:"enter,omitempty"`
	Topology *topology.Snapshot `json:"topology"`
	// Payload says that the payload of all packets was kept.
	Payload bool `json:"payload"`
}

// run is the run that a head is of.
func (h *head) run() *Run {
	return &Run{
		Request: h.Request, Version: h.Tool, Started: h.Started, Waited: h.Waited,
		Name: h.Name, Lookup: h.Lookup, Enter: h.Enter, Topology: h.Topology,
	}
}

// tail is what is known when a run ends; of a listing it is the time alone.
type tail struct {
	Finished   time.Time                         `json:"finished"`
	After      *topology.Snapshot                `json:"after,omitempty"`
	Chains     map[string][]ruletrace.BaseChain  `json:"chains,omitempty"`
	NAT        map[string]ruletrace.NATAddresses `json:"nat,omitempty"`
	Redirects  map[string]ruletrace.Rule         `json:"redirects,omitempty"`
	Engines    []engine.View                     `json:"engines,omitempty"`
	AsksSender bool                              `json:"asks_sender,omitempty"`
	Owners     []socket.Owner                    `json:"owners,omitempty"`
	Notes      []string                          `json:"notes,omitempty"`
}
