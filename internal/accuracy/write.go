//go:build linux

package accuracy

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// marker is the line of the file behind which Write replaces everything.
const marker = "<!-- What follows is written by make accuracy. -->\n"

// Write replaces the results in the documentation.
func Write(file string, plan Plan, at time.Time, results []Result, joined *Joined) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	kept, _, ok := strings.Cut(string(old), marker)
	if !ok {
		return fmt.Errorf("%s has no line %q", file, strings.TrimSpace(marker))
	}
	return os.WriteFile(file, []byte(kept+marker+markdown(plan, at, results, joined)), 0o644)
}

func markdown(plan Plan, at time.Time, results []Result, joined *Joined) string {
	b := Count(results)
	var t strings.Builder
	fmt.Fprintf(&t, "\n## Results\n\nSeed %d, %d runs on Linux %s, %s.\n\n%s", plan.Seed, len(results), release(), at.UTC().Format(time.DateOnly), b.Table())
	fmt.Fprintf(&t, "\n## The join of captures\n\n%s", joined.Table())
	fmt.Fprint(&t, "\n## Confusions\n\n")
	if len(b.Confusions) == 0 {
		fmt.Fprint(&t, "None.\n")
	}
	for _, i := range b.Confusions {
		fmt.Fprintf(&t, "- %d, `%s -- %s`: %s\n", results[i].Case.Number, results[i].Case, results[i].Sent, results[i].Confusion())
	}
	fmt.Fprint(&t, "\n## Not staged\n\nNo network can be broken like this here; recorded evidence is explained in tests instead:\n\n")
	for _, code := range slices.Sorted(maps.Keys(lab.NotStaged)) {
		fmt.Fprintf(&t, "- %s: %s.\n", code, lab.NotStaged[code])
	}
	return t.String()
}

// release is the kernel's.
func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}
