//go:build linux

// Package netns enters network namespaces. A namespace is held by a file
// descriptor, so it cannot be mistaken for another one that takes its name
// later, and it lives as long as somebody holds it.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is an open network namespace.
type NS struct {
	handle vishnetns.NsHandle
	inode  uint64
	once   sync.Once
}

// Current returns the namespace of the calling thread.
func Current() (*NS, error) {
	return Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

// FromPID returns the namespace of a process.
func FromPID(pid int) (*NS, error) { return Open(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// Open returns the namespace that a path names: /proc/PID/ns/net or a bind
// mount of it, as below /run/netns.
func Open(path string) (*NS, error) {
	handle, err := vishnetns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(handle), &stat); err != nil {
		_ = handle.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &NS{handle: handle, inode: stat.Ino}, nil
}

// New makes a namespace of its own. It is held by the descriptor alone and
// gone when that is closed and no socket, link or process holds it.
func New() (*NS, error) {
	var created *NS
	err := onThread(func() (restore bool, err error) {
		before, err := vishnetns.Get()
		if err != nil {
			return true, fmt.Errorf("create network namespace: %w", err)
		}
		defer before.Close() //nolint:errcheck // read-only descriptor
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("create network namespace: %w", err)
		}
		created, err = Current()
		return vishnetns.Set(before) == nil, err
	})
	return created, err
}

// FD returns the descriptor, for libraries and system calls that take one. It
// is valid until Close.
func (n *NS) FD() int { return int(n.handle) }

// ID returns the namespace's inode number, equal for two handles of one
// namespace.
func (n *NS) ID() uint64 { return n.inode }

// Close releases the handle. It may be called twice.
func (n *NS) Close() error {
	var err error
	n.once.Do(func() { err = n.handle.Close() })
	return err
}

// Do runs f on a thread that is in the namespace; where it is already, without
// the CAP_SYS_ADMIN that entering takes. Sockets that f opens belong to the
// namespace for good. f must not start goroutines that should be in the
// namespace, nor resolve host names: both run on other threads.
func (n *NS) Do(f func() error) error {
	return onThread(func() (bool, error) {
		before, err := vishnetns.Get()
		if err != nil {
			return true, fmt.Errorf("enter network namespace: %w", err)
		}
		defer before.Close() //nolint:errcheck // read-only descriptor
		if before.Equal(n.handle) {
			return true, f()
		}
		if err := vishnetns.Set(n.handle); err != nil {
			return true, fmt.Errorf("enter network namespace: %w", err)
		}
		err = f()
		return vishnetns.Set(before) == nil, err
	})
}

// onThread runs f on a thread of its own. When f says that the thread could
// not be restored, the thread ends with its goroutine.
func onThread(f func() (restored bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errors.New("network namespace: the function ended its goroutine")
		defer func() { done <- err }()
		var restored bool
		if restored, err = f(); restored {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}
