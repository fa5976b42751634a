//go:build linux

package peer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// program is pathtrace, as users have it: static, so that it runs in any tree.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "pathtrace-peer")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	file := filepath.Join(dir, "pathtrace")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, "github.com/pathtrace/pathtrace/cmd/pathtrace")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build pathtrace: %w: %s", err, output)
	}
	return os.ReadFile(file)
})

// Pathtrace installs pathtrace on the machine, built from the tested source.
func (m *Machine) Pathtrace() {
	m.t.Helper()
	content, err := program()
	if err != nil {
		m.t.Fatal(err)
	}
	const file = "/usr/bin/pathtrace"
	m.Write(file, string(content))
	if err := os.Chmod(m.Path(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// Name gives a namespace of the test's a name on the machine, as "ip netns" has
// them.
func (m *Machine) Name(name string, ns *netns.NS) {
	m.t.Helper()
	file := "/run/netns/" + name
	m.Write(file, "")
	// The link leads to no path that could be found anew.
	m.Run("mount", "--no-canonicalize", "--bind", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()), file)
}
