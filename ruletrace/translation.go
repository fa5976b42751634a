package ruletrace

import (
	"net/netip"
	"slices"
	"strings"
)

// Translation says what kind of address translation a rule does, in the words
// of reports: masquerade, snat, dnat, redirect, netmap or nptv6. The bool is
// false for a rule that translates nothing, and for one whose text is not
// known.
func (r Rule) Translation() (kind string, ok bool) {
	w := words(r.Text)
	if strings.HasPrefix(r.Text, "-A ") {
		switch target, _ := savedTarget(w); target {
		case "MASQUERADE":
			return "masquerade", true
		case "SNAT":
			return "snat", true
		case "DNAT":
			return "dnat", true
		case "REDIRECT":
			return "redirect", true
		case "NETMAP":
			return "netmap", true
		case "SNPT", "DNPT":
			return "nptv6", true
		}
		return "", false
	}
	if r.Backend != NFT {
		return "", false
	}
	w = listedWords(r.Text)
	inside := false // a set or a map, not a chain without a name
	for i, word := range w {
		switch word {
		case "{":
			inside = i > 0 && w[i-1] != "jump" && w[i-1] != "goto"
		case "}":
			inside = false
		}
		if inside {
			continue
		}
		switch word {
		case "masquerade", "redirect":
			if translates(w, i) {
				return word, true
			}
		case "snat", "dnat":
			// "snat ip prefix to …": the statement is followed by a family or by
			// "to".
			rest := w[i+1:]
			if len(rest) == 0 || !translates(w, i) || !slices.Contains([]string{"to", "ip", "ip6"}, rest[0]) {
				continue
			}
			if slices.Contains(rest[:min(2, len(rest))], "prefix") {
				return "netmap", true
			}
			return word, true
		case "set":
			// "ip daddr set …", "tcp dport set …"; not "meta mark set …".
			if i > 0 && slices.Contains([]string{"saddr", "daddr", "sport", "dport"}, w[i-1]) {
				return "stateless", true
			}
		}
	}
	return "", false
}

// Untracks reports whether a rule keeps packets from connection tracking, and so
// from being translated by it.
func (r Rule) Untracks() bool {
	w := words(r.Text)
	if strings.HasPrefix(r.Text, "-A ") {
		target, _ := savedTarget(w)
		return target == "NOTRACK" || target == "CT" && slices.Contains(w, "--notrack")
	}
	return statement(statements(r.Text), "notrack") >= 0
}

// Destination is where a DNAT rule sends packets, with port 0 when it leaves
// the port alone. The bool is false for other rules, and for one that names
// several addresses or a range.
func (r Rule) Destination() (netip.AddrPort, bool) {
	var text string
	if w := words(r.Text); strings.HasPrefix(r.Text, "-A ") {
		if target, _ := savedTarget(w); target == "DNAT" {
			text, _ = option(w, "--to-destination")
		}
	} else if w := statements(r.Text); statement(w, "dnat") >= 0 {
		rest := w[statement(w, "dnat")+1:]
		if len(rest) > 0 && (rest[0] == "ip" || rest[0] == "ip6") {
			rest = rest[1:]
		}
		if len(rest) == 2 && rest[0] == "to" {
			text = rest[1]
		}
	}
	if to, err := netip.ParseAddrPort(text); err == nil {
		return to, true
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return netip.AddrPortFrom(a, 0), err == nil
}

// statement is where a statement begins among the words of a rule of nft; -1
// when the rule has none of that name. A chain, and what is logged, may be
// called so.
func statement(w []string, name string) int {
	for i, word := range w {
		if word == name && (i == 0 || !slices.Contains([]string{"jump", "goto", "prefix"}, w[i-1])) {
			return i
		}
	}
	return -1
}

// statements are the words of a rule of nft without its comment.
func statements(text string) []string { return uncommented(words(text)) }
