package report

import "testing"

func TestOwner(t *testing.T) {
	for want, owner := range map[string]Owner{
		"":                                     {},
		"ufw":                                  {Tool: "ufw"},
		"Docker, network app, MASQUERADE":      {Tool: "docker", Network: "app", Bridge: "br-5f1c3a9d2b7e", Purpose: "MASQUERADE"},
		"Docker, bridge br-5f1c3a9d2b7e":       {Tool: "docker", Bridge: "br-5f1c3a9d2b7e"},
		"firewalld, policy vpn":                {Tool: "firewalld", Policy: "vpn"},
		"firewalld, zone public":               {Tool: "firewalld", Zone: "public"},
		"kube-proxy, service default/web:http": {Tool: "kube-proxy", Service: "default/web:http"},
	} {
		if got := owner.String(); got != want {
			t.Errorf("%+v: got %q, want %q", owner, got, want)
		}
	}
}
