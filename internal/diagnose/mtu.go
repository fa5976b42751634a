package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// narrow is the place where a packet was too big for the way on.
type narrow struct {
	leg string
	// ns is its namespace, nil when that cannot be seen; link is the interface
	// that the packet did not fit, nil when it is not known.
	ns   *topology.Namespace
	link *topology.Link
	// size is the packet's length with its IP header, mtu the largest that fits,
	// 0 when it is not known.
	size, mtu int
	// route is what set the MTU where that is not the link.
	route *topology.Route
	// silent says that the packet ended below IP, where no error is made.
	silent bool
	// counter is the one of the kernel's that says so in place of a drop.
	counter    string
	confidence report.Confidence
	evidence   []string
}

// mtuExceeded: the request was too big for the next link, and the sender knows:
// its own kernel refused to send it, or an ICMP error came back.
func mtuExceeded(s *scene) *cause {
	if s.leg == "reply" {
		return s.answerTooBig()
	}
	n := s.refusedHere()
	here := n != nil
	if !here && s.heard() {
		n = s.narrow("request")
	}
	if n == nil {
		return nil
	}
	c := n.cause(s)
	c.code, c.outcome = MTUExceeded, report.Rejected
	c.summary = fmt.Sprintf("%s, and %s told the sender so (%s).", n.words(s), s.in.Path.Answer.By, s.in.Path.Answer.Text)
	switch {
	case here:
		c.outcome = report.Unsent
		c.mechanism = "the kernel refused to send it: " + s.in.SendError.Error()
		c.summary = n.words(s) + ", and it may not be fragmented: nothing was sent."
	case s.in.Probe.Segment != nil:
		c.summary += fmt.Sprintf(" All the same nothing smaller was acknowledged within %s.", s.in.Waited)
	}
	c.advice, c.fix = n.widen(s)
	if c.fix == nil && n.mtu > 0 {
		c.advice = fmt.Sprintf("A packet of at most %d bytes fits%s. Programs that heed the error send no larger ones from then on.", n.mtu, dataOf(s, n.mtu))
	}
	return c
}

// answerTooBig: the answer came back, and was too big for a link on the way to
// the source. What its sender was told, out there, is not known.
func (s *scene) answerTooBig() *cause {
	if s.in.Path.Answer.Kind != path.Reply {
		return nil
	}
	n := s.narrow("reply")
	if n == nil {
		return nil
	}
	c := n.cause(s)
	c.code, c.summary = MTUExceeded, n.words(s)+". Its sender may send a smaller one the next time, if the ICMP error about it gets there."
	if n.silent {
		said, _ := s.silence(n)
		c.code, c.summary = MTUBlackhole, n.words(s)+". "+said
	}
	c.advice, c.fix = n.widen(s)
	if c.fix == nil && n.mtu > 0 {
		c.advice = fmt.Sprintf("A packet of at most %d bytes fits%s.", n.mtu, dataOf(s, n.mtu))
	}
	return c
}

// refusedHere is the sender's own interface where its kernel refused the packet
// as too big (EMSGSIZE); otherwise nil.
func (s *scene) refusedHere() *narrow {
	p := &s.in.Probe
	if s.end.Kind != path.Unseen || p.Length == 0 || !s.in.SendTooBig {
		return nil
	}
	n := limit(s.now(p.NetNS), topology.Query{Source: p.Tuple.Src, Target: s.in.Topology.Target, Egress: s.in.Topology.Zone})
	if n == nil || n.mtu >= p.Length {
		return nil
	}
	n.leg, n.size, n.confidence = "request", p.Length, report.Reconstructed
	s.limits(n)
	return n
}

// mtuBlackhole: the request was too big for the way on, and the sender was not
// told: the ICMP error was lost or was not made.
func mtuBlackhole(s *scene) *cause {
	a := s.in.Path.Answer.Kind
	if a == path.Reply || a == path.Reset || s.heard() || s.refusedHere() != nil || !s.in.Sensors.Captured[s.in.Probe.NetNS] {
		return nil
	}
	n := s.narrow("request")
	if n == nil {
		return s.narrowBeyond()
	}
	c := n.cause(s)
	c.code, c.leg, c.outcome, c.byRule = MTUBlackhole, "request", report.Dropped, true
	said, evidence := s.silence(n)
	c.summary = fmt.Sprintf("%s. %s", n.words(s), said)
	if sending := s.in.Path.Sending; sending != nil && sending.Passed > 0 {
		c.summary += fmt.Sprintf(" One of %d bytes, from behind it in the stream, arrived.", sending.Passed)
	}
	c.evidence = append(c.evidence, evidence...)
	c.advice, c.fix = s.letThrough()
	wide, widen := n.widen(s)
	switch {
	case c.fix == nil:
		c.advice, c.fix = wide, widen
	case widen != nil:
		c.more = []report.Finding{{Code: c.code, Severity: "error", Summary: wide, Fix: widen}}
	}
	if c.fix == nil && n.ns != nil {
		c.advice, c.fix = s.clamp(n.ns.Name, 0)
	}
	if c.advice == "" && n.mtu > 0 {
		c.advice = fmt.Sprintf("Until the error gets through, send no packet of more than %d bytes%s.", n.mtu, dataOf(s, n.mtu))
	}
	return c
}

// heard reports whether an ICMP error about the request's size reached the sender.
func (s *scene) heard() bool {
	p := s.in.Path
	return p.Answer.TooBig && p.Reply.End.Kind == path.Delivered && p.Reply.End.NetNS == s.in.Probe.NetNS
}

// silence says why the sender was not told, with the evidence for that.
func (s *scene) silence(n *narrow) (string, []string) {
	a, end := &s.in.Path.Answer, &s.in.Path.Reply.End
	switch {
	case n.silent:
		return "That is below IP, where nobody makes an ICMP error: the sender was not told.", nil
	case !a.TooBig:
		return "No ICMP error about it came to the sender.", nil
	case end.Kind == path.Dropped:
		word := "a rule"
		if end.Policy {
			word = "the policy"
		}
		return fmt.Sprintf("The ICMP error about it (%s) was dropped %s%s by %s of chain %s: the sender was not told.",
			a.Text, where(end.NetNS), hooked(end), word, chainOf(end.Rule)), end.Evidence
	case end.NetNS != "":
		return fmt.Sprintf("The ICMP error about it (%s) was lost: it was last seen %s. The sender was not told.", a.Text, where(end.NetNS)), end.Evidence
	}
	return fmt.Sprintf("The ICMP error about it (%s) did not come to the sender.", a.Text), nil
}

// narrow finds the place where the packet of a leg was too big, as far as that
// is visible or an ICMP error tells; nil when its size is not why it ended.
func (s *scene) narrow(leg string) *narrow {
	r := *s
	r.leg, r.path = leg, &s.in.Path.Request
	if leg == "reply" {
		r.path = &s.in.Path.Reply
	}
	if r.path.Last == nil {
		return nil
	}
	r.end = &r.path.End
	defer func() { s.facts = r.facts }()
	h := &r.path.Last.Header
	n := r.tooBigToRoute(h)
	if n == nil {
		n = r.tooBigToForward(h)
	}
	if a := &s.in.Path.Answer; n == nil && a.TooBig && a.MTU > 0 && a.MTU < path.Length(h) {
		// Made where nobody can look.
		n = &narrow{mtu: a.MTU, confidence: report.Observed}
	}
	if n != nil {
		n.leg, n.size = leg, path.Length(h)
	}
	return n
}

// fragFails are the counters that grow with each packet that is too big to be
// forwarded and may not be fragmented (ip_forward, ip6_forward).
func fragFails(h *packet.Header) string {
	if h.Version == 6 {
		return "Ip6InTooBigErrors"
	}
	return "IpFragFails"
}

// tooBigToRoute: the packet came into a namespace, and was too big for the
// interface that it was routed to: the kernel says so, by its drop, by the ICMP
// error that it made, or by its counter together with the MTU.
func (s *scene) tooBigToRoute(h *packet.Header) *narrow {
	ns, d := s.now(s.end.NetNS), s.end.Drop
	if s.end.Kind != path.Vanished || ns == nil || s.end.Bridged || !s.end.Parked && d == nil {
		return nil
	}
	n := limit(ns, s.query(ns))
	a, counter := &s.in.Path.Answer, fragFails(h)
	said := d != nil && d.Reason == "PKT_TOO_BIG" || a.TooBig && a.NetNS == ns.Name
	if said && (n == nil || n.mtu >= path.Length(h)) {
		return &narrow{ns: ns, mtu: a.MTU, confidence: report.Observed} // by something that is not looked at
	}
	if n == nil || n.mtu >= path.Length(h) || h.Version == 4 && !h.DontFragment {
		return nil
	}
	switch grown := s.grew(ns.Name, counter); {
	case said:
		n.confidence = report.Observed
	case (d == nil || d.Reason == skbdrop.NotSpecified) && grown > 0:
		n.confidence, n.counter = report.Reconstructed, counter
		n.evidence = append(n.evidence, s.fact("counter", ns.Name, "%s grew by %d", counter, grown))
	default:
		return nil
	}
	s.limits(n)
	return n
}

// vlanHeader is what a link lets pass beyond its MTU (VLAN_HLEN in
// __is_skb_forwardable, include/linux/netdevice.h).
const vlanHeader = 4

// tooBigToForward: the packet was sent to the other end of a cable, or to the
// port of a bridge, whose MTU is smaller: such a link drops it and tells nobody.
func (s *scene) tooBigToForward(h *packet.Header) *narrow {
	if d := s.end.Drop; s.end.Kind != path.Vanished || d != nil && d.Reason != skbdrop.NotSpecified && d.Reason != "PKT_TOO_BIG" {
		return nil
	}
	ns := s.now(s.end.NetNS)
	link := ns.Link(s.end.Interface)
	if link == nil {
		return nil
	}
	switch {
	case s.end.NextNetNS != "" && link.Peer != nil && link.Peer.NetNS == s.end.NextNetNS:
		ns = s.now(s.end.NextNetNS)
		link = ns.Link(link.Peer.Interface)
	case link.Kind == "bridge" && !s.end.Parked:
		link = s.portTo(ns, link.Name, s.end.Tuple.Dst)
	case s.end.Bridged:
		link = s.portTo(ns, link.Bridge, s.end.Tuple.Dst)
	default:
		return nil
	}
	if link == nil || link.MTU == 0 || link.MTU+vlanHeader >= path.Length(h) {
		return nil
	}
	n := &narrow{ns: ns, link: link, mtu: link.MTU, silent: true, confidence: report.Reconstructed}
	s.limits(n)
	return n
}

// portTo is the port of a bridge that leads to the visible owner of an address, or
// into the tunnel behind which the packet's receiver is.
func (s *scene) portTo(ns *topology.Namespace, bridge string, to netip.Addr) *topology.Link {
	for i := range ns.Links {
		l := &ns.Links[i]
		if l.Bridge == bridge && l.Peer != nil && s.now(l.Peer.NetNS).Local(to) != nil {
			return l
		}
	}
	for i := range ns.Links {
		l := &ns.Links[i]
		if l.Bridge == bridge && s.path.Last != nil && l.Tunnel.Towards(s.path.Last.Header.EtherDst.String()).IsValid() {
			return l
		}
	}
	return nil
}

// limit is how large a packet may be that a namespace sends on; nil when it is
// not known. A route's own MTU counts, also where it forwards (ip_dst_mtu_maybe_forward,
// include/net/ip.h).
func limit(ns *topology.Namespace, q topology.Query) *narrow {
	decision := ns.Lookup(q)
	hops := decision.NextHops()
	if len(hops) != 1 || decision.Undetermined {
		return nil
	}
	link := ns.Link(hops[0].Interface)
	if link == nil || link.MTU == 0 {
		return nil
	}
	n := &narrow{ns: ns, link: link, mtu: link.MTU}
	if m := decision.Route.MTU; m != 0 && m != link.MTU {
		n.mtu, n.route = m, decision.Route
	}
	return n
}

// limits adds the evidence for a place's MTU.
func (s *scene) limits(n *narrow) {
	if n.route != nil {
		n.evidence = append(n.evidence, s.fact("route", n.ns.Name, "%s", n.route.Text))
		return
	}
	n.evidence = append(n.evidence, s.fact("link", n.ns.Name, "%s: mtu %d", n.link.Name, n.link.MTU))
}

// words says what is too big for what.
func (n *narrow) words(s *scene) string {
	what := "The request"
	switch {
	case n.leg == "reply":
		what = "The answer"
	case s.in.Probe.Segment != nil:
		what = "The first segment that was not"
	}
	text := fmt.Sprintf("%s, a packet of %d bytes, is larger than the MTU", what, n.size)
	if n.mtu != 0 {
		text += fmt.Sprintf(" %d", n.mtu)
	}
	switch {
	case n.ns != nil && n.link == nil:
		return text + fmt.Sprintf(" that %s has for the way on", the(n.ns.Name))
	case n.ns == nil && s.in.Path.Answer.NetNS != "":
		return text + fmt.Sprintf(" that %s has for the way on", the(s.in.Path.Answer.NetNS))
	case n.ns == nil:
		return text + " of a link out of sight"
	case n.route != nil:
		return text + fmt.Sprintf(" of the route that %s has for it (%s)", the(n.ns.Name), n.route.Text)
	}
	text += fmt.Sprintf(" of %s %s", n.link.Name, where(n.ns.Name))
	if source := s.sourceMTU(); source > n.mtu && n.leg == "request" && n.ns.Name != s.in.Probe.NetNS {
		text += fmt.Sprintf(" (the sender's own is %d)", source)
	}
	return text
}

// sourceMTU is that of the interface by which the probe left its source, 0 when
// it is not known.
func (s *scene) sourceMTU() int {
	first := s.in.Path.Request.First
	if first == nil || first.Point.NetNS != s.in.Probe.NetNS {
		return 0
	}
	if link := s.now(first.Point.NetNS).Link(first.Point.Interface); link != nil {
		return link.MTU
	}
	return 0
}

// dataOf says how much data of a ping fits into a packet.
func dataOf(s *scene, mtu int) string {
	t := s.in.Probe.Tuple
	if !t.Proto.IsICMP() || mtu <= path.Overhead(t) {
		return ""
	}
	return fmt.Sprintf(" (--size %d)", mtu-path.Overhead(t))
}

// cause begins a cause that is at the place.
func (n *narrow) cause(s *scene) *cause {
	c := &cause{confidence: n.confidence, evidence: slices.Clone(n.evidence)}
	end := &s.in.Path.Request.End
	if n.leg == "reply" {
		end = &s.in.Path.Reply.End
	}
	if n.link != nil {
		c.netns, c.iface = n.ns.Name, n.link.Name
	} else if n.ns != nil {
		c.netns, c.iface = n.ns.Name, end.Interface
	}
	c.evidence = append(c.evidence, end.Evidence...)
	switch {
	case end.Drop != nil:
		c.mechanism = end.Drop.Mechanism()
	case n.silent:
		c.mechanism = fmt.Sprintf("vanished between %s/%s and %s", end.NetNS, end.Interface, end.Next)
	case n.counter != "":
		c.mechanism = n.counter + " grew"
	}
	return c
}

// widen proposes the MTU that the other end of the link has already, when the
// packet fits that: the two ends of a cable are to agree.
func (n *narrow) widen(s *scene) (string, []string) {
	if n.link != nil && n.link.Tunnel != nil {
		return n.makeRoom(s)
	}
	if n.link == nil || n.route != nil || n.link.Peer == nil {
		return "", nil
	}
	far := s.now(n.link.Peer.NetNS).Link(n.link.Peer.Interface)
	if far == nil || far.MTU < n.size {
		return "", nil
	}
	fix := s.commands(n.ns.Name, []string{n.link.Name}, fmt.Sprintf("ip link set dev %s mtu %d", n.link.Name, far.MTU))
	if fix == nil {
		return "", nil
	}
	return fmt.Sprintf("The other end of %s, %s of %s, has an MTU of %d. Both ends are to have the same:", n.link.Name, far.Name, the(n.link.Peer.NetNS), far.MTU), fix
}

// makeRoom has the source send what fits into a tunnel.
func (n *narrow) makeRoom(s *scene) (string, []string) {
	source := s.now(s.in.Topology.Source)
	hops := source.Lookup(topology.Query{Source: s.in.Probe.Tuple.Src, Target: s.in.Topology.Target}).NextHops()
	if len(hops) != 1 || n.leg != "request" {
		return "", nil
	}
	fix := s.commands(source.Name, []string{hops[0].Interface}, fmt.Sprintf("ip link set dev %s mtu %d", hops[0].Interface, n.mtu))
	if fix == nil {
		return "", nil
	}
	return "A tunnel carries less than the network below it. What sends into it has to know, and so have all others of this network:", fix
}

// letThrough is the command that accepts the ICMP error before the rule that
// dropped it; nil when no rule did.
func (s *scene) letThrough() (string, []string) {
	end := &s.in.Path.Reply.End
	r := end.Rule
	if !s.in.Path.Answer.TooBig || end.Kind != path.Dropped || !nameable(r) {
		return "", nil
	}
	line, ok := s.command(end.NetNS, "%s", acceptTooBig(r, end.Policy, end.Tuple.Src.Is6()))
	if !ok {
		return "", nil
	}
	return "Path MTU discovery needs this ICMP error (RFC 4890, RFC 2979): accept it before that rule:", []string{line}
}

// acceptTooBig is the command that accepts ICMP errors about packets that are
// too big before the rule, or at the end of the chain whose policy dropped one.
func acceptTooBig(r *report.Rule, policy, ipv6 bool) string {
	if r.Backend == string(ruletrace.NFT) {
		match := "icmp type destination-unreachable icmp code frag-needed accept"
		if ipv6 {
			match = "icmpv6 type packet-too-big accept"
		}
		if policy || r.Handle == 0 {
			return fmt.Sprintf("nft add rule %s %s %s %s", r.Family, r.Table, r.Chain, match)
		}
		return fmt.Sprintf("nft insert rule %s %s %s handle %d %s", r.Family, r.Table, r.Chain, r.Handle, match)
	}
	match := "-p icmp -m icmp --icmp-type fragmentation-needed -j ACCEPT"
	if ipv6 {
		match = "-p ipv6-icmp -m icmp6 --icmpv6-type packet-too-big -j ACCEPT"
	}
	if policy || r.Number == 0 {
		return fmt.Sprintf("%s%s -A %s %s", iptables(r), tableOption(r), r.Chain, match)
	}
	return fmt.Sprintf("%s%s -I %s %d %s", iptables(r), tableOption(r), r.Chain, r.Number, match)
}

// clamp are the commands that make both ends of the TCP connections that a
// namespace forwards agree on segments that fit: as its own routes have it, or
// into packets of a size.
func (s *scene) clamp(netns string, size int) (string, []string) {
	t := s.in.Probe.Tuple
	if t.Proto != packet.TCP || netns == s.in.Probe.NetNS {
		return "", nil
	}
	family := addressFamily(t.Dst)
	value, option, words := "rt mtu", "--clamp-mss-to-pmtu", "what its routes carry"
	if size > 0 {
		mss := size - path.Overhead(t)
		value, option, words = fmt.Sprint(mss), fmt.Sprintf("--set-mss %d", mss), fmt.Sprintf("packets of %d bytes", size)
	}
	advice := fmt.Sprintf("Have %s tell both ends of a TCP connection to send no larger segments than fit %s; or give the container that MTU, which serves other protocols, too:", the(netns), words)
	if _, backend := s.natChain(netns, family, ruletrace.Postrouting); backend != ruletrace.NFT {
		r := report.Rule{Backend: string(backend), Family: family}
		return advice, s.commands(netns, nil, fmt.Sprintf("%s -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS %s", iptables(&r), option))
	}
	return advice, s.commands(netns, nil,
		fmt.Sprintf("nft add table %s mss", family),
		fmt.Sprintf("nft add chain %s mss forward '{ type filter hook forward priority mangle; }'", family),
		fmt.Sprintf("nft add rule %s mss forward 'tcp flags & (syn | rst) == syn tcp option maxseg size set %s'", family, value))
}

// safe is what every IPv6 link carries (RFC 8200, section 5), and nearly every
// tunnel for IPv4.
const safe = 1280

// Often is how many times a segment has to be lost before it is more than the
// loss that TCP is made for: the first repetition may follow within a
// millisecond, in the same burst, the next one a fifth of a second later
// (TCP_RTO_MIN).
const Often = 3

// narrowBeyond: the data left what is visible again and again and was not
// acknowledged, while a smaller packet from behind it in the stream arrived: the
// far end answered that something is missing before that. That a link out there
// is too small is concluded.
func (s *scene) narrowBeyond() *cause {
	p, d := s.in.Path, s.in.Data
	if p.Sending == nil || d == nil || d.Full || d.Acked > 0 || p.Answer.Kind != path.None || s.end.Kind != path.Left || s.end.FrameFor != "" {
		return nil
	}
	size := path.Length(&p.Request.Last.Header)
	if p.Sending.Times < Often || p.Sending.Passed == 0 || p.Sending.Passed >= size || size <= safe || !s.in.Sensors.Captured[s.end.NetNS] {
		return nil
	}
	c := &cause{
		code: MTUBlackhole, confidence: report.Reconstructed, outcome: report.Lost, netns: s.end.NetNS, iface: s.end.Interface,
		summary: fmt.Sprintf("A packet of %d bytes left %s %d times and was not acknowledged within %s; one of %d bytes, from behind it in the stream, arrived: the far end answered that what comes before is missing. So the way on carries no packets of that size, and no ICMP error about them came back.",
			size, exit(s.end), p.Sending.Times, s.in.Waited, p.Sending.Passed),
		mechanism: fmt.Sprintf("lost beyond %s/%s, by size", s.end.NetNS, s.end.Interface),
	}
	c.advice, c.fix = s.clamp(s.end.NetNS, safe)
	return c
}
