//go:build linux

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"
	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/spf13/cobra"
)

func newTopologyCommand(env *environment) *cobra.Command {
	var source sourceFlags
	var ipv4, ipv6 bool
	output := choice{value: "text", valid: []string{"text", "json"}}
	cmd := &cobra.Command{
		Use:   "topology [HOST]",
		Short: "Show the namespaces and interfaces on the way to a host, without sending it a packet",
		Long: `Show the namespaces and interfaces on the way to a host, and the route that each
namespace takes. Without a host it is the way of the source's default routes.
Nothing is sent but the DNS query for a name.`,
		Args: arguments(0, 1, "at most one HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := source.open(cmd.Context())
			if err != nil {
				return err
			}
			defer from.Close() //nolint:errcheck // a read-only descriptor
			config := topology.Config{Source: from.NetNS, SourceName: from.Name}
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
			if output.value == "json" {
				encoder := json.NewEncoder(env.out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(snapshot)
			}
			drawing := asciiDrawing
			if f, ok := env.out.(*os.File); ok && term.IsTerminal(f.Fd()) && localeIsUTF8() {
				drawing = boxDrawing
			}
			return printTopology(env.out, snapshot, title, drawing)
		},
	}
	source.register(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&ipv4, "ipv4", "4", false, "use an IPv4 address of the host")
	flags.BoolVarP(&ipv6, "ipv6", "6", false, "use an IPv6 address of the host")
	cmd.MarkFlagsMutuallyExclusive("ipv4", "ipv6")
	flags.VarP(&output, "output", "o", "form of the output: text or json")
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.valid, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a mistake in this file
	}
	return cmd
}

// drawing are the strokes of a tree: before a branch, before the last one,
// and before what is below each; and an arrow.
type drawing struct{ branch, last, below, none, arrow string }

var (
	boxDrawing   = drawing{"├─ ", "└─ ", "│  ", "   ", "→"}
	asciiDrawing = drawing{"|- ", "`- ", "|  ", "   ", "->"}
)

// node is a line of the tree, with further lines of its own and what is below.
type node struct {
	lines    []string
	children []node
}

func (n node) print(b *strings.Builder, first, rest string, d drawing) {
	for i, line := range n.lines {
		if i == 0 {
			b.WriteString(first)
		} else {
			b.WriteString(rest)
			if len(n.children) > 0 {
				b.WriteString(d.below)
			} else {
				b.WriteString(d.none)
			}
		}
		b.WriteString(strings.TrimRight(line, " "))
		b.WriteByte('\n')
	}
	for i, child := range n.children {
		if i < len(n.children)-1 {
			child.print(b, rest+d.branch, rest+d.below, d)
		} else {
			child.print(b, rest+d.last, rest+d.none, d)
		}
	}
}

// printTopology draws a snapshot: a tree for each namespace, in the order in
// which a packet reaches them.
func printTopology(w io.Writer, s *topology.Snapshot, title string, d drawing) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", report.Escape(s.Source), d.arrow, report.Escape(title))
	for i := range s.Namespaces {
		b.WriteByte('\n')
		namespaceNode(s, &s.Namespaces[i], d).print(&b, "", "", d)
	}
	for _, problem := range s.Problems {
		fmt.Fprintf(&b, "\nnot read: %s\n", report.Escape(problem))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func namespaceNode(s *topology.Snapshot, n *topology.Namespace, d drawing) node {
	root := node{lines: []string{report.Escape(n.Name)}}
	var forwards []string
	if n.All.ForwardIPv4 {
		forwards = append(forwards, "IPv4")
	}
	if n.All.ForwardIPv6 {
		forwards = append(forwards, "IPv6")
	}
	if len(forwards) > 0 {
		root.lines[0] += "  forwards " + strings.Join(forwards, " and ")
	}
	for i := range n.Links {
		if link := &n.Links[i]; link.Bridge == "" && worthShowing(link) {
			root.children = append(root.children, linkNode(s, n, link, d))
		}
	}
	for _, step := range s.Steps {
		if step.NetNS == n.Name {
			root.children = append(root.children, node{lines: stepLines(step)})
		}
	}
	return root
}

// worthShowing leaves out what every namespace has and nothing uses: the
// loopback without further addresses, and the tunnels that kernel modules make.
func worthShowing(link *topology.Link) bool {
	switch link.Role {
	case capture.RoleLoopback:
		return !link.Up || slices.ContainsFunc(link.Addresses, func(p netip.Prefix) bool { return !p.Addr().IsLoopback() })
	case capture.RoleTunnel:
		return link.Up || len(link.Addresses) > 0
	}
	return true
}

func linkNode(s *topology.Snapshot, n *topology.Namespace, link *topology.Link, d drawing) node {
	words := []string{fmt.Sprintf("%-15s %-9s %-10s mtu %d", report.Escape(link.Name), link.Role, linkState(link), link.MTU)}
	if link.Port != nil && link.Port.State != "forwarding" {
		words = append(words, "port "+link.Port.State)
	}
	switch {
	case link.Peer != nil:
		words = append(words, d.arrow+" "+peerText(link.Peer))
	case link.Lower != nil:
		words = append(words, "on "+peerText(link.Lower))
	}
	result := node{lines: []string{strings.Join(words, "  ")}}
	for _, prefix := range link.Addresses {
		line := prefix.String()
		if flags := link.AddressFlags[prefix.Addr()]; len(flags) > 0 {
			line += " " + strings.Join(flags, " ")
		}
		result.lines = append(result.lines, line)
	}
	if link.Kind != "bridge" {
		return result
	}
	others := 0
	for i := range n.Links {
		switch port := &n.Links[i]; {
		case port.Bridge != link.Name:
		case port.Peer != nil && port.Peer.NetNS != "" && s.Namespace(port.Peer.NetNS) == nil:
			others++ // leads to a namespace that is not on the way
		default:
			result.children = append(result.children, linkNode(s, n, port, d))
		}
	}
	switch {
	case others == 1:
		result.children = append(result.children, node{lines: []string{"1 more port, not on the way"}})
	case others > 1:
		result.children = append(result.children, node{lines: []string{fmt.Sprintf("%d more ports, not on the way", others)}})
	}
	return result
}

func linkState(link *topology.Link) string {
	switch {
	case !link.Up:
		return "down"
	case !link.Carrier:
		return "no-carrier"
	}
	return "up"
}

func peerText(peer *topology.Peer) string {
	switch {
	case peer.NetNS == "":
		return "a namespace that cannot be seen"
	case peer.Interface == "":
		return report.Escape(peer.NetNS)
	}
	return report.Escape(peer.NetNS + "/" + peer.Interface)
}

func stepLines(step topology.Step) []string {
	target := step.Target.String()
	if step.Target.IsUnspecified() {
		target = "default"
	}
	var line string
	switch {
	case step.Delivered:
		return []string{"to " + target + ": delivered here"}
	case step.Route == "" && step.Policy == "":
		line = "to " + target + ": no route"
	case step.Route == "":
		line = "to " + target + ": policy rule " + report.Escape(step.Policy)
	default:
		line = "to " + target + ": " + report.Escape(step.Route)
	}
	lines := []string{line}
	if step.Route != "" && !ordinary(step.Policy) {
		lines = append(lines, "by policy rule "+report.Escape(step.Policy))
	}
	if step.Undetermined != "" {
		lines = append(lines, "not certain: "+report.Escape(step.Undetermined))
	}
	return lines
}

// ordinary reports whether a policy rule is one that every namespace has.
func ordinary(policy string) bool {
	return slices.Contains([]string{"", "0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default"}, policy)
}
