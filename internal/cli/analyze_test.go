package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/report"
)

// runHere runs a command in this process.
func runHere(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &environment{in: strings.NewReader(""), out: &out, err: &errs})
	return status, out.String(), errs.String()
}

// file writes a file and returns its name.
func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestAnalyze explains the recording of the demo as a bundle, whole and cut.
func TestAnalyze(t *testing.T) {
	t.Parallel()
	whole := file(t, "run.pcapng.zst", recording)
	status, stdout, stderr := runHere(t, "analyze", whole, "-o", "json")
	r, err := report.Decode(strings.NewReader(stdout))
	if status != exitOK || stderr != "" || err != nil {
		t.Fatalf("status %d, %v, error %q", status, err, stderr)
	}
	if r.Verdict.Outcome != report.Replied || r.Request.Kind != "ping6" || len(r.Translations) == 0 {
		t.Errorf("verdict %+v of %+v", r.Verdict, r.Request)
	}

	cut := file(t, "cut.pcapng.zst", recording[:len(recording)-100])
	status, stdout, stderr = runHere(t, "analyze", cut)
	if !strings.Contains(stdout, "The bundle ends before the run did") || stderr != "" {
		t.Errorf("of a bundle that is cut: status %d, error %q, output\n%s", status, stderr, stdout)
	}
}

// TestAnalyzeUnused refuses flags that are for captures where the only file is a
// bundle, of whatever kind.
func TestAnalyzeUnused(t *testing.T) {
	t.Parallel()
	run := file(t, "run.pcapng.zst", recording)
	log := file(t, "log.txt", nil)
	tests := []struct {
		args []string
		want string
	}{
		{[]string{run, "--dport", "80"}, "leave out --dport (for"},
		{[]string{run, "--flow", "1"}, "leave out --flow (for"},
		{[]string{run, "--point", run + "=host", "--conntrack", log, "-p", "tcp"}, "leave out --conntrack, --point, --protocol (for"},
		{[]string{tracesSaved(t)[0], "--trace", log}, "leave out --trace (for"},
		{[]string{filepath.Join("testdata", "version2", "doctor.pcapng.zst"), "--rules", log}, "leave out --rules (for"},
	}
	for _, tt := range tests {
		status, stdout, stderr := runHere(t, append([]string{"analyze"}, tt.args...)...)
		if want := tt.args[0] + " is a saved run"; status != exitCannotRun || stdout != "" || !strings.Contains(stderr, want) || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: status %d, output %q, no %q with %q in %q", tt.args, status, stdout, want, tt.want, stderr)
		}
	}
}

// TestAnalyzeOthers says of each file that is no capture what is wrong.
func TestAnalyzeOthers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name string
		want string
	}{
		"text":             {file(t, "a.txt", []byte("hello, world")), "what can be read is pcap and pcapng"},
		"nothing":          {file(t, "empty", nil), "it is empty"},
		"no file":          {filepath.Join(t.TempDir(), "absent"), "absent: "},
		"only a beginning": {file(t, "begin.zst", recording[:64]), ""},
	}
	for name, tt := range tests {
		status, stdout, stderr := runHere(t, "analyze", tt.name)
		if status != exitCannotRun || stdout != "" || stderr == "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: status %d, output %q, no %q in %q", name, status, stdout, tt.want, stderr)
		}
	}
}

// TestReplayRecording replays the recording where no network could be built.
func TestReplayRecording(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	env := &environment{out: &out, err: &errs}
	if err := replayRecording(env, choice{value: "text"}, errors.New("why\x1b\nhelp")); err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(errs.String(), "\n")
	if !strings.HasPrefix(first, "pathtrace: this is a recording, made on 2") || !strings.HasSuffix(first, "None was built here: why\\x1b") || rest != "help\n" {
		t.Errorf("said before: %q", errs.String())
	}
	if env.status != exitOK || !strings.Contains(out.String(), "REPLIED") || strings.Contains(out.String(), "bundle") {
		t.Errorf("status %d, output\n%s", env.status, out.String())
	}
}
