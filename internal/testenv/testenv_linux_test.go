package testenv

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestPrivileged runs in CI as root, where a skip is a failure.
func TestPrivileged(t *testing.T) {
	Privileged(t)
}

// TestRoot compares with what only root of the initial user namespace may do:
// give a file to a user id that nobody maps.
func TestRoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := os.Chown(file, math.MaxInt32-1, -1)
	if got := run(Root); got.skipped == (err == nil) || got.failed {
		t.Errorf("skipped %v, failed %v; giving a file away: %v", got.skipped, got.failed, err)
	}
}
