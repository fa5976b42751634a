package offline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// Table is the report of many flows: those that are selected, the worst first,
// at most rows of them in its list when that is not 0, and the others behind it.
// The totals are of all of them.
func Table(in *Input, s Selection, rows int) *report.Report {
	selected := in.Selected(&s)
	r := in.frame(&s)
	r.Totals = in.totals(selected)
	shown := selected
	if rows > 0 && len(shown) > rows {
		shown = shown[:rows]
		r.Rest = func(yield func(report.Flow) bool) {
			for _, index := range selected[rows:] {
				if !yield(in.flow(&in.Result.Flows[index])) {
					return
				}
			}
		}
	}
	r.Flows = make([]report.Flow, len(shown))
	for i, index := range shown {
		r.Flows[i] = in.flow(&in.Result.Flows[index])
	}
	r.Verdict = in.verdict(selected, r.Totals)
	return r
}

// frame is what every report about captures begins with.
func (in *Input) frame(s *Selection) *report.Report {
	return &report.Report{
		Schema: report.Schema, Tool: report.Tool{Version: in.Version}, Started: in.Started, Finished: in.Finished,
		Request:  report.Request{Kind: "analyze", Target: in.names(), Source: report.Source{Kind: "capture"}, Selection: s.String()},
		Captures: in.captures(), Notes: slices.Clone(in.Logs.Notes),
	}
}

// namesListed is how many files a header names.
const namesListed = 6

func (in *Input) names() string {
	var names []string
	for i := range in.Captures {
		names = append(names, in.Captures[i].Name)
	}
	for i := range in.Refused {
		names = append(names, in.Refused[i].Name)
	}
	if more := len(names) - namesListed; more > 0 {
		names = append(names[:namesListed], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

func (in *Input) totals(selected []int) *report.Totals {
	res := in.Result
	t := &report.Totals{
		Packets: res.Packets, Others: res.Others, Bad: res.Bad, Untimed: res.Untimed,
		Flows: len(res.Flows), Selected: len(selected), Outcomes: make(map[report.Outcome]int),
		Evicted: res.Evicted, EvictedPackets: res.EvictedPackets, Interrupted: res.Interrupted,
	}
	for i := range res.Places {
		t.Bytes += res.Places[i].Bytes
	}
	for _, i := range selected {
		f := &res.Flows[i]
		t.Outcomes[in.ending(f).outcome]++
		t.Falling += one(f.Fall != nil)
		t.Translated += one(len(f.Translations) > 0)
		t.Ambiguous += one(len(f.Ambiguous) > 0)
	}
	return t
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// verdict is that of the worst flow, with a summary of all.
func (in *Input) verdict(selected []int, t *report.Totals) report.Verdict {
	v := report.Verdict{Outcome: report.Inconclusive, Leg: "request", Code: diagnose.Inconclusive, Confidence: report.Reconstructed}
	if len(selected) > 0 {
		f := &in.Result.Flows[selected[0]]
		end := in.ending(f)
		v.Outcome, v.Leg, v.Code = end.outcome, end.leg, end.code
		if end.hit != nil {
			v.Confidence = report.Observed
		}
	}
	switch {
	case t.Flows == 0 && t.Packets == 0:
		v.Summary = "No packet was found."
	case t.Flows == 0:
		v.Summary = "No flow was found: none of the packets is an IP packet with a time."
	case t.Selected == 0:
		v.Summary = "No flow is like that."
	case t.Selected == 1:
		v.Summary = in.sentence(&in.Result.Flows[selected[0]])
	default:
		v.Summary = in.overview(selected, t)
	}
	return v
}

// overview sums many flows up, the bad news first.
func (in *Input) overview(selected []int, t *report.Totals) string {
	failed := t.Outcomes[report.Lost] + t.Outcomes[report.Rejected] + t.Outcomes[report.Dropped]
	falling, unfinished, unclear := 0, 0, 0 // of those that did not fail
	for _, i := range selected {
		f := &in.Result.Flows[i]
		switch end := in.ending(f); {
		case end.failed():
		case f.Fall != nil:
			falling++
		case f.Unfinished():
			unfinished++
		case len(f.Ambiguous) > 0 || f.Outcome == flows.Inconclusive:
			unclear++
		}
	}
	var parts []string
	if failed > 0 {
		var how []string
		if n := t.Outcomes[report.Lost]; n > 0 {
			how = append(how, fmt.Sprintf("%d%s got no answer", n, ofAll(false, t.Selected)))
		}
		for _, o := range []report.Outcome{report.Dropped, report.Rejected} {
			if n := t.Outcomes[o]; n > 0 {
				how = append(how, fmt.Sprintf("%d%s %s %s", n, ofAll(len(how) > 0, t.Selected), was(n), o))
			}
		}
		parts = append(parts, strings.Join(how, ", ")+".")
	}
	if falling > 0 {
		parts = append(parts, fmt.Sprintf("Packets are missing in %d%s%s.", falling, map[bool]string{true: " more"}[failed > 0], ofAll(failed > 0, t.Selected)))
	}
	if unfinished > 0 {
		parts = append(parts, fmt.Sprintf("Not everything was answered in %d%s.", unfinished, ofAll(failed+falling > 0, t.Selected)))
	}
	if unclear > 0 {
		parts = append(parts, fmt.Sprintf("Not everything is clear about %d%s.", unclear, ofAll(failed+falling+unfinished > 0, t.Selected)))
	}
	switch healthy := t.Selected - failed - falling - unfinished - unclear; {
	case healthy == t.Selected && in.complete(selected):
		parts = append(parts, fmt.Sprintf("All %d flows went well, and nothing is missing.", healthy))
	case healthy == t.Selected:
		parts = append(parts, fmt.Sprintf("All %d flows went well.", healthy))
	case healthy > 0:
		parts = append(parts, fmt.Sprintf("The other %d went well.", healthy))
	}
	return strings.Join(parts, " ")
}

// complete reports whether all captures could be read, and several places saw the
// same of some flows.
func (in *Input) complete(selected []int) bool {
	res := in.Result
	damaged := slices.ContainsFunc(in.Captures, func(c Capture) bool { return c.Problem != nil })
	if damaged || len(in.Refused) > 0 || res.Interrupted || res.Bad+res.Untimed+res.Evicted > 0 {
		return false
	}
	return !slices.ContainsFunc(selected, func(i int) bool { return !res.Flows[i].Whole() })
}

// ofAll says of how many, unless it was said.
func ofAll(said bool, n int) string {
	if said {
		return ""
	}
	return fmt.Sprintf(" of %d flows", n)
}

func was(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// sentence says how one flow went.
func (in *Input) sentence(f *flows.Flow) string {
	what := in.kind(f)
	var text string
	first := &f.Out[0]
	last := &f.Out[len(f.Out)-1]
	sent := packets(seenAt(f.Out, first.Place))
	if end := in.ending(f); end.hit != nil {
		of := map[string]string{"reply": "The answer to "}[end.leg]
		if of != "" {
			what = of + strings.ToLower(what[:1]) + what[1:]
		}
		return fmt.Sprintf("%s was %s in %s by %s, as the trace says.", what, end.outcome, hookName(end.hit), hitText(end.hit)) + in.missing(f)
	}
	switch f.Outcome {
	case flows.Replied:
		text = fmt.Sprintf("%s was answered: %s there, %d back.", what, sent, seenAt(f.Back, in.home(f)))
	case flows.Rejected:
		text = fmt.Sprintf("%s was rejected.", what)
	case flows.OneWay:
		text = fmt.Sprintf("%s goes to many, and nobody answers that: %s.", what, sent)
	case flows.Lost:
		if len(f.Back) > 0 {
			text = fmt.Sprintf("%s was answered, and the answer did not come back: it was last seen at %s.", what, in.name(f.Back[len(f.Back)-1].Place))
			break
		}
		text = fmt.Sprintf("%s got no answer: %s, last seen at %s.", what, sent, in.name(last.Place))
	default:
		text = fmt.Sprintf("How %s%s went is not clear: %s there, nothing back.", strings.ToLower(what[:1]), what[1:], sent)
		if len(f.Back) > 0 {
			text = fmt.Sprintf("How %s%s went is not clear.", strings.ToLower(what[:1]), what[1:])
		}
	}
	return text + in.missing(f) + in.unfinished(f)
}

// missing is a further sentence on what of a flow is missing; empty for nothing.
func (in *Input) missing(f *flows.Flow) string {
	if f.Fall == nil {
		return ""
	}
	stops, leg := way(f, f.Fall.Reply), "there"
	if f.Fall.Reply {
		leg = "back"
	}
	a, b := &stops[f.Fall.From], &stops[f.Fall.To]
	from, to := in.name(a.Place), in.name(b.Place)
	where := "between " + from + " and " + to
	if from == to {
		where = "behind " + from
	}
	text := fmt.Sprintf(" On the way %s %s went missing %s.", leg, missingText(f.Fall), where)
	if f.Fall.Least && a.Packets == b.Packets {
		text += " As many were seen at both, and not the same ones."
	}
	return text
}

// unfinished is a further sentence on what of a flow was not answered.
func (in *Input) unfinished(f *flows.Flow) string {
	switch u := f.Unacknowledged; {
	case u != nil:
		at := in.name(u.Place)
		return fmt.Sprintf(" What %s sent again was not acknowledged at %s until the capture there ended. Whether it was lost behind %s, or its acknowledgement, or nobody was there to acknowledge it, that capture does not tell.", senderOf(f, u), at, at)
	case f.Unanswered == 1:
		return " 1 request got no answer."
	case f.Unanswered > 0:
		return fmt.Sprintf(" %d requests got no answer.", f.Unanswered)
	}
	return ""
}

// senderOf is the end that sent what was not acknowledged.
func senderOf(f *flows.Flow, u *flows.Unacknowledged) string {
	stops := way(f, u.Reply)
	at := slices.IndexFunc(stops, func(s flows.Stop) bool { return s.Place == u.Place })
	return stops[at].Key.Tuple().Source()
}

// missingText is how much is missing.
func missingText(f *flows.Fall) string {
	least := ""
	if f.Least {
		least = "at least "
	}
	if f.Bytes > 0 {
		return fmt.Sprintf("%s%d bytes of data", least, f.Bytes)
	}
	return least + packets(f.Packets)
}

// way is one direction of a flow.
func way(f *flows.Flow, reply bool) []flows.Stop {
	if reply {
		return f.Back
	}
	return f.Out
}

// home is the place that the answer came to: where the request was first, or
// where it was seen last.
func (in *Input) home(f *flows.Flow) int {
	for i := range f.Back {
		if f.Back[i].Place == f.Out[0].Place {
			return f.Out[0].Place
		}
	}
	return f.Back[len(f.Back)-1].Place
}

// seenAt is how many packets were seen at a place, most of which may have had
// another TTL there than the first.
func seenAt(stops []flows.Stop, place int) uint64 {
	var n uint64
	for i := range stops {
		if stops[i].Place == place {
			n = max(n, stops[i].Packets)
		}
	}
	return n
}

// kind names a flow in words, as the beginning of a sentence.
func (in *Input) kind(f *flows.Flow) string {
	t := f.Request.Tuple()
	what := "The " + t.Proto.String() + " flow"
	switch {
	case path.IsEcho(t):
		what = "The ping"
	case t.Proto == packet.TCP:
		what = "The connection"
	}
	return what + " from " + t.Source() + " to " + t.Destination()
}

// name is how a sentence calls a place.
func (in *Input) name(place int) string {
	return in.Result.Places[place].Point.String()
}

func packets(n uint64) string { return plural(n, "packet") }

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
