package ruletrace

import (
	"slices"
	"strings"
)

// listed is what a line of nft does with the class. The conditions are read from
// its beginning, as far as they are understood; the verdict is at its end.
func (c Class) listed(w []string) met {
	m := met{takes: whole}
	m.verdict, m.target = listedVerdict(w)
	m.unknown = m.verdict == VerdictUnknown
	for len(w) > 0 {
		takes, used := c.statement(w)
		m.takes = both(m.takes, takes)
		if used == 0 {
			break
		}
		w = w[min(used, len(w)):]
	}
	return m
}

// listedVerdict is what a rule does with packets that meet its conditions;
// VerdictUnknown where the packet decides it, or something that is not understood.
func listedVerdict(w []string) (verdict Verdict, target string) {
	if len(w) == 0 {
		return VerdictUnknown, ""
	}
	verdict = Continue
	depth := 0
	for i, word := range w {
		switch {
		case word == "{":
			depth++
		case word == "}":
			depth--
		case depth > 0:
		case slices.Contains([]string{"vmap", "queue", "tproxy", "synproxy", "xt", "fwd"}, word):
			return VerdictUnknown, ""
		case (word == "jump" || word == "goto") && i == len(w)-2 && w[i+1] != "{":
			return Verdict(word), w[i+1]
		case word == "jump" || word == "goto":
			return VerdictUnknown, "" // to a chain without a name
		case slices.Contains([]string{"accept", "drop", "return", "continue"}, word) && i == len(w)-1:
			verdict = Verdict(word)
		case word == "reject":
			verdict = Reject
		case translates(w, i):
			verdict = Accept
		}
		if depth < 0 {
			return VerdictUnknown, ""
		}
	}
	if depth != 0 {
		return VerdictUnknown, ""
	}
	return verdict, ""
}

// translates reports whether a word of a rule of nft begins a statement that
// translates: not the value of a condition, as in "icmp type redirect".
func translates(w []string, i int) bool {
	if !slices.Contains([]string{"masquerade", "redirect", "snat", "dnat"}, w[i]) {
		return false
	}
	return i == 0 || !slices.Contains([]string{"jump", "goto", "type", "status", "==", "!=", "&", "|"}, w[i-1])
}

// statement is how much of the class gets past the statement that words begin
// with, and how many words it has: 0 when nothing further can be told.
func (c Class) statement(w []string) (takes share, used int) {
	switch w[0] {
	case "accept", "drop", "return", "continue", "jump", "goto", "reject", "masquerade":
		return whole, 0
	case "redirect", "snat", "dnat":
		switch {
		case len(w) > 1 && (w[1] == "ip" || w[1] == "ip6") && c.IPv6 != (w[1] == "ip6"):
			return none, 0 // the packet goes on
		case slices.Contains(w, "map"):
			return some, 0 // what is not in the map is not translated
		}
		return whole, 0
	case "notrack":
		return whole, 1
	case "counter":
		return whole, 1 + options(w[1:], "packets", "bytes", "name")
	case "last":
		return whole, 1 + options(w[1:], "used")
	case "log":
		return whole, logs(w)
	case "limit", "quota":
		return some, 1 + amount(w[1:])
	case "add", "update", "delete":
		return some, slices.Index(w, "}") + 1
	}
	return c.condition(w)
}

// options counts the words of options that have a value each.
func options(w []string, names ...string) int {
	n := 0
	for n < len(w) && slices.Contains(names, w[n]) {
		n += 2
	}
	return n
}

// logs counts the words of a log statement.
func logs(w []string) int {
	n := 1
	for n < len(w) {
		n += options(w[n:], "prefix", "level", "group", "snaplen", "queue-threshold")
		switch {
		case n+1 >= len(w) || w[n] != "flags":
			return n
		case w[n+1] == "tcp" || w[n+1] == "ip":
			n += 3 // flags tcp sequence,options
		default:
			n += 2
		}
	}
	return n
}

// amount counts the words that say how much or how often.
func amount(w []string) int {
	n := 0
	for n < len(w) && (slices.Contains([]string{"rate", "over", "until", "burst", "used", "name", "packets", "bytes", "kbytes", "mbytes"}, w[n]) ||
		strings.HasPrefix(w[n], quote) || strings.Contains(w[n], "bytes/") || w[n] != "" && '0' <= w[n][0] && w[n][0] <= '9') {
		n++
	}
	return n
}

// subject is what a condition compares.
type subject struct {
	// words is how many it has; 0 when it is not understood.
	words int
	// within is the share of packets that have it at all: a UDP packet has no TCP
	// port, be it asked for one or for any other.
	within share
	// is compares it with a value; nil for what is not known of a class.
	is func(value string) share
}

// condition is how much of the class the condition takes that words begin with,
// and how many words it has; 0 when that is not known.
func (c Class) condition(w []string) (takes share, used int) {
	s := c.subject(w)
	if s.words == 0 || s.words >= len(w) {
		return both(s.within, some), 0
	}
	rest := w[s.words:]
	switch rest[0] {
	case "vmap", "map":
		return both(s.within, some), 0
	case ".":
		return both(s.within, some), s.words + concatenation(rest)
	case "set":
		return c.assignment(w, rest)
	}
	values, negated, n := operand(rest)
	if n == 0 {
		return both(s.within, some), 0
	}
	takes = some
	if s.is != nil && len(values) > 0 {
		takes = anyOf(values, s.is)
	}
	if negated {
		takes = takes.not()
	}
	return both(s.within, takes), s.words + n
}

// assignment reads what a statement sets: "meta mark set 0x1" stops no packet.
func (c Class) assignment(w, rest []string) (takes share, used int) {
	known := w[0] == "meta" || w[0] == "ct"
	if !known || len(rest) < 2 || amount(rest[1:2]) == 0 || len(rest) > 2 && slices.Contains(operators, rest[2]) {
		return some, 0
	}
	return whole, len(w) - len(rest) + 2
}

func (c Class) subject(w []string) subject {
	if w[0] == "meta" && len(w) > 1 && slices.Contains([]string{"iifname", "oifname", "iif", "oif"}, w[1]) {
		s := c.subject(w[1:])
		s.words++
		return s
	}
	switch w[0] {
	case "iifname", "iif":
		return subject{1, whole, func(v string) share { return interfaceIs(c.Ingress, strings.TrimPrefix(v, quote), "*") }}
	case "oifname", "oif":
		return subject{1, whole, func(v string) share { return interfaceIs(c.Egress, strings.TrimPrefix(v, quote), "*") }}
	case "fib":
		return c.route(w)
	}
	if len(w) < 2 {
		return subject{within: some}
	}
	switch w[0] {
	case "ip", "ip6":
		return c.network(w[0], w[1])
	case "tcp", "udp", "sctp", "icmp", "icmpv6", "th":
		return c.transport(w[0], w[1])
	case "ct":
		return c.tracked(w[1])
	case "meta":
		return c.meta(w[1])
	case "ether", "vlan":
		return subject{2, whole, nil}
	}
	return subject{within: some}
}

// network selects a field of an IP header.
func (c Class) network(header, field string) subject {
	s := subject{words: 2, within: whole}
	if c.IPv6 != (header == "ip6") {
		s.within = none
	}
	switch field {
	case "saddr":
		s.is = func(v string) share { return c.address(c.Source, v) }
	case "daddr":
		s.is = func(v string) share { return c.address(c.Target, v) }
	case "protocol", "nexthdr":
		s.is = c.proto
	case "option":
		s.words = 0
	}
	return s
}

// transport selects a field of a transport header.
func (c Class) transport(header, field string) subject {
	s := subject{words: 2, within: whole}
	if header != "th" {
		s.within = c.proto(header)
	}
	switch field {
	case "sport":
		s.is = func(v string) share { return c.portIs(c.SourcePort, v, "-") }
	case "dport":
		s.is = func(v string) share { return c.portIs(c.TargetPort, v, "-") }
	case "option", "chunk":
		s.words = 0
	}
	return s
}

// tracked selects what conntrack knows.
func (c Class) tracked(key string) subject {
	switch key {
	case "state":
		return subject{2, whole, c.state}
	case "status":
		return subject{2, whole, func(v string) share {
			if v == "dnat" && !c.redirected {
				return none
			}
			return some
		}}
	case "mark", "zone", "direction", "helper", "expiration", "label", "id", "bytes", "packets", "avgpkt", "event", "timeout":
		return subject{2, whole, nil}
	}
	return subject{within: some} // as "ct original ip saddr"
}

// meta selects what the kernel knows of a packet.
func (c Class) meta(key string) subject {
	version := map[string]bool{"ipv6": true, "ip6": true, "ipv4": false, "ip": false}
	switch key {
	case "l4proto":
		return subject{2, whole, c.proto}
	case "nfproto", "protocol":
		return subject{2, whole, func(v string) share {
			six, known := version[v]
			switch {
			case !known:
				return some
			case six == c.IPv6:
				return whole
			}
			return none
		}}
	}
	return subject{2, whole, nil}
}

// route selects what a routing lookup says: "fib daddr . iif type".
func (c Class) route(w []string) subject {
	n := 2
	for n+1 < len(w) && w[n] == "." {
		n += 2
	}
	s := subject{words: n + 1, within: whole}
	switch strings.Join(w[:min(3, len(w))], " ") {
	case "fib daddr type":
		s.is = func(v string) share { return c.targetIs(strings.ToUpper(v)) }
	case "fib saddr type":
		s.is = func(v string) share { return c.typeOf(c.Source, strings.ToUpper(v)) }
	}
	return s
}

// operators compute with what is compared.
var operators = []string{"&", "|", "^", "<<", ">>", "/"}

// operand reads what a condition compares with: a value, a list, or a set in
// braces. values is empty for what is none of these, as a set with a name or an
// expression; words is 0 when its end is not known.
func operand(w []string) (values []string, negated bool, words int) {
	computed, n := computation(w)
	if n < len(w) && slices.Contains([]string{"==", "!=", "<", ">", "<=", ">="}, w[n]) {
		negated, computed = w[n] == "!=", computed || strings.ContainsAny(w[n], "<>")
		n++
	}
	if n >= len(w) {
		return nil, false, 0
	}
	switch {
	case w[n] == "{":
		end := slices.Index(w[n:], "}")
		if end < 0 {
			return nil, false, 0
		}
		values = elements(w[n+1 : n+end])
		n += end + 1
	case strings.HasPrefix(w[n], "@"):
		computed = true
		n++
	default:
		values = strings.Split(w[n], ",")
		n++
	}
	further, more := computation(w[n:])
	if computed || further {
		values = nil
	}
	return values, negated, n + more
}

// computation counts the words of what is computed: "& (fin | syn)".
func computation(w []string) (found bool, words int) {
	for words+1 < len(w) && slices.Contains(operators, w[words]) {
		found = true
		words++
		if strings.HasPrefix(w[words], "(") {
			for words < len(w)-1 && !strings.HasSuffix(w[words], ")") {
				words++
			}
		}
		words++
	}
	return found, words
}

// elements are what a set has between its braces.
func elements(w []string) []string {
	if len(w) == 0 {
		return nil
	}
	return strings.Split(strings.Join(w, " "), ", ")
}

// concatenation is how many words there are to the end of the set that several
// selectors together are looked up in, or to the word before a map of verdicts;
// where neither follows, all.
func concatenation(w []string) int {
	for i, word := range w {
		if word == "vmap" {
			return i
		}
		if strings.HasPrefix(word, "@") && !strings.Contains(word, ",") { // not @th,16,16
			return i + 1
		}
		if end := slices.Index(w[i:], "}"); word == "{" && end > 0 {
			return i + end + 1
		}
	}
	return len(w)
}
