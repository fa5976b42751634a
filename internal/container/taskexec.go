//go:build linux

package container

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The methods of containerd's service of tasks that are called, and the numbers of
// their fields (api/services/tasks/v1/tasks.proto of containerd/containerd; the same
// in 1.x and 2.x).
const (
	tasksService = "/containerd.services.tasks.v1.Tasks/"
	// processSpec is the type of a specification of a process.
	processSpec = "types.containerd.io/opencontainers/runtime-spec/1/Process"

	fieldContainer = 1
	fieldExec      = 2 // of all requests but that of Exec itself
	// Of an ExecProcessRequest.
	fieldStdin, fieldStdout, fieldStderr, fieldTerminal, fieldSpec, fieldExecID = 2, 3, 4, 5, 6, 7
	fieldType, fieldValue                                                       = 1, 2 // of an Any
	fieldPID                                                                    = 1    // of a StartResponse
	fieldStatus                                                                 = 1    // of a WaitResponse
	fieldProcess, fieldProcessPID, fieldProcessStatus                           = 1, 3, 4
	fieldSignal                                                                 = 3
	fieldCloseStdin                                                             = 3
	fieldWidth, fieldHeight                                                     = 3, 4

	// statusRunning is that of a process that has been started and not ended
	// (api/types/task/task.proto).
	statusRunning = 2
)

// taskExec is a command that containerd runs in a task.
type taskExec struct {
	rpc    *rpc
	source *Source
	config *ExecConfig
	id     string
	ctx    context.Context
	pipes  *pipes

	// copied gets the error of each stream of the output when it has ended, exited
	// the command's end.
	copied chan error
	exited chan exit
	// over is closed when it has ended.
	over chan struct{}
	// process is the command's.
	process held
}

// exit is the end of a command, or that it will not be known.
type exit struct {
	status int
	err    error
}

// exec runs a command in a container: containerd's shim does, as the user and with
// the environment, capabilities and limits of the container's first process.
func (t *task) exec(ctx context.Context, source *Source, config *ExecConfig) (*Process, error) {
	spec, err := t.process(config)
	if err != nil {
		return nil, fmt.Errorf("run a command in %s: %w", source.Name, err)
	}
	e := &taskExec{source: source, config: config, ctx: ctx, id: "pathtrace-" + rand.Text(), copied: make(chan error, 2), exited: make(chan exit, 1), over: make(chan struct{})}
	if err := e.open(t); err != nil {
		return nil, fmt.Errorf("run a command in %s: %w", source.Name, err)
	}
	pid, err := e.start(spec)
	if err != nil {
		e.release()
		return nil, err
	}
	if config.TTY && config.Height > 0 && config.Width > 0 {
		_ = e.resize(config.Height, config.Width) // it may have ended already
	}
	return &Process{PID: pid, run: e}, nil
}

// process is the specification of the command: that of the container's first
// process, with another program. It has the container's environment, which is
// handed back to containerd and read by nobody.
func (t *task) process(config *ExecConfig) ([]byte, error) {
	content, err := readRegular(filepath.Join(t.dir, "config.json"), maxConfig)
	if err != nil {
		return nil, err
	}
	if content == nil {
		return nil, errors.New("containerd has its configuration no more")
	}
	// Numbers are those of the kernel, up to 64 bits: they stay as they are.
	var of struct {
		Process map[string]json.RawMessage `json:"process"`
	}
	if err := json.Unmarshal(content, &of); err != nil {
		return nil, fmt.Errorf("read %s/config.json: %w", t.dir, err)
	}
	if of.Process == nil {
		return nil, fmt.Errorf("%s/config.json has no process", t.dir)
	}
	changes := map[string]any{"args": config.Argv, "terminal": config.TTY}
	if config.TTY {
		var env []string
		if of.Process["env"] != nil {
			if err := json.Unmarshal(of.Process["env"], &env); err != nil {
				return nil, fmt.Errorf("read %s/config.json: %w", t.dir, err)
			}
		}
		changes["env"] = withTerminal(env)
	}
	for name, value := range changes {
		if of.Process[name], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	return json.Marshal(of.Process)
}

// withTerminal adds the kind of terminal to an environment that does not tell it:
// the plainest one that has colours.
func withTerminal(env []string) []string {
	if slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "TERM=") }) {
		return env
	}
	return append(env, "TERM=xterm")
}

// open connects to the daemon and makes the pipes.
func (e *taskExec) open(t *task) error {
	ctx, cancel := context.WithTimeout(e.ctx, serviceTimeout)
	defer cancel()
	connection, err := dialRPC(ctx, t.socket, http.Header{"Containerd-Namespace": {t.namespace}})
	if err != nil {
		return (&service{engine: containerdEngine, socket: t.socket}).trouble(err)
	}
	// The shim, which opens the pipes, sees the daemon's files, and these are there.
	if e.pipes, err = newPipes(t.state, e.config); err != nil {
		connection.close()
		return err
	}
	e.rpc = connection
	return nil
}

// ask is the start of each request but that of Exec.
func (e *taskExec) ask() message {
	return message(nil).text(fieldContainer, e.source.ID).text(fieldExec, e.id)
}

// call calls a method that answers at once.
func (e *taskExec) call(method string, ask message) (message, error) {
	// The context of the command may have ended when it is to be cleaned up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), serviceTimeout)
	defer cancel()
	answer, err := e.rpc.call(ctx, tasksService+method, ask)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("nothing within %v", serviceTimeout)
	}
	return answer, err
}

// start makes the process and starts it.
func (e *taskExec) start(spec []byte) (pid int, err error) {
	ask := message(nil).text(fieldContainer, e.source.ID).text(fieldStdin, e.pipes.stdin).text(fieldStdout, e.pipes.stdout).
		text(fieldStderr, e.pipes.stderr).text(fieldExecID, e.id).
		text(fieldSpec, string(message(nil).text(fieldType, processSpec).text(fieldValue, string(spec))))
	if e.config.TTY {
		ask = ask.number(fieldTerminal, 1)
	}
	if _, err := e.call("Exec", ask); err != nil {
		return 0, fmt.Errorf("run a command in %s: containerd answers %w", e.source.Name, err)
	}
	go e.await()
	answer, err := e.begin()
	if err != nil {
		return 0, err
	}
	// The shim has opened its ends.
	e.pipes.begun()
	go e.copyOutput(e.config.Stdout, e.pipes.output)
	if e.pipes.problems != nil {
		go e.copyOutput(e.config.Stderr, e.pipes.problems)
	}
	if e.pipes.input != nil {
		go e.copyInput()
	}
	pid = int(answer.uint(fieldPID))
	e.process.hold(pid, e.source, func() bool {
		answer, err := e.call("Get", e.ask())
		process := message(answer.bytes(fieldProcess))
		return err == nil && process.uint(fieldProcessStatus) == statusRunning && process.uint(fieldProcessPID) == uint64(pid)
	})
	return pid, nil
}

// begin has the process start, which may take long on a busy machine. One of which
// that is not known for sure is not left behind.
func (e *taskExec) begin() (message, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), startTimeout)
	defer cancel()
	answer, err := e.rpc.call(ctx, tasksService+"Start", e.ask())
	if err == nil {
		return answer, nil
	}
	if refused, ok := errors.AsType[*rpcError](err); ok && ctx.Err() == nil {
		return nil, notExecuted(e.config.Argv[0], fmt.Sprintf("containerd answers %v", refused))
	}
	err = fmt.Errorf("containerd did not start a command in %s: %w", e.source.Name, err)
	if _, killErr := e.call("Kill", e.ask().number(fieldSignal, uint64(unix.SIGKILL))); killErr != nil {
		err = errors.Join(err, fmt.Errorf("it may still run: containerd answers %w to a request to end it", killErr))
	}
	return nil, err
}

// await waits for the end of the command.
func (e *taskExec) await() {
	answer, err := e.rpc.call(context.WithoutCancel(e.ctx), tasksService+"Wait", e.ask())
	if err != nil {
		err = fmt.Errorf("wait for a command in %s: containerd answers %w", e.source.Name, err)
	}
	e.exited <- exit{int(answer.uint(fieldStatus)), err}
}

// copyOutput writes one stream of the output until it ends.
func (e *taskExec) copyOutput(to io.Writer, from *os.File) {
	_, err := io.Copy(to, &drain{from, e.over})
	e.copied <- err
}

// copyInput sends the input, and its end: the shim keeps the pipe open until it is
// told.
func (e *taskExec) copyInput() {
	_, _ = io.Copy(e.pipes.input, e.config.Stdin) // a command that reads no more is no error
	_ = e.pipes.input.Close()
	_, _ = e.call("CloseIO", e.ask().number(fieldCloseStdin, 1)) // or it has ended
}

// wait implements running.
func (e *taskExec) wait() (int, error) {
	defer e.release()
	var end exit
	exited := e.exited
	for streams := e.pipes.streams(); streams > 0 || exited != nil; {
		select {
		case err := <-e.copied:
			if err != nil { // nobody takes the output
				return 0, errors.Join(fmt.Errorf("output of the command: %w", err), e.process.end(e.source))
			}
			streams--
		case end = <-exited:
			if end.err != nil {
				return 0, errors.Join(end.err, e.process.end(e.source))
			}
			exited = nil
			close(e.over)
			e.pipes.hurry()
		case <-e.ctx.Done():
			return 0, errors.Join(e.ctx.Err(), e.process.end(e.source))
		}
	}
	return end.status, nil
}

// release removes the command from containerd's list, and closes what is open.
func (e *taskExec) release() {
	e.pipes.close()
	_, _ = e.call("DeleteProcess", e.ask()) // or it was never made
	e.rpc.close()
	e.process.release()
}

// signal implements running.
func (e *taskExec) signal(s os.Signal) error { return e.process.signal(s) }

// resize implements running.
func (e *taskExec) resize(height, width uint) error {
	_, err := e.call("ResizePty", e.ask().number(fieldWidth, uint64(width)).number(fieldHeight, uint64(height)))
	if err != nil {
		return fmt.Errorf("change the size of the terminal: containerd answers %w", err)
	}
	return nil
}
