// Package synth makes captures of traffic whose truth is known: every packet has
// a number, so that a join of captures can be scored. It is for tests and
// benchmarks.
//
// The traffic is that of a router with NAT between two points, Inside and
// Outside, with everything that makes packets hard to recognise: ports that
// change, equal payloads, IPv4 ids of 0, retransmissions, segmentation offload
// on one side, fragments on the other, loss between the two, programs that pass
// data on, and a clock of its own at each point.
package synth

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// The points.
const (
	Inside = iota
	Outside
	Points
)

// Config says what traffic to make.
type Config struct {
	Seed uint64
	// Flows is how many exchanges there are, Packets how many data packets one
	// has at most.
	Flows, Packets int
	// Loss is the share of packets that are lost between the points.
	Loss float64
	// Plain leaves out what makes packets hard to recognise: for benchmarks.
	Plain bool
	// Skew is the outside clock minus the inside one at the beginning, in
	// nanoseconds, Drift what it gains in a second.
	Skew, Drift int64
	// Span is the time in nanoseconds over which flows begin; 0 is 60 s.
	Span int64
}

// Sighting is a packet at a point.
type Sighting struct {
	Point int
	// Time is in nanoseconds on the point's clock.
	Time int64
	Data []byte
	// Packets are the numbers of the packets that it is: several where
	// segmentation offload made them one. Flow is the number of its flow.
	Packets []uint64
	Flow    int
	Key     packet.Key
}

// Flow is what is true of a flow.
type Flow struct {
	Kind Kind
	// Keys are the tuples of requests at the two points; equal without NAT. A
	// hairpin has both at Inside.
	Keys [Points]packet.Key
	// Lost is how many packets were lost between the points.
	Lost int
	// Alike says that its content is that of other flows, so that a join may well
	// be unable to tell it from them.
	Alike bool
}

// Scene is traffic with its truth.
type Scene struct {
	// Sightings are in the order of true time.
	Sightings []Sighting
	Flows     []Flow
}

// Kind is what happens to a flow between the points.
type Kind int

// The kinds.
const (
	Routed Kind = iota
	Bridged
	SNAT
	Masquerade
	DNAT
	BothNAT
	PortOnly
	NPTv6
	Hairpin
	// Relay is a program between the points that sends the data anew: two flows.
	Relay
	kinds
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"routed", "bridged", "snat", "masquerade", "dnat", "both", "port", "nptv6", "hairpin", "relay"}[k]
}

// start is when the first flow begins: 2026-01-01.
const start = 1_767_225_600_000_000_000

// Make makes a scene. The same Config makes the same scene.
func Make(cfg Config) *Scene {
	m := &maker{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0x5eed)), scene: &Scene{}}
	if m.cfg.Span == 0 {
		m.cfg.Span = 60e9
	}
	for i := range cfg.Flows {
		m.flow(i)
	}
	slices.SortStableFunc(m.scene.Sightings, func(a, b Sighting) int { return cmp.Compare(a.Time, b.Time) })
	for i := range m.scene.Sightings {
		if s := &m.scene.Sightings[i]; s.Point == Outside {
			s.Time += cfg.Skew + int64(float64(cfg.Drift)*(float64(s.Time-start)/1e9))
		}
	}
	return m.scene
}
