//go:build linux

package container

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// TestGonePID ends the process.
func TestGonePID(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := newNetNS(t).Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	s, err := Find(t.Context(), Config{PID: cmd.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Gone(t.Context()); got != "" {
		t.Errorf("it runs, and %q", got)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if got := s.Gone(t.Context()); !strings.HasSuffix(got, "has ended meanwhile.") {
		t.Errorf("it has ended, and %q", got)
	}
}

// TestGoneName takes the name away, and gives it to another namespace.
func TestGoneName(t *testing.T) {
	testenv.Privileged(t)
	ns, other := newNetNS(t), newNetNS(t)
	mounts(t, func() error {
		if err := bind(ns, "/run/netns/blue"); err != nil {
			return err
		}
		s, err := Find(t.Context(), Config{NetNS: "blue"})
		if err != nil {
			return err
		}
		defer s.Close()
		if got := s.Gone(t.Context()); got != "" {
			t.Errorf("it is there, and %q", got)
		}
		if err := unix.Unmount("/run/netns/blue", unix.MNT_DETACH); err != nil {
			return err
		}
		if got := s.Gone(t.Context()); !strings.Contains(got, "was deleted meanwhile") {
			t.Errorf("it is deleted, and %q", got)
		}
		if err := bind(other, "/run/netns/blue"); err != nil {
			return err
		}
		if got := s.Gone(t.Context()); !strings.Contains(got, "its name is another one's now.") {
			t.Errorf("it is another one, and %q", got)
		}
		return nil
	})
}

// TestGoneContainer restarts, replaces and removes a real container.
func TestGoneContainer(t *testing.T) {
	docker := machine(t).Docker("--bridge=none")
	find := func() *Source {
		s, err := Find(t.Context(), Config{Container: "cnt01", Engine: dockerEngine, DockerHost: docker.Host})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	start := func() *Source { docker.Container("cnt01", "--network=none"); return find() }
	gone := func(s *Source, want string) {
		t.Helper()
		if got := s.Gone(context.WithoutCancel(t.Context())); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	s := start()
	gone(s, "")
	docker.Run("docker", "restart", "--time=0", "cnt01")
	gone(s, "was restarted meanwhile")
	s = find()
	docker.Run("docker", "stop", "--time=0", "cnt01")
	gone(s, "The container cnt01 has ended meanwhile")
	docker.Run("docker", "rm", "cnt01")
	gone(s, "was removed meanwhile")
	again := start()
	gone(s, "another one has its name")
	gone(again, "")
}
