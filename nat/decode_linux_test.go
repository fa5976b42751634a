package nat

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"github.com/pathtrace/pathtrace/internal/nfsocket"
)

// The recordings are of Linux 6.18: a connection through a router that
// translates both ends, with nf_conntrack_timestamp=1, and an echo without.
const (
	typeNew     = 0x100 // NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
	typeDestroy = 0x102 // … | IPCTNL_MSG_CT_DELETE
	typeTrace   = 0xa11 // NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE

	tuples4 = "020000003400018014000180080001000a010002080002000a0100011c0002800500010006000000060002000fa00000060003001f900000" +
		"340002801400018008000100c000020208000200c00002011c00028005000100060000000600020000500000060003000fa00000"
	tuples6 = "0a000000540001802c00018014000300fd5a00000000000000000000000000021400040020010db8000000000000000000000002" +
		"24000280050001003a00000006000700004d0000050008008000000005000900000000005400028" +
		"02c0001801400030020010db80000000000000000000000021400040020010db800000000000000000000000124000280050001003a000000" +
		"06000700004d00000500080081000000050009000000000008000c00b97c0ccc"
	recordedNew = tuples4 + "08000c00125f688408000300000001b80800070000000078" +
		"300004802c0001800500010001000000050002000a0000000500030000000000060004000300000006000500000000000c001b0018ea0e294200eb51"
	recordedDestroy = tuples4 + "08000c00125f688408000300000003be0800070000000077" +
		"1c0014800c00010018ea0e29420122020c00020018ea0e2942a74e4c100004800c00018005000100070000000c001b0018ea0e2942a74f14"
	recordedEcho = tuples6 + "080003000000019a080007000000001e"
)

func message(t testing.TB, typ netlink.HeaderType, flags netlink.HeaderFlags, data string) nfsocket.Message {
	t.Helper()
	raw, err := hex.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	return nfsocket.Message{
		Seq:      9,
		Received: time.Unix(5, 0),
		Netlink: netlink.Message{
			Header: netlink.Header{Length: uint32(16 + len(raw)), Type: typ, Flags: flags},
			Data:   raw,
		},
	}
}

func TestDecodeEvent(t *testing.T) {
	t.Parallel()
	connection := Flow{
		NetNS: "router", ID: 0x125f6884,
		Original: tcp("10.1.0.2:4000", "10.1.0.1:8080"),
		Reply:    tcp("192.0.2.2:80", "192.0.2.1:4000"),
	}
	begun, ended := connection, connection
	begun.Status, begun.Timeout, begun.TCPState = 0x1b8, 2*time.Minute, "SYN_SENT"
	ended.Status, ended.Timeout, ended.TCPState = 0x3be, 119*time.Second, "TIME_WAIT"
	ended.Started = time.Unix(0, 0x18ea0e2942012202)
	echoed := Flow{
		NetNS: "router", ID: 0xb97c0ccc, Status: 0x19a, Timeout: 30 * time.Second,
		Original: echo(128, 77, "fd5a::2", "2001:db8::2"),
		Reply:    echo(129, 77, "2001:db8::2", "2001:db8::1"),
	}
	for _, tt := range []struct {
		name string
		m    nfsocket.Message
		want Event
	}{
		{
			"new", message(t, typeNew, netlink.Create|netlink.Excl, recordedNew),
			Event{Kind: New, Flow: begun, Time: time.Unix(0, 0x18ea0e294200eb51)},
		},
		{
			"destroy", message(t, typeDestroy, 0, recordedDestroy),
			Event{Kind: Destroy, Flow: ended, Time: time.Unix(0, 0x18ea0e2942a74f14)},
		},
		{
			// Kernels before 6.14 tell when the flow ended, not the event's time.
			"destroy of an older kernel", message(t, typeDestroy, 0, recordedDestroy[:len(recordedDestroy)-24]),
			Event{Kind: Destroy, Flow: ended, Time: time.Unix(0, 0x18ea0e2942a74e4c)},
		},
		{
			"update without time", message(t, typeNew, 0, recordedEcho),
			Event{Kind: Update, Flow: echoed},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Seq, tt.want.Received = 9, time.Unix(5, 0)
			got, ok, err := DecodeEvent(tt.m, "router")
			if err != nil || !ok {
				t.Fatalf("%v, %v", ok, err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(equal[netip.Addr])); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodeEventOfOthers(t *testing.T) {
	t.Parallel()
	if _, ok, err := DecodeEvent(message(t, typeTrace, 0, "02000000"), "router"); ok || err != nil {
		t.Errorf("nftables trace: %v, %v", ok, err)
	}
	for name, m := range map[string]nfsocket.Message{
		"empty":            message(t, typeNew, 0, ""),
		"cut":              message(t, typeNew, 0, recordedNew[:60]),
		"unknown type":     message(t, typeNew|1, 0, recordedNew),
		"one tuple":        message(t, typeNew, 0, tuples4[:8+2*0x34]),
		"short event time": message(t, typeNew, 0, tuples4+"08001b0018ea0e29"),
	} {
		if event, ok, err := DecodeEvent(m, "router"); !ok || err == nil {
			t.Errorf("%s: %+v, %v, %v", name, event, ok, err)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, data := range []string{recordedNew, recordedDestroy, recordedEcho} {
		m := message(f, 0, 0, data)
		f.Add(uint16(typeNew), uint16(netlink.Create), m.Netlink.Data)
		f.Add(uint16(typeDestroy), uint16(0), m.Netlink.Data)
	}
	f.Fuzz(func(t *testing.T, typ, flags uint16, data []byte) {
		m := nfsocket.Message{Netlink: netlink.Message{
			Header: netlink.Header{Length: uint32(16 + len(data)), Type: netlink.HeaderType(typ), Flags: netlink.HeaderFlags(flags)},
			Data:   data,
		}}
		event, ok, err := DecodeEvent(m, "router")
		if ok != (typ>>8 == 1) {
			t.Fatalf("type %#x: conntrack: %v", typ, ok)
		}
		if !ok || err != nil {
			return
		}
		if event.Kind < New || event.Kind > Destroy {
			t.Fatalf("kind %v", event.Kind)
		}
		// What is told about a flow holds for whatever the kernel sends.
		if after, ok := event.Flow.Apply(event.Flow.Original); !ok {
			t.Fatal("the original tuple is not translated")
		} else if _, ok := event.Flow.Matches(after); !ok {
			t.Fatalf("%v does not belong to its flow", after)
		}
		for _, translation := range event.Flow.Translations() {
			if translation.From == translation.To {
				t.Fatalf("a translation that changes nothing: %+v", translation)
			}
		}
	})
}

// BenchmarkDecodeEvent is the cost of one event in user space, reading aside.
func BenchmarkDecodeEvent(b *testing.B) {
	m := message(b, typeNew, netlink.Create, recordedNew)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeEvent(m, "router"); err != nil {
			b.Fatal(err)
		}
	}
}
