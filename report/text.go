package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
)

// Detail says how much of a report Text prints.
type Detail string

// The details. The zero value is DetailSummary.
const (
	// DetailMinimal is the answer without the path: verdict, translations,
	// findings, what could not be observed.
	DetailMinimal Detail = "minimal"
	// DetailSummary adds the path, without the steps that changed nothing.
	DetailSummary Detail = "summary"
	// DetailFull is everything: also the dull steps, times, TTLs, every sensor
	// and the evidence.
	DetailFull Detail = "full"
)

// TextOptions say what the place where the text goes can show.
type TextOptions struct {
	// Width is the number of columns; 0 means 80. Commands and rules are never
	// broken, so that they can be copied.
	Width int
	// Color and Unicode say whether escape sequences and characters beyond
	// ASCII may be used.
	Color   bool
	Unicode bool
	Detail  Detail
}

// Text writes a report for people: the verdict, the way of the request and of
// the reply with what happened on it, or a table of flows, findings, what could
// not be observed, and the captures that were read.
// All of the report's text is escaped.
func Text(w io.Writer, r *Report, o TextOptions) error {
	p := &printer{o: o, width: o.Width}
	if p.width <= 0 {
		p.width = 80
	}
	if r.Totals != nil && len(r.Legs.Request)+len(r.Legs.Reply) == 0 {
		p.table(r)
	} else {
		p.answer(r)
	}
	p.findings(r.Findings)
	p.limits(r)
	p.captures(r.Captures)
	if o.Detail == DetailFull {
		p.evidence(r.Evidence)
	}
	if _, err := io.WriteString(w, p.b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// answer prints what became of one packet.
func (p *printer) answer(r *Report) {
	p.header(r)
	if r.Traced != nil && r.Traced.Command != nil {
		p.ended(r.Traced.Command)
	}
	p.verdict(r)
	p.tries(r.Tries)
	if r.Traced != nil {
		p.traced(r)
		p.explainedTitle(r)
	}
	if p.o.Detail == DetailMinimal {
		p.translations(r.Translations)
		return
	}
	columns := p.columns(r)
	p.leg("request", r.Legs.Request, r, columns)
	p.leg("reply", r.Legs.Reply, r, columns)
	for i := range r.Continuations {
		p.continuation(&r.Continuations[i], r, columns)
	}
}

// continuation prints the way of a flow that carried the request on, as one that
// stands by itself.
func (p *printer) continuation(c *Continuation, r *Report, columns columns) {
	p.title("carried on by " + cmp.Or(c.Process, "the name server"))
	p.hanging("  ", 2, 2, span{text: c.Summary}, confidence(c.Confidence), p.ids(c.Evidence))
	further := *r
	further.Verdict, further.Legs = c.Verdict, c.Legs
	p.leg("request", c.Legs.Request, &further, columns)
	p.leg("reply", c.Legs.Reply, &further, columns)
}

func (p *printer) header(r *Report) {
	source := r.Request.Source.Name
	if source == "" {
		source = r.Request.Source.NetNS
	}
	target := r.Request.Target
	if a := r.Request.Address; a != "" && !strings.Contains(target, a) {
		target += " (" + a + ")"
	}
	if r.Request.Sender != "" {
		source, target = r.Request.Sender, target+" ("+source+")"
	}
	spans := []span{{text: source + " → " + target, tone: strong}}
	if r.Request.Source.Kind == "capture" {
		spans[0].text = r.Request.Target // the files
	}
	if r.Request.Packet != "" {
		spans = append(spans, span{text: r.Request.Packet, gap: 3, together: true})
	}
	p.flow("", 2, spans...)
	if r.Request.Source.Note != "" {
		p.flow("", 2, span{text: r.Request.Source.Note, tone: faint})
	}
	if r.Request.Resolved != "" && r.Request.Address != r.Request.Target {
		p.flow("", 2, span{text: "address from " + r.Request.Resolved, tone: faint})
	}
}

func (p *printer) verdict(r *Report) {
	v := &r.Verdict
	p.blank()
	headline, tone := headlineOf(r)
	p.flow("", 0, span{text: headline, tone: tone}, span{text: v.Summary}, confidence(v.Confidence), p.ids(v.Evidence))
	if v.Code == "" || v.Code == "OK" {
		return
	}
	gap := true
	fact := func(name string, spans ...span) {
		if gap {
			p.blank()
			gap = false
		}
		p.flow("  "+pad(name, 7), 4, spans...)
	}
	if !strings.EqualFold(v.Code, string(v.Outcome)) {
		fact("cause", span{text: v.Code, tone: strong})
	}
	if where := placeOf(v.NetNS, v.Interface, v.Hook); where != "" {
		fact("where", span{text: where})
	}
	if v.Rule != nil {
		fact("rule", ruleSpans(v.Rule)...)
	}
	if v.Mechanism != "" {
		fact("how", span{text: v.Mechanism})
	}
}

// headlineOf returns the verdict's first words.
func headlineOf(r *Report) (string, tone) {
	way := map[string]string{"request": " on the way there", "reply": " on the way back"}[r.Verdict.Leg]
	switch o := r.Verdict.Outcome; o {
	case Replied:
		if len(r.Flows) == 1 && r.Flows[0].grade() < unclear {
			return "REPLIED, " + strings.Join(lacks(&r.Flows[0]), ", ") + ".", bad
		}
		if r.Verdict.Elapsed > 0 {
			return "REPLIED in " + milliseconds(r.Verdict.Elapsed) + ".", good
		}
		return "REPLIED.", good
	case Delivered:
		return "DELIVERED.", good
	case Dropped:
		return "DROPPED" + way + ".", bad
	case Rejected:
		if r.Verdict.Rule == nil {
			return "REJECTED.", bad // perhaps by the target itself
		}
		return "REJECTED" + way + ".", bad
	case Lost:
		if r.Verdict.Leg == "request" {
			return "NO ANSWER.", bad // on which way it was lost is not known
		}
		return "LOST" + way + ".", bad
	case Unsent:
		if r.Verdict.Code == "OK" {
			return "NOTHING SENT.", good // a command that does without
		}
		return "NOT SENT.", bad
	default:
		return strings.ToUpper(string(o)) + ".", doubtful
	}
}

func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 1:
		return strconv.FormatFloat(ms, 'f', 3, 64) + " ms"
	case ms < 100:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	}
	return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
}

// placeOf names a place in words: "host at ens192, hook postrouting".
func placeOf(netns, iface, hook string) string {
	place := netns
	if iface != "" {
		place += " at " + iface
	}
	if hook != "" {
		place += ", hook " + hook
	}
	return strings.TrimLeft(place, " ,")
}

func (p *printer) tries(tries []Try) {
	if len(tries) > 0 && tries[0].Query != nil {
		p.queries(tries)
		return
	}
	if len(tries) < 2 {
		return
	}
	p.blank()
	var outcomes []Outcome
	count := make(map[Outcome]int)
	var least, most, sum time.Duration
	timed := 0
	for _, t := range tries {
		if count[t.Outcome]++; count[t.Outcome] == 1 {
			outcomes = append(outcomes, t.Outcome)
		}
		if t.Elapsed > 0 {
			if timed++; timed == 1 || t.Elapsed < least {
				least = t.Elapsed
			}
			most = max(most, t.Elapsed)
			sum += t.Elapsed
		}
	}
	var counts []string
	for _, o := range outcomes {
		counts = append(counts, fmt.Sprintf("%d %s", count[o], o))
	}
	text := fmt.Sprintf("%d sent: %s", len(tries), strings.Join(counts, ", "))
	if timed > 0 {
		text += fmt.Sprintf("; min %s, mean %s, max %s", milliseconds(least), milliseconds(sum/time.Duration(timed)), milliseconds(most))
	}
	p.flow("", 2, span{text: text})
	if p.o.Detail != DetailFull {
		return
	}
	for i, t := range tries {
		line := fmt.Sprintf("%d. %s: %s", i+1, t.Packet, t.Outcome)
		if t.Elapsed > 0 {
			line += ", " + milliseconds(t.Elapsed)
		}
		p.hanging("  ", 4, 4, span{text: line})
	}
}

// queries prints what each name server was asked, and what it answered.
func (p *printer) queries(tries []Try) {
	p.title("queries")
	for _, t := range tries {
		q := t.Query
		said := strings.Join(q.Addresses, ", ")
		if said == "" {
			said = q.Said
		}
		if t.Elapsed > 0 {
			said += ", " + milliseconds(t.Elapsed)
		}
		over := ""
		if q.Over != "udp" {
			over = " over " + strings.ToUpper(q.Over)
		}
		p.hanging("  ", 4, 4, span{text: q.Server + over + ":"}, span{text: q.Type + " " + q.Name}, span{text: said, gap: 2})
	}
}

func (p *printer) translations(translations []Translation) {
	if len(translations) == 0 {
		return
	}
	p.title("translations")
	for i := range translations {
		t := &translations[i]
		place := placeOf(t.NetNS, t.Interface, t.Hook)
		if place != "" {
			place += ":"
		}
		p.hanging("  ", 4, 4, span{text: place}, span{text: t.Kind + ","},
			span{text: t.Field + " " + t.From + " → " + t.To, tone: change}, confidence(t.Confidence))
		if t.Rule != nil {
			p.flow("    ", 4, ruleSpans(t.Rule)...)
		}
	}
}

// columns are the widths of the first two columns of the path.
type columns struct{ netns, iface int }

// The longest name that a column makes room for; longer ones push the rest of
// their line to the right, or down.
const widestColumn = 20

func (p *printer) columns(r *Report) columns {
	var c columns
	hops := slices.Concat(r.Legs.Request, r.Legs.Reply)
	for i := range r.Continuations {
		hops = slices.Concat(hops, r.Continuations[i].Legs.Request, r.Continuations[i].Legs.Reply)
	}
	for hop := range slices.Values(hops) {
		c.netns = max(c.netns, min(lipgloss.Width(p.clean(placeName(&hop))), widestColumn))
		c.iface = max(c.iface, min(lipgloss.Width(p.clean(interfaceName(&hop))), widestColumn))
	}
	return c
}

func placeName(h *Hop) string {
	if h.Machine != "" {
		return h.Machine + "/" + h.NetNS
	}
	return h.NetNS
}

// interfaceName is "local" for a packet that was made or consumed here and not
// seen at an interface.
func interfaceName(h *Hop) string { return cmp.Or(h.Interface, "local") }

// leg prints one direction: a line for each place, and under it what happened
// there. Namespace and addresses are printed where they change.
func (p *printer) leg(name string, hops []Hop, r *Report, c columns) {
	ended := r.Verdict.Leg == name && r.Verdict.Outcome != Replied && r.Verdict.Outcome != Delivered
	if len(hops) == 0 {
		// A name may be known without a packet, and data be lost that came unasked.
		if ended || name == "request" && r.Verdict.Outcome != Replied && len(r.Legs.Reply) == 0 {
			p.title(name)
			p.flow("  ", 2, span{text: "not seen anywhere"})
		}
		return
	}
	p.title(name)
	place := ""
	var tuple Tuple
	var round circle
	if p.o.Detail != DetailFull {
		round = circleOf(hops)
	}
	for i := range hops {
		h := &hops[i]
		if i == round.from && round.left > 0 {
			p.flow("  ", 4, span{text: fmt.Sprintf("and the same way again, %d times", round.left), tone: faint})
			place = ""
		}
		if round.from <= i && i < round.to {
			continue
		}
		if h.Interface == "" && len(hops) > 1 && p.o.Detail != DetailFull && !slices.ContainsFunc(h.Steps, func(s Step) bool { return !s.Dull || fatal(&s) }) {
			continue // it merely was made here
		}
		prefix := "  "
		if name := placeName(h); name != place {
			place = name
			prefix += pad(p.clean(name), c.netns)
		} else {
			prefix += strings.Repeat(" ", c.netns)
		}
		prefix += "  " + pad(p.clean(interfaceName(h)), c.iface) + "  " + pad(map[string]string{"ingress": "in", "egress": "out"}[h.Direction], 3) + "  "
		var spans []span
		if addresses := tupleText(h.Tuple, r); addresses != "" && !sameTuple(h.Tuple, tuple) {
			tuple = h.Tuple
			spans = append(spans, span{text: addresses})
		}
		if h.Bridge != "" {
			spans = append(spans, span{text: "port of " + h.Bridge, gap: 2, tone: faint})
		}
		if p.o.Detail == DetailFull {
			spans = append(spans, span{text: hopDetail(h, r), gap: 2, together: true, tone: faint}, p.ids(h.Evidence))
		}
		p.flow(prefix, 6, spans...)
		p.steps(h.Steps, 2+c.netns+2)
	}
	over := func(s Step) bool { return fatal(&s) || s.Kind == "deliver" }
	if last := hops[len(hops)-1].Steps; ended && !slices.ContainsFunc(last, over) {
		p.flow(strings.Repeat(" ", 2+c.netns+4), 6, span{text: "last seen here", tone: doubtful})
	}
}

// circle is the part of a path that only repeats what was printed before:
// left rounds, the hops from from to before to.
type circle struct{ from, to, left int }

// circleOf finds a packet that goes round: all rounds but the first and the
// last may be left out.
func circleOf(hops []Hop) circle {
	same := func(a, b *Hop) bool {
		return a.NetNS == b.NetNS && a.Interface == b.Interface && a.Direction == b.Direction
	}
	for start := range hops {
		for period := 2; start+2*period <= len(hops); period++ {
			end := start
			for end+period < len(hops) && same(&hops[end], &hops[end+period]) {
				end++
			}
			if rounds := (end-start)/period + 1; rounds > 3 {
				return circle{from: start + period, to: start + (rounds-1)*period, left: rounds - 2}
			}
		}
	}
	return circle{}
}

func hopDetail(h *Hop, r *Report) string {
	text := fmt.Sprintf("ttl %d, %d bytes", h.TTL, h.Length)
	if first := r.Legs.Request; len(first) > 0 && !first[0].Time.IsZero() && !h.Time.IsZero() {
		text += ", +" + milliseconds(h.Time.Sub(first[0].Time))
	}
	return text
}

// tupleText prints a packet's addresses, and its kind where that is not the
// request's protocol (an ICMP error that answers a TCP segment).
func tupleText(t Tuple, r *Report) string {
	if t.Source == "" && t.Destination == "" {
		return ""
	}
	text := t.Source + " → " + t.Destination
	if t.ICMPType != nil && t.ICMPID == nil {
		kind := fmt.Sprintf("%s type %d", t.Protocol, *t.ICMPType)
		if t.ICMPCode != nil {
			kind += fmt.Sprintf(" code %d", *t.ICMPCode)
		}
		return kind + ", " + text
	}
	if first := r.Legs.Request; len(first) > 0 && first[0].Tuple.Protocol != t.Protocol {
		return t.Protocol + ", " + text
	}
	return text
}

func sameTuple(a, b Tuple) bool {
	same := func(x, y *int) bool { return x == y || x != nil && y != nil && *x == *y }
	return a.Protocol == b.Protocol && a.Source == b.Source && a.Destination == b.Destination &&
		same(a.ICMPType, b.ICMPType) && same(a.ICMPCode, b.ICMPCode) && same(a.ICMPID, b.ICMPID)
}

// steps prints what happened at one place. What a rule did stands under it,
// and does not repeat it.
func (p *printer) steps(steps []Step, indent int) {
	const labelWidth = 13 // "postrouting" and a gap
	var above *Step
	var label string
	var spans []span
	flush := func() {
		if above != nil {
			p.flow(strings.Repeat(" ", indent+2)+pad(p.clean(label), labelWidth), indent+4, spans...)
		}
	}
	for i := range steps {
		s := &steps[i]
		if s.Dull && !fatal(s) && p.o.Detail != DetailFull {
			continue
		}
		if above != nil && s.Rule != nil && above.Rule != nil && *s.Rule == *above.Rule && s.Hook == above.Hook && !fatal(s) {
			if !ruleSays(s) {
				spans = append(spans, said(s, true), confidence(s.Confidence), p.ids(s.Evidence))
			}
			continue
		}
		flush()
		above, label, spans = s, s.Hook, nil
		if label == "" {
			label = s.Kind
		}
		switch s.Kind {
		case "drop":
			spans = append(spans, span{text: "DROPPED", tone: bad})
		case "reject":
			spans = append(spans, span{text: "REJECTED", tone: bad})
		}
		if s.Rule != nil {
			spans = append(spans, ruleSpans(s.Rule)...)
		}
		if !ruleSays(s) {
			spans = append(spans, said(s, s.Rule != nil))
		}
		spans = append(spans, confidence(s.Confidence), p.ids(s.Evidence))
	}
	flush()
}

// fatal reports whether the packet ended with a step.
func fatal(s *Step) bool { return s.Kind == "drop" || s.Kind == "reject" }

// said returns a step's own text, on a line of its own or not.
func said(s *Step, line bool) span {
	text := span{text: s.Text, line: line}
	if s.Kind == "nat" {
		text.tone = change
	}
	return text
}

// ruleSays reports whether a step's text adds nothing to its rule's.
func ruleSays(s *Step) bool {
	return s.Rule != nil && s.Kind != "nat" && strings.Contains(strings.ToLower(s.Rule.Text), strings.ToLower(s.Text))
}

// ruleSpans returns a rule as its owner wrote it, where it is, and who that is.
func ruleSpans(r *Rule) []span {
	backend := r.Backend
	family := r.Family
	if strings.HasPrefix(backend, "iptables") {
		if family == "ip6" {
			backend = "ip6" + strings.TrimPrefix(backend, "ip")
		}
		family = ""
	}
	where := strings.Join(slices.DeleteFunc([]string{backend, family, r.Table, r.Chain}, func(s string) bool { return s == "" }), " ")
	switch { // nft takes a handle, iptables a number
	case r.Handle != 0 && (r.Backend == "nft" || r.Number == 0):
		where += fmt.Sprintf(" handle %d", r.Handle)
	case r.Number != 0:
		where += fmt.Sprintf(" rule %d", r.Number)
	}
	var spans []span
	if r.Text != "" {
		spans = append(spans, span{text: r.Text, gap: 2, whole: true})
	}
	spans = append(spans, span{text: where, gap: 2, together: true, tone: faint})
	if owner := r.Owner.String(); owner != "" {
		spans = append(spans, span{text: owner, gap: 2, together: true, tone: faint})
	}
	if r.Comment != "" && !strings.Contains(r.Text, r.Comment) {
		spans = append(spans, span{text: "# " + r.Comment, gap: 2, together: true, tone: faint})
	}
	return spans
}

func (p *printer) findings(findings []Finding) {
	if len(findings) == 0 {
		return
	}
	p.title("findings")
	tones := map[string]tone{"error": bad, "warning": doubtful}
	for i := range findings {
		f := &findings[i]
		p.hanging("  ", 4, 4, span{text: f.Severity, tone: tones[f.Severity]}, span{text: f.Code + ":", tone: strong}, span{text: f.Summary}, p.ids(f.Evidence))
		for _, command := range f.Fix {
			p.flow("      ", 6, span{text: command, whole: true, tone: change})
		}
	}
}

// limits prints what could not be observed: sensors that were not well, and
// notes.
func (p *printer) limits(r *Report) {
	explained := r.Verdict.Outcome != Dropped || r.Verdict.Rule != nil
	sensors := slices.DeleteFunc(slices.Clone(r.Sensors), func(s Sensor) bool {
		return p.o.Detail != DetailFull && (s.State == "ok" && s.Lost == 0 || s.Optional && s.State == "absent" && explained)
	})
	if len(sensors)+len(r.Notes) == 0 {
		return
	}
	if p.o.Detail == DetailFull {
		p.title("sensors and limits")
	} else {
		p.title("not observed")
	}
	for _, s := range sensors {
		text := s.Name + ": " + s.State
		if s.Lost > 0 || p.o.Detail == DetailFull {
			text += fmt.Sprintf(", %d received, %d lost", s.Received, s.Lost)
		}
		if s.Reason != "" {
			text += "; " + s.Reason
		}
		p.hanging("  ", 4, 4, span{text: text})
	}
	for _, note := range r.Notes {
		p.hanging("  ", 4, 4, span{text: note})
	}
}

func (p *printer) evidence(evidence []Evidence) {
	if len(evidence) == 0 {
		return
	}
	p.title("evidence")
	for _, e := range evidence {
		place := placeName(&Hop{Machine: e.Machine, NetNS: e.NetNS})
		if place != "" {
			place += ":"
		}
		p.hanging("  ", 4, 4, span{text: e.ID, tone: strong}, span{text: place}, span{text: e.Text})
	}
}

// confidence marks a statement that no sensor saw.
func confidence(c Confidence) span {
	if c == "" || c == Observed {
		return span{}
	}
	return span{text: "(" + string(c) + ")", tone: doubtful}
}

// ids returns the evidence that a statement rests on, where all is asked for.
func (p *printer) ids(evidence []string) span {
	if len(evidence) == 0 || p.o.Detail != DetailFull {
		return span{}
	}
	return span{text: "[" + strings.Join(evidence, " ") + "]", tone: faint}
}
