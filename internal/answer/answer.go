// Package answer turns the evidence of a run into its report. A live run and
// one that was saved are answered by the same code. It is pure.
package answer

import (
	"errors"
	"slices"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/owner"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// Report explains the first try that failed, or else the first. A run without
// tries was ended before a probe was sent, and is inconclusive.
func Report(run *evidence.Run) *report.Report {
	if run.Lookup != nil {
		return lookup(run)
	}
	tries := run.Tries
	if len(tries) == 0 {
		tries = []evidence.Try{{Interrupted: true}}
	}
	answers := make([]*answer, len(tries))
	chosen := 0
	for i := range slices.Backward(tries) {
		answers[i] = explain(run, &tries[i], path.NewLedger(), nil)
		if o := answers[i].Verdict.Outcome; o != report.Replied && o != report.Delivered {
			chosen = i
		}
	}
	out := answers[chosen].report(run)
	if len(tries) > 1 {
		for _, a := range answers {
			out.Tries = append(out.Tries, a.try())
		}
	}
	return out
}

// report is the answer in the report's form.
func (a *answer) report(run *evidence.Run) *report.Report {
	out := &report.Report{
		Schema: report.Schema, Tool: report.Tool{Version: run.Version}, Started: run.Started, Finished: run.Finished,
		Request: run.Request, Verdict: a.Verdict, Findings: a.Findings, Notes: a.Notes,
		Translations: a.path.Translations, Continuations: a.continuations, Evidence: slices.Concat(a.ledger.Entries(), a.Evidence),
		Legs: report.Legs{Request: a.path.Request.Hops, Reply: a.path.Reply.Hops},
	}
	out.Request.Packet = a.path.Request.Packet
	for _, s := range run.Stations {
		out.Sensors = append(out.Sensors, s.Sensors...)
	}
	if run.KernelDrops != (report.Sensor{}) {
		out.Sensors = append(out.Sensors, run.KernelDrops)
	}
	out.Notes = append(out.Notes, run.Topology.Problems...)
	out.Notes = append(out.Notes, topology.Changes(run.Topology, run.After)...)
	if run.AsksSender {
		out.Notes = append(out.Notes, "Rules at the source look at the user or cgroup of the sender: an application may be treated differently from this probe, which uid 0 sent outside of its cgroup.")
	}
	out.Notes = append(out.Notes, run.Notes...)
	out.Evidence = cited(out)
	return out
}

// try is the answer in a line.
func (a *answer) try() report.Try {
	return report.Try{Packet: a.path.Request.Packet, Outcome: a.Verdict.Outcome, Elapsed: a.Verdict.Elapsed}
}

// answer is what there is to say of one try.
type answer struct {
	diagnose.Diagnosis
	path          *path.Path
	continuations []report.Continuation
	ledger        *path.Ledger
}

// explain judges one try, and what carried it on. The ids of its evidence go on
// behind those in the ledger and the facts of earlier ones.
func explain(run *evidence.Run, t *evidence.Try, ledger *path.Ledger, facts []report.Evidence) *answer {
	a := &answer{ledger: ledger}
	a.path = join(run, t.Probe, ledger)
	in := input(run, t, a.path)
	in.Facts = facts
	a.Diagnosis = diagnose.Diagnose(in)
	if a.path.Relay != nil {
		a.carry(run, &in)
	}
	return a
}

// carry follows what a process passed on of the request.
func (a *answer) carry(run *evidence.Run, in *diagnose.Input) {
	relay := a.path.Relay
	var further []diagnose.Diagnosis
	for i := range relay.Flows {
		flow := &relay.Flows[i]
		t := evidence.Try{Probe: flow.Probe, Interrupted: in.Interrupted}
		way := join(run, t.Probe, a.ledger)
		next := input(run, &t, way)
		next.Facts, next.Name = a.Evidence, nil
		d := diagnose.Diagnose(next)
		a.Evidence, a.Notes = d.Evidence, append(a.Notes, d.Notes...)
		further = append(further, d)
		process := ""
		if relay.Owner.PID != 0 {
			process = path.Process(&relay.Owner)
		}
		a.continuations = append(a.continuations, report.Continuation{
			Kind: string(relay.Kind), NetNS: flow.Probe.NetNS, Process: process, Packet: way.Request.Packet,
			Summary: relay.Words(flow), Confidence: report.Reconstructed, Evidence: flow.Evidence, Verdict: d.Verdict,
			Translations: way.Translations, Legs: report.Legs{Request: way.Request.Hops, Reply: way.Reply.Hops},
		})
	}
	a.Carried(in, further)
}

// cited is the evidence that a statement of a report rests on. The join also looks
// at what then turns out to say nothing about this packet.
func cited(r *report.Report) []report.Evidence {
	used := make(map[string]bool)
	cite := func(ids []string) {
		for _, id := range ids {
			used[id] = true
		}
	}
	way := func(translations []report.Translation, legs report.Legs) {
		for i := range translations {
			cite(translations[i].Evidence)
		}
		for _, hop := range slices.Concat(legs.Request, legs.Reply) {
			cite(hop.Evidence)
			for k := range hop.Steps {
				cite(hop.Steps[k].Evidence)
			}
		}
	}
	cite(r.Verdict.Evidence)
	way(r.Translations, r.Legs)
	for i := range r.Continuations {
		c := &r.Continuations[i]
		cite(c.Evidence)
		cite(c.Verdict.Evidence)
		way(c.Translations, c.Legs)
	}
	for i := range r.Findings {
		cite(r.Findings[i].Evidence)
	}
	return slices.DeleteFunc(r.Evidence, func(e report.Evidence) bool { return !used[e.ID] })
}

// networks are those of the host's Docker. What the Docker of a user has is in a
// namespace of its own, where bridges may have the same names and addresses.
func networks(engines []engine.View) (all []engine.Network) {
	for i := range engines {
		if v := &engines[i]; v.Engine == owner.Docker && v.Owner == 0 {
			all = append(all, v.Networks...)
		}
	}
	return all
}

// join joins what the run saw of one probe.
func join(run *evidence.Run, probe path.Probe, ledger *path.Ledger) *path.Path {
	in := path.Input{
		Probe: probe, Topology: wayOf(run, &probe), Inside: make(map[string]bool), Ledger: ledger,
		Sightings: run.Sightings, Events: run.Events, Hits: run.Hits, Drops: run.Drops, Owners: run.Owners,
		Networks: networks(run.Engines), Redirects: run.Redirects,
	}
	for _, s := range run.Stations {
		in.Inside[s.NetNS] = s.Inside
	}
	return path.Join(in)
}

// wayOf is the run's snapshot for a probe, which may be another one than the run
// was made for.
func wayOf(run *evidence.Run, probe *path.Probe) *topology.Snapshot {
	if probe.NetNS == "" || probe.NetNS == run.Topology.Source && probe.Tuple.Dst == run.Topology.Target {
		return run.Topology
	}
	way := towards(run.Topology, probe.Tuple.Dst)
	way.Source, way.Zone = probe.NetNS, ""
	return way
}

// oneWay reports whether nobody knows if a probe is to be answered: a datagram that is
// no query for a name. What other commands send over UDP are such queries.
func oneWay(run *evidence.Run, probe *path.Probe) bool {
	const domain = 53
	switch run.Request.Kind {
	case "udp":
		return run.Name == nil
	case "exec", "watch":
		return probe.Tuple.Proto == packet.UDP && probe.Tuple.DstPort != domain
	}
	return false
}

// input is what a try is judged by.
func input(run *evidence.Run, t *evidence.Try, p *path.Path) diagnose.Input {
	in := diagnose.Input{
		Path: p, Topology: wayOf(run, &t.Probe), After: run.After, Probe: t.Probe, Waited: run.Waited,
		Sensors: diagnose.Sensors{Captured: make(map[string]bool), Traced: make(map[string]bool)},
		Chains:  run.Chains, NAT: run.NAT, Redirects: run.Redirects, Discovery: run.Discovery,
		Data: t.Data, Missing: t.Missing, SendTooBig: t.TooBig, Interrupted: t.Interrupted, Enter: run.Enter, Name: run.Name,
		OneWay:  oneWay(run, &t.Probe),
		Engines: run.Engines, SourceID: run.Request.Source.ID,
	}
	if q := t.Query; q != nil {
		in.Name = &diagnose.Name{Target: q.Name, Server: q.Server, From: run.Lookup.From, Said: q.Said, Asked: true, Addresses: addresses(run, q)}
	}
	if t.SendError != "" {
		in.SendError = errors.New(t.SendError)
	}
	for _, s := range run.Stations {
		in.Sensors.Captured[s.NetNS], in.Sensors.Traced[s.NetNS] = s.Captured, s.Traced
	}
	return in
}
