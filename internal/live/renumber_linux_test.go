package live_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestRenumber moves docker0 to the network that the report of an overlap
// proposes for Docker's configuration, as Docker does when it is started again,
// and the answer comes, though the VPN has kept all that it took.
func TestRenumber(t *testing.T) {
	t.Parallel()
	scenario, err := lab.Find("vpn-overlap")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for i, fault := range scenario.Faults {
		options := lab.Options{Break: fault.Name, Backend: scenario.Backends[i%len(scenario.Backends)]}
		twin := strings.HasPrefix(fault.Name, "twin")
		if scenario.Truth(options).Code != "SUBNET_OVERLAP" && !twin {
			continue
		}
		tried++
		t.Run(name(scenario, options), func(t *testing.T) {
			t.Parallel()
			n := build(t, scenario.Name, options)
			cfg := probing(n, n.Scenario.ProbeOf(fault.Name))
			sick := trace(t, n, cfg)
			moveDocker(t, n, proposedBIP(t, sick))
			if well := trace(t, n, cfg); !heals(well, cfg) {
				t.Errorf("after docker0 was moved:\n%s", text(t, well))
			}
		})
	}
	if tried < 10 {
		t.Errorf("only %d faults with an overlap", tried)
	}
}

// proposedBIP is the address that a report proposes for docker0.
func proposedBIP(t *testing.T, r *report.Report) netip.Prefix {
	t.Helper()
	for _, finding := range r.Findings {
		for _, line := range finding.Fix {
			if value, ok := strings.CutPrefix(line, `"bip": `); ok && finding.Code == "SUBNET_OVERLAP" {
				p, err := netip.ParsePrefix(strings.Trim(value, `"`))
				if err != nil || p == p.Masked() {
					t.Fatalf("%s is not the address of a host with its prefix length (%v)", value, err)
				}
				return p
			}
		}
	}
	t.Fatalf("no address is proposed for docker0:\n%s", text(t, r))
	return netip.Prefix{}
}

// moveDocker does what Docker does on a start with another --bip.
func moveDocker(t *testing.T, n *lab.Network, bip netip.Prefix) {
	t.Helper()
	host, container := n.NetNS(lab.HostName), n.NetNS("cnt01")
	tool := string(n.Options.Backend)
	for _, line := range []string{
		"ip addr flush dev docker0", "ip addr add " + bip.String() + " dev docker0",
		tool + " -t nat -A POSTROUTING -s " + bip.Masked().String() + " ! -o docker0 -j MASQUERADE",
	} {
		command(t, host, "sh", "-c", line)
	}
	for _, line := range []string{
		"ip addr flush dev eth0", "ip addr add " + netip.PrefixFrom(bip.Addr().Next(), bip.Bits()).String() + " dev eth0",
		"ip route add default via " + bip.Addr().String() + " dev eth0",
	} {
		command(t, container, "sh", "-c", line)
	}
}
