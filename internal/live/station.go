//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/nfsocket"
	"github.com/pathtrace/pathtrace/internal/path"
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
	arming   *ruletrace.Arming
	nflog    *ruletrace.NFLog
	resolver *ruletrace.Resolver
	decoder  *ruletrace.TraceDecoder
	names    func(uint32) string // of the namespace's interfaces
	// legacy says that legacy tables exist, so that rules can be hit that only
	// NFLOG tells of.
	legacy bool

	mu      sync.Mutex
	reasons map[sensor]error // why a sensor is not ok
	events  uint64
	hits    uint64

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

// openStation opens every sensor of a namespace. All of them see whatever
// happens after it returned.
func openStation(ns *topology.Namespace, handle *netns.NS, resolver *ruletrace.Resolver, match ruletrace.Match, cfg *Config) *station {
	s := &station{name: ns.Name, handle: handle, reasons: make(map[sensor]error), resolver: resolver, names: interfaceNames(ns)}
	var err error
	cfg.Log("%s: open a packet ring for %d interfaces", ns.Name, len(ns.Links))
	if s.ring, err = capture.OpenRing(capture.RingConfig{
		NetNS: handle, Points: points(ns),
		Selector: capture.Selector{Proto: match.Proto, Addresses: valid(match.Source, match.Target), Ports: ports(match)},
	}); err != nil {
		s.fail(sensorCapture, err)
	}
	cfg.Log("%s: listen to conntrack events and nftables trace", ns.Name)
	if s.socket, err = nfsocket.Open(nfsocket.Config{NetNS: handle, Conntrack: true, Trace: true, Filter: nfsocket.Filter{Proto: match.Proto}}); err != nil {
		s.fail(sensorConntrack, err)
		s.fail(sensorTrace, err)
	}
	if on, err := nat.EventsEnabled(handle); err == nil && !on {
		s.fail(sensorConntrack, errors.New("conntrack events are switched off (net.netfilter.nf_conntrack_events = 0)"))
	}
	s.decoder = ruletrace.NewTraceDecoder(ns.Name, s.names)
	if s.arming, err = ruletrace.Arm(ruletrace.ArmConfig{NetNS: handle, Name: ns.Name, Match: match, Budget: cfg.Count * (ruletrace.DefaultBudget + cfg.SendBytes/tracedBytes)}); err != nil {
		s.fail(sensorTrace, err)
	} else {
		cfg.Log("%s: added (removed by the kernel when pathtrace ends):\n%s", ns.Name, s.arming.Describe())
		if missing := s.arming.Missing(); len(missing) > 0 {
			s.fail(sensorTrace, errors.Join(missing...))
		}
	}
	s.openNFLog(handle, match, cfg)
	return s
}

// openNFLog listens to legacy TRACE where legacy tables exist.
func (s *station) openNFLog(handle *netns.NS, match ruletrace.Match, cfg *Config) {
	ipv4, ipv6, err := ruletrace.LegacyTables(handle)
	tables := ipv4
	if match.Target.Is6() {
		tables = ipv6
	}
	if err != nil {
		s.fail(sensorNFLog, fmt.Errorf("whether legacy tables exist: %w", err))
	}
	if s.legacy = len(tables) > 0; !s.legacy {
		return
	}
	cfg.Log("%s: bind NFLOG group 0 and set nf_log to nfnetlink_log (put back at the end)", s.name)
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

// start lets the sensors deliver to the collector until watch is done and they
// are drained.
func (s *station) start(watch context.Context, sensing *sync.WaitGroup, to *collector) {
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
func (s *station) message(m nfsocket.Message, to *collector) {
	if event, ok, err := nat.DecodeEvent(m, s.name); ok || err != nil {
		if err != nil {
			s.fail(sensorConntrack, err)
			return
		}
		s.events++
		to.event(event)
		return
	}
	hit, ok, err := s.decoder.Decode(m.Netlink, m.Seq)
	if err != nil {
		s.fail(sensorTrace, err)
		return
	}
	if ok {
		s.hits++
		to.hit(hit)
	}
}

// resync reads the conntrack table where events were lost: what it says of the
// probes is as good as the events, only when it happened is gone.
func (s *station) resync(ctx context.Context, to *collector) {
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
func (s *station) older(seen path.Input) []nat.Flow {
	if s.socket == nil || s.overruns > 0 || s.reason(sensorConntrack) != nil {
		return nil
	}
	var asked []packet.Tuple
	var found []nat.Flow
	for i := range seen.Sightings {
		t := seen.Sightings[i].Header.Tuple
		if seen.Sightings[i].Point.NetNS != s.name || seen.Sightings[i].Header.IsICMPError() || slices.Contains(asked, t) || len(asked) == maxLookUps {
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
func (s *station) resolve(ctx context.Context, from *collector) {
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
	if s.arming != nil {
		errs = append(errs, s.arming.Close())
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
	nft := s.socket != nil && s.arming != nil && s.overruns == 0 && s.reason(sensorTrace) == nil
	legacy := !s.legacy || (s.nflog != nil && s.logged.Lost == 0 && s.reason(sensorNFLog) == nil)
	return nft && legacy
}

// sensors describes them for the report.
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
	add(sensorConntrack, s.socket != nil, s.events, s.overruns)
	add(sensorTrace, s.socket != nil && s.arming != nil, s.hits, s.overruns)
	if s.legacy || s.reason(sensorNFLog) != nil {
		add(sensorNFLog, s.nflog != nil, s.logged.Received, s.logged.Lost)
	}
	return all
}
