package ruletrace

import (
	"encoding/binary"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// trackingExpressions are the nftables expressions that take a reference on
// connection tracking (nf_ct_netns_get in their init functions).
var trackingExpressions = map[string]bool{
	"ct": true, "nat": true, "masq": true, "redir": true,
	"connlimit": true, "synproxy": true, "flow_offload": true,
}

// trackingExtensions are the x_tables matches and targets that do.
var trackingExtensions = map[string]bool{
	"conntrack": true, "state": true, "connmark": true, "connlimit": true, "connbytes": true,
	"connlabel": true, "helper": true, "cluster": true,
	"MASQUERADE": true, "SNAT": true, "DNAT": true, "REDIRECT": true, "NETMAP": true,
	"CT": true, "CONNMARK": true, "CONNSECMARK": true, "SYNPROXY": true, "CLUSTERIP": true,
}

// tracks reports whether an extension tracks connections. CT --notrack does
// not.
func (e extension) tracks() bool {
	if e.name == "CT" && len(e.data) >= 2 {
		const notrack = 1 << 0 // XT_CT_NOTRACK
		return binary.NativeEndian.Uint16(e.data)&notrack == 0
	}
	return trackingExtensions[e.name]
}

// tracked reports whether a rule of somebody else keeps connection tracking
// switched on for the family ("ip" or "ip6"). A nat chain or table without
// such a rule does not (TestTracked shows it).
func tracked(c *netlink.Conn, ns *netns.NS, family string) (bool, error) {
	found, err := anyRule(c, func(r rule) bool {
		if strings.HasPrefix(r.table, tablePrefix) {
			return false
		}
		// In inet and bridge a ct expression tracks both families.
		if r.family != family && r.family != "inet" && r.family != "bridge" {
			return false
		}
		for _, e := range r.exprs {
			if trackingExpressions[e.name] {
				return true
			}
			if e.name == "match" || e.name == "target" {
				if x, ok := compatExtension(e.data); ok && x.tracks() {
					return true
				}
			}
		}
		return false
	})
	if err != nil || found {
		return found, err
	}
	tables, tables6, err := LegacyTables(ns)
	if err != nil {
		return false, err
	}
	if family == "ip6" {
		tables = tables6
	}
	for _, table := range tables {
		extensions, err := legacyExtensions(ns, family == "ip6", table)
		if err != nil {
			return false, err
		}
		for _, x := range extensions {
			if x.tracks() {
				return true, nil
			}
		}
	}
	return false, nil
}

// compatExtension decodes nftables' match and target expressions, in which
// iptables-nft keeps x_tables extensions.
func compatExtension(data []byte) (extension, bool) {
	d, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return extension{}, false
	}
	var x extension
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_MATCH_NAME: // = NFTA_TARGET_NAME
			x.name = d.String()
		case unix.NFTA_MATCH_INFO: // = NFTA_TARGET_INFO
			x.data = d.Bytes()
		}
	}
	return x, d.Err() == nil
}
