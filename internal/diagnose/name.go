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
	// Asked says that the query is what was to be traced, and not in place of
	// another probe. Addresses are those in its answer.
	Asked     bool
	Addresses []netip.Addr
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
	case in.Name.Asked && v.Outcome == report.Replied:
		serverSaid(in, v, because, server)
		return
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

// serverSaid says what a name server answered.
func serverSaid(in *Input, v *report.Verdict, because, server string) {
	if len(in.Name.Addresses) > 0 {
		var words []string
		for _, a := range in.Name.Addresses {
			words = append(words, a.String())
		}
		v.Summary = fmt.Sprintf("%q is %s, says the DNS server %s. %s", in.Name.Target, list(words), server, v.Summary)
		return
	}
	v.Code = DNSFailed
	v.Mechanism = fmt.Sprintf("the DNS server %s said: %s", in.Name.Server, in.Name.Said)
	v.Summary = because + fmt.Sprintf("the DNS server %s said %q. Its answer came back: the way to it is open.", server, in.Name.Said)
}

// joinWords names the cause of a query before how the kernel did it.
func joinWords(code, mechanism string) string {
	if mechanism == "" {
		return code
	}
	return code + ": " + mechanism
}
