package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// CheckupSchema is the name of a checkup's form, under the same promise as
// Schema.
const CheckupSchema = "pathtrace/doctor/1"

// Checkup is what was found without sending a packet.
type Checkup struct {
	Schema   string     `json:"schema"`
	Tool     Tool       `json:"tool"`
	Source   Source     `json:"source"`
	Findings []Finding  `json:"findings"`
	Evidence []Evidence `json:"evidence"`
	// Checked is what was looked at and is well, in words.
	Checked []string `json:"checked"`
	// Unchecked is what could not be looked at.
	Unchecked []Unchecked `json:"unchecked"`
}

// Unchecked is a check that could not be made, or not everywhere.
type Unchecked struct {
	Check  string `json:"check"`
	Reason string `json:"reason"`
}

// Failed reports whether a finding is an error.
func (c *Checkup) Failed() bool { return c.count("error") > 0 }

func (c *Checkup) count(severity string) int {
	n := 0
	for i := range c.Findings {
		if c.Findings[i].Severity == severity {
			n++
		}
	}
	return n
}

// CheckupJSON writes a checkup as JSON does a report.
func CheckupJSON(w io.Writer, c *Checkup) error {
	full := *c
	full.Findings = each(full.Findings, func(f *Finding) { f.Fix, f.Evidence = list(f.Fix), list(f.Evidence) })
	full.Evidence, full.Checked, full.Unchecked = list(full.Evidence), list(full.Checked), list(full.Unchecked)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(&full); err != nil {
		return fmt.Errorf("write checkup: %w", err)
	}
	return nil
}

// CheckupText writes a checkup for people: the findings in the order in which
// they stand, what is well, and what was not checked. All text is escaped.
func CheckupText(w io.Writer, c *Checkup, o TextOptions) error {
	p := &printer{o: o, width: o.Width}
	if p.width <= 0 {
		p.width = 80
	}
	headline, tone := "Nothing is wrong as far as could be checked.", good
	errors, warnings := c.count("error"), c.count("warning")
	switch {
	case errors > 0 && warnings > 0:
		headline, tone = plural(errors, "error")+" and "+plural(warnings, "warning")+".", bad
	case errors > 0:
		headline, tone = plural(errors, "error")+".", bad
	case warnings > 0:
		headline, tone = "No error, "+plural(warnings, "warning")+".", doubtful
	}
	p.flow("", 0, span{text: c.Source.Name + ":", tone: strong}, span{text: headline, tone: tone})
	p.findings(c.Findings)
	if len(c.Checked) > 0 {
		p.blank()
		p.flow("well: ", 4, span{text: strings.Join(c.Checked, ", ")})
	}
	if len(c.Unchecked) > 0 {
		p.title("not checked")
		for _, u := range c.Unchecked {
			p.hanging("  ", 4, 4, span{text: u.Check + ": " + u.Reason})
		}
	}
	if o.Detail == DetailFull {
		p.evidence(c.Evidence)
	}
	if _, err := io.WriteString(w, p.b.String()); err != nil {
		return fmt.Errorf("write checkup: %w", err)
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
