package report

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// tone is what a piece of text wants to say with its look.
type tone int

const (
	plain tone = iota
	strong
	faint
	good
	bad
	doubtful
	change
)

var styles = [...]lipgloss.Style{
	strong:   lipgloss.NewStyle().Bold(true),
	faint:    lipgloss.NewStyle().Faint(true),
	good:     lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Green),
	bad:      lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red),
	doubtful: lipgloss.NewStyle().Foreground(lipgloss.Yellow),
	change:   lipgloss.NewStyle().Foreground(lipgloss.Cyan),
}

// span is a piece of running text; one without text is skipped.
type span struct {
	text string
	tone tone
	// gap is the number of spaces before it on the same line; 0 means 1.
	gap int
	// whole keeps it on one line, longer than the line as it may be; together
	// does so where a line can hold it. line starts a new one.
	whole, together, line bool
}

// printer lays out text in lines of a width.
type printer struct {
	b     strings.Builder
	o     TextOptions
	width int
}

func (p *printer) blank() { p.b.WriteByte('\n') }

func (p *printer) title(name string) {
	p.blank()
	p.flow("", 0, span{text: name, tone: strong})
}

// clean makes text printable where it goes.
func (p *printer) clean(s string) string {
	s = Escape(s)
	if !p.o.Unicode {
		s = toASCII(s)
	}
	return s
}

// paint gives text its look.
func (p *printer) paint(t tone, s string) string {
	if !p.o.Color || t == plain {
		return s
	}
	return styles[t].Render(s)
}

// flow writes spans behind a prefix, broken between words. The lines that
// follow the first are aligned with the end of the prefix; where something
// fits only further left, all of them begin at the column least.
func (p *printer) flow(prefix string, least int, spans ...span) {
	p.hanging(prefix, lipgloss.Width(prefix), least, spans...)
}

// hanging is flow with the lines that follow the first at a column of choice.
func (p *printer) hanging(prefix string, indent, least int, spans ...span) {
	column := lipgloss.Width(prefix)
	words := make([][]string, len(spans))
	for i := range spans {
		words[i] = p.words(&spans[i], p.width-indent)
		for _, word := range words[i] {
			if width := lipgloss.Width(word); indent+width > p.width && least+width <= p.width {
				indent = min(indent, least)
			}
		}
	}

	var line strings.Builder
	line.WriteString(prefix)
	empty := true // nothing but the prefix or the indent
	flush := func() {
		p.b.WriteString(strings.TrimRight(line.String(), " "))
		p.b.WriteByte('\n')
		line.Reset()
	}
	for i, s := range spans {
		run := "" // words of this span on this line, painted together
		for j, word := range words[i] {
			gap := 0
			if !empty {
				gap = 1
				if j == 0 && s.gap > 0 {
					gap = s.gap
				}
			}
			if column+gap+lipgloss.Width(word) > p.width && column > indent || s.line && j == 0 && !empty {
				line.WriteString(p.paint(s.tone, run))
				run = ""
				flush()
				line.WriteString(strings.Repeat(" ", indent))
				column, gap = indent, 0
			}
			if run == "" {
				line.WriteString(strings.Repeat(" ", gap))
			} else {
				run += strings.Repeat(" ", gap)
			}
			run += word
			column += gap + lipgloss.Width(word)
			empty = false
		}
		line.WriteString(p.paint(s.tone, run))
	}
	flush()
}

// words cuts a span where a line that has room may be broken. An arrow stays
// with what it points to.
func (p *printer) words(s *span, room int) []string {
	text := p.clean(s.text)
	if text == "" {
		return nil
	}
	if s.whole || s.together && lipgloss.Width(text) <= room {
		return []string{text}
	}
	words := strings.Fields(text)
	joined := words[:0:0]
	for i := 0; i < len(words); i++ {
		if (words[i] == "→" || words[i] == "->") && i+1 < len(words) {
			joined = append(joined, words[i]+" "+words[i+1])
			i++
			continue
		}
		joined = append(joined, words[i])
	}
	return joined
}

// pad fills text with spaces to a width.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-lipgloss.Width(s)))
}
