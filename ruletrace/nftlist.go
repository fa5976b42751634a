package ruletrace

import (
	"strconv"
	"strings"
)

// listedChain is one chain of nft's output.
type listedChain struct {
	family, table, name string
	rules               []listedRule
	// hook is the line by which it is a base chain: "type filter hook …".
	hook string
	// dormant says that the table is out of use.
	dormant bool
}

// listedRule is one rule: the line as nft prints it, without its handle.
type listedRule struct {
	handle uint64
	text   string
}

// parseList reads the output of nft list, with -a or without, in which case no
// rule has a handle. A rule that nft wraps (a long set) becomes one line. What is
// no table or chain is skipped.
func parseList(text string) []listedChain {
	var chains []listedChain
	var family, table string
	var chain *listedChain
	var rule []string // the lines of the rule so far
	depth := 0        // of other blocks: sets, maps, objects
	handles, dormant := false, false
	open := 0 // braces of the rule
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		body, handle := cutHandle(line)
		switch {
		case chain != nil && line == "}" && rule == nil:
			chains, chain = append(chains, *chain), nil
		case chain != nil:
			switch {
			case line == "":
			case rule == nil && handle == 0 && isChainProperty(line):
				if strings.HasPrefix(line, "type ") {
					chain.hook = line
				}
			case handle == 0 && handles:
				rule = append(rule, line)
			default:
				rule = append(rule, body)
				if open += braces(body); open > 0 && !handles {
					break // the rule goes on
				}
				chain.rules = append(chain.rules, listedRule{handle, strings.Join(rule, " ")})
				rule, open = nil, 0
			}
		case depth > 0:
			if line == "}" {
				depth--
			}
		case strings.HasPrefix(body, "table ") && strings.HasSuffix(opening(line), "{"):
			dormant = false
			if f := strings.Fields(opening(line)); len(f) == 4 {
				family, table = f[1], f[2]
			} else if len(f) == 3 { // no family means ip
				family, table = "ip", f[1]
			}
		case strings.HasPrefix(body, "chain ") && strings.HasSuffix(opening(line), "{"):
			if f := strings.Fields(opening(line)); len(f) == 3 {
				chain = &listedChain{family: family, table: table, name: f[1], dormant: dormant}
				handles = strings.Contains(line, " # handle ")
			}
		case strings.HasPrefix(line, "flags "):
			dormant = strings.Contains(line, "dormant")
		case strings.HasSuffix(opening(line), "{"):
			depth++
		}
	}
	return chains
}

// opening returns a block's first line without the comment that -a adds.
func opening(line string) string {
	line, _, _ = strings.Cut(line, " # handle ")
	return line
}

// isChainProperty reports whether a line of a chain is no rule: its hook, its
// comment, its flags.
func isChainProperty(line string) bool {
	return strings.HasPrefix(line, "type ") && strings.Contains(line, " hook ") ||
		strings.HasPrefix(line, `comment "`) || strings.HasPrefix(line, "flags ")
}

// braces counts those that a line of nft opens.
func braces(text string) (open int) {
	for _, w := range split(text, quote) {
		switch w {
		case "{":
			open++
		case "}", "};":
			open--
		}
	}
	return open
}

// cutHandle takes the handle that -a adds off a line's end; 0 means none.
func cutHandle(line string) (string, uint64) {
	at := strings.LastIndex(line, " # handle ")
	if at < 0 {
		return line, 0
	}
	handle, err := strconv.ParseUint(line[at+len(" # handle "):], 10, 64)
	if err != nil {
		return line, 0
	}
	return line[:at], handle
}

// listedComment returns a rule's comment, which nft prints last.
func listedComment(text string) string {
	w := words(text)
	if len(w) >= 2 && w[len(w)-2] == "comment" {
		return w[len(w)-1]
	}
	return ""
}
