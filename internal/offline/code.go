package offline

import (
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// legOf is the leg on which a flow ended, or lost packets.
func legOf(f *flows.Flow) string {
	switch {
	case f.Outcome == flows.Replied && f.Fall != nil:
		return legName(f.Fall.Reply)
	case f.Outcome == flows.Replied && f.Unacknowledged != nil:
		return legName(f.Unacknowledged.Reply)
	case f.Outcome == flows.Replied, f.Outcome == flows.Lost && len(f.Back) > 0:
		return "reply"
	}
	return "request"
}

// legName names a direction.
func legName(reply bool) string {
	if reply {
		return "reply"
	}
	return "request"
}

// codeOf is the cause as far as packets alone prove one. That packets went
// missing between two captures is not a cause: what is between them did it, and
// nobody looked.
func codeOf(f *flows.Flow) string {
	switch f.Outcome {
	case flows.Replied, flows.OneWay:
		if f.Fall == nil && !f.Unfinished() {
			return diagnose.OK
		}
	case flows.Rejected:
		for i := range f.Errors {
			if code := codeOfError(&f.Errors[i]); code != "" && code != diagnose.MTUExceeded {
				return code
			}
		}
		if sent := f.Out[0].Flags; f.Request.Proto == packet.TCP && len(f.Back) > 0 && sent.Has(packet.SYN) && !sent.Has(packet.ACK) {
			return diagnose.NoListener // a reset, and not of a connection that stood
		}
	case flows.Lost:
		return codeOfLost(f)
	}
	return diagnose.Inconclusive
}

func codeOfLost(f *flows.Flow) string {
	for i := range f.Errors {
		if codeOfError(&f.Errors[i]) == diagnose.MTUExceeded {
			return diagnose.MTUExceeded
		}
	}
	if len(f.Back) > 0 {
		for i := range f.Back {
			if f.Back[i].Common > 0 {
				return diagnose.ReplyLostHere
			}
		}
		return diagnose.Inconclusive // the other captures did not run
	}
	if len(f.Missing) > 0 {
		return diagnose.Inconclusive
	}
	return diagnose.NoReply
}

// codeOfError is the cause that an ICMP error names; empty for none.
func codeOfError(e *flows.Error) string {
	return diagnose.ErrorCode(e.Key.Proto, e.Key.ICMPType, e.Code)
}

// outcomeOf is an outcome in the report's words, which are the same ones.
func outcomeOf(o flows.Outcome) report.Outcome { return report.Outcome(o) }
