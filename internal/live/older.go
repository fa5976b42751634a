//go:build linux

package live

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/pathtrace/pathtrace/capture"
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
			older := s.older(seen)
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
			rule, redirected := r.redirect(ctx, s.name, older[0].Original, seen.Sightings)
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
// packet where it came in.
func (r *run) redirect(ctx context.Context, netns string, flow packet.Tuple, seen []capture.Sighting) (ruletrace.Rule, bool) {
	ns := r.topo.Namespace(netns)
	i := slices.IndexFunc(seen, func(s capture.Sighting) bool {
		return s.Point.NetNS == netns && s.Direction == capture.Ingress && s.Header.Tuple == flow
	})
	if i < 0 {
		return ruletrace.Rule{}, false // sent from here
	}
	in := ns.Link(seen[i].Point.Interface)
	if in == nil {
		return ruletrace.Rule{}, false
	}
	rule, ok, err := r.resolvers[netns].Redirect(ctx, ruletrace.Arrival{Tuple: flow, Ingress: cmp.Or(in.Bridge, in.Name), Local: ns.Local(flow.Dst) != nil})
	if err != nil {
		r.cfg.Log("%s: read which rules would translate the flow: %v", netns, err)
	}
	return rule, ok
}
