package offline

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// hitCapture makes a capture of a trace of rules, for when there is no other: the
// first rule that a packet met behind the interface by which it came in, and the
// last before the one by which it went out, say that it was there. What leaves an
// interface is seen before it is translated.
func hitCapture(logs *Logs) flows.Capture {
	return flows.Capture{
		Name: logs.trace,
		Open: func() (flows.Reader, error) { return &hitReader{logs: logs, index: make(map[string]int32)}, nil },
		Point: func(_ int, of capture.FileInterface) capture.Point {
			return capture.Point{Interface: of.Name}
		},
	}
}

// hitReader delivers the packets of a trace.
type hitReader struct {
	logs       *Logs
	next       int
	interfaces []capture.FileInterface
	index      map[string]int32
	last       []packet.Header // what was delivered last at each interface
}

// Interfaces is as of a file.
func (r *hitReader) Interfaces() []capture.FileInterface { return slices.Clip(r.interfaces) }

// Close does nothing.
func (r *hitReader) Close() error { return nil }

// Next delivers what the next hits show.
func (r *hitReader) Next(b *capture.Batch) error {
	b.Records = b.Records[:0]
	for ; r.next < len(r.logs.Hits) && len(b.Records) < capture.BatchRecords-4; r.next++ {
		h := &r.logs.Hits[r.next]
		for n, name := range shown(h) {
			r.add(b, h, name, int64(n))
		}
	}
	if len(b.Records) == 0 {
		return io.EOF
	}
	return nil
}

// shown are the interfaces at which a hit shows its packet, in the order of its
// way. A packet that a bridge passes on shows at its ports.
func shown(h *ruletrace.Hit) []string {
	var names []string
	switch h.Hook {
	case ruletrace.Prerouting, ruletrace.Input:
		names = []string{h.Ingress}
	case ruletrace.Forward:
		if h.Ingress == h.Egress {
			names = []string{h.BridgePort, h.BridgeOutPort}
		}
	case ruletrace.Output, ruletrace.Postrouting:
		names = []string{h.Egress}
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// placed says how much of a trace that is taken for a capture, which gave so many
// packets, is of no use because the hook is not known; the error is that all is.
func (l *Logs) placed(packets uint64) error {
	hookless := 0
	for i := range l.Hits {
		if l.Hits[i].Hook == "" {
			hookless++
		}
	}
	const advice = `add --rules with what "nft -a list ruleset" prints on that host`
	switch {
	case packets == 0 && hookless > 0:
		return fmt.Errorf("no line of the trace in %s tells where a packet was, because nft names no hooks: %s", l.trace, advice)
	case packets == 0:
		return fmt.Errorf("no line of the trace in %s tells at which interface a packet was: trace from prerouting or output on", l.trace)
	case hookless > 0 && l.Rules == nil:
		l.note("Of %d of %d rules of the trace it is not known where the packet was, because nft names no hooks: %s.", hookless, len(l.Hits), advice)
	}
	return nil
}

// add delivers a hit's packet at an interface, later by some nanoseconds where the
// same hit shows it at one before.
func (r *hitReader) add(b *capture.Batch, h *ruletrace.Hit, name string, later int64) {
	data := rawPacket(&h.Header)
	if data == nil {
		return
	}
	at, ok := r.index[name]
	if !ok {
		at = int32(len(r.interfaces))
		r.index[name] = at
		r.interfaces = append(r.interfaces, capture.FileInterface{Name: name, Link: packet.LinkRaw})
		r.last = append(r.last, packet.Header{})
	} else if r.last[at].Tuple == h.Header.Tuple && r.last[at].TTL == h.Header.TTL && r.last[at].Compare(&h.Header) == packet.Same {
		return // another rule of the same hook
	}
	r.last[at] = h.Header
	b.Records = append(b.Records, capture.Record{
		Data: data, Time: r.logs.timeOf(h) + later, HasTime: true, Length: uint32(len(data)), Interface: at, Link: packet.LinkRaw, Offset: int64(h.Seq),
	})
}

// timeOf places a hit in time: by the clock of the log or, where it has none, by
// the order of its lines.
func (l *Logs) timeOf(h *ruletrace.Hit) int64 {
	switch l.Clock {
	case ruletrace.WallClock:
		return h.Time.UnixNano()
	case ruletrace.BootClock:
		return h.Uptime.Nanoseconds()
	}
	return int64(h.Seq) * 1000
}

// timeless reports whether the times of a trace that is taken for a capture are
// none of the day's.
func (l *Logs) timeless() bool { return l.alone && l.Clock != ruletrace.WallClock }

// rawPacket is an IP packet that has what a header tells and no data; nil for
// what a trace does not tell enough of.
func rawPacket(h *packet.Header) []byte {
	if h.Tuple.Proto == 0 || h.PayloadLength == 0 || h.IsICMPError() || !h.Tuple.Src.IsValid() || !h.Tuple.Dst.IsValid() {
		return nil
	}
	var b []byte
	if h.Version == 6 {
		b = make([]byte, 40)
		b[0], b[6], b[7] = 0x60, byte(h.Tuple.Proto), h.TTL
		binary.BigEndian.PutUint16(b[4:], uint16(h.PayloadLength))
		copy(b[8:], h.Tuple.Src.AsSlice())
		copy(b[24:], h.Tuple.Dst.AsSlice())
	} else {
		b = make([]byte, 20)
		b[0], b[8], b[9] = 0x45, h.TTL, byte(h.Tuple.Proto)
		binary.BigEndian.PutUint16(b[2:], uint16(20+h.PayloadLength))
		binary.BigEndian.PutUint16(b[4:], uint16(h.IPID))
		binary.BigEndian.PutUint16(b[6:], uint16(h.FragmentOffset/8))
		if h.MoreFragments {
			b[6] |= 0x20
		}
		copy(b[12:], h.Tuple.Src.AsSlice())
		copy(b[16:], h.Tuple.Dst.AsSlice())
	}
	if h.FragmentOffset > 0 {
		return b
	}
	switch h.Tuple.Proto {
	case packet.TCP:
		b = binary.BigEndian.AppendUint16(b, h.Tuple.SrcPort)
		b = binary.BigEndian.AppendUint16(b, h.Tuple.DstPort)
		b = binary.BigEndian.AppendUint32(b, h.Seq)
		b = binary.BigEndian.AppendUint32(b, h.Ack)
		words := byte(max(5, min(15, (h.PayloadLength-h.DataLength)/4)))
		b = append(b, words<<4, byte(h.Flags))
		b = binary.BigEndian.AppendUint16(b, h.Window)
		b = append(b, make([]byte, int(words)*4-16)...)
	case packet.UDP:
		b = binary.BigEndian.AppendUint16(b, h.Tuple.SrcPort)
		b = binary.BigEndian.AppendUint16(b, h.Tuple.DstPort)
		b = binary.BigEndian.AppendUint16(b, uint16(h.PayloadLength))
		b = append(b, 0, 0)
	case packet.ICMP, packet.ICMPv6:
		b = append(b, h.Tuple.ICMPType, h.Tuple.ICMPCode, 0, 0)
		b = binary.BigEndian.AppendUint16(b, h.Tuple.ICMPID)
		b = binary.BigEndian.AppendUint16(b, h.ICMPSeq)
	}
	return b
}
