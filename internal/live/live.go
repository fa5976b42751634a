//go:build linux

// Package live makes one live run: it finds the namespaces on the way, opens
// every sensor in each, sends the probe when all of them are ready, stops when
// the outcome is known, drains the sensors and hands what they saw to the join.
//
// What it changes on the host belongs to sockets that it holds and is gone
// when they close; see package ruletrace for the one exception.
package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Config says what to trace.
type Config struct {
	// Kind is ping, ping6 or tcp, as the report prints it.
	Kind   string
	Source *container.Source
	// Host is the namespace that reports call "host"; nil means the one that
	// pathtrace runs in.
	Host *netns.NS
	// Candidates are the namespaces that the way may lead into, beside source
	// and host; nil means all that can be found.
	Candidates []topology.Candidate
	// Target is what the user typed, Resolved what it stands for.
	Target   string
	Resolved resolve.Result
	// Unresolved says why the target, a name, has no address. Then a DNS query
	// to the first server that was asked is traced in place of the probe, and
	// Resolved is not used.
	Unresolved *resolve.Error
	// Port is the TCP port; 0 for pings. SourcePort is the one that is sent from;
	// 0 lets the kernel choose.
	Port, SourcePort uint16
	// Size is the number of bytes of a ping's data; 0 means as ping sends.
	// DontFragment keeps a ping in one piece.
	Size         int
	DontFragment bool
	// SendBytes is how many bytes are sent over a TCP connection, at most
	// MaxSendBytes; 0 means none.
	SendBytes int
	// Count is the number of probes; 0 means one.
	Count int
	// Timeout is how long each answer is waited for; 0 means 5 s.
	Timeout time.Duration
	// Print is called with the report as soon as it is known, while the sensors
	// close; nil prints nothing.
	Print func(*report.Report) error
	// Version is the program's, for the report.
	Version string
	// Log is told what is done on the host before it is done; nil discards it.
	Log func(format string, args ...any)
}

const (
	// interval is the least time between two probes of one run.
	interval = 200 * time.Millisecond
	// dnsPort is where name servers listen.
	dnsPort = 53
	// resolveLimit is how long reading rules may take.
	resolveLimit = 2 * time.Second
)

// Run traces the probes and explains one: the first that failed, or else the
// first. An error without a report means that it could not run as asked; a
// probe that fails is a report. An error beside a report says that it could not
// be printed, or what may be left of the sensors.
func Run(ctx context.Context, cfg Config) (*report.Report, error) {
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	cfg.Count = max(cfg.Count, 1)
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Unresolved != nil {
		cfg.Resolved = resolve.Result{Address: cfg.Unresolved.Said[0].Server.WithZone(""), Zone: cfg.Unresolved.Said[0].Server.Zone()}
		cfg.Port, cfg.Count = dnsPort, 1
	}
	started := time.Now()
	topo, handles, err := topology.Discover(ctx, topology.Config{
		Host: cfg.Host, Source: cfg.Source.NetNS, SourceName: cfg.Source.Name,
		Target: cfg.Resolved.Address, Zone: cfg.Resolved.Zone, Candidates: cfg.Candidates,
	})
	if err != nil {
		return nil, fmt.Errorf("find the way to %s: %w", cfg.Resolved.Address, err)
	}
	defer handles.Close() //nolint:errcheck // read-only descriptors

	probes, err := newProbes(&cfg, topo.Source)
	if err != nil {
		return nil, err
	}
	defer probes.close()

	r := &run{cfg: &cfg, topo: topo, evidence: newCollector(probes)}
	defer r.closeResolvers()
	r.followDNAT(ctx, handles, probes.match())
	watch, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	r.open(handles, probes)
	var sensing sync.WaitGroup
	for _, s := range r.stations {
		s.start(watch, &sensing, r.evidence)
	}
	r.drops.start(watch, &sensing, r.evidence)
	cfg.Log("armed after %s", time.Since(started).Round(time.Millisecond))

	tries := r.sendAll(ctx, probes)

	stopWatching() // each sensor drains what the kernel has queued, then ends
	sensing.Wait()
	for _, s := range r.stations {
		s.resync(context.WithoutCancel(ctx), r.evidence)
		if !r.evidence.complete() {
			s.fail(sensorCapture, errTooMany)
		}
	}
	r.count()
	closed := make(chan error, 1)
	go func() { closed <- r.close() }() // takes the kernel tens of milliseconds
	replied := r.allReplied(tries)
	var ending sync.WaitGroup
	ending.Go(r.resolve)
	if !replied {
		ending.Go(func() { r.after = handles.Reread() })
		ending.Go(r.readChains)
		ending.Go(r.lookUp)
	}
	ending.Wait()
	out := r.report(started, tries)
	if cfg.Print != nil {
		err = cfg.Print(out)
	}
	return out, errors.Join(err, <-closed)
}

// run is a live run between arming and report.
type run struct {
	cfg  *Config
	topo *topology.Snapshot
	// after is the snapshot once more, when a probe was not answered.
	after *topology.Snapshot
	// chains are the base chains of each namespace, read with after.
	chains map[string][]ruletrace.BaseChain
	// translators are the addresses that rules translate to, in namespaces with a
	// flow that is older than the probe, read with after.
	translators map[string]ruletrace.NATAddresses
	// redirects are the rules that would translate the destination of such a flow
	// if it were new.
	redirects map[string]ruletrace.Rule
	stations  []*station
	// resolvers read rules, one for each namespace.
	resolvers map[string]*ruletrace.Resolver
	drops     *drops
	evidence  *collector
}

// followDNAT adds the namespaces that a rule may send the packet to in place of
// its target, as the container behind a published port, and that of a target
// beside the way.
func (r *run) followDNAT(ctx context.Context, handles *topology.Handles, match ruletrace.Match) {
	r.resolvers = make(map[string]*ruletrace.Resolver)
	found := make([][]netip.Addr, len(r.topo.Namespaces))
	var asking sync.WaitGroup
	for i := range r.topo.Namespaces {
		name := r.topo.Namespaces[i].Name
		resolver := ruletrace.NewResolver(handles.Get(name), name)
		r.resolvers[name] = resolver
		asking.Go(func() {
			var err error
			if found[i], err = resolver.Destinations(ctx, match); err != nil {
				r.cfg.Log("%s: read where DNAT rules lead: %v", name, err)
			}
		})
	}
	asking.Wait()
	if target := r.topo.Target; besideTheWay(r.topo, target) {
		found = append(found, []netip.Addr{target})
	}
	for _, address := range slices.Concat(found...) {
		if _, err := handles.Extend(ctx, address); err != nil {
			r.cfg.Log("find the way to %s, where a DNAT rule leads: %v", address, err)
		}
	}
}

// besideTheWay reports whether a target that no namespace of a snapshot has is in
// the network of one of them: a container behind a host that the way from the
// source leads to through machines that cannot be seen.
func besideTheWay(s *topology.Snapshot, target netip.Addr) bool {
	near := false
	for i := range s.Namespaces {
		ns := &s.Namespaces[i]
		if ns.Local(target) != nil {
			return false
		}
		for k := range ns.Links {
			near = near || slices.ContainsFunc(ns.Links[k].Addresses, func(p netip.Prefix) bool { return p.Contains(target) })
		}
	}
	return near
}

// open opens the sensors of all namespaces at once: each waits milliseconds
// for the kernel to make a ring known to all processors.
func (r *run) open(handles *topology.Handles, probes *probes) {
	match := probes.match()
	r.stations = make([]*station, len(r.topo.Namespaces))
	var opening sync.WaitGroup
	for i := range r.topo.Namespaces {
		ns := &r.topo.Namespaces[i]
		resolver := r.resolvers[ns.Name]
		if resolver == nil {
			resolver = ruletrace.NewResolver(handles.Get(ns.Name), ns.Name)
			r.resolvers[ns.Name] = resolver
		}
		opening.Go(func() { r.stations[i] = openStation(ns, handles.Get(ns.Name), resolver, match, r.cfg) })
	}
	opening.Go(func() { r.drops = openDrops(r.topo, probes, r.cfg) })
	opening.Wait()
}

// try is one probe that was sent.
type try struct {
	probe path.Probe
	// data is what was sent after the handshake, nil for none.
	data        *diagnose.Data
	sendError   error
	interrupted bool
	path        *path.Path
	diagnosis   diagnose.Diagnosis
}

// sendAll sends the probes one after the other, each when the outcome of the
// one before is known.
func (r *run) sendAll(ctx context.Context, probes *probes) []try {
	var tries []try
	for i := range r.cfg.Count {
		sent := time.Now()
		t := try{probe: probes.identity(i)}
		deadline, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
		t.sendError = probes.send(deadline, i)
		if t.sendError == nil { // otherwise nothing more will come
			r.await(deadline, t.probe)
		}
		cancel()
		if r.cfg.SendBytes > 0 && ctx.Err() == nil && r.replied(t.probe) {
			r.sendData(ctx, probes.tcp[i], &t)
		}
		t.interrupted = ctx.Err() != nil
		tries = append(tries, t)
		if t.interrupted || i+1 == r.cfg.Count {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(sent.Add(interval))):
		}
	}
	return tries
}

// settling is how long an answer is waited for when the kernel has dropped the
// packet: the ICMP error about it is on its way, or the drop was that of a copy.
const settling = 50 * time.Millisecond

// progress is what is known of a probe while it is waited for.
type progress int

const (
	open progress = iota
	// ending: the kernel says that it dropped the packet.
	ending
	// decided: an answer reached the source, or a rule dropped the request or
	// the answer.
	decided
)

// await returns when the probe's outcome is known. A packet that merely
// vanished is waited for until the deadline.
func (r *run) await(ctx context.Context, probe path.Probe) {
	var settled <-chan time.Time
	for ctx.Err() == nil {
		switch r.progress(probe) {
		case decided:
			return
		case ending:
			if settled == nil {
				settled = time.After(settling)
			}
		case open:
			settled = nil
		}
		select {
		case <-r.evidence.changed:
		case <-settled:
			return
		case <-ctx.Done():
		}
	}
}

// allReplied reports whether the answer to each probe reached the source.
func (r *run) allReplied(tries []try) bool {
	return !slices.ContainsFunc(tries, func(t try) bool { return !r.replied(t.probe) })
}

// replied reports whether the answer that is expected reached the source.
func (r *run) replied(probe path.Probe) bool {
	p := r.join(probe)
	return p.Answer.Kind == path.Reply && !p.Answer.Unexpected && returned(p, probe)
}

// returned reports whether what came back reached the source.
func returned(p *path.Path, probe path.Probe) bool {
	return p.Answer.Kind != path.None && p.Reply.End.Kind == path.Delivered && p.Reply.End.NetNS == probe.NetNS
}

func (r *run) progress(probe path.Probe) progress {
	p := r.join(probe)
	if returned(p, probe) {
		switch {
		case p.Answer.Unexpected:
			return ending // the one that is expected may follow
		case probe.Segment == nil || p.Answer.Kind != path.Error:
			return decided
		case p.Request.End.Kind != path.Dropped:
			return open // TCP goes on, perhaps with less
		}
	}
	if r.evidence.hasUnresolved() {
		r.resolve()
		p = r.join(probe)
	}
	if probe.Segment != nil && p.Sending.Times < diagnose.Often {
		return open // what was lost once may get there when TCP repeats it
	}
	dropped := func(end path.End) bool { return end.Kind == path.Vanished && end.Drop != nil }
	switch {
	case p.Request.End.Kind == path.Dropped || p.Reply.End.Kind == path.Dropped:
		return decided
	case dropped(p.Request.End) || dropped(p.Reply.End):
		return ending
	}
	return open
}

// join runs the join over what has been seen so far.
func (r *run) join(probe path.Probe) *path.Path {
	in := r.evidence.input()
	in.Probe, in.Topology, in.Inside = probe, r.topo, make(map[string]bool)
	for _, s := range r.stations {
		in.Inside[s.name] = s.ring != nil
	}
	return path.Join(in)
}

// resolve asks each namespace for the text and the place of the rules that
// were hit there.
//
// An interrupted run still says what it knows, so the time that this may take
// has a limit of its own.
func (r *run) resolve() {
	ctx, cancel := context.WithTimeout(context.Background(), resolveLimit)
	defer cancel()
	var waiting sync.WaitGroup
	for _, s := range r.stations {
		waiting.Go(func() { s.resolve(ctx, r.evidence) })
	}
	waiting.Wait()
}

// readChains reads which chains there are: a fix is written in the syntax of
// the rules beside it.
func (r *run) readChains() {
	ctx, cancel := context.WithTimeout(context.Background(), resolveLimit)
	defer cancel()
	r.chains = make(map[string][]ruletrace.BaseChain)
	var lock sync.Mutex
	var reading sync.WaitGroup
	for name, resolver := range r.resolvers {
		reading.Go(func() {
			chains, err := resolver.Base(ctx)
			if err != nil {
				r.cfg.Log("%s: read which chains there are: %v", name, err)
			}
			lock.Lock()
			defer lock.Unlock()
			r.chains[name] = chains
		})
	}
	reading.Wait()
}

// count keeps what the sensors have counted: they are about to close.
func (r *run) count() {
	for _, s := range r.stations {
		s.count()
	}
	r.drops.count()
}

// close releases the sensors in parallel: each takes the kernel milliseconds.
func (r *run) close() error {
	errs := make([]error, len(r.stations)+1)
	var closing sync.WaitGroup
	for i, s := range r.stations {
		closing.Go(func() { errs[i] = s.close() })
	}
	closing.Go(func() { errs[len(r.stations)] = r.drops.close() })
	closing.Wait()
	return errors.Join(errs...)
}

func (r *run) closeResolvers() {
	for name, resolver := range r.resolvers {
		if err := resolver.Close(); err != nil {
			r.cfg.Log("%s: %v", name, err)
		}
	}
}

// report explains the first try that failed, or else the first.
func (r *run) report(started time.Time, tries []try) *report.Report {
	for i := range tries {
		t := &tries[i]
		t.path = r.join(t.probe)
		t.diagnosis = diagnose.Diagnose(diagnose.Input{
			Path: t.path, Topology: r.topo, After: r.after, Probe: t.probe, Waited: r.cfg.Timeout, Sensors: r.sensed(), Chains: r.chains, NAT: r.translators, Redirects: r.redirects, Discovery: r.evidence.discovered(),
			Data: t.data, SendError: t.sendError, SendTooBig: errors.Is(t.sendError, unix.EMSGSIZE), Interrupted: t.interrupted, Enter: r.enter(), Name: r.name(),
		})
	}
	chosen := slices.IndexFunc(tries, func(t try) bool { return t.diagnosis.Verdict.Outcome != report.Replied })
	t := tries[max(chosen, 0)]
	out := &report.Report{
		Schema: report.Schema, Tool: report.Tool{Version: r.cfg.Version}, Started: started,
		Request: report.Request{
			Kind: r.cfg.Kind, Target: r.cfg.Target, Address: r.address(), Resolved: r.cfg.Resolved.How,
			Packet: t.path.Request.Packet,
			Source: report.Source{Kind: string(r.cfg.Source.Kind), Name: r.cfg.Source.Name, Engine: r.cfg.Source.Engine, NetNS: r.topo.Source},
		},
		Verdict: t.diagnosis.Verdict, Findings: t.diagnosis.Findings, Notes: t.diagnosis.Notes,
		Translations: t.path.Translations, Evidence: slices.Concat(t.path.Evidence, t.diagnosis.Evidence),
		Legs: report.Legs{Request: t.path.Request.Hops, Reply: t.path.Reply.Hops},
	}
	for _, s := range r.stations {
		out.Sensors = append(out.Sensors, s.sensors()...)
	}
	out.Sensors = append(out.Sensors, r.drops.describe())
	out.Notes = append(out.Notes, r.topo.Problems...)
	if r.asksSender() {
		out.Notes = append(out.Notes, "Rules at the source look at the user or cgroup of the sender: an application may be treated differently from this probe, which uid 0 sent outside of its cgroup.")
	}
	if len(tries) > 1 {
		for _, t := range tries {
			out.Tries = append(out.Tries, report.Try{Packet: t.path.Request.Packet, Outcome: t.diagnosis.Verdict.Outcome, Elapsed: t.diagnosis.Verdict.Elapsed})
		}
	}
	out.Finished = time.Now()
	return out
}

// address is what the target was resolved to; empty when it was not.
func (r *run) address() string {
	if r.cfg.Unresolved != nil {
		return ""
	}
	return r.cfg.Resolved.Address.String()
}

// name says what is known of a name that has no address.
func (r *run) name() *diagnose.Name {
	if r.cfg.Unresolved == nil {
		return nil
	}
	said := r.cfg.Unresolved.Said[0]
	return &diagnose.Name{Target: r.cfg.Unresolved.Name, Server: said.Server, From: r.cfg.Unresolved.Path, Said: said.Answer}
}

// asksSender reports whether rules or routing at the source depend on who sends.
func (r *run) asksSender() bool {
	source := r.topo.Namespace(r.topo.Source)
	if source != nil && slices.ContainsFunc(source.Policy, func(p topology.Policy) bool { return p.UIDs != nil && *p.UIDs != [2]uint32{0, 1<<32 - 1} }) {
		return true
	}
	resolver := r.resolvers[r.topo.Source]
	if resolver == nil {
		return false
	}
	asks, err := resolver.AsksSender()
	if err != nil {
		r.cfg.Log("%s: whether rules look at the sender: %v", r.topo.Source, err)
	}
	return asks
}

// sensed says where packets and rules were watched without loss.
func (r *run) sensed() diagnose.Sensors {
	s := diagnose.Sensors{Captured: make(map[string]bool), Traced: make(map[string]bool)}
	for _, station := range r.stations {
		s.Captured[station.name] = station.captured()
		s.Traced[station.name] = station.traced()
	}
	return s
}

// enter says how a command is run in each namespace.
func (r *run) enter() map[string]string {
	enter := make(map[string]string)
	for i := range r.topo.Namespaces {
		ns := &r.topo.Namespaces[i]
		if words := container.Enter(ns.Name); ns.Name != container.HostName && words != "" {
			enter[ns.Name] = words
		}
		if ns.Name == r.topo.Source && ns.Name != container.HostName && r.cfg.Source.PID != 0 {
			enter[ns.Name] = fmt.Sprintf("nsenter --target %d --net", r.cfg.Source.PID)
		}
	}
	return enter
}

// points lists the interfaces of a namespace for its ring.
func points(ns *topology.Namespace) []capture.Point {
	var all []capture.Point
	for i := range ns.Links {
		l := &ns.Links[i]
		all = append(all, capture.Point{NetNS: ns.Name, Interface: l.Name, Index: l.Index, Role: l.Role})
	}
	return all
}
