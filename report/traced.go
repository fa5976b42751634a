package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// traced prints the flows of a source, in the order in which they began.
func (p *printer) traced(r *Report) {
	t := r.Traced
	own, others := split(p.listed(r.Flows))
	if len(own) > 0 {
		p.title("flows")
		p.tracedRows(own, t.Explained)
	}
	if len(others) > 0 {
		p.title("flows of other processes there")
		p.tracedRows(others, 0)
	}
	if more := t.Flows - len(own) - len(others); more > 0 {
		p.flow("  ", 2, span{text: fmt.Sprintf("%s more: --detail full or -o json has them", plural(more, "flow")), tone: faint})
	}
	if t.Unfollowed > 0 {
		p.flow("  ", 2, span{text: fmt.Sprintf("%s more began than could be followed at one time; nothing is known of them", plural(t.Unfollowed, "flow")), tone: doubtful})
	}
}

// FlowText writes one line about a flow for people, and what became of it where it
// failed.
func FlowText(w io.Writer, f Flow, o TextOptions) error {
	p := &printer{o: o, width: o.Width}
	if p.width <= 0 {
		p.width = 80
	}
	p.tracedRows([]Flow{f}, 0)
	if _, err := io.WriteString(w, p.b.String()); err != nil {
		return fmt.Errorf("write flow: %w", err)
	}
	return nil
}

// listed are the rows that are printed: those that failed all the same.
func (p *printer) listed(flows []Flow) []Flow {
	limit := p.o.Detail.Rows()
	if limit == 0 || len(flows) <= limit {
		return flows
	}
	var some []Flow
	went := 0
	for i := range flows {
		if flows[i].grade() == well {
			if went++; went > wellRows {
				continue
			}
		}
		if len(some) < limit {
			some = append(some, flows[i])
		}
	}
	return some
}

func split(flows []Flow) (own, others []Flow) {
	for i := range flows {
		if flows[i].Other {
			others = append(others, flows[i])
		} else {
			own = append(own, flows[i])
		}
	}
	return own, others
}

// tracedRows prints a line for each flow, and what became of it where it failed,
// but for the one that the verdict explains.
func (p *printer) tracedRows(flows []Flow, explained int) {
	width := numberWidth(flows)
	for i := range flows {
		f := &flows[i]
		number := fmt.Sprintf("  %*d  ", width, f.Number)
		spans := []span{{text: tracedEnds(f), tone: strong}, p.ending(f)}
		if f.Asked != "" {
			spans = append(spans, span{text: f.Asked, gap: 3, together: true})
		}
		if f.Said != "" {
			spans = append(spans, span{text: strconv.Quote(f.Said), gap: 3, together: true})
		}
		if f.Owner != "" {
			spans = append(spans, span{text: f.Owner, gap: 3, together: true, tone: faint})
		}
		p.hanging(number, len(number)+4, 4, spans...)
		indent := strings.Repeat(" ", len(number)+2)
		if f.grade() != well && f.Summary != "" && f.Number != explained {
			p.hanging(indent, len(indent), 4, span{text: f.Summary})
		}
		if p.o.Detail == DetailFull {
			for _, leg := range []string{"request", "reply"} {
				if way := p.way(f, leg); len(way) > 0 {
					p.hanging(indent+pad(leg, 9), len(indent)+9, len(indent), way...)
				}
			}
		}
	}
}

// tracedEnds are the ends of a flow, with the name of the far one.
func tracedEnds(f *Flow) string {
	text := f.Tuple.Protocol + " " + f.Tuple.Source + " → " + f.Tuple.Destination
	if f.Tuple.ICMPID != nil {
		text += fmt.Sprintf(" id %d", *f.Tuple.ICMPID)
	}
	if f.Host != "" {
		text += " (" + f.Host + ")"
	}
	return text
}

// ended says how the command ended.
func (p *printer) ended(c *Command) {
	text := fmt.Sprintf("ended with status %d after %s", c.Status, c.Elapsed.Round(time.Millisecond))
	if c.Unknown != "" {
		text = fmt.Sprintf("how it ended, after %s, is not known: %s", c.Elapsed.Round(time.Millisecond), c.Unknown)
	}
	p.flow("", 2, span{text: text, tone: faint})
}

// explainedTitle names the flow that legs and findings are about.
func (p *printer) explainedTitle(r *Report) {
	at := slices.IndexFunc(r.Flows, func(f Flow) bool { return f.Number == r.Traced.Explained })
	if at < 0 || len(r.Flows) < 2 {
		return
	}
	p.blank()
	p.flow("", 2, span{text: fmt.Sprintf("flow %d", r.Traced.Explained), tone: strong}, span{text: tracedEnds(&r.Flows[at]), gap: 2})
}
