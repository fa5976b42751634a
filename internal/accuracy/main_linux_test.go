package accuracy_test

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// workers are the runs at one time: most of the time each waits for the kernel
// or for a tool.
const workers = 4

func TestMain(m *testing.M) {
	ruletrace.GuardMain()
	lab.ProxyMain()
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(workers)); err != nil {
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
