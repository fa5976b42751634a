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
	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Config says what to trace.
type Config struct {
	// Kind is ping, ping6, tcp or udp, as the report prints it.
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
	// Lookup is set where a name is to be looked up, which is then Target: its
	// queries are the probes, and Resolved and Port are not used.
	Lookup *Lookup
	// Unresolved says why the target, a name, has no address. Then a DNS query
	// to the first server that was asked is traced in place of the probe, and
	// Resolved is not used.
	Unresolved *resolve.Error
	// Port is that of TCP or UDP; 0 for pings. SourcePort is the one that is sent
	// from; 0 lets the kernel choose.
	Port, SourcePort uint16
	// Size is the number of bytes of a ping's data; 0 means as ping sends.
	// DontFragment keeps a ping in one piece.
	Size         int
	DontFragment bool
	// Payload is what a datagram holds.
	Payload []byte
	// SendBytes is how many bytes are sent over a TCP connection, at most
	// MaxSendBytes; 0 means none.
	SendBytes int
	// Count is the number of probes; 0 means one.
	Count int
	// Timeout is how long each answer is waited for; 0 means 5 s.
	Timeout time.Duration
	// Engines asks the container engines of the host while the run goes on; nil asks
	// none.
	Engines AskEngines
	// Print is called with the report as soon as it is known, while the sensors
	// close; nil prints nothing.
	Print func(*report.Report) error
	// Save takes the evidence as it comes in; nil saves nothing. The caller
	// closes it, and is told then when it could not be written.
	Save *evidence.Writer
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
	// readLimit is how long reading rules may take: on a busy host with many
	// thousands of them it takes seconds.
	readLimit = time.Minute
	// hurriedLimit is how long it may take after an interrupt.
	hurriedLimit = 5 * time.Second
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
	if cfg.Lookup != nil {
		cfg.Lookup.prepare(&cfg)
		if len(cfg.Lookup.known()) > 0 {
			return cfg.fromFile()
		}
	}
	started := time.Now()
	engines, stopAsking := cfg.Engines.start(ctx, cfg.Log)
	defer stopAsking()
	topo, handles, err := topology.Discover(ctx, topology.Config{
		Host: cfg.Host, Source: cfg.Source.NetNS, SourceName: cfg.Source.Name,
		Target: cfg.Resolved.Address, Zone: cfg.Resolved.Zone, Candidates: cfg.Candidates,
		Containers: containers(ctx),
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

	r := &run{cfg: &cfg, topo: topo, holders: holders{topo: topo, handles: handles, log: cfg.Log}, seen: newCollector(probes, cfg.Save)}
	defer r.closeResolvers()
	r.followDNAT(ctx, handles, probes.matches())
	r.followRelays(ctx, handles, probes)
	watch, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	var sensing sync.WaitGroup
	r.open(watch, &sensing, handles, probes)
	known := r.begin(started)
	cfg.Save.Begin(known, probes.nonce())
	r.seen.begin()
	cfg.Log("armed after %s", time.Since(started).Round(time.Millisecond))

	tries, problem := r.sendAll(ctx, probes)

	stopWatching() // each sensor drains what the kernel has queued, then ends
	sensing.Wait()
	for _, s := range r.stations {
		s.resync(context.WithoutCancel(ctx), r.seen)
		if !r.seen.complete() {
			s.fail(sensorCapture, errTooMany)
		}
	}
	r.count()
	closed := make(chan error, 1)
	go func() { closed <- r.close() }() // takes the kernel tens of milliseconds
	replied := r.allReplied(tries)
	var ending sync.WaitGroup
	ending.Go(func() { r.resolve(ctx) })
	ending.Go(func() { r.findOwners(tries) })
	ending.Go(func() { r.engines = engines() })
	if !replied {
		ending.Go(func() { r.after = handles.Reread() })
		ending.Go(func() { r.chains = readChains(ctx, r.resolvers, r.cfg.Log) })
		ending.Go(func() { r.lookUp(ctx) })
	}
	ending.Wait()
	r.finish(known, tries)
	if gone := cfg.Source.Gone(context.WithoutCancel(ctx)); gone != "" {
		known.Notes = append(known.Notes, gone)
		if cfg.Source.Kind == container.KindContainer {
			withoutSource(known)
		}
	}
	cfg.Save.End(known)
	out := answer.Report(known)
	if cfg.Print != nil {
		err = cfg.Print(out)
	}
	return out, errors.Join(problem, err, <-closed)
}

// withoutSource makes a run one whose source is gone: what its namespace looks like
// now explains nothing, nor do silence and what was thrown away with its interfaces.
func withoutSource(known *evidence.Run) {
	known.After = nil
	for i := range known.Tries {
		known.Tries[i].Interrupted = true
	}
	known.Drops = slices.DeleteFunc(known.Drops, func(d skbdrop.Drop) bool { return d.Reason == skbdrop.QueuePurge })
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
	// engines are what container engines say of themselves.
	engines  []engine.View
	stations []*station
	// holders are the processes that hold sockets where probes end.
	holders holders
	// resolvers read rules, one for each namespace.
	resolvers map[string]*ruletrace.Resolver
	drops     *drops
	seen      *collector
}

// followDNAT adds the namespaces that a rule may send the packet to in place of
// its target, as the container behind a published port, and that of a target
// beside the way.
func (r *run) followDNAT(ctx context.Context, handles *topology.Handles, matches []ruletrace.Match) {
	r.resolvers = make(map[string]*ruletrace.Resolver)
	found := make([][]netip.Addr, len(r.topo.Namespaces))
	var asking sync.WaitGroup
	for i := range r.topo.Namespaces {
		name := r.topo.Namespaces[i].Name
		resolver := ruletrace.NewResolver(handles.Get(name), name)
		r.resolvers[name] = resolver
		asking.Go(func() {
			for _, match := range matches {
				to, err := resolver.Destinations(ctx, match)
				if err != nil {
					r.cfg.Log("%s: read where DNAT rules lead: %v", name, err)
				}
				found[i] = append(found[i], to...)
			}
		})
	}
	asking.Wait()
	for _, match := range matches {
		if besideTheWay(r.topo, match.Target) || match.Target != r.topo.Target {
			found = append(found, []netip.Addr{match.Target})
		}
	}
	all := slices.SortedFunc(slices.Values(slices.Concat(found...)), netip.Addr.Compare)
	for _, address := range slices.Compact(all) {
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
// for the kernel to make a ring known to all processors. Each is read from then
// on: a ring must not run over while a busy host opens the others.
func (r *run) open(watch context.Context, sensing *sync.WaitGroup, handles *topology.Handles, probes *probes) {
	probes.armed = probes.matches()
	for i := range probes.armed {
		probes.armed[i].Carried = slices.ContainsFunc(r.topo.Namespaces, hasTunnel)
	}
	want := probed(probes.armed, r.cfg)
	r.stations = make([]*station, len(r.topo.Namespaces))
	var opening sync.WaitGroup
	for i := range r.topo.Namespaces {
		ns := &r.topo.Namespaces[i]
		resolver := r.resolvers[ns.Name]
		if resolver == nil {
			resolver = ruletrace.NewResolver(handles.Get(ns.Name), ns.Name)
			r.resolvers[ns.Name] = resolver
		}
		opening.Go(func() {
			r.stations[i] = openStation(ns, handles.Get(ns.Name), resolver, want)
			r.stations[i].start(watch, sensing, r.seen)
		})
	}
	opening.Go(func() {
		r.drops = openDrops(r.topo, probes, r.cfg)
		r.drops.start(watch, sensing, r.seen)
	})
	opening.Wait()
}

// hasTunnel reports whether a namespace has a device whose packets carry others.
func hasTunnel(ns topology.Namespace) bool {
	return slices.ContainsFunc(ns.Links, func(l topology.Link) bool { return l.Tunnel != nil })
}

// sendAll sends the probes one after the other, each when the outcome of the
// one before is known.
func (r *run) sendAll(ctx context.Context, probes *probes) (tries []evidence.Try, err error) {
	if probes.questions != nil {
		return r.askAll(ctx, probes.questions)
	}
	for i := range r.cfg.Count {
		sent := time.Now()
		t := evidence.Try{Probe: probes.identity(i)}
		r.saveBegun(i, t)
		deadline, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
		if err := probes.send(deadline, i); err != nil { // nothing more will come
			refuse(&t, err)
		} else {
			r.await(ctx, deadline, t.Probe)
			r.awaitRelay(ctx, deadline, t.Probe)
		}
		cancel()
		if r.cfg.SendBytes > 0 && ctx.Err() == nil && r.replied(t.Probe) {
			r.sendData(ctx, probes.tcp[i], &t)
		}
		t.Interrupted = ctx.Err() != nil
		r.cfg.Save.Try(i, &t)
		tries = append(tries, t)
		if t.Interrupted || i+1 == r.cfg.Count {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(sent.Add(interval))):
		}
	}
	return tries, nil
}

// saveBegun saves a try as it is told when the run is killed before it ends.
func (r *run) saveBegun(i int, t evidence.Try) {
	t.Interrupted = true
	if r.cfg.SendBytes > 0 {
		t.Data = &diagnose.Data{Bytes: r.cfg.SendBytes}
	}
	r.cfg.Save.Try(i, &t)
}

// refuse keeps what the kernel told the socket of a try.
func refuse(t *evidence.Try, err error) {
	if err != nil {
		t.SendError, t.TooBig = err.Error(), errors.Is(err, unix.EMSGSIZE)
	}
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
// vanished is waited for until the deadline, which ends with ctx at the latest.
func (r *run) await(ctx, deadline context.Context, probe path.Probe) {
	var settled <-chan time.Time
	for deadline.Err() == nil {
		switch r.progress(ctx, probe) {
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
		case <-r.seen.changed:
		case <-settled:
			return
		case <-deadline.Done():
		}
	}
}

// allReplied reports whether the answer to each probe reached the source.
func (r *run) allReplied(tries []evidence.Try) bool {
	return !slices.ContainsFunc(tries, func(t evidence.Try) bool { return !r.replied(t.Probe) })
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

func (r *run) progress(ctx context.Context, probe path.Probe) progress {
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
	if r.seen.hasUnresolved() {
		r.resolve(ctx)
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
	in := r.seen.input()
	in.Probe, in.Topology, in.Inside, in.Owners = probe, r.topo, make(map[string]bool), r.holders.owners
	for _, s := range r.stations {
		in.Inside[s.name] = s.ring != nil
	}
	return path.Join(in)
}

// reading is the time that reading rules may take. An interrupted run still says
// what it knows, so it goes on for a while when ctx has ended.
func reading(ctx context.Context) (context.Context, context.CancelFunc) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), readLimit)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(hurriedLimit):
			cancel()
		case <-limited.Done():
		}
	})
	return limited, func() {
		stop()
		cancel()
	}
}

// resolve asks each namespace for the text and the place of the rules that
// were hit there.
func (r *run) resolve(ctx context.Context) { resolveAll(ctx, r.stations, r.seen) }

func resolveAll(ctx context.Context, stations []*station, from unresolved) {
	ctx, cancel := reading(ctx)
	defer cancel()
	var waiting sync.WaitGroup
	for _, s := range stations {
		waiting.Go(func() { s.resolve(ctx, from) })
	}
	waiting.Wait()
}

// readChains reads which chains there are: a fix is written in the syntax of
// the rules beside it.
func readChains(ctx context.Context, resolvers map[string]*ruletrace.Resolver, log func(string, ...any)) map[string][]ruletrace.BaseChain {
	ctx, cancel := reading(ctx)
	defer cancel()
	all := make(map[string][]ruletrace.BaseChain)
	var lock sync.Mutex
	var reading sync.WaitGroup
	for name, resolver := range resolvers {
		reading.Go(func() {
			chains, err := resolver.Base(ctx)
			if err != nil {
				log("%s: read which chains there are: %v", name, err)
			}
			lock.Lock()
			defer lock.Unlock()
			all[name] = chains
		})
	}
	reading.Wait()
	return all
}

// count keeps what the sensors have counted: they are about to close.
func (r *run) count() {
	for _, s := range r.stations {
		s.count()
	}
	r.drops.count()
}

func (r *run) close() error { return closeAll(r.stations, r.drops) }

// closeAll releases sensors in parallel: each takes the kernel milliseconds.
func closeAll(stations []*station, d *drops) error {
	errs := make([]error, len(stations)+1)
	var closing sync.WaitGroup
	for i, s := range stations {
		closing.Go(func() { errs[i] = s.close() })
	}
	closing.Go(func() { errs[len(stations)] = d.close() })
	closing.Wait()
	return errors.Join(errs...)
}

func (r *run) closeResolvers() { closeResolvers(r.resolvers, r.cfg.Log) }

func closeResolvers(resolvers map[string]*ruletrace.Resolver, log func(string, ...any)) {
	for name, resolver := range resolvers {
		if err := resolver.Close(); err != nil {
			log("%s: %v", name, err)
		}
	}
}

// begin gathers what is known before the first probe.
func (r *run) begin(started time.Time) *evidence.Run {
	known := &evidence.Run{
		Request: r.request(),
		Version: r.cfg.Version, Started: started, Waited: r.cfg.Timeout, Name: r.name(), Enter: enter(r.topo, r.cfg.Source), Topology: r.topo,
	}
	if r.cfg.Lookup != nil {
		known.Lookup = r.cfg.Lookup.saved()
	}
	r.sensed(known)
	return known
}

// request is what was asked.
func (r *run) request() report.Request {
	return report.Request{
		Kind: r.cfg.Kind, Target: r.cfg.Target, Address: r.address(), Resolved: r.cfg.Resolved.How,
		Source: report.Source{
			Kind: string(r.cfg.Source.Kind), Name: r.cfg.Source.Name, Engine: r.cfg.Source.Engine, ID: r.cfg.Source.ID,
			NetNS: r.topo.Source, Note: r.cfg.Source.Note,
		},
	}
}

// finish adds what was seen, and what was read when the outcome was known.
func (r *run) finish(known *evidence.Run, tries []evidence.Try) {
	seen := r.seen.input()
	known.Sightings, known.Discovery = seen.Sightings, r.seen.discovered()
	known.Events, known.Hits, known.Drops = seen.Events, seen.Hits, seen.Drops
	known.After, known.Chains, known.NAT, known.Redirects = r.after, r.chains, r.translators, r.redirects
	known.Engines = r.engines
	known.AsksSender, known.Owners, known.Tries = r.asksSender(), r.holders.owners, tries
	r.sensed(known)
	known.Finished = time.Now()
}

// sensed adds what the sensors did so far.
func (r *run) sensed(known *evidence.Run) {
	known.KernelDrops, known.Stations = r.drops.describe(), nil
	for _, s := range r.stations {
		known.Stations = append(known.Stations, s.describe())
	}
}

// address is what the target was resolved to; empty when it was not.
func (r *run) address() string {
	if r.cfg.Unresolved != nil || r.cfg.Lookup != nil {
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

// containers lists the containers that run, for their names.
func containers(ctx context.Context) func() ([]container.Running, error) {
	return func() ([]container.Running, error) { return container.Containers(ctx, container.Config{}) }
}

// enter says how a command is run in each namespace.
func enter(topo *topology.Snapshot, source *container.Source) map[string]string {
	enter := make(map[string]string)
	for i := range topo.Namespaces {
		ns := &topo.Namespaces[i]
		if words := container.Enter(ns.Name); ns.Name != container.HostName && words != "" {
			enter[ns.Name] = words
		}
		pid := ns.PID
		if ns.Name == topo.Source && ns.Name != container.HostName {
			pid = source.PID
		}
		if pid != 0 {
			enter[ns.Name] = fmt.Sprintf("nsenter --target %d --net", pid)
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
