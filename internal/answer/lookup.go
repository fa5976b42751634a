package answer

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
)

// lookup explains how a name was looked up: the query that brought an address, or
// else the first that was not answered, or else the first. A query that failed
// before another one was answered is a finding.
func lookup(run *evidence.Run) *report.Report {
	if len(run.Lookup.Hosts) > 0 {
		return fromHosts(run)
	}
	tries := run.Tries
	if len(tries) == 0 {
		tries = []evidence.Try{{Interrupted: true}}
	}
	answers := make([]*answer, len(tries))
	resolved, failed := -1, -1
	for i := range tries {
		answers[i] = explain(run, &tries[i], path.NewLedger(), nil)
		if q := tries[i].Query; resolved < 0 && q != nil && len(q.Addresses) > 0 {
			resolved = i
		}
		if failed < 0 && answers[i].Verdict.Outcome != report.Replied {
			failed = i
		}
	}
	chosen := max(failed, 0)
	if resolved >= 0 {
		chosen = resolved
	}
	a := answers[chosen]
	if resolved >= 0 && failed >= 0 { // evidence of both is in one list, so ids go on
		a.besides(explain(run, &tries[failed], a.ledger, a.Evidence), tries[failed].Query)
	}
	out := a.report(run)
	if q := tries[chosen].Query; q != nil {
		out.Request.Packet = packetOf(q)
	}
	for i := range answers {
		if q := tries[i].Query; q != nil {
			try := answers[i].try()
			try.Packet = packetOf(q)
			try.Query = &report.Query{Server: q.Server.String(), Name: q.Name, Type: q.Type, Over: q.Over, Addresses: texts(q.Addresses), Said: q.Said}
			out.Tries = append(out.Tries, try)
		}
	}
	return out
}

// besides mentions a query that failed before another one was answered.
func (a *answer) besides(other *answer, q *evidence.Query) {
	v := &other.Verdict
	a.Findings = append(a.Findings, report.Finding{
		Code: v.Code, Severity: "warning", Fix: []string{}, Evidence: v.Evidence,
		Summary: fmt.Sprintf("The DNS server %s was asked before, and the lookup had to wait for it in vain: %s", q.Server, v.Summary),
	})
	for _, f := range other.Findings {
		if f.Severity == "error" {
			f.Severity = "warning"
		}
		a.Findings = append(a.Findings, f)
	}
	a.Evidence = other.Evidence
}

// fromHosts answers with what the hosts file says: nobody is asked.
func fromHosts(run *evidence.Run) *report.Report {
	addresses := texts(run.Lookup.Hosts)
	source := run.Request.Source.NetNS
	fact := report.Evidence{
		ID: "fact-1", Kind: "file", NetNS: source,
		Text: fmt.Sprintf("%s gives %q the address %s", run.Lookup.HostsPath, run.Request.Target, strings.Join(addresses, ", ")),
	}
	return &report.Report{
		Schema: report.Schema, Tool: report.Tool{Version: run.Version}, Started: run.Started, Finished: run.Finished, Request: run.Request,
		Verdict: report.Verdict{
			Outcome: report.Replied, Leg: "request", Code: diagnose.OK, NetNS: source, Confidence: report.Reconstructed, Evidence: []string{fact.ID},
			Summary: fmt.Sprintf("%q is %s, says %s of %s: no name server is asked.", run.Request.Target, strings.Join(addresses, ", "), run.Lookup.HostsPath, source),
		},
		Findings: []report.Finding{}, Evidence: []report.Evidence{fact}, Notes: run.Notes,
	}
}

// addresses are all that were found with those of a query: of both families, and
// none when the query brought none.
func addresses(run *evidence.Run, q *evidence.Query) []netip.Addr {
	var all []netip.Addr
	for i := range run.Tries {
		if other := run.Tries[i].Query; other != nil && len(q.Addresses) > 0 {
			all = append(all, other.Addresses...)
		}
	}
	return all
}

// packetOf names a query as its protocol does.
func packetOf(q *evidence.Query) string {
	over := ""
	if q.Over == "tcp" {
		over = " over TCP"
	}
	return fmt.Sprintf("DNS query %s %s%s", q.Type, q.Name, over)
}

func texts(addresses []netip.Addr) []string {
	all := make([]string, len(addresses))
	for i, a := range addresses {
		all[i] = a.String()
	}
	return all
}
