package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// astray is a packet for an address of a container network that the host leads
// elsewhere.
type astray struct {
	query    topology.Query
	decision topology.Decision
	member   *member
}

// maxAsked bounds the addresses of a network that are asked for beside those of
// members: each question looks at all routes.
const maxAsked = 512

// overlaps asks where the host leads what is for each container network.
func (e *exam) overlaps() {
	for i := range e.networks {
		n := &e.networks[i]
		if !n.link.Up {
			continue // so are its routes
		}
		if lost := e.astray(n); len(lost) > 0 {
			e.taken(n, lost)
		} else {
			e.contained(n)
		}
	}
}

// astray are the packets that do not get to a network, those for members first.
// Where a lookup changes its answer a route begins or ends, so that the ends of
// the network and of each route in it, and the members, are all there is to ask.
func (e *exam) astray(n *network) []astray {
	targets := make(map[netip.Addr]*member)
	var order []netip.Addr
	add := func(a netip.Addr, m *member) {
		if _, known := targets[a]; !known && n.prefix.Contains(a) && a != n.prefix.Addr() && !n.isEdge(a) {
			targets[a] = m
			order = append(order, a)
		}
	}
	for i := range n.members {
		add(n.members[i].address, &n.members[i])
	}
	parts := []netip.Prefix{n.prefix.Masked()}
	for i := range e.host.Routes {
		parts = append(parts, e.host.Routes[i].Destination)
	}
	for i := range e.host.Policy {
		if to := e.host.Policy[i].To; to.IsValid() {
			parts = append(parts, to)
		}
	}
	for _, p := range parts {
		if len(order) >= maxAsked+len(n.members) {
			e.unchecked("where all of %s goes: there are too many routes in it", n.prefix.Masked())
			break
		}
		if p.Addr().Is4() == n.prefix.Addr().Is4() && p.Bits() >= n.prefix.Bits() && n.prefix.Overlaps(p) {
			for _, a := range []netip.Addr{p.Masked().Addr(), p.Masked().Addr().Next(), last(p), last(p).Prev()} {
				if p.Contains(a) {
					add(a, nil)
				}
			}
		}
	}
	var lost []astray
	for _, a := range order {
		for _, q := range e.towards(a) {
			d := e.host.Lookup(q)
			if d.Undetermined {
				e.unchecked("where what is for %s goes: %s", n.prefix.Masked(), d.Why)
				continue
			}
			if d.Route != nil && d.Route.Type == "local" && targets[a] == nil {
				continue // another address of the host's
			}
			at := astray{query: q, decision: d, member: targets[a]}
			if hops := d.NextHops(); (len(hops) != 1 || hops[0].Interface != n.link.Name) && at.concerns() && !e.arrives(&at) {
				lost = append(lost, at)
			}
		}
	}
	return lost
}

// isEdge reports whether an address is IPv4's first or last of the network.
func (n *network) isEdge(a netip.Addr) bool {
	return n.prefix.Bits() < a.BitLen()-1 && (a == n.prefix.Masked().Addr() || a.Is4() && a == last(n.prefix))
}

// towards are the packets for an address: sent from the host, which is also the
// lookup of rp_filter for the way back, and coming in by each way out.
func (e *exam) towards(a netip.Addr) []topology.Query {
	all := []topology.Query{{Target: a}, {Source: e.internetOf(a), Target: a}}
	for _, hop := range e.host.Lookup(topology.Query{Target: e.internetOf(a)}).NextHops() {
		all = append(all, topology.Query{Source: e.internetOf(a), Target: a, Ingress: hop.Interface})
	}
	return all
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// taken says what becomes of packets that do not get to a network, of the first
// of them by route and policy rule. While none of them is for somebody who is
// there, it is a warning.
func (e *exam) taken(n *network, lost []astray) {
	first := lost[0]
	d := first.decision
	evidence := []string{e.fact("address", topology.HostName, "%s has %s", n.link.Name, n.prefix)}
	f := report.Finding{Code: diagnose.SubnetOverlap, Severity: warning}
	what := fmt.Sprintf("What is for %s", first.query.Target)
	if first.member != nil {
		f.Severity = severe
		what += " of " + first.member.ns.Name
	}
	var other netip.Prefix
	switch {
	case d.Route != nil && d.Route.Type == "local":
		f.Code = diagnose.Martian
		f.Summary = fmt.Sprintf("%s is delivered to the host, which has that address as well: one of the two has to have another.", what)
		evidence = append(evidence, e.fact("route", topology.HostName, "%s", d.Route.Text))
		f.Evidence = evidence
		e.find(f)
		return
	case d.Route == nil && d.Policy == nil:
		f.Code = diagnose.NoRoute
		f.Summary = fmt.Sprintf("%s has no route: %s has the address %s, and the route to its network is missing.", what, n.link.Name, n.prefix)
	case d.Route == nil || len(d.NextHops()) == 0:
		f.Code = diagnose.RouteBlackhole
		f.Summary = fmt.Sprintf("%s is thrown away by the host, by %s.", what, by(d))
	default:
		f.Summary = fmt.Sprintf("%s leaves the host by %s, by %s.", what, d.NextHops()[0].Interface, by(d))
		other = d.Route.Destination
		if diagnose.Everywhere(other) && d.Policy != nil && d.Policy.To.IsValid() {
			other = d.Policy.To
		}
	}
	if other.IsValid() && diagnose.Everywhere(other) {
		f.Code = diagnose.NoRoute
		if d.Policy != nil && d.Policy.Table != diagnose.MainTable {
			f.Code = diagnose.VPNTakesTraffic
		}
	} else if other.IsValid() {
		f.Summary += fmt.Sprintf(" %s and %s's network %s have addresses in common, and %s.", other, n.link.Name, n.prefix.Masked(), e.why(n, d))
	}
	if f.Code == diagnose.NoRoute && d.Route != nil {
		f.Summary += fmt.Sprintf(" %s has the address %s, and the route to its network is missing.", n.link.Name, n.prefix)
	}
	if d.Route != nil {
		evidence = append(evidence, e.fact("route", topology.HostName, "%s", d.Route.Text))
	}
	if p := d.Policy; p != nil && p.Table != diagnose.MainTable {
		evidence = append(evidence, e.fact("route", topology.HostName, "policy rule %s", p.Text))
	}
	if strict := max(e.host.All.RPFilter, n.link.Settings.RPFilter) == 1; strict && n.prefix.Addr().Is4() {
		f.Summary += fmt.Sprintf(" What comes from there is dropped at %s, since rp_filter is 1 and the way back is another one.", n.link.Name)
		evidence = append(evidence, e.fact("setting", topology.HostName, "rp_filter of %s = 1 (the larger of its own and that of all)", n.link.Name))
		if f.Code == diagnose.NoRoute {
			f.Code = diagnose.RPFilter
		}
	}
	f.Evidence = evidence
	var fix []string
	// Who has a route to a part that nobody here is in may need it.
	if f.Code != diagnose.RouteBlackhole && (f.Code != diagnose.SubnetOverlap || first.member != nil) {
		fix = e.commands(topology.HostName, nil, diagnose.LeadHome(e.host, n.link, n.prefix, kinds(lost)...)...)
	}
	e.advise(f, fmt.Sprintf("To lead what is for %s to %s again:", n.prefix.Masked(), n.link.Name), fix)
	if f.Code == diagnose.SubnetOverlap {
		advice, lines := diagnose.Renumber(e.in.Topology, n.link, n.prefix, e.allotted()...)
		e.find(report.Finding{Code: f.Code, Severity: note, Summary: advice, Fix: lines, Evidence: evidence})
	}
}

// kinds are one packet of each kind that is decided about in one way: what leads
// it home leads all of its kind.
func kinds(lost []astray) []topology.Query {
	type kind struct {
		source       netip.Addr
		ingress      string
		policy       *topology.Policy
		bits, metric int
	}
	seen := make(map[kind]bool)
	var all []topology.Query
	for i := range lost {
		k := kind{source: lost[i].query.Source, ingress: lost[i].query.Ingress, policy: lost[i].decision.Policy}
		if r := lost[i].decision.Route; r != nil {
			k.bits, k.metric = r.Destination.Bits(), r.Metric
		}
		if !seen[k] {
			seen[k] = true
			all = append(all, lost[i].query)
		}
	}
	return all
}

// concerns is false for a part of a network that a route takes which leads
// nowhere, on purpose, or for broadcasts of a part: nobody who is there needs it.
func (a *astray) concerns() bool {
	return a.member != nil || a.decision.Route == nil && a.decision.Policy == nil || len(a.decision.NextHops()) > 0
}

// arrives reports whether the packet is led to a pair whose other end has the
// address: a namespace may have it there and not at the bridge.
func (e *exam) arrives(at *astray) bool {
	hops := at.decision.NextHops()
	if len(hops) != 1 {
		return false
	}
	link := e.host.Link(hops[0].Interface)
	if link == nil || link.Peer == nil || link.Peer.NetNS == topology.HostName {
		return false
	}
	ns := e.in.Topology.Namespace(link.Peer.NetNS)
	return ns.Local(at.query.Target) != nil && (at.member == nil || at.member.ns == ns)
}

// by says which route, and which policy rule, decide.
func by(d topology.Decision) string {
	var words []string
	if d.Route != nil {
		words = append(words, fmt.Sprintf("the route %q", d.Route.Text))
	}
	if p := d.Policy; p != nil && (p.Table != diagnose.MainTable || d.Route == nil) {
		if d.Route == nil {
			return fmt.Sprintf("the policy rule %q", p.Text)
		}
		words = append(words, fmt.Sprintf("which the policy rule %q asks for first", p.Text))
	}
	return strings.Join(words, ", ")
}

// why says why another route comes before the network's own.
func (e *exam) why(n *network, d topology.Decision) string {
	own := e.ownRoute(n)
	switch {
	case own == nil:
		return n.link.Name + " has no route of its own that could come first"
	case d.Policy != nil && d.Policy.Table != own.Table:
		return "that policy rule is asked first"
	case d.Route.Destination.Bits() > own.Destination.Bits():
		return "the longer prefix comes first"
	}
	return "the route with the lower metric comes first"
}

// ownRoute is the route to a network by its own interface, or nil.
func (e *exam) ownRoute(n *network) *topology.Route {
	i := slices.IndexFunc(e.host.Routes, func(r topology.Route) bool {
		return r.Interface == n.link.Name && r.Type == "unicast" && r.Destination == n.prefix.Masked()
	})
	if i < 0 {
		return nil
	}
	return &e.host.Routes[i]
}

// contained notes what has all the addresses of a network, and leaves them to
// it.
func (e *exam) contained(n *network) {
	for i := range e.host.Routes {
		r := &e.host.Routes[i]
		if diagnose.Everywhere(r.Destination) || r.Interface == n.link.Name || r.Type != "unicast" ||
			r.Destination.Bits() > n.prefix.Bits() || !r.Destination.Overlaps(n.prefix) {
			continue
		}
		e.find(report.Finding{
			Code: diagnose.SubnetOverlap, Severity: note,
			Summary: fmt.Sprintf("%s's network %s is a part of %s, which the route %q leads to %s. That does no harm as long as the route to %s is there: it comes first.",
				n.link.Name, n.prefix.Masked(), r.Destination, r.Text, out(r), n.link.Name),
			Evidence: []string{
				e.fact("route", topology.HostName, "%s", r.Text),
				e.fact("address", topology.HostName, "%s has %s", n.link.Name, n.prefix),
			},
		})
	}
}

// out is where a route leads.
func out(r *topology.Route) string {
	if r.Interface != "" {
		return r.Interface
	}
	return "several next hops"
}
