package diagnose

import (
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// untracked: the answer came back to the namespace that had translated the
// request, and a rule there kept it from conntrack, which alone could have
// translated it back. So it was taken for the namespace's own.
func untracked(s *scene) *cause {
	if s.leg != "reply" || s.end.Kind != path.Delivered || s.end.NetNS == s.in.Probe.NetNS {
		return nil
	}
	back := slices.ContainsFunc(s.in.Path.Translations, func(t report.Translation) bool {
		return t.Leg == "request" && t.NetNS == s.end.NetNS && t.Field == "source" && addressOf(t.To) == s.end.Tuple.Dst
	})
	step := s.untracks(s.end.NetNS)
	if !back || step == nil {
		return nil
	}
	c := &cause{
		code: ReplyLostHere, confidence: report.Observed, evidence: step.Evidence,
		summary: fmt.Sprintf("The answer came back to %s, and a rule of chain %s kept it from connection tracking: so it was not translated back, and %s took it for its own.",
			the(s.end.NetNS), chainOf(step.Rule), the(s.end.NetNS)),
	}
	c.advice, c.fix = s.track(s.end.NetNS, step.Rule)
	return c
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
