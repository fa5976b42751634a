//go:build linux

// Package accuracy measures how often pathtrace is right: it draws networks of
// internal/lab, healthy and broken, in a disguise of random addresses, names
// and rule positions, sends a probe through each, and holds what a live run
// says against what was built and what the kernel counted. What it draws comes
// from a seed alone, so that every run can be repeated.
//
// It needs what building a network and a live run need.
package accuracy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// Plan says how much is drawn.
type Plan struct {
	Seed uint64
	// PerCode is the number of runs for each code that the lab can stage,
	// Healthy that of networks without a fault, Pairs that of networks with two.
	PerCode, Healthy, Pairs int
}

// Case is one network and one probe through it.
type Case struct {
	// Number is its place in the plan.
	Number   int
	Scenario string
	Options  lab.Options
	// Probe is what is sent.
	Probe Probe
	// Traffic says that other flows are on their way at the same time.
	Traffic bool
}

// Root reports whether only root can build the network.
func (c Case) Root() bool {
	s, err := lab.Find(c.Scenario)
	return err == nil && slices.ContainsFunc(s.Broken(c.Options.Break), func(f lab.Fault) bool { return f.Root })
}

// Probe is what is sent through a network.
type Probe int

// The probes: the one that shows the fault, which is the scenario's own in a
// healthy network. There it may also be a connection to the same target, with or
// without data, and a ping from anywhere to anywhere.
const (
	Own Probe = iota
	Connection
	Data
	Walk
)

// String is the case as a reader can build it again.
func (c Case) String() string {
	words := []string{c.Scenario, "--backend", string(c.Options.Backend), "--seed", fmt.Sprint(c.Options.Seed)}
	if c.Options.Break != "" {
		words = append(words, "--break", c.Options.Break)
	}
	if c.Options.Opaque {
		words = append(words, "--opaque")
	}
	if c.Options.NoBridgeNF {
		words = append(words, "(bridge-nf off)")
	}
	if c.Traffic {
		words = append(words, "(beside other traffic)")
	}
	return strings.Join(words, " ")
}

// Draw draws the cases of a plan: first those of the codes, in the order of
// their names, then the healthy ones, then those with two faults.
func Draw(plan Plan) []Case {
	d := drawing{rand.New(rand.NewPCG(plan.Seed, 0))}
	var cases []Case
	staged := stages()
	for _, code := range slices.Sorted(maps.Keys(staged)) {
		for range plan.PerCode {
			cases = append(cases, d.of(staged[code]))
		}
	}
	for range plan.Healthy {
		cases = append(cases, d.healthy())
	}
	pairs := pairs()
	for range plan.Pairs {
		cases = append(cases, d.of(pairs))
	}
	for i := range cases {
		cases[i].Number = i
	}
	return cases
}

// stage is something that can be broken, in each form that has the same truth.
type stage struct {
	scenario string
	forms    []lab.Options
}

// stages are all faults of the lab, by the code that they must be explained
// with.
func stages() map[string][]stage {
	all := make(map[string][]stage)
	for _, s := range lab.Scenarios() {
		for _, fault := range s.Faults {
			byCode := make(map[string][]lab.Options)
			for _, form := range forms(&s, fault.Name, fault.ByRule()) {
				code := s.Truth(form).Code
				byCode[code] = append(byCode[code], form)
			}
			for code, forms := range byCode {
				all[code] = append(all[code], stage{s.Name, forms})
			}
		}
	}
	return all
}

// pairs are the faults that can be there at once, where it is certain which of
// them a packet meets first.
func pairs() []stage {
	var all []stage
	for _, s := range lab.Scenarios() {
		for i := range s.Faults {
			for j := range i {
				if s.Certain(&s.Faults[i], &s.Faults[j]) {
					all = append(all, stage{s.Name, forms(&s, s.Faults[j].Name+","+s.Faults[i].Name, false)})
				}
			}
		}
	}
	return all
}

// forms are the options with the same faults. Of filter rules, and of none, it
// is known that they end the probe in the same place where bridged packets pass
// no IP hooks, and what is left of it when nobody can look behind the host.
func forms(s *lab.Scenario, names string, free bool) []lab.Options {
	var all []lab.Options
	for _, backend := range s.Backends {
		options := lab.Options{Break: names, Backend: backend}
		all = append(all, options)
		if !free {
			continue
		}
		off := options
		off.NoBridgeNF = true
		all = append(all, off)
		if s.Opaque {
			opaque := options
			opaque.Opaque = true
			all = append(all, opaque)
		}
	}
	return all
}

type drawing struct{ *rand.Rand }

// of draws a case: each scenario is as likely as any other, and so is each
// fault in it.
func (d drawing) of(stages []stage) Case {
	var names []string
	for _, s := range stages {
		names = append(names, s.scenario)
	}
	slices.Sort(names)
	name := pick(d, slices.Compact(names))
	here := slices.DeleteFunc(slices.Clone(stages), func(s stage) bool { return s.scenario != name })
	return d.disguised(name, pick(d, pick(d, here).forms))
}

func (d drawing) healthy() Case {
	s := pick(d, lab.Scenarios())
	c := d.disguised(s.Name, pick(d, forms(&s, "", true)))
	c.Probe = Probe(d.IntN(4))
	return c
}

func (d drawing) disguised(scenario string, options lab.Options) Case {
	options.Seed = uint64(d.IntN(1_000_000)) + 1
	c := Case{Scenario: scenario, Options: options, Traffic: d.IntN(3) == 0}
	if s, err := lab.Find(scenario); err == nil && s.Truth(options).Outcome == "rejected" {
		c.Traffic = false // it would use up the ICMP errors that the kernel lets out
	}
	return c
}

func pick[T any](d drawing, all []T) T { return all[d.IntN(len(all))] }
