package ruletrace

import "strings"

// legacyChain returns the type and priority of a legacy table at a hook
// (include/uapi/linux/netfilter_ipv4.h; IPv6's are the same).
func legacyChain(table string, hook Hook) (chainType string, priority int) {
	switch table {
	case "raw":
		return "filter", -300
	case "mangle":
		return "filter", -150
	case "nat":
		if hook == Prerouting || hook == Output {
			return "nat", -100
		}
		return "nat", 100
	case "security":
		return "filter", 50
	}
	return "filter", 0
}

// savedHook is the hook that calls a chain of iptables, empty for a user chain.
func savedHook(table, chain string) Hook {
	for _, hook := range legacyHooks(table) {
		if chain == strings.ToUpper(string(hook)) {
			return hook
		}
	}
	return ""
}

// legacyHooks are the hooks of a legacy table's base chains.
func legacyHooks(table string) []Hook {
	switch table {
	case "raw":
		return []Hook{Prerouting, Output}
	case "mangle":
		return []Hook{Prerouting, Input, Forward, Output, Postrouting}
	case "nat":
		return []Hook{Prerouting, Input, Output, Postrouting}
	case "filter", "security":
		return []Hook{Input, Forward, Output}
	}
	return nil
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
