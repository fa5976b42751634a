package diagnose

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// exposed is a packet that left what is visible with a source that is known
// only behind one of the namespaces on its way: nobody translated it there.
type exposed struct {
	// ns is the last namespace on the way that has a route back to the source,
	// in and out are the interfaces by which the packet came and went there.
	ns      *topology.Namespace
	in, out string
	source  netip.Addr
	// network is the prefix of the route back.
	network netip.Prefix
	// beyond is the namespace after ns, nil when that cannot be seen.
	beyond *topology.Namespace
}

// natMissing: a private source left for a global destination, and nothing came
// back. A router beyond may translate it, so that is reconstructed, never
// observed. Whoever is on the way and has a route back to the source serves a
// routed network; only behind the last of them the source is unknown.
func natMissing(s *scene) *cause {
	e := s.exposed()
	if e == nil || !global(s.end.Tuple.Dst) {
		return nil
	}
	c := &cause{
		code: NATMissing, confidence: report.Reconstructed, netns: e.ns.Name, iface: e.out, evidence: s.unknown(e),
		summary: fmt.Sprintf("The request left %s at %s for %s with the private source %s, which nothing translated, and no answer came within %s. Over the internet answers find no way back to %s; whether a router beyond %s translates it is not visible.",
			the(e.ns.Name), e.out, s.end.Tuple.Dst, e.source, s.in.Waited, e.network, exit(s.end)),
	}
	if e.beyond != nil {
		c.summary += fmt.Sprintf(" The next on the way, %s, has no route back to it.", e.beyond.Name)
	}
	if step := s.untracks(e.ns.Name); step != nil {
		c.summary += fmt.Sprintf(" A rule of chain %s kept it from connection tracking, and what is not tracked is not translated.", chainOf(step.Rule))
		c.evidence = append(c.evidence, step.Evidence...)
		c.advice, c.fix = s.track(e.ns.Name, step.Rule)
		return c
	}
	if hop := s.trackedOnBridge(e.ns.Name); hop != nil {
		c.summary += fmt.Sprintf(" Conntrack %s has had its flow since it passed the bridge %s, where rules for IP saw it, and NAT is asked for the first packet of a flow only.", where(e.ns.Name), hop.Bridge)
		c.advice = fmt.Sprintf("Keep what bridges pass on from the rules for IP %s (where nothing else needs that, as Docker's icc=false does):", where(e.ns.Name))
		if line, ok := s.command(e.ns.Name, "sysctl -w %s=0", callsRules(e.source.Is6())); ok {
			c.fix = []string{line}
		}
		return c
	}
	c.advice, c.fix = fmt.Sprintf("%s has to translate what comes from %s and leaves by %s:", subject(e.ns.Name), e.network, e.out), s.masquerade(e)
	return c
}

// trackedOnBridge is the port of a bridge at which conntrack of a namespace
// entered the request's flow, if the request then went to other machines before
// the namespace routed it; nil elsewhere.
func (s *scene) trackedOnBridge(netns string) *report.Hop {
	hops := s.path.Hops
	entered := slices.IndexFunc(hops, func(h report.Hop) bool {
		return h.NetNS == netns && slices.ContainsFunc(h.Steps, func(step report.Step) bool { return step.Kind == "conntrack" && step.Text == "NEW" })
	})
	if entered < 0 || hops[entered].Bridge == "" || !slices.ContainsFunc(hops[entered:], func(h report.Hop) bool { return h.NetNS != netns }) {
		return nil
	}
	return &hops[entered]
}

// sourceUnknown is natMissing with a private destination: that may well know
// the way back, and be silent for a reason of its own.
func sourceUnknown(s *scene) *cause {
	e := s.exposed()
	if e == nil || global(s.end.Tuple.Dst) {
		return nil
	}
	return &cause{
		code: NoReply, summary: s.seen.Summary, evidence: s.unknown(e),
		advice: fmt.Sprintf("The request left %s with the source %s, untranslated. The answer comes only if all behind %s have a route to %s by way of %s; if they have none, translate:",
			the(e.ns.Name), e.source, e.out, e.network, the(e.ns.Name)),
		fix: s.masquerade(e),
	}
}

// natWrongAddress: the source was translated to an address that the translating
// host does not have, so that what answers it finds nobody. It may be asked for
// at the uplink, unanswered; or the answer was seen to go to it and to end
// elsewhere. Two networks work with such an address and are left alone: where
// the host answers for it by proxy, and where the address is routed to the
// host, which only the routers beyond know.
func natWrongAddress(s *scene) *cause {
	t := s.translated()
	if t == nil || s.end.Kind == path.Dropped || t.ns.has(t.to) || t.ns.answersFor(t.to, t.link) {
		return nil
	}
	lost := s.leg == "reply"
	asked := s.askedFor(t.to, t.ns.Name, t.link.Name)
	owner := s.ownerOf(t.to)
	if !lost && owner == "" && !onLink(t.link, t.to) && (global(t.to) || !global(s.end.Tuple.Dst)) {
		return s.routedAddress(t)
	}
	c := &cause{
		code: NATWrongAddress, confidence: report.Reconstructed, netns: t.ns.Name, iface: t.link.Name, evidence: t.Evidence,
		summary: fmt.Sprintf("%s gave the request the source %s at %s (%s), an address that it does not have", subject(t.ns.Name), t.to, t.link.Name, ruleWords(t.Rule)),
	}
	switch {
	case owner != "":
		c.summary += fmt.Sprintf(": it is %s's, which gets the answers.", owner)
		c.evidence = append(slices.Clone(c.evidence), s.fact("address", owner, "%s has %s", owner, t.to))
	case len(asked) > 0:
		c.confidence = report.Observed
		c.summary += fmt.Sprintf(". The network behind %s asked who has it and was not answered, so answers do not come here.", t.link.Name)
		c.evidence = slices.Concat(c.evidence, asked)
	case lost:
		c.summary += fmt.Sprintf(": the answer to it got as far as %s.", the(s.end.NetNS))
	default:
		c.summary += fmt.Sprintf(", and no answer came within %s.", s.in.Waited)
	}
	c.evidence = append(slices.Clone(c.evidence), s.fact("address", t.ns.Name, "no interface of %s has %s", the(t.ns.Name), t.to))
	c.advice, c.fix = fmt.Sprintf("%s has to translate to an address of its own (or to be given %s):", subject(t.ns.Name), t.to), s.correctSource(t)
	return c
}

// routedAddress says what a translation to an address that the host does not
// have asks of the routers beyond, of which nothing is known.
func (s *scene) routedAddress(t *sourceNAT) *cause {
	if s.seen.Code != NoReply {
		return nil
	}
	return &cause{
		code: NoReply, summary: s.seen.Summary, evidence: t.Evidence,
		advice: fmt.Sprintf("%s translates the source to %s, which it does not have and which is in no network of %s: answers come only if the routers beyond send that address to it.",
			subject(t.ns.Name), t.to, t.link.Name),
	}
}

// sourceNAT is the translation of the source with which a request left.
type sourceNAT struct {
	report.Translation
	ns       *namespace
	link     *topology.Link
	from, to netip.Addr
}

// translated is the translation of the request's source that is the last one
// and the one that the lost packet shows; nil when there is none.
func (s *scene) translated() *sourceNAT {
	lost := s.end.Tuple.Src
	switch {
	case s.leg == "request" && (s.seen.Code != NoReply || s.end.Kind != path.Left || s.end.FrameFor != ""):
		return nil
	case s.leg == "reply":
		lost = s.end.Tuple.Dst
	}
	for _, t := range slices.Backward(s.in.Path.Translations) {
		ns := s.now(t.NetNS)
		link := ns.Link(t.Interface)
		if t.Leg != "request" || t.Field != "source" || addressOf(t.To) != lost || addressOf(t.From) == lost || link == nil {
			continue
		}
		if s.leg == "reply" && s.end.NetNS == t.NetNS { // it was translated back there, or could have been
			return nil
		}
		return &sourceNAT{Translation: t, ns: &namespace{ns}, link: link, from: addressOf(t.From), to: lost}
	}
	return nil
}

// namespace answers questions about addresses.
type namespace struct{ *topology.Namespace }

// has reports whether packets for an address are taken here.
func (n *namespace) has(a netip.Addr) bool {
	route := n.Lookup(topology.Query{Target: a}).Route
	return n.Local(a) != nil || route != nil && route.Type == "local"
}

// answersFor reports whether ARP and neighbour discovery for an address that
// the namespace does not have are answered at a link all the same.
func (n *namespace) answersFor(a netip.Addr, link *topology.Link) bool {
	if slices.Contains(n.Proxied, topology.Proxied{Address: a, Interface: link.Name}) {
		return true
	}
	route := n.Lookup(topology.Query{Target: a}).Route
	return a.Is4() && (link.Settings.ProxyARP || n.All.ProxyARP) && route != nil && route.Interface != link.Name
}

// ownerOf is the visible namespace that has an address, empty when none has.
func (s *scene) ownerOf(a netip.Addr) string {
	for i := range s.in.Topology.Namespaces {
		if ns := s.now(s.in.Topology.Namespaces[i].Name); ns.Local(a) != nil {
			return ns.Name
		}
	}
	return ""
}

// askedFor is the evidence that somebody asked for the hardware address of an
// address at an interface and that the namespace gave no answer; nil when
// nobody was seen to ask.
func (s *scene) askedFor(a netip.Addr, netns, iface string) []string {
	times, by := 0, ""
	for i := range s.in.Discovery {
		d := &s.in.Discovery[i]
		if d.Point.NetNS != netns || d.Point.Interface != iface {
			continue
		}
		request, target := false, netip.Addr{}
		if arp := d.Header.ARP; arp != nil {
			request, target, by = arp.Request, arp.TargetAddr, arp.SenderAddr.String()
			if !request {
				target = arp.SenderAddr
			}
		} else if n := d.Header.Neighbour; n != nil {
			request, target, by = n.Solicitation, n.Target, d.Header.Tuple.Src.String()
		}
		switch {
		case target != a:
		case !request:
			return nil
		case d.Direction == capture.Ingress:
			times++
		}
	}
	if times == 0 {
		return nil
	}
	return []string{s.fact("neighbour", netns, "who has %s? asked %d times by %s at %s, not answered by %s", a, times, by, iface, the(netns))}
}

// correctSource is the command that translates to the link's own address in
// front of the rule that does otherwise. Empty when that rule is not known or
// a name does not fit into a command.
func (s *scene) correctSource(t *sourceNAT) []string {
	r := t.Rule
	if r == nil || !nameable(r) || !plainName.MatchString(t.link.Name) {
		return nil
	}
	network := netip.PrefixFrom(t.from, t.from.BitLen())
	if back := t.ns.Lookup(topology.Query{Target: t.from}).Route; back != nil && back.Type == "unicast" && back.Destination.Bits() > 0 {
		network = back.Destination
	}
	text := fmt.Sprintf("%s -t nat -I %s %d -s %s -o %s -j MASQUERADE", iptables(r), r.Chain, r.Number, network, t.link.Name)
	if r.Backend == string(ruletrace.NFT) {
		text = fmt.Sprintf("nft insert rule %s %s %s handle %d %s saddr %s oifname %s masquerade",
			r.Family, r.Table, r.Chain, r.Handle, addressFamily(t.from), network, t.link.Name)
	}
	line, ok := s.command(t.NetNS, "%s", text)
	if !ok || r.Handle == 0 && r.Number == 0 {
		return nil
	}
	return []string{line}
}

// ruleWords names a rule in a sentence.
func ruleWords(r *report.Rule) string {
	if r == nil {
		return "by which rule was not seen"
	}
	return "by a rule of chain " + chainOf(r)
}

// exposed finds where a request that left with a private source, and that
// nobody answered, had to be translated; nil when its source is known where it
// went or that cannot be told.
func (s *scene) exposed() *exposed {
	t := s.end.Tuple
	if s.leg != "request" || s.seen.Code != NoReply || s.end.Kind != path.Left || s.end.FrameFor != "" || !t.Src.IsValid() || global(t.Src) {
		return nil
	}
	last := s.before(s.end.NetNS)
	if last == nil || onLink(last.Link(s.end.Interface), t.Src) || onLink(bridgeOf(last, s.end.Interface), t.Src) {
		return nil
	}
	return s.lastToKnow(t.Src)
}

// lastToKnow is where a source of the request is known for the last time on its
// way; nil when that is nowhere.
func (s *scene) lastToKnow(source netip.Addr) *exposed {
	var found *exposed
	for _, stay := range staysOf(s.in.Path.Request.Hops) {
		ns := s.before(stay.netns)
		if found != nil && found.beyond == nil {
			found.beyond = ns
		}
		if stay.in == "" || stay.out == "" || stay.source != source {
			continue
		}
		back := ns.Lookup(topology.Query{Source: stay.destination, Target: source})
		if back.Undetermined || back.Route == nil || back.Route.Interface != stay.in || back.Route.Destination.Bits() == 0 {
			continue
		}
		found = &exposed{ns: ns, in: stay.in, out: stay.out, source: source, network: back.Route.Destination}
	}
	return found
}

// astray: the answer left by another way than the request had come, because
// where it left nobody knows the network of the request's source, and where
// that is known for the last time nobody translated it.
func astray(s *scene) *cause {
	if s.leg != "reply" || s.in.Path.Answer.Kind != path.Reply || s.end.Kind != path.Left || s.end.FrameFor != "" {
		return nil
	}
	e := s.lastToKnow(s.end.Tuple.Dst)
	stays := staysOf(s.in.Path.Request.Hops)
	at := slices.IndexFunc(stays, func(stay stay) bool { return stay.netns == s.end.NetNS })
	if e == nil || at < 0 || e.ns.Name == s.end.NetNS || stays[at].in == "" || stays[at].in == s.end.Interface {
		return nil
	}
	ns := s.before(s.end.NetNS)
	back := ns.Lookup(topology.Query{Source: s.end.Tuple.Src, Target: e.source})
	if back.Undetermined || back.Route == nil || back.Route.Interface == stays[at].in {
		return nil
	}
	return &cause{
		code: ReplyLostHere, confidence: report.Reconstructed, evidence: append(s.unknown(e), s.fact("route", ns.Name, "the route to %s: %s", e.source, back.Route.Text)),
		summary: fmt.Sprintf("The answer left %s at %s, and not by %s, where the request had come from: %s does not know the network %s, and %s, which does, did not translate it.",
			the(ns.Name), s.end.Interface, stays[at].in, the(ns.Name), e.network, the(e.ns.Name)),
		advice: fmt.Sprintf("Give %s and all between a route to %s by way of %s, or translate:", the(ns.Name), e.network, the(e.ns.Name)),
		fix:    s.masquerade(e),
	}
}

// unknown is the evidence for a source that is not known where the packet went.
func (s *scene) unknown(e *exposed) []string {
	ids := []string{s.fact("route", e.ns.Name, "%s is known here behind %s: %s", e.source, e.in, e.ns.Lookup(topology.Query{Target: e.source}).Route.Text)}
	if e.beyond != nil {
		text := "there is none"
		if route := e.beyond.Lookup(topology.Query{Target: e.source}).Route; route != nil {
			text = route.Text
		}
		ids = append(ids, s.fact("route", e.beyond.Name, "the route to %s: %s", e.source, text))
	}
	return ids
}

// masquerade are the commands that translate the sources of a network where
// they leave by an interface, in the syntax of the rules that are there. Empty
// when a name does not fit into a command.
func (s *scene) masquerade(e *exposed) []string {
	family := addressFamily(e.source)
	if !plainName.MatchString(e.out) {
		return nil
	}
	line := fmt.Sprintf("-t nat -%%s POSTROUTING -s %s -o %s -j MASQUERADE", e.network, e.out)
	rule := fmt.Sprintf("%s saddr %s oifname %s masquerade", family, e.network, e.out)
	return s.translate(e.ns.Name, family, ruletrace.Postrouting, line, rule)
}

// translate are the commands that add a rule for NAT to a hook of a namespace:
// line is that of iptables with %s for the letter of append or insert, rule that of nft.
func (s *scene) translate(netns, family string, hook ruletrace.Hook, line, rule string) []string {
	chain, backend := s.natChain(netns, family, hook)
	verb, letter := "add", "A"
	if chain != nil && s.cutShort(netns, chain) {
		verb, letter = "insert", "I"
	}
	var lines []string
	switch {
	case backend != ruletrace.NFT:
		r := report.Rule{Backend: string(backend), Family: family}
		lines = []string{iptables(&r) + " " + fmt.Sprintf(line, letter)}
	case chain != nil:
		lines = []string{fmt.Sprintf("nft %s rule %s %s %s %s", verb, chain.Family, chain.Table, chain.Name, rule)}
	default:
		priority := map[ruletrace.Hook]string{ruletrace.Postrouting: "srcnat", ruletrace.Prerouting: "dstnat"}[hook]
		lines = []string{
			fmt.Sprintf("nft add table %s nat", family),
			fmt.Sprintf("nft add chain %s nat %s '{ type nat hook %s priority %s; }'", family, hook, hook, priority),
			fmt.Sprintf("nft add rule %s nat %s %s", family, hook, rule),
		}
	}
	for i := range lines {
		ok := false
		if lines[i], ok = s.command(netns, "%s", lines[i]); !ok {
			return nil
		}
	}
	return lines
}

// natChain is the chain of a namespace that translates in a hook, and the tool
// that wrote it. Without one it is the tool that wrote other rules.
func (s *scene) natChain(netns, family string, hook ruletrace.Hook) (*ruletrace.BaseChain, ruletrace.Backend) {
	backend := ruletrace.NFT
	chains := s.in.Chains[netns]
	for i := range chains {
		c := &chains[i]
		if c.Family != family && c.Family != "inet" {
			continue
		}
		if c.Type == "nat" && c.Hook == hook && plainName.MatchString(c.Table) && plainName.MatchString(c.Name) {
			return c, c.Backend
		}
		if c.Backend != ruletrace.NFT {
			backend = c.Backend
		}
	}
	return nil, backend
}

// endsChain is a rule after which no other of its chain is met.
var endsChain = regexp.MustCompile(`-j (ACCEPT|RETURN)$|\b(accept|return)( comment ".*")?$`)

// cutShort reports whether the request met a rule of a base chain that ends it:
// what is added behind that rule is not met.
func (s *scene) cutShort(netns string, chain *ruletrace.BaseChain) bool {
	return slices.ContainsFunc(s.in.Path.Request.Hops, func(h report.Hop) bool {
		return h.NetNS == netns && slices.ContainsFunc(h.Steps, func(step report.Step) bool {
			r := step.Rule
			return step.Kind == "rule" && r != nil && r.Family == chain.Family && r.Table == chain.Table && r.Chain == chain.Name && endsChain.MatchString(r.Text)
		})
	})
}

// stay is what a packet's hops in one namespace say: by which interfaces it
// came and went, empty where it did not, a port standing for its bridge; and
// its addresses at both ends.
type stay struct {
	netns, in, out      string
	source, destination netip.Addr // when it came
	after               report.Tuple
}

// staysOf are the stays of a packet in the order of its way.
func staysOf(hops []report.Hop) []stay {
	var all []stay
	for i := range hops {
		h := &hops[i]
		name := h.Interface
		if h.Bridge != "" {
			name = h.Bridge
		}
		ingress := h.Direction == "ingress"
		if n := len(all); n == 0 || all[n-1].netns != h.NetNS || ingress && all[n-1].out != "" {
			all = append(all, stay{netns: h.NetNS, source: addressOf(h.Tuple.Source), destination: addressOf(h.Tuple.Destination)})
		}
		last := &all[len(all)-1]
		if ingress {
			last.in = name
		} else {
			last.out = name
		}
		last.after = h.Tuple
	}
	return all
}

// addressOf reads "address" and "address:port".
func addressOf(text string) netip.Addr {
	if a, err := netip.ParseAddr(text); err == nil {
		return a
	}
	ap, _ := netip.ParseAddrPort(text)
	return ap.Addr()
}

// shared is for carriers' own NAT (RFC 6598): not routed on the internet.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// global reports whether an address is reached over the internet.
func global(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

// onLink reports whether an address is in a network of the link.
func onLink(link *topology.Link, a netip.Addr) bool {
	return link != nil && slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// bridgeOf is the bridge that an interface is a port of, or nil.
func bridgeOf(ns *topology.Namespace, name string) *topology.Link {
	if link := ns.Link(name); link != nil && link.Bridge != "" {
		return ns.Link(link.Bridge)
	}
	return nil
}
