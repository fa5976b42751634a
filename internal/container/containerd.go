//go:build linux

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// containerd finds the tasks of containerd without its API, which does not tell
// names from annotations: each has a directory STATE/io.containerd.runtime.v2.task/NAMESPACE/ID with the pid
// of its first process and the runtime's configuration, whose annotations say
// which pod and container Kubernetes, or which name nerdctl, knows it by.
type containerd struct{}

// containerds are where the daemons have their state and their sockets:
// containerd itself, that of k3s and RKE2, that of MicroK8s, and that of the one
// that dockerd starts.
var containerds = []struct{ state, socket string }{
	{"/run/containerd", "/run/containerd/containerd.sock"},
	{"/run/k3s/containerd", "/run/k3s/containerd/containerd.sock"},
	{"/var/snap/microk8s/common/run/containerd", "/var/snap/microk8s/common/run/containerd.sock"},
	{"/run/docker/containerd/daemon", "/run/docker/containerd/containerd.sock"},
}

const (
	// maxTasks bounds the tasks that are looked at.
	maxTasks = 4096
	// maxConfig is more than any runtime's configuration has.
	maxConfig = 4 << 20
)

// annotations are those of a task's configuration that name it. Of the rest,
// which has the environment, nothing is decoded.
type annotations struct {
	Kind      string `json:"io.kubernetes.cri.container-type"` // sandbox or container
	Container string `json:"io.kubernetes.cri.container-name"`
	Pod       string `json:"io.kubernetes.cri.sandbox-name"`
	Namespace string `json:"io.kubernetes.cri.sandbox-namespace"`
	Nerdctl   string `json:"nerdctl/name"`
}

// task is one of containerd's.
type task struct {
	// state and socket are the daemon's, dir is the task's directory.
	state, socket string
	dir           string
	namespace, id string
	annotations   annotations
}

func (containerd) word() string { return containerdEngine }

func (c containerd) find(_ context.Context, name string) ([]found, error) {
	tasks, err := c.tasks()
	if err != nil {
		return nil, err
	}
	var all []found
	for i := range tasks {
		t := &tasks[i]
		match, exact := matches(name, t.id, t.names()...)
		if !match {
			continue
		}
		f, err := t.found()
		if err != nil {
			return nil, err
		}
		f.exact = exact
		// A pod is the namespace of all of its containers: any of them will do.
		if name == t.annotations.Pod || name == t.podName() {
			f.name, f.shared = t.podName(), ""
			all = samePod(all, f)
			continue
		}
		all = append(all, f)
	}
	return all, nil
}

// samePod adds a container of a pod that was asked for, unless there is one with
// its namespace.
func samePod(all []found, f found) []found {
	for i := range all {
		if all[i].name == f.name {
			if all[i].pid == 0 {
				all[i] = f
			}
			return all
		}
	}
	return append(all, f)
}

func (c containerd) running(context.Context) ([]found, error) {
	tasks, err := c.tasks()
	if err != nil {
		return nil, err
	}
	all := make([]found, len(tasks))
	for i := range tasks {
		if all[i], err = tasks[i].found(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (t *task) found() (found, error) {
	pid, err := t.pid()
	return found{engine: containerdEngine, id: t.id, name: t.name(), pid: pid, state: "stopped", shared: t.pod(), runner: t}, err
}

func (c containerd) names(context.Context) ([]string, error) {
	tasks, err := c.tasks()
	names := make([]string, len(tasks))
	for i := range tasks {
		names[i] = tasks[i].name()
	}
	return names, err
}

// name is what a task is called: pod and container, the name that nerdctl gave,
// or the id.
func (t *task) name() string {
	switch a := &t.annotations; {
	case a.Pod != "" && a.Container != "":
		return a.Namespace + "/" + a.Pod + "/" + a.Container
	case a.Pod != "":
		return t.podName()
	case a.Nerdctl != "":
		return a.Nerdctl
	}
	return t.id
}

func (t *task) podName() string { return t.annotations.Namespace + "/" + t.annotations.Pod }

// names are all that a task may be asked for by.
func (t *task) names() []string {
	names := []string{t.name()}
	if a := &t.annotations; a.Pod != "" {
		names = append(names, a.Pod, t.podName())
		if a.Container != "" {
			names = append(names, a.Pod+"/"+a.Container)
		}
	}
	return names
}

// pod says whose network namespace a container of a pod has.
func (t *task) pod() string {
	if t.annotations.Pod == "" || t.annotations.Kind == "sandbox" {
		return ""
	}
	return "the pod " + t.podName()
}

// pid returns the pid of a task's first process, 0 when it has ended. The number
// may be another process's by then, but not one that has containerd's shim for a
// parent.
func (t *task) pid() (int, error) {
	text, err := readRegular(filepath.Join(t.dir, "init.pid"), 32)
	if err != nil || text == nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read %s/init.pid: %w", t.dir, err)
	}
	first, ok := readProcess(pid)
	if !ok {
		return 0, nil
	}
	if shim, ok := readProcess(first.parent); !ok || !strings.HasPrefix(shim.name, "containerd-shim") {
		return 0, nil
	}
	return pid, nil
}

// tasks lists the tasks of every containerd that has a state directory.
func (containerd) tasks() ([]task, error) {
	var all []task
	for _, daemon := range containerds {
		dirs, _ := filepath.Glob(filepath.Join(daemon.state, "io.containerd.runtime.v2.task/*/*")) // the pattern is good
		for _, dir := range dirs[:min(len(dirs), maxTasks)] {
			t := task{state: daemon.state, socket: daemon.socket, dir: dir, namespace: filepath.Base(filepath.Dir(dir)), id: filepath.Base(dir)}
			if err := t.read(); err != nil {
				return nil, err
			}
			all = append(all, t)
		}
	}
	return all, nil
}

// read reads the annotations of a task; one that ends meanwhile has none.
func (t *task) read() error {
	content, err := readRegular(filepath.Join(t.dir, "config.json"), maxConfig)
	if err != nil || content == nil {
		return err
	}
	config := struct{ Annotations *annotations }{&t.annotations}
	if err := json.Unmarshal(content, &config); err != nil {
		return fmt.Errorf("read %s/config.json: %w", t.dir, err)
	}
	return nil
}

// readRegular reads a regular file of at most limit bytes; nil when there is
// none, or when this user may not read it.
func readRegular(path string, limit int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it is only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return content, err
}
