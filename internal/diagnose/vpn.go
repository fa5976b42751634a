package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
)

// vpnTakes: a route or a policy rule led the packet into a tunnel, or would lead
// its answer there so that rp_filter refused it, the flow failed, and without the
// tunnel the packet would have gone another way on which it may be answered. What
// is private and goes nowhere else is the VPN's. Of a request that nobody answered
// it is not known whether it would be answered there.
func vpnTakes(s *scene) *cause {
	d := s.detour()
	if d == nil || d.taken.Role != capture.RoleTunnel || d.taken.Overlay || !d.back && s.seen.Code != NoReply && s.seen.Code != ReplyLostHere && s.end.Kind != path.Dropped {
		return nil
	}
	other := d.without(d.taken.Name)
	link, gateway := d.leaves(other)
	if d.back && link != d.in {
		return nil
	}
	if link == nil || !d.back && everywhere(other.Route.Destination) && !global(d.query.Target) && !s.cameBy(d.ns.Name, link.Name) {
		return nil
	}
	c := d.cause(s)
	c.code = VPNTakesTraffic
	if s.seen.Code == NoReply {
		c.severity = "warning"
		c.summary += fmt.Sprintf(" No answer came back within %s.", s.in.Waited)
	}
	c.summary += fmt.Sprintf(" Without that it would %s %s (%s).", map[bool]string{true: "be by", false: "go by"}[d.back], link.Name, other.Route.Text)
	c.evidence = append(c.evidence, s.fact("route", d.ns.Name, "%s", other.Route.Text))
	c.advice = fmt.Sprintf("If the VPN is meant to carry this, look for it at the other end of %s. If not, lead it past the VPN:", d.taken.Name)
	c.fix = s.leadPast(d, other, link, gateway)
	return c
}

// without is the decision if the link had no routes.
func (d *detour) without(link string) topology.Decision {
	ns := *d.ns
	ns.Routes = slices.DeleteFunc(slices.Clone(ns.Routes), func(r topology.Route) bool { return r.Interface == link })
	return ns.Lookup(d.query)
}

// leaves is the only interface, up and with a carrier, by which a decision leads
// out, and its gateway; nil when there is none.
func (d *detour) leaves(by topology.Decision) (*topology.Link, netip.Addr) {
	hops := by.NextHops()
	if len(hops) != 1 || by.Undetermined {
		return nil, netip.Addr{}
	}
	link := d.ns.Link(hops[0].Interface)
	if link == nil || !link.Up || !link.Carrier || link.Role == capture.RoleTunnel {
		return nil, netip.Addr{}
	}
	return link, hops[0].Gateway
}

// cameBy reports whether the request came into a namespace by an interface.
func (s *scene) cameBy(netns, link string) bool {
	return s.leg == "reply" && slices.ContainsFunc(staysOf(s.in.Path.Request.Hops), func(st stay) bool { return st.netns == netns && st.in == link })
}

// leadPast are the commands after which what is for the target goes by another
// link: a route for it alone, or a policy rule that comes first.
func (s *scene) leadPast(d *detour, other topology.Decision, link *topology.Link, gateway netip.Addr) []string {
	target, ip := netip.PrefixFrom(d.query.Target, d.query.Target.BitLen()), ipCommand(d.query.Target)
	route := topology.Route{Destination: target, Gateway: gateway, Interface: link.Name, Table: mainTable, Type: "unicast"}
	via := fmt.Sprintf("%s dev %s", d.query.Target, link.Name)
	if gateway.IsValid() {
		via = fmt.Sprintf("%s via %s dev %s", d.query.Target, gateway, link.Name)
	}
	ways := []way{{routes: []topology.Route{route}, commands: []string{fmt.Sprintf("%s route add %s", ip, via)}}}
	if priority := d.first(); priority > 0 {
		aside := route
		aside.Table = d.freeTable()
		ways = append(ways,
			way{
				rules:    []topology.Policy{lookupRule(target, other.Route.Table, priority)},
				commands: []string{fmt.Sprintf("%s rule add to %s lookup %s priority %d", ip, d.query.Target, tableName(other.Route.Table), priority)},
			},
			way{
				routes: []topology.Route{aside}, rules: []topology.Policy{lookupRule(target, aside.Table, priority)},
				commands: []string{
					fmt.Sprintf("%s route add %s table %d", ip, via, aside.Table),
					fmt.Sprintf("%s rule add to %s lookup %d priority %d", ip, d.query.Target, aside.Table, priority),
				},
			})
	}
	return s.open(d, link.Name, ways...)
}

// tableName is a routing table as ip-rule(8) takes it.
func tableName(table int) string {
	if table == mainTable {
		return "main"
	}
	return fmt.Sprint(table)
}
