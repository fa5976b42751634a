//go:build linux

package container

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// nspawn finds the containers of systemd-nspawn: those that machined keeps a
// file of, and those that were started without it, by the process that watches
// them.
type nspawn struct{}

var nspawnProcess = watcher{engine: nspawnEngine, programs: []string{"systemd-nspawn"}, watches: readNspawn, first: firstApart}

// readNspawn reads the command line of systemd-nspawn(1). Without --machine the
// container is called as its directory or image.
func readNspawn(arguments []string) (id, name string, ok bool) {
	name = option(arguments, "--machine", "-M")
	if directory := option(arguments, "--directory", "-D"); name == "" && directory != "" {
		name = filepath.Base(directory)
	}
	if image := option(arguments, "--image", "-i"); name == "" && image != "" {
		name = strings.TrimSuffix(filepath.Base(image), ".raw")
	}
	return name, name, name != ""
}

// option returns the value of a long option, or of a short one, in a command
// line: "--name VALUE", "--name=VALUE", "-n VALUE" or "-nVALUE".
func option(arguments []string, long, short string) string {
	for i, a := range arguments {
		if value, found := strings.CutPrefix(a, long+"="); found {
			return value
		}
		if (a == long || a == short) && i+1 < len(arguments) {
			return arguments[i+1]
		}
		if value, found := strings.CutPrefix(a, short); found {
			return value
		}
	}
	return ""
}

func (nspawn) word() string { return nspawnEngine }

func (n nspawn) find(_ context.Context, name string) ([]found, error) {
	all, err := n.containers()
	return those(name, all), err
}

func (n nspawn) names(context.Context) ([]string, error) {
	all, err := n.containers()
	return namesOf(all), err
}

func (n nspawn) running(context.Context) ([]found, error) { return n.containers() }

func (nspawn) containers() ([]found, error) {
	running, err := nspawnProcess.containers()
	if err != nil {
		return nil, fmt.Errorf("look for containers of systemd-nspawn: %w", err)
	}
	files, _ := filepath.Glob("/run/systemd/machines/*") // the pattern is good
	var all []found
	for _, file := range files[:min(len(files), maxTasks)] {
		// "unit:NAME" are links to the files.
		if strings.Contains(filepath.Base(file), ":") {
			continue
		}
		text, err := readRegular(file, maxFile)
		if err != nil {
			return nil, err
		}
		if f, ok := readMachine(text); ok {
			all = append(all, f)
		}
	}
	return distinct(append(all, running...)), nil
}

// readMachine reads what machined keeps of a machine: lines of NAME=VALUE, among
// them LEADER, the pid of its first process, and CLASS, which says whether it is a
// container. Others than nspawn register containers there, too: its SERVICE says
// who did, which is "systemd-nspawn" by the source of systemd 252 and "nspawn" by
// its documentation.
func readMachine(text []byte) (found, bool) {
	values := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		values[key] = strings.Trim(value, `"`)
	}
	pid, err := strconv.Atoi(values["LEADER"])
	if err != nil || pid <= 0 || values["NAME"] == "" || values["CLASS"] != "container" || strings.TrimPrefix(values["SERVICE"], "systemd-") != nspawnEngine {
		return found{}, false
	}
	if _, runs := readProcess(pid); !runs {
		pid = 0
	}
	return found{engine: nspawnEngine, id: values["NAME"], name: values["NAME"], pid: pid, state: "without a process"}, true
}

// lxc finds the containers of LXC, LXD and Incus by the process that watches each
// of them, which puts the container's name into its command line.
type lxc struct{}

var lxcMonitor = watcher{engine: lxcEngine, programs: []string{"lxc", "lxd", "incus"}, watches: readMonitor, first: firstApart}

func firstApart(p *process, _ []string, all []process) int { return apart(p.pid, all) }

// readMonitor reads the title of a monitor: "[lxc monitor] DIRECTORY NAME".
func readMonitor(arguments []string) (id, name string, ok bool) {
	if len(arguments) == 0 {
		return "", "", false
	}
	title, found := strings.CutPrefix(strings.Join(arguments, " "), "[lxc monitor] ")
	name = title[strings.LastIndexByte(title, ' ')+1:]
	return name, name, found && name != ""
}

func (lxc) word() string { return lxcEngine }

func (lxc) find(_ context.Context, name string) ([]found, error) {
	all, err := lxcMonitor.containers()
	return those(name, all), err
}

func (lxc) names(context.Context) ([]string, error) {
	all, err := lxcMonitor.containers()
	return namesOf(all), err
}

func (lxc) running(context.Context) ([]found, error) { return lxcMonitor.containers() }
