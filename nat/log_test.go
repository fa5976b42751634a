package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// A ping and a connection as conntrack 1.4.7 shows them.
const (
	pingOriginal = "src=10.1.0.2 dst=192.0.2.2 type=8 code=0 id=77 "
	pingReply    = "src=192.0.2.2 dst=192.0.2.1 type=0 code=0 id=77"
	tcpOriginal  = "src=10.1.0.2 dst=10.1.0.1 sport=4000 dport=8080 "
	tcpReply     = "src=192.0.2.2 dst=192.0.2.1 sport=80 dport=4000"
)

func readLog(t testing.TB, text string) *Log {
	t.Helper()
	log, err := ReadLog("log", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

var pinger, pinged = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("192.0.2.2")

func ping() Flow {
	return Flow{
		Original: packet.Tuple{Proto: packet.ICMP, Src: pinger, Dst: pinged, ICMPType: 8, ICMPID: 77},
		Reply:    packet.Tuple{Proto: packet.ICMP, Src: pinged, Dst: netip.MustParseAddr("192.0.2.1"), ICMPID: 77},
		Timeout:  30 * time.Second, Status: StatusConfirmed | StatusSrcNAT,
	}
}

func connection(status Status) Flow {
	return Flow{
		Original: tcp("10.1.0.2:4000", "10.1.0.1:8080"), Reply: tcp("192.0.2.2:80", "192.0.2.1:4000"),
		Status: status | StatusConfirmed | StatusSrcNAT | StatusDstNAT,
	}
}

func with(f Flow, change func(*Flow)) Flow {
	change(&f)
	return f
}

func TestReadLogLine(t *testing.T) {
	began := ping()
	answered := with(ping(), func(f *Flow) { f.Status |= StatusSeenReply })
	listed := with(connection(StatusAssured|StatusSeenReply), func(f *Flow) {
		f.TCPState, f.Timeout, f.Mark, f.ID = "ESTABLISHED", 431999*time.Second, 7, 2993966208
	})
	offloaded := with(connection(StatusAssured|StatusSeenReply), func(f *Flow) { f.Zone = 5 })
	tunnel := Flow{
		Original: packet.Tuple{Proto: 47, Src: pinger, Dst: pinged, SrcPort: 0x10, DstPort: 0x20},
		Reply:    packet.Tuple{Proto: 47, Src: pinged, Dst: pinger, SrcPort: 0x20, DstPort: 0x10},
		Timeout:  29 * time.Second, Status: StatusConfirmed | StatusSeenReply,
	}
	six := Flow{
		Original: echo(128, 77, "fd5a::2", "2001:db8::2"), Reply: echo(129, 77, "2001:db8::2", "2001:db8::1"),
		Timeout: 30 * time.Second, Status: StatusConfirmed | StatusSrcNAT,
	}
	tests := []struct {
		name, line string
		want       Event
	}{
		{"event", "    [NEW] icmp     1 30 " + pingOriginal + "[UNREPLIED] " + pingReply, Event{Kind: New, Flow: began}},
		{"answer", " [UPDATE] icmp     1 30 " + pingOriginal + pingReply, Event{Kind: Update, Flow: answered}},
		{
			"all options", "[1795672052.752264]\t    [NEW] ipv4     2 icmp     1 30 " + pingOriginal + "[UNREPLIED] " + pingReply + " id=3185271552",
			Event{Kind: New, Flow: with(began, func(f *Flow) { f.ID = 3185271552 }), Received: time.Unix(1795672052, 752264000)},
		},
		{
			"end", "[DESTROY] tcp      6 115 TIME_WAIT " + tcpOriginal + "packets=5 bytes=273 " + tcpReply +
				" packets=3 bytes=164 [ASSURED] delta-time=5 [start=Thu Nov 26 05:47:33 2026] [stop=Thu Nov 26 05:47:38 2026] id=7 [USERSPACE] portid=3663941070 progname=a b",
			Event{Kind: Destroy, Flow: with(connection(StatusAssured|StatusSeenReply|StatusDying), func(f *Flow) {
				f.TCPState, f.Timeout, f.ID = "TIME_WAIT", 115*time.Second, 7
			})},
		},
		{
			"end of an old kernel", "[DESTROY] tcp      6 " + tcpOriginal + tcpReply + " [ASSURED]",
			Event{Kind: Destroy, Flow: connection(StatusAssured | StatusSeenReply | StatusDying)},
		},
		{
			"list", "tcp      6 431999 ESTABLISHED " + tcpOriginal + tcpReply + " [ASSURED] mark=7 secctx=system_u:object_r:x labels=a,b use=1 id=2993966208",
			Event{Kind: Existing, Flow: listed},
		},
		{
			"list of the kernel", "ipv4     2 tcp      6 " + tcpOriginal + "zone-orig=5 " + tcpReply + " [HW_OFFLOAD] mark=0 use=3",
			Event{Kind: Existing, Flow: with(offloaded, func(f *Flow) { f.Status &^= StatusAssured })},
		},
		{
			"zone of the reply", "tcp 6 " + tcpOriginal + tcpReply + " reply-zone=5 [ASSURED]",
			Event{Kind: Existing, Flow: offloaded},
		},
		{"IPv6", "[NEW] icmpv6   58 30 src=fd5a::2 dst=2001:db8::2 type=128 code=0 id=77 [UNREPLIED] src=2001:db8::2 dst=2001:db8::1 type=129 code=0 id=77", Event{Kind: New, Flow: six}},
		{
			"GRE", "unknown  47 29 src=10.1.0.2 dst=192.0.2.2 srckey=0x10 dstkey=0x20 src=192.0.2.2 dst=10.1.0.2 srckey=0x20 dstkey=0x10",
			Event{Kind: Existing, Flow: tunnel},
		},
		{
			"journal", "2026-11-26T05:47:33.5+0000 host conntrack[12]: [NEW] icmp     1 30 " + pingOriginal + "[UNREPLIED] " + pingReply,
			Event{Kind: New, Flow: began, Received: time.Unix(1795672053, 500000000)},
		},
		{
			"list in a journal", "1795672053.5 host cron[12]: icmp     1 30 " + pingOriginal + "[UNREPLIED] " + pingReply,
			Event{Kind: Existing, Flow: began, Received: time.Unix(1795672053, 500000000)},
		},
		{
			"XML", `<flow type="destroy"><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.1.0.2</src><dst>10.1.0.1</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>4000</sport><dport>8080</dport></layer4><counters><packets>1</packets><bytes>60</bytes></counters></meta>` +
				`<meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>192.0.2.2</src><dst>192.0.2.1</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>80</sport><dport>4000</dport></layer4></meta>` +
				`<meta direction="independent"><state>CLOSE</state><timeout>120</timeout><mark>7</mark><zone>5</zone><id>287892236</id><unreplied/><timestamp><start>1795672053725795918</start></timestamp></meta><when><hour>5</hour></when></flow>`,
			Event{Kind: Destroy, Flow: with(connection(StatusDying), func(f *Flow) {
				f.TCPState, f.Timeout, f.ID, f.Mark, f.Zone = "CLOSE", 120*time.Second, 287892236, 7, 5
				f.Started = time.Unix(1795672053, 725795918)
			})},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := readLog(t, tt.line+"\n")
			tt.want.Seq = 1
			if diff := cmp.Diff([]Event{tt.want}, log.Events, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(time.Time.Equal)); diff != "" || log.Skipped != 0 {
				t.Errorf("%d lines skipped (-want +got)\n%s", log.Skipped, diff)
			}
		})
	}
}

func TestReadLogBroken(t *testing.T) {
	good := "[NEW] icmp 1 30 " + pingOriginal + pingReply
	for _, line := range []string{
		"[NEW]",
		"hello",
		"[NEW] icmp 1 30 src=10.1.0.2 dst=192.0.2.2",
		"[NEW] icmp 1 30 " + pingOriginal + pingReply + " src=1.2.3.4",
		"[NEW] " + pingOriginal + pingReply,
		"[NEW] 1 30 " + pingOriginal + pingReply,
		"[NEW] icmp 256 30 " + pingOriginal + pingReply,
		"[NEW] icmp 1 99999999999 " + pingOriginal + pingReply,
		"[NEW] icmp 1 30 src=10.1.0.2 type=8 code=0 id=77 " + pingReply,
		"[NEW] icmp 1 30 src=10.1.0.2%eth0 dst=192.0.2.2 " + pingReply,
		"[NEW] icmp 1 30 src=fd5a::2 dst=192.0.2.2 " + pingReply,
		"[NEW] udp 17 30 src=10.1.0.2 dst=192.0.2.2 sport=65536 dport=53 src=192.0.2.2 dst=10.1.0.2 sport=53 dport=1",
		`<flow type="new"><meta direction="original"></flow>`,
		`<flow type="new"><meta direction="original"><layer3><src>10.1.0.2</src><dst>10.1.0.1</dst></layer3></meta></flow>`,
		`<flow><meta direction="independent"><mark>-1</mark></meta></flow>`,
		`<flow><meta direction="original">`,
		good + strings.Repeat(" ", 1<<20),
	} {
		log := readLog(t, "\n"+good+"\n"+line)
		if len(log.Events) != 1 || log.Skipped != 1 || len(log.Problems) != 1 || log.Problems[0].Line != 3 || log.Lines != 3 {
			t.Errorf("%.80q: %d events, %d of %d lines skipped, %v", line, len(log.Events), log.Skipped, log.Lines, log.Problems)
		}
	}
	// ICMP in XML has no id, by which flows are told apart.
	log := readLog(t, good+"\n"+`<flow><meta direction="original"><layer3><src>10.1.0.2</src><dst>10.1.0.1</dst></layer3><layer4 protonum="1"/></meta>`+
		`<meta direction="reply"><layer3><src>10.1.0.1</src><dst>10.1.0.2</dst></layer3><layer4 protonum="1"/></meta></flow>`)
	if len(log.Events) != 1 || log.Skipped != 1 || !strings.Contains(log.Problems[0].Text, "ICMP") {
		t.Errorf("%+v", log)
	}
}

// TestReadLogFrame: what stands around entries is no problem.
func TestReadLogFrame(t *testing.T) {
	log := readLog(t, "conntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.\n\n"+
		"<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n</conntrack>\nicmp 1 30 "+pingOriginal+pingReply+
		"\n300 proto=17 src=1.2.3.4 dst=1.2.3.4 sport=0 dport=1 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=1.2.3.4 master-dst=1.2.3.4 sport=5 dport=111 class=0 helper=rpc\n"+
		"<flow type=\"new\">\n<meta direction=\"expected\"></meta></flow>\n")
	if log.Skipped != 0 || len(log.Problems) != 0 || len(log.Events) != 1 || log.Expectations != 2 || log.Lines != 9 {
		t.Errorf("%+v", log)
	}
}

func TestReadLogRefuses(t *testing.T) {
	for content, want := range map[string]string{
		"":                                 "read x: this is an empty file; expected what conntrack -E or -L prints, or /proc/net/nf_conntrack",
		"\xd4\xc3\xb2\xa1\x02\x00\x04\x00": "read x: this is a capture file; expected what conntrack -E or -L prints, or /proc/net/nf_conntrack",
		"TRACE: raw:PREROUTING:policy:2\n": "read x: this is a trace of rules; expected what conntrack -E or -L prints, or /proc/net/nf_conntrack",
		"hello\nworld\n":                   "read x: no line of it is understood; expected what conntrack -E or -L prints, or /proc/net/nf_conntrack",
	} {
		if _, err := ReadLog("x", strings.NewReader(content)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	broken := errors.New("the disk is gone")
	if _, err := ReadLog("x", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestReadLogExcess(t *testing.T) {
	line := "udp 17 30 src=10.1.0.2 dst=192.0.2.2 sport=1 dport=53 src=192.0.2.2 dst=10.1.0.2 sport=53 dport=1\n"
	log := readLog(t, strings.Repeat(line, maxLogEvents+3))
	if len(log.Events) != maxLogEvents || log.Excess != 3 || log.Skipped != 0 || len(log.Problems) != 1 || log.Problems[0].Line != maxLogEvents+1 {
		t.Errorf("%d events, %d more, %v", len(log.Events), log.Excess, log.Problems)
	}
}

// TestReadLogPublished holds what is known of published logs.
func TestReadLogPublished(t *testing.T) {
	logs := filepath.Join(testenv.SharedData(t), "logs")
	read := func(t *testing.T, file string) *Log {
		t.Helper()
		f, err := os.Open(filepath.Join(logs, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		log, err := ReadLog(file, f)
		if err != nil {
			t.Fatal(err)
		}
		if log.Skipped != 0 || len(log.Problems) != 0 || log.Excess != 0 {
			t.Errorf("%s: %d lines skipped: %v", file, log.Skipped, log.Problems)
		}
		return log
	}
	describe := func(log *Log) (lines []string) {
		for _, e := range log.Events {
			line := fmt.Sprintf("%v %v %v", e.Kind, e.Flow.Original.Proto, e.Flow.Original)
			for _, t := range e.Flow.Translations() {
				line += fmt.Sprintf(", %s %s to %s", t.Field, t.From, t.To)
			}
			if !e.Flow.Status.Has(StatusSeenReply) {
				line += ", no reply"
			}
			if e.Flow.Status.Has(StatusAssured) {
				line += ", assured"
			}
			lines = append(lines, line)
		}
		return lines
	}
	for _, tt := range []struct {
		file string
		want []string
	}{
		{"gke-kubedns/conntrack-L.txt", []string{
			"EXISTING udp 10.24.12.40:57400 → 10.27.240.10:53, destination 10.27.240.10:53 to 10.24.9.31:53, no reply",
			"EXISTING udp 10.142.15.206:37337 → 10.27.240.10:53, destination 10.27.240.10:53 to 10.24.9.31:53, assured",
		}},
		{"weave-scope/conntrack-E-o-id.log", []string{
			"DESTROY tcp 10.0.0.1:36826 → 127.0.0.1:28106, destination 127.0.0.1:28106 to 10.0.0.2:28107, source 10.0.0.1:36826 to 127.0.0.2:36826, assured",
			"NEW tcp 10.0.0.1:36898 → 127.0.0.1:28107, destination 127.0.0.1:28107 to 10.0.0.2:28107, source 10.0.0.1:36898 to 127.0.0.2:36898, no reply",
			"UPDATE tcp 10.0.0.1:36898 → 127.0.0.1:28107, destination 127.0.0.1:28107 to 10.0.0.2:28107, source 10.0.0.1:36898 to 127.0.0.2:36898",
			"UPDATE tcp 10.0.0.1:36898 → 127.0.0.1:28107, destination 127.0.0.1:28107 to 10.0.0.2:28107, source 10.0.0.1:36898 to 127.0.0.2:36898, assured",
		}},
		{"weave-scope/conntrack-L-o-id.txt", []string{"EXISTING tcp 10.0.2.2:49911 → 10.0.2.15:22, assured"}},
		{"k8s-issue-91216/conntrack-L-service-dns.txt", []string{
			"EXISTING tcp 10.64.4.48:41993 → 10.0.0.10:53, destination 10.0.0.10:53 to 10.64.1.6:53, assured",
			"EXISTING tcp 10.64.4.48:55071 → 10.0.0.10:53, destination 10.0.0.10:53 to 10.64.1.6:53, assured",
			"EXISTING tcp 127.0.0.1:43938 → 127.0.0.1:38583, assured",
			"EXISTING tcp 10.64.4.48:52857 → 10.0.0.10:53, destination 10.0.0.10:53 to 10.64.2.4:53, assured",
			"EXISTING tcp 10.64.4.48:50087 → 10.0.0.10:53, destination 10.0.0.10:53 to 10.64.1.6:53, assured",
		}},
		{"conntrack-tools-manual/conntrack-E.log", []string{
			"NEW udp 192.168.2.100:57767 → 192.168.2.1:53, no reply",
			"UPDATE udp 192.168.2.100:57767 → 192.168.2.1:53",
			"NEW tcp 192.168.2.100:33379 → 66.102.9.104:80, no reply",
			"UPDATE tcp 192.168.2.100:33379 → 66.102.9.104:80",
			"UPDATE tcp 192.168.2.100:33379 → 66.102.9.104:80, assured",
		}},
	} {
		if diff := cmp.Diff(tt.want, describe(read(t, tt.file))); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.file, diff)
		}
	}
	for _, e := range read(t, "weave-scope/conntrack-E-o-id.log").Events {
		if e.Flow.ID != 347275904 {
			t.Errorf("flow id %d", e.Flow.ID)
		}
	}
	if log := read(t, "conntrack-tools-manual/conntrack-E-expect.log"); log.Expectations != 3 || len(log.Events) != 0 {
		t.Errorf("expectations: %+v", log)
	}
	marks := 0
	manual := read(t, "conntrack-tools-manual/conntrack-L.txt")
	for _, e := range manual.Events {
		if e.Flow.TCPState != "ESTABLISHED" || e.Flow.Timeout < 431698*time.Second {
			t.Errorf("%+v", e)
		}
		marks += int(e.Flow.Mark)
	}
	if len(manual.Events) != 7 || marks != 2 {
		t.Errorf("%d entries, marks %d", len(manual.Events), marks)
	}
}

func FuzzReadLog(f *testing.F) {
	f.Add("[1795672052.752264]\t    [NEW] ipv4     2 icmp     1 30 " + pingOriginal + "[UNREPLIED] " + pingReply + " id=3185271552\n")
	f.Add("[DESTROY] tcp      6 115 TIME_WAIT " + tcpOriginal + "packets=5 bytes=273 " + tcpReply + " [ASSURED] mark=7 zone=3 use=1\n")
	f.Add("    [NEW] 300 proto=17 src=1.2.3.4 mask-src=255.255.255.255\nconntrack v1.4.7 (conntrack-tools): 4 flow entries have been shown.\n")
	f.Add(`<conntrack>` + "\n" + `<flow type="new"><meta direction="original"><layer3><src>10.1.0.2</src><dst>10.1.0.1</dst></layer3><layer4 protonum="6"><sport>1</sport></layer4></meta><meta direction="independent"><mark>1</mark></meta></flow>`)
	f.Fuzz(func(t *testing.T, text string) {
		log, err := ReadLog("log", strings.NewReader(text))
		again, err2 := ReadLog("log", strings.NewReader(text))
		if !reflect.DeepEqual(log, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatal("the second reading differs from the first")
		}
		if len(log.Events)+log.Excess+log.Skipped+log.Expectations > log.Lines {
			t.Fatalf("more events than lines: %+v", log)
		}
		for _, e := range log.Events {
			if after, ok := e.Flow.Apply(e.Flow.Original); !ok {
				t.Fatal("the original tuple is not translated")
			} else if _, ok := e.Flow.Matches(after); !ok {
				t.Fatalf("%v does not belong to its flow", after)
			}
		}
	})
}
