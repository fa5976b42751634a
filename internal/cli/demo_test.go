//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// isolated skips a test where nobody may have private namespaces.
func isolated(t *testing.T) {
	t.Helper()
	testenv.Tool(t, "nft")
	testenv.Tool(t, "ip6tables-nft")
	cmd := program(t, nil, "demo", "--exec", "--", "true")
	output, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(output), "no private namespaces") {
		testenv.Skip(t, string(output))
	}
}

// runProgram runs pathtrace and returns its exit status.
func runProgram(t *testing.T, cmd *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	failure := cmd.Run()
	var exit *exec.ExitError
	if failure != nil && !errors.As(failure, &exit) {
		t.Fatal(failure)
	}
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

// TestDemoLab looks around in the lab: its names and files are there, and the
// machine's other files, and nothing of the machine's network is.
func TestDemoLab(t *testing.T) {
	t.Parallel()
	isolated(t)
	const look = `
cd /run/netns; echo names *
cd /etc/netns; echo files */resolv.conf
echo resolver $(cat /etc/resolv.conf)
test -s /etc/passwd && echo passwd
echo links $(ls /proc/self/net/dev_snmp6)
echo user $(id -u)
exit 7`
	coveredProc := []string{
		testenv.Tool(t, "unshare"), "--user", "--map-root-user", "--mount", "sh", "-c",
		`mount -t tmpfs none /proc/fs && exec unshare --user --map-root-user --mount "$@"`, "sh",
	}
	tests := []struct {
		name         string
		before, args []string
		want         []string
	}{
		{"open", nil, nil, []string{
			"names cnt01 gateway router",
			"files cnt01/resolv.conf gateway/resolv.conf router/resolv.conf",
			"resolver nameserver 2001:4860:4860::8844", "passwd",
			"links br_ipv6_nw ens192 lo veth671b926", "user 0",
		}},
		{"opaque", nil, []string{"--opaque"}, []string{
			"names cnt01", "files cnt01/resolv.conf",
			"resolver nameserver 2001:4860:4860::8844", "passwd",
			"links br_ipv6_nw ens192 lo veth671b926", "user 0",
		}},
		// As in some containers: no new /proc can be mounted.
		{"covered proc", coveredProc, []string{"netns-by-hand"}, []string{
			"names mynamespace", "files mynamespace/resolv.conf",
			"resolver nameserver 8.8.8.8", "passwd",
			"links eth0 lo veth0", "user 0",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append(append([]string{"demo", "--exec"}, tt.args...), "--", "sh", "-c", look)
			status, stdout, stderr := runProgram(t, program(t, tt.before, args...))
			got := strings.Split(strings.TrimSpace(stdout), "\n")
			if diff := cmp.Diff(tt.want, got); diff != "" || status != 7 {
				t.Errorf("status %d, want 7; (-want +got):\n%s\n%s", status, diff, stderr)
			}
		})
	}
}

// TestDemoCommand runs another command than the scenario's, and sees that
// exactly that is said and done.
func TestDemoCommand(t *testing.T) {
	t.Parallel()
	isolated(t)
	status, stdout, stderr := runProgram(t, program(t, nil, "demo", "netns-by-hand", "--break", "reply-drop", "--", "version"))
	if status != 0 || !strings.HasPrefix(stdout, "pathtrace ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("status %d, output %q", status, stdout)
	}
	for _, want := range []string{"\n$ pathtrace version\n", "broken on purpose (reply-drop): a rule on the host drops the reply\n", "172.19.0.2"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
}

// TestDemoPassesOn gives the command in the network the flags of the demo, and never
// the program that this command runs.
func TestDemoPassesOn(t *testing.T) {
	t.Parallel()
	save := saveFlags{file: "run.pcapng", payload: true}
	tests := []struct{ command, want string }{
		{"ping 192.0.2.7", "pathtrace ping --output json --save run.pcapng --save-payload 192.0.2.7"},
		{"exec --container cnt01 -- echo hi", "pathtrace exec --output json --save run.pcapng --save-payload --container cnt01 -- echo hi"},
		{"exec echo hi", "pathtrace exec --output json --save run.pcapng --save-payload echo hi"},
	}
	for _, tt := range tests {
		o := demoOptions{command: strings.Fields(tt.command), output: choice{value: "json"}, save: save}
		cmd, err := o.execCommand()
		if err != nil || strings.Join(cmd.Args, " ") != tt.want {
			t.Errorf("%s: %q, %v, want %s", tt.command, cmd.Args, err, tt.want)
		}
	}
}

// TestDemoErrors are found before anything is built.
func TestDemoErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"nowhere"}, `no scenario "nowhere"; there are ipv6-masquerade, docker-bridge, vpn-overlap, netns-by-hand`},
		{[]string{"--break", "luck"}, `ipv6-masquerade has no fault "luck"; it has forward-drop, forward-policy, reject, reply-drop`},
		{[]string{"docker-bridge", "--backend", "nft"}, `docker-bridge has no backend "nft"; it has iptables-nft, iptables-legacy`},
		{[]string{"docker-bridge", "--opaque"}, `docker-bridge has no opaque form`},
		{[]string{"docker-bridge", "ping6"}, `a command follows after --: pathtrace demo docker-bridge -- ping6`},
		{[]string{"--exec"}, `--exec needs a program after --`},
		{[]string{"--shell", "--", "version"}, `give --shell or a command after --, not both`},
	}
	for _, tt := range tests {
		var out, errs bytes.Buffer
		env := &environment{in: strings.NewReader(""), out: &out, err: &errs}
		status := run(t.Context(), append([]string{"demo"}, tt.args...), env)
		if got := errs.String(); status != exitCannotRun || !strings.Contains(got, tt.want) || out.Len() > 0 {
			t.Errorf("%q: status %d, output %q, error %q, want %q", tt.args, status, out.String(), got, tt.want)
		}
	}
}

// TestDemoList names every scenario, fault and backend.
func TestDemoList(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	env := &environment{in: strings.NewReader(""), out: &out, err: &errs}
	if status := run(t.Context(), []string{"demo", "--list"}, env); status != exitOK || errs.Len() > 0 {
		t.Errorf("status %d, error %q", status, errs.String())
	}
	for _, scenario := range lab.Scenarios() {
		want := []string{scenario.Name + ": " + scenario.Summary, "pathtrace " + strings.Join(scenario.Command, " ")}
		for _, fault := range scenario.Faults {
			want = append(want, fault.Name+" ", fault.Summary)
		}
		for _, backend := range scenario.Backends {
			want = append(want, string(backend))
		}
		for _, want := range want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in\n%s", want, out.String())
			}
		}
	}
}

// TestDemoForbidden runs the demo where user namespaces are used up, and where
// they are there and capabilities are missing in them.
func TestDemoForbidden(t *testing.T) {
	t.Parallel()
	isolated(t)
	tests := []struct {
		name   string
		before []string
		want   []string
	}{
		{
			"no user namespaces",
			[]string{
				testenv.Tool(t, "unshare"), "--user", "--map-root-user", "sh", "-c",
				`echo 1 >/proc/sys/user/max_user_namespaces && exec unshare --user --map-user=1000 "$@"`, "sh",
			},
			[]string{"no private namespaces for the network", "As root it works:", `sudo env PATH="$PATH" `, " demo netns-by-hand"},
		}, {
			"no capabilities",
			[]string{
				testenv.Tool(t, "unshare"), "--user", "--map-root-user",
				testenv.Tool(t, "setpriv"), "--inh-caps=-net_admin", "--bounding-set=-net_admin",
			},
			[]string{"no private namespaces for the network: create a veth pair: ", "root needs CAP_SYS_ADMIN and CAP_NET_ADMIN"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := runProgram(t, program(t, tt.before, "demo", "netns-by-hand", "--", "version"))
			if status != exitCannotRun || stdout != "" {
				t.Errorf("status %d, output %q", status, stdout)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in %q", want, stderr)
				}
			}
			status, stdout, stderr = runProgram(t, program(t, tt.before, "demo"))
			if status != exitOK || !strings.Contains(stdout, "REPLIED") || !strings.HasPrefix(stderr, "pathtrace: this is a recording") {
				t.Errorf("of the scenario that was recorded: status %d, output %q, error %q", status, stdout, stderr)
			}
		})
	}
}

// TestDemoMissingTool names the package.
func TestDemoMissingTool(t *testing.T) {
	t.Parallel()
	isolated(t)
	cmd := program(t, nil, "demo", "netns-by-hand", "--backend", "iptables-legacy")
	empty := t.TempDir()
	cmd.Env = append(cmd.Env, "PATH="+empty)
	if _, err := os.Stat("/usr/sbin/iptables-legacy"); err == nil {
		// It is looked for there, too.
		cmd = program(t, []string{testenv.Tool(t, "unshare"), "--user", "--map-root-user", "--mount", "sh", "-c", `mount -t tmpfs none /usr/sbin && exec "$@"`, "sh"},
			"demo", "netns-by-hand", "--backend", "iptables-legacy")
	}
	status, _, stderr := runProgram(t, cmd)
	if want := "install the package iptables, or run make tools"; status != exitCannotRun || !strings.Contains(stderr, want) {
		t.Errorf("status %d, no %q in %q", status, want, stderr)
	}
}

// TestDemoEnds ends the demo by signals, SIGKILL among them. No process that
// was in the lab lives on, and the machine is as it was.
func TestDemoEnds(t *testing.T) {
	isolated(t)
	before, temporary := machine(t), t.TempDir() // others have theirs in the usual folder
	tests := []struct {
		signal unix.Signal
		want   int
	}{{unix.SIGTERM, 143}, {unix.SIGINT, 143}, {unix.SIGKILL, -1}}
	for _, tt := range tests {
		t.Run(tt.signal.String(), func(t *testing.T) {
			cmd := program(t, nil, "demo", "--backend", "iptables-legacy", "--exec", "--", "sh", "-c", "sleep 1000 & readlink /proc/self/ns/net; sleep 1000")
			// A session of its own has no terminal that sends signals to all.
			cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
			cmd.Env = append(cmd.Env, "TMPDIR="+temporary)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			space, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			space = strings.TrimSpace(space)
			if got := processesIn(t, space); len(got) < 2 {
				t.Errorf("processes in the lab: %v", got)
			}
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its status is looked at
			if got := cmd.ProcessState.ExitCode(); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
			deadline := time.Now().Add(5 * time.Second)
			for len(processesIn(t, space)) > 0 {
				if time.Now().After(deadline) {
					t.Fatalf("processes left in the lab: %v", processesIn(t, space))
				}
				unix.Select(0, nil, nil, nil, &unix.Timeval{Usec: 1000}) //nolint:errcheck // an early return does no harm
			}
		})
	}
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("the machine has changed (-before +after):\n%s", diff)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v (%v)", left, err)
	}
}

// processesIn lists the processes that are in a network namespace.
func processesIn(t *testing.T, space string) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(paths, func(path string) bool {
		target, err := os.Readlink(path)
		return err != nil || target != space
	})
}

// machine is what a demo must leave alone.
func machine(t *testing.T) map[string]string {
	t.Helper()
	state := make(map[string]string)
	for _, pattern := range []string{
		"/run/netns/*", "/etc/netns/*", "/run/*",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		// Every iptables-legacy of the machine has the same lock, and makes it.
		state[pattern] = strings.Join(slices.DeleteFunc(paths, func(path string) bool { return path == "/run/xtables.lock" }), "\n")
	}
	for _, pattern := range []string{
		"/proc/self/mountinfo", "/proc/sys/net/netfilter/nf_log/*", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/bridge/*", "/etc/resolv.conf",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			state[path] = string(text)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		state["links"] += fmt.Sprintln(link.Attrs().Name)
	}
	return state
}
