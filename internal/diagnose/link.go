package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// fault is what is wrong with a link on the way.
type fault struct {
	ns   *topology.Namespace
	link *topology.Link
	// how goes on from "NAMESPACE's INTERFACE", fix is a command below "ip" that
	// mends it, empty when there is none.
	how, fix string
}

// linkDown: an interface on the way is down, has no carrier, or is no longer a
// port of its bridge. It comes before what the kernel makes of that: to the
// kernel the neighbour behind a dead link is one that does not answer, and the
// routes of an interface that is down are gone.
func linkDown(s *scene) *cause {
	if f := s.deadBridge(); f != nil {
		return s.dead(f, "")
	}
	o := s.outlook()
	if o == nil {
		return nil
	}
	if lo := o.ns.Link("lo"); lo != nil && !lo.Up && (o.query.Target.IsLoopback() || o.ns.Local(o.query.Target) != nil) {
		return s.dead(down(o.ns, lo), "")
	}
	if o.link == nil {
		if !o.noRoute() {
			return nil
		}
		link := s.downLink(o)
		if link == nil {
			return nil
		}
		c := s.dead(&fault{ns: o.ns, link: link, how: "is down", fix: "link set dev " + link.Name + " up"},
			fmt.Sprintf(", and with it went the routes that lead out of it: none is left for %s", o.query.Target))
		c.confidence = report.Reconstructed
		if gateway := s.gateway(o.ns, link, o.query.Target); gateway.IsValid() && len(c.fix) > 0 {
			if line, ok := s.command(o.ns.Name, "%s route add default via %s dev %s", ipCommand(gateway), gateway, link.Name); ok {
				c.fix = append(c.fix, line)
			}
		} else {
			c.advice = strings.TrimSuffix(c.advice, ":") + ", and afterwards its other routes again, which the kernel does not put back:"
		}
		return c
	}
	if f := s.deadLink(o); f != nil {
		return s.dead(f, "")
	}
	return nil
}

// dead makes a cause of a fault.
func (s *scene) dead(f *fault, more string) *cause {
	c := &cause{
		code: LinkDown, netns: f.ns.Name, iface: f.link.Name, confidence: s.witnessed(),
		summary:  fmt.Sprintf("%s cannot get on: %s of %s %s%s.", s.what(), f.link.Name, the(f.ns.Name), f.how, more),
		evidence: []string{s.fact("link", f.ns.Name, "%s: %s", f.link.Name, stateOf(f.link))},
		advice:   fmt.Sprintf("Whatever is behind %s of %s has to come up.", f.link.Name, the(f.ns.Name)),
	}
	if d := s.seen.Mechanism; d != "" {
		c.mechanism = d
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	if f.fix != "" && plainName.MatchString(f.link.Name) {
		if line, ok := s.command(f.ns.Name, "ip %s", f.fix); ok {
			c.advice, c.fix = fmt.Sprintf("Set %s of %s right:", f.link.Name, the(f.ns.Name)), []string{line}
		}
	}
	return c
}

// witnessed is how it is known that the packet ended because of a state that was
// read: a sensor saw it end, or none saw anything of it.
func (s *scene) witnessed() report.Confidence {
	if s.unsent() && s.end.Drop == nil && s.in.Path.Answer.Kind == path.None {
		return report.Reconstructed
	}
	return report.Observed
}

// stateOf says what is known of a link's state.
func stateOf(l *topology.Link) string {
	words := []string{"down"}
	if l.Up {
		words = []string{"up"}
		if !l.Carrier {
			words = append(words, "no carrier")
		}
	}
	if l.Bridge != "" {
		words = append(words, "port of "+l.Bridge)
		if l.Port != nil && l.Port.State != "" {
			words = append(words, l.Port.State)
		}
	}
	return strings.Join(words, ", ")
}

// deadBridge is the bridge that a packet came to a port of, and that is down.
func (s *scene) deadBridge() *fault {
	ns := s.now(s.end.NetNS)
	if s.end.Kind != path.Vanished || ns == nil {
		return nil
	}
	bridge := bridgeOf(ns, s.end.Interface)
	if bridge == nil || bridge.Up {
		return nil
	}
	return bridgeDown(ns, bridge)
}

func bridgeDown(ns *topology.Namespace, bridge *topology.Link) *fault {
	return &fault{ns: ns, link: bridge, how: "is down, and so are all of its ports", fix: "link set dev " + bridge.Name + " up"}
}

// down is a link that is administratively down.
func down(ns *topology.Namespace, link *topology.Link) *fault {
	return &fault{ns: ns, link: link, how: "is down", fix: "link set dev " + link.Name + " up"}
}

// downLink is the link whose routes are missing because it is down: one that
// was set up to be used, since it has an address. With none or several it is not
// known.
func (s *scene) downLink(o *outlook) *topology.Link {
	var found []*topology.Link
	for i := range o.ns.Links {
		l := &o.ns.Links[i]
		if !l.Up && l.Kind != "loopback" && l.Bridge == "" && len(l.Addresses) > 0 {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// deadLink finds what is dead between a namespace and the next address.
func (s *scene) deadLink(o *outlook) *fault {
	switch {
	case !o.link.Up:
		return down(o.ns, o.link)
	case o.link.Kind == "bridge":
		return s.deadPort(o.ns, o.link, o.owner)
	case !o.link.Carrier:
		return s.noCarrier(o.ns, o.link)
	case o.farLink == nil || o.far == nil:
		return nil
	}
	if bridge := o.far.Link(o.farLink.Bridge); bridge != nil {
		if !bridge.Up {
			return bridgeDown(o.far, bridge)
		}
		if o.owner != nil && o.owner != o.far {
			return s.deadPort(o.far, bridge, o.owner)
		}
		return nil
	}
	return strayed(o.far, o.farLink, o.far.Local(o.next))
}

// noCarrier says why a link has no carrier: the link below it or the one at the
// other end is down, as far as these are visible.
func (s *scene) noCarrier(ns *topology.Namespace, link *topology.Link) *fault {
	if link.Lower != nil {
		below := s.now(link.Lower.NetNS)
		switch lower := below.Link(link.Lower.Interface); {
		case lower == nil:
		case !lower.Up:
			return down(below, lower)
		case !lower.Carrier:
			return s.noCarrier(below, lower)
		}
	}
	if link.Peer != nil {
		far := s.now(link.Peer.NetNS)
		if end := far.Link(link.Peer.Interface); end != nil && !end.Up {
			return down(far, end)
		}
	}
	return &fault{ns: ns, link: link, how: "has no carrier: nothing is at the other end, or that is down"}
}

// deadPort finds what is dead between a bridge and the namespace that is to be
// reached by way of it.
func (s *scene) deadPort(ns *topology.Namespace, bridge *topology.Link, owner *topology.Namespace) *fault {
	if owner == nil || owner == ns {
		return nil
	}
	var links []*topology.Link
	for i := range ns.Links {
		if l := &ns.Links[i]; l.Peer != nil && l.Peer.NetNS == owner.Name && (l.Bridge == bridge.Name || l.Bridge == "" && len(l.Addresses) == 0 || !l.Up) {
			links = append(links, l)
		}
	}
	if len(links) != 1 {
		return nil
	}
	port := links[0]
	switch {
	case !port.Up:
		return down(ns, port)
	case port.Bridge == "":
		return strayed(ns, port, bridge)
	case !port.Carrier:
		return s.noCarrier(ns, port)
	}
	return nil
}

// strayed is a link without a bridge or an address, where the next address is
// that of a bridge.
func strayed(ns *topology.Namespace, link, bridge *topology.Link) *fault {
	if bridge == nil || bridge.Kind != "bridge" || link.Bridge != "" || link.Kind != "veth" || hasGlobal(link) {
		return nil
	}
	return &fault{ns: ns, link: link, how: "is not a port of " + bridge.Name, fix: "link set dev " + link.Name + " master " + bridge.Name}
}

// hasGlobal reports whether a link has an address that is not link-local.
func hasGlobal(link *topology.Link) bool {
	return slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() })
}

// gateway is the address of a visible namespace at the other end of a link, in
// a network of the link: what a default route would lead to. It is that of the
// one that forwards; of a source, where none does, that of the only one. It is
// invalid when there is none, or no single one.
func (s *scene) gateway(ns *topology.Namespace, link *topology.Link, target netip.Addr) netip.Addr {
	forwards := func(other *topology.Namespace) bool {
		return other.All.ForwardIPv4 && target.Is4() || other.All.ForwardIPv6 && target.Is6()
	}
	found := s.farAddresses(ns, link, target, forwards)
	if len(found) == 0 && ns.Name == s.in.Topology.Source && ns.Name != topology.HostName && link.Kind != "bridge" {
		found = s.farAddresses(ns, link, target, func(*topology.Namespace) bool { return true })
	}
	if len(found) != 1 {
		return netip.Addr{}
	}
	return found[0]
}

// farAddresses are the addresses, in a network of a link, of the namespaces at the
// other end of its cable that are of a kind.
func (s *scene) farAddresses(ns *topology.Namespace, link *topology.Link, target netip.Addr, kind func(*topology.Namespace) bool) []netip.Addr {
	var found []netip.Addr
	for _, prefix := range familyOf(link, target) {
		for i := range s.in.Topology.Namespaces {
			other := s.now(s.in.Topology.Namespaces[i].Name)
			if other.Name == ns.Name || !kind(other) || !s.adjacent(ns, link, other) {
				continue
			}
			for k := range other.Links {
				for _, p := range other.Links[k].Addresses {
					if prefix.Contains(p.Addr()) && !slices.Contains(found, p.Addr()) {
						found = append(found, p.Addr())
					}
				}
			}
		}
	}
	return found
}

// adjacent reports whether a namespace is at the other end of a link's cable.
func (s *scene) adjacent(ns *topology.Namespace, link *topology.Link, other *topology.Namespace) bool {
	if link.Kind != "bridge" {
		return link.Peer != nil && link.Peer.NetNS == other.Name
	}
	return slices.ContainsFunc(ns.Links, func(l topology.Link) bool {
		return l.Bridge == link.Name && l.Peer != nil && l.Peer.NetNS == other.Name
	})
}

// portBlocked: a port of a bridge on the way is not forwarding. The spanning
// tree holds it back, or somebody set its state.
func portBlocked(s *scene) *cause {
	ns, port := s.blockedPort()
	if port == nil {
		return nil
	}
	c := &cause{
		code: PortBlocked, netns: ns.Name, iface: port.Name, confidence: s.witnessed(),
		summary: fmt.Sprintf("%s cannot get past the bridge %s of %s: the port %s is %s, and only a forwarding port passes packets.",
			s.what(), port.Bridge, the(ns.Name), port.Name, port.Port.State),
		evidence:  []string{s.fact("link", ns.Name, "%s: %s", port.Name, stateOf(port))},
		mechanism: s.seen.Mechanism,
		advice:    "Wait until the spanning tree lets the port forward (twice the forward delay, 30 s unless set), or let it:",
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	if line, ok := s.command(ns.Name, "ip link set dev %s type bridge_slave state 3", port.Name); ok && plainName.MatchString(port.Name) {
		c.fix = []string{line}
	}
	return c
}

// portOfReceiver is the port behind which a bridge has the machine that the
// packet's last frame was for; nil when it is not the bridge that had it last, or
// that is not visible.
func (s *scene) portOfReceiver(ns *topology.Namespace) *topology.Link {
	bridge := bridgeOf(ns, s.end.Interface)
	if !s.end.Bridged || bridge == nil || s.path.Last == nil {
		return nil
	}
	to := s.path.Last.Header.EtherDst.String()
	for i := range ns.Links {
		port := &ns.Links[i]
		if port.Bridge != bridge.Name || port.Peer == nil {
			continue
		}
		if machine := s.now(port.Peer.NetNS).Link(port.Peer.Interface); machine != nil && machine.MAC == to {
			return port
		}
	}
	return nil
}

// blockedPort is the bridge port on the packet's way that does not forward.
func (s *scene) blockedPort() (*topology.Namespace, *topology.Link) {
	if ns := s.now(s.end.NetNS); ns != nil && s.end.Kind == path.Vanished {
		// It came in by the port, or had to leave by it.
		if l := ns.Link(s.end.Interface); blocked(l) && bridgeUp(ns, l) {
			return ns, l
		}
		if port := s.portOfReceiver(ns); blocked(port) && bridgeUp(ns, port) {
			return ns, port
		}
		if l := ns.Link(s.end.Interface); l != nil && l.Kind == "bridge" {
			if owner := s.now(s.ownerOf(s.end.Tuple.Dst)); owner != nil {
				for i := range ns.Links {
					if port := &ns.Links[i]; port.Bridge == l.Name && blocked(port) && port.Peer != nil && port.Peer.NetNS == owner.Name {
						return ns, port
					}
				}
			}
		}
	}
	o := s.outlook()
	if o == nil || o.link == nil || !s.unspoken(o) {
		return nil, nil
	}
	if blocked(o.farLink) && bridgeUp(o.far, o.farLink) {
		return o.far, o.farLink
	}
	bridge, ns := o.link, o.ns
	if bridge.Kind != "bridge" {
		if o.farLink == nil || o.farLink.Bridge == "" {
			return nil, nil
		}
		bridge, ns = o.far.Link(o.farLink.Bridge), o.far
	}
	if bridge == nil || o.owner == nil {
		return nil, nil
	}
	for i := range ns.Links {
		if port := &ns.Links[i]; port.Bridge == bridge.Name && blocked(port) && port.Peer != nil && port.Peer.NetNS == o.owner.Name {
			return ns, port
		}
	}
	return nil, nil
}

// blocked reports whether a link is the port of a bridge and does not forward.
func blocked(l *topology.Link) bool {
	return l != nil && l.Bridge != "" && l.Up && l.Port != nil && l.Port.State != "" && l.Port.State != "forwarding"
}

func bridgeUp(ns *topology.Namespace, port *topology.Link) bool {
	bridge := ns.Link(port.Bridge)
	return bridge != nil && bridge.Up
}

// addressOnPort: the next address is that of a port of a bridge. What comes in
// by a port goes to the bridge, which does not answer for the port's addresses
// at itself.
func addressOnPort(s *scene) *cause {
	o := s.outlook()
	if o == nil || o.link == nil || !s.unspoken(o) {
		return nil
	}
	ns, port, address := o.far, o.farLink, o.next
	if o.owner != nil {
		ns, port = o.owner, o.owner.Local(o.next)
	}
	if o.link.Bridge != "" { // the route itself leads out of a port
		ns, port = o.ns, o.link
		address = ownAddress(port, o.query.Target)
	}
	if port == nil || port.Bridge == "" || !address.IsValid() || ns.Link(port.Bridge) == nil {
		return nil
	}
	prefix := slices.IndexFunc(port.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
	if prefix < 0 {
		return nil
	}
	p := port.Addresses[prefix]
	c := &cause{
		code: AddressOnPort, netns: ns.Name, iface: port.Name, confidence: report.Reconstructed,
		summary: fmt.Sprintf("%s cannot get on: the address %s of %s is on %s, a port of the bridge %s, and not on the bridge, where what comes in by a port arrives.",
			s.what(), p, the(ns.Name), port.Name, port.Bridge),
		evidence:  []string{s.fact("address", ns.Name, "%s has %s and is a port of %s", port.Name, p, port.Bridge)},
		mechanism: s.seen.Mechanism,
		advice:    fmt.Sprintf("Move the address to %s:", port.Bridge),
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	c.fix = s.commands(ns.Name, []string{port.Name, port.Bridge},
		fmt.Sprintf("ip addr del %s dev %s", p, port.Name), fmt.Sprintf("ip addr add %s dev %s", p, port.Bridge))
	return c
}

// ownAddress is an address of the link from which the target would be reached.
func ownAddress(link *topology.Link, target netip.Addr) netip.Addr {
	for _, p := range familyOf(link, target) {
		if p.Contains(target) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// commands are lines that run in a namespace; none when one of the names from
// outside that are in them is no plain name, or the namespace cannot be entered.
func (s *scene) commands(netns string, names []string, lines ...string) []string {
	var all []string
	for _, line := range lines {
		entered, ok := s.command(netns, "%s", line)
		if !ok || slices.ContainsFunc(names, func(n string) bool { return !plainName.MatchString(n) }) {
			return nil
		}
		all = append(all, entered)
	}
	return all
}

// tentative: an IPv6 address on the way cannot be used yet, or never will be,
// because duplicate address detection has not finished or has found somebody
// else with it (RFC 4862, section 5.4).
func tentative(s *scene) *cause {
	ns, link, address, flag := s.unusable()
	if link == nil {
		return nil
	}
	c := &cause{
		code: AddressTentative, netns: ns.Name, iface: link.Name, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		evidence: []string{s.fact("address", ns.Name, "%s has %s, %s", link.Name, address, flag)},
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	if flag == "dadfailed" {
		c.summary = fmt.Sprintf("The address %s of %s cannot be used: somebody else on %s has it (duplicate address detection failed).", address, the(ns.Name), link.Name)
		c.advice = fmt.Sprintf("Give one of the two another address than %s, then remove it here and add it again.", address)
		return c
	}
	c.summary = fmt.Sprintf("The address %s of %s cannot be used yet: it is tentative until duplicate address detection on %s has ended.", address, the(ns.Name), link.Name)
	c.advice = fmt.Sprintf("It ends a second or two after %s is up and has a carrier. To add it without detection:", link.Name)
	prefix := slices.IndexFunc(link.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
	c.fix = s.commands(ns.Name, []string{link.Name},
		fmt.Sprintf("ip -6 addr del %s dev %s", link.Addresses[prefix], link.Name),
		fmt.Sprintf("ip -6 addr add %s dev %s nodad", link.Addresses[prefix], link.Name))
	if len(c.fix) == 0 {
		c.advice = fmt.Sprintf("It ends a second or two after %s is up and has a carrier.", link.Name)
	}
	return c
}

// unusable finds an address that the packet depends on and that cannot be used:
// one of the source's, in place of which the kernel took the link-local one or
// none, or the next one, which then does not answer.
func (s *scene) unusable() (*topology.Namespace, *topology.Link, netip.Addr, string) {
	target := s.in.Topology.Target
	if !target.Is6() || target.IsLinkLocalUnicast() || s.leg != "request" {
		return nil, nil, netip.Addr{}, ""
	}
	source := s.in.Probe.Tuple.Src
	if s.path.First != nil {
		source = s.path.First.Header.Tuple.Src
	}
	if ns := s.now(s.in.Topology.Source); ns != nil && (!source.IsValid() || source.IsLinkLocalUnicast()) {
		for _, hop := range ns.Lookup(topology.Query{Target: target}).NextHops() {
			if link := ns.Link(hop.Interface); link != nil {
				if a, flag := pending(link, func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }); flag != "" {
					return ns, link, a, flag
				}
			}
		}
	}
	o := s.outlook()
	if o == nil || o.owner == nil || !s.unspoken(o) {
		return nil, nil, netip.Addr{}, ""
	}
	link := o.owner.Local(o.next)
	a, flag := pending(link, func(a netip.Addr) bool { return a == o.next })
	if flag == "" {
		return nil, nil, netip.Addr{}, ""
	}
	return o.owner, link, a, flag
}

// pending is an address of a link that cannot be used, and the flag that says
// so; an empty flag when there is none.
func pending(link *topology.Link, is func(netip.Addr) bool) (netip.Addr, string) {
	for _, p := range link.Addresses {
		flags := link.AddressFlags[p.Addr()]
		if !is(p.Addr()) || slices.Contains(flags, "optimistic") {
			continue
		}
		for _, flag := range []string{"dadfailed", "tentative"} {
			if slices.Contains(flags, flag) {
				return p.Addr(), flag
			}
		}
	}
	return netip.Addr{}, ""
}

// neighbourDead: nobody answers for the hardware address of the next hop.
func neighbourDead(s *scene) *cause {
	o := s.outlook()
	if o == nil || o.link == nil || !s.unspoken(o) {
		return nil
	}
	what := "the gateway " + o.next.String()
	if o.next == o.query.Target {
		what = o.next.String()
	}
	c := &cause{
		code: Neighbour, netns: o.ns.Name, iface: o.link.Name, mechanism: s.seen.Mechanism,
		summary:  fmt.Sprintf("%s got no further than %s: nobody behind %s answers for %s.", s.what(), the(o.ns.Name), o.link.Name, what),
		evidence: []string{s.fact("route", o.ns.Name, "%s goes to %s by %s", o.query.Target, o.next, o.text())},
		advice:   fmt.Sprintf("What has the address %s is down, is not connected to %s, or the address is wrong.", o.next, o.link.Name),
	}
	if o.owner != nil && o.owner != o.ns {
		c.summary = fmt.Sprintf("%s got no further than %s: %s, which has %s, gave no answer when it was asked for its hardware address by way of %s.",
			s.what(), the(o.ns.Name), the(o.owner.Name), what, o.link.Name)
		c.advice = fmt.Sprintf("What keeps %s from answering is not known. Look at what filters %s there and on the bridge between, at isolated ports, and at arp_ignore and the flag NOARP of the interface.",
			the(o.owner.Name), map[bool]string{true: "ARP", false: "neighbour discovery"}[o.next.Is4()])
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	for _, n := range o.ns.Neighbours {
		if n.Address == o.next && n.Interface == o.link.Name {
			c.evidence = append(c.evidence, s.fact("neighbour", o.ns.Name, "%s dev %s %s", n.Address, n.Interface, n.State))
		}
	}
	if advice, fix := s.repairNextHop(o); len(fix) > 0 {
		c.advice, c.fix = advice, fix
	}
	if o.next == o.query.Target && o.owner == nil {
		c.more = s.twin(o.next)
	}
	return c
}

// repairNextHop proposes what makes the next address answer, where only one
// thing can be meant: the gateway that is there in place of the one that is
// not, or the address that an interface without any has to get, or the bridge
// that it is a port of.
func (s *scene) repairNextHop(o *outlook) (string, []string) {
	if o.next == o.query.Target || o.owner != nil {
		return "", nil
	}
	if gateway := s.gateway(o.ns, o.link, o.query.Target); gateway.IsValid() && gateway != o.next && o.decision.Route != nil && o.decision.Route.Destination.Bits() == 0 && o.decision.Route.Table == mainTable {
		return fmt.Sprintf("%s is the gateway that is there:", gateway),
			s.commands(o.ns.Name, []string{o.link.Name}, fmt.Sprintf("%s route replace default via %s dev %s", ipCommand(gateway), gateway, o.link.Name))
	}
	far := o.farLink
	if far != nil && far.Bridge != "" {
		far = s.closedBridge(o.far, far.Bridge)
	}
	if far == nil || hasGlobal(far) || o.next.IsLinkLocalUnicast() {
		return "", nil
	}
	for _, p := range familyOf(o.link, o.next) {
		if p.Contains(o.next) {
			return fmt.Sprintf("%s of %s, at the other end, has no address:", far.Name, the(o.far.Name)),
				s.commands(o.far.Name, []string{far.Name}, fmt.Sprintf("ip addr add %s/%d dev %s", o.next, p.Bits(), far.Name))
		}
	}
	return "", nil
}

// closedBridge is a bridge whose ports all lead to visible namespaces: nobody
// else can be behind it. It is nil when one leads elsewhere.
func (s *scene) closedBridge(ns *topology.Namespace, name string) *topology.Link {
	for i := range ns.Links {
		if l := &ns.Links[i]; l.Bridge == name && (l.Peer == nil || s.in.Topology.Namespace(l.Peer.NetNS) == nil) {
			return nil
		}
	}
	return ns.Link(name)
}
