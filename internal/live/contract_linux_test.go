package live_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/report"
)

// claim is a statement of a report with what it rests on.
type claim struct {
	what       string
	confidence report.Confidence
	evidence   []string
}

// claims lists the statements of a report.
func claims(r *report.Report) []claim {
	all := []claim{{"verdict: " + r.Verdict.Summary, r.Verdict.Confidence, r.Verdict.Evidence}}
	all = append(all, claimsOf(r.Translations, r.Legs)...)
	for _, c := range r.Continuations {
		all = append(all, claim{"continuation: " + c.Summary, c.Confidence, c.Evidence}, claim{"its verdict: " + c.Verdict.Summary, c.Verdict.Confidence, c.Verdict.Evidence})
		all = append(all, claimsOf(c.Translations, c.Legs)...)
	}
	for _, f := range r.Findings {
		// What is wrong may be a state that no sensor saw come about.
		all = append(all, claim{"finding " + f.Code, report.Reconstructed, f.Evidence})
	}
	return all
}

// claimsOf lists the statements about the way of one flow.
func claimsOf(translations []report.Translation, legs report.Legs) []claim {
	var all []claim
	for _, t := range translations {
		all = append(all, claim{fmt.Sprintf("translation %s in %s: %s %s → %s", t.Kind, t.NetNS, t.Field, t.From, t.To), t.Confidence, t.Evidence})
	}
	for _, leg := range [][]report.Hop{legs.Request, legs.Reply} {
		for _, hop := range leg {
			if hop.Interface != "" { // otherwise it stands for what its steps say
				all = append(all, claim{"hop " + place(hop), report.Observed, hop.Evidence})
			}
			for _, step := range hop.Steps {
				all = append(all, claim{fmt.Sprintf("step %s at %s: %s", step.Kind, place(hop), step.Text), step.Confidence, step.Evidence})
			}
		}
	}
	return all
}

// place names a hop as the lab's scenarios do.
func place(hop report.Hop) string {
	return hop.NetNS + "/" + hop.Interface + " " + hop.Direction
}

// flaws lists what a report says without keeping the promises that every report
// makes: statements name evidence that is there, and it is of a kind that can
// prove them; nothing is listed that no statement needs; each statement says how
// it is known; and nothing happens to a packet after its end.
func flaws(r *report.Report) []string {
	var all []string
	flaw := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }

	kinds := make(map[string]string)
	for _, e := range r.Evidence {
		if kinds[e.ID] != "" {
			flaw("evidence %s is there twice", e.ID)
		}
		kinds[e.ID] = e.Kind
		if e.NetNS == "" || e.Text == "" {
			flaw("evidence %s says nothing: %+v", e.ID, e)
		}
	}
	used := make(map[string]bool)
	for _, c := range claims(r) {
		if c.evidence == nil {
			flaw("%s: its evidence is no list", c.what)
		}
		sensed := false
		for _, id := range c.evidence {
			used[id] = true
			if kinds[id] == "" {
				flaw("%s: there is no evidence %s", c.what, id)
			}
			sensed = sensed || slices.Contains([]string{"sighting", "conntrack", "rule", "drop"}, kinds[id])
		}
		switch c.confidence {
		case report.Observed:
			if !sensed {
				flaw("%s: called observed, and no sensor saw it: %v", c.what, c.evidence)
			}
		case report.Reconstructed:
			if len(c.evidence) == 0 {
				flaw("%s: reconstructed from nothing", c.what)
			}
		case report.Assumed:
		default:
			flaw("%s: its confidence is %q", c.what, c.confidence)
		}
	}
	for _, e := range r.Evidence {
		if !used[e.ID] {
			flaw("evidence %s supports nothing: %s", e.ID, e.Text)
		}
	}
	for _, hop := range slices.Concat(r.Legs.Request, r.Legs.Reply) {
		for i, step := range hop.Steps {
			if i+1 < len(hop.Steps) && (step.Kind == "drop" || step.Kind == "reject") {
				flaw("after the %s at %s comes %s: %s", step.Kind, place(hop), hop.Steps[i+1].Kind, hop.Steps[i+1].Text)
			}
			if step.Rule != nil && strings.HasPrefix(step.Rule.Table, "pathtrace-") {
				flaw("step %s at %s shows a rule of pathtrace's own: %s", step.Kind, place(hop), step.Text)
			}
		}
	}
	if r.Verdict.Summary == "" || r.Verdict.Code == "" || r.Verdict.Leg != "request" && r.Verdict.Leg != "reply" {
		flaw("the verdict is incomplete: %+v", r.Verdict)
	}
	if r.Finished.Before(r.Started) || r.Started.IsZero() {
		flaw("it finished %s and started %s", r.Finished, r.Started)
	}
	return all
}

// healthy lists what a report says against an exchange that went well.
func healthy(r *report.Report) []string {
	var all []string
	if r.Verdict.Outcome != report.Replied || r.Verdict.Code != "OK" || r.Verdict.Confidence != report.Observed {
		all = append(all, fmt.Sprintf("the verdict is %s, %s, %s: %s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Confidence, r.Verdict.Summary))
	}
	if r.Verdict.Elapsed <= 0 {
		all = append(all, fmt.Sprintf("it took %s", r.Verdict.Elapsed))
	}
	all = append(all, accusations(r)...)
	for _, hop := range append(r.Legs.Request, r.Legs.Reply...) {
		for _, step := range hop.Steps {
			if step.Kind == "drop" {
				all = append(all, "dropped at "+place(hop)+": "+step.Text)
			}
		}
	}
	for _, f := range r.Findings {
		if f.Severity == "error" {
			all = append(all, fmt.Sprintf("finding %s: %s", f.Code, f.Summary))
		}
	}
	for _, s := range r.Sensors {
		if s.Name == "kernel drops" && s.State == "absent" && strings.Contains(s.Reason, "CAP_BPF") {
			continue // so it is in user namespaces, and nothing is worse for it
		}
		if s.State != "ok" {
			all = append(all, fmt.Sprintf("sensor %s is %s: %s", s.Name, s.State, s.Reason))
		}
	}
	return all
}

// lossy reports whether a sensor says that it lost something, as those in busy
// networks may on a busy machine.
func lossy(r *report.Report) bool {
	return slices.ContainsFunc(r.Sensors, func(s report.Sensor) bool { return s.State == "degraded" && s.Lost > 0 })
}

// accusations are the places where a report says that a rule ended a packet.
func accusations(r *report.Report) []string {
	var all []string
	if r.Verdict.Rule != nil {
		all = append(all, "the verdict accuses "+owned(r.Verdict.Rule))
	}
	if strings.HasPrefix(r.Verdict.Code, "FILTER_") {
		all = append(all, "the verdict is "+r.Verdict.Code)
	}
	for _, hop := range append(r.Legs.Request, r.Legs.Reply...) {
		for _, step := range hop.Steps {
			if step.Rule != nil && (step.Kind == "drop" || step.Kind == "reject") {
				all = append(all, step.Kind+" at "+place(hop)+": "+step.Text)
			}
		}
	}
	return all
}
