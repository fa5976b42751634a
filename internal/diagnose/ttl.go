package diagnose

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
)

// routingLoop: the packet came by the same place again and again until its TTL
// or hop limit had run out.
func routingLoop(s *scene) *cause {
	around := circle(s.path.Hops)
	if !s.expired() || len(around) == 0 {
		return nil
	}
	c := &cause{
		code: RoutingLoop, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s went in circles by way of %s until its %s had run out%s.", s.what(), list(around), s.ttl(), s.told()),
		advice:  fmt.Sprintf("The routes of %s send it to one another: one of them is wrong.", list(around)),
	}
	for _, hop := range s.path.Hops {
		for _, step := range hop.Steps {
			if step.Kind == "route" && !slices.ContainsFunc(step.Evidence, func(id string) bool { return slices.Contains(c.evidence, id) }) {
				c.evidence = append(c.evidence, step.Evidence...)
			}
		}
	}
	c.fix = s.breakLoop(around)
	return c
}

// breakLoop removes the one route of the circle that is more specific than the
// default route: the others lead where everything goes. Nothing is proposed
// when there is not exactly one.
func (s *scene) breakLoop(around []string) []string {
	var fix []string
	found := 0
	for i := range s.in.Topology.Namespaces {
		ns := s.now(s.in.Topology.Namespaces[i].Name)
		if !slices.Contains(around, the(ns.Name)) {
			continue
		}
		route := ns.Lookup(s.query(ns)).Route
		if route == nil || !route.Gateway.IsValid() || route.Destination.Bits() == 0 {
			continue
		}
		found++
		fix = s.commands(ns.Name, []string{route.Interface}, fmt.Sprintf("%s route del %s via %s dev %s table %s",
			ipCommand(route.Gateway), route.Destination, route.Gateway, route.Interface, tableName(route.Table)))
	}
	if found != 1 {
		return nil
	}
	return fix
}

// ttlExpired: the TTL or hop limit ran out on the way, which is not in circles.
func ttlExpired(s *scene) *cause {
	if !s.expired() {
		return nil
	}
	c := &cause{
		code: TTLExpired, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s got no further than %s: its %s had run out%s.", s.what(), the(s.seen.NetNS), s.ttl(), s.told()),
		advice:  fmt.Sprintf("It was sent with too small a %s, or something on the way lowers it.", s.ttl()),
	}
	for _, hop := range s.path.Hops {
		for _, step := range hop.Steps {
			if step.Rule != nil && lowersTTL.MatchString(step.Rule.Text) {
				c.advice = fmt.Sprintf("A rule of chain %s %s sets it: %s", chainOf(step.Rule), where(hop.NetNS), step.Rule.Text)
				c.evidence = append(c.evidence, step.Evidence...)
			}
		}
	}
	return c
}

// lowersTTL is what rules have that set the TTL or hop limit.
var lowersTTL = regexp.MustCompile(`-j (TTL|HL) |ip ttl set|ip6 hoplimit set`)

// expired reports whether the packet's TTL ran out in a visible namespace, or,
// by the ICMP error that came back, in one beyond.
func (s *scene) expired() bool {
	if s.seen.Code == TTLExpired {
		return true
	}
	d := s.end.Drop
	return s.end.Kind == path.Vanished && d != nil && d.Reason == "IP_INHDR" && (d.Function == "ip_forward" || d.Function == "ip6_forward")
}

// ttl is what the packet's IP version calls it.
func (s *scene) ttl() string {
	if s.in.Topology.Target.Is6() {
		return "hop limit"
	}
	return "TTL"
}

// told says what the sender heard of it.
func (s *scene) told() string {
	if a := &s.in.Path.Answer; a.Kind == path.Error {
		return fmt.Sprintf("; %s answered: %s", a.By, a.Text)
	}
	return ", and the sender was not told"
}

// circle lists the namespaces that a packet came back to in the same way, in
// the order in which it first met them.
func circle(hops []report.Hop) []string {
	type place struct{ netns, iface, direction string }
	seen := make(map[place]bool)
	var names []string
	for _, h := range hops {
		at := place{h.NetNS, h.Interface, h.Direction}
		if seen[at] && !slices.Contains(names, the(h.NetNS)) {
			names = append(names, the(h.NetNS))
		}
		seen[at] = true
	}
	return names
}
