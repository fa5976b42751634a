//go:build linux

package live

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

const (
	// redirectAge is how old the answer may be which rule translates the destination
	// of what others open, and maxRedirects how many answers are kept. The rules are
	// read for that redirectBurst times, and again one time each redirectPace.
	redirectAge   = 5 * time.Second
	redirectPace  = 500 * time.Millisecond
	redirectBurst = 16
	maxRedirects  = 1 << 10
)

// redirects are the rules that translate the destinations of flows which others open
// to the source.
type redirects struct {
	known map[redirectKey]redirected
	// spent is until when the rules would have been read at their pace.
	spent time.Time
}

// allowed reports whether the rules may be read once more.
func (r *redirects) allowed(now time.Time) bool {
	if r.spent.Before(now) {
		r.spent = now
	}
	if r.spent.Sub(now) > (redirectBurst-1)*redirectPace {
		return false
	}
	r.spent = r.spent.Add(redirectPace)
	return true
}

// redirectKey is what tells apart the packets that rules treat differently, but for
// the port of who sent it.
type redirectKey struct {
	netns    string
	from, to netip.Addr
	port     uint16
	proto    packet.Proto
}

type redirected struct {
	rule ruletrace.Rule
	ok   bool
	at   time.Time
}

// translating is the rule that translates the destination of a flow's first packet
// today, by the namespace that it came in to, where the flow is one that others opened
// to another address than the source's: tracing begins behind that rule. It is empty
// where there is none, that is not certain, or the rules were read too often.
func (t *tracing) translating(ctx context.Context, f *traffic.Flow, now time.Time) map[string]ruletrace.Rule {
	if !f.Inbound || f.Existing {
		return nil
	}
	var e traffic.Evidence
	t.seen.with(func(*answer.Tracer) { e = f.Evidence() })
	i := slices.IndexFunc(e.Sightings, func(s capture.Sighting) bool {
		to := s.Header.Tuple
		return s.Direction == capture.Ingress && to.Src == f.Tuple.Src && to.SrcPort == f.Tuple.SrcPort && to.Dst != f.Tuple.Dst
	})
	if i < 0 {
		return nil
	}
	netns, tuple := e.Sightings[i].Point.NetNS, e.Sightings[i].Header.Tuple
	ns, rules := t.topo.Namespace(netns), t.resolvers[netns]
	if ns == nil || rules == nil {
		return nil
	}
	r, key := &t.redirects, redirectKey{netns: netns, from: tuple.Src, to: tuple.Dst, port: tuple.DstPort, proto: tuple.Proto}
	found, fresh := r.known[key]
	if !fresh || now.Sub(found.at) > redirectAge {
		if !r.allowed(now) {
			return nil
		}
		ctx, cancel := reading(ctx)
		defer cancel()
		found = redirected{at: now}
		var err error
		if found.rule, found.ok, err = redirect(ctx, ns, rules, tuple, e.Sightings); err != nil {
			t.cfg.Log("%s: read which rules translate what others open: %v", netns, err)
		}
		if r.known == nil || len(r.known) >= maxRedirects {
			r.known = make(map[redirectKey]redirected)
		}
		r.known[key] = found
	}
	if !found.ok {
		return nil
	}
	return map[string]ruletrace.Rule{netns: found.rule}
}
