package diagnose

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// subnetOverlap: the packet, or the way back that rp_filter asks for, is for a
// machine in the network of one interface, and a route to another interface
// takes that network's addresses, or a part of them.
func subnetOverlap(s *scene) *cause {
	d := s.detour()
	if d == nil || d.home == nil || !s.livesBehind(d) {
		return nil
	}
	other, ok := d.overlap()
	if !ok {
		return nil
	}
	c := d.cause(s)
	c.code = SubnetOverlap
	common := fmt.Sprintf("%s and %s's network %s have addresses in common", other, d.home.Name, d.prefix.Masked())
	if other == d.prefix.Masked() {
		common = fmt.Sprintf("%s is %s's own network as well", other, d.home.Name)
	}
	c.summary += fmt.Sprintf(" %s, and for %s %s.", common, d.query.Target, d.why())
	c.evidence = append(c.evidence, s.fact("address", d.ns.Name, "%s has %s", d.home.Name, d.prefix))
	if c.fix = s.dropRoute(d); len(c.fix) > 0 {
		c.advice = fmt.Sprintf("That route is for %s alone. Unless it is meant, remove it:", d.query.Target)
		return c
	}
	c.advice = fmt.Sprintf("To lead what is for %s to %s again, until the next change of the other network:", d.prefix.Masked(), d.home.Name)
	c.fix = s.leadHome(d)
	advice, lines := Renumber(s.latest(), d.home, d.prefix)
	c.more = []report.Finding{{Code: SubnetOverlap, Severity: "error", Summary: advice, Fix: lines}}
	return c
}

// dropRoute is the command that removes a route for one address, where that leads
// the address home.
func (s *scene) dropRoute(d *detour) []string {
	r := d.decision.Route
	if !r.Destination.IsSingleIP() || r.Table != mainTable || r.Protocol == "kernel" {
		return nil
	}
	ns := *d.ns
	ns.Routes = slices.DeleteFunc(slices.Clone(ns.Routes), func(other topology.Route) bool { return other.Text == r.Text })
	hops := ns.Lookup(d.query).NextHops()
	if len(hops) != 1 || hops[0].Interface != d.home.Name {
		return nil
	}
	return s.commands(d.ns.Name, []string{r.Interface}, fmt.Sprintf("%s route del %s dev %s", ipCommand(d.query.Target), r.Destination, r.Interface))
}

// livesBehind reports whether the target is where its address says: a visible
// namespace at home's cable has it, or the flow's first packet came from it by
// that interface.
func (s *scene) livesBehind(d *detour) bool {
	if owner := s.now(s.ownerOf(d.query.Target)); owner != nil && s.adjacent(d.ns, d.home, owner) {
		return true
	}
	return d.back && d.in == d.home || slices.ContainsFunc(staysOf(s.in.Path.Request.Hops), func(st stay) bool {
		return st.netns == d.ns.Name && st.in == d.home.Name && st.source == d.query.Target
	})
}

// overlap is the prefix that the other network takes.
func (d *detour) overlap() (netip.Prefix, bool) {
	route, home := d.decision.Route.Destination, d.prefix.Masked()
	if !everywhere(route) && route.Overlaps(home) {
		return route, true
	}
	if p := d.decision.Policy; p != nil && p.To.IsValid() && !everywhere(p.To) && p.To.Overlaps(home) {
		return p.To, true
	}
	return netip.Prefix{}, false
}

// why says why the other network's route comes before home's.
func (d *detour) why() string {
	own := d.ownRoute()
	switch route, p := d.decision.Route, d.decision.Policy; {
	case own == nil:
		return fmt.Sprintf("%s has no route of its own that could come first", d.home.Name)
	case p != nil && p.Table != own.Table:
		return "that policy rule is asked first"
	case route.Destination.Bits() > own.Destination.Bits():
		return "the longer prefix comes first"
	}
	return "the route with the lower metric comes first"
}

// ownRoute is home's route for its own network, or nil.
func (d *detour) ownRoute() *topology.Route {
	i := slices.IndexFunc(d.ns.Routes, func(r topology.Route) bool {
		return r.Interface == d.home.Name && r.Type == "unicast" && r.Destination.Bits() > 1 && r.Destination.Contains(d.query.Target)
	})
	if i < 0 {
		return nil
	}
	return &d.ns.Routes[i]
}

// cause begins a cause with what the decision did to the packet.
func (d *detour) cause(s *scene) *cause {
	c := &cause{netns: d.ns.Name, iface: s.end.Interface, confidence: report.Reconstructed, mechanism: s.seen.Mechanism, evidence: d.evidence(s)}
	switch {
	case d.asked:
		c.outcome, c.iface = report.Unsent, d.in.Name
		c.summary = fmt.Sprintf("%s did not get to the gateway %s: %s takes what %s asks at %s for forged (rp_filter is 1 there), since the way back to it is by %s, because of %s.",
			s.what(), d.query.Source, the(d.ns.Name), d.query.Target, d.in.Name, d.taken.Name, d.by())
	case d.back:
		c.summary = fmt.Sprintf("%s came to %s at %s and went no further: rp_filter is 1 there, and the way back to its source %s is by %s, because of %s.",
			s.what(), the(d.ns.Name), d.in.Name, d.query.Target, d.taken.Name, d.by())
	case s.end.Kind == path.Dropped:
		c.byRule = true
		c.mechanism = fmt.Sprintf("dropped in %s by chain %s, which does not pass what goes there", s.end.Hook, chainOf(s.end.Rule))
		c.summary = fmt.Sprintf("%s was for %s, and %s was about to send it by %s, because of %s.", s.what(), d.query.Target, the(d.ns.Name), d.taken.Name, d.by())
	case s.end.Kind == path.Vanished:
		c.summary = fmt.Sprintf("%s was for %s, and %s was to send it by %s, where nobody has that address, because of %s.", s.what(), d.query.Target, the(d.ns.Name), d.taken.Name, d.by())
	default:
		c.summary = fmt.Sprintf("%s was for %s, and %s sent it by %s, because of %s.", s.what(), d.query.Target, the(d.ns.Name), d.taken.Name, d.by())
	}
	return c
}

// leadHome are the commands after which what is for home's network goes there:
// its own route, where that is enough, or a policy rule that comes first.
func (s *scene) leadHome(d *detour) []string {
	return s.open(d, d.home.Name, d.waysHome()...)
}

// LeadHome is leadHome for what a snapshot alone shows: the commands, to be run
// in the namespace, after which each of the packets that go astray is led to
// home, in whose network prefix they are. It is nil when there are none, or when
// home's name must not be written into a command.
func LeadHome(ns *topology.Namespace, home *topology.Link, prefix netip.Prefix, astray ...topology.Query) []string {
	if len(astray) == 0 || !plainName.MatchString(home.Name) {
		return nil
	}
	first := &detour{ns: ns, query: astray[0], home: home, prefix: prefix}
	for _, w := range first.waysHome() {
		if !slices.ContainsFunc(astray, func(q topology.Query) bool {
			d := &detour{ns: ns, query: q, home: home, prefix: prefix}
			return !d.leads(home.Name, w.routes, w.rules)
		}) {
			return w.commands
		}
	}
	return nil
}

func (d *detour) waysHome() []way {
	network, ip := d.prefix.Masked(), ipCommand(d.prefix.Addr())
	own := topology.Route{Destination: network, Interface: d.home.Name, Table: mainTable, Type: "unicast"}
	dev := fmt.Sprintf("%s dev %s src %s", network, d.home.Name, d.prefix.Addr())
	var ways []way
	if d.ownRoute() == nil {
		ways = append(ways, way{routes: []topology.Route{own}, commands: []string{fmt.Sprintf("%s route add %s", ip, dev)}})
	}
	if priority := d.first(); priority > 0 {
		aside := own
		aside.Table = d.freeTable()
		ways = append(ways,
			way{
				rules:    []topology.Policy{lookupRule(network, mainTable, priority)},
				commands: []string{fmt.Sprintf("%s rule add to %s lookup main priority %d", ip, network, priority)},
			},
			way{
				routes: []topology.Route{aside}, rules: []topology.Policy{lookupRule(network, aside.Table, priority)},
				commands: []string{
					fmt.Sprintf("%s route add %s table %d", ip, dev, aside.Table),
					fmt.Sprintf("%s rule add to %s lookup %d priority %d", ip, network, aside.Table, priority),
				},
			})
	}
	return ways
}

// routeGone: the route of an interface's own network is missing, so that the
// default route takes what is for the machines there.
func routeGone(s *scene) *cause {
	d := s.detour()
	if d == nil || d.back || d.home == nil || !s.livesBehind(d) || d.ownRoute() != nil || !everywhere(d.decision.Route.Destination) {
		return nil
	}
	c := d.cause(s)
	c.code = NoRoute
	c.summary += fmt.Sprintf(" %s has the address %s, and the route to its network is missing.", d.home.Name, d.prefix)
	c.evidence = append(c.evidence, s.fact("address", d.ns.Name, "%s has %s", d.home.Name, d.prefix))
	c.advice = "The kernel makes that route when the address is added; add it again:"
	c.fix = s.leadHome(d)
	return c
}

// twin is the finding that an address which nobody answers for in the network
// of one interface is in a network as well that a route leads elsewhere to:
// which of the two is meant is not known. It is nil when there is no such route.
func (s *scene) twin(target netip.Addr) []report.Finding {
	for i := range s.latest().Namespaces {
		ns := &s.latest().Namespaces[i]
		home, prefix := networkOf(ns, target)
		if home == nil {
			continue
		}
		for k := range ns.Routes {
			r := &ns.Routes[k]
			if r.Type != "unicast" || r.Interface == "" || r.Interface == home.Name || everywhere(r.Destination) || !r.Destination.Contains(target) {
				continue
			}
			advice, lines := Renumber(s.latest(), home, prefix)
			return []report.Finding{{
				Code: SubnetOverlap, Severity: "warning", Fix: lines,
				Summary: fmt.Sprintf("%s is in %s's network %s, and in %s as well, which %s reaches by %s. If it is the machine there that is meant, the two networks overlap. %s",
					target, home.Name, prefix.Masked(), r.Destination, the(ns.Name), r.Interface, advice),
			}}
		}
	}
	return nil
}

// networkOf is the interface in whose own network an address of somebody else
// is, and its address there; nil when there is none.
func networkOf(ns *topology.Namespace, target netip.Addr) (*topology.Link, netip.Prefix) {
	for i := range ns.Links {
		for _, p := range familyOf(&ns.Links[i], target) {
			if p.Contains(target) && !p.IsSingleIP() && p.Addr() != target {
				return &ns.Links[i], p
			}
		}
	}
	return nil, netip.Prefix{}
}

// userBridge is the name that Docker gives to the bridge of a network of a
// user's: the first 12 digits of the network's id.
var userBridge = regexp.MustCompile(`^br-[0-9a-f]{12}$`)

// Renumber says how a container network that overlaps another one gets
// addresses that nothing known in a snapshot has: the words, and lines for
// Docker's configuration where it is one of Docker's. taken are further prefixes
// that are not to be had.
func Renumber(s *topology.Snapshot, bridge *topology.Link, network netip.Prefix, taken ...netip.Prefix) (advice string, lines []string) {
	free := s.Free(24, taken...)
	if network.Addr().Is6() {
		free = s.FreeIPv6(taken...)
	}
	if !free.IsValid() {
		return fmt.Sprintf("To end it for good, give %s another network; everything private is taken here.", bridge.Name), nil
	}
	switch {
	case bridge.Name == "docker0" && network.Addr().Is4():
		return fmt.Sprintf("To end it for good, move Docker's default bridge to a network that nothing known here overlaps, %s for example. \"bip\" takes the bridge's own address. In /etc/docker/daemon.json, then restart Docker:", free),
			[]string{fmt.Sprintf(`"bip": "%s/%d"`, free.Addr().Next(), free.Bits())}
	case bridge.Name == "docker0":
		return fmt.Sprintf("To end it for good, move Docker's default bridge to a network that nothing known here overlaps, %s for example. In /etc/docker/daemon.json, then restart Docker:", free),
			[]string{fmt.Sprintf(`"fixed-cidr-v6": "%s"`, free)}
	case userBridge.MatchString(bridge.Name):
		id := strings.TrimPrefix(bridge.Name, "br-")
		return fmt.Sprintf("To end it for good, make that network again (docker network inspect %s tells its name) with addresses that nothing known here overlaps: docker network create --subnet %s NAME. For networks to come, in /etc/docker/daemon.json:", id, free),
			pools(s, free, taken)
	}
	return fmt.Sprintf("To end it for good, give %s a network that nothing known here overlaps, %s for example.", bridge.Name, free), nil
}

// pools is the line of daemon.json from which Docker takes networks: a /20 that
// is free beside another prefix.
func pools(s *topology.Snapshot, beside netip.Prefix, taken []netip.Prefix) []string {
	pool := s.Free(20, append(slices.Clone(taken), beside)...)
	if !pool.IsValid() || beside.Addr().Is6() {
		return nil
	}
	return []string{fmt.Sprintf(`"default-address-pools": [{"base": "%s", "size": 24}]`, pool)}
}
