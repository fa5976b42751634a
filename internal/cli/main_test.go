//go:build linux

package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/florianl/go-nflog/v2"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// programs are what the test binary is for who calls it by one of these names,
// which PATH leads to: pathtrace, and the helpers of the scripts.
var programs = map[string]func(args []string) int{"pathtrace": Main, "when": when, "hold-nflog": holdNFLog, "cure": cure, lab.ProxyName: Main, lab.ResolverName: Main}

func TestMain(m *testing.M) {
	ruletrace.GuardMain()
	if program, ok := programs[filepath.Base(os.Args[0])]; ok {
		os.Exit(program(os.Args[1:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := namePrograms()
	defer os.RemoveAll(dir) //nolint:errcheck // only links are left behind
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return m.Run()
}

// namePrograms makes the names of the programs in a folder of their own.
func namePrograms() (dir string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "pathtrace-programs"); err != nil {
		return "", err
	}
	for name := range programs {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			return dir, err
		}
	}
	return dir, os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// raceSettings keep the race detector from waiting a second in every program
// that ends.
func raceSettings() string { return "atexit_sleep_ms=0 " + os.Getenv("GORACE") }

// program returns a command that is run by pathtrace in a process of its own;
// before are words that go before it.
func program(t *testing.T, before []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := exec.LookPath("pathtrace")
	if err != nil {
		t.Fatal(err)
	}
	words := append(append(slices.Clip(before), self), args...)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "GORACE="+raceSettings())
	return cmd
}

// when is the program
//
//	when PATTERN THEN COMMAND...
//
// that runs COMMAND in a process group of its own and prints its output and its
// errors. When a line of them matches PATTERN for the first time, it runs the
// shell command THEN, for which $group is that group. It ends with the status
// of COMMAND, or of the shell that runs it when that was ended by a signal.
func when(args []string) int {
	pattern, then, cmd := regexp.MustCompile(args[0]), args[1], exec.Command(args[2], args[3:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	lines, matched := bufio.NewScanner(output), false
	for lines.Scan() {
		fmt.Println(lines.Text())
		if matched || !pattern.MatchString(lines.Text()) {
			continue
		}
		matched = true
		shell := exec.Command("sh", "-c", then)
		shell.Env = append(os.Environ(), fmt.Sprintf("group=%d", cmd.Process.Pid))
		shell.Stdout, shell.Stderr = os.Stdout, os.Stdout
		if err := shell.Run(); err != nil {
			fmt.Printf("when: %s: %v\n", then, err)
		}
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		return 128 + int(cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// holdNFLog is the program
//
//	hold-nflog COMMAND...
//
// that runs COMMAND while it holds NFLOG group 0 of its network namespace, as a
// logging daemon does.
func holdNFLog(args []string) int {
	group, err := nflog.Open(&nflog.Config{Group: 0, Copymode: nflog.CopyMeta})
	if err != nil {
		panic(err)
	}
	ignore := func(nflog.Attribute) int { return 0 }
	if err := group.RegisterWithErrorFunc(context.Background(), ignore, func(error) int { return 1 }); err != nil {
		panic(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	_ = cmd.Run() // its status is looked at
	return cmd.ProcessState.ExitCode()
}
