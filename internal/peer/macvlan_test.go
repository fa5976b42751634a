//go:build linux

package peer_test

import (
	"testing"
)

// TestDockerMacvlan is a network of Docker's with the driver macvlan: containers in
// the host's own network, past all that Docker and the host do with packets.
func TestDockerMacvlan(t *testing.T) {
	t.Parallel()
	d := host(t, "docker-bridge").Docker()
	d.Run("docker", "network", "create", "--driver", "macvlan", "--subnet", "203.0.113.0/24", "--gateway", "203.0.113.254", "-o", "parent=eth0", "lan")
	d.Container("cnt01", "--network", "lan", "--ip", "203.0.113.11")
	d.Container("cnt02", "--network", "lan", "--ip", "203.0.113.12")
	d.Container("cnt03") // has both, and its default route is that of docker0
	d.Run("docker", "network", "connect", "--ip", "203.0.113.13", "lan", "cnt03")
	d.Run("docker", "exec", "cnt01", "httpd", "-h", "/etc", "-p", "80")

	outside := replied("cnt01", "eth0", nil,
		[]string{"cnt01 eth0 egress, 203.0.113.11 → 8.8.8.8", "host eth0 egress"},
		[]string{"host eth0 ingress, 8.8.8.8 → 203.0.113.11", "cnt01 eth0 ingress"})
	explain(t, d.Machine, outside, "ping", "8.8.8.8", "--container", "cnt01")
	explain(t, d.Machine, replied("cnt01", "eth0", nil,
		[]string{"cnt01 eth0 egress, 203.0.113.11 → 203.0.113.12", "host eth0 ingress", "cnt02 eth0 ingress"},
		[]string{"cnt02 eth0 egress, 203.0.113.12 → 203.0.113.11", "host eth0 ingress", "cnt01 eth0 ingress"},
	), "ping", "203.0.113.12", "--container", "cnt01")
	explain(t, d.Machine, replied("client", "eth0", nil,
		[]string{"client eth0 egress, 203.0.113.100 → 203.0.113.11:80", "host eth0 ingress", "cnt01 eth0 ingress"},
		[]string{"cnt01 eth0 egress, 203.0.113.11:80 → 203.0.113.100", "host eth0 egress", "client eth0 ingress"},
	), "tcp", "203.0.113.11:80", "--netns", "client")
	explain(t, d.Machine, replied("cnt03", "eth1", nil,
		[]string{"cnt03 eth1 egress, 203.0.113.13 → 203.0.113.11:80", "host eth0 ingress", "cnt01 eth0 ingress"},
		[]string{"cnt01 eth0 egress, 203.0.113.11:80 → 203.0.113.13", "host eth0 ingress", "cnt03 eth1 ingress"},
	), "tcp", "203.0.113.11:80", "--container", "cnt03")

	for _, command := range [][]string{{"ping", "203.0.113.1", "--container", "cnt01"}, {"ping", "203.0.113.12"}} {
		if r := trace(t, d.Machine, append(command, "--timeout", "4s")...); r.Verdict.Code != "MACVLAN_ISOLATED" {
			t.Errorf("pathtrace %q: %s", command, r.Verdict.Summary)
		}
		mend(t, d.Machine, append(command, "--timeout", "4s")...)
	}
	explain(t, d.Machine, outside, "ping", "8.8.8.8", "--container", "cnt01")
}
