// Package capture sees packets: live, from TPACKET_V2 rings of AF_PACKET
// sockets, and saved, from capture files. A ring needs CAP_NET_RAW in the
// network namespace's user namespace; nothing is changed on the host: no
// promiscuous mode, no rule, no link.
package capture

import (
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Role says what an interface is on the way of a packet.
type Role string

// The roles, as reports print them.
const (
	RoleContainer Role = "container"
	RoleVeth      Role = "veth"
	RoleBridge    Role = "bridge"
	RoleUplink    Role = "uplink"
	RoleTunnel    Role = "tunnel"
	RoleRouter    Role = "router"
	RoleLoopback  Role = "loopback"
	RoleOther     Role = "other"
)

// Point is a place where packets are seen: an interface in a namespace. It is
// comparable.
type Point struct {
	// NetNS is the namespace's name as reports print it.
	NetNS string
	// Interface is the interface's name, Index its ifindex in NetNS.
	Interface string
	Index     int
	Role      Role
}

// String returns the point as "namespace/interface", and the interface alone
// where no namespace is known, as in a capture of others.
func (p Point) String() string {
	if p.NetNS == "" {
		return p.Interface
	}
	return p.NetNS + "/" + p.Interface
}

// Direction is a packet's direction at an interface, as its namespace sees it.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota + 1
	Egress
)

// String returns the direction as reports print it.
func (d Direction) String() string {
	switch d {
	case Ingress:
		return "ingress"
	case Egress:
		return "egress"
	}
	return "unknown"
}

// Sighting is one packet seen at one point.
type Sighting struct {
	Point Point
	// Time is the kernel's, with nanoseconds.
	Time      time.Time
	Direction Direction
	// Number counts the records of one ring from 1. Within a ring it is the
	// order in which the kernel wrote them.
	Number uint64
	// Length is the frame's length on the wire in bytes; it may be more than
	// was captured.
	Length int
	Header packet.Header
	// Carrier is the VXLAN packet inside of which this one was seen; nil outside of
	// tunnels, and for what files of others hold.
	Carrier *packet.Header
	// Frame is what was captured, of the link type Link. It is valid only while
	// the sighting is delivered; one that is kept has none.
	Frame []byte
	Link  packet.LinkType
}

// Carried is the sighting of the packet inside the VXLAN packet that was seen; ok
// is false for any other packet. It needs the Frame.
func (s *Sighting) Carried() (inner Sighting, ok bool) {
	header, ok := packet.DecodeCarried(s.Link, s.Frame, s.Length, &s.Header)
	if !ok {
		return Sighting{}, false
	}
	inner = *s
	inner.Header, inner.Carrier = header, new(s.Header)
	return inner, true
}

// Stats count what a source delivered and lost.
type Stats struct {
	// Received packets were delivered, Lost ones were dropped by the kernel
	// because the ring was full, Undecodable ones were delivered but not
	// understood.
	Received, Lost, Undecodable uint64
}
