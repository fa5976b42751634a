package live_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// process is a run of the program.
type process struct {
	cmd         *exec.Cmd
	out, errors bytes.Buffer
}

// start starts the program on a network's host. Words in before go before it,
// and variables are added to its environment.
func start(t *testing.T, n *lab.Network, before, variables []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	words := slices.Concat(before, []string{self}, args)
	p := &process{cmd: exec.Command(words[0], words[1:]...)}
	// The race detector would wait a second in every process that ends.
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.cmd.Env = append(p.cmd.Env, variables...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errors
	if err := n.Host.Do(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	return p
}

// wait returns the exit status, or the signal that ended the program.
func (p *process) wait(t *testing.T) (status int, signal syscall.Signal) {
	t.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	state, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && state.Signaled() {
		return -1, state.Signal()
	}
	return p.cmd.ProcessState.ExitCode(), 0
}

// report decodes what the program printed, and checks what every report
// promises.
func (p *process) report(t *testing.T) *report.Report {
	t.Helper()
	var r report.Report
	decoder := json.NewDecoder(&p.out)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("report: %v; standard error: %s", err, p.errors.String())
	}
	if decoder.More() {
		t.Error("there is more than one report")
	}
	for _, problem := range flaws(&r) {
		t.Error(problem)
	}
	return &r
}

// remains is what a run may leave behind: changes of the namespaces, and
// processes in them.
func remains(t *testing.T, n *lab.Network) map[string]string {
	t.Helper()
	all := state(t, n)
	for _, name := range n.Names() {
		all[name+" processes"] = strings.Join(inside(t, n.NetNS(name).ID()), " ")
	}
	return all
}

// inside lists the processes that are in a network namespace: pid and words.
func inside(t *testing.T, id uint64) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range paths {
		if target, err := os.Readlink(path); err == nil && target == fmt.Sprintf("net:[%d]", id) {
			process := filepath.Dir(filepath.Dir(path))
			words, _ := os.ReadFile(filepath.Join(process, "cmdline")) // it may have ended
			all = append(all, filepath.Base(process)+" "+strings.TrimSpace(strings.ReplaceAll(string(words), "\x00", " ")))
		}
	}
	return all
}

// run runs the scenario's ping and returns its report.
func run(t *testing.T, n *lab.Network, before, variables []string, want int) *report.Report {
	t.Helper()
	p := start(t, n, before, variables, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", patient.String(), "-o", "json")
	if status, signal := p.wait(t); status != want || p.errors.Len() > 0 {
		t.Errorf("status %d, want %d; signal %d; %s", status, want, signal, p.errors.String())
	}
	return p.report(t)
}

// TestProgram runs the program itself in a network whose namespaces have names.
func TestProgram(t *testing.T) {
	t.Parallel()
	if !private {
		testenv.Skip(t, "no mounts of its own: the names would be the machine's")
	}
	n := build(t, "netns-by-hand", lab.Options{Backend: lab.IPTablesLegacy, NamedDir: lab.NamedDir})
	command(t, n.Host, "iptables-legacy", "-S") // makes the table filter
	before := remains(t, n)
	clean := func(t *testing.T) {
		t.Helper()
		if !eventually(t, "the network as it was before", func() string { return cmp.Diff(before, remains(t, n)) }) {
			t.FailNow()
		}
	}
	silence := setting("internet", "net/ipv4/icmp_echo_ignore_all", "1")
	answer := setting("internet", "net/ipv4/icmp_echo_ignore_all", "0")
	t.Run("killed", func(t *testing.T) {
		silence(t, n)
		defer answer(t, n)
		testKilled(t, n, clean)
	})
	t.Run("interrupted", func(t *testing.T) {
		silence(t, n)
		defer answer(t, n)
		testInterrupted(t, n, clean)
	})
	t.Run("killed with its guard", func(t *testing.T) {
		silence(t, n)
		defer answer(t, n)
		testCleanup(t, n, clean)
	})
	t.Run("answered", func(t *testing.T) {
		r := run(t, n, nil, nil, 0)
		tell(t, expected(t, n), said(r))
		for _, problem := range healthy(r) {
			t.Error(problem)
		}
		clean(t)
	})
	t.Run("without CAP_NET_ADMIN", func(t *testing.T) {
		testWithoutRules(t, n, []string{testenv.Tool(t, "setpriv"), "--inh-caps=-net_admin", "--bounding-set=-net_admin"}, nil)
		clean(t)
	})
	t.Run("with slow tools", func(t *testing.T) {
		testSlowTools(t, n)
		clean(t)
	})
	t.Run("without iptables", func(t *testing.T) {
		testWithoutRules(t, n, nil, []string{"PATH=" + t.TempDir()})
		clean(t)
	})
}

// untilSent stands for the moment at which the bundle of a run has its packet.
const untilSent = -1

// moments are times after the start of the program at which a signal comes: the
// first before anything is armed, the last when the packet was sent, the others
// at random around these.
func moments(t *testing.T, n *lab.Network, count int) []time.Duration {
	t.Helper()
	file := filepath.Join(t.TempDir(), "run.pcapng")
	started := time.Now()
	p := start(t, n, nil, nil, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", "1m", "--save", file)
	pass(t, untilSent, file)
	span := time.Since(started)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same moments each time
	all := []time.Duration{0}
	for range count - 2 {
		all = append(all, time.Duration(random.Int64N(int64(span+span/4))))
	}
	return append(all, untilSent)
}

// pass waits for the moment in a run that saves its bundle in a file.
func pass(t *testing.T, moment time.Duration, file string) {
	t.Helper()
	if moment != untilSent {
		<-time.After(moment)
		return
	}
	eventually(t, "a bundle with the packet", func() string {
		f, err := capture.OpenFile(file)
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		run, err := evidence.Read(f)
		if err != nil {
			return err.Error()
		}
		if len(run.Sightings) == 0 {
			return "there is no packet in it"
		}
		return ""
	})
}

// signals is how many runs are ended by each signal.
const signals = 20

// testKilled kills the program at any moment. The kernel takes back what it
// added, and its child what else it changed; its bundle says what was known.
func testKilled(t *testing.T, n *lab.Network, clean func(*testing.T)) {
	unarmed := state(t, n)
	armed, sent := 0, 0
	for i, moment := range moments(t, n, signals) {
		clean(t)
		file := filepath.Join(t.TempDir(), "run.pcapng")
		if i%2 == 1 {
			file += ".zst"
		}
		p := start(t, n, nil, nil, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", "1m", "--save", file)
		pass(t, moment, file)
		if !cmp.Equal(unarmed, state(t, n)) {
			armed++
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if status, signal := p.wait(t); signal != syscall.SIGKILL {
			t.Errorf("%s after its start it had ended with status %d: %s%s", moment, status, p.out.String(), p.errors.String())
		}
		if testKilledBundle(t, file) {
			sent++
		}
	}
	clean(t)
	if sent == 0 {
		t.Error("no bundle has the packet")
	}
	if armed == 0 || armed == signals {
		t.Errorf("%d of %d runs were armed when they were killed", armed, signals)
	}
}

// testCleanup kills the program together with the child that would have put
// back what the kernel does not. "pathtrace cleanup" does it.
func testCleanup(t *testing.T, n *lab.Network, clean func(*testing.T)) {
	const setting = "/proc/sys/net/netfilter/nf_log/2"
	before := read(t, n.Host, setting)
	p := start(t, n, nil, nil, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", "1m")
	eventually(t, "a run that has the log", func() string {
		if read(t, n.Host, setting) == before {
			return setting + " is " + before
		}
		return ""
	})
	guards, guard := 0, ""
	for _, process := range inside(t, n.Host.ID()) {
		pid, words, _ := strings.Cut(process, " ")
		if number, err := strconv.Atoi(pid); err == nil && strings.HasPrefix(words, "pathtrace-nflog-guard") {
			guards, guard = guards+1, pid+" "
			if err := syscall.Kill(number, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	eventually(t, "no guard", func() string { // it has the group until it has ended
		for _, process := range inside(t, n.Host.ID()) {
			if guard != "" && strings.HasPrefix(process, guard) {
				return process
			}
		}
		return ""
	})
	if left := read(t, n.Host, setting); guards != 1 || left == before {
		t.Fatalf("%d guards were killed, and %s is %s", guards, setting, left)
	}
	tidy := start(t, n, nil, nil, "cleanup")
	if status, _ := tidy.wait(t); status != 0 || !strings.Contains(tidy.out.String(), "net.netfilter.nf_log.2: nfnetlink_log -> "+before) {
		t.Errorf("cleanup: status %d: %s%s", status, tidy.out.String(), tidy.errors.String())
	}
	clean(t)
	journals, err := filepath.Glob(fmt.Sprintf("/run/pathtrace/nflog-*-%d.json", n.Host.ID()))
	if err != nil || len(journals) > 0 {
		t.Errorf("journals are left: %v, %v", journals, err)
	}
}

// testSlowTools has a rule drop the packet where reading rules takes seconds, as
// on a busy host: the report names the rule all the same.
func testSlowTools(t *testing.T, n *lab.Network) {
	command(t, n.Host, "iptables-legacy", "-I", "FORWARD", "-p", "icmp", "-j", "DROP")
	defer command(t, n.Host, "iptables-legacy", "-D", "FORWARD", "1")
	dir := t.TempDir()
	for _, tool := range []string{"nft", "iptables-legacy-save", "iptables-nft-save"} {
		script := fmt.Sprintf("#!/bin/sh\nsleep 3\nexec %s \"$@\"\n", testenv.Tool(t, tool))
		if err := os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o755); err != nil { //nolint:gosec // it is to be run
			t.Fatal(err)
		}
	}
	p := start(t, n, nil, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", "1m", "-o", "json")
	status, _ := p.wait(t)
	r := p.report(t)
	if rule := owned(r.Verdict.Rule); status != 1 || r.Verdict.Code != "FILTER_DROP" || !strings.HasSuffix(rule, "] -A FORWARD -p icmp -j DROP") {
		t.Errorf("status %d, %s by %s: %s", status, r.Verdict.Code, rule, p.errors.String())
	}
}

// testWithoutRules runs the program where it cannot learn which rules a packet
// meets, with an answer and with a rule in the way.
func testWithoutRules(t *testing.T, n *lab.Network, before, variables []string) {
	r := run(t, n, before, variables, 0)
	got := shorten(r)
	want := answeredAt("mynamespace", byHandThere, byHandBack)
	want.Translations = got.Translations
	tell(t, want, got)
	if len(got.Translations) == 0 || r.Translations[0].Rule != nil {
		t.Errorf("translations: %v", got.Translations)
	}
	for _, problem := range accusations(r) {
		t.Error(problem)
	}
	if s := sensed(t, r, "nflog host"); s.State == "ok" || s.Reason == "" {
		t.Errorf("nflog is %s: %s", s.State, s.Reason)
	}
	if s := sensed(t, r, "capture host"); s.State != "ok" {
		t.Errorf("capture is %s: %s", s.State, s.Reason)
	}

	command(t, n.Host, "iptables-legacy", "-I", "FORWARD", "-p", "icmp", "-j", "DROP")
	defer command(t, n.Host, "iptables-legacy", "-D", "FORWARD", "1")
	p := start(t, n, before, variables, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", patient.String(), "-o", "json")
	status, _ := p.wait(t)
	r = p.report(t)
	code, wanted := "INCONCLUSIVE", 3
	if told(t, r) { // that it was netfilter, and not which rule
		code, wanted = "KERNEL_DROP", 1
	}
	if status != wanted || p.errors.Len() > 0 {
		t.Errorf("status %d, want %d: %s", status, wanted, p.errors.String())
	}
	if r.Verdict.Code != code || (r.Verdict.Confidence == report.Observed) != told(t, r) || r.Verdict.NetNS != lab.HostName || r.Verdict.Rule != nil {
		t.Errorf("verdict: %+v", r.Verdict)
	}
	if !strings.Contains(r.Verdict.Summary, "Rules could not be traced there") || strings.Contains(r.Verdict.Summary, "No rule") {
		t.Errorf("summary: %s", r.Verdict.Summary)
	}
}
