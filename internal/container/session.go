//go:build linux

package container

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"
)

// session is a command that Docker or Podman runs: one exec of their API. Its
// input and output are one connection, taken over from HTTP.
type session struct {
	service *service
	source  *Source
	config  *ExecConfig
	id      string
	conn    *net.UnixConn
	output  *bufio.Reader

	ctx context.Context
	// copied gets the error of the output when it has ended.
	copied chan error
	// process is the command's.
	process held
}

// detachKeys are what a user would have to type to leave a terminal without ending
// the command: by default it is ctrl-p ctrl-q, which belong to the command. There is
// no way to have none.
const detachKeys = "ctrl-^,ctrl-],ctrl-^,ctrl-],ctrl-^,ctrl-]"

// How often, and for how long, the engine is asked for what it does not say by
// itself: the pid of a command that is being started, and the status of one that
// has ended.
const (
	askStep  = 5 * time.Millisecond
	longStep = 100 * time.Millisecond
	askSteps = 400
)

// exec runs a command in a container.
func (s *service) exec(ctx context.Context, source *Source, config *ExecConfig) (*Process, error) {
	e := &session{service: s, source: source, config: config, ctx: ctx, copied: make(chan error, 1)}
	if err := e.create(); err != nil {
		return nil, fmt.Errorf("run a command in %s: %w", source.Name, err)
	}
	if err := e.start(); err != nil {
		return nil, fmt.Errorf("run a command in %s: %w", source.Name, err)
	}
	go e.copyOutput()
	if config.Stdin != nil {
		go e.copyInput()
	}
	if config.TTY && config.Height > 0 && config.Width > 0 {
		_ = e.resize(config.Height, config.Width) // it may have ended already
	}
	pid, err := e.begun()
	if err != nil {
		defer e.release()
		return nil, errors.Join(err, e.process.end(e.source))
	}
	return &Process{PID: pid, run: e}, nil
}

// create makes the exec, which does not run yet.
func (e *session) create() error {
	ask := struct {
		AttachStdin, AttachStdout, AttachStderr, Tty bool
		DetachKeys                                   string
		Cmd                                          []string
	}{e.config.Stdin != nil, true, true, e.config.TTY, detachKeys, e.config.Argv}
	var answer struct {
		ID string `json:"Id"`
	}
	_, err := e.service.do(e.ctx, http.MethodPost, "/containers/"+e.source.ID+"/exec", ask, &answer)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s knows it no more", e.source.Engine)
	}
	e.id = answer.ID
	return err
}

// start starts the command, on a connection that is its input and output from
// then on.
func (e *session) start() error {
	ctx, cancel := context.WithTimeout(e.ctx, serviceTimeout)
	defer cancel()
	conn, err := e.service.dial(ctx, "", "")
	if err != nil {
		return e.service.trouble(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	request, err := e.service.request(ctx, http.MethodPost, "/exec/"+e.id+"/start", struct{ Detach, Tty bool }{false, e.config.TTY})
	if err == nil {
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "tcp")
		err = request.Write(conn)
	}
	if err != nil {
		return errors.Join(e.service.trouble(err), conn.Close())
	}
	e.conn, e.output = conn.(*net.UnixConn), bufio.NewReader(conn)
	response, err := http.ReadResponse(e.output, request)
	if err != nil {
		return errors.Join(e.service.trouble(err), conn.Close())
	}
	if response.StatusCode != http.StatusSwitchingProtocols && response.StatusCode != http.StatusOK {
		defer conn.Close() //nolint:errcheck // the error is the daemon's
		why, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return notExecuted(e.config.Argv[0], fmt.Sprintf("%s answers %q: %q", e.source.Engine, response.Status, why))
	}
	if !stop() {
		return errors.Join(ctx.Err(), conn.Close())
	}
	return nil
}

// state is what the engine says of an exec. It also says the command line, which
// is not decoded.
type state struct {
	Running  bool
	ExitCode *int
	Pid      int
}

// inspect asks for the state, also when the command's context has ended: it is to be
// known then, too.
func (e *session) inspect() (state, error) {
	var s state
	err := e.service.get(context.WithoutCancel(e.ctx), "/exec/"+e.id+"/json", &s)
	if err != nil {
		return s, fmt.Errorf("ask %s for a command in %s: %w", e.source.Engine, e.source.Name, err)
	}
	return s, nil
}

// begun waits until the engine says which process the command is, or that it has
// ended: Docker 20.10 answers the start first and runs the command then.
func (e *session) begun() (pid int, err error) {
	for begun, step := time.Now(), askStep; time.Since(begun) < startTimeout; step = min(2*step, longStep) {
		s, err := e.inspect()
		switch {
		case err != nil:
			return 0, err
		case s.Pid > 0:
			e.hold(s.Pid)
			return s.Pid, nil
		case !s.Running && s.ExitCode != nil:
			return 0, nil
		}
		time.Sleep(step)
	}
	return 0, fmt.Errorf("%s did not start the command within %v", e.source.Engine, startTimeout)
}

// hold keeps the command's process.
func (e *session) hold(pid int) {
	e.process.hold(pid, e.source, func() bool {
		s, err := e.inspect()
		return err == nil && s.Running && s.Pid == pid
	})
}

// copyInput sends the input, and its end.
func (e *session) copyInput() {
	_, _ = io.Copy(e.conn, e.config.Stdin) // a command that reads no more is no error
	_ = e.conn.CloseWrite()
}

// copyOutput writes the output until it ends.
func (e *session) copyOutput() {
	if e.config.TTY {
		_, err := io.Copy(e.config.Stdout, e.output)
		e.copied <- err
		return
	}
	e.copied <- demultiplex(e.output, e.config.Stdout, e.config.Stderr)
}

// The streams of a multiplexed connection.
const (
	streamStdout = 1
	streamStderr = 2
	// frameHeader is the stream, three zeros, and the length of what follows in
	// 32 bits, big-endian (Docker Engine API, "Attach to a container").
	frameHeader = 8
)

// demultiplex writes the frames of a connection without a terminal to the two
// streams.
func demultiplex(from io.Reader, stdout, stderr io.Writer) error {
	var header [frameHeader]byte
	for {
		if _, err := io.ReadFull(from, header[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("the output ends within a frame: %w", err)
		}
		var to io.Writer
		switch header[0] {
		case streamStdout:
			to = stdout
		case streamStderr:
			to = stderr
		default:
			return fmt.Errorf("the output has a frame of stream %d", header[0])
		}
		if n, err := io.CopyN(to, from, int64(binary.BigEndian.Uint32(header[4:]))); err != nil {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("the output ends within a frame, %d bytes after its begin", n)
			}
			return err
		}
	}
}

// wait implements running.
func (e *session) wait() (int, error) {
	defer e.release()
	select {
	case err := <-e.copied:
		if err != nil { // nobody takes the output
			return 0, errors.Join(fmt.Errorf("output of the command: %w", err), e.process.end(e.source))
		}
	case <-e.ctx.Done():
		return 0, errors.Join(e.ctx.Err(), e.process.end(e.source))
	}
	for range askSteps {
		s, err := e.inspect()
		if err != nil {
			return 0, err
		}
		if !s.Running && s.ExitCode != nil {
			return *s.ExitCode, nil
		}
		time.Sleep(askStep)
	}
	return 0, errors.Join(errors.New("the command closed its output and still runs"), e.process.end(e.source))
}

// release closes what the session holds.
func (e *session) release() {
	_ = e.conn.Close()
	e.process.release()
}

// signal implements running.
func (e *session) signal(s os.Signal) error { return e.process.signal(s) }

// resize implements running.
func (e *session) resize(height, width uint) error {
	_, err := e.service.do(e.ctx, http.MethodPost, fmt.Sprintf("/exec/%s/resize?h=%d&w=%d", e.id, height, width), nil, nil)
	if err != nil {
		return fmt.Errorf("change the size of the terminal: %w", err)
	}
	return nil
}
