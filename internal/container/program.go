//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// program is a program of the host.
type program struct {
	ctx context.Context
	cmd *exec.Cmd
}

// runProgram starts the host's program in the network namespace.
func (s *Source) runProgram(ctx context.Context, config *ExecConfig) (*Process, error) {
	cmd := exec.CommandContext(ctx, config.Argv[0], config.Argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = config.Stdin, config.Stdout, config.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	start := cmd.Start
	if s.Kind == KindNetNS && len(s.etc) > 1 {
		start = func() error { return startNamed(cmd, s.NetNS.FD(), filepath.Join("/", s.etc[0])) }
	}
	err := s.NetNS.Do(start)
	switch failed := (&exec.Error{}); {
	case errors.As(err, &failed):
		return nil, notExecuted(config.Argv[0], failed.Err.Error())
	case isExec(err):
		return nil, notExecuted(config.Argv[0], cause(err).Error())
	case err != nil:
		return nil, err
	}
	return &Process{PID: cmd.Process.Pid, run: &program{ctx: ctx, cmd: cmd}}, nil
}

// isExec reports whether an error is that of fork and exec.
func isExec(err error) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	return ok && path.Op == "fork/exec"
}

// startNamed starts a program as "ip netns exec" does: in a mount namespace of its
// own, in which the files of /etc/netns/NAME are in the place of those of /etc, and
// /sys shows the network namespace. The thread that is there ends with its
// goroutine.
func startNamed(cmd *exec.Cmd, ns int, etc string) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Setns(ns, unix.CLONE_NEWNET))
		if err != nil {
			started <- fmt.Errorf("a mount namespace for %s: %w", etc, err)
			return
		}
		if err = mountNamed(etc); err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// mountNamed mounts what a program in a named namespace sees, on a thread with a
// mount namespace of its own.
func mountNamed(etc string) error {
	// What is mounted here is nobody else's, but what others unmount goes here, too.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("a mount namespace for %s: %w", etc, err)
	}
	// A container may keep /sys from being mounted: then it stays the host's.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	entries, err := os.ReadDir(etc)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		place := filepath.Join("/etc", entry.Name())
		err := unix.Mount(filepath.Join(etc, entry.Name()), place, "", unix.MS_BIND, "")
		// Without a file in its place there is nothing to be hidden; ip only warns.
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("put %s/%s in the place of %s: %w", etc, entry.Name(), place, err)
		}
	}
	return nil
}

func (p *program) wait() (int, error) {
	err := p.cmd.Wait()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok && p.ctx.Err() == nil {
		if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return signalled(status.Signal()), nil
		}
		return failed.ExitCode(), nil
	}
	if p.ctx.Err() != nil {
		return p.cmd.ProcessState.ExitCode(), p.ctx.Err()
	}
	return p.cmd.ProcessState.ExitCode(), err
}

func (p *program) signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

func (p *program) resize(uint, uint) error { return nil }
