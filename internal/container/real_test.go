//go:build linux

package container

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/peer"
)

// on runs f on a thread that sees the files of a machine, whose processes are
// those of the test.
func on(t *testing.T, m *peer.Machine, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Chroot(m.Path("/")))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// unique is a name that no container of another test has: processes are those of
// the whole machine.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, os.Getpid()) }

// TestRealDocker finds and describes the containers of a daemon with networks of
// every kind.
func TestRealDocker(t *testing.T) {
	d := machine(t).Docker()
	d.Run("docker", "network", "create", "--ipv6", "--subnet=fd5a:ceb9:ed8d:1::/64", "-o", "com.docker.network.bridge.name=br_ipv6_nw", "br_ipv6_nw")
	d.Run("docker", "network", "create", "--internal", "hidden")
	d.Run("docker", "network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "-o", "com.docker.network.bridge.enable_ip_masquerade=false", "apart")
	id := d.Container("cnt01", "-p", "8080:80", "-p", "127.0.0.1:8443:443/udp", "--expose=9000", "-e", "PW=hidden", "-l", "token=hidden", "-l", "com.docker.compose.project=shop")
	d.Run("docker", "network", "connect", "br_ipv6_nw", "cnt01")
	d.Run("docker", "run", "--detach", "--name=side", "--network=container:cnt01", peer.Image, "sleep", "infinity")
	d.Container("onhost", "--network=host")
	d.Container("alone", "--network=none")
	d.Container("closed", "--network=hidden")
	d.Container("kept", "--network=apart")
	d.Run("docker", "create", "--name", "unborn", peer.Image, "true")
	config := func(name string) Config {
		return Config{Container: name, Engine: dockerEngine, DockerHost: d.Host, RunNetNS: "/nonexistent"}
	}
	find := func(name string) *Source {
		t.Helper()
		s, err := Find(t.Context(), config(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	cnt01 := find("cnt01")
	if s := find(id[:5]); s.Name != "cnt01" || s.ID != id || s.NetNS.ID() != cnt01.NetNS.ID() || s.Note != "" {
		t.Errorf("by the start of the id: %+v", s)
	}
	for name, note := range map[string]string{
		"side":  "side shares the network namespace of cnt01",
		"alone": "alone was started without a network (network mode none)",
	} {
		if s := find(name); s.Note != note || s.Name != name || (s.NetNS.ID() == cnt01.NetNS.ID()) != (name == "side") {
			t.Errorf("%s: %+v", name, s)
		}
	}
	// In the host's namespace, which is the machine's here.
	err := d.NetNS.Do(func() error {
		if s := find("onhost"); s.Name != HostName || s.NetNS.ID() != d.NetNS.ID() || s.Note != "the container onhost is in the network namespace of the host" {
			t.Errorf("onhost: %+v", s)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	_, err = Find(t.Context(), config("unborn"))
	if stopped, ok := errors.AsType[*NotRunningError](err); !ok || stopped.State != "created" {
		t.Errorf("a container that never ran: %v", err)
	}
	_, err = Find(t.Context(), config("cnt02"))
	if missing, ok := errors.AsType[*NotFoundError](err); !ok || len(missing.Near) == 0 || missing.Near[0] != "cnt01" {
		t.Errorf("a name that is nobody's: %v", err)
	}
	_, err = Find(t.Context(), config(sharedStart(t, d)))
	if several, ok := errors.AsType[*AmbiguousError](err); !ok || len(several.Matches) < 2 {
		t.Errorf("a start of several ids: %v", err)
	}
	describeReal(t, find)
}

// sharedStart makes containers until two ids begin alike, and returns that.
func sharedStart(t *testing.T, d *peer.Docker) string {
	t.Helper()
	seen := make(map[string]bool)
	for range 17 {
		id := strings.TrimSpace(d.Run("docker", "create", peer.Image, "true"))
		if seen[id[:1]] {
			return id[:1]
		}
		seen[id[:1]] = true
	}
	t.Fatal("17 ids begin with 17 different digits")
	return ""
}

// describeReal looks at what is said of the containers of TestRealDocker.
func describeReal(t *testing.T, find func(string) *Source) {
	t.Helper()
	want := map[string][]string{
		"cnt01": {
			"network br_ipv6_nw (bridge), bridge br_ipv6_nw, ",
			"network bridge (bridge), bridge docker0, ",
			"published 0.0.0.0:8080 for 80/tcp, docker-proxy (pid ",
			"published [::]:8080 for 80/tcp, docker-proxy (pid ",
			"published 127.0.0.1:8443 for 443/udp, docker-proxy (pid ",
			"exposed 9000/tcp, not published",
			"label com.docker.compose.project=shop",
		},
		"onhost": {"network namespace of the host", "network host (host)"},
		"alone":  {"no network", "network none (null)"},
		"closed": {"network hidden (bridge), bridge br-"},
		"kept":   {"network apart (bridge), bridge br-"},
	}
	want["side"] = append([]string{"network namespace shared with cnt01"}, want["cnt01"][:6]...)
	parts := map[string][]string{
		"cnt01": {"fd5a:ceb9:ed8d:1::/64", "IPv6 off"}, "closed": {"internal: nothing leaves it"},
		"kept": {"its containers are kept apart (icc off)", "not masqueraded"},
	}
	for name, begins := range want {
		d, err := find(name).Describe(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		lines := d.Lines()
		if len(lines) != len(begins) {
			t.Errorf("%s: got %q, want %q", name, lines, begins)
			continue
		}
		for i, begin := range begins {
			if !strings.HasPrefix(lines[i], begin) {
				t.Errorf("%s: line %q, want %q", name, lines[i], begin)
			}
		}
		for _, part := range parts[name] {
			if !strings.Contains(strings.Join(lines, "\n"), part) {
				t.Errorf("%s: no %q in %q", name, part, lines)
			}
		}
		if text := fmt.Sprintf("%+v", d); strings.Contains(text, "hidden") && name == "cnt01" {
			t.Errorf("a secret is told: %s", text)
		}
	}
}

// TestRealPodman finds containers by the service, and by their processes alone.
func TestRealPodman(t *testing.T) {
	p := machine(t).Podman()
	web, side := unique("web"), unique("side")
	words := strings.Fields(p.Container(web, "--network=none")) // behind warnings
	id := words[len(words)-1]
	p.Run("podman", "run", "--detach", "--name="+side, "--network=container:"+web, peer.Image, "sleep", "infinity")
	t.Setenv("CONTAINER_HOST", p.Host)
	with, err := Find(t.Context(), Config{Container: web, Engine: podmanEngine})
	if err != nil {
		t.Fatal(err)
	}
	defer with.Close()
	t.Setenv("CONTAINER_HOST", "unix:///nonexistent/podman.sock")
	for _, name := range []string{web, id, id[:8]} {
		s, err := Find(t.Context(), Config{Container: name, Engine: podmanEngine})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.Name != web || s.ID != id || s.Engine != podmanEngine || s.PID != with.PID || s.NetNS.ID() != with.NetNS.ID() {
			t.Errorf("%s without the service: %+v, with it %+v", name, s, with)
		}
		if want := web + " shares the network namespace of " + side; s.Note != want {
			t.Errorf("note %q, want %q", s.Note, want)
		}
		if _, err := s.Exec(t.Context(), ExecConfig{Argv: []string{"true"}}); !strings.Contains(err.Error(), "podman.socket") {
			t.Errorf("exec without the service: %v", err)
		}
	}
	// Podman cleans up as a child of the process that watched the container.
	p.Run("podman", "stop", "--time=0", side)
	on(t, p.Machine, func() error {
		_, err := Find(t.Context(), Config{Container: side, Engine: podmanEngine})
		if stopped, ok := errors.AsType[*NotRunningError](err); !ok || stopped.Name != side {
			t.Errorf("a stopped container without the service: %v", err)
		}
		return nil
	})
}

// TestRealContainerd finds tasks by what Kubernetes and nerdctl call them.
func TestRealContainerd(t *testing.T) {
	c := machine(t).Containerd()
	pod := map[string]string{"io.kubernetes.cri.sandbox-name": "shop-1", "io.kubernetes.cri.sandbox-namespace": "prod"}
	with := func(name, value string) map[string]string {
		all := maps.Clone(pod)
		all[name] = value
		return all
	}
	c.Container("k8s.io", "pause01", "", with("io.kubernetes.cri.container-type", "sandbox"))
	c.Container("k8s.io", "web01", "", with("io.kubernetes.cri.container-name", "web"))
	c.Container("default", "cache01", "", map[string]string{"nerdctl/name": "cache"})
	on(t, c.Machine, func() error {
		for _, tt := range []struct{ asked, name, id, note string }{
			{"prod/shop-1/web", "prod/shop-1/web", "web01", "prod/shop-1/web shares the network namespace of the pod prod/shop-1"},
			{"shop-1/web", "prod/shop-1/web", "web01", "prod/shop-1/web shares the network namespace of the pod prod/shop-1"},
			{"web0", "prod/shop-1/web", "web01", "prod/shop-1/web shares the network namespace of the pod prod/shop-1"},
			{"shop-1", "prod/shop-1", "pause01", ""},
			{"cache", "cache", "cache01", ""},
			{"cache01", "cache", "cache01", ""},
		} {
			s, err := Find(t.Context(), Config{Container: tt.asked, Engine: containerdEngine})
			if err != nil {
				t.Errorf("%s: %v", tt.asked, err)
				continue
			}
			if s.Name != tt.name || s.ID != tt.id || s.Engine != containerdEngine || s.Note != tt.note {
				t.Errorf("%s: %+v", tt.asked, s)
			}
			_ = s.Close()
		}
		return nil
	})
}

// TestRealSeveral has Docker and Podman with a container of one name.
func TestRealSeveral(t *testing.T) {
	m := machine(t)
	docker, podman := m.Docker("--bridge=none"), m.Podman()
	name := unique("both")
	docker.Container(name, "--network=none")
	podman.Container(name, "--network=none")
	t.Setenv("DOCKER_HOST", docker.Host)
	t.Setenv("CONTAINER_HOST", podman.Host)
	_, err := Find(t.Context(), Config{Container: name})
	several, ok := errors.AsType[*AmbiguousError](err)
	if !ok || !slices.Equal(several.Engines, []string{dockerEngine, podmanEngine}) || !strings.Contains(err.Error(), "say --engine docker or --engine podman") {
		t.Errorf("got %v", err)
	}
	for _, word := range several.Engines {
		s, err := Find(t.Context(), Config{Container: name, Engine: word})
		if err != nil {
			t.Errorf("%s: %v", word, err)
			continue
		}
		if s.Engine != word {
			t.Errorf("--engine %s: %+v", word, s)
		}
		_ = s.Close()
	}
	// Podman's socket at Docker's place says what it is.
	t.Setenv("DOCKER_HOST", podman.Host)
	views, problems := Views(t.Context(), Config{})
	if len(views) != 1 || views[0].Engine != podmanEngine || len(problems) > 0 {
		t.Errorf("one daemon by two sockets: %+v, %q", views, problems)
	}
	usual := netip.MustParsePrefix("10.88.0.0/16")
	if n := views[0].Network("podman"); n == nil || n.Bridge != "podman0" || !slices.Contains(n.Prefixes, usual) || n.IPv6 {
		t.Errorf("Podman's usual network is %+v", n)
	}
}
