package live_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// proxied are connections to a published port from where no DNAT rule takes them:
// docker-proxy answers, over a second one.
var proxied = map[string]struct {
	source, target string
	there, back    []string // of the first connection
	rule           string   // that took it out of DNAT
}{
	"from itself": {"cnt01", "203.0.113.1:8080", dockerBack[:3], dockerThere[2:], "-A DOCKER -i docker0 -j RETURN"},
	"from another network": {
		"cnt03", "203.0.113.1:8080",
		[]string{"cnt03/eth0 egress", "host/veth51e6f0c ingress", "host/br-5f1c3a9d2b7e ingress"},
		[]string{"host/br-5f1c3a9d2b7e egress", "host/veth51e6f0c egress", "cnt03/eth0 ingress"},
		"-A DOCKER -i br-5f1c3a9d2b7e -j RETURN",
	},
	"from the host's own address": {
		"host", "127.0.0.1:8080", []string{"host/lo egress", "host/lo ingress"}, []string{"host/lo egress", "host/lo ingress"}, "",
	},
}

// wantProxied wants a report to follow a connection beyond docker-proxy. taken is
// why the second one is taken for its continuation.
func wantProxied(t *testing.T, name string, r *report.Report, taken string) {
	t.Helper()
	toProxy := []string{"host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}
	fromTarget := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress"}
	tt := proxied[name]
	tell(t, answeredAt(tt.source, tt.there, tt.back), shorten(r))
	if len(r.Continuations) != 1 {
		t.Fatalf("continuations %+v", r.Continuations)
	}
	c := &r.Continuations[0]
	if c.Kind != "proxy" || c.NetNS != "host" || !strings.HasPrefix(c.Process, "docker-proxy (pid ") ||
		c.Confidence != report.Reconstructed || !strings.Contains(c.Summary, taken) {
		t.Errorf("continuation %s of %s in %s, %s: %s", c.Kind, c.Process, c.NetNS, c.Confidence, c.Summary)
	}
	second := shorten(&report.Report{Verdict: c.Verdict, Translations: c.Translations, Legs: c.Legs})
	tell(t, answeredAt("host", toProxy, fromTarget), second)
	steps := r.Legs.Request[len(r.Legs.Request)-1].Steps
	if !slices.ContainsFunc(steps, func(s report.Step) bool {
		return s.Kind == "proxy" && strings.Contains(s.Text, "docker-proxy") && strings.Contains(s.Text, "172.17.0.2:80")
	}) {
		t.Errorf("steps at the proxy: %+v", steps)
	}
	i := slices.IndexFunc(r.Findings, func(f report.Finding) bool { return f.Code == "PUBLISHED_BY_PROXY" })
	if i < 0 || !strings.Contains(r.Findings[i].Summary, tt.rule) {
		t.Errorf("findings %+v, want one that names %q", r.Findings, tt.rule)
	}
}

// TestProxy probes published ports for which docker-proxy answers.
func TestProxy(t *testing.T) {
	t.Parallel()
	for name, tt := range proxied {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			wantProxied(t, name, trace(t, n, connection(n, tt.source, tt.target)), "holds the socket that this was sent from")
		})
	}
}

// TestFollowProxy has programs connect there, while others do. The sockets may be
// closed before somebody asks whose they are.
func TestFollowProxy(t *testing.T) {
	t.Parallel()
	for name, tt := range proxied {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			to := netip.MustParseAddrPort(tt.target)
			// Of the host's flows docker-proxy's own are some.
			wanted := live.TraceConfig{Wanted: evidence.Selector{TargetPort: to.Port()}}
			r := followWith(t, n, wanted, tt.source, func(ctx context.Context) error {
				for _, source := range []string{tt.source, "client"} {
					p := &lab.Probe{Kind: "tcp", Source: source, Target: to.Addr(), Port: to.Port()}
					if source == "client" {
						p.Target = netip.MustParseAddr("203.0.113.1")
					}
					if err := attempt(ctx, n, p, timeout); err != nil {
						return err
					}
				}
				return nil
			})
			wantProxied(t, name, r, "passes on to 172.17.0.2:80")
			if t.Failed() {
				t.Logf("report:\n%s", text(t, r))
			}
		})
	}
}

// TestProxyNotMeant has docker-proxy's connections of others about: what DNAT
// takes has no continuation, though docker-proxy listens on that port.
func TestProxyNotMeant(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	r := trace(t, n, connection(n, "client", "203.0.113.1:8080"))
	if len(r.Continuations) != 0 || r.Verdict.Outcome != report.Replied || len(r.Translations) != 1 {
		t.Errorf("verdict %+v, continuations %+v", r.Verdict, r.Continuations)
	}
}
