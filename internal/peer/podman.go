//go:build linux

package peer

// Podman is root's Podman on a machine; it has no daemon, and its API is served
// by a process of its own.
type Podman struct {
	*Machine
	// Host is the address of the API as the test reaches it: what DOCKER_HOST is
	// for.
	Host string
}

// podmanConfig keeps to the limits that the test's process has: to raise them
// takes CAP_SYS_RESOURCE, and crun does so even for the rules about devices. No
// limit is asked for that needs a controller of the control group's.
const podmanConfig = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
`

// Podman serves Podman's API. The image is there.
func (m *Machine) Podman() *Podman {
	m.t.Helper()
	m.Write("/etc/containers/containers.conf", podmanConfig)
	p := &Podman{Machine: m, Host: "unix://" + m.Path("/run/podman/podman.sock")}
	m.Run("mkdir", "-p", "/run/podman")
	m.Daemon(answers(m.Path("/run/podman/podman.sock")),
		"podman", "system", "service", "--time=0", "unix:///run/podman/podman.sock")
	m.Run("podman", "import", m.image(), Image)
	return p
}

// Container starts a container that does nothing, with the arguments of podman
// run before the image, and returns its id.
func (p *Podman) Container(name string, args ...string) string {
	p.t.Helper()
	return p.container("podman", name, args)
}
