//go:build linux

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// podman finds Podman's containers where its service does not run, which is the
// usual case: each container has a process that watches it, conmon, whose command
// line has the id and the name, and whose child it is. Containers that do not run
// are in the store's list.
type podman struct{}

var conmon = watcher{engine: podmanEngine, programs: []string{"conmon"}, watches: readConmon, first: conmonChild}

// readConmon reads the command line of a conmon, as Podman 4.3 starts it: "-c" is
// the container's id, "-n" its name, and "-u" is the id once more, or that of the
// session for one that watches an exec. Others than Podman use conmon, too.
func readConmon(arguments []string) (id, name string, ok bool) {
	id, name = after(arguments, "-c"), after(arguments, "-n")
	ok = id != "" && after(arguments, "-u") == id && filepath.Base(after(arguments, "--exit-command")) == podmanEngine
	return id, name, ok
}

// conmonChild is the container's process: the child whose pid stands in the file
// after "-p". When the container ends the file stays, and another child, Podman
// itself, cleans up.
func conmonChild(p *process, arguments []string, all []process) int {
	root, err := openRoot(fmt.Sprintf("/proc/%d/root", p.pid))
	if err != nil {
		return 0 // another user's, or it has ended
	}
	defer root.Close() //nolint:errcheck // read-only descriptor
	text, err := readBelow(root, after(arguments, "-p"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !slices.ContainsFunc(children(p.pid, all), func(c process) bool { return c.pid == pid }) {
		return 0
	}
	return pid
}

// after is the argument after an option.
func after(arguments []string, option string) string {
	for i := 1; i < len(arguments); i++ {
		if arguments[i-1] == option {
			return arguments[i]
		}
	}
	return ""
}

func (podman) word() string { return podmanEngine }

func (p podman) find(_ context.Context, name string) ([]found, error) {
	all, err := p.containers()
	if err != nil {
		return nil, err
	}
	meant := those(name, all)
	for i := range meant {
		meant[i].shared = sharedWith(&meant[i], all)
	}
	return meant, nil
}

func (p podman) names(context.Context) ([]string, error) {
	all, err := p.containers()
	return namesOf(all), err
}

func (p podman) running(context.Context) ([]found, error) { return conmon.containers() }

// containers are those that run, and those in the stores that do not.
func (podman) containers() ([]found, error) {
	all, err := conmon.containers()
	if err != nil {
		return nil, fmt.Errorf("look for podman's containers: %w", err)
	}
	for _, store := range podmanStores() {
		stored, err := readStore(store)
		if err != nil {
			return all, err
		}
		all = distinct(append(all, stored...))
	}
	return all, nil
}

// podmanStores are the lists of containers of the system and of the own user:
// one for each storage driver that has been used (containers-storage.conf(5)).
func podmanStores() []string {
	roots := []string{"/var/lib/containers/storage"}
	if home, err := os.UserHomeDir(); err == nil {
		roots = append(roots, filepath.Join(home, ".local/share/containers/storage"))
	}
	var lists []string
	for _, root := range roots {
		below, _ := filepath.Glob(filepath.Join(root, "*-containers/containers.json")) // the pattern is good
		lists = append(lists, below...)
	}
	return lists
}

// readStore reads a store's list of containers, without the data that the store
// keeps beside the names. One that this user may not read knows no container.
func readStore(path string) ([]found, error) {
	content, err := readRegular(path, maxAnswer)
	if err != nil || content == nil {
		return nil, err
	}
	var list []struct {
		ID    string   `json:"id"`
		Names []string `json:"names"`
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var all []found
	for _, c := range list {
		f := found{engine: podmanEngine, id: c.ID, name: c.ID, state: "stopped"}
		if len(c.Names) > 0 {
			f.name = c.Names[0]
		}
		all = append(all, f)
	}
	return all, nil
}

// sharedWith names the other containers with the network namespace of one.
func sharedWith(f *found, all []found) string {
	own := netnsOf(f.pid)
	var others []string
	for i := range all {
		if all[i].id != f.id && own != 0 && netnsOf(all[i].pid) == own {
			others = append(others, all[i].name)
		}
	}
	return strings.Join(others[:min(maxMatches, len(others))], ", ")
}
