package flows

import (
	"context"
	"math"
)

// head is the next packet of a capture.
type head struct {
	chunk *chunk
	at    int
	clock *Clock
}

// walk visits the packets of all captures in the order of their times on the
// reference clock, which is then that of their items. It calls prepare for each
// chunk before.
func walk(ctx context.Context, src *source, clocks []Clock, prepare func(capture int, c *chunk), visit func(capture int, c *chunk, at int)) error {
	heads := make([]head, len(src.streams))
	for i := range heads {
		if clocks != nil {
			heads[i].clock = &clocks[i]
		}
		if err := advance(ctx, src, heads, i, prepare); err != nil {
			return err
		}
	}
	for {
		next := -1
		for i := range heads {
			if heads[i].chunk != nil && (next < 0 || heads[i].time() < heads[next].time()) {
				next = i
			}
		}
		if next < 0 {
			return nil
		}
		h := &heads[next]
		// With one capture left, or the others far behind, a chunk is read through.
		for end := until(heads, next); h.at < len(h.chunk.items) && h.chunk.items[h.at].time <= end; h.at++ {
			visit(next, h.chunk, h.at)
		}
		if h.at == len(h.chunk.items) {
			if err := advance(ctx, src, heads, next, prepare); err != nil {
				return err
			}
		}
	}
}

// until is the time up to which the packets of one capture are before those of
// the others.
func until(heads []head, next int) int64 {
	end := int64(math.MaxInt64)
	for i := range heads {
		if i != next && heads[i].chunk != nil {
			end = min(end, heads[i].time())
		}
	}
	return end
}

func (h *head) time() int64 { return h.chunk.items[h.at].time }

// advance takes the next chunk of a capture.
func advance(ctx context.Context, src *source, heads []head, i int, prepare func(capture int, c *chunk)) error {
	h := &heads[i]
	if h.chunk != nil {
		src.done(h.chunk)
	}
	var err error
	h.at = 0
	if h.chunk, err = src.next(ctx, i); err != nil || h.chunk == nil {
		return err
	}
	if h.clock != nil {
		for k := range h.chunk.items {
			h.chunk.items[k].time = h.clock.OnReference(h.chunk.items[k].time)
		}
	}
	prepare(i, h.chunk)
	return nil
}
