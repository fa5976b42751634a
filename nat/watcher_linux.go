package nat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/nfsocket"
	"github.com/pathtrace/pathtrace/packet"
)

// Config says which flows to watch.
type Config struct {
	// NetNS is the network namespace, nil that of the calling thread; Name is
	// its name in reports.
	NetNS *netns.NS
	Name  string
	// Existing emits the flows that are in the table already, before anything
	// else. They may stay unknown without: a flow that began while nobody on
	// the machine, in whatever namespace, was listening sends no event, not
	// even at its end (nf_conntrack_events = 2, the default since Linux 6.0).
	Existing bool
	Filter   Filter
	// ReadBuffer is the socket's receive buffer in bytes; 0 means a large one.
	ReadBuffer int
	// Overrun, if not nil, is called by Run when the kernel has lost events,
	// before the table is read again.
	Overrun func()
}

// Stats count what a Watcher saw.
type Stats struct {
	// Received messages were read, Undecodable ones of them not understood.
	Received, Undecodable uint64
	// Overruns is how often the kernel lost events; how many, it does not tell.
	Overruns uint64
}

// Watcher follows the conntrack table of one namespace. After an overrun it
// reads the table again, emits the difference to what it knew as events that
// are marked Resync, and goes on.
type Watcher struct {
	config Config
	socket *nfsocket.Socket
	// known are the flows that are alive, as far as was told.
	known       map[identity]*Flow
	undecodable atomic.Uint64
}

// identity tells flows apart. The id alone does not: it is a 32-bit hash.
type identity struct {
	id       uint32
	zone     uint16
	original packet.Tuple
}

func identityOf(f *Flow) identity { return identity{f.ID, f.Zone, f.Original} }

// Watch begins to listen: what happens from now on is queued until Run reads
// it. The error is os.ErrPermission when CAP_NET_ADMIN is missing, and
// errors.ErrUnsupported when the kernel sends no events.
func Watch(config Config) (*Watcher, error) {
	on, err := EventsEnabled(config.NetNS)
	if err == nil && !on {
		err = fmt.Errorf("net.netfilter.nf_conntrack_events is 0, must be 1 or 2: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("watch conntrack of %s: %w", config.Name, err)
	}
	socket, err := nfsocket.Open(nfsocket.Config{
		NetNS:      config.NetNS,
		Conntrack:  true,
		ReadBuffer: config.ReadBuffer,
		Filter:     nfsocket.Filter{Proto: config.Filter.Proto},
	})
	if err != nil {
		return nil, fmt.Errorf("watch conntrack of %s: %w", config.Name, err)
	}
	return &Watcher{config: config, socket: socket, known: make(map[identity]*Flow)}, nil
}

// EventsEnabled reports whether the namespace's conntrack sends events; nil is
// the namespace of the calling thread. It is true where conntrack is not
// loaded yet: events are on by default.
func EventsEnabled(ns *netns.NS) (bool, error) {
	var mode []byte
	read := func() (err error) {
		mode, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_events")
		return err
	}
	var err error
	if ns == nil {
		err = read()
	} else {
		err = ns.Do(read)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return string(bytes.TrimSpace(mode)) != "0", err
}

// Run emits events until ctx is done, then those that the kernel had queued by
// then, and returns nil. Every flow is told once as New or Existing. Losses that
// show only after ctx is done are counted, and the table is not read for them.
// Only one goroutine at a time may call it.
func (w *Watcher) Run(ctx context.Context, emit func(Event)) error {
	if w.config.Existing {
		if err := w.read(ctx, emit, false); err != nil {
			return w.fail(err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := w.socket.Run(ctx,
		func(m nfsocket.Message) {
			if event, ok := w.decode(m); ok {
				w.follow(event, emit)
			}
		},
		func() {
			w.overrun()
			if err := w.read(ctx, emit, true); err != nil {
				cancel(err)
			}
		})
	if err == nil {
		err = context.Cause(ctx)
	}
	return w.fail(err)
}

// fail returns nil for an error that is only the end of the context.
func (w *Watcher) fail(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("watch conntrack of %s: %w", w.config.Name, err)
}

func (w *Watcher) overrun() {
	if w.config.Overrun != nil {
		w.config.Overrun()
	}
}

// decode returns the event of a message if it is a selected one.
func (w *Watcher) decode(m nfsocket.Message) (Event, bool) {
	event, ok, err := DecodeEvent(m, w.config.Name)
	if err != nil {
		w.undecodable.Add(1)
		return Event{}, false
	}
	return event, ok && w.config.Filter.match(&event.Flow)
}

// follow emits an event, unless it is the beginning of a flow that the table
// had shown before the event was read.
func (w *Watcher) follow(event Event, emit func(Event)) {
	id := identityOf(&event.Flow)
	known := w.known[id]
	switch event.Kind {
	case Destroy:
		delete(w.known, id)
	default:
		flow := event.Flow
		if known != nil && flow.TCPState == "" {
			flow.TCPState = known.TCPState // updates tell only what changed
		}
		w.known[id] = &flow
		if event.Kind == New && known != nil {
			return
		}
	}
	emit(event)
}

// read emits what the table shows and was not known, then the events that were
// queued meanwhile. With resync it emits what else changed, too.
func (w *Watcher) read(ctx context.Context, emit func(Event), resync bool) error {
	for again := true; again; resync = true {
		again = false
		flows, err := Dump(ctx, w.config.NetNS, w.config.Name, w.config.Filter)
		if partial, ok := errors.AsType[*PartialError](err); ok {
			w.undecodable.Add(uint64(partial.Undecodable))
		} else if err != nil {
			return err
		}
		now := time.Now()
		var queued []Event
		err = w.socket.Drain(
			func(m nfsocket.Message) {
				if event, ok := w.decode(m); ok {
					queued = append(queued, event)
				}
			},
			func() {
				w.overrun()
				again = true
			})
		if err != nil {
			return err
		}
		w.compare(flows, queued, resync, func(kind EventKind, flow Flow) {
			emit(Event{Kind: kind, Flow: flow, Received: now, Resync: resync})
		})
		for _, event := range queued {
			w.follow(event, emit)
		}
	}
	return nil
}

// compare finds what the table shows beyond what was known and what the queued
// events are about to tell.
//
// The kernel sends DESTROY before it takes a flow out of the table, so the
// event of a flow that the table no longer shows is queued or lost. It sends
// NEW just after it has put a flow in; should the event not be queued yet, the
// flow is told as Existing, and follow suppresses the event.
func (w *Watcher) compare(flows []Flow, queued []Event, resync bool, emit func(EventKind, Flow)) {
	told, begun := make(map[identity]bool), make(map[identity]bool)
	for i := range queued {
		id := identityOf(&queued[i].Flow)
		told[id] = true
		begun[id] = begun[id] || queued[i].Kind == New
	}
	seen := make(map[identity]bool, len(flows))
	for _, flow := range flows {
		id := identityOf(&flow)
		if seen[id] {
			continue // a table that is resized meanwhile shows a flow twice
		}
		seen[id] = true
		known := w.known[id]
		switch {
		case known == nil && begun[id]:
			continue
		case known == nil:
			emit(Existing, flow)
		case resync && !told[id] && (known.Status != flow.Status || known.TCPState != flow.TCPState):
			emit(Update, flow)
		}
		w.known[id] = &flow
	}
	if !resync {
		return
	}
	for id, flow := range w.known {
		if !seen[id] && !told[id] {
			delete(w.known, id)
			emit(Destroy, *flow)
		}
	}
}

// Stats may be called at any time, also after Close.
func (w *Watcher) Stats() Stats {
	socket := w.socket.Stats()
	return Stats{Received: socket.Received, Overruns: socket.Overruns, Undecodable: w.undecodable.Load()}
}

// Close ends listening and wakes Run. It may be called twice.
func (w *Watcher) Close() error { return w.socket.Close() }
