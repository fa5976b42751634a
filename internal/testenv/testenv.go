// Package testenv is the one place that decides whether a test can run on this
// machine. Only tests import it. It changes nothing on the host: what it makes
// to find out lives in a network namespace of its own.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
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

// SharedData returns the folder of published captures and logs with known truth,
// ../shared/data beside the module, and skips the test where it is absent.
func SharedData(t testing.TB) string {
	t.Helper()
	data := filepath.Join(module(t), "..", "shared", "data")
	if _, err := os.Stat(data); err != nil {
		Skip(t, "no published data at ../shared/data: "+err.Error())
	}
	return data
}

// Peers returns the root tree with the programs that pathtrace meets on real
// hosts, which scripts/peers.sh unpacks, and skips the test where it is absent
// and for all but root, who alone can run them.
func Peers(t testing.TB) string {
	t.Helper()
	Root(t)
	Privileged(t)
	tree := filepath.Join(module(t), "build", "peers", "root")
	if _, err := os.Stat(tree); err != nil {
		Skip(t, "no real container engines, firewalls and VPNs (make peers unpacks them): "+err.Error())
	}
	return tree
}

// module returns the module's folder.
func module(t testing.TB) string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return root
		}
		parent := filepath.Dir(root)
		if parent == root {
			t.Fatal("the test does not run in its module")
		}
		root = parent
	}
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

// Ordinary skips a test for root: the run as an ordinary user has it. It is for
// tests that are many and take long, and for which it makes no difference.
func Ordinary(t testing.TB) {
	t.Helper()
	if initialUser() {
		t.Skip("left to the run as an ordinary user")
	}
}

// LeftToRoot skips a test for an ordinary user: the run as root has it. It is for
// tests of which others that he has prove as much in a user namespace.
func LeftToRoot(t testing.TB) {
	t.Helper()
	if !initialUser() {
		t.Skip("left to the run as root")
	}
}

// IsRoot reports whether this is the run as root.
func IsRoot() bool { return initialUser() }
