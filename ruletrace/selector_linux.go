package ruletrace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/packet"
)

// selector is (part of) a rule: what nft would print, and the kernel's
// expressions.
type selector struct {
	// proto is the transport protocol that it is about; the chain that asks
	// for the protocol once, before all its selectors, is made from it.
	proto packet.Proto
	// gate is what all selectors of one kind need first, nil for nothing: it
	// is asked once, and only who passes meets those selectors.
	gate  *gate
	text  string
	exprs []expr.Any
}

// gate is the common first part of selectors. Its name tells it from others.
type gate struct {
	name string
	selector
}

// behind returns the selector with a gate before it.
func (s selector) behind(name string, first selector) selector {
	s.gate = &gate{name, first}
	return s
}

// and returns the selector that needs both.
func (s selector) and(others ...selector) selector {
	both := selector{proto: s.proto, gate: s.gate, exprs: append([]expr.Any(nil), s.exprs...)}
	texts := make([]string, 0, 1+len(others))
	if s.text != "" {
		texts = append(texts, s.text)
	}
	for _, o := range others {
		texts = append(texts, o.text)
		both.exprs = append(both.exprs, o.exprs...)
	}
	both.text = strings.Join(texts, " ")
	return both
}

// compare loads a value into a register and compares it.
func compare(load expr.Any, name string, op expr.CmpOp, value []byte) selector {
	word := map[expr.CmpOp]string{
		expr.CmpOpEq: "", expr.CmpOpNeq: "!= ", expr.CmpOpLt: "< ", expr.CmpOpLte: "<= ", expr.CmpOpGte: ">= ",
	}[op]
	return selector{
		text:  fmt.Sprintf("%s %s%#x", name, word, value),
		exprs: []expr.Any{load, &expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: value}},
	}
}

// field compares bytes of the network ("nh") or transport ("th") header.
func field(header string, offset int, op expr.CmpOp, value []byte) selector {
	base := expr.PayloadBaseNetworkHeader
	if header == "th" {
		base = expr.PayloadBaseTransportHeader
	}
	load := &expr.Payload{DestRegister: unix.NFT_REG_1, Base: base, Offset: uint32(offset), Len: uint32(len(value))}
	return compare(load, fmt.Sprintf("@%s,%d,%d", header, offset*8, len(value)*8), op, value)
}

func port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// proto starts a selector of packets of one transport protocol.
func proto(p packet.Proto) selector { return selector{proto: p} }

// ofProto compares the transport protocol.
func ofProto(p packet.Proto) selector {
	return compare(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1}, "meta l4proto", expr.CmpOpEq, []byte{byte(p)})
}

// ofVersion compares the IP version, for family bridge.
func (f flow) ofVersion() selector {
	return compare(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: unix.NFT_REG_1}, "meta protocol", expr.CmpOpEq, port(f.etherType))
}

// layout is where one IP version keeps what the selectors look at.
type layout struct {
	icmp         packet.Proto
	etherType    uint16
	protoAt      int // in the IP header, for the quoted packet
	srcAt, dstAt int
	length       int // of the header without options
	echo, reply  byte
}

var (
	layout4 = layout{packet.ICMP, 0x0800, 9, 12, 16, 20, packet.EchoRequest, packet.EchoReply}
	layout6 = layout{packet.ICMPv6, 0x86dd, 6, 8, 24, 40, packet.EchoRequestV6, packet.EchoReplyV6}
)

// flow is a Match with its IP version's layout.
type flow struct {
	Match
	layout
}

func (m Match) flow() flow {
	f := flow{m, layout4}
	if m.Target.Is6() {
		f.layout = layout6
	}
	// The echo's protocol follows the family, whichever ICMP was named.
	if m.Proto.IsICMP() {
		f.Proto = f.icmp
	}
	return f
}

// protocols are those of the flow's packets and of errors about them.
func (f flow) protocols() []packet.Proto {
	all := []packet.Proto{f.Proto}
	if f.Proto != f.icmp {
		all = append(all, f.icmp)
	}
	if f.Carried && f.Proto != packet.UDP {
		all = append(all, packet.UDP)
	}
	return all
}

// addr compares an address of the IP header. An address that is not known
// matches nothing: ok is false.
func (f flow) addr(at int, a netip.Addr) (s selector, ok bool) {
	if !a.IsValid() || a.Is6() != f.Target.Is6() {
		return selector{}, false
	}
	return field("nh", at, expr.CmpOpEq, a.AsSlice()), true
}

// toAny reports whether the flow may have any target.
func (f flow) toAny() bool { return f.Target.IsUnspecified() }

// ends returns the selectors of packets of which one address is still Target or
// Source; addr is f.addr or f.quotedAddr.
func (f flow) ends(addr func(int, netip.Addr) (selector, bool)) []selector {
	var list []selector
	var addresses []netip.Addr
	if !f.toAny() {
		addresses = append(addresses, f.Target)
	}
	if f.Source != f.Target {
		addresses = append(addresses, f.Source)
	}
	for _, a := range addresses {
		for _, at := range []int{f.dstAt, f.srcAt} {
			if s, ok := addr(at, a); ok {
				list = append(list, s)
			}
		}
	}
	return list
}

// quoteAt is where the packet that an ICMP error quotes starts, seen from the
// ICMP header.
const quoteAt = 8

// icmpError matches ICMP errors that quote a packet of protocol p without IP
// options.
func (f flow) icmpError(p packet.Proto) selector {
	var s selector
	if f.icmp == packet.ICMP {
		// 3, 4, 5, 11 and 12 are the errors (RFC 792); those between quote
		// nothing that the selectors could take for the flow.
		s = field("th", 0, expr.CmpOpGte, []byte{3}).and(field("th", 0, expr.CmpOpLte, []byte{12}),
			field("th", 0, expr.CmpOpNeq, []byte{packet.EchoRequest}),
			field("th", quoteAt, expr.CmpOpEq, []byte{0x45}))
	} else {
		s = field("th", 0, expr.CmpOpLt, []byte{packet.EchoRequestV6})
	}
	return proto(f.icmp).behind("error", s.and(field("th", quoteAt+f.protoAt, expr.CmpOpEq, []byte{byte(p)})))
}

// quoted compares bytes of the quoted packet's transport header.
func (f flow) quoted(at int, value []byte) selector {
	return field("th", quoteAt+f.length+at, expr.CmpOpEq, value)
}

// quotedAddr compares an address of the quoted packet.
func (f flow) quotedAddr(at int, a netip.Addr) (s selector, ok bool) {
	if !a.IsValid() || a.Is6() != f.Target.Is6() {
		return selector{}, false
	}
	return field("th", quoteAt+at, expr.CmpOpEq, a.AsSlice()), true
}

// selectors returns the tight and the loose selectors on the packet alone.
func (f flow) selectors() (tight, loose []selector) {
	switch {
	case f.Proto.IsICMP():
		tight = f.echoSelectors()
	case f.SourcePort != 0:
		tight, loose = f.portSelectors(), f.targetSelectors(f.Proto == packet.TCP)
	default:
		tight = f.targetSelectors(false)
	}
	loose = append(loose, f.fragmentSelectors()...)
	if f.Carried {
		tight = append(tight, f.carriedSelectors()...)
	}
	return tight, loose
}

// carriedSelectors match VXLAN packets that carry a packet of the flow: an echo by
// its data, others by their ports, and by the target's alone where the source's
// is not known.
func (f flow) carriedSelectors() []selector {
	const networkAt, typeAt = packet.CarriedAt, packet.CarriedAt - 2
	transportAt := networkAt + f.length
	inside := field("th", typeAt, expr.CmpOpEq, port(f.etherType)).and(field("th", networkAt+f.protoAt, expr.CmpOpEq, []byte{byte(f.Proto)}))
	var wanted []selector
	source, target := port(f.SourcePort), port(f.TargetPort)
	switch {
	case f.Proto.IsICMP() && len(f.Nonce) == NonceBytes:
		wanted = []selector{inside.and(field("th", transportAt+dataAt, expr.CmpOpEq, f.Nonce))}
	case f.Proto.IsICMP() || f.TargetPort == 0:
		return nil
	case f.SourcePort != 0:
		wanted = []selector{
			inside.and(field("th", transportAt, expr.CmpOpEq, append(source[:2:2], target...))),
			inside.and(field("th", transportAt, expr.CmpOpEq, append(target[:2:2], source...))),
		}
	default:
		wanted = []selector{
			inside.and(field("th", transportAt+2, expr.CmpOpEq, target), field("th", networkAt+f.dstAt, expr.CmpOpEq, f.Target.AsSlice())),
			inside.and(field("th", transportAt, expr.CmpOpEq, target), field("th", networkAt+f.srcAt, expr.CmpOpEq, f.Target.AsSlice())),
		}
	}
	var list []selector
	for _, to := range packet.VXLANPorts {
		for _, s := range wanted {
			list = append(list, proto(packet.UDP).behind(fmt.Sprintf("vxlan-%d", to), field("th", 2, expr.CmpOpEq, port(to))).and(s))
		}
	}
	return list
}

// others match packets of a protocol that no selector on the packet alone is
// for: whole ones, by a few words of their transport header.
func (f flow) others(p packet.Proto) []selector {
	switch {
	case p != f.Proto:
		return nil // the gate of errors does as much
	case f.Carried && p == packet.UDP:
		return nil // they may carry packets of the flow
	case p.IsICMP():
		kind := field("th", 0, expr.CmpOpGte, []byte{packet.EchoRequestV6})
		if p == packet.ICMP {
			kind = masked("@th,0,8", transport(0, 1), []byte{^byte(packet.EchoRequest)}, expr.CmpOpEq) // 0 is the reply
		}
		if len(f.Nonce) == NonceBytes {
			return []selector{f.whole(p).and(kind, field("th", dataAt, expr.CmpOpNeq, f.Nonce[:4]))}
		}
		return []selector{f.whole(p).and(kind, field("th", idAt, expr.CmpOpNeq, port(f.ICMPID)))}
	case f.TargetPort == 0:
		return nil
	}
	s := f.whole(p)
	for _, n := range []uint16{f.TargetPort, f.SourcePort} {
		if n != 0 {
			s = s.and(field("th", 0, expr.CmpOpNeq, port(n)), field("th", 2, expr.CmpOpNeq, port(n)))
		}
	}
	return []selector{s}
}

// whole matches packets of a protocol that are no later fragments, where the
// kernel may take any bytes for a transport header. Of IPv6 it leaves out those
// with extension headers.
func (f flow) whole(p packet.Proto) selector {
	if f.icmp == packet.ICMP {
		return f.laterFragment(expr.CmpOpEq)
	}
	return field("nh", f.protoAt, expr.CmpOpEq, []byte{byte(p)})
}

// Where an ICMP echo has its identifier and its data.
const idAt, dataAt = 4, 8

// echoSelectors match an ICMP echo, its reply, and errors about either.
func (f flow) echoSelectors() []selector {
	var list []selector
	quote := f.icmpError(f.icmp)
	if len(f.Nonce) == NonceBytes {
		list = append(list,
			proto(f.icmp).and(field("th", dataAt, expr.CmpOpEq, f.Nonce)),
			quote.and(f.quoted(dataAt, f.Nonce)))
	} else {
		for _, kind := range []byte{f.echo, f.reply} {
			for _, end := range f.ends(f.addr) {
				list = append(list, proto(f.icmp).and(field("th", 0, expr.CmpOpEq, []byte{kind}),
					field("th", idAt, expr.CmpOpEq, port(f.ICMPID)), end))
			}
		}
	}
	for _, end := range f.ends(f.quotedAddr) {
		list = append(list, quote.and(f.quoted(idAt, port(f.ICMPID)), end))
	}
	return list
}

// portSelectors match on the source's port.
func (f flow) portSelectors() []selector {
	source, target := port(f.SourcePort), port(f.TargetPort)
	there := append(source[:2:2], target...) // both ports in wire order
	back := append(target[:2:2], source...)
	quote := f.icmpError(f.Proto)
	list := []selector{
		proto(f.Proto).and(field("th", 0, expr.CmpOpEq, there)),
		proto(f.Proto).and(field("th", 0, expr.CmpOpEq, back)),
		quote.and(f.quoted(0, there)),
		quote.and(f.quoted(0, back)),
	}
	if s, ok := f.addr(f.srcAt, f.Source); ok {
		list = append(list, proto(f.Proto).and(field("th", 0, expr.CmpOpEq, source), s))
	}
	if s, ok := f.addr(f.dstAt, f.Source); ok {
		list = append(list, proto(f.Proto).and(field("th", 2, expr.CmpOpEq, source), s))
	}
	if s, ok := f.quotedAddr(f.srcAt, f.Source); ok {
		list = append(list, quote.and(f.quoted(0, source), s))
	}
	return list
}

// targetSelectors match on the target alone. With handshake only TCP packets
// with SYN or RST do.
func (f flow) targetSelectors(handshake bool) []selector {
	list := make([]selector, 0, 3)
	for _, direction := range []struct{ addrAt, portAt int }{{f.dstAt, 2}, {f.srcAt, 0}} {
		s := proto(f.Proto)
		if f.TargetPort != 0 {
			s = s.and(field("th", direction.portAt, expr.CmpOpEq, port(f.TargetPort)))
		}
		if handshake {
			s = s.and(handshakeFlags())
		}
		if end, ok := f.addr(direction.addrAt, f.Target); ok && !f.toAny() {
			s = s.and(end)
		}
		list = append(list, s)
	}
	s := f.icmpError(f.Proto)
	if f.TargetPort != 0 {
		s = s.and(f.quoted(2, port(f.TargetPort)))
	}
	if end, ok := f.quotedAddr(f.dstAt, f.Target); ok && !f.toAny() {
		s = s.and(end)
	}
	return append(list, s)
}

// handshakeFlags matches TCP packets that have SYN or RST.
func handshakeFlags() selector {
	const flagsAt = 13
	return masked("@th,104,8", transport(flagsAt, 1), []byte{byte(packet.SYN | packet.RST)}, expr.CmpOpNeq)
}

// transport loads bytes of the transport header.
func transport(at, length uint32) expr.Any {
	return &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: at, Len: length}
}

// fragmentSelectors match the later fragments of packets from or to one of the
// ends. The first fragment has what the other selectors look at. Where
// connection tracking is on there are none here: it reassembles at -400.
func (f flow) fragmentSelectors() []selector {
	later := proto(f.Proto).behind("fragment", f.laterFragment(expr.CmpOpNeq))
	var list []selector
	for _, end := range f.ends(f.addr) {
		list = append(list, later.and(end))
	}
	return list
}

// laterFragment compares the fragment offset with 0.
func (f flow) laterFragment(op expr.CmpOp) selector {
	if f.icmp == packet.ICMP {
		const flagsAt = 6
		return masked("ip frag-off", &expr.Payload{
			DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: flagsAt, Len: 2,
		}, []byte{0x1f, 0xff}, op)
	}
	const offsetAt = 2
	return masked("frag frag-off", &expr.Exthdr{
		DestRegister: unix.NFT_REG_1, Type: unix.IPPROTO_FRAGMENT, Offset: offsetAt, Len: 2, Op: expr.ExthdrOpIpv6,
	}, []byte{0xff, 0xf8}, op)
}

// masked compares the mask's bits of what was loaded with 0.
func masked(name string, load expr.Any, mask []byte, op expr.CmpOp) selector {
	zero := make([]byte, len(mask))
	return selector{
		text: fmt.Sprintf("%s & %#x %s 0", name, mask, map[expr.CmpOp]string{expr.CmpOpEq: "==", expr.CmpOpNeq: "!="}[op]),
		exprs: []expr.Any{
			load,
			&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: uint32(len(mask)), Mask: mask, Xor: zero},
			&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: zero},
		},
	}
}

// conntrackSelectors match the original tuple of the packet's conntrack entry,
// which is the same for the NATed reply and for related ICMP errors.
func (f flow) conntrackSelectors() (tight, loose []selector) {
	original := func(key expr.CtKey, name string, value []byte) selector {
		load := &expr.Ct{Register: unix.NFT_REG_1, Key: key} // direction 0 is IP_CT_DIR_ORIGINAL
		return compare(load, "ct original "+name, expr.CmpOpEq, value)
	}
	// What others do not have comes first: they go on after one comparison.
	protocol := original(expr.CtKeyPROTOCOL, "protocol", []byte{byte(f.Proto)})
	toTarget := original(expr.CtKeyDST, "daddr", f.Target.AsSlice())
	target := toTarget
	switch {
	case f.TargetPort == 0 || f.Proto.IsICMP():
	case f.toAny():
		target = original(expr.CtKeyPROTODST, "proto-dst", port(f.TargetPort))
	default:
		target = original(expr.CtKeyPROTODST, "proto-dst", port(f.TargetPort)).and(toTarget)
	}
	target = target.and(protocol)
	id := f.SourcePort
	if f.Proto.IsICMP() { // which is kept where ports have the source's
		id = f.ICMPID
	} else if id == 0 {
		return []selector{target}, nil
	}
	source := original(expr.CtKeyPROTOSRC, "proto-src", port(id)).and(protocol)
	tight = append(tight, source.and(toTarget))
	if f.Source.IsValid() && f.Source.Is6() == f.Target.Is6() {
		tight = append(tight, source.and(original(expr.CtKeySRC, "saddr", f.Source.AsSlice())))
	}
	return tight, []selector{target}
}
