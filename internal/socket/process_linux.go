package socket

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a process that holds a socket.
type Process struct {
	PID int
	// Command is the kernel's name of it, at most 15 bytes of whatever it chose.
	Command string
	// NetNS is the inode number of its network namespace, 0 when that cannot be
	// read.
	NetNS uint64
	// Forwards is where docker-proxy passes connections on; invalid for others.
	Forwards netip.AddrPort
}

const (
	// maxDescriptors bounds how many descriptors Holders looks at.
	maxDescriptors = 1 << 20
	// maxArgs bounds how much of a command line is read.
	maxArgs = 4096
)

// Holders returns the process that holds each of the sockets with these inode
// numbers, from one pass over /proc, which ends when all are found. A socket of
// which that could not be determined is missing. With pids given, only these
// processes are looked at.
func Holders(ctx context.Context, inodes []uint32, pids ...int) map[uint32]Process {
	found := make(map[uint32]Process)
	wanted := make(map[string]uint32)
	for _, inode := range inodes {
		if inode != 0 {
			wanted[fmt.Sprintf("socket:[%d]", inode)] = inode
		}
	}
	if len(wanted) == 0 {
		return found
	}
	if len(pids) == 0 {
		pids = processes()
	}
	left := maxDescriptors
	for _, pid := range pids {
		if ctx.Err() != nil || left <= 0 || len(found) == len(wanted) {
			break
		}
		left -= held(pid, wanted, found)
	}
	return found
}

// Proxies lists the processes that are a docker-proxy.
func Proxies() []int {
	return slices.DeleteFunc(processes(), func(pid int) bool {
		// The name alone is read of most: it is shorter than the command line.
		return command(pid) != proxyName || !describe(pid).Forwards.IsValid()
	})
}

// processes lists all processes.
func processes() []int {
	names, err := readNames("/proc", maxDescriptors)
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// held adds what one process holds of the wanted sockets, and returns how many
// descriptors it has.
func held(pid int, wanted map[string]uint32, found map[uint32]Process) int {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := readNames(dir, maxDescriptors)
	if err != nil {
		return 0 // it has ended, or is somebody else's
	}
	var process *Process
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		inode, ok := wanted[target]
		if _, known := found[inode]; !ok || known {
			continue
		}
		if process == nil {
			process = describe(pid)
		}
		found[inode] = *process
	}
	return len(names)
}

// readNames lists a directory, without looking at what is in it.
func readNames(dir string, most int) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read-only
	return f.Readdirnames(most)
}

// describe reads what is to be known of a process.
func describe(pid int) *Process {
	p := &Process{PID: pid, Command: command(pid)}
	dir := fmt.Sprintf("/proc/%d", pid)
	var stat unix.Stat_t
	if unix.Stat(filepath.Join(dir, "ns/net"), &stat) == nil {
		p.NetNS = stat.Ino
	}
	if line, err := readSome(filepath.Join(dir, "cmdline"), maxArgs); err == nil {
		p.Forwards = forwards(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"))
	}
	return p
}

// command is the kernel's name of a process, empty when it has ended.
func command(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}

// readSome reads the beginning of a file.
func readSome(name string, most int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read-only
	buffer := make([]byte, most)
	n, err := f.Read(buffer)
	return buffer[:n], err
}
