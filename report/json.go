package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// JSON writes a report as indented JSON. Lists without entries are [], never
// null; <, > and & are written as they are.
func JSON(w io.Writer, r *Report) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(withLists(r)); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
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
	hop := func(h *Hop) {
		h.Evidence = list(h.Evidence)
		h.Steps = each(h.Steps, func(s *Step) { s.Evidence = list(s.Evidence) })
	}
	c.Legs.Request = each(c.Legs.Request, hop)
	c.Legs.Reply = each(c.Legs.Reply, hop)
	c.Findings = each(c.Findings, func(f *Finding) { f.Fix, f.Evidence = list(f.Fix), list(f.Evidence) })
	c.Sensors = list(c.Sensors)
	c.Evidence = list(c.Evidence)
	return &c
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
