package nfsocket

import (
	"encoding/binary"

	"github.com/ti-mo/netfilter"
	"golang.org/x/net/bpf"
)

const (
	// offsetType is where the 16-bit type of a netlink header begins, in the
	// machine's byte order; offsetAttributes is behind that header (16 bytes)
	// and nfgenmsg (4 bytes).
	offsetType       = 4
	offsetAttributes = 20

	// include/uapi/linux/netfilter/nfnetlink_conntrack.h
	attrTupleOrig  = 1 // CTA_TUPLE_ORIG
	attrTupleProto = 2 // CTA_TUPLE_PROTO
	attrProtoNum   = 1 // CTA_PROTO_NUM

	attrHeader = 4 // struct nlattr

	keep = 1 << 18 // more than any message has
)

// assemble returns the filter as a program of classic BPF. It finds the
// protocol's attribute with the kernel's own extensions for netlink attributes
// (SKF_AD_NLATTR, SKF_AD_NLATTR_NEST), which load 0 when there is none.
func (f Filter) assemble() ([]bpf.RawInstruction, error) {
	subsystem := uint32(offsetType)
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		subsystem++ // the type's upper byte
	}
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: subsystem, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(netfilter.NFSubsysCTNetlink), SkipTrue: 13},
		bpf.LoadConstant{Dst: bpf.RegX, Val: attrTupleOrig},
		bpf.LoadConstant{Dst: bpf.RegA, Val: offsetAttributes},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 9},
		bpf.LoadConstant{Dst: bpf.RegX, Val: attrTupleProto},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttrNested},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 6},
		bpf.LoadConstant{Dst: bpf.RegX, Val: attrProtoNum},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttrNested},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 3},
		bpf.TAX{},
		bpf.LoadIndirect{Off: attrHeader, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(f.Proto), SkipTrue: 1},
		bpf.RetConstant{Val: keep},
		bpf.RetConstant{Val: 0},
	})
}
