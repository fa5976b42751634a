//go:build linux

package peer

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// machine is one in a network namespace of its own.
func machine(t *testing.T) *Machine {
	t.Helper()
	testenv.Peers(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	m := Start(t, ns)
	m.Run("ip", "link", "set", "lo", "up")
	return m
}

// contains fails the test unless the text has all the parts.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}

// TestMachine looks at what a program on a machine can see and change, and at
// what is left of it.
func TestMachine(t *testing.T) {
	testenv.Peers(t)
	before := mounts(t)
	var group, process string
	t.Run("in use", func(t *testing.T) {
		m := machine(t)
		for _, tt := range []struct{ command, want string }{
			{"cat /etc/debian_version", "12."},
			{"ip -br link", "lo"},
			{"cat /proc/self/cgroup", "0::/init\n"},
			{"ls -1 /mnt /run/netns 2>/dev/null | wc -l", "1\n"}, // the name of /mnt, no more
			{"echo 1 >/proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward", "1\n"},
			{"! echo 1 2>/dev/null >/proc/sys/vm/drop_caches && echo refused", "refused\n"},
			{"test -c /dev/net/tun && echo there", "there\n"},
		} {
			if got := m.Run("sh", "-c", tt.command); !strings.Contains(got, tt.want) {
				t.Errorf("%s: %q, want %q", tt.command, got, tt.want)
			}
		}
		m.Write("/etc/there/file", "text")
		if got := m.Run("cat", "/etc/there/file"); got != "text" {
			t.Errorf("a file that was written says %q", got)
		}
		if _, err := os.Stat(filepath.Join(testenv.Peers(t), "etc", "there")); err == nil {
			t.Error("a file of one machine is in the tree of all")
		}
		if _, err := m.Try("false"); err == nil {
			t.Error("the failure of a program is not told")
		}
		// It leaves its session and its parent, as daemons do.
		m.Run("sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $! >/run/pid")
		process = strings.TrimSpace(m.Run("cat", "/run/pid"))
		group = strings.TrimSpace(m.Run("uname", "-n"))
	})
	if runs(process) {
		t.Errorf("process %s still runs", process)
	}
	if after := mounts(t); !slices.Equal(before, after) {
		t.Errorf("mounts were %q, and are %q", before, after)
	}
	if found := groups(t, group); len(found) > 0 {
		t.Errorf("control groups are left: %q", found)
	}
}

// TestKilled kills the process that a machine belongs to, which is this test in a
// process of its own.
func TestKilled(t *testing.T) {
	testenv.Peers(t)
	const victim = "PATHTRACE_TEST_VICTIM"
	if os.Getenv(victim) != "" {
		m := machine(t)
		m.Run("sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $! >/run/pid")
		fmt.Println(strings.TrimSpace(m.Run("cat", "/run/pid")), strings.TrimSpace(m.Run("uname", "-n")))
		<-t.Context().Done()
		return
	}
	before := mounts(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), victim+"=1", "TMPDIR="+t.TempDir()) // it cannot clean up
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var process, group string
	_, scanned := fmt.Fscan(output, &process, &group)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if scanned != nil {
		t.Fatal(scanned)
	}
	(&Machine{t: t}).Await("nothing is left of the machine", func() error {
		switch after := mounts(t); {
		case runs(process):
			return fmt.Errorf("process %s runs", process)
		case len(groups(t, group)) > 0:
			return fmt.Errorf("control group %s is there", group)
		case !slices.Equal(before, after):
			return fmt.Errorf("mounts were %q, and are %q", before, after)
		}
		return nil
	})
}

// runs reports whether a process runs. Only who inherited it can take away what is
// left of one that ended.
func runs(process string) bool {
	status, err := os.ReadFile("/proc/" + process + "/status")
	return err == nil && !strings.Contains(string(status), "\nState:\tZ")
}

// TestApart looks for the processes of others on a machine that has ids of its own,
// and for its own, which the test finds by the ids that they have outside.
func TestApart(t *testing.T) {
	t.Parallel()
	testenv.Peers(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	m := StartApart(t, ns)
	own := strings.TrimSpace(m.Run("readlink", "/proc/self/ns/net"))
	for seen := range strings.SplitSeq(strings.TrimSpace(m.Run("sh", "-c", "readlink /proc/[0-9]*/ns/net")), "\n") {
		if seen != own {
			t.Errorf("a process in %s is seen from %s", seen, own)
		}
	}
	if outside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", m.pid)); err != nil || outside != own {
		t.Errorf("the test finds it in %s, %v, and not in %s", outside, err, own)
	}
}

// mounts are the mount points that the test's process sees.
func mounts(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// groups are the control groups of a name.
func groups(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		match, err := filepath.Glob(pattern + name)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, match...)
	}
	return found
}

func TestDocker(t *testing.T) {
	t.Parallel()
	d := machine(t).Docker()
	id := d.Container("cnt01")
	contains(t, d.Run("docker", "exec", "cnt01", "ping", "-c", "1", "172.17.0.1"), "1 packets received")
	socket := strings.TrimPrefix(d.Host, "unix://")
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatalf("the test cannot reach the daemon: %v", err)
	}
	_ = conn.Close()
	// The daemon's process ids are those of the test.
	pid := strings.TrimSpace(d.Run("docker", "inspect", "--format", "{{.State.Pid}}", "cnt01"))
	cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(cgroup), id)
}

func TestPodman(t *testing.T) {
	t.Parallel()
	p := machine(t).Podman()
	// Podman's containers are found by their processes, also by the pathtrace of tests
	// that run beside this one: none of these has one of that name.
	const name = "podman01"
	p.Container(name, "--cap-add", "NET_RAW") // as Docker gives it to all
	contains(t, p.Run("podman", "exec", name, "ping", "-c", "1", "10.88.0.1"), "1 packets received")
}

func TestContainerd(t *testing.T) {
	t.Parallel()
	c := machine(t).Containerd()
	c.Container("k8s.io", "pod01", "", map[string]string{"io.kubernetes.cri.sandbox-name": "web"})
	contains(t, c.Run("ctr", "--namespace", "k8s.io", "tasks", "list"), "pod01", "RUNNING")
	contains(t, c.Run("ctr", "--namespace", "k8s.io", "containers", "info", "pod01"), `"io.kubernetes.cri.sandbox-name": "web"`)
}

func TestFirewalld(t *testing.T) {
	t.Parallel()
	m := machine(t)
	m.Firewalld()
	if zone := strings.TrimSpace(m.Run("firewall-cmd", "--get-default-zone")); zone != "public" {
		t.Errorf("the default zone is %q", zone)
	}
	m.Run("firewall-cmd", `--add-rich-rule=rule family="ipv6" masquerade`)
	contains(t, m.Run("nft", "list", "chain", "inet", "firewalld", "nat_POST_public_allow"), `meta nfproto ipv6 oifname != "lo" masquerade`)
}

func TestFRR(t *testing.T) {
	t.Parallel()
	m := machine(t)
	m.FRR("zebra", "ospfd")
	contains(t, m.Run("vtysh", "-c", "show daemons"), "zebra", "ospfd")
}

func TestTinyproxy(t *testing.T) {
	t.Parallel()
	m := machine(t)
	m.Write("/etc/tinyproxy/test.conf", "Port 8888\nListen 127.0.0.1\nMaxClients 2\n")
	m.Daemon(m.Listens("127.0.0.1:8888"), "tinyproxy", "-d", "-c", "/etc/tinyproxy/test.conf")
}

// TestPrograms holds the versions that docs and truths speak of against what was
// unpacked.
func TestPrograms(t *testing.T) {
	t.Parallel()
	m := machine(t)
	for _, tt := range []struct{ command, want string }{
		{"openvpn --version", "OpenVPN 2.6"},
		{"dnf --version", "4.14"},
		{"createrepo_c --version", "Version"},
		{"ufw version", "ufw 0.36"},
		{"conntrack --version", "conntrack v1.4"},
		{"iptables --version", "(nf_tables)"},
		{"ping -V", "iputils"},
	} {
		words := strings.Fields(tt.command)
		// OpenVPN ends with status 1 when it has told its version.
		output, _ := m.Try(words[0], words[1:]...)
		contains(t, output, tt.want)
	}
}
