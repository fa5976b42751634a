package ruletrace

import (
	"strconv"
	"strings"
)

// listedChain is one chain of nft's output.
type listedChain struct {
	family, table, name string
	rules               []listedRule
}

// listedRule is one rule: the line as nft prints it, without its handle.
type listedRule struct {
	handle uint64
	text   string
}

// parseList reads the output of nft -a list. A rule that nft wraps (a long
// set) becomes one line. What is no table or chain is skipped.
func parseList(text string) []listedChain {
	var chains []listedChain
	var family, table string
	var chain *listedChain
	var rule []string // the lines of the rule so far
	depth := 0        // of other blocks: sets, maps, objects
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		body, handle := cutHandle(line)
		switch {
		case chain != nil && line == "}" && rule == nil:
			chains, chain = append(chains, *chain), nil
		case chain != nil:
			switch {
			case line == "" || rule == nil && handle == 0 && isChainProperty(line):
			case handle == 0:
				rule = append(rule, line)
			default:
				chain.rules = append(chain.rules, listedRule{handle, strings.Join(append(rule, body), " ")})
				rule = nil
			}
		case depth > 0:
			if line == "}" {
				depth--
			}
		case strings.HasPrefix(body, "table ") && strings.HasSuffix(opening(line), "{"):
			if f := strings.Fields(opening(line)); len(f) == 4 {
				family, table = f[1], f[2]
			} else if len(f) == 3 { // no family means ip
				family, table = "ip", f[1]
			}
		case strings.HasPrefix(body, "chain ") && strings.HasSuffix(opening(line), "{"):
			if f := strings.Fields(opening(line)); len(f) == 3 {
				chain = &listedChain{family: family, table: table, name: f[1]}
			}
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

// isChainProperty reports whether a line of a chain is no rule: its hook or its
// comment.
func isChainProperty(line string) bool {
	return strings.HasPrefix(line, "type ") && strings.Contains(line, " hook ") || strings.HasPrefix(line, `comment "`)
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
