package live_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// TestServices connects to services of Kubernetes. The destination is translated
// by exactly the rule of the endpoint that was chosen, and the source where
// kube-proxy marks what has to come back by the node.
func TestServices(t *testing.T) {
	t.Parallel()
	const (
		web1 = "KUBE-SEP-UIQK3OSOSTRHRPBX" // of default/web:http
		web2 = "KUBE-SEP-2AZ33KU3V5PGPQZH"
		self = "KUBE-SEP-KFZS5257XG5LNRMO"
	)
	for _, backend := range []lab.Backend{lab.IPTablesNFT, lab.IPTablesLegacy} {
		translated := func(hook, from, to, chain, service string) string {
			return fmt.Sprintf("request observed dnat host %s destination %s → %s [%s ip nat %s] -A %s -p tcp -m comment --comment \"default/%s:http\" -m tcp -j DNAT --to-destination %s",
				hook, from, to, backend, chain, chain, service, to)
		}
		masqueraded := func(from, to string) string {
			return fmt.Sprintf("request observed masquerade host postrouting source %s:port → %s:port [%s ip nat KUBE-POSTROUTING] -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE",
				from, to, backend)
		}
		for _, tt := range []struct {
			name, source, target string
			// want are the translations that there may be, by which pod was chosen.
			want [][]string
		}{
			{"pod", "shell", "10.96.0.10:80", [][]string{
				{translated("prerouting", "10.96.0.10:80", "10.244.1.2:8080", web1, "web")},
				{translated("prerouting", "10.96.0.10:80", "10.244.1.3:8080", web2, "web")},
			}},
			{"node", "host", "10.96.0.10:80", [][]string{
				{translated("output", "10.96.0.10:80", "10.244.1.2:8080", web1, "web"), masqueraded("203.0.113.1", "10.244.1.1")},
				{translated("output", "10.96.0.10:80", "10.244.1.3:8080", web2, "web"), masqueraded("203.0.113.1", "10.244.1.1")},
			}},
			{"node port", "client", "203.0.113.1:30080", [][]string{
				{translated("prerouting", "203.0.113.1:30080", "10.244.1.2:8080", web1, "web"), masqueraded("203.0.113.100", "10.244.1.1")},
				{translated("prerouting", "203.0.113.1:30080", "10.244.1.3:8080", web2, "web"), masqueraded("203.0.113.100", "10.244.1.1")},
			}},
			{"itself", "web-1", "10.96.0.40:80", [][]string{
				{translated("prerouting", "10.96.0.40:80", "10.244.1.2:8080", self, "self"), masqueraded("10.244.1.2", "10.244.1.1")},
			}},
		} {
			t.Run(fmt.Sprintf("%s %s", tt.name, backend), func(t *testing.T) {
				t.Parallel()
				n := build(t, "kubernetes", lab.Options{Backend: backend})
				r := trace(t, n, connection(n, tt.source, tt.target))
				for _, problem := range healthy(r) {
					t.Error(problem)
				}
				got := shorten(r).Translations
				if !slices.ContainsFunc(tt.want, func(want []string) bool { return slices.Equal(want, got) }) {
					t.Errorf("translations:\n%s\nwant one of\n%s\n%s", strings.Join(got, "\n"), tt.want, text(t, r))
				}
			})
		}
	}
}
