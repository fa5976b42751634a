//go:build !linux

package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"
)

// signals end a run.
var signals = []os.Signal{os.Interrupt}

// standIn is for systems on which the demo builds a network.
func standIn() {}

// systemCommands are the demo, which is a recording here, and those that look
// into the machine: they say that they cannot.
func systemCommands(env *environment) []*cobra.Command {
	output := choice{value: "text", valid: []string{"text", "json"}}
	demo := &cobra.Command{
		Use:   "demo",
		Short: "Explain a packet in a network that was recorded",
		Args:  arguments(0, 0, "no argument here, where it replays a recording"),
		RunE: func(*cobra.Command, []string) error {
			return replayRecording(env, output, errors.New("building one needs Linux"))
		},
	}
	demo.Flags().VarP(&output, "output", "o", "form of the report: text or json")
	commands := []*cobra.Command{demo}
	for _, name := range []string{"ping", "ping6", "tcp", "udp", "dns", "exec", "watch", "conntrack", "topology", "doctor", "cleanup"} {
		commands = append(commands, &cobra.Command{
			Use: name, Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return fmt.Errorf("%s needs Linux, and this is %s; \"pathtrace analyze FILE\" explains here what was saved there", name, runtime.GOOS)
			},
		})
	}
	return commands
}
