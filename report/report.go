// Package report is the model of what pathtrace says, and its renderers. It
// imports no sensor: a report that was made on another machine renders here.
package report

import (
	"iter"
	"time"
)

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
	// Continuations are further flows that carry on where the request was
	// delivered: connections of a proxy's own.
	Continuations []Continuation `json:"continuations,omitempty"`
	Findings      []Finding      `json:"findings"`
	Sensors       []Sensor       `json:"sensors"`
	Evidence      []Evidence     `json:"evidence"`
	// Tries are the further probes of "-c N", the explained one included, in
	// the order in which they were sent, or the queries of dns.
	Tries []Try `json:"tries,omitempty"`
	// Notes are limits of what could be seen, in words: what lies beyond the
	// last interface, where policy may treat the probe differently.
	Notes []string `json:"notes,omitempty"`
	// Captures are the files that were read, and Flows what they hold, the worst
	// first; nil when none were read. Without legs the report is a table of flows,
	// and the verdict that of the worst one.
	Captures []Capture `json:"captures,omitzero"`
	Flows    []Flow    `json:"flows,omitzero"`
	Totals   *Totals   `json:"totals,omitempty"`
	// Traced is set when all flows of the source were followed: then Flows are
	// those, and verdict, legs, findings and evidence are of one of them.
	Traced *Traced `json:"traced,omitempty"`
	// Rest yields flows that follow Flows, so that a report of very many needs no
	// memory for all of them; nil for none. JSON writes them, too, Text does not.
	Rest iter.Seq[Flow] `json:"-"`
}

// Tool is the program that made the report.
type Tool struct {
	Version string `json:"version"`
}

// Request is what was asked.
type Request struct {
	// Kind is the command: ping, ping6, tcp, analyze.
	Kind string `json:"kind"`
	// Target is as typed, Address the one it was resolved to. Of analyze it is the
	// names of the files.
	Target  string `json:"target"`
	Address string `json:"address,omitempty"`
	Source  Source `json:"source"`
	// Sender is "address:port" of who sent the explained packet, where that was not
	// the source but somebody who opened a flow to it.
	Sender string `json:"sender,omitempty"`
	// Packet names the explained packet as its protocol does:
	// "ICMPv6 echo id 38 seq 1".
	Packet string `json:"packet,omitempty"`
	// Resolved says how the name became the address: "hosts file", "DNS
	// server 192.0.2.53"; empty when the target was an address.
	Resolved string `json:"resolved,omitempty"`
	// Selection says which flows of captures were asked for: "--dport 443"; empty
	// for all.
	Selection string `json:"selection,omitempty"`
}

// Source is where the probe was sent from.
type Source struct {
	// Kind is host, netns, pid or container; capture where files were read.
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Engine string `json:"engine,omitempty"`
	// ID is the engine's, of a container.
	ID    string `json:"id,omitempty"`
	NetNS string `json:"netns"`
	// Note says whose network namespace it is where that is not the container's
	// own: another container's, a pod's, the host's.
	Note string `json:"note,omitempty"`
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
	// Owner is the program that the rule belongs to; zero where none is certain.
	Owner Owner `json:"owner,omitzero"`
}

// Owner is the program whose table or chain a rule stands in, and which writes it
// anew when it starts or reloads, and what the rule is for there. What is not
// certain is empty.
type Owner struct {
	// Tool is docker, podman, cni, firewalld, ufw, kube-proxy, libvirt or fail2ban.
	Tool string `json:"tool"`
	// Network is a container network by the engine's name, Bridge its interface.
	Network string `json:"network,omitempty"`
	Bridge  string `json:"bridge,omitempty"`
	// Zone and Policy are firewalld's. Service is one of Kubernetes:
	// "namespace/name:port".
	Zone    string `json:"zone,omitempty"`
	Policy  string `json:"policy,omitempty"`
	Service string `json:"service,omitempty"`
	// Purpose is what the engine calls such a rule: MASQUERADE, ICC.
	Purpose string `json:"purpose,omitempty"`
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

// Continuation is the way of a flow that a process began because of the
// request: that it did so is never observed, as what the flow met is.
type Continuation struct {
	// Kind is proxy, or resolver for a DNS query that a name server passed on.
	Kind string `json:"kind"`
	// NetNS is where the flow begins, Process who began it.
	NetNS   string `json:"netns"`
	Process string `json:"process,omitempty"`
	// Packet names the flow's first packet as its protocol does.
	Packet string `json:"packet,omitempty"`
	// Summary says why it is taken for a continuation; Confidence is that of this
	// statement, Evidence what it rests on.
	Summary    string     `json:"summary"`
	Confidence Confidence `json:"confidence"`
	Evidence   []string   `json:"evidence"`
	// Verdict is the answer about this flow alone.
	Verdict      Verdict       `json:"verdict"`
	Translations []Translation `json:"translations"`
	Legs         Legs          `json:"legs"`
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
	// tunnel, drop, reject or deliver.
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
	// Kind is sighting, conntrack, rule or drop for what sensors saw; file, process, link,
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
	// Query is set for a DNS query.
	Query *Query `json:"query,omitempty"`
}

// Query is what a DNS query asked, and what was answered.
type Query struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	// Type is that of the wanted record: A or AAAA. Over is udp or tcp.
	Type string `json:"type"`
	Over string `json:"over"`
	// Addresses are those in the answer; Said is what it says, or what became of
	// the query, when there are none ("NXDOMAIN", "no answer within 5s").
	Addresses []string `json:"addresses"`
	Said      string   `json:"said,omitempty"`
}
