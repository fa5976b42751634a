package path

import (
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// answer describes what came back.
func (j *joiner) answer(kind AnswerKind, t *trail) Answer {
	a := Answer{Kind: kind, By: t.seed.Tuple.Src}
	if n := len(t.sightings); n > 0 {
		a.By = t.sightings[n-1].Header.Tuple.Src
		if first := t.sightings[0]; first.Direction == capture.Egress {
			a.NetNS = first.Point.NetNS // it was made where it was first sent
		}
	}
	switch kind {
	case Error:
		a.Text = ErrorText(t.seed.Tuple)
		a.TooBig, a.MTU = TooBig(&t.seed), t.seed.MTU
	case Reset:
		a.Text = "connection refused (RST)"
	}
	if a.NetNS == "" {
		if hits := originHits(t); hits != "" {
			a.NetNS = hits
		}
	}
	return a
}

// expected is the source that an answer had to have where it was first seen, by
// what the request was last seen with there; invalid when the answer has it, or
// the request was not seen there.
func expected(request, reply *trail) netip.AddrPort {
	if len(reply.sightings) == 0 {
		return netip.AddrPort{}
	}
	first := &reply.sightings[0]
	for _, sent := range slices.Backward(request.sightings) {
		if sent.Point.NetNS != first.Point.NetNS {
			continue
		}
		to, from := sent.Header.Tuple, first.Header.Tuple
		if to.Dst == from.Src && to.DstPort == from.SrcPort || !unicast(to.Dst) {
			break
		}
		return netip.AddrPortFrom(to.Dst, to.DstPort)
	}
	return netip.AddrPort{}
}

// unexpected reports whether an answer that ended so reached the prober, or a
// rule of its namespace, with a source that is not the target, although the request went out to the target
// and to nothing that the prober's own namespace translates back.
func unexpected(in *Input, request *trail, end *End) bool {
	probe, from := &in.Probe, end.Tuple
	if slices.ContainsFunc(in.Events, func(e nat.Event) bool { return e.Flow.NetNS == end.NetNS && e.Flow.Original == from.Inverse() }) {
		return false // it was sent to that address, and to another one only since it was translated here
	}
	if end.Kind != Delivered && end.Kind != Dropped || end.NetNS != probe.NetNS || !unicast(probe.Tuple.Dst) {
		return false
	}
	sentTo := func(a netip.Addr, port uint16) bool {
		return slices.ContainsFunc(request.sightings, func(s capture.Sighting) bool {
			to := s.Header.Tuple
			return s.Point.NetNS == probe.NetNS && s.Direction == capture.Egress && to.Dst == a && to.DstPort == port
		})
	}
	return sentTo(probe.Tuple.Dst, probe.Tuple.DstPort) && !sentTo(from.Src, from.SrcPort)
}

func unicast(a netip.Addr) bool { return a.IsValid() && !a.IsMulticast() && !a.IsUnspecified() }

// originHits names the namespace whose output chains an answer went through
// before it was seen anywhere.
func originHits(t *trail) string {
	for netns, hits := range t.hits {
		if slices.ContainsFunc(hits, func(h ruletrace.Hit) bool { return h.Hook == ruletrace.Output }) {
			return netns
		}
	}
	return ""
}

// end judges where a leg ended.
func (j *joiner) end(v *visit, all []element) End {
	if e, ok := j.ruleEnd(v.netns, all); ok {
		return e
	}
	ns := j.in.Topology.Namespace(v.netns)
	tracked := slices.ContainsFunc(all, func(e element) bool { return e.step != nil && e.stage == stageConfirm })
	var last *capture.Sighting
	var ids []string
	for i := range all {
		if all[i].sighting != nil {
			last = all[i].sighting
			ids = []string{j.ledger.Sighting(last)}
		}
	}
	end := End{NetNS: v.netns, Tracked: tracked, Evidence: ids}
	end.Mark = markBefore(all, stageRoute)
	if len(v.sightings) == 0 || v.sightings[0].Direction == capture.Egress { // sent here
		end.Mark = markBefore(all, stagePostrouting)
	}
	if last != nil {
		end.Tuple = last.Header.Tuple
		end.Tuple.Dst = currentTarget(all)
	}
	if last != nil {
		end.Interface = last.Point.Interface
	}
	end.Diverted = diverted(all) != nil
	if q := queued(all); q != nil {
		end.Kind, end.Next = Vanished, "what is behind the queue"
		end.Hook, end.Rule, end.Verdict = q.hit.Hook, q.Rule, q.hit.Verdict
		end.Evidence = append(end.Evidence, q.Evidence...)
		return end
	}
	if last == nil {
		end.Kind, end.Next, end.Parked = Vanished, "its first interface", true
		return end
	}
	link := ns.Link(last.Point.Interface)
	if last.Direction == capture.Egress {
		if i := slices.IndexFunc(all, func(e element) bool { return e.step != nil && e.step.ends() }); i >= 0 {
			end.CopyDropped = all[i].step.Rule
			end.Evidence = append(end.Evidence, all[i].step.Evidence...)
		}
		return j.afterEgress(end, link, last)
	}
	end.Kind, end.Next, end.Parked = Vanished, "an outgoing interface of "+v.netns, true
	switch {
	case link != nil && link.Bridge != "":
		// A packet for this namespace has to be seen at the bridge itself.
		end.Next, end.Parked = v.netns+"/"+link.Bridge, false
		if end.Bridged = bridged(last, j.in.Topology); end.Bridged {
			end.Next = "another port of " + link.Bridge
		} else if slices.ContainsFunc(all, func(e element) bool {
			return e.step != nil && e.step.hit != nil && rewrites(e.step.hit, nat.Destination)
		}) {
			end.Next = link.Bridge + " or another port of it"
		}
	case passesBy(last, j.in.Topology):
		to := last.Header.EtherDst.String()
		end.Parked = false
		if netns := bearer(last.Point, j.in.Topology, to); netns != "" && j.in.Inside[netns] {
			end.Next, end.NextNetNS = "the link above it", netns
			return end
		}
		// Nobody who can be seen has that address.
		end.Kind, end.Next, end.FrameFor = Left, "", to
	case diverted(all) == nil && ns.Delivers(currentTarget(all)):
		end.Kind, end.Next = Delivered, ""
		end.Tuple.Src, end.Tuple.SrcPort = currentSource(all)
		end.Tuple.DstPort = currentPort(all)
	}
	if back := j.wayBack(ns, link, last, currentTarget(all)); back != "" && !end.Bridged && !passedRouting(all) {
		end.Kind, end.Next, end.Parked, end.WayBack = Vanished, "the routing of "+v.netns, false, back
	}
	return end
}

// passedRouting reports whether something shows that a packet that came in was
// routed.
func passedRouting(all []element) bool {
	return slices.ContainsFunc(all, func(e element) bool {
		return e.step != nil && (e.stage == stageForward || e.stage == stageReturnedForward || e.stage == stageInput || e.stage == stagePostrouting || e.stage == stageConfirm)
	})
}

// wayBack returns the route to a packet's source where it leads out of another
// interface than the one that the packet came in by and the kernel, therefore,
// takes the packet for forged (rp_filter 1, net/ipv4/fib_frontend.c); empty
// where it does not, or not surely.
func (j *joiner) wayBack(ns *topology.Namespace, in *topology.Link, s *capture.Sighting, target netip.Addr) string {
	source := s.Header.Tuple.Src
	if ns == nil || in == nil || in.Kind == "loopback" || in.Bridge != "" || !source.Is4() || max(ns.All.RPFilter, in.Settings.RPFilter) != 1 ||
		slices.ContainsFunc(ns.Policy, func(p topology.Policy) bool { return p.MarkMask != 0 }) { // whether the mark counts is not known
		return ""
	}
	decision := ns.Lookup(topology.Query{Source: target, Target: source})
	hops := decision.NextHops()
	if decision.Undetermined || len(hops) == 0 || slices.ContainsFunc(hops, func(h topology.NextHop) bool { return h.Interface == in.Name }) {
		return ""
	}
	return decision.Route.Text
}

// queued returns the step of a rule that handed the packet to a program, when
// that is the last that is known of it; otherwise nil.
func queued(all []element) *step {
	for i := len(all) - 1; i >= 0; i-- {
		if s := all[i].step; s != nil && s.hit != nil && s.hit.Verdict == ruletrace.Queue {
			return s
		}
		if _, seen := all[i].tuple(); seen {
			return nil
		}
	}
	return nil
}

// diverted returns the step of a rule that translates the destination when
// that is the last that is known of the packet: to what it was translated, and
// so where it went, was not seen. It is nil otherwise.
func diverted(all []element) *step {
	for i := len(all) - 1; i >= 0; i-- {
		if s := all[i].step; s != nil && s.hit != nil && s.Kind != "nat" && rewrites(s.hit, nat.Destination) {
			return s
		}
		if _, seen := all[i].tuple(); seen {
			return nil
		}
	}
	return nil
}

// afterEgress judges a leg whose last sighting went out of an interface.
func (j *joiner) afterEgress(end End, link *topology.Link, last *capture.Sighting) End {
	switch {
	case link == nil || link.Kind == "loopback":
		end.Kind, end.Next = Vanished, "the input of "+end.NetNS
	case link.Kind == "bridge":
		end.Kind, end.Next = Vanished, "a port of "+link.Name
	case link.Tunnel != nil:
		end.Kind, end.Next = Vanished, "an interface by which "+link.Name+" sends it on"
	case link.Peer != nil && link.Peer.NetNS != "" && j.in.Inside[link.Peer.NetNS]:
		end.Kind, end.Next, end.NextNetNS = Vanished, link.Peer.NetNS+"/"+link.Peer.Interface, link.Peer.NetNS
	case link.Lower != nil && link.Lower.NetNS != "" && j.in.Inside[link.Lower.NetNS]:
		end.Kind, end.Next, end.NextNetNS = Vanished, link.Lower.NetNS+"/"+link.Lower.Interface, link.Lower.NetNS
	default:
		end.Kind = Left
		if ns := j.in.Topology.Namespace(end.NetNS); ns != nil {
			if route := ns.Lookup(topology.Query{Source: last.Header.Tuple.Src, Target: last.Header.Tuple.Dst}).Route; route != nil && route.Interface == link.Name {
				end.Gateway = route.Gateway
			}
		}
	}
	return end
}

// ruleEnd finds the rule or policy that ended the packet: the last thing that
// happened to it. A drop after which it was seen again dropped a copy.
func (j *joiner) ruleEnd(netns string, all []element) (End, bool) {
	for i := len(all) - 1; i >= 0; i-- {
		e := &all[i]
		if e.sighting != nil {
			return End{}, false
		}
		if !e.step.ends() {
			continue
		}
		end := End{
			Kind: Dropped, NetNS: netns, Hook: e.step.hit.Hook, Rule: e.step.Rule,
			Policy: e.step.hit.Kind == ruletrace.HitPolicy, Verdict: e.step.hit.Verdict, Evidence: e.step.Evidence,
			Tuple: e.step.hit.Header.Tuple, State: e.step.hit.State,
		}
		if by := shadowed(e, all); by != nil {
			end.Accepted, end.AcceptedBy = by.Rule, by.Evidence
		}
		for k := i; k >= 0; k-- {
			if all[k].sighting != nil {
				end.Interface = all[k].sighting.Point.Interface
				end.Bridged = bridged(all[k].sighting, j.in.Topology)
				break
			}
		}
		if end.Hook == ruletrace.EgressHook && e.step.hit.Egress != "" {
			end.Interface = e.step.hit.Egress // it never left by it, so no tap saw it there
		}
		return end, true
	}
	return End{}, false
}

// shadowed returns the step of a rule that accepted the packet in the hook in
// which the element ended it, for another table; nil when there is none. It
// came before: nothing looks at a packet that was dropped.
func shadowed(end *element, all []element) *step {
	for _, e := range slices.Backward(all) {
		s := e.step
		if s == nil || e.stage != end.stage || !s.accepts() {
			continue
		}
		a, b := s.hit.Rule, end.step.hit.Rule
		if a.Backend != b.Backend || a.Family != b.Family || a.Table != b.Table {
			return s
		}
	}
	return nil
}

// The priorities between which a chain filters, rather than changes packets or
// looks at them: NF_IP_PRI_MANGLE and NF_IP_PRI_SECURITY
// (include/uapi/linux/netfilter_ipv4.h). iptables' table security is no place
// for rules that let packets pass.
const (
	priorityMangle   = -150
	prioritySecurity = 50
)

// accepts reports whether the step is that of a rule in a filter table that
// accepted the packet. A policy that accepts is no decision.
func (s *step) accepts() bool {
	h := s.hit
	if h == nil || h.Kind != ruletrace.HitRule || h.Verdict != ruletrace.Accept || h.ChainType == "nat" || h.ChainType == "route" {
		return false
	}
	if h.Rule.Backend != ruletrace.NFT {
		return h.Rule.Table == "filter"
	}
	return h.Priority > priorityMangle && h.Priority < prioritySecurity
}

// bridged reports whether a frame that came in by a bridge port is for nobody
// behind the bridge's own link: it is not routed here.
func bridged(s *capture.Sighting, topo *topology.Snapshot) bool {
	ns := topo.Namespace(s.Point.NetNS)
	port := ns.Link(s.Point.Interface)
	to := s.Header.EtherDst
	if s.Direction != capture.Ingress || port == nil || port.Bridge == "" || to == (packet.HardwareAddr{}) {
		return false
	}
	return !slices.ContainsFunc(ns.Links, func(l topology.Link) bool {
		return (l.Name == port.Bridge || l.Bridge == port.Bridge) && l.MAC == to.String()
	})
}

// currentSource is the source that a packet had when it was delivered, with its
// port.
func currentSource(all []element) (netip.Addr, uint16) {
	var source packet.Tuple
	for i := range all {
		if tuple, ok := all[i].tuple(); ok {
			source = tuple
		}
		if s := all[i].step; s != nil && s.after.Src.IsValid() {
			source = s.after
		}
	}
	return source.Src, source.SrcPort
}

// currentPort is the port that a packet was delivered to.
func currentPort(all []element) uint16 {
	var port uint16
	for i := range all {
		if tuple, ok := all[i].tuple(); ok {
			port = tuple.DstPort
		}
		if s := all[i].step; s != nil && s.after.Dst.IsValid() {
			port = s.after.DstPort
		}
	}
	return port
}

// currentTarget is the destination that the packet had at the end of a stay.
func currentTarget(all []element) netip.Addr {
	var target netip.Addr
	for i := range all {
		if tuple, ok := all[i].tuple(); ok {
			target = tuple.Dst
		}
		if s := all[i].step; s != nil && s.after.Dst.IsValid() {
			target = s.after.Dst
		}
	}
	return target
}
