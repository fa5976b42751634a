package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/owner"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// ownerOf is the program that a rule of the host's belongs to. The daemon may be
// that of another namespace, so a network counts where the host has its bridge.
func (e *exam) ownerOf(r *ruletrace.Rule) report.Owner {
	host := e.in.Topology.Namespace(topology.HostName)
	networks := slices.DeleteFunc(slices.Clone(e.in.Docker.Networks), func(n engine.Network) bool { return !host.Has(n.Bridge, n.Prefixes) })
	return owner.Of(&report.Rule{Family: r.Family, Table: r.Table, Chain: r.Chain, Text: r.Text, Comment: r.Comment}, networks)
}

// belongs is a sentence about whose rule one is, with the space before it; empty
// where that is not certain.
func (e *exam) belongs(r *ruletrace.Rule) string {
	if o := e.ownerOf(r); o.Tool != "" {
		return fmt.Sprintf(" That is %s.", o)
	}
	return ""
}

// users is the chain of the administrator's that is asked before the end of a
// course, of Docker's or of the policy behind Docker's rules; empty for none. What
// is put there stays when Docker writes its rules anew.
func (e *exam) users(end *ruletrace.End) string {
	const user = "DOCKER-USER"
	r := &end.Rule
	if r.Table != "filter" || r.Backend == ruletrace.NFT || !end.Policy && e.ownerOf(r).Tool != owner.Docker {
		return ""
	}
	rules := e.in.Rules[topology.HostName]
	i := slices.IndexFunc(rules.Chains, func(c ruletrace.Chain) bool {
		return c.Base && c.Hook == ruletrace.Forward && c.Backend == r.Backend && c.Family == r.Family && c.Table == r.Table
	})
	if i < 0 {
		return ""
	}
	for _, rule := range rules.Chains[i].Rules {
		if strings.HasSuffix(rule.Text, "-j "+user) {
			return user
		}
		if strings.Contains(rule.Text, "-j DOCKER") {
			break // Docker calls it before its own chains
		}
	}
	return ""
}
