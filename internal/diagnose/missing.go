package diagnose

import (
	"fmt"
	"time"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// Missing is data of the far end that the source of a connection waits for in
// vain, and that nobody saw on its way.
type Missing struct {
	// Bytes are missing before those that came from behind them in the stream; 0
	// when that is not known.
	Bytes int
	// MSS is the largest segment that the source asked the far end for; 0 when it
	// did not.
	MSS int
	// Largest is the longest packet of the far end's with data that came, with its
	// IP header; 0 when none came. Since is for how long packets came when the first
	// byte was missing already.
	Largest int
	Since   time.Duration
}

// starved turns the verdict on a connection that was made into one on the data of
// the far end that does not come.
func (d *Diagnosis) starved(in *Input) {
	m, v := in.Missing, &d.Verdict
	v.Outcome, v.Leg, v.Code, v.Confidence, v.Elapsed = report.Lost, "reply", DataLost, report.Observed, 0
	what := "data"
	if m.Bytes > 0 {
		what = fmt.Sprintf("%d bytes", m.Bytes)
	}
	v.Summary = fmt.Sprintf("The connection was made, and then %s of %s did not come: what stands behind in the stream arrived, and %s acknowledged no more than what is before it.",
		what, in.Probe.Tuple.Destination(), in.Probe.NetNS)
	s := &scene{in: in, leg: "reply", path: &in.Path.Reply, end: &in.Path.Reply.End, seen: *v}
	if c := s.fullSizeMissing(); c != nil {
		d.take(c)
		d.Evidence = append(d.Evidence, s.facts...)
	}
}

// persistent is how long data has to be missing, while other packets come, before
// it is more than the loss that TCP repeats its data for.
const persistent = time.Second

// timestampOption is what the usual option takes of each segment (RFC 7323).
const timestampOption = 12

// fullSizeMissing: at least one full-size segment is missing, none of that size
// ever came, and smaller packets came all the time. That the way of the far end's
// packets carries none of that size, and that it is not told, is concluded.
func (s *scene) fullSizeMissing() *cause {
	m, first := s.in.Missing, s.in.Path.Reply.First
	full := m.MSS - timestampOption
	size := m.MSS + path.Overhead(s.in.Probe.Tuple)
	if m.MSS == 0 || m.Bytes < full || m.Largest == 0 || m.Largest >= full || size <= safe || m.Since < persistent || first == nil {
		return nil
	}
	c := &cause{
		code: MTUBlackhole, confidence: report.Reconstructed, outcome: report.Lost, netns: first.Point.NetNS, iface: first.Point.Interface,
		mechanism: fmt.Sprintf("lost before %s/%s, by size", first.Point.NetNS, first.Point.Interface),
		summary: fmt.Sprintf("%s %s asks for segments of up to %d bytes, packets of %d, and of that size none came, while packets of up to %d bytes did, from behind what is missing. So the way from there carries no packets of that size, and the ICMP error that would say so does not reach %s.",
			s.seen.Summary, subject(s.in.Probe.NetNS), m.MSS, size, m.Largest, s.in.Probe.Tuple.Destination()),
	}
	clamped := safe
	ns := s.now(first.Point.NetNS)
	if link := ns.Link(first.Point.Interface); link != nil && link.MTU > 0 && link.MTU < size {
		c.summary += fmt.Sprintf(" The MTU of %s, by which its packets come to %s, is %d.", link.Name, the(ns.Name), link.MTU)
		c.evidence = append(c.evidence, s.fact("link", ns.Name, "%s: mtu %d", link.Name, link.MTU))
		clamped = 0
	}
	if ns != nil && ns.Name == topology.HostName {
		c.advice, c.fix = s.clamp(ns.Name, clamped)
	}
	return c
}
