//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/report"
)

// execFlags are those of the command exec.
type execFlags struct {
	source  sourceFlags
	output  outputFlags
	save    saveFlags
	verdict bool
	verbose bool
}

func newExecCommand(env *environment) *cobra.Command {
	var flags execFlags
	cmd := &cobra.Command{
		Use:   "exec [SOURCE] -- COMMAND ARG...",
		Short: "Run a command, trace every flow that it opens, and explain what failed",
		Long: `Runs a command and traces every flow whose first packet leaves the source's
network namespace meanwhile. With --container the container's engine runs it,
with the container's files, user, capabilities and limits; with --netns, --pid or
without a source it is the host's program in that network namespace.

Input, output and exit status are the command's. The report goes to standard
error, or where --report says: what each flow came to, first of all those of the
name servers that it asked, and the explanation of the first that failed. Flows of
other processes of the source are listed apart.

The arguments are told to nobody: the report and what --save keeps name the program
alone.`,
		Example: `  pathtrace exec --container cnt01 -- yum update
  pathtrace exec --netns blue -- curl -sS https://example.com
  pathtrace exec --container cnt01 --report why.txt -- ./job.sh
  pathtrace exec --container cnt01 --save run.pcapng.zst -- apt-get update`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.run(cmd.Context(), env, args)
		},
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New("exec wants a command, behind --: pathtrace exec --container cnt01 -- COMMAND")
		}
		return nil
	}
	cmd.Flags().SetInterspersed(false)
	flags.source.register(cmd)
	flags.output.register(cmd)
	flags.save.register(cmd)
	cmd.Flags().Lookup("report").Usage = "write the report to `FILE`, readable by its owner only (default standard error)"
	cmd.Flags().BoolVar(&flags.verdict, "exit-verdict", false, "end with the status of the verdict, and not with the command's")
	cmd.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "say on standard error what pathtrace itself does")
	return cmd
}

func (f *execFlags) run(ctx context.Context, env *environment, argv []string) error {
	if err := errors.Join(f.output.check(), f.save.check()); err != nil {
		return err
	}
	source, err := f.source.open(ctx)
	if err != nil {
		return withAdvice(err)
	}
	defer source.Close() //nolint:errcheck // a read-only descriptor
	servers, err := resolve.Servers(source)
	if err != nil {
		return err
	}
	// When nobody takes the output, writing it fails, which ends the command; it does
	// not end pathtrace, which would leave the command behind. That the signal is
	// caught, and not ignored, leaves the command its own.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGPIPE)
	defer signal.Stop(broken)
	command := &command{source: source, argv: argv, env: env}
	cfg := live.TraceConfig{
		Kind: "exec", Target: filepath.Base(argv[0]), Source: source, Ahead: slices.DeleteFunc(servers, netip.Addr.IsLoopback),
		Command: func() int { return int(command.pid.Load()) }, Ran: func() *report.Command { return command.told },
		Version: version, Engines: askEngines,
	}
	if f.verbose {
		cfg.Log = log.New(env.err, "pathtrace: ", log.Lmicroseconds).Printf
	}
	if cfg.Save, err = f.save.create(); err != nil {
		return err
	}
	r, err := live.Trace(ctx, cfg, command.run)
	err = errors.Join(err, cfg.Save.Close())
	if r == nil || command.told == nil {
		err = errors.Join(err, f.save.remove()) // it says nothing that was reported
	}
	if failed, ok := errors.AsType[*container.NotExecutedError](err); ok {
		return &exitError{status: failed.Status, err: err}
	}
	if r == nil || command.told == nil {
		return withAdvice(err)
	}
	env.status = command.told.Status
	if command.told.Unknown != "" {
		env.status = exitInterrupted
	}
	if f.verdict {
		env.status = outcomeStatus(r)
	}
	return errors.Join(err, f.output.toErr(env, r))
}

// command is the command that is traced.
type command struct {
	source *container.Source
	argv   []string
	env    *environment
	pid    atomic.Int64
	told   *report.Command // when it has ended
}

// patience is how long a command may take to begin, or to end, when it was
// interrupted.
const patience = 5 * time.Second

// run runs the command. When ctx ends it is interrupted, as by the user's own
// Ctrl-C, and made to end when it does not.
func (c *command) run(ctx context.Context) error {
	running, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	config := container.ExecConfig{Argv: c.argv, Stdin: c.env.in, Stdout: c.env.out, Stderr: c.env.err}
	terminal, restore, err := c.terminal(&config)
	if err != nil {
		return err
	}
	defer restore()
	started := time.Now()
	// A command that is being started when ctx ends may run before Exec returns: it is
	// interrupted then, as any other.
	begun := make(chan struct{})
	early := context.AfterFunc(ctx, func() {
		select {
		case <-begun:
		case <-time.After(patience):
			kill()
		}
	})
	process, err := c.source.Exec(running, config)
	early()
	close(begun)
	if err != nil {
		return err
	}
	c.pid.Store(int64(process.PID))
	stop := context.AfterFunc(ctx, func() {
		if !c.interrupted(ctx) {
			_ = process.Signal(os.Interrupt) // it may have ended
		}
		time.AfterFunc(patience, kill)
	})
	defer stop()
	if terminal {
		defer follow(process)()
	}
	status, err := process.Wait()
	c.told = &report.Command{Name: filepath.Base(c.argv[0]), Status: status, Elapsed: time.Since(started)}
	if err != nil {
		c.told.Status, c.told.Unknown = 0, err.Error()
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		c.told.Unknown = "it was interrupted and did not end by itself"
		err = nil
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", c.told.Name, err)
	}
	return nil
}

// interrupted reports whether the terminal has told a command of the host, too, what
// ended the context: that the user typed Ctrl-C. It tells all processes of its
// foreground group, of which both are then.
func (c *command) interrupted(ctx context.Context) bool {
	if c.source.Kind == container.KindContainer || !strings.HasPrefix(context.Cause(ctx).Error(), unix.SIGINT.String()+" ") {
		return false
	}
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false // there is none
	}
	defer terminal.Close() //nolint:errcheck // nothing is written
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// terminal gives the command the user's terminal where standard input and output
// are one. A command that an engine runs gets one of its own, so the user's passes
// everything on until restore is called.
func (c *command) terminal(config *container.ExecConfig) (ok bool, restore func(), err error) {
	in, isFile := c.env.in.(*os.File)
	out, outIsFile := c.env.out.(*os.File)
	if c.source.Kind != container.KindContainer || !isFile || !outIsFile || !term.IsTerminal(in.Fd()) || !term.IsTerminal(out.Fd()) {
		return false, func() {}, nil
	}
	config.TTY = true
	if width, height, err := term.GetSize(out.Fd()); err == nil {
		config.Width, config.Height = uint(width), uint(height)
	}
	state, err := term.MakeRaw(in.Fd())
	if err != nil {
		return false, nil, fmt.Errorf("make the terminal raw: %w", err)
	}
	return true, func() { _ = term.Restore(in.Fd(), state) }, nil
}

// follow gives a command's terminal the size of the user's, whenever it changes,
// until the function that it returns is called.
func follow(process *container.Process) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for range changed {
			if width, height, err := term.GetSize(os.Stdout.Fd()); err == nil {
				_ = process.Resize(uint(height), uint(width)) // a size that is not right is not worth a word
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(changed)
	}
}
