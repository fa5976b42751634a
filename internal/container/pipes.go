//go:build linux

package container

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pipes are the named pipes between a command and who has it run. They have names
// until the other side has opened them.
type pipes struct {
	dir string
	// stdin, stdout and stderr are the names, empty where there is none.
	stdin, stdout, stderr string
	// input, output and problems are the own ends.
	input, output, problems *os.File
	// kept are further ends, so that none of the pipes looks ended before it has
	// begun.
	kept []*os.File
}

// newPipes makes the pipes that a command needs in a directory of their own below
// the one that is given.
func newPipes(below string, config *ExecConfig) (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	if p.dir, err = os.MkdirTemp(below, "pathtrace-"); err != nil {
		return p, err
	}
	if config.Stdin != nil {
		if p.stdin, p.input, err = p.add("stdin", os.O_WRONLY); err != nil {
			return p, err
		}
	}
	if p.stdout, p.output, err = p.add("stdout", os.O_RDONLY); err != nil {
		return p, err
	}
	if !config.TTY {
		p.stderr, p.problems, err = p.add("stderr", os.O_RDONLY)
	}
	return p, err
}

// add makes a pipe, and opens it twice: as the own end, and as both ends, without
// which an end for writing cannot be opened (fifo(7)).
func (p *pipes) add(name string, flag int) (path string, end *os.File, err error) {
	path = filepath.Join(p.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return "", nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	both, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", nil, err
	}
	p.kept = append(p.kept, both)
	end, err = os.OpenFile(path, flag|unix.O_NONBLOCK, 0)
	return path, end, err
}

// begun is called when the other side has opened its ends.
func (p *pipes) begun() {
	for _, file := range p.kept {
		_ = file.Close()
	}
	p.kept = nil
	_ = os.RemoveAll(p.dir)
}

// streams is how many streams of output there are.
func (p *pipes) streams() int {
	if p.problems != nil {
		return 2
	}
	return 1
}

func (p *pipes) close() {
	p.begun()
	for _, file := range []*os.File{p.input, p.output, p.problems} {
		_ = file.Close() // which may be nil
	}
}

// drainDelay is how long nothing may come out of a pipe after the command's end:
// what it has started and left behind may keep the pipe open for good.
const drainDelay = 2 * time.Second

// hurry ends what reads the output and has nothing to read within drainDelay.
func (p *pipes) hurry() {
	for _, file := range []*os.File{p.output, p.problems} {
		_ = file.SetReadDeadline(time.Now().Add(drainDelay)) // which may be nil
	}
}

// drain reads a pipe to its end, and once the command is over only as long as
// something comes. Who takes the output may be as slow as they like.
type drain struct {
	from *os.File
	over <-chan struct{}
}

func (d *drain) Read(b []byte) (int, error) {
	select {
	case <-d.over:
		_ = d.from.SetReadDeadline(time.Now().Add(drainDelay))
	default:
	}
	n, err := d.from.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}
