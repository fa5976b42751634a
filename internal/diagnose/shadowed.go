package diagnose

import (
	"fmt"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// shadowedAccept: a rule of one filter table accepted the packet, and another
// table of the same hook ended it. An accept ends the way through its own table
// only; each further chain of the hook decides again (nft(8), "VERDICT
// STATEMENTS").
func shadowedAccept(s *scene) *cause {
	end := s.end
	if end.Kind != path.Dropped || end.Accepted == nil || end.Rule.Family == "bridge" || end.Rule.Family == "netdev" {
		return nil
	}
	ended := "dropped"
	if end.Verdict == ruletrace.Reject {
		ended = "rejected"
	}
	by := "a rule"
	if end.Policy {
		by = "the policy"
	}
	c := &cause{
		code: ShadowedAccept, evidence: end.AcceptedBy,
		summary: fmt.Sprintf("%s was accepted %s%s by a rule of chain %s (%s), and then %s in the same hook by %s of chain %s (%s): an accept in one table does not keep the packet from the next.",
			s.what(), where(end.NetNS), hooked(end), chainOf(end.Accepted), tool(end.Accepted), ended, by, chainOf(end.Rule), tool(end.Rule)),
	}
	c.mechanism = s.seen.Mechanism
	if c.mechanism == "" {
		c.mechanism = fmt.Sprintf("accepted by %q, then %s by %q", end.Accepted.Text, ended, end.Rule.Text)
	}
	return c
}

// tool names the program that a rule belongs to, or else what it was written with.
func tool(r *report.Rule) string {
	if r.Owner.Tool != "" {
		return r.Owner.Name()
	}
	if r.Backend == string(ruletrace.NFT) {
		return "nftables"
	}
	return r.Backend
}
