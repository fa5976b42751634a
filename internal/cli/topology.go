//go:build linux

package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/topology"
)

func newTopologyCommand(env *environment) *cobra.Command {
	var source sourceFlags
	var save saveFlags
	var ipv4, ipv6 bool
	output := choice{value: "text", valid: []string{"text", "json"}}
	cmd := &cobra.Command{
		Use:   "topology [HOST]",
		Short: "Show the namespaces and interfaces on the way to a host, without sending it a packet",
		Long: `Show the namespaces and interfaces on the way to a host, and the route that each
namespace takes. Without a host it is the way of the source's default routes.
Nothing is sent but the DNS query for a name. Of a container, what its engine says
of its networks and ports comes behind.`,
		Args: arguments(0, 1, "at most one HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := save.check(); err != nil {
				return err
			}
			from, err := source.open(cmd.Context())
			if err != nil {
				return err
			}
			defer from.Close() //nolint:errcheck // a read-only descriptor
			config := topology.Config{Source: from.NetNS, SourceName: from.Name, Containers: func() ([]container.Running, error) {
				return container.Containers(cmd.Context(), container.Config{})
			}}
			title := "default routes"
			if len(args) > 0 {
				want := resolve.Any
				switch {
				case ipv4:
					want = resolve.IPv4
				case ipv6:
					want = resolve.IPv6
				}
				resolved, err := resolve.Lookup(cmd.Context(), resolve.Config{Source: from, Name: args[0], Want: want})
				if err != nil {
					return unresolved(err)
				}
				config.Target, config.Zone = resolved.Address, resolved.Zone
				title = args[0]
				if title != resolved.Address.String() {
					title += " (" + resolved.Address.String() + ")"
				}
			}
			snapshot, handles, err := topology.Discover(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer handles.Close() //nolint:errcheck // read-only descriptors
			listing := &evidence.Listing{Command: evidence.Topology, Version: version, Target: title, Topology: snapshot, Note: from.Note}
			if from.Kind == container.KindContainer {
				if listing.Container, err = from.Describe(cmd.Context()); err != nil {
					snapshot.Problems = append(snapshot.Problems, err.Error())
				}
			}
			saved := save.keep(listing)
			return errors.Join(printWay(env.out, listing, output.value), saved)
		},
	}
	source.register(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&ipv4, "ipv4", "4", false, "use an IPv4 address of the host")
	flags.BoolVarP(&ipv6, "ipv6", "6", false, "use an IPv6 address of the host")
	cmd.MarkFlagsMutuallyExclusive("ipv4", "ipv6")
	flags.VarP(&output, "output", "o", "form of the output: text or json")
	save.registerFile(cmd)
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.valid, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this file
	}
	return cmd
}
