//go:build linux

package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// TestAmbiguous: a start of several ids, of which Docker 20.10 says so with status
// 500 and Podman with 404, is told with all that it may be.
func TestAmbiguous(t *testing.T) {
	address := daemon(t, containers(
		found{id: "aaaa00000000000000", name: "web"}, found{id: "aaaa11111111111111", name: "db"}, found{id: "bbbb", name: "aaaa1111", state: "created"},
	))
	find := func(name string) error {
		source, err := Find(t.Context(), Config{Container: name, Engine: "docker", DockerHost: address})
		if err == nil {
			_ = source.Close()
		}
		return err
	}
	several := ambiguous("aaaa", []found{
		{engine: "docker", id: "aaaa00000000000000", name: "web"}, {engine: "podman", owner: 1500, id: "aaaa11111111111111", name: "web"},
	})
	want := `"aaaa" stands for 2 containers: docker aaaa00000000 "web"; podman of user 1500 aaaa11111111 "web"; say --engine docker or --engine podman, or give more of the id`
	if several.Error() != want {
		t.Errorf("got  %v\nwant %s", several, want)
	}
	if err := find("aaaa"); !errors.As(err, &several) || len(several.Matches) != 2 || !strings.HasSuffix(err.Error(), "; give more of the id") {
		t.Errorf("a start of two ids: %v", err)
	}
	var stopped *NotRunningError
	if err := find("aaaa1111"); !errors.As(err, &stopped) || stopped.Name != "aaaa1111" {
		t.Errorf("a name that begins an id: %v", err)
	}
	if err := find("aaaa0"); !errors.As(err, &stopped) || stopped.Name != "web" {
		t.Errorf("a start of one id: %v", err)
	}
}

func TestDistinct(t *testing.T) {
	for _, tt := range []struct {
		name string
		all  []found
		want []string // engine and id
	}{
		{"Docker's containers are containerd's", []found{{engine: "docker", id: "aaaa", name: "web", pid: 7}, {engine: "containerd", id: "aaaa", name: "aaaa", pid: 7}}, []string{"docker aaaa"}},
		{"a service that did not say the pid", []found{{engine: "podman", id: "aaaa", name: "web"}, {engine: "podman", id: "aaaa", name: "web", pid: 7}}, []string{"podman aaaa"}},
		{"two of one name are two", []found{{engine: "nspawn", id: "web", name: "web", pid: 7}, {engine: "lxc", id: "web", name: "web", pid: 8}}, []string{"nspawn web", "lxc web"}},
		{"a name comes before the start of an id", []found{{engine: "docker", id: "webb", name: "x"}, {engine: "podman", id: "aaaa", name: "web", exact: true}}, []string{"podman aaaa"}},
	} {
		var got []string
		for _, f := range distinct(tt.all) {
			got = append(got, f.engine+" "+f.id)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		asked        string
		match, exact bool
	}{
		{"web", true, true},
		{"0123456789ab", true, true},
		{"0123", true, false},
		{"012", false, false}, // too short to be meant as an id
		{"1234", false, false},
		{"we", false, false},
	} {
		if match, exact := matches(tt.asked, "0123456789ab", "web"); match != tt.match || exact != tt.exact {
			t.Errorf("%s: match %v, exact %v", tt.asked, match, exact)
		}
	}
}

// The command lines are those that Podman 4.3, systemd 252 and LXC 5.0 were seen
// to have, shortened.
func TestWatchers(t *testing.T) {
	for _, tt := range []struct {
		watches func([]string) (string, string, bool)
		line    string
		want    string // id and name, empty for no container
	}{
		{readConmon, "/usr/bin/conmon --api-version 1 -c a7a5 -u a7a5 -r /usr/bin/crun -p /run/pidfile -n pod2 --exit-dir /run/libpod/exits --exit-command /usr/bin/podman --exit-command-arg --root", "a7a5 pod2"},
		{readConmon, "/usr/bin/conmon --api-version 1 -c a7a5 -u ffff -n pod2 -e --exit-command /usr/bin/podman", ""},    // an exec
		{readConmon, "/usr/bin/conmon -c a7a5 -u a7a5 -n k8s_POD_web --exit-command /usr/libexec/crio/crio-cleanup", ""}, // CRI-O's
		{readConmon, "/usr/bin/conmon --version", ""},
		{readNspawn, "systemd-nspawn --register=no --keep-unit -D /var/lib/machines/ns1 -M web --private-network /bin/sleep", "web web"},
		{readNspawn, "systemd-nspawn --quiet --keep-unit --boot --machine=web", "web web"},
		{readNspawn, "systemd-nspawn -D /var/lib/machines/ns1", "ns1 ns1"},
		{readNspawn, "systemd-nspawn --image=/var/lib/machines/big.raw", "big big"},
		{readNspawn, "systemd-nspawn", ""},
		{readMonitor, "[lxc monitor] /var/lib/lxc lx1", "lx1 lx1"},
		{readMonitor, "lxc-start -n lx1", ""},
		{readMonitor, "", ""},
	} {
		got := ""
		if id, name, ok := tt.watches(strings.Fields(tt.line)); ok {
			got = id + " " + name
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestReadMachine(t *testing.T) {
	text := "# This is private data. Do not parse.\nNAME=web\nSCOPE=machine-web.scope\nSERVICE=%s\nROOT=/var/lib/machines/web\nID=0123\nLEADER=%d\nCLASS=%s\n"
	for _, tt := range []struct {
		pid            int
		class, service string
		want           found
	}{
		{os.Getpid(), "container", "systemd-nspawn", found{engine: "nspawn", id: "web", name: "web", pid: os.Getpid(), state: "without a process"}},
		{1 << 30, "container", "nspawn", found{engine: "nspawn", id: "web", name: "web", state: "without a process"}},
		{os.Getpid(), "container", "libvirt-lxc", found{}},
		{os.Getpid(), "vm", "nspawn", found{}},
		{-1, "container", "nspawn", found{}},
	} {
		got, ok := readMachine(fmt.Appendf(nil, text, tt.service, tt.pid, tt.class))
		if got != tt.want || ok != (tt.want.name != "") {
			t.Errorf("%d %s: got %+v, %v", tt.pid, tt.class, got, ok)
		}
	}
}

func TestParseStat(t *testing.T) {
	line := "4711 (a) S 1 (b) %s 1 4711 4711 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 49976 1000 50"
	got, ok := parseStat(4711, fmt.Appendf(nil, line, "R"))
	if want := (process{pid: 4711, parent: 1, name: "a) S 1 (b", started: 49976}); !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	for _, short := range []string{"", "4711 (a", "4711 (a) S 1", "4711 (a) S x 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 49976"} {
		if got, ok := parseStat(1, []byte(short)); ok {
			t.Errorf("%q is %+v", short, got)
		}
	}
	self, ok := readProcess(os.Getpid())
	if !ok || self.parent != os.Getppid() {
		t.Errorf("this process is %+v", self)
	}
}

// TestApart has a process with a child in a process namespace of its own, and one
// in its own, which is older.
func TestApart(t *testing.T) {
	testenv.Privileged(t)
	start := func(flags uintptr) int {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return cmd.Process.Pid
	}
	start(0)
	look := func() int {
		all, err := processes()
		if err != nil {
			t.Fatal(err)
		}
		return apart(os.Getpid(), all)
	}
	if got := look(); got != 0 {
		t.Errorf("got %d, want none", got)
	}
	want := start(syscall.CLONE_NEWPID)
	if got := look(); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

// TestTasks reads a state directory of containerd 1.6, in which nobody is alive.
func TestTasks(t *testing.T) {
	mounts(t, func() error {
		write := func(id, config string) error {
			dir := "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id
			return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600),
				os.WriteFile(filepath.Join(dir, "init.pid"), fmt.Append(nil, os.Getpid()), 0o600)) // not a shim's child
		}
		const pod = `"io.kubernetes.cri.sandbox-name":"shop-1","io.kubernetes.cri.sandbox-namespace":"prod"`
		if err := errors.Join(
			write("c0ffee01", `{"process":{"env":["PW=hidden"]},"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"web",`+pod+`}}`),
			write("c0ffee02", `{"annotations":{"io.kubernetes.cri.container-type":"sandbox",`+pod+`}}`),
			write("c0ffee03", `{"annotations":{"nerdctl/name":"cache"}}`),
			write("plain", `{}`),
		); err != nil {
			return err
		}
		for asked, want := range map[string]string{
			"prod/shop-1/web": "prod/shop-1/web", "shop-1/web": "prod/shop-1/web", "shop-1": "prod/shop-1", "prod/shop-1": "prod/shop-1",
			"cache": "cache", "plain": "plain", "c0ffee01": "prod/shop-1/web", "c0ffee": "prod/shop-1/web, prod/shop-1, cache", "web": "",
		} {
			found, err := containerd{}.find(t.Context(), asked)
			var got []string
			for _, f := range found {
				got = append(got, f.name)
				if f.pid != 0 {
					t.Errorf("%s: pid %d is no child of a shim", asked, f.pid)
				}
			}
			if strings.Join(got, ", ") != want || err != nil {
				t.Errorf("%s: got %q, %v, want %q", asked, got, err, want)
			}
		}
		_, err := Find(t.Context(), Config{Container: "shop-1", Engine: "containerd"})
		if _, stopped := errors.AsType[*NotRunningError](err); !stopped {
			t.Errorf("without a process: %v", err)
		}
		_, err = Find(t.Context(), Config{Container: "prod/shop-2", Engine: "containerd"})
		var missing *NotFoundError
		if !errors.As(err, &missing) || !slices.Contains(missing.Near, "prod/shop-1") {
			t.Errorf("near matches: %v", err)
		}
		return nil
	})
}

// TestStore reads Podman's list of containers, of which it knows names and ids.
func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containers.json")
	if err := os.WriteFile(path, []byte(`[{"id":"02131f8c","names":["podnever"],"metadata":"{\"name\":\"podnever\"}","flags":{}},{"id":"bfe4bab5"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readStore(path)
	want := []found{{engine: "podman", id: "02131f8c", name: "podnever", state: "stopped"}, {engine: "podman", id: "bfe4bab5", name: "bfe4bab5", state: "stopped"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(found{}, service{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if got, err := readStore(path + "x"); len(got) != 0 || err != nil {
		t.Errorf("no store: %v, %v", got, err)
	}
}
