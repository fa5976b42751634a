package engine

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func views() []View {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	return []View{{
		Engine: "docker",
		Networks: []Network{
			{Name: "bridge", ID: "aaaa", Driver: "bridge", Bridge: "docker0", Prefixes: []netip.Prefix{prefix("172.17.0.0/16")}, Gateways: []netip.Addr{addr("172.17.0.1")}},
			{
				Name: "inner", Driver: "bridge", Bridge: "br-1", Internal: true, IPv6: true, Apart: true, Unmasked: true, GatewayMode6: "routed",
				Prefixes: []netip.Prefix{prefix("172.18.0.0/16"), prefix("fd00:1::/64")}, Members: []Member{{Name: "other"}},
			},
			{Name: "host", Driver: "host"},
		},
		Containers: []Container{
			{
				ID: "6e4a", Name: "cnt01", Mode: "default", Networks: []Attachment{{Network: "bridge"}, {Network: "inner"}, {Network: "gone"}},
				Published: []Published{{Address: addr("127.0.0.1"), Host: 8443, Port: Port{Protocol: "udp", Number: 443}, Proxy: 7}, {Address: addr("::"), Host: 8080, Port: Port{Protocol: "tcp", Number: 80}}},
				Exposed:   []Port{{Protocol: "tcp", Number: 9000}}, Labels: map[string]string{"com.docker.compose.service": "web"},
			},
			{ID: "76e6", Name: "side", Mode: "container:6e4a"},
			{ID: "d094", Name: "onhost", Mode: "host", Networks: []Attachment{{Network: "host"}}},
			{ID: "226e", Name: "alone", Mode: "none"},
		},
	}}
}

func TestDescribe(t *testing.T) {
	networks := []string{
		"network bridge (bridge), bridge docker0, 172.17.0.0/16, gateway 172.17.0.1, IPv6 off",
		"network inner (bridge), bridge br-1, 172.18.0.0/16 and fd00:1::/64, internal: nothing leaves it, its containers are kept apart (icc off), not masqueraded, gateway_mode_ipv6 routed",
	}
	ports := []string{
		"published 127.0.0.1:8443 for 443/udp, docker-proxy (pid 7) listens there", "published [::]:8080 for 80/tcp",
		"exposed 9000/tcp, not published: reached by the container's own address only",
	}
	for id, want := range map[string][]string{
		"6e4a": slices.Concat(networks, ports, []string{"label com.docker.compose.service=web"}),
		"76e6": slices.Concat([]string{"network namespace shared with cnt01"}, networks, ports),
		"d094": {"network namespace of the host", "network host (host)"},
		"226e": {"no network"},
	} {
		d := Describe(views(), id)
		if d == nil {
			t.Fatalf("%s is not known", id)
		}
		if diff := cmp.Diff(want, d.Lines()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", id, diff)
		}
		for _, n := range d.Networks {
			if n.Members != nil {
				t.Errorf("%s: other containers are told: %v", id, n.Members)
			}
		}
	}
	if d := Describe(views(), "ffff"); d != nil {
		t.Errorf("nobody is %+v", d)
	}
}

func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		published, asked string
		want             bool
	}{
		{"", "192.0.2.1", true},
		{"", "2001:db8::1", true},
		{"0.0.0.0", "192.0.2.1", true},
		{"0.0.0.0", "2001:db8::1", false},
		{"::", "2001:db8::1", true},
		{"::", "192.0.2.1", false},
		{"127.0.0.1", "192.0.2.1", false},
		{"127.0.0.1", "127.0.0.1", true},
	} {
		p := Published{}
		if tt.published != "" {
			p.Address = netip.MustParseAddr(tt.published)
		}
		if got := p.Covers(netip.MustParseAddr(tt.asked)); got != tt.want {
			t.Errorf("%q covers %s: %v", tt.published, tt.asked, got)
		}
	}
}

func TestLabelled(t *testing.T) {
	got := Labelled(map[string]string{
		"com.docker.compose.project": "shop", "io.kubernetes.pod.name": "web-1", "io.kubernetes": "x", "com.docker.compose.project.config_files": "/srv", "token": "hidden",
	})
	if diff := cmp.Diff(map[string]string{"com.docker.compose.project": "shop", "io.kubernetes.pod.name": "web-1"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := Labelled(map[string]string{"token": "hidden"}); got != nil {
		t.Errorf("got %v, want nothing", got)
	}
}
