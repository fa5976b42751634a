//go:build linux

package container

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is one process of the machine (proc(5), /proc/PID/stat).
type process struct {
	pid, parent int
	// name is the kernel's: at most 15 letters of the program's.
	name string
	// started is when, in clock ticks since the machine was.
	started uint64
}

// maxProcesses bounds how many processes are looked at.
const maxProcesses = 1 << 16

// processes lists the processes that can be seen. One that ends meanwhile is left
// out.
func processes() ([]process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close() //nolint:errcheck // read-only descriptor
	entries, err := dir.Readdirnames(maxProcesses)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// readProcess reads one process; false when there is none.
func readProcess(pid int) (process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	return parseStat(pid, stat)
}

// The fields of /proc/PID/stat behind the name, counted from 0.
const (
	statParent  = 1
	statStarted = 19
)

// parseStat reads the line of /proc/PID/stat. The name in it is in brackets and
// may hold anything.
func parseStat(pid int, stat []byte) (process, bool) {
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if begin < 0 || end < begin {
		return process{}, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= statStarted {
		return process{}, false
	}
	p := process{pid: pid, name: string(stat[begin+1 : end])}
	var err error
	if p.parent, err = strconv.Atoi(fields[statParent]); err != nil {
		return process{}, false
	}
	p.started, err = strconv.ParseUint(fields[statStarted], 10, 64)
	return p, err == nil
}

// arguments returns the command line of a process; nil when it has ended.
func (p *process) arguments() []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}

// owner is the user whose process it is, 0 also when it has ended.
func (p *process) owner() int {
	var stat unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d", p.pid), &stat) != nil {
		return 0
	}
	return int(stat.Uid)
}

// children are the processes that have a parent.
func children(parent int, all []process) []process {
	var found []process
	for _, p := range all {
		if p.parent == parent {
			found = append(found, p)
		}
	}
	return found
}

// apart is the child with a process namespace of its own, the one that has been
// there the longest; 0 when there is none. A process that watches a container has
// other children, too: hooks, and what cleans up.
func apart(parent int, all []process) int {
	own, first := pidnsOf(parent), process{}
	for _, p := range children(parent, all) {
		if ns := pidnsOf(p.pid); ns != 0 && ns != own && (first.pid == 0 || p.started < first.started) {
			first = p
		}
	}
	return first.pid
}

// pidnsOf is the inode number of a process's process namespace, 0 for none.
func pidnsOf(pid int) uint64 { return inode(fmt.Sprintf("/proc/%d/ns/pid", pid)) }

// netnsOf is the inode number of a process's network namespace, 0 for none.
func netnsOf(pid int) uint64 { return inode(fmt.Sprintf("/proc/%d/ns/net", pid)) }

func inode(path string) uint64 {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) != nil {
		return 0
	}
	return stat.Ino
}

// watcher is a process one of whose children is a container's first process.
type watcher struct {
	engine string
	// first finds that child; 0 when there is none.
	first func(p *process, arguments []string, all []process) int
	// watches reads its command line; ok is false when it watches no container.
	watches func(arguments []string) (id, name string, ok bool)
	// programs are the beginnings of its name.
	programs []string
}

// containers finds the containers of a kind of watcher.
func (w *watcher) containers() ([]found, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var known []found
	for i := range all {
		p := &all[i]
		if !w.runs(p.name) {
			continue
		}
		arguments := p.arguments()
		id, name, ok := w.watches(arguments)
		if !ok {
			continue
		}
		f := found{engine: w.engine, owner: p.owner(), id: id, name: name, pid: w.first(p, arguments, all), state: "without a process"}
		known = append(known, f)
	}
	return known, nil
}

func (w *watcher) runs(program string) bool {
	for _, begin := range w.programs {
		if strings.HasPrefix(program, begin) {
			return true
		}
	}
	return false
}

// those returns the containers that a name stands for.
func those(asked string, all []found) []found {
	var meant []found
	for _, f := range all {
		var match bool
		if match, f.exact = matches(asked, f.id, f.name); match {
			meant = append(meant, f)
		}
	}
	return meant
}

func namesOf(all []found) []string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].name
	}
	return names
}
