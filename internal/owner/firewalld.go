package owner

import (
	"regexp"
	"strings"

	"github.com/pathtrace/pathtrace/report"
)

// firewalldTable is firewalld's table of nft's, in family inet, or in ip and ip6
// for NAT where the kernel or the version is old.
const firewalldTable = "firewalld"

// The chains of a zone or policy are named for a hook and for it, with five more
// behind each: public has filter_IN_public, filter_IN_public_allow and so on. In
// the tables of iptables the names begin with the hook's.
var (
	zoneChain = regexp.MustCompile(`^(?:(?:filter|nat|mangle|raw)_)?(?:IN|FWD|FWDI|FWDO|OUT|PRE|POST)_(.+)$`)
	zonePart  = regexp.MustCompile(`_(?:pre|log|deny|allow|post)$`)
	// zoneShared are those that call them.
	zoneShared = anyOf(`(?:INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)(?:_IN|_OUT)?_(?:ZONES|ZONES_SOURCE|POLICIES_pre|POLICIES_post|direct)`)
)

// firewalld is firewalld as owner of the table, or of a chain where it writes
// tables of iptables. There the name of a zone's first chain alone is nobody's:
// IN_lan may be anybody's, but IN_lan_allow is firewalld's.
func (r *rule) firewalld(chain string) report.Owner {
	if r.table != firewalldTable && (!r.iptables() || !zoneShared.MatchString(chain) && !r.isZones(chain)) {
		return report.Owner{}
	}
	name := ""
	if m := zoneChain.FindStringSubmatch(chain); m != nil {
		name = zonePart.ReplaceAllString(m[1], "")
	} else if m := zoneChain.FindStringSubmatch(r.calls()); m != nil {
		name = m[1] // these call the first chain of a zone
	}
	if policy, found := strings.CutPrefix(name, "policy_"); found {
		return report.Owner{Tool: Firewalld, Policy: policy}
	}
	return report.Owner{Tool: Firewalld, Zone: name}
}

// isZones reports whether a chain of iptables is that of a zone or policy: it has
// one of the five endings, or the rule in it calls the same name with one.
func (r *rule) isZones(chain string) bool {
	ending, calls := strings.CutPrefix(r.calls(), chain)
	return zoneChain.MatchString(chain) && (zonePart.MatchString(chain) || calls && zonePart.FindString(ending) == ending && ending != "")
}
