package evidence

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// TestWriter replaces a file that others may read, and reads what is written
// after each step, before the file is closed.
func TestWriter(t *testing.T) {
	for _, ending := range []string{"", ".zst"} {
		name := filepath.Join(t.TempDir(), "run.pcapng"+ending)
		if err := os.WriteFile(name, []byte("what was there"), 0o644); err != nil { //nolint:gosec // that is the point
			t.Fatal(err)
		}
		now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		w, err := Create(name, WriterConfig{Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(name); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if _, err := readFile(t, name); err == nil {
			t.Error("a bundle without a record was read")
		}
		w.Begin(&Run{Topology: &topology.Snapshot{Source: "host"}}, nil)
		tell := func(step string, events, hits int, text string) {
			t.Helper()
			run, err := readFile(t, name)
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if len(run.Events) != events || len(run.Hits) != hits || hits > 0 && run.Hits[0].Rule.Text != text || !run.Finished.Equal(now) {
				t.Errorf("%s: events %v, hits %v, finished %s", step, run.Events, run.Hits, run.Finished)
			}
		}
		tell("begun", 0, 0, "")
		w.Event(nat.Event{Kind: nat.New})
		tell("an event", 1, 0, "")
		w.Hit(0, &ruletrace.Hit{NetNS: "host"})
		tell("a hit", 1, 1, "")
		w.Hit(0, &ruletrace.Hit{NetNS: "host", Rule: ruletrace.Rule{Text: "drop"}})
		tell("its rule", 1, 1, "drop")
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		w.Event(nat.Event{Kind: nat.Update})
		tell("after it was closed", 1, 1, "drop")
	}
}

func readFile(t *testing.T, name string) (*Run, error) {
	t.Helper()
	file, err := capture.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return Read(file)
}
