package diagnose

import (
	"fmt"
	"net/netip"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
)

// unexpected judges an answer that reached the prober with a source from which
// it expects none. What is connected to the target does not take it.
func unexpected(in *Input) report.Verdict {
	end := &in.Path.Reply.End
	return report.Verdict{
		Outcome: report.Dropped, Leg: "reply", Code: AnsweredFrom, Confidence: report.Observed,
		NetNS: end.NetNS, Interface: end.Interface, Evidence: end.Evidence,
		Summary: fmt.Sprintf("The answer reached %s, but as one from %s: %s expects it from %s, and a connection takes no other.",
			the(end.NetNS), end.Tuple.Source(), the(end.NetNS), in.Probe.Tuple.Destination()),
	}
}

// answeredFromElsewhere: the target answered from another address than the one
// that the request was sent to. No conntrack entry expects that answer, so it
// is not translated back, and no socket takes it.
func answeredFromElsewhere(s *scene) *cause {
	a := &s.in.Path.Answer
	first := s.path.First
	if s.leg != "reply" || !a.Expected.IsValid() || first == nil {
		return nil
	}
	from := first.Header.Tuple.Source()
	c := &cause{
		code: AnsweredFrom, outcome: report.Dropped, confidence: report.Observed, evidence: s.path.Hops[0].Evidence,
		summary: fmt.Sprintf("The request was sent to %s, and the answer came from %s, seen first %s at %s.", expectedWords(a.Expected), from, where(first.Point.NetNS), first.Point.Interface),
		advice:  fmt.Sprintf("The target has to answer from the address that it was asked at: what sends or translates its answers gives them the source %s.", first.Header.Tuple.Src),
	}
	switch {
	case s.end.Kind == path.Delivered && s.end.NetNS == s.in.Probe.NetNS:
		c.summary += fmt.Sprintf(" It reached %s, where no connection expects it.", the(s.end.NetNS))
	case s.end.Kind == path.Delivered:
		c.summary += fmt.Sprintf(" %s knows no flow that expects it, translated nothing back and took it itself.", subject(s.end.NetNS))
	case s.end.Kind == path.Dropped:
		c.byRule = true
		c.summary += fmt.Sprintf(" A rule of chain %s %s dropped it.", chainOf(s.end.Rule), where(s.end.NetNS))
	case s.end.NetNS != "":
		c.summary += fmt.Sprintf(" It ended in %s.", the(s.end.NetNS))
	}
	return c
}

func expectedWords(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// pingsIgnored: the request reached the target, which is set to answer no pings.
// The kernel throws an ICMPv6 one away without a reason (icmpv6_rcv,
// net/ipv6/icmp.c).
func pingsIgnored(s *scene) *cause {
	t := s.end.Tuple
	ns := s.now(s.end.NetNS)
	arrived := s.end.Kind == path.Delivered || s.end.Kind == path.Vanished && s.end.Drop != nil && s.end.Drop.Function == "icmpv6_rcv"
	if s.leg != "request" || !arrived || s.in.Path.Answer.Kind != path.None || !t.Proto.IsICMP() || ns.Local(t.Dst) == nil {
		return nil
	}
	ignored, key := ns.EchoIgnored.IPv4, "net.ipv4.icmp_echo_ignore_all"
	if t.Dst.Is6() {
		ignored, key = ns.EchoIgnored.IPv6, "net.ipv6.icmp.echo_ignore_all"
	}
	if !ignored {
		return nil
	}
	c := &cause{
		code: NoReply, outcome: report.Lost, confidence: report.Reconstructed, evidence: []string{s.fact("setting", ns.Name, "%s = 1", key)},
		summary: fmt.Sprintf("The request reached %s at %s, and %s is set to answer no pings (%s = 1). That says nothing about other traffic.", the(ns.Name), s.end.Interface, the(ns.Name), key),
	}
	if line, ok := s.command(ns.Name, "sysctl -w %s=0", key); ok {
		c.advice, c.fix = "If it is to answer pings:", []string{line}
	}
	return c
}
