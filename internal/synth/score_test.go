package synth

import (
	"context"
	"fmt"
	"testing"
)

// TestJoin: no wrong pair, and hardly one that is missing, with one clock and
// with two.
func TestJoin(t *testing.T) {
	for _, several := range []bool{false, true} {
		for seed := uint64(1); seed <= 2; seed++ {
			t.Run(fmt.Sprintf("several %v seed %d", several, seed), func(t *testing.T) {
				cfg := Config{Seed: seed, Flows: 1200, Packets: 6, Loss: 0.02}
				if several {
					cfg.Skew, cfg.Drift = -48_851_000_000, 40_000
				}
				s, err := Join(context.Background(), Make(cfg), several)
				if err != nil {
					t.Fatal(err)
				}
				for name, p := range map[string]Pairs{"flows": s.Flows, "packets": s.Packets} {
					t.Logf("%s: %+v", name, p)
					if p.Precision() < 1 || p.Recall() < 0.995 || p.Right < p.All*9/10 {
						t.Errorf("%s: precision %.4f, recall %.4f: %v", name, p.Precision(), p.Recall(), s.Amiss)
					}
				}
				if c := s.Clock; several && (c.Low > cfg.Skew+cfg.Drift || c.High < cfg.Skew+59*cfg.Drift || c.High-c.Low > 80*cfg.Drift || !c.Bounded ||
					c.Drift < 0.9*float64(cfg.Drift) || c.Drift > 1.1*float64(cfg.Drift)) {
					t.Errorf("the clock is from %d to %d, drift %.0f", c.Low, c.High, c.Drift)
				}
			})
		}
	}
}
