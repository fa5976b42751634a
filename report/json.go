package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// JSON writes a report as indented JSON. Lists without entries are [], never
// null; <, > and & are written as they are.
func JSON(w io.Writer, r *Report) error {
	c := withLists(r)
	write := func() error { return encoder(w, "").Encode(c) }
	if c.Flows != nil {
		write = func() error { return writeFlows(w, c) }
	}
	if err := write(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// JSONLine writes a report as one line of JSON, as JSON otherwise.
func JSONLine(w io.Writer, r *Report) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(withLists(r)); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func encoder(w io.Writer, prefix string) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	return e
}

// writeFlows writes a report flow by flow: an encoder keeps all that it writes in
// memory, twice, and there may be a hundred thousand flows.
func writeFlows(w io.Writer, r *Report) error {
	flows := r.Flows
	r.Flows = []Flow{}
	var b bytes.Buffer
	if err := encoder(&b, "").Encode(r); err != nil {
		return err
	}
	// A line of its own with this indent is a field of the report: in strings line
	// breaks are escaped.
	before, behind, _ := strings.Cut(b.String(), "\n  \"flows\": []")
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(before + "\n  \"flows\": [") // the first error is kept for Flush
	count := 0
	write := func(f Flow) error {
		b.Reset()
		if err := encoder(&b, "    ").Encode(flowWithLists(f)); err != nil {
			return err
		}
		if count++; count > 1 {
			_ = out.WriteByte(',')
		}
		_, _ = out.WriteString("\n    ")
		_, err := out.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
		return err
	}
	for _, f := range flows {
		if err := write(f); err != nil {
			return err
		}
	}
	if r.Rest != nil {
		for f := range r.Rest {
			if err := write(f); err != nil {
				return err
			}
		}
	}
	if count > 0 {
		_, _ = out.WriteString("\n  ")
	}
	_, _ = out.WriteString("]" + behind)
	return out.Flush()
}

// Decode reads one report that JSON wrote, perhaps in a later version: fields
// that are not known are left out.
func Decode(r io.Reader) (*Report, error) {
	d := json.NewDecoder(r)
	var report Report
	if err := d.Decode(&report); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if report.Schema != Schema {
		return nil, fmt.Errorf("read report: its schema is %q, not %q", report.Schema, Schema)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read report: something follows it")
	}
	return &report, nil
}

// withLists returns a copy of a report in which no list that must be there is
// nil.
func withLists(r *Report) *Report {
	c := *r
	c.Verdict.Evidence = list(c.Verdict.Evidence)
	c.Translations = each(c.Translations, func(t *Translation) { t.Evidence = list(t.Evidence) })
	c.Legs = legsWithLists(c.Legs)
	if c.Continuations != nil {
		c.Continuations = each(c.Continuations, func(n *Continuation) {
			n.Evidence, n.Verdict.Evidence = list(n.Evidence), list(n.Verdict.Evidence)
			n.Translations = each(n.Translations, func(t *Translation) { t.Evidence = list(t.Evidence) })
			n.Legs = legsWithLists(n.Legs)
		})
	}
	c.Findings = each(c.Findings, func(f *Finding) { f.Fix, f.Evidence = list(f.Fix), list(f.Evidence) })
	c.Sensors = list(c.Sensors)
	c.Evidence = list(c.Evidence)
	return &c
}

// legsWithLists is withLists for both directions.
func legsWithLists(l Legs) Legs {
	hop := func(h *Hop) {
		h.Evidence = list(h.Evidence)
		h.Steps = each(h.Steps, func(s *Step) { s.Evidence = list(s.Evidence) })
	}
	return Legs{Request: each(l.Request, hop), Reply: each(l.Reply, hop)}
}

// flowWithLists is withLists for a flow.
func flowWithLists(f Flow) *Flow {
	f.Points = list(f.Points)
	f.Translations = each(f.Translations, func(t *Translation) { t.Evidence = list(t.Evidence) })
	return &f
}

// list returns s, or an empty list in place of nil.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// each returns a copy of s in which f has changed every entry.
func each[T any](s []T, f func(*T)) []T {
	c := list(slices.Clone(s))
	for i := range c {
		f(&c[i])
	}
	return c
}
