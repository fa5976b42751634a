package flows

import (
	"cmp"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// segment is a TCP segment or, with other protocols, what corresponds to it.
type segment struct {
	from, to string // "address:port"
	proto    packet.Proto
	flags    packet.TCPFlags
	seq, ack uint32
	data     int
	ttl      uint8
	id       uint16
}

// answer is what goes the other way.
func (s segment) answer(flags packet.TCPFlags, seq, ack uint32, data int) segment {
	s.from, s.to, s.flags, s.seq, s.ack, s.data, s.id = s.to, s.from, flags, seq, ack, data, s.id+1000
	return s
}

// bytes are the IPv4 packet. The payload follows from seq.
func (s segment) bytes() []byte {
	src, dst := netip.MustParseAddrPort(s.from), netip.MustParseAddrPort(s.to)
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, s.ttl, byte(s.proto)
	binary.BigEndian.PutUint16(b[4:], s.id)
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	if s.proto == packet.TCP {
		b = binary.BigEndian.AppendUint32(b, s.seq)
		b = binary.BigEndian.AppendUint32(b, s.ack)
		b = append(b, 5<<4, byte(s.flags), 1, 0, 0, 0, 0, 0)
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(8+s.data))
		b = append(b, 0, 0)
	}
	for k := range s.data {
		b = append(b, byte(s.seq>>(8*(k%4)))^byte(k*7))
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// sent is a segment at an interface of a capture, so many milliseconds after the
// beginning.
type sent struct {
	capture, iface int
	at             int64
	segment
}

// captured are captures of what was sent, by time, with the interfaces that were
// used.
func captured(all ...sent) []Capture {
	slices.SortStableFunc(all, func(a, b sent) int { return cmp.Compare(a.at, b.at) })
	var captures []Capture
	for index := range 8 {
		var records []capture.Record
		var interfaces []capture.FileInterface
		for _, s := range all {
			if s.capture != index {
				continue
			}
			for len(interfaces) <= s.iface {
				interfaces = append(interfaces, capture.FileInterface{Name: string(rune('a' + len(interfaces))), Link: packet.LinkRaw})
			}
			data := s.bytes()
			records = append(records, capture.Record{
				Data: data, Time: 1_700_000_000_000_000_000 + s.at*1_000_000, HasTime: true, Length: uint32(len(data)),
				Interface: int32(s.iface), Link: packet.LinkRaw, Offset: int64(len(records)),
			})
		}
		if records == nil {
			break
		}
		captures = append(captures, Capture{
			Name: string(rune('A' + index)),
			Open: func() (Reader, error) { return &kept{records: records, interfaces: interfaces}, nil },
			Point: func(index int, of capture.FileInterface) capture.Point {
				return capture.Point{Interface: of.Name, Index: index}
			},
		})
	}
	return captures
}

// kept is a capture that is in no file.
type kept struct {
	records    []capture.Record
	interfaces []capture.FileInterface
}

func (m *kept) Interfaces() []capture.FileInterface { return m.interfaces }
func (m *kept) Close() error                        { return nil }

func (m *kept) Next(b *capture.Batch) error {
	if len(m.records) == 0 {
		return io.EOF
	}
	n := min(len(m.records), capture.BatchRecords)
	b.Records = append(b.Records[:0], m.records[:n]...)
	m.records = m.records[n:]
	return nil
}

// joined is what a join makes of captures, several by their clocks.
func joined(t *testing.T, all ...sent) *Result {
	t.Helper()
	captures := captured(all...)
	var clocks []Clock
	var err error
	if len(captures) > 1 {
		if clocks, err = Measure(t.Context(), captures, nil); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Join(t.Context(), captures, Config{Clocks: clocks})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// at are the segments at an interface, a millisecond apart.
func at(iface int, from int64, all ...segment) (seen []sent) {
	for i, s := range all {
		seen = append(seen, sent{iface: iface, at: from + int64(i), segment: s})
	}
	return seen
}

// datagrams are n that differ.
func datagrams(n int, from, to string, ttl uint8) (all []segment) {
	for i := range n {
		all = append(all, segment{from: from, to: to, proto: packet.UDP, seq: uint32(i) * 77_777, data: 32, ttl: ttl, id: uint16(i + 1)})
	}
	return all
}

// connection is a TCP segment for each part of a connection's data, by its number.
func connection(ttl uint8, parts ...uint32) (all []segment) {
	for i, n := range parts {
		all = append(all, segment{
			from: "10.0.0.1:40000", to: "192.0.2.7:80", proto: packet.TCP, flags: packet.ACK | packet.PSH, seq: 1000 + 100*n, ack: 1, data: 100,
			ttl: ttl, id: uint16(n+1) + uint16(100*repeats(parts[:i], n)),
		})
	}
	return all
}

func repeats(parts []uint32, n uint32) (times int) {
	for _, p := range parts {
		if p == n {
			times++
		}
	}
	return times
}

// without leaves out one of some segments.
func without(i int, all []segment) []segment { return slices.Delete(all, i, i+1) }

// cut makes two of one segment.
func cut(all []segment, i int) []segment {
	first, second := all[i], all[i]
	first.data /= 2
	second.seq, second.data = second.seq+uint32(first.data), second.data-first.data
	second.id += 500
	return slices.Replace(all, i, i+1, first, second)
}

// TestFall: what a later place saw did not go missing, nor what others saw beside
// it, nor what came in another order. As much is not the
// same.
func TestFall(t *testing.T) {
	t.Parallel()
	const from, to = "10.0.0.1:4000", "192.0.2.7:5000"
	tests := map[string]struct {
		seen []sent
		want *Fall
	}{
		"lost": {
			slices.Concat(at(0, 0, datagrams(6, from, to, 64)...), at(1, 1, datagrams(4, from, to, 63)...)),
			&Fall{From: 0, To: 1, Packets: 2},
		},
		"a place that not all pass": {
			slices.Concat(at(0, 0, datagrams(6, from, to, 64)...), at(1, 1, datagrams(2, from, to, 63)...), at(2, 2, datagrams(6, from, to, 62)...)),
			nil,
		},
		"a place that not all pass, and lost behind it": {
			slices.Concat(at(0, 0, datagrams(6, from, to, 64)...), at(1, 1, datagrams(2, from, to, 63)...), at(2, 2, datagrams(5, from, to, 62)...)),
			&Fall{From: 0, To: 2, Packets: 1},
		},
		"two ways": {
			slices.Concat(at(0, 0, datagrams(6, from, to, 64)...), at(1, 1, datagrams(6, from, to, 63)[:3]...), at(2, 4, datagrams(6, from, to, 63)[3:]...)),
			nil,
		},
		"another order": {
			slices.Concat(at(0, 0, connection(64, 0, 1, 2, 3, 4, 5)...), at(1, 1, connection(63, 0, 1, 3, 2, 4, 5)...)),
			nil,
		},
		"lost and sent again": {
			slices.Concat(at(0, 0, connection(64, 0, 1, 2, 3, 1, 4)...), at(1, 1, connection(63, 0, 2, 3, 1, 4)...)),
			&Fall{From: 0, To: 1, Bytes: 100},
		},
		"lost for good": {
			slices.Concat(at(0, 0, connection(64, 0, 1, 2, 3)...), at(1, 1, connection(63, 0, 1, 2)...)),
			&Fall{From: 0, To: 1, Bytes: 100},
		},
		"one at each place": {
			slices.Concat(at(0, 0, without(2, datagrams(6, from, to, 64))...), at(1, 1, without(4, datagrams(6, from, to, 63))...)),
			&Fall{From: 0, To: 1, Packets: 1, Least: true},
		},
		"two behind and one before": {
			slices.Concat(at(0, 0, without(2, datagrams(6, from, to, 64))...), at(1, 1, datagrams(6, from, to, 63)[:4]...)),
			&Fall{From: 0, To: 1, Packets: 1, Least: true},
		},
		"a segment at each place": {
			slices.Concat(at(0, 0, connection(64, 0, 1, 2, 4)...), at(1, 1, connection(63, 0, 1, 3, 4)...)),
			&Fall{From: 0, To: 1, Packets: 1, Least: true},
		},
		"cut anew": {
			slices.Concat(at(0, 0, connection(64, 0, 1, 2, 3)...), at(1, 1, cut(connection(63, 0, 1, 2, 3), 2)...)),
			nil,
		},
		"cut anew, and a segment at each place": {
			slices.Concat(at(0, 0, connection(64, 0, 1, 2, 4)...), at(1, 1, cut(connection(63, 0, 1, 3, 4), 1)...)),
			&Fall{From: 0, To: 1, Packets: 1, Least: true},
		},
	}
	for name, tt := range tests {
		r := joined(t, tt.seen...)
		if len(r.Flows) != 1 {
			t.Errorf("%s: %d flows\n%s", name, len(r.Flows), describe(r))
			continue
		}
		got := r.Flows[0].Fall
		if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%s: fall %+v, want %+v\n%s", name, got, tt.want, describe(r))
		}
	}
}

// TestBegun: who began a connection is told by its SYN, or by the port of a
// service, and not by what was seen first. What a reset ends had begun or had
// not.
func TestBegun(t *testing.T) {
	t.Parallel()
	ask := segment{from: "10.0.0.1:40000", to: "192.0.2.7:80", proto: packet.TCP, flags: packet.SYN, seq: 1000, ttl: 64, id: 1}
	high := ask
	high.to = "192.0.2.7:8080"
	data := ask
	data.flags, data.seq, data.ack, data.data, data.id = packet.ACK|packet.PSH, 1001, 501, 100, 2
	tests := map[string]struct {
		seen    []segment
		request string
		want    Outcome
	}{
		"SYN first":            {[]segment{ask, ask.answer(packet.SYN|packet.ACK, 500, 1001, 0)}, ask.from, Replied},
		"its answer first":     {[]segment{high.answer(packet.SYN|packet.ACK, 500, 1001, 0), high}, ask.from, Replied},
		"the service first":    {[]segment{data.answer(packet.ACK, 501, 1001, 10), data}, ask.from, Replied},
		"the service alone":    {[]segment{data.answer(packet.ACK, 501, 1001, 10)}, ask.to, Inconclusive},
		"refused":              {[]segment{ask, ask.answer(packet.RST|packet.ACK, 0, 1001, 0)}, ask.from, Rejected},
		"of no connection":     {[]segment{data, data.answer(packet.RST, 501, 0, 0)}, ask.from, Rejected},
		"reset after the data": {[]segment{data, data.answer(packet.ACK, 501, 1101, 0), data.answer(packet.RST|packet.ACK, 501, 1101, 0)}, ask.from, Replied},
	}
	for name, tt := range tests {
		r := joined(t, at(0, 0, tt.seen...)...)
		if len(r.Flows) != 1 || r.Flows[0].Request.Tuple().Source() != tt.request || r.Flows[0].Outcome != tt.want {
			t.Errorf("%s: want %s from %s\n%s", name, tt.want, tt.request, describe(r))
		}
	}
}

// TestWaited: no answer was lost that the capture is too short for.
func TestWaited(t *testing.T) {
	t.Parallel()
	ask := segment{from: "10.0.0.1:40000", to: "192.0.2.7:80", proto: packet.TCP, flags: packet.SYN, seq: 1000, ttl: 64, id: 1}
	other := ask
	other.from, other.seq, other.id = "10.0.0.1:40001", 5000, 2
	answered := []sent{{at: 0, segment: other}, {at: 30, segment: other.answer(packet.SYN|packet.ACK, 9000, 5001, 0)}}
	last := other
	last.flags, last.seq, last.ack, last.id = packet.ACK, 5001, 9001, 3
	tests := map[string]struct {
		asked, ends int64
		want        Outcome
	}{
		"long enough":             {100, 200, Lost},
		"ends too soon":           {100, 110, Inconclusive},
		"in the middle":           {10, 200, Lost},
		"is the very last packet": {100, 100, Inconclusive},
	}
	for name, tt := range tests {
		seen := append(slices.Clone(answered), sent{at: tt.ends, segment: last}, sent{at: tt.asked, segment: ask})
		r := joined(t, seen...)
		i := slices.IndexFunc(r.Flows, func(f Flow) bool { return f.Request.SrcPort == 40000 })
		if i < 0 || r.Flows[i].Outcome != tt.want || r.Flows[i].Waited != (tt.ends-tt.asked)*1_000_000 {
			t.Errorf("%s: want %s\n%s", name, tt.want, describe(r))
		}
	}
	for patience, want := range map[time.Duration]Outcome{0: Lost, 99 * time.Millisecond: Lost, Patience: Inconclusive} {
		alone, err := Join(t.Context(), captured(sent{segment: ask}, sent{at: 100, segment: ask}), Config{Patience: patience})
		if err != nil {
			t.Fatal(err)
		}
		if alone.Flows[0].Outcome != want {
			t.Errorf("without anything to compare it with, after %s: want %s\n%s", patience, want, describe(alone))
		}
	}
}

// TestEndedBefore: an answer did not get lost on the way to a capture that had
// ended when it was seen elsewhere.
func TestEndedBefore(t *testing.T) {
	t.Parallel()
	ask := segment{from: "10.0.0.1:40000", to: "192.0.2.7:80", proto: packet.TCP, flags: packet.SYN, seq: 1000, ttl: 64, id: 1}
	there := ask
	there.ttl--
	answer := there.answer(packet.SYN|packet.ACK, 500, 1001, 0)
	seen := []sent{{at: 10, segment: ask}, {capture: 1, at: 11, segment: there}, {capture: 1, at: 40, segment: answer}}
	for name, tt := range map[string]struct {
		ends int64
		want Outcome
	}{"ended": {20, Inconclusive}, "ran": {60, Lost}} {
		later := ask
		later.from, later.seq, later.id, later.proto, later.data = "10.0.0.1:41000", 7, 9, packet.UDP, 20
		r := joined(t, append(slices.Clone(seen), sent{at: tt.ends, segment: later})...)
		i := slices.IndexFunc(r.Flows, func(f Flow) bool { return f.Request.SrcPort == 40000 })
		if i < 0 || r.Flows[i].Outcome != tt.want || len(r.Flows[i].Out) != 2 {
			t.Errorf("%s: want %s\n%s", name, tt.want, describe(r))
		}
	}
}

// TestMissing: a place did not miss what passed before its capture began, or
// after it had ended.
func TestMissing(t *testing.T) {
	t.Parallel()
	const to = "192.0.2.7:5000"
	early, both, late := datagrams(1, "10.0.0.1:4000", to, 64)[0], datagrams(8, "10.0.0.1:4001", to, 64), datagrams(1, "10.0.0.1:4002", to, 64)[0]
	between := datagrams(1, "10.0.0.1:4003", to, 64)[0]
	early.seq, late.seq, between.seq = 1, 2, 3
	seen := []sent{{at: 0, segment: early}, {at: 105, segment: between}, {at: 300, segment: late}}
	for i, s := range both {
		seen = append(seen, sent{at: 100 + int64(i)*2, segment: s}, sent{capture: 1, at: 101 + int64(i)*2, segment: s})
	}
	r := joined(t, seen...)
	for i := range r.Flows {
		f := &r.Flows[i]
		if missing, want := len(f.Missing) > 0, f.Request.SrcPort == 4003; missing != want {
			t.Errorf("%s is missing at %v, want %v\n%s", f.Request.Tuple(), f.Missing, want, describe(r))
		}
	}
	if len(r.Flows) != 4 {
		t.Errorf("%d flows\n%s", len(r.Flows), describe(r))
	}
}

// TestCopies: packets with the ids of others are these once more, also when they
// come after several of them, and a sender that repeats itself gives new ids.
func TestCopies(t *testing.T) {
	t.Parallel()
	burst := connection(64, 0, 1, 2)
	again := connection(64, 0, 1, 2, 0, 1, 2)
	for name, tt := range map[string]struct {
		seen                      []segment
		packets, copies, repeated uint64
	}{
		"one by one":          {[]segment{burst[0], burst[0], burst[1], burst[1]}, 2, 2, 0},
		"all, and all copies": {slices.Concat(burst, burst), 3, 3, 0},
		"sent again":          {again, 6, 0, 3},
	} {
		r := joined(t, at(0, 0, tt.seen...)...)
		if s := &r.Flows[0].Out[0]; len(r.Flows) != 1 || s.Packets != tt.packets || s.Copies != tt.copies || s.Repeated != tt.repeated {
			t.Errorf("%s: want %d packets, %d copies, %d repeated\n%s", name, tt.packets, tt.copies, tt.repeated, describe(r))
		}
	}
}
