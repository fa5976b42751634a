package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pathtrace/pathtrace/report"
)

// taken is a frame as a capture has it.
type taken struct {
	at    time.Time
	iface int
	frame []byte
}

// office is a container whose host masquerades it: what cnt.pcap and up.pcap
// see of it.
type office struct {
	t       *testing.T
	now     time.Time
	ipid    uint16
	cnt, up []taken
}

func newOffice(t *testing.T) *office {
	return &office{t: t, now: time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC), ipid: 4711}
}

const (
	officeInside  = "172.17.0.2"
	officeOutside = "203.0.113.5"
)

// send makes a frame of an IPv4 packet with these layers in it.
func (o *office) send(src, dst string, ttl uint8, proto layers.IPProtocol, inner ...gopacket.SerializableLayer) []byte {
	o.t.Helper()
	ip := &layers.IPv4{
		Version: 4, IHL: 5, TTL: ttl, Id: o.ipid, Protocol: proto, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst),
	}
	for _, layer := range inner {
		if tcp, ok := layer.(*layers.TCP); ok {
			if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
				o.t.Fatal(err)
			}
		}
	}
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, append([]gopacket.SerializableLayer{ethernet, ip}, inner...)...); err != nil {
		o.t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

// pass records a packet: before NAT at one place, behind it a little later at the
// other; lost ones do not get there.
func (o *office) pass(out, lost bool, make func(inside bool) []byte) {
	o.ipid++
	o.now = o.now.Add(700 * time.Microsecond)
	first, second := &o.cnt, &o.up
	if !out {
		first, second = second, first
	}
	*first = append(*first, taken{at: o.now, frame: make(out)})
	if !lost {
		*second = append(*second, taken{at: o.now.Add(40 * time.Microsecond), frame: make(!out)})
	}
}

// ping sends pings and answers them, unless they are lost on the way out.
func (o *office) ping(target string, id uint16, count int, lost func(int) bool) {
	for n := 1; n <= count; n++ {
		payload := gopacket.Payload(fmt.Sprintf("ping %d of %d, at %d", n, id, o.now.UnixNano()))
		echo := func(kind uint8) *layers.ICMPv4 {
			return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: uint16(n)}
		}
		gone := lost != nil && lost(n)
		o.pass(true, gone, func(inside bool) []byte {
			src, ttl := officeOutside, uint8(63)
			if inside {
				src, ttl = officeInside, 64
			}
			return o.send(src, target, ttl, layers.IPProtocolICMPv4, echo(8), payload)
		})
		if gone {
			continue
		}
		o.pass(false, false, func(inside bool) []byte {
			dst, ttl := officeOutside, uint8(57)
			if inside {
				dst, ttl = officeInside, 56
			}
			return o.send(target, dst, ttl, layers.IPProtocolICMPv4, echo(0), payload)
		})
		o.now = o.now.Add(time.Second)
	}
}

// connect makes a connection from a port, which NAT changes to outside. Where
// nobody answers it is a SYN that is sent three times.
func (o *office) connect(target string, port, outside, to uint16, answered bool) {
	segment := func(out bool, tcp layers.TCP, data string) {
		o.pass(out, false, func(inside bool) []byte {
			local, localPort := officeOutside, outside
			if inside {
				local, localPort = officeInside, port
			}
			tcp.Window = 64000
			src, dst, ttl := local, target, uint8(63)
			tcp.SrcPort, tcp.DstPort = layers.TCPPort(localPort), layers.TCPPort(to)
			if !out {
				src, dst, ttl = target, local, 57
				tcp.SrcPort, tcp.DstPort = tcp.DstPort, tcp.SrcPort
			}
			if inside {
				ttl++
				if !out {
					ttl -= 2
				}
			}
			return o.send(src, dst, ttl, layers.IPProtocolTCP, &tcp, gopacket.Payload(data))
		})
	}
	seq := uint32(1000) + uint32(port)
	for n := range 3 {
		segment(true, layers.TCP{SYN: true, Seq: seq}, "")
		if answered {
			break
		}
		o.now = o.now.Add(time.Second << n)
	}
	if !answered {
		return
	}
	segment(false, layers.TCP{SYN: true, ACK: true, Seq: 9000, Ack: seq + 1}, "")
	segment(true, layers.TCP{ACK: true, Seq: seq + 1, Ack: 9001}, "")
	segment(true, layers.TCP{ACK: true, PSH: true, Seq: seq + 1, Ack: 9001}, "GET / HTTP/1.0\r\n\r\n")
	segment(false, layers.TCP{ACK: true, PSH: true, Seq: 9001, Ack: seq + 19}, "HTTP/1.0 204 No Content\r\n\r\n")
	segment(true, layers.TCP{ACK: true, FIN: true, Seq: seq + 19, Ack: 9028}, "")
	segment(false, layers.TCP{ACK: true, FIN: true, Seq: 9028, Ack: seq + 20}, "")
	segment(true, layers.TCP{ACK: true, Seq: seq + 20, Ack: 9029}, "")
}

// pcap writes a capture file.
func (o *office) pcap(dir, name string, frames []taken) string {
	o.t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		o.t.Fatal(err)
	}
	for _, f := range frames {
		info := gopacket.CaptureInfo{Timestamp: f.at, CaptureLength: len(f.frame), Length: len(f.frame)}
		if err := w.WritePacket(info, f.frame); err != nil {
			o.t.Fatal(err)
		}
	}
	return o.file(dir, name, b.Bytes())
}

// pcapng writes a capture file of several interfaces.
func (o *office) pcapng(dir, name string, interfaces []string, frames []taken) string {
	o.t.Helper()
	var b bytes.Buffer
	describe := func(name string) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet, SnapLength: 65535, TimestampResolution: 9}
	}
	w, err := pcapgo.NewNgWriterInterface(&b, describe(interfaces[0]), pcapgo.NgWriterOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	for _, name := range interfaces[1:] {
		if _, err := w.AddInterface(describe(name)); err != nil {
			o.t.Fatal(err)
		}
	}
	for _, f := range frames {
		info := gopacket.CaptureInfo{Timestamp: f.at, CaptureLength: len(f.frame), Length: len(f.frame), InterfaceIndex: f.iface}
		if err := w.WritePacket(info, f.frame); err != nil {
			o.t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		o.t.Fatal(err)
	}
	return o.file(dir, name, b.Bytes())
}

func (o *office) file(dir, name string, content []byte) string {
	o.t.Helper()
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return name
}

// pair writes the captures of both places, which ran a little longer than what
// was sent.
func (o *office) pair() (cnt, up string) {
	dir := o.t.TempDir()
	return o.pcap(dir, "cnt.pcap", o.around(o.cnt)), o.pcap(dir, "up.pcap", o.around(o.up))
}

// around puts a frame that is not IP before and after others.
func (o *office) around(frames []taken) []taken {
	beacon := append(make([]byte, 12), 0x88, 0xcc, 2, 7, 4, 2, 0, 0, 0, 0, 1, 0, 0)
	all := []taken{{at: o.cnt[0].at.Add(-time.Second), frame: beacon}}
	return append(append(all, frames...), taken{at: o.now.Add(time.Second), frame: beacon})
}

// analyzeCommand runs analyze in this process.
func analyzeCommand(ctx context.Context, in io.Reader, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"analyze"}, args...), &environment{in: in, out: &out, err: &errs})
	return status, out.String(), errs.String()
}

// analyzed runs analyze and returns its report; the status must be as wanted.
func analyzed(t *testing.T, status int, args ...string) *report.Report {
	t.Helper()
	got, stdout, stderr := analyzeCommand(t.Context(), nil, append(args, "-o", "json")...)
	if got != status {
		t.Fatalf("%v: status %d, want %d:\n%s%s", args, got, status, stdout, stderr)
	}
	r, err := report.Decode(strings.NewReader(stdout))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// counts are a flow's places with their packets, as a test writes them down.
func counts(f *report.Flow) string {
	var parts []string
	for _, p := range f.Points {
		name := strings.Trim(p.NetNS+"/"+p.Interface, "/")
		parts = append(parts, p.Leg+" "+name+" "+strconv.FormatUint(p.Packets, 10))
	}
	return strings.Join(parts, ", ")
}

func TestAnalyzePair(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 4, nil)
	cnt, up := o.pair()
	r := analyzed(t, exitOK, cnt, up)
	if len(r.Flows) != 1 {
		t.Fatalf("%d flows, want 1", len(r.Flows))
	}
	f := &r.Flows[0]
	if want := "request cnt 4, request up 4, reply up 4, reply cnt 4"; counts(f) != want {
		t.Errorf("places: %s, want %s", counts(f), want)
	}
	if f.Outcome != report.Replied || f.Code != "OK" || f.Fall != nil {
		t.Errorf("outcome %s, code %s, fall %v", f.Outcome, f.Code, f.Fall)
	}
	want := []report.Translation{
		{Kind: "snat", Field: "source", From: officeInside, To: officeOutside, Leg: "request", Confidence: report.Reconstructed},
		{Kind: "dnat", Field: "destination", From: officeOutside, To: officeInside, Leg: "reply", Confidence: report.Reconstructed},
	}
	if diff := cmp.Diff(want, f.Translations, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("translations (-want +got):\n%s", diff)
	}
	if o := r.Captures[1].Offset; o == nil || o.Low > 0 || o.High < 0 || o.Confidence != report.Reconstructed {
		t.Errorf("offset of up.pcap: %+v, want one around 0", o)
	}
	if r.Verdict.Outcome != report.Replied || r.Totals.Packets != 20 || r.Totals.Others != 4 {
		t.Errorf("verdict %+v, totals %+v", r.Verdict, r.Totals)
	}
}

func TestAnalyzeLoss(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 10, func(n int) bool { return n == 4 || n == 5 || n == 6 })
	o.connect("198.51.100.7", 40312, 61001, 443, false)
	o.connect("198.51.100.7", 40314, 61002, 80, true)
	cnt, up := o.pair()
	r := analyzed(t, exitOK, cnt, up)
	got := make(map[string]report.Flow)
	for _, f := range r.Flows {
		got[f.Tuple.Destination] = f
	}
	if f := got["192.0.2.80"]; f.Fall == nil || f.Fall.Packets != 3 || f.Points[f.Fall.From].Interface != "cnt" || f.Points[f.Fall.To].Interface != "up" || f.Code != "INCONCLUSIVE" {
		t.Errorf("pings: fall %+v, code %s", f.Fall, f.Code)
	}
	if f := got["198.51.100.7:443"]; f.Outcome != report.Lost || f.Code != "NO_REPLY" || f.Number != 1 || f.Translated.Source != "203.0.113.5:61001" {
		t.Errorf("connection without an answer: %+v", f)
	}
	if f := got["198.51.100.7:80"]; f.Outcome != report.Replied || f.Code != "OK" || f.Number != 3 {
		t.Errorf("connection with an answer: %+v", f)
	}
	if r.Verdict.Outcome != report.Lost || r.Verdict.Code != "NO_REPLY" {
		t.Errorf("verdict %+v, want that of the worst flow", r.Verdict)
	}
	if want := "1 of 3 flows got no answer. Packets are missing in 1 more. The other 1 went well."; r.Verdict.Summary != want {
		t.Errorf("summary %q, want %q", r.Verdict.Summary, want)
	}
}

func TestAnalyzeSelection(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 3, nil)
	o.connect("198.51.100.7", 40312, 61001, 443, false)
	o.connect("198.51.100.7", 40314, 61002, 80, true)
	cnt, up := o.pair()
	tests := []struct {
		args   string
		status int // of one flow by how it went, otherwise 0
		flows  int
	}{
		{"--dst 198.51.100.7", exitOK, 2},
		{"--dst 198.51.100.0/24 --dport 443", exitFailed, 1},
		{"--sport 61002", exitOK, 1},
		{"--src 203.0.113.5 -p icmp", exitOK, 1},
		{"--src 172.17.0.0/16", exitOK, 3},
		{"-p tcp", exitOK, 2},
		{"--src 192.0.2.1", exitOK, 0},
		{"--flow 1", exitFailed, 1},
		{"--flow 3", exitOK, 1},
	}
	for _, tt := range tests {
		r := analyzed(t, tt.status, append(strings.Fields(tt.args), cnt, up)...)
		if len(r.Flows) != tt.flows {
			t.Errorf("%s: %d flows, want %d", tt.args, len(r.Flows), tt.flows)
		}
		if tt.flows == 0 && r.Verdict.Outcome != report.Inconclusive {
			t.Errorf("%s: outcome %s", tt.args, r.Verdict.Outcome)
		}
	}
}

// TestAnalyzeDamage keeps what is good of files that are broken.
func TestAnalyzeDamage(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 4, nil)
	cnt, up := o.pair()
	whole, err := os.ReadFile(up)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cut := o.file(dir, "cut.pcap", whole[:len(whole)-10])
	header := o.file(dir, "header.pcap", whole[:24])
	empty := o.file(dir, "empty.pcap", nil)
	garbage := o.file(dir, "garbage.pcap", []byte("no packets here\n"))

	r := analyzed(t, exitOK, cnt, cut)
	if c := r.Captures[1]; c.Packets != 9 || c.Skipped == 0 || !strings.Contains(c.Problem, "at byte ") {
		t.Errorf("cut file: %+v", c)
	}
	r = analyzed(t, exitOK, header)
	if len(r.Flows) != 0 || r.Captures[0].Problem != "" || r.Verdict.Summary != "No packet was found." {
		t.Errorf("file without packets: %+v", r)
	}
	r = analyzed(t, exitOK, garbage, cnt, filepath.Join(dir, "missing.pcap"), up)
	if len(r.Flows) != 1 || len(r.Captures) != 4 || !strings.Contains(r.Captures[2].Problem, "text") || r.Captures[3].File != "missing.pcap" {
		t.Errorf("some of the files: %d flows, captures %+v", len(r.Flows), r.Captures)
	}
	for _, tt := range []struct {
		files []string
		want  string
	}{
		{[]string{empty}, "read empty.pcap: it is empty"},
		{[]string{garbage, empty}, "read garbage.pcap: it is text"},
		{[]string{dir}, "is a directory"},
	} {
		status, stdout, stderr := analyzeCommand(t.Context(), nil, tt.files...)
		if status != exitCannotRun || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: status %d, stdout %q, stderr %q, want %q in it", tt.files, status, stdout, stderr, tt.want)
		}
	}
}

// TestAnalyzeEmptyLogs says of logs that nothing is in them, and refuses a trace that
// is all there is.
func TestAnalyzeEmptyLogs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 1, nil)
	cnt, _ := o.pair()
	empty := file(t, "empty.txt", nil)
	rules := file(t, "rules.txt", []byte("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"))
	for _, args := range [][]string{{"--trace", empty}, {"--trace", empty, "--rules", rules}} {
		status, stdout, stderr := analyzeCommand(t.Context(), nil, args...)
		if want := "no line of a trace in empty.txt: "; status != exitCannotRun || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%v: status %d, stdout %q, stderr %q, want %q in it", args, status, stdout, stderr, want)
		}
	}
	for _, flag := range []string{"--conntrack", "--trace", "--rules"} {
		for _, args := range [][]string{{cnt, flag, empty}, {cnt, flag, empty, "--flow", "1"}} {
			if r := analyzed(t, exitOK, args...); !slices.Equal(r.Notes, []string{"empty.txt is empty."}) {
				t.Errorf("%v: notes %q", args, r.Notes)
			}
		}
	}
}

// TestAnalyzeOneLine counts one line of a log as one.
func TestAnalyzeOneLine(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 1, nil)
	cnt, _ := o.pair()
	log := file(t, "log.txt", []byte("tcp      6 59 SYN_SENT src=172.17.0.2\n"+
		"udp      17 29 src=172.17.0.2 dst=192.0.2.80 sport=4000 dport=53 [UNREPLIED] src=192.0.2.80 dst=203.0.113.5 sport=53 dport=4000\n"))
	want := "log.txt: 1 line was not understood, the first is line 1: "
	if r := analyzed(t, exitOK, cnt, "--conntrack", log); len(r.Notes) != 1 || !strings.HasPrefix(r.Notes[0], want) {
		t.Errorf("notes %q, want %q", r.Notes, want)
	}
}

// TestAnalyzeInterfaces names the places of captures, those that saw nothing
// included.
func TestAnalyzeInterfaces(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 2, nil)
	dir := t.TempDir()
	var names []string
	for n := range 126 {
		names = append(names, fmt.Sprintf("eth%d", n))
	}
	var both []taken
	for i := range o.cnt {
		inside, outside := o.cnt[i], o.up[i]
		inside.iface, outside.iface = 124, 125
		both = append(both, inside, outside)
	}
	many := o.pcapng(dir, "many.pcapng", names, both)
	one, two := o.pcapng(dir, "one.pcapng", []string{"docker0"}, o.cnt), o.pcapng(dir, "two.pcapng", []string{"ens192"}, o.up)
	cnt, up := o.pcap(dir, "cnt.pcap", o.cnt), o.pcap(dir, "up.pcap", o.up)
	tests := []struct {
		args []string
		want string
	}{
		{[]string{many}, "request eth124 2, request eth125 2, reply eth125 2, reply eth124 2"},
		{[]string{many, "--point", many + "=host"}, "request host/eth124 2, request host/eth125 2, reply host/eth125 2, reply host/eth124 2"},
		{[]string{one}, "request docker0 2, reply docker0 2"},
		{[]string{one, up}, "request one/docker0 2, request up 2, reply up 2, reply one/docker0 2"},
		{[]string{one, up, "--point", one + "=br", "--point", up + "=host/ens192"}, "request br/docker0 2, request host/ens192 2, reply host/ens192 2, reply br/docker0 2"},
		{[]string{cnt, "--point", cnt + "=c1"}, "request c1 2, reply c1 2"},
		{[]string{one, two, "--point", one + "=host", "--point", two + "=host"}, "request host/docker0 2, request host/ens192 2, reply host/ens192 2, reply host/docker0 2"},
	}
	for _, tt := range tests {
		r := analyzed(t, exitOK, tt.args...)
		if len(r.Flows) != 1 || counts(&r.Flows[0]) != tt.want {
			t.Errorf("%v: %d flows, the first at %s, want %s", tt.args, len(r.Flows), counts(&r.Flows[0]), tt.want)
		}
	}
	places := analyzed(t, exitOK, many).Captures[0].Places
	if len(places) != 126 || places[0].Interface != "eth124" || places[0].Packets != 4 || places[125].Interface != "eth123" || places[125].Packets != 0 {
		t.Errorf("%d places, from %+v to %+v", len(places), places[0], places[len(places)-1])
	}
	_, stdout, _ := analyzeCommand(t.Context(), nil, many)
	if want := "eth5 nothing, and 118 more, which saw nothing"; !strings.Contains(strings.Join(strings.Fields(stdout), " "), want) {
		t.Errorf("no %q in:\n%s", want, stdout)
	}
}

func TestAnalyzeStandardInput(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 3, nil)
	cnt, up := o.pair()
	content, err := os.ReadFile(up)
	if err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := analyzeCommand(t.Context(), bytes.NewReader(content), cnt, "-", "--point", "-=ens192")
	if want := "cnt 3 (192 B), ens192 3 (192 B) with source 203.0.113.5\n"; status != exitOK || !strings.Contains(stdout, want) {
		t.Errorf("status %d, want %q in:\n%s%s", status, want, stdout, stderr)
	}

	// A program that writes into the pipe ends when it is interrupted, too: what
	// it wrote until then counts.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := io.Pipe()
	context.AfterFunc(ctx, func() { out.Close() })
	go func() {
		if _, err := out.Write(content); err != nil {
			t.Error(err)
		}
		cancel()
	}()
	status, stdout, stderr = analyzeCommand(ctx, in, "-")
	if want := "stdin 3 "; status != exitOK || !strings.Contains(stdout, want) {
		t.Errorf("interrupted: status %d, want %q in:\n%s%s", status, want, stdout, stderr)
	}
}

// TestAnalyzeInterrupted prints what is known when it is interrupted.
func TestAnalyzeInterrupted(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 3, nil)
	cnt, up := o.pair()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, files := range [][]string{{cnt}, {cnt, up}} {
		status, stdout, stderr := analyzeCommand(ctx, nil, files...)
		if status != exitInconclusive || !strings.Contains(stdout, "INTERRUPTED.") || !strings.Contains(stdout, "  cnt.pcap") {
			t.Errorf("%v: status %d:\n%s%s", files, status, stdout, stderr)
		}
	}
}

func TestAnalyzeUsage(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 1, nil)
	cnt, up := o.pair()
	dir := t.TempDir()
	docker, ens := o.pcapng(dir, "docker.pcapng", []string{"docker0"}, o.cnt), o.pcapng(dir, "ens.pcapng", []string{"ens192"}, o.up)
	docker2 := o.pcapng(dir, "docker2.pcapng", []string{"docker0"}, o.cnt)
	tests := []struct {
		args []string
		want string
	}{
		{nil, "at least one FILE"},
		{[]string{cnt, cnt}, "is given twice"},
		{[]string{cnt, "--flow", "2"}, "--flow 2: the captures hold no more than 1"},
		{[]string{cnt, "--flow", "0"}, "numbered from 1"},
		{[]string{cnt, "--max-flows", "0"}, "--max-flows 0"},
		{[]string{cnt, "--point", "eth0"}, "is not FILE=NAME"},
		{[]string{cnt, up, "--point", cnt + "=host/eth0", "--point", up + "=host/eth0"}, "both cnt.pcap and up.pcap are called host/eth0: give each a name"},
		{[]string{cnt, up, "--point", cnt + "=up"}, "both cnt.pcap and up.pcap are called up: give each a name"},
		{[]string{docker, ens, docker2, "--point", docker + "=host", "--point", ens + "=host", "--point", docker2 + "=host"}, "both docker.pcapng and docker2.pcapng are called host/docker0: give"},
		{[]string{cnt, "--point", cnt + "="}, "is not FILE=NAME"},
		{[]string{cnt, "--point", "other.pcap=eth0"}, "there is no capture other.pcap"},
		{[]string{cnt, "--src", "example.org"}, "must be an address or a prefix"},
		{[]string{cnt, "-p", "ospfish"}, "must be icmp"},
	}
	for _, tt := range tests {
		status, stdout, stderr := analyzeCommand(t.Context(), nil, tt.args...)
		if status != exitCannotRun || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: status %d, stdout %q, stderr %q, want %q in it", tt.args, status, stdout, stderr, tt.want)
		}
	}
}
