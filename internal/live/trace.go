//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/probe"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TraceConfig says whose flows are traced, and how long.
type TraceConfig struct {
	// Kind is exec or watch, as the report prints it, Target what is traced in
	// words: the program that is run, or the selection.
	Kind, Target string
	Source       *container.Source
	// Host and Candidates are as in Config.
	Host       *netns.NS
	Candidates []topology.Candidate
	// Ahead are addresses that flows are expected to go to, such as those of name
	// servers: the way there is looked at before the first packet.
	Ahead []netip.Addr
	// Wanted selects flows by the tuple of their first packet.
	Wanted evidence.Selector
	// Older says that flows that are there already count, too, and those that
	// others open to the source.
	Older bool
	// Patience is how long an answer is waited for before a flow counts as lost;
	// 0 means 5 s.
	Patience time.Duration
	// Engines is as in Config.
	Engines AskEngines
	// Packets ends the trace when so many packets of the flows were seen at the
	// source; 0 means that it does not.
	Packets int
	// Ready is called when all sensors see everything, with what they are; nil for
	// none.
	Ready func([]report.Sensor)
	// Each is called with each flow when it has ended or failed, its line and the
	// report that explains it, one at a time; nil for none.
	Each func(report.Flow, *report.Report) error
	// Gone is called once, with a sentence, when the source's container or process has
	// ended meanwhile, or its name is another namespace's. With a container the trace
	// ends: nothing more can come of it. nil for none.
	Gone func(string)
	// Command is the first process of the command that runs meanwhile, 0 before it
	// has begun: flows of other processes are told apart. nil where none runs.
	Command func() int
	// Ran says what the command came to, once it has ended; nil where none runs.
	Ran     func() *report.Command
	Version string
	// Save is the bundle that the trace is saved to; nil for none.
	Save *evidence.Writer
	Log  func(format string, args ...any)
}

const (
	// tick is how often flows are looked at.
	tick = 50 * time.Millisecond
	// lookAfter is how often it is looked whether the source is still there.
	lookAfter = time.Second
	// traceRing is the size of a packet ring that sees everything of a namespace.
	traceRing = 8 << 20
	// maxRoutes is how many of the host's routes are followed ahead.
	maxRoutes = 32
	// neighbourPatience is a little more than the time for which the kernel keeps a
	// packet whose next hop does not answer.
	neighbourPatience = 3300 * time.Millisecond
	// maxAround is how many namespaces are looked into ahead.
	maxAround = 24
	// maxStations is how many namespaces are looked into.
	maxStations = 64
	// engineAge is how old the answer of a container engine may be when it explains
	// a failure: a trace may go on for days.
	engineAge = 30 * time.Second
	// proxyAge is how old the list of docker-proxies may be when a flow goes to the
	// host: containers come and go.
	proxyAge = 100 * time.Millisecond
)

// Trace traces every flow of a source while during runs, and reports them. When
// during returns the sensors are drained and what is known is judged. An error of
// during is returned beside the report.
func Trace(ctx context.Context, cfg TraceConfig, during func(context.Context) error) (*report.Report, error) {
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	t, err := newTrace(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	defer t.handles.Close() //nolint:errcheck // read-only descriptors
	defer t.closeResolvers()
	defer func() { t.stopAsking() }()
	watch, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	t.watch = watch
	t.openAll()
	if err := t.blind(); err != nil {
		stopWatching()
		t.sensing.Wait()
		return nil, errors.Join(err, t.close())
	}
	cfg.Log("armed after %s", time.Since(t.tracer.Run.Started).Round(time.Millisecond))
	if cfg.Ready != nil {
		t.sensed()
		cfg.Ready(answer.Sensors(t.tracer.Run))
	}

	failed := t.follow(ctx, during)

	stopWatching() // each sensor drains what the kernel has queued, then ends
	t.sensing.Wait()
	t.count()
	closed := make(chan error, 1)
	go func() { closed <- t.close() }()
	t.resolve(ctx)
	t.finish(ctx)
	return t.tracer.Report(), errors.Join(failed, <-closed)
}

// tracing is a trace between arming and report.
type tracing struct {
	cfg       *TraceConfig
	topo      *topology.Snapshot
	handles   *topology.Handles
	seen      *gatherer
	own       map[netip.Addr]bool
	stations  []*station
	opened    map[string]time.Time // when the sensors of a namespace saw everything
	resolvers map[string]*ruletrace.Resolver
	drops     *drops
	attempts  *attempts
	watch     context.Context
	sensing   sync.WaitGroup

	// engines and stopAsking are those of the last question to container engines,
	// which was asked at asked; told says that the answer was taken.
	engines    func() []engine.View
	stopAsking func()
	asked      time.Time
	told       bool

	checked time.Time // when the source was last looked after
	gone    string    // what became of it, in a sentence

	tracer    *answer.Tracer
	sensors   *evidence.Sensors // as last saved
	extended  int               // the flow up to which ways were looked at
	owners    map[int]answer.Owner
	failed    error // of Each
	proxies   proxies
	redirects redirects
}

func newTrace(ctx context.Context, cfg *TraceConfig) (*tracing, error) {
	started := time.Now().Round(0)
	topo, handles, err := topology.Discover(ctx, topology.Config{
		Host: cfg.Host, Source: cfg.Source.NetNS, SourceName: cfg.Source.Name, Candidates: cfg.Candidates,
		Containers: containers(ctx),
	})
	if err != nil {
		return nil, fmt.Errorf("find the ways out of %s: %w", cfg.Source.Name, err)
	}
	t := &tracing{
		cfg: cfg, topo: topo, handles: handles, own: answer.Addresses(topo), opened: make(map[string]time.Time),
		resolvers: make(map[string]*ruletrace.Resolver), owners: make(map[int]answer.Owner),
		stopAsking: func() {}, proxies: proxies{holders: holders{topo: topo, handles: handles, log: cfg.Log}},
	}
	t.ask(ctx)
	for _, target := range append(t.ahead(), t.proxies.find(ctx)...) {
		t.extend(ctx, target)
	}
	handles.Around(ctx, maxAround)
	begin := &evidence.Trace{Wanted: cfg.Wanted, Older: cfg.Older, Run: &evidence.Run{
		Request: report.Request{
			Kind: cfg.Kind, Target: cfg.Target,
			Source: report.Source{
				Kind: string(cfg.Source.Kind), Name: cfg.Source.Name, Engine: cfg.Source.Engine, ID: cfg.Source.ID,
				NetNS: topo.Source, Note: cfg.Source.Note,
			},
		},
		Version: cfg.Version, Started: started, Waited: cfg.Patience, Enter: enter(topo, cfg.Source), Topology: topo,
	}}
	t.tracer = answer.NewTracer(begin)
	t.seen = newGatherer(t.tracer, cfg.Save)
	cfg.Save.Moment(&evidence.Moment{Time: started, Begin: begin})
	t.proxies.tell(t.seen)
	return t, nil
}

// ahead are addresses behind the routes that lead elsewhere than the default
// one, so that what is behind a VPN is looked into before the first packet.
func (t *tracing) ahead() []netip.Addr {
	targets := slices.Clone(t.cfg.Ahead)
	for _, name := range []string{t.topo.Source, topology.HostName} {
		ns := t.topo.Namespace(name)
		if ns == nil {
			continue
		}
		for i := range ns.Routes {
			r := &ns.Routes[i]
			if r.Destination.Bits() == 0 || r.Destination.IsSingleIP() || len(targets) >= maxRoutes || !r.Destination.IsValid() || r.Destination.Addr().IsMulticast() {
				continue
			}
			if first := r.Destination.Addr().Next(); !slices.Contains(targets, first) {
				targets = append(targets, first)
			}
		}
	}
	return targets
}

// extend looks for further namespaces on the way to a target. It reports whether
// there are any.
func (t *tracing) extend(ctx context.Context, target netip.Addr) bool {
	if len(t.topo.Namespaces) >= maxStations {
		return false
	}
	added, err := t.handles.Extend(ctx, target)
	if err != nil {
		t.cfg.Log("find the way to %s: %v", target, err)
	}
	return len(added) > 0
}

// openAll opens the sensors of all namespaces, and at the same time those of the
// whole machine.
func (t *tracing) openAll() {
	var opening sync.WaitGroup
	opening.Go(func() { t.drops = watchDrops(t.topo, skbdrop.Config{All: true, Buffer: 1 << 20}, t.cfg.Log) })
	opening.Go(func() { t.attempts = watchAttempts(t.cfg.Source.NetNS, t.cfg.Log) })
	t.openStations()
	opening.Wait()
	t.drops.start(t.watch, &t.sensing, t.seen)
	t.attempts.start(t.watch, &t.sensing, t.seen)
	if t.cfg.Older {
		t.dump()
	}
}

// blind is the error of a trace that sees no packet of the source.
func (t *tracing) blind() error {
	for _, s := range t.stations {
		if s.name == t.topo.Source && s.ring == nil {
			return fmt.Errorf("see what %s sends: %w", t.cfg.Source.Name, s.reason(sensorCapture))
		}
	}
	return nil
}

// openMore opens the sensors of namespaces that were found later.
func (t *tracing) openMore() {
	for _, ns := range t.openStations() {
		t.drops.add(ns)
	}
}

// openStations opens the sensors of namespaces that have none, and returns these.
func (t *tracing) openStations() (fresh []*topology.Namespace) {
	for i := range t.topo.Namespaces {
		if ns := &t.topo.Namespaces[i]; t.resolvers[ns.Name] == nil {
			t.resolvers[ns.Name] = ruletrace.NewResolver(t.handles.Get(ns.Name), ns.Name)
			fresh = append(fresh, ns)
		}
	}
	opened := make([]*station, len(fresh))
	var opening sync.WaitGroup
	for i, ns := range fresh {
		want := t.wanted(ns)
		opening.Go(func() {
			opened[i] = openStation(ns, t.handles.Get(ns.Name), t.resolvers[ns.Name], want)
			opened[i].start(t.watch, &t.sensing, t.seen)
		})
	}
	opening.Wait()
	now := time.Now()
	for _, s := range opened {
		t.stations = append(t.stations, s)
		t.opened[s.name] = now
	}
	return fresh
}

// wanted is what the sensors of a namespace are to see: all packets, and the
// rules that those of the source meet. Behind a NAT they have an address of one
// of the namespaces on the way.
func (t *tracing) wanted(ns *topology.Namespace) wanted {
	var rules ruletrace.Traffic
	for a := range t.own {
		if !a.IsLoopback() || ns.Name == t.topo.Source && ns.Name != topology.HostName {
			rules.Own = append(rules.Own, a)
		}
	}
	for i := range t.topo.Namespaces {
		other := &t.topo.Namespaces[i]
		for k := range other.Links {
			for _, p := range other.Links[k].Addresses {
				if a := p.Addr(); other.Name != ns.Name && !a.IsLoopback() && !t.own[a] {
					rules.Near = append(rules.Near, a)
				}
			}
		}
	}
	for i := range t.proxies.waiting { // nobody need have the address any more
		if a := t.proxies.waiting[i].Forwards.Addr(); !t.own[a] && ns.Local(a) == nil {
			rules.Near = append(rules.Near, a)
		}
	}
	slices.SortFunc(rules.Own, netip.Addr.Compare)
	slices.SortFunc(rules.Near, netip.Addr.Compare)
	return wanted{ringBytes: traceRing, rules: []ruletrace.ArmConfig{{Traffic: &rules}}, ipv4: true, ipv6: true, log: t.cfg.Log}
}

// dump takes the flows that are there already. The events of those that change
// meanwhile come beside it.
func (t *tracing) dump() {
	for _, s := range t.stations {
		if s.name != t.topo.Source {
			continue
		}
		flows, err := nat.Dump(t.watch, s.handle, s.name, nat.Filter{})
		if err != nil {
			s.fail(sensorConntrack, err)
		}
		for _, f := range flows {
			t.seen.event(nat.Event{Kind: nat.Existing, Flow: f, Received: time.Now()})
		}
	}
}

// follow looks at the flows again and again while during runs.
func (t *tracing) follow(ctx context.Context, during func(context.Context) error) error {
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- during(ctx) }()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			t.look(ctx)
			if t.cfg.Each == nil && err == nil {
				t.settle(ctx)
			}
			return errors.Join(err, t.failed)
		case <-t.seen.begun:
			t.look(ctx)
		case now := <-ticker.C:
			t.look(ctx)
			t.judge(ctx, now.Round(0))
			t.cfg.Save.Flush()
			if t.vanished(ctx, now) || t.failed != nil || t.cfg.Packets > 0 && t.passed() >= uint64(t.cfg.Packets) {
				cancel() // nothing more can come, nobody reads what is said, or enough was seen
			}
		}
	}
}

// vanished looks after the source now and then. It reports whether it was a container
// that is gone. A command in one ends by itself.
func (t *tracing) vanished(ctx context.Context, now time.Time) bool {
	if t.cfg.Gone == nil || t.gone != "" || now.Sub(t.checked) < lookAfter {
		return false
	}
	t.checked = now
	if t.gone = t.cfg.Source.Gone(ctx); t.gone != "" {
		t.cfg.Gone(t.gone)
	}
	return t.over()
}

// over reports whether the source was a container that is gone. What its namespace
// looks like then explains nothing.
func (t *tracing) over() bool { return t.gone != "" && t.cfg.Source.Kind == container.KindContainer }

// settle waits until the kernel has given up the packets whose next hop does not
// answer: before that nobody knows what becomes of them.
func (t *tracing) settle(ctx context.Context) {
	for ctx.Err() == nil {
		t.resolve(ctx)
		t.sensed()
		parked := false
		t.seen.with(func(tracer *answer.Tracer) {
			now := time.Now()
			parked = slices.ContainsFunc(tracer.Flows(), func(f *traffic.Flow) bool { return !f.Judged && parkedAt(tracer, f, now) })
		})
		if !parked {
			return
		}
		t.cfg.Save.Flush()
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

// parkedAt reports whether what became of a flow may be known a little later.
func parkedAt(tracer *answer.Tracer, f *traffic.Flow, now time.Time) bool {
	return now.Sub(f.Began) < neighbourPatience && answer.Parked(tracer.Run, f)
}

// passed is how many packets of the flows were seen at the source.
func (t *tracing) passed() (packets uint64) {
	t.seen.with(func(tracer *answer.Tracer) { packets = tracer.Table.Packets() })
	return packets
}

// look follows the ways of new flows, and asks whose they are: a socket may soon
// be closed.
func (t *tracing) look(ctx context.Context) {
	more := t.followProxies(ctx)
	for _, f := range t.seen.flows() {
		if f.Number <= t.extended {
			continue
		}
		t.extended = f.Number
		if t.cfg.Command != nil && !f.Inbound {
			whose := owners{ns: t.cfg.Source.NetNS, command: t.cfg.Command}
			t.owners[f.Number] = whose.of(ctx, t.seen.copied(f))
		}
		more = t.extend(ctx, f.Tuple.Dst) || more
	}
	if more {
		t.seen.tell(evidence.Moment{Topology: t.topo})
		t.openMore()
	}
	t.resolve(ctx)
}

// judge explains the flows that are over, and while somebody listens those that
// failed. Of those that are over nothing is kept.
func (t *tracing) judge(ctx context.Context, now time.Time) {
	var knocked time.Time
	t.seen.with(func(tracer *answer.Tracer) { knocked = tracer.Table.Knocked(now) })
	if !knocked.IsZero() {
		t.seen.tell(evidence.Moment{Admitted: &knocked})
	}
	var due, over []*traffic.Flow
	t.seen.with(func(tracer *answer.Tracer) {
		for _, f := range tracer.Flows() {
			switch {
			case f.Over(now) && !f.Judged && parkedAt(tracer, f, now):
			case f.Over(now):
				over = append(over, f)
				if !f.Judged || f.Due(now, t.cfg.Patience) {
					due = append(due, f)
				}
			case t.cfg.Each != nil && f.Due(now, t.cfg.Patience):
				due = append(due, f)
			}
		}
	})
	if len(due) > 0 {
		t.snapshot(ctx, due, now)
	}
	for _, f := range due {
		t.explain(ctx, f, now, false)
	}
	for _, f := range over {
		t.seen.tell(evidence.Moment{Forgotten: f.Number})
	}
}

// snapshot reads once more what explains a failure.
func (t *tracing) snapshot(ctx context.Context, due []*traffic.Flow, now time.Time) {
	if slices.ContainsFunc(due, func(f *traffic.Flow) bool { return f.Failing(now) }) {
		t.ask(ctx)
		chains := readChains(ctx, t.resolvers, t.cfg.Log)
		t.seen.tell(evidence.Moment{Surroundings: &evidence.Surroundings{After: t.handles.Reread(), Chains: chains}})
	}
}

// ask has the engines asked, unless what they said is still fresh.
func (t *tracing) ask(ctx context.Context) {
	now := time.Now()
	if now.Sub(t.asked) < engineAge {
		return
	}
	t.stopAsking()
	t.engines, t.stopAsking = t.cfg.Engines.start(ctx, t.cfg.Log)
	t.asked, t.told = now, false
}

// explain judges one flow. What went well and is over is let go.
func (t *tracing) explain(ctx context.Context, f *traffic.Flow, now time.Time, interrupted bool) {
	t.sensed()
	translating := t.translating(ctx, f, now)
	if !t.told {
		t.told = true
		t.seen.tell(evidence.Moment{Engines: &evidence.Engines{Views: t.engines()}})
	}
	var r *report.Report
	var row report.Flow
	t.seen.with(func(tracer *answer.Tracer) {
		j := tracer.Judgement(f, now, t.owners[f.Number], interrupted)
		j.Redirects = translating
		t.cfg.Save.Moment(&evidence.Moment{Time: now, Judgement: &j})
		row, r = tracer.Judge(f, &j)
	})
	if t.cfg.Each != nil && t.failed == nil {
		t.failed = t.cfg.Each(row, r)
	}
}

// finish judges what is left.
func (t *tracing) finish(ctx context.Context) {
	now := time.Now().Round(0)
	t.seen.tell(evidence.Moment{Unsent: t.senders()})
	t.seen.tell(evidence.Moment{Admitted: &now})
	all := t.seen.flows()
	for _, f := range all {
		if t.cfg.Command != nil && t.owners[f.Number].Name == "" {
			whose := owners{ns: t.cfg.Source.NetNS, command: t.cfg.Command}
			t.owners[f.Number] = whose.of(context.Background(), t.seen.copied(f))
		}
	}
	if t.gone == "" {
		t.gone = t.cfg.Source.Gone(context.Background())
	}
	if !t.over() {
		t.snapshot(ctx, all, now)
	}
	for _, f := range t.tracer.Left(now) {
		early := t.cfg.Each != nil && now.Sub(f.Began) < t.cfg.Patience // nobody waited for an answer
		t.explain(ctx, f, now, ctx.Err() != nil || t.over() || early)
	}
	t.sensed()
	end := &evidence.Ending{Finished: now, Changes: topology.Changes(t.topo, t.handles.Reread())}
	if t.gone != "" {
		end.Changes = append(end.Changes, t.gone)
	}
	if t.cfg.Ran != nil {
		end.Command = t.cfg.Ran()
	}
	t.cfg.Save.Moment(&evidence.Moment{Time: now, End: end})
	t.tracer.Take(&evidence.Moment{End: end})
}

// senders are the addresses that the source would send from to the targets that
// programs wanted to send to.
func (t *tracing) senders() map[netip.Addr]netip.Addr {
	all := make(map[netip.Addr]netip.Addr)
	t.seen.with(func(tracer *answer.Tracer) {
		for _, target := range tracer.Table.Attempted() {
			all[target] = probe.Source(t.cfg.Source.NetNS, target)
		}
	})
	return all
}

// resolve asks each namespace for the rules that were hit there.
func (t *tracing) resolve(ctx context.Context) { resolveAll(ctx, t.stations, t.seen) }

// sensed tells what the sensors did so far, and when each began.
func (t *tracing) sensed() {
	now := &evidence.Sensors{KernelDrops: t.drops.describe(), Attempts: t.attempts.describe()}
	for _, s := range t.stations {
		s.count()
		d := s.describe()
		d.Since = t.opened[s.name]
		now.Stations = append(now.Stations, d)
	}
	if !reflect.DeepEqual(now, t.sensors) {
		t.sensors = now
		t.seen.tell(evidence.Moment{Sensors: now})
	}
}

func (t *tracing) count() {
	for _, s := range t.stations {
		s.count()
	}
	t.drops.count()
	t.attempts.count()
}

func (t *tracing) close() error {
	return errors.Join(closeAll(t.stations, t.drops), t.attempts.close())
}

func (t *tracing) closeResolvers() { closeResolvers(t.resolvers, t.cfg.Log) }
