//go:build linux

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// TestRecording runs the demo and saves it; -update makes that the recording
// that the program carries. The bundle of a run gives the run's report.
func TestRecording(t *testing.T) {
	t.Parallel()
	isolated(t)
	if s := lab.Scenarios()[0]; s.Name != recordedScenario || s.Summary != recordedSummary {
		t.Errorf("the first scenario is %s: %s", s.Name, s.Summary)
	}
	bundle := filepath.Join(t.TempDir(), "run.pcapng.zst")
	status, stdout, stderr := runProgram(t, program(t, nil, "demo", "-o", "json", "--save", bundle))
	if status != exitOK {
		t.Fatalf("status %d: %s", status, stderr)
	}
	if status, again, stderr := runHere(t, "analyze", bundle, "-o", "json"); status != exitOK || again != stdout {
		t.Errorf("status %d, error %q, the replay is\n%s\nwant\n%s", status, stderr, again, stdout)
	}
	if *update {
		made, err := os.ReadFile(bundle)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("recording.pcapng.zst", made, 0o644); err != nil { //nolint:gosec // as the other files here
			t.Fatal(err)
		}
	}
}

// TestSaveRefused finds out that nothing can be saved before anything is traced.
func TestSaveRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		want string
	}{
		"a device":  {[]string{"--save", "/dev/null"}, "--save /dev/null: is no regular file"},
		"a link":    {[]string{"--save", link}, "is no regular file"},
		"a folder":  {[]string{"--save", dir}, "is no regular file"},
		"gzip":      {[]string{"--save", filepath.Join(dir, "run.pcapng.gz")}, "run.pcapng.gz: gzip is not written; " + filepath.Join(dir, "run.pcapng.zst")},
		"no folder": {[]string{"--save", filepath.Join(dir, "absent", "run")}, "no such file"},
		"no file":   {[]string{"--save-payload"}, "--save-payload says what --save keeps"},
	}
	for name, tt := range tests {
		commands := [][]string{{"ping", "::1"}, {"tcp", "[::1]:1"}, {"demo"}}
		if name != "no file" { // there is no payload to be saved
			commands = append(commands, []string{"conntrack"}, []string{"conntrack", "-f"}, []string{"topology"}, []string{"doctor"})
		}
		for _, command := range commands {
			status, stdout, stderr := runHere(t, append(command, tt.args...)...)
			if status != exitCannotRun || stdout != "" || !strings.Contains(stderr, tt.want) {
				t.Errorf("%s %s: status %d, output %q, no %q in %q", command[0], name, status, stdout, tt.want, stderr)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "target")); err == nil {
		t.Error("a link was followed")
	}
}
