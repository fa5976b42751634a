package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Rows is how many flows a table has at most; 0 for no limit.
func (d Detail) Rows() int {
	switch d {
	case DetailMinimal:
		return 5
	case DetailFull:
		return 0
	}
	return 40
}

// grades are the headings of a table, by how well the flows went.
var grades = [...]struct {
	title string
	tone  tone
}{
	failed:     {"failed", bad},
	losing:     {"packets missing", bad},
	unfinished: {"not all answered", bad},
	unclear:    {"not clear", doubtful},
	well:       {"well", good},
}

// table prints flows, the worst first.
func (p *printer) table(r *Report) {
	t := r.Totals
	p.flow("", 2, span{text: r.Request.Target, tone: strong},
		span{text: plural(t.Flows, "flow") + ", " + count(t.Packets, "packet"), gap: 3, together: true})
	if r.Request.Selection != "" {
		p.flow("", 2, span{text: fmt.Sprintf("%d of them with %s", t.Selected, r.Request.Selection), tone: faint})
	}
	p.blank()
	var headline span
	if t.Interrupted {
		headline = span{text: "INTERRUPTED.", tone: doubtful}
	}
	p.flow("", 0, headline, span{text: r.Verdict.Summary})

	flows := p.rows(r.Flows)
	if len(flows) > 0 {
		p.blank()
		p.flow("", 0, span{text: "Behind each place: packets (bytes). Places are in the order of the way.", tone: faint})
	}
	width := numberWidth(flows)
	for i := range flows {
		if i == 0 || flows[i].grade() != flows[i-1].grade() {
			p.blank()
			g := grades[flows[i].grade()]
			p.flow("", 0, span{text: g.title, tone: g.tone})
		}
		p.row(&flows[i], width)
	}
	if slices.ContainsFunc(flows, func(f Flow) bool { return len(f.Translations) > 0 }) {
		p.blank()
		p.flow("", 0, span{text: "Translations are reconstructed from content: the same packets were seen with both addresses. By which rule, --flow N says where --trace, --rules or a saved run tell it.", tone: faint})
	}
	if more := t.Selected - len(flows); more > 0 {
		p.blank()
		p.flow("", 0, span{text: plural(more, "flow") + " more, none worse: --flow N, --src, --dst, --dport and the like choose; --detail full or -o json has all."})
	}
	p.totals(t)
}

// wellRows is how many flows that went well are listed unless all is asked for:
// more would push those that did not off the screen.
const wellRows = 10

// rows are the flows that are listed.
func (p *printer) rows(flows []Flow) []Flow {
	limit := p.o.Detail.Rows()
	if limit == 0 {
		return flows
	}
	flows = flows[:min(len(flows), limit)]
	if first := slices.IndexFunc(flows, func(f Flow) bool { return f.grade() == well }); first >= 0 {
		flows = flows[:min(len(flows), first+wellRows)]
	}
	return flows
}

func numberWidth(flows []Flow) int {
	most := 0
	for i := range flows {
		most = max(most, flows[i].Number)
	}
	return len(strconv.Itoa(most))
}

// errorRows is how many ICMP errors of a flow are listed unless all is asked for:
// a traceroute has one from each router.
const errorRows = 3

// row prints a flow: its ends and how it went, and under it its ways.
func (p *printer) row(f *Flow, width int) {
	number := fmt.Sprintf("  %*d  ", width, f.Number)
	indent := strings.Repeat(" ", len(number))
	ends := f.Tuple.Protocol + " " + f.Tuple.Source + " → " + f.Tuple.Destination
	if f.Tuple.ICMPID != nil {
		ends += fmt.Sprintf(" id %d", *f.Tuple.ICMPID)
	} else if f.Tuple.ICMPType != nil {
		ends += fmt.Sprintf(" type %d", *f.Tuple.ICMPType)
	}
	p.hanging(number, len(number)+4, 4, span{text: ends, tone: strong}, p.ending(f))
	line := func(label string, spans ...span) {
		const labelWidth = 9 // "unclear" and a gap
		p.hanging(indent+pad(label, labelWidth), len(indent)+labelWidth, len(indent), spans...)
	}
	line("there", p.way(f, "request")...)
	if back := p.way(f, "reply"); len(back) > 0 {
		line("back", back...)
	} else if f.Outcome != Delivered {
		line("back", span{text: "nothing"})
	}
	if unseen := p.unseen(f); unseen != "" {
		line("unseen", span{text: unseen, tone: doubtful})
	}
	for i := range f.Errors {
		if i == errorRows && p.o.Detail != DetailFull {
			line("", span{text: fmt.Sprintf("and %d more", len(f.Errors)-i)})
			break
		}
		e := &f.Errors[i]
		line("error", span{text: fmt.Sprintf("%s from %s, %s at %s", e.Text, e.Tuple.Source, count(e.Packets, "packet"), p.place(&e.Place)), tone: bad})
	}
	for _, text := range f.Ambiguous {
		line("unclear", span{text: text, tone: doubtful})
	}
}

// ending says how a flow went.
func (p *printer) ending(f *Flow) span {
	s := span{gap: 3, together: true}
	switch f.Outcome {
	case Replied:
		s.text, s.tone = "replied", good
	case Delivered:
		s.text, s.tone = "one way", good
	case Lost:
		s.text, s.tone = "NO ANSWER", bad
		if f.Leg == "reply" {
			s.text = "ANSWER LOST"
		}
	case Inconclusive:
		s.text, s.tone = "not clear", doubtful
	default:
		s.text, s.tone = strings.ToUpper(string(f.Outcome)), bad
		if f.Outcome == Dropped && f.Leg == "reply" {
			s.text = "ANSWER DROPPED"
		}
	}
	if f.Code == "DNS_FAILED" && f.Outcome == Replied {
		s.text, s.tone = "UNUSABLE ANSWER (DNS_FAILED)", bad
	}
	if f.grade() == failed && f.Code != "INCONCLUSIVE" && f.Code != "NO_REPLY" {
		s.text += " (" + f.Code + ")"
	}
	if all := lacks(f); len(all) > 0 && f.grade() != failed {
		s.text, s.tone = s.text+", "+strings.Join(all, ", "), bad
	}
	if len(f.Ambiguous) > 0 && f.Outcome != Inconclusive {
		s.text += ", not all clear"
	}
	return s
}

// lacks are what an answered flow lacks.
func lacks(f *Flow) []string {
	var all []string
	if f.Fall != nil {
		all = append(all, "packets MISSING")
	}
	if f.Unanswered > 0 {
		all = append(all, fmt.Sprintf("%d NOT ANSWERED", f.Unanswered))
	}
	if f.Unacknowledged != "" {
		way := map[string]string{"request": "there", "reply": "back"}[f.Unacknowledged]
		all = append(all, "data "+way+" NOT ACKNOWLEDGED")
	}
	return all
}

// way is one direction of a flow: each place with its counts, what changed in the
// addresses there, and where packets are missing.
func (p *printer) way(f *Flow, leg string) []span {
	var spans []span
	var before *FlowPoint
	for i := range f.Points {
		point := &f.Points[i]
		if point.Leg != leg || point.Packets == 0 {
			continue
		}
		if before != nil {
			spans[len(spans)-1].text += ","
		}
		missing := f.Fall != nil && f.Fall.To == i
		behind := f.Fall != nil && f.Fall.From == i && (f.Fall.To >= len(f.Points) || f.Points[f.Fall.To].Packets == 0)
		s := span{text: p.place(&point.Place) + " " + strconv.FormatUint(point.Packets, 10) + " (" + bytesText(point.Bytes) + ")", together: true}
		switch {
		case missing:
			s.text, s.tone = strings.TrimSuffix(s.text, ")")+", "+missingText(f.Fall)+")", bad
		case behind:
			s.text, s.tone = strings.TrimSuffix(s.text, ")")+", "+missingText(f.Fall)+" behind)", bad
		}
		spans = append(spans, s)
		if p.o.Detail == DetailFull {
			spans = append(spans, span{text: pointDetail(point), tone: faint})
		}
		if changed := changeText(before, point); changed != "" && (leg == "request" || p.o.Detail == DetailFull) {
			spans = append(spans, span{text: changed, tone: change, together: true})
		}
		before = point
	}
	return slices.DeleteFunc(spans, func(s span) bool { return s.text == "" })
}

// place names a place as a table does, shorter than a path: "cnt01/eth0", or
// "eth0[VLAN 42]".
func (p *printer) place(at *Place) string {
	parts := slices.DeleteFunc([]string{at.Machine, at.NetNS, at.Interface}, func(s string) bool { return s == "" })
	name := strings.Join(parts, "/")
	var scopes []string
	for _, id := range at.VLANs {
		scopes = append(scopes, fmt.Sprintf("VLAN %d", id))
	}
	if scopes = append(scopes, at.Tunnels...); len(scopes) > 0 {
		name += "[" + strings.Join(scopes, ", ") + "]"
	}
	if direction := map[string]string{"ingress": " in", "egress": " out"}[at.Direction]; direction != "" {
		name += direction
	}
	return name
}

func pointDetail(point *FlowPoint) string {
	var parts []string
	if point.TTL > 0 {
		parts = append(parts, fmt.Sprintf("ttl %d", point.TTL))
	}
	if d := point.Delay; d != nil && (d.Low != 0 || d.High != 0) {
		text := "+" + milliseconds(d.Low)
		if d.High != d.Low {
			text += " to +" + milliseconds(d.High)
		}
		parts = append(parts, strings.ReplaceAll(text, "+-", "-"))
	}
	if point.Repeated > 0 {
		parts = append(parts, fmt.Sprintf("%d repeated", point.Repeated))
	}
	if point.Copies > 0 {
		parts = append(parts, fmt.Sprintf("%d seen twice", point.Copies))
	}
	return strings.Join(parts, " ")
}

func missingText(f *Fall) string {
	text := strconv.FormatUint(f.Packets, 10)
	if f.Bytes > 0 {
		text = bytesText(f.Bytes) + " of data"
	}
	if f.Least {
		text = "at least " + text
	}
	return text + " MISSING"
}

// changeText is what is other in the tuple of one point than in that of the one
// before.
func changeText(before, point *FlowPoint) string {
	if before == nil || before.Tuple == nil || point.Tuple == nil {
		return ""
	}
	a, b := before.Tuple, point.Tuple
	switch {
	case a.Source != b.Source && a.Destination != b.Destination:
		return "as " + b.Source + " → " + b.Destination
	case a.Source != b.Source:
		return "with source " + b.Source
	case a.Destination != b.Destination:
		return "with destination " + b.Destination
	case a.ICMPID != nil && b.ICMPID != nil && *a.ICMPID != *b.ICMPID:
		return fmt.Sprintf("with id %d", *b.ICMPID)
	case before.Capture == point.Capture && before.NetNS == point.NetNS && before.Interface == point.Interface && before.TTL != point.TTL:
		return fmt.Sprintf("with TTL %d", point.TTL) // one capture of both sides of a router
	}
	return ""
}

// unseen names the places that saw nothing of a flow.
func (p *printer) unseen(f *Flow) string {
	var names []string
	for i := range f.Points {
		if f.Points[i].Packets == 0 {
			names = append(names, p.place(&f.Points[i].Place))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "at " + strings.Join(names, ", ") + ", which saw others of this way"
}

// totals prints what the flows were picked from.
func (p *printer) totals(t *Totals) {
	var parts []string
	for _, o := range []struct {
		outcome Outcome
		words   string
	}{
		{Replied, "replied"},
		{Delivered, "one way"},
		{Lost, "not answered"},
		{Rejected, "rejected"},
		{Dropped, "dropped"},
		{Unsent, "not sent"},
		{Inconclusive, "not clear"},
	} {
		if n := t.Outcomes[o.outcome]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, o.words))
		}
	}
	incomplete := t.Others+t.Bad+t.Untimed+t.Evicted > 0 || t.Interrupted
	if t.Selected == 1 && !incomplete {
		return // the row says it all
	}
	p.title("totals")
	text := plural(t.Selected, "flow")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	for _, n := range []struct {
		count int
		words string
	}{{t.Falling, "with packets missing"}, {t.Translated, "translated"}, {t.Ambiguous, "ambiguous"}} {
		if n.count > 0 {
			text += fmt.Sprintf("; %d %s", n.count, n.words)
		}
	}
	p.hanging("  ", 4, 4, span{text: text})
	text = count(t.Packets, "packet") + ", " + bytesText(t.Bytes)
	for _, n := range []struct {
		count uint64
		words string
	}{{t.Others, "not IP, or neighbour discovery"}, {t.Bad, "not understood"}, {t.Untimed, "without a time, and not joined"}} {
		if n.count > 0 {
			text += fmt.Sprintf("; %d %s", n.count, n.words)
		}
	}
	p.hanging("  ", 4, 4, span{text: text})
	if t.Evicted > 0 {
		p.hanging("  ", 4, 4, span{text: fmt.Sprintf("%s with %s given up to bound memory, and not listed; --max-flows allows more", count(t.Evicted, "flow"), count(t.EvictedPackets, "packet")), tone: doubtful})
	}
	if t.Interrupted {
		p.hanging("  ", 4, 4, span{text: "reading was interrupted: what the captures hold behind that is not in any number", tone: doubtful})
	}
}

// count is plural for what is counted in 64 bits.
func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.FormatUint(n, 10) + " " + what + "s"
}

// bytesText is exact below 100000 bytes.
func bytesText(n uint64) string {
	switch {
	case n < 1e5:
		return strconv.FormatUint(n, 10) + " B"
	case n < 1e6:
		return strconv.FormatFloat(float64(n)/1e3, 'f', 1, 64) + " kB"
	case n < 1e9:
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
	}
	return strconv.FormatFloat(float64(n)/1e9, 'f', 2, 64) + " GB"
}
