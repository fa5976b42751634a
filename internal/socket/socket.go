// Package socket tells which sockets a network namespace has and which process
// holds one: who listens where a packet was delivered, and to whom docker-proxy
// passes it on.
//
// Listing sockets needs no privilege; whose they are is known of the caller's
// own processes only, or with CAP_SYS_PTRACE. Nothing is changed on the host.
package socket

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// Socket is a TCP or UDP socket.
type Socket struct {
	Proto packet.Proto
	// Local is what the socket is bound to; an unspecified address is any. Remote
	// is the other end of a connected socket, the zero AddrPort of all others.
	Local, Remote netip.AddrPort
	// OnlyIPv6 says of a socket of IPv6 that it takes no packets of IPv4.
	OnlyIPv6 bool
	// Inode is the number that a process has in its descriptors for it; 0 for a
	// connection that no process has accepted yet or has any more.
	Inode uint32
}

// Owner is a socket with the process that holds it.
type Owner struct {
	// NetNS is the socket's namespace.
	NetNS string
	Socket
	// PID and Command are the process, with the kernel's name of it; 0 and empty
	// when that was not determined. A socket that several processes hold is the
	// first one's.
	PID     int
	Command string
	// Home is the namespace of the process itself, which may be another one than
	// the socket's; empty when it is not one that the run looks into.
	Home string
	// Forwards is where docker-proxy passes on what comes to the socket, as its
	// command line says; invalid for other processes.
	Forwards netip.AddrPort
}

// takes says how well a socket fits packets with a tuple, as the kernel's
// lookup prefers them (inet_lookup, compute_score): 0 is not at all.
func (s *Socket) takes(t packet.Tuple) int {
	here, there := netip.AddrPortFrom(t.Dst, t.DstPort), netip.AddrPortFrom(t.Src, t.SrcPort)
	bound := s.Local.Addr()
	switch {
	case s.Proto != t.Proto || s.Local.Port() != t.DstPort:
		return 0
	case s.Remote.IsValid():
		if s.Local == here && s.Remote == there {
			return 4
		}
		return 0
	case bound == t.Dst:
		return 3
	case !bound.IsUnspecified():
		return 0
	case bound.Is4() == t.Dst.Is4():
		return 2
	case t.Dst.Is4() && !s.OnlyIPv6:
		return 1
	}
	return 0
}

// Taking returns the sockets that a packet with a tuple may go to: more than one
// where sockets share a port.
func Taking(all []Socket, t packet.Tuple) []Socket {
	var found []Socket
	best := 1
	for i := range all {
		switch fit := all[i].takes(t); {
		case fit > best:
			found, best = []Socket{all[i]}, fit
		case fit == best:
			found = append(found, all[i])
		}
	}
	return found
}

// proxyName is how Docker calls the program that passes published ports on.
const proxyName = "docker-proxy"

// forwards returns where docker-proxy passes connections on, as its command line
// says (-container-ip, -container-port; cmd/docker-proxy in moby); invalid when
// the process is no docker-proxy.
func forwards(args []string) netip.AddrPort {
	if len(args) == 0 || args[0][strings.LastIndexByte(args[0], '/')+1:] != proxyName {
		return netip.AddrPort{}
	}
	value := func(flag string) string {
		for i, arg := range args[1:] {
			name, value, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
			switch {
			case name != flag:
			case joined:
				return value
			case i+2 < len(args):
				return args[i+2]
			}
		}
		return ""
	}
	address, err := netip.ParseAddr(value("container-ip"))
	if err != nil {
		return netip.AddrPort{}
	}
	port, err := strconv.ParseUint(value("container-port"), 10, 16)
	if err != nil || port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(port))
}

// Find returns the owners whose sockets packets with a tuple go to in a
// namespace.
func Find(all []Owner, netns string, t packet.Tuple) []Owner {
	var sockets []Socket
	for i := range all {
		if all[i].NetNS == netns {
			sockets = append(sockets, all[i].Socket)
		}
	}
	taking := Taking(sockets, t)
	return slices.DeleteFunc(slices.Clone(all), func(o Owner) bool { return o.NetNS != netns || !slices.Contains(taking, o.Socket) })
}
