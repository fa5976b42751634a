package ruletrace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
)

func (s space) openNFLog(dir string) *NFLog {
	s.t.Helper()
	n, err := OpenNFLog(NFLogConfig{NetNS: s.ns, Name: "router", InterfaceName: s.interfaces(), JournalDir: dir})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = n.Close() })
	return n
}

// drained ends the reading and returns everything that was queued.
func (n *NFLog) drained(t testing.TB) []Hit {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var hits []Hit
	if err := n.Run(ctx, func(h Hit) { hits = append(hits, h) }); err != nil {
		t.Fatal(err)
	}
	return hits
}

// loggers returns nf_log.0, .2 and .10 of the namespace.
func (s space) loggers() string {
	s.t.Helper()
	var values []string
	s.do(func() error {
		for _, name := range logSysctls {
			text, err := os.ReadFile("/proc/sys/net/netfilter/nf_log/" + name)
			if err != nil {
				return err
			}
			values = append(values, strings.TrimSpace(string(text)))
		}
		return nil
	})
	return strings.Join(values, " ")
}

// eventually waits for a condition that another process brings about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestTraceLegacy compares what legacy tables trace, with every kind of
// verdict, with the rules and their counters.
func TestTraceLegacy(t *testing.T) {
	r := newRouter(t)
	for _, rule := range []string{
		"-t raw -A PREROUTING -p icmp -m comment --comment plain",
		"-t mangle -A FORWARD -j MARK --set-mark 1",
		"-t nat -A POSTROUTING -o right -j MASQUERADE",
		"-N first",
		"-N second",
		"-A FORWARD -i right -j ACCEPT",
		"-A FORWARD -p icmp -j first",
		"-A FORWARD -p icmp -g second",
		"-A first -p icmp -j LOG",
		"-A first -p icmp -j RETURN",
		"-A second -p tcp -j REJECT",
		"-A second -p icmp -j ACCEPT",
	} {
		r.router.tool("iptables-legacy", strings.Fields(rule)...)
	}
	r.router.arm(ArmConfig{Match: echoMatch()})
	n := r.router.openNFLog(t.TempDir())
	if !r.client.ping(serverAddr, echoID, 1, answered) {
		t.Fatal("no answer")
	}
	hits := n.drained(t)
	resolver := r.router.resolver("router")
	for i := range hits {
		if err := resolver.Resolve(context.Background(), &hits[i]); err != nil {
			t.Error(err)
		}
	}
	const request, reply = 0, 1
	leg := func(h Hit) int {
		if h.Header.Tuple.ICMPType == packet.EchoReply {
			return reply
		}
		return request
	}
	var got [2][]string
	for i, h := range hits {
		got[leg(h)] = append(got[leg(h)], strings.TrimPrefix(line(h), string(h.Hook)+"|iptables-legacy|ip|"))
		if h.Seq != uint64(i+1) || h.NetNS != "router" {
			t.Errorf("hit %d: number %d in %q", i, h.Seq, h.NetNS)
		}
		// Times end with FORWARD, as kernel-made records do.
		if late := h.Hook == Postrouting; late != h.Time.IsZero() {
			t.Errorf("%s: time %v", line(h), h.Time)
		}
	}
	want := [2][]string{
		request: {
			`raw|PREROUTING|PREROUTING#1|rule|continue|-A PREROUTING -p icmp -m comment --comment plain`,
			`raw|PREROUTING|PREROUTING|policy|accept|:PREROUTING ACCEPT`,
			`mangle|PREROUTING|PREROUTING|policy|accept|:PREROUTING ACCEPT`,
			`nat|PREROUTING|PREROUTING|policy|accept|:PREROUTING ACCEPT`,
			`mangle|FORWARD|FORWARD#1|rule|continue|-A FORWARD -j MARK --set-xmark 0x1/0xffffffff`,
			`mangle|FORWARD|FORWARD|policy|accept|:FORWARD ACCEPT`,
			`filter|FORWARD|FORWARD#2|rule|jump|-A FORWARD -p icmp -j first`,
			`filter|FORWARD|first#1|rule|continue|-A first -p icmp -j LOG`,
			`filter|FORWARD|first#2|rule|return|-A first -p icmp -j RETURN`,
			`filter|FORWARD|FORWARD#3|rule|goto|-A FORWARD -p icmp -g second`,
			`filter|FORWARD|second#2|rule|accept|-A second -p icmp -j ACCEPT`,
			`mangle|POSTROUTING|POSTROUTING|policy|accept|:POSTROUTING ACCEPT`,
			`nat|POSTROUTING|POSTROUTING#1|rule|accept|-A POSTROUTING -o right -j MASQUERADE`,
		},
		// The nat table is walked by the first packet only.
		reply: {
			`raw|PREROUTING|PREROUTING#1|rule|continue|-A PREROUTING -p icmp -m comment --comment plain`,
			`raw|PREROUTING|PREROUTING|policy|accept|:PREROUTING ACCEPT`,
			`mangle|PREROUTING|PREROUTING|policy|accept|:PREROUTING ACCEPT`,
			`mangle|FORWARD|FORWARD#1|rule|continue|-A FORWARD -j MARK --set-xmark 0x1/0xffffffff`,
			`mangle|FORWARD|FORWARD|policy|accept|:FORWARD ACCEPT`,
			`filter|FORWARD|FORWARD#1|rule|accept|-A FORWARD -i right -j ACCEPT`,
			`mangle|POSTROUTING|POSTROUTING|policy|accept|:POSTROUTING ACCEPT`,
		},
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("leg %d: got\n%s\nwant\n%s", i, strings.Join(got[i], "\n"), strings.Join(want[i], "\n"))
		}
	}
	for _, h := range hits {
		if h.Hook == Forward && leg(h) == request && (h.Ingress != "left" || h.Egress != "right") {
			t.Errorf("%s: in %q, out %q", line(h), h.Ingress, h.Egress)
		}
		if h.Target != "" && h.Target != "first" && h.Target != "second" {
			t.Errorf("%s: target %q", line(h), h.Target)
		}
	}
}

// TestTraceLegacyLastRule: the kernel calls a last rule that has no match
// "policy" (in a user chain "return"). It is a rule all the same.
func TestTraceLegacyLastRule(t *testing.T) {
	for _, tt := range []struct{ rules, want string }{
		{"-A FORWARD -p tcp -j ACCEPT;-A FORWARD -j DROP", `filter|FORWARD|FORWARD#2|rule|drop|-A FORWARD -j DROP`},
		{"-P FORWARD DROP;-A FORWARD -p tcp -j ACCEPT", `filter|FORWARD|FORWARD|policy|drop|:FORWARD DROP`},
		{"-N user;-A user -j DROP;-A FORWARD -j user", `filter|FORWARD|user#1|rule|drop|-A user -j DROP`},
		{"-N user;-A user -p tcp;-A FORWARD -j user;-P FORWARD DROP", `filter|FORWARD|FORWARD|policy|drop|:FORWARD DROP`},
		{"-A FORWARD -j REJECT", `filter|FORWARD|FORWARD#1|rule|reject|-A FORWARD -j REJECT --reject-with icmp-port-unreachable`},
	} {
		t.Run(tt.rules, func(t *testing.T) {
			r := newRouter(t)
			for rule := range strings.SplitSeq(tt.rules, ";") {
				r.router.tool("iptables-legacy", strings.Fields(rule)...)
			}
			r.router.arm(ArmConfig{Match: echoMatch()})
			n := r.router.openNFLog(t.TempDir())
			if r.client.ping(serverAddr, echoID, 1, unanswered) {
				t.Fatal("nothing dropped")
			}
			hits := slices.DeleteFunc(n.drained(t), func(h Hit) bool { return h.Hook != Forward })
			if len(hits) == 0 {
				t.Fatal("no hit")
			}
			last := hits[len(hits)-1]
			if err := r.router.resolver("router").Resolve(context.Background(), &last); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimPrefix(line(last), "forward|iptables-legacy|ip|"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestTraceLegacyIPv6 sends IPv6 through ip6tables-legacy.
func TestTraceLegacyIPv6(t *testing.T) {
	r := newRouter(t)
	r.router.tool("ip6tables-legacy", "-A", "FORWARD", "-p", "icmpv6", "-m", "comment", "--comment", "six", "-j", "DROP")
	r.router.arm(ArmConfig{Match: Match{Proto: packet.ICMPv6, Source: clientAddr6, Target: serverAddr6, ICMPID: echoID, Nonce: nonce}})
	n := r.router.openNFLog(t.TempDir())
	var hits []Hit
	for seq := 1; seq <= 100 && len(hits) == 0; seq++ { // neighbour discovery may take a second or two
		if r.client.ping(serverAddr6, echoID, seq, unanswered) {
			t.Fatal("nothing dropped")
		}
		hits = n.drained(t)
	}
	if len(hits) == 0 {
		t.Fatal("no hit")
	}
	if err := r.router.resolver("router").Resolve(context.Background(), &hits[0]); err != nil {
		t.Fatal(err)
	}
	want := "forward|iptables-legacy|ip6|filter|FORWARD|FORWARD#1|rule|drop|-A FORWARD -p ipv6-icmp -m comment --comment six -j DROP"
	if got := line(hits[0]); got != want || hits[0].Rule.Comment != "six" {
		t.Errorf("got %s (%q), want %s", got, hits[0].Rule.Comment, want)
	}
}

// TestNFLogDeliversAll counts with the rules' counters: what the kernel had
// queued when the end came is delivered, whether the reading had begun or not.
func TestNFLogDeliversAll(t *testing.T) {
	const packets = 200
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			from, to := newSpace(t), newSpace(t)
			veth(from, "out", to, "in")
			to.tool("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "icmp", "-j", "DROP")
			to.arm(ArmConfig{Match: echoMatch(), Budget: packets})
			n := to.openNFLog(t.TempDir())
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var hits []Hit
			done := make(chan error, 1)
			run := func() { done <- n.Run(ctx, func(h Hit) { hits = append(hits, h) }) }
			if running {
				go run()
			}
			probe := ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...))
			from.inject("out", to, "in", slices.Repeat([][]byte{probe}, packets)...)
			cancel()
			if !running {
				go run()
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			counters := to.tool("iptables-legacy-save", "-c", "-t", "raw")
			if want := fmt.Sprintf("[%d:", packets); !strings.Contains(counters, want) {
				t.Errorf("the rule did not count %d packets:\n%s", packets, counters)
			}
			if len(hits) != packets || n.Stats() != (Stats{Received: packets}) {
				t.Errorf("%d hits, %+v; want %d", len(hits), n.Stats(), packets)
			}
		})
	}
}

// TestNFLogOverrun makes the socket too small: the loss is counted.
func TestNFLogOverrun(t *testing.T) {
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.tool("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "icmp", "-j", "DROP")
	const packets = 500
	to.arm(ArmConfig{Match: echoMatch(), Budget: packets})
	n := to.openNFLog(t.TempDir())
	if err := n.nf.Con.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	probe := ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...))
	from.inject("out", to, "in", slices.Repeat([][]byte{probe}, packets)...)
	hits := n.drained(t)
	stats := n.Stats()
	if stats.Overruns == 0 || stats.Received != uint64(len(hits)) || stats.Received == packets {
		t.Errorf("%d of %d packets, %+v", len(hits), packets, stats)
	}
}

// TestNFLogIgnoresOthers: rules of the user may log to the same group.
func TestNFLogIgnoresOthers(t *testing.T) {
	from, to := newSpace(t), newSpace(t)
	veth(from, "out", to, "in")
	to.tool("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-j", "NFLOG", "--nflog-prefix", "TRACE: me")
	n := to.openNFLog(t.TempDir())
	from.inject("out", to, "in", ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7, nonce...)))
	if hits := n.drained(t); len(hits) != 0 || n.Stats() != (Stats{}) {
		t.Errorf("hits %q, %+v", lines(hits), n.Stats())
	}
}

// TestNFLogRestores wants the loggers back, both as they were before and when
// the user had set them.
func TestNFLogRestores(t *testing.T) {
	for _, before := range []string{"NONE nf_log_ipv4 nf_log_ipv6", "NONE NONE nf_log_ipv6", "NONE nfnetlink_log nf_log_ipv6"} {
		t.Run(before, func(t *testing.T) {
			s := newSpace(t)
			// Only an opened group loads the logger's module.
			if err := s.openNFLog(t.TempDir()).Close(); err != nil {
				t.Fatal(err)
			}
			for i, value := range strings.Fields(before) {
				s.sysctl("net.netfilter.nf_log."+logSysctls[i], value)
			}
			dir := t.TempDir()
			n := s.openNFLog(dir)
			if got, want := s.loggers(), "nfnetlink_log nfnetlink_log nfnetlink_log"; got != want {
				t.Errorf("while open %q, want %q", got, want)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("journals %v, %v; want one", entries, err)
			}
			if words, err := Cleanup(dir); len(words) != 0 || err != nil {
				t.Errorf("cleaned up under a live run: %q, %v", words, err)
			}
			for range 2 {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}
			if got := s.loggers(); got != before {
				t.Errorf("after Close %q, want %q", got, before)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("journals %v, %v; want none", entries, err)
			}
			// The group is free at once.
			if err := s.openNFLog(dir).Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNFLogKeepsLaterChoice: what somebody else set meanwhile stays.
func TestNFLogKeepsLaterChoice(t *testing.T) {
	s := newSpace(t)
	n := s.openNFLog(t.TempDir())
	s.sysctl("net.netfilter.nf_log.2", "NONE")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := s.loggers(), "NONE NONE nf_log_ipv6"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNFLogClosedWhileRunning ends Run from another goroutine.
func TestNFLogClosedWhileRunning(t *testing.T) {
	s := newSpace(t)
	n := s.openNFLog(t.TempDir())
	done := make(chan error, 1)
	go func() { done <- n.Run(context.Background(), func(Hit) {}) }()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestNFLogBusy names the holder, of this process and of another.
func TestNFLogBusy(t *testing.T) {
	busy := func(s space, pid int) {
		t.Helper()
		before := s.loggers()
		_, err := OpenNFLog(NFLogConfig{NetNS: s.ns, Name: "here", JournalDir: t.TempDir()})
		var held *BusyError
		if !errors.As(err, &held) || held.PID != pid || held.Process == "" || held.NetNS != "here" {
			t.Errorf("error %v, want one that names pid %d", err, pid)
		}
		if got := s.loggers(); got != before {
			t.Errorf("the loggers were %q and are %q", before, got)
		}
	}
	s := newSpace(t)
	s.openNFLog(t.TempDir())
	busy(s, os.Getpid())
	other := newSpace(t)
	child := startChild(t, other, t.TempDir())
	busy(other, child.Process.Pid)
}

// childVariable makes the test binary a run that arms, opens NFLOG and waits.
const childVariable = "RULETRACE_TEST_JOURNALS"

// child is the run that others kill: namespace at descriptor 3.
func child(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	ns, err := netns.Open("/proc/self/fd/3")
	fail(err)
	_, err = Arm(ArmConfig{NetNS: ns, Match: echoMatch()})
	fail(err)
	_, err = OpenNFLog(NFLogConfig{NetNS: ns, Name: "there", JournalDir: dir})
	fail(err)
	fmt.Println("ready")
	select {}
}

func startChild(t *testing.T, s space, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(duplicateFD(t, s.ns.FD())), "netns")}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.ExtraFiles[0].Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	text, err := bufio.NewReader(out).ReadString('\n')
	if text != "ready\n" {
		t.Fatalf("child: %s %v", text, err)
	}
	return cmd
}

func duplicateFD(t *testing.T, fd int) int {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestKill kills a run: the kernel takes the tables, the guard restores the
// loggers and removes the journal.
func TestKill(t *testing.T) {
	s, dir := newSpace(t), t.TempDir()
	cmd := startChild(t, s, dir)
	if got := s.tool("nft", "list", "tables"); !strings.Contains(got, "ip pathtrace-"+strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("tables %q", got)
	}
	if got, want := s.loggers(), "nfnetlink_log nfnetlink_log nfnetlink_log"; got != want {
		t.Errorf("loggers %q, want %q", got, want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loggers are restored", func() bool { return s.loggers() == "NONE nf_log_ipv4 nf_log_ipv6" })
	eventually(t, "the journal is removed", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 0
	})
	eventually(t, "the tables are gone", func() bool { return strings.TrimSpace(s.tool("nft", "list", "tables")) == "" })
	eventually(t, "the group is free", func() bool {
		return groupHolder(NFLogConfig{NetNS: s.ns}) == nil
	})
}

// TestCleanup kills a run and its guard. Then the journal restores, but only
// the namespace that it is about.
func TestCleanup(t *testing.T) {
	s, dir := newSpace(t), t.TempDir()
	cmd := startChild(t, s, dir)
	guard := childrenOf(t, cmd.Process.Pid)
	if len(guard) != 1 {
		t.Fatalf("the run has children %v, want its guard", guard)
	}
	if err := unix.Kill(guard[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the group is free", func() bool { return groupHolder(NFLogConfig{NetNS: s.ns}) == nil })
	const left = "NONE nfnetlink_log nfnetlink_log"
	// The unbind at the socket's end does not change nf_log.0 either.
	if got := s.loggers(); !strings.HasSuffix(got, "nfnetlink_log nfnetlink_log") {
		t.Fatalf("loggers %q, want them as they were left, like %q", got, left)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("journals %q, %v; want one", paths, err)
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	// A journal about a namespace that had the same inode must not touch it.
	edited := func(old, replacement string) string {
		t.Helper()
		changed := strings.Replace(string(text), old, replacement, 1)
		if changed == string(text) {
			t.Fatalf("no %q in the journal %s", old, text)
		}
		other := filepath.Join(t.TempDir(), "x")
		if err := os.Mkdir(other, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(other, "nflog-1.json"), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		return other
	}
	before := s.loggers()
	for _, tt := range []struct{ old, replacement, want string }{
		{`"cookie": `, `"cookie": 9`, "is gone"},
		{`"cookie": `, `"cookie": 0, "x": `, "Linux 5.14"},
		{`"boot": "`, `"boot": "0`, "earlier boot"},
		{`"pidNamespace": "pid:[`, `"pidNamespace": "pid:[9`, "another pid namespace"},
		{`"nf_log_ipv4"`, `"../../x"`, "unreadable journal"},
		{`{`, `{{`, "unreadable journal"},
	} {
		words, err := Cleanup(edited(tt.old, tt.replacement))
		if said := strings.Join(words, "\n") + fmt.Sprint(err); !strings.Contains(said, tt.want) {
			t.Errorf("with %s: %s; want %q", tt.replacement, said, tt.want)
		}
		if got := s.loggers(); got != before {
			t.Fatalf("with %s: loggers %q, were %q", tt.replacement, got, before)
		}
	}
	// Nor may it work against a run that has the group now.
	now := s.openNFLog(t.TempDir())
	if words, err := Cleanup(dir); err == nil || !strings.Contains(err.Error(), "in use by") {
		t.Errorf("during another run: %q, %v", words, err)
	}
	if err := now.Close(); err != nil {
		t.Error(err)
	}
	// What a killed process had begun to write goes, what a live one writes stays.
	dead := filepath.Join(dir, fmt.Sprintf("nflog-%d-1.json.new", cmd.Process.Pid))
	alive := filepath.Join(dir, fmt.Sprintf("nflog-%d-1.json.new", os.Getpid()))
	for _, half := range []string{dead, alive} {
		if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	words, err := Cleanup(dir)
	if halves, _ := filepath.Glob(filepath.Join(dir, "*.new")); !slices.Equal(halves, []string{alive}) {
		t.Errorf("begun journals after Cleanup: %q, want %q", halves, alive)
	}
	if err != nil || !strings.Contains(strings.Join(words, "\n"), "in there: net.netfilter.nf_log.2: nfnetlink_log -> nf_log_ipv4") {
		t.Errorf("Cleanup: %q, %v", words, err)
	}
	if got, want := s.loggers(), "NONE nf_log_ipv4 nf_log_ipv6"; got != want {
		t.Errorf("loggers %q, want %q", got, want)
	}
	if words, err := Cleanup(dir); len(words) != 0 || err != nil {
		t.Errorf("second Cleanup: %q, %v", words, err)
	}
}

// childrenOf returns the children of a process.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // ended
		}
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			id, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, id)
		}
	}
	return children
}
