package cli

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// signals end a run.
var signals = []os.Signal{os.Interrupt, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT}

// standIn makes this process be what the demo runs in its networks, and does not
// return, when it was started for that.
func standIn() { lab.ProxyMain() }

// systemCommands are those that look into this machine.
func systemCommands(env *environment) []*cobra.Command {
	return []*cobra.Command{
		newDemoCommand(env),
		newPingCommand(env),
		newPing6Command(env),
		newTCPCommand(env),
		newUDPCommand(env),
		newDNSCommand(env),
		newExecCommand(env),
		newWatchCommand(env),
		newConntrackCommand(env),
		newTopologyCommand(env),
		newDoctorCommand(env),
		newCleanupCommand(env),
	}
}
