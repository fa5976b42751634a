package answer_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/report"
)

var update = flag.Bool("update", false, "write the reports that are compared")

// bundles are the files of a version.
func bundles(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern, "*.pcapng.zst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("bundles: %v, %v", files, err)
	}
	return files
}

// read reads a bundle that is in memory.
func read(content []byte) (*evidence.Run, error) {
	file, err := capture.NewFile("a bundle", bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return evidence.Read(file)
}

// printed is a report as programs read it.
func printed(t testing.TB, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// unpacked is a bundle that is not compressed.
func unpacked(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestVersions answers bundles of each version that was ever written.
func TestVersions(t *testing.T) {
	for _, name := range bundles(t, "version*") {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		run, err := read(content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := answer.Report(run)
		r.Started, r.Finished = r.Started.UTC(), r.Finished.UTC()
		for _, leg := range [][]report.Hop{r.Legs.Request, r.Legs.Reply} {
			for i := range leg {
				leg[i].Time = leg[i].Time.UTC()
			}
		}
		for i := range r.Evidence {
			r.Evidence[i].Time = r.Evidence[i].Time.UTC()
		}
		got, golden := printed(t, r), strings.TrimSuffix(name, ".pcapng.zst")+".json"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil { //nolint:gosec // as the other files here
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestCut ends bundles anywhere, and where every record ends. What is left says
// that the run was ended, and never more than the whole knows.
func TestCut(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same places each time
	for _, name := range bundles(t, "version1") {
		content := unpacked(t, name)
		whole, err := read(content)
		if err != nil {
			t.Fatal(err)
		}
		begun := 0
		for range 60 {
			n := random.IntN(len(content) - 1)
			run, err := read(content[:n])
			if err != nil {
				if begun > 0 && errors.Is(err, evidence.ErrNotBundle) {
					t.Errorf("%s cut to %d bytes: %v", name, n, err)
				}
				continue
			}
			begun++
			r := answer.Report(run)
			if len(run.Sightings) > len(whole.Sightings) || len(run.Hits) > len(whole.Hits) {
				t.Errorf("%s cut to %d bytes has more than the whole", name, n)
			}
			if r.Verdict.Outcome == report.Replied || !strings.Contains(strings.Join(r.Notes, "\n"), "ends before the run did") {
				t.Errorf("%s cut to %d bytes: %s, notes %q", name, n, r.Verdict.Outcome, r.Notes)
			}
		}
		if begun == 0 {
			t.Errorf("%s: not one could be read", name)
		}
	}
}

// TestContradiction leaves out a record that says what cannot be.
func TestContradiction(t *testing.T) {
	content := unpacked(t, filepath.Join("testdata", "version1", "mtu.pcapng.zst"))
	data := []byte(`"Data":{"Bytes":20000,`)
	if !bytes.Contains(content, data) {
		t.Fatal("the bundle has no data")
	}
	run, err := read(bytes.ReplaceAll(content, data, []byte(`"Dato":{"Bytes":20000,`)))
	if err != nil {
		t.Fatal(err)
	}
	if r := answer.Report(run); len(run.Tries) != 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "could not be read") {
		t.Errorf("%d tries, notes %q", len(run.Tries), r.Notes)
	}
}

// FuzzBundle answers bundles that somebody has tampered with: no panic, and as
// much memory as a run may have.
func FuzzBundle(f *testing.F) {
	for _, name := range bundles(f, "version1") {
		f.Add(unpacked(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		run, err := read(content)
		if err != nil {
			return
		}
		if r := answer.Report(run); r.Verdict.Outcome == "" || r.Verdict.Code == "" {
			t.Errorf("verdict %+v", r.Verdict)
		}
	})
}
