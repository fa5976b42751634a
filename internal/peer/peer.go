//go:build linux

// Package peer runs the programs that pathtrace meets on real hosts - container
// engines, firewall managers, VPNs, routing daemons - for tests only. They are
// those of the root tree that scripts/peers.sh unpacks, in namespaces and a
// control group of their own, so nothing on the host is changed; when the test
// ends, or its process, in whatever way, all that was started is gone.
package peer

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// within is how long a program may take to get ready, or to do one thing. Most
// take less than a second.
const within = 2 * time.Minute

//go:embed machine.sh
var script string

// Machine is a host of which the files are those of Debian and the network is a
// namespace of the test's. Its process ids are the test's, so what an engine on
// it says of them is true outside as well; /, /run, /etc and the host's name are
// its own, and of /proc/sys only net can be written.
type Machine struct {
	// NetNS is its network.
	NetNS *netns.NS

	t testing.TB
	// apart says that its processes have ids of their own.
	apart bool
	// pid is the process whose namespaces, root and control group are the
	// machine's.
	pid     int
	logs    string
	daemons []*daemon
}

// daemon is a program that runs in the background.
type daemon struct {
	name string
	log  string
	done chan struct{} // closed when it has ended, with the error in err
	err  error
}

// started numbers the machines of this process.
var started atomic.Int64

// Start makes a machine in a network namespace, for as long as the test runs.
// The test is skipped where the programs are not there and for users that may
// not run them.
func Start(t testing.TB, ns *netns.NS) *Machine {
	t.Helper()
	return start(t, ns, false)
}

// StartApart is Start for a machine with process ids of its own, which sees no
// process of any other: their networks cannot be looked into from it, as those of
// machines elsewhere.
func StartApart(t testing.TB, ns *netns.NS) *Machine {
	t.Helper()
	return start(t, ns, true)
}

func start(t testing.TB, ns *netns.NS, apart bool) *Machine {
	t.Helper()
	tree := testenv.Peers(t)
	place, logs := t.TempDir(), t.TempDir()
	name := fmt.Sprintf("pathtrace-%d-%d", os.Getpid(), started.Add(1))
	spaces := []string{"--mount", "--uts", "--ipc", "--propagation", "private"}
	if apart {
		spaces = append(spaces, "--pid", "--fork")
	}
	keeper := exec.Command("unshare", append(spaces, "--", "sh", "-c", script, "machine", tree, place, name)...)
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no ^C: it ends when its input does
	problems, err := os.Create(filepath.Join(logs, "machine.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer problems.Close() //nolint:errcheck // the script has it, too
	keeper.Stderr = problems
	leash, err := keeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(keeper.Start); err != nil {
		t.Fatalf("start a machine: %v", err)
	}
	m := &Machine{NetNS: ns, t: t, apart: apart, logs: logs}
	t.Cleanup(func() { m.end(leash, keeper, problems.Name()) })
	line, err := bufio.NewReader(output).ReadString('\n')
	if err == nil {
		m.pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err == nil && apart {
		m.pid, err = seenFromHere(keeper.Process.Pid, m.pid)
	}
	if err != nil {
		t.Fatalf("start a machine: %v: %s", err, tail(problems.Name()))
	}
	return m
}

// seenFromHere is the id of a process that has another one where the children of
// the parent are.
func seenFromHere(parent, child int) (int, error) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid_for_children", parent))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue // it has ended
		}
		if own, err := os.Readlink(dir + "/ns/pid"); err != nil || own != space {
			continue
		}
		_, ids, _ := strings.Cut(string(status), "\nNSpid:")
		ids, _, _ = strings.Cut(ids, "\n")
		if fields := strings.Fields(ids); len(fields) > 0 && fields[len(fields)-1] == strconv.Itoa(child) {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("process %d of %s is not found", child, space)
}

// end ends all that runs on the machine and takes it away. What the daemons
// had to say is worth reading when the test failed.
func (m *Machine) end(leash io.Closer, keeper *exec.Cmd, problems string) {
	err := leash.Close()
	if err := errors.Join(err, keeper.Wait()); err != nil {
		m.t.Errorf("take a machine away: %v: %s", err, tail(problems))
	}
	for _, d := range m.daemons {
		<-d.done
		if m.t.Failed() {
			m.t.Logf("the log of %s ends with:\n%s", d.name, tail(d.log))
		}
	}
}

// Path is the path by which the test finds a file of the machine, its sockets
// included.
func (m *Machine) Path(file string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", m.pid), file)
}

// Write writes a file of the machine, with the directories above it.
func (m *Machine) Write(file, content string) {
	m.t.Helper()
	path := m.Path(file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// command is a program of the machine's, ready to be run on it by start.
func (m *Machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.pid), "--mount", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"}
	if m.apart {
		enter = append(enter, "--pid")
	}
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat(enter, []string{"--", name}, args)...)
	cmd.WaitDelay = time.Second // what it leaves behind may hold its output
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8"}
	return cmd
}

// start starts a command in the machine's control group, so that it ends with the
// machine.
func (m *Machine) start(cmd *exec.Cmd) error {
	group, err := os.Open(m.Path("/sys/fs/cgroup/init"))
	if err != nil {
		return err
	}
	defer group.Close() //nolint:errcheck // read-only descriptor
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	return cmd.Start()
}

// Try runs a program of the machine to its end and returns what it prints, errors
// included.
func (m *Machine) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), within)
	defer cancel()
	cmd := m.command(ctx, name, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := m.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(output.Bytes()))
	}
	return output.String(), err
}

// Run is Try for what must succeed.
func (m *Machine) Run(name string, args ...string) string {
	m.t.Helper()
	output, err := m.Try(name, args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return output
}

// Daemon starts a program of the machine that runs until the test ends, and
// returns when it is ready: ready returns nil then.
func (m *Machine) Daemon(ready func() error, name string, args ...string) {
	m.t.Helper()
	log, err := os.CreateTemp(m.logs, filepath.Base(name)+".*.log")
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // the program has it, too
	// Not the test's context: that ends before cleaning up begins.
	cmd := m.command(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := m.start(cmd); err != nil {
		m.t.Fatalf("start %s: %v", name, err)
	}
	d := &daemon{name: name, log: log.Name(), done: make(chan struct{})}
	m.daemons = append(m.daemons, d)
	go func() {
		d.err = cmd.Wait()
		close(d.done)
	}()
	m.Await(name+" is ready", func() error {
		select {
		case <-d.done:
			m.t.Fatalf("%s ended: %v", name, d.err)
		default:
		}
		return ready()
	})
}

// Stop ends a daemon of which a file has the process id, and waits for that.
func (m *Machine) Stop(pidFile string) {
	m.t.Helper()
	m.Run("sh", "-euc", `pid=$(cat "$1"); kill "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done`, "stop", pidFile)
}

// Await waits until a condition holds: until it returns nil.
func (m *Machine) Await(what string, condition func() error) {
	m.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			m.t.Fatalf("waited %v until %s: %v", within, what, err)
		case <-tick.C:
		}
	}
}

// Listens is the condition that somebody accepts TCP connections at an address
// of the machine.
func (m *Machine) Listens(address string) func() error {
	return func() error {
		return m.NetNS.Do(func() error {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

// maxTail is as much of a log as is worth showing, in bytes.
const maxTail = 8 << 10

// tail is the end of a log.
func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-maxTail):])
}
