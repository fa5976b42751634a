package synth

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/pathtrace/pathtrace/packet"
)

// maker makes a scene.
type maker struct {
	cfg   Config
	rand  *rand.Rand
	scene *Scene
	last  uint64 // number of the last packet
}

// ways are one direction of a flow at the two points.
type way struct {
	at    [Points]frame // addresses, ports and TTL
	point [Points]int   // where the two sightings are
}

// exchange is a flow that is being made.
type exchange struct {
	*maker
	index     int
	kind      Kind
	out, back way
	now       int64
	alike     bool
	offload   bool
	noID      bool
	ids       [2]uint16
}

func (m *maker) flow(index int) {
	x := &exchange{maker: m, index: index, now: start + m.rand.Int64N(m.cfg.Span)}
	v6 := m.rand.IntN(3) == 0
	x.kind = Kind(m.rand.IntN(int(kinds)))
	proto := []packet.Proto{packet.TCP, packet.TCP, packet.UDP, packet.ICMP}[m.rand.IntN(4)]
	if m.cfg.Plain {
		x.kind = []Kind{Masquerade, SNAT, DNAT, Routed}[m.rand.IntN(4)]
		proto = []packet.Proto{packet.TCP, packet.TCP, packet.UDP}[m.rand.IntN(3)]
	}
	switch x.kind {
	case NPTv6:
		v6 = true
	case Relay:
		proto = packet.UDP
	case PortOnly:
		if proto == packet.ICMP {
			proto = packet.TCP
		}
	}
	if v6 && proto == packet.ICMP {
		proto = packet.ICMPv6
	}
	x.ways(proto, v6)
	if !m.cfg.Plain {
		x.alike = m.rand.IntN(8) == 0
		x.offload = m.rand.IntN(4) == 0
	}
	x.noID = m.rand.IntN(3) == 0
	x.ids = [2]uint16{uint16(m.rand.Uint32()), uint16(m.rand.Uint32())}
	m.scene.Flows = append(m.scene.Flows, Flow{
		Kind: x.kind, Keys: [Points]packet.Key{x.out.at[0].key(), x.out.at[1].key()}, Alike: x.alike && proto != packet.TCP,
	})
	switch proto {
	case packet.TCP:
		x.tcp()
	case packet.UDP:
		x.udp()
	default:
		x.pings()
	}
}

func address(v6 bool, network byte, host uint32) netip.Addr {
	if v6 {
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8, network}
		binary.BigEndian.PutUint32(a[12:], host)
		return netip.AddrFrom16(a)
	}
	a := [4]byte{10, network}
	binary.BigEndian.PutUint16(a[2:], uint16(host))
	return netip.AddrFrom4(a)
}

// ways chooses the addresses of a flow.
func (x *exchange) ways(proto packet.Proto, v6 bool) {
	client := address(v6, 1, 2+x.rand.Uint32N(5000))
	server := address(v6, 2, 2+x.rand.Uint32N(50))
	port := []uint16{53, 80, 443, 8080}[x.rand.IntN(4)]
	before := frame{src: client, dst: server, proto: proto, sport: uint16(1024 + x.index%60000), dport: port, ttl: 64, from: 1, to: 2}
	if proto.IsICMP() {
		before.dport = 0
		before.icmpType = packet.EchoRequest
		if proto == packet.ICMPv6 {
			before.icmpType = packet.EchoRequestV6
		}
	}
	after := before
	after.from, after.to, after.ttl = 3, 4, 63
	router := address(v6, 3, 1)
	other := address(v6, 4, 2+x.rand.Uint32N(50))
	outside := [Points]int{Inside, Outside}
	switch x.kind {
	case Bridged:
		after.ttl = 64
	case SNAT:
		after.src = address(v6, 3, 20000+uint32(x.index/60000))
	case Masquerade:
		after.src = address(v6, 3, 2+uint32(x.index/50000))
		after.sport = uint16(1024 + (x.index*7)%50000)
	case DNAT:
		after.dst = other
	case BothNAT:
		after.src, after.dst = address(v6, 3, 100+uint32(x.index/50000)), other
		after.sport = uint16(1024 + (x.index*11)%50000)
	case PortOnly:
		after.dport = port + 1000
	case NPTv6:
		after.src = neutral(client)
	case Hairpin:
		after.src, after.dst, after.ttl = address(v6, 3, 200+uint32(x.index/50000)), other, 64
		after.sport = uint16(1024 + (x.index*13)%50000)
		outside = [Points]int{Inside, Inside}
	case Relay:
		after.src, after.sport, after.ttl = router, uint16(1024+(x.index*17)%50000), 64
		after.dst = address(v6, 5, 53)
	}
	x.out = way{at: [Points]frame{before, after}, point: outside}
	x.back = way{at: [Points]frame{answer(after), answer(before)}, point: [Points]int{outside[1], outside[0]}}
	x.back.at[0].ttl, x.back.at[1].ttl = 60, 59
	if after.ttl == before.ttl {
		x.back.at[1].ttl = 60
	}
	if x.kind == Relay {
		x.back.at[1].ttl = 64
	}
}

// neutral is another prefix for an address, as NPTv6 gives it (RFC 6296): a word
// behind the prefix makes up for the change.
func neutral(a netip.Addr) netip.Addr {
	b := a.As16()
	was := sum(b[:], 0)
	b[4] = 0x77
	b[8], b[9] = 0, 0
	word := uint32(was) + uint32(^sum(b[:], 0))
	word = word>>16 + word&0xffff
	b[8], b[9] = byte(word>>8), byte(word)
	return netip.AddrFrom16(b)
}

func answer(f frame) frame {
	f.src, f.dst, f.from, f.to = f.dst, f.src, f.to, f.from
	switch f.icmpType {
	case packet.EchoRequest:
		if f.proto == packet.ICMP {
			f.icmpType = packet.EchoReply
		}
	case packet.EchoRequestV6:
		f.icmpType = packet.EchoReplyV6
	}
	if !f.proto.IsICMP() {
		f.sport, f.dport = f.dport, f.sport
	}
	return f
}

// payload is data of a packet.
func (x *exchange) payload(n int) []byte {
	b := make([]byte, n)
	if x.alike {
		for i := range b {
			b[i] = byte(i * i) // the same in each flow
		}
		return b
	}
	for i := range b {
		b[i] = byte(x.rand.Uint32())
	}
	return b
}

// delay is how long a packet is under way between the points.
func (x *exchange) delay() int64 {
	if x.rand.IntN(50) == 0 {
		return 2_000_000 + x.rand.Int64N(3_000_000)
	}
	return 20_000 + x.rand.Int64N(200_000)
}

// send sends a packet of the flow, as parts behind the first point where there
// are any. It reports whether all of it arrived.
func (x *exchange) send(w *way, first frame, parts []frame) bool {
	side := 0
	if w == &x.back {
		side = 1
	}
	reverse := side == 1
	if len(parts) == 0 {
		parts = []frame{first}
	}
	numbers := make([]uint64, len(parts))
	for i := range parts {
		x.last++
		numbers[i] = x.last
	}
	arrived := true
	before, after := []frame{first}, parts
	if reverse { // segments are merged, fragments put together, on the inside
		before, after = parts, []frame{first}
	}
	lost := x.rand.Float64() < x.cfg.Loss
	for i := range before {
		x.sight(w, 0, before[i], x.now+int64(i)*1000, share(numbers, i, len(before)))
	}
	delay := x.delay()
	if lost {
		x.scene.Flows[x.index].Lost++
		arrived = false
	} else {
		for i := range after {
			f := after[i]
			if x.kind == Relay {
				f.ipid ^= 0x5555
				f.payload = append([]byte(nil), f.payload...)
				if len(f.payload) > 1 {
					f.payload[0]++ // a message id of its own
				}
			}
			own := share(numbers, i, len(after))
			if x.kind == Relay {
				x.last++
				own = []uint64{x.last}
			}
			x.sight(w, 1, f, x.now+int64(len(before)-1)*1000+delay+int64(i)*1000, own)
		}
	}
	x.now += delay + int64(max(len(before), len(after)))*1000 + x.rand.Int64N(1_000_000)
	return arrived
}

func share(numbers []uint64, i, n int) []uint64 {
	if n == 1 {
		return numbers
	}
	return numbers[i : i+1]
}

// sight adds a sighting.
func (x *exchange) sight(w *way, end int, f frame, at int64, numbers []uint64) {
	a := &w.at[end]
	f.src, f.dst, f.sport, f.dport, f.ttl, f.from, f.to = a.src, a.dst, a.sport, a.dport, a.ttl, a.from, a.to
	f.proto, f.icmpType = a.proto, a.icmpType
	x.scene.Sightings = append(x.scene.Sightings, Sighting{
		Point: w.point[end], Time: at, Data: f.build(make([]byte, 0, ethernet+60+len(f.payload))), Packets: numbers, Flow: x.index, Key: f.key(),
	})
}

// id is the next IPv4 id of one end.
func (x *exchange) id(side int) uint16 {
	if x.noID {
		return 0
	}
	x.ids[side]++
	if x.ids[side] == 0 {
		x.ids[side] = 1
	}
	return x.ids[side]
}

const mss = 1400

// tcp is a connection.
func (x *exchange) tcp() {
	seq, ack := x.rand.Uint32(), x.rand.Uint32()
	must := func(w *way, side int, f frame) {
		for range 4 {
			f.ipid = x.id(side)
			if f.flags.Has(packet.SYN | packet.ACK) {
				f.ipid = 0
			}
			if x.send(w, f, nil) {
				return
			}
			x.now += 200_000_000
		}
	}
	must(&x.out, 0, frame{seq: seq, flags: packet.SYN})
	seq++
	must(&x.back, 1, frame{seq: ack, ack: seq, flags: packet.SYN | packet.ACK})
	ack++
	must(&x.out, 0, frame{seq: seq, ack: ack, flags: packet.ACK})
	for range 1 + x.rand.IntN(max(x.cfg.Packets, 1)) {
		n := 1 + x.rand.IntN(mss)
		if x.cfg.Plain {
			n = 64
		}
		if x.offload {
			n = mss * (1 + x.rand.IntN(5))
		}
		data := x.payload(n)
		for range 4 {
			whole := frame{seq: seq, ack: ack, flags: packet.ACK | packet.PSH, payload: data, ipid: x.id(0)}
			arrived := x.send(&x.out, whole, x.segments(whole))
			if arrived {
				break
			}
			x.now += 200_000_000
		}
		seq += uint32(len(data))
		must(&x.back, 1, frame{seq: ack, ack: seq, flags: packet.ACK})
	}
	must(&x.out, 0, frame{seq: seq, ack: ack, flags: packet.FIN | packet.ACK})
	must(&x.back, 1, frame{seq: ack, ack: seq + 1, flags: packet.FIN | packet.ACK})
	must(&x.out, 0, frame{seq: seq + 1, ack: ack + 1, flags: packet.ACK})
}

// segments are what segmentation offload makes of a packet.
func (x *exchange) segments(f frame) []frame {
	if len(f.payload) <= mss {
		return nil
	}
	var parts []frame
	for at := 0; at < len(f.payload); at += mss {
		p := f
		p.payload = f.payload[at:min(at+mss, len(f.payload))]
		p.seq += uint32(at)
		if p.ipid != 0 {
			p.ipid += uint16(at / mss)
			x.ids[0] = p.ipid
		}
		if at+mss < len(f.payload) {
			p.flags &^= packet.PSH
		}
		parts = append(parts, p)
	}
	return parts
}

// udp is questions and answers.
func (x *exchange) udp() {
	for range 1 + x.rand.IntN(max(x.cfg.Packets, 1)) {
		n := 20 + x.rand.IntN(200)
		if !x.cfg.Plain && x.rand.IntN(10) == 0 {
			n = 3000
		}
		f := frame{payload: x.payload(n), ipid: x.id(0)}
		if n > mss && f.ipid == 0 {
			f.ipid = uint16(1 + x.rand.Uint32N(60000))
		}
		if !x.send(&x.out, f, x.fragments(f)) {
			x.now += 1_000_000_000
			continue
		}
		x.send(&x.back, frame{payload: x.payload(20 + x.rand.IntN(400)), ipid: x.id(1)}, nil)
	}
}

// fragments are what a packet becomes that is larger than the MTU outside.
func (x *exchange) fragments(f frame) []frame {
	const most = 1480
	if len(f.payload) < most {
		return nil
	}
	id := x.rand.Uint32()
	var parts []frame
	whole := len(f.payload) + 8
	for at := 0; at < whole; at += most {
		p := f
		p.isFragment, p.offset, p.fragmentID, p.udpLength = true, at, id, whole
		end := min(at+most, whole)
		p.payload = f.payload[max(at-8, 0) : end-8]
		p.more = end < whole
		parts = append(parts, p)
	}
	return parts
}

// pings are echo requests and their answers.
func (x *exchange) pings() {
	for i := range 1 + x.rand.IntN(max(x.cfg.Packets, 1)) {
		f := frame{icmpSeq: uint16(i + 1), payload: x.payload(56), ipid: x.id(0)}
		if !x.send(&x.out, f, nil) {
			x.now += 1_000_000_000
			continue
		}
		f.ipid = x.id(1)
		x.send(&x.back, f, nil)
		x.now += 100_000_000
	}
}
