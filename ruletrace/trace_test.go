package ruletrace

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"github.com/pathtrace/pathtrace/packet"
)

var update = flag.Bool("update", false, "record the kernel's messages, rewrite golden files")

const recorded = "testdata/trace-6.18"

// record keeps a run's messages, one in hexadecimal on each line.
func record(t testing.TB, messages []netlink.Message) {
	t.Helper()
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(hex.EncodeToString(m.Data) + "\n")
	}
	if err := os.WriteFile(recorded+".hex", []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recordedMessages are those of TestTraceMonitor on Linux 6.18: a ping from
// left to right through a jump, a return, a goto and a verdict map, and its
// answer, which a policy drops.
func recordedMessages(t testing.TB) []netlink.Message {
	t.Helper()
	text, err := os.ReadFile(recorded + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	var messages []netlink.Message
	for line := range strings.Lines(string(text)) {
		data, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, traceOf(data))
	}
	return messages
}

func traceOf(data []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: traceMessage}, Data: data}
}

func TestDecode(t *testing.T) {
	d := NewTraceDecoder("router", func(index uint32) string { return fmt.Sprintf("if%d", index) })
	var b strings.Builder
	for i, m := range recordedMessages(t) {
		h, ok, err := d.Decode(m, uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			fmt.Fprintf(&b, "%d no hit\n", i+1)
			continue
		}
		fmt.Fprintf(&b, "%d %s %s %s: base %s, %s %d %s %s; in %q out %q; %s type %d id %d seq %d ttl %d; ct %v %q reply %v\n", h.Seq, h.Rule.Family, h.Rule.Table, h.Rule.Chain,
			h.Base, h.Kind, h.Rule.Handle, h.Verdict, h.Target, h.Ingress, h.Egress, h.Header.Tuple, h.Header.Tuple.ICMPType, h.Header.Tuple.ICMPID, h.Header.ICMPSeq, h.Header.TTL,
			h.ConntrackID != 0, h.State, h.Reply)
	}
	if *update {
		if err := os.WriteFile(recorded+".golden", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(recorded + ".golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}
}

// attributes builds a message by hand, for what no kernel here sends.
func attributes(t testing.TB, family byte, list ...netlink.Attribute) netlink.Message {
	t.Helper()
	b, err := netlink.MarshalAttributes(list)
	if err != nil {
		t.Fatal(err)
	}
	return traceOf(append([]byte{family, 0, 0, 0}, b...))
}

func text(kind uint16, value string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: []byte(value + "\x00")}
}

func number(kind uint16, value uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: []byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}}
}

// TestDecodeLost: when the first message of a packet in a chain was lost, the
// later ones must not be given what belongs to another packet.
func TestDecodeLost(t *testing.T) {
	d := NewTraceDecoder("x", nil)
	messages := recordedMessages(t)
	for _, m := range messages {
		if _, _, err := d.Decode(m, 1); err != nil {
			t.Fatal(err)
		}
	}
	var id uint32
	for known := range d.passes.newer {
		id = known
	}
	for _, m := range []netlink.Message{
		attributes(t, protoIPv4, text(attrTable, "other"), text(attrChain, "c"), number(attrType, 3), number(attrID, id)),
		attributes(t, protoIPv6, text(attrTable, "t"), text(attrChain, "c"), number(attrType, 3), number(attrID, id)),
		attributes(t, protoIPv4, text(attrTable, "t"), text(attrChain, "c"), number(attrType, 3), number(attrID, id+1)),
	} {
		hit, ok, err := d.Decode(m, 1)
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if diff := cmp.Diff(packet.Header{}, hit.Header, cmp.Comparer(func(a, b packet.Tuple) bool { return a == b })); diff != "" || hit.Base != "" {
			t.Errorf("base %q, %s", hit.Base, diff)
		}
	}
}

// TestDecodeBounded: packets that never end must not fill the memory.
func TestDecodeBounded(t *testing.T) {
	d := NewTraceDecoder("x", nil)
	header := netlink.Attribute{Type: attrNetworkHeader, Data: make([]byte, 20)}
	for id := range uint32(5 * maxRecent) {
		m := attributes(t, protoIPv4, text(attrTable, "t"), text(attrChain, "c"), number(attrID, id), header)
		if _, _, err := d.Decode(m, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(d.passes.newer) + len(d.passes.older); n > 2*maxRecent {
		t.Errorf("%d packets kept, want at most %d", n, 2*maxRecent)
	}
}

// TestDecodeHeader puts the three pieces of a packet together.
func TestDecodeHeader(t *testing.T) {
	udp := []byte{0x10, 0x00, 0x00, 0x35, 0, 8, 0, 0}
	options := make([]byte, 40) // an IPv4 header of 60 bytes, of which the kernel tells 40
	copy(options, []byte{0x4f, 0, 0, 68, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2})
	extended := make([]byte, 40) // IPv6 with an extension header, which is left out
	extended[0], extended[5], extended[7] = 0x60, 16, 64
	vlan := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0x00, 0x20, 0x2a, 0x08, 0x00}
	plain := make([]byte, 20)
	copy(plain, []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2})
	ethernet := netlink.Attribute{Type: attrIngressType, Data: []byte{0, 1}}
	tests := []struct {
		name   string
		family byte
		list   []netlink.Attribute
		want   string
	}{
		{"options", protoIPv4, []netlink.Attribute{{Type: attrNetworkHeader, Data: options}, {Type: attrTransportHeader, Data: udp}}, "v4 udp 10.1.0.2:4096 → 10.2.0.2:53 []"},
		{"extension header", protoINet, []netlink.Attribute{{Type: attrNetworkHeader, Data: extended}, {Type: attrTransportHeader, Data: udp}}, "v6 0 :: → :: []"},
		{"bridge, VLAN", protoBridge, []netlink.Attribute{ethernet, {Type: attrLinkHeader, Data: vlan}, {Type: attrNetworkHeader, Data: plain}, {Type: attrTransportHeader, Data: udp}}, "v4 udp 10.1.0.2:4096 → 10.2.0.2:53 [42]"},
		{"bridge, no link header", protoBridge, []netlink.Attribute{{Type: attrNetworkHeader, Data: plain}}, "v0 0 ? → ? []"},
	}
	for _, tt := range tests {
		list := append([]netlink.Attribute{text(attrTable, "t"), text(attrChain, "c"), number(attrType, 1), number(attrPolicy, 1)}, tt.list...)
		hit, ok, err := NewTraceDecoder("x", nil).Decode(attributes(t, tt.family, list...), 1)
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", tt.name, ok, err)
		}
		h := hit.Header
		if got := fmt.Sprintf("v%d %s %s %v", h.Version, h.Tuple.Proto, h.Tuple, h.VLANs); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	d := NewTraceDecoder("x", nil)
	if _, ok, err := d.Decode(netlink.Message{Header: netlink.Header{Type: 1 << 8}}, 1); ok || err != nil {
		t.Errorf("a conntrack event: %v, %v", ok, err)
	}
	for name, m := range map[string]netlink.Message{
		"empty":      traceOf(nil),
		"no table":   attributes(t, protoIPv4, text(attrChain, "c")),
		"cut":        traceOf([]byte{2, 0, 0, 0, 9, 0, 1, 0, 'x'}),
		"short":      attributes(t, protoIPv4, text(attrTable, "t"), text(attrChain, "c"), netlink.Attribute{Type: attrID, Data: []byte{1}}),
		"in verdict": attributes(t, protoIPv4, text(attrTable, "t"), text(attrChain, "c"), netlink.Attribute{Type: attrVerdict | 0x8000, Data: []byte{9, 0, 1, 0}}),
	} {
		if _, ok, err := d.Decode(m, 1); ok || err == nil {
			t.Errorf("%s: %v, %v; want an error", name, ok, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range recordedMessages(f) {
		f.Add(m.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewTraceDecoder("x", nil)
		for range 2 {
			hit, ok, err := d.Decode(traceOf(data), 1)
			if ok && (err != nil || hit.Rule.Table == "" || hit.Kind == "" || strings.HasPrefix(hit.Rule.Table, tablePrefix)) {
				t.Errorf("%+v, %v", hit, err)
			}
		}
	})
}

// A decoder is fed with the messages of a netfilter socket that listens to
// TraceGroup.
func ExampleTraceDecoder() {
	text, err := os.ReadFile("testdata/trace-6.18.hex")
	if err != nil {
		panic(err)
	}
	names := map[uint32]string{2: "left", 3: "right"}
	decoder := NewTraceDecoder("router", func(index uint32) string { return names[index] })
	for i, line := range strings.Fields(string(text)) {
		data, err := hex.DecodeString(line)
		if err != nil {
			panic(err)
		}
		message := netlink.Message{Header: netlink.Header{Type: 0x0a11}, Data: data}
		hit, ok, err := decoder.Decode(message, uint64(i))
		if err != nil {
			panic(err)
		}
		if ok && hit.Verdict == Drop {
			fmt.Printf("%s: %s, from %s to %s, dropped by the %s of %s\n", hit.NetNS, hit.Header.Tuple, hit.Ingress, hit.Egress, hit.Kind, hit.Rule.Chain)
		}
	}
	// Output: router: 10.2.0.2 → 10.1.0.2, from right to left, dropped by the policy of through
}
