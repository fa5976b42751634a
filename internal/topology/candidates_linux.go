package topology

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/internal/netns"
	"golang.org/x/sys/unix"
)

// Candidate is a namespace that the way may lead into.
type Candidate struct {
	Name  string
	NetNS *netns.NS
}

// candidate is a namespace that may be opened. It is opened when a link may
// lead into it and not before: a machine has hundreds.
type candidate struct {
	name  string
	inode uint64
	path  string
	ns    *netns.NS
	// pid is as in Namespace. unnamed says that the name tells people nothing: it
	// is that of a process, or one that an engine has made up.
	pid     int
	unnamed bool
	// owned says that the descriptor is ours to close, gone that it could not
	// be opened.
	owned, gone bool
}

// open returns the namespace, nil when it cannot be opened or is another one
// by now.
func (c *candidate) open() *netns.NS {
	if c.ns != nil || c.gone {
		return c.ns
	}
	ns, err := netns.Open(c.path)
	switch {
	case err != nil:
		c.gone = true
	case ns.ID() != c.inode:
		c.gone = true
		_ = ns.Close()
	default:
		c.ns, c.owned = ns, true
	}
	return c.ns
}

// namespaceDirs are where namespaces are bound to names: those of "ip netns"
// and of the Docker daemon.
const (
	namedDir  = "/run/netns"
	dockerDir = "/run/docker/netns"
)

// findCandidates lists the network namespaces of the machine once each, by
// their best name.
func findCandidates(directory string) []*candidate {
	if directory == "" {
		directory = namedDir
	}
	known := make(map[uint64]bool)
	var found []*candidate
	add := func(inode uint64, name, path string) {
		if !known[inode] {
			known[inode] = true
			found = append(found, &candidate{name: name, inode: inode, path: path, unnamed: madeUp(name)})
		}
	}
	bound := func(directory string, add func(inode uint64, name, path string)) {
		entries, err := os.ReadDir(directory)
		if err != nil {
			return
		}
		for _, entry := range entries {
			path := filepath.Join(directory, entry.Name())
			var where unix.Statfs_t
			var what unix.Stat_t
			// A name whose namespace is gone is an ordinary file.
			if unix.Statfs(path, &where) == nil && where.Type == unix.NSFS_MAGIC && unix.Stat(path, &what) == nil {
				add(what.Ino, entry.Name(), path)
			}
		}
	}
	bound(directory, add)
	for _, pid := range processes() {
		path := fmt.Sprintf("/proc/%d/ns/net", pid)
		if inode, ok := inodeOf(path); ok {
			add(inode, fmt.Sprintf("pid %d", pid), path)
		}
	}
	bound(dockerDir, func(inode uint64, name, path string) { add(inode, "docker "+name, path) })
	return found
}

// madeUp reports whether a name is that of a process or of Docker's namespaces, or
// one that Podman (netns-) or network plugins of Kubernetes (cni-) have made up.
func madeUp(name string) bool {
	return slices.ContainsFunc([]string{"pid ", "docker ", "netns-", "cni-"}, func(begin string) bool { return strings.HasPrefix(name, begin) })
}

// processes returns the pids that are visible, the lowest first.
func processes() []int {
	directory, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer directory.Close() //nolint:errcheck // read-only
	names, err := directory.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.SortFunc(pids, cmp.Compare[int])
	return pids
}

// inodeOf reads the inode number from a link of the form net:[4026531840]. It
// is cheaper than opening it and needs the same permission.
func inodeOf(path string) (uint64, bool) {
	target, err := os.Readlink(path)
	if err != nil {
		return 0, false
	}
	digits, found := strings.CutPrefix(target, "net:[")
	inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
	return inode, found && err == nil
}
