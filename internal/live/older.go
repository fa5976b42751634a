//go:build linux

package live

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// maxLookUps bounds how many flows are asked for in each namespace.
const maxLookUps = 8

// lookUp asks for the flows of the probes that no event told the beginning of:
// they were there before. What their rules are today is read beside them.
func (r *run) lookUp(ctx context.Context) {
	ctx, cancel := reading(ctx)
	defer cancel()
	seen := r.seen.input()
	r.translators, r.redirects = make(map[string]ruletrace.NATAddresses), make(map[string]ruletrace.Rule)
	var lock sync.Mutex
	var asking sync.WaitGroup
	for _, s := range r.stations {
		asking.Go(func() {
			older := s.older(seen, r.seen.probes.carriesNonce)
			for _, f := range older {
				r.seen.event(nat.Event{Kind: nat.Existing, Flow: f})
			}
			if len(older) == 0 {
				return
			}
			found, err := r.resolvers[s.name].NAT(ctx, r.topo.Target.Is6())
			if err != nil {
				r.cfg.Log("%s: read what rules translate to: %v", s.name, err)
			}
			rule, redirected, err := redirect(ctx, r.topo.Namespace(s.name), r.resolvers[s.name], older[0].Original, seen.Sightings)
			if err != nil {
				r.cfg.Log("%s: read which rules would translate the flow: %v", s.name, err)
			}
			lock.Lock()
			defer lock.Unlock()
			r.translators[s.name] = found
			if redirected {
				r.redirects[s.name] = rule
			}
		})
	}
	asking.Wait()
}

// redirect is the rule that would translate the destination of a flow's first
// packet where it came in to a namespace. The bool is false when there is none, when
// that is not certain, and when the packet was not seen to come in.
func redirect(ctx context.Context, ns *topology.Namespace, rules *ruletrace.Resolver, flow packet.Tuple, seen []capture.Sighting) (ruletrace.Rule, bool, error) {
	i := slices.IndexFunc(seen, func(s capture.Sighting) bool {
		return s.Point.NetNS == ns.Name && s.Direction == capture.Ingress && s.Header.Tuple == flow
	})
	if i < 0 {
		return ruletrace.Rule{}, false, nil // sent from here
	}
	in := ns.Link(seen[i].Point.Interface)
	if in == nil {
		return ruletrace.Rule{}, false, nil
	}
	return rules.Redirect(ctx, ruletrace.Arrival{Tuple: flow, Ingress: cmp.Or(in.Bridge, in.Name), Local: ns.Local(flow.Dst) != nil})
}
