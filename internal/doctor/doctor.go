// Package doctor finds what is wrong with the networks of containers without a
// packet being sent: from links, addresses, routes, rules and the configuration
// of Docker. It is pure. A finding is an error only where it is certain that
// packets which the network is there for are lost; what may be meant is a
// warning, what is worth knowing a note.
package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// The codes of findings that are no causes of a probe's end. They are a promise
// to scripts, as those of causes are.
const (
	LegacyBesideNFT = "LEGACY_BESIDE_NFT"
	RAIgnored       = "RA_IGNORED"
	DockerConfig    = "DOCKER_CONFIG"
)

// The severities.
const (
	severe  = "error"
	warning = "warning"
	note    = "note"
)

// Input is what was read.
type Input struct {
	Topology *topology.Snapshot
	// LeftOut is how many namespaces are not in the snapshot because there were
	// too many.
	LeftOut int
	// Rules are the rulesets by namespace; Unread says why one is missing or
	// not complete.
	Rules  map[string]*ruletrace.Ruleset
	Unread map[string]string
	// Docker is what is known of Docker's networks.
	Docker Docker
	// Engines are what all engines with an API say of themselves.
	Engines []engine.View
	// Servers are the DNS servers of a namespace's resolv.conf; nil for one that
	// was not read.
	Servers map[string][]netip.Addr
	// Enter is what has to stand before a command so that it runs in a
	// namespace; no entry for the host.
	Enter map[string]string
	// Missing is what could not be read beside rules.
	Missing []report.Unchecked
}

// Examination is what was found.
type Examination struct {
	Findings  []report.Finding
	Evidence  []report.Evidence
	Checked   []string
	Unchecked []report.Unchecked
}

// checks are all that is looked at, in the order in which it is told.
var checks = []struct {
	name string
	run  func(*exam)
}{
	{"links", (*exam).links},
	{"addresses", (*exam).addresses},
	{"overlapping networks", (*exam).overlaps},
	{"Docker's configuration", (*exam).daemon},
	{"routes", (*exam).routes},
	{"forwarding", (*exam).forwarding},
	{"filter rules", (*exam).filters},
	{"address translation", (*exam).translations},
	{"legacy iptables beside nft", (*exam).tools},
	{"MTU", (*exam).mtu},
	{"router advertisements", (*exam).advertisements},
	{"conntrack table", (*exam).conntrack},
	{"DNS servers", (*exam).servers},
}

// exam is one examination.
type exam struct {
	in   *Input
	host *topology.Namespace
	// internet4 and internet6 stand for any address in the internet.
	internet4, internet6 netip.Addr
	networks             []network
	result               Examination
	// check is the name of the check that runs, and well says that it found
	// nothing worse than a note and could look everywhere.
	check string
	well  bool
}

// Examine makes all checks.
func Examine(in Input) Examination {
	e := &exam{in: &in, host: in.Topology.Namespace(topology.HostName)}
	e.result.Unchecked = slices.Clone(in.Missing)
	if e.host == nil {
		e.check = "host"
		e.unchecked("its namespace could not be looked into")
		return e.result
	}
	e.internet4, e.internet6 = usualOf(internet4, in.Topology.Namespaces), usualOf(internet6, in.Topology.Namespaces)
	e.check = "namespaces"
	e.unseen()
	e.networks = e.findNetworks()
	for _, c := range checks {
		e.check = c.name
		e.well = !slices.ContainsFunc(in.Missing, func(u report.Unchecked) bool { return u.Check == c.name })
		c.run(e)
		if e.well {
			e.result.Checked = append(e.result.Checked, c.name)
		}
	}
	order := []string{severe, warning, note}
	slices.SortStableFunc(e.result.Findings, func(a, b report.Finding) int {
		return cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity))
	})
	return e.result
}

// unseen says which namespaces are not in the snapshot.
func (e *exam) unseen() {
	for _, problem := range e.in.Topology.Problems {
		e.unchecked("%s", problem)
	}
	if e.in.LeftOut > 0 {
		e.unchecked("%d were left out, because there are too many; look at one container at a time", e.in.LeftOut)
	}
	var dark []string
	for i := range e.host.Links {
		if l := &e.host.Links[i]; l.Bridge != "" && l.Peer != nil && l.Peer.NetNS == "" {
			dark = append(dark, l.Name)
		}
	}
	if n := len(dark); n > maxListed {
		dark = append(dark[:maxListed], fmt.Sprintf("%d more", n-maxListed))
	}
	if len(dark) > 0 {
		e.unchecked("what is behind %s cannot be looked into", strings.Join(dark, ", "))
	}
}

// maxListed is how many names a sentence has.
const maxListed = 5

// unchecked says why the running check could not be made.
func (e *exam) unchecked(format string, values ...any) {
	e.well = false
	u := report.Unchecked{Check: e.check, Reason: fmt.Sprintf(format, values...)}
	if !slices.Contains(e.result.Unchecked, u) {
		e.result.Unchecked = append(e.result.Unchecked, u)
	}
}

// fact adds evidence; the same fact has one id.
func (e *exam) fact(kind, netns, format string, values ...any) string {
	text := fmt.Sprintf(format, values...)
	all := e.result.Evidence
	i := slices.IndexFunc(all, func(v report.Evidence) bool { return v.Kind == kind && v.NetNS == netns && v.Text == text })
	if i < 0 {
		i = len(all)
		e.result.Evidence = append(all, report.Evidence{ID: fmt.Sprintf("fact-%d", i+1), Kind: kind, NetNS: netns, Text: text})
	}
	return e.result.Evidence[i].ID
}

// advise adds a finding with commands, and the words before them when there are
// any.
func (e *exam) advise(f report.Finding, words string, fix []string) {
	if len(fix) > 0 {
		f.Summary, f.Fix = f.Summary+" "+words, fix
	}
	e.find(f)
}

// find adds a finding; one that is there already is not added again.
func (e *exam) find(f report.Finding) {
	e.well = e.well && f.Severity == note
	if f.Fix == nil {
		f.Fix = []string{}
	}
	if !slices.ContainsFunc(e.result.Findings, func(g report.Finding) bool { return g.Code == f.Code && g.Summary == f.Summary }) {
		e.result.Findings = append(e.result.Findings, f)
	}
}

// commands are lines that run in a namespace. They are nil when pathtrace does
// not know how to enter it, or when a name must not be written into a command.
func (e *exam) commands(netns string, names []string, lines ...string) []string {
	prefix := ""
	if netns != topology.HostName {
		if prefix = e.in.Enter[netns]; prefix == "" {
			return nil
		}
		prefix += " "
	}
	if len(lines) == 0 || slices.ContainsFunc(names, func(n string) bool { return !diagnose.PlainName(n) }) {
		return nil
	}
	all := make([]string, len(lines))
	for i, line := range lines {
		all[i] = prefix + line
	}
	return all
}

// setting is the name of an interface's switch, as sysctl takes it also when the
// interface has a dot in its own.
func setting(ip, link, name string) string {
	if strings.Contains(link, ".") {
		return fmt.Sprintf("net/%s/conf/%s/%s", ip, link, name)
	}
	return fmt.Sprintf("net.%s.conf.%s.%s", ip, link, name)
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "IPv6"
	}
	return "IPv4"
}
