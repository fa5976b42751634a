package ruletrace

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// Destinations lists the addresses that DNAT rules of the namespace could send
// the flow to, at most 16. It is a hint at where to look, taken from the rules'
// text, and no statement about the flow. With an error the list is as complete
// as it could be made.
func (r *Resolver) Destinations(ctx context.Context, m Match) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(); err != nil {
		return nil, err
	}
	lines, err := r.natLines(ctx, m.Target.Is6(), func(ch chain) bool { return ch.hook == Prerouting || ch.hook == Output })
	return destinations(lines, m), err
}

// natLines are the rules of all nat tables of one version of IP that have a base
// chain of that kind; with an error, those that could be read.
func (r *Resolver) natLines(ctx context.Context, ipv6 bool, kind func(chain) bool) ([]string, error) {
	family := "ip"
	if ipv6 {
		family = "ip6"
	}
	var lines []string
	var errs []error
	seen := make(map[chainKey]bool)
	for _, ch := range r.chains {
		table := chainKey{family: ch.family, table: ch.table}
		if ch.typ != "nat" || !kind(ch) || ch.family != family && ch.family != "inet" || seen[table] {
			continue
		}
		seen[table] = true
		if t := r.managed(ctx, chainKey{ch.family, ch.table, ch.name}); t != nil {
			lines = append(lines, t.lines()...)
			continue
		}
		text, err := r.run(ctx, "nft", "list", "table", ch.family, ch.table)
		errs = append(errs, err)
		lines = append(lines, strings.Split(text, "\n")...)
	}
	tables, tables6, err := LegacyTables(r.ns)
	errs = append(errs, err)
	if ipv6 {
		tables = tables6
	}
	if slices.Contains(tables, "nat") {
		s := r.legacyTable(ctx, family, "nat")
		errs = append(errs, s.err)
		lines = append(lines, s.table.lines()...)
	}
	return lines, errors.Join(errs...)
}

// lines are all rules of a table. It may be called on nil.
func (t *savedTable) lines() []string {
	if t == nil {
		return nil
	}
	var lines []string
	for _, ch := range t.chains {
		lines = append(lines, ch.rules...)
	}
	slices.Sort(lines)
	return lines
}
