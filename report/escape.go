package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape makes text from outside (names, rule comments, reasons) safe to print
// on one line of a terminal: control characters, bidirectional overrides,
// invisible and undefined characters and bytes that are not UTF-8 are written
// as \xNN, \uNNNN or \UNNNNNNNN. Everything else stays as it is, so that a
// rule can be pasted.
func Escape(s string) string {
	plain := func(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case plain(r):
			b.WriteString(s[:size])
		case r < utf8.RuneSelf || r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		default:
			escapeRune(&b, r)
		}
		s = s[size:]
	}
	return b.String()
}

func escapeRune(b *strings.Builder, r rune) {
	if r > 0xffff {
		fmt.Fprintf(b, `\U%08x`, r)
	} else {
		fmt.Fprintf(b, `\u%04x`, r)
	}
}

// toASCII writes escaped text for a terminal without UTF-8.
func toASCII(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case r == '→':
			b.WriteString("->")
		case r == '…':
			b.WriteString("...")
		case r == 'µ':
			b.WriteByte('u')
		case r == '–' || r == '—':
			b.WriteString("-")
		default:
			escapeRune(&b, r)
		}
	}
	return b.String()
}
