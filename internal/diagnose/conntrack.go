package diagnose

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// conntrackInvalid: a rule dropped what conntrack cannot place in any flow.
func conntrackInvalid(s *scene) *cause {
	end := s.end
	if end.Kind != path.Dropped || end.Policy || !dropsInvalid(end) {
		return nil
	}
	c := &cause{
		code: ConntrackInvalid,
		summary: fmt.Sprintf("%s belongs to no flow that conntrack of %s knows (its state is INVALID), and a rule of chain %s %s such packets%s.",
			s.what(), the(end.NetNS), chainOf(end.Rule), map[bool]string{true: "rejects", false: "drops"}[end.Verdict == ruletrace.Reject], hookWords(end)),
	}
	if s.leg == "reply" && s.in.Sensors.Captured[end.NetNS] && !s.passed(end.NetNS) {
		c.summary += fmt.Sprintf(" The request had not been seen %s: it took another way.", where(end.NetNS))
	}
	return c
}

func hookWords(end *path.End) string {
	if end.Hook == "" {
		return ""
	}
	return " in the hook " + string(end.Hook)
}

// passed reports whether the request was seen in a namespace.
func (s *scene) passed(netns string) bool {
	for i := range s.in.Path.Request.Hops {
		if s.in.Path.Request.Hops[i].NetNS == netns {
			return true
		}
	}
	return false
}

var (
	// quotedText is what somebody wrote beside a rule, and names.
	quotedText = regexp.MustCompile(`"[^"]*"`)
	// nftState is a match of the state: one, several, or a set of them.
	nftState = regexp.MustCompile(`\bct state (!= )?(\{[^}]*\}|[a-z,]+)`)
	// nftStateMap leads from states to verdicts.
	nftStateMap = regexp.MustCompile(`\bct state vmap \{([^}]*)\}`)
	xtState     = regexp.MustCompile(`(! )?--(?:ct)?state ([A-Z,]+)`)
)

// dropsInvalid reports whether the rule that ended a packet did so because it
// was INVALID: it asks for that state and no other, or for several when the
// trace tells that the packet's was this one.
func dropsInvalid(end *path.End) bool {
	text := quotedText.ReplaceAllString(end.Rule.Text, "")
	if end.State != "" && end.State != "invalid" {
		return false
	}
	if m := nftStateMap.FindStringSubmatch(text); m != nil {
		return onlyInvalidDrops(m[1]) || end.State == "invalid" && strings.Contains(m[1], "invalid : ")
	}
	match, name := nftState, "invalid"
	if end.Rule.Backend != string(ruletrace.NFT) {
		match, name = xtState, "INVALID"
	}
	m := match.FindStringSubmatch(text)
	if m == nil || m[1] != "" {
		return false
	}
	states := strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune("{}, ", r) })
	asked := false
	for _, state := range states {
		asked = asked || state == name
	}
	return asked && (len(states) == 1 || end.State == "invalid")
}

// onlyInvalidDrops reports whether of all states in a map of verdicts invalid
// alone leads to a drop.
func onlyInvalidDrops(elements string) bool {
	drops := false
	for element := range strings.SplitSeq(elements, ",") {
		state, verdict, _ := strings.Cut(element, ":")
		if strings.TrimSpace(verdict) != "drop" {
			continue
		}
		if strings.TrimSpace(state) != "invalid" {
			return false
		}
		drops = true
	}
	return drops
}

// refused reports whether netfilter ended the packet where every rule is seen
// and none of them did: it was conntrack, or NAT.
func (s *scene) refused() bool {
	end := s.end
	if end.Kind != path.Vanished || end.Rule != nil || !s.in.Sensors.Traced[end.NetNS] {
		return false
	}
	return end.Drop == nil || end.Drop.Reason == skbdrop.NetfilterDrop
}

// certainty is what the kernel's record of the drop makes of a statement that
// otherwise rests on counters.
func (s *scene) certainty() report.Confidence {
	if s.end.Drop != nil {
		return report.Observed
	}
	return report.Reconstructed
}

// conntrackFull: the packet opens a flow, and the table has no room for it
// (__nf_conntrack_alloc, net/netfilter/nf_conntrack_core.c). The kernel counts
// such a packet as drop.
func conntrackFull(s *scene) *cause {
	netns := s.end.NetNS
	before, now := s.before(netns), s.now(netns)
	if !s.refused() || before == nil || s.grew(netns, "conntrack_drop") == 0 {
		return nil
	}
	fill := before.Conntrack
	if now.Conntrack.Count > fill.Count {
		fill = now.Conntrack
	}
	if fill.Max == 0 || fill.Count < fill.Max {
		return nil
	}
	c := &cause{
		code: ConntrackFull, confidence: s.certainty(),
		summary: fmt.Sprintf("%s would open a flow, and the table of flows %s is full (%d of %d): new flows are dropped, those that are known go on.",
			s.what(), where(netns), fill.Count, fill.Max),
		evidence: []string{
			s.fact("conntrack", netns, "nf_conntrack_count = %d, nf_conntrack_max = %d", fill.Count, fill.Max),
			s.fact("counter", netns, "conntrack drop + %d", s.grew(netns, "conntrack_drop")),
		},
	}
	// The limit is one for all namespaces, and can be written in the first only.
	if line, ok := s.command(topology.HostName, "sysctl -w net.netfilter.nf_conntrack_max=%d", 2*fill.Max); ok {
		c.advice = "Find out what opens so many flows (conntrack -L), or make the table larger; its limit is set for all namespaces on the machine itself:"
		c.fix = []string{line}
	}
	return c
}

// conntrackRace: two first packets of one flow were under way at once. One of
// them entered the flow into the table, and the other was dropped when it was to
// do the same (__nf_conntrack_confirm, net/netfilter/nf_conntrack_core.c).
func conntrackRace(s *scene) *cause {
	netns := s.end.NetNS
	if !s.refused() || len(s.end.Rival) == 0 || s.grew(netns, "conntrack_insert_failed") == 0 {
		return nil
	}
	c := &cause{
		code: ConntrackRace, confidence: s.certainty(),
		summary: fmt.Sprintf("%s and another packet of the same flow were both the first of it %s: conntrack entered the flow for the other one, and dropped this one.",
			s.what(), where(netns)),
		evidence: append([]string{s.fact("counter", netns, "conntrack insert_failed + %d", s.grew(netns, "conntrack_insert_failed"))}, s.end.Rival...),
		advice:   "Send them one after the other, or from a port each (resolv.conf: \"options single-request-reopen\"); where no translation is needed, exempt the flow from tracking.",
	}
	return c
}

// portsExhausted: NAT found no address and port under which the flow would not
// be taken for another one, and so it could not be entered into the table.
func portsExhausted(s *scene) *cause {
	netns := s.end.NetNS
	if !s.refused() || s.end.Tracked || len(s.end.Rival) > 0 || s.grew(netns, "conntrack_insert_failed") == 0 {
		return nil
	}
	rule := s.translating(netns)
	if rule == nil {
		return nil
	}
	return &cause{
		code: KernelDrop, confidence: s.certainty(), mechanism: "conntrack could not enter the flow into its table (insert_failed)",
		summary: fmt.Sprintf("%s was dropped %s by connection tracking, which could not enter its flow into the table: NAT found no address and port for it that no other flow has.",
			s.what(), where(netns)),
		evidence: append([]string{s.fact("counter", netns, "conntrack insert_failed + %d", s.grew(netns, "conntrack_insert_failed"))}, rule.Evidence...),
	}
}

// translating is the step of the rule that was to translate the packet's source
// when that is where it was lost.
func (s *scene) translating(netns string) *report.Step {
	hops := s.path.Hops
	if len(hops) == 0 || hops[len(hops)-1].NetNS != netns {
		return nil
	}
	steps := hops[len(hops)-1].Steps
	for i := range steps {
		if steps[i].Hook != string(ruletrace.Postrouting) || steps[i].Rule == nil {
			continue
		}
		rule := ruletrace.Rule{Backend: ruletrace.Backend(steps[i].Rule.Backend), Text: steps[i].Rule.Text}
		if _, translates := rule.Translation(); translates {
			return &steps[i]
		}
	}
	return nil
}
