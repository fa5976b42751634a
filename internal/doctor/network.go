package doctor

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
)

// network is a container network: an address of the host at a bridge, or at one
// end of a pair, behind which namespaces are.
type network struct {
	link *topology.Link
	// prefix is the host's address there with the network's length.
	prefix  netip.Prefix
	members []member
	docker  *engine.Network
	// internal says that an engine, Docker or another one, has made it to lead
	// nowhere else.
	internal bool
}

// member is a namespace in a network.
type member struct {
	ns      *topology.Namespace
	link    *topology.Link
	address netip.Addr
	// served says that its way to the internet leads to the network's address
	// on the host.
	served bool
}

// Addresses that stand for any in the internet: those of documentation (RFC 5737,
// RFC 3849), which hosts may throw away, and of root name servers.
var (
	internet4 = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.41.0.4"), netip.MustParseAddr("193.0.14.129"), netip.MustParseAddr("199.7.83.42")}
	internet6 = []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:503:ba3e::2:30"), netip.MustParseAddr("2001:7fd::1"), netip.MustParseAddr("2001:500:9f::42")}
)

// usualOf is the address whose routes are the least specific ones: where none of
// the others has routes of its own, only those for all of the internet contain it.
func usualOf(all []netip.Addr, namespaces []topology.Namespace) netip.Addr {
	return slices.MinFunc(all, func(a, b netip.Addr) int {
		return cmp.Compare(specific(a, namespaces), specific(b, namespaces))
	})
}

// specific is the length of the longest prefix that contains an address, of
// routes and of what policy rules ask for.
func specific(a netip.Addr, namespaces []topology.Namespace) int {
	longest := 0
	for i := range namespaces {
		for k := range namespaces[i].Routes {
			if p := namespaces[i].Routes[k].Destination; p.Contains(a) {
				longest = max(longest, p.Bits())
			}
		}
		for k := range namespaces[i].Policy {
			for _, p := range []netip.Prefix{namespaces[i].Policy[k].To, namespaces[i].Policy[k].From} {
				if p.Contains(a) {
					longest = max(longest, p.Bits())
				}
			}
		}
	}
	return max(longest, 1) // the two halves are as good as the whole
}

func (e *exam) internetOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		return e.internet6
	}
	return e.internet4
}

// bridgeName are the names that engines give to their bridges.
var bridgeName = regexp.MustCompile(`^(docker0|docker_gwbridge|br-[0-9a-f]{12}|br_.*|cni.*|podman.*|virbr.*|lxcbr.*|lxdbr.*|nerdctl.*)$`)

// findNetworks lists the container networks of the host. An interface with a
// default route leads out, and what hangs on it is the LAN.
func (e *exam) findNetworks() []network {
	var all []network
	for i := range e.host.Links {
		link := &e.host.Links[i]
		if link.Role == capture.RoleUplink || e.leadsOut(link) || link.Bridge != "" || link.Kind != "bridge" && link.Peer == nil {
			continue
		}
		behind := e.behind(link)
		if link.Kind == "bridge" && !bridgeName.MatchString(link.Name) && len(behind) == 0 {
			continue
		}
		for _, prefix := range link.Addresses {
			if prefix.Addr().IsLinkLocalUnicast() || prefix.IsSingleIP() {
				continue
			}
			n := network{link: link, prefix: prefix, docker: e.in.Docker.network(link.Name), internal: e.internal(link.Name)}
			for _, far := range behind {
				for _, p := range far.link.Addresses {
					if prefix.Contains(p.Addr()) && p.Addr() != prefix.Addr() {
						n.members = append(n.members, e.with(far, p.Addr(), prefix.Addr()))
					}
				}
			}
			// The far end of a pair may as well be a router of the host's.
			if link.Kind == "bridge" || len(n.members) > 0 && !e.leadsOn(&n.members[0]) {
				all = append(all, n)
			}
		}
	}
	return all
}

// internal reports whether an engine of the system has made the network of a bridge
// internal. The bridges of a user's engine are in a namespace of its own.
func (e *exam) internal(bridge string) bool {
	made := func(n engine.Network) bool { return n.Bridge == bridge && n.Internal }
	return slices.ContainsFunc(e.in.Docker.Networks, made) ||
		slices.ContainsFunc(e.in.Engines, func(v engine.View) bool { return v.Owner == 0 && slices.ContainsFunc(v.Networks, made) })
}

// allotted are the prefixes that Docker and other engines have, or will take.
func (e *exam) allotted() []netip.Prefix {
	all := e.in.Docker.taken()
	for i := range e.in.Engines {
		for k := range e.in.Engines[i].Networks {
			all = append(all, e.in.Engines[i].Networks[k].Prefixes...)
		}
	}
	return all
}

// behind are the namespaces at the other ends of a link's cables.
func (e *exam) behind(link *topology.Link) []member {
	var all []member
	for i := range e.host.Links {
		port := &e.host.Links[i]
		if port.Peer == nil || port.Peer.NetNS == "" || port.Peer.NetNS == topology.HostName || port != link && port.Bridge != link.Name {
			continue
		}
		ns := e.in.Topology.Namespace(port.Peer.NetNS)
		if far := ns.Link(port.Peer.Interface); far != nil {
			all = append(all, member{ns: ns, link: far})
		}
	}
	return all
}

// with is a member with an address in a network whose gateway would be via.
func (e *exam) with(m member, a, via netip.Addr) member {
	m.address = a
	decision := m.ns.Lookup(topology.Query{Source: a, Target: e.internetOf(a)})
	m.served = slices.ContainsFunc(decision.NextHops(), func(h topology.NextHop) bool {
		return h.Interface == m.link.Name && (h.Gateway == via || h.Gateway.IsLinkLocalUnicast())
	})
	return m
}

// leadsOn reports whether a member is a router that has another way out than
// the host.
func (e *exam) leadsOn(m *member) bool {
	forwards := m.ns.All.ForwardIPv4 && m.address.Is4() || m.ns.All.ForwardIPv6 && m.address.Is6()
	return forwards && !m.served && m.ns.Lookup(topology.Query{Target: e.internetOf(m.address)}).Route != nil
}

// served is a member that sends by the host what is for the internet; nil when
// there is none, and for networks that are to lead nowhere.
func (n *network) served() *member {
	if n.internal {
		return nil // Docker 20.10 gives its containers a default route all the same
	}
	for i := range n.members {
		if n.members[i].served && n.members[i].link.Up {
			return &n.members[i]
		}
	}
	return nil
}

// way is the interface by which the host sends on what a member has for the
// internet; nil when there is none, or when that is not certain.
func (e *exam) way(n *network, m *member) (*topology.Link, topology.Decision) {
	decision := e.host.Lookup(topology.Query{Source: m.address, Target: e.internetOf(m.address), Ingress: n.link.Name})
	hops := decision.NextHops()
	if decision.Undetermined || len(hops) != 1 || hops[0].Interface == n.link.Name {
		return nil, decision
	}
	return e.host.Link(hops[0].Interface), decision
}
