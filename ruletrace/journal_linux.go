package ruletrace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// journal is the note of a change of nf_log, for the case that both the process
// and its guard were killed.
type journal struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // the process's start, in clock ticks after boot
	PIDNS   string `json:"pidNamespace"`
	Boot    string `json:"boot"`
	// The namespace: its name in reports, its inode, and its cookie, which
	// unlike the inode is never used twice.
	Name   string            `json:"name"`
	Inode  uint64            `json:"inode"`
	Cookie uint64            `json:"cookie"`
	Before map[string]string `json:"before"`
}

func newJournal(cfg NFLogConfig, before map[string]string) (journal, error) {
	started, err := processStart(os.Getpid())
	if err != nil {
		return journal{}, err
	}
	boot, err := bootID()
	if err != nil {
		return journal{}, err
	}
	pidns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return journal{}, fmt.Errorf("journal nf_log: %w", err)
	}
	return journal{
		PID: os.Getpid(), Started: started, PIDNS: pidns, Boot: boot,
		Name: cfg.Name, Inode: cfg.NetNS.ID(), Cookie: cookie(cfg.NetNS), Before: before,
	}, nil
}

// journalDirs are the places for journals, best first. The second serves those
// who are root only in their user namespace.
func journalDirs() []string {
	dirs := []string{"/run/pathtrace"}
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) {
		dirs = append(dirs, filepath.Join(runtime, "pathtrace"))
	}
	return append(dirs, filepath.Join(os.TempDir(), "pathtrace-"+strconv.Itoa(os.Getuid())))
}

// write writes the journal to a file of its own and returns its path.
func (j journal) write(dir string) (string, error) {
	dirs := journalDirs()
	if dir != "" {
		dirs = []string{dir}
	}
	var errs []error
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := ours(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		path := filepath.Join(dir, fmt.Sprintf("nflog-%d-%d.json", j.PID, j.Inode))
		if err := j.rewrite(path); err != nil {
			errs = append(errs, err)
			continue
		}
		return path, nil
	}
	return "", fmt.Errorf("journal nf_log: %w", errors.Join(errs...))
}

// rewrite replaces the journal as a whole.
func (j journal) rewrite(path string) error {
	text, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// ours reports an error for a directory that somebody else could have filled.
func ours(dir string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(dir, &stat); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR || stat.Uid != uint32(os.Getuid()) || stat.Mode&0o022 != 0 {
		return fmt.Errorf("%s is not a directory of this user alone", dir)
	}
	return nil
}

// Cleanup puts back what killed runs left of nf_log, as far as their journals
// in dir tell; an empty dir means all the usual places: /run/pathtrace,
// $XDG_RUNTIME_DIR/pathtrace and the temporary directory's pathtrace-UID. It
// returns in words what it did, and leaves runs alone that are alive.
//
// A namespace is restored only when it is certain to be the journal's: same
// boot, inode and cookie. Where it is gone the journal is removed.
func Cleanup(dir string) ([]string, error) {
	dirs := journalDirs()
	if dir != "" {
		dirs = []string{dir}
	}
	var done []string
	var errs []error
	for _, dir := range dirs {
		if ours(dir) != nil {
			continue // absent, or not to be trusted
		}
		paths, err := filepath.Glob(filepath.Join(dir, "nflog-*.json"))
		if err != nil {
			errs = append(errs, err)
		}
		for _, path := range paths {
			words, err := cleanupJournal(path)
			done = append(done, words...)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
			}
		}
		errs = append(errs, removeHalves(dir))
	}
	return done, errors.Join(errs...)
}

// removeHalves removes what runs left that were killed while they wrote a
// journal. The setting that it was to tell of was not changed, or is told of by
// the journal before it.
func removeHalves(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "nflog-*.json.new"))
	errs := []error{err}
	for _, path := range paths {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(path), "nflog-%d-", &pid); err != nil {
			continue // not ours
		}
		if _, err := processStart(pid); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// loggerName is what the kernel calls a logger, or NONE.
var loggerName = regexp.MustCompile(`^[A-Za-z0-9_]{1,32}$`)

func cleanupJournal(path string) ([]string, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // its run ended meanwhile
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	var j journal
	if err := json.NewDecoder(io.LimitReader(file, 1<<16)).Decode(&j); err != nil {
		return nil, fmt.Errorf("unreadable journal: %w", err)
	}
	for _, name := range logSysctls {
		if !loggerName.MatchString(j.Before[name]) {
			return nil, fmt.Errorf("unreadable journal: net.netfilter.nf_log.%s was %q", name, j.Before[name])
		}
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if j.Boot != boot {
		return []string{fmt.Sprintf("removed %s: it is of an earlier boot", path)}, os.Remove(path)
	}
	if pidns, err := os.Readlink("/proc/self/ns/pid"); err != nil || pidns != j.PIDNS {
		return nil, errors.Join(err, errors.New("it was written in another pid namespace; run the cleanup there"))
	}
	if started, err := processStart(j.PID); err == nil && started == j.Started {
		return nil, nil // alive
	}
	if j.Cookie == 0 {
		return nil, fmt.Errorf("this kernel cannot tell for certain which network namespace %s was (that takes Linux 5.14); look at net.netfilter.nf_log there, then remove the file", j.Name)
	}
	ns := findNamespace(j)
	if ns == nil {
		return []string{fmt.Sprintf("removed %s: the network namespace %s (%d) is gone", path, j.Name, j.Inode)}, os.Remove(path)
	}
	defer ns.Close() //nolint:errcheck // read-only descriptor
	var done []string
	err = ns.Do(func() error {
		if err := awaitGroup(); err != nil {
			return fmt.Errorf("nothing restored in %s: %w", j.Name, err)
		}
		files, err := openLogFiles()
		if err != nil {
			return err
		}
		defer func() {
			for _, file := range files {
				_ = file.Close()
			}
		}()
		restored, err := restoreSettings(files, j.Before)
		for _, words := range restored {
			done = append(done, fmt.Sprintf("in %s: %s (left by pid %d)", j.Name, words, j.PID))
		}
		return err
	})
	if err != nil {
		return done, err
	}
	if len(done) == 0 {
		done = []string{fmt.Sprintf("removed %s: nothing of it was left in %s", path, j.Name)}
	}
	return done, os.Remove(path)
}

// awaitGroup waits until nobody has NFLOG group 0. A process that is just ending has
// it for a moment, and cannot be found any more.
func awaitGroup() error {
	for deadline := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		portID, held := groupPort()
		if !held {
			return nil
		}
		if pid, process := socketOwner(portID); pid != 0 {
			return fmt.Errorf("NFLOG group 0 is in use by %s (pid %d)", process, pid)
		}
		if time.Now().After(deadline) {
			return errors.New("NFLOG group 0 is in use by a process that cannot be seen from here")
		}
	}
}

// findNamespace looks for the journal's namespace wherever one can be held: by
// a process, a descriptor or a bind mount.
func findNamespace(j journal) *netns.NS {
	is := func(path string) *netns.NS {
		ns, err := netns.Open(path)
		if err != nil {
			return nil
		}
		if ns.ID() == j.Inode && cookie(ns) == j.Cookie {
			return ns
		}
		_ = ns.Close()
		return nil
	}
	link := fmt.Sprintf("net:[%d]", j.Inode)
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern) // the pattern is well-formed
		for _, path := range paths {
			if target, err := os.Readlink(path); err != nil || target != link {
				continue
			}
			if ns := is(path); ns != nil {
				return ns
			}
		}
	}
	tables, _ := filepath.Glob("/proc/[0-9]*/mountinfo") // the pattern is well-formed
	seen := map[string]bool{}
	for _, table := range tables {
		process := filepath.Dir(table)
		if mounts, err := os.Readlink(process + "/ns/mnt"); err != nil || seen[mounts] {
			continue
		} else {
			seen[mounts] = true
		}
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			// id parent major:minor root mountpoint …; the root of a bind
			// mount of a namespace is its link's text.
			fields := strings.Fields(line)
			if len(fields) < 5 || fields[3] != link {
				continue
			}
			if ns := is(process + "/root" + unescapeMount(fields[4])); ns != nil {
				return ns
			}
		}
	}
	return nil
}

// unescapeMount undoes the octal escapes of mountinfo (proc_pid_mountinfo(5)).
func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

// processStart returns when a process began, field 22 of /proc/PID/stat.
func processStart(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
