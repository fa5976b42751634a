package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/offline"
)

// analyzeFlags are those of the command analyze.
type analyzeFlags struct {
	output   outputFlags
	captures captureFlags
}

func newAnalyzeCommand(env *environment) *cobra.Command {
	var flags analyzeFlags
	cmd := &cobra.Command{
		Use:   "analyze FILE...",
		Short: "Explain a saved run, or captures that others made",
		Long: `Explains what "pathtrace ping --save FILE", or another command that traces, has
saved: the report is that of the run, and so is the exit status; of exec it is that
of the verdict. A run that was killed is explained as far as it came. Of what watch,
conntrack, topology or doctor has saved it prints what that command printed. Nothing is sent, and no privilege is
needed.

Other captures may be pcap or pcapng, also packed by gzip or zstd; "-" is standard
input, and a file may be a pipe. Captures of several places or machines are joined: which packets are the same
ones before and after NAT, and where they are missing. Their clocks need not
agree. The output is a table of flows, the worst first; when a selector leaves
one flow, or --flow N names one, that one is explained, with what else there is:
conntrack's events or table, a trace of the rules, and the rules themselves. A
trace can be explained without a capture, too.

The exit status is 0 when something could be read, also if not all; of one flow
that was selected it is 1 when it failed or packets are missing and 3 when that
is not clear; 3 as well when reading was interrupted; 2 when nothing could be
used.`,
		Example: `  pathtrace ping example.com --save run.pcapng.zst
  pathtrace analyze run.pcapng.zst
  pathtrace analyze cnt.pcap up.pcap
  pathtrace analyze cnt.pcap up.pcap --point up.pcap=host/ens192 --dport 443
  pathtrace analyze cnt.pcap up.pcap --conntrack events.txt --rules save.txt --flow 1
  pathtrace analyze --trace dmesg.txt --rules save.txt
  tcpdump -i any -w - | pathtrace analyze -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.run(cmd.Context(), env, args)
		},
	}
	flags.output.register(cmd)
	flags.captures.register(cmd)
	return cmd
}

func (f *analyzeFlags) run(ctx context.Context, env *environment, files []string) error {
	if len(files) == 0 && len(f.captures.traces) == 0 {
		return errors.New("analyze wants at least one FILE, or - for standard input, or a --trace FILE")
	}
	if err := f.output.check(); err != nil {
		return err
	}
	sources, err := f.captures.sources(files)
	if err != nil {
		return err
	}
	kept, stopped, err := spool(ctx, env, sources)
	defer removeAll(kept)
	if err != nil {
		return err
	}
	if stopped { // what came until then is still to be read
		ctx = context.WithoutCancel(ctx)
	}
	if len(sources) == 1 {
		run, err := readBundle(&sources[0])
		if !errors.Is(err, evidence.ErrNotBundle) {
			return f.printBundle(env, &sources[0], run, err)
		}
	}
	return f.analyzeCaptures(ctx, env, sources)
}

// printBundle prints what a bundle has that is given alone; run and err are what
// readBundle returned of it.
func (f *analyzeFlags) printBundle(env *environment, source *offline.Source, run *evidence.Run, err error) error {
	if unused := f.captures.used(); len(unused) > 0 {
		return fmt.Errorf("%s is a saved run, which is printed as it was: leave out %s (for captures only)",
			source.Name, strings.Join(unused, ", "))
	}
	switch {
	case errors.Is(err, evidence.ErrListing):
		return f.list(env, source)
	case errors.Is(err, evidence.ErrTrace):
		return f.trace(env, source)
	case err != nil:
		return err
	}
	return f.replay(env, run)
}

// replay prints the report of a saved run.
func (f *analyzeFlags) replay(env *environment, run *evidence.Run) error {
	r := answer.Report(run)
	env.status = outcomeStatus(r)
	return f.output.write(env, r)
}

// readBundle reads the bundle of a run. The error is evidence.ErrListing or
// evidence.ErrTrace for that of another command, and evidence.ErrNotBundle for another file; what is wrong with
// one that is no capture, those say who read captures.
func readBundle(source *offline.Source) (*evidence.Run, error) {
	file, err := capture.OpenFile(source.Path)
	if err != nil {
		return nil, errors.Join(evidence.ErrNotBundle, err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	run, err := evidence.Read(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source.Name, err)
	}
	return run, nil
}
