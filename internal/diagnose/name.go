package diagnose

import (
	"fmt"
	"net/netip"

	"github.com/pathtrace/pathtrace/report"
)

// Name is a name that no server gave an address for.
type Name struct {
	// Target is the name as typed, Server the name server whose query was
	// traced, From the file that names it, Said what the resolver heard from it before ("no answer within
	// 5s", "REFUSED").
	Target string
	Server netip.Addr
	From   string
	Said   string
}

// unresolved turns the verdict about a DNS query into one about the name: what
// the query met is the mechanism.
func unresolved(in *Input, v *report.Verdict) {
	server := in.Name.Server.String()
	if in.Name.From != "" {
		server += " (from " + in.Name.From + ")"
	}
	because := fmt.Sprintf("%q could not be resolved in %s: ", in.Name.Target, the(in.Probe.NetNS))
	switch {
	case v.Code == Inconclusive:
		v.Summary = because + "the DNS query to " + server + " was traced. " + v.Summary
		return
	case v.Outcome == report.Replied:
		v.Outcome, v.Leg, v.Elapsed = report.Unsent, "request", 0
		v.Mechanism = fmt.Sprintf("the DNS server %s said: %s", in.Name.Server, in.Name.Said)
		v.Summary = because + fmt.Sprintf("the DNS server %s said %q. The query was sent once more and traced, and an answer came back: the way to it is open.", server, in.Name.Said)
	default:
		v.Mechanism = joinWords(v.Code, v.Mechanism)
		v.Summary = because + fmt.Sprintf("the DNS query to %s failed. %s", server, v.Summary)
	}
	v.Code = DNSFailed
}

// joinWords names the cause of a query before how the kernel did it.
func joinWords(code, mechanism string) string {
	if mechanism == "" {
		return code
	}
	return code + ": " + mechanism
}
