package owner

import (
	"regexp"

	"github.com/pathtrace/pathtrace/report"
)

// netavarkTable is the table of nft's that Podman's network program makes. Before
// version 1.10 it has chains in those of iptables.
const netavarkTable = "netavark"

var (
	netavarkChain = anyOf(`NETAVARK_(?:FORWARD|INPUT|ISOLATION_[123])|NETAVARK-(?:HOSTPORT-(?:DNAT|SETMARK|MASQ)|(?:DN-)?[0-9A-F]{13})`)
	// cniChain are the chains of the plugins portmap, firewall and bridge. CNI-ADMIN
	// is the administrator's.
	cniChain = anyOf(`CNI-(?:FORWARD|ISOLATION-STAGE-[12]|HOSTPORT-(?:DNAT|SNAT|SETMARK|MASQ)|DN-[0-9a-f]{21}|[0-9a-f]{24})`)

	// Their comments name the network and the container's id; CNI quotes the name,
	// and iptables-save escapes the quotes.
	netavarkNetwork = regexp.MustCompile(`(?:^|dnat )name: ([\w.-]+) id: [0-9a-f]+$`)
	cniNetwork      = regexp.MustCompile(`(?:^|dnat )name: \\?"([\w.-]+)\\?" id: \\?"[^" ]+"$`)

	// netavarkIsolates is the form of rules that keep networks apart.
	netavarkIsolates = []form{
		newForm(`NETAVARK_ISOLATION_1`, `-i <bridge> ! -o <bridge> -j NETAVARK_ISOLATION_2`, "ISOLATION"),
		newForm(`NETAVARK_ISOLATION_[23]`, `-o <bridge> -j DROP`, "ISOLATION"),
	}
)

// podman is Podman as owner of the table or chain.
func (r *rule) podman(chain string) report.Owner {
	if r.table != netavarkTable && (!r.iptables() || !netavarkChain.MatchString(chain)) {
		return report.Owner{}
	}
	o := report.Owner{Tool: Podman}
	if m := netavarkNetwork.FindStringSubmatch(r.comment); m != nil {
		o.Network = m[1]
	}
	if f, parts := r.matches(netavarkIsolates); f != nil {
		_, o.Bridge = r.network(parts)
		o.Purpose = f.purpose
	}
	return o
}

// cni are the plugins of CNI as owner of the chain.
func (r *rule) cni(chain string) report.Owner {
	if !r.iptables() || !cniChain.MatchString(chain) {
		return report.Owner{}
	}
	o := report.Owner{Tool: CNI}
	if m := cniNetwork.FindStringSubmatch(r.comment); m != nil {
		o.Network = m[1]
	}
	return o
}
