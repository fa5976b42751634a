package ruletrace

import (
	"context"
	"errors"
	"fmt"
)

// Ruleset reads all rules of the namespace but those of armings, in the words of
// the tools that wrote them. With an error it is as complete as it could be
// made, and chains whose rules are not known say so.
func (r *Resolver) Ruleset(ctx context.Context) (*Ruleset, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := new(Ruleset)
	var errs []error
	if err := r.refresh(); err != nil {
		set.incomplete = true
		errs = append(errs, err)
	}
	for _, ch := range r.chains {
		if ch.owned {
			continue
		}
		chain, err := r.readChain(ctx, ch)
		set.Chains = append(set.Chains, chain)
		errs = append(errs, err)
	}
	ipv4, ipv6, err := LegacyTables(r.ns)
	if err != nil {
		set.incomplete = true
		errs = append(errs, err)
	}
	for family, tables := range map[string][]string{"ip": ipv4, "ip6": ipv6} {
		for _, table := range tables {
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
