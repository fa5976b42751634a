package diagnose

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

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
		summary: fmt.Sprintf("The request left %s at %s for %s with the private source %s, which nothing translated, and no answer came within %s: answers find no way back to %s over the internet.",
			the(e.ns.Name), e.out, s.end.Tuple.Dst, e.source, s.in.Waited, e.network),
	}
	if e.beyond != nil {
		c.summary += fmt.Sprintf(" The next on the way, %s, has no route back to it.", e.beyond.Name)
	}
	c.advice, c.fix = fmt.Sprintf("%s has to translate what comes from %s and leaves by %s:", subject(e.ns.Name), e.network, e.out), s.masquerade(e)
	return c
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
	var found *exposed
	for _, stay := range staysOf(s.path.Hops) {
		ns := s.before(stay.netns)
		if found != nil && found.beyond == nil {
			found.beyond = ns
		}
		if stay.in == "" || stay.out == "" || stay.source != t.Src {
			continue
		}
		back := ns.Lookup(topology.Query{Source: t.Dst, Target: t.Src})
		if back.Undetermined || back.Route == nil || back.Route.Interface != stay.in || back.Route.Destination.Bits() == 0 {
			continue
		}
		found = &exposed{ns: ns, in: stay.in, out: stay.out, source: t.Src, network: back.Route.Destination}
	}
	return found
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
