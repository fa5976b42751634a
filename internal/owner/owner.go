// Package owner names the program that a rule belongs to: the container engine,
// the firewall manager or the service proxy whose table or chain it stands in, and
// what it is for there, as far as the rule itself and the engine tell. It is pure.
//
// Programs mark what is theirs by the names of tables and chains, and write it anew
// when they start or reload. Where they write into the chains that the kernel's
// hooks call, a rule of theirs looks like one that somebody wrote by hand: it is
// theirs only when it calls one of their chains, or when it is just the rule that
// the engine writes for a network that it has.
package owner

import (
	"regexp"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/report"
)

// The programs, as reports name them.
const (
	Docker    = "docker"
	Podman    = "podman"
	CNI       = "cni"
	Firewalld = "firewalld"
	UFW       = "ufw"
	KubeProxy = "kube-proxy"
	Libvirt   = "libvirt"
	Fail2ban  = "fail2ban"
)

// Of is the owner of a rule; zero where none is certain. networks are Docker's on
// the host that the rule is of: they tell the networks' names, and which rules
// outside of Docker's own chains are Docker's.
func Of(r *report.Rule, networks []engine.Network) report.Owner {
	one := rule{family: r.Family, table: r.Table, chain: r.Chain, comment: r.Comment, networks: networks}
	one.text = strings.TrimPrefix(r.Text, "-A "+r.Chain+" ")
	if o := one.inChain(one.chain); o.Tool != "" {
		return o
	}
	switch called := one.calls(); called {
	case dockerUser: // which the administrator fills, and Docker calls
		return report.Owner{Tool: Docker}
	default:
		if o := one.inChain(called); o.Tool != "" {
			return report.Owner{Tool: o.Tool, Zone: o.Zone, Policy: o.Policy, Service: o.Service}
		}
	}
	return one.forNetwork()
}

// rule is a rule that is looked at.
type rule struct {
	family, table, chain string
	// text is the rule without "-A CHAIN", which iptables-save begins with.
	text, comment string
	networks      []engine.Network
}

// inChain is the owner of a chain in the rule's table, and what the rule tells of
// what it is for.
func (r *rule) inChain(chain string) report.Owner {
	for _, of := range []func(*rule, string) report.Owner{
		(*rule).docker, (*rule).podman, (*rule).cni, (*rule).kubeProxy, (*rule).firewalld, (*rule).ufw, (*rule).libvirt, (*rule).fail2ban,
	} {
		if o := of(r, chain); o.Tool != "" {
			return o
		}
	}
	return report.Owner{}
}

// iptables reports whether the rule is in a table that iptables makes.
func (r *rule) iptables() bool {
	return (r.family == "ip" || r.family == "ip6") && slices.Contains([]string{"filter", "nat", "mangle", "raw"}, r.table)
}

// calls is the chain that the rule hands a packet to, or the target of iptables
// that it has in place of one; empty for neither. The comment of nft stands behind
// it, that of iptables before it.
func (r *rule) calls() string {
	text := r.text
	if at := strings.LastIndex(text, ` comment "`); at >= 0 && strings.HasSuffix(text, `"`) {
		text = text[:at]
	}
	rest, name := cutLast(text)
	switch _, verb := cutLast(rest); verb {
	case "-j", "-g", "jump", "goto":
		return name
	}
	return ""
}

// cutLast cuts the last word off a text.
func cutLast(text string) (rest, word string) {
	at := strings.LastIndexByte(text, ' ')
	return text[:max(at, 0)], text[at+1:]
}

// anyOf matches one of the names.
func anyOf(names string) *regexp.Regexp { return regexp.MustCompile(`^(?:` + names + `)$`) }

var (
	ufwChain      = anyOf(`ufw6?-[\w-]+`)
	libvirtChain  = anyOf(`LIBVIRT_(?:INP|OUT|FWI|FWO|FWX|PRT)`)
	fail2banChain = anyOf(`f2b-.+`)
)

// ufw has chains in the tables of iptables.
func (r *rule) ufw(chain string) report.Owner {
	if r.iptables() && ufwChain.MatchString(chain) {
		return report.Owner{Tool: UFW}
	}
	return report.Owner{}
}

// libvirt has chains in the tables of iptables, since 10.4 a table of nft's.
func (r *rule) libvirt(chain string) report.Owner {
	if r.iptables() && libvirtChain.MatchString(chain) || r.table == "libvirt_network" {
		return report.Owner{Tool: Libvirt}
	}
	return report.Owner{}
}

// fail2ban has a chain for each jail, or a table of nft's.
func (r *rule) fail2ban(chain string) report.Owner {
	if r.iptables() && fail2banChain.MatchString(chain) || r.table == "f2b-table" {
		return report.Owner{Tool: Fail2ban}
	}
	return report.Owner{}
}
