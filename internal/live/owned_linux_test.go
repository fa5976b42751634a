package live_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/peer"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// TestFirewallManagers has a real firewalld or ufw on the host of a network end a
// probe. The report says whose rule it was, and what it proposes is a command of
// that program that has the next one answered, and another one after the program
// has written its rules anew.
func TestFirewallManagers(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	web := func(source, target string) func(*lab.Network) live.Config {
		return func(n *lab.Network) live.Config {
			at := netip.MustParseAddrPort(target)
			cfg := from(n, source, at.Addr())
			cfg.Kind, cfg.Port, cfg.Target = "tcp", at.Port(), target
			return cfg
		}
	}
	for _, tt := range []struct {
		name     string
		scenario string
		backend  lab.Backend
		manager  func(*peer.Machine)
		probe    func(*lab.Network) live.Config
		code     string
		owner    report.Owner
		// command begins what is proposed, reload has the rules written anew.
		command string
		reload  []string
	}{
		{
			"firewalld forward", "netns-by-hand", lab.NFT, firewalld, probe,
			"FILTER_REJECTED",
			report.Owner{Tool: "firewalld", Zone: "public"},
			"firewall-cmd --permanent ",
			[]string{"firewall-cmd", "--reload"},
		}, {
			"firewalld input", "docker-bridge", lab.IPTablesNFT, (*peer.Machine).Firewalld, web("cnt01", "172.17.0.1:8080"),
			"FILTER_REJECTED",
			report.Owner{Tool: "firewalld", Zone: "public"},
			"firewall-cmd --zone=public ", nil,
		}, {
			// Docker's rules accept before ufw's are asked, so there is no Docker here.
			"ufw forward", "netns-by-hand", lab.IPTablesNFT, ufw, web("mynamespace", "8.8.8.8:80"),
			"FILTER_DROP",
			report.Owner{Tool: "ufw"},
			"ufw route ",
			[]string{"ufw", "reload"},
		}, {
			"ufw input", "docker-bridge", lab.IPTablesNFT, ufw, web("cnt01", "172.17.0.1:8080"),
			"FILTER_POLICY_DROP",
			report.Owner{},
			"ufw prepend ",
			[]string{"ufw", "reload"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := build(t, tt.scenario, lab.Options{Backend: tt.backend})
			m := peer.Start(t, n.NetNS(lab.HostName))
			tt.manager(m)
			cfg := tt.probe(n)
			sick := trace(t, n, cfg)
			v := &sick.Verdict
			if v.Code != tt.code || v.Rule == nil || v.Rule.Owner != tt.owner {
				t.Fatalf("report:\n%s", text(t, sick))
			}
			t.Logf("report:\n%s", text(t, sick))
			done := 0
			for _, finding := range sick.Findings {
				for _, line := range finding.Fix {
					if done++; !strings.HasPrefix(line, strings.Fields(tt.command)[0]+" ") || done == 1 && !strings.HasPrefix(line, tt.command) {
						t.Errorf("proposed: %s", line)
					}
					m.Run("sh", "-c", line)
				}
			}
			if done == 0 {
				t.Fatalf("nothing is proposed:\n%s", text(t, sick))
			}
			for _, when := range []string{"after what was proposed", "when the rules were written anew"} {
				if well := trace(t, n, cfg); well.Verdict.Outcome != report.Replied {
					t.Fatalf("%s:\n%s", when, text(t, well))
				}
				if len(tt.reload) == 0 {
					break // what was proposed is not for long, and says so
				}
				m.Run(tt.reload[0], tt.reload[1:]...)
			}
		})
	}
}

// firewalld starts firewalld. That takes away all rules in the tables of iptables,
// those that nft put there included, so it has to translate in their place.
func firewalld(m *peer.Machine) {
	m.Firewalld()
	m.Run("firewall-cmd", "--permanent", "--add-masquerade")
	m.Run("firewall-cmd", "--reload")
}

// ufw starts ufw as Debian sets it up, with a rule of the administrator's against
// the web.
func ufw(m *peer.Machine) {
	m.Write("/etc/default/ufw", strings.Join([]string{
		"IPV6=yes", "DEFAULT_INPUT_POLICY=DROP", "DEFAULT_OUTPUT_POLICY=ACCEPT", "DEFAULT_FORWARD_POLICY=DROP", "DEFAULT_APPLICATION_POLICY=SKIP",
		"MANAGE_BUILTINS=no", "IPT_SYSCTL=/etc/ufw/sysctl.conf", "IPT_MODULES=", "",
	}, "\n"))
	m.Run("sh", "-c", "cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/*.init /usr/share/ufw/ufw.conf /etc/ufw/")
	m.Run("ufw", "--force", "enable")
	m.Run("ufw", "route", "deny", "to", "any", "port", "80", "proto", "tcp")
}
