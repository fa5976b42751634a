package owner

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/report"
)

// dockerUser is the chain that Docker calls first and that the administrator fills.
const dockerUser = "DOCKER-USER"

// dockerChain are Docker's chains in the tables of iptables: up to version 27 with
// the isolation stages, from 28 on with those behind DOCKER-FORWARD. DOCKER-INGRESS
// is swarm's. The last two are in the namespaces of containers: they lead what is for
// 127.0.0.11 to the port of Docker's own name server.
var dockerChain = anyOf(`DOCKER|DOCKER-(?:ISOLATION|ISOLATION-STAGE-[12]|INGRESS|FORWARD|BRIDGE|CT|INTERNAL)|DOCKER_(?:OUTPUT|POSTROUTING)`)

// dockerTable is the table of Docker's backend for nftables, one for ip and one
// for ip6. Chains of one network have the bridge's name behind "__".
const dockerTable = "docker-bridges"

// dockerLabels are the comments of the rules there.
var dockerLabels = []string{
	"ALLOW FW MARK", "DNAT", "DROP DIRECT ACCESS", "DROP REMOTE LOOPBACK", "ICC", "ICMP", "INTERNAL NETWORK EGRESS", "INTERNAL NETWORK INGRESS",
	"MASQ TO OWN PORT", "MASQUERADE", "MASQUERADE FROM HOST", "OUTGOING", "SNAT", "SNAT FROM HOST", "SUBNET DROP EXTERNAL", "UNPROTECTED",
	"UNPUBLISHED PORT DROP",
}

// form is a rule as Docker writes it, in the syntax of iptables-save.
type form struct {
	chain *regexp.Regexp
	// text has groups: each is the bridge, or an address or prefix of the network.
	text *regexp.Regexp
	// purpose is how Docker calls the same rule in its tables of nftables, or what
	// the chain is called for.
	purpose string
}

func newForm(chain, text, purpose string) form {
	text = strings.NewReplacer("<bridge>", `(\S+)`, "<net>", `([0-9a-f.:]+(?:/\d+)?)`, "<match>", `-p \S+(?: -m \S+)? \S+ \S+`).Replace(text)
	return form{anyOf(chain), anyOf(text), purpose}
}

// dockerForms are rules in Docker's own chains.
var dockerForms = []form{
	newForm(`DOCKER`, `! -i <bridge> -o <bridge> -j DROP`, "UNPUBLISHED PORT DROP"),
	newForm(`DOCKER`, `-d <net> ! -i <bridge> -o <bridge> <match> -j ACCEPT`, ""),
	newForm(`DOCKER`, `(?:(?:! )?-[sd] \S+ )*! -i <bridge> <match> -j DNAT --to-destination \S+`, "DNAT"),
	newForm(`DOCKER`, `(?:(?:! )?-[sd] \S+ )*<match> -j DNAT --to-destination \[?<net>\]?:\d+`, "DNAT"),
	newForm(`DOCKER`, `-i <bridge> -j RETURN`, ""),
	newForm(`DOCKER-ISOLATION-STAGE-1`, `-i <bridge> ! -o <bridge> -j DOCKER-ISOLATION-STAGE-2`, "ISOLATION"),
	newForm(`DOCKER-ISOLATION-STAGE-2`, `-o <bridge> -j DROP`, "ISOLATION"),
	newForm(`DOCKER-INTERNAL|DOCKER-ISOLATION-STAGE-1`, `! -s <net> (?:! -i <bridge> )?-o <bridge> -j DROP`, "INTERNAL NETWORK INGRESS"),
	newForm(`DOCKER-INTERNAL|DOCKER-ISOLATION-STAGE-1`, `! -d <net> -i <bridge> (?:! -o <bridge> )?-j DROP`, "INTERNAL NETWORK EGRESS"),
	newForm(`DOCKER-BRIDGE`, `-o <bridge> -j DOCKER`, ""),
	newForm(`DOCKER-CT`, `-o <bridge> -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`, ""),
	newForm(`DOCKER-FORWARD`, `-i <bridge> (?:! -o <bridge> )?-j ACCEPT`, "OUTGOING"),
	newForm(`DOCKER-FORWARD`, `-i <bridge> -o <bridge> -j (?:ACCEPT|DROP)`, "ICC"),
	newForm(`DOCKER_OUTPUT`, `-d 127\.0\.0\.11/32 <match> -j DNAT --to-destination 127\.0\.0\.11:\d+`, "DNS"),
	newForm(`DOCKER_POSTROUTING`, `-s 127\.0\.0\.11/32 <match> -j SNAT --to-source :53`, "DNS"),
}

// networkForms are rules that Docker writes into chains that are not its own.
var networkForms = []form{
	newForm(`POSTROUTING`, `-s <net> ! -o <bridge> -j MASQUERADE`, "MASQUERADE"),
	newForm(`POSTROUTING`, `-s <net> ! -o <bridge> -j SNAT --to-source \S+`, "SNAT"),
	newForm(`POSTROUTING`, `-s <net> -d <net> <match> -j MASQUERADE`, "MASQ TO OWN PORT"),
	newForm(`POSTROUTING`, `-o <bridge> -m addrtype --src-type LOCAL -j MASQUERADE`, "MASQUERADE FROM HOST"),
	newForm(`FORWARD`, `-i <bridge> ! -o <bridge> -j ACCEPT`, "OUTGOING"),
	newForm(`FORWARD`, `-i <bridge> -o <bridge> -j (?:ACCEPT|DROP)`, "ICC"),
	newForm(`FORWARD`, `-o <bridge> -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`, ""),
	newForm(`PREROUTING`, `-d <net> ! -i <bridge> -j DROP`, "DROP DIRECT ACCESS"),
}

// docker is Docker as owner of a chain. The network is that of the bridge, or of
// the container's address, that the rule has in the place where Docker writes it.
func (r *rule) docker(chain string) report.Owner {
	o := report.Owner{Tool: Docker}
	switch {
	case r.table == dockerTable && (r.family == "ip" || r.family == "ip6"):
		if slices.Contains(dockerLabels, r.comment) {
			o.Purpose = r.comment
		}
		r.name(&o, r.inDockerTable())
	case r.iptables() && dockerChain.MatchString(chain):
		if f, parts := r.matches(dockerForms); f != nil {
			o.Purpose = f.purpose
			r.name(&o, parts)
		}
	default:
		return report.Owner{}
	}
	return o
}

// dockerShared are the forms of rules in the chains of Docker's table of nft's that
// are for all networks, with groups as those of form.text.
var dockerShared = []*regexp.Regexp{
	regexp.MustCompile(`^iifname != "([^"]+)" .*comment "DNAT"$`),
	regexp.MustCompile(` dnat to \[?([0-9a-f.:]+?)\]?(?::\d+)? comment "DNAT"$`),
	regexp.MustCompile(`^ip6? daddr ([0-9a-f.:]+) iifname != "([^"]+)" .*comment "DROP DIRECT ACCESS"$`),
	regexp.MustCompile(`^ip6? daddr ([0-9a-f.:]+/\d+) iifname != .*comment "SUBNET DROP EXTERNAL"$`),
}

// inDockerTable are the parts of a rule, or of its chain's name, that say which
// network it is for.
func (r *rule) inDockerTable() []string {
	if _, bridge, found := strings.Cut(r.chain, "__"); found {
		return []string{bridge}
	}
	for _, shared := range dockerShared {
		if m := shared.FindStringSubmatch(r.text); m != nil {
			return m[1:]
		}
	}
	return nil
}

// name adds the network that parts of a rule are of or, where it is not known, the
// bridge that they name.
func (r *rule) name(o *report.Owner, parts []string) {
	n, bridge := r.network(parts)
	if o.Bridge = bridge; n != nil {
		o.Network, o.Bridge = n.Name, n.Bridge
	}
}

// forNetwork is Docker as owner of a rule in a chain of the kernel's hooks: one
// that it writes for a network that it has.
func (r *rule) forNetwork() report.Owner {
	if !r.iptables() || len(r.networks) == 0 {
		return report.Owner{}
	}
	f, parts := r.matches(networkForms)
	if f == nil {
		return report.Owner{}
	}
	n, _ := r.network(parts)
	switch {
	case n == nil,
		r.table == "nat" && (n.Unmasked || n.Internal),
		f.purpose == "ICC" && strings.HasSuffix(r.text, "-j DROP") != n.Apart:
		return report.Owner{} // somebody else wrote it
	}
	return report.Owner{Tool: Docker, Network: n.Name, Bridge: n.Bridge, Purpose: f.purpose}
}

// matches is the form that the rule has, with what stands at its groups.
func (r *rule) matches(forms []form) (found *form, parts []string) {
	for i := range forms {
		f := &forms[i]
		if !f.chain.MatchString(r.chain) {
			continue
		}
		if m := f.text.FindStringSubmatch(r.text); m != nil {
			return f, slices.DeleteFunc(m[1:], func(part string) bool { return part == "" })
		}
	}
	return nil, nil
}

// network is the network that parts of a rule are of. It is nil when it is not
// known; bridge is the one that they name all the same. Docker writes of one
// network, so parts that name two are of none.
func (r *rule) network(parts []string) (n *engine.Network, bridge string) {
	net := ""
	for _, part := range parts {
		same := &bridge
		if isNet(part) {
			same = &net
		}
		if *same != "" && *same != part {
			return nil, ""
		}
		*same = part
	}
	if len(parts) == 0 {
		return nil, ""
	}
	at := slices.IndexFunc(r.networks, func(n engine.Network) bool {
		return n.Bridge != "" && (bridge == "" || bridge == n.Bridge) && (net == "" || has(&n, net))
	})
	if at < 0 {
		return nil, bridge
	}
	return &r.networks[at], bridge
}

// isNet reports whether a part of a rule is an address or a prefix.
func isNet(part string) bool { return netOf(part).IsValid() }

// netOf is a prefix, or an address as one.
func netOf(part string) netip.Prefix {
	if a, err := netip.ParseAddr(part); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, _ := netip.ParsePrefix(part)
	return p
}

// has reports whether a network has a prefix, or an address in one.
func has(n *engine.Network, net string) bool {
	part := netOf(net)
	return slices.ContainsFunc(n.Prefixes, func(p netip.Prefix) bool {
		return p == part || part.IsSingleIP() && p.Contains(part.Addr())
	})
}
