package live_test

import (
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestMark routes a packet by a mark that a rule gave it, as VPN clients do. The
// route that is reported is the one of that table, on the host where it is
// forwarded and in the source where it is sent.
func TestMark(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.NFT, lab.IPTablesNFT, lab.IPTablesLegacy} {
		for _, tt := range []struct{ netns, hook, route string }{
			{"host", "PREROUTING", "default via 203.0.113.254 dev eth0 table 100 metric 5"},
			{"mynamespace", "OUTPUT", "default via 172.19.0.1 dev veth1 table 100 metric 5"},
		} {
			t.Run(string(backend)+" "+tt.hook, func(t *testing.T) {
				t.Parallel()
				n := build(t, "netns-by-hand", lab.Options{Backend: backend})
				ns := n.NetNS(tt.netns)
				route := strings.Fields("ip route add " + tt.route)
				command(t, ns, route...)
				command(t, ns, "ip", "rule", "add", "fwmark", "7", "lookup", "100")
				if backend == lab.NFT {
					kind := map[string]string{"PREROUTING": "filter", "OUTPUT": "route"}[tt.hook]
					command(t, ns, "nft", "add table ip marks; add chain ip marks c { type "+kind+" hook "+strings.ToLower(tt.hook)+
						" priority mangle; }; add rule ip marks c ip saddr 172.19.0.2 meta mark set 7")
				} else {
					command(t, ns, string(backend), "-t", "mangle", "-A", tt.hook, "-s", "172.19.0.2", "-j", "MARK", "--set-mark", "7")
				}
				r := trace(t, n, probe(n))
				if r.Verdict.Outcome != report.Replied {
					t.Fatalf("outcome %s", r.Verdict.Outcome)
				}
				var got []string
				for _, hop := range r.Legs.Request {
					for _, step := range hop.Steps {
						if step.Kind == "route" && hop.NetNS == tt.netns {
							got = append(got, string(step.Confidence)+" "+step.Text)
						}
					}
				}
				if len(got) != 1 || !strings.HasPrefix(got[0], "reconstructed default") || !strings.Contains(got[0], "table 100") {
					t.Errorf("route %q, want the one of table 100, reconstructed", got)
				}
			})
		}
	}
}
