package report

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// captures prints the files that were read, what is wrong with them, and how
// their clocks stand to each other.
func (p *printer) captures(captures []Capture) {
	if len(captures) == 0 {
		return
	}
	p.title("captures")
	for i := range captures {
		c := &captures[i]
		spans := []span{{text: c.File, tone: strong}, {text: count(c.Packets, "packet") + ", " + bytesText(c.Bytes), gap: 2, together: true}}
		if c.Packets == 0 && c.Problem != "" && c.LinkType == "" {
			spans = spans[:1]
		}
		if named := cmp.Or(c.Point, c.File); named != c.File && len(c.Places) == 0 && c.Packets > 0 {
			spans = append(spans, span{text: "at " + c.Point, gap: 2, together: true})
		}
		if c.LinkType != "" {
			spans = append(spans, span{text: c.LinkType, gap: 2, tone: faint, together: true})
		}
		if c.Format != "" && p.o.Detail == DetailFull {
			spans = append(spans, span{text: c.Format, gap: 2, tone: faint, together: true})
		}
		p.hanging("  ", 4, 4, spans...)
		p.places(c.Places)
		if c.Problem != "" {
			p.hanging("    ", 6, 6, span{text: c.Problem, tone: bad})
		}
	}
	for i := range captures {
		if o := captures[i].Offset; o != nil {
			p.hanging("  ", 4, 4, clockSpans(captures[i].File, o)...)
		}
	}
}

// placeRows is how many places of one capture are listed unless all is asked
// for.
const placeRows = 8

func (p *printer) places(places []CapturePlace) {
	shown := places
	if p.o.Detail != DetailFull && len(places) > placeRows {
		shown = places[:placeRows]
	}
	var spans []span
	for i := range shown {
		text := fmt.Sprintf("%s %d (%s),", p.place(&shown[i].Place), shown[i].Packets, bytesText(shown[i].Bytes))
		if shown[i].Packets == 0 {
			text = p.place(&shown[i].Place) + " nothing,"
		}
		spans = append(spans, span{text: text, together: true})
	}
	silent := 0
	for i := len(shown); i < len(places); i++ {
		if places[i].Packets == 0 {
			silent++
		}
	}
	switch more := len(places) - len(shown); {
	case silent > 0 && silent == more:
		spans = append(spans, span{text: fmt.Sprintf("and %d more, which saw nothing", more)})
	case silent > 0:
		spans = append(spans, span{text: fmt.Sprintf("and %d more, %d of which saw nothing", more, silent)})
	case more > 0:
		spans = append(spans, span{text: fmt.Sprintf("and %d more", more)})
	case len(spans) == 0:
		return
	default:
		spans[len(spans)-1].text = strings.TrimSuffix(spans[len(spans)-1].text, ",")
	}
	p.hanging("    ", 6, 6, spans...)
}

// clockSpans says how far a clock is from another one, and how that is known.
func clockSpans(file string, o *Offset) []span {
	if o.Shared == 0 {
		return []span{{text: fmt.Sprintf("%s shares no packets with %s that could be compared; their clocks are taken for one", file, o.Reference)}, confidence(Assumed)}
	}
	text := fmt.Sprintf("the clock of %s ", file)
	digits := digitsFor(o.High - o.Low)
	seconds := func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	middle := strconv.FormatFloat(math.Abs(o.Low+o.High)/2, 'f', max(digits-1, 0), 64)
	switch {
	case o.Low > 0:
		text += fmt.Sprintf("is %s s ahead of that of %s (between %s and %s s)", middle, o.Reference, seconds(o.Low), seconds(o.High))
	case o.High < 0:
		text += fmt.Sprintf("is %s s behind that of %s (between %s and %s s)", middle, o.Reference, seconds(-o.High), seconds(-o.Low))
	case o.Low == 0 && o.High == 0:
		text += "agrees with that of " + o.Reference
	default:
		text += fmt.Sprintf("agrees with that of %s to within %s", o.Reference, milliseconds(time.Duration(max(-o.Low, o.High)*1e9)))
	}
	text += ", by " + plural(o.Shared, "packet")
	if o.Drift != 0 {
		direction := "gains"
		if o.Drift < 0 {
			direction = "loses"
		}
		text += fmt.Sprintf(", and %s %.1f µs in a second", direction, math.Abs(o.Drift)*1e6)
	}
	spans := []span{{text: text}}
	if o.Confidence == Assumed {
		spans[0].text += "; they bound one side only, and that the fastest took no longer than that is"
		spans = append(spans, confidence(Assumed))
	}
	return spans
}

// digitsFor is how many decimals show an interval of that many seconds.
func digitsFor(width float64) int {
	if width <= 0 {
		return 9
	}
	return min(max(int(math.Ceil(-math.Log10(width)))+1, 0), 9)
}
