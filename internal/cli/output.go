package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/report"
)

// outputFlags are the flags that say how a report is printed and where.
type outputFlags struct {
	output, detail, color choice
	file                  string
}

// register adds the flags, with completion of their values, to a command.
func (o *outputFlags) register(cmd *cobra.Command) {
	o.output = choice{value: "text", valid: []string{"text", "json"}}
	o.detail = choice{value: string(report.DetailSummary), valid: []string{
		string(report.DetailMinimal), string(report.DetailSummary), string(report.DetailFull),
	}}
	o.color = choice{value: "auto", valid: []string{"auto", "always", "never"}}

	flags := cmd.Flags()
	flags.VarP(&o.output, "output", "o", "form of the report: text or json")
	flags.Var(&o.detail, "detail", "how much the text says: minimal, summary or full")
	flags.Var(&o.color, "color", "colours: auto (a terminal, and no NO_COLOR), always or never")
	flags.StringVar(&o.file, "report", "", "write the report to `FILE`, readable by its owner only (default standard output)")
	for name, c := range map[string]*choice{"output": &o.output, "detail": &o.detail, "color": &o.color} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(c.valid, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag does not exist: a mistake in this file
		}
	}
}

// check refuses a file that cannot be written, before anything is traced.
func (o *outputFlags) check() error {
	if o.file == "" || o.file == "-" {
		return nil
	}
	info, err := os.Lstat(o.file)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("--report %s: is a directory", o.file)
	case err == nil && !info.Mode().IsRegular():
		return nil // a device or a link: what it is worth shows when it is written
	}
	return creatable("--report", o.file)
}

// creatable refuses the file of a flag where none can be made.
func creatable(flag, name string) error {
	f, err := temporaryFor(name)
	if err != nil {
		return fmt.Errorf("%s %s: %w", flag, name, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// write prints a report where the flags say.
func (o *outputFlags) write(env *environment, r *report.Report) error {
	return o.to(env, func(w io.Writer) error { return o.render(w, r) })
}

// toErr prints a report where the flags say, or else on standard error: standard
// output is a command's.
func (o *outputFlags) toErr(env *environment, r *report.Report) error {
	if o.file == "" {
		return o.render(env.err, r)
	}
	return o.write(env, r)
}

// to prints where the flags say.
func (o *outputFlags) to(env *environment, print func(io.Writer) error) error {
	if o.file == "" || o.file == "-" {
		return print(env.out)
	}
	return writeFile(o.file, print)
}

func (o *outputFlags) render(w io.Writer, r *report.Report) error {
	if o.output.value == "json" {
		return report.JSON(w, r)
	}
	return report.Text(w, r, o.options(w))
}

// options say what the place where the text goes can show.
func (o *outputFlags) options(w io.Writer) report.TextOptions {
	options := report.TextOptions{
		Detail:  report.Detail(o.detail.value),
		Color:   colored(w, o.color),
		Unicode: localeIsUTF8(),
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(f.Fd()) {
		if width, _, err := term.GetSize(f.Fd()); err == nil {
			options.Width = width
		}
	}
	return options
}

// colored reports whether what is written has colours.
func colored(w io.Writer, color choice) bool {
	if color.value != "auto" {
		return color.value == "always"
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// outcomeStatus is the exit status for a report; with several probes the worst
// counts, since "some lost" is a failure.
func outcomeStatus(r *report.Report) int {
	switch r.Verdict.Outcome {
	case report.Replied, report.Delivered:
		if r.Verdict.Code != diagnose.OK { // a name server answered that there is no such name
			return exitFailed
		}
		return exitOK
	case report.Unsent:
		if r.Verdict.Code == diagnose.OK { // a command that does without the network
			return exitOK
		}
	case report.Inconclusive:
		return exitInconclusive
	}
	return exitFailed
}

// localeIsUTF8 reports whether the locale's characters are UTF-8.
func localeIsUTF8() bool {
	locale := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	charset := strings.ToLower(strings.ReplaceAll(locale, "-", ""))
	return strings.Contains(charset, "utf8")
}

// writeFile makes a file, or replaces one, in one go: whoever opens it finds
// all of the content or the file that was there. Only its owner may read it,
// because reports name firewall rules that only root can list. What is no
// regular file, a device or a link, is written to instead of replaced.
func writeFile(name string, write func(io.Writer) error) (err error) {
	info, err := os.Lstat(name)
	switch {
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	f, err := temporaryFor(name)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// temporaryFor makes an empty file beside another, readable by its owner only.
// An error does not name it: nobody asked for it.
func temporaryFor(name string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("make a file in %s: %w", filepath.Dir(name), pathError.Err)
	}
	return f, err
}

// choice is a flag that takes one of a few words.
type choice struct {
	value string
	valid []string
}

func (c *choice) String() string { return c.value }

func (c *choice) Set(value string) error {
	if !slices.Contains(c.valid, value) {
		last := len(c.valid) - 1
		return fmt.Errorf("must be %s or %s", strings.Join(c.valid[:last], ", "), c.valid[last])
	}
	c.value = value
	return nil
}

func (c *choice) Type() string { return "WORD" }
