package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// printWay prints what topology found as text or JSON.
func printWay(w io.Writer, l *evidence.Listing, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			*topology.Snapshot
			Container *engine.Description `json:"container,omitempty"`
			Note      string              `json:"note,omitempty"`
		}{l.Topology, l.Container, l.Note})
	}
	drawing := asciiDrawing
	if f, ok := w.(*os.File); ok && term.IsTerminal(f.Fd()) && localeIsUTF8() {
		drawing = boxDrawing
	}
	return errors.Join(printTopology(w, l.Topology, l.Target, drawing), printContainer(w, l))
}

// printContainer prints what an engine says of the source.
func printContainer(w io.Writer, l *evidence.Listing) error {
	var b strings.Builder
	if l.Note != "" {
		fmt.Fprintf(&b, "\nnote: %s\n", report.Escape(l.Note))
	}
	if d := l.Container; d != nil {
		fmt.Fprintf(&b, "\n%s as %s knows it\n", report.Escape(d.Container.Name), report.Escape(d.Engine))
		for _, line := range d.Lines() {
			fmt.Fprintf(&b, "  %s\n", report.Escape(line))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
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

// print prints the lines, which may come from a file, and what is below.
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
		b.WriteString(report.Escape(strings.TrimRight(line, " ")))
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
	root := node{lines: []string{n.Name}}
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
	words := []string{fmt.Sprintf("%-15s %-9s %-10s mtu %d", link.Name, link.Role, linkState(link), link.MTU)}
	if link.Port != nil && link.Port.State != "forwarding" {
		words = append(words, "port "+link.Port.State)
	}
	switch {
	case link.Peer != nil:
		words = append(words, d.arrow+" "+peerText(link.Peer))
	case link.Macvlan():
		words = append(words, "macvlan "+link.Mode+" on "+peerText(link.Lower))
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
	if link.Kind != "bridge" || link.Bridge != "" { // no bridge is a port of another (br_add_if)
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
		return peer.NetNS
	}
	return peer.NetNS + "/" + peer.Interface
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
		line = "to " + target + ": policy rule " + step.Policy
	default:
		line = "to " + target + ": " + step.Route
	}
	lines := []string{line}
	if step.Route != "" && !ordinary(step.Policy) {
		lines = append(lines, "by policy rule "+step.Policy)
	}
	if step.Undetermined != "" {
		lines = append(lines, "not certain: "+step.Undetermined)
	}
	return lines
}

// ordinary reports whether a policy rule is one that every namespace has.
func ordinary(policy string) bool {
	return slices.Contains([]string{"", "0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default"}, policy)
}
