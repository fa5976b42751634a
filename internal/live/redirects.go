//go:build linux

package live

import (
	"context"
	"net/netip"
	"time"

	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

const (
	// redirectAge is how old the answer may be which rule translates the destination
	// of what others open, redirectPace how often the rules are read for that, and
	// maxRedirects how many answers are kept.
	redirectAge  = 5 * time.Second
	redirectPace = 500 * time.Millisecond
	maxRedirects = 1 << 10
)

// redirects are the rules that translate the destinations of flows which others open
// to the source.
type redirects struct {
	known map[redirectKey]redirected
	read  time.Time
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
// where there is none, that is not certain, or the rules were read a moment ago.
func (t *tracing) translating(ctx context.Context, f *traffic.Flow, now time.Time) map[string]ruletrace.Rule {
	if !f.Inbound || f.Existing {
		return nil
	}
	var tuple packet.Tuple
	var netns string
	var e traffic.Evidence
	t.seen.with(func(*answer.Tracer) {
		p := f.Probes(t.topo.Source)[0]
		if netns, tuple = p.NetNS, p.Tuple; p.Outside && tuple.Dst != f.Tuple.Dst {
			e = f.Evidence()
		}
	})
	ns, rules := t.topo.Namespace(netns), t.resolvers[netns]
	if len(e.Sightings) == 0 || ns == nil || rules == nil {
		return nil
	}
	r, key := &t.redirects, redirectKey{netns: netns, from: tuple.Src, to: tuple.Dst, port: tuple.DstPort, proto: tuple.Proto}
	found, fresh := r.known[key]
	if !fresh || now.Sub(found.at) > redirectAge {
		if now.Sub(r.read) < redirectPace {
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
		r.known[key], r.read = found, now
	}
	if !found.ok {
		return nil
	}
	return map[string]ruletrace.Rule{netns: found.rule}
}
