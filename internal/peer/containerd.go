//go:build linux

package peer

import (
	"encoding/json"
	"math"
)

// Containerd is a containerd on a machine, without another engine that drives it.
type Containerd struct {
	*Machine
	// Socket is its address as the test reaches it.
	Socket string
	root   string
}

// Containerd starts containerd.
func (m *Machine) Containerd() *Containerd {
	m.t.Helper()
	const socket = "/run/containerd/containerd.sock"
	c := &Containerd{Machine: m, Socket: m.Path(socket), root: m.rootFS()}
	m.Daemon(answers(c.Socket), "containerd", "--log-level", "warn")
	return c
}

// Container starts a container that does nothing, in a namespace of containerd's
// ("k8s.io" for those of Kubernetes, "default" for ctr's), with annotations as CRI
// gives them. Its network namespace is at a path of the machine; empty is one of
// its own, with nothing in it but a loopback.
func (c *Containerd) Container(namespace, name, netns string, annotations map[string]string) {
	c.t.Helper()
	kinds := []map[string]string{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}
	network := map[string]string{"type": "network"}
	if netns != "" {
		network["path"] = netns
	}
	// A specification of the Open Container Initiative. The one that ctr makes
	// asks for a share of the processor, which a control group without that
	// controller cannot give.
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"hostname":   name,
		"root":       map[string]any{"path": c.root},
		"process": map[string]any{
			"args": []string{"sleep", "infinity"}, "cwd": "/", "env": []string{"PATH=/bin", "PLACE=inside"},
			"user":    map[string]int{"uid": 65534, "gid": 65534},
			"rlimits": []map[string]any{{"type": "RLIMIT_FSIZE", "hard": uint64(math.MaxUint64), "soft": uint64(math.MaxUint64)}},
		},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"annotations": annotations,
		"linux":       map[string]any{"namespaces": append(kinds, network), "cgroupsPath": "/" + namespace + "/" + name},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	file := "/tmp/" + name + ".json"
	c.Write(file, string(spec))
	c.Run("ctr", "--namespace", namespace, "run", "--detach", "--config", file, name)
}
