package offline

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/recording"
	"github.com/pathtrace/pathtrace/report"
)

// seedCapture is a pcap file of raw IP packets, a millisecond apart.
func seedCapture(packets ...[]byte) []byte {
	b := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0}
	for i, p := range packets {
		for _, v := range []uint32{1_700_000_000, uint32(i) * 1000, uint32(len(p)), uint32(len(p))} {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		b = append(b, p...)
	}
	return b
}

// FuzzAnalyze reads any captures and logs as analyze does, and explains the worst
// flows: within bounds of time and memory, and without a panic.
func FuzzAnalyze(f *testing.F) {
	syn := []byte("\x45\x00\x00\x28\x00\x07\x00\x00\x40\x06\x00\x00\x0a\x00\x00\x01\xc0\x00\x02\x07\x9c\x40\x00\x50\x00\x00\x03\xe8\x00\x00\x00\x00\x50\x02\x01\x00\x00\x00\x00\x00")
	translated := bytes.Clone(syn)
	copy(translated[12:], "\xcb\x00\x71\x05")
	translated[8]--
	reset := []byte("\x45\x00\x00\x28\x00\x08\x00\x00\x40\x06\x00\x00\xc0\x00\x02\x07\x0a\x00\x00\x01\x00\x50\x9c\x40\x00\x00\x00\x00\x00\x00\x03\xe9\x50\x14\x01\x00\x00\x00\x00\x00")
	first := []byte("\x45\x00\x00\x20\x00\x09\x20\x00\x40\x11\x00\x00\x0a\x00\x00\x01\xc0\x00\x02\x07\x9c\x40\x00\x35\x00\x18\x00\x00abcd")
	second := []byte("\x45\x00\x00\x1c\x00\x09\x00\x01\x40\x11\x00\x00\x0a\x00\x00\x01\xc0\x00\x02\x07efghijkl")
	unreachable := append([]byte("\x45\x00\x00\x38\x00\x0a\x00\x00\x40\x01\x00\x00\xc0\x00\x02\x01\x0a\x00\x00\x01\x03\x0d\x00\x00\x00\x00\x00\x00"), syn[:28]...)

	const conntrack = "[NEW] tcp 6 120 SYN_SENT src=10.0.0.1 dst=192.0.2.7 sport=40000 dport=80 [UNREPLIED] src=192.0.2.7 dst=203.0.113.5 sport=80 dport=40000\n"
	const trace = "TRACE: filter:FORWARD:rule:1 IN=br0 OUT=eth0 SRC=10.0.0.1 DST=192.0.2.7 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=TCP SPT=40000 DPT=80 SEQ=1000 ACK=0 WINDOW=256 RES=0x00 SYN URGP=0\n"
	const rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i br0 -j DROP\nCOMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n"
	f.Add(seedCapture(syn, reset), seedCapture(translated), conntrack, trace, rules)
	f.Add(seedCapture(syn, syn, unreachable), []byte{}, conntrack, "", "")
	f.Add(seedCapture(first, second, first), seedCapture(second, first), "", trace, rules)
	f.Add([]byte{}, []byte{}, "", trace, rules)
	recorded := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join(recording.Dir, "docker-bridge-reject", name))
		if err != nil {
			f.Fatal(err)
		}
		return content
	}
	f.Add(recorded("cnt01-eth0.pcap"), recorded("host-eth0.pcap"), string(recorded("conntrack.txt")), string(recorded("trace.txt")), string(recorded("rules.txt")))

	f.Fuzz(func(t *testing.T, a, b []byte, conntrack, trace, rules string) {
		const most = 1 << 16
		if len(a)+len(b)+len(conntrack)+len(trace)+len(rules) > most {
			return
		}
		started := time.Now()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		text := analyzeAny(t, a, b, conntrack, trace, rules)
		runtime.ReadMemStats(&after)
		if took := time.Since(started); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 2<<30 {
			t.Errorf("allocated %d bytes", allocated)
		}
		if again := analyzeAny(t, a, b, conntrack, trace, rules); again != text {
			t.Errorf("at first\n%s\nand then\n%s", text, again)
		}
	})
}

// analyzeAny returns the reports as text.
func analyzeAny(t *testing.T, a, b []byte, conntrack, trace, rules string) string {
	t.Helper()
	log := func(name, text string) []LogFile {
		if text == "" {
			return nil
		}
		return []LogFile{{Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte(text))), nil }}}
	}
	logs, err := ReadLogs(LogFiles{Conntrack: log("conntrack", conntrack), Trace: log("trace", trace), Rules: log("rules", rules)})
	if err != nil {
		logs = Logs{} // not understood
	}
	var sources []Source
	for i, data := range [][]byte{a, b} {
		if len(data) == 0 {
			continue
		}
		path := filepath.Join(t.TempDir(), fmt.Sprintf("%d.pcap", i))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, Source{Path: path})
	}
	in, err := Read(t.Context(), sources, logs, Config{MaxFlows: 4})
	if err != nil {
		return "" // no capture
	}
	var text strings.Builder
	write := func(r *report.Report) {
		if err := report.Text(&text, r, report.TextOptions{Detail: report.DetailFull, Width: 100}); err != nil {
			t.Fatal(err)
		}
	}
	write(Table(in, Selection{}, 0))
	const explained = 3
	for i := range min(explained, len(in.Result.Flows)) {
		r, err := Explain(t.Context(), in, i)
		if err != nil {
			t.Fatal(err)
		}
		write(r)
		holdTogether(t, &in.Result.Flows[i], r)
	}
	return text.String()
}

// holdTogether holds a report against the flow that it is of.
func holdTogether(t *testing.T, f *flows.Flow, r *report.Report) {
	t.Helper()
	said := &r.Flows[0]
	if said.Number != f.Number || len(said.Points) != len(f.Out)+len(f.Missing)+len(f.Back) {
		t.Errorf("flow %d is reported as %d with %d points", f.Number, said.Number, len(said.Points))
	}
	if fall := said.Fall; fall != nil && (fall.From >= fall.To || fall.To >= len(said.Points)) {
		t.Errorf("packets are missing between points %d and %d of %d", fall.From, fall.To, len(said.Points))
	}
}
