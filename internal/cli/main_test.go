//go:build linux

package cli

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/pathtrace/pathtrace/ruletrace"
)

// asProgram is the environment variable that makes the test binary be
// pathtrace, for tests that need a process of its own.
const asProgram = "PATHTRACE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	ruletrace.GuardMain()
	if os.Getenv(asProgram) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// program returns a command that is run by pathtrace in a process of its own;
// before are words that go before it.
func program(t *testing.T, before []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	words := append(append(slices.Clip(before), self), args...)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	// The race detector would wait a second in every process that ends.
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}
