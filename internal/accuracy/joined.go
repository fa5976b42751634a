//go:build linux

package accuracy

import (
	"context"
	"fmt"
	"strings"

	"github.com/pathtrace/pathtrace/internal/synth"
)

// Joined is how well captures of synthetic traffic were joined, in one file and
// in two with clocks of their own.
type Joined struct {
	Rows []JoinedRow
}

// JoinedRow is the score of one kind of captures.
type JoinedRow struct {
	Name           string
	Flows, Packets synth.Pairs
	Amiss          map[string]int
}

// Join scores the join of captures on several scenes of each kind, drawn from a
// seed.
func Join(ctx context.Context, seed uint64, scenes int) (*Joined, error) {
	j := &Joined{}
	for _, several := range []bool{false, true} {
		row := JoinedRow{Name: "one capture of both points", Amiss: make(map[string]int)}
		cfg := synth.Config{Flows: 2000, Packets: 6, Loss: 0.02}
		if several {
			row.Name = "two captures, two clocks"
			cfg.Skew, cfg.Drift = -48_851_000_000, 40_000
		}
		for n := range scenes {
			cfg.Seed = seed<<16 + uint64(n)
			s, err := synth.Join(ctx, synth.Make(cfg), several)
			if err != nil {
				return nil, err
			}
			row.Flows.Add(s.Flows)
			row.Packets.Add(s.Packets)
			for what, times := range s.Amiss {
				row.Amiss[what] += times
			}
		}
		j.Rows = append(j.Rows, row)
	}
	return j, nil
}

// Table is the score as aligned Markdown.
func (j *Joined) Table() string {
	var t strings.Builder
	fmt.Fprintf(&t, "| %-26s | %-7s | pairs  | precision | recall | flagged as ambiguous |\n", "captures", "of")
	fmt.Fprintf(&t, "|-%s-|-%s-|-------:|----------:|-------:|---------------------:|\n", strings.Repeat("-", 26), strings.Repeat("-", 7))
	for _, r := range j.Rows {
		for _, p := range []struct {
			of string
			synth.Pairs
		}{{"flows", r.Flows}, {"packets", r.Packets}} {
			fmt.Fprintf(&t, "| %-26s | %-7s | %6d | %9.4f | %6.4f | %20.4f |\n", r.Name, p.of, p.All, p.Precision(), p.Recall(), part(p.Flagged, p.All))
		}
	}
	return t.String()
}
