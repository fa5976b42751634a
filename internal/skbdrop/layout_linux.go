package skbdrop

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// layout is where the running kernel keeps what the program reads, in bytes,
// and the names of its drop reasons.
type layout struct {
	// of struct sk_buff
	head, data, tail, length, networkHeader, dev, dst, sock int32
	// of struct dst_entry, sock, net_device and net
	dstDev, sockNet, devIndex, devNet, netInode int32
	reasons                                     map[uint32]string
}

// kernelLayout is that of the running kernel. Reading it takes most of the time
// that opening a sensor does, and a process does it once.
var kernelLayout = sync.OnceValues(loadLayout)

func loadLayout() (*layout, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, &NotSupportedError{Feature: "BTF (CONFIG_DEBUG_INFO_BTF)", Err: err}
	}
	l, err := readLayout(spec)
	if err != nil {
		return nil, &NotSupportedError{Feature: "drop reasons (Linux 5.17)", Err: err}
	}
	return l, nil
}

// readLayout takes all of it from the kernel's own type information.
func readLayout(spec *btf.Spec) (*layout, error) {
	if err := hasReason(spec); err != nil {
		return nil, err
	}
	l := &layout{reasons: make(map[uint32]string)}
	for _, field := range []struct {
		to   *int32
		in   string
		path string
	}{
		{&l.head, "sk_buff", "head"},
		{&l.data, "sk_buff", "data"},
		{&l.tail, "sk_buff", "tail"},
		{&l.length, "sk_buff", "len"},
		{&l.networkHeader, "sk_buff", "network_header"},
		{&l.dev, "sk_buff", "dev"},
		{&l.dst, "sk_buff", "_skb_refdst"},
		{&l.sock, "sk_buff", "sk"},
		{&l.dstDev, "dst_entry", "dev"},
		{&l.sockNet, "sock", "__sk_common.skc_net.net"},
		{&l.devIndex, "net_device", "ifindex"},
		{&l.devNet, "net_device", "nd_net.net"},
		{&l.netInode, "net", "ns.inum"},
	} {
		var s *btf.Struct
		if err := spec.TypeByName(field.in, &s); err != nil {
			return nil, fmt.Errorf("type of struct %s: %w", field.in, err)
		}
		offset, err := offsetOf(s, strings.Split(field.path, "."))
		if err != nil {
			return nil, fmt.Errorf("struct %s, field %s: %w", field.in, field.path, err)
		}
		*field.to = int32(offset)
	}
	var reasons *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &reasons); err != nil {
		return nil, fmt.Errorf("type of enum skb_drop_reason: %w", err)
	}
	for _, v := range reasons.Values {
		l.reasons[uint32(v.Value)] = strings.TrimPrefix(v.Name, "SKB_DROP_REASON_")
	}
	return l, nil
}

// hasReason reports whether the tracepoint tells the reason, as it does since
// Linux 5.17: its arguments are the packet, the location and the reason, after
// one that programs do not see.
func hasReason(spec *btf.Spec) error {
	var hook *btf.Typedef
	if err := spec.TypeByName("btf_trace_kfree_skb", &hook); err != nil {
		return fmt.Errorf("tracepoint kfree_skb: %w", err)
	}
	pointer, ok := hook.Type.(*btf.Pointer)
	if !ok {
		return errors.New("tracepoint kfree_skb: not a function")
	}
	if f, ok := pointer.Target.(*btf.FuncProto); !ok || len(f.Params) < 4 {
		return errors.New("tracepoint kfree_skb tells no reason")
	}
	return nil
}

// offsetOf finds a field by its path of names, also inside members without one.
func offsetOf(t btf.Type, path []string) (uint32, error) {
	var members []btf.Member
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		rest := path
		switch m.Name {
		case path[0]:
			if rest = path[1:]; len(rest) == 0 {
				return m.Offset.Bytes(), nil
			}
		case "":
		default:
			continue
		}
		if inner, err := offsetOf(m.Type, rest); err == nil {
			return m.Offset.Bytes() + inner, nil
		}
	}
	return 0, fmt.Errorf("%s: %w", path[0], btf.ErrNotFound)
}
