//go:build linux

package accuracy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Board is the scoreboard of a plan.
type Board struct {
	Codes    []Score
	Networks []Tally
	// Healthy are the runs without a fault, Alarms those of them in which
	// something was said to be wrong.
	Healthy, Alarms int
	// Pairs are the runs with two faults, First those of them in which the one
	// that acts first was named; State and Mentioned count the runs whose other
	// fault is one of the system's state, and those that speak of it.
	Pairs, First, State, Mentioned int
	// Confusions are the results that are not entirely right, and Doubts those
	// whose truth the kernel does not confirm, by number.
	Confusions, Doubts []int
}

// Score is how a code did.
type Score struct {
	Code string
	// Runs should have been explained with the code, Said were. Right are those
	// of both, Exact those with the right place, leg and rule as well.
	Runs, Said, Right, Exact int
}

// Tally is how many runs of a scenario were entirely right.
type Tally struct {
	Scenario, Family, Backend string
	Runs, Exact               int
}

// Precision is the part of the answers with this code that were right; 1 when
// there was none.
func (s Score) Precision() float64 { return part(s.Right, s.Said) }

// Recall is the part of the runs that were explained with their code.
func (s Score) Recall() float64 { return part(s.Right, s.Runs) }

func part(some, all int) float64 {
	if all == 0 {
		return 1
	}
	return float64(some) / float64(all)
}

// Count counts results.
func Count(results []Result) Board {
	var b Board
	scores := make(map[string]*Score)
	of := func(code string) *Score {
		if scores[code] == nil {
			scores[code] = &Score{Code: code}
		}
		return scores[code]
	}
	networks := make(map[Tally]*Tally)
	for i := range results {
		r := &results[i]
		exact := len(r.Wrong) == 0
		network := Tally{Scenario: r.Case.Scenario, Family: r.Family, Backend: string(r.Case.Options.Backend)}
		if networks[network] == nil {
			networks[network] = &Tally{Scenario: network.Scenario, Family: network.Family, Backend: network.Backend}
		}
		networks[network].Runs++
		want, said := of(r.Want.Code), of(r.Got.Code)
		want.Runs++
		said.Said++
		if want == said {
			want.Right++
		}
		if exact {
			want.Exact++
			networks[network].Exact++
		}
		switch {
		case r.Case.Options.Break == "":
			b.Healthy++
			if !exact || len(r.Alarms) > 0 {
				b.Alarms++
			}
		case strings.Contains(r.Case.Options.Break, ","):
			b.Pairs++
			if exact {
				b.First++
			}
		}
		switch r.Other {
		case Mentioned:
			b.State++
			b.Mentioned++
		case Missed:
			b.State++
		case NoOther, Unmet:
		}
		if !exact || len(r.Alarms) > 0 {
			b.Confusions = append(b.Confusions, i)
		}
		if r.Doubt != nil {
			b.Doubts = append(b.Doubts, i)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(scores)) {
		b.Codes = append(b.Codes, *scores[code])
	}
	for _, network := range networks {
		b.Networks = append(b.Networks, *network)
	}
	slices.SortFunc(b.Networks, func(a, b Tally) int {
		return cmp.Or(cmp.Compare(a.Scenario, b.Scenario), cmp.Compare(a.Family, b.Family), cmp.Compare(a.Backend, b.Backend))
	})
	return b
}

// Table is the board as aligned Markdown.
func (b *Board) Table() string {
	var t strings.Builder
	fmt.Fprintf(&t, "| %-23s | runs | precision | recall | leg, place and rule right |\n", "code")
	fmt.Fprintf(&t, "|-%s-|-----:|----------:|-------:|--------------------------:|\n", strings.Repeat("-", 23))
	for _, s := range b.Codes {
		fmt.Fprintf(&t, "| %-23s | %4d | %9.3f | %6.3f | %25.3f |\n", s.Code, s.Runs, s.Precision(), s.Recall(), part(s.Exact, s.Runs))
	}
	fmt.Fprintf(&t, "\n| %-16s | %-6s | %-16s | runs | all right |\n", "network", "family", "rules written by")
	fmt.Fprintf(&t, "|-%s-|-%s-|-%s-|-----:|----------:|\n", strings.Repeat("-", 16), strings.Repeat("-", 6), strings.Repeat("-", 16))
	for _, n := range b.Networks {
		fmt.Fprintf(&t, "| %-16s | %-6s | %-16s | %4d | %9.3f |\n", n.Scenario, n.Family, n.Backend, n.Runs, part(n.Exact, n.Runs))
	}
	fmt.Fprintf(&t, "\n%d runs without a fault, in %d of which something was said to be wrong.\n", b.Healthy, b.Alarms)
	fmt.Fprintf(&t, "%d runs with two faults: %d name the one that acts first; of %d whose other fault is in the state of the system, %d speak of it.\n", b.Pairs, b.First, b.State, b.Mentioned)
	return t.String()
}

// Confusion says in what a result is wrong.
func (r *Result) Confusion() string {
	var parts []string
	of := func(a *Answer) map[string]string {
		return map[string]string{"outcome": a.Outcome, "code": a.Code, "leg": a.Leg, "netns": a.NetNS, "interface": a.Interface, "hook": a.Hook, "rule": a.Rule}
	}
	want, got := of(&r.Want), of(&r.Got)
	for _, field := range r.Wrong {
		parts = append(parts, fmt.Sprintf("%s %q, want %q", field, got[field], want[field]))
	}
	for _, code := range r.Alarms {
		parts = append(parts, "a finding "+code+" where nothing is wrong")
	}
	return strings.Join(parts, "; ")
}
