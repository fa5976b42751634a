//go:build linux

package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// told is what a report and the truth have in common.
type told struct {
	Outcome, Leg, Code, NetNS, Hook string
	Rule                            lab.Rule
	Translations                    []toldTranslation
	Request, Reply                  string
	Status                          int
}

type toldTranslation struct {
	Kind, NetNS, Hook, Leg, Field, From, To, Rule string
}

// TestDemoTruth runs the command of every scenario, with every fault of its
// host, and compares the report with what is known to be true.
func TestDemoTruth(t *testing.T) {
	t.Parallel()
	isolated(t)
	for _, scenario := range lab.Scenarios() {
		testTruth(t, scenario, lab.Options{})
		if scenario.Bridged {
			continue // its host has none of these faults
		}
		for _, fault := range []string{lab.ForwardDrop, lab.ForwardPolicy, lab.Reject, lab.ReplyDrop} {
			testTruth(t, scenario, lab.Options{Break: fault})
		}
		if scenario.Opaque {
			testTruth(t, scenario, lab.Options{Opaque: true})
		}
	}
}

func testTruth(t *testing.T, scenario lab.Scenario, options lab.Options) {
	t.Helper()
	args := []string{"demo", scenario.Name, "-o", "json"}
	if options.Break != "" {
		args = append(args, "--break", options.Break)
	}
	if options.Opaque {
		args = append(args, "--opaque")
	}
	t.Run(strings.Join(args[1:], " "), func(t *testing.T) {
		t.Parallel()
		for _, tool := range scenario.Tools(options) {
			testenv.Tool(t, tool)
		}
		status, stdout, stderr := runProgram(t, program(t, nil, args...))
		var r report.Report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatalf("status %d: %v\n%s", status, err, stderr)
		}
		if diff := cmp.Diff(ofTruth(scenario, options), ofReport(r, status)); diff != "" {
			t.Errorf("%s\n(-truth +report):\n%s", r.Verdict.Summary, diff)
		}
	})
}

func ofTruth(scenario lab.Scenario, options lab.Options) told {
	truth := scenario.Truth(options)
	all := told{
		Outcome: truth.Outcome, Leg: truth.Leg, Code: truth.Code, NetNS: truth.NetNS, Hook: truth.Hook, Rule: truth.Rule,
	}
	if truth.Outcome != "replied" {
		all.Status = exitFailed
	}
	for _, translation := range truth.Translations {
		if translation.Rule.Chain == "" {
			continue // reports have it on the way, not in the list
		}
		all.Translations = append(all.Translations, toldTranslation{
			translation.Kind, translation.NetNS, translation.Hook, translation.Leg, translation.Field,
			translation.From.String(), translation.To.String(), translation.Rule.Text,
		})
	}
	if truth.Outcome == "replied" {
		request, reply := scenario.Path(options)
		all.Request, all.Reply = strings.Join(request, "\n"), strings.Join(reply, "\n")
	}
	return all
}

func ofReport(r report.Report, status int) told {
	all := told{
		Outcome: string(r.Verdict.Outcome), Leg: r.Verdict.Leg, Code: r.Verdict.Code, Hook: r.Verdict.Hook,
		Status: status,
	}
	if all.Hook != "" {
		all.NetNS = r.Verdict.NetNS
	}
	if rule := r.Verdict.Rule; rule != nil {
		all.Rule = lab.Rule{
			Backend: lab.Backend(rule.Backend), Family: rule.Family, Table: rule.Table, Chain: rule.Chain,
			Text: rule.Text, Comment: rule.Comment,
		}
	}
	for _, translation := range r.Translations {
		var rule string
		if translation.Rule != nil {
			rule = translation.Rule.Text
		}
		all.Translations = append(all.Translations, toldTranslation{
			translation.Kind, translation.NetNS, translation.Hook, translation.Leg, translation.Field,
			translation.From, translation.To, rule,
		})
	}
	if r.Verdict.Outcome == report.Replied {
		all.Request, all.Reply = points(r.Legs.Request), points(r.Legs.Reply)
	}
	return all
}

func points(hops []report.Hop) string {
	var points []string
	for _, hop := range hops {
		points = append(points, hop.NetNS+"/"+hop.Interface+" "+hop.Direction)
	}
	return strings.Join(points, "\n")
}
