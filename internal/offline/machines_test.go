package offline

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/report"
)

// savedRun is a run of the demo that the program carries.
const savedRun = "../cli/recording.pcapng.zst"

// TestMachines: a saved run of one machine, and a capture of another whose clock
// is wrong.
func TestMachines(t *testing.T) {
	const wrong = 3700 * time.Millisecond
	folder := t.TempDir()
	gateway := filepath.Join(folder, "gw.pcap")
	excerpt(t, savedRun, "gateway/", wrong, gateway)
	file, err := capture.OpenFile(savedRun)
	if err != nil {
		t.Fatal(err)
	}
	run, err := evidence.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	var logs Logs
	logs.AddRun(Machine(savedRun), run)
	in, err := Read(t.Context(), []Source{{Path: savedRun}, {Path: gateway, Point: "gw01/both"}}, logs, Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := explained(t, in, func(f *report.Flow) bool { return f.Tuple.Protocol == "icmpv6" })
	if r.Verdict.Outcome != report.Replied {
		t.Error(r.Verdict.Summary)
	}
	offset := r.Captures[1].Offset
	if offset == nil || offset.Low > wrong.Seconds() || offset.High < wrong.Seconds() || offset.High-offset.Low > 0.001 {
		t.Errorf("the clock of the gateway: %+v", offset)
	}
	seen, rules := false, 0
	for i, h := range r.Legs.Request {
		seen = seen || h.NetNS == "gw01"
		if i > 0 && h.Time.Sub(r.Legs.Request[i-1].Time) > time.Millisecond {
			t.Errorf("%s/%s is %v behind the place before", h.NetNS, h.Interface, h.Time.Sub(r.Legs.Request[i-1].Time))
		}
		for _, s := range h.Steps {
			if s.Rule != nil {
				rules++
			}
		}
	}
	if !seen || rules == 0 || r.Legs.Request[0].Machine != Machine(savedRun) {
		t.Errorf("seen at the gateway: %v; %d rules; from machine %q", seen, rules, r.Legs.Request[0].Machine)
	}
	observed := 0
	for _, tr := range r.Translations {
		if tr.Leg == "request" && tr.Confidence == report.Observed {
			observed++
			if tr.Kind != "masquerade" || tr.Rule == nil || !strings.Contains(tr.Rule.Text, "masquerade") {
				t.Errorf("%+v", tr)
			}
		}
	}
	if observed != 1 {
		t.Errorf("%d translations observed, want the host's: %+v", observed, r.Translations)
	}
}

// excerpt writes the packets of some interfaces of a bundle into a capture of its
// own, by a clock that goes wrong.
func excerpt(t *testing.T, from, interfaces string, wrong time.Duration, to string) {
	t.Helper()
	in, err := capture.OpenFile(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	out = append(out, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	out = binary.LittleEndian.AppendUint32(out, 1<<18)
	out = binary.LittleEndian.AppendUint32(out, 1)
	var b capture.Batch
	for {
		err := in.Next(&b)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			if !strings.HasPrefix(in.Interfaces()[r.Interface].Name, interfaces) {
				continue
			}
			at := r.Time + wrong.Nanoseconds()
			for _, word := range []uint32{uint32(at / 1e9), uint32(at % 1e9), uint32(len(r.Data)), r.Length} {
				out = binary.LittleEndian.AppendUint32(out, word)
			}
			out = append(out, r.Data...)
		}
	}
	if err := os.WriteFile(to, out, 0o600); err != nil {
		t.Fatal(err)
	}
}
