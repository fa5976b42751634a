package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// terminal returns the two ends of a new terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testenv.Skip(t, err.Error())
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// TestExecInterrupted types Ctrl-C once, which the command and pathtrace get from the
// terminal: the command is not told a second time. Without a terminal pathtrace hands
// on what it gets.
func TestExecInterrupted(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	for name, signal := range map[string]os.Signal{"typed": nil, "interrupt": os.Interrupt, "quit": unix.SIGQUIT} {
		typed := signal == nil
		cmd := program(t, nil, "exec", "--", "sh", "-c", `trap "echo told" INT; echo ready; sleep 3 & wait; sleep 1; echo done`)
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Unshareflags: unix.CLONE_NEWNET}
		interrupt := func() { _ = cmd.Process.Signal(signal) }
		var from io.Reader
		var slave *os.File
		if typed {
			var master *os.File
			master, slave = terminal(t)
			cmd.SysProcAttr.Setctty = true
			cmd.Stdin, cmd.Stdout, cmd.Stderr, from = slave, slave, slave, master
			interrupt = func() { _, _ = master.Write([]byte{3}) }
		} else {
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			from = pipe
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if slave != nil {
			_ = slave.Close() // so that reading ends when the program does
		}
		var output bytes.Buffer
		buffer := make([]byte, 1<<10)
		for asked := false; !strings.Contains(output.String(), "done"); {
			n, err := from.Read(buffer)
			output.Write(buffer[:n])
			if err != nil {
				break
			}
			if !asked && strings.Contains(output.String(), "ready") {
				asked = true
				interrupt()
			}
		}
		if typed {
			go func() { _, _ = io.Copy(io.Discard, from) }() // what it still prints
		}
		_ = cmd.Wait()
		if told := strings.Count(output.String(), "told"); told != 1 || !strings.Contains(output.String(), "done") {
			t.Errorf("%s: told %d times:\n%s", name, told, &output)
		}
	}
}
