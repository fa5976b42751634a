//go:build linux

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/report"
)

// sample is a run of the demo in the documentation: its command in a comment,
// then the command that runs in it and what that prints.
var sample = regexp.MustCompile("(?s)<!-- demo: pathtrace demo ([^\n]*) -->\n```\n.*?```\n<!-- /demo -->\n")

// TestSamples runs the demos of README.md again and compares; -update writes
// what they print now. The id of the packet and the time it took are always the
// same there.
func TestSamples(t *testing.T) {
	t.Parallel()
	isolated(t)
	name := filepath.Join("..", "..", "README.md")
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	got := sample.ReplaceAllFunc(old, func(block []byte) []byte {
		found++
		args := string(sample.FindSubmatch(block)[1])
		return []byte("<!-- demo: pathtrace demo " + args + " -->\n```\n" + runSample(t, strings.Fields(args)) + "```\n<!-- /demo -->\n")
	})
	if found != strings.Count(string(old), "<!-- demo:") || found == 0 {
		t.Errorf("%d samples are as they should be, of %d", found, strings.Count(string(old), "<!-- demo:"))
	}
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(old), string(got)); diff != "" {
		t.Errorf("README.md (-is +should be; go test ./internal/cli -run TestSamples -update writes it):\n%s", diff)
	}
}

// runSample returns the command that a demo runs, and what it prints.
func runSample(t *testing.T, args []string) string {
	t.Helper()
	if slices.Contains(args, "doctor") {
		_, stdout, stderr := runProgram(t, program(t, nil, append([]string{"demo"}, args...)...))
		_, command, _ := strings.Cut(strings.TrimSpace(stderr), "\n$ ")
		return "$ " + command + "\n" + stdout
	}
	if slices.Contains(args, "exec") {
		return runExecSample(t, args)
	}
	// As JSON, in which id and time are changed before lines are broken.
	_, stdout, stderr := runProgram(t, program(t, nil, append([]string{"demo", "-o", "json"}, args...)...))
	r, err := report.Decode(strings.NewReader(stdout))
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr)
	}
	r.Request.Packet = regexp.MustCompile(`id \d+`).ReplaceAllString(r.Request.Packet, "id 38")
	if r.Verdict.Rule != nil {
		r.Verdict.Mechanism = "" // the kernel tells root only
	}
	if r.Verdict.Elapsed != 0 {
		r.Verdict.Elapsed = 254 * time.Microsecond
	}
	var out bytes.Buffer
	_, command, _ := strings.Cut(strings.TrimSpace(stderr), "\n$ ")
	out.WriteString("$ " + strings.Replace(command, " --output json", "", 1) + "\n")
	if err := report.Text(&out, r, report.TextOptions{Unicode: true}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// runExecSample is runSample for exec, whose report goes elsewhere. Ports and
// processes are changed before lines are broken, and what only root is told.
func runExecSample(t *testing.T, args []string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	at := slices.Index(args, "exec") + 1
	asked := slices.Concat([]string{"demo"}, args[:at], []string{"-o", "json", "--report", file}, args[at:])
	_, stdout, stderr := runProgram(t, program(t, nil, asked...))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr)
	}
	owner := regexp.MustCompile(`"owner": "[^"]*",?`)
	port := regexp.MustCompile(`(172\.17\.0\.2|192\.168\.0\.23):\d{4,5}`)
	data = port.ReplaceAll(owner.ReplaceAll(data, nil), []byte("$1:40312"))
	r, err := report.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	r.Traced.Command.Elapsed = 10012 * time.Millisecond
	out := bytes.NewBufferString("$ pathtrace " + strings.Join(args[at-1:], " ") + "\n" + stdout)
	if err := report.Text(out, r, report.TextOptions{Unicode: true}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
