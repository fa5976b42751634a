package diagnose

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// causes are the configuration causes in order of precedence, the most specific
// first: the first that is proven is the verdict's. Each looks at a leg that
// did not end well and returns nil unless its own signature is there. A
// signature is proven only by what the sensors saw and the snapshots hold; a
// cause that merely might be one returns nil.
var causes = []func(*scene) *cause{
	linkDown, // link.go
	portBlocked,
	tunnelDown, // tunnel.go
	tunnelMismatch,
	tunnelNoRemote,
	tunnelUnroutable,
	xdpDropped, // hooks.go
	ingressFiltered,
	tentative,
	addressOnPort,
	macvlanIsolated, // macvlan.go
	staleNeighbour,  // misdelivered.go
	wrongPort,
	mtuBlackhole, // mtu.go
	mtuExceeded,
	subnetOverlap,  // overlap.go
	vpnTakes,       // vpn.go
	routeGone,      // overlap.go
	sentBack,       // bounce.go
	rpFilter,       // rpfilter.go
	oneWay,         // oneway.go
	untracked,      // untracked.go
	hairpinMissing, // hairpin.go
	astray,
	answeredFromElsewhere, // answer.go
	conntrackFull,         // conntrack.go
	conntrackRace,
	portsExhausted,
	conntrackStale, // stale.go
	conntrackInvalid,
	shadowedAccept, // shadowed.go
	routingLoop,    // ttl.go
	ttlExpired,
	routeDeadEnd,  // route.go
	martian,       // martian.go
	forwardingOff, // forwarding.go
	dnatNoTarget,  // dnat.go
	natMissing,    // nat.go
	natWrongAddress,
	neighbourDead, // link.go
	routeMissing,  // route.go
	answerUnroutable,
	sourceUnknown,
	pingsIgnored,
	noListener,    // dnat.go
	filterCounted, // hooks.go
}

// ofData are the causes of data that is not acknowledged although the connection
// was made: what would have kept the connection from being made is not why.
var ofData = []func(*scene) *cause{mtuBlackhole, mtuExceeded, conntrackInvalid, shadowedAccept}

// cause is why a leg ended. What is empty stays as the sensors' verdict has it.
type cause struct {
	code string
	// summary says it in one or two sentences; mechanism where and how the
	// kernel does it, empty for what the drop or rule says.
	summary, mechanism string
	outcome            report.Outcome
	confidence         report.Confidence
	netns, iface       string
	// leg is the one that the cause is on, when an error about it was lost on the
	// other.
	leg string
	// byRule says that a rule dropped the packet because of this cause: the rule
	// is not to be changed.
	byRule bool
	// evidence are further ids beside those of the leg's end, from scene.fact.
	evidence []string
	// fix are commands that can be pasted, each with the words that enter its
	// namespace (scene.command); advice is the sentence before them. A cause
	// that no command mends has advice only, or neither.
	advice string
	fix    []string
	// severity is that of the finding; empty is "error".
	severity string
	// more are findings beside the cause: what mends it for good where fix does
	// so only for now, and what else may be meant. They rest on its evidence.
	more []report.Finding
}

// scene is a leg that did not end well, with all that a cause is proven by.
type scene struct {
	in *Input
	// leg is "request" or "reply", path that leg and end its end.
	leg  string
	path *path.Leg
	end  *path.End
	// seen is what the sensors' verdict says before its cause is looked for.
	seen report.Verdict

	facts []report.Evidence
}

// what names the packet at the beginning of a sentence.
func (s *scene) what() string {
	if s.leg == "reply" {
		return "The answer"
	}
	return "The request"
}

// before is a namespace as it was before the probe, now as it was after it (as
// before when it was not read again). Both may be nil.
func (s *scene) before(netns string) *topology.Namespace { return s.in.Topology.Namespace(netns) }

func (s *scene) now(netns string) *topology.Namespace {
	if s.in.After != nil {
		if ns := s.in.After.Namespace(netns); ns != nil {
			return ns
		}
	}
	return s.before(netns)
}

// latest is the snapshot of all namespaces as they are now.
func (s *scene) latest() *topology.Snapshot {
	if s.in.After != nil {
		return s.in.After
	}
	return s.in.Topology
}

// grew is by how much a counter of a namespace grew while the probe was under
// way: other packets count too. It is 0 when it was not read twice.
func (s *scene) grew(netns, counter string) uint64 {
	before, now := s.before(netns), s.now(netns)
	if before == nil || now == nil || now.Counters[counter] < before.Counters[counter] {
		return 0
	}
	return now.Counters[counter] - before.Counters[counter]
}

// fact adds evidence that no sensor saw happen: a route, a link's state, a
// switch, a counter. It returns its id; the same fact has one id.
func (s *scene) fact(kind, netns, format string, values ...any) string {
	text := fmt.Sprintf(format, values...)
	i := slices.IndexFunc(s.facts, func(e report.Evidence) bool { return e.Kind == kind && e.NetNS == netns && e.Text == text })
	if i < 0 {
		i = len(s.facts)
		s.facts = append(s.facts, report.Evidence{ID: fmt.Sprintf("fact-%d", i+1), Kind: kind, NetNS: netns, Text: text})
	}
	return s.facts[i].ID
}

// command is a line that runs in a namespace; ok is false when pathtrace does
// not know how to enter it, and so must not propose it.
func (s *scene) command(netns, format string, values ...any) (line string, ok bool) {
	if netns != topology.HostName && s.in.Enter[netns] == "" {
		return "", false
	}
	return enter(s.in, netns) + fmt.Sprintf(format, values...), true
}

// explain looks for the cause of a verdict and, if one is proven, makes it the
// verdict's.
func (d *Diagnosis) explain(in *Input) {
	v := &d.Verdict
	if v.Outcome == report.Replied || v.Outcome == report.Delivered || v.Code == Inconclusive {
		return
	}
	s := &scene{in: in, leg: "request", path: &in.Path.Request, seen: *v, facts: in.Facts}
	if v.Leg == "reply" {
		s.leg, s.path = "reply", &in.Path.Reply
	}
	s.end = &s.path.End
	examiners := causes
	if in.Probe.Segment != nil {
		examiners = ofData
	}
	for _, examine := range examiners {
		if c := examine(s); c != nil {
			d.take(c)
			break
		}
	}
	d.Findings = append(d.Findings, s.ahead(v)...)
	d.Findings = append(d.Findings, s.engineSays(v)...)
	d.Evidence = s.facts
}

// take makes a cause the verdict's.
func (d *Diagnosis) take(c *cause) {
	v := &d.Verdict
	v.Code, v.Summary = c.code, c.summary
	for _, set := range []struct {
		to   *string
		text string
	}{{&v.Mechanism, c.mechanism}, {(*string)(&v.Outcome), string(c.outcome)}, {(*string)(&v.Confidence), string(c.confidence)}, {&v.NetNS, c.netns}, {&v.Interface, c.iface}, {&v.Leg, c.leg}} {
		if set.text != "" {
			*set.to = set.text
		}
	}
	if c.netns != "" && c.iface == "" {
		v.Interface = ""
	}
	if c.byRule {
		v.Rule, v.Hook = nil, ""
	}
	v.Evidence = slices.Clone(v.Evidence)
	for _, id := range c.evidence {
		if !slices.Contains(v.Evidence, id) {
			v.Evidence = append(v.Evidence, id)
		}
	}
	severity := cmp.Or(c.severity, "error")
	if c.code == NoReply { // nothing is proven to be wrong
		severity = "warning"
	}
	if c.advice != "" {
		d.Findings = append(d.Findings, report.Finding{Code: c.code, Severity: severity, Summary: c.advice, Fix: c.fix})
	}
	d.Findings = append(d.Findings, c.more...)
	for i := range d.Findings {
		f := &d.Findings[i]
		f.Evidence = v.Evidence
		if f.Fix == nil {
			f.Fix = []string{}
		}
	}
}
