//go:build linux

package peer_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/peer"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// host is the machine of a network of the lab, with pathtrace on it and without
// an engine. The namespaces that can be found have their names there.
func host(t *testing.T, scenario string) *peer.Machine {
	t.Helper()
	return hostOf(t, scenario, lab.Options{Engine: true})
}

func hostOf(t *testing.T, scenario string, options lab.Options) *peer.Machine {
	t.Helper()
	testenv.Peers(t)
	network, err := lab.Build(t.Context(), scenario, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	m := peer.Start(t, network.Host)
	m.Pathtrace()
	// Docker's own name server asks only the first: it wants one of IPv4.
	m.Write("/etc/resolv.conf", fmt.Sprintf("nameserver 8.8.8.8\nnameserver %s\n", network.Scenario.Resolver))
	for _, name := range network.Named {
		m.Name(name, network.NetNS(name))
	}
	return m
}

// answer is what a report says, without what is different each time.
type answer struct {
	Outcome         report.Outcome
	Code            string
	Leg, NetNS      string
	Interface, Hook string
	// Rule is what ended the packet, Translations what was changed and why.
	Rule         string
	Translations []string
	// Request and Reply are the points that saw the packet, with the addresses
	// there where they are others than before.
	Request, Reply []string
}

// trace runs pathtrace on a machine and returns its report.
func trace(t *testing.T, m *peer.Machine, args ...string) *report.Report {
	t.Helper()
	const file = "/tmp/report.json"
	output, failed := m.Try("pathtrace", slices.Concat(args[:1], []string{"--timeout", "2s", "--output", "json", "--report", file}, args[1:])...)
	written, missing := m.Try("cat", file)
	if missing != nil {
		t.Fatalf("pathtrace %q: no report: %v\n%s", args, failed, output)
	}
	var r report.Report
	if err := json.Unmarshal([]byte(written), &r); err != nil {
		t.Fatalf("pathtrace %q: %v, %v\n%s", args, failed, err, output)
	}
	m.Run("rm", file)
	return &r
}

// explain holds what pathtrace says against what is true.
func explain(t *testing.T, m *peer.Machine, want answer, args ...string) *report.Report {
	t.Helper()
	r := trace(t, m, args...)
	if diff := cmp.Diff(want, said(r)); diff != "" {
		t.Errorf("pathtrace %s (-want +got):\n%s", strings.Join(args, " "), diff)
	}
	return r
}

// maxRounds is how often a command may find another thing in the way: Docker
// isolates networks in both directions.
const maxRounds = 3

// mend runs the commands that pathtrace proposes until the packet is answered.
func mend(t *testing.T, m *peer.Machine, args ...string) {
	t.Helper()
	var done []string
	for range maxRounds {
		r := trace(t, m, args...)
		if r.Verdict.Outcome == "replied" {
			break
		}
		for _, finding := range r.Findings {
			for _, fix := range finding.Fix {
				done = append(done, fix)
				m.Run("sh", "-c", fix)
			}
		}
	}
	if r := trace(t, m, args...); r.Verdict.Outcome != "replied" || len(done) == 0 {
		t.Errorf("pathtrace %s: %s after %q", strings.Join(args, " "), r.Verdict.Summary, done)
	}
}

// examine runs pathtrace's doctor on a machine, which must find that, each as
// "severity CODE".
func examine(t *testing.T, m *peer.Machine, want ...string) {
	t.Helper()
	output, failed := m.Try("pathtrace", "doctor", "--output", "json")
	var checkup struct {
		Findings []struct{ Severity, Code string }
	}
	if err := json.Unmarshal([]byte(output), &checkup); err != nil {
		t.Fatalf("pathtrace doctor: %v, %v\n%s", failed, err, output)
	}
	var got []string
	for _, f := range checkup.Findings {
		got = append(got, f.Severity+" "+f.Code)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pathtrace doctor (-want +got):\n%s\n%s", diff, output)
	}
}

func said(r *report.Report) answer {
	v := r.Verdict
	a := answer{
		Outcome: v.Outcome, Code: v.Code, Leg: v.Leg, NetNS: v.NetNS, Interface: plain(v.Interface), Hook: v.Hook, Rule: rule(v.Rule),
		Request: points(r.Legs.Request), Reply: points(r.Legs.Reply),
	}
	for _, t := range r.Translations {
		a.Translations = append(a.Translations, fmt.Sprintf("%s %s %s %s %s %s → %s by %s",
			t.Confidence, t.NetNS, t.Hook, t.Kind, t.Field, portless(t.From), portless(t.To), rule(t.Rule)))
	}
	return a
}

// veth are the names that Docker draws.
var veth = regexp.MustCompile(`^veth[0-9a-f]{7}$`)

// plain is a name without what was drawn.
func plain(name string) string { return veth.ReplaceAllString(name, "veth*") }

// portless is an address without the port that a client drew.
func portless(address string) string {
	if a, err := netip.ParseAddrPort(address); err == nil && a.Port() >= 32768 {
		return a.Addr().String()
	}
	return address
}

// unknown is a rule that is not named.
const unknown = "no rule"

func rule(r *report.Rule) string {
	if r == nil {
		return unknown
	}
	return fmt.Sprintf("%s %s %s: %s", r.Backend, r.Table, r.Chain, r.Text)
}

// points are the hops at interfaces.
func points(leg []report.Hop) []string {
	var all []string
	before := ""
	for _, hop := range leg {
		if hop.Interface == "" {
			continue
		}
		text := fmt.Sprintf("%s %s %s", hop.NetNS, plain(hop.Interface), hop.Direction)
		addresses := portless(hop.Tuple.Source) + " → " + portless(hop.Tuple.Destination)
		if addresses != before {
			text += ", " + addresses
		}
		before = addresses
		all = append(all, text)
	}
	return all
}
