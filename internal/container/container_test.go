//go:build linux

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The first thread stays out of other namespaces: /proc/PID shows that thread.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newNetNS(t *testing.T) *netns.NS {
	t.Helper()
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// thread makes something with a pid whose network namespace is ns and whose
// root directory is root: a thread.
func thread(t *testing.T, ns *netns.NS, root string) int {
	t.Helper()
	ready, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	var tid int
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its goroutine
		defer close(ended)
		tid = unix.Gettid()
		ready <- errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(ns.FD(), unix.CLONE_NEWNET), unix.Chroot(root))
		<-end
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(end)
		<-ended
	})
	return tid
}

// mounts runs f on a thread with a mount namespace of its own, in which
// /run and /etc are empty.
func mounts(t *testing.T, f func() error) {
	t.Helper()
	testenv.Privileged(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
			unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""),
		)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// bind gives a namespace a name below a directory.
func bind(ns *netns.NS, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.FD()), path, "", unix.MS_BIND, "")
}

// daemon answers like Docker's on a socket of its own, and returns its
// address.
func daemon(t *testing.T, handler http.Handler) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(directory, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
		_ = os.RemoveAll(directory)
	})
	return "unix://" + listener.Addr().String()
}

// containers is a handler that knows these containers.
func containers(known ...found) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/{name}/json", func(w http.ResponseWriter, r *http.Request) {
		c, status := meant(r.PathValue("name"), known)
		if status == http.StatusOK {
			_ = json.NewEncoder(w).Encode(map[string]any{
				"Id": c.id, "Name": "/" + c.name, "State": map[string]any{"Status": c.state, "Pid": c.pid},
				"Config":     map[string]any{"Env": []string{"PASSWORD=secret"}},
				"HostConfig": map[string]any{"NetworkMode": c.mode},
			})
			return
		}
		w.WriteHeader(status)
		fmt.Fprintln(w, `{"message":"nothing to be read"}`)
	})
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, r *http.Request) {
		var list []map[string]any
		for _, c := range known {
			if c.pid != 0 || r.URL.Query().Get("all") == "1" {
				list = append(list, map[string]any{"Id": c.id, "Names": []string{"/" + c.name}})
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	return mux
}

// meant is the container that a name stands for, and the status that Docker 20.10
// answers with: a start of several ids is none's.
func meant(name string, known []found) (found, int) {
	var some []found
	for _, c := range known {
		if c.name == name || c.id == name {
			return c, http.StatusOK
		}
		if strings.HasPrefix(c.id, name) {
			some = append(some, c)
		}
	}
	switch len(some) {
	case 0:
		return found{}, http.StatusNotFound
	case 1:
		return some[0], http.StatusOK
	}
	return found{}, http.StatusInternalServerError
}

const nobody = "unix:///nonexistent/docker.sock"

func TestFindHost(t *testing.T) {
	source, err := Find(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	current, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer current.Close()
	if source.Kind != KindHost || source.Name != "host" || source.NetNS.ID() != current.ID() {
		t.Errorf("got %+v", source)
	}
}

func TestFindDocker(t *testing.T) {
	ns, root := newNetNS(t), t.TempDir()
	pid := thread(t, ns, root)
	if err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("mine"), 0o644)); err != nil {
		t.Fatal(err)
	}
	address := daemon(t, containers(
		found{id: "0123456789abcdef", name: "cnt01", state: "running", pid: pid},
		found{id: "fedcba9876543210", name: "stopped", state: "exited"},
	))
	for _, name := range []string{"cnt01", "0123"} {
		source, err := Find(t.Context(), Config{Container: name, Engine: "docker", DockerHost: address})
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		if source.Kind != KindContainer || source.Name != "cnt01" || source.Engine != "docker" || source.ID != "0123456789abcdef" ||
			source.PID != pid || source.NetNS.ID() != ns.ID() {
			t.Errorf("got %+v", source)
		}
		if content, path, err := source.ReadEtc("hosts"); err != nil || string(content) != "mine" || path != "/etc/hosts" {
			t.Errorf("hosts: %q in %s, %v", content, path, err)
		}
	}
	_, err := Find(t.Context(), Config{Container: "stopped", Engine: "docker", DockerHost: address})
	var stopped *NotRunningError
	if !errors.As(err, &stopped) || stopped.State != "exited" {
		t.Errorf("got %v", err)
	}
	for typed, want := range map[string]string{"cnt10": "cnt01", "CNT01": "cnt01", "stop": "stopped", "cn": "cnt01"} {
		_, err := Find(t.Context(), Config{Container: typed, Engine: "docker", DockerHost: address, RunNetNS: t.TempDir()})
		var missing *NotFoundError
		if !errors.As(err, &missing) || !slices.Equal(missing.Near, []string{want}) || len(missing.Problems) != 0 {
			t.Errorf("%s: got %v, want near match %q", typed, err, want)
		}
	}
	if got := Names(t.Context(), Config{Engine: "docker", DockerHost: address, RunNetNS: t.TempDir()}, false); !slices.Equal(got, []string{"cnt01", "stopped"}) {
		t.Errorf("names %q", got)
	}
}

// TestFindDockerTrouble: a daemon that cannot be asked is told, and does not
// hide a namespace of that name.
func TestFindDockerTrouble(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	silent := daemon(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	broken := daemon(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	garbled := daemon(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	closed := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(closed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ address, engine, want string }{
		"nobody":            {nobody, "", ""},
		"nobody, asked for": {nobody, "docker", "no docker daemon at /nonexistent/docker.sock"},
		"refuses":           {"unix://" + closed, "", "refuses"},
		"silent":            {silent, "", "did not answer within 2s"},
		"broken":            {broken, "", `answers "500 Internal Server Error"`},
		"garbled":           {garbled, "", "read the answer"},
		"remote":            {"tcp://192.0.2.1:2375", "", "only a unix:// socket"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Find(t.Context(), Config{Container: "cnt01", DockerHost: tt.address, Engine: tt.engine, RunNetNS: t.TempDir()})
			var missing *NotFoundError
			if !errors.As(err, &missing) {
				t.Fatalf("got %v", err)
			}
			got := strings.Join(missing.Problems, "; ")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("problems %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFindCancelled(t *testing.T) {
	address := daemon(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Find(ctx, Config{Container: "cnt01", DockerHost: address}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestFindNamed(t *testing.T) {
	ns, other := newNetNS(t), newNetNS(t)
	broken := daemon(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	mounts(t, func() error {
		if err := errors.Join(
			bind(ns, "/run/netns/mynamespace"), bind(other, "/run/netns/host"),
			os.WriteFile("/run/netns/gone", nil, 0o444), unix.Mkfifo("/run/netns/fifo", 0o666),
			os.MkdirAll("/etc/netns/mynamespace", 0o755),
			os.WriteFile("/etc/netns/mynamespace/resolv.conf", []byte("own"), 0o644),
			os.WriteFile("/etc/resolv.conf", []byte("host's"), 0o644),
			os.WriteFile("/etc/hosts", []byte("host's"), 0o644),
		); err != nil {
			return err
		}
		for _, config := range []Config{
			{NetNS: "mynamespace"},
			{NetNS: "/run/netns/mynamespace"},
			{NetNS: "/run/netns/../netns/mynamespace"},
			{Container: "mynamespace", DockerHost: nobody},
			{Container: "mynamespace", DockerHost: broken},
			{Container: "mynamespace", Engine: "netns"},
		} {
			source, err := Find(t.Context(), config)
			if err != nil {
				t.Errorf("%+v: %v", config, err)
				continue
			}
			if source.Kind != KindNetNS || source.Name != "mynamespace" || source.NetNS.ID() != ns.ID() || source.PID != 0 {
				t.Errorf("%+v: got %+v", config, source)
			}
			for file, want := range map[string]string{"resolv.conf": "/etc/netns/mynamespace/resolv.conf own", "hosts": "/etc/hosts host's"} {
				content, path, err := source.ReadEtc(file)
				if got := path + " " + string(content); got != want || err != nil {
					t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
				}
			}
			if _, _, err := source.ReadEtc("nsswitch.conf"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("missing file: got %v", err)
			}
			if err := errors.Join(source.Close(), source.Close()); err != nil {
				t.Error(err)
			}
		}
		// Its name would be that of the namespace that pathtrace runs in.
		source, err := Find(t.Context(), Config{NetNS: "host"})
		if err != nil {
			return err
		}
		if source.Name != "netns host" {
			t.Errorf("name %q", source.Name)
		}
		defer source.Close()
		for name, want := range map[string]string{
			"gone": "not a network namespace", "fifo": "not a network namespace", "mynamespase": `did you mean "mynamespace"?`,
			"/proc/self/ns/mnt": "not a network namespace", "/etc/hosts": "not a network namespace", "..": "cannot be the name",
		} {
			if _, err := Find(t.Context(), Config{NetNS: name}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", name, err, want)
			}
		}
		if got := Names(t.Context(), Config{}, true); !slices.Contains(got, "mynamespace") {
			t.Errorf("names %q", got)
		}
		return nil
	})
}

func TestFindPID(t *testing.T) {
	ns := newNetNS(t)
	pid := thread(t, ns, t.TempDir())
	source, err := Find(t.Context(), Config{PID: pid})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if source.Kind != KindPID || source.Name != fmt.Sprintf("pid %d", pid) || source.NetNS.ID() != ns.ID() {
		t.Errorf("got %+v", source)
	}
	// The same namespace by its path has the same name.
	source, err = Find(t.Context(), Config{NetNS: fmt.Sprintf("/proc/%d/ns/net", pid)})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if source.Name != fmt.Sprintf("pid %d", pid) {
		t.Errorf("name %q", source.Name)
	}
	// A process of the host's namespace is on the host.
	source, err = Find(t.Context(), Config{PID: os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if source.Name != "host" || source.Kind != KindPID {
		t.Errorf("got %+v", source)
	}
}

func TestFindWrong(t *testing.T) {
	for name, config := range map[string]Config{
		"two":            {Container: "a", PID: 1},
		"no process":     {PID: 1 << 30},
		"negative pid":   {PID: -1},
		"unknown engine": {Container: "a", Engine: "rocket", DockerHost: nobody},
	} {
		if source, err := Find(t.Context(), config); err == nil {
			t.Errorf("%s: no error", name)
			_ = source.Close()
		}
	}
}

// TestReadEtc is about roots that want to be left.
func TestReadEtc(t *testing.T) {
	ns, root := newNetNS(t), t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	etc := filepath.Join(root, "etc")
	if err := errors.Join(
		os.WriteFile(outside, []byte("secret"), 0o644), os.Mkdir(etc, 0o755),
		os.WriteFile(filepath.Join(etc, "plain"), []byte("plain"), 0o644),
		os.Symlink("/etc/plain", filepath.Join(etc, "absolute")),
		os.Symlink("../../../../etc/plain", filepath.Join(etc, "climbing")),
		os.Symlink(outside, filepath.Join(etc, "leaving")),
		os.Symlink("../../../../.."+outside, filepath.Join(etc, "climbing out")),
		os.Symlink("/proc/self/root"+outside, filepath.Join(etc, "magic")),
		unix.Mkfifo(filepath.Join(etc, "fifo"), 0o666),
		os.WriteFile(filepath.Join(etc, "large"), make([]byte, maxFile+1), 0o644),
		os.Mkdir(filepath.Join(etc, "directory"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	source, err := Find(t.Context(), Config{PID: thread(t, ns, root)})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, name := range []string{"plain", "absolute", "climbing"} {
		if content, _, err := source.ReadEtc(name); string(content) != "plain" || err != nil {
			t.Errorf("%s: %q, %v", name, content, err)
		}
	}
	for name, want := range map[string]string{
		"leaving": "no such file", "climbing out": "no such file", "magic": "no such file",
		"fifo": "not a regular file", "directory": "not a regular file", "large": "too large",
	} {
		if content, _, err := source.ReadEtc(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d bytes, %v; want %q", name, len(content), err, want)
		}
	}
}

// TestPermission asks for another user's process, on a thread that gives its
// capabilities up.
func TestPermission(t *testing.T) {
	testenv.Root(t) // to become somebody else
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		// Of this thread only, and with it go its capabilities.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			done <- errno
			return
		}
		source, err := Find(t.Context(), Config{PID: os.Getppid()})
		if err == nil {
			_ = source.Close()
		}
		done <- err
	}()
	err := <-done
	var permission *PermissionError
	if !errors.As(err, &permission) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("got %v", err)
	}
}

func TestNear(t *testing.T) {
	names := []string{"cnt01", "cnt02", "web", "web-db", "Router", "cnt03", "cnt04"}
	for _, tt := range []struct {
		typed string
		want  []string
	}{
		{"cnt1", []string{"cnt01", "cnt02", "cnt03"}},
		{"router", []string{"Router"}},
		{"db", []string{"web-db"}},
		{"wbe", nil},
		{"we", []string{"web", "web-db"}},
		{"x", nil},
	} {
		if got := near(tt.typed, names); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.typed, got, tt.want)
		}
	}
}
