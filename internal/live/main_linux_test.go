package live_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
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
	// Most of the time tests wait, for the kernel or for programs.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err) // the flag is the testing package's
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
