//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/doctor"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

func newDoctorCommand(env *environment) *cobra.Command {
	var source sourceFlags
	var save saveFlags
	output := choice{value: "text", valid: []string{"text", "json"}}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the networks of containers without sending a packet",
		Long: `Look for what is wrong with the networks of containers: networks that overlap
with routes, forwarding, filter rules, address translation, MTU, links, DNS
servers. Nothing is sent and nothing is changed. Without a source all containers
of this host are looked at.

The exit status is 1 when there is an error; warnings and notes leave it 0.`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := save.check(); err != nil {
				return err
			}
			from, err := source.open(cmd.Context())
			if err != nil {
				return err
			}
			defer from.Close() //nolint:errcheck // a read-only descriptor
			listing, err := survey(cmd.Context(), from)
			if err != nil {
				return err
			}
			found := examined(listing)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			saved := save.keep(listing)
			env.status = checkupStatus(found)
			return errors.Join(printCheckup(env.out, found, output.value, choice{value: "auto"}), saved)
		},
	}
	source.register(cmd)
	cmd.Flags().VarP(&output, "output", "o", "form of the output: text or json")
	save.registerFile(cmd)
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.valid, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this file
	}
	return cmd
}

// survey reads all that can be read, to be examined.
func survey(ctx context.Context, source *container.Source) (*evidence.Listing, error) {
	snapshot, handles, left, err := topology.Survey(ctx, topology.Config{Source: source.NetNS, SourceName: source.Name})
	if err != nil {
		return nil, err
	}
	defer handles.Close() //nolint:errcheck // read-only descriptors
	snapshot, err = settled(ctx, snapshot, handles)
	if err != nil {
		return nil, err
	}
	in := doctor.Input{
		Topology: snapshot, LeftOut: left,
		Rules: make(map[string]*ruletrace.Ruleset), Unread: make(map[string]string),
		Servers: make(map[string][]netip.Addr), Enter: make(map[string]string),
	}
	readRules(ctx, handles, &in)
	readDocker(ctx, &in)
	readServers(ctx, source, &in)
	for i := range snapshot.Namespaces {
		if name := snapshot.Namespaces[i].Name; name != topology.HostName {
			in.Enter[name] = container.Enter(name)
		}
	}
	if source.PID != 0 && source.Name != topology.HostName {
		in.Enter[snapshot.Source] = fmt.Sprintf("nsenter --target %d --net", source.PID)
	}
	running, err := container.Containers(ctx, container.Config{})
	if err != nil {
		in.Missing = append(in.Missing, report.Unchecked{Check: "names of containers", Reason: err.Error()})
	}
	nameContainers(&in, running)
	return &evidence.Listing{
		Command: evidence.Doctor, Version: version,
		Source: report.Source{
			Kind: string(source.Kind), Name: source.Name, Engine: source.Engine, ID: source.ID, NetNS: snapshot.Source, Note: source.Note,
		},
		Examined: &in,
	}, nil
}

// The time that is given to what changes by itself, such as duplicate address
// detection.
const (
	settleTime = 3 * time.Second
	settleStep = 250 * time.Millisecond
)

// settled takes the snapshot again until nothing in it is about to change, or
// the time is over.
func settled(ctx context.Context, snapshot *topology.Snapshot, handles *topology.Handles) (*topology.Snapshot, error) {
	for range settleTime / settleStep {
		if !snapshot.Unsettled() {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settleStep):
		}
		snapshot = handles.Reread()
	}
	return snapshot, nil
}

// readRules reads the rulesets of the host and of the source: others' rules
// explain nothing that is looked for.
func readRules(ctx context.Context, handles *topology.Handles, in *doctor.Input) {
	for _, name := range []string{topology.HostName, in.Topology.Source} {
		ns := handles.Get(name)
		if ns == nil || in.Rules[name] != nil {
			continue
		}
		resolver := ruletrace.NewResolver(ns, name)
		rules, err := resolver.Ruleset(ctx)
		in.Rules[name] = rules
		if err := errors.Join(err, resolver.Close()); err != nil {
			in.Unread[name] = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
	}
}

// readDocker asks the engines for their networks, and reads the configuration of
// Docker's daemon. That there is no engine is no problem.
func readDocker(ctx context.Context, in *doctor.Input) {
	missing := func(err error) {
		in.Missing = append(in.Missing, report.Unchecked{Check: "Docker's configuration", Reason: err.Error()})
	}
	views, problems := askEngines(ctx)
	for _, problem := range problems {
		missing(errors.New(problem))
	}
	in.Engines = views
	for _, v := range views {
		if v.Engine == "docker" && v.Owner == 0 {
			in.Docker.Networks = append(in.Docker.Networks, v.Networks...)
		}
	}
	host, err := container.Find(ctx, container.Config{})
	if err != nil {
		missing(err)
		return
	}
	defer host.Close() //nolint:errcheck // a read-only descriptor
	content, _, err := host.ReadEtc("docker/daemon.json")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		in.Docker.Config, err = doctor.ParseDaemon(content)
	}
	if err != nil {
		missing(err)
	}
}

// nameContainers gives the namespaces of containers, which have no name of their
// own, the names that people know them by.
func nameContainers(in *doctor.Input, running []container.Running) {
	for i := range in.Topology.Namespaces {
		ns := &in.Topology.Namespaces[i]
		old := ns.Name
		if !engineMade(old) {
			continue
		}
		for _, c := range running {
			if c.NetNS != ns.ID || !in.Topology.Rename(old, c.Name) {
				continue
			}
			in.Enter[c.Name] = fmt.Sprintf("nsenter --target %d --net", c.PID)
			delete(in.Enter, old)
			rename(in.Servers, old, c.Name)
			rename(in.Rules, old, c.Name)
			rename(in.Unread, old, c.Name)
			for k := range in.Missing {
				in.Missing[k].Reason = strings.Replace(in.Missing[k].Reason, old+": ", c.Name+": ", 1)
			}
			break
		}
	}
}

// engineMade reports whether the name of a namespace tells people nothing: those
// of processes and of Docker's namespaces, and the ones that Podman (netns-) and
// network plugins of Kubernetes (cni-) give.
func engineMade(name string) bool {
	return slices.ContainsFunc([]string{"pid ", "docker ", "netns-", "cni-"}, func(begin string) bool { return strings.HasPrefix(name, begin) })
}

// rename moves what is known of a namespace to its new name.
func rename[V any](known map[string]V, from, to string) {
	if v, found := known[from]; found {
		known[to] = v
		delete(known, from)
	}
}

// readServers reads the resolv.conf of every namespace that has a name or a
// process.
func readServers(ctx context.Context, source *container.Source, in *doctor.Input) {
	for i := range in.Topology.Namespaces {
		ns := &in.Topology.Namespaces[i]
		if ns.Name == topology.HostName {
			continue
		}
		servers, err := serversOf(ctx, source, ns)
		in.Servers[ns.Name] = servers
		if err != nil {
			in.Missing = append(in.Missing, report.Unchecked{Check: "DNS servers", Reason: fmt.Sprintf("%s: %v", ns.Name, err)})
		}
	}
}

func serversOf(ctx context.Context, source *container.Source, ns *topology.Namespace) ([]netip.Addr, error) {
	if source.NetNS.ID() != ns.ID {
		found, err := byName(ctx, ns)
		if err != nil || found == nil {
			return nil, err
		}
		defer found.Close() //nolint:errcheck // a read-only descriptor
		source = found
	}
	return resolve.Servers(source)
}

// byName opens a namespace by what topology calls it; nil when it is another one
// by now, or has no files of its own.
func byName(ctx context.Context, ns *topology.Namespace) (*container.Source, error) {
	config := container.Config{NetNS: ns.Name}
	if pid, found := strings.CutPrefix(ns.Name, "pid "); found {
		config = container.Config{}
		config.PID, _ = strconv.Atoi(pid)
	}
	if strings.ContainsAny(ns.Name, " #/") && config.PID <= 0 {
		return nil, nil
	}
	found, err := container.Find(ctx, config)
	if err != nil {
		return nil, err
	}
	if found.NetNS.ID() != ns.ID {
		return nil, found.Close()
	}
	return found, nil
}
