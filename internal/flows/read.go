package flows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// chunk is a batch of records on its way from the reader through a decoder to
// the join.
type chunk struct {
	batch      capture.Batch
	items      []item
	rare       []rare
	interfaces []capture.FileInterface // those that were known behind it
	err        error                   // io.EOF or why reading ended
	ready      chan struct{}
}

// stream reads one capture in the background.
type stream struct {
	name    string
	ordered chan *chunk
}

// source reads captures: one goroutine for each carves out records, as many as
// there are processors decode them, and whoever asks gets them in the order of
// the file.
type source struct {
	streams []*stream
	pool    sync.Pool
	work    chan *chunk
	stop    context.CancelFunc
	running sync.WaitGroup
}

// lastWords is how long a reader that may be stuck has to hand on what it has read
// when the context ends.
const lastWords = time.Second

// ahead is how many chunks of one capture may wait for the join.
const ahead = 4

// open begins to read all captures. close must be called.
func open(ctx context.Context, captures []Capture) (*source, error) {
	unread, stop := context.WithCancel(context.WithoutCancel(ctx)) // done when nobody takes what is read
	s := &source{work: make(chan *chunk, ahead), stop: stop}
	s.pool.New = func() any { return &chunk{} }
	var readers []Reader
	for _, c := range captures {
		r, err := c.Open()
		if err != nil {
			stop()
			for _, r := range readers {
				err = errors.Join(err, r.Close())
			}
			return nil, err
		}
		readers = append(readers, r)
		s.streams = append(s.streams, &stream{name: c.Name, ordered: make(chan *chunk, ahead)})
	}
	var reading sync.WaitGroup
	for i, r := range readers {
		reading.Go(func() { s.read(ctx, unread, r, s.streams[i]) })
	}
	for range runtime.GOMAXPROCS(0) {
		s.running.Go(func() { s.decode() })
	}
	s.running.Go(func() {
		reading.Wait()
		close(s.work)
	})
	return s, nil
}

// read hands on what it reads, also what it was reading when ctx ended.
func (s *source) read(ctx, unread context.Context, r Reader, to *stream) {
	defer close(to.ordered)
	defer r.Close() //nolint:errcheck // it was only read
	for {
		c := s.pool.Get().(*chunk)
		c.ready = make(chan struct{})
		c.err = r.Next(&c.batch)
		if c.err != nil {
			c.batch.Records = c.batch.Records[:0]
		}
		c.interfaces = r.Interfaces()
		failed := c.err != nil // c is the decoder's from here on
		select {
		case s.work <- c:
		case <-unread.Done():
			return
		}
		select {
		case to.ordered <- c:
		case <-unread.Done():
			return
		}
		if failed || ctx.Err() != nil {
			return
		}
	}
}

func (s *source) decode() {
	var b packet.Brief
	for c := range s.work {
		c.items, c.rare = c.items[:0], c.rare[:0]
		for i := range c.batch.Records {
			r := &c.batch.Records[i]
			packet.Scan(r.Link, r.Data, int(r.Length), &b)
			c.items = append(c.items, c.brief(r, &b))
		}
		close(c.ready)
	}
}

// next is the next chunk of a capture, decoded; nil when it has ended.
func (s *source) next(ctx context.Context, i int) (*chunk, error) {
	for {
		var c *chunk
		var ok bool
		select {
		case c, ok = <-s.streams[i].ordered:
		case <-ctx.Done():
			select {
			case c, ok = <-s.streams[i].ordered:
			case <-time.After(lastWords):
				return nil, ctx.Err()
			}
		}
		if !ok {
			return nil, ctx.Err() // readers end early, too, when it is done
		}
		<-c.ready
		switch {
		case errors.Is(c.err, io.EOF):
			return nil, nil
		case c.err != nil:
			return nil, fmt.Errorf("read %s: %w", s.streams[i].name, c.err)
		case len(c.items) > 0:
			return c, nil
		}
		s.done(c)
	}
}

// done gives a chunk back.
func (s *source) done(c *chunk) { s.pool.Put(c) }

// close ends reading and waits for it.
func (s *source) close() {
	s.stop()
	for _, st := range s.streams {
		for range st.ordered { // until its reader has ended
		}
	}
	s.running.Wait()
}
