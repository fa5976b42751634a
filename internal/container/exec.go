//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// ExecConfig says which command is to be run in a source.
type ExecConfig struct {
	// Argv is the program and its arguments. It may hold secrets: nothing prints
	// it, errors name no more than the program.
	Argv []string
	// Stdin is read until its end, which the command sees; nil is an empty one.
	// When the command ends before, a goroutine stays with it until its next Read
	// returns.
	Stdin io.Reader
	// Stdout and Stderr get the command's output; nil discards it. With TTY all
	// output is Stdout's.
	Stdout, Stderr io.Writer
	// TTY gives the command a terminal of Height and Width characters, 0 for the
	// engine's default, where an engine runs it. The host's own program has the
	// terminal that Stdin and Stdout are.
	TTY           bool
	Height, Width uint
}

// Process is a command that runs in a source.
type Process struct {
	// PID is the command's first process, as the host sees it; 0 when it ended
	// before the engine said it, or the engine's processes are not the host's.
	PID int
	run running
}

// running is a command by the way it was started.
type running interface {
	// wait returns when the command has ended and all its output is written.
	wait() (status int, err error)
	signal(os.Signal) error
	resize(height, width uint) error
}

// Wait waits until the command has ended and all of its output is written, and
// returns its exit status, 128 and the signal's number when one ended it. Of a
// program that is not in a container, the engine writes so into the output, and the
// status is 126 (Docker 20.10) or 127 (Podman 4.3). When the
// context of Exec ends first, the command is sent SIGTERM, and SIGKILL a second
// later; the error is the context's then, and says so if the command may still
// run. It may be called once.
func (p *Process) Wait() (status int, err error) { return p.run.wait() }

// Signal sends a signal to the command: where an engine runs it, to its process
// group; else to the process. It returns os.ErrProcessDone when that has ended.
func (p *Process) Signal(signal os.Signal) error { return p.run.signal(signal) }

// Resize changes the size of the terminal that an engine gave the command; for a
// program of the host it does nothing.
func (p *Process) Resize(height, width uint) error { return p.run.resize(height, width) }

// runner is what an engine is asked by to run a command in a container.
type runner interface {
	exec(ctx context.Context, source *Source, config *ExecConfig) (*Process, error)
}

// startTimeout is how long an engine may take to start a command: on a machine that
// is short of memory or processors it takes many seconds. It is waited for also when
// the command is to be ended meanwhile, because only what has begun can be ended.
const startTimeout = time.Minute

// killDelay is how long a command has after SIGTERM.
const killDelay = time.Second

// ExecUnsupportedError says that a container's engine cannot be asked to run a
// command.
type ExecUnsupportedError struct {
	// Name and Engine are the container's, PID is its first process.
	Name, Engine string
	PID          int
	// Why says what is missing.
	Why string
}

func (e *ExecUnsupportedError) Error() string {
	return fmt.Sprintf("no command can be run in %s by its engine, %s: %s; --pid %d runs the host's program in the container's network namespace", e.Name, e.Engine, e.Why, e.PID)
}

// NotExecutedError says that the command could not be started there: no such
// program, or one that may not be executed.
type NotExecutedError struct {
	Program string
	// Status is what a shell's would be: 127 where there is no such program, 126
	// else.
	Status int
	Why    string
}

func (e *NotExecutedError) Error() string { return fmt.Sprintf("run %q: %s", e.Program, e.Why) }

// Exec runs a command in the source. In a container the engine runs it, so it has
// the container's files, user, capabilities and limits; elsewhere it is the
// host's program, of which no more than the network namespace is another one. In
// a named namespace it sees /etc/netns/NAME and its /sys, as with "ip netns exec"
// (ip-netns(8)). The command is ended when ctx is; see Process.Wait. Errors that a
// caller can decide on are *ExecUnsupportedError and *NotExecutedError.
func (s *Source) Exec(ctx context.Context, config ExecConfig) (*Process, error) {
	if len(config.Argv) == 0 {
		return nil, errors.New("no command to run")
	}
	if config.Stdout == nil {
		config.Stdout = io.Discard
	}
	if config.Stderr == nil {
		config.Stderr = io.Discard
	}
	if s.Kind != KindContainer {
		return s.runProgram(ctx, &config)
	}
	if s.runner == nil {
		return nil, &ExecUnsupportedError{Name: s.Name, Engine: s.Engine, PID: s.PID, Why: noAPI[s.Engine]}
	}
	return s.runner.exec(ctx, s, &config)
}

// noAPI says why an engine cannot be asked.
var noAPI = map[string]string{
	podmanEngine: `Podman's service does not run ("systemctl start podman.socket" starts it)`,
	nspawnEngine: "systemd-nspawn has no such API",
	lxcEngine:    "LXC has no such API on a plain socket",
}

// signalled is the exit status that shells give to a command that a signal ended.
func signalled(s syscall.Signal) int { return 128 + int(s) }

// notExecuted is the error of a program that could not be started, from what the
// system, or a runtime, says of it.
func notExecuted(program, why string) *NotExecutedError {
	e := &NotExecutedError{Program: program, Status: 126, Why: why}
	for _, missing := range []string{"no such file or directory", "not found"} {
		if strings.Contains(strings.ToLower(why), missing) {
			e.Status = 127
		}
	}
	return e
}
