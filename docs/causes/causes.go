// Package causes holds a page for each code that a verdict may have, as
// "pathtrace explain" prints it. A page has the name of its code.
package causes

import (
	"embed"
	"slices"
	"strings"
)

//go:embed *.md
var pages embed.FS

// Codes returns the codes that have a page, sorted.
func Codes() []string {
	entries, err := pages.ReadDir(".")
	if err != nil {
		return nil
	}
	var codes []string
	for _, entry := range entries {
		codes = append(codes, strings.TrimSuffix(entry.Name(), ".md"))
	}
	slices.Sort(codes)
	return codes
}

// Page returns the page of a code; false when there is none.
func Page(code string) (string, bool) {
	text, err := pages.ReadFile(code + ".md")
	return string(text), err == nil
}
