//go:build linux

package container

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/engine"
)

// answers is a handler that answers GET requests with texts.
func answers(header http.Header, texts map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, found := texts[r.URL.Path]
		for name := range header {
			w.Header().Set(name, header.Get(name))
		}
		if !found {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprintln(w, text)
	})
}

// dockerList is what Docker 20.10 answered to GET /containers/json, without what is
// not read.
const dockerList = `[
{"Id":"d094","Names":["/onhost"],"Ports":[],"Labels":{},"HostConfig":{"NetworkMode":"host"},"NetworkSettings":{"Networks":{"host":{"IPAddress":"","Gateway":"","GlobalIPv6Address":"","IPv6Gateway":""}}}},
{"Id":"6e4a","Names":["/cnt01","/other/alias"],"Command":"sleep --password hidden",
 "Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
  {"IP":"127.0.0.1","PrivatePort":443,"PublicPort":8443,"Type":"udp"},{"PrivatePort":9000,"Type":"tcp"}],
 "Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"web","token":"hidden"},
 "HostConfig":{"NetworkMode":"default"},
 "NetworkSettings":{"Networks":{
  "bridge":{"IPAddress":"172.17.0.2","Gateway":"172.17.0.1","GlobalIPv6Address":"","IPv6Gateway":""},
  "br_ipv6_nw":{"IPAddress":"172.18.0.2","Gateway":"172.18.0.1","GlobalIPv6Address":"fd5a:ceb9:ed8d:1::2","IPv6Gateway":"fd5a:ceb9:ed8d:1::1"}}}}]`

const dockerNetworks = `[
{"Name":"bridge","Id":"aaaa","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.17.0.0/16","Gateway":"172.17.0.1"}]},
 "Options":{"com.docker.network.bridge.name":"docker0","com.docker.network.bridge.enable_ip_masquerade":"true","com.docker.network.bridge.enable_icc":"true"}},
{"Name":"inner","Id":"5f1c3a9d2b7e0123456789","Driver":"bridge","Internal":true,"EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"172.18.0.0/16"},{"Subnet":"fd00:1::/64"},{"Subnet":"nonsense"}]},"Options":{"com.docker.network.bridge.enable_icc":"false"}},
{"Name":"routed","Id":"6f1c3a9d2b7e0123456789","Driver":"bridge","Options":{"com.docker.network.bridge.gateway_mode_ipv6":"routed"}},
{"Name":"none","Id":"bbbb","Driver":"null","Options":null}]`

var byText = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestViewsOfDocker(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	address := daemon(t, answers(nil, map[string]string{"/containers/json": dockerList, "/networks": dockerNetworks}))
	got, problems := Views(t.Context(), Config{Engine: "docker", DockerHost: address})
	want := []engine.View{{
		Engine: "docker",
		Networks: []engine.Network{
			{Name: "bridge", ID: "aaaa", Driver: "bridge", Bridge: "docker0", Prefixes: []netip.Prefix{prefix("172.17.0.0/16")}, Gateways: []netip.Addr{addr("172.17.0.1")}},
			{Name: "inner", ID: "5f1c3a9d2b7e0123456789", Driver: "bridge", Bridge: "br-5f1c3a9d2b7e", Internal: true, IPv6: true, Apart: true, Prefixes: []netip.Prefix{prefix("172.18.0.0/16"), prefix("fd00:1::/64")}},
			{Name: "routed", ID: "6f1c3a9d2b7e0123456789", Driver: "bridge", Bridge: "br-6f1c3a9d2b7e", Unmasked: true, GatewayMode6: "routed"},
			{Name: "none", ID: "bbbb", Driver: "null"},
		},
		Containers: []engine.Container{
			{ID: "d094", Name: "onhost", Mode: "host", Networks: []engine.Attachment{{Network: "host"}}},
			{
				ID: "6e4a", Name: "cnt01", Mode: "default",
				Networks: []engine.Attachment{
					{Network: "br_ipv6_nw", Addresses: []netip.Addr{addr("172.18.0.2"), addr("fd5a:ceb9:ed8d:1::2")}, Gateways: []netip.Addr{addr("172.18.0.1"), addr("fd5a:ceb9:ed8d:1::1")}},
					{Network: "bridge", Addresses: []netip.Addr{addr("172.17.0.2")}, Gateways: []netip.Addr{addr("172.17.0.1")}},
				},
				Published: []engine.Published{
					{Address: addr("0.0.0.0"), Host: 8080, Port: engine.Port{Protocol: "tcp", Number: 80}},
					{Address: addr("::"), Host: 8080, Port: engine.Port{Protocol: "tcp", Number: 80}},
					{Address: addr("127.0.0.1"), Host: 8443, Port: engine.Port{Protocol: "udp", Number: 443}},
				},
				Exposed: []engine.Port{{Protocol: "tcp", Number: 9000}},
				Labels:  map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "web"},
			},
		},
	}}
	for i := range got { // of other daemons of the machine
		for k := range got[i].Containers {
			for p := range got[i].Containers[k].Published {
				got[i].Containers[k].Published[p].Proxy = 0
			}
		}
	}
	if diff := cmp.Diff(want, got, byText...); diff != "" || len(problems) > 0 {
		t.Errorf("problems %q, (-want +got)\n%s", problems, diff)
	}
	if text := fmt.Sprintf("%+v", got); strings.Contains(text, "hidden") {
		t.Errorf("a secret was kept: %s", text)
	}
}

// TestViewsOfPodman has the answers of Podman 4.3 at Docker's place.
func TestViewsOfPodman(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	address := daemon(t, answers(http.Header{"Libpod-Api-Version": {"4.3.1"}}, map[string]string{
		"/containers/json": `[{"Id":"bfe4","Names":["/pod1"],"Ports":[{"PrivatePort":80,"PublicPort":9090,"Type":"tcp"}],"Labels":null,
 "NetworkSettings":{"Networks":{"podman":{"IPAddress":"10.88.0.7","Gateway":"10.88.0.1","GlobalIPv6Address":"","IPv6Gateway":""}}}}]`,
		"/v4.0.0/libpod/networks/json": `[{"name":"podman","id":"2f25","driver":"bridge","network_interface":"podman0","subnets":[{"subnet":"10.88.0.0/16","gateway":"10.88.0.1"}],
 "ipv6_enabled":false,"internal":true,"dns_enabled":false,"ipam_options":{"driver":"host-local"}}]`,
	}))
	got, problems := Views(t.Context(), Config{Engine: "docker", DockerHost: address})
	want := []engine.View{{
		Engine:   "podman",
		Networks: []engine.Network{{Name: "podman", ID: "2f25", Driver: "bridge", Bridge: "podman0", Internal: true, Prefixes: []netip.Prefix{prefix("10.88.0.0/16")}, Gateways: []netip.Addr{addr("10.88.0.1")}}},
		Containers: []engine.Container{{
			ID: "bfe4", Name: "pod1", Networks: []engine.Attachment{{Network: "podman", Addresses: []netip.Addr{addr("10.88.0.7")}, Gateways: []netip.Addr{addr("10.88.0.1")}}},
			Published: []engine.Published{{Host: 9090, Port: engine.Port{Protocol: "tcp", Number: 80}}},
		}},
	}}
	if diff := cmp.Diff(want, got, byText...); diff != "" || len(problems) > 0 {
		t.Errorf("problems %q, (-want +got)\n%s", problems, diff)
	}
}

// TestViewsTrouble: no daemon is no view, and one that cannot be asked is told.
func TestViewsTrouble(t *testing.T) {
	if got, problems := Views(t.Context(), Config{Engine: "docker", DockerHost: nobody}); len(got)+len(problems) > 0 {
		t.Errorf("without a daemon: %v, %q", got, problems)
	}
	if _, problems := Views(t.Context(), Config{Engine: "docker", DockerHost: "tcp://192.0.2.1:2375"}); len(problems) != 1 || !strings.Contains(problems[0], "only a unix:// socket") {
		t.Errorf("a daemon elsewhere: %q", problems)
	}
	half := daemon(t, answers(nil, map[string]string{"/containers/json": dockerList}))
	if got, problems := Views(t.Context(), Config{Engine: "docker", DockerHost: half}); len(got) != 0 || len(problems) != 1 {
		t.Errorf("half an answer: %v, %q", got, problems)
	}
}

// TestContainers names the namespaces of containers that run.
func TestContainers(t *testing.T) {
	var here unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &here); err != nil {
		t.Fatal(err)
	}
	address := daemon(t, containers(
		found{id: "aaaa", name: "web", state: "running", pid: os.Getpid()},
		found{id: "bbbb", name: "old", state: "exited"},
		found{id: "cccc", name: "gone", state: "running", pid: 1 << 30},
	))
	got, err := Containers(t.Context(), Config{Engine: "docker", DockerHost: address})
	if want := []Running{{Name: "web", PID: os.Getpid(), NetNS: here.Ino}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got, err := Containers(t.Context(), Config{Engine: "docker", DockerHost: nobody}); len(got) > 0 || err != nil {
		t.Errorf("without a daemon: %v, %v", got, err)
	}
}
