package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// engineSays gathers what a container engine's own view explains of an end: that
// the network is meant to be closed, or that a port leads nowhere. It is not the
// cause, which the kernel tells; it is why the kernel was set up like that.
func (s *scene) engineSays(v *report.Verdict) []report.Finding {
	var found []report.Finding
	if d := engine.Describe(s.in.Engines, s.in.SourceID); d != nil && v.Leg == "request" {
		found = append(found, s.withoutIPv6(v, d)...)
		found = append(found, s.closedIn(v, d)...)
		found = append(found, s.keptApart(v, d)...)
	}
	return append(found, s.unpublished(v)...)
}

// finding is one that rests on what an engine says.
func (s *scene) finding(v *report.Verdict, fact, summary string, fix ...string) report.Finding {
	return report.Finding{
		Code: v.Code, Severity: "note", Summary: summary, Fix: append([]string{}, fix...),
		Evidence: []string{s.fact("engine", topology.HostName, "%s", fact)},
	}
}

// withoutIPv6 explains that a container has no way to an IPv6 address.
func (s *scene) withoutIPv6(v *report.Verdict, d *engine.Description) []report.Finding {
	missing := v.NetNS == s.in.Topology.Source && slices.Contains([]string{NoDefaultRoute, NoRoute, NotSeen}, v.Code)
	open := func(n engine.Network) bool { return n.IPv6 || len(n.Prefixes) == 0 }
	if !missing || !s.in.Topology.Target.Is6() || len(d.Networks) == 0 || slices.ContainsFunc(d.Networks, open) {
		return nil
	}
	names := networkNames(d.Networks)
	fact := fmt.Sprintf("%s: IPv6 is off in %s", d.Engine, names)
	c := d.Connected()
	subnet := s.in.Topology.FreeIPv6(s.prefixes()...)
	if !plainName.MatchString(c.Name) || !subnet.IsValid() {
		return []report.Finding{s.finding(v, fact, fmt.Sprintf("%s is in no network with IPv6: it is off in %s.", c.Name, names))}
	}
	return []report.Finding{s.finding(
		v, fact, fmt.Sprintf("%s is in no network with IPv6: it is off in %s. To make one, and connect it:", c.Name, names),
		fmt.Sprintf("%s network create --ipv6 --subnet %s %s-ipv6", d.Engine, subnet, c.Name),
		fmt.Sprintf("%s network connect %s-ipv6 %s", d.Engine, c.Name, c.Name),
	)}
}

// closedIn explains that nothing leaves a container whose networks are all
// internal.
func (s *scene) closedIn(v *report.Verdict, d *engine.Description) []report.Finding {
	target := s.in.Topology.Target
	leads := func(n engine.Network) bool { return !n.Internal || within(&n, target) }
	if len(d.Networks) == 0 || slices.ContainsFunc(d.Networks, leads) {
		return nil
	}
	names := networkNames(d.Networks)
	fact, summary := fmt.Sprintf("%s: %s: internal", d.Engine, names), fmt.Sprintf("%s was made internal, and %s is in no other: %s lets nothing leave it.", capital(names), d.Connected().Name, d.Engine)
	if len(d.Networks) > 1 {
		summary = fmt.Sprintf("%s were made internal, and %s is in no other: %s lets nothing leave them.", capital(names), d.Connected().Name, d.Engine)
	}
	usual := map[string]string{"docker": "bridge", "podman": "podman"}[d.Engine]
	if !plainName.MatchString(d.Connected().Name) {
		return []report.Finding{s.finding(v, fact, summary)}
	}
	return []report.Finding{s.finding(
		v, fact, summary+" To connect it to one that leads on, if that is meant:",
		fmt.Sprintf("%s network connect %s %s", d.Engine, usual, d.Connected().Name),
	)}
}

// keptApart explains that a container does not reach another one of its network.
func (s *scene) keptApart(v *report.Verdict, d *engine.Description) []report.Finding {
	if v.Rule == nil {
		return nil
	}
	for i := range d.Networks {
		n := &d.Networks[i]
		if n.Apart && within(n, s.in.Topology.Target) && within(n, s.in.Probe.Tuple.Src) {
			return []report.Finding{s.finding(
				v, fmt.Sprintf("%s: network %s: enable_icc=false", d.Engine, n.Name),
				fmt.Sprintf("The network %s was made with com.docker.network.bridge.enable_icc=false, which keeps its containers from one another. A network made without it lets them through.", n.Name),
			)}
		}
	}
	return nil
}

// unpublished explains that a port of the host does not lead to a container: none
// is published there, or only at another address.
func (s *scene) unpublished(v *report.Verdict) []report.Finding {
	t := s.in.Probe.Tuple
	if t.Proto != packet.TCP && t.Proto != packet.UDP || t.DstPort == 0 || s.now(topology.HostName).Local(t.Dst) == nil {
		return nil
	}
	proto := strings.ToLower(t.Proto.String())
	for i := range s.in.Engines {
		view := &s.in.Engines[i]
		for k := range view.Containers {
			c := &view.Containers[k]
			published := slices.IndexFunc(c.Published, func(p engine.Published) bool { return p.Host == t.DstPort && p.Protocol == proto })
			if published >= 0 {
				return s.elsewhere(v, view, c, t, published)
			}
		}
	}
	for i := range s.in.Engines {
		view := &s.in.Engines[i]
		for k := range view.Containers {
			if c := &view.Containers[k]; slices.Contains(c.Exposed, engine.Port{Protocol: proto, Number: t.DstPort}) {
				return []report.Finding{s.finding(
					v, fmt.Sprintf("%s: %s exposes %d/%s, not published", view.Engine, c.Name, t.DstPort, proto),
					fmt.Sprintf("%s exposes port %d/%s and does not publish it: no port of the host leads there. It is reached at %s, or when the container is started with -p %d:%d/%s.",
						c.Name, t.DstPort, proto, reachedAt(c), t.DstPort, t.DstPort, proto),
				)}
			}
		}
	}
	return nil
}

// elsewhere explains that a port is published, but not at the address that was
// asked.
func (s *scene) elsewhere(v *report.Verdict, view *engine.View, c *engine.Container, t packet.Tuple, published int) []report.Finding {
	covers := func(p engine.Published) bool {
		return p.Host == t.DstPort && p.Port == c.Published[published].Port && p.Covers(t.Dst)
	}
	if slices.ContainsFunc(c.Published, covers) {
		return nil
	}
	p := c.Published[published]
	return []report.Finding{s.finding(
		v, fmt.Sprintf("%s: %s publishes %s", view.Engine, c.Name, p),
		fmt.Sprintf("%s publishes %s: at %s that port leads nowhere. To publish it at all addresses, start the container with -p %d:%s.", c.Name, p, t.Dst, p.Host, p.Port),
	)}
}

// prefixes are those of all networks that engines know.
func (s *scene) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for i := range s.in.Engines {
		for k := range s.in.Engines[i].Networks {
			all = append(all, s.in.Engines[i].Networks[k].Prefixes...)
		}
	}
	return all
}

// reachedAt is a container's address in words.
func reachedAt(c *engine.Container) string {
	for _, a := range c.Networks {
		if len(a.Addresses) > 0 {
			return a.Addresses[0].String()
		}
	}
	return "its own address"
}

func within(n *engine.Network, a netip.Addr) bool {
	return slices.ContainsFunc(n.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// networkNames are networks in a sentence.
func networkNames(all []engine.Network) string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	if len(names) == 1 {
		return "network " + names[0]
	}
	return "networks " + list(names)
}
