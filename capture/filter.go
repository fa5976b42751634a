package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"

	"github.com/pathtrace/pathtrace/packet"
)

// Selector says which packets a ring should deliver. It is meant for the
// kernel and lets through what it cannot judge there: a packet is looked for
// by an end that no NAT changes, and matched exactly only when it was decoded.
//
// Besides the packets that it names it always passes ARP, neighbour discovery
// and router messages, ICMP errors, fragments, frames with a VLAN tag inside
// and IPv6 packets with extension headers.
//
// The zero Selector passes all of ARP, IPv4 and IPv6.
type Selector struct {
	// Proto is the protocol; 0 means any. ICMP and ICMPv6 mean every message
	// of both: their ids are translated, so nothing else may be asked for.
	Proto packet.Proto
	// Addresses and Ports are the ends that are wanted. A packet passes when
	// one of them is its source or destination; with none of either, every
	// packet of the protocol passes. TCP packets with SYN, FIN or RST always
	// pass.
	Addresses []netip.Addr
	Ports     []uint16
	// Carried has VXLAN packets judged by the packet that they carry. One that is
	// sent to a port in Ports is judged by itself.
	Carried bool
}

const (
	acceptBytes = 1 << 18 // more than any frame: the ring cuts, not the filter
	maxProgram  = 4096    // BPF_MAXINSNS, include/uapi/linux/bpf_common.h

	// netOffset added to an offset counts from the network header
	// (SKF_NET_OFF, include/uapi/linux/filter.h).
	netOffset uint32 = 0xfff00000

	arphrdEthernet = 1   // ARPHRD_ETHER, include/uapi/linux/if_arp.h
	arphrdLoopback = 772 // ARPHRD_LOOPBACK
	etherHeader    = 14
)

// Program returns the selector as a classic BPF program for a packet socket
// that is bound to all interfaces, whatever their link headers. It fails when
// an address is not valid, when ports are given for a protocol without, and
// when there are more ends than a program can hold.
func (s Selector) Program() ([]bpf.Instruction, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	var p program
	// Offsets from the start of the frame reach all of a packet; before Linux
	// 6.16 those from the network header reach its linear part only. So they
	// are kept for links that are not Ethernet.
	etherType := bpf.LoadExtension{Num: bpf.ExtProto}
	p.emit(bpf.LoadExtension{Num: bpf.ExtLinkLayerType})
	p.when(bpf.JumpNotEqual, arphrdEthernet, func() {
		p.when(bpf.JumpNotEqual, arphrdLoopback, func() { s.frame(&p, etherType, netOffset) })
	})
	s.frame(&p, etherType, etherHeader)
	if len(p) > maxProgram {
		return nil, fmt.Errorf("selector with %d addresses and %d ports is too long for a kernel filter", len(s.Addresses), len(s.Ports))
	}
	return p, nil
}

func (s Selector) validate() error {
	for _, a := range s.Addresses {
		if !a.IsValid() {
			return fmt.Errorf("selector has an invalid address among %v", s.Addresses)
		}
	}
	if len(s.Ports) > 0 {
		switch s.Proto {
		case 0, packet.TCP, packet.UDP, packet.SCTP:
		default:
			return fmt.Errorf("selector has ports, but protocol %s has none", s.Proto)
		}
	}
	return nil
}

// frame judges a frame whose EtherType is loaded by an instruction and whose
// network header begins at an offset. It always returns.
func (s Selector) frame(p *program, etherType bpf.Instruction, network uint32) {
	p.emit(etherType)
	p.acceptIfAny(uint32(packet.EtherTypeARP),
		uint32(packet.EtherTypeVLAN), uint32(packet.EtherTypeQinQ), uint32(packet.EtherTypeOldQinQ))
	p.when(bpf.JumpEqual, uint32(packet.EtherTypeIPv4), func() { s.ipv4(p, network) })
	p.when(bpf.JumpEqual, uint32(packet.EtherTypeIPv6), func() { s.ipv6(p, network) })
	p.reject()
}

func (s Selector) ipv4(p *program, network uint32) {
	proto := bpf.LoadAbsolute{Off: network + 9, Size: 1}
	at := func(offset uint32, size int) bpf.Instruction { // in the transport header
		return bpf.LoadIndirect{Off: network + offset, Size: size}
	}
	p.emit(bpf.LoadAbsolute{Off: network + 6, Size: 2})
	p.acceptIf(bpf.JumpBitsSet, 0x3fff) // a fragment: more to come, or an offset
	p.emit(bpf.LoadMemShift{Off: network}, proto)
	p.when(bpf.JumpEqual, uint32(packet.ICMP), func() {
		if s.Proto.IsICMP() {
			p.accept()
			return
		}
		p.emit(at(0, 1))
		p.acceptIfAny(3, 4, 5, 11, 12) // the errors of RFC 792
		p.emit(proto)
	})
	s.carried(p, proto, at, network+20) // the kernel's has no options
	s.ends(p, func() {
		for _, offset := range []uint32{12, 16} {
			p.emit(bpf.LoadAbsolute{Off: network + offset, Size: 4})
			for _, a := range s.Addresses {
				if a = a.Unmap(); a.Is4() {
					word := a.As4()
					p.acceptIfAny(binary.BigEndian.Uint32(word[:]))
				}
			}
		}
	}, at)
}

func (s Selector) ipv6(p *program, network uint32) {
	next := bpf.LoadAbsolute{Off: network + 6, Size: 1}
	at := func(offset uint32, size int) bpf.Instruction {
		return bpf.LoadAbsolute{Off: network + 40 + offset, Size: size}
	}
	p.emit(next)
	p.acceptIfAny(0, 43, 44, 60) // hop-by-hop, routing, fragment, destination
	p.when(bpf.JumpEqual, uint32(packet.ICMPv6), func() {
		if s.Proto.IsICMP() {
			p.accept()
			return
		}
		p.emit(at(0, 1))
		p.acceptIf(bpf.JumpLessThan, 128)      // an error, RFC 4443
		p.acceptIfAny(133, 134, 135, 136, 137) // RFC 4861
		p.emit(next)
	})
	s.carried(p, next, at, network+40)
	s.ends(p, func() {
		for _, offset := range []uint32{8, 24} {
			for _, a := range s.Addresses {
				if a = a.Unmap(); a.Is6() {
					address := a.As16()
					address6(p, network+offset, address[:])
				}
			}
		}
	}, at)
}

// carried judges a VXLAN packet by what it carries. The accumulator holds the
// protocol, which an instruction loads, and does so afterwards; the transport
// header begins at an offset.
func (s Selector) carried(p *program, proto bpf.Instruction, at func(offset uint32, size int) bpf.Instruction, transport uint32) {
	if !s.Carried {
		return
	}
	inner := s
	inner.Carried = false
	network := transport + packet.CarriedAt
	p.when(bpf.JumpEqual, uint32(packet.UDP), func() {
		p.emit(at(2, 2))
		for _, port := range packet.VXLANPorts {
			if slices.Contains(s.Ports, port) {
				continue
			}
			p.when(bpf.JumpEqual, uint32(port), func() {
				inner.frame(p, bpf.LoadAbsolute{Off: network - 2, Size: 2}, network)
			})
		}
		p.emit(proto)
	})
}

// address6 accepts when what is left of an address stands at an offset.
func address6(p *program, offset uint32, rest []byte) {
	if len(rest) == 0 {
		p.accept()
		return
	}
	p.emit(bpf.LoadAbsolute{Off: offset, Size: 4})
	p.when(bpf.JumpEqual, binary.BigEndian.Uint32(rest), func() { address6(p, offset+4, rest[4:]) })
}

// ends judges by the protocol, which the accumulator holds, and by the ends of
// the flow. It always returns.
func (s Selector) ends(p *program, addresses func(), at func(offset uint32, size int) bpf.Instruction) {
	if s.Proto.IsICMP() { // what there is of it was accepted
		p.reject()
		return
	}
	if s.Proto != 0 {
		p.when(bpf.JumpNotEqual, uint32(s.Proto), p.reject)
	}
	if len(s.Addresses) == 0 && len(s.Ports) == 0 {
		p.accept()
		return
	}
	p.when(bpf.JumpEqual, uint32(packet.TCP), func() {
		p.emit(at(13, 1))
		p.acceptIf(bpf.JumpBitsSet, uint32(packet.SYN|packet.FIN|packet.RST))
	})
	addresses()
	if len(s.Ports) > 0 {
		for _, offset := range []uint32{0, 2} {
			p.emit(at(offset, 2))
			for _, port := range s.Ports {
				p.acceptIfAny(uint32(port))
			}
		}
	}
	p.reject()
}

// program is a BPF program under construction. Its blocks nest, so that no
// conditional jump has to reach farther than the instruction after the next.
type program []bpf.Instruction

func (p *program) emit(ins ...bpf.Instruction) { *p = append(*p, ins...) }
func (p *program) accept()                     { p.emit(bpf.RetConstant{Val: acceptBytes}) }
func (p *program) reject()                     { p.emit(bpf.RetConstant{Val: 0}) }

// when runs body if the accumulator passes the test; otherwise the accumulator
// stays as it is.
func (p *program) when(test bpf.JumpTest, value uint32, body func()) {
	p.emit(bpf.JumpIf{Cond: test, Val: value, SkipTrue: 1}, nil)
	start := len(*p)
	body()
	(*p)[start-1] = bpf.Jump{Skip: uint32(len(*p) - start)}
}

func (p *program) acceptIf(test bpf.JumpTest, value uint32) {
	p.emit(bpf.JumpIf{Cond: test, Val: value, SkipFalse: 1})
	p.accept()
}

func (p *program) acceptIfAny(values ...uint32) {
	for _, v := range values {
		p.acceptIf(bpf.JumpEqual, v)
	}
}
