package report

import "time"

// Flow is an exchange that captures, or the sensors of a run, saw: the packets of one tuple and those that
// answer them, under all the tuples that NAT gave them.
type Flow struct {
	// Number counts from 1 among all flows: of captures the worst first, of a run in
	// the order in which they began.
	Number int `json:"number"`
	// Tuple is that of the packets that began the exchange where they were first
	// on their way, Translated the one where they were last; nil when it is the
	// same.
	Tuple      Tuple  `json:"tuple"`
	Translated *Tuple `json:"translated,omitempty"`
	// Points are the places that its packets passed, those of the request first,
	// each leg in path order. Places that saw nothing of the flow, though they saw
	// others on its way, stand behind the request's with 0 packets: where on the
	// path they are is not known.
	Points       []FlowPoint   `json:"points"`
	Translations []Translation `json:"translations"`
	// Outcome, Leg and Code are as in a Verdict. The code is OK only when nothing
	// is missing anywhere.
	Outcome Outcome `json:"outcome"`
	Leg     string  `json:"leg"`
	Code    string  `json:"code"`
	// Fall is where packets are missing; nil when none are, or it cannot be told.
	Fall *Fall `json:"fall,omitempty"`
	// Unanswered is how many requests of a ping that was answered got no answer,
	// and Unacknowledged the leg of a connection on which something was sent again
	// and not acknowledged until the end of the capture.
	Unanswered     uint64 `json:"unanswered,omitempty"`
	Unacknowledged string `json:"unacknowledged,omitempty"`
	// Errors are ICMP errors about the flow.
	Errors []FlowError `json:"errors,omitempty"`
	// Ambiguous says in words what content could not tell. Nothing else here
	// rests on it.
	Ambiguous []string `json:"ambiguous,omitempty"`
	// Started is the time of the first packet, Elapsed that from it to the last,
	// in nanoseconds.
	Started time.Time     `json:"started,omitzero"`
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
	// What follows is of a run. Summary is the verdict's sentence, Host the name
	// under which the source knows the destination, Owner the process that has the
	// flow's socket; Other says that it is another one than the command's. Asked is
	// what a name server was asked, or a proxy to connect to; Said is the first line
	// that the far end answered, "HTTP/1.1 407 Proxy Authentication Required", or a
	// name server's error.
	Summary string `json:"summary,omitempty"`
	Host    string `json:"host,omitempty"`
	Owner   string `json:"owner,omitempty"`
	Other   bool   `json:"other,omitempty"`
	Asked   string `json:"asked,omitempty"`
	Said    string `json:"said,omitempty"`
}

// Traced says what a run traced that followed all flows of its source.
type Traced struct {
	// Flows is how many began, Others how many of those listed are not the
	// command's, and Unfollowed how many more there were than could be followed.
	Flows      int `json:"flows"`
	Others     int `json:"others,omitempty"`
	Unfollowed int `json:"unfollowed,omitempty"`
	// Outcomes counts the listed flows that are not others'.
	Outcomes map[Outcome]int `json:"outcomes"`
	// Explained is the number of the flow that verdict and legs are about; 0 for
	// none.
	Explained int      `json:"explained"`
	Command   *Command `json:"command,omitempty"`
}

// Command is a program that ran while its flows were traced.
type Command struct {
	// Name is the program's, without its arguments: they may be secret.
	Name string `json:"name"`
	// Status is its exit status, as a shell has it: 128 and the number of the
	// signal that ended it.
	Status int `json:"status"`
	// Unknown says why the status is not known; Status is 0 then.
	Unknown string        `json:"unknown,omitempty"`
	Elapsed time.Duration `json:"elapsed_ns"`
}

// Place is where captures saw packets: an interface and, where it carries
// several, one VLAN or tunnel on it.
type Place struct {
	// Capture is the file; empty for the sensors of a run.
	Capture   string `json:"capture"`
	Machine   string `json:"machine,omitempty"`
	NetNS     string `json:"netns"`
	Interface string `json:"interface"`
	// Direction is ingress or egress; empty where a capture does not tell.
	Direction string `json:"direction,omitempty"`
	// VLANs are the tags, outermost first.
	VLANs []int `json:"vlans,omitempty"`
	// Tunnels are what the packets were found in, outermost first: "VXLAN 42".
	Tunnels []string `json:"tunnels,omitempty"`
}

// FlowPoint is one direction of a flow at one place.
type FlowPoint struct {
	Place
	Leg string `json:"leg"`
	// Tuple is nil where nothing was seen.
	Tuple   *Tuple `json:"tuple,omitempty"`
	TTL     int    `json:"ttl,omitempty"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// Copies are further sightings of the same packets, which Packets leaves out;
	// Repeated are retransmissions, which are among them.
	Copies   uint64 `json:"copies,omitempty"`
	Repeated uint64 `json:"repeated,omitempty"`
	// Joined is how many packets were seen both here and at the point before.
	Joined uint64 `json:"joined,omitempty"`
	// Delay bounds the time from the leg's first point to this one.
	Delay *Delay `json:"delay,omitempty"`
}

// Delay is a time as an interval, in nanoseconds. It is below zero where the
// clocks of two captures are not known well enough.
type Delay struct {
	Low  time.Duration `json:"low_ns"`
	High time.Duration `json:"high_ns"`
}

// Fall is where the count of a flow's packets falls.
type Fall struct {
	Leg string `json:"leg"`
	// From and To are indexes into Flow.Points; To is the one that has less, or
	// saw nothing.
	From int `json:"from"`
	To   int `json:"to"`
	// Packets are missing; of TCP that carries data, Bytes of the stream, since
	// what makes few packets of many leaves these alone. Least says that it may be
	// more, since the later point saw others that the earlier one may not have.
	Packets uint64 `json:"packets,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	Least   bool   `json:"least,omitempty"`
}

// FlowError is an ICMP error about a flow.
type FlowError struct {
	Place
	Tuple Tuple `json:"tuple"`
	// Text is its type and code in words, About the tuple of the packet that it
	// quotes.
	Text    string `json:"text"`
	About   Tuple  `json:"about"`
	TTL     int    `json:"ttl,omitempty"`
	Packets uint64 `json:"packets"`
}

// Totals are sums over all that captures hold.
type Totals struct {
	// Packets and Bytes were read. Others of them are not IP or how
	// machines of a link find each other, Bad could not be
	// decoded, and Untimed have no time: these belong to no flow.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	Others  uint64 `json:"others,omitempty"`
	Bad     uint64 `json:"bad,omitempty"`
	Untimed uint64 `json:"untimed,omitempty"`
	// Flows were found, Selected of them are what was asked for; Report.Flows has
	// the worst of those.
	Flows    int `json:"flows"`
	Selected int `json:"selected"`
	// Outcomes counts the selected flows by outcome; Falling, Translated and
	// Ambiguous are those that have a fall, a translation, something ambiguous.
	Outcomes   map[Outcome]int `json:"outcomes"`
	Falling    int             `json:"falling"`
	Translated int             `json:"translated"`
	Ambiguous  int             `json:"ambiguous"`
	// Evicted flows were given up to bound memory and are in no other number but
	// their packets, which EvictedPackets counts.
	Evicted        uint64 `json:"evicted,omitempty"`
	EvictedPackets uint64 `json:"evicted_packets,omitempty"`
	// Interrupted says that reading was stopped before the end.
	Interrupted bool `json:"interrupted,omitempty"`
}

// grade is how well a flow went; the worse ones are smaller.
type grade int

const (
	failed grade = iota
	losing
	unfinished
	unclear
	well
)

// grade follows the order of Report.Flows.
func (f *Flow) grade() grade {
	switch {
	case f.Outcome == Lost || f.Outcome == Rejected || f.Outcome == Dropped || f.Outcome == Unsent:
		return failed
	case f.Fall != nil:
		return losing
	case f.Unanswered > 0 || f.Unacknowledged != "":
		return unfinished
	case len(f.Ambiguous) > 0 || f.Outcome == Inconclusive:
		return unclear
	}
	return well
}
