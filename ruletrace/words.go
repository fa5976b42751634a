package ruletrace

import "strings"

// words splits a rule's text as its tool quotes it: at white space, with
// double quotes around a word that contains some, and a backslash before a
// character that would otherwise end it. It never fails; an open quote runs to
// the end.
func words(text string) []string {
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
