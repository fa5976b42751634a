//go:build linux

package live

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/packet"
)

// proxies are the docker-proxies of the host, and the connections that they made to
// carry flows of a trace on.
type proxies struct {
	holders holders
	// waiting are the sockets that they wait at, as of asked.
	waiting []socket.Owner
	asked   time.Time
	// connected are the sockets of the flows that carry others on; of one that was
	// closed before somebody looked there is none.
	connected map[*traffic.Flow][]socket.Owner
	// toldWaiting and toldConnected are what was told of them last.
	toldWaiting, toldConnected []socket.Owner
}

// find lists the docker-proxies, and returns where they pass on.
func (p *proxies) find(ctx context.Context) (targets []netip.Addr) {
	p.holders.owners = nil
	p.holders.findProxies(ctx, topology.HostName)
	p.waiting, p.asked = p.holders.owners, time.Now()
	for i := range p.waiting {
		if a := p.waiting[i].Forwards.Addr(); !slices.Contains(targets, a) {
			targets = append(targets, a)
		}
	}
	return targets
}

// know reports whether a packet with a tuple goes to one of them.
func (p *proxies) know(to packet.Tuple) bool {
	return len(socket.Find(p.waiting, topology.HostName, to)) > 0
}

// look finds which of them holds the socket of each flow that carries another one on.
func (p *proxies) look(ctx context.Context, carriers []carrier) {
	connected := make(map[*traffic.Flow][]socket.Owner)
	for _, c := range carriers {
		owners, asked := p.connected[c.flow]
		if !asked {
			p.holders.owners = nil
			p.holders.find(ctx, c.netns, c.tuple.Inverse(), true, p.pids()...)
			owners = p.holders.owners
		}
		connected[c.flow] = owners
	}
	p.connected = connected
}

func (p *proxies) pids() (all []int) {
	for i := range p.waiting {
		all = append(all, p.waiting[i].PID)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// tell tells what is known of them, if that is news.
func (p *proxies) tell(seen *gatherer) {
	news := func(known *[]socket.Owner, now []socket.Owner) bool {
		before := *known
		slices.SortFunc(now, func(a, b socket.Owner) int { return cmp.Compare(a.Inode, b.Inode) })
		*known = now
		return !slices.Equal(before, now)
	}
	connected := []socket.Owner{}
	for _, owners := range p.connected {
		connected = append(connected, owners...)
	}
	if news(&p.toldWaiting, append([]socket.Owner{}, p.waiting...)) {
		seen.tell(evidence.Moment{Proxies: p.toldWaiting})
	}
	if news(&p.toldConnected, connected) {
		seen.tell(evidence.Moment{Connected: p.toldConnected})
	}
}

// carrier is a flow of a docker-proxy that may carry one of the source's on.
type carrier struct {
	flow  *traffic.Flow
	netns string
	tuple packet.Tuple
}

// followProxies looks for docker-proxies that are new when a flow goes to the host,
// and for the sockets of what carries flows on. It reports whether there are further
// namespaces to look into.
func (t *tracing) followProxies(ctx context.Context) (more bool) {
	var toHost bool
	var carriers []carrier
	host := t.topo.Namespace(topology.HostName)
	t.seen.with(func(tracer *answer.Tracer) {
		for _, f := range tracer.Table.Flows() {
			toHost = toHost || f.Number > t.extended && host.Local(f.Tuple.Dst) != nil && !t.proxies.know(f.Tuple)
			for _, c := range f.Carriers() {
				carriers = append(carriers, carrier{c, c.NetNS, c.Tuple})
			}
		}
	})
	if toHost && time.Since(t.proxies.asked) > proxyAge {
		for _, target := range t.proxies.find(ctx) {
			more = t.extend(ctx, target) || more
		}
	}
	t.proxies.look(ctx, carriers)
	t.proxies.tell(t.seen)
	return more
}
