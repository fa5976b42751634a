//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ToolError says that a program is missing that the network is built with.
type ToolError struct {
	Tool string
}

func (e *ToolError) Error() string {
	pkg := "iptables"
	switch e.Tool {
	case "nft":
		pkg = "nftables"
	case "ip", "tc":
		pkg = "iproute2"
	case "conntrack":
		pkg = "conntrack"
	}
	return fmt.Sprintf("%s is not on PATH: install the package %s, or run make tools and put build/tools/bin first on PATH", e.Tool, pkg)
}

// lockFile makes iptables-legacy lock the namespace. Its usual lock file is the
// machine's.
const lockFile = "XTABLES_LOCKFILE=/proc/self/ns/net"

// run runs a tool in the namespace.
func (n *node) run(stdin, tool string, args ...string) {
	n.do(fmt.Sprintf("run %s %s in %s", tool, strings.Join(args, " "), n.name), func() error {
		path, err := exec.LookPath(tool)
		if errors.Is(err, exec.ErrNotFound) {
			return &ToolError{Tool: tool}
		}
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(n.ctx, path, n.disguise.texts(args)...)
		cmd.Env = append(os.Environ(), lockFile)
		cmd.Stdin = strings.NewReader(n.disguise.text(stdin))
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := n.ns.Do(cmd.Run); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(output.Bytes()))
		}
		return nil
	})
}

// nft loads rules in the syntax of nft.
func (n *node) nft(ruleset string) { n.run(ruleset, "nft", "-f", "-") }

// iptables loads rules in the syntax of iptables-save: "*table", ":CHAIN
// POLICY" ("-" for a chain to be made) and "-A …" lines. Empty lines are
// allowed.
func (n *node) iptables(backend Backend, ipv6 bool, ruleset string) {
	tool := backend.tool(ipv6)
	var table string
	for line := range strings.Lines(ruleset) {
		words := split(line)
		if len(words) == 0 {
			continue
		}
		switch first := words[0]; first[0] {
		case '*':
			table = first[1:]
			continue
		case ':':
			if chain := first[1:]; words[1] == "-" {
				words = []string{"-N", chain}
			} else {
				words = []string{"-P", chain, words[1]}
			}
		}
		n.run("", tool, append([]string{"-w", "-t", table}, words...)...)
	}
}

// insert puts a rule first in its chain.
func (n *node) insert(rule Rule) {
	if rule.Backend == NFT {
		n.nft(fmt.Sprintf("insert rule %s %s %s %s\n", rule.Family, rule.Table, rule.Chain, rule.Text))
		return
	}
	n.iptables(rule.Backend, rule.Family == "ip6", fmt.Sprintf("*%s\n%s\n", rule.Table, strings.Replace(rule.Text, "-A", "-I", 1)))
}

// breakWith makes the faults that were asked for.
func (b *builder) breakWith(options Options) {
	for _, fault := range b.network.Scenario.Broken(options.Break) {
		var rule Rule
		if fault.rule != nil {
			rule = fault.rule(options.Backend)
		}
		if fault.apply != nil {
			fault.apply(b.nodes[fault.netns], rule)
		} else {
			b.nodes[fault.netns].insert(rule)
		}
	}
}

// beside is the backend of the rules that nft cannot write.
func beside(backend Backend) Backend {
	if backend == IPTablesLegacy {
		return IPTablesLegacy
	}
	return IPTablesNFT
}

// tool is the program that writes rules of the backend.
func (b Backend) tool(ipv6 bool) string {
	if ipv6 && b != NFT {
		return strings.Replace(string(b), "ip", "ip6", 1)
	}
	return string(b)
}

// nftRule makes a Rule of a line of "nft list ruleset".
func nftRule(family, table, chain, text string) Rule {
	return Rule{Backend: NFT, Family: family, Table: table, Chain: chain, Text: text, Comment: quoted(text)}
}

// iptablesRule makes a Rule of a line of iptables-save.
func iptablesRule(backend Backend, ipv6 bool, table, text string) Rule {
	family := "ip"
	if ipv6 {
		family = "ip6"
	}
	words := split(text)
	chain := words[0][1:]
	if words[0] == "-A" {
		chain = words[1]
	}
	return Rule{Backend: backend, Family: family, Table: table, Chain: chain, Text: text, Comment: quoted(text)}
}

// quoted returns the comment of a rule: what follows the word comment, in
// quotes.
func quoted(text string) string {
	_, comment, _ := strings.Cut(text, `comment "`)
	comment, _, _ = strings.Cut(comment, `"`)
	return comment
}

// split splits a line into words; a word with blanks stands in double quotes.
func split(line string) []string {
	var words []string
	for i, part := range strings.Split(strings.TrimSpace(line), `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
