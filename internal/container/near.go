//go:build linux

package container

import (
	"cmp"
	"slices"
	"strings"
)

// maxNear is how many near matches are worth showing.
const maxNear = 3

// near returns the names that a mistyped one may stand for, the nearest first:
// those that contain it or are contained in it, and those that differ in a
// third of the letters, rounded up.
func near(typed string, names []string) []string {
	type match struct {
		name     string
		distance int
	}
	lower := strings.ToLower(typed)
	var matches []match
	for _, name := range names {
		candidate := strings.ToLower(name)
		distance := levenshtein(lower, candidate)
		contained := len(lower) > 1 && len(candidate) > 1 &&
			(strings.Contains(candidate, lower) || strings.Contains(lower, candidate))
		if contained || distance <= (len(lower)+2)/3 {
			matches = append(matches, match{name, distance})
		}
	}
	slices.SortFunc(matches, func(a, b match) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	matches = slices.Compact(matches)
	var nearest []string
	for _, m := range matches[:min(maxNear, len(matches))] {
		nearest = append(nearest, m.name)
	}
	return nearest
}

// levenshtein is the number of bytes to insert, delete or replace.
func levenshtein(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
