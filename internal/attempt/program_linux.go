package attempt

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// The record that the programs send, in bytes from its start, in the machine's
// byte order but for address and port.
const (
	recordTime    = 0 // u64, CLOCK_MONOTONIC
	recordPID     = 8 // u64, process in the upper half
	recordAddress = 16
	recordPort    = 32 // u32, in network order from its first byte on
	recordProto   = 36 // u32, IPPROTO_*
	recordFamily  = 40 // u32, AF_*
	recordConnect = 44 // u32
	recordCommand = 48
	commandSize   = 16
	recordSize    = recordCommand + commandSize
)

// What the programs read of struct bpf_sock_addr (include/uapi/linux/bpf.h).
const (
	contextIPv4  = 4
	contextIPv6  = 8
	contextPort  = 24
	contextProto = 36
)

// hook is where a program is attached.
type hook struct {
	name    string
	attach  ebpf.AttachType
	ipv6    bool
	connect bool
}

var hooks = []hook{
	{"connect4", ebpf.AttachCGroupInet4Connect, false, true},
	{"connect6", ebpf.AttachCGroupInet6Connect, true, true},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, false, false},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, true, false},
}

// program sends a record when it runs for the namespace with a cookie, and lets
// through whatever it is run for.
func (h *hook) program(ring, lost int, cookie uint64) asm.Instructions {
	const (
		context = asm.R6
		record  = -recordSize
		inet    = 2  // AF_INET
		inet6   = 10 // AF_INET6
	)
	family, connect := int64(inet), int64(0)
	if h.ipv6 {
		family = inet6
	}
	if h.connect {
		connect = 1
	}
	store := func(at int16, size asm.Size) asm.Instruction {
		return asm.StoreMem(asm.RFP, record+at, asm.R0, size)
	}
	code := asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(cookie), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "through"),
		asm.FnKtimeGetNs.Call(), store(recordTime, asm.DWord),
		asm.FnGetCurrentPidTgid.Call(), store(recordPID, asm.DWord),
		asm.Mov.Imm(asm.R0, 0), store(recordAddress, asm.DWord), store(recordAddress+8, asm.DWord),
	}
	words := int16(1)
	from := int16(contextIPv4)
	if h.ipv6 {
		words, from = 4, contextIPv6
	}
	for word := range words {
		code = append(code, asm.LoadMem(asm.R0, context, from+4*word, asm.Word), store(recordAddress+4*word, asm.Word))
	}
	return append(code,
		asm.LoadMem(asm.R0, context, contextPort, asm.Word), store(recordPort, asm.Word),
		asm.LoadMem(asm.R0, context, contextProto, asm.Word), store(recordProto, asm.Word),
		asm.StoreImm(asm.RFP, record+recordFamily, family, asm.Word),
		asm.StoreImm(asm.RFP, record+recordConnect, connect, asm.Word),
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, record+recordCommand),
		asm.Mov.Imm(asm.R2, commandSize),
		asm.FnGetCurrentComm.Call(),

		asm.LoadMapPtr(asm.R1, ring),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, record),
		asm.Mov.Imm(asm.R3, recordSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.JEq.Imm(asm.R0, 0, "through"),
		asm.LoadMapValue(asm.R1, lost, 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),

		asm.Mov.Imm(asm.R0, 1).WithSymbol("through"),
		asm.Return(),
	)
}
