package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// isolated says that the names of namespaces and /etc are this process's own.
var isolated bool

func TestMain(m *testing.M) {
	lab.ProxyMain()
	if lab.Isolated() {
		if lab.Enter() != nil {
			os.Exit(2) // the process outside says why
		}
		isolated = true
		os.Exit(m.Run())
	}
	status, err := lab.Isolate(os.Stdin, os.Stdout, os.Stderr)
	if _, impossible := errors.AsType[*lab.IsolationError](err); impossible {
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err) //nolint:errcheck // nowhere left to tell
		status = 2
	}
	os.Exit(status)
}

// program builds pathtrace as "make build" does.
func program(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pathtrace")
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "go"), "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	return file
}

// TestProgram checks that the program is one file of at most 18 MiB that needs
// no other.
func TestProgram(t *testing.T) {
	testenv.Root(t) // others may have no access to Go's caches
	const limit = 18 << 20
	file := program(t)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > limit {
		t.Errorf("it has %d bytes, want at most %d", info.Size(), limit)
	}
	binary, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close() //nolint:errcheck // read-only
	if slices.ContainsFunc(binary.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("it asks for a dynamic linker")
	}
	if libraries, err := binary.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("it needs libraries: %v, %v", libraries, err)
	}
}
