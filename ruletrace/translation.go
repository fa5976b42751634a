package ruletrace

import (
	"regexp"
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
		switch target, _ := option(w, "-j", "--jump"); target {
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
	if len(w) >= 2 && w[len(w)-2] == "comment" {
		w = w[:len(w)-2]
	}
	for i, word := range w {
		if i > 0 && (w[i-1] == "jump" || w[i-1] == "goto") {
			continue // a chain may be called so
		}
		switch word {
		case "masquerade", "redirect":
			return word, true
		case "snat", "dnat":
			// "snat ip prefix to …", "ct status snat": the statement is followed
			// by a family or by "to".
			rest := w[i+1:]
			if len(rest) == 0 || !slices.Contains([]string{"to", "ip", "ip6"}, rest[0]) {
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

// notrack is what a rule says that keeps packets from connection tracking.
var notrack = regexp.MustCompile(`-j (CT .*--notrack|NOTRACK)( |$)|(^| )notrack( |$)`)

// Untracks reports whether a rule keeps packets from connection tracking, and so
// from being translated by it.
func (r Rule) Untracks() bool { return notrack.MatchString(r.Text) }
