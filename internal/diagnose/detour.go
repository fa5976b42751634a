package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// detour is a routing decision of the namespace in which a packet went astray:
// that for the packet itself, or, where rp_filter asked for it, that for the way
// back to the packet's source.
type detour struct {
	ns       *topology.Namespace
	query    topology.Query
	decision topology.Decision
	// taken is the interface that the decision leads out of.
	taken *topology.Link
	// back says that it is the way back, and in is then the interface that the
	// packet came in by, or that ARP asked at.
	back bool
	in   *topology.Link
	// asked says that the packet was never sent, since rp_filter took the
	// question for the gateway's hardware address for forged: that is routed as
	// a packet is (arp_process, net/ipv4/arp.c).
	asked bool
	// home is the interface in whose own network the query's target is, prefix
	// its address there; home is nil when there is none but taken.
	home   *topology.Link
	prefix netip.Prefix
}

// detour returns nil when the packet did not end where a routing decision that
// is known led it.
func (s *scene) detour() *detour {
	d := s.packetsWay()
	if d == nil {
		d = s.wayBack()
	}
	if d == nil {
		d = s.gatewayDeaf()
	}
	if d == nil || d.decision.Undetermined || d.decision.Route == nil {
		return nil
	}
	hops := d.decision.NextHops()
	if len(hops) != 1 {
		return nil
	}
	if d.taken = d.ns.Link(hops[0].Interface); d.taken == nil {
		return nil
	}
	for i := range d.ns.Links {
		link := &d.ns.Links[i]
		if link == d.taken || link.Kind == "loopback" || !link.Up || link.Bridge != "" {
			continue
		}
		for _, p := range familyOf(link, d.query.Target) {
			if p.Contains(d.query.Target) && !p.IsSingleIP() && p.Addr() != d.query.Target {
				d.home, d.prefix = link, p
			}
		}
	}
	return d
}

// packetsWay is the decision for a packet that left what is visible, or that a
// rule dropped behind the decision.
func (s *scene) packetsWay() *detour {
	ns := s.now(s.end.NetNS)
	forwarded := s.end.Kind == path.Dropped && (s.end.Hook == ruletrace.Forward || s.end.Hook == ruletrace.Postrouting)
	if ns == nil || s.end.Bridged || s.end.Kind != path.Left && !forwarded && !s.unclaimed(s.end.Tuple.Dst) {
		return nil
	}
	for _, stay := range slices.Backward(staysOf(s.path.Hops)) {
		if stay.netns != ns.Name {
			continue
		}
		t := s.end.Tuple
		d := &detour{ns: ns, query: topology.Query{
			Source: stay.source, Target: t.Dst, Ingress: stay.in, Mark: s.end.Mark, Proto: t.Proto, SourcePort: t.SrcPort, TargetPort: t.DstPort,
		}}
		d.decision = ns.Lookup(d.query)
		hops := d.decision.NextHops()
		if s.end.Kind == path.Left && (len(hops) != 1 || hops[0].Interface != stay.out) {
			return nil // not as it went
		}
		if forwarded && !s.end.Policy && (len(hops) != 1 || !speaksOf(s.end.Rule.Text, hops[0].Interface)) {
			return nil // the rule drops it wherever it goes
		}
		return d
	}
	return nil
}

// speaksOf reports whether a rule's text has the name of an interface.
func speaksOf(text, iface string) bool {
	return slices.ContainsFunc(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \",{}", r) }), func(word string) bool { return word == iface })
}

// wayBack is the decision for which rp_filter dropped the packet.
func (s *scene) wayBack() *detour {
	ns := s.now(s.end.NetNS)
	if ns == nil || s.end.WayBack == "" {
		return nil
	}
	in := ns.Link(s.end.Interface)
	if bridge := bridgeOf(ns, s.end.Interface); bridge != nil {
		in = bridge
	}
	if in == nil { // it is gone by now
		return nil
	}
	return reverse(ns, in, s.end.Tuple.Src, s.end.Tuple.Dst)
}

// gatewayDeaf is the decision for which rp_filter takes what asks for the
// hardware address of the next hop for forged.
func (s *scene) gatewayDeaf() *detour {
	o := s.outlook()
	if o == nil || o.owner == nil || o.owner == o.ns || o.owner != o.far || !o.next.Is4() || !s.unspoken(o) {
		return nil
	}
	asker := o.query.Source
	if !asker.IsValid() {
		asker = ownAddress(o.link, o.next)
	}
	in := o.owner.Local(o.next)
	if !asker.IsValid() || in != o.farLink && in.Name != o.farLink.Bridge || max(o.owner.All.RPFilter, in.Settings.RPFilter) != 1 {
		return nil
	}
	d := reverse(o.owner, in, asker, o.next)
	d.asked = true
	if hops := d.decision.NextHops(); len(hops) != 1 || hops[0].Interface == in.Name {
		return nil
	}
	return d
}

func reverse(ns *topology.Namespace, in *topology.Link, source, target netip.Addr) *detour {
	d := &detour{ns: ns, back: true, in: in, query: topology.Query{Source: target, Target: source}}
	d.decision = ns.Lookup(d.query)
	return d
}

// by says which route, and which policy rule, lead the packet where it went.
func (d *detour) by() string {
	text := fmt.Sprintf("the route %q", d.decision.Route.Text)
	if p := d.decision.Policy; p != nil && p.Table != mainTable {
		text += fmt.Sprintf(", which the policy rule %q asks for first", p.Text)
	}
	return text
}

// evidence are the route and the policy rule.
func (d *detour) evidence(s *scene) []string {
	ids := []string{s.fact("route", d.ns.Name, "%s", d.decision.Route.Text)}
	if p := d.decision.Policy; p != nil && p.Table != mainTable {
		ids = append(ids, s.fact("route", d.ns.Name, "policy rule %s", p.Text))
	}
	if d.back {
		ids = append(ids, s.fact("setting", d.ns.Name, "rp_filter of %s = %d (the larger of its own and that of all)", d.in.Name, max(d.ns.All.RPFilter, d.in.Settings.RPFilter)))
	}
	return ids
}

// everywhere reports whether a prefix is that of a default route, or one of the
// two that together stand for it.
func everywhere(p netip.Prefix) bool { return p.Bits() <= 1 }

// leads reports whether the packet would be led out of a link if the namespace
// had further routes and policy rules. Routes that the kernel would not take lead
// nowhere.
func (d *detour) leads(link string, routes []topology.Route, rules []topology.Policy) bool {
	ns := *d.ns
	if slices.ContainsFunc(routes, func(r topology.Route) bool { return exists(&ns, r) }) {
		return false
	}
	ns.Routes = slices.Concat(routes, ns.Routes)
	ns.Policy = slices.Concat(ns.Policy, rules)
	slices.SortStableFunc(ns.Policy, func(a, b topology.Policy) int { return cmp.Compare(a.Priority, b.Priority) })
	hops := ns.Lookup(d.query).NextHops()
	return len(hops) == 1 && hops[0].Interface == link
}

// exists reports whether a namespace has a route of the same prefix, table and
// metric: "ip route add" refuses a second one.
func exists(ns *topology.Namespace, r topology.Route) bool {
	metric := r.Metric
	if r.Destination.Addr().Is6() && metric == 0 {
		metric = 1024 // IP6_RT_PRIO_USER
	}
	return slices.ContainsFunc(ns.Routes, func(other topology.Route) bool {
		return other.Destination == r.Destination && other.Table == r.Table && other.Metric == metric && other.TOS == 0 && !other.From.IsValid()
	})
}

// first is a priority for a policy rule that is asked before all others but
// that for the local table; 0 when there is no room.
func (d *detour) first() int {
	lowest := 1000
	for _, p := range d.ns.Policy {
		if p.IPv6 == d.query.Target.Is6() && p.Priority > 0 {
			lowest = min(lowest, p.Priority-1)
		}
	}
	return lowest
}

// freeTable is the number of a routing table that nothing is in.
func (d *detour) freeTable() int {
	table := 1000
	for slices.ContainsFunc(d.ns.Routes, func(r topology.Route) bool { return r.Table == table }) ||
		slices.ContainsFunc(d.ns.Policy, func(p topology.Policy) bool { return p.Table == table }) {
		table++
	}
	return table
}

// way is one possible set of commands, and what they add.
type way struct {
	routes   []topology.Route
	rules    []topology.Policy
	commands []string
}

// open returns the commands of the first of several ways that leads the packet
// out of a link, by the rules of routing; none when there is none, or a
// name must not be written into a command.
func (s *scene) open(d *detour, link string, ways ...way) []string {
	for _, w := range ways {
		if d.leads(link, w.routes, w.rules) {
			return s.commands(d.ns.Name, []string{link}, w.commands...)
		}
	}
	return nil
}

// lookupRule is a policy rule that looks up what is for a prefix in a table.
func lookupRule(to netip.Prefix, table, priority int) topology.Policy {
	return topology.Policy{
		Priority: priority, IPv6: to.Addr().Is6(), Action: "lookup", Table: table, To: to, SuppressPrefix: -1, SuppressGroup: -1,
	}
}
