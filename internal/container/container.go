//go:build linux

// Package container finds the place that a probe is to be sent from: a
// container, a named network namespace, a process, or the host itself. It
// opens namespaces, reads files below their root, asks the daemons of Docker and
// Podman with GET requests, and reads the state that other engines keep in /run
// and /proc; it changes nothing on the host. Exec runs a command there.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/pathtrace/pathtrace/internal/netns"
	"golang.org/x/sys/unix"
)

// Kind is what a Source is.
type Kind string

// The kinds, as reports print them.
const (
	KindHost      Kind = "host"
	KindNetNS     Kind = "netns"
	KindPID       Kind = "pid"
	KindContainer Kind = "container"
)

// HostName is the name of the namespace that pathtrace runs in.
const HostName = "host"

// Source is where a probe is sent from. It holds the namespace open, so it
// cannot be mistaken for another one that takes its name later.
type Source struct {
	Kind Kind
	// Name is as reports print it: "host", the name of the container or the
	// namespace, or "pid N".
	Name string
	// Engine is the container engine that knows the name, one of Engines, empty
	// for others; ID is the engine's id of the container.
	Engine, ID string
	// Note says, in words, whose network namespace it is where that is not the
	// container's own; empty where there is nothing to say.
	Note  string
	NetNS *netns.NS
	// PID is the process whose namespace it is, 0 for a named namespace.
	PID int

	// root is the root directory that the source's files are read below.
	root *os.File
	// etc are the directories below root with the source's hosts file and
	// resolv.conf; the first that has the file is used.
	etc []string
	// pidfd holds the process with PID, to tell when it ends; nil where it could not
	// be held. path is the name of a named namespace.
	pidfd *os.File
	path  string
	// service is the API of the container's engine, nil where there is none.
	service *service
	// runner runs commands in the container, nil where nothing can be asked to.
	runner runner
	once   sync.Once
}

// Config says what is to be found. With Container, NetNS and PID all zero it
// is the host itself; at most one of them may be set.
type Config struct {
	// Container is a container's name or the start of its id, or the name of
	// a network namespace when no engine knows it. Containers of Kubernetes are
	// NAMESPACE/POD/CONTAINER, POD/CONTAINER or, for the pod, POD.
	Container string
	// NetNS is the name of a network namespace below RunNetNS, or a path when
	// it has a slash.
	NetNS string
	PID   int
	// Engine restricts Container to one of Engines. Empty means all.
	Engine string
	// RunNetNS is the directory of the named namespaces; empty means
	// /run/netns.
	RunNetNS string
	// DockerHost is the Docker daemon's address; empty means $DOCKER_HOST, or
	// the usual ones when that is empty too: /var/run/docker.sock, and
	// /run/user/UID/docker.sock of the own user, or of all for root.
	DockerHost string
}

func (c *Config) defaults() {
	if c.RunNetNS == "" {
		c.RunNetNS = "/run/netns"
	}
}

// NotFoundError says that nothing has the name.
type NotFoundError struct {
	// What is "container" or "network namespace".
	What, Name string
	// Near are existing names that look like it, the nearest first.
	Near []string
	// Problems are the places that could not be asked, in words.
	Problems []string
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("no %s %q", e.What, e.Name)
	if len(e.Near) > 0 {
		quoted := make([]string, len(e.Near))
		for i, name := range e.Near {
			quoted[i] = strconv.Quote(name)
		}
		text += "; did you mean " + strings.Join(quoted, " or ") + "?"
	}
	if len(e.Problems) > 0 {
		text += " (" + strings.Join(e.Problems, "; ") + ")"
	}
	return text
}

// NotRunningError says that the container has no process and so no namespace.
type NotRunningError struct {
	Name, Engine string
	// State is the engine's word: exited, created, …
	State string
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("container %q is not running: %s says %q", e.Name, e.Engine, e.State)
}

// PermissionError says which capability is missing. It unwraps to the
// system's error.
type PermissionError struct {
	// What was to be done: "enter the network namespace of pid 1".
	What string
	// Needs names the capability.
	Needs string
	Err   error
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("no permission to %s: %v; it needs %s (run pathtrace as root)", e.What, e.Err, e.Needs)
}

func (e *PermissionError) Unwrap() error { return e.Err }

// Find opens the source. Errors that a caller can decide on are
// *NotFoundError, *AmbiguousError, *NotRunningError and *PermissionError. The caller closes the
// source.
func Find(ctx context.Context, config Config) (*Source, error) {
	config.defaults()
	given := 0
	for _, set := range []bool{config.Container != "", config.NetNS != "", config.PID != 0} {
		if set {
			given++
		}
	}
	var source *Source
	var err error
	switch {
	case given > 1:
		return nil, errors.New("give one of a container, a network namespace and a pid")
	case config.Container != "":
		source, err = findContainer(ctx, config)
	case config.NetNS != "":
		source, err = findNetNS(config)
	case config.PID != 0:
		source, err = fromPID(config.PID, &Source{Kind: KindPID, Name: fmt.Sprintf("pid %d", config.PID)})
	default:
		return host()
	}
	if err != nil {
		return nil, err
	}
	if err := source.enter(); err != nil {
		return nil, errors.Join(err, source.Close())
	}
	return source, nil
}

// enter tries to enter the namespace, so that a missing capability is found
// before anything is built on it, and gives a source that is the host after
// all the host's name, and no other one.
func (s *Source) enter() error {
	current, err := netns.Current()
	if err != nil {
		return err
	}
	defer current.Close() //nolint:errcheck // read-only descriptor
	if current.ID() == s.NetNS.ID() {
		s.Name = HostName
		return nil
	}
	if s.Name == HostName {
		s.Name = fmt.Sprintf("%s %s", s.Kind, HostName)
	}
	what := fmt.Sprintf("enter the network namespace of %s", s.Name)
	if err := s.NetNS.Do(func() error { return nil }); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return &PermissionError{What: what, Needs: "CAP_SYS_ADMIN", Err: cause(err)}
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func host() (*Source, error) {
	ns, err := netns.Current()
	if err != nil {
		return nil, err
	}
	root, err := openRoot("/")
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Source{Kind: KindHost, Name: HostName, NetNS: ns, PID: os.Getpid(), root: root, etc: []string{"etc"}}, nil
}

// fromPID completes a source with the namespace and the root of a process.
// Both are opened through one descriptor of /proc/PID, so that they are one
// process's even if the number is taken by another one meanwhile.
func fromPID(pid int, source *Source) (*Source, error) {
	if pid < 0 {
		return nil, fmt.Errorf("pid %d is not a process", pid)
	}
	process, err := openRoot(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no process has pid %d", pid)
		}
		return nil, err
	}
	defer process.Close() //nolint:errcheck // read-only descriptor
	what := fmt.Sprintf("enter the network namespace of pid %d", pid)
	ns, err := netns.Open(fmt.Sprintf("/proc/self/fd/%d/ns/net", process.Fd()))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &PermissionError{What: what, Needs: "CAP_SYS_PTRACE and CAP_SYS_ADMIN", Err: cause(err)}
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH):
		return nil, fmt.Errorf("process %d has ended", pid)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	root, err := openRoot(fmt.Sprintf("/proc/self/fd/%d/root", process.Fd()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the root directory of pid %d: %w", pid, cause(err)), ns.Close())
	}
	source.NetNS, source.PID, source.root, source.etc = ns, pid, root, []string{"etc"}
	source.pidfd = hold(pid, ns)
	return source, nil
}

// hold opens a descriptor of a process, if that is the one whose namespace was
// opened; nil else. A thread has none before Linux 6.9.
func hold(pid int, ns *netns.NS) *os.File {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	held := os.NewFile(uintptr(fd), "process")
	if netnsOf(pid) != ns.ID() {
		_ = held.Close()
		return nil
	}
	return held
}

func findNetNS(config Config) (*Source, error) {
	path := config.NetNS
	if !strings.Contains(path, "/") {
		source, err := fromName(config, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &NotFoundError{What: "network namespace", Name: path, Near: near(path, named(config.RunNetNS))}
		}
		return source, err
	}
	path = filepath.Clean(path)
	if filepath.Dir(path) == filepath.Clean(config.RunNetNS) {
		return fromName(config, filepath.Base(path))
	}
	name := path
	var pid int
	if _, err := fmt.Sscanf(path, "/proc/%d/ns/net", &pid); err == nil && path == fmt.Sprintf("/proc/%d/ns/net", pid) {
		name = fmt.Sprintf("pid %d", pid)
	}
	return fromPath(path, &Source{Kind: KindNetNS, Name: name, etc: []string{"etc"}})
}

// fromName opens a named namespace. "ip netns exec" shows a process there the
// files of /etc/netns/NAME in place of those of /etc (ip-netns(8)).
func fromName(config Config, name string) (*Source, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%q cannot be the name of a network namespace", name)
	}
	return fromPath(filepath.Join(config.RunNetNS, name),
		&Source{Kind: KindNetNS, Name: name, etc: []string{filepath.Join("etc/netns", name), "etc"}})
}

func fromPath(path string, source *Source) (*Source, error) {
	what := "enter the network namespace " + path
	// The type is looked at before the file is opened: a FIFO would block.
	var stat unix.Statfs_t
	err := unix.Statfs(path, &stat)
	if err == nil && stat.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%s is not a network namespace (a name whose namespace is gone looks like this, too)", path)
	}
	var ns *netns.NS
	if err == nil {
		ns, err = netns.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &PermissionError{What: what, Needs: "CAP_SYS_PTRACE and CAP_SYS_ADMIN", Err: cause(err)}
	case err != nil:
		return nil, fmt.Errorf("open the network namespace %s: %w", path, cause(err))
	}
	kind, err := unix.IoctlRetInt(ns.FD(), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(fmt.Errorf("%s is not a network namespace", path), ns.Close())
	}
	root, err := openRoot("/")
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	source.NetNS, source.root, source.path = ns, root, path
	return source, nil
}

// named returns the names of the named namespaces; none when there is no
// directory.
func named(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// Close releases the namespace and the root. It may be called twice.
func (s *Source) Close() error {
	var err error
	s.once.Do(func() {
		err = errors.Join(s.NetNS.Close(), s.root.Close())
		if s.pidfd != nil {
			err = errors.Join(err, s.pidfd.Close())
		}
	})
	return err
}

// maxFile is more than any hosts file or resolv.conf that works.
const maxFile = 1 << 20

// ReadEtc reads a file of the source's /etc and returns its path as the source
// sees it. Links in the path cannot lead out of the source's root; only regular
// files of at most 1 MiB are read. A missing file is fs.ErrNotExist.
func (s *Source) ReadEtc(name string) (content []byte, path string, err error) {
	for _, dir := range s.etc {
		path = filepath.Join(dir, name)
		content, err = readBelow(s.root, path)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return content, "/" + path, err
}

// readBelow reads a regular file below root.
func readBelow(root *os.File, path string) ([]byte, error) {
	// O_PATH opens nothing yet: a FIFO does not block and a device is not
	// touched before the type is known.
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	var fd int
	var err error
	for range 8 { // EAGAIN: something on the path was renamed meanwhile
		if fd, err = unix.Openat2(int(root.Fd()), path, &how); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/" + path, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // O_PATH descriptor
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: "/" + path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "read", Path: "/" + path, Err: errors.New("not a regular file")}
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/" + path, Err: cause(err)}
	}
	defer file.Close() //nolint:errcheck // read-only
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: "/" + path, Err: cause(err)}
	}
	if len(content) > maxFile {
		return nil, &fs.PathError{Op: "read", Path: "/" + path, Err: unix.EFBIG}
	}
	return content, nil
}

func openRoot(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// cause strips the path that the system's error names where the message has
// it already.
func cause(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}
