//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Gone says, in a sentence, what became of the source since it was found: its first
// process has ended, perhaps in favour of another container of that name, or the
// name is another namespace's. It is empty while the source is there, and where
// that cannot be known. The namespace itself is held, and lives as long as the
// Source.
func (s *Source) Gone(ctx context.Context) string {
	switch {
	case s.pidfd != nil && ended(s.pidfd):
	case s.path != "" && renamed(s.path, s.NetNS.ID()):
		return fmt.Sprintf("The namespace %s was deleted meanwhile, or its name is another one's now.", s.Name)
	default:
		return ""
	}
	if s.service != nil {
		now, err := s.service.inspect(ctx, s.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Sprintf("The container %s was removed meanwhile.", s.Name)
		case err == nil && now.pid > 0 && now.pid != s.PID && now.id == s.ID: // for a moment it is still the old one
			return fmt.Sprintf("The container %s was restarted meanwhile: its network namespace is another one now.", s.Name)
		case err == nil && now.pid > 0 && now.id != s.ID:
			return fmt.Sprintf("The container %s was stopped meanwhile, and another one has its name now.", s.Name)
		}
	}
	return fmt.Sprintf("%s has ended meanwhile.", s.what())
}

func (s *Source) what() string {
	if s.Kind == KindContainer {
		return "The container " + s.Name
	}
	return "The process of the source, " + s.Name + ","
}

// ended reports whether the process behind a descriptor has: it can be read then.
func ended(pidfd *os.File) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// renamed reports whether a path names another namespace than the one with an
// inode number.
func renamed(path string, id uint64) bool {
	return inode(path) != id
}
