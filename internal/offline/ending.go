package offline

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// ending is how a flow ended: as its packets tell or, where hit is set, as the
// trace does.
type ending struct {
	outcome   report.Outcome
	leg, code string
	hit       *ruletrace.Hit
}

// failed reports whether an ending is a failure.
func (e *ending) failed() bool {
	return e.outcome == report.Lost || e.outcome == report.Rejected || e.outcome == report.Dropped
}

// ending is how a flow ended.
func (in *Input) ending(f *flows.Flow) ending {
	if e, ok := in.traced[f.Number]; ok {
		return e
	}
	return ending{outcome: outcomeOf(f.Outcome), leg: legOf(f), code: codeOf(f)}
}

// endingBy is how a rule ends a flow that drops a packet on one leg.
func endingBy(h *ruletrace.Hit, leg string) ending {
	switch {
	case h.Verdict == ruletrace.Reject:
		return ending{report.Rejected, leg, diagnose.FilterRejected, h}
	case h.Kind == ruletrace.HitPolicy:
		return ending{report.Dropped, leg, diagnose.FilterPolicyDrop, h}
	}
	return ending{report.Dropped, leg, diagnose.FilterDrop, h}
}

// followDropped finds out, as Explain does for one, which of the flows that were
// not answered the trace says that a rule dropped, and puts them before those of
// which it is not clear how they went. It follows the worst.
func (in *Input) followDropped(ctx context.Context) error {
	all := in.maybeDropped()
	if len(all) == 0 {
		return nil
	}
	courses, err := flows.Follow(ctx, in.streams, in.Clocks, all...)
	if err != nil {
		return fmt.Errorf("follow what the trace says was dropped: %w", err)
	}
	in.traced = make(map[int]ending)
	for i, f := range all {
		e := &explanation{in: in, flow: f, course: courses[i], ledger: path.NewLedger(), report: &report.Report{}}
		e.choose()
		e.legs()
		if e.traced(); e.drop != nil {
			in.traced[f.Number] = endingBy(e.drop, e.dropLeg)
		}
	}
	in.rank()
	return nil
}

// maxFollowed is how many flows are held against the trace for the table.
const maxFollowed = 100

// maybeDropped are the flows that were not answered, and of which a rule of the
// trace may have dropped a packet: it had an end in common with them.
func (in *Input) maybeDropped() []*flows.Flow {
	dropped := make(map[end]bool)
	for i := range in.Logs.Hits {
		if h := &in.Logs.Hits[i]; drops(h) {
			for _, e := range endsOf(h.Header.Tuple) {
				dropped[e] = true
			}
		}
	}
	may := func(s flows.Stop) bool {
		ends := endsOf(s.Key.Tuple())
		return dropped[ends[0]] || dropped[ends[1]]
	}
	var all []*flows.Flow
	var sightings uint64
	for i := range in.Result.Flows {
		f := &in.Result.Flows[i]
		if len(dropped) == 0 || f.Outcome == flows.Replied || f.Outcome == flows.OneWay || !slices.ContainsFunc(f.Out, may) && !slices.ContainsFunc(f.Back, may) {
			continue
		}
		if sightings += sightingsOf(f); sightings > flows.MaxSights || len(all) == maxFollowed {
			break
		}
		all = append(all, f)
	}
	return all
}

// end is one end of a tuple.
type end struct {
	proto       packet.Proto
	addr        netip.AddrPort
	destination bool
}

func endsOf(t packet.Tuple) [2]end {
	return [2]end{{t.Proto, netip.AddrPortFrom(t.Src, t.SrcPort), false}, {t.Proto, netip.AddrPortFrom(t.Dst, t.DstPort), true}}
}

func sightingsOf(f *flows.Flow) uint64 {
	var n uint64
	for _, stops := range [2][]flows.Stop{f.Out, f.Back} {
		for i := range stops {
			n += stops[i].Packets + stops[i].Copies
		}
	}
	return n
}

// rank puts the flows that failed first and numbers all anew.
func (in *Input) rank() {
	all, traced := in.Result.Flows, make(map[int]ending, len(in.traced))
	slices.SortStableFunc(all, func(a, b flows.Flow) int {
		x, y := in.ending(&a), in.ending(&b)
		return one(y.failed()) - one(x.failed())
	})
	for i := range all {
		if e, ok := in.traced[all[i].Number]; ok {
			traced[i+1] = e
		}
		all[i].Number = i + 1
	}
	in.traced = traced
}
