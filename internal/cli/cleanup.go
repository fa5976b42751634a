//go:build linux

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/ruletrace"
)

func newCleanupCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "cleanup",
		Short: "Put back what a killed run left",
		Long: `Puts back net.netfilter.nf_log where a run of pathtrace was killed together with
the child that guards it. Nothing else of pathtrace can outlive its process: its
nftables tables, sockets and rings belong to it and the kernel removes them.
Runs that are alive are left alone.`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			done, err := ruletrace.Cleanup("")
			for _, line := range done {
				fmt.Fprintln(env.out, line) //nolint:errcheck // standard output
			}
			if err == nil && len(done) == 0 {
				fmt.Fprintln(env.out, "nothing to clean up") //nolint:errcheck // standard output
			}
			return err
		},
	}
}
