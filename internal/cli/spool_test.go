//go:build linux

package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAnalyzePiped reads a capture and bundles of every kind from standard input and
// from a pipe with a name as it does from files, and leaves no file behind.
func TestAnalyzePiped(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	o := newOffice(t)
	o.ping("192.0.2.80", 38, 3, nil)
	cnt, _ := o.pair()
	files := map[string]string{
		"a capture": cnt,
		"a run":     file(t, "run.pcapng.zst", recording),
		"a trace":   tracesSaved(t)[0],
		"a listing": filepath.Join("testdata", "version2", "doctor.pcapng.zst"),
	}
	for name, path := range files {
		want, printed, said := runHere(t, "analyze", path)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pipe := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		go os.WriteFile(pipe, content, 0) //nolint:errcheck // what is read tells
		inputs := map[string]io.Reader{pipe: nil, "-": bytes.NewReader(content)}
		if name == "a capture" {
			delete(inputs, "-") // it is called stdin, as TestAnalyzeStandardInput has it
		}
		for from, in := range inputs {
			status, stdout, stderr := analyzeCommand(t.Context(), in, from)
			if status != want || stderr != said || stdout != printed {
				t.Errorf("%s from %s: status %d, want %d, error %q, want %q:\n%s\nwant:\n%s", name, from, status, want, stderr, said, stdout, printed)
			}
		}
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v (%v)", left, err)
	}
}

// TestAnalyzePipeSilent is interrupted while nobody writes to a pipe, and names it.
func TestAnalyzePipeSilent(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "silent.pcap")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	status, stdout, stderr := analyzeCommand(ctx, nil, pipe)
	if want := "pathtrace: read silent.pcap: it is empty\n"; status != exitCannotRun || stdout != "" || stderr != want {
		t.Errorf("status %d, stdout %q, stderr %q, want %q", status, stdout, stderr, want)
	}
}
