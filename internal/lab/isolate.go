//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// The directories of an isolated process that Build gives names and files to.
const (
	NamedDir = "/run/netns"
	EtcDir   = "/etc"
)

// IsolationError says that this process may not have namespaces of its own.
type IsolationError struct {
	Err error
}

func (e *IsolationError) Error() string {
	return fmt.Sprintf("no private namespaces for the network: %v", e.Err)
}

func (e *IsolationError) Unwrap() error { return e.Err }

// isolatedFrom is the environment variable with the namespaces that an isolated
// process must not be in.
const isolatedFrom = "PATHTRACE_ISOLATED_FROM"

// mountProc is the step of Enter that is impossible in some containers.
const mountProc = "mount /proc"

// Isolate runs this program again with the same arguments, in network, mount
// and process namespaces of its own, and as an ordinary user in a user
// namespace where it is root. There Isolated is true, and the program must call
// Enter. Isolate returns the program's exit status.
//
// When this process ends, even by SIGKILL, the kernel ends all processes in
// there, and with them the namespaces. Where a container's /proc is so covered
// that a new one cannot be mounted, there is no process namespace, and only the
// program itself and what it runs are ended.
func Isolate(stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	here, err := namespaces()
	if err != nil {
		return 0, err
	}
	status, problem, err := isolate(unix.CLONE_NEWPID, here, stdin, stdout, stderr)
	if err == nil && strings.HasPrefix(problem, mountProc) {
		status, problem, err = isolate(0, here, stdin, stdout, stderr)
	}
	if err == nil && problem != "" {
		err = &IsolationError{Err: errors.New(problem)}
	}
	return status, err
}

// isolate runs the program and returns its exit status, or the problem that
// its Enter had.
func isolate(flags uintptr, here []string, stdin io.Reader, stdout, stderr io.Writer) (status int, problem string, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer read.Close() //nolint:errcheck // it is read to its end
	attr := &syscall.SysProcAttr{
		Cloneflags: flags | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, SysProcAttr: attr,
		Env:   append(environment(), isolatedFrom+"="+strings.Join(here, " ")),
		Stdin: stdin, Stdout: stdout, Stderr: stderr, ExtraFiles: []*os.File{write},
	}
	// The parent whose death ends the child is this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	forward := newForwarder()
	defer forward.stop()
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		return 0, "", &IsolationError{Err: err}
	}
	forward.to(cmd.Process)
	text, err := io.ReadAll(read)
	if err != nil {
		return 0, "", errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	status, err = exitStatus(cmd.Wait())
	return status, string(text), err
}

// Isolated reports whether this process was started by Isolate.
func Isolated() bool {
	from, ok := os.LookupEnv(isolatedFrom)
	if !ok {
		return false
	}
	here, err := namespaces()
	return err == nil && !slices.ContainsFunc(strings.Fields(from), func(id string) bool { return slices.Contains(here, id) })
}

// namespaces names the network and mount namespaces of this process.
func namespaces() ([]string, error) {
	network, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	mounts, err := os.Readlink("/proc/self/ns/mnt")
	return []string{network, mounts}, err
}

// Enter prepares an isolated process: it tries whether it may build networks,
// and makes /run, /etc and /proc its own. /etc still has all that the machine's
// has. An error is for Isolate to return; the process must end.
func Enter() error {
	problem := enter()
	report := os.NewFile(3, "report")
	unix.CloseOnExec(int(report.Fd()))
	if problem != nil {
		if _, err := io.WriteString(report, problem.Error()); err != nil {
			return err
		}
	}
	return errors.Join(problem, report.Close(), os.Unsetenv(isolatedFrom))
}

func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if os.Getpid() == 1 {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf(mountProc+": %w", err)
		}
	}
	if err := tryOut(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir(NamedDir, 0o755); err != nil {
		return err
	}
	return coverEtc("/run/machine/etc")
}

// coverEtc mounts an /etc whose entries lead to those of the machine's, which
// stays to be seen in a directory, and to which entries can be added. An overlay
// would do the same where user namespaces may mount one.
func coverEtc(machine string) error {
	if err := os.MkdirAll(machine, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(EtcDir, machine, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", machine, err)
	}
	if err := unix.Mount("tmpfs", EtcDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", EtcDir, err)
	}
	entries, err := os.ReadDir(machine)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == "netns" {
			continue
		}
		target := filepath.Join(machine, entry.Name())
		if entry.Type()&os.ModeSymlink != 0 {
			// Relative links mean a place beside /etc.
			if target, err = os.Readlink(target); err != nil {
				return err
			}
		}
		if err := os.Symlink(target, filepath.Join(EtcDir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// tryOut makes a link and a table: some systems let everybody have a user
// namespace and then let nobody do anything in it.
func tryOut() error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // what was made in it goes with it
	return ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "try0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "try1"}); err != nil {
			return fmt.Errorf("create a veth pair: %w", err)
		}
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("create an nftables table: %w", err)
		}
		conn.AddTable(&nftables.Table{Name: "try", Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("create an nftables table: %w", err)
		}
		return nil
	})
}

// Main runs the tests of a package that builds networks, so that they also run
// as an ordinary user and find NamedDir and EtcDir to be their own:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }
//
// Where that is not allowed the tests run as they are.
func Main(run func() int) int {
	ProxyMain()
	if Isolated() {
		if err := Enter(); err != nil {
			return 2
		}
		return run()
	}
	status, err := Isolate(os.Stdin, os.Stdout, os.Stderr)
	var impossible *IsolationError
	switch {
	case errors.As(err, &impossible):
		return run()
	case err != nil:
		fmt.Fprintln(os.Stderr, err) //nolint:errcheck // nowhere left to tell
		return 2
	}
	return status
}

// environment is that of programs in the lab: tools for administrators are
// found also where users do not have them on PATH, and no container engine of
// the machine is.
func environment() []string {
	environ := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"PATH", "DOCKER_HOST", "CONTAINER_HOST"}, name)
	})
	return append(environ, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

// Run runs a command on the network's host and returns its exit status; for a
// command that was ended by a signal it is 128 and the signal's number, as
// shells have it. Signals that ask this process to end are passed on.
func (n *Network) Run(cmd *exec.Cmd) (int, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	forward := newForwarder()
	defer forward.stop()
	if err := n.Host.Do(cmd.Start); err != nil {
		return 0, err
	}
	forward.to(cmd.Process)
	return exitStatus(cmd.Wait())
}

func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// forwarder passes signals on to a child.
type forwarder struct {
	signals chan os.Signal
}

// newForwarder starts to keep signals, which to passes on.
func newForwarder() *forwarder {
	f := &forwarder{signals: make(chan os.Signal, 8)}
	signal.Notify(f.signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return f
}

func (f *forwarder) to(child *os.Process) {
	go func() {
		for received := range f.signals {
			if received == unix.SIGINT {
				if inForeground() {
					continue // the terminal has sent it to the child, too
				}
				received = unix.SIGTERM
			}
			_ = child.Signal(received) // it may have ended
		}
	}()
}

func (f *forwarder) stop() {
	signal.Stop(f.signals)
	close(f.signals)
}

// inForeground reports whether this process is in the group that gets the
// terminal's signals.
func inForeground() bool {
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close() //nolint:errcheck // nothing was written
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
