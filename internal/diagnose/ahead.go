package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// longestWay is how many namespaces are followed.
const longestWay = 16

// ahead says what else on the packet's way would stop it, or its answer, were
// it not for the cause: what the state of the namespaces tells by itself, from
// where the packet ended along their routes to the target and back. Where a
// route is not certain, or what comes next cannot be seen, it ends.
func (s *scene) ahead(v *report.Verdict) []report.Finding {
	w := &walk{scene: s, target: s.in.Topology.Target, source: s.in.Probe.Tuple.Src, from: s.end.NetNS}
	source := s.now(s.in.Topology.Source)
	if source == nil || !w.target.IsValid() || s.redirectedAnywhere() {
		return nil
	}
	if w.from == "" {
		w.from = v.NetNS
	}
	there := topology.Query{Source: w.source, Target: w.target, Egress: s.in.Topology.Zone, Proto: s.in.Probe.Tuple.Proto}
	if v.Leg == "reply" {
		w.hops = s.in.Path.Reply.Hops
		w.follow(source, there) // only for where it turns
		w.obstacles, w.reached = nil, false
	} else {
		w.hops = s.in.Path.Request.Hops
		w.follow(source, there)
		w.hops = nil
	}
	if w.turn != nil && w.source.IsValid() {
		w.follow(w.turn, topology.Query{Source: w.target, Target: w.source, Ingress: w.turnAt, Proto: s.in.Probe.Tuple.Proto})
	}
	var found []report.Finding
	for _, o := range w.obstacles {
		if o.same(v) || o.follows(v) || slices.ContainsFunc(found, func(f report.Finding) bool { return f.Code == o.code && f.Summary == o.words() }) {
			continue
		}
		found = append(found, report.Finding{Code: o.code, Severity: "warning", Summary: o.words(), Fix: append([]string{}, o.fix...), Evidence: []string{s.fact(o.kind, o.netns, "%s", o.fact)}})
	}
	return found
}

// redirectedAnywhere reports whether the request's destination was translated:
// where it was to go then is not looked for.
func (s *scene) redirectedAnywhere() bool {
	return slices.ContainsFunc(s.in.Path.Translations, func(t report.Translation) bool { return t.Leg == "request" && t.Field == "destination" })
}

// obstacle is something in the state of a namespace that stops packets.
type obstacle struct {
	code, netns, text string
	// leg is the one that it stops, ingress where the packet would have come in.
	leg, ingress string
	// kind and fact are its evidence.
	kind, fact string
	fix        []string
}

// same reports whether an obstacle is what the verdict says: a route may be
// missing in several namespaces, anything else is named once.
func (o *obstacle) same(v *report.Verdict) bool {
	return o.code == v.Code && (o.code != NoRoute || o.netns == v.NetNS)
}

// follows reports whether a route is missing, or is a wrong one, because of what
// the verdict says, or is that.
func (o *obstacle) follows(v *report.Verdict) bool {
	routing := []string{NoRoute, NoDefaultRoute, RouteBlackhole}
	if !slices.Contains(routing, o.code) || o.netns != v.NetNS || o.leg != v.Leg {
		return false
	}
	return slices.Contains(routing, v.Code) || v.Code == LinkDown && o.ingress != v.Interface
}

func (o *obstacle) words() string {
	return fmt.Sprintf("Once that is mended, %s would stop it: %s.", the(o.netns), o.text)
}

// walk follows a packet through the namespaces as they are configured.
type walk struct {
	*scene
	source, target netip.Addr
	// from is where the packet ended: what comes before it has overcome; reached
	// says that the walk is there. hops are those where the packet was seen.
	from      string
	reached   bool
	hops      []report.Hop
	obstacles []obstacle
	// turn is the last namespace that knows the way back to the source, turnAt
	// the interface by which the packet leaves it: there the answer is, at the
	// latest, for the source's own address again.
	turn   *topology.Namespace
	turnAt string
}

// follow goes on until the packet is there, or what comes next is not known.
func (w *walk) follow(ns *topology.Namespace, q topology.Query) {
	for range longestWay {
		if slices.ContainsFunc(ns.Policy, func(p topology.Policy) bool { return p.IPv6 == q.Target.Is6() && p.MarkMask != 0 }) {
			return // which mark the rules would give it is not known
		}
		o := w.look(ns, q)
		if o.decision.Undetermined || ns.Local(q.Target) != nil {
			return
		}
		w.reached = w.reached || ns.Name == w.from
		left := slices.ContainsFunc(w.hops, func(h report.Hop) bool { return h.NetNS == ns.Name && h.Direction == "egress" && h.Interface != "" })
		if w.reached && !left {
			w.forwarding(ns, q)
			w.overlapped(o)
			w.route(o)
			w.cable(o)
		}
		w.mend(o)
		if o.link == nil {
			return
		}
		if q.Target == w.target && w.knowsBack(ns, q) {
			w.turn, w.turnAt = ns, o.link.Name
		}
		if ns, q.Ingress = w.arrival(o); ns == nil {
			return
		}
	}
}

// mend has a namespace without a route that leads on send the packet where it
// would once that is mended, if only one thing can be meant: by what is left
// without a route that leads nowhere, to the only router that is visible or
// leads on, or by the only cable.
func (w *walk) mend(o *outlook) {
	if onward := w.goesBack(o); onward != nil {
		o.link, o.next, o.owner = onward.link, onward.via, onward.owner
		return
	}
	if o.link != nil {
		return
	}
	open := *o.ns
	open.Routes = slices.DeleteFunc(slices.Clone(open.Routes), func(r topology.Route) bool { return slices.Contains(nowhere, r.Type) })
	open.Policy = slices.DeleteFunc(slices.Clone(open.Policy), func(p topology.Policy) bool { return slices.Contains(nowhere, p.Action) })
	if without := w.look(&open, o.query); without.link != nil && !without.decision.Undetermined {
		*o, without = *without, o
		o.ns = w.now(without.ns.Name)
		return
	}
	if onward := w.leadsOn(o.ns, o.query); onward != nil {
		o.link, o.next, o.owner = onward.link, onward.via, onward.owner
		return
	}
	if gateway, link := w.onlyGateway(o); link != nil {
		o.link, o.next = link, gateway
		o.owner = w.now(w.ownerOf(gateway))
		return
	}
	for i := range o.ns.Links {
		link := &o.ns.Links[i]
		if link.Kind == "loopback" || link.Bridge != "" || link.Name == o.query.Ingress {
			continue
		}
		if o.link != nil { // several
			o.link = nil
			return
		}
		o.link = link
	}
	if o.link != nil && o.link.Peer != nil {
		o.far = w.now(o.link.Peer.NetNS)
		o.farLink = o.far.Link(o.link.Peer.Interface)
	}
}

// tunnels reports whether a bridge has a tunnel as a port: then it carries frames to
// other hosts that are not its own.
func tunnels(ns *topology.Namespace, bridge string) bool {
	return bridge != "" && slices.ContainsFunc(ns.Links, func(l topology.Link) bool { return l.Bridge == bridge && l.Tunnel != nil })
}

// arrival is where the packet comes next, and by which interface; nil where that
// is not known.
func (w *walk) arrival(o *outlook) (*topology.Namespace, string) {
	if o.owner == nil {
		if gateway := w.gateway(o.ns, o.link, o.query.Target); gateway.IsValid() {
			o.next, o.owner = gateway, w.now(w.ownerOf(gateway))
		}
	}
	switch {
	case o.owner == o.ns, o.owner != nil && o.deaf():
		return nil, ""
	case o.owner != nil:
		return o.owner, o.owner.Local(o.next).Name
	case o.far == nil || o.farLink == nil || tunnels(o.far, o.farLink.Bridge):
		return nil, ""
	case o.farLink.Bridge != "":
		return o.far, o.farLink.Bridge
	}
	return o.far, o.farLink.Name
}

// knowsBack reports whether a namespace has a route back to the source by where
// the packet came in, or had it if no other route took that network.
func (w *walk) knowsBack(ns *topology.Namespace, q topology.Query) bool {
	back := ns.Lookup(topology.Query{Source: q.Target, Target: q.Source}).Route
	return q.Ingress != "" && (back != nil && back.Interface == q.Ingress || onLink(ns.Link(q.Ingress), w.source))
}

func (w *walk) forwarding(ns *topology.Namespace, q topology.Query) {
	link := ns.Link(q.Ingress) // nil in the source
	if link == nil {
		return
	}
	if on, key := forwards(ns, link, q.Target); !on {
		o := obstacle{code: ForwardingOff, netns: ns.Name, text: fmt.Sprintf("it does not forward (%s = 0)", key), kind: "setting", fact: key + " = 0"}
		o.fix = w.commands(ns.Name, nil, fmt.Sprintf("sysctl -w %s=1", key))
		w.obstacles = append(w.obstacles, o)
	}
}

// nowhere are the types of routes, and actions of policy rules, that lead nowhere.
var nowhere = []string{"blackhole", "unreachable", "prohibit"}

// route looks whether there is one that leads on.
func (w *walk) route(o *outlook) {
	add := func(code, text, fact string, fix ...string) {
		leg := "request"
		if o.query.Target == w.source {
			leg = "reply"
		}
		w.obstacles = append(w.obstacles, obstacle{code: code, netns: o.ns.Name, text: text, kind: "route", fact: fact, leg: leg, ingress: o.query.Ingress, fix: fix})
	}
	var down *topology.Link // its routes went with it; not those by which the packet comes
	if link := w.downLink(o); o.noRoute() && link != nil && link.Name != o.query.Ingress {
		down = link
	}
	onward := w.goesBack(o)
	switch route, policy := o.decision.Route, o.decision.Policy; {
	case route != nil && slices.Contains(nowhere, route.Type):
		add(RouteBlackhole, fmt.Sprintf("its route %q %s", route.Text, typeWords[route.Type]), route.Text)
	case route == nil && policy != nil && slices.Contains(nowhere, policy.Action):
		add(RouteBlackhole, fmt.Sprintf("its policy rule %q %s", policy.Text, typeWords[policy.Action]), "policy rule "+policy.Text)
	case down != nil:
		add(LinkDown, fmt.Sprintf("its %s is down, and with it went its routes", down.Name), fmt.Sprintf("%s: %s", down.Name, stateOf(down)))
	case onward != nil:
		add(NoRoute, fmt.Sprintf("it has no route to %s, and its %q would send it back to where it came from", o.query.Target, route.Text), route.Text,
			w.commands(o.ns.Name, []string{onward.link.Name}, onward.command())...)
	case o.noRoute():
		add(NoRoute, fmt.Sprintf("it has no route to %s", o.query.Target), fmt.Sprintf("no route to %s", o.query.Target))
	}
}

// goesBack is what would lead on where a namespace's default route sends the
// packet out by the interface that it came in by; nil elsewhere.
func (w *walk) goesBack(o *outlook) *onward {
	if o.link == nil || o.link.Name != o.query.Ingress || o.decision.Route == nil || !everywhere(o.decision.Route.Destination) {
		return nil
	}
	return w.leadsOn(o.ns, o.query)
}

// overlapped looks whether a route leads what is for the source elsewhere than
// to its own network.
func (w *walk) overlapped(o *outlook) {
	if o.query.Target != w.source || o.link == nil {
		return
	}
	for i := range o.ns.Links {
		home := &o.ns.Links[i]
		owner := w.now(w.ownerOf(w.source))
		if home.Name == o.link.Name || !home.Up || owner == nil || !onLink(home, w.source) || !w.adjacent(o.ns, home, owner) {
			continue
		}
		w.obstacles = append(w.obstacles, obstacle{
			code: SubnetOverlap, netns: o.ns.Name, kind: "route", fact: o.text(),
			text: fmt.Sprintf("its route %q takes the answer to %s, which is behind %s", o.text(), w.source, home.Name),
		})
	}
}

// cable looks at the links between a namespace and the next address.
func (w *walk) cable(o *outlook) {
	if o.link == nil {
		return
	}
	if port := o.farLink; blocked(port) && bridgeUp(o.far, port) {
		w.obstacles = append(w.obstacles, obstacle{
			code: PortBlocked, netns: o.far.Name, text: fmt.Sprintf("its port %s of the bridge %s is %s", port.Name, port.Bridge, port.Port.State),
			kind: "link", fact: fmt.Sprintf("%s: %s", port.Name, stateOf(port)),
		})
	}
	f := w.deadLink(o)
	if f == nil {
		return
	}
	n := obstacle{code: LinkDown, netns: f.ns.Name, text: fmt.Sprintf("its %s %s", f.link.Name, f.how), kind: "link", fact: fmt.Sprintf("%s: %s", f.link.Name, stateOf(f.link))}
	if f.fix != "" {
		n.fix = w.commands(f.ns.Name, []string{f.link.Name}, "ip "+f.fix)
	}
	w.obstacles = append(w.obstacles, n)
}
