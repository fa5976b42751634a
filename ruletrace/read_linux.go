package ruletrace

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// legacyChains are the chains of a legacy table, its base chains also when it
// could not be read.
func legacyChains(family, table string, t *savedTable) []Chain {
	var all []Chain
	based := make(map[string]bool)
	for _, hook := range legacyHooks(table) {
		name := strings.ToUpper(string(hook))
		based[name] = true
		c := Chain{Base: true, BaseChain: BaseChain{Backend: IPTablesLegacy, Family: family, Table: table, Name: name, Hook: hook}}
		c.Type, c.Priority = legacyChain(table, hook)
		if t != nil && t.chains[name] != nil {
			c.Policy, c.Read = policyVerdict(t.chains[name].policy), true
			c.Rules = t.chains[name].list(c.BaseChain)
		}
		all = append(all, c)
	}
	if t == nil {
		return all
	}
	for name, saved := range t.chains {
		if !based[name] {
			c := Chain{Read: true, BaseChain: BaseChain{Backend: IPTablesLegacy, Family: family, Table: table, Name: name}}
			c.Rules = saved.list(c.BaseChain)
			all = append(all, c)
		}
	}
	return all
}

// list are the rules of a saved chain.
func (c *savedChain) list(in BaseChain) []Rule {
	rules := make([]Rule, 0, len(c.rules))
	for i, text := range c.rules {
		rules = append(rules, Rule{
			Backend: in.Backend, Family: in.Family, Table: in.Table, Chain: in.Name,
			Number: i + 1, Text: text, Comment: savedComment(text),
		})
	}
	return rules
}
