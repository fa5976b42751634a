//go:build linux

package accuracy

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/docs/causes"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestDraw draws the same cases from the same seed, and other ones from
// another.
func TestDraw(t *testing.T) {
	plan := Plan{Seed: 1, PerCode: 3, Healthy: 5, Pairs: 4}
	cases := Draw(plan)
	if diff := cmp.Diff(cases, Draw(plan)); diff != "" {
		t.Errorf("the same seed (-first +second):\n%s", diff)
	}
	plan.Seed = 2
	if cmp.Equal(cases, Draw(plan)) {
		t.Error("another seed draws the same")
	}
	perCode := make(map[string]int)
	for i, c := range cases {
		s, err := lab.Find(c.Scenario)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(c.Options); err != nil || c.Options.Seed == 0 || c.Number != i {
			t.Errorf("%d: %s: %v", i, c, err)
		}
		if i < len(cases)-plan.Healthy-plan.Pairs {
			perCode[s.Truth(c.Options).Code]++
		}
	}
	for code, runs := range perCode {
		if runs != plan.PerCode {
			t.Errorf("%d runs for %s, want %d", runs, code, plan.PerCode)
		}
	}
}

// TestCompare makes one mistake after the other in an answer that is right.
func TestCompare(t *testing.T) {
	s, err := lab.Find("docker-bridge")
	if err != nil {
		t.Fatal(err)
	}
	n := &lab.Network{Scenario: s, Options: lab.Options{Break: lab.ForwardDrop, Backend: lab.IPTablesLegacy}}
	right := Answer{
		Outcome: "dropped", Code: "FILTER_DROP", Leg: "request", NetNS: "host", Interface: "docker0", Hook: "forward",
		Rule: wanted(n.Truth()).Rule,
	}
	for _, tt := range []struct {
		wrong []string
		spoil func(*Answer)
	}{
		{nil, func(*Answer) {}},
		{[]string{"outcome"}, func(a *Answer) { a.Outcome = "rejected" }},
		{[]string{"code"}, func(a *Answer) { a.Code = "FILTER_POLICY_DROP" }},
		{[]string{"leg"}, func(a *Answer) { a.Leg = "reply" }},
		{[]string{"netns"}, func(a *Answer) { a.NetNS = "cnt01" }},
		{[]string{"interface"}, func(a *Answer) { a.Interface = "br-5f1c3a9d2b7e" }},
		{[]string{"hook"}, func(a *Answer) { a.Hook = "input" }},
		{[]string{"rule"}, func(a *Answer) { a.Rule += " # rule 2" }},
	} {
		r := Result{Want: wanted(n.Truth()), Got: right, Report: &report.Report{}}
		tt.spoil(&r.Got)
		r.compare(n, n.Truth())
		if diff := cmp.Diff(tt.wrong, r.Wrong); diff != "" {
			t.Errorf("wrong (-want +got):\n%s", diff)
		}
	}
}

func TestCount(t *testing.T) {
	result := func(broken, want, got string, wrong ...string) Result {
		return Result{Case: Case{Options: lab.Options{Break: broken}}, Want: Answer{Code: want}, Got: Answer{Code: got}, Wrong: wrong}
	}
	alarm := result("", "OK", "OK")
	alarm.Alarms = []string{"NO_ROUTE"}
	other := result("a,b", "NO_ROUTE", "NO_ROUTE")
	other.Other = Mentioned
	got := Count([]Result{
		result("a", "NO_ROUTE", "NO_ROUTE"), result("a", "NO_ROUTE", "NO_ROUTE", "hook"), result("b", "NO_REPLY", "NO_ROUTE", "code"),
		result("", "OK", "OK"), alarm, other, result("a,b", "NO_ROUTE", "NO_REPLY", "code"),
	})
	want := Board{
		Codes: []Score{
			{Code: "NO_REPLY", Runs: 1, Said: 1},
			{Code: "NO_ROUTE", Runs: 4, Said: 4, Right: 3, Exact: 2},
			{Code: "OK", Runs: 2, Said: 2, Right: 2, Exact: 2},
		},
		Networks: []Tally{{Runs: 7, Exact: 4}},
		Healthy:  2, Alarms: 1, Pairs: 2, First: 1, State: 1, Mentioned: 1, Confusions: []int{1, 2, 4, 6},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("scores (-want +got):\n%s", diff)
	}
}

// TestEveryCodeIsStaged wants runs for each code that has a page, or the reason
// why there are none.
func TestEveryCodeIsStaged(t *testing.T) {
	staged := stages()
	for _, code := range causes.Codes() {
		if code != "OK" && len(staged[code]) == 0 && lab.NotStaged[code] == "" {
			t.Errorf("no network is broken with %s, and lab.NotStaged does not say why", code)
		}
	}
}
