//go:build linux

package live

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// maxKept bounds how many packets, and how many events, a run keeps. Few match:
// the probes' own and, over TCP, the beginnings of other connections to the
// same port.
const maxKept = 1 << 14

// maxDiscovery bounds how many packets of ARP and neighbour discovery a run
// keeps. None of them is the probes' own, so those that are lost prove nothing.
const maxDiscovery = 1 << 10

// errTooMany is why a capture is not complete.
var errTooMany = fmt.Errorf("more packets of this kind passed than a run keeps (%d)", maxKept)

// collector gathers what all sensors deliver once the run has begun. It keeps
// what may belong to the probes and drops the rest, so its size does not depend on
// how busy the host is.
type collector struct {
	probes *probes
	// save takes what is kept, in the same order.
	save *evidence.Writer
	// changed holds a token when something was added.
	changed chan struct{}
	// begun says that the first probe may be sent: what came before is none of it,
	// and a bundle has to say first what run it is of.
	begun atomic.Bool

	mu        sync.Mutex
	sightings []capture.Sighting
	events    []nat.Event
	hits      []*ruletrace.Hit
	drops     []skbdrop.Drop
	pending   map[string][]*ruletrace.Hit // not yet resolved, by namespace
	discovery []capture.Sighting          // ARP and neighbour discovery
	overflow  bool
}

func newCollector(probes *probes, save *evidence.Writer) *collector {
	return &collector{probes: probes, save: save, changed: make(chan struct{}, 1), pending: make(map[string][]*ruletrace.Hit)}
}

func (c *collector) begin() { c.begun.Store(true) }

func (c *collector) sighting(s capture.Sighting) {
	if !c.begun.Load() {
		return
	}
	if evidence.Discovers(&s.Header) {
		c.mu.Lock()
		if len(c.discovery) < maxDiscovery {
			c.discovery = append(c.discovery, c.kept(s))
		}
		c.mu.Unlock()
		return
	}
	if inner, ok := s.Carried(); ok {
		s = inner
	}
	if !c.probes.packet(&s.Header) {
		return
	}
	c.mu.Lock()
	if len(c.sightings) < maxKept {
		c.sightings = append(c.sightings, c.kept(s))
	} else {
		c.overflow = true
	}
	c.mu.Unlock()
	c.touch()
}

// kept saves a sighting and returns what remains of it when its frame is gone.
func (c *collector) kept(s capture.Sighting) capture.Sighting {
	c.save.Sighting(&s)
	s.Frame = nil
	return s
}

func (c *collector) event(e nat.Event) {
	if !c.begun.Load() || !c.probes.flow(&e.Flow) {
		return
	}
	c.mu.Lock()
	if len(c.events) < maxKept {
		c.events = append(c.events, e)
		c.save.Event(e)
	} else {
		c.overflow = true
	}
	c.mu.Unlock()
	c.touch()
}

func (c *collector) hit(h ruletrace.Hit) {
	if !c.begun.Load() {
		return
	}
	c.mu.Lock()
	if len(c.hits) < maxKept {
		c.save.Hit(len(c.hits), &h)
		c.hits = append(c.hits, &h)
		c.pending[h.NetNS] = append(c.pending[h.NetNS], &h)
	} else {
		c.overflow = true
	}
	c.mu.Unlock()
	c.touch()
}

// drop keeps what says something about a packet's fate.
func (c *collector) drop(d skbdrop.Drop) {
	if !c.begun.Load() || skbdrop.Benign(d) || !c.probes.packet(&d.Header) {
		return
	}
	c.mu.Lock()
	if len(c.drops) < maxKept {
		c.drops = append(c.drops, d)
		c.save.Drop(d)
	} else {
		c.overflow = true
	}
	c.mu.Unlock()
	c.touch()
}

func (c *collector) touch() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *collector) hasUnresolved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending) > 0
}

// takeUnresolved hands out the hits of a namespace that are yet to be
// resolved, each once.
func (c *collector) takeUnresolved(netns string) []*ruletrace.Hit {
	c.mu.Lock()
	defer c.mu.Unlock()
	hits := c.pending[netns]
	delete(c.pending, netns)
	return hits
}

// replace puts a hit in the place of one that was collected.
func (c *collector) replace(h, by *ruletrace.Hit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*h = *by
	c.save.Hit(slices.Index(c.hits, h), h)
}

// discovered is what was kept of ARP and neighbour discovery.
func (c *collector) discovered() []capture.Sighting {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.discovery)
}

// complete reports whether everything that matched was kept.
func (c *collector) complete() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.overflow
}

// input is a copy of everything so far, for the join.
func (c *collector) input() path.Input {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := path.Input{Sightings: slices.Clone(c.sightings), Events: slices.Clone(c.events), Drops: slices.Clone(c.drops)}
	for _, h := range c.hits {
		in.Hits = append(in.Hits, *h)
	}
	return in
}
