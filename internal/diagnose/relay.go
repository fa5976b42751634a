package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
)

// Carried adds to the diagnosis of a request that a process took to pass it on
// what became of the flows over which it did.
func (d *Diagnosis) Carried(in *Input, further []Diagnosis) {
	if in.Path.Relay.Kind == path.Resolver {
		d.askedOn(in, further)
		return
	}
	d.passedOn(in, further)
}

// passedOn judges by what docker-proxy did: that it takes a connection says
// nothing of its target, so the way is as good as its last part.
func (d *Diagnosis) passedOn(in *Input, further []Diagnosis) {
	relay, v := in.Path.Relay, &d.Verdict
	if !arrived(v) {
		return
	}
	d.Findings = append(d.Findings, notTranslated(in))
	took := fmt.Sprintf("%s %s took what was sent to %s", path.Process(&relay.Owner), where(relay.Owner.NetNS), in.Path.Request.End.Tuple.Destination())
	if len(further) == 0 {
		v.Outcome, v.Code, v.Leg = report.Inconclusive, Inconclusive, "request"
		v.Confidence = report.Reconstructed
		v.Evidence = append(slices.Clone(v.Evidence), relay.Evidence...)
		v.Summary = fmt.Sprintf("%s, and was not seen to pass it on to %s within %s.", took, relay.Owner.Forwards, in.Waited)
		return
	}
	f := &further[0].Verdict
	if arrived(f) {
		v.Summary = fmt.Sprintf("%s and passed it on to %s, over a flow of its own that got there, too.", took, relay.Owner.Forwards)
		if in.Data != nil && v.Outcome == report.Replied {
			v.Summary += proxiedData(in)
		}
		return
	}
	elapsed := v.Elapsed
	*v = *f
	v.Elapsed = elapsed
	if v.Outcome == report.Unsent { // the proxy did not; the request was sent
		v.Outcome = report.Dropped
	}
	if v.Confidence == report.Observed {
		v.Confidence = report.Reconstructed // that this belongs to the request
	}
	v.Evidence = slices.Concat(v.Evidence, relay.Flows[0].Evidence)
	v.Summary = fmt.Sprintf("%s, and its own connection to %s failed. %s", took, relay.Owner.Forwards, f.Summary)
	d.Findings = append(slices.Clone(further[0].Findings), d.Findings...)
}

// proxiedData says how far data got to a process that passes it on: that it took the
// data says nothing of the target.
func proxiedData(in *Input) string {
	if in.SendError != nil && in.Data.Sent == 0 {
		return dataWords(in)
	}
	return fmt.Sprintf(" It acknowledged %d of the %d bytes that were then sent; how many of them got further was not watched.", in.Data.Acked, in.Data.Bytes)
}

func arrived(v *report.Verdict) bool {
	return v.Outcome == report.Replied || v.Outcome == report.Delivered
}

// askedOn adds whom a name server asked in its turn, and where there is no
// address what that met: a server that hears nothing says so late, or that it
// failed.
func (d *Diagnosis) askedOn(in *Input, further []Diagnosis) {
	relay, v := in.Path.Relay, &d.Verdict
	who := "The name server " + where(relay.Owner.NetNS)
	if relay.Owner.PID != 0 {
		who = path.Process(&relay.Owner)
	}
	if len(further) == 0 {
		if arrived(v) && in.Name != nil && in.Name.Asked { // otherwise nobody looked
			v.Summary += fmt.Sprintf(" %s was seen to ask nobody else.", who)
		}
		return
	}
	var others []string
	failed := -1
	for i := range further {
		others = append(others, relay.Flows[i].Probe.Tuple.Destination()+" from "+the(relay.Flows[i].Probe.NetNS))
		if failed < 0 && !arrived(&further[i].Verdict) {
			failed = i
		}
	}
	v.Summary += fmt.Sprintf(" %s asked %s in its turn", who, list(others))
	if failed < 0 || v.Code == OK {
		v.Summary += "."
		return
	}
	f := &further[failed].Verdict
	v.Summary += fmt.Sprintf(", and that failed. %s", f.Summary)
	v.Mechanism = joinWords(f.Code, f.Mechanism)
	if v.Outcome != report.Replied {
		v.Outcome, v.Leg = f.Outcome, f.Leg
		if v.Outcome == report.Unsent {
			v.Outcome = report.Dropped
		}
	}
	v.NetNS, v.Interface, v.Hook, v.Rule = f.NetNS, f.Interface, f.Hook, f.Rule
	v.Confidence = report.Reconstructed
	v.Evidence = slices.Concat(v.Evidence, f.Evidence, relay.Flows[failed].Evidence)
	d.Findings = append(slices.Clone(further[failed].Findings), d.Findings...)
}

// notTranslated is the finding that a published port is not reached by DNAT from
// where the request came.
func notTranslated(in *Input) report.Finding {
	owner := &in.Path.Relay.Owner
	f := report.Finding{
		Code: ProxyAnswers, Severity: "note", Fix: []string{}, Evidence: in.Path.Relay.Evidence,
		Summary: fmt.Sprintf("The published port %s is answered by %s and not by DNAT for what comes from there", in.Path.Request.End.Tuple.Destination(), owner.Command),
	}
	if chain, rule := returned(in); rule != nil {
		f.Summary += fmt.Sprintf(": a rule of chain %s takes it out (%s)", chain, rule.Text)
	}
	f.Summary += fmt.Sprintf(". What listens at %s sees the proxy's address as its client's.", owner.Forwards)
	return f
}

// returned is the rule that took the request out of a chain that translates
// destinations; nil for none.
func returned(in *Input) (chain string, rule *report.Rule) {
	for _, hop := range in.Path.Request.Hops {
		for _, step := range hop.Steps {
			if r := step.Rule; hop.NetNS == in.Path.Relay.Owner.NetNS && r != nil && r.Table == "nat" &&
				(strings.HasSuffix(r.Text, "-j RETURN") || strings.HasSuffix(r.Text, " return")) && step.Hook != "postrouting" {
				chain, rule = r.Chain, r
			}
		}
	}
	return chain, rule
}
