//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// demoOptions are the flags of "pathtrace demo".
type demoOptions struct {
	scenario lab.Scenario
	lab      lab.Options
	output   choice
	save     saveFlags
	list     bool
	shell    bool
	// program says that command is any program and not pathtrace's arguments.
	program bool
	// command replaces the scenario's own; empty means that one.
	command []string
}

func newDemoCommand(env *environment) *cobra.Command {
	options := demoOptions{output: choice{valid: []string{"text", "json"}}}
	var names []string
	for _, scenario := range lab.Scenarios() {
		names = append(names, scenario.Name)
	}
	cmd := &cobra.Command{
		Use:   "demo [SCENARIO] [-- ARGUMENT...]",
		Short: "Explain a packet in a private network; no root needed",
		Long: `Builds a network in private user, network and mount namespaces, runs pathtrace
in it and removes it. Nothing of this machine is touched, and root is not needed.
Where no network can be built, a recording of the first scenario is explained.

SCENARIO is ` + names[0] + ` unless given; --list shows all of them, and what can
be broken. Arguments after -- replace the scenario's own command.`,
		Example: `  pathtrace demo
  pathtrace demo ipv6-masquerade --break forward-drop
  pathtrace demo ipv6-masquerade -- ping6 fd5a:ceb9:ed8d:1::2`,
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			if options.list {
				return listScenarios(env.out)
			}
			name := names[0]
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				args, options.command = args[:dash], args[dash:]
			}
			switch len(args) {
			case 0:
			case 1:
				name = args[0]
			default:
				return fmt.Errorf("one scenario at a time; a command follows after --: pathtrace demo %s -- %s", args[0], strings.Join(args[1:], " "))
			}
			var err error
			if options.scenario, err = lab.Find(name); err != nil {
				return err
			}
			if err := options.check(); err != nil {
				return err
			}
			if !lab.Isolated() {
				return isolateDemo(env, options)
			}
			return runDemo(cmd.Context(), env, options)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.lab.Break, "break", "", "break the network with a `FAULT`, or with several, separated by commas (see --list)")
	flags.BoolVar(&options.lab.Opaque, "opaque", false, "let nobody look into the machines behind the host")
	flags.StringVar((*string)(&options.lab.Backend), "backend", "", "write the host's rules with `TOOL`: nft, iptables-nft or iptables-legacy")
	flags.Uint64Var(&options.lab.Seed, "seed", 0, "draw other addresses, interface names and positions of the rules from a `NUMBER`")
	flags.VarP(&options.output, "output", "o", "form of the report: text or json")
	options.save.register(cmd)
	flags.BoolVar(&options.list, "list", false, "list the scenarios and their faults")
	flags.BoolVar(&options.shell, "shell", false, "run a shell on the network's host in place of pathtrace")
	flags.BoolVar(&options.program, "exec", false, "what follows after -- is a program")
	_ = flags.MarkHidden("exec") // the flag is there
	return cmd
}

// check finds contradictions before anything is built.
func (o *demoOptions) check() error {
	if o.program && len(o.command) == 0 {
		return errors.New("--exec needs a program after --")
	}
	if o.shell && len(o.command) > 0 {
		return errors.New("give --shell or a command after --, not both")
	}
	if (o.program || o.shell) && o.save.file != "" {
		return errors.New("--save is for a command of pathtrace")
	}
	if err := o.save.check(); err != nil {
		return err
	}
	return o.scenario.Check(o.lab)
}

// listScenarios prints what can be built.
func listScenarios(out io.Writer) error {
	var text strings.Builder
	for _, s := range lab.Scenarios() {
		fmt.Fprintf(&text, "%s: %s\n", s.Name, s.Summary)
		fmt.Fprintf(&text, "  runs       pathtrace %s\n", strings.Join(s.Command, " "))
		for i, other := range s.Try {
			title := ""
			if i == 0 {
				title = "try also"
			}
			fmt.Fprintf(&text, "  %-9s  pathtrace demo %s -- %s\n", title, s.Name, strings.Join(other, " "))
		}
		for i, fault := range s.Faults {
			title := ""
			if i == 0 {
				title = "--break"
			}
			fmt.Fprintf(&text, "  %-9s  %-20s %s\n", title, fault.Name, fault.Summary)
		}
		backends := make([]string, len(s.Backends))
		for i, backend := range s.Backends {
			backends[i] = string(backend)
		}
		fmt.Fprintf(&text, "  --backend  %s (the first unless given)\n", strings.Join(backends, ", "))
		if s.Opaque {
			fmt.Fprintln(&text, "  --opaque   nobody can look behind the host")
		}
		fmt.Fprintln(&text)
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// isolateDemo runs this command again where it may build a network. Where that
// is impossible it replays the recording, if that is what was asked for.
func isolateDemo(env *environment, options demoOptions) error {
	status, err := lab.Isolate(env.in, env.out, env.err)
	env.status = status
	if _, impossible := errors.AsType[*lab.IsolationError](err); !impossible {
		return err
	}
	if os.Geteuid() == 0 {
		err = fmt.Errorf("%w; root needs CAP_SYS_ADMIN and CAP_NET_ADMIN here", err)
	} else {
		err = fmt.Errorf("%w; this system keeps them from ordinary users. As root it works:\n  sudo env PATH=\"$PATH\" %s",
			err, strings.Join(os.Args, " "))
	}
	if options.recorded() {
		return replayRecording(env, options.output, err)
	}
	return err
}

// recorded reports whether the recording is what the options ask for.
func (o *demoOptions) recorded() bool {
	return o.scenario.Name == recordedScenario && o.lab == (lab.Options{}) && len(o.command) == 0 && !o.shell && o.save.file == ""
}

// runDemo builds the network in an isolated process, and runs the command in it.
func runDemo(ctx context.Context, env *environment, options demoOptions) (err error) {
	if err := lab.Enter(); err != nil {
		env.err = io.Discard // the parent, which isolated this process, tells it
		return err
	}
	options.lab.NamedDir, options.lab.EtcDir = lab.NamedDir, lab.EtcDir
	options.lab.OSPF, options.lab.Peers = true, peersBeside()
	network, err := lab.Build(ctx, options.scenario.Name, options.lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	options.scenario = network.Scenario
	program, err := options.execCommand()
	if err != nil {
		return err
	}
	program.Stdin, program.Stdout, program.Stderr = env.in, env.out, env.err
	if _, err := io.WriteString(env.err, describe(options, network.Remarks, program.Args)); err != nil {
		return err
	}
	env.status, err = network.Run(program)
	return err
}

// peersBeside is the root tree of other programs that scripts/peers.sh unpacks
// beside the program; empty where it is not there.
func peersBeside() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	tree := filepath.Join(filepath.Dir(self), "peers", "root")
	if _, err := os.Stat(tree); err != nil {
		return ""
	}
	return tree
}

// execCommand is what runs in the network.
func (o *demoOptions) execCommand() (*exec.Cmd, error) {
	switch {
	case o.program:
		return exec.Command(o.command[0], o.command[1:]...), nil
	case o.shell:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		cmd := exec.Command(shell)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(self)+":"+os.Getenv("PATH"))
		return cmd, nil
	}
	args := o.command
	if len(args) == 0 {
		args = o.scenario.Command
		shownBy := func(f lab.Fault) bool { return f.Probe != nil }
		if slices.ContainsFunc(o.scenario.Broken(o.lab.Break), shownBy) {
			args = o.scenario.ProbeOf(o.lab.Break).Args()
		}
	}
	// Behind the command's name, since what follows later may be another program's.
	args = slices.Insert(slices.Clone(args), 1, o.passedOn()...)
	return &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"pathtrace"}, args...)}, nil
}

// passedOn are the flags that the command in the network gets, too.
func (o *demoOptions) passedOn() []string {
	var flags []string
	if o.output.value != "" {
		flags = append(flags, "--output", o.output.value)
	}
	if o.save.file != "" {
		flags = append(flags, "--save", o.save.file)
	}
	if o.save.payload {
		flags = append(flags, "--save-payload")
	}
	return flags
}

// describe says what was built and what runs in it.
func describe(options demoOptions, remarks, args []string) string {
	var text strings.Builder
	s := options.scenario
	fmt.Fprintf(&text, "%s: %s\n\n", s.Name, s.Summary)
	for line := range strings.Lines(s.Picture) {
		fmt.Fprintf(&text, "  %s", line)
	}
	for _, fault := range s.Broken(options.lab.Break) {
		fmt.Fprintf(&text, "\nbroken on purpose (%s): %s\n", fault.Name, fault.Summary)
	}
	for _, remark := range remarks {
		fmt.Fprintf(&text, "\n%s\n", remark)
	}
	if options.lab.Opaque {
		fmt.Fprintln(&text, "\nnobody can look behind the host (--opaque)")
	}
	fmt.Fprintf(&text, "\n$ %s\n", strings.Join(args, " "))
	return text.String()
}
