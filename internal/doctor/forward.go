package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// routes looks for the ways out: that of each member, and that of the host.
func (e *exam) routes() {
	for i := range e.networks {
		n := &e.networks[i]
		for k := range n.members {
			e.defaultRoute(n, &n.members[k])
			e.gateway(n, &n.members[k])
		}
		m := n.served()
		if m == nil {
			continue
		}
		out, d := e.way(n, m)
		switch {
		case d.Undetermined:
			e.unchecked("the way out for %s: %s", n.prefix.Masked(), d.Why)
		case d.Route == nil && d.Policy == nil:
			e.noWayOut(m.address)
		case len(d.NextHops()) > 1:
			e.unchecked("the way out for %s: it has several next hops", n.prefix.Masked())
		case out != nil && out.Role == capture.RoleTunnel:
			e.find(report.Finding{
				Code: diagnose.VPNTakesTraffic, Severity: note,
				Summary:  fmt.Sprintf("What %s sends to the internet goes into the tunnel %s, by %s.", n.link.Name, out.Name, by(d)),
				Evidence: []string{e.fact("route", topology.HostName, "%s", d.Route.Text)},
			})
		}
	}
}

// noWayOut: the host has no default route. The kernel removes those of an
// interface that is set down, so that one that was set up to be used is why.
func (e *exam) noWayOut(a netip.Addr) {
	f := report.Finding{
		Code: diagnose.NoRoute, Severity: severe,
		Summary:  fmt.Sprintf("The host has no %s default route: what containers send to the internet goes no further.", family(a)),
		Evidence: []string{e.fact("route", topology.HostName, "no route to %s", e.internetOf(a))},
	}
	var down []*topology.Link
	for i := range e.host.Links {
		l := &e.host.Links[i]
		if !l.Up && l.Kind != "loopback" && l.Bridge == "" && diagnose.HasGlobal(l) && !slices.ContainsFunc(e.networks, func(n network) bool { return n.link == l }) {
			down = append(down, l)
		}
	}
	var fix []string
	if len(down) == 1 {
		f.Code = diagnose.LinkDown
		f.Summary += fmt.Sprintf(" %s, which has addresses, is down, and with it went the routes that lead out of it.", down[0].Name)
		fix = e.commands(topology.HostName, []string{down[0].Name}, fmt.Sprintf("ip link set dev %s up", down[0].Name))
		f.Evidence = append(f.Evidence, e.fact("link", topology.HostName, "%s: %s", down[0].Name, diagnose.StateOf(down[0])))
	}
	// The addresses of an interface that was set down are gone, too: only a host
	// that has IPv4 is known to be without IPv6.
	if a.Is6() && hasRoute(e.host, e.internet4) && !e.hasIPv6(netip.Addr.IsGlobalUnicast) {
		f, fix = report.Finding{
			Code: diagnose.NoRoute, Severity: note, Evidence: f.Evidence[:1],
			Summary: "The host has no IPv6 of its own: containers reach the internet by IPv4 only.",
		}, nil
	} else if a.Is6() && hasRoute(e.host, e.internet4) && !e.hasIPv6(isPublic) {
		f.Severity = warning
		f.Summary += " Its own IPv6 addresses are private, so there may be no other IPv6 than that of the LAN."
	}
	e.advise(f, "Then set its default route again:", fix)
}

// hasIPv6 reports whether the host has an IPv6 address of a kind, beside those of
// container networks and tunnels.
func (e *exam) hasIPv6(kind func(netip.Addr) bool) bool {
	return slices.ContainsFunc(e.host.Links, func(l topology.Link) bool {
		own := slices.ContainsFunc(e.networks, func(n network) bool { return n.link.Name == l.Name })
		return !own && l.Role != capture.RoleTunnel && slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && kind(p.Addr()) })
	})
}

// gateway looks for the machine that a member's default route leads to, where all
// that could have its address are visible.
func (e *exam) gateway(n *network, m *member) {
	hops := m.ns.Lookup(topology.Query{Source: m.address, Target: e.internetOf(m.address)}).NextHops()
	if len(hops) != 1 || hops[0].Interface != m.link.Name || !m.link.Up || !n.prefix.Contains(hops[0].Gateway) || !e.nobodyHas(hops[0].Gateway, m.ns, n.link) {
		return
	}
	for i := range e.host.Links {
		l := &e.host.Links[i]
		if l.Bridge == n.link.Name && (l.Peer == nil || e.in.Topology.Namespace(l.Peer.NetNS) == nil) {
			return
		}
	}
	e.advise(report.Finding{
		Code: diagnose.Neighbour, Severity: severe,
		Summary: fmt.Sprintf("The %s default route of %s leads to %s, and nobody behind %s has that address.", family(m.address), m.ns.Name, hops[0].Gateway, m.link.Name),
		Evidence: []string{
			e.fact("route", m.ns.Name, "%s goes to %s by %s", e.internetOf(m.address), hops[0].Gateway, m.link.Name),
			e.fact("address", topology.HostName, "%s has %s", n.link.Name, n.prefix),
		},
	}, "The host's is another:", e.commands(m.ns.Name, []string{m.link.Name},
		fmt.Sprintf("%s route replace default via %s dev %s", diagnose.IPCommand(m.address), n.prefix.Addr(), m.link.Name)))
}

// nobodyHas reports whether no visible namespace has an address, or answers for
// it at a link of the host's, and none of it was heard in a namespace.
func (e *exam) nobodyHas(a netip.Addr, ns *topology.Namespace, at *topology.Link) bool {
	if !a.IsValid() || a.IsLinkLocalUnicast() || at.Settings.ProxyARP || at.Settings.ProxyNDP || e.host.All.ProxyARP || e.host.All.ProxyNDP ||
		slices.ContainsFunc(e.host.Proxied, func(p topology.Proxied) bool { return p.Address == a }) {
		return false
	}
	for i := range e.in.Topology.Namespaces {
		if e.in.Topology.Namespaces[i].Local(a) != nil {
			return false
		}
	}
	return !slices.ContainsFunc(ns.Neighbours, func(n topology.Neighbour) bool { return n.Address == a && n.MAC != "" && n.State != "failed" })
}

// defaultRoute looks for the default route of a member. Networks that lead
// nowhere are made on purpose; where the host translates what comes from a
// network, it is meant to lead out.
func (e *exam) defaultRoute(n *network, m *member) {
	d := m.ns.Lookup(topology.Query{Source: m.address, Target: e.internetOf(m.address)})
	if d.Route != nil || d.Policy != nil || d.Undetermined || !m.link.Up || n.internal {
		return
	}
	f := report.Finding{
		Code: diagnose.NoDefaultRoute, Severity: note,
		Summary:  fmt.Sprintf("%s has no %s default route.", m.ns.Name, family(m.address)),
		Evidence: []string{e.fact("route", m.ns.Name, "no route to %s", e.internetOf(m.address))},
	}
	var fix []string
	if out := e.uplink(m.address); out != nil && e.translated(m, out) {
		f.Severity = severe
		fix = e.commands(m.ns.Name, []string{m.link.Name},
			fmt.Sprintf("%s route add default via %s dev %s", diagnose.IPCommand(m.address), n.prefix.Addr(), m.link.Name))
		f.Summary = fmt.Sprintf("%s has no %s default route, though the host translates what comes from its network: nothing that it sends to the internet leaves it.", m.ns.Name, family(m.address))
	}
	e.advise(f, "To add it:", fix)
}

// uplink is the interface of the host's default route; nil when there is none,
// or no single one.
func (e *exam) uplink(a netip.Addr) *topology.Link {
	hops := e.host.Lookup(topology.Query{Target: e.internetOf(a)}).NextHops()
	if len(hops) != 1 {
		return nil
	}
	return e.host.Link(hops[0].Interface)
}

// forwarding looks at the switches that let the host forward what comes from a
// network, and what comes back.
func (e *exam) forwarding() {
	for i := range e.networks {
		n := &e.networks[i]
		m := n.served()
		if m == nil && !e.meant(n) && (n.internal || !n.prefix.Addr().Is4() || len(n.members) > 0 || !bridgeName.MatchString(n.link.Name)) {
			continue
		}
		key := ""
		switch {
		case n.prefix.Addr().Is6() && !e.host.All.ForwardIPv6:
			key = "net.ipv6.conf.all.forwarding"
		case n.prefix.Addr().Is4() && !n.link.Settings.ForwardIPv4:
			if key = setting("ipv4", n.link.Name, "forwarding"); !e.host.All.ForwardIPv4 {
				key = "net.ipv4.ip_forward"
			}
		case m != nil && n.prefix.Addr().Is4():
			if out, _ := e.way(n, m); out != nil && !out.Settings.ForwardIPv4 {
				key = setting("ipv4", out.Name, "forwarding")
			}
		}
		if key == "" {
			continue
		}
		f := report.Finding{
			Code: diagnose.ForwardingOff, Severity: severe,
			Summary:  fmt.Sprintf("The host does not forward %s (%s = 0): containers reach nothing but the host.", family(n.prefix.Addr()), key),
			Evidence: []string{e.fact("setting", topology.HostName, "%s = 0", key)},
		}
		if m == nil {
			f.Severity = warning
			f.Summary = fmt.Sprintf("The host does not forward %s (%s = 0): containers that come to %s will reach nothing but the host.", family(n.prefix.Addr()), key, n.link.Name)
		}
		e.advise(f, "To forward:", e.commands(topology.HostName, []string{n.link.Name}, "sysctl -w "+key+"=1"))
	}
}

// meant reports whether the host translates what comes from a network that is
// not led out yet: it is to be.
func (e *exam) meant(n *network) bool {
	return slices.ContainsFunc(n.members, func(m member) bool {
		out := e.uplink(m.address)
		return out != nil && e.translated(&m, out)
	})
}

// filters asks the rules for what each network sends to the internet, for the
// answers, and for what a bridge passes between its ports.
func (e *exam) filters() {
	rules := e.in.Rules[topology.HostName]
	if reason := e.in.Unread[topology.HostName]; reason != "" || rules == nil {
		e.unchecked("%s", strings.TrimSpace("the rules of the host were not read completely: "+reason))
	}
	for i := range e.networks {
		n := &e.networks[i]
		m := n.served()
		if m == nil {
			continue
		}
		out, _ := e.way(n, m)
		if out == nil {
			continue
		}
		request := ruletrace.Class{IPv6: m.address.Is6(), Ingress: n.link.Name, Egress: out.Name, Source: m.address, State: "new"}
		answer := ruletrace.Class{IPv6: m.address.Is6(), Ingress: out.Name, Egress: n.link.Name, Target: m.address, State: "established"}
		if !e.blocked(rules, usual(request), fmt.Sprintf("What comes from %s and leaves by %s", n.link.Name, out.Name)) {
			e.blocked(rules, usual(answer), fmt.Sprintf("What comes back by %s for %s", out.Name, n.link.Name))
		}
	}
	for i := range e.host.Links {
		if link := &e.host.Links[i]; link.Kind == "bridge" && link.Up {
			e.between(link, rules)
		}
	}
}

// usual are the packets of a class that a container has most: connections to
// port 443 and 80, and pings. Where both of the former are lost nobody meant to
// let something else pass only: what firewalls accept first of all are pings.
func usual(c ruletrace.Class) []ruletrace.Class {
	var all []ruletrace.Class
	for _, port := range []uint16{443, 80} {
		web := c
		web.Proto, web.TargetPort = packet.TCP, port
		if c.State == "established" {
			web.TargetPort, web.SourcePort = 0, port
		}
		all = append(all, web)
	}
	ping := c
	if ping.Proto = packet.ICMP; c.IPv6 {
		ping.Proto = packet.ICMPv6
	}
	return append(all, ping)
}

// lost is the chain that no packet of a class gets through, and the place of it
// among all of the hook; -1 when there is none.
func lost(rules *ruletrace.Ruleset, class ruletrace.Class) ([]ruletrace.Course, int) {
	courses, _ := rules.Courses(ruletrace.Forward, class)
	return courses, slices.IndexFunc(courses, func(c ruletrace.Course) bool { return c.Lost() })
}

// blocked says which chain drops all packets of some classes, which usual gives.
func (e *exam) blocked(rules *ruletrace.Ruleset, classes []ruletrace.Class, what string) bool {
	which := "be it a connection to port 443 or 80 or a ping"
	for _, class := range classes {
		if _, at := lost(rules, class); at < 0 && class.Proto == packet.TCP {
			return false
		} else if at < 0 {
			which = "be it a connection to port 443 or 80; pings may pass"
		}
	}
	courses, i := lost(rules, classes[0])
	c := &courses[i]
	end := decisive(c)
	f := report.Finding{Code: diagnose.FilterDrop, Severity: severe, Evidence: []string{e.fact("rule", topology.HostName, "%s %s: %s", end.Rule.Backend, chainOf(&end.Rule), end.Rule.Text)}}
	switch {
	case end.Policy:
		f.Code = diagnose.FilterPolicyDrop
		f.Summary = fmt.Sprintf("%s is dropped by the policy of chain %s: no rule there accepts it, %s.", what, chainOf(&end.Rule), which)
	case end.Verdict == ruletrace.Reject:
		f.Code = diagnose.FilterRejected
		f.Summary = fmt.Sprintf("%s is rejected by a rule of chain %s (%s), %s.%s", what, chainOf(&end.Rule), end.Rule.Text, which, e.belongs(&end.Rule))
	default:
		f.Summary = fmt.Sprintf("%s is dropped by a rule of chain %s (%s), %s.%s", what, chainOf(&end.Rule), end.Rule.Text, which, e.belongs(&end.Rule))
	}
	for k := range courses {
		if r := courses[k].Accepts(); r != nil && k != i {
			f.Code = diagnose.ShadowedAccept
			f.Summary += fmt.Sprintf(" That chain is %s's; that of %s, %s, accepts it, which does not count: a packet has to pass both.",
				tool(rules, &c.Base), tool(rules, &courses[k].Base), chainOf(r))
			f.Evidence = append(f.Evidence, e.fact("rule", topology.HostName, "%s %s: %s", r.Backend, chainOf(r), r.Text))
			break
		}
	}
	e.advise(f, "If it is meant to pass:", e.accept(end, classes[0]))
	return true
}

// decisive is the end that is told of a chain that nothing gets through: the
// one that is met last, which nothing escapes.
func decisive(c *ruletrace.Course) *ruletrace.End { return &c.Ends[len(c.Ends)-1] }

func chainOf(r *ruletrace.Rule) string { return fmt.Sprintf("%s %s %s", r.Family, r.Table, r.Chain) }

// tool is who writes the rules of a table, by the names that firewalls use.
func tool(rules *ruletrace.Ruleset, base *ruletrace.BaseChain) string {
	if base.Table == "firewalld" {
		return "firewalld"
	}
	for i := range rules.Chains {
		c := &rules.Chains[i]
		if c.Family == base.Family && c.Table == base.Table && c.Backend == base.Backend {
			if name, _, found := strings.Cut(c.Name, "-"); found && strings.Trim(name, "6") == "ufw" {
				return "ufw"
			}
		}
	}
	return string(base.Backend)
}

// accept are the commands that let a class, and the answers to it, pass: in
// DOCKER-USER where Docker drops, else before a rule that drops, behind all others
// where the policy drops.
func (e *exam) accept(end *ruletrace.End, class ruletrace.Class) []string {
	r := &end.Rule
	names := []string{r.Table, r.Chain, class.Ingress, class.Egress}
	state := class.State == "established"
	if r.Backend == ruletrace.NFT {
		match := fmt.Sprintf("iifname %s oifname %s", class.Ingress, class.Egress)
		answer := fmt.Sprintf("iifname %s oifname %s ct state established,related", class.Egress, class.Ingress)
		if state {
			match += " ct state established,related"
		}
		if !end.Policy {
			return e.commands(topology.HostName, names, fmt.Sprintf("nft insert rule %s %s %s handle %d %s accept", r.Family, r.Table, r.Chain, r.Handle, match))
		}
		lines := []string{fmt.Sprintf("nft add rule %s %s %s %s accept", r.Family, r.Table, r.Chain, match)}
		if !state {
			lines = append(lines, fmt.Sprintf("nft add rule %s %s %s %s accept", r.Family, r.Table, r.Chain, answer))
		}
		return e.commands(topology.HostName, names, lines...)
	}
	command := "iptables" + strings.TrimPrefix(string(r.Backend), "iptables")
	if r.Family == "ip6" {
		command = "ip6tables" + strings.TrimPrefix(string(r.Backend), "iptables")
	}
	if r.Table != "filter" {
		command += " -t " + r.Table
	}
	const states = " -m conntrack --ctstate RELATED,ESTABLISHED"
	match := fmt.Sprintf("-i %s -o %s", class.Ingress, class.Egress)
	answer := fmt.Sprintf("-i %s -o %s%s", class.Egress, class.Ingress, states)
	if state {
		match += states
	}
	place, user := "-A "+r.Chain, e.users(end)
	switch {
	case user != "":
		place = "-I " + user
	case !end.Policy:
		return e.commands(topology.HostName, names, fmt.Sprintf("%s -I %s %d %s -j ACCEPT", command, r.Chain, r.Number, match))
	}
	lines := []string{fmt.Sprintf("%s %s %s -j ACCEPT", command, place, match)}
	if !state {
		lines = append(lines, fmt.Sprintf("%s %s %s -j ACCEPT", command, place, answer))
	}
	return e.commands(topology.HostName, names, lines...)
}

// between asks the rules for what a bridge passes from one of its ports to
// another, where br_netfilter has them asked.
func (e *exam) between(bridge *topology.Link, rules *ruletrace.Ruleset) {
	a, b := e.pair(bridge)
	called, key := e.host.BridgeNF.IPv4, "net.bridge.bridge-nf-call-iptables"
	if a.Is6() {
		called, key = e.host.BridgeNF.IPv6, "net.bridge.bridge-nf-call-ip6tables"
	}
	if !called || !b.IsValid() {
		return
	}
	courses, i := lost(rules, ruletrace.Class{IPv6: a.Is6(), Ingress: bridge.Name, Egress: bridge.Name, Source: a, Target: b, State: "new"})
	if i < 0 {
		return
	}
	end := decisive(&courses[i])
	f := report.Finding{
		Code: diagnose.BridgeFiltered, Severity: note,
		Summary: fmt.Sprintf("What %s passes between its own ports is dropped by chain %s (%s), which sees it because %s is 1.%s", bridge.Name, chainOf(&end.Rule), end.Rule.Text, key, e.belongs(&end.Rule)),
		Evidence: []string{
			e.fact("setting", topology.HostName, "%s = 1", key),
			e.fact("rule", topology.HostName, "%s %s: %s", end.Rule.Backend, chainOf(&end.Rule), end.Rule.Text),
		},
	}
	var fix []string
	if end.Policy {
		f.Severity = warning
		fix = e.commands(topology.HostName, nil, "sysctl -w "+key+"=0")
	}
	e.advise(f, "If only bridging is meant:", fix)
}

// pair are addresses of two namespaces behind a bridge that are in one network;
// invalid when there are none.
func (e *exam) pair(bridge *topology.Link) (a, b netip.Addr) {
	behind := e.behind(bridge)
	for i, one := range behind {
		for _, p := range one.link.Addresses {
			for _, other := range behind[i+1:] {
				for _, q := range other.link.Addresses {
					if p.Contains(q.Addr()) && !p.Addr().IsLinkLocalUnicast() && p.Addr() != q.Addr() {
						return p.Addr(), q.Addr()
					}
				}
			}
		}
	}
	return netip.Addr{}, netip.Addr{}
}

// translations looks for private networks whose addresses leave as they are.
func (e *exam) translations() {
	if reason := e.in.Unread[topology.HostName]; reason != "" || e.in.Rules[topology.HostName] == nil {
		e.unchecked("%s", strings.TrimSpace("the rules of the host were not read completely: "+reason))
		return
	}
	for i := range e.networks {
		n := &e.networks[i]
		m := n.served()
		if m == nil || !n.prefix.Addr().IsPrivate() {
			continue
		}
		if out, d := e.way(n, m); out != nil && !e.translated(m, out) {
			e.untranslated(n, m, out, d)
		}
	}
}

// translated reports whether a rule may change the source of what a member sends
// to the internet.
func (e *exam) translated(m *member, out *topology.Link) bool {
	rules := e.in.Rules[topology.HostName]
	courses, known := rules.Courses(ruletrace.Postrouting, ruletrace.Class{
		IPv6: m.address.Is6(), Egress: out.Name, Source: m.address, State: "new",
	})
	return !known || slices.ContainsFunc(courses, func(c ruletrace.Course) bool {
		return slices.ContainsFunc(c.Ends, func(end ruletrace.End) bool {
			return end.Translation != "" || end.Verdict == ruletrace.VerdictUnknown
		})
	})
}

// untranslated says what becomes of answers to private addresses: who is next
// has no way back, or is not visible and may have one, for networks may be routed
// on purpose. Docker's are not, unless it was told so.
func (e *exam) untranslated(n *network, m *member, out *topology.Link, d topology.Decision) {
	gateway := d.NextHops()[0].Gateway
	f := report.Finding{
		Code: diagnose.NATMissing, Severity: warning,
		Summary: fmt.Sprintf("No rule of the host translates what comes from %s (%s) and leaves by %s: it leaves with private addresses, to which answers from the internet find no way.", n.prefix.Masked(), n.link.Name, out.Name),
		Evidence: []string{
			e.fact("route", topology.HostName, "%s", d.Route.Text),
			e.fact("address", topology.HostName, "%s has %s", n.link.Name, n.prefix),
		},
	}
	next, known := e.nextHop(out, gateway)
	switch {
	case n.docker != nil && n.docker.Unmasked:
		f.Severity = note
		f.Summary = fmt.Sprintf("Docker's network %q is made without masquerading: what comes from %s leaves by %s with its own addresses. All behind %s need a route to it.", n.docker.Name, n.prefix.Masked(), out.Name, out.Name)
	case known && e.knowsBack(next, m.address):
		return
	case known:
		f.Severity = severe
		f.Summary += fmt.Sprintf(" The next on the way, %s, has no route back to it.", next.Name)
	case out.Role == capture.RoleTunnel:
		f.Summary += " Who is at the other end of the tunnel may know them."
	case m.address.Is6() && !hasPublic(out):
		f.Summary += fmt.Sprintf(" %s has no public address either, so a router out there translates prefixes: it has to translate this one as well, and to know the way back to it.", out.Name)
	case e.in.Docker.masquerades(n):
		f.Severity = severe
		f.Summary += " Docker makes such a rule for each of its networks: it was removed."
	default:
		f.Summary += fmt.Sprintf(" A router behind %s may know them, if the network is routed on purpose.", out.Name)
	}
	var fix []string
	if f.Severity != note {
		fix = e.masquerade(n, out)
	}
	e.advise(f, "To translate:", fix)
}

// nextHop is the visible namespace behind a way out that has the gateway.
func (e *exam) nextHop(out *topology.Link, gateway netip.Addr) (*topology.Namespace, bool) {
	if !gateway.IsValid() {
		return nil, false
	}
	for _, far := range e.behind(out) {
		if slices.ContainsFunc(far.link.Addresses, func(p netip.Prefix) bool { return p.Addr() == gateway.WithZone("") }) {
			return far.ns, true
		}
	}
	return nil, false
}

// knowsBack reports whether a namespace sends what is for an address to the host.
func (e *exam) knowsBack(ns *topology.Namespace, a netip.Addr) bool {
	d := ns.Lookup(topology.Query{Target: a})
	return d.Undetermined || slices.ContainsFunc(d.NextHops(), func(h topology.NextHop) bool {
		link := ns.Link(h.Interface)
		return link != nil && link.Peer != nil && link.Peer.NetNS == topology.HostName
	})
}

func hasPublic(link *topology.Link) bool {
	return slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && isPublic(p.Addr()) })
}

func isPublic(a netip.Addr) bool { return a.IsGlobalUnicast() && !a.IsPrivate() }

// masquerade are the commands that translate a network's sources, in the syntax
// of the rules that are there.
func (e *exam) masquerade(n *network, out *topology.Link) []string {
	network, family, command := n.prefix.Masked(), "ip", "iptables"
	if network.Addr().Is6() {
		family, command = "ip6", "ip6tables"
	}
	backend := ruletrace.NFT
	match := fmt.Sprintf("%s saddr %s oifname %s masquerade", family, network, out.Name)
	for _, c := range e.in.Rules[topology.HostName].Chains {
		if !c.Base || c.Family != family && c.Family != "inet" || !diagnose.PlainName(c.Table) || !diagnose.PlainName(c.Name) {
			continue
		}
		if c.Backend != ruletrace.NFT {
			backend = c.Backend
			if c.Table == "nat" && c.Hook == ruletrace.Postrouting {
				break
			}
		} else if c.Type == "nat" && c.Hook == ruletrace.Postrouting {
			return e.commands(topology.HostName, []string{out.Name}, fmt.Sprintf("nft insert rule %s %s %s %s", c.Family, c.Table, c.Name, match))
		}
	}
	if backend != ruletrace.NFT {
		return e.commands(topology.HostName, []string{out.Name}, fmt.Sprintf("%s%s -t nat -I POSTROUTING -s %s -o %s -j MASQUERADE",
			command, strings.TrimPrefix(string(backend), "iptables"), network, out.Name))
	}
	return e.commands(topology.HostName, []string{out.Name},
		fmt.Sprintf("nft add table %s nat", family),
		fmt.Sprintf("nft add chain %s nat postrouting '{ type nat hook postrouting priority srcnat; }'", family),
		fmt.Sprintf("nft add rule %s nat postrouting %s", family, match))
}

// tools looks for rules of legacy iptables beside those of nftables.
func (e *exam) tools() {
	for _, ns := range e.in.Topology.Namespaces {
		rules := e.in.Rules[ns.Name]
		if rules == nil {
			continue
		}
		legacy, other := first(rules, true), first(rules, false)
		if legacy == nil || other == nil {
			continue
		}
		severity := note
		for _, hook := range []ruletrace.Hook{ruletrace.Input, ruletrace.Forward, ruletrace.Output} {
			if filters(rules, hook, true) && filters(rules, hook, false) {
				severity = warning
			}
		}
		e.find(report.Finding{
			Code: LegacyBesideNFT, Severity: severity,
			Summary: fmt.Sprintf("%s has rules of iptables-legacy and of %s. A packet has to pass both, and \"iptables-legacy -S\" and \"nft list ruleset\" each show one half.", upper(diagnose.The(ns.Name)), other.Backend),
			Evidence: []string{
				e.fact("rule", ns.Name, "%s %s: %s", legacy.Backend, chainOf(legacy), legacy.Text),
				e.fact("rule", ns.Name, "%s %s: %s", other.Backend, chainOf(other), other.Text),
			},
		})
	}
}

// first is the first rule of legacy iptables, or of others.
func first(rules *ruletrace.Ruleset, legacy bool) *ruletrace.Rule {
	for i := range rules.Chains {
		if c := &rules.Chains[i]; (c.Backend == ruletrace.IPTablesLegacy) == legacy && len(c.Rules) > 0 {
			return &c.Rules[0]
		}
	}
	return nil
}

// filters reports whether legacy iptables, or others, filter in a hook.
func filters(rules *ruletrace.Ruleset, hook ruletrace.Hook, legacy bool) bool {
	return slices.ContainsFunc(rules.Chains, func(c ruletrace.Chain) bool {
		return c.Base && c.Hook == hook && c.Type == "filter" && (c.Backend == ruletrace.IPTablesLegacy) == legacy &&
			(len(c.Rules) > 0 || c.Policy == ruletrace.Drop)
	})
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
