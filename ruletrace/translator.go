package ruletrace

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// Rewrite is a translation that was seen, and of which the rule is not known.
type Rewrite struct {
	// Before and After are a packet's tuple before it and behind it, in the
	// direction of the flow's first packet. One end differs, or ICMP's id, which NAT
	// treats as the port of the source. Where both ends are translated these are two
	// rewrites, the destination's first.
	Before, After packet.Tuple
	// Ingress and Egress are the interfaces, the bridge's for ports of one; empty
	// where not known.
	Ingress, Egress string
}

// Translator returns the rule that made a rewrite of a flow's first packet: the one
// rule that a packet like Before may meet in the hooks of that kind of translation,
// and whose target may give After. The bool is false when there is no such rule,
// and when there are several: which of them it was is then not known.
func (r *Rules) Translator(rewrite Rewrite) (Rule, bool) {
	before, after := rewrite.Before, rewrite.After
	source := before.Src != after.Src || before.SrcPort != after.SrcPort || before.ICMPID != after.ICMPID
	target := before.Dst != after.Dst || before.DstPort != after.DstPort
	if source == target || r.Incomplete {
		return Rule{}, false
	}
	var hooks []Hook
	switch {
	case source && rewrite.Egress != "":
		hooks = []Hook{Postrouting}
	case source:
		hooks = []Hook{Postrouting, Input}
	case rewrite.Ingress != "":
		hooks = []Hook{Prerouting}
	default:
		hooks = []Hook{Prerouting, Output}
	}
	family := "ip"
	if before.Src.Is6() {
		family = "ip6"
	}
	t := translators{rules: r, rewrite: rewrite, source: source, left: maxCourse}
	for i := range r.Chains {
		c := &r.Chains[i]
		if c.Base && slices.Contains(hooks, c.Hook) && (c.Family == family || c.Family == "inet") {
			t.class = rewrite.class(c.Hook)
			t.chain(c, 0)
		}
	}
	if len(t.found) != 1 || t.left < 0 {
		return Rule{}, false
	}
	return t.found[0], true
}

// class is the packet as it comes to a hook.
func (r Rewrite) class(hook Hook) Class {
	c := Arrival{Tuple: r.Before, Ingress: r.Ingress}.class()
	c.Foreign, c.redirected = false, true
	switch hook {
	case Output:
		c.Ingress, c.Egress = "", r.Egress
	case Postrouting:
		c.Egress = r.Egress
	}
	return c
}

// translators looks for rules that may have made a rewrite.
type translators struct {
	rules   *Rules
	rewrite Rewrite
	source  bool
	class   Class
	left    int
	found   []Rule
}

// chain looks at a chain's rules. It reports whether packets of the class may come
// back from it: by its end, or by a rule that returns some of them.
func (t *translators) chain(c *Chain, depth int) (falls bool) {
	if depth > maxJumps {
		return true
	}
	for _, rule := range c.Rules {
		if t.left--; t.left < 0 {
			return true
		}
		m := t.rules.meets(rule, t.class)
		if m.takes == none {
			continue
		}
		all := m.takes == whole
		kind, translates := rule.Translation()
		switch {
		case translates:
			if t.yields(rule, kind) && !slices.Contains(t.found, rule) {
				t.found = append(t.found, rule)
			}
			all = all && kind != "nptv6" && kind != "stateless"
		case m.verdict == Jump || m.verdict == Goto:
			through := t.jump(rule, m.target, depth)
			if m.verdict == Goto {
				falls = falls || through
			} else {
				all = all && !through
			}
		case m.verdict == Return:
			falls = true
		case m.unknown && rule.Backend == NFT:
			for _, target := range t.looksUp(rule) {
				t.jump(rule, target, depth)
			}
			falls = true // an element may be "return"
			continue
		case m.verdict == Continue || m.unknown:
			continue
		}
		if all {
			return falls
		}
	}
	return true
}

func (t *translators) jump(rule Rule, target string, depth int) (falls bool) {
	next := t.rules.find(rule, target)
	return next == nil || t.chain(next, depth+1)
}

// looksUp are the chains that a rule with a map of verdicts may lead the class to.
func (t *translators) looksUp(rule Rule) (targets []string) {
	w := listedWords(rule.Text)
	at := slices.Index(w, "vmap")
	if at < 0 || at+1 == len(w) {
		return nil
	}
	elements := w[at+1:]
	if name, found := strings.CutPrefix(w[at+1], "@"); found {
		elements = t.rules.maps[listedMap{rule.Family, rule.Table, name}]
	}
	is := t.selector(w)
	for _, element := range elementsOf(elements) {
		key, verdict, found := strings.Cut(element, " : ")
		if !found || is != nil && is(key) == none {
			continue
		}
		if f := strings.Fields(verdict); len(f) == 2 && (f[0] == "jump" || f[0] == "goto") {
			targets = append(targets, f[1])
		}
	}
	return targets
}

// elementsOf are the elements of a map, be its braces among the words or not.
func elementsOf(w []string) []string {
	return elements(slices.DeleteFunc(slices.Clone(w), func(word string) bool { return word == "{" || word == "}" }))
}

// selector compares what a rule looks up with a key; nil when that is not known.
func (t *translators) selector(w []string) func(string) share {
	for len(w) > 0 {
		if s := t.class.subject(w); s.words > 0 && s.words < len(w) && w[s.words] == "vmap" {
			return s.is
		}
		_, used := t.class.statement(w)
		if used == 0 {
			return nil
		}
		w = w[min(used, len(w)):]
	}
	return nil
}

// yields reports whether a rule may give the rewrite. Where its target is not
// understood, as a map, it may.
func (t *translators) yields(rule Rule, kind string) bool {
	before, after := t.rewrite.Before, t.rewrite.After
	from, to, portFrom, portTo := before.Src, after.Src, before.SrcPort, after.SrcPort
	if !t.source {
		from, to, portFrom, portTo = before.Dst, after.Dst, before.DstPort, after.DstPort
	}
	switch kind {
	case "masquerade", "snat":
		if !t.source {
			return false
		}
	case "dnat", "redirect":
		if t.source {
			return false
		}
	case "nptv6":
		// SNPT and DNPT change one end each: its prefix, for another of that length.
		w := words(rule.Text)
		name, _ := savedTarget(w)
		old, _ := option(w, "--src-pfx")
		replacement, _ := option(w, "--dst-pfx")
		return (name == "SNPT") == t.source && portFrom == portTo && within(old, from) && within(replacement, to)
	case "stateless":
		return portFrom == portTo || from == to
	}
	text, prefix, known := rule.translationTarget()
	if prefix {
		return portFrom == portTo && (!known || within(text, to))
	}
	target, known := parseTarget(text, known)
	switch {
	case !known:
		return true
	case target.hasPorts && !after.Proto.IsICMP() &&
		(portTo < target.firstPort || portTo > target.lastPort):
		return false
	case !t.source && !target.hasPorts && portFrom != portTo:
		return false // DNAT leaves the port alone; SNAT must find a free one
	}
	return !target.first.IsValid() || target.first.Compare(to) <= 0 && to.Compare(target.last) <= 0
}

func within(prefix string, a netip.Addr) bool {
	p, err := netip.ParsePrefix(prefix)
	return err != nil || p.Contains(a)
}

// translationTarget is what a rule translates to, as its tool prints it; "" for
// what the machine chooses, with known set. prefix says that it is a prefix. known
// is false when it depends on the packet, or is not understood.
func (r Rule) translationTarget() (text string, prefix, known bool) {
	w := words(r.Text)
	if strings.HasPrefix(r.Text, "-A ") {
		switch target, _ := savedTarget(w); target {
		case "NETMAP":
			text, _ = option(w, "--to")
			return text, true, text != ""
		case "MASQUERADE", "REDIRECT":
			ports, _ := option(w, "--to-ports")
			if ports != "" {
				text = ":" + ports
			}
			return text, false, true
		}
		text, name := option(w, "--to-source", "--to-destination")
		rest := w[slices.Index(w, name)+1:]
		return text, false, name != "" && !slices.Contains(rest, name)
	}
	w = statements(r.Text)
	at := max(statement(w, "snat"), statement(w, "dnat"), statement(w, "masquerade"), statement(w, "redirect"))
	if at < 0 {
		return "", false, false
	}
	rest := w[at+1:]
	if len(rest) > 0 && (rest[0] == "ip" || rest[0] == "ip6") {
		rest = rest[1:]
	}
	if len(rest) > 0 && rest[0] == "prefix" {
		return "", true, false
	}
	for len(rest) > 0 && isNATFlag(rest[len(rest)-1]) {
		rest = rest[:len(rest)-1]
	}
	switch {
	case len(rest) == 0:
		return "", false, true
	case len(rest) == 2 && rest[0] == "to":
		return rest[1], false, true
	}
	return "", false, false
}

// isNATFlag reports whether the last word of a translation says how it chooses.
func isNATFlag(word string) bool {
	first, _, _ := strings.Cut(word, ",")
	return first == "random" || first == "fully-random" || first == "persistent"
}

// natTarget is what a translation may choose from. first is invalid where the
// machine's own address is taken.
type natTarget struct {
	first, last         netip.Addr
	hasPorts            bool
	firstPort, lastPort uint16
}

// parseTarget reads "address", "address-address", either with ":port" or
// ":port-port" behind it, IPv6 then in brackets, and ports alone.
func parseTarget(text string, known bool) (t natTarget, ok bool) {
	if !known {
		return t, false
	}
	addresses, ports := text, ""
	if at := strings.LastIndexByte(text, ':'); at >= 0 && (strings.Count(text, ":") == 1 || strings.HasSuffix(text[:at], "]")) {
		addresses, ports = text[:at], text[at+1:]
	}
	if ports != "" {
		low, high, ranged := strings.Cut(ports, "-")
		if !ranged {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil {
			return t, false
		}
		t.hasPorts, t.firstPort, t.lastPort = true, uint16(first), uint16(last)
	}
	if addresses == "" {
		return t, true
	}
	low, high, ranged := strings.Cut(addresses, "-")
	if !ranged {
		high = low
	}
	var err, err2 error
	t.first, err = netip.ParseAddr(strings.Trim(low, "[]"))
	t.last, err2 = netip.ParseAddr(strings.Trim(high, "[]"))
	return t, err == nil && err2 == nil
}
