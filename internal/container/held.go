//go:build linux

package container

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// held is a command's process, kept by a descriptor, so that no other process can
// be mistaken for it later. The zero value holds none.
type held struct {
	mu    sync.Mutex
	pidfd *os.File
	pid   int
}

// hold keeps the process that the engine says is the command's. It is the
// command's if the engine says that it runs while the descriptor is open, which
// runs asks, and if it is in the container's network namespace.
func (h *held) hold(pid int, source *Source, runs func() bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended, or is not the host's
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	if !runs() || netnsOf(pid) != source.NetNS.ID() {
		_ = file.Close()
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pidfd, h.pid = file, pid
}

// release lets the process go.
func (h *held) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pidfd != nil {
		_ = h.pidfd.Close()
		h.pidfd = nil
	}
}

// errUnheld says that the command's process is not known.
var errUnheld = errors.New("its process is not known on this host")

// errRuns says that the command has not ended in the time that it had.
var errRuns = errors.New("it did not end")

// end ends the command: SIGTERM, and SIGKILL when it does not obey.
func (h *held) end(source *Source) error {
	err := h.signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err == nil {
		err = h.ended(killDelay)
	}
	if err != nil {
		if err = h.signal(syscall.SIGKILL); err == nil {
			err = h.ended(killDelay)
		}
	}
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return fmt.Errorf("the command may still run in %s: %w", source.Name, err)
}

// ended waits for the end of the process.
func (h *held) ended(limit time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for deadline := time.Now().Add(limit); ; {
		poll := []unix.PollFd{{Fd: int32(h.pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		default:
			return errRuns
		}
	}
}

// signal sends a signal to the process group that the command leads, as runc and
// crun start it (a session of its own); what it has started gets the signal, too.
func (h *held) signal(s os.Signal) error {
	number, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w", s, errors.ErrUnsupported)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pidfd == nil {
		return errUnheld
	}
	// The number of a process that is there cannot be another one's.
	err := unix.PidfdSendSignal(int(h.pidfd.Fd()), 0, nil, 0)
	if err == nil {
		if group, groupErr := unix.Getpgid(h.pid); groupErr == nil && group == h.pid {
			err = unix.Kill(-h.pid, number)
		} else {
			err = unix.PidfdSendSignal(int(h.pidfd.Fd()), number, nil, 0)
		}
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
