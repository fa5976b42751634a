// Package topology takes a snapshot of every network namespace that a packet
// may cross on its way: links, veth peers, bridges, addresses, routes, policy
// rules and neighbours. The snapshot is plain data; it can be saved and read
// elsewhere.
package topology

import (
	"net/netip"

	"github.com/pathtrace/pathtrace/capture"
)

// Snapshot is what was found. Namespaces are in the order in which a packet
// from the source reaches them: the source first.
type Snapshot struct {
	Namespaces []Namespace `json:"namespaces"`
	// Source is the name of the namespace that the packet starts in, Target
	// the address it is for.
	Source string     `json:"source"`
	Target netip.Addr `json:"target"`
	// Problems are parts that could not be read, in words.
	Problems []string `json:"problems,omitempty"`
}

// Namespace is one network namespace.
type Namespace struct {
	// Name is as reports print it: "host" for the one that pathtrace runs in,
	// otherwise the container's or namespace's name, or "pid N".
	Name string `json:"name"`
	// ID is the inode number.
	ID         uint64      `json:"id"`
	Links      []Link      `json:"links"`
	Routes     []Route     `json:"routes"`
	Policy     []Policy    `json:"policy"`
	Neighbours []Neighbour `json:"neighbours"`
	// BridgeNF says which bridged packets are handed to the IP hooks
	// (net.bridge.bridge-nf-call-iptables, -ip6tables, -arptables); false also
	// where br_netfilter is absent.
	BridgeNF BridgeNF `json:"bridge_nf"`
}

// BridgeNF are br_netfilter's switches.
type BridgeNF struct {
	IPv4 bool `json:"ipv4"`
	IPv6 bool `json:"ipv6"`
	ARP  bool `json:"arp"`
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
	// Bridge is the name of the bridge that this link is a port of.
	Bridge    string         `json:"bridge,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Peer is the other end of a veth pair; nil for other kinds.
	Peer *Peer        `json:"peer,omitempty"`
	Role capture.Role `json:"role"`
}

// Peer is the other end of a veth pair.
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
	// Text is the route as "ip route" prints it, in one line.
	Text string `json:"text"`
}

// Policy is one policy rule ("ip rule").
type Policy struct {
	Priority int    `json:"priority"`
	IPv6     bool   `json:"ipv6"`
	Table    int    `json:"table"`
	Text     string `json:"text"`
}

// Neighbour is an entry of the neighbour table.
type Neighbour struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	MAC       string     `json:"mac,omitempty"`
	// State is the kernel's word: reachable, stale, failed, incomplete, …
	State string `json:"state"`
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
