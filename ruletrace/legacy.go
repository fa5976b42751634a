package ruletrace

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
