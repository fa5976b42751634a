//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/nfsocket"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// station holds the sensors of one namespace. A sensor that could not start
// is nil and its reason is kept: the others go on.
type station struct {
	name     string
	handle   *netns.NS
	ring     *capture.Ring
	socket   *nfsocket.Socket
	armings  []*ruletrace.Arming
	nflog    *ruletrace.NFLog
	resolver *ruletrace.Resolver
	decoder  *ruletrace.TraceDecoder
	names    func(uint32) string // of the namespace's interfaces
	// legacy says that legacy tables exist, so that rules can be hit that only
	// NFLOG tells of.
	legacy bool

	mu      sync.Mutex
	reasons map[sensor]error // why a sensor is not ok

	events, hits atomic.Uint64

	// what the sensors had counted when they were drained
	packets  capture.Stats
	overruns uint64
	logged   ruletrace.Stats
}

// sensor names a sensor in reports.
type sensor string

const (
	sensorCapture   sensor = "capture"
	sensorConntrack sensor = "conntrack"
	sensorTrace     sensor = "nft trace"
	sensorNFLog     sensor = "nflog"
)

// wanted is what the sensors of a station are to see.
type wanted struct {
	packets capture.Selector
	// ringBytes is the size of the packet ring; 0 for the usual one.
	ringBytes int
	// rules are what the rule trace is armed for; their namespace is the station's.
	rules []ruletrace.ArmConfig
	// proto is the flows' protocol, 0 for any; ipv4 and ipv6 say which legacy
	// tables count.
	proto      packet.Proto
	ipv4, ipv6 bool
	log        func(format string, args ...any)
}

// probed is what the sensors have to see of probes.
func probed(matches []ruletrace.Match, cfg *Config) wanted {
	w := wanted{proto: matches[0].Proto, log: cfg.Log}
	for _, m := range matches {
		if m.Proto != w.proto {
			w.proto = 0
		}
		if !m.Target.IsUnspecified() { // of any address the port alone is known
			w.packets.Addresses = append(w.packets.Addresses, valid(m.Source, m.Target)...)
		}
		w.packets.Ports = append(w.packets.Ports, ports(m)...)
		w.packets.Carried = w.packets.Carried || m.Carried
		w.rules = append(w.rules, ruletrace.ArmConfig{Match: m, Budget: cfg.Count * (ruletrace.DefaultBudget + cfg.SendBytes/tracedBytes)})
		w.ipv4, w.ipv6 = w.ipv4 || m.Target.Is4(), w.ipv6 || m.Target.Is6()
	}
	w.packets.Proto = w.proto
	return w
}

// openStation opens every sensor of a namespace. All of them see whatever
// happens after it returned.
func openStation(ns *topology.Namespace, handle *netns.NS, resolver *ruletrace.Resolver, want wanted) *station {
	s := &station{name: ns.Name, handle: handle, reasons: make(map[sensor]error), resolver: resolver, names: interfaceNames(ns)}
	var err error
	want.log("%s: open a packet ring for %d interfaces", ns.Name, len(ns.Links))
	if s.ring, err = capture.OpenRing(capture.RingConfig{NetNS: handle, Points: points(ns), Selector: want.packets, RingBytes: want.ringBytes}); err != nil {
		s.fail(sensorCapture, err)
	}
	want.log("%s: listen to conntrack events and nftables trace", ns.Name)
	if s.socket, err = nfsocket.Open(nfsocket.Config{NetNS: handle, Conntrack: true, Trace: true, Filter: nfsocket.Filter{Proto: want.proto}}); err != nil {
		s.fail(sensorConntrack, err)
		s.fail(sensorTrace, err)
	}
	if on, err := nat.EventsEnabled(handle); err == nil && !on {
		s.fail(sensorConntrack, errors.New("conntrack events are switched off (net.netfilter.nf_conntrack_events = 0)"))
	}
	s.decoder = ruletrace.NewTraceDecoder(ns.Name, s.names)
	for _, rules := range want.rules {
		s.arm(rules, want.log)
	}
	s.openNFLog(handle, want)
	return s
}

// arm has the rules traced that some packets meet.
func (s *station) arm(rules ruletrace.ArmConfig, log func(format string, args ...any)) {
	rules.NetNS, rules.Name = s.handle, s.name
	arming, err := ruletrace.Arm(rules)
	if err != nil {
		s.fail(sensorTrace, err)
		return
	}
	s.armings = append(s.armings, arming)
	log("%s: added (removed by the kernel when pathtrace ends):\n%s", s.name, arming.Describe())
	if missing := arming.Missing(); len(missing) > 0 {
		s.fail(sensorTrace, errors.Join(missing...))
	}
}

// openNFLog listens to legacy TRACE where legacy tables exist.
func (s *station) openNFLog(handle *netns.NS, want wanted) {
	ipv4, ipv6, err := ruletrace.LegacyTables(handle)
	if err != nil {
		s.fail(sensorNFLog, fmt.Errorf("whether legacy tables exist: %w", err))
	}
	if s.legacy = want.ipv4 && len(ipv4) > 0 || want.ipv6 && len(ipv6) > 0; !s.legacy {
		return
	}
	want.log("%s: bind NFLOG group 0 and set nf_log to nfnetlink_log (put back at the end)", s.name)
	if s.nflog, err = ruletrace.OpenNFLog(ruletrace.NFLogConfig{NetNS: handle, Name: s.name, InterfaceName: s.names}); err != nil {
		s.fail(sensorNFLog, err)
	}
}

func valid[T interface{ IsValid() bool }](all ...T) []T {
	return slices.DeleteFunc(all, func(v T) bool { return !v.IsValid() })
}

func ports(m ruletrace.Match) []uint16 {
	return slices.DeleteFunc([]uint16{m.SourcePort, m.TargetPort}, func(p uint16) bool { return p == 0 })
}

func interfaceNames(ns *topology.Namespace) func(uint32) string {
	names := make(map[uint32]string)
	for i := range ns.Links {
		names[uint32(ns.Links[i].Index)] = ns.Links[i].Name
	}
	return func(index uint32) string { return names[index] }
}

// sink takes what sensors deliver. Its methods are called from several goroutines
// at once.
type sink interface {
	sighting(capture.Sighting)
	event(nat.Event)
	hit(ruletrace.Hit)
	drop(skbdrop.Drop)
}

// unresolved hands out rule hits whose rules are to be read, and takes them back.
type unresolved interface {
	takeUnresolved(netns string) []*ruletrace.Hit
	replace(h, by *ruletrace.Hit)
}

// start lets the sensors deliver to the sink until watch is done and they
// are drained.
func (s *station) start(watch context.Context, sensing *sync.WaitGroup, to sink) {
	if s.ring != nil {
		sensing.Go(func() { s.fail(sensorCapture, s.ring.Run(watch, to.sighting)) })
	}
	if s.socket != nil {
		sensing.Go(func() {
			err := s.socket.Run(watch, func(m nfsocket.Message) { s.message(m, to) }, func() {})
			s.fail(sensorConntrack, err)
			s.fail(sensorTrace, err)
		})
	}
	if s.nflog != nil {
		sensing.Go(func() { s.fail(sensorNFLog, s.nflog.Run(watch, to.hit)) })
	}
}

// message decodes one message of the netfilter socket.
func (s *station) message(m nfsocket.Message, to sink) {
	if event, ok, err := nat.DecodeEvent(m, s.name); ok || err != nil {
		if err != nil {
			s.fail(sensorConntrack, err)
			return
		}
		s.events.Add(1)
		to.event(event)
		return
	}
	hit, ok, err := s.decoder.Decode(m.Netlink, m.Seq)
	if err != nil {
		s.fail(sensorTrace, err)
		return
	}
	if ok {
		s.hits.Add(1)
		to.hit(hit)
	}
}

// resync reads the conntrack table where events were lost: what it says of the
// probes is as good as the events, only when it happened is gone.
func (s *station) resync(ctx context.Context, to sink) {
	if s.socket == nil || s.socket.Stats().Overruns == 0 {
		return
	}
	flows, err := nat.Dump(ctx, s.handle, s.name, nat.Filter{})
	if err != nil {
		s.fail(sensorConntrack, err)
	}
	for _, f := range flows {
		to.event(nat.Event{Kind: nat.Existing, Flow: f, Resync: true})
	}
}

// older asks for the flows that packets of the probes belong to here and of
// whose beginning no event told although none was lost.
func (s *station) older(seen path.Input, own func(*packet.Header) bool) []nat.Flow {
	if s.socket == nil || s.overruns > 0 || s.reason(sensorConntrack) != nil {
		return nil
	}
	// What others send to the target at the same time comes last.
	sightings := slices.Clone(seen.Sightings)
	slices.SortStableFunc(sightings, func(a, b capture.Sighting) int {
		switch mine := own(&a.Header); {
		case mine == own(&b.Header):
			return 0
		case mine:
			return -1
		}
		return 1
	})
	var asked []packet.Tuple
	var found []nat.Flow
	for i := range sightings {
		t := sightings[i].Header.Tuple
		if sightings[i].Point.NetNS != s.name || sightings[i].Header.IsICMPError() || slices.Contains(asked, t) || len(asked) == maxLookUps {
			continue
		}
		asked = append(asked, t)
		begun := func(e nat.Event) bool {
			_, ok := e.Flow.Matches(t)
			return ok && e.Flow.NetNS == s.name && e.Kind == nat.New
		}
		if slices.ContainsFunc(seen.Events, begun) {
			continue
		}
		f, ok, err := nat.Get(s.handle, s.name, t)
		if err != nil {
			s.fail(sensorConntrack, err)
			return found
		}
		if ok && !slices.ContainsFunc(found, func(other nat.Flow) bool { return other.ID == f.ID }) {
			found = append(found, f)
		}
	}
	return found
}

// resolve fills in the rules of this namespace's hits.
func (s *station) resolve(ctx context.Context, from unresolved) {
	for _, h := range from.takeUnresolved(s.name) {
		resolved := *h // others join meanwhile
		err := s.resolver.Resolve(ctx, &resolved)
		from.replace(h, &resolved)
		if err != nil {
			which := sensorTrace
			if h.Legacy {
				which = sensorNFLog
			}
			s.fail(which, err)
		}
	}
}

// fail keeps the first reason why a sensor is not ok.
func (s *station) fail(which sensor, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.reasons[which] == nil {
		s.reasons[which] = err
	}
}

func (s *station) reason(which sensor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reasons[which]
}

// close releases the sensors. An error says that something may be left of them.
func (s *station) close() error {
	var errs []error
	for _, arming := range s.armings {
		errs = append(errs, arming.Close())
	}
	if s.nflog != nil {
		errs = append(errs, s.nflog.Close())
	}
	if s.socket != nil {
		errs = append(errs, s.socket.Close())
	}
	if s.ring != nil {
		errs = append(errs, s.ring.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: close the sensors: %w", s.name, err)
	}
	return nil
}

// count keeps what the drained sensors have counted: later, while they close,
// they can be asked no more.
func (s *station) count() {
	if s.ring != nil {
		s.packets = s.ring.Stats()
	}
	if s.socket != nil {
		s.overruns = s.socket.Stats().Overruns
	}
	if s.nflog != nil {
		s.logged = s.nflog.Stats()
	}
}

// captured reports whether every packet here was seen.
func (s *station) captured() bool {
	return s.ring != nil && s.packets.Lost == 0 && s.reason(sensorCapture) == nil
}

// traced reports whether every rule that a packet met here was seen.
func (s *station) traced() bool {
	nft := s.socket != nil && s.armings != nil && s.overruns == 0 && s.reason(sensorTrace) == nil
	legacy := !s.legacy || (s.nflog != nil && s.logged.Lost == 0 && s.reason(sensorNFLog) == nil)
	return nft && legacy
}

// describe is what the sensors did, for the report.
func (s *station) describe() evidence.Station {
	return evidence.Station{NetNS: s.name, Sensors: s.sensors(), Inside: s.ring != nil, Captured: s.captured(), Traced: s.traced()}
}

// sensors describes them one by one.
func (s *station) sensors() []report.Sensor {
	var all []report.Sensor
	add := func(which sensor, open bool, received, lost uint64) {
		entry := report.Sensor{Name: string(which) + " " + s.name, State: "ok", Received: received, Lost: lost}
		err := s.reason(which)
		switch {
		case !open:
			entry.State = "absent"
		case err != nil || lost > 0:
			entry.State = "degraded"
		}
		if err != nil {
			entry.Reason = err.Error()
		} else if lost > 0 {
			entry.Reason = fmt.Sprintf("%d lost", lost)
		}
		all = append(all, entry)
	}
	add(sensorCapture, s.ring != nil, s.packets.Received, s.packets.Lost)
	add(sensorConntrack, s.socket != nil, s.events.Load(), s.overruns)
	add(sensorTrace, s.socket != nil && s.armings != nil, s.hits.Load(), s.overruns)
	if s.legacy || s.reason(sensorNFLog) != nil {
		add(sensorNFLog, s.nflog != nil, s.logged.Received, s.logged.Lost)
	}
	return all
}
