package cli

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/topology"
)

var update = flag.Bool("update", false, "write what is compared: scripts, what is printed of bundles, and the samples of the documentation")

// listings are the bundles of commands that send no probe.
func listings(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "version2", "*.pcapng.zst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("bundles: %v, %v", files, err)
	}
	return files
}

// TestListings prints what commands that send no probe have saved. Of one that was
// killed it says so.
func TestListings(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	cut := "pathtrace: The bundle is damaged: block 11 at byte 4416 cannot be read: the zstd data is cut off; reading stopped there.\n" +
		"pathtrace: The bundle ends before the command did; this is what was known until then.\n"
	type end struct {
		Status int
		Errors string
	}
	ends := map[string]end{"table": {}, "follow": {exitInconclusive, cut}, "topology": {}, "doctor": {Status: exitFailed}}
	for _, bundle := range listings(t) {
		name := strings.TrimSuffix(bundle, ".pcapng.zst")
		for form, ending := range map[string]string{"text": ".txt", "json": ".json"} {
			status, got, errs := runHere(t, "analyze", bundle, "-o", form)
			if diff := cmp.Diff(ends[filepath.Base(name)], end{status, errs}); diff != "" {
				t.Errorf("%s: (-want +got):\n%s", name, diff)
			}
			if *update {
				if err := os.WriteFile(name+ending, []byte(got), 0o644); err != nil { //nolint:gosec // as the other files here
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(name + ending)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s as %s (-want +got):\n%s", name, form, diff)
			}
			report := filepath.Join(t.TempDir(), "report")
			if status, out, _ := runHere(t, "analyze", bundle, "-o", form, "--report", report); status != ends[filepath.Base(name)].Status || out != "" {
				t.Errorf("%s into a file: status %d, output %q", name, status, out)
			}
			if written, err := os.ReadFile(report); string(written) != got {
				t.Errorf("%s into a file: %v\n%s", name, err, written)
			}
		}
	}
}

// TestListingTooLarge leaves no file of which nothing could be printed.
func TestListingTooLarge(t *testing.T) {
	t.Parallel()
	save := saveFlags{file: filepath.Join(t.TempDir(), "topology.pcapng")}
	large := &topology.Snapshot{Source: strings.Repeat("x", 16<<20)}
	if err := save.keep(&evidence.Listing{Command: evidence.Topology, Topology: large}); err == nil {
		t.Error("it was saved")
	}
	if _, err := os.Stat(save.file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
}

// FuzzListing prints bundles whose records, one on a line, somebody has tampered
// with: no panic, and in text no control character.
func FuzzListing(f *testing.F) {
	for _, name := range listings(f) {
		f.Add(recordsOf(f, name))
	}
	f.Fuzz(func(t *testing.T, records []byte) {
		content := bundleOf(t, records)
		for _, form := range []string{"text", "json"} {
			file, err := capture.NewFile("a bundle", bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			flags := analyzeFlags{output: outputFlags{output: choice{value: form}, color: choice{value: "never"}}}
			err = flags.printListing(&environment{err: &errs}, &out, file)
			_ = file.Close() // it is in memory
			printed := out.String() + errs.String()
			if err == nil && form == "text" && strings.ContainsFunc(printed, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
				t.Errorf("%q", printed)
			}
		}
	})
}

// recordsOf are the records of a bundle, one on a line.
func recordsOf(t testing.TB, name string) []byte {
	t.Helper()
	file, err := capture.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lines [][]byte
	var batch capture.Batch
	for {
		err := file.Next(&batch)
		if errors.Is(err, io.EOF) {
			return bytes.Join(lines, []byte("\n"))
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch.Records {
			lines = append(lines, bytes.Clone(batch.Records[i].Data))
		}
	}
}

// bundleOf is a bundle with these records.
func bundleOf(t testing.TB, records []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, "")
	if err != nil {
		t.Fatal(err)
	}
	const user0 = 147
	if _, err := w.AddInterface(capture.FileInterface{Name: evidence.Interface, Link: user0}); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(records) {
		if err := w.Write(&capture.Record{Data: line}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}
