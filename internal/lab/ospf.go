//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ospfWithin is how long routers may take to learn their routes from one
// another. With hellos each 250 ms it takes about 4 s on an idle machine.
const ospfWithin = 30 * time.Second

// ospfRouter is a router that runs FRR's zebra and ospfd.
type ospfRouter struct {
	node *node
	// interfaces are the lines of ospfd's configuration for each interface.
	interfaces map[string]string
	// process are the lines below "router ospf".
	process string
	// learned is a network that it is to learn a route to.
	learned netip.Prefix

	ospfd *daemon
}

// daemon is a program that runs until it is stopped.
type daemon struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	// ended is closed when it has ended, output is complete then.
	ended chan struct{}
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.ended
}

// ospf has routers learn their routes from one another. It is false where FRR
// is not there or does not do it; the network's remarks say why.
func (b *builder) ospf(routers ...*ospfRouter) bool {
	if b.err != nil {
		return false
	}
	programs, err := findFRR(b.network.Options.Peers)
	if err == nil {
		err = b.runOSPF(programs, routers)
	}
	if err != nil {
		for _, r := range routers {
			if r.ospfd != nil {
				r.ospfd.stop()
				r.ospfd = nil
			}
		}
		b.network.Remarks = append(b.network.Remarks, fmt.Sprintf("the routes of the routers are static, not learned by OSPF: %v", err))
	}
	return err == nil
}

func (b *builder) runOSPF(programs frrPrograms, routers []*ospfRouter) error {
	parent := "" // the usual one for temporary files
	if b.network.Options.NamedDir != "" {
		parent = filepath.Dir(b.network.Options.NamedDir)
	}
	dir, err := os.MkdirTemp(parent, "pathtrace-frr-")
	if err != nil {
		return err
	}
	b.undo(func() error { return os.RemoveAll(dir) })
	// FRR's sockets belong to a group that only installed packages have.
	group := filepath.Join(dir, "group")
	if err := os.WriteFile(group, []byte("root:x:0:\nfrrvty:x:0:\n"), 0o644); err != nil {
		return err
	}
	for _, r := range routers {
		own := filepath.Join(dir, r.node.name)
		if err := os.Mkdir(own, 0o755); err != nil {
			return err
		}
		zebra, err := r.node.frr(programs, "zebra", own, group, "")
		if err != nil {
			return err
		}
		if err := b.until(func() bool { return present(filepath.Join(own, "zserv.api")) }, zebra); err != nil {
			return fmt.Errorf("zebra in %s: %w", r.node.name, err)
		}
		if r.ospfd, err = r.node.frr(programs, "ospfd", own, group, r.configuration()); err != nil {
			return err
		}
	}
	for _, r := range routers {
		if err := b.until(func() bool { return r.node.hasRoute(r.learned) }, r.ospfd); err != nil {
			return fmt.Errorf("%s has learned no route to %s: %w", r.node.name, r.learned, err)
		}
	}
	return nil
}

// until waits for a condition as long as a daemon runs.
func (b *builder) until(condition func() bool, d *daemon) error {
	deadline := time.NewTimer(ospfWithin)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-d.ended:
			return fmt.Errorf("it ended: %s", bytes.TrimSpace(d.output.Bytes()))
		case <-deadline.C:
			return fmt.Errorf("not within %s", ospfWithin)
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
	return nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// configuration is that of ospfd (FRR's documentation, "OSPFv2").
func (r *ospfRouter) configuration() string {
	var text strings.Builder
	for name, lines := range r.interfaces {
		fmt.Fprintf(&text, "interface %s\n%s", name, lines)
	}
	return fmt.Sprintf("%srouter ospf\n%s", text.String(), r.process)
}

// hasRoute reports whether the namespace has a route to exactly that network.
func (n *node) hasRoute(to netip.Prefix) bool {
	routes, err := retry(n.destinations)
	return err == nil && slices.Contains(routes, n.disguise.prefix(to))
}

// destinations are those of the IPv4 routes.
func (n *node) destinations() ([]netip.Prefix, error) {
	routes, err := n.handle.RouteList(nil, unix.AF_INET)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, route := range routes {
		to := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if route.Dst != nil {
			address, _ := netip.AddrFromSlice(route.Dst.IP)
			bits, _ := route.Dst.Mask.Size()
			to = netip.PrefixFrom(address.Unmap(), bits)
		}
		all = append(all, to)
	}
	return all, nil
}

// frrMounts runs a program that sees another file of groups and leaves nothing
// in /var/tmp, where FRR wants to write when it crashes.
const frrMounts = `mount -t tmpfs tmpfs /var/tmp && mount --bind "$0" /etc/group && exec "$@"`

// frr starts one of FRR's daemons in the namespace, with its files in a
// directory. It ends with the network, and with the process that built it.
func (n *node) frr(programs frrPrograms, name, dir, group, configuration string) (*daemon, error) {
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(n.disguise.text(configuration)), 0o644); err != nil {
		return nil, err
	}
	args := append([]string{"-c", frrMounts, group}, programs.command(name)...)
	args = append(args, "-f", file, "-i", filepath.Join(dir, name+".pid"), "-z", filepath.Join(dir, "zserv.api"),
		"--vty_socket", dir, "-P", "0", "-u", "root", "-g", "root", "--log", "stdout", "--log-level", "errors")
	d := &daemon{cmd: exec.Command("sh", args...), ended: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	n.network.services.Go(func() {
		defer close(d.ended)
		// The parent whose death ends the daemon is the thread that started it, so
		// that one stays.
		err := n.ns.Do(func() error {
			err := d.cmd.Start()
			started <- err
			if err == nil {
				_ = d.cmd.Wait() // it is killed in the end
			}
			return nil
		})
		if err != nil {
			started <- err
		}
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, n.name, err)
	}
	n.undo(func() error { d.stop(); return nil })
	return d, nil
}

// frrPrograms are where FRR's programs are.
type frrPrograms struct {
	dir string
	// loader is the dynamic linker that runs them, with its arguments, when they
	// come with libraries of their own.
	loader []string
}

func (p frrPrograms) command(name string) []string {
	return append(append([]string{}, p.loader...), filepath.Join(p.dir, name))
}

// frrDirs are where packages put FRR's daemons: Debian, Fedora, sources.
var frrDirs = []string{"/usr/lib/frr", "/usr/libexec/frr", "/usr/local/sbin"}

// findFRR finds FRR's programs in a root tree, or on the machine if that is
// empty.
func findFRR(tree string) (frrPrograms, error) {
	dirs := frrDirs
	if path, err := exec.LookPath("zebra"); err == nil && tree == "" {
		dirs = append([]string{filepath.Dir(path)}, dirs...)
	}
	for _, dir := range dirs {
		dir = filepath.Join(tree, dir)
		if !present(filepath.Join(dir, "zebra")) || !present(filepath.Join(dir, "ospfd")) {
			continue
		}
		if tree == "" {
			return frrPrograms{dir: dir}, nil
		}
		loader, err := loaderOf(tree)
		return frrPrograms{dir: dir, loader: loader}, err
	}
	if tree != "" {
		return frrPrograms{}, fmt.Errorf("FRR's zebra and ospfd are not in %s", tree)
	}
	return frrPrograms{}, errors.New("FRR's zebra and ospfd are not here (install the package frr)")
}

// loaderOf is the dynamic linker of a root tree and what makes it take the
// tree's libraries.
func loaderOf(tree string) ([]string, error) {
	loaders, err := filepath.Glob(filepath.Join(tree, "lib*", "ld-linux*.so.*"))
	if err != nil {
		return nil, err
	}
	libraries, err := filepath.Glob(filepath.Join(tree, "usr", "lib", "*-linux-gnu*"))
	if err != nil {
		return nil, err
	}
	if len(loaders) == 0 || len(libraries) == 0 {
		return nil, fmt.Errorf("no dynamic linker in %s", tree)
	}
	path := libraries
	for _, dir := range libraries {
		path = append(path, filepath.Join(dir, "frr"))
	}
	return []string{loaders[0], "--library-path", strings.Join(path, ":")}, nil
}
