package flows

import "github.com/pathtrace/pathtrace/packet"

// sightings are packets that were counted, on their way to be recognised.
type sightings struct {
	packets []seen
	// begun are the tracks that are new, in the order of their indexes.
	begun []begun
	// done is closed when the batch was taken; nil for most.
	done chan struct{}
}

// begun is a new track.
type begun struct {
	key   packet.Key
	place int32
}

// handover hands packets to a recogniser on another processor.
type handover struct {
	to    *recogniser
	full  chan *sightings
	empty chan *sightings
	now   *sightings
	ended chan struct{}
}

// handoverSightings is how many packets are handed over at a time, handoverAhead
// how many batches there are.
const (
	handoverSightings = 2048
	handoverAhead     = 4
)

func newHandover(to *recogniser) *handover {
	h := &handover{to: to, full: make(chan *sightings, handoverAhead), empty: make(chan *sightings, handoverAhead), ended: make(chan struct{})}
	for range handoverAhead {
		h.empty <- &sightings{packets: make([]seen, 0, handoverSightings)}
	}
	h.now = <-h.empty
	go func() {
		defer close(h.ended)
		for s := range h.full {
			to.take(s)
			if s.done != nil {
				close(s.done)
			}
			s.packets, s.begun, s.done = s.packets[:0], s.begun[:0], nil
			h.empty <- s
		}
	}()
	return h
}

// begins hands over a new track.
func (h *handover) begins(key packet.Key, place int32) {
	h.now.begun = append(h.now.begun, begun{key, place})
}

// packet hands over a packet of a track.
func (h *handover) packet(i *item, track int32) {
	h.now.packets = append(h.now.packets, seen{
		mark: i.mark, time: i.time, track: track, body: i.body, ipid: i.ipid, bodyLength: i.bodyLength, bits: i.bits,
	})
	if len(h.now.packets) == handoverSightings {
		h.flush()
	}
}

func (h *handover) flush() {
	h.full <- h.now
	h.now = <-h.empty
}

// wait returns when everything that was handed over was taken.
func (h *handover) wait() {
	done := make(chan struct{})
	h.now.done = done
	h.flush()
	<-done
}

// close waits and ends the recogniser's goroutine.
func (h *handover) close() {
	h.wait()
	close(h.full)
	<-h.ended
}
