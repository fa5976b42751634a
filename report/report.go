// Package report is the model of what pathtrace says, and its renderers. It
// imports no sensor: a report that was made on another machine renders here.
package report

import "time"

// Schema is the name of the report's form. Fields may be added under this
// name; those that are there keep their names and meaning.
const Schema = "pathtrace/report/1"

// Report is one answer.
type Report struct {
	Schema       string        `json:"schema"`
	Tool         Tool          `json:"tool"`
	Started      time.Time     `json:"started"`
	Finished     time.Time     `json:"finished"`
	Request      Request       `json:"request"`
	Verdict      Verdict       `json:"verdict"`
	Translations []Translation `json:"translations"`
	Legs         Legs          `json:"legs"`
	Findings     []Finding     `json:"findings"`
	Sensors      []Sensor      `json:"sensors"`
	Evidence     []Evidence    `json:"evidence"`
	// Tries are the further probes of "-c N", the explained one included, in
	// the order in which they were sent.
	Tries []Try `json:"tries,omitempty"`
	// Notes are limits of what could be seen, in words: what lies beyond the
	// last interface, where policy may treat the probe differently.
	Notes []string `json:"notes,omitempty"`
}

// Tool is the program that made the report.
type Tool struct {
	Version string `json:"version"`
}

// Request is what was asked.
type Request struct {
	// Kind is the command: ping, ping6, tcp.
	Kind string `json:"kind"`
	// Target is as typed, Address the one it was resolved to.
	Target  string `json:"target"`
	Address string `json:"address,omitempty"`
	Source  Source `json:"source"`
	// Packet names the explained packet as its protocol does:
	// "ICMPv6 echo id 38 seq 1".
	Packet string `json:"packet,omitempty"`
	// Resolved says how the name became the address: "hosts file", "DNS
	// server 192.0.2.53"; empty when the target was an address.
	Resolved string `json:"resolved,omitempty"`
}

// Source is where the probe was sent from.
type Source struct {
	// Kind is host, netns, pid or container.
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Engine string `json:"engine,omitempty"`
	NetNS  string `json:"netns"`
}

// Outcome is how the exchange ended.
type Outcome string

// The outcomes.
const (
	Replied      Outcome = "replied"
	Delivered    Outcome = "delivered"
	Dropped      Outcome = "dropped"
	Rejected     Outcome = "rejected"
	Lost         Outcome = "lost"
	Unsent       Outcome = "unsent"
	Inconclusive Outcome = "inconclusive"
)

// Confidence says how a statement is known.
type Confidence string

// The confidences: a sensor saw it; it follows from what sensors saw and the
// configuration; configuration only.
const (
	Observed      Confidence = "observed"
	Reconstructed Confidence = "reconstructed"
	Assumed       Confidence = "assumed"
)

// Verdict is the answer in short.
type Verdict struct {
	Outcome Outcome `json:"outcome"`
	// Leg is request or reply: the one on which it ended.
	Leg  string `json:"leg"`
	Code string `json:"code"`
	// Mechanism says where and how the kernel did it, in words.
	Mechanism  string     `json:"mechanism,omitempty"`
	Confidence Confidence `json:"confidence"`
	NetNS      string     `json:"netns,omitempty"`
	Interface  string     `json:"interface,omitempty"`
	Hook       string     `json:"hook,omitempty"`
	Rule       *Rule      `json:"rule,omitempty"`
	Summary    string     `json:"summary"`
	Evidence   []string   `json:"evidence"`
	// Elapsed is the time in nanoseconds from the packet's first sighting to
	// the answer's arrival at the source; 0 when there was none.
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
}

// Rule is a rule as its owner would find it.
type Rule struct {
	Backend string `json:"backend"`
	Family  string `json:"family"`
	Table   string `json:"table"`
	Chain   string `json:"chain"`
	Number  int    `json:"number,omitempty"`
	Handle  uint64 `json:"handle,omitempty"`
	Text    string `json:"text"`
	Comment string `json:"comment,omitempty"`
}

// Translation is what NAT did to one field on one leg's flow, once per flow.
type Translation struct {
	// Kind is masquerade, snat, dnat, redirect, netmap, nptv6, stateless or
	// unknown.
	Kind       string     `json:"kind"`
	NetNS      string     `json:"netns"`
	Interface  string     `json:"interface,omitempty"`
	Hook       string     `json:"hook,omitempty"`
	Field      string     `json:"field"`
	From       string     `json:"from"`
	To         string     `json:"to"`
	Leg        string     `json:"leg,omitempty"`
	Rule       *Rule      `json:"rule,omitempty"`
	Confidence Confidence `json:"confidence"`
	Evidence   []string   `json:"evidence"`
}

// Legs are the two directions.
type Legs struct {
	Request []Hop `json:"request"`
	Reply   []Hop `json:"reply"`
}

// Hop is one place on the way, in path order. Steps happened after the packet
// was seen there.
type Hop struct {
	Machine   string `json:"machine,omitempty"`
	NetNS     string `json:"netns"`
	Interface string `json:"interface"`
	Role      string `json:"role"`
	// Bridge is the bridge that the interface is a port of.
	Bridge    string    `json:"bridge,omitempty"`
	Direction string    `json:"direction"`
	Time      time.Time `json:"time"`
	Tuple     Tuple     `json:"tuple"`
	TTL       int       `json:"ttl"`
	Length    int       `json:"length"`
	Steps     []Step    `json:"steps"`
	Evidence  []string  `json:"evidence"`
}

// Tuple is a packet's addresses as it was seen. Source and Destination are
// "address", or "address:port" with IPv6 in brackets.
type Tuple struct {
	Protocol    string `json:"protocol"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	ICMPType    *int   `json:"icmp_type,omitempty"`
	ICMPCode    *int   `json:"icmp_code,omitempty"`
	ICMPID      *int   `json:"icmp_id,omitempty"`
}

// Step is one thing that happened to the packet.
type Step struct {
	// Kind is rule, policy, conntrack, nat, route, bridge, neighbour, proxy,
	// drop, reject or deliver.
	Kind       string     `json:"kind"`
	Text       string     `json:"text"`
	Hook       string     `json:"hook,omitempty"`
	Rule       *Rule      `json:"rule,omitempty"`
	Confidence Confidence `json:"confidence"`
	Evidence   []string   `json:"evidence"`
	// Dull steps changed nothing; text leaves them out unless all is asked for.
	Dull bool `json:"dull,omitempty"`
}

// Finding is something that deserves a line, with a fix that can be pasted.
type Finding struct {
	Code string `json:"code"`
	// Severity is error, warning or note.
	Severity string   `json:"severity"`
	Summary  string   `json:"summary"`
	Fix      []string `json:"fix"`
	Evidence []string `json:"evidence"`
}

// Sensor is what one source of evidence did.
type Sensor struct {
	// Name is "capture cnt01", "conntrack host", "nft trace host", "nflog host",
	// "kernel drops".
	Name string `json:"name"`
	// State is ok, degraded or absent; Reason says why it is not ok.
	State    string `json:"state"`
	Received uint64 `json:"received"`
	Lost     uint64 `json:"lost"`
	Reason   string `json:"reason,omitempty"`
	// Optional sensors only tell more about what others prove. Text names one
	// that is absent only where a packet was dropped and no rule is known.
	Optional bool `json:"optional,omitempty"`
}

// Evidence is one thing that a sensor saw, or that was read.
type Evidence struct {
	ID string `json:"id"`
	// Kind is sighting, conntrack, rule or drop for what sensors saw; link,
	// address, neighbour, route, setting, counter, filter, chain or bridge, and also
	// rule and conntrack, for what was read (docs/report.md).
	Kind    string    `json:"kind"`
	Machine string    `json:"machine,omitempty"`
	Time    time.Time `json:"time,omitzero"`
	NetNS   string    `json:"netns"`
	Text    string    `json:"text"`
}

// Try is one probe of several.
type Try struct {
	Packet  string        `json:"packet"`
	Outcome Outcome       `json:"outcome"`
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
}
