package owner

import (
	"regexp"

	"github.com/pathtrace/pathtrace/report"
)

// kubeChain are kube-proxy's chains in the tables of iptables. KUBE-FIREWALL,
// KUBE-MARK-DROP and the canary of kubelet's are kubelet's, those of other network
// plugins that begin with KUBE- theirs.
var kubeChain = anyOf(`KUBE-(?:(?:SVC|SVL|SEP|FW|EXT|XLB)-[A-Z2-7]{16}|SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY)`)

// kubeTable is kube-proxy's table of nft's, in ip and ip6. Its chains of a service
// are named for it: service-ULMVA6XW-default/web/tcp/http.
const kubeTable = "kube-proxy"

var (
	kubeServiceChain = regexp.MustCompile(`^(?:service|endpoint|external|firewall)-[A-Z2-7]{8}-([a-z0-9-]+)/([a-z0-9.-]+)/[a-z]+/([a-z0-9-]*)(?:__.*)?$`)
	// kubeService is a service in a comment: "default/web:http cluster IP".
	kubeService = regexp.MustCompile(`(?:^|\s)([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[a-z0-9-]{1,63})?)(?:\s|$)`)
)

// kubeProxy is kube-proxy as owner of the table or chain. The service is that of
// the rule's comment, in nft's table of the chain's name.
func (r *rule) kubeProxy(chain string) report.Owner {
	if r.table == kubeTable && (r.family == "ip" || r.family == "ip6") {
		o := report.Owner{Tool: KubeProxy}
		m := kubeServiceChain.FindStringSubmatch(chain)
		if m == nil {
			m = kubeServiceChain.FindStringSubmatch(r.calls())
		}
		if m != nil {
			o.Service = m[1] + "/" + m[2]
			if m[3] != "" {
				o.Service += ":" + m[3]
			}
		}
		return o
	}
	if !r.iptables() || !kubeChain.MatchString(chain) {
		return report.Owner{}
	}
	o := report.Owner{Tool: KubeProxy}
	if m := kubeService.FindStringSubmatch(r.comment); m != nil {
		o.Service = m[1]
	}
	return o
}
