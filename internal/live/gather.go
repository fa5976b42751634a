//go:build linux

package live

import (
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/attempt"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// gatherer hands what all sensors deliver to the tracer, and what makes a difference
// there to the bundle.
type gatherer struct {
	// begun holds a token when a flow began.
	begun chan struct{}

	mu      sync.Mutex
	tracer  *answer.Tracer
	save    *evidence.Writer
	hits    int                         // so far
	pending map[string][]*ruletrace.Hit // not yet resolved, by namespace
	numbers map[*ruletrace.Hit]int      // of these
}

func newGatherer(tracer *answer.Tracer, save *evidence.Writer) *gatherer {
	return &gatherer{
		begun: make(chan struct{}, 1), tracer: tracer, save: save,
		pending: make(map[string][]*ruletrace.Hit), numbers: make(map[*ruletrace.Hit]int),
	}
}

// tell has the tracer take a moment.
func (g *gatherer) tell(m evidence.Moment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(&m)
}

// take is tell for who holds the lock. It reports whether the moment made a
// difference.
func (g *gatherer) take(m *evidence.Moment) bool {
	m.Time = time.Now().Round(0) // as it is saved: the wall clock alone
	if !g.tracer.Take(m) {
		return false
	}
	g.save.Moment(m)
	return true
}

func (g *gatherer) sighting(s capture.Sighting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.tracer.Table.Begun()
	if !g.tracer.Table.Sighting(s) {
		return
	}
	kept := s // s itself stays off the heap: most packets are others'
	g.save.Moment(&evidence.Moment{Sighting: &kept})
	if g.tracer.Table.Begun() > before {
		select {
		case g.begun <- struct{}{}:
		default:
		}
	}
}

func (g *gatherer) event(e nat.Event) {
	e.Received = e.Received.Round(0)
	g.tell(evidence.Moment{Event: &e})
}

func (g *gatherer) hit(h ruletrace.Hit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.take(&evidence.Moment{Hit: &h, Number: g.hits}) {
		return
	}
	if len(g.pending[h.NetNS]) < maxKept {
		g.pending[h.NetNS] = append(g.pending[h.NetNS], &h)
		g.numbers[&h] = g.hits
	}
	g.hits++
}

func (g *gatherer) drop(d skbdrop.Drop) { g.tell(evidence.Moment{Drop: &d}) }

func (g *gatherer) attempt(a attempt.Attempt) { g.tell(evidence.Moment{Attempt: &a}) }

func (g *gatherer) takeUnresolved(netns string) []*ruletrace.Hit {
	g.mu.Lock()
	defer g.mu.Unlock()
	hits := g.pending[netns]
	delete(g.pending, netns)
	return hits
}

func (g *gatherer) replace(h, by *ruletrace.Hit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(&evidence.Moment{Hit: by, Number: g.numbers[h]})
	delete(g.numbers, h)
}

// flows are those of the table at this moment.
func (g *gatherer) flows() []*traffic.Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tracer.Flows()
}

// copied is a flow as it is now: what sensors deliver changes it.
func (g *gatherer) copied(f *traffic.Flow) traffic.Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	return *f
}

// with runs f while nothing is delivered.
func (g *gatherer) with(f func(*answer.Tracer)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g.tracer)
}
