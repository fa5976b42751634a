package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/pathtrace/pathtrace/capture"
)

// tracesSaved are the bundles of traces of all flows of a source.
func tracesSaved(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "version3", "*.pcapng.zst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("bundles: %v, %v", files, err)
	}
	return files
}

// TestTraces prints what exec and watch have saved. Of one that was killed it says
// so.
func TestTraces(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	defer func(zone *time.Location) { time.Local = zone }(time.Local)
	time.Local = time.UTC
	statuses := map[string]int{"exec": exitFailed, "watch": exitOK, "killed": exitInconclusive}
	for _, bundle := range tracesSaved(t) {
		name := strings.TrimSuffix(bundle, ".pcapng.zst")
		for form, ending := range map[string]string{"text": ".txt", "json": ".json"} {
			status, got, errs := runHere(t, "analyze", bundle, "-o", form)
			if want := statuses[filepath.Base(name)]; status != want || errs != "" {
				t.Errorf("%s as %s: status %d, want %d; said %q", name, form, status, want, errs)
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
		}
	}
}

// printedTrace is what is printed of a bundle in memory, and beside it.
func printedTrace(t testing.TB, content []byte, form string) (out, errs string, status int, err error) {
	t.Helper()
	file, err := capture.NewFile("a bundle", bytes.NewReader(content))
	if err != nil {
		return "", "", 0, err
	}
	defer file.Close()
	var printed, said bytes.Buffer
	env := &environment{err: &said}
	flags := analyzeFlags{output: outputFlags{output: choice{value: form}, color: choice{value: "never"}, detail: choice{value: "full"}}}
	err = flags.printTrace(env, &printed, file)
	return printed.String(), said.String(), env.status, err
}

// unpackedTrace is a bundle that is not compressed.
func unpackedTrace(t testing.TB, name string) []byte {
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
	if err != nil && !strings.HasSuffix(name, "killed.pcapng.zst") {
		t.Fatal(err)
	}
	return content
}

// TestTraceCut ends bundles anywhere. What is left is explained, never as if all was
// well and known, and says that it ends too early.
func TestTraceCut(t *testing.T) {
	for _, name := range tracesSaved(t) {
		content := unpackedTrace(t, name)
		explained := 0
		for n := len(content) / 50; n < len(content); n += len(content) / 50 {
			out, errs, status, err := printedTrace(t, content[:n], "text")
			if err != nil {
				if explained > 0 {
					t.Errorf("%s cut to %d bytes: %v", name, n, err)
				}
				continue
			}
			explained++
			if status == exitOK || !strings.Contains(out+errs, "The bundle ends before the run did") {
				t.Errorf("%s cut to %d bytes: status %d, said %q\n%s", name, n, status, errs, out)
			}
		}
		if explained < 10 {
			t.Errorf("%s: only %d of the cuts were explained", name, explained)
		}
	}
}

// FuzzTrace prints bundles of traces that somebody has tampered with: no panic, and
// in text no control character.
func FuzzTrace(f *testing.F) {
	for _, name := range tracesSaved(f) {
		f.Add(unpackedTrace(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, form := range []string{"text", "json"} {
			out, errs, _, err := printedTrace(t, content, form)
			if err == nil && form == "text" && strings.ContainsFunc(out+errs, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
				t.Errorf("%q", out+errs)
			}
		}
	})
}
