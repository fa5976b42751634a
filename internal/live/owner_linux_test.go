package live_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/peer"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// TestOwner: the rule that translates is named by Docker's network where the host
// has the bridge that the daemon speaks of. A daemon that does not know it, that is
// of another host or a user's, or that does not answer names nothing, and does no
// harm; neither to a probe nor to the trace of a program.
func TestOwner(t *testing.T) {
	t.Parallel()
	network := func(bridge, prefix string) engine.Network {
		return engine.Network{Name: "app", Bridge: bridge, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	}
	named := report.Owner{Tool: "docker", Network: "app", Bridge: "docker0", Purpose: "MASQUERADE"}
	for name, tt := range map[string]struct {
		answer engine.View
		silent bool
		want   report.Owner
	}{
		"known":        {answer: engine.View{Networks: []engine.Network{network("br-5f1c3a9d2b7e", "172.18.0.0/16"), network("docker0", "172.17.0.0/16")}}, want: named},
		"unknown":      {answer: engine.View{Networks: []engine.Network{network("br-5f1c3a9d2b7e", "172.18.0.0/16")}}},
		"another host": {answer: engine.View{Networks: []engine.Network{network("docker0", "172.21.0.0/16")}}},
		"a user's":     {answer: engine.View{Owner: 1000, Networks: []engine.Network{network("docker0", "172.17.0.0/16")}}},
		"silent":       {silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			tt.answer.Engine = "docker"
			engines := func(ctx context.Context) ([]engine.View, []string) {
				if tt.silent {
					<-ctx.Done()
					return nil, []string{"docker did not answer"}
				}
				return []engine.View{{Engine: "podman", Networks: []engine.Network{network("docker0", "172.17.0.0/16")}}, tt.answer}, nil
			}
			cfg := probe(n)
			cfg.Engines = engines
			sent := trace(t, n, cfg)
			followed := followWith(t, n, live.TraceConfig{Engines: engines}, n.Scenario.Source, func(ctx context.Context) error {
				return attempt(ctx, n, &lab.Probe{Kind: "tcp", Source: n.Scenario.Source, Target: n.Scenario.Target, Port: 80}, 5*time.Second)
			})
			for _, r := range []*report.Report{sent, followed} {
				if len(r.Translations) == 0 || r.Translations[0].Rule == nil {
					t.Fatalf("report:\n%s", text(t, r))
				}
				if masquerade := r.Translations[0].Rule; masquerade.Owner != tt.want {
					t.Errorf("owner of %+v is not %+v", masquerade, tt.want)
				}
			}
		})
	}
}

// TestOwnerByDocker asks a real Docker, on the host of a network, for the names of
// its networks: of the one whose packets are masqueraded, and of the one that it
// keeps another's packets from, until DOCKER-USER says otherwise.
func TestOwnerByDocker(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	n := build(t, "netns-by-hand", lab.Options{Backend: lab.IPTablesNFT})
	docker := peer.Start(t, n.NetNS(lab.HostName)).Docker()
	docker.Run("docker", "network", "create", "--subnet", "172.30.0.0/24", "shop")
	docker.Run("docker", "network", "create", "--subnet", "172.31.0.0/24", "--opt", "com.docker.network.bridge.name=stores", "stores")
	docker.Container("web", "--network", "shop", "--ip", "172.30.0.2")
	docker.Container("db", "--network", "stores", "--ip", "172.31.0.2")
	web := func(target string) live.Config {
		cfg := from(n, lab.HostName, netip.MustParseAddr(target))
		source, err := container.Find(t.Context(), container.Config{Container: "web", Engine: "docker", DockerHost: docker.Host})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = source.Close() })
		cfg.Source = source
		cfg.Engines = func(ctx context.Context) ([]engine.View, []string) {
			return container.Views(ctx, container.Config{DockerHost: docker.Host})
		}
		return cfg
	}

	r := trace(t, n, web("8.8.8.8"))
	if len(r.Translations) == 0 || r.Translations[0].Rule == nil {
		t.Fatalf("report:\n%s", text(t, r))
	}
	if o := r.Translations[0].Rule.Owner; o.String() != "Docker, network shop, MASQUERADE" || !strings.HasPrefix(o.Bridge, "br-") {
		t.Errorf("the masquerade is of %+v in\n%s", o, text(t, r))
	}

	cfg := web("172.31.0.2")
	sick := trace(t, n, cfg)
	want := report.Owner{Tool: "docker", Network: "stores", Bridge: "stores", Purpose: "ISOLATION"}
	if v := &sick.Verdict; v.Rule == nil || v.Rule.Owner != want || !strings.Contains(v.Summary, "(Docker, network stores, ISOLATION)") {
		t.Fatalf("report:\n%s", text(t, sick))
	}
	mend(t, n, sick)
	if well := trace(t, n, cfg); well.Verdict.Outcome != report.Replied {
		t.Errorf("after what was proposed:\n%s", text(t, well))
	}
}
