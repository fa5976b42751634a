package diagnose

import (
	"fmt"
	"net/netip"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// tunnelDown: nobody answers for the next address, because the tunnel that leads
// to its owner is down: the packet is not even asked about there.
func tunnelDown(s *scene) *cause {
	o := s.outlook()
	if o == nil || o.link == nil || !s.unspoken(o) {
		return nil
	}
	ns, bridge := o.far, o.farLink
	if o.link.Kind == "bridge" {
		ns, bridge = o.ns, o.link
	} else if bridge != nil {
		bridge = bridgeOf(o.far, bridge.Name)
	}
	if bridge == nil || o.owner != nil && s.adjacent(ns, bridge, o.owner) {
		return nil
	}
	for i := range ns.Links {
		if l := &ns.Links[i]; l.Bridge == bridge.Name && l.Tunnel != nil && !l.Up {
			return s.dead(down(ns, l), "")
		}
	}
	return nil
}

// tunnelMismatch: the packet around the request, or the answer, came to the
// other end of the tunnel, no rule there dropped it, and nothing came out: the
// end that is there has another number or port.
func tunnelMismatch(s *scene) *cause {
	end := s.end
	ns := s.now(end.NetNS)
	if !end.Carried || end.Kind != path.Vanished || end.Parked || ns == nil || ns.Local(end.Tuple.Dst) == nil || !s.in.Sensors.Traced[ns.Name] {
		return nil
	}
	sent := s.sentInto()
	if sent == nil {
		return nil
	}
	c := &cause{
		code: TunnelMismatch, netns: ns.Name, iface: end.Interface, confidence: report.Reconstructed,
		mechanism: s.seen.Mechanism,
		advice:    "The two ends of a tunnel need the same number (VNI) and the same UDP port. Neither can be changed in place: delete the one that is wrong and make it again.",
	}
	found := ""
	for i := range ns.Links {
		t := ns.Links[i].Tunnel
		if t == nil {
			continue
		}
		if t.ID == sent.ID && t.Port == sent.Port {
			return nil // it is there: something else is wrong
		}
		found = fmt.Sprintf("; its %s has VNI %d, port %d", ns.Links[i].Name, t.ID, t.Port)
		c.evidence = append(c.evidence, s.fact("link", ns.Name, "%s: vxlan id %d dstport %d", ns.Links[i].Name, t.ID, t.Port))
	}
	c.summary = fmt.Sprintf("%s came to %s in VXLAN packets with VNI %d to port %d, and nothing there takes them out%s.", s.what(), the(ns.Name), sent.ID, sent.Port, found)
	return c
}

// sentInto is the tunnel that the packet was sent into, nil when it went into
// none, or that is not visible.
func (s *scene) sentInto() *topology.Tunnel {
	for i := range s.path.Hops {
		h := &s.path.Hops[i]
		if link := s.now(h.NetNS).Link(h.Interface); h.Direction == "egress" && link != nil && link.Tunnel != nil {
			return link.Tunnel
		}
	}
	return nil
}

// tunnelEntrance is the tunnel at whose entrance a packet was last seen, with the other
// end that it has for the packet, invalid when it has none; nil elsewhere.
func (s *scene) tunnelEntrance() (ns *topology.Namespace, link *topology.Link, remote netip.Addr) {
	if s.end.Carried || s.end.Kind != path.Vanished || s.path.Last == nil {
		return nil, nil, netip.Addr{}
	}
	ns = s.now(s.end.NetNS)
	hop := s.lastHop()
	if link = ns.Link(s.end.Interface); link == nil || link.Tunnel == nil || hop == nil || hop.Direction != "egress" {
		return nil, nil, netip.Addr{}
	}
	return ns, link, link.Tunnel.Towards(s.path.Last.Header.EtherDst.String())
}

// tunnelNoRemote: the packet went into a tunnel that does not know where to send
// it.
func tunnelNoRemote(s *scene) *cause {
	ns, link, remote := s.tunnelEntrance()
	if link == nil || remote.IsValid() {
		return nil
	}
	mac := s.path.Last.Header.EtherDst.String()
	for _, r := range link.Tunnel.Remotes {
		if r.MAC == mac || r.MAC == topology.AllZeroMAC {
			return nil // there are several
		}
	}
	return &cause{
		code: TunnelNoRemote, netns: ns.Name, iface: link.Name, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		summary: fmt.Sprintf("%s went into %s of %s, which has not been told which host has %s: there is no entry for it, and none for all others.",
			s.what(), link.Name, the(ns.Name), mac),
		evidence: []string{s.fact("link", ns.Name, "%s: no entry for %s", link.Name, mac)},
		advice: fmt.Sprintf("What manages this network has to tell it (Docker, flannel and others do so when a container is made), or, where packets may be flooded: bridge fdb append %s dev %s dst ADDRESS-OF-THE-OTHER-HOST",
			topology.AllZeroMAC, link.Name),
	}
}

// tunnelUnroutable: the packet went into a tunnel, and the namespace has no route
// to the other end.
func tunnelUnroutable(s *scene) *cause {
	ns, link, remote := s.tunnelEntrance()
	if link == nil || !remote.IsValid() {
		return nil
	}
	q := topology.Query{Source: link.Tunnel.Local, Target: remote}
	o := s.look(ns, q)
	if !o.noRoute() || ns.Local(remote) != nil {
		return nil
	}
	c := &cause{
		code: NoRoute, netns: ns.Name, iface: link.Name, confidence: report.Reconstructed, mechanism: s.seen.Mechanism,
		summary:  fmt.Sprintf("%s went into %s of %s, which sends it on to %s, and there is no route to that.", s.what(), link.Name, the(ns.Name), remote),
		evidence: []string{s.fact("route", ns.Name, "no route to %s", remote), s.fact("link", ns.Name, "%s: sends to %s", link.Name, remote)},
		advice:   fmt.Sprintf("%s needs a route to %s.", subject(ns.Name), remote),
	}
	if gateway, by := s.onlyGateway(o); by != nil {
		c.advice = fmt.Sprintf("%s needs a route to %s; %s is the only router that is visible behind it:", subject(ns.Name), remote, gateway)
		c.fix = s.commands(ns.Name, []string{by.Name}, fmt.Sprintf("%s route add default via %s dev %s", ipCommand(gateway), gateway, by.Name))
	}
	return c
}
