package live_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// TestTwoRuns traces twice at once in the same namespaces. Both give the right
// answer.
func TestTwoRuns(t *testing.T) {
	t.Parallel()
	for _, scenario := range lab.Scenarios() {
		for _, backend := range scenario.Backends {
			if backend == lab.IPTablesLegacy {
				continue // one of them does not get the log: TestSecondRun
			}
			for _, fault := range []string{"", lab.ForwardDrop, lab.ReplyDrop} {
				if scenario.Bridged && fault != "" {
					continue // its host has none of these
				}
				t.Run(strings.TrimSpace(fmt.Sprintf("%s %s %s", scenario.Name, backend, fault)), func(t *testing.T) {
					t.Parallel()
					n := build(t, scenario.Name, lab.Options{Backend: backend, Break: fault})
					want := expected(t, n)
					before := state(t, n)
					for _, r := range together(t, probe(n), probe(n)) {
						for _, problem := range flaws(r) {
							t.Error(problem)
						}
						tell(t, want, said(r))
						if fault != "" {
							continue
						}
						for _, problem := range healthy(r) {
							t.Error(problem)
						}
					}
					eventually(t, "the network as it was before", func() string { return cmp.Diff(before, state(t, n)) })
				})
			}
		}
	}
}

// together makes runs at once.
func together(t *testing.T, configs ...live.Config) []*report.Report {
	t.Helper()
	reports := make([]*report.Report, len(configs))
	errs := make([]error, len(configs))
	var running sync.WaitGroup
	for i, cfg := range configs {
		running.Go(func() { reports[i], errs[i] = live.Run(t.Context(), cfg) })
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return reports
}

// TestSecondRun traces in a namespace with legacy tables while another run has
// the kernel's log there. It says who is in the way; the other one is not
// disturbed.
func TestSecondRun(t *testing.T) {
	t.Parallel()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	n := build(t, "netns-by-hand", lab.Options{Backend: lab.IPTablesLegacy})
	setting("internet", "net/ipv4/icmp_echo_ignore_all", "1")(t, n)
	masquerade := "request observed masquerade host postrouting source 172.19.0.2 → 203.0.113.1 " + masquerading(n)
	before := state(t, n)
	var first *report.Report
	var firstErr error
	var running sync.WaitGroup
	running.Go(func() {
		cfg := probe(n)
		cfg.Timeout = 3 * impatient
		first, firstErr = live.Run(t.Context(), cfg)
	})
	eventually(t, "a run that has the log", func() string {
		if cmp.Equal(before, state(t, n)) || read(t, n.Host, "/proc/sys/net/netfilter/nf_log/2") != "nfnetlink_log" {
			return "it is not armed"
		}
		return ""
	})
	cfg := probe(n)
	cfg.Timeout = impatient
	second, err := live.Run(t.Context(), cfg)
	running.Wait()
	if err != nil || firstErr != nil {
		t.Fatal(err, firstErr)
	}
	eventually(t, "the network as it was before", func() string { return cmp.Diff(before, state(t, n)) })

	want := verdict{
		Outcome: report.Lost, Leg: "request", Code: "NO_REPLY", NetNS: "host", Confidence: report.Observed,
		Translations: []string{masquerade}, Request: byHandThere,
	}
	tell(t, want, shorten(first))
	if s := sensed(t, first, "nflog host"); s.State != "ok" {
		t.Errorf("the first run's sensor is %s: %s", s.State, s.Reason)
	}
	want.Translations = []string{"request observed snat host postrouting source 172.19.0.2 → 203.0.113.1 "}
	tell(t, want, shorten(second))
	reason := fmt.Sprintf("NFLOG group 0 in host is taken by %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
	if s := sensed(t, second, "nflog host"); s.State != "absent" || s.Reason != reason {
		t.Errorf("the second run's sensor is %s: %q, want absent: %q", s.State, s.Reason, reason)
	}
	for _, r := range []*report.Report{first, second} {
		for _, problem := range flaws(r) {
			t.Error(problem)
		}
	}
}
