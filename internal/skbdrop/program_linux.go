package skbdrop

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/pathtrace/pathtrace/packet"
)

// The record that the program sends, in bytes from its start, in the machine's
// byte order.
const (
	recordTime     = 0  // u64, CLOCK_MONOTONIC
	recordLocation = 8  // u64, address in the kernel
	recordReason   = 16 // u32
	recordNetNS    = 20 // u32, inode number
	recordIndex    = 24 // u32, ifindex
	recordLength   = 28 // u32, bytes from data on
	recordData     = 32 // u32, where data begins, from head on
	recordNetwork  = 36 // u32, where the network header begins, from head on
	recordCaptured = 40 // u32, bytes of recordPacket that are the packet's
	recordFunction = 48
	functionSize   = 64
	recordPacket   = recordFunction + functionSize
	packetSize     = 128
	recordSize     = recordPacket + packetSize
)

// format lets the kernel print a location as the name of its function.
const format = "%ps\x00"

// The program's stack, downwards from the frame pointer.
const (
	record    = -recordSize
	scratch   = record - 8 // u64
	transport = scratch - transportSize
	// transportSize is what is looked at of an IP header in an ICMP error, or
	// of a transport header with the start of its data.
	transportSize = 24
)

// IPv6 extension headers behind which a packet may be of any flow (RFC 8200).
var extensions = []int32{0, 43, 44, 60}

// Registers that calls leave alone.
const (
	skb  = asm.R6
	ip   = asm.R7 // address of the network header
	at   = asm.R8 // address that is looked at
	args = asm.R9 // of the tracepoint
)

// assembler writes the program.
type assembler struct {
	*layout
	config *Config
	code   asm.Instructions
	labels int
}

// descriptors are those that the program refers to.
type descriptors struct{ ring, lost, format, namespaces int }

func (a *assembler) add(code ...asm.Instruction) { a.code = append(a.code, code...) }

// label makes a name for the next instruction.
func (a *assembler) label(name string) {
	a.add(asm.Mov.Reg(asm.R0, asm.R0).WithSymbol(name))
}

// program selects the traced flow and sends a record for each of its drops.
func (a *assembler) program(m descriptors) asm.Instructions {
	a.add(asm.Mov.Reg(args, asm.R1), asm.LoadMem(skb, args, 0, asm.DWord))
	a.add(asm.Mov.Imm(asm.R0, 0))
	for at := transport; at < 0; at += 8 {
		a.add(asm.StoreMem(asm.RFP, int16(at), asm.R0, asm.DWord))
	}
	a.field(ip, a.head, asm.DWord)
	a.field(at, a.networkHeader, asm.Half)
	a.add(asm.StoreMem(asm.RFP, record+recordNetwork, at, asm.Word), asm.Add.Reg(ip, at))
	a.field(asm.R2, a.tail, asm.Word) // the bytes up to there are in one piece
	a.add(
		asm.JLE.Reg(asm.R2, at, "out"),
		asm.Sub.Reg(asm.R2, at),
		asm.JLE.Imm(asm.R2, packetSize, "whole"),
		asm.Mov.Imm(asm.R2, packetSize),
		asm.StoreMem(asm.RFP, record+recordCaptured, asm.R2, asm.Word).WithSymbol("whole"),
	)
	a.read(record+recordPacket, ip, 0, 0, "out")
	a.add(
		asm.LoadMem(asm.R1, asm.RFP, record+recordPacket, asm.Byte),
		asm.RSh.Imm(asm.R1, 4),
		asm.JEq.Imm(asm.R1, 4, "IPv4"),
		asm.JEq.Imm(asm.R1, 6, "IPv6"),
		asm.Ja.Label("out"),
	)
	if a.config.All {
		a.add(asm.Ja.Label("send").WithSymbol("IPv4"), asm.Ja.Label("send").WithSymbol("IPv6"))
	} else {
		a.ipv4()
		a.ipv6()
	}
	a.send(m)
	a.add(asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return())
	return a.code
}

// read copies size bytes at base + offset to the stack, or as many as R2 says
// when size is 0; where that fails it goes to a label.
func (a *assembler) read(to int32, base asm.Register, offset, size int32, failed string) {
	if size != 0 {
		a.add(asm.Mov.Imm(asm.R2, size))
	}
	a.add(
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, to),
		asm.Mov.Reg(asm.R3, base), asm.Add.Imm(asm.R3, offset),
		asm.FnProbeReadKernel.Call(),
		asm.JNE.Imm(asm.R0, 0, failed),
	)
}

// ipv4 goes on to "send" when the packet, or the one that an ICMP error
// quotes, is of the flow.
func (a *assembler) ipv4() {
	a.label("IPv4")
	if a.config.Proto == packet.ICMPv6 {
		a.add(asm.Ja.Label("out"))
		return
	}
	headerLength := func(from int16) {
		a.add(
			asm.LoadMem(asm.R1, asm.RFP, from, asm.Byte),
			asm.And.Imm(asm.R1, 0xf), asm.LSh.Imm(asm.R1, 2),
			asm.Add.Reg(at, asm.R1),
		)
	}
	a.add(asm.Mov.Reg(at, ip))
	headerLength(record + recordPacket)
	a.read(transport, at, 0, transportSize, "out")
	a.add(asm.LoadMem(asm.R1, asm.RFP, record+recordPacket+9, asm.Byte))
	a.flow(packet.ICMP)
	a.add(asm.LoadMem(asm.R1, asm.RFP, transport, asm.Byte))
	for _, kind := range []int32{3, 5, 11, 12} {
		a.add(asm.JEq.Imm(asm.R1, kind, "IPv4 quote"))
	}
	a.add(asm.Ja.Label("out"), asm.Add.Imm(at, 8).WithSymbol("IPv4 quote"))
	a.read(transport, at, 0, transportSize, "out")
	headerLength(transport)
	a.add(asm.LoadMem(asm.R1, asm.RFP, transport+9, asm.Byte), asm.StoreMem(asm.RFP, scratch, asm.R1, asm.DWord))
	a.read(transport, at, 0, transportSize, "out")
	a.add(asm.LoadMem(asm.R1, asm.RFP, scratch, asm.DWord))
	a.flow(packet.ICMP)
	a.add(asm.Ja.Label("out"))
}

// ipv6 is ipv4 for IPv6. What stands behind extension headers is left to user
// space.
func (a *assembler) ipv6() {
	a.label("IPv6")
	if a.config.Proto == packet.ICMP {
		a.add(asm.Ja.Label("out"))
		return
	}
	const header, next = 40, 6
	a.add(asm.Mov.Reg(at, ip), asm.Add.Imm(at, header))
	a.read(transport, at, 0, transportSize, "out")
	a.add(asm.LoadMem(asm.R1, asm.RFP, record+recordPacket+next, asm.Byte))
	for _, extension := range extensions {
		a.add(asm.JEq.Imm(asm.R1, extension, "send"))
	}
	a.flow(packet.ICMPv6)
	a.add(
		asm.LoadMem(asm.R1, asm.RFP, transport, asm.Byte),
		asm.JGT.Imm(asm.R1, 127, "out"),
		asm.Add.Imm(at, 8),
	)
	a.read(transport, at, 0, transportSize, "out")
	a.add(
		asm.LoadMem(asm.R1, asm.RFP, transport+next, asm.Byte), asm.StoreMem(asm.RFP, scratch, asm.R1, asm.DWord),
		asm.Add.Imm(at, header),
	)
	a.read(transport, at, 0, transportSize, "out")
	a.add(asm.LoadMem(asm.R1, asm.RFP, scratch, asm.DWord))
	a.flow(packet.ICMPv6)
	a.add(asm.Ja.Label("out"))
}

// flow goes to "send" when the transport header on the stack is of the flow;
// R1 is its protocol. It goes on when that may be an ICMP error, and to "out"
// otherwise.
func (a *assembler) flow(icmp packet.Proto) {
	if a.config.Proto == icmp {
		a.labels++
		other := fmt.Sprintf("other nonce %d", a.labels)
		a.add(
			asm.JNE.Imm(asm.R1, int32(icmp), "out"),
			asm.LoadMem(asm.R1, asm.RFP, transport+8, asm.DWord),
			asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint64(a.config.Nonce)), asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, other),
			asm.LoadMem(asm.R1, asm.RFP, transport+16, asm.DWord),
			asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint64(a.config.Nonce[8:])), asm.DWord),
			asm.JEq.Reg(asm.R1, asm.R2, "send"),
		)
		a.label(other)
		return
	}
	a.labels++
	other := fmt.Sprintf("other protocol %d", a.labels)
	a.add(
		asm.JNE.Imm(asm.R1, int32(a.config.Proto), other),
		asm.LoadMem(asm.R2, asm.RFP, transport, asm.Half),
		asm.LoadMem(asm.R3, asm.RFP, transport+2, asm.Half),
	)
	for _, port := range a.config.Ports {
		wire := int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port)))
		a.add(asm.JEq.Imm(asm.R2, wire, "send"), asm.JEq.Imm(asm.R3, wire, "send"))
	}
	a.add(asm.Ja.Label("out"), asm.JNE.Imm(asm.R1, int32(icmp), "out").WithSymbol(other))
}

// send fills the record and puts it into the ring, or counts it as lost.
func (a *assembler) send(m descriptors) {
	a.add(
		asm.FnKtimeGetNs.Call().WithSymbol("send"),
		asm.StoreMem(asm.RFP, record+recordTime, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, args, 8, asm.DWord),
		asm.StoreMem(asm.RFP, record+recordLocation, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, args, 16, asm.DWord),
		asm.StoreMem(asm.RFP, record+recordReason, asm.R1, asm.Word),
	)
	a.field(asm.R1, a.length, asm.Word)
	a.add(asm.StoreMem(asm.RFP, record+recordLength, asm.R1, asm.Word))
	a.field(at, a.data, asm.DWord)
	a.field(asm.R1, a.head, asm.DWord)
	a.add(asm.Sub.Reg(at, asm.R1), asm.StoreMem(asm.RFP, record+recordData, at, asm.Word))
	// The namespace is that of the packet's device, of its route's device, or
	// of its socket. The memory of the first pointer has other uses, too.
	a.pointer(skb, a.dev, "no device")
	a.read(record+recordIndex, at, a.devIndex, 4, "no device")
	a.pointer(at, a.devNet, "no device")
	a.read(record+recordNetNS, at, a.netInode, 4, "no device")
	a.add(asm.Ja.Label("namespace"))
	a.add(asm.StoreImm(asm.RFP, record+recordIndex, 0, asm.Word).WithSymbol("no device"))
	a.pointer(skb, a.dst, "no route")
	a.add(asm.And.Imm(at, ^7)) // SKB_DST_PTRMASK, and the bits that pointers leave free
	a.pointer(at, a.dstDev, "no route")
	a.pointer(at, a.devNet, "no route")
	a.read(record+recordNetNS, at, a.netInode, 4, "no route")
	a.add(asm.Ja.Label("namespace"))
	a.label("no route")
	a.pointer(skb, a.sock, "namespace")
	a.pointer(at, a.sockNet, "namespace")
	a.read(record+recordNetNS, at, a.netInode, 4, "namespace")
	a.label("namespace")
	a.add(
		// Most of a machine is of no concern. Netlink messages are freed by
		// kfree_skb as well, thousands at once when a ruleset is loaded: they look
		// like any packet, and have no namespace.
		asm.LoadMapPtr(asm.R1, m.namespaces),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, record+recordNetNS),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),

		// The kernel itself knows best what function the location is in.
		asm.LoadMem(asm.R1, asm.RFP, record+recordLocation, asm.DWord),
		asm.StoreMem(asm.RFP, scratch, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, record+recordFunction),
		asm.Mov.Imm(asm.R2, functionSize),
		asm.LoadMapValue(asm.R3, m.format, 0),
		asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, scratch),
		asm.Mov.Imm(asm.R5, 8),
		asm.FnSnprintf.Call(),

		asm.LoadMapPtr(asm.R1, m.ring),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, record),
		asm.Mov.Imm(asm.R3, recordSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMapValue(asm.R1, m.lost, 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
	)
}

// field moves a field of struct sk_buff to a register.
func (a *assembler) field(to asm.Register, offset int32, size asm.Size) {
	a.read(scratch, skb, offset, int32(size.Sizeof()), "out")
	a.add(asm.LoadMem(to, asm.RFP, scratch, size))
}

// pointer moves the pointer at base + offset to register at.
func (a *assembler) pointer(base asm.Register, offset int32, failed string) {
	a.read(scratch, base, offset, 8, failed)
	a.add(asm.LoadMem(at, asm.RFP, scratch, asm.DWord))
}
