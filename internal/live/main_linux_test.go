package live_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/pathtrace/pathtrace/internal/cli"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// asProgram is the environment variable that makes the test binary be
// pathtrace, for tests that need a process of its own.
const asProgram = "PATHTRACE_TEST_AS_PROGRAM"

// private says that the tests have mounts and processes of their own.
var private = lab.Isolated()

func TestMain(m *testing.M) {
	ruletrace.GuardMain()
	if os.Getenv(asProgram) != "" {
		os.Exit(cli.Main(os.Args[1:]))
	}
	os.Exit(lab.Main(func() int {
		status := m.Run()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err) //nolint:errcheck // nowhere left to tell
			return 1
		}
		return status
	}))
}
