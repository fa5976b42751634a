//go:build linux

package lab

// NotStaged says of each code that no fault here leads to why that is so. What
// gives these codes is tested on recorded evidence.
var NotStaged = map[string]string{
	"CONNTRACK_FULL":     "net.netfilter.nf_conntrack_max can be written in the machine's own namespace only, for all namespaces at once",
	"CONNTRACK_RACE":     "two packets meet between conntrack's look-up and its insertion by chance only",
	"CONNECTION_RESET":   "a program at the far end does it, and no network",
	"DATA_LOST":          "where it is lost can be seen in every network here",
	"DOCKER_CONFIG":      "no packet is lost because of it: pathtrace doctor finds it",
	"INCONCLUSIVE":       "a network does not blind sensors: it takes a busy logging group, a missing right or packets lost on their way to pathtrace",
	"LEGACY_BESIDE_NFT":  "no packet is lost because of it: pathtrace doctor finds it",
	"NOT_SEEN":           "what keeps a packet in its source here has a finer cause",
	"PUBLISHED_BY_PROXY": "no packet is lost because of it: the far end hears the host instead of the client",
	"RA_IGNORED":         "no packet is lost because of it before a route expires: pathtrace doctor finds it",
}
