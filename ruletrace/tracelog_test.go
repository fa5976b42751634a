package ruletrace

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

func readTrace(t testing.TB, text string) *TraceLog {
	t.Helper()
	log, err := ReadTrace("log", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// The lines are what the kernel logs of a ping, and of its like, through a bridge
// and a router.
func TestReadTraceKernel(t *testing.T) {
	ping := "SRC=192.168.0.2 DST=192.0.2.9 LEN=84 TOS=0x00 PREC=0x00 TTL=63 ID=57351 DF PROTO=ICMP TYPE=8 CODE=0 ID=94 SEQ=1"
	addr := netip.MustParseAddr
	pinged := packet.Header{
		Version: 4, EtherType: packet.EtherTypeIPv4, TTL: 63, IPID: 57351, DontFragment: true, PayloadLength: 64, DataLength: 56, PayloadCut: true, ICMPSeq: 1,
		Tuple: packet.Tuple{Proto: packet.ICMP, Src: addr("192.168.0.2"), Dst: addr("192.0.2.9"), ICMPType: 8, ICMPID: 94},
	}
	base := Hit{
		Seq: 1, Kind: HitRule, Legacy: true, Hook: Forward, Base: "FORWARD", ChainType: "filter", Ingress: "docker0", Egress: "eth0", BridgePort: "veth1",
		Rule: Rule{Backend: IPTablesLegacy, Family: "ip", Table: "filter", Chain: "FORWARD", Number: 5}, Header: pinged,
	}
	change := func(f func(*Hit)) Hit {
		h := base
		f(&h)
		return h
	}
	tests := []struct {
		name, line string
		want       Hit
	}{
		{"rule", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 MAC=02:42:ff:27:17:4d:02:42:c0:a8:00:02:08:00 " + ping, base},
		{"dmesg", "[90332.179725] TRACE: filter:FORWARD:rule:5     IN=docker0 OUT=eth0    PHYSIN=veth1 " + ping + " MARK=0x1f ", change(func(h *Hit) {
			h.Uptime, h.Mark = 90332*time.Second+179725*time.Microsecond, 0x1f
		})},
		{"syslog", "2026-11-26T05:47:33.5+01:00 host kernel: [90332.000000] TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 " + ping, change(func(h *Hit) {
			h.Uptime, h.Time = 90332*time.Second, time.Date(2026, 11, 26, 4, 47, 33, 500000000, time.UTC)
		})},
		{"syslog without a year", "Nov 26 05:47:33 host kernel: TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 " + ping, base},
		{"policy", "TRACE: nat:PREROUTING:policy:2 IN=docker0 OUT= PHYSIN=veth1 MAC=02:42:ff:27:17:4d:02:42:c0:a8:00:02:08:00 " + ping, change(func(h *Hit) {
			h.Kind, h.Hook, h.Base, h.ChainType, h.Priority, h.Egress = HitPolicy, Prerouting, "PREROUTING", "nat", -100, ""
			h.Rule.Table, h.Rule.Chain, h.Rule.Number = "nat", "PREROUTING", 2
			h.Header.EtherDst, h.Header.EtherSrc = packet.HardwareAddr{2, 0x42, 0xff, 0x27, 0x17, 0x4d}, packet.HardwareAddr{2, 0x42, 0xc0, 0xa8, 0, 2}
		})},
		{
			"TCP with options", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=192.168.0.2 DST=192.0.2.9 LEN=60 TOS=0x00 PREC=0x00 TTL=63 ID=57351 DF PROTO=TCP SPT=42954 DPT=3128 SEQ=3127975600 ACK=0 WINDOW=29200 RES=0x00 SYN URGP=0 OPT (020405B40402080A10B629170000000001030307) ",
			change(func(h *Hit) {
				h.Header = packet.Header{
					Version: 4, EtherType: packet.EtherTypeIPv4, TTL: 63, IPID: 57351, DontFragment: true, PayloadLength: 40,
					Tuple: packet.Tuple{Proto: packet.TCP, Src: addr("192.168.0.2"), Dst: addr("192.0.2.9"), SrcPort: 42954, DstPort: 3128},
					Seq:   3127975600, Flags: packet.SYN, Window: 29200, MSS: 1460, HasTimestamps: true, Timestamp: 0x10b62917,
				}
			}),
		},
		{
			"UDP with two lengths", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=192.168.0.2 DST=192.0.2.9 LEN=82 TOS=0x00 PREC=0x00 TTL=63 ID=57351 PROTO=UDP SPT=36775 DPT=53 LEN=62 UID=0 GID=0 ",
			change(func(h *Hit) {
				h.Header = packet.Header{
					Version: 4, EtherType: packet.EtherTypeIPv4, TTL: 63, IPID: 57351, PayloadLength: 62, DataLength: 54, PayloadCut: true,
					Tuple: packet.Tuple{Proto: packet.UDP, Src: addr("192.168.0.2"), Dst: addr("192.0.2.9"), SrcPort: 36775, DstPort: 53},
				}
			}),
		},
		{
			"ICMP error", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=192.0.2.1 DST=192.168.0.2 LEN=576 TOS=0x00 PREC=0xC0 TTL=63 ID=57351 PROTO=ICMP TYPE=3 CODE=4 [" + ping + " ] MTU=1400 ",
			change(func(h *Hit) {
				quoted := pinged
				h.Header = packet.Header{
					Version: 4, EtherType: packet.EtherTypeIPv4, TTL: 63, IPID: 57351, PayloadLength: 556, MTU: 1400, Quoted: &quoted,
					Tuple: packet.Tuple{Proto: packet.ICMP, Src: addr("192.0.2.1"), Dst: addr("192.168.0.2"), ICMPType: 3, ICMPCode: 4},
				}
			}),
		},
		{
			"IPv6", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=fd5a:0000:0000:0000:0000:0000:0000:0002 DST=2001:0db8:0000:0000:0000:0000:0000:0002 LEN=104 TC=0 HOPLIMIT=63 FLOWLBL=361934 PROTO=ICMPv6 TYPE=128 CODE=0 ID=77 SEQ=1 ",
			change(func(h *Hit) {
				h.Rule.Family = "ip6"
				h.Header = packet.Header{
					Version: 6, EtherType: packet.EtherTypeIPv6, TTL: 63, FlowLabel: 361934, PayloadLength: 64, DataLength: 56, PayloadCut: true, ICMPSeq: 1,
					Tuple: packet.Tuple{Proto: packet.ICMPv6, Src: addr("fd5a::2"), Dst: addr("2001:db8::2"), ICMPType: 128, ICMPID: 77},
				}
			}),
		},
		{
			"IPv6 fragment", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=fd5a::2 DST=2001:db8::2 LEN=1496 TC=0 HOPLIMIT=63 FLOWLBL=0 OPT ( FRAG:1448 INCOMPLETE ID:0000abcd ) PROTO=UDP ",
			change(func(h *Hit) {
				h.Rule.Family = "ip6"
				h.Header = packet.Header{
					Version: 6, EtherType: packet.EtherTypeIPv6, TTL: 63, PayloadLength: 1448, DataLength: 1448, PayloadCut: true, FragmentOffset: 1448, MoreFragments: true, IPID: 0xabcd,
					Tuple: packet.Tuple{Proto: packet.UDP, Src: addr("fd5a::2"), Dst: addr("2001:db8::2")},
				}
			}),
		},
		{
			"IPv4 fragment", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=192.168.0.2 DST=192.0.2.9 LEN=1468 TOS=0x00 PREC=0x00 TTL=63 ID=57351 MF FRAG:181 PROTO=UDP ",
			change(func(h *Hit) {
				h.Header = packet.Header{
					Version: 4, EtherType: packet.EtherTypeIPv4, TTL: 63, IPID: 57351, PayloadLength: 1448, DataLength: 1448, PayloadCut: true, FragmentOffset: 1448, MoreFragments: true,
					Tuple: packet.Tuple{Proto: packet.UDP, Src: addr("192.168.0.2"), Dst: addr("192.0.2.9")},
				}
			}),
		},
		{
			"cut TCP header", "TRACE: filter:FORWARD:rule:5 IN=docker0 OUT=eth0 PHYSIN=veth1 SRC=192.168.0.2 DST=192.0.2.9 LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=57351 PROTO=TCP INCOMPLETE [8 bytes] ",
			change(func(h *Hit) {
				h.Header = packet.Header{
					Version: 4, EtherType: packet.EtherTypeIPv4, TTL: 63, IPID: 57351, PayloadLength: 8, HeaderCut: true,
					Tuple: packet.Tuple{Proto: packet.TCP, Src: addr("192.168.0.2"), Dst: addr("192.0.2.9")},
				}
			}),
		},
		{
			"frame", "TRACE: eb:broute:BROUTING IN=veth1 OUT= MAC source = 02:42:c0:a8:00:02 MAC dest = 02:42:ff:27:17:4d proto = 0x0800 IP SRC=192.168.0.2 IP DST=192.0.2.9, IP tos=0x00, IP proto=1",
			Hit{
				Seq: 1, Kind: HitRule, Hook: Prerouting, Base: "BROUTING", Ingress: "veth1", Rule: Rule{Family: "bridge", Table: "broute", Chain: "BROUTING"},
				Header: packet.Header{
					Version: 4, EtherType: packet.EtherTypeIPv4, HeaderCut: true, PayloadCut: true, Tuple: packet.Tuple{Src: addr("192.168.0.2"), Dst: addr("192.0.2.9")},
					EtherSrc: packet.HardwareAddr{2, 0x42, 0xc0, 0xa8, 0, 2}, EtherDst: packet.HardwareAddr{2, 0x42, 0xff, 0x27, 0x17, 0x4d},
				},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := readTrace(t, tt.line+"\n")
			if diff := cmp.Diff([]Hit{tt.want}, log.Hits, compareAddrs); diff != "" || log.Skipped != 0 {
				t.Errorf("%d lines skipped, %v (-want +got)\n%s", log.Skipped, log.Problems, diff)
			}
			clock := NoClock
			switch {
			case !tt.want.Time.IsZero():
				clock = WallClock
			case tt.want.Uptime != 0:
				clock = BootClock
			}
			if log.Clock != clock {
				t.Errorf("clock %q, want %q", log.Clock, clock)
			}
		})
	}
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// TestReadTraceBase: a line in a user chain belongs to the base chain in which the
// same packet was before, also when packets are mixed.
func TestReadTraceBase(t *testing.T) {
	line := func(chain, number, in, out, id string) string {
		return "TRACE: filter:" + chain + ":rule:" + number + " IN=" + in + " OUT=" + out + " SRC=10.0.0.1 DST=10.0.0.2 LEN=84 TTL=64 ID=" + id + " PROTO=ICMP TYPE=8 CODE=0 ID=1 SEQ=1\n"
	}
	log := readTrace(t, line("user", "1", "a", "b", "9")+line("FORWARD", "1", "a", "b", "1")+line("INPUT", "1", "a", "", "2")+
		line("user", "1", "a", "", "2")+line("user", "2", "a", "b", "1"))
	var got []string
	for _, h := range log.Hits {
		got = append(got, h.Base+" "+string(h.Hook))
	}
	if want := []string{" ", "FORWARD forward", "INPUT input", "INPUT input", "FORWARD forward"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// describeHits prints what the text tells about hits, one a line.
func describeHits(hits []Hit) string {
	var b strings.Builder
	for _, h := range hits {
		verdict := strings.TrimSpace(string(h.Verdict) + " " + h.Target)
		fmt.Fprintf(&b, "%08x %s %s %s %s/%s #%d handle %d %s %q %q; in %q out %q mark %d; %s ttl %d id %d length %d type %d code %d id %d seq %d flags %#x payload %q cut %v\n",
			h.TraceID, h.Rule.Backend, h.Rule.Family, h.Rule.Table, h.Base, h.Rule.Chain, h.Rule.Number, h.Rule.Handle, h.Kind, verdict, h.Rule.Text,
			h.Ingress, h.Egress, h.Mark, h.Header.Tuple, h.Header.TTL, h.Header.IPID, h.Header.PayloadLength,
			h.Header.Tuple.ICMPType, h.Header.Tuple.ICMPCode, h.Header.Tuple.ICMPID, h.Header.ICMPSeq, h.Header.Flags, h.Header.Payload, h.Header.HeaderCut)
	}
	return b.String()
}

// TestReadTraceRecorded reads what nft 1.0.6 and xtables-monitor 1.8.9 printed at
// the same time on Linux 6.18: pings, TCP and UDP through tables of nft and of
// iptables-nft, IPv4 and IPv6, with a mark, a map of verdicts, a chain without a
// name, a return, a reject and a drop. What both tell must be the same.
func TestReadTraceRecorded(t *testing.T) {
	hits := map[string][]Hit{}
	for _, name := range []string{"nft-monitor", "xtables-monitor"} {
		text, err := os.ReadFile("testdata/logs/" + name + ".log")
		if err != nil {
			t.Fatal(err)
		}
		log := readTrace(t, string(text))
		if log.Skipped != 0 || len(log.Problems) != 0 {
			t.Errorf("%s: %d lines skipped: %v", name, log.Skipped, log.Problems)
		}
		hits[name] = log.Hits
		golden(t, "testdata/logs/"+name+".golden", describeHits(log.Hits))
	}
	nft, xtables := hits["nft-monitor"], hits["xtables-monitor"]
	if len(nft) != len(xtables) {
		t.Fatalf("%d hits and %d", len(nft), len(xtables))
	}
	for i := range nft {
		a, b := nft[i], xtables[i]
		if a.TraceID != b.TraceID || a.Rule.Table != b.Rule.Table || a.Rule.Chain != b.Rule.Chain || a.Base != b.Base || a.Kind != b.Kind ||
			a.Hook != b.Hook || a.ChainType != b.ChainType || a.Priority != b.Priority ||
			a.Verdict != b.Verdict || a.Target != b.Target || a.Ingress != b.Ingress || a.Egress != b.Egress ||
			a.Header.Tuple.Src != b.Header.Tuple.Src || a.Header.Tuple.SrcPort != b.Header.Tuple.SrcPort || a.Header.TTL != b.Header.TTL ||
			a.Header.IPID != b.Header.IPID || a.Header.PayloadLength != b.Header.PayloadLength || a.Header.EtherSrc != b.Header.EtherSrc {
			t.Errorf("hit %d differs:\n%s%s", i+1, describeHits(nft[i:i+1]), describeHits(xtables[i:i+1]))
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", file, diff)
	}
}

// TestReadTraceNumbers: a segment whose numbers nft does not print must not
// contradict the same segment in a capture.
func TestReadTraceNumbers(t *testing.T) {
	line := func(flags string) string {
		return `trace id 00000001 ip t c packet: iif "in" ip saddr 10.1.0.2 ip daddr 10.1.0.1 ip ttl 64 ip id 7 ip length 52 tcp sport 4000 tcp dport 80 tcp flags == ` + flags + " tcp window 63 \n" +
			"trace id 00000001 ip t c policy accept \n"
	}
	for flags, want := range map[string]packet.TCPFlags{"syn": packet.SYN, "0x2": packet.SYN, "rst": packet.RST, "0x12": 0, "ack": 0, "syn,ack": 0} {
		h := readTrace(t, line(flags)).Hits[0].Header
		if h.Flags != want || !h.HeaderCut || h.Window != 63 {
			t.Errorf("flags %s: %#x, cut %v, window %d", flags, h.Flags, h.HeaderCut, h.Window)
		}
		captured := h
		captured.HeaderCut, captured.Seq, captured.Ack = false, 1000, 2000
		captured.Flags = packet.ACK
		if h.Flags.Has(packet.SYN) {
			captured.Flags, captured.Ack = packet.SYN, 0
		} else if h.Flags.Has(packet.RST) {
			captured.Flags, captured.Ack = packet.RST, 0
		}
		if got := h.Compare(&captured); got != packet.Same {
			t.Errorf("flags %s: %v", flags, got)
		}
	}
}

// TestReadTraceNFT are lines that no kernel here makes nft print.
func TestReadTraceNFT(t *testing.T) {
	log := readTrace(t, `
trace id 00000001 inet t in conntrack: ct direction reply ct state established ct id 2641368242
trace id 00000001 inet t in packet: iif lo ether saddr 02:00:00:00:00:01 vlan id 5 ip saddr 10.1.0.2 ip daddr 10.1.0.1 ip ttl 64 ip id 7 ip protocol 47 ip length 52
trace id 00000001 inet t in rule jump user (verdict jump user)
trace id 00000001 inet t user verdict return
trace id 00000001 inet t in verdict continue
trace id 00000001 inet t in rule queue to 7 (verdict queue to 7)
trace id 00000001 inet t in policy drop mark 0x00000007
trace id 00000002 inet t other policy accept
trace id 00000003 inet pathtrace-1-1 c rule meta nftrace set 1 (verdict accept)
trace id 00000004 bridge b c packet: iif "port1" oif "port2" ether saddr 02:00:00:00:00:01 ether daddr 02:00:00:00:00:02 ether type arp
trace id 00000004 bridge b c policy accept
`)
	if log.Skipped != 0 {
		t.Errorf("%d lines skipped: %v", log.Skipped, log.Problems)
	}
	var got []string
	for _, h := range log.Hits {
		got = append(got, fmt.Sprintf("%s/%s %s %s %s; %s in %q out %q ct %d %q %v mark %d proto %d vlans %v from %s",
			h.Base, h.Rule.Chain, h.Kind, h.Verdict, h.Target, h.Header.Tuple.Src, h.Ingress, h.Egress, h.ConntrackID, h.State, h.Reply, h.Mark, h.Header.Tuple.Proto, h.Header.VLANs, h.Header.EtherSrc))
	}
	const packet = `10.1.0.2 in "lo" out "" ct 2641368242 "established" true mark %d proto 47 vlans [5] from 02:00:00:00:00:01`
	first := fmt.Sprintf(packet, 0)
	want := []string{
		"in/in rule jump user; " + first, "in/user return return ; " + first, "in/in rule queue ; " + first, "in/in policy drop ; " + fmt.Sprintf(packet, 7),
		`/other policy accept ; invalid IP in "" out "" ct 0 "" false mark 0 proto 0 vlans [] from 00:00:00:00:00:00`,
		`c/c policy accept ; invalid IP in "port1" out "port2" ct 0 "" false mark 0 proto 0 vlans [] from 02:00:00:00:00:01`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestReadTraceOldMonitor: old versions of xtables-monitor print the packet behind
// the first rule, without a family and with a space too few.
func TestReadTraceOldMonitor(t *testing.T) {
	log := readTrace(t, ` TRACE: 2 fc475095 raw:PREROUTING:rule:0x3:CONTINUE  -4 -t raw -A PREROUTING -p icmp -j TRACE
 PACKET: 0 fc475095 IN=lo LL=0x304 0000000000000000000000000000000000000800 SRC=127.0.0.1 DST=127.0.0.1 LEN=84 TOS=0x0 TTL=64 ID=38349DF
 TRACE: 2 fc475095 raw:PREROUTING:return:
 TRACE: 2 fc475095 raw:PREROUTING:policy:ACCEPT
 TRACE: 2 fc475095 filter:INPUT:rule:0x4:JUMP:user  -4 -t filter -A INPUT -j user
 PACKET: 0 fc475095 IN=lo SRC=127.0.0.1 DST=127.0.0.1 LEN=84 TOS=0x0 TTL=64 ID=38349DF
 TRACE: 2 fc475095 filter:user:return:
 TRACE: 2 fc475095 filter:INPUT:policy:DROP
`)
	var got []string
	for _, h := range log.Hits {
		got = append(got, fmt.Sprintf("%s %s/%s %s %s %s %s %q %d %v in %s %q", h.Hook, h.Base, h.Rule.Chain, h.Kind, h.Verdict, h.Target, h.Header.Tuple.Src, h.Ingress, h.Header.IPID, h.Header.DontFragment, h.ChainType, h.Rule.Text))
	}
	want := []string{
		`prerouting PREROUTING/PREROUTING rule continue  127.0.0.1 "lo" 38349 true in filter "-A PREROUTING -p icmp -j TRACE"`,
		`prerouting PREROUTING/PREROUTING policy accept  127.0.0.1 "lo" 38349 true in filter ""`,
		`input INPUT/INPUT rule jump user 127.0.0.1 "lo" 38349 true in filter "-A INPUT -j user"`,
		`input INPUT/user return return  127.0.0.1 "lo" 38349 true in filter ""`,
		`input INPUT/INPUT policy drop  127.0.0.1 "lo" 38349 true in filter ""`,
	}
	if diff := cmp.Diff(want, got); diff != "" || log.Skipped != 0 {
		t.Errorf("%v\n%s", log.Problems, diff)
	}
}

func TestReadTraceBroken(t *testing.T) {
	good := "TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=84 TTL=64 ID=1 PROTO=ICMP TYPE=8 CODE=0 ID=1 SEQ=1\n"
	for _, line := range []string{
		"TRACE: ",
		"TRACE: raw:PREROUTING:policy:2",
		"TRACE: raw:PREROUTING:policy:0 IN=eth0 SRC=10.0.0.1 DST=10.0.0.2",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT=",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1 DST=fd00::1 LEN=84",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.300 DST=10.0.0.2 LEN=84",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=84000",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=84 PROTO=ICMP TYPE=3 CODE=1 [SRC=10.0.0.2",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=84 PROTO=ICMP TYPE=3 CODE=1 [SRC=10.0.0.2 [SRC=10.0.0.1 ] ]",
		"TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=84 PROTO=TCP OPT (xyz)",
		"TRACE: eb:nat",
		"TRACE: eb:nat:PREROUTING MAC",
		"TRACE: 77 fc475095 raw:PREROUTING:policy:ACCEPT",
		"TRACE: 2 fc475095 raw:PREROUTING:rule:0xfffffffffffffffff:ACCEPT",
		"PACKET: 2",
		"PACKET: 77 fc475095 IN=lo SRC=10.0.0.1 DST=10.0.0.2",
		"PACKET: 0 fc475095 IN=lo SRC=10.0.0.1 DST=10.0.0.2",
		"PACKET: 2 fc475095 IN=lo SRC=10.0.0.1",
		"trace id 00000001 ip t",
		"trace id 1234567890 ip t c policy accept",
		"trace id 00000001 ipx t c policy accept",
		"trace id 00000001 ip   policy accept",
		"trace id 00000001 ip t c policy perhaps",
		"trace id 00000001 ip t c rule accept (verdict perhaps)",
		"trace id 00000001 ip t c unknown rule handle x (verdict accept)",
		"trace id 00000001 ip t c packet: ip saddr 10.0.0.300",
		"trace id 00000001 ip t c packet: ip saddr 10.0.0.3 ip daddr 10.0.0.4 ip ttl 256",
		"trace id 00000001 ip t c conntrack: ct id x",
		"trace id 00000001 ip t c what",
		"trace id 00000001 ip t c rule tcp dport 1 jump {",
		"trace id 00000001 ip t c rule accept",
		good[:len(good)-1] + strings.Repeat(" ", 1<<20),
	} {
		log := readTrace(t, good+line)
		if len(log.Hits) != 1 || log.Skipped != 1 || len(log.Problems) != 1 || log.Problems[0].Line != 2 || log.Lines != 2 {
			t.Errorf("%.80q: %d hits, %d of %d lines skipped, %v", line, len(log.Hits), log.Skipped, log.Lines, log.Problems)
		}
	}
	// Another line behind a rule that has no end.
	log := readTrace(t, "trace id 00000001 ip t c rule jump {\n"+"trace id 00000001 ip t c policy accept\n"+"[1.5] usb 1-1: new device\n")
	if len(log.Hits) != 1 || log.Skipped != 2 || len(log.Problems) != 1 || log.Problems[0].Line != 1 {
		t.Errorf("%+v", log)
	}
}

func TestReadTraceRefuses(t *testing.T) {
	const want = `; expected lines "TRACE: …" of the kernel, or the output of nft monitor trace or xtables-monitor --trace`
	for content, is := range map[string]string{
		"":                                 "this is an empty file",
		"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00": "this is a capture file",
		"# Generated\n*filter\n":           "this is a ruleset",
		"udp 17 30 src=1 [UNREPLIED]\n":    "this is a list of conntrack entries",
		"hello\nworld\n":                   "no line of it is understood",
		"TRACE: \n":                        "no line of it is understood",
	} {
		if _, err := ReadTrace("x", strings.NewReader(content)); err == nil || err.Error() != "read x: "+is+want {
			t.Errorf("%q: %v, want %s", content, err, is)
		}
	}
	broken := errors.New("the disk is gone")
	if _, err := ReadTrace("x", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// TestReadTracePublished holds what is known of published logs. That they agree
// with their rules is TestRulesPublished's.
func TestReadTracePublished(t *testing.T) {
	logs := filepath.Join(testenv.SharedData(t), "logs")
	read := func(file string) *TraceLog {
		t.Helper()
		f, err := os.Open(filepath.Join(logs, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		log, err := ReadTrace(file, f)
		if err != nil {
			t.Fatal(err)
		}
		if log.Skipped != 0 || len(log.Problems) != 0 || len(log.Hits) != log.Lines {
			t.Errorf("%s: %d hits of %d lines, %v", file, len(log.Hits), log.Lines, log.Problems)
		}
		return log
	}
	// rule lists the hits in tables of iptables at rules of base chains, with what
	// the packet was then.
	rules := func(log *TraceLog, table string) (list []string) {
		for _, h := range log.Hits {
			if h.Legacy && h.Rule.Table == table && h.Kind == HitRule {
				list = append(list, fmt.Sprintf("%s:%d %s>%s %s ttl %d", h.Rule.Chain, h.Rule.Number, h.Ingress, h.Egress, h.Header.Tuple, h.Header.TTL))
			}
		}
		return list
	}
	equal := func(what string, got []string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", what, diff)
		}
	}

	log := read("tonybai-docker0/trace-container-to-container.log")
	there, back := "192.168.0.2 → 192.168.0.3 ttl 64", "192.168.0.3 → 192.168.0.2 ttl 64"
	equal("container to container, filter", rules(log, "filter"),
		"FORWARD:1 docker0>docker0 "+there, "FORWARD:2 docker0>docker0 "+there, "FORWARD:4 docker0>docker0 "+there, "FORWARD:6 docker0>docker0 "+there,
		"FORWARD:1 docker0>docker0 "+back, "FORWARD:2 docker0>docker0 "+back, "FORWARD:3 docker0>docker0 "+back)
	equal("container to container, nat", rules(log, "nat"))
	frames, reply := 0, false
	for _, h := range log.Hits {
		if h.Rule.Family == "bridge" {
			frames++
			continue
		}
		reply = reply || h.Header.Tuple.ICMPType == packet.EchoReply
		if h.Header.Tuple.ICMPID != 90 || h.Header.ICMPSeq != 1 || h.BridgePort == "" || h.Time != (time.Time{}) || h.Uptime != 0 {
			t.Errorf("%+v", h)
		}
		if reply && h.Rule.Table == "nat" {
			t.Errorf("the reply is in the nat table: %+v", h)
		}
	}
	if frames != 8 || log.Clock != NoClock {
		t.Errorf("%d lines of ebtables, clock %q", frames, log.Clock)
	}

	log = read("tonybai-docker0/trace-container-to-external.log")
	equal("container to external, nat", rules(log, "nat"), "POSTROUTING:1 >eth0 192.168.0.2 → 10.28.61.30 ttl 63")
	equal("container to external, filter", rules(log, "filter"),
		"FORWARD:1 docker0>eth0 192.168.0.2 → 10.28.61.30 ttl 63", "FORWARD:2 docker0>eth0 192.168.0.2 → 10.28.61.30 ttl 63",
		"FORWARD:5 docker0>eth0 192.168.0.2 → 10.28.61.30 ttl 63",
		"FORWARD:1 eth0>docker0 10.28.61.30 → 192.168.0.2 ttl 56", "FORWARD:2 eth0>docker0 10.28.61.30 → 192.168.0.2 ttl 56",
		"FORWARD:3 eth0>docker0 10.28.61.30 → 192.168.0.2 ttl 56")
	var answers []string
	for _, h := range log.Hits {
		if h.Header.Tuple.ICMPType == packet.EchoReply && h.Legacy {
			answers = append(answers, h.Rule.Table+":"+h.Rule.Chain+" to "+h.Header.Tuple.Dst.String())
		}
	}
	if len(answers) < 3 || answers[0] != "raw:PREROUTING to 10.171.77.0" || !slices.Contains(answers, "mangle:FORWARD to 192.168.0.2") {
		t.Errorf("the reply: %q", answers)
	}
	if last := log.Hits[len(log.Hits)-1]; last.Egress != "veth0594f4b" && last.BridgeOutPort != "veth0594f4b" {
		t.Errorf("the last hit: %+v", last)
	}

	log = read("libvirt-nat/trace-vm-to-external.log")
	connection := "192.168.122.17:42954 → 10.44.32.217:3128 ttl 63"
	equal("VM, filter", rules(log, "filter"), "FORWARD:2 virbr0>bond0 "+connection)
	equal("VM, nat", rules(log, "nat"), "POSTROUTING:3 >bond0 "+connection)
	if first := log.Hits[0]; log.Clock != BootClock || first.Uptime != 5121056357116*time.Microsecond || !first.Time.IsZero() || first.Header.Seq != 3127975600 {
		t.Errorf("%+v", first)
	}

	log = read("gke-kubedns/trace-pod-to-kubedns.log")
	nat := rules(log, "nat")
	if want := "KUBE-SEP-MQYG7Z5PYI3N6YFY:2 cbr0> 10.24.12.40:36775 → 10.27.240.10:53 ttl 64"; !slices.Contains(nat, want) {
		t.Errorf("no %s in %q", want, nat)
	}
	for _, h := range log.Hits {
		to := "10.24.9.31"
		if h.Hook == Prerouting {
			to = "10.27.240.10"
		}
		if h.Header.Tuple.Src.String() != "10.24.12.40" || h.Header.Tuple.Dst.String() != to || h.Header.Tuple.Proto != packet.UDP || h.Base == "" {
			t.Errorf("%s:%s: %s", h.Rule.Table, h.Rule.Chain, h.Header.Tuple) // no reply, no source translation
		}
	}
	if last := log.Hits[len(log.Hits)-1]; last.Hook != Postrouting || last.Egress != "eth0" {
		t.Errorf("the last hit: %+v", last)
	}
}

func FuzzReadTrace(f *testing.F) {
	for _, name := range []string{"nft-monitor", "xtables-monitor"} {
		text, err := os.ReadFile("testdata/logs/" + name + ".log")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text[:2000]))
	}
	f.Add("[12.5] TRACE: filter:FORWARD:rule:5 IN=a OUT=b PHYSIN=c MAC=02:42:ff:27:17:4d:02:42:c0:a8:00:02:08:00 SRC=192.0.2.1 DST=192.168.0.2 LEN=576 TTL=63 ID=57351 DF FRAG:1 PROTO=ICMP TYPE=3 CODE=4 [SRC=1.1.1.1 DST=2.2.2.2 PROTO=TCP SPT=1 DPT=2 INCOMPLETE [8 bytes] ] MTU=1400 MARK=0x1\n")
	f.Add("TRACE: filter:user:return:5 IN=a OUT= SRC=fd00::1 DST=fd00::2 LEN=1496 HOPLIMIT=63 FLOWLBL=9 OPT ( FRAG:8 INCOMPLETE ID:0000abcd ) PROTO=TCP SPT=1 DPT=2 SEQ=1 ACK=2 WINDOW=3 SYN ACK OPT (0204)\n")
	f.Add(" TRACE: 2 fc475095 raw:PREROUTING:rule:0x3:CONTINUE  -4 -t raw -A PREROUTING\n PACKET: 0 fc475095 IN=lo SRC=127.0.0.1 DST=127.0.0.1 LEN=84 ID=38349DF\nTRACE: eb:nat:PREROUTING IN=x SRC=1.1.1.1,\n")
	f.Fuzz(func(t *testing.T, text string) {
		log, err := ReadTrace("log", strings.NewReader(text))
		again, err2 := ReadTrace("log", strings.NewReader(text))
		if !reflect.DeepEqual(log, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatal("the second reading differs from the first")
		}
		if len(log.Hits)+log.Excess > log.Lines || log.Skipped > log.Lines {
			t.Fatalf("%d hits and %d skipped of %d lines", len(log.Hits), log.Skipped, log.Lines)
		}
		for i, h := range log.Hits {
			if h.Seq != uint64(i+1) || h.Rule.Table == "" || h.Rule.Chain == "" || h.Rule.Family == "" {
				t.Fatalf("%+v", h)
			}
		}
	})
}
