//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// sourceFlags are the flags that say where a probe is sent from.
type sourceFlags struct {
	container, netns string
	engine           choice
	pid              int
	flags            *pflag.FlagSet
}

// register adds the flags, with completion of the names, to a command.
func (s *sourceFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	s.flags = flags
	flags.StringVar(&s.container, "container", "", "start in the container `NAME` or id (Kubernetes: NAMESPACE/POD/CONTAINER), or in the network namespace of that name")
	flags.StringVar(&s.netns, "netns", "", "start in the network namespace `NAME`, or the one at a path")
	flags.IntVar(&s.pid, "pid", 0, "start in the network namespace of process `PID`")
	s.engine = choice{valid: container.Engines()}
	flags.Var(&s.engine, "engine", "where --container is looked up: "+strings.Join(s.engine.valid, ", ")+" (default all)")
	cmd.MarkFlagsMutuallyExclusive("container", "netns", "pid")
	if err := cmd.RegisterFlagCompletionFunc("engine", cobra.FixedCompletions(s.engine.valid, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this file
	}
	for name, namespaces := range map[string]bool{"container": false, "netns": true} {
		complete := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return container.Names(cmd.Context(), container.Config{}, namespaces), cobra.ShellCompDirectiveNoFileComp
		}
		if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // the flag does not exist: a mistake in this file
		}
	}
}

// open finds the source; none given is the host itself. The caller closes it.
func (s *sourceFlags) open(ctx context.Context) (*container.Source, error) {
	// An empty shell variable must not turn into the host.
	for _, name := range []string{"container", "netns", "pid"} {
		if value := s.flags.Lookup(name); value.Changed && (value.Value.String() == "" || name == "pid" && s.pid <= 0) {
			return nil, fmt.Errorf("--%s names nothing", name)
		}
	}
	if s.engine.value != "" && s.container == "" {
		return nil, errors.New("--engine says where --container is looked up, and there is none")
	}
	return container.Find(ctx, container.Config{
		Container: s.container, NetNS: s.netns, PID: s.pid, Engine: s.engine.value,
	})
}

// askEngines asks all container engines of this host what they say of themselves.
func askEngines(ctx context.Context) (views []engine.View, problems []string) {
	return container.Views(ctx, container.Config{})
}
