package ruletrace

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// base reads the line by which a chain is a base chain:
//
//	type filter hook ingress device "eth0" priority filter + 10; policy accept;
//
// A policy that is not told is accept. The bool is false for other chains, and
// when the line is not understood.
func (c *listedChain) base() (BaseChain, bool) {
	b := BaseChain{Backend: NFT, Family: c.family, Table: c.table, Name: c.name, Policy: Accept}
	known := false
	for part := range strings.SplitSeq(c.hook, ";") {
		w := split(part, "")
		if len(w) == 2 && w[0] == "policy" {
			b.Policy = Verdict(w[1])
		}
		kind, _ := option(w, "type")
		hook, _ := option(w, "hook")
		at := slices.Index(w, "priority")
		if kind == "" || hook == "" || at < 0 {
			continue
		}
		b.Type, b.Hook = kind, Hook(hook)
		b.Priority, known = priorityOf(c.family, w[at+1:])
		b.Devices = devices(w[:at])
	}
	if b.Policy != Accept && b.Policy != Drop {
		b.Policy = VerdictUnknown
	}
	return b, known
}

// devices reads "device eth0" and "devices = { eth0, eth1 }".
func devices(w []string) (names []string) {
	at := slices.IndexFunc(w, func(word string) bool { return word == "device" || word == "devices" })
	if at < 0 {
		return nil
	}
	for _, word := range w[at+1:] {
		if name := strings.Trim(word, "={},"); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// priorityOf reads a priority: a number, or a name and what is added to it.
func priorityOf(family string, w []string) (priority int, ok bool) {
	if len(w) == 0 {
		return 0, false
	}
	base, named := priorityNames[w[0]]
	if family == "bridge" {
		base, named = bridgePriorityNames[w[0]]
	}
	if !named {
		n, err := strconv.ParseInt(w[0], 10, 32)
		return int(n), err == nil && len(w) == 1
	}
	if len(w) == 1 {
		return base, true
	}
	if len(w) != 3 || w[1] != "+" && w[1] != "-" {
		return 0, false
	}
	n, err := strconv.ParseInt(w[1]+w[2], 10, 32)
	return base + int(n), err == nil
}

// The names of priorities (include/uapi/linux/netfilter_ipv4.h, netfilter_bridge.h).
var (
	priorityNames       = map[string]int{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
	bridgePriorityNames = map[string]int{"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
)

// counted is what a listing without -s says beside a rule: how much it has counted.
var counted = regexp.MustCompile(`(\bcounter) packets \d+ bytes \d+|(\bquota (?:over |until )?\d+ \w+) used \d+ \w+|(\blast) used \S+`)

// withoutState is a rule's text as nft -s prints it.
func withoutState(text string) string { return counted.ReplaceAllString(text, "$1$2$3") }

// listedMap names a map of nft.
type listedMap struct{ family, table, name string }

// parseVerdictMaps reads the elements of the maps that a listing of nft has, in the
// words of listedWords; those of other maps than of verdicts are among them.
func parseVerdictMaps(text string) map[listedMap][]string {
	maps := make(map[listedMap][]string)
	var in listedMap
	var block strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch f := strings.Fields(opening(line)); {
		case in.name != "" && line == "}":
			w := split(block.String(), quote)
			begin := slices.Index(w, "{") + 1
			if end := slices.Index(w, "}"); begin > 0 && end > begin {
				maps[in] = w[begin:end]
			}
			in.name = ""
		case in.name != "":
			block.WriteString(line + " ")
		case len(f) == 4 && f[0] == "table":
			in = listedMap{family: f[1], table: f[2]}
		case len(f) == 3 && f[0] == "table":
			in = listedMap{family: "ip", table: f[1]}
		case len(f) == 3 && f[0] == "map" && f[2] == "{":
			in.name = f[1]
			block.Reset()
		}
	}
	return maps
}
