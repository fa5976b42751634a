// Package flows joins what capture files saw of many flows at several places:
// which sightings are one packet, which tuples are one flow before and after
// NAT, how the clocks of two captures differ, and where packets are missing.
//
// It knows nothing but the captures. So every translation that it finds is
// reconstructed from content: the same packet under two tuples. What content
// cannot tell apart is reported as ambiguous and never guessed.
//
// The captures are read as streams, twice when there are several: first for the
// distance of their clocks (Measure), then for the join (Join). Memory is
// bounded by the number of flows, not by the length of the captures. It is
// pure but for reading.
package flows

import (
	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// Reader delivers the packets of a capture; capture.File is one.
type Reader interface {
	Next(*capture.Batch) error
	Interfaces() []capture.FileInterface
	Close() error
}

// Capture is a capture that can be read from its beginning, several times.
type Capture struct {
	// Name is as reports print it.
	Name string
	Open func() (Reader, error)
	// Point names an interface of the capture.
	Point func(index int, of capture.FileInterface) capture.Point
	// Skip leaves out the records of an interface that holds no packets; nil
	// skips none.
	Skip func(of capture.FileInterface) bool
}

// Place is where packets were seen: an interface of a capture and, where it
// carries several, one VLAN or one tunnel on it.
type Place struct {
	// Capture is an index into the captures.
	Capture int
	Point   capture.Point
	// VLANs are the tags, outermost first; Tunnels what the packets were found
	// in.
	VLANs   []uint16
	Tunnels []packet.Layer
	// Packets and Bytes are all that were seen there, Others those that are not
	// IP, or with which a link's machines find each other, and First and Last the times of the first and last packet, in
	// nanoseconds on the reference clock.
	Packets, Bytes, Others uint64
	First, Last            int64
	// base is the first place of the same interface and VLAN, in whatever tunnel.
	base int32
}

// Result is what the captures tell.
type Result struct {
	Places []Place
	// Flows are those that are kept, worst first.
	Flows []Flow
	// Packets, Bytes and Others are all that were read, Bad those that could not
	// be decoded, and Untimed those without a time, which are not joined.
	Packets, Bytes, Others, Bad, Untimed uint64
	// Evicted counts flows that were given up to stay below Config.MaxFlows, and
	// EvictedPackets their packets.
	Evicted, EvictedPackets uint64
	// Interrupted says that reading was stopped before the end.
	Interrupted bool
}

// Flow is an exchange: the packets of one tuple and of its inverse, under all
// the tuples that NAT gave them.
type Flow struct {
	// Number counts from 1, in the order of Result.Flows.
	Number int
	// Request is the tuple of the packets that began the exchange where they were
	// first on their way, Translated the one where they were last.
	Request, Translated packet.Key
	// Out and Back are the stops of the two directions in the order in which the
	// packets passed them; Back is empty when nothing came back.
	Out, Back []Stop
	// Translations are what NAT did between stops, request first.
	Translations []Translation
	Errors       []Error
	Outcome      Outcome
	// Fall is where packets are missing; nil when none are, or it cannot be
	// told.
	Fall *Fall
	// Unanswered is how many requests of an answered ping got no answer where the
	// first was seen, and Unacknowledged what of a TCP connection was sent again
	// and not acknowledged; nil for nothing.
	Unanswered     uint64
	Unacknowledged *Unacknowledged
	// Ambiguous says in words what could not be told; nothing that follows from
	// it is in the other fields.
	Ambiguous []string
	// Short says that the capture was too short to show an answer; empty when it was
	// not.
	Short string
	// Started is when the first packet was seen on the reference clock, Elapsed
	// until the last, in nanoseconds.
	Started, Elapsed int64
	// Waited is for how long the capture of the first stop went on after the first
	// packet or, of what was answered at other places, after the first answer, in
	// nanoseconds. What takes longer is in no capture.
	Waited int64
	// Missing are the places that saw other flows to the same destination, and
	// none of this one's packets though their capture ran, as indexes into
	// Result.Places.
	Missing []int
}

// Stop is one direction of a flow at one place.
type Stop struct {
	// Place is an index into Result.Places.
	Place int
	Key   packet.Key
	// TTL is the packets' TTL or hop limit here.
	TTL uint8
	// Packets and Bytes were seen, Common of them while all captures ran. Copies
	// are further sightings of the same packet at this place, and are not in
	// Packets. Repeated are retransmissions, which are.
	Packets, Bytes, Common, Copies, Repeated uint64
	// Stream is the number of bytes of a TCP stream by which it went on here, Data
	// that of all segments: those that were sent again, or came late, too.
	Stream, Data uint64
	First, Last  int64
	// Flags are all TCP flags that were seen, or'ed.
	Flags packet.TCPFlags
	// Delay is the time from the first stop to this one, least and most, in
	// nanoseconds; of captures on several machines it is as exact as the distance
	// of their clocks.
	DelayLow, DelayHigh int64
	// Joined is the number of packets that were seen both here and at the stop
	// before.
	Joined uint64
	track  int32 // the largest of its tracks
	tracks int32 // how many it has
	// alike, sum and partial are those of its tracks.
	alike   uint64
	sum     uint64
	partial bool
}

// Translation is a change of tuple between two stops that are next to each
// other.
type Translation struct {
	// Reply says that it is on the way back.
	Reply bool
	// From and To are indexes into Out, or Back.
	From, To int
	Before   packet.Key
	After    packet.Key
	// Packets is how many packets were seen on both sides.
	Packets uint64
	// Neutral says that the transport checksum stayed what it was while an
	// address changed: the mark of NPTv6 (RFC 6296).
	Neutral bool
}

// Error is an ICMP error about a flow.
type Error struct {
	Place int
	Key   packet.Key // of the error
	Code  uint8
	// About is the tuple of the packet that it quotes, Packets how often it was
	// seen.
	About   packet.Key
	Packets uint64
	TTL     uint8
	First   int64
}

// Outcome is how a flow ended, as far as its packets tell.
type Outcome string

// The outcomes, in words of the report.
const (
	Replied      Outcome = "replied"
	Rejected     Outcome = "rejected"
	Lost         Outcome = "lost"
	OneWay       Outcome = "delivered"
	Inconclusive Outcome = "inconclusive"
)

// Unacknowledged is what TCP sent again after a silence, and what was not
// acknowledged until the end at a place that saw both directions.
type Unacknowledged struct {
	Reply bool
	Place int
}

// Fall is where a count falls.
type Fall struct {
	Reply bool
	// From and To are indexes into Out, or Back. To is the next one, or the first
	// that saw the most of what came behind From.
	From, To int
	// Packets are missing; of TCP they are counted in bytes of the stream. Least
	// says that it may be more: To, or what saw the packets before From did not,
	// saw others, too.
	Packets, Bytes uint64
	Least          bool
}
