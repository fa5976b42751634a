// Package cli is the command line: one file for each command, which turns
// flags into a configuration, wires the packages together, prints, and chooses
// the exit status.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pathtrace/pathtrace/report"
)

// The exit statuses that scripts rely on.
const (
	exitOK           = 0 // the packet got there and the answer came back
	exitFailed       = 1 // it did not
	exitCannotRun    = 2 // pathtrace cannot run as asked
	exitInconclusive = 3 // nothing is proven
	// exitInterrupted is that of exec when it ended the command, as shells have it.
	exitInterrupted = 130
)

// environment is what a command may touch of the world outside. Commands
// print reports to out and nothing else; everything else goes to err.
type environment struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	// status is the exit status when the command returns no error.
	status int
}

// exitError carries the exit status of an error; other errors end with
// exitCannotRun.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Main runs the program and returns its exit status.
func Main(args []string) int {
	standIn()
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	return run(ctx, args, &environment{in: os.Stdin, out: os.Stdout, err: os.Stderr})
}

// run is Main with its world handed in.
func run(ctx context.Context, args []string, env *environment) int {
	root := newRootCommand(env)
	root.SetArgs(args)
	root.SetIn(env.in)
	root.SetOut(env.out)
	root.SetErr(env.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return env.status
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &exitError{status: exitInconclusive, err: errors.New("interrupted")}
	}
	text := strings.ReplaceAll(strings.TrimRight(fmt.Sprintf("pathtrace: %v", err), "\n"), "\t", "  ")
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(env.err, report.Escape(line)) //nolint:errcheck // nowhere left to tell
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.status
	}
	return exitCannotRun
}

func newRootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:           "pathtrace",
		Short:         "Trace a packet's path through containers, bridges, NAT and firewalls",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return plainFlag(err) })
	root.AddCommand(newAnalyzeCommand(env), newExplainCommand(env), newVersionCommand(env))
	root.AddCommand(systemCommands(env)...)
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		// Without this it would print its help for any word, with status 0.
		completion.Args = cobra.ArbitraryArgs
		completion.RunE = func(*cobra.Command, []string) error {
			return errors.New("completion wants a shell: bash, fish, powershell or zsh")
		}
	}
	return root
}

// plainFlag says which numbers a flag takes, in place of what parsed it.
func plainFlag(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	number, ok := errors.AsType[*strconv.NumError](err)
	if !ok {
		return err
	}
	wants := "a whole number"
	switch kind := invalid.GetFlag().Value.Type(); {
	case kind == "uint16":
		wants = "a number from 0 to 65535"
	case kind == "uint8":
		wants = "a number from 0 to 255"
	case kind == "bool":
		wants = "true or false"
	case errors.Is(number.Err, strconv.ErrRange):
		wants = "a smaller number"
	}
	return errors.New(strings.TrimSuffix(invalid.Error(), number.Error()) + "must be " + wants)
}

// arguments wants so many of them, which what says in words.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("%s wants %s, got %d: %s", cmd.Name(), what, len(args), cmd.UseLine())
		}
		return nil
	}
}
