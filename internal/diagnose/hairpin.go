package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// hairpinMissing: a rule sent the request back to the network that it came
// from, and something that such a turn needs is missing: the bridge port does
// not send a frame out where it came in; or the source was left as it is, so
// that the sender gets a packet from itself, or the answer goes straight to the
// sender and passes the translator by.
func hairpinMissing(s *scene) *cause {
	for _, t := range s.destinations() {
		if t.Leg != "request" || t.Field != "destination" || t.NetNS == s.in.Probe.NetNS {
			continue
		}
		for _, examine := range []func(*report.Translation) *cause{s.portRefuses, s.ownSource, s.shortWay} {
			if c := examine(&t); c != nil {
				c.code = HairpinMissing
				c.evidence = slices.Concat(t.Evidence, c.evidence)
				return c
			}
		}
	}
	return nil
}

// destinations are the translations of the request's destination, also one that
// a rule was met for and whose result was not seen.
func (s *scene) destinations() []report.Translation {
	all := slices.Clone(s.in.Path.Translations)
	for _, h := range s.in.Path.Request.Hops {
		for _, step := range h.Steps {
			if step.Kind != "rule" || step.Rule == nil {
				continue
			}
			if to, ok := (ruletrace.Rule{Text: step.Rule.Text}).Destination(); ok {
				all = append(all, report.Translation{
					Kind: "dnat", NetNS: h.NetNS, Hook: step.Hook, Leg: "request", Field: "destination",
					From: h.Tuple.Destination, To: expectedWords(to), Rule: step.Rule, Confidence: report.Reconstructed, Evidence: step.Evidence,
				})
			}
		}
	}
	return all
}

// turned begins the sentence about a request that was sent back.
func turned(t *report.Translation) string {
	return fmt.Sprintf("The request for %s was sent back to %s %s (%s)", t.From, t.To, where(t.NetNS), ruleWords(t.Rule))
}

// portRefuses: br_netfilter translated the destination of a bridged packet, so
// that it has to leave by the port that it came from, and the port is not in
// hairpin mode (should_deliver, net/bridge/br_forward.c).
func (s *scene) portRefuses(t *report.Translation) *cause {
	if s.leg != "request" || s.end.Kind != path.Vanished || s.end.NetNS != t.NetNS {
		return nil
	}
	at := slices.IndexFunc(s.path.Hops, func(h report.Hop) bool { return h.NetNS == t.NetNS && h.Direction == "ingress" && h.Bridge != "" })
	if at < 0 {
		return nil
	}
	hop := &s.path.Hops[at]
	ns := s.now(t.NetNS)
	port := ns.Link(hop.Interface)
	if port == nil || port.Port == nil || port.Port.Hairpin || s.end.Interface != port.Name && s.end.Interface != port.Bridge || !s.behind(port, addressOf(t.To), addressOf(hop.Tuple.Source)) {
		return nil
	}
	if d := s.end.Drop; d != nil && d.Function != "br_handle_frame_finish" && d.Function != "br_forward" {
		return nil
	}
	c := &cause{
		confidence: report.Reconstructed, netns: t.NetNS, iface: port.Name,
		summary:  turned(t) + fmt.Sprintf(", which is behind the port that it came from, and %s does not send out what it received (hairpin mode is off).", port.Name),
		evidence: []string{s.fact("link", t.NetNS, "%s, port of %s: hairpin off", port.Name, port.Bridge)},
		advice:   fmt.Sprintf("Let %s send frames back where they came from:", port.Name),
	}
	if line, ok := s.command(t.NetNS, "bridge link set dev %s hairpin on", port.Name); ok && plainName.MatchString(port.Name) {
		c.fix = []string{line}
	}
	return c
}

// behind reports whether an address is behind a bridge port by which a packet
// with that source came.
func (s *scene) behind(port *topology.Link, target, source netip.Addr) bool {
	return target == source || port.Peer != nil && s.now(port.Peer.NetNS).Local(target) != nil
}

// ownSource: the request came back to its sender with the sender's own source,
// which IPv4 refuses (IP_LOCAL_SOURCE, __fib_validate_source in
// net/ipv4/fib_frontend.c).
func (s *scene) ownSource(t *report.Translation) *cause {
	lost := s.end.Tuple
	if s.leg != "request" || s.in.Path.Answer.Kind != path.None || s.end.NetNS != s.in.Probe.NetNS || s.end.Kind == path.Dropped || !lost.Src.Is4() || lost.Dst != addressOf(t.To) || s.now(s.end.NetNS).Local(lost.Src) == nil {
		return nil
	}
	c := &cause{
		confidence: report.Reconstructed, outcome: report.Dropped,
		summary: turned(t) + fmt.Sprintf(" with its source unchanged, so that %s got a packet from its own address %s, which it does not take.", the(s.end.NetNS), lost.Src),
	}
	if s.end.Drop != nil {
		c.confidence = report.Observed
	}
	c.advice, c.fix = s.masqueradeTurn(t, lost)
	return c
}

// shortWay: the answer reached the sender with the source that only the
// translator knows, because it did not pass its translation.
func (s *scene) shortWay(t *report.Translation) *cause {
	answer := s.end.Tuple
	routed := func(h report.Hop) bool { return h.NetNS == t.NetNS && h.Bridge == "" }
	if s.leg != "reply" || !s.in.Path.Answer.Unexpected || answer.Source() != t.To || slices.ContainsFunc(s.path.Hops, routed) {
		return nil
	}
	c := &cause{
		confidence: report.Observed, outcome: report.Dropped, byRule: s.end.Kind == path.Dropped,
		summary: turned(t) + fmt.Sprintf(" with its source unchanged. So the answer took the short way to %s, past that translation, and came from %s in place of %s: no connection there takes it.",
			the(s.end.NetNS), t.To, t.From),
	}
	if bridge := s.bridgedBy(t.NetNS); bridge != "" {
		c.evidence = []string{s.fact("setting", t.NetNS, "packets from port to port of %s do not pass the rules (net.bridge.bridge-nf-call-%s = 0)", bridge, map[bool]string{true: "iptables", false: "ip6tables"}[answer.Src.Is4()])}
	}
	c.advice, c.fix = s.masqueradeTurn(t, answer.Inverse())
	return c
}

// bridgedBy is the bridge of a namespace that passed the answer from port to
// port without handing it to the rules; empty when none did.
func (s *scene) bridgedBy(netns string) string {
	ns := s.now(netns)
	for i := range s.path.Hops {
		h := &s.path.Hops[i]
		on := ns != nil && ns.BridgeNF.IPv4
		if s.end.Tuple.Src.Is6() {
			on = ns != nil && ns.BridgeNF.IPv6
		}
		if h.NetNS == netns && h.Bridge != "" && !on {
			return h.Bridge
		}
	}
	return ""
}

// masqueradeTurn is what translates the source of requests that are sent back
// into their own network, so that answers pass the translator.
func (s *scene) masqueradeTurn(t *report.Translation, turned packet.Tuple) (advice string, fix []string) {
	network := netip.PrefixFrom(turned.Src, turned.Src.BitLen())
	if route := s.now(t.NetNS).Lookup(topology.Query{Target: turned.Src}).Route; route != nil && route.Type == "unicast" && route.Destination.Bits() > 0 {
		network = route.Destination
	}
	family := addressFamily(turned.Src)
	match, ports := nftProto(turned, "request"), ""
	if turned.DstPort != 0 {
		ports = fmt.Sprintf(" -p %s -m %s --dport %d", turned.Proto, turned.Proto, turned.DstPort)
	}
	line := fmt.Sprintf("-t nat -%%s POSTROUTING -s %s -d %s%s -j MASQUERADE", network, turned.Dst, ports)
	rule := fmt.Sprintf("%s saddr %s %s daddr %s %s masquerade", family, network, family, turned.Dst, match)
	advice = fmt.Sprintf("%s has to translate the source, too, of what it sends back into %s:", subject(t.NetNS), network)
	return advice, s.translate(t.NetNS, family, ruletrace.Postrouting, line, rule)
}
