package ruletrace

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// traceLogger is the logger that sends traces to NFLOG.
const traceLogger = "nfnetlink_log"

// logSysctls are the settings of net.netfilter.nf_log that a run changes: 2 and
// 10 (NFPROTO_IPV4, NFPROTO_IPV6) by its own will, and 0, which the bind of the
// group sets.
var logSysctls = []string{"0", "2", "10"}

// logSettings is the change of net.netfilter.nf_log in one namespace, and all
// that puts it back: this process, else its guard, else Cleanup with the
// journal.
//
// Restoring touches only what still says traceLogger. An open sysctl file
// belongs to the namespace of the thread that opened it, for ever, so neither
// this process nor the guard can hit another namespace.
type logSettings struct {
	netns  string
	before map[string]string // as read; what restore writes
	files  []*os.File        // in the order of logSysctls
	guard  *guard
	entry  journal
	path   string // of the journal; empty where none could be written

	mu       sync.Mutex
	restored bool
	once     sync.Once
}

// openLogSettings notes the settings, journals them and starts the guard, which
// also gets the NFLOG socket: while it lives, nobody else can take the group.
// Nothing is changed yet.
func openLogSettings(cfg NFLogConfig, socket *os.File) (_ *logSettings, err error) {
	if !guardReady.Load() {
		return nil, errors.New("the program's main did not call ruletrace.GuardMain")
	}
	s := &logSettings{netns: cfg.Name}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	err = cfg.NetNS.Do(func() error {
		var err error
		s.files, err = openLogFiles()
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.before, err = readSettings(s.files); err != nil {
		return nil, err
	}
	if s.entry, err = newJournal(cfg, s.before); err != nil {
		return nil, err
	}
	if s.path, err = s.entry.write(cfg.JournalDir); err != nil && cfg.JournalDir != "" {
		return nil, err
	}
	s.guard, err = startGuard(append(slices.Clone(s.files), socket), guardState{Before: s.before, Journal: s.path})
	return s, err
}

// openLogFiles opens the settings of the thread's namespace.
func openLogFiles() ([]*os.File, error) {
	var files []*os.File
	for _, name := range logSysctls {
		file, err := os.OpenFile("/proc/sys/net/netfilter/nf_log/"+name, os.O_RDWR, 0)
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, fmt.Errorf("open net.netfilter.nf_log.%s: %w", name, err)
		}
		files = append(files, file)
	}
	return files, nil
}

func readSettings(files []*os.File) (map[string]string, error) {
	values := map[string]string{}
	for i, file := range files {
		value, err := readSetting(file)
		if err != nil {
			return nil, fmt.Errorf("read net.netfilter.nf_log.%s: %w", logSysctls[i], err)
		}
		values[logSysctls[i]] = value
	}
	return values, nil
}

func readSetting(file *os.File) (string, error) {
	buffer := make([]byte, 64)
	n, err := file.ReadAt(buffer, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(string(buffer[:n])), nil
}

// point makes 2 and 10 log to NFLOG. The group must be held: it is what keeps
// other runs from reading our change as the state before.
func (s *logSettings) point() error {
	now, err := readSettings(s.files)
	if err != nil {
		return err
	}
	// The bind has changed 0 already; the others may have been restored by a
	// run that ended while this one began.
	now["0"] = s.before["0"]
	if now["2"] != s.before["2"] || now["10"] != s.before["10"] {
		s.before, s.entry.Before = now, now
		if s.path != "" {
			if err := s.entry.rewrite(s.path); err != nil {
				return err
			}
		}
		if err := s.guard.tell(guardState{Before: s.before, Journal: s.path}); err != nil {
			return err
		}
	}
	for i, name := range logSysctls {
		if name == "0" || now[name] == traceLogger {
			continue
		}
		if _, err := s.files[i].WriteAt([]byte(traceLogger), 0); err != nil {
			return fmt.Errorf("set net.netfilter.nf_log.%s: %w", name, err)
		}
	}
	return nil
}

// restore puts the settings back. It may be called twice.
func (s *logSettings) restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restored {
		return nil
	}
	s.restored = true
	_, err := restoreSettings(s.files, s.before)
	return err
}

// restoreSettings writes back what still says traceLogger, and returns what it
// did. A namespace that is gone needs nothing.
func restoreSettings(files []*os.File, before map[string]string) (done []string, err error) {
	var errs []error
	for i, name := range logSysctls {
		want := before[name]
		now, err := readSetting(files[i])
		if errors.Is(err, unix.ENOENT) || err == nil && (now != traceLogger || now == want) {
			continue
		}
		if err == nil {
			_, err = files[i].WriteAt([]byte(want), 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore net.netfilter.nf_log.%s: %w", name, err))
			continue
		}
		done = append(done, fmt.Sprintf("net.netfilter.nf_log.%s: %s -> %s", name, now, want))
	}
	return done, errors.Join(errs...)
}

func (s *logSettings) describe() string {
	var b strings.Builder
	for _, name := range []string{"2", "10"} {
		fmt.Fprintf(&b, "sysctl net.netfilter.nf_log.%s=%s in %s (was %s)\n", name, traceLogger, s.netns, s.before[name])
	}
	return b.String()
}

// abandon is Close for settings that were not changed: what they say by now is
// somebody else's doing.
func (s *logSettings) abandon() error {
	s.mu.Lock()
	s.restored = true
	s.mu.Unlock()
	return s.Close()
}

// Close restores, dismisses the guard and removes the journal.
func (s *logSettings) Close() error {
	var err error
	s.once.Do(func() {
		if s.before != nil {
			err = s.restore()
		}
		if s.guard != nil {
			err = errors.Join(err, s.guard.dismiss())
		}
		if s.path != "" && err == nil {
			err = os.Remove(s.path)
		}
		for _, file := range s.files {
			err = errors.Join(err, file.Close())
		}
	})
	return err
}

// guardName is the guard's argv[0], by which GuardMain knows it.
const guardName = "pathtrace-nflog-guard"

// guardReady says that this program has the hook: without it the child would
// be a second copy of the whole program.
var guardReady atomic.Bool

// guardState is what the guard restores if it is left alone.
type guardState struct {
	Before  map[string]string
	Journal string
	// Done says that there is nothing left to do.
	Done bool
}

// GuardMain must be the first call of main (and of TestMain in tests that open
// an NFLog). It returns at once, except in the child process that OpenNFLog
// starts: there it waits for its parent's end, restores what the parent left
// changed, and exits.
func GuardMain() {
	guardReady.Store(true)
	if len(os.Args) != 1 || os.Args[0] != guardName {
		return
	}
	// Not os.Exit: with the race detector it takes a second, in which the
	// parent's Close would wait.
	syscall.Exit(guardRun())
}

// guardRun is the guard's work. It returns the exit status.
func guardRun() int {
	// The terminal's Ctrl-C goes to the parent; a service manager's SIGTERM to
	// both. The guard ends when the parent has.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	files := make([]*os.File, len(logSysctls))
	for i := range files {
		files[i] = os.NewFile(uintptr(3+i), logSysctls[i])
	}
	var state guardState
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		// A line that was cut in the middle leaves the last whole state.
		var next guardState
		if json.Unmarshal(lines.Bytes(), &next) == nil {
			state = next
		}
	}
	if state.Done || state.Before == nil {
		return 0
	}
	if _, err := restoreSettings(files, state.Before); err != nil {
		return 1 // the journal stays for Cleanup
	}
	if state.Journal != "" {
		_ = os.Remove(state.Journal)
	}
	return 0
}

// guard is the child process.
type guard struct {
	process *exec.Cmd
	pipe    io.WriteCloser
}

// startGuard starts the child with the files as descriptors 3 and on. What it
// is told waits in the pipe, so there is no need to wait for it.
func startGuard(files []*os.File, state guardState) (*guard, error) {
	g := &guard{process: &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{guardName}, Dir: "/", Env: []string{},
		ExtraFiles:  files,
		SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}}
	var err error
	if g.pipe, err = g.process.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the guard of nf_log: %w", err)
	}
	if err := g.process.Start(); err != nil {
		return nil, fmt.Errorf("start the guard of nf_log: %w", err)
	}
	if err := g.tell(state); err != nil {
		return nil, errors.Join(err, g.dismiss())
	}
	return g, nil
}

// tell replaces what the guard would restore.
func (g *guard) tell(state guardState) error {
	line, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if _, err := g.pipe.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell the guard of nf_log: %w", err)
	}
	return nil
}

// dismiss ends the guard. One that was killed is no error: there is nothing
// left for it to do.
func (g *guard) dismiss() error {
	_ = g.tell(guardState{Done: true})
	_ = g.pipe.Close()
	var exit *exec.ExitError
	if err := g.process.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("wait for the guard of nf_log: %w", err)
	}
	return nil
}

// cookie returns the namespace's number, which is never used again until the
// next boot (SO_NETNS_COOKIE, Linux 5.14); 0 where the kernel has none.
func cookie(ns *netns.NS) uint64 {
	var value uint64
	_ = ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // nothing was written
		value, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return value
}
