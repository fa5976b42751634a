package ruletrace

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// insideVariable marks the test binary that TestUnprivileged starts.
const insideVariable = "RULETRACE_TEST_INSIDE"

// inside gives the user namespace places to write: iptables-legacy locks a file
// in /run.
func inside() {
	if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		panic(err)
	}
	if err := os.Setenv("TMPDIR", "/run"); err != nil {
		panic(err)
	}
}

// TestUnprivileged runs the tests that need privilege once more, as an ordinary
// user who is root in a user namespace only.
func TestUnprivileged(t *testing.T) {
	if os.Getenv(insideVariable) != "" {
		return // these are the tests
	}
	testenv.Root(t) // to become somebody else
	const nobody = 65534
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^Test(Trace|Arm|Budget|Kill|NFLog|Resolve|Base)", "-test.v")
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{NoSetGroups: true},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
