package diagnose

import (
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// untracked: the answer came back to a namespace that had translated the
// request, and a rule there kept it from conntrack, which alone could have
// translated it back.
func untracked(s *scene) *cause {
	if s.leg != "reply" || s.end.Kind == path.Dropped {
		return nil
	}
	for _, t := range s.in.Path.Translations {
		answers := s.end.Tuple.Dst
		if t.Field == "destination" {
			answers = s.end.Tuple.Src
		}
		step := s.untracks(t.NetNS)
		if t.Leg != "request" || addressOf(t.To) != answers || step == nil {
			continue
		}
		c := &cause{
			code: ReplyLostHere, confidence: report.Observed, outcome: report.Dropped, evidence: slices.Concat(t.Evidence, step.Evidence),
			summary: fmt.Sprintf("The answer came back to %s, and a rule of chain %s kept it from connection tracking. So what had been done to the request there (%s %s → %s) was not undone, and ",
				the(t.NetNS), chainOf(step.Rule), t.Field, addressOf(t.From), addressOf(t.To)),
		}
		switch {
		case s.end.Kind == path.Delivered && s.end.NetNS == t.NetNS:
			c.summary += fmt.Sprintf("%s took it for its own.", the(t.NetNS))
		case s.in.Path.Answer.Unexpected:
			c.summary += fmt.Sprintf("it reached %s as one from %s, which no connection expects.", the(s.end.NetNS), s.end.Tuple.Source())
		default:
			c.summary += fmt.Sprintf("it ended in %s.", the(s.end.NetNS))
		}
		c.advice, c.fix = s.track(t.NetNS, step.Rule)
		return c
	}
	return nil
}

// untracks is the step of a rule that kept the packet from connection tracking
// in a namespace, or nil.
func (s *scene) untracks(netns string) *report.Step {
	for i := range s.path.Hops {
		for k := range s.path.Hops[i].Steps {
			step := &s.path.Hops[i].Steps[k]
			if s.path.Hops[i].NetNS == netns && step.Rule != nil && (ruletrace.Rule{Text: step.Rule.Text}).Untracks() {
				return step
			}
		}
	}
	return nil
}

// track is what has the lost packet tracked in spite of a rule.
func (s *scene) track(netns string, untracks *report.Rule) (advice string, fix []string) {
	if !nameable(untracks) {
		return "", nil
	}
	line, ok := s.command(netns, "%s", accept(untracks, false, s.end.Tuple, s.leg))
	if !ok {
		return "", nil
	}
	return "Let this traffic be tracked, in front of that rule:", []string{line}
}
