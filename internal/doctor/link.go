package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// links looks at bridges, their ports, the ways out and the members' own
// interfaces.
func (e *exam) links() {
	for i := range e.host.Links {
		link := &e.host.Links[i]
		switch {
		case link.Kind == "bridge":
			e.bridge(link)
		case link.Bridge != "":
			e.port(link)
		case link.Up && link.Carrier:
		case e.isWayOut(link):
			e.dead(e.host, link, severe, "the host's way to the internet is by it")
		case e.leadsOut(link):
			e.dead(e.host, link, warning, "a default route by it waits in vain for the one that is used to fail")
		}
	}
	for i := range e.networks {
		n := &e.networks[i]
		if n.link.Kind != "bridge" && !n.link.Up {
			e.dead(e.host, n.link, severe, "it is the way of "+n.members[0].ns.Name)
		}
	}
	for i := range e.in.Topology.Namespaces {
		if ns := &e.in.Topology.Namespaces[i]; ns != e.host {
			e.member(ns)
		}
	}
}

// isWayOut reports whether what is for the internet goes by a link, from the host
// or from a network that it serves.
func (e *exam) isWayOut(link *topology.Link) bool {
	if link.Role == capture.RoleTunnel {
		return false
	}
	by := func(d topology.Decision) bool {
		return !d.Undetermined && slices.ContainsFunc(d.NextHops(), func(h topology.NextHop) bool { return h.Interface == link.Name })
	}
	return by(e.host.Lookup(topology.Query{Target: e.internet4})) || by(e.host.Lookup(topology.Query{Target: e.internet6})) ||
		slices.ContainsFunc(e.networks, func(n network) bool {
			m := n.served()
			if m == nil {
				return false
			}
			_, d := e.way(&n, m)
			return by(d)
		})
}

// leadsOut reports whether a default route goes by a link; not its role, which
// asks for a route that can be used.
func (e *exam) leadsOut(link *topology.Link) bool {
	return slices.ContainsFunc(e.host.Routes, func(r topology.Route) bool {
		return r.Destination.Bits() == 0 && r.Type == "unicast" && r.Interface == link.Name && link.Role != capture.RoleTunnel
	})
}

func (e *exam) bridge(link *topology.Link) {
	ports := slices.ContainsFunc(e.host.Links, func(l topology.Link) bool { return l.Bridge == link.Name })
	switch {
	case !link.Up && ports:
		e.dead(e.host, link, severe, "nothing gets through any of its ports")
	case !link.Up && diagnose.HasGlobal(link):
		e.dead(e.host, link, warning, "a container that comes to it has no gateway")
	case link.Up && !link.Carrier && diagnose.HasGlobal(link):
		e.find(report.Finding{
			Code: diagnose.LinkDown, Severity: note,
			Summary:  fmt.Sprintf("The bridge %s has no carrier, since none of its ports is up. That is so until a container is there; until then its IPv6 addresses are tentative.", link.Name),
			Evidence: []string{e.fact("link", topology.HostName, "%s: %s", link.Name, diagnose.StateOf(link))},
		})
	}
}

func (e *exam) port(link *topology.Link) {
	bridge := e.host.Link(link.Bridge)
	if bridge == nil || !bridge.Up {
		return
	}
	switch state := portState(link); {
	case !link.Up && link.Peer != nil:
		e.dead(e.host, link, severe, "nothing gets through it to "+behindPort(link))
	case !link.Up || !link.Carrier:
	case state == "listening" || state == "learning" || state == "disabled":
		e.advise(report.Finding{
			Code: diagnose.PortBlocked, Severity: severe,
			Summary:  fmt.Sprintf("The port %s of %s is %s, and only a forwarding port passes packets. The spanning tree lets it forward after twice the forward delay, 30 s unless set.", link.Name, link.Bridge, state),
			Evidence: []string{e.fact("link", topology.HostName, "%s: %s", link.Name, diagnose.StateOf(link))},
		}, "To let it at once:", e.commands(topology.HostName, []string{link.Name}, fmt.Sprintf("ip link set dev %s type bridge_slave state 3", link.Name)))
	case state == "blocking":
		e.find(report.Finding{
			Code: diagnose.PortBlocked, Severity: note,
			Summary:  fmt.Sprintf("The spanning tree blocks the port %s of %s: it found a second way to the same place.", link.Name, link.Bridge),
			Evidence: []string{e.fact("link", topology.HostName, "%s: %s", link.Name, diagnose.StateOf(link))},
		})
	}
	e.addressOnPort(link, bridge)
}

func portState(link *topology.Link) string {
	if link.Port == nil {
		return ""
	}
	return link.Port.State
}

func behindPort(link *topology.Link) string {
	if link.Peer.NetNS == "" {
		return "the other end"
	}
	return link.Peer.NetNS
}

// addressOnPort: what comes in by a port goes to the bridge, which does not
// answer for the port's addresses.
func (e *exam) addressOnPort(port, bridge *topology.Link) {
	for _, p := range port.Addresses {
		if p.Addr().IsLinkLocalUnicast() {
			continue
		}
		severity := severe
		if slices.ContainsFunc(bridge.Addresses, func(b netip.Prefix) bool {
			return b.Addr().Is4() == p.Addr().Is4() && !b.Addr().IsLinkLocalUnicast()
		}) {
			severity = warning // the bridge works with its own
		}
		e.advise(report.Finding{
			Code: diagnose.AddressOnPort, Severity: severity,
			Summary:  fmt.Sprintf("The address %s is that of %s, a port of the bridge %s: what comes in by a port goes to the bridge, which does not answer for it.", p, port.Name, bridge.Name),
			Evidence: []string{e.fact("address", topology.HostName, "%s has %s", port.Name, p), e.fact("link", topology.HostName, "%s: %s", port.Name, diagnose.StateOf(port))},
		}, "To move it to the bridge:", e.commands(topology.HostName, []string{port.Name, bridge.Name},
			fmt.Sprintf("ip addr del %s dev %s", p, port.Name), fmt.Sprintf("ip addr add %s dev %s", p, bridge.Name)))
	}
}

// member looks at the interfaces by which a namespace is connected to the host.
func (e *exam) member(ns *topology.Namespace) {
	for i := range ns.Links {
		link := &ns.Links[i]
		if link.Peer == nil || link.Peer.NetNS != topology.HostName {
			continue
		}
		far := e.host.Link(link.Peer.Interface)
		if !link.Up {
			severity, matter := severe, "it is the way from "+ns.Name+" to the host"
			if slices.ContainsFunc(ns.Links, func(l topology.Link) bool { return l.Up && l.Kind != "loopback" }) {
				severity, matter = warning, ns.Name+" has another one that is up"
			}
			e.dead(ns, link, severity, matter)
		} else if far != nil && far.Kind == "veth" && far.Bridge == "" && far.Up && !diagnose.HasGlobal(far) && diagnose.HasGlobal(link) {
			e.stray(ns, link, far)
			e.withoutAddress(ns, link, far)
		}
	}
}

// stray: the host's end of a pair has no address and is no port, while a bridge
// has the network that the other end is in. Where the host leads the other end's
// address by the pair, this is how it is connected (LXD's routed, Calico).
func (e *exam) stray(ns *topology.Namespace, link, far *topology.Link) {
	for i := range e.host.Links {
		bridge := &e.host.Links[i]
		at := slices.IndexFunc(bridge.Addresses, func(home netip.Prefix) bool {
			return bridge.Kind == "bridge" && !home.Addr().IsLinkLocalUnicast() &&
				slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return home.Contains(p.Addr()) && !e.routedBy(far, p.Addr()) })
		})
		if at < 0 {
			continue
		}
		e.advise(report.Finding{
			Code: diagnose.LinkDown, Severity: severe,
			Summary:  fmt.Sprintf("%s, which leads to %s, is not a port of %s, whose network %s is in.", far.Name, ns.Name, bridge.Name, ns.Name),
			Evidence: []string{e.fact("link", topology.HostName, "%s: %s", far.Name, diagnose.StateOf(far)), e.fact("address", topology.HostName, "%s has %s", bridge.Name, bridge.Addresses[at])},
		}, "To make it one:", e.commands(topology.HostName, []string{far.Name, bridge.Name}, fmt.Sprintf("ip link set dev %s master %s", far.Name, bridge.Name)))
		return
	}
}

// routedBy reports whether the host may lead what is for an address by a link.
func (e *exam) routedBy(link *topology.Link, a netip.Addr) bool {
	d := e.host.Lookup(topology.Query{Target: a})
	return d.Undetermined || slices.ContainsFunc(d.NextHops(), func(h topology.NextHop) bool { return h.Interface == link.Name })
}

// withoutAddress: the host's end of a pair has no address, and the other end
// takes the host for its gateway.
func (e *exam) withoutAddress(ns *topology.Namespace, link, far *topology.Link) {
	for _, p := range link.Addresses {
		hops := ns.Lookup(topology.Query{Source: p.Addr(), Target: e.internetOf(p.Addr())}).NextHops()
		if len(hops) != 1 || hops[0].Interface != link.Name || !p.Contains(hops[0].Gateway) || !e.nobodyHas(hops[0].Gateway, ns, far) {
			continue
		}
		e.advise(report.Finding{
			Code: diagnose.Neighbour, Severity: severe,
			Summary: fmt.Sprintf("The default route of %s leads to %s, and %s of the host, at the other end, has no address.", ns.Name, hops[0].Gateway, far.Name),
			Evidence: []string{
				e.fact("route", ns.Name, "%s goes to %s by %s", e.internetOf(p.Addr()), hops[0].Gateway, link.Name),
				e.fact("link", topology.HostName, "%s: %s, no address", far.Name, diagnose.StateOf(far)),
			},
		}, "To give it that one:", e.commands(topology.HostName, []string{far.Name}, fmt.Sprintf("ip addr add %s/%d dev %s", hops[0].Gateway, p.Bits(), far.Name)))
	}
}

// dead says that a link is down or has no carrier.
func (e *exam) dead(ns *topology.Namespace, link *topology.Link, severity, matter string) {
	f := report.Finding{
		Code: diagnose.LinkDown, Severity: severity,
		Summary:  fmt.Sprintf("%s of %s has no carrier: nothing is at the other end, or that is down; %s.", link.Name, diagnose.The(ns.Name), matter),
		Evidence: []string{e.fact("link", ns.Name, "%s: %s", link.Name, diagnose.StateOf(link))},
	}
	var lines []string
	if !link.Up {
		f.Summary = fmt.Sprintf("%s of %s is down; %s.", link.Name, diagnose.The(ns.Name), matter)
		lines = append(lines, fmt.Sprintf("ip link set dev %s up", link.Name))
		if line := e.gatewayOf(ns, link); line != "" {
			lines = append(lines, line)
		}
	}
	e.advise(f, "To set it up:", e.commands(ns.Name, []string{link.Name}, lines...))
}

// gatewayOf is the command that puts back the default route that went when a
// member's interface was set down; empty when it is not known.
func (e *exam) gatewayOf(ns *topology.Namespace, link *topology.Link) string {
	if ns == e.host {
		return ""
	}
	for i := range e.networks {
		n := &e.networks[i]
		for k := range n.members {
			m := &n.members[k]
			if m.ns == ns && m.link == link && m.ns.Lookup(topology.Query{Target: e.internetOf(m.address)}).Route == nil {
				return fmt.Sprintf("%s route add default via %s dev %s", diagnose.IPCommand(m.address), n.prefix.Addr(), link.Name)
			}
		}
	}
	return ""
}

// addresses looks for IPv6 addresses that cannot be used.
func (e *exam) addresses() {
	for i := range e.in.Topology.Namespaces {
		ns := &e.in.Topology.Namespaces[i]
		for k := range ns.Links {
			link := &ns.Links[k]
			for _, p := range link.Addresses {
				e.usable(ns, link, p)
			}
		}
	}
}

func (e *exam) usable(ns *topology.Namespace, link *topology.Link, p netip.Prefix) {
	flags := link.AddressFlags[p.Addr()]
	evidence := func() []string {
		return []string{e.fact("address", ns.Name, "%s has %s, %s", link.Name, p, strings.Join(flags, " "))}
	}
	switch {
	case slices.Contains(flags, "dadfailed"):
		e.find(report.Finding{
			Code: diagnose.AddressTentative, Severity: severe, Evidence: evidence(),
			Summary: fmt.Sprintf("The address %s of %s cannot be used: somebody else on %s has it (duplicate address detection failed). Give one of the two another address, then remove it here and add it again.", p.Addr(), diagnose.The(ns.Name), link.Name),
		})
	case slices.Contains(flags, "tentative") && !slices.Contains(flags, "optimistic") && link.Up && link.Carrier && !p.Addr().IsLinkLocalUnicast():
		e.advise(report.Finding{
			Code: diagnose.AddressTentative, Severity: severe, Evidence: evidence(),
			Summary: fmt.Sprintf("The address %s of %s cannot be used yet: duplicate address detection on %s has not ended, which takes a second or two.", p.Addr(), diagnose.The(ns.Name), link.Name),
		}, "To add it without detection:", e.commands(ns.Name, []string{link.Name},
			fmt.Sprintf("ip -6 addr del %s dev %s", p, link.Name), fmt.Sprintf("ip -6 addr add %s dev %s nodad", p, link.Name)))
	}
}

// mtu compares the members' interfaces with the way out and with tunnels.
func (e *exam) mtu() {
	for i := range e.networks {
		n := &e.networks[i]
		m := n.served()
		if m == nil {
			continue
		}
		out, _ := e.way(n, m)
		if out != nil && out.MTU < m.link.MTU {
			e.tooLarge(m, out, warning, "leaves by it")
		}
		for k := range e.host.Links {
			tunnel := &e.host.Links[k]
			if tunnel != out && tunnel.Role == capture.RoleTunnel && tunnel.Up && tunnel.MTU < m.link.MTU && e.routed(tunnel, m.address) {
				e.tooLarge(m, tunnel, note, "goes into the tunnel")
			}
		}
	}
}

// routed reports whether a route leads by a link, beside that of its own network.
func (e *exam) routed(link *topology.Link, a netip.Addr) bool {
	return slices.ContainsFunc(e.host.Routes, func(r topology.Route) bool {
		return r.Interface == link.Name && r.Type == "unicast" && r.Gateway.IsValid() && r.Destination.Addr().Is4() == a.Is4()
	})
}

func (e *exam) tooLarge(m *member, out *topology.Link, severity, how string) {
	f := report.Finding{
		Code: diagnose.MTUExceeded, Severity: severity,
		Summary: fmt.Sprintf("The MTU of %s in %s is %d, that of %s %d: what %s depends on ICMP errors to learn that packets have to be smaller, and stalls where these are filtered.",
			m.link.Name, m.ns.Name, m.link.MTU, out.Name, out.MTU, how),
		Evidence: []string{
			e.fact("link", m.ns.Name, "%s: mtu %d", m.link.Name, m.link.MTU),
			e.fact("link", topology.HostName, "%s: mtu %d", out.Name, out.MTU),
		},
	}
	var fix []string
	if severity != note {
		fix = e.commands(m.ns.Name, []string{m.link.Name}, fmt.Sprintf("ip link set dev %s mtu %d", m.link.Name, out.MTU))
	}
	e.advise(f, "To make them smaller at once (for good: \"mtu\" in daemon.json, or the network's option com.docker.network.driver.mtu):", fix)
}

// advertisements looks for ways out that lose their routes because a host that
// forwards does not listen to routers (accept_ra, ip-sysctl.rst). Network
// managers that listen in the kernel's place set accept_ra to 0.
func (e *exam) advertisements() {
	if !e.host.All.ForwardIPv6 {
		return
	}
	var byRouter, any bool
	for i := range e.host.Routes {
		if r := &e.host.Routes[i]; r.Destination.Bits() == 0 && r.Destination.Addr().Is6() && r.Type == "unicast" {
			any = true
			byRouter = byRouter || r.Protocol == "ra"
		}
	}
	if any && !byRouter {
		return
	}
	for i := range e.host.Links {
		link := &e.host.Links[i]
		own := slices.ContainsFunc(e.networks, func(n network) bool { return n.link.Name == link.Name })
		if link.Settings.AcceptRA != 1 || !link.Up || link.Bridge != "" || own || link.Kind == "loopback" || link.Role == capture.RoleTunnel || !hasAutomatic(link) {
			continue
		}
		key := setting("ipv6", link.Name, "accept_ra")
		e.advise(report.Finding{
			Code: RAIgnored, Severity: warning,
			Summary:  fmt.Sprintf("The host forwards IPv6, so the kernel does not listen to router advertisements at %s while %s is 1, and the host has no IPv6 default route that lasts.", link.Name, key),
			Evidence: []string{e.fact("setting", topology.HostName, "%s = 1", key), e.fact("setting", topology.HostName, "net.ipv6.conf.all.forwarding = 1")},
		}, "If a router there announces itself:", e.commands(topology.HostName, []string{link.Name}, "sysctl -w "+key+"=2"))
	}
}

// hasAutomatic reports whether a link has a global address with an interface
// identifier of 64 bits, as the kernel makes them from what routers announce.
func hasAutomatic(link *topology.Link) bool {
	return slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool {
		return p.Addr().Is6() && p.Addr().IsGlobalUnicast() && p.Bits() == 64
	})
}

// conntrack looks at the fill of the tables of flows.
func (e *exam) conntrack() {
	for i := range e.in.Topology.Namespaces {
		ns := &e.in.Topology.Namespaces[i]
		c := ns.Conntrack
		if c.Max == 0 || c.Count < c.Max/5*4 {
			continue
		}
		f := report.Finding{
			Code: diagnose.ConntrackFull, Severity: warning,
			Summary:  fmt.Sprintf("%s tracks %d flows of at most %d. When the table is full, packets of new flows are dropped.", upper(diagnose.The(ns.Name)), c.Count, c.Max),
			Evidence: []string{e.fact("counter", ns.Name, "nf_conntrack_count %d of nf_conntrack_max %d", c.Count, c.Max)},
		}
		if c.Count >= c.Max {
			f.Severity = severe
			f.Summary = fmt.Sprintf("The conntrack table of %s is full: it tracks %d flows of at most %d, and packets of new flows are dropped.", diagnose.The(ns.Name), c.Count, c.Max)
		}
		e.advise(f, "To allow more, on the machine itself:", []string{fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*c.Max)})
	}
}

// servers asks each namespace that the host serves for the way to its DNS
// servers. What leads nowhere is not meant to ask any.
func (e *exam) servers() {
	for i := range e.in.Topology.Namespaces {
		ns := &e.in.Topology.Namespaces[i]
		if ns == e.host || !e.isServed(ns) {
			continue
		}
		servers := e.in.Servers[ns.Name]
		var lost, evidence []string
		for _, server := range servers {
			if why := e.unreachable(ns, server); why != "" {
				lost = append(lost, fmt.Sprintf("%s (%s)", server, why))
				evidence = append(evidence, e.fact("route", ns.Name, "DNS server %s: %s", server, why))
			}
		}
		if len(lost) == 0 {
			continue
		}
		f := report.Finding{
			Code: diagnose.DNSFailed, Severity: severe, Evidence: evidence,
			Summary: fmt.Sprintf("No packet of %s gets to its DNS servers: %s.", diagnose.The(ns.Name), strings.Join(lost, ", ")),
		}
		if len(lost) < len(servers) {
			f.Severity = warning
			f.Summary = fmt.Sprintf("No packet of %s gets to %s, which is one of its DNS servers: each lookup that asks it first waits in vain.", diagnose.The(ns.Name), strings.Join(lost, " and to "))
		}
		e.find(f)
	}
}

func (e *exam) isServed(ns *topology.Namespace) bool {
	return slices.ContainsFunc(e.networks, func(n network) bool {
		return slices.ContainsFunc(n.members, func(m member) bool { return m.ns == ns && m.served })
	})
}

// unreachable says why a namespace cannot send to a DNS server; empty when it
// can, or when that is not known.
func (e *exam) unreachable(ns *topology.Namespace, server netip.Addr) string {
	if server.IsLoopback() || server.Zone() != "" || ns.Local(server) != nil {
		return ""
	}
	d := ns.Lookup(topology.Query{Target: server})
	if why := deadEnd(d); why != "" {
		return why
	}
	for i := range e.networks {
		n := &e.networks[i]
		for k := range n.members {
			m := &n.members[k]
			if m.ns != ns || !slices.ContainsFunc(d.NextHops(), func(h topology.NextHop) bool { return h.Gateway == n.prefix.Addr() }) || e.host.Local(server) != nil {
				continue
			}
			if !hasRoute(e.host, e.internetOf(server)) {
				return "" // noWayOut says so
			}
			if why := deadEnd(e.host.Lookup(topology.Query{Source: m.address, Target: server, Ingress: n.link.Name})); why != "" {
				return "on the host: " + why
			}
		}
	}
	return ""
}

func hasRoute(ns *topology.Namespace, a netip.Addr) bool {
	d := ns.Lookup(topology.Query{Target: a})
	return d.Route != nil || d.Policy != nil
}

// deadEnd says how a decision leads nowhere; empty when it leads somewhere.
func deadEnd(d topology.Decision) string {
	switch {
	case d.Undetermined:
	case d.Route == nil && d.Policy == nil:
		return "no route"
	case d.Route == nil || slices.Contains([]string{"blackhole", "unreachable", "prohibit"}, d.Route.Type):
		return by(d)
	}
	return ""
}
