//go:build linux

package peer_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/peer"
	"github.com/pathtrace/pathtrace/report"
)

// TestEngineExplains has pathtrace say what a real Docker was told to do where that
// is why a packet did not get there, and runs what it proposes.
func TestEngineExplains(t *testing.T) {
	m := host(t, "docker-bridge")
	m.Run("ln", "-sf", "iptables-nft", "/usr/sbin/iptables")
	d := m.Docker()
	d.Run("docker", "network", "create", "--internal", "inner")
	d.Run("docker", "network", "create", "--opt", "com.docker.network.bridge.enable_icc=false", "silent")
	d.Container("cnt01", "--expose", "81", "--publish", "127.0.0.1:8443:443")
	d.Container("cnt02", "--network", "inner")
	d.Container("cnt03", "--network", "silent")
	d.Container("cnt04", "--network", "silent")
	d.Run("docker", "run", "--detach", "--name", "side", "--network", "container:cnt01", peer.Image, "sleep", "infinity")
	third := strings.TrimSpace(d.Run("docker", "inspect", "--format", "{{.NetworkSettings.Networks.silent.IPAddress}}", "cnt04"))

	for _, tt := range []struct {
		command, code, netns string
		summary              string
		// mends says that what is proposed ends it: the code, or its place, is another
		// one then.
		mends bool
	}{
		{"ping 8.8.8.8 --container cnt02", "FILTER_DROP", "host", "Network inner was made internal, and cnt02 is in no other: docker lets nothing leave it.", true},
		{"ping " + third + " --container cnt03", "BRIDGE_FILTERED", "host", "The network silent was made with com.docker.network.bridge.enable_icc=false", false},
		{"tcp 203.0.113.1:81", "NO_LISTENER", "host", "cnt01 exposes port 81/tcp and does not publish it", false},
		{"tcp 203.0.113.1:8443", "NO_LISTENER", "host", "cnt01 publishes 127.0.0.1:8443 for 443/tcp: at 203.0.113.1 that port leads nowhere.", false},
		{"ping6 2001:4860:4860::8888 --container side", "NO_DEFAULT_ROUTE", "side", "cnt01 is in no network with IPv6: it is off in network bridge.", true},
	} {
		r := trace(t, m, strings.Fields(tt.command)...)
		i := slices.IndexFunc(r.Findings, func(f report.Finding) bool { return strings.HasPrefix(f.Summary, tt.summary) })
		if r.Verdict.Code != tt.code || r.Verdict.NetNS != tt.netns || i < 0 {
			t.Errorf("%s: %s at %s, %+v; want %s at %s, %q", tt.command, r.Verdict.Code, r.Verdict.NetNS, r.Findings, tt.code, tt.netns, tt.summary)
			continue
		}
		if !tt.mends {
			continue
		}
		for _, fix := range r.Findings[i].Fix {
			m.Run("sh", "-c", fix)
		}
		if again := trace(t, m, strings.Fields(tt.command)...); again.Verdict.Code == tt.code && again.Verdict.NetNS == tt.netns {
			t.Errorf("%s: after %q still %s: %s", tt.command, r.Findings[i].Fix, tt.code, again.Verdict.Summary)
		}
	}

	r := trace(t, m, "ping", "172.17.0.1", "--container", "side")
	if s := r.Request.Source; s.Note != "side shares the network namespace of cnt01" || s.Engine != "docker" || len(s.ID) != 64 {
		t.Errorf("the source is %+v", s)
	}
	for _, line := range []string{
		"side as docker knows it", "network namespace shared with cnt01", "network bridge (bridge), bridge docker0, 172.17.0.0/16",
		"published 127.0.0.1:8443 for 443/tcp, docker-proxy (pid ", "exposed 81/tcp, not published",
	} {
		if output := m.Run("pathtrace", "topology", "--container", "side"); !strings.Contains(output, line) {
			t.Errorf("no %q in\n%s", line, output)
		}
	}
}

// TestContainerdPod has containerd run commands in a container of a pod, and explains
// what they send to services of Kubernetes.
func TestContainerdPod(t *testing.T) {
	t.Parallel()
	m := hostOf(t, "kubernetes", lab.Options{})
	c := m.Containerd()
	c.Container("k8s.io", "shell01", "/run/netns/shell", map[string]string{
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "shell",
		"io.kubernetes.cri.sandbox-name": "shop-1", "io.kubernetes.cri.sandbox-namespace": "prod",
	})
	const file = "/tmp/report.json"
	output, err := m.Try("pathtrace", "exec", "--container", "prod/shop-1/shell", "--output", "json", "--report", file, "--",
		"sh", "-c", "id -u; wget -q -O - http://10.96.0.10/; wget -q -O - http://10.96.0.20/; exit 7")
	var r report.Report
	if err := json.Unmarshal([]byte(m.Run("cat", file)), &r); err != nil {
		t.Fatal(err, output)
	}
	// It is the container's user and its program.
	if !strings.HasPrefix(output, "65534\nhello\nwget: ") || err == nil || r.Traced.Command.Status != 7 || r.Request.Source.Engine != "containerd" {
		t.Errorf("it ends with %v, %+v, of %+v and prints\n%s", err, r.Traced.Command, r.Request.Source, output)
	}
	// A connection that is tried again is one flow.
	if len(r.Flows) != 2 || r.Flows[0].Outcome != report.Replied || len(r.Flows[0].Translations) == 0 || r.Traced.Explained != 2 {
		t.Fatalf("flow %d is explained of %+v", r.Traced.Explained, r.Flows)
	}
	rule := r.Flows[0].Translations[0].Rule
	if rule == nil || rule.Owner.Service != "default/web:http" {
		t.Errorf("the service's translation is by %+v", rule)
	}
	if !strings.Contains(r.Verdict.Summary, "kube-proxy, service default/empty:http") || r.Verdict.Code != "FILTER_REJECTED" {
		t.Errorf("%s: %s", r.Verdict.Code, r.Verdict.Summary)
	}
}

// TestContainerStops stops a container while it is traced: that is said, and what its
// namespace looks like then is no explanation. A command of which nobody takes the
// output is not left behind.
func TestContainerStops(t *testing.T) {
	t.Parallel()
	m := host(t, "docker-bridge")
	m.Run("ln", "-sf", "iptables-nft", "/usr/sbin/iptables")
	d := m.Docker()
	d.Container("cnt01")
	during := func(words ...string) (string, error) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			time.Sleep(1500 * time.Millisecond)
			_, _ = m.Try("docker", "kill", "cnt01")
		}()
		output, err := m.Try("pathtrace", words...)
		<-ended
		m.Run("docker", "start", "cnt01")
		return output, err
	}
	began := time.Now()
	output, err := during("watch", "--container", "cnt01", "--for", "1m")
	if took := time.Since(began); took > 30*time.Second || err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(output, "The container cnt01 has ended meanwhile.") {
		t.Errorf("watch ends with %v after %v, and prints\n%s", err, took, output)
	}
	output, err = during("tcp", "172.17.0.99:80", "--container", "cnt01", "--timeout", "3s")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(output, "INCONCLUSIVE") || !strings.Contains(output, "has ended meanwhile") || strings.Contains(output, "findings") {
		t.Errorf("tcp ends with %v, and prints\n%s", err, output)
	}
	output = m.Run("sh", "-c", `pathtrace exec --container cnt01 --report /tmp/report -- sh -c 'while :; do echo y; done' | head -n 1; cat /tmp/report`)
	if !strings.HasPrefix(output, "y\n") || !strings.Contains(output, "is not known: output of the command: ") {
		t.Errorf("exec prints\n%s", output)
	}
	if left := m.Run("docker", "top", "cnt01"); strings.Contains(left, "echo y") {
		t.Errorf("the command is left behind:\n%s", left)
	}
}
