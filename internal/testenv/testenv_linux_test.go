package testenv

import "testing"

// TestPrivileged runs in CI as root, where a skip is a failure.
func TestPrivileged(t *testing.T) {
	Privileged(t)
}
