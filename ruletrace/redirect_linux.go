package ruletrace

import (
	"cmp"
	"context"
	"slices"
)

// Redirect returns the DNAT rule that today's rules of prerouting would apply to
// the first packet of a flow. The bool is false when there is none, and when that
// is not certain: a rule stands before it that is not understood.
func (r *Resolver) Redirect(ctx context.Context, a Arrival) (Rule, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(); err != nil {
		return Rule{}, false, err
	}
	family := "ip"
	if a.Tuple.Dst.Is6() {
		family = "ip6"
	}
	var bases []chain
	for _, ch := range r.chains {
		if ch.typ == "nat" && ch.hook == Prerouting && !ch.owned && (ch.family == family || ch.family == "inet") {
			bases = append(bases, ch)
		}
	}
	slices.SortStableFunc(bases, func(a, b chain) int { return cmp.Compare(a.priority, b.priority) })
	tables, tables6, err := LegacyTables(r.ns)
	if err != nil {
		return Rule{}, false, err
	}
	if a.Tuple.Dst.Is6() {
		tables = tables6
	}
	legacy := slices.Contains(tables, "nat")
	if len(bases) > 0 && legacy {
		return Rule{}, false, nil // which of them is asked first is not known
	}
	for _, base := range bases {
		rules, backend, err := r.texts(ctx, base)
		if err != nil {
			return Rule{}, false, err
		}
		if f, rule := rules.walk(base.name, a, 0); f != passes && f != returns {
			rule.Backend, rule.Family, rule.Table = backend, base.family, base.table
			return rule, f == redirects, nil
		}
	}
	if !legacy {
		return Rule{}, false, nil
	}
	s := r.legacyTable(ctx, family, "nat")
	if s.err != nil {
		return Rule{}, false, s.err
	}
	f, rule := s.table.ruleset().walk("PREROUTING", a, 0)
	rule.Backend, rule.Family, rule.Table = IPTablesLegacy, family, "nat"
	return rule, f == redirects, nil
}

// texts are the rules of all chains of a chain's table.
func (r *Resolver) texts(ctx context.Context, ch chain) (ruleset, Backend, error) {
	if t := r.managed(ctx, chainKey{ch.family, ch.table, ch.name}); t != nil {
		return t.ruleset(), IPTablesNFT, nil
	}
	text, err := r.run(ctx, "nft", "-a", "-s", "list", "table", ch.family, ch.table)
	if err != nil {
		return nil, "", err
	}
	rules := make(ruleset)
	for _, listed := range parseList(text) {
		rules[listed.name] = nil
		for _, rule := range listed.rules {
			rules[listed.name] = append(rules[listed.name], rule.text)
		}
	}
	return rules, NFT, nil
}

func (t *savedTable) ruleset() ruleset {
	rules := make(ruleset)
	for name, ch := range t.chains {
		rules[name] = ch.rules
	}
	return rules
}
