package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/offline"
	"github.com/pathtrace/pathtrace/report"
)

// captureFlags are the flags of analyze for captures that were made by others.
type captureFlags struct {
	points                   []string
	conntrack, traces, rules []string
	flow, maxFlows           int
	src, dst                 prefix
	sport, dport             uint16
	protocol                 protocol
	flags                    *pflag.FlagSet
}

// register adds the flags, with completion of their values, to a command.
func (c *captureFlags) register(cmd *cobra.Command) {
	f := pflag.NewFlagSet("captures", pflag.ContinueOnError)
	c.flags = f
	f.StringArrayVar(&c.points, "point", nil, "`FILE=NAME`: the place of a capture, as \"cnt01\" or \"cnt01/eth0\" (default its interface's name, or the file's)")
	f.StringArrayVar(&c.conntrack, "conntrack", nil, "`FILE` with output of conntrack -E or -L, xml too, or /proc/net/nf_conntrack")
	f.StringArrayVar(&c.traces, "trace", nil, "`FILE` with TRACE lines of the kernel, or output of nft monitor trace or xtables-monitor --trace")
	f.StringArrayVar(&c.rules, "rules", nil, "`FILE` with output of iptables-save or nft list ruleset, or of docker network inspect for names")
	f.IntVar(&c.flow, "flow", 0, "explain flow `N` of the table")
	f.Var(&c.src, "src", "only flows with packets from that address or prefix, before or after NAT")
	f.Var(&c.dst, "dst", "only flows with packets to that address or prefix, before or after NAT")
	f.Uint16Var(&c.sport, "sport", 0, "only flows with packets from that `PORT`, before or after NAT")
	f.Uint16Var(&c.dport, "dport", 0, "only flows with packets to that `PORT`, before or after NAT")
	f.VarP(&c.protocol, "protocol", "p", "only this protocol: "+strings.Join(protocolNames(), ", ")+" or a number")
	f.IntVar(&c.maxFlows, "max-flows", flows.DefaultMaxFlows, "keep `N` flows at a time, which bounds memory; those that have been idle longest give way")
	cmd.Flags().AddFlagSet(f)
	if err := cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(protocolNames(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this file
	}
}

// used are the flags that were given.
func (c *captureFlags) used() []string {
	var names []string
	c.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// analyzeCaptures reads captures that others made, joins what they saw, and
// prints the flows, or explains the one that was asked for.
func (f *analyzeFlags) analyzeCaptures(ctx context.Context, env *environment, sources []offline.Source) error {
	c := &f.captures
	started := time.Now()
	logs, err := offline.ReadLogs(c.logs())
	if err != nil {
		return err
	}
	for i := range sources { // saved runs among them say more than packets
		run, err := readBundle(&sources[i])
		if err == nil {
			logs.AddRun(offline.Machine(sources[i].Name), run)
		}
	}
	bar := newProgressBar(env)
	in, err := offline.Read(ctx, sources, logs, offline.Config{MaxFlows: c.maxFlows, Progress: bar.update})
	bar.clear()
	if err != nil {
		return err
	}
	for _, r := range in.Refused {
		fmt.Fprintf(env.err, "pathtrace: %s is left out: %s\n", report.Escape(r.Name), report.Escape(r.Err.Error())) //nolint:errcheck // nowhere left to tell
	}
	in.Version, in.Started, in.Finished = version, started, time.Now()
	return f.explain(ctx, env, in)
}

// explain prints the flows that were asked for, or explains the only one.
func (f *analyzeFlags) explain(ctx context.Context, env *environment, in *offline.Input) error {
	c := &f.captures
	s := offline.Selection{
		Flow: c.flow, Proto: c.protocol.value, Src: c.src.value, Dst: c.dst.value, SrcPort: c.sport, DstPort: c.dport,
	}
	if n := len(in.Result.Flows); c.flow > n {
		return fmt.Errorf("--flow %d: the captures hold no more than %d", c.flow, n)
	}
	r := offline.Table(in, s, report.Detail(f.output.detail.value).Rows())
	if selected := in.Selected(&s); s != (offline.Selection{}) && len(selected) == 1 {
		var err error
		if r, err = offline.Explain(ctx, in, selected[0]); err != nil {
			return err
		}
		if env.status = outcomeStatus(r); env.status == exitOK && incomplete(&in.Result.Flows[selected[0]]) {
			env.status = exitFailed // as when some of several probes are lost
		}
	}
	if in.Result.Interrupted {
		env.status = exitInconclusive
	}
	return f.output.write(env, r)
}

// incomplete reports whether packets of an answered flow are missing, or got no
// answer.
func incomplete(f *flows.Flow) bool { return f.Fall != nil || f.Unfinished() }

// logs are the files that the flags name.
func (c *captureFlags) logs() offline.LogFiles {
	files := func(names []string) []offline.LogFile {
		var all []offline.LogFile
		for _, name := range names {
			all = append(all, offline.LogFile{Name: filepath.Base(name), Open: func() (io.ReadCloser, error) { return os.Open(name) }})
		}
		return all
	}
	return offline.LogFiles{Conntrack: files(c.conntrack), Trace: files(c.traces), Rules: files(c.rules)}
}

// sources are the files, with the names of their places.
func (c *captureFlags) sources(files []string) ([]offline.Source, error) {
	switch {
	case c.flags.Changed("flow") && c.flow < 1:
		return nil, fmt.Errorf("--flow %d: flows are numbered from 1", c.flow)
	case c.maxFlows < 1:
		return nil, fmt.Errorf("--max-flows %d: at least one has to be kept", c.maxFlows)
	}
	sources := make([]offline.Source, 0, len(files))
	given := make(map[string]int)
	for _, file := range files {
		if _, ok := given[file]; ok {
			return nil, fmt.Errorf("%s is given twice", file)
		}
		given[file] = len(sources)
		sources = append(sources, offline.Source{Path: file, Name: file})
	}
	for _, point := range c.points {
		at := strings.LastIndexByte(point, '=')
		if at < 0 || point[at+1:] == "" {
			return nil, fmt.Errorf("--point %s: is not FILE=NAME", point)
		}
		i, ok := given[point[:at]]
		if !ok {
			return nil, fmt.Errorf("--point %s: there is no capture %s among the arguments", point, point[:at])
		}
		sources[i].Point = point[at+1:]
	}
	return sources, nil
}

// prefix is a flag that takes an address or a prefix; the zero value is none.
type prefix struct{ value netip.Prefix }

func (p *prefix) String() string {
	if !p.value.IsValid() {
		return ""
	}
	return p.value.String()
}

func (p *prefix) Set(text string) error {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap().WithZone("")
		p.value = netip.PrefixFrom(addr, addr.BitLen())
		return nil
	}
	value, err := netip.ParsePrefix(text)
	if err != nil {
		return errors.New("must be an address or a prefix, such as 192.0.2.7 or 192.0.2.0/24")
	}
	p.value = value.Masked()
	return nil
}

func (p *prefix) Type() string { return "ADDRESS" }
