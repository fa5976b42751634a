//go:build linux

package live

import (
	"context"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/probe"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	// MaxPayload is the most that a datagram holds without being fragmented on a
	// link as narrow as IPv6 allows (RFC 8200): 1280 bytes, less both headers.
	MaxPayload = 1232
	// MaxSendBytes bounds Config.SendBytes: each segment is kept as often as it
	// is seen.
	MaxSendBytes = 1 << 18
	// trailer is the size of the small segment that follows the first one when
	// that is not acknowledged within grace. The kernel repeats the first one after
	// 200 ms (TCP_RTO_MIN), and then sends nothing behind it.
	trailer = 16
	grace   = 50 * time.Millisecond
	// tracedBytes is how many bytes of data the trace is given a packet for: with
	// its acknowledgement, in the smallest segments that are usual.
	tracedBytes = 256
)

// sendData sends data over the connection of a try. The first segment is full
// and alone in its packet, as segmentation offload would not have it. When it is
// not acknowledged soon, a small one follows, so that the far end says whether
// small ones pass: not at once, since what receives may put the two into one. The
// rest follows when the first was acknowledged. When all is not in the end, the
// try is about the first byte that is missing.
func (r *run) sendData(ctx context.Context, tcp *probe.TCP, t *evidence.Try) {
	deadline, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	t.Data = &diagnose.Data{Bytes: r.cfg.SendBytes}
	syn := &r.join(t.Probe).Request.First.Header
	size, err := tcp.Established(deadline)
	if err != nil {
		refuse(t, err)
		return
	}
	first := min(size, r.cfg.SendBytes)
	send := func(length int) {
		if length > 0 && err == nil {
			if err = tcp.Send(deadline, length); err == nil {
				t.Data.Sent += length
			}
		}
	}
	send(first)
	soon, stop := context.WithTimeout(deadline, grace) // from now on: a busy host may take as long to send
	defer stop()
	if small := min(trailer, r.cfg.SendBytes-t.Data.Sent); err == nil && small > 0 && !tcp.Acknowledged(soon) && tcp.Send(deadline, small) == nil {
		t.Data.Sent += small
	}
	r.awaitAll(ctx, deadline, t, syn, first)
	if t.Data.Acked == t.Data.Sent {
		send(r.cfg.SendBytes - t.Data.Sent)
		r.awaitAll(ctx, deadline, t, syn, first)
	}
	refuse(t, err)
	t.Data.Full = t.Data.Acked >= first
	if t.Data.Acked < t.Data.Bytes && !t.Data.Ended {
		t.Probe.Segment = r.missing(t.Probe.NetNS, syn, syn.Seq+1+uint32(t.Data.Acked), first)
		if err := tcp.Abort(); err != nil {
			r.cfg.Log("abort the connection: %v", err)
		}
	}
}

// awaitAll waits until all that was sent is acknowledged, the far end has ended
// the connection, or it is known why the first segment is not acknowledged.
func (r *run) awaitAll(ctx, deadline context.Context, t *evidence.Try, syn *packet.Header, first int) {
	whole := t.Probe
	whole.Segment = &path.Segment{Seq: syn.Seq + 1, Length: first}
	if t.Data.Acked == 0 {
		r.await(ctx, deadline, whole)
	}
	for {
		t.Data.Acked, t.Data.Ended = r.acknowledged(t.Probe.NetNS, syn, t.Data.Sent)
		if t.Data.Acked >= t.Data.Sent || t.Data.Ended || t.Data.Acked < first && r.progress(ctx, whole) != open {
			return
		}
		select {
		case <-r.seen.changed:
		case <-deadline.Done():
			return
		}
	}
}

// acknowledged is how much of the data the far end acknowledged, as it was seen
// at the source, and whether it ended the connection after that.
func (r *run) acknowledged(netns string, syn *packet.Header, sent int) (bytes int, ended bool) {
	start := syn.Seq + 1
	for _, s := range r.seen.input().Sightings {
		h := &s.Header
		if s.Point.NetNS != netns || s.Direction != capture.Ingress || h.Tuple != syn.Tuple.Inverse() {
			continue
		}
		if h.Flags.Has(packet.ACK) && path.Reaches(h.Ack, start) {
			bytes = max(bytes, min(int(h.Ack-start), sent))
		}
		ended = ended || h.Flags&(packet.FIN|packet.RST) != 0
	}
	return bytes, ended && bytes > 0
}

// missing is the segment that begins at a sequence number, full when none was
// seen. Segmentation offload may have put many into the first frame that held
// it, and after an ICMP error the kernel sends smaller ones; so the smallest is
// the one that can be followed, and that may have been expected to arrive.
func (r *run) missing(netns string, syn *packet.Header, seq uint32, full int) *path.Segment {
	segment := &path.Segment{Seq: seq, Length: full}
	var lengths []int
	for _, s := range r.seen.input().Sightings {
		h := &s.Header
		if s.Point.NetNS == netns && s.Direction == capture.Egress && h.Tuple == syn.Tuple && h.Seq == seq && h.DataLength > 0 {
			lengths = append(lengths, h.DataLength)
		}
	}
	if len(lengths) > 0 {
		segment.Length = slices.Min(lengths)
	}
	return segment
}
