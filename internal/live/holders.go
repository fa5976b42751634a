//go:build linux

package live

import (
	"context"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
)

// holdersLimit is how long looking for the processes of sockets may take.
const holdersLimit = 2 * time.Second

// holders are the sockets where packets end in the namespaces that are looked into,
// with the processes that hold them, as far as somebody asked.
type holders struct {
	topo    *topology.Snapshot
	handles *topology.Handles
	log     func(format string, args ...any)
	owners  []socket.Owner
}

// find adds the sockets of a namespace that packets with a tuple go to. A
// connection's own socket is asked for where connected is set. With pids given,
// these processes alone may hold one.
func (h *holders) find(ctx context.Context, netns string, to packet.Tuple, connected bool, pids ...int) {
	if len(socket.Find(h.owners, netns, to)) > 0 && !connected {
		return
	}
	query := socket.Query{Proto: to.Proto, Local: to.DstPort, Remote: to.SrcPort, Connected: connected}
	h.add(ctx, netns, socket.Taking(h.list(netns, query), to), pids...)
}

// findProxies adds the sockets at which a docker-proxy waits in a namespace.
func (h *holders) findProxies(ctx context.Context, netns string) {
	pids := socket.Proxies()
	if len(pids) == 0 {
		return
	}
	var all []socket.Socket
	for _, proto := range []packet.Proto{packet.TCP, packet.UDP} {
		all = append(all, h.list(netns, socket.Query{Proto: proto})...)
	}
	before := len(h.owners)
	h.add(ctx, netns, all, pids...)
	held := slices.DeleteFunc(h.owners[before:], func(o socket.Owner) bool { return !o.Forwards.IsValid() })
	h.owners = h.owners[:before+len(held)]
}

func (h *holders) list(netns string, query socket.Query) []socket.Socket {
	handle := h.handles.Get(netns)
	if handle == nil {
		return nil
	}
	all, err := socket.List(handle, query)
	if err != nil {
		h.log("%s: %v", netns, err)
	}
	return all
}

// add adds sockets with the processes that hold them.
func (h *holders) add(ctx context.Context, netns string, sockets []socket.Socket, pids ...int) {
	ctx, cancel := context.WithTimeout(ctx, holdersLimit)
	defer cancel()
	inodes := make([]uint32, len(sockets))
	for i := range sockets {
		inodes[i] = sockets[i].Inode
	}
	found := socket.Holders(ctx, inodes, pids...)
	for _, s := range sockets {
		o := socket.Owner{NetNS: netns, Socket: s}
		if p, ok := found[s.Inode]; ok {
			o.PID, o.Command, o.Forwards, o.Home = p.PID, p.Command, p.Forwards, h.named(p.NetNS)
		}
		if !slices.Contains(h.owners, o) {
			h.owners = append(h.owners, o)
		}
	}
}

// named is the name of a namespace that is looked into, by its inode number.
func (h *holders) named(inode uint64) string {
	for i := range h.topo.Namespaces {
		if h.topo.Namespaces[i].ID == inode {
			return h.topo.Namespaces[i].Name
		}
	}
	return ""
}
