package diagnose

import (
	"fmt"
	"net/netip"

	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// macvlanIsolated: the owner of the next address does not answer because of what
// macvlans are. What one sends goes out of the link below it or, where both are in
// bridge mode, to another macvlan above that link, and never to the link itself;
// what the link sends goes out of it, and to none of its macvlans
// (macvlan_queue_xmit and macvlan_handle_frame in drivers/net/macvlan.c).
func macvlanIsolated(s *scene) *cause {
	o := s.outlook()
	if o == nil || o.link == nil || o.owner == nil || o.owner == o.ns || !o.deaf() || !s.unspoken(o) {
		return nil
	}
	near, far := o.ends()
	c := &cause{
		code: MacvlanIsolated, netns: o.ns.Name, iface: o.link.Name, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		evidence: []string{s.fact("route", o.ns.Name, "%s goes to %s by %s", o.query.Target, o.next, o.text())},
	}
	for _, end := range []place{near, far} {
		if end.link.Macvlan() {
			c.evidence = append(c.evidence, s.fact("link", end.ns.Name, "%s: macvlan mode %s on %s of %s", end.link.Name, end.link.Mode, end.link.Lower.Interface, the(end.link.Lower.NetNS)))
		}
	}
	stopped := fmt.Sprintf("%s got no further than %s:", s.what(), the(o.ns.Name))
	switch {
	case onTopOf(near, far):
		c.summary = fmt.Sprintf("%s its %s is a macvlan on %s of %s, which has %s, and a macvlan and the link below it never hear each other.",
			stopped, near.link.Name, far.link.Name, the(far.ns.Name), o.next)
		c.advice, c.fix = s.bridgeMacvlan(near, far, ownAddress(near.link, o.next), o.next)
		if advice, fix := s.gatewayBelow(o, far); len(fix) > 0 {
			c.advice, c.fix = advice, fix
		}
	case onTopOf(far, near):
		c.summary = fmt.Sprintf("%s %s, which has %s, has it on a macvlan on %s, and a macvlan and the link below it never hear each other.",
			stopped, the(far.ns.Name), o.next, near.link.Name)
		c.advice, c.fix = s.bridgeMacvlan(far, near, o.next, ownAddress(near.link, o.next))
	default: // apart
		c.summary = fmt.Sprintf("%s its %s (mode %s) and %s of %s, which has %s (mode %s), are macvlans on %s of %s, and only those that are both in bridge mode hear each other there.",
			stopped, near.link.Name, near.link.Mode, far.link.Name, the(far.ns.Name), o.next, far.link.Mode, near.link.Lower.Interface, the(near.link.Lower.NetNS))
		c.advice = "Put both in bridge mode:"
		c.fix = append(s.intoBridgeMode(near), s.intoBridgeMode(far)...)
	}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	return c
}

// place is a link of a namespace.
type place struct {
	ns   *topology.Namespace
	link *topology.Link
}

// ends are the link that a packet has to leave by, and that of the owner of the next
// address; both of them are there.
func (o *outlook) ends() (near, far place) {
	return place{o.ns, o.link}, place{o.owner, o.owner.Local(o.next)}
}

// deaf reports whether macvlans keep the owner of the next address from hearing the
// packet.
func (o *outlook) deaf() bool {
	near, far := o.ends()
	if onTopOf(near, far) {
		own := bridged(far)
		return own == nil || !own.Up || near.link.Mode != "bridge" // which would answer in the link's place
	}
	return onTopOf(far, near) || apart(near, far)
}

// onTopOf reports whether one link is a macvlan on another.
func onTopOf(upper, lower place) bool {
	below := upper.link.Lower
	return upper.link.Macvlan() && below.NetNS == lower.ns.Name && below.Interface == lower.link.Name
}

// apart reports whether two links are macvlans on the same link that are not both in
// bridge mode.
func apart(a, b place) bool {
	return a.link.Macvlan() && b.link.Macvlan() && a.link.Lower.NetNS != "" && *a.link.Lower == *b.link.Lower &&
		(a.link.Mode != "bridge" || b.link.Mode != "bridge")
}

// bridgeMacvlan proposes a macvlan beside one, for the machine that has the link
// below, by which the two hear each other. It takes the address that the machine has
// on that link, and answers nobody else for it (arp_filter). For IPv6 there is no such
// switch: it would answer the whole network for an address that it has.
func (s *scene) bridgeMacvlan(upper, lower place, upperAddress, lowerAddress netip.Addr) (string, []string) {
	if upper.link.Mode == "passthru" {
		return fmt.Sprintf("Make %s of %s anew in bridge mode, and give %s a macvlan of its own on %s: beside one in passthru mode there can be no other.",
			upper.link.Name, the(upper.ns.Name), the(lower.ns.Name), lower.link.Name), nil
	}
	if !upperAddress.Is4() || !lowerAddress.Is4() {
		return fmt.Sprintf("Give %s a macvlan of its own on %s, in bridge mode and with another address than %s, and let %s use that address.",
			the(lower.ns.Name), lower.link.Name, lower.link.Name, the(upper.ns.Name)), nil
	}
	var advice, name string
	var lines []string
	if own := bridged(lower); own != nil {
		name, advice = own.Name, fmt.Sprintf("Have %s use its macvlan %s for %s:", the(lower.ns.Name), own.Name, the(upper.ns.Name))
	} else {
		name = unusedLink(lower.ns, "macvlan")
		advice = fmt.Sprintf("Give %s a macvlan of its own on %s, by which it reaches %s:", the(lower.ns.Name), lower.link.Name, the(upper.ns.Name))
		lines = []string{
			fmt.Sprintf("ip link add %s link %s type macvlan mode bridge", name, lower.link.Name),
			fmt.Sprintf("sysctl -w net.ipv4.conf.%s.arp_filter=1", name),
			fmt.Sprintf("ip addr add %s/32 dev %s", lowerAddress, name),
		}
	}
	lines = append(lines, fmt.Sprintf("ip link set dev %s up", name), fmt.Sprintf("ip route replace %s dev %s", upperAddress, name))
	below := s.commands(lower.ns.Name, []string{lower.link.Name, name}, lines...)
	if len(below) == 0 {
		return advice[:len(advice)-1] + ".", nil
	}
	return advice, append(s.intoBridgeMode(upper), below...)
}

// bridged is a macvlan in bridge mode that the machine with a link has on that link
// itself; nil when it has none.
func bridged(lower place) *topology.Link {
	for i := range lower.ns.Links {
		if l := &lower.ns.Links[i]; l.Mode == "bridge" && onTopOf(place{lower.ns, l}, lower) {
			return l
		}
	}
	return nil
}

// gatewayBelow proposes the gateway of the machine that has the link below, for a
// macvlan whose default route leads to that machine itself.
func (s *scene) gatewayBelow(o *outlook, below place) (string, []string) {
	route := o.decision.Route
	if o.next == o.query.Target || route == nil || route.Destination.Bits() != 0 || route.Table != mainTable {
		return "", nil
	}
	hops := below.ns.Lookup(topology.Query{Target: o.query.Target}).NextHops()
	if len(hops) != 1 || hops[0].Interface != below.link.Name || !hops[0].Gateway.IsValid() || hops[0].Gateway == o.next {
		return "", nil
	}
	gateway := hops[0].Gateway
	for _, p := range familyOf(o.link, gateway) {
		if p.Contains(gateway) {
			return fmt.Sprintf("Use the gateway that %s itself uses:", the(below.ns.Name)),
				s.commands(o.ns.Name, []string{o.link.Name}, fmt.Sprintf("%s route replace default via %s dev %s", ipCommand(gateway), gateway, o.link.Name))
		}
	}
	return "", nil
}

// intoBridgeMode is the command that puts a macvlan into bridge mode; none where it
// is, or cannot be put there.
func (s *scene) intoBridgeMode(p place) []string {
	if p.link.Mode == "bridge" || p.link.Mode == "passthru" {
		return nil
	}
	return s.commands(p.ns.Name, []string{p.link.Name}, fmt.Sprintf("ip link set dev %s type macvlan mode bridge", p.link.Name))
}

// unusedLink is a name that no link of a namespace has.
func unusedLink(ns *topology.Namespace, prefix string) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint(prefix, i); ns.Link(name) == nil {
			return name
		}
	}
}
