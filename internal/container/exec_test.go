//go:build linux

package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/peer"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// machine is a host for real engines.
func machine(t *testing.T) *peer.Machine {
	t.Helper()
	testenv.Peers(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	m := peer.Start(t, ns)
	m.Run("ip", "link", "set", "lo", "up")
	return m
}

// slowly has commands start late on a machine.
func slowly(m *peer.Machine) {
	m.Run("mv", "/usr/sbin/runc", "/usr/sbin/runc.fast")
	m.Write("/usr/sbin/runc", "#!/bin/sh\ncase \" $* \" in *' exec '*) sleep 3;; esac\nexec /usr/sbin/runc.fast \"$@\"\n")
	m.Run("chmod", "755", "/usr/sbin/runc")
}

// testSlowly wants a command that starts late to run, and one that is given up while
// it starts to be ended.
func testSlowly(t *testing.T, config Config) {
	t.Helper()
	s, err := Find(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := runIn(t, s, nil, "sh", "-c", "echo late; exit 7"); got != (ran{"late\n", "", 7}) {
		t.Errorf("a slow start: %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	p, err := s.Exec(ctx, ExecConfig{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = p.Wait(); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "still run") {
		t.Errorf("given up: %v", err)
	}
	gone(t, p.PID)
}

// ran is what is known of a command that has ended.
type ran struct {
	stdout, stderr string
	status         int
}

// runIn runs a command to its end.
func runIn(t *testing.T, s *Source, stdin io.Reader, argv ...string) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p, err := s.Exec(t.Context(), ExecConfig{Argv: argv, Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		t.Fatalf("%q: %v", argv, err)
	}
	status, err := p.Wait()
	if err != nil {
		t.Errorf("%q: %v", argv, err)
	}
	return ran{stdout.String(), stderr.String(), status}
}

// TestExecDocker, TestExecPodman and TestExecContainerd run commands through the real engines.
func TestExecDocker(t *testing.T) {
	docker := machine(t).Docker("--bridge=none")
	docker.Container("cnt01", "--network=none", "--user=65534", "--env=PLACE=inside")
	config := Config{Container: "cnt01", Engine: dockerEngine, DockerHost: docker.Host}
	testExec(t, "docker", config)
	slowly(docker.Machine)
	testSlowly(t, config)
}

func TestExecPodman(t *testing.T) {
	podman := machine(t).Podman()
	name := unique("exec")
	podman.Container(name, "--network=none", "--user=65534", "--env=PLACE=inside")
	testExec(t, "podman", Config{Container: name, Engine: dockerEngine, DockerHost: podman.Host})
}

func TestExecContainerd(t *testing.T) {
	c := machine(t).Containerd()
	c.Container("k8s.io", "cnt01", "", nil)
	usual := containerds
	t.Cleanup(func() { containerds = usual })
	containerds = []struct{ state, socket string }{{filepath.Dir(c.Socket), c.Socket}}
	config := Config{Container: "cnt01", Engine: containerdEngine}
	testExec(t, "containerd", config)
	// What a command leaves behind may keep its output open for good.
	s, err := Find(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	got := runIn(t, s, nil, "sh", "-c", "sleep 60 & echo done")
	if took := time.Since(start); got.stdout != "done\n" || took > 20*time.Second {
		t.Errorf("got %+v after %v", got, took)
	}
	slowly(c.Machine)
	testSlowly(t, config)
	left, err := filepath.Glob(c.Path("/run/containerd/pathtrace-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func testExec(t *testing.T, engine string, config Config) {
	s, err := Find(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Engine != engine {
		t.Errorf("engine %q, want %q", s.Engine, engine)
	}
	t.Run("streams", func(t *testing.T) {
		got := runIn(t, s, strings.NewReader("a line\n"), "sh", "-c", `id -u; echo $PLACE; cat; echo bad >&2; exit 7`)
		if want := (ran{"65534\ninside\na line\n", "bad\n", 7}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("all of the output", func(t *testing.T) {
		const size = 3 << 20
		got := runIn(t, s, nil, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero; echo end >&2", size))
		if len(got.stdout) != size || got.stderr != "end\n" || got.status != 0 {
			t.Errorf("%d bytes, %q, status %d", len(got.stdout), got.stderr, got.status)
		}
	})
	t.Run("all of the input", func(t *testing.T) {
		const size = 3 << 20
		got := runIn(t, s, bytes.NewReader(make([]byte, size)), "wc", "-c")
		if strings.TrimSpace(got.stdout) != strconv.Itoa(size) {
			t.Errorf("got %q", got.stdout)
		}
	})
	t.Run("no input", func(t *testing.T) {
		if got := runIn(t, s, nil, "cat"); got != (ran{}) {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("many short ones", func(t *testing.T) {
		for i := range 10 {
			if got := runIn(t, s, nil, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)); got != (ran{fmt.Sprintln(i), "", i}) {
				t.Errorf("%d: got %+v", i, got)
			}
		}
	})
	t.Run("terminal", func(t *testing.T) { testTerminal(t, s) })
	t.Run("no such program", func(t *testing.T) {
		if engine == containerdEngine { // which says it before anything runs
			_, err := s.Exec(t.Context(), ExecConfig{Argv: []string{"no-such-program"}})
			if failed, ok := errors.AsType[*NotExecutedError](err); !ok || failed.Status != 127 {
				t.Errorf("got %v", err)
			}
			return
		}
		got := runIn(t, s, nil, "no-such-program")
		status := map[string]int{dockerEngine: 126, podmanEngine: 127}[engine]
		if got.status != status || !strings.Contains(got.stdout+got.stderr, "executable file not found") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("signal", func(t *testing.T) {
		p, err := s.Exec(t.Context(), ExecConfig{Argv: []string{"sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		if netnsOf(p.PID) != s.NetNS.ID() {
			t.Errorf("pid %d is not the command's", p.PID)
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if status, err := p.Wait(); status != 137 || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		testCancelled(t, s, "sh", "-c", `trap "" TERM; echo ready; sleep 1000 & wait; wait`)
	})
	t.Run("cancelled, and it obeys", func(t *testing.T) { testCancelled(t, s, "sh", "-c", `echo ready; sleep 1000`) })
	t.Run("output that nobody takes", func(t *testing.T) {
		full := errors.New("full")
		p, err := s.Exec(t.Context(), ExecConfig{Argv: []string{"sh", "-c", "while :; do echo y; done"}, Stdout: writer(func([]byte) (int, error) { return 0, full })})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		gone(t, p.PID)
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// testCancelled ends the context of a command that has said that it is ready, and
// wants it and its children to be gone.
func testCancelled(t *testing.T, s *Source, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan struct{}, 1)
	p, err := s.Exec(ctx, ExecConfig{Argv: argv, Stdout: writer(func(b []byte) (int, error) {
		ready <- struct{}{}
		return len(b), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	<-ready
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "still run") {
		t.Errorf("got %v", err)
	}
	gone(t, p.PID)
}

// gone wants that no process is left in a command's process group.
func gone(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		t.Fatal("the command's pid is not known")
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		left := false
		all, err := processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			group, _ := syscall.Getpgid(p.pid)
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
			left = left || group == pid && !bytes.Contains(stat, []byte(") Z "))
		}
		if !left {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process group %d is still there", pid)
		}
	}
}

// testTerminal types into a terminal what would leave it by default.
func testTerminal(t *testing.T, s *Source) {
	t.Helper()
	var output bytes.Buffer
	input, typed := io.Pipe()
	defer typed.Close()
	ready := make(chan struct{})
	p, err := s.Exec(t.Context(), ExecConfig{
		Argv: []string{"sh", "-c", `stty raw -echo
await() { for i in $(seq 50); do [ "$(stty size 2>&1)" = "$1" ] && break; sleep 0.1; done; stty size; }
await "33 99"; echo ready; head -c 3 | od -An -tx1; await "44 111"`},
		TTY: true, Height: 33, Width: 99, Stdin: input,
		Stdout: writer(func(b []byte) (int, error) {
			before := bytes.Contains(output.Bytes(), []byte("ready"))
			n, err := output.Write(b)
			if !before && bytes.Contains(output.Bytes(), []byte("ready")) {
				close(ready)
			}
			return n, err
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ready:
	case <-time.After(time.Minute):
		t.Fatalf("the command does not begin: output %q", output.String())
	}
	if err := p.Resize(44, 111); err != nil {
		t.Error(err)
	}
	// Podman hands the size on by a pipe, where of two that come at once one is lost:
	// the command's size is what it is set to a little later.
	_, _ = typed.Write([]byte("\x10\x11."))
	status, err := p.Wait()
	text := strings.ReplaceAll(output.String(), "\r\n", "\n")
	if status != 0 || err != nil || !strings.HasPrefix(text, "33 99\n") || !strings.Contains(text, "10 11 2e") || !strings.HasSuffix(text, "44 111\n") {
		t.Errorf("status %d, %v, output %q", status, err, text)
	}
}

// inMounts is set in the process that has mounts of its own.
const inMounts = "PATHTRACE_TEST_IN_MOUNTS"

// TestExecNetNS runs the host's program with another network. The program is
// started by another thread, so the whole process gets a mount namespace.
func TestExecNetNS(t *testing.T) {
	testenv.Privileged(t)
	if os.Getenv(inMounts) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestExecNetNS$", "-test.v")
		cmd.Env = append(os.Environ(), inMounts+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if output, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(output, []byte("--- PASS")) {
			t.Errorf("%v: %s", err, output)
		}
		return
	}
	ns := newNetNS(t)
	if err := errors.Join(
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""), unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""),
		bind(ns, "/run/netns/blue"), os.MkdirAll("/etc/netns/blue", 0o755),
		os.WriteFile("/etc/netns/blue/resolv.conf", []byte("own"), 0o644), os.WriteFile("/etc/netns/blue/absent", []byte("own"), 0o644),
		os.WriteFile("/etc/resolv.conf", []byte("host's"), 0o644), os.WriteFile("/etc/hosts", []byte("host's"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	s, err := Find(t.Context(), Config{NetNS: "blue"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := runIn(t, s, strings.NewReader("in"), "sh", "-c", `cat; readlink /proc/self/ns/net; cat /etc/resolv.conf /etc/hosts; ls /etc /sys/class/net; echo bad >&2; exit 7`)
	want := ran{fmt.Sprintf("innet:[%d]\nownhost's/etc:\nhosts\nnetns\nresolv.conf\n\n/sys/class/net:\nlo\n", ns.ID()), "bad\n", 7}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if content, _ := os.ReadFile("/etc/resolv.conf"); string(content) != "host's" {
		t.Errorf("the host's resolv.conf is %q", content)
	}
}

// TestExecPID runs the host's program with the network of a process.
func TestExecPID(t *testing.T) {
	ns := newNetNS(t)
	s, err := Find(t.Context(), Config{PID: thread(t, ns, t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := runIn(t, s, nil, "readlink", "/proc/self/ns/net"); got != (ran{fmt.Sprintf("net:[%d]\n", ns.ID()), "", 0}) {
		t.Errorf("got %+v", got)
	}
	if got := runIn(t, s, nil, "sh", "-c", "kill -TERM $$"); got.status != 143 {
		t.Errorf("ended by a signal: status %d", got.status)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for program, status := range map[string]int{"no-such-program": 127, "/no/such/program": 127, plain: 126} {
		_, err := s.Exec(t.Context(), ExecConfig{Argv: []string{program}})
		if failed, ok := errors.AsType[*NotExecutedError](err); !ok || failed.Status != status {
			t.Errorf("%s: %v", program, err)
		}
	}
	testCancelledProgram(t, s)
}

func testCancelledProgram(t *testing.T, s *Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := s.Exec(ctx, ExecConfig{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone(t, p.PID)
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestExecUnsupported(t *testing.T) {
	s := &Source{Kind: KindContainer, Name: "web", Engine: "nspawn", PID: 4711}
	_, err := s.Exec(t.Context(), ExecConfig{Argv: []string{"true"}})
	unsupported, ok := errors.AsType[*ExecUnsupportedError](err)
	if !ok || !strings.Contains(unsupported.Error(), "--pid 4711") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Exec(t.Context(), ExecConfig{}); err == nil {
		t.Error("no command was run")
	}
}

func TestDemultiplex(t *testing.T) {
	for _, tt := range []struct{ name, from, stdout, stderr, problem string }{
		{"nothing", "", "", "", ""},
		{"both", "\x01\x00\x00\x00\x00\x00\x00\x02ab\x02\x00\x00\x00\x00\x00\x00\x01c\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01d", "abd", "c", ""},
		{"cut in a header", "\x01\x00\x00\x00\x00\x00\x00\x02ab\x02\x00", "ab", "", "ends within a frame"},
		{"cut in a frame", "\x01\x00\x00\x00\x00\x00\x00\x05ab", "ab", "", "2 bytes after its begin"},
		{"no frame", "some text that is not framed", "", "", "stream 115"},
	} {
		var stdout, stderr bytes.Buffer
		err := demultiplex(strings.NewReader(tt.from), &stdout, &stderr)
		if stdout.String() != tt.stdout || stderr.String() != tt.stderr || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: %q, %q, %v", tt.name, &stdout, &stderr, err)
		}
	}
}
