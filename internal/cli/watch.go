//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// watchFlags are those of the command watch.
type watchFlags struct {
	source       sourceFlags
	output       outputFlags
	save         saveFlags
	src, dst     prefix
	sport, dport uint16
	protocol     protocol
	during       time.Duration
	packets      int
	timeout      time.Duration
	verbose      bool
}

func newWatchCommand(env *environment) *cobra.Command {
	var flags watchFlags
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Watch the flows of a source, and explain each that fails",
		Long: `Watches the flows that a source opens, those that others open to it, and those
that are there already. Nothing is sent. Each is printed when it has ended or
failed: a line for one that was answered, and the whole explanation of one that
was not answered in time, was refused, or whose data does not get through. With
-o json each is one line, a report as "pathtrace ping -o json" prints it.

It goes on until it is interrupted, or as long as --for and --packets say, or until
the container is stopped, which it says and ends with status 3. Then it prints what
is known of the flows that still go on. What it keeps of a flow is bounded, and so
is what it traces of it: it can run for days.`,
		Example: `  pathtrace watch --container cnt01
  pathtrace watch --container cnt01 -p tcp --dport 443 --for 1m
  pathtrace watch --container cnt01 -o json | jq -c .verdict
  pathtrace watch --container cnt01 --for 10m --save flows.pcapng.zst`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd.Context(), env)
		},
	}
	flags.source.register(cmd)
	flags.output.register(cmd)
	flags.save.register(cmd)
	f := cmd.Flags()
	f.Var(&flags.src, "src", "only flows whose first packet is from that address or prefix")
	f.Var(&flags.dst, "dst", "only flows whose first packet is to that address or prefix")
	f.Uint16Var(&flags.sport, "sport", 0, "only flows whose first packet is from that `PORT`")
	f.Uint16Var(&flags.dport, "dport", 0, "only flows whose first packet is to that `PORT`")
	f.VarP(&flags.protocol, "protocol", "p", "only this protocol: "+strings.Join(protocolNames(), ", ")+" or a number")
	f.DurationVar(&flags.during, "for", 0, "stop after that `TIME` (default: when interrupted)")
	f.IntVar(&flags.packets, "packets", 0, "stop after `N` packets of these flows at the source")
	f.DurationVar(&flags.timeout, "timeout", 5*time.Second, "a flow that was not answered for that long has failed")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "say on standard error what pathtrace itself does")
	if err := cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(protocolNames(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this file
	}
	return cmd
}

// check refuses values that make no sense.
func (f *watchFlags) check() error {
	switch {
	case f.during < 0:
		return fmt.Errorf("--for %s: the time must be positive", f.during)
	case f.packets < 0:
		return fmt.Errorf("--packets %d: the number must be positive", f.packets)
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %s: the time must be positive", f.timeout)
	}
	return errors.Join(f.output.check(), f.save.check())
}

// wanted are the flows that are watched.
func (f *watchFlags) wanted() evidence.Selector {
	return evidence.Selector{Proto: f.protocol.value, Src: f.src.value, Dst: f.dst.value, SourcePort: f.sport, TargetPort: f.dport}
}

func (f *watchFlags) run(ctx context.Context, env *environment) error {
	if err := f.check(); err != nil {
		return err
	}
	source, err := f.source.open(ctx)
	if err != nil {
		return withAdvice(err)
	}
	defer source.Close() //nolint:errcheck // a read-only descriptor
	cfg := live.TraceConfig{
		Kind: watchKind, Target: "its flows", Source: source, Wanted: f.wanted(), Older: true, Patience: f.timeout, Packets: f.packets,
		Version: version, Engines: askEngines,
	}
	cfg.Ready = func(sensors []report.Sensor) {
		for _, s := range sensors {
			if s.State != "ok" && !s.Optional {
				fmt.Fprintf(env.err, "pathtrace: %s: %s; %s\n", s.Name, s.State, report.Escape(s.Reason)) //nolint:errcheck // nowhere left to tell
			}
		}
	}
	over := false
	cfg.Gone = func(sentence string) {
		remark(env, cfg.Save, sentence)
		over = source.Kind == container.KindContainer
	}
	if f.verbose {
		cfg.Log = log.New(env.err, "pathtrace: ", log.Lmicroseconds).Printf
	}
	if cfg.Save, err = f.save.create(); err != nil {
		return err
	}
	begun := false
	err = f.output.to(env, func(w io.Writer) error {
		cfg.Each = (&flowPrinter{w: w, output: &f.output}).print
		// The end is asked for: it is none of the flows' fault.
		watching, stop := context.WithCancel(ctx)
		defer stop()
		if f.during > 0 {
			watching, stop = context.WithTimeout(ctx, f.during)
			defer stop()
		}
		r, err := live.Trace(context.WithoutCancel(ctx), cfg, func(traced context.Context) error {
			select {
			case <-watching.Done():
			case <-traced.Done():
			}
			return nil
		})
		begun = r != nil
		return withAdvice(err)
	})
	if over {
		env.status = exitInconclusive // it ends before it was asked to
	}
	err = errors.Join(err, cfg.Save.Close())
	if !begun {
		err = errors.Join(err, f.save.remove()) // nothing is in it
	}
	return err
}
