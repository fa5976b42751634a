package ruletrace

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Ruleset reads all rules of the namespace but those of armings, in the words of
// the tools that wrote them. With an error it is as complete as it could be
// made, and chains whose rules are not known say so.
func (r *Resolver) Ruleset(ctx context.Context) (*Ruleset, error) {
	return r.ruleset(ctx, nil)
}

// ruleset reads the tables that have a base chain which is wanted; all of them
// when wanted is nil.
func (r *Resolver) ruleset(ctx context.Context, wanted func(family string, hook Hook) bool) (*Ruleset, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := new(Ruleset)
	var errs []error
	if err := r.refresh(); err != nil {
		set.Incomplete = true
		errs = append(errs, err)
	}
	tables := make(map[chainKey]bool)
	for _, ch := range r.chains {
		if wanted == nil || ch.base && wanted(ch.family, ch.hook) {
			tables[chainKey{family: ch.family, table: ch.table}] = true
		}
	}
	for _, ch := range r.chains {
		if ch.owned || !tables[chainKey{family: ch.family, table: ch.table}] {
			continue
		}
		chain, err := r.readChain(ctx, ch)
		set.Chains = append(set.Chains, chain)
		errs = append(errs, err)
	}
	ipv4, ipv6, err := LegacyTables(r.ns)
	if err != nil {
		set.Incomplete = true
		errs = append(errs, err)
	}
	for family, tables := range map[string][]string{"ip": ipv4, "ip6": ipv6} {
		for _, table := range tables {
			if wanted != nil && !slices.ContainsFunc(legacyHooks(table), func(hook Hook) bool { return wanted(family, hook) }) {
				continue
			}
			s := r.legacyTable(ctx, family, table)
			errs = append(errs, s.err)
			set.Chains = append(set.Chains, legacyChains(family, table, s.table)...)
		}
	}
	set.sort()
	return set, errors.Join(errs...)
}

func (r *Resolver) readChain(ctx context.Context, ch chain) (Chain, error) {
	key := chainKey{ch.family, ch.table, ch.name}
	result := Chain{Base: ch.base, BaseChain: BaseChain{
		Backend: NFT, Family: ch.family, Table: ch.table, Name: ch.name,
		Type: ch.typ, Hook: ch.hook, Priority: ch.priority, Policy: ch.policy,
	}}
	if t := r.managed(ctx, key); t != nil {
		result.Backend, result.Read = IPTablesNFT, true
		result.Rules = t.chains[ch.name].list(result.BaseChain)
		return result, nil
	}
	c, err := r.content(key)
	if err != nil {
		return result, err
	}
	if table := (chainKey{family: ch.family, table: ch.table}); c.texts == nil && !r.whole[table] {
		r.whole[table] = true
		r.listWhole(ctx, table)
	}
	r.list(ctx, key, c)
	if c.texts == nil {
		return result, fmt.Errorf("read the rules of chain %s %s %s: %w", ch.family, ch.table, ch.name, errors.Join(c.err, ctx.Err()))
	}
	result.Read = true
	for i, rule := range c.rules {
		result.Rules = append(result.Rules, Rule{
			Backend: NFT, Family: ch.family, Table: ch.table, Chain: ch.name,
			Number: i + 1, Handle: rule.handle, Text: c.texts[rule.handle], Comment: listedComment(c.texts[rule.handle]),
		})
	}
	return result, nil
}
