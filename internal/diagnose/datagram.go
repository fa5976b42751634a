package diagnose

import (
	"fmt"

	"github.com/pathtrace/pathtrace/report"
)

// delivered judges a datagram that reached its target, which sent nothing back:
// not even an ICMP error, as it does where no socket takes the datagram.
func delivered(in *Input, v *report.Verdict) {
	end := &in.Path.Request.End
	v.Outcome, v.Code = report.Delivered, OK
	v.Summary = fmt.Sprintf("The datagram reached %s at %s, and nothing came back within %s: no answer, and no error as there is where no socket takes it.",
		the(end.NetNS), end.Interface, in.Waited)
}

// unanswered takes back that an answer is missing: a datagram need not have one,
// and whether one was lost beyond what is visible is not known.
func unanswered(v *report.Verdict) {
	if v.Outcome == report.Lost && v.Code == NoReply && v.Leg == "request" {
		v.Outcome = report.Inconclusive
		v.Summary += " Whether the datagram got there, and whether it is to be answered at all, is not known: UDP does not say."
	}
}
