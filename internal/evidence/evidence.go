// Package evidence holds what the sensors of a live run saw and what was read
// beside it: all that its report is made from, as plain data. A bundle is the
// file that saves it while the run goes on, to be answered anywhere.
package evidence

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Run is one live run.
type Run struct {
	// Request is what was asked; its Packet is empty. Version is the program's.
	Request report.Request
	Version string
	Started time.Time
	// Finished is when everything was known.
	Finished time.Time
	// Waited is how long each answer was waited for.
	Waited time.Duration
	// Name is set when the target is a name that has no address: what was traced
	// is the DNS query for it.
	Name *diagnose.Name
	// Lookup is set when a name was to be looked up: each try is a query for it.
	Lookup *Lookup
	// Enter is what has to stand before a command so that it runs in a namespace;
	// no entry for the host.
	Enter map[string]string
	// Topology is the snapshot before the probes, After the same once more, nil
	// when every probe was answered.
	Topology, After *topology.Snapshot
	// Chains are the base chains of each namespace, NAT the addresses that rules
	// translate to in namespaces with a flow that is older than the probe, and
	// Redirects the rules that would translate the destination of such a flow if
	// it were new. They are read with After.
	Chains    map[string][]ruletrace.BaseChain
	NAT       map[string]ruletrace.NATAddresses
	Redirects map[string]ruletrace.Rule
	// Engines are what container engines say of themselves, as far as they were asked.
	Engines []engine.View
	// Sightings are what may belong to the probes, Discovery what was seen of ARP
	// and neighbour discovery, whoever asked.
	Sightings, Discovery []capture.Sighting
	Events               []nat.Event
	Hits                 []ruletrace.Hit
	Drops                []skbdrop.Drop
	Stations             []Station
	// Owners are the sockets that probes were delivered to, and those that passed
	// them on, with the processes that hold them.
	Owners []socket.Owner
	// KernelDrops is the sensor of the kernel's own drops.
	KernelDrops report.Sensor
	// Attempts is the sensor of what programs want to send to; only a trace of all
	// flows has it.
	Attempts report.Sensor
	// AsksSender says that rules or routing at the source depend on who sends.
	AsksSender bool
	Tries      []Try
	// Notes are limits of the evidence itself, in words: what of it was not
	// saved.
	Notes []string
}

// Forget leaves out what was seen of a segment before a time that it was sent: of one
// that is sent again and again each place keeps some of the times only, and a later
// place may have kept an earlier one.
func (r *Run) Forget(segment *path.Segment, before time.Time) {
	r.Sightings = slices.DeleteFunc(slices.Clone(r.Sightings), func(s capture.Sighting) bool {
		return s.Time.Before(before) && segment.Is(&s.Header)
	})
	r.Drops = slices.DeleteFunc(slices.Clone(r.Drops), func(d skbdrop.Drop) bool {
		return d.Time.Before(before) && segment.Is(&d.Header)
	})
}

// Station is what the sensors of one namespace did.
type Station struct {
	NetNS string
	// Since is when the sensors began; zero when that was before everything that
	// was traced.
	Since   time.Time `json:",omitzero"`
	Sensors []report.Sensor
	// Inside says that packets were captured here, Captured that none was missed
	// and Traced that no rule was.
	Inside, Captured, Traced bool
}

// Try is one probe that was sent.
type Try struct {
	Probe path.Probe
	// Data is what was sent after the handshake, nil for none.
	Data *diagnose.Data
	// Missing is data of the far end that does not come, nil for none.
	Missing *diagnose.Missing `json:",omitempty"`
	// SendError is what the kernel told the socket, empty when it told nothing;
	// TooBig says that this was that the packet is too big (EMSGSIZE).
	SendError string
	TooBig    bool
	// Query is what a probe asked that is a DNS query; nil for others.
	Query *Query
	// Interrupted says that the run was ended before an outcome was known.
	Interrupted bool
}

// CutOff ends a run where nothing more is known of it: what its sensors missed
// was not told, so none is known to have missed nothing.
func (r *Run) CutOff(at time.Time) {
	r.Finished = at
	doubt := func(s *report.Sensor) {
		if s.State == "ok" {
			s.State, s.Reason = "degraded", "the bundle ends before it says what was lost"
		}
	}
	for i := range r.Stations {
		s := &r.Stations[i]
		s.Captured, s.Traced = false, false
		for k := range s.Sensors {
			doubt(&s.Sensors[k])
		}
	}
	doubt(&r.KernelDrops)
	doubt(&r.Attempts)
}

// Lookup is what the files of the source say about a name.
type Lookup struct {
	// Hosts are the addresses that HostsPath gives it, for which nobody is asked.
	Hosts     []netip.Addr `json:"hosts,omitempty"`
	HostsPath string       `json:"hosts_path,omitempty"`
	// From is the file that names the servers, empty when the user named one.
	From string `json:"from,omitempty"`
	// Servers are those to be asked, in turn.
	Servers []netip.Addr `json:"servers,omitempty"`
}

// Query is what a try asked a name server.
type Query struct {
	Server netip.Addr
	// Name and Type are the question, Over is udp or tcp.
	Name, Type, Over string
	// Addresses are those in the answer; Said is what was said, or became of the
	// query, when there are none.
	Addresses []netip.Addr
	Said      string
}

// Discovers reports whether a packet is one of ARP or neighbour discovery.
func Discovers(h *packet.Header) bool { return h.ARP != nil || h.Neighbour != nil }
