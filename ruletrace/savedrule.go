package ruletrace

import (
	"slices"
	"strings"
)

// plainMatches are the extensions of iptables that ask for nothing by
// themselves: what they compare are the options that are read here.
var plainMatches = []string{"tcp", "udp", "sctp", "icmp", "icmp6", "conntrack", "state", "multiport", "addrtype", "comment"}

// textOptions have a text behind them that may look like an option.
var textOptions = []string{"--comment", "--string", "--hex-string"}

// savedTarget is the target of a line of iptables-save, and the option that
// names it.
func savedTarget(w []string) (name, flag string) {
	for i := 0; i+1 < len(w); i++ {
		switch {
		case slices.Contains(textOptions, w[i]):
			i++
		case slices.Contains([]string{"-j", "-g", "--jump", "--goto"}, w[i]):
			return w[i+1], w[i]
		}
	}
	return "", ""
}

// saved is how much of the class the conditions of a line of iptables-save take.
func (c Class) saved(w []string) share {
	takes, negated := whole, false
	for i := 2; i < len(w); i++ {
		value := ""
		if i+1 < len(w) {
			value = w[i+1]
		}
		condition := some
		switch w[i] {
		case "-j", "-g", "--jump", "--goto":
			return takes
		case "!":
			negated = true
			continue
		case "-m", "--match":
			if slices.Contains(plainMatches, value) {
				condition = whole
			}
		case "--comment":
			condition = whole
		case "--string", "--hex-string":
		case "-i", "--in-interface":
			condition = interfaceIs(c.Ingress, value, "+")
		case "-o", "--out-interface":
			condition = interfaceIs(c.Egress, value, "+")
		case "-s", "--source":
			condition = c.address(c.Source, value)
		case "-d", "--destination":
			condition = c.address(c.Target, value)
		case "--ctstate", "--state":
			condition = anyOf(strings.Split(strings.ToLower(value), ","), c.state)
		case "-p", "--protocol":
			condition = c.proto(value)
		case "--dport", "--dports", "--destination-port", "--destination-ports":
			condition = anyOf(strings.Split(value, ","), func(v string) share { return c.portIs(c.TargetPort, v, ":") })
		case "--sport", "--sports", "--source-port", "--source-ports":
			condition = anyOf(strings.Split(value, ","), func(v string) share { return c.portIs(c.SourcePort, v, ":") })
		case "--dst-type", "--src-type":
			condition = c.savedType(w[i], value, w)
		default:
			if !strings.HasPrefix(w[i], "-") {
				continue // the value of an option that is not understood
			}
			takes, negated = both(takes, some), false
			continue
		}
		if negated {
			condition = condition.not()
		}
		takes, negated = both(takes, condition), false
		i++
	}
	return takes
}

// savedType is the share of addresses of some types. The types may be asked for
// an interface alone; then an address of another is none of this machine's.
func (c Class) savedType(option, types string, w []string) share {
	if slices.Contains(w, "--limit-iface-in") || slices.Contains(w, "--limit-iface-out") {
		return some
	}
	return anyOf(strings.Split(types, ","), func(kind string) share {
		if option == "--dst-type" {
			return c.targetIs(kind)
		}
		return c.typeOf(c.Source, kind)
	})
}
