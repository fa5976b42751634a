// Package bpfring reads what BPF programs write to a ring buffer, counts what the
// ring had no room for, and closes all that belongs to it.
package bpfring

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Ring is a ring buffer and what its programs need. The zero value is one without
// anything in it, which can be closed.
type Ring struct {
	reader  *ringbuf.Reader
	counter *ebpf.Map
	closers []func() error // in the order of closing
	closed  sync.Once
	err     error // of closing
	lost    atomic.Uint64
}

// Map makes a map that is closed with the ring, after all that may use it.
func (r *Ring) Map(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(spec)
	if err == nil {
		r.closers = append(r.closers, m.Close)
	}
	return m, err
}

// Counter makes the map in whose only place, 8 bytes, the programs count the records
// that found no room.
func (r *Ring) Counter() (*ebpf.Map, error) {
	var err error
	r.counter, err = r.Map(&ebpf.MapSpec{Name: "pathtrace_lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	return r.counter, err
}

// Open maps the ring, to be read.
func (r *Ring) Open(ring *ebpf.Map) error {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return err
	}
	r.reader = reader
	r.CloseFirst(reader.Close)
	return nil
}

// CloseFirst has something closed before all that is there already.
func (r *Ring) CloseFirst(end func() error) { r.closers = slices.Insert(r.closers, 0, end) }

// Read emits records until ctx is done, then those that were written before, and
// returns nil. A record is valid until emit returns. After Close the error is
// os.ErrClosed. Only one goroutine at a time may call it.
func (r *Ring) Read(ctx context.Context, emit func(record []byte)) error {
	stop := context.AfterFunc(ctx, func() { _ = r.reader.Flush() }) // fails only when closed, which Read sees
	defer stop()
	var record ringbuf.Record
	for {
		err := r.reader.ReadInto(&record)
		switch {
		case errors.Is(err, ringbuf.ErrFlushed):
			return nil
		case errors.Is(err, os.ErrClosed):
			return os.ErrClosed
		case err != nil:
			return err
		}
		emit(record.RawSample)
	}
}

// Lost is how many records found no room. Once closed, it stays as it was.
func (r *Ring) Lost() uint64 {
	var lost uint64
	if r.counter != nil && r.counter.Lookup(uint32(0), &lost) == nil {
		r.lost.Store(lost)
	}
	return r.lost.Load()
}

// Close closes everything and wakes Read. It may be called twice.
func (r *Ring) Close() error {
	r.closed.Do(func() {
		r.Lost()
		for _, end := range r.closers {
			r.err = errors.Join(r.err, end())
		}
	})
	return r.err
}

// WallClock converts a time of CLOCK_MONOTONIC, which programs have, to one of
// CLOCK_REALTIME, which packet captures have. It reads both clocks, three times, and
// takes the pair that is closest together.
func WallClock(monotonic time.Duration) time.Time {
	read := func(clock int32) time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(clock, &t) // these two clocks always exist
		return time.Duration(t.Nano())
	}
	closest, distance := time.Duration(math.MaxInt64), time.Duration(0)
	for range 3 {
		before := read(unix.CLOCK_MONOTONIC)
		wall := read(unix.CLOCK_REALTIME)
		if took := read(unix.CLOCK_MONOTONIC) - before; took < closest {
			closest, distance = took, wall-before-took/2
		}
	}
	return time.Unix(0, int64(monotonic+distance))
}
