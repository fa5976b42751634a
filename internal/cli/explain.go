package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/docs/causes"
)

func newExplainCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CODE]",
		Short: "Print the page of a cause: what it means, how it is recognised, how to fix it",
		Long: `Prints what a code of a report means, how pathtrace recognises it, what it is
confused with, how to fix it and how to try it. Without CODE it lists all of them.`,
		Example:   `  pathtrace explain FILTER_POLICY_DROP`,
		ValidArgs: causes.Codes(),
		Args:      arguments(0, 1, "at most one CODE"),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listCauses(env.out)
			}
			code := strings.ReplaceAll(strings.ToUpper(args[0]), "-", "_")
			page, ok := causes.Page(code)
			if !ok {
				return fmt.Errorf("no cause %q%s; \"pathtrace explain\" lists all of them", args[0], alike(code))
			}
			_, err := io.WriteString(env.out, page)
			return err
		},
	}
}

// listCauses prints each code with its meaning in a sentence.
func listCauses(out io.Writer) error {
	var text strings.Builder
	for _, code := range causes.Codes() {
		page, _ := causes.Page(code)
		fmt.Fprintf(&text, "%-22s %s\n", code, summaryOf(page))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// summaryOf is the first sentence below the title of a page, in one line.
func summaryOf(page string) string {
	_, text, _ := strings.Cut(page, "\n\n")
	text, _, _ = strings.Cut(text, "\n\n")
	text = strings.Join(strings.Fields(text), " ")
	sentence, _, _ := strings.Cut(text, ". ")
	return strings.TrimSuffix(sentence, ".")
}

// alike names codes that have a word in common with what was asked for.
func alike(code string) string {
	var found []string
	for _, known := range causes.Codes() {
		for word := range strings.SplitSeq(code, "_") {
			if len(word) > 2 && strings.Contains(known, word) {
				found = append(found, known)
				break
			}
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(found, ", ") + "?"
}
