package netns_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// interfaces counts what the calling thread's namespace has.
func interfaces(t *testing.T) int {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	return len(links)
}

func TestDo(t *testing.T) {
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	failure := errors.New("said by f")
	err = ns.Do(func() error {
		if got := interfaces(t); got != 1 {
			t.Errorf("a new namespace has %d interfaces, want lo alone", got)
		}
		inside, err := netns.Current()
		if err != nil {
			return err
		}
		defer inside.Close() //nolint:errcheck // read-only
		if inside.ID() != ns.ID() {
			t.Errorf("inside is namespace %d, want %d", inside.ID(), ns.ID())
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("Do = %v, want what f said", err)
	}
	outside, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close() //nolint:errcheck // read-only
	if outside.ID() == ns.ID() {
		t.Error("the caller's thread stayed in the namespace")
	}
}

func TestCloseTwice(t *testing.T) {
	ns, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ns.Close(), ns.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestOpenNamesThePath(t *testing.T) {
	_, err := netns.Open("/nonexistent/ns")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want a missing file", err)
	}
}

// TestDoHere shows that the namespace that one is in can be used without the
// right to enter any.
func TestDoHere(t *testing.T) {
	if os.Getenv("PATHTRACE_TEST_HERE") != "" {
		ns, err := netns.Current()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close() //nolint:errcheck // read-only
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Errorf("Do in the current namespace as an ordinary user: %v", err)
		}
		return
	}
	testenv.Root(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDoHere$")
	cmd.Env = append(os.Environ(), "PATHTRACE_TEST_HERE=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
