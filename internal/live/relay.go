//go:build linux

package live

import (
	"context"
	"time"

	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// followRelays looks whether docker-proxy listens where the probes go, and has
// what it sends on watched, too: the namespaces on that way, and its packets.
func (r *run) followRelays(ctx context.Context, handles *topology.Handles, probes *probes) {
	if probes.questions != nil {
		r.followServers(ctx, handles, probes)
		return
	}
	target := packet.Tuple{Proto: probes.proto(), Dst: r.cfg.Resolved.Address, DstPort: r.cfg.Port}
	if target.DstPort == 0 {
		return
	}
	for i := range r.topo.Namespaces {
		if ns := &r.topo.Namespaces[i]; ns.Delivers(target.Dst) {
			r.holders.find(ctx, ns.Name, target, false)
		}
	}
	for _, o := range r.holders.owners {
		if !o.Forwards.IsValid() {
			continue
		}
		probes.beyond = append(probes.beyond, ruletrace.Match{Proto: target.Proto, Target: o.Forwards.Addr(), TargetPort: o.Forwards.Port()})
		if _, err := handles.Extend(ctx, o.Forwards.Addr()); err != nil {
			r.cfg.Log("find the way to %s, where %s leads: %v", o.Forwards, path.Process(&o), err)
		}
	}
}

// awaitRelay waits for the outcome of what docker-proxy passed on of a probe that
// it has answered itself. Where the request ended may be known a little later
// than that it was answered: sensors of different namespaces are read side by
// side. ctx is the run's, which ends when it is interrupted.
func (r *run) awaitRelay(ctx, deadline context.Context, probe path.Probe) {
	if len(r.seen.probes.beyond) == 0 {
		return
	}
	settled, late := time.After(settling), false
	for deadline.Err() == nil && r.replied(probe) {
		if r.seen.hasUnresolved() {
			r.resolve(ctx)
		}
		p := r.join(probe)
		switch {
		case p.Relay != nil && len(p.Relay.Flows) > 0:
			r.await(ctx, deadline, p.Relay.Flows[0].Probe)
			return
		case p.Relay == nil && (late || p.Request.End.Kind != path.Vanished):
			return
		}
		select {
		case <-r.seen.changed:
		case <-settled:
			late = true
		case <-deadline.Done():
		}
	}
}

// findOwners finds the processes at whose sockets probes ended, and which of
// them passed a probe on.
func (r *run) findOwners(tries []evidence.Try) {
	ctx := context.Background()
	for i := 0; i < len(tries); i++ { // a proxy behind a proxy is not looked for
		p := r.join(tries[i].Probe)
		end := &p.Request.End
		if end.Kind != path.Delivered || end.Tuple.Proto.IsICMP() {
			continue
		}
		to := end.Tuple
		to.Src, to.SrcPort = packet.Tuple{}.Src, 0 // whoever listens, not the connection
		r.holders.find(ctx, end.NetNS, to, false)
		if p.Relay != nil && p.Relay.Kind == path.Proxy && len(p.Relay.Flows) > 0 {
			next := p.Relay.Flows[0].Probe
			r.holders.find(ctx, next.NetNS, next.Tuple.Inverse(), true, p.Relay.Owner.PID)
			tries = append(tries, evidence.Try{Probe: next})
		}
	}
}
