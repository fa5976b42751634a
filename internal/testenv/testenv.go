// Package testenv is the one place that decides whether a test can run on this
// machine. Only tests import it. It changes nothing on the host: what it makes
// to find out lives in a network namespace of its own.
package testenv

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
)

// Features that some kernels are built without. A test that needs one of them
// may skip with it, also in CI.
const (
	NoVLAN      = "the kernel has no VLAN links"
	NoWireGuard = "the kernel has no WireGuard links"
	NoDummy     = "the kernel has no dummy links"
	NoIPVLAN    = "the kernel has no ipvlan links"
	NoVRF       = "the kernel has no VRF links"
	NoNetem     = "the kernel has no netem queue"
	NoFlowtable = "the kernel has no nftables flowtables"
	NoNFQueue   = "the kernel has no nfnetlink_queue"
	NoKprobe    = "the kernel has no kprobes"
	NoGlueCT    = "the kernel has no CONFIG_NETFILTER_NETLINK_GLUE_CT"
)

var optional = []string{
	NoVLAN, NoWireGuard, NoDummy, NoIPVLAN, NoVRF, NoNetem, NoFlowtable, NoNFQueue, NoKprobe, NoGlueCT,
}

// Skip skips the test for a reason. Where the environment has CI=true it fails
// the test, unless the reason is one of the features above: what CI was set up
// to test must be tested.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if ci, _ := strconv.ParseBool(os.Getenv("CI")); ci && !slices.Contains(optional, reason) {
		t.Fatalf("a skip is a failure in CI: %s", reason)
	}
	t.Skip(reason)
}

// Tool returns the path of a program, and skips the test when PATH has none.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, name+" is not on PATH (scripts/tools.sh unpacks it)")
	}
	return path
}

// Privileged skips the test unless the process may create a network namespace
// and a veth pair in it: as root, or as root of a user namespace.
func Privileged(t testing.TB) {
	t.Helper()
	if err := privileged(); err != nil {
		Skip(t, "needs CAP_SYS_ADMIN and CAP_NET_ADMIN: "+err.Error())
	}
}

// Root skips the test unless the process is root outside of user namespaces,
// for what no user namespace allows: device files, other users' ids, more
// socket memory than the system's limit, BPF. In CI that is no failure: every
// test runs there as root too, and .ci/run fails for a test that no run passed.
func Root(t testing.TB) {
	t.Helper()
	if !initialUser() {
		t.Skip("needs root outside of user namespaces")
	}
}
