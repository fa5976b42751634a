// Package topology takes a snapshot of every network namespace that a packet
// may cross on its way: links, veth peers, bridges, addresses, routes, policy
// rules and neighbours. The snapshot is plain data; it can be saved and read
// elsewhere.
package topology

import (
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// HostName is the name of the namespace that pathtrace runs in.
const HostName = "host"

// Snapshot is what was found. Namespaces are in the order in which a packet
// from the source reaches them: the source first.
type Snapshot struct {
	Namespaces []Namespace `json:"namespaces"`
	// Source is the name of the namespace that the packet starts in, Target
	// the address it is for.
	Source string     `json:"source"`
	Target netip.Addr `json:"target"`
	// Zone is the interface of a link-local target.
	Zone string `json:"zone,omitempty"`
	// Steps are the decisions on the way from the source to the target, in
	// order, as far as it could be followed.
	Steps []Step `json:"steps"`
	// Problems are parts that could not be read, in words.
	Problems []string `json:"problems,omitempty"`
}

// Step is what one namespace does with a packet for the target.
type Step struct {
	NetNS string `json:"netns"`
	// Ingress is the interface that the packet comes in by, empty where it is
	// sent.
	Ingress string     `json:"ingress,omitempty"`
	Target  netip.Addr `json:"target"`
	// Delivered says that the namespace has the target's address. Otherwise
	// Route is the route that the packet takes, empty when there is none, and
	// Policy the policy rule that led to it.
	Delivered bool   `json:"delivered,omitempty"`
	Route     string `json:"route,omitempty"`
	Policy    string `json:"policy,omitempty"`
	// Undetermined says why the kernel may decide otherwise.
	Undetermined string `json:"undetermined,omitempty"`
}

// Namespace is one network namespace.
type Namespace struct {
	// Name is as reports print it: "host" for the one that pathtrace runs in,
	// otherwise the container's or namespace's name, or "pid N".
	Name string `json:"name"`
	// ID is the inode number.
	ID uint64 `json:"id"`
	// PID is a process in it when it has the name of a container; 0 for others.
	PID        int         `json:"pid,omitempty"`
	Links      []Link      `json:"links"`
	Routes     []Route     `json:"routes"`
	Policy     []Policy    `json:"policy"`
	Neighbours []Neighbour `json:"neighbours"`
	// Forwarding are the entries of its bridges' forwarding tables, without
	// those of the bridges' own addresses.
	Forwarding []Forwarding `json:"forwarding,omitempty"`
	// Proxied are addresses that the namespace answers for on behalf of others
	// ("ip neigh show proxy").
	Proxied []Proxied `json:"proxied,omitempty"`
	// All are the switches of conf.all: a forwarding switch that is on here is
	// on for IPv6 everywhere and was written to every interface for IPv4; the
	// larger of the two rp_filters counts.
	All Settings `json:"all"`
	// BridgeNF says which bridged packets are handed to the IP hooks
	// (net.bridge.bridge-nf-call-iptables, -ip6tables, -arptables); false also
	// where br_netfilter is absent.
	BridgeNF BridgeNF `json:"bridge_nf"`
	// EchoIgnored says that the namespace answers no pings
	// (net.ipv4.icmp_echo_ignore_all, net.ipv6.icmp.echo_ignore_all).
	EchoIgnored EchoIgnored `json:"echo_ignored,omitzero"`
	// Counters are the kernel's, as "nstat" names them (IpInAddrErrors,
	// TcpExtIPReversePathFilter, Ip6InNoRoutes, …), and those of conntrack with
	// "conntrack_" before them (conntrack_insert_failed), of all processors
	// together. A counter that the kernel does not have is absent.
	Counters map[string]uint64 `json:"counters,omitempty"`
	// Conntrack says how full the table of flows is.
	Conntrack Conntrack `json:"conntrack"`
}

// Conntrack is the fill of the table of flows: the namespace's entries and the
// most that there may be (nf_conntrack_count, nf_conntrack_max). Both are 0
// where there is no conntrack.
type Conntrack struct {
	Count uint64 `json:"count"`
	Max   uint64 `json:"max"`
}

// Settings are switches below net.ipv4.conf and net.ipv6.conf
// (Documentation/networking/ip-sysctl.rst).
type Settings struct {
	ForwardIPv4 bool `json:"forward_ipv4"`
	ForwardIPv6 bool `json:"forward_ipv6"`
	// RPFilter is 0 (off), 1 (strict) or 2 (loose).
	RPFilter int `json:"rp_filter"`
	// ProxyARP and ProxyNDP answer for addresses that live elsewhere.
	ProxyARP bool `json:"proxy_arp,omitempty"`
	ProxyNDP bool `json:"proxy_ndp,omitempty"`
	// IgnoreLinkDownIPv4 and IPv6 take no route over a link without carrier.
	IgnoreLinkDownIPv4 bool `json:"ignore_link_down_ipv4,omitempty"`
	IgnoreLinkDownIPv6 bool `json:"ignore_link_down_ipv6,omitempty"`
	// AcceptRA says whether router advertisements are followed: 0 no, 1 unless
	// the namespace forwards, 2 always. Only Survey reads it, and only where
	// IPv6 is forwarded.
	AcceptRA int `json:"accept_ra,omitempty"`
}

// BridgeNF are br_netfilter's switches.
type BridgeNF struct {
	IPv4 bool `json:"ipv4"`
	IPv6 bool `json:"ipv6"`
	ARP  bool `json:"arp"`
}

// EchoIgnored are the switches that keep a namespace from answering pings.
type EchoIgnored struct {
	IPv4 bool `json:"ipv4,omitempty"`
	IPv6 bool `json:"ipv6,omitempty"`
}

// Link is an interface.
type Link struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
	// Kind is the kernel's: veth, bridge, tun, …; "loopback" for lo and empty
	// for a physical device.
	Kind string `json:"kind"`
	MAC  string `json:"mac,omitempty"`
	MTU  int    `json:"mtu"`
	// Up is the administrative state, Carrier that of the wire.
	Up      bool `json:"up"`
	Carrier bool `json:"carrier"`
	// State is the kernel's operational state: up, down, lowerlayerdown, …
	State string `json:"state,omitempty"`
	// Bridge is the name of the bridge that this link is a port of, Port how
	// the bridge treats it.
	Bridge string `json:"bridge,omitempty"`
	Port   *Port  `json:"port,omitempty"`
	// VRF is the name of the VRF device that this link belongs to; VRFTable is
	// the routing table of a link that is itself a VRF device.
	VRF      string `json:"vrf,omitempty"`
	VRFTable int    `json:"vrf_table,omitempty"`
	// Group is the number that suppress_ifgroup of a policy rule compares.
	Group     int            `json:"group,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// AddressFlags are the flags of addresses that have one of: tentative,
	// dadfailed, deprecated, secondary (temporary for IPv6), optimistic.
	AddressFlags map[netip.Addr][]string `json:"address_flags,omitempty"`
	// Overlay says that a tunnel leads to many machines, as those between the nodes
	// of a cluster do: it has no single other end.
	Overlay bool `json:"overlay,omitempty"`
	// Tunnel is where a VXLAN leads; nil for other kinds, and for one whose port is
	// not VXLAN's.
	Tunnel *Tunnel `json:"tunnel,omitempty"`
	// Peer is the other end of a veth or netkit pair; nil for other kinds.
	Peer *Peer `json:"peer,omitempty"`
	// Lower is the link below a macvlan, ipvlan or VLAN; nil for other kinds.
	Lower *Peer `json:"lower,omitempty"`
	// Mode is a macvlan's: bridge, private, vepa, passthru or source; empty for
	// other kinds.
	Mode     string       `json:"mode,omitempty"`
	Settings Settings     `json:"settings"`
	Role     capture.Role `json:"role"`
	// XDP is the program that gets a packet before anything else sees it; nil
	// when there is none.
	XDP *XDP `json:"xdp,omitempty"`
	// Filters are those of tc and tcx, in the order in which they are asked.
	// FilterDrops is how many packets the filters of tc have dropped on their
	// way in and out, which the kernel counts as one.
	Filters     []Filter `json:"filters,omitempty"`
	FilterDrops uint64   `json:"filter_drops,omitempty"`
}

// Macvlan reports whether a link is a macvlan or macvtap: it has a Mode and a Lower.
func (l *Link) Macvlan() bool { return l.Mode != "" && l.Lower != nil }

// Tunnel is a VXLAN device.
type Tunnel struct {
	// ID is the number of the network (VNI), Port the UDP port that it is sent to
	// and received at.
	ID   uint32 `json:"id"`
	Port uint16 `json:"port"`
	// Local is the address that it sends from, invalid when the route decides.
	Local netip.Addr `json:"local,omitzero"`
	// Remotes are the other ends, by the hardware addresses behind them; that of
	// all zeros is for what has no entry of its own.
	Remotes []Remote `json:"remotes,omitempty"`
}

// Remote is another end of a tunnel.
type Remote struct {
	MAC     string     `json:"mac"`
	Address netip.Addr `json:"address"`
}

// AllZeroMAC is the hardware address of the entry for all that have none.
const AllZeroMAC = "00:00:00:00:00:00"

// Towards is the other end that a frame for a hardware address is sent to,
// invalid when there is none, or several. It may be called on nil.
func (t *Tunnel) Towards(mac string) netip.Addr {
	if t == nil {
		return netip.Addr{}
	}
	for _, wanted := range []string{mac, AllZeroMAC} {
		var found netip.Addr
		several := false
		for _, r := range t.Remotes {
			if r.MAC == wanted {
				several = several || found.IsValid()
				found = r.Address
			}
		}
		if found.IsValid() && !several {
			return found
		}
	}
	return netip.Addr{}
}

// XDP is a program at the entrance of a link.
type XDP struct {
	// Mode is iproute2's word: xdpgeneric, xdpdrv or xdpoffload; "xdp" for
	// several at once.
	Mode string `json:"mode"`
	// ID is the program's number, Name what it is called, empty when that could
	// not be read.
	ID   uint32 `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// Filter is one that packets meet at a link, outside of netfilter.
type Filter struct {
	// Egress says that it is for what leaves.
	Egress bool `json:"egress,omitempty"`
	// Preference is tc's number, 0 for a program of tcx.
	Preference int `json:"preference,omitempty"`
	// Text is the filter in short: "u32 action drop", "bpf direct-action NAME".
	Text string `json:"text"`
}

// Port is how a bridge treats one of its ports.
type Port struct {
	// State is that of the spanning tree: disabled, listening, learning,
	// forwarding or blocking. Only a forwarding port passes packets.
	State string `json:"state"`
	// Hairpin lets a packet leave by the port that it came from.
	Hairpin bool `json:"hairpin,omitempty"`
	// Isolated ports talk to ports that are not isolated only.
	Isolated bool `json:"isolated,omitempty"`
}

// Peer is another link that this one leads to, perhaps in another namespace.
type Peer struct {
	// NetNS is the peer's namespace, empty when it is one that pathtrace
	// cannot see into.
	NetNS     string `json:"netns,omitempty"`
	Interface string `json:"interface,omitempty"`
	Index     int    `json:"index"`
}

// Route is one entry of a routing table.
type Route struct {
	// Destination is 0.0.0.0/0 or ::/0 for a default route.
	Destination netip.Prefix `json:"destination"`
	// From restricts a route to packets from these sources (IPv6 only);
	// invalid for all others.
	From netip.Prefix `json:"from,omitzero"`
	// TOS restricts a route to packets with this type of service (IPv4 only);
	// 0 is any.
	TOS int `json:"tos,omitempty"`
	// Gateway is invalid for a route that is on the link.
	Gateway   netip.Addr `json:"gateway"`
	Interface string     `json:"interface,omitempty"`
	Source    netip.Addr `json:"source"`
	// Table is the number (254 is main, 255 local), Type the kernel's word:
	// unicast, local, blackhole, unreachable, prohibit, …
	Table    int    `json:"table"`
	Type     string `json:"type"`
	Protocol string `json:"protocol,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Metric   int    `json:"metric,omitempty"`
	// MTU is that of the route itself, 0 when it takes the interface's.
	MTU int `json:"mtu,omitempty"`
	// Flags are the kernel's words: onlink, dead, linkdown, pervasive, offload.
	Flags []string `json:"flags,omitempty"`
	// NextHops are those of a multipath route, which has neither Gateway nor
	// Interface.
	NextHops []NextHop `json:"next_hops,omitempty"`
	// Text is the route as "ip route" prints it, in one line.
	Text string `json:"text"`
}

// NextHop is one way of a multipath route.
type NextHop struct {
	Gateway   netip.Addr `json:"gateway"`
	Interface string     `json:"interface,omitempty"`
	Weight    int        `json:"weight,omitempty"`
	Flags     []string   `json:"flags,omitempty"`
}

// Policy is one policy rule ("ip rule"). What a rule does not ask for is zero.
type Policy struct {
	Priority int  `json:"priority"`
	IPv6     bool `json:"ipv6"`
	// Action is the kernel's word: lookup, goto, nop, blackhole, unreachable or
	// prohibit. Table belongs to lookup, Goto (a priority) to goto.
	Action string `json:"action"`
	Table  int    `json:"table"`
	Goto   int    `json:"goto,omitempty"`
	// Invert takes the packets that the rest does not match.
	Invert bool         `json:"invert,omitempty"`
	From   netip.Prefix `json:"from,omitzero"`
	To     netip.Prefix `json:"to,omitzero"`
	// Ingress is "lo" for packets that are sent from here.
	Ingress  string `json:"ingress,omitempty"`
	Egress   string `json:"egress,omitempty"`
	Mark     uint32 `json:"mark,omitempty"`
	MarkMask uint32 `json:"mark_mask,omitempty"`
	TOS      int    `json:"tos,omitempty"`
	// TunnelID is that of a lightweight tunnel.
	TunnelID uint64       `json:"tunnel_id,omitempty"`
	Proto    packet.Proto `json:"proto,omitempty"`
	// SourcePorts, TargetPorts and UIDs are first and last.
	SourcePorts *[2]uint16 `json:"source_ports,omitempty"`
	TargetPorts *[2]uint16 `json:"target_ports,omitempty"`
	UIDs        *[2]uint32 `json:"uids,omitempty"`
	// VRF rules look into the table of the VRF that the packet belongs to.
	VRF bool `json:"vrf,omitempty"`
	// SuppressPrefix takes no result with a prefix of that length or shorter,
	// SuppressGroup none by an interface of that group; -1 is none.
	SuppressPrefix int `json:"suppress_prefix"`
	SuppressGroup  int `json:"suppress_group"`
	// Text is the rule as "ip rule" prints it.
	Text string `json:"text"`
}

// Neighbour is an entry of the neighbour table.
type Neighbour struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	MAC       string     `json:"mac,omitempty"`
	// State is the kernel's word: reachable, stale, failed, incomplete, …
	State string `json:"state"`
}

// Forwarding says behind which port a bridge has a hardware address ("bridge
// fdb").
type Forwarding struct {
	MAC string `json:"mac"`
	// Interface is the port of Bridge.
	Interface string `json:"interface"`
	Bridge    string `json:"bridge"`
	// VLAN is 0 where the bridge tells none apart.
	VLAN int `json:"vlan,omitempty"`
	// State is learned, or static for an entry that somebody made.
	State string `json:"state"`
}

// Proxied is an address that is answered for at an interface.
type Proxied struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
}

// Namespace returns the namespace with that name, or nil.
func (s *Snapshot) Namespace(name string) *Namespace {
	for i := range s.Namespaces {
		if s.Namespaces[i].Name == name {
			return &s.Namespaces[i]
		}
	}
	return nil
}

// Rename gives a namespace of the snapshot another name, unless one has it
// already, and reports whether it did.
func (s *Snapshot) Rename(from, to string) bool {
	n := s.Namespace(from)
	if n == nil || to == "" || s.Namespace(to) != nil {
		return false
	}
	n.Name = to
	if s.Source == from {
		s.Source = to
	}
	for i := range s.Steps {
		if s.Steps[i].NetNS == from {
			s.Steps[i].NetNS = to
		}
	}
	for i := range s.Namespaces {
		for k := range s.Namespaces[i].Links {
			link := &s.Namespaces[i].Links[k]
			for _, peer := range []*Peer{link.Peer, link.Lower} {
				if peer != nil && peer.NetNS == from {
					peer.NetNS = to
				}
			}
		}
	}
	return true
}

// Delivers reports whether a packet for the address ends in the namespace: it
// has the address, or a route of the type local. It may be called on nil.
func (n *Namespace) Delivers(address netip.Addr) bool {
	if n == nil {
		return false
	}
	if n.Local(address) != nil {
		return true
	}
	route := n.Lookup(Query{Target: address}).Route
	return route != nil && route.Type == "local"
}

// Link returns the link with that name, or nil. It may be called on nil.
func (n *Namespace) Link(name string) *Link {
	if n == nil {
		return nil
	}
	for i := range n.Links {
		if n.Links[i].Name == name {
			return &n.Links[i]
		}
	}
	return nil
}

// Has reports whether the namespace has an interface of that name with an address
// of one of the networks.
func (n *Namespace) Has(name string, networks []netip.Prefix) bool {
	link := n.Link(name)
	return link != nil && slices.ContainsFunc(link.Addresses, func(a netip.Prefix) bool { return slices.Contains(networks, a.Masked()) })
}

// Local returns the link that has the address, or nil: a packet for it is
// delivered here. It may be called on nil.
func (n *Namespace) Local(address netip.Addr) *Link {
	if n == nil {
		return nil
	}
	for i := range n.Links {
		for _, prefix := range n.Links[i].Addresses {
			if prefix.Addr() == address {
				return &n.Links[i]
			}
		}
	}
	return nil
}
