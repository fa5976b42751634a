package topology

import (
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// Query is a packet to be routed.
type Query struct {
	// Source is invalid while the kernel has yet to choose it: rules that ask
	// for a source do not match then, as in the kernel.
	Source, Target netip.Addr
	// Ingress is the interface that the packet came in by, empty when it is
	// sent from here.
	Ingress string
	// Egress is the interface that the socket is bound to, or the zone of the
	// target; empty for none.
	Egress string
	Mark   uint32
	// Proto and the ports are for rules that ask for them. While Proto is 0
	// such rules leave the decision undetermined.
	Proto                  packet.Proto
	SourcePort, TargetPort uint16
}

// Decision is the way that a packet takes.
type Decision struct {
	// Route is the route that was chosen, nil when there is none. Its Type may
	// say that the packet goes no further.
	Route *Route
	// Policy is the policy rule that led to Route or, being one of the types
	// blackhole, unreachable and prohibit, ended the lookup itself.
	Policy *Policy
	// Undetermined says that the kernel may decide otherwise, because of
	// something that the snapshot or the query does not hold; Why says what.
	Undetermined bool
	Why          string
}

// NextHops returns the ways of the chosen route: one, several for a multipath
// route, none for a route that does not lead out.
func (d Decision) NextHops() []NextHop {
	switch {
	case d.Route == nil || d.Route.Type != "unicast":
		return nil
	case len(d.Route.NextHops) > 0:
		return d.Route.NextHops
	}
	return []NextHop{{Gateway: d.Route.Gateway, Interface: d.Route.Interface}}
}

func (d *Decision) doubt(why string) {
	if !d.Undetermined {
		d.Undetermined, d.Why = true, why
	}
}

// The routing tables with a meaning (include/uapi/linux/rtnetlink.h).
const (
	tableDefault = 253
	tableMain    = 254
	tableLocal   = 255
)

// Lookup decides as the kernel does (net/core/fib_rules.c, fib_table_lookup,
// fib6_table_lookup): policy rules in order of priority, the longest prefix in
// the table of each, the lowest metric among those. A test compares it with
// the kernel's own answer. It may be called on nil.
func (n *Namespace) Lookup(q Query) Decision {
	var decision Decision
	if n == nil || !q.Target.IsValid() {
		return decision
	}
	jump := -1
	for i := range n.Policy {
		policy := &n.Policy[i]
		if policy.IPv6 != q.Target.Is6() || policy.Priority < jump {
			continue
		}
		match, why := n.matches(policy, q)
		if why != "" {
			decision.doubt(why)
		}
		if !match {
			continue
		}
		switch policy.Action {
		case "lookup":
			table := policy.Table
			if policy.VRF {
				if table = n.vrfTable(q); table == 0 {
					continue
				}
			}
			route, why := n.search(table, q)
			if route == nil || suppressed(n, policy, route) {
				continue
			}
			if why != "" {
				decision.doubt(why)
			}
			decision.Route, decision.Policy = route, policy
			return decision
		case "goto":
			jump = policy.Goto
		case "nop":
		default:
			decision.Policy = policy
			return decision
		}
	}
	return decision
}

// matches reports whether a policy rule takes the packet. A reason says that
// it cannot be known; the rule counts as not matching then.
func (n *Namespace) matches(p *Policy, q Query) (match bool, why string) {
	ingress := q.Ingress
	if ingress == "" {
		ingress = "lo"
	}
	match = (p.Ingress == "" || p.Ingress == ingress) &&
		(p.Egress == "" || p.Egress == q.Egress) &&
		(p.Mark^q.Mark)&p.MarkMask == 0 &&
		p.TunnelID == 0 && p.TOS == 0 &&
		(!p.From.IsValid() || p.From.Bits() == 0 || p.From.Contains(q.Source)) &&
		(!p.To.IsValid() || p.To.Contains(q.Target)) &&
		(!p.VRF || n.vrfTable(q) != 0)
	if match && p.UIDs != nil && *p.UIDs != [2]uint32{0, 1<<32 - 1} {
		return false, "the policy rule " + p.Text + " asks for the user"
	}
	if match && (p.Proto != 0 || p.SourcePorts != nil || p.TargetPorts != nil) {
		if q.Proto == 0 {
			return false, "the policy rule " + p.Text + " asks for the protocol or ports"
		}
		match = (p.Proto == 0 || p.Proto == q.Proto) &&
			within(p.SourcePorts, q.SourcePort) && within(p.TargetPorts, q.TargetPort)
	}
	return match != p.Invert, ""
}

func within(ports *[2]uint16, port uint16) bool {
	return ports == nil || ports[0] <= port && port <= ports[1]
}

// vrfTable returns the table of the VRF that the packet belongs to, 0 for none.
func (n *Namespace) vrfTable(q Query) int {
	for _, name := range []string{q.Egress, q.Ingress} {
		link := n.Link(name)
		if link == nil {
			continue
		}
		if link.VRFTable != 0 {
			return link.VRFTable
		}
		if vrf := n.Link(link.VRF); vrf != nil {
			return vrf.VRFTable
		}
	}
	return 0
}

func suppressed(n *Namespace, policy *Policy, route *Route) bool {
	if route.Destination.Bits() <= policy.SuppressPrefix {
		return true
	}
	link := n.Link(route.Interface)
	return policy.SuppressGroup >= 0 && link != nil && link.Group == policy.SuppressGroup
}

// search returns the route of one table, nil for none. A reason says that the
// kernel may choose another one.
func (n *Namespace) search(table int, q Query) (best *Route, why string) {
	tie := false
	for i := range n.Routes {
		route := &n.Routes[i]
		if route.Table != table || !route.Destination.Contains(q.Target) || !n.usable(route, q) {
			continue
		}
		switch order := compare(route, best); {
		case order < 0:
			best, tie = route, false
		case order == 0:
			tie = true
		}
	}
	switch {
	case best == nil || best.Type == "throw":
		return nil, ""
	case tie && q.Target.Is6():
		// The kernel prefers the one whose router answers (rt6_select).
		why = "several routes to " + best.Destination.String() + " are equally good"
	case len(best.NextHops) > 1:
		why = "the route has several next hops"
	}
	return best, why
}

// compare orders routes to one target, the better one first; nil is the worst.
// Equal ones are in the kernel's order already.
func compare(a, b *Route) int {
	switch {
	case b == nil:
		return -1
	case a.Destination.Bits() != b.Destination.Bits():
		return b.Destination.Bits() - a.Destination.Bits()
	case a.From.Bits() != b.From.Bits():
		return b.From.Bits() - a.From.Bits()
	}
	return a.Metric - b.Metric
}

// usable reports whether the kernel would consider a route that contains the
// target.
func (n *Namespace) usable(route *Route, q Query) bool {
	if route.TOS != 0 || route.From.IsValid() && !route.From.Contains(q.Source) {
		return false
	}
	if route.Interface == "" && len(route.NextHops) == 0 {
		return true // blackhole and its like
	}
	if len(route.NextHops) > 0 {
		return slices.ContainsFunc(route.NextHops, func(hop NextHop) bool {
			return n.alive(hop.Interface, hop.Flags, q)
		})
	}
	return n.alive(route.Interface, route.Flags, q)
}

func (n *Namespace) alive(name string, flags []string, q Query) bool {
	if slices.Contains(flags, "dead") || q.Egress != "" && q.Egress != name {
		return false
	}
	if slices.Contains(flags, "linkdown") {
		if link := n.Link(name); link != nil {
			ignore := link.Settings.IgnoreLinkDownIPv4
			if q.Target.Is6() {
				ignore = link.Settings.IgnoreLinkDownIPv6
			}
			return !ignore
		}
	}
	return true
}

// Source returns the address that the kernel would send from by a route (its
// own, or the first fitting one of the interface); invalid when there is none.
func (n *Namespace) source(hop NextHop, route *Route, target netip.Addr) netip.Addr {
	if route.Source.IsValid() {
		return route.Source
	}
	link := n.Link(hop.Interface)
	if link == nil {
		return netip.Addr{}
	}
	towards := target
	if hop.Gateway.IsValid() {
		towards = hop.Gateway
	}
	var first netip.Addr
	for _, address := range link.Addresses {
		if address.Addr().Is6() != target.Is6() || target.Is6() && address.Addr().IsLinkLocalUnicast() != target.IsLinkLocalUnicast() {
			continue
		}
		if address.Contains(towards) {
			return address.Addr()
		}
		if !first.IsValid() {
			first = address.Addr()
		}
	}
	return first
}
