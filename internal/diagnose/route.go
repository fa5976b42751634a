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

// mainTable is the routing table main (include/uapi/linux/rtnetlink.h).
const mainTable = 254

// routeMissing: the namespace that had to send the packet on has no route for
// it. In the source that is NO_DEFAULT_ROUTE.
func routeMissing(s *scene) *cause {
	o := s.outlook()
	if o == nil || !o.noRoute() || o.ns.Local(o.query.Target) != nil {
		return nil
	}
	c := &cause{
		code: NoRoute, netns: o.ns.Name, mechanism: s.seen.Mechanism, iface: s.end.Interface,
		summary:  fmt.Sprintf("%s got no further than %s, which has no route to %s.", s.what(), the(o.ns.Name), o.query.Target),
		evidence: []string{s.fact("route", o.ns.Name, "no route to %s", o.query.Target)},
	}
	if o.ns.Name == s.in.Topology.Source && o.query.Ingress == "" {
		c.code, c.outcome, c.iface = NoDefaultRoute, report.Unsent, ""
		c.summary = fmt.Sprintf("Nothing was sent: %s has no route to %s.", the(o.ns.Name), o.query.Target)
		s.addDefault(c, o)
		return c
	}
	c.advice = fmt.Sprintf("%s needs a route to %s.", subject(o.ns.Name), o.query.Target)
	if prefix, via, link := s.wayBackTo(o); link != nil {
		c.advice = fmt.Sprintf("The way back is by %s, where the request came from:", via)
		c.fix = s.commands(o.ns.Name, []string{link.Name}, fmt.Sprintf("%s route add %s via %s dev %s", ipCommand(via), prefix, via, link.Name))
	} else if onward := s.leadsOn(o.ns, o.query); onward != nil {
		c.advice = fmt.Sprintf("%s needs a route to %s; %s, which is connected to it, has one:", subject(o.ns.Name), o.query.Target, onward.owner.Name)
		c.fix = s.commands(o.ns.Name, []string{onward.link.Name}, onward.command())
	} else if gateway, link := s.onlyGateway(o); link != nil {
		c.advice = fmt.Sprintf("%s needs a default route; %s is the only router that is visible behind it:", subject(o.ns.Name), gateway)
		c.fix = s.commands(o.ns.Name, []string{link.Name}, fmt.Sprintf("%s route add default via %s dev %s", ipCommand(gateway), gateway, link.Name))
	}
	return c
}

// addDefault says what a source without a route lacks.
func (s *scene) addDefault(c *cause, o *outlook) {
	gateway, link := s.onlyGateway(o)
	switch {
	case link != nil:
		c.advice = fmt.Sprintf("%s needs a default route:", subject(o.ns.Name))
		c.fix = s.commands(o.ns.Name, []string{link.Name}, fmt.Sprintf("%s route add default via %s dev %s", ipCommand(gateway), gateway, link.Name))
	case !slices.ContainsFunc(o.ns.Links, func(l topology.Link) bool { return l.Kind != "loopback" }):
		c.summary = fmt.Sprintf("Nothing was sent: %s has no interface beside the loopback.", the(o.ns.Name))
		c.advice = fmt.Sprintf("Connect %s: move one end of a veth pair into it (ip link set dev INTERFACE netns %s), give it an address and a default route.", o.ns.Name, o.ns.Name)
		s.movePeer(c, o)
	default:
		if !s.addAddress(c, o) {
			c.advice = fmt.Sprintf("%s needs a route to %s: an address on the interface that leads there, and a default route.", subject(o.ns.Name), o.query.Target)
		}
	}
}

// movePeer proposes to move one end of a veth pair into a source that has no
// interface, if both ends of only one pair are in one namespace, one of them with
// an address and the other without.
func (s *scene) movePeer(c *cause, o *outlook) {
	pair := s.unmoved(o)
	into, ok := s.moveInto(o.ns.Name)
	if pair == nil || !ok {
		return
	}
	near, far := pair.near, pair.far
	for _, p := range familyOf(far, o.query.Target) {
		address := s.freeAddress(p)
		if !address.IsValid() {
			continue
		}
		move := s.commands(pair.ns.Name, []string{near.Name}, fmt.Sprintf("ip link set dev %s netns %s", near.Name, into))
		set := s.commands(o.ns.Name, []string{near.Name},
			fmt.Sprintf("ip addr add %s/%d dev %s", address, p.Bits(), near.Name),
			fmt.Sprintf("ip link set dev %s up", near.Name),
			fmt.Sprintf("%s route add default via %s dev %s", ipCommand(address), p.Addr(), near.Name))
		if move == nil || set == nil {
			return
		}
		c.evidence = append(c.evidence, s.fact("link", pair.ns.Name, "%s and %s are one veth pair", near.Name, far.Name))
		c.advice = fmt.Sprintf("Both ends of the veth pair %s and %s are still %s. Move the one without an address into %s, and give it one and a default route:",
			near.Name, far.Name, where(pair.ns.Name), o.ns.Name)
		c.fix = append(move, set...)
		return
	}
}

// unmovedPair is a veth pair of which no end was moved: near has no address, far
// has one.
type unmovedPair struct {
	ns        *topology.Namespace
	near, far *topology.Link
}

// unmoved is the only such pair, or nil.
func (s *scene) unmoved(o *outlook) *unmovedPair {
	var found *unmovedPair
	for i := range s.in.Topology.Namespaces {
		ns := s.now(s.in.Topology.Namespaces[i].Name)
		for k := range ns.Links {
			near := &ns.Links[k]
			if near.Peer == nil || near.Peer.NetNS != ns.Name || near.Bridge != "" || hasGlobal(near) {
				continue
			}
			far := ns.Link(near.Peer.Interface)
			if far == nil || len(familyOf(far, o.query.Target)) == 0 {
				continue
			}
			if found != nil {
				return nil
			}
			found = &unmovedPair{ns, near, far}
		}
	}
	return found
}

// moveInto is what "ip link set … netns" calls a namespace, by how it is entered.
func (s *scene) moveInto(netns string) (string, bool) {
	words := strings.Fields(s.in.Enter[netns])
	switch {
	case len(words) == 4 && strings.HasPrefix(s.in.Enter[netns], "ip netns exec "):
		return words[3], true
	case len(words) == 4 && strings.HasPrefix(s.in.Enter[netns], "nsenter --target "):
		return words[2], true
	}
	return "", false
}

// addAddress proposes what a source lacks whose only cable leads to an interface
// with an address, and that has none itself: an address, a default route, and
// ends that are up.
func (s *scene) addAddress(c *cause, o *outlook) bool {
	for i := range o.ns.Links {
		link := &o.ns.Links[i]
		if link.Peer == nil || len(familyOf(link, o.query.Target)) > 0 {
			continue
		}
		far := s.now(link.Peer.NetNS)
		cable := far.Link(link.Peer.Interface)
		if cable == nil {
			continue
		}
		farLink := cable
		if bridge := far.Link(cable.Bridge); bridge != nil {
			farLink = bridge
		}
		for _, p := range familyOf(farLink, o.query.Target) {
			address := s.freeAddress(p)
			if !address.IsValid() {
				continue
			}
			lacks := fmt.Sprintf("%s of %s has no %s address", link.Name, the(o.ns.Name), familyName(o.query.Target))
			var up []string
			if !link.Up {
				lacks = fmt.Sprintf("%s of %s is down and has no %s address", link.Name, the(o.ns.Name), familyName(o.query.Target))
				up = s.commands(o.ns.Name, []string{link.Name}, fmt.Sprintf("ip link set dev %s up", link.Name))
			}
			if link.Up && o.query.Target.Is6() && !slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
				lacks += ", not even a link-local one (IPv6 seems to be off there: disable_ipv6)"
				up = s.commands(o.ns.Name, []string{link.Name}, fmt.Sprintf("sysctl -w net/ipv6/conf/%s/disable_ipv6=0", link.Name))
			}
			if !cable.Up {
				lacks += fmt.Sprintf(", %s of %s at the other end is down", cable.Name, the(far.Name))
				up = append(up, s.commands(far.Name, []string{cable.Name}, fmt.Sprintf("ip link set dev %s up", cable.Name))...)
			}
			c.summary = fmt.Sprintf("Nothing was sent: %s, and so there is no route to %s.", lacks, o.query.Target)
			c.advice = fmt.Sprintf("Give it an address in the network of %s at the other end, which nobody that is visible has, and a default route:", p)
			c.fix = append(up, s.commands(o.ns.Name, []string{link.Name},
				fmt.Sprintf("ip addr add %s/%d dev %s", address, p.Bits(), link.Name),
				fmt.Sprintf("%s route add default via %s dev %s", ipCommand(address), p.Addr(), link.Name))...)
			return true
		}
	}
	return false
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// freeAddress is the first host address of a network that no visible namespace
// has; invalid when there is none among the first few.
func (s *scene) freeAddress(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().Next()
	for range 250 {
		if !p.Contains(a) || !p.Contains(a.Next()) { // the last one is for broadcast
			return netip.Addr{}
		}
		if s.ownerOf(a) == "" {
			return a
		}
		a = a.Next()
	}
	return netip.Addr{}
}

// onlyGateway is the router that a namespace is connected to, if it is the only
// one: by which link, and its address there.
func (s *scene) onlyGateway(o *outlook) (netip.Addr, *topology.Link) {
	var found netip.Addr
	var by *topology.Link
	for i := range o.ns.Links {
		link := &o.ns.Links[i]
		if !link.Up || link.Bridge != "" || link.Name == o.query.Ingress {
			continue
		}
		if gateway := s.gateway(o.ns, link, o.query.Target); gateway.IsValid() {
			if by != nil {
				return netip.Addr{}, nil
			}
			found, by = gateway, link
		}
	}
	return found, by
}

// wayBackTo is, for an answer that has no route, the way that the request came:
// the network of the answer's destination, the neighbour from which the request
// came, and the interface.
func (s *scene) wayBackTo(o *outlook) (netip.Prefix, netip.Addr, *topology.Link) {
	if s.leg != "reply" {
		return netip.Prefix{}, netip.Addr{}, nil
	}
	hops := s.in.Path.Request.Hops
	at := slices.IndexFunc(hops, func(h report.Hop) bool { return h.NetNS == o.ns.Name && h.Direction == "ingress" })
	if at < 1 {
		return netip.Prefix{}, netip.Addr{}, nil
	}
	link := o.ns.Link(hops[at].Interface)
	if bridge := bridgeOf(o.ns, hops[at].Interface); bridge != nil {
		link = bridge
	}
	before := s.now(hops[at-1].NetNS)
	beforeLink := before.Link(hops[at-1].Interface)
	if link == nil || beforeLink == nil {
		return netip.Prefix{}, netip.Addr{}, nil
	}
	back := before.Lookup(topology.Query{Target: o.query.Target}).Route
	if back == nil || back.Interface == beforeLink.Name {
		return netip.Prefix{}, netip.Addr{}, nil
	}
	for _, p := range beforeLink.Addresses {
		if onLink(link, p.Addr()) && p.Addr().Is4() == o.query.Target.Is4() && !p.Addr().IsLinkLocalUnicast() {
			return back.Destination, p.Addr(), link
		}
	}
	return netip.Prefix{}, netip.Addr{}, nil
}

// answerUnroutable: the request was delivered, and the namespace that it was
// delivered to has no route by which to answer.
func answerUnroutable(s *scene) *cause {
	if s.leg != "request" || s.end.Kind != path.Delivered || s.seen.Code != NoReply {
		return nil
	}
	ns := s.now(s.end.NetNS)
	t := s.end.Tuple
	decision := ns.Lookup(topology.Query{Source: t.Dst, Target: t.Src})
	if ns == nil || decision.Route != nil || decision.Policy != nil || decision.Undetermined {
		return nil
	}
	o := &outlook{ns: ns, query: topology.Query{Source: t.Dst, Target: t.Src}}
	c := &cause{
		code: NoRoute, netns: ns.Name, confidence: report.Reconstructed,
		summary:  fmt.Sprintf("The request was delivered to %s, which has no route back to %s, so no answer could leave it.", the(ns.Name), t.Src),
		evidence: []string{s.fact("route", ns.Name, "no route to %s", t.Src)},
		advice:   fmt.Sprintf("%s needs a route to %s.", subject(ns.Name), t.Src),
	}
	if gateway, link := s.onlyGateway(o); link != nil {
		c.advice = fmt.Sprintf("%s needs a default route:", subject(ns.Name))
		c.fix = s.commands(ns.Name, []string{link.Name}, fmt.Sprintf("%s route add default via %s dev %s", ipCommand(gateway), gateway, link.Name))
	}
	return c
}

// routeDeadEnd: a route, or a policy rule, of a kind that leads nowhere takes
// the packet.
func routeDeadEnd(s *scene) *cause {
	o := s.outlook()
	if o == nil || o.decision.Undetermined {
		return nil
	}
	c := &cause{code: RouteBlackhole, netns: o.ns.Name, iface: s.end.Interface, confidence: report.Reconstructed, mechanism: s.seen.Mechanism}
	if s.unsent() {
		c.outcome = report.Unsent
	}
	switch route, policy := o.decision.Route, o.decision.Policy; {
	case route != nil && slices.Contains(nowhere, route.Type):
		c.summary = fmt.Sprintf("%s got no further than %s: its route %q %s.", s.what(), the(o.ns.Name), route.Text, typeWords[route.Type])
		c.evidence = []string{s.fact("route", o.ns.Name, "%s", route.Text)}
		c.advice = "If this traffic is meant to pass, remove the route:"
		c.fix = s.commands(o.ns.Name, nil, fmt.Sprintf("%s route del %s %s table %d", ipCommand(o.query.Target), route.Type, route.Destination, route.Table))
	case route == nil && policy != nil && slices.Contains(nowhere, policy.Action):
		c.summary = fmt.Sprintf("%s got no further than %s: its policy rule %q %s.", s.what(), the(o.ns.Name), policy.Text, typeWords[policy.Action])
		c.evidence = []string{s.fact("route", o.ns.Name, "policy rule %s", policy.Text)}
		c.advice = "If this traffic is meant to pass, remove the policy rule:"
		c.fix = s.commands(o.ns.Name, nil, fmt.Sprintf("%s rule del priority %d", ipCommand(o.query.Target), policy.Priority))
	default:
		return nil
	}
	return c
}

// typeWords say what a route of that type does (ip-route(8)).
var typeWords = map[string]string{
	"blackhole": "throws it away in silence", "unreachable": "calls its destination unreachable", "prohibit": "prohibits it",
}
