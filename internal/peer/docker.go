//go:build linux

package peer

import (
	"fmt"
	"net"
	"strings"
)

// Image is the name of the image that containers are made from: busybox.
const Image = "busybox"

// Docker is a Docker daemon on a machine.
type Docker struct {
	*Machine
	// Host is its address as the test reaches it: what DOCKER_HOST is for.
	Host string
}

// Docker starts dockerd, with containerd, and further flags. The image is there.
func (m *Machine) Docker(flags ...string) *Docker {
	m.t.Helper()
	d := &Docker{Machine: m, Host: "unix://" + m.Path("/run/docker.sock")}
	d.launch(flags)
	m.Run("docker", "import", m.image(), Image)
	return d
}

func (d *Docker) launch(flags []string) {
	d.t.Helper()
	d.Daemon(answers(d.Path("/run/docker.sock")), "dockerd", append([]string{"--log-level", "warn"}, flags...)...)
}

// Restart starts the daemon anew, with other flags. Its images and containers
// are there as before; a container that ran is stopped.
func (d *Docker) Restart(flags ...string) {
	d.t.Helper()
	d.Stop("/run/docker.pid")
	d.launch(flags)
}

// Container starts a container that does nothing, with the arguments of docker
// run before the image, and returns its id.
func (d *Docker) Container(name string, args ...string) string {
	d.t.Helper()
	return d.container("docker", name, args)
}

// container starts a container with an engine's command.
func (m *Machine) container(engine, name string, args []string) string {
	m.t.Helper()
	return m.containerOf(Image, engine, name, args)
}

// containerOf starts a container of an image.
func (m *Machine) containerOf(image, engine, name string, args []string) string {
	m.t.Helper()
	words := append([]string{"run", "--detach", "--name", name, "--hostname", name}, args...)
	return strings.TrimSpace(m.Run(engine, append(words, image, "sleep", "infinity")...))
}

// image makes an archive of a root tree with busybox, and returns its path.
func (m *Machine) image() string {
	m.t.Helper()
	const archive = "/tmp/image.tar"
	m.Run("tar", "-C", m.rootFS(), "-cf", archive, ".")
	return archive
}

// rootFS makes a root tree with busybox under all its names, and returns its path.
func (m *Machine) rootFS() string {
	m.t.Helper()
	const dir = "/tmp/image"
	m.Run("mkdir", "-p", dir+"/bin", dir+"/etc", dir+"/proc", dir+"/sys", dir+"/dev", dir+"/tmp")
	m.Run("cp", "/bin/busybox", dir+"/bin/busybox")
	m.Run("chroot", dir, "/bin/busybox", "--install", "-s", "/bin")
	m.Write(dir+"/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
	return dir
}

// answers is the condition that somebody listens on a Unix socket.
func answers(path string) func() error {
	return func() error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return fmt.Errorf("nobody listens yet: %w", err)
		}
		return conn.Close()
	}
}
