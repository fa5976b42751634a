//go:build linux

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/nat"
)

// conntrackFlags are those of the command conntrack.
type conntrackFlags struct {
	source          sourceFlags
	output          choice
	save            saveFlags
	follow, natOnly bool
	protocol        protocol
}

func newConntrackCommand(env *environment) *cobra.Command {
	flags := conntrackFlags{output: choice{value: "text", valid: []string{"text", "json"}}}
	cmd := &cobra.Command{
		Use:   "conntrack",
		Short: "Show the flows that the kernel tracks, and what NAT does to them",
		Long: `Show the flows that the kernel tracks, one line each, and what NAT does to them.
With --follow, show the flows that are there and then each one that begins (NEW),
changes (UPDATE) or ends (DESTROY), until interrupted. What the kernel could not
deliver is told on standard error; then the table is read again, and what
changed meanwhile is shown as found after lost events.

A flow that began while nobody was listening may end without an event.

With --save what is shown is saved as well, each line before it is printed, and
"pathtrace analyze FILE" shows it again.

Conntrack knows what was translated and not by which rule: masquerade and SNAT
look the same.

With -o json each line is an object with the fields
  time         when the event happened if the kernel tells (time_source "kernel",
               with net.netfilter.nf_conntrack_timestamp=1), otherwise when it
               was read ("read")
  event        NEW, UPDATE, DESTROY, or EXISTING: found in the table
  resync       true when the table told it after events were lost
  netns, id, zone, mark
  original     tuple of the first packet: protocol, source, destination, and
               icmp_type, icmp_code, icmp_id for ICMP
  reply        tuple that an answer is expected to have
  translations list of kind (snat or dnat), field (source or destination), from, to
  state        of TCP
  seen_reply, assured
  timeout      seconds that the entry has left
  started      when the flow began, if the kernel tells`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd.Context(), env)
		},
	}
	flags.source.register(cmd)
	f := cmd.Flags()
	f.BoolVarP(&flags.follow, "follow", "f", false, "go on with events, until interrupted")
	f.VarP(&flags.protocol, "protocol", "p", "only this protocol: "+strings.Join(protocolNames(), ", ")+" or a number")
	f.BoolVar(&flags.natOnly, "nat", false, "only flows that are translated")
	f.VarP(&flags.output, "output", "o", "form of the output: text or json")
	flags.save.registerFile(cmd)
	for name, values := range map[string][]string{"output": flags.output.valid, "protocol": protocolNames()} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag does not exist: a mistake in this file
		}
	}
	return cmd
}

func (f *conntrackFlags) run(ctx context.Context, env *environment) error {
	if err := f.save.check(); err != nil {
		return err
	}
	source, err := f.source.open(ctx)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // a read-only descriptor
	if f.follow {
		err = f.events(ctx, env, source)
	} else {
		err = f.table(ctx, env, source)
	}
	if errors.Is(err, os.ErrPermission) {
		return errors.New("reading conntrack events needs CAP_NET_ADMIN: run with sudo")
	}
	return err
}

// shows reports whether an event is to be shown, and saved.
func (f *conntrackFlags) shows(event *nat.Event) bool {
	return !f.natOnly || len(event.Flow.Translations()) > 0
}

// listing begins the bundle.
func (f *conntrackFlags) listing() (*evidence.Writer, error) {
	return f.save.list(&evidence.Listing{Command: evidence.Conntrack, Version: version})
}

// table prints the flows that are there.
func (f *conntrackFlags) table(ctx context.Context, env *environment, source *container.Source) error {
	flows, err := nat.Dump(ctx, source.NetNS, source.Name, nat.Filter{Proto: f.protocol.value})
	partial, ok := errors.AsType[*nat.PartialError](err)
	if err != nil && !ok {
		if ctx.Err() != nil {
			return nil // stopped
		}
		return err
	}
	now := time.Now()
	save, err := f.listing()
	if err != nil {
		return err
	}
	if partial != nil {
		remark(env, save, partial.Error())
	}
	out := bufio.NewWriter(env.out)
	for _, flow := range flows {
		event := nat.Event{Kind: nat.Existing, Flow: flow, Received: now}
		if !f.shows(&event) {
			continue
		}
		save.Event(event)
		if err := printFlow(out, event, f.output.value); err != nil {
			return errors.Join(err, save.Close())
		}
	}
	save.Listed()
	return errors.Join(out.Flush(), save.Close())
}

// events prints the flows that are there and what happens to flows, until ctx
// is done.
func (f *conntrackFlags) events(ctx context.Context, env *environment, source *container.Source) error {
	var save *evidence.Writer
	watcher, err := nat.Watch(nat.Config{
		NetNS:    source.NetNS,
		Name:     source.Name,
		Existing: true,
		Filter:   nat.Filter{Proto: f.protocol.value},
		Overrun: func() {
			remark(env, save, "the kernel lost conntrack events; reading the table again")
		},
	})
	if err != nil {
		return err
	}
	defer watcher.Close() //nolint:errcheck // nothing is written
	if save, err = f.listing(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var printErr error
	err = watcher.Run(ctx, func(event nat.Event) {
		if printErr != nil || !f.shows(&event) {
			return
		}
		save.Event(event)
		if printErr = printFlow(env.out, event, f.output.value); printErr != nil {
			cancel()
		}
	})
	stats := watcher.Stats()
	if stats.Overruns > 0 {
		remark(env, save, fmt.Sprintf("the kernel lost conntrack events %d times", stats.Overruns))
	}
	if stats.Undecodable > 0 {
		remark(env, save, fmt.Sprintf("%d conntrack messages were not understood", stats.Undecodable))
	}
	if err = errors.Join(printErr, err); err == nil {
		save.Listed()
	}
	return errors.Join(err, save.Close())
}
