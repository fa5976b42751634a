package cli

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/report"
)

// sampleReport is a report with an arrow and a headline to colour.
func sampleReport() *report.Report {
	return &report.Report{
		Schema: report.Schema, Started: time.Unix(1, 0).UTC(), Finished: time.Unix(2, 0).UTC(),
		Request: report.Request{Kind: "ping", Target: "192.0.2.1", Source: report.Source{Kind: "host", Name: "host", NetNS: "host"}},
		Verdict: report.Verdict{Outcome: report.Lost, Leg: "request", Code: "NO_REPLY", Confidence: report.Observed, Summary: "Nothing came back."},
	}
}

// output runs a command with the flags that only writes a report.
func output(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var flags outputFlags
	var out bytes.Buffer
	env := &environment{out: &out, err: io.Discard}
	cmd := &cobra.Command{
		Use: "test", SilenceUsage: true, SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error { return flags.write(env, sampleReport()) },
	}
	flags.register(cmd)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func locale(t *testing.T, all, ctype, lang string) {
	t.Setenv("LC_ALL", all)
	t.Setenv("LC_CTYPE", ctype)
	t.Setenv("LANG", lang)
}

func TestOutputForms(t *testing.T) {
	locale(t, "", "", "en_US.UTF-8")
	tests := []struct {
		args []string
		want string
	}{
		{nil, "host → 192.0.2.1\n"},
		{[]string{"--color", "always"}, "\x1b[1mhost → 192.0.2.1\x1b"},
		{[]string{"-o", "json"}, "{\n  \"schema\": \"pathtrace/report/1\",\n"},
		{[]string{"--report", "-"}, "host → 192.0.2.1\n"},
	}
	for _, tt := range tests {
		got, err := output(t, tt.args...)
		if err != nil || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: got %q, %v, want %q", tt.args, got, err, tt.want)
		}
	}
}

func TestOutputWrongValues(t *testing.T) {
	tests := []struct{ flag, value, want string }{
		{"--output", "html", `invalid argument "html" for "-o, --output" flag: must be text or json`},
		{"--detail", "", `invalid argument "" for "--detail" flag: must be minimal, summary or full`},
		{"--color", "yes", `invalid argument "yes" for "--color" flag: must be auto, always or never`},
	}
	for _, tt := range tests {
		if _, err := output(t, tt.flag, tt.value); err == nil || err.Error() != tt.want {
			t.Errorf("%s %q: got %v, want %s", tt.flag, tt.value, err, tt.want)
		}
	}
}

func TestOutputLocale(t *testing.T) {
	tests := []struct {
		all, ctype, lang string
		want             string
	}{
		{"", "", "de_DE.UTF-8", "host → "},
		{"", "", "C.utf8", "host → "},
		{"", "en_US.UTF-8", "C", "host → "},
		{"C", "en_US.UTF-8", "en_US.UTF-8", "host -> "},
		{"", "", "de_DE.ISO-8859-1", "host -> "},
		{"", "", "", "host -> "},
	}
	for _, tt := range tests {
		locale(t, tt.all, tt.ctype, tt.lang)
		if got, err := output(t); err != nil || !strings.HasPrefix(got, tt.want) {
			t.Errorf("LC_ALL=%s LC_CTYPE=%s LANG=%s: got %q, %v, want %q", tt.all, tt.ctype, tt.lang, got, err, tt.want)
		}
	}
}

func TestOutputFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "report.json")
	if err := os.WriteFile(name, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := output(t, "-o", "json", "--report", name)
	if err != nil || out != "" {
		t.Fatalf("got %q on standard output, %v", out, err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	if r, err := report.Decode(f); err != nil || r.Verdict.Code != "NO_REPLY" {
		t.Errorf("read back: %v, %v", r, err)
	}
	if info, err := f.Stat(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want -rw-------", info.Mode(), err)
	}
	onlyFile(t, dir, "report.json")
}

// TestOutputFileBroken proves that a failure leaves the file that was there,
// and nothing else.
func TestOutputFileBroken(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "report.json")
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	err := writeFile(name, func(w io.Writer) error {
		_, err := io.WriteString(w, "half")
		return errors.Join(err, full)
	})
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "old" {
		t.Errorf("got %q, %v, want the old content", got, err)
	}
	onlyFile(t, dir, "report.json")
}

// TestOutputFileLink proves that a link, as /dev/stdout is one, is followed
// and stays.
func TestOutputFileLink(t *testing.T) {
	dir := t.TempDir()
	link, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if _, err := output(t, "--report", link); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target); err != nil || !strings.Contains(string(got), "Nothing came back.") {
		t.Errorf("target: %q, %v", got, err)
	}
	if got, err := os.Readlink(link); err != nil || got != target {
		t.Errorf("link to %q, %v", got, err)
	}
}

func TestOutputFileErrors(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing", "report.txt")
	if _, err := output(t, "--report", missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("write in a missing folder: got %v", err)
	}
	if err := (&outputFlags{file: missing}).check(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("check a missing folder: got %v", err)
	}
	if err := (&outputFlags{file: dir}).check(); err == nil || err.Error() != "--report "+dir+": is a directory" {
		t.Errorf("check a folder: got %v", err)
	}
	for _, file := range []string{"", "-", os.DevNull, filepath.Join(dir, "report.txt")} {
		if err := (&outputFlags{file: file}).check(); err != nil {
			t.Errorf("check %q: %v", file, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("check left %v, %v", entries, err)
	}
}

func onlyFile(t *testing.T, dir, want string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != want {
		t.Errorf("files %v, want %s alone", entries, want)
	}
}
