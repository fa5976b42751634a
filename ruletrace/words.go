package ruletrace

import "strings"

// words splits a rule's text as its tool quotes it: at white space, with
// double quotes around a word that contains some, and a backslash before a
// character that would otherwise end it. It never fails; an open quote runs to
// the end.
func words(text string) []string { return split(text, "") }

// quote marks the words of listedWords that nft prints in quotes.
const quote = `"`

// listedWords are the words of a rule of nft without its comment, those in
// quotes with one at their beginning: a name, which is no word of the language.
func listedWords(text string) []string { return uncommented(split(text, quote)) }

// uncommented leaves out the comment, which nft prints last.
func uncommented(w []string) []string {
	if len(w) >= 2 && w[len(w)-2] == "comment" {
		w = w[:len(w)-2]
	}
	return w
}

// split does the work of words, and puts a mark before those that are quoted.
func split(text, mark string) []string {
	var list []string
	var word strings.Builder
	started, quoted, escaped := false, false, false
	for _, c := range text {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quoted:
			escaped = true
		case c == '"':
			if !started {
				word.WriteString(mark)
			}
			quoted, started = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if started {
				list = append(list, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteRune(c)
			started = true
		}
	}
	if started {
		list = append(list, word.String())
	}
	return list
}

// option returns the word after one of the names, and which name it was.
func option(words []string, names ...string) (value, name string) {
	for i, w := range words[:max(len(words)-1, 0)] {
		for _, n := range names {
			if w == n {
				return words[i+1], n
			}
		}
	}
	return "", ""
}
