//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/probe"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/report"
)

// probeFlags are those of the commands that send a probe.
type probeFlags struct {
	source     sourceFlags
	output     outputFlags
	save       saveFlags
	count      int
	timeout    time.Duration
	verbose    bool
	ipv4, ipv6 bool
	sourcePort uint16
	// of a ping
	sized bool
	size  int
	df    bool
	// of TCP
	sendBytes int
	// of UDP
	payload string
}

func (f *probeFlags) register(cmd *cobra.Command) {
	f.registerRun(cmd)
	cmd.Flags().IntVarP(&f.count, "count", "c", 1, "send `COUNT` probes and explain the first that fails")
}

// registerRun adds those of every run.
func (f *probeFlags) registerRun(cmd *cobra.Command) {
	f.count = 1
	f.source.register(cmd)
	f.output.register(cmd)
	f.save.register(cmd)
	flags := cmd.Flags()
	flags.DurationVar(&f.timeout, "timeout", 5*time.Second, "wait that long for each answer")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say on standard error what pathtrace itself does")
}

// check refuses values that make no sense.
func (f *probeFlags) check() error {
	switch {
	case f.count < 1 || f.count > 1000:
		return fmt.Errorf("-c %d: the number of probes is from 1 to 1000", f.count)
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %s: the time must be positive", f.timeout)
	case f.sourcePort != 0 && f.count > 1:
		return errors.New("--source-port is for one probe, without -c")
	case len(f.payload) > live.MaxPayload:
		return fmt.Errorf("--payload has %d bytes: a datagram holds at most %d", len(f.payload), live.MaxPayload)
	case f.sized && (f.size < probe.NonceSize || f.size > probe.MaxSize):
		return fmt.Errorf("--size %d: the size is from %d to %d bytes", f.size, probe.NonceSize, probe.MaxSize)
	case f.sendBytes != 0 && f.count > 1:
		return errors.New("--send-bytes is for one connection, without -c")
	case f.sendBytes < 0 || f.sendBytes > live.MaxSendBytes:
		return fmt.Errorf("--send-bytes %d: the number is from 0 to %d", f.sendBytes, live.MaxSendBytes)
	}
	if err := f.save.check(); err != nil {
		return err
	}
	return f.output.check()
}

// registerSize adds what a ping's size is about.
func (f *probeFlags) registerSize(cmd *cobra.Command) {
	f.sized = true
	cmd.Flags().IntVar(&f.size, "size", probe.DefaultSize, "send `BYTES` of data in the ping; the headers come on top, 28 bytes of IPv4 or 48 of IPv6")
	cmd.Flags().BoolVar(&f.df, "df", false, "do not let the ping be fragmented, here or on the way")
}

// registerFamily adds the choice of an address family.
func (f *probeFlags) registerFamily(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.ipv4, "ipv4", "4", false, "use an IPv4 address of the host")
	cmd.Flags().BoolVarP(&f.ipv6, "ipv6", "6", false, "use an IPv6 address of the host")
	cmd.MarkFlagsMutuallyExclusive("ipv4", "ipv6")
}

func (f *probeFlags) family() resolve.Family {
	switch {
	case f.ipv4:
		return resolve.IPv4
	case f.ipv6:
		return resolve.IPv6
	}
	return resolve.Any
}

// withAdvice tells an ordinary user what to do about a missing privilege.
func withAdvice(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w\ntracing needs root: run it with sudo (\"pathtrace demo\" needs no root)", err)
	}
	return err
}

func newPingCommand(env *environment) *cobra.Command {
	var flags probeFlags
	cmd := &cobra.Command{
		Use:   "ping HOST",
		Short: "Send an ICMP or ICMPv6 echo request and explain its way, there and back",
		Args:  arguments(1, 1, "one HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			want := flags.family()
			return flags.run(cmd.Context(), env, "ping", args[0], args[0], 0, want)
		},
	}
	flags.register(cmd)
	flags.registerSize(cmd)
	flags.registerFamily(cmd)
	return cmd
}

func newPing6Command(env *environment) *cobra.Command {
	var flags probeFlags
	cmd := &cobra.Command{
		Use:   "ping6 HOST",
		Short: "Send an ICMPv6 echo request and explain its way, there and back",
		Args:  arguments(1, 1, "one HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.run(cmd.Context(), env, "ping6", args[0], args[0], 0, resolve.IPv6)
		},
	}
	flags.register(cmd)
	flags.registerSize(cmd)
	return cmd
}

func newTCPCommand(env *environment) *cobra.Command {
	var flags probeFlags
	cmd := &cobra.Command{
		Use:   "tcp HOST:PORT",
		Short: "Open a TCP connection and explain the way of its first packet, there and back",
		Args:  arguments(1, 1, "one HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.runToPort(cmd.Context(), env, "tcp", args[0])
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&flags.sendBytes, "send-bytes", 0,
		fmt.Sprintf("after the handshake send `N` bytes of line ends, at most %d, and explain what is not acknowledged", live.MaxSendBytes))
	flags.registerFamily(cmd)
	cmd.Flags().Uint16Var(&flags.sourcePort, "source-port", 0, "connect from that `PORT`, as a program does that has one of its own")
	return cmd
}

func newUDPCommand(env *environment) *cobra.Command {
	var flags probeFlags
	cmd := &cobra.Command{
		Use:   "udp HOST:PORT",
		Short: "Send a UDP datagram and explain its way, and that of what comes back",
		Args:  arguments(1, 1, "one HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.runToPort(cmd.Context(), env, "udp", args[0])
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&flags.payload, "payload", "pathtrace\n", "send that `TEXT`; a saved bundle has it")
	flags.registerFamily(cmd)
	cmd.Flags().Uint16Var(&flags.sourcePort, "source-port", 0, "send from that `PORT`, as a program does that has one of its own")
	return cmd
}

// runToPort probes a HOST:PORT.
func (f *probeFlags) runToPort(ctx context.Context, env *environment, kind, target string) error {
	host, port, err := hostPort(target)
	if err != nil {
		return err
	}
	return f.run(ctx, env, kind, target, host, port, f.family())
}

func newDNSCommand(env *environment) *cobra.Command {
	var flags probeFlags
	var server string
	cmd := &cobra.Command{
		Use:   "dns NAME",
		Short: "Look a name up as the source does, and explain the way of each query",
		Args:  arguments(1, 1, "one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			lookup := live.Lookup{Want: flags.family()}
			if cmd.Flags().Changed("timeout") {
				lookup.Wait = flags.timeout
			}
			if server != "" {
				address, err := netip.ParseAddr(server)
				if err != nil || address.IsUnspecified() {
					return fmt.Errorf("--server %q is not the address of a name server", server)
				}
				lookup.Server = address.Unmap()
			}
			return flags.lookUp(cmd.Context(), env, args[0], lookup)
		},
	}
	flags.registerRun(cmd)
	flags.registerFamily(cmd)
	cmd.Flags().StringVar(&server, "server", "", "ask the name server with that `IP`, whatever the source's files say")
	return cmd
}

// lookUp traces the queries for a name.
func (f *probeFlags) lookUp(ctx context.Context, env *environment, name string, lookup live.Lookup) error {
	if err := f.check(); err != nil {
		return err
	}
	if err := resolve.CheckName(name); err != nil {
		return err
	}
	source, err := f.source.open(ctx)
	if err != nil {
		return withAdvice(err)
	}
	defer source.Close() //nolint:errcheck // a read-only descriptor
	if lookup.Files, err = resolve.ReadFiles(source, name); err != nil {
		return withAdvice(err)
	}
	lookup.Behind = lookup.Files.Behind
	if host, err := container.Find(ctx, container.Config{}); err == nil {
		others, _ := resolve.Servers(host) // those that a server on this machine is likely to ask
		lookup.Behind = append(lookup.Behind, others...)
		_ = host.Close()
	}
	return f.trace(ctx, env, live.Config{Kind: "dns", Source: source, Target: name, Lookup: &lookup})
}

// hostPort splits HOST:PORT.
func hostPort(text string) (host string, port uint16, err error) {
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT (an IPv6 address needs brackets, [2001:db8::1]:80): %w", text, err)
	}
	number, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || number == 0 {
		return "", 0, fmt.Errorf("%q: the port must be a number from 1 to 65535", text)
	}
	return host, uint16(number), nil
}

// run resolves the host as the source would, traces, and prints the report.
func (f *probeFlags) run(ctx context.Context, env *environment, kind, target, host string, port uint16, want resolve.Family) error {
	if err := f.check(); err != nil {
		return err
	}
	source, err := f.source.open(ctx)
	if err != nil {
		return withAdvice(err)
	}
	defer source.Close() //nolint:errcheck // a read-only descriptor
	resolved, err := resolve.Lookup(ctx, resolve.Config{Source: source, Name: host, Want: want})
	failure, _ := errors.AsType[*resolve.Error](err)
	if err != nil && (failure == nil || !failure.Traceable()) {
		return unresolved(withAdvice(err))
	}
	return f.trace(ctx, env, live.Config{
		Unresolved: failure,
		Kind:       kind, Source: source, Target: target, Resolved: resolved, Port: port, SourcePort: f.sourcePort,
		Size: f.size, DontFragment: f.df, SendBytes: f.sendBytes, Payload: []byte(f.payload),
		Count: f.count, Timeout: f.timeout,
	})
}

// trace makes the run and prints its report.
func (f *probeFlags) trace(ctx context.Context, env *environment, cfg live.Config) (err error) {
	cfg.Version, cfg.Engines = version, askEngines
	if f.verbose {
		cfg.Log = log.New(env.err, "pathtrace: ", log.Lmicroseconds).Printf
	}
	cfg.Print = func(r *report.Report) error { return f.output.write(env, r) }
	if cfg.Save, err = f.save.create(); err != nil {
		return err
	}
	r, err := live.Run(ctx, cfg)
	if err = errors.Join(err, cfg.Save.Close()); err != nil {
		if r == nil && f.save.file != "" {
			err = errors.Join(err, os.Remove(f.save.file)) // nothing is in it
		}
		return withAdvice(err)
	}
	env.status = outcomeStatus(r)
	return nil
}

// unresolved gives a missing name or address the status of a failed probe:
// the source cannot reach the host, which is an answer.
func unresolved(err error) error {
	if _, ok := errors.AsType[*resolve.Error](err); ok {
		return &exitError{status: exitFailed, err: err}
	}
	return err
}
