package live_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestStatelessNAT: rules that set addresses are named as what translated, in
// both directions, and one rule may set both ends of a packet.
func TestStatelessNAT(t *testing.T) {
	t.Parallel()
	n := build(t, "netns-by-hand", lab.Options{Backend: lab.NFT})
	command(t, n.Host, "nft", `
flush chain ip nat postrouting
table ip stateless {
	chain out {
		type filter hook postrouting priority 300;
		oifname eth0 ip saddr 172.19.0.2 ip daddr 8.8.8.8 ip saddr set 203.0.113.1 ip daddr set 8.8.4.4
	}
	chain in {
		type filter hook prerouting priority raw;
		iifname eth0 ip saddr 8.8.4.4 ip daddr 203.0.113.1 ip saddr set 8.8.8.8 ip daddr set 172.19.0.2
	}
}`)
	r := trace(t, n, probing(n, n.Scenario.ProbeOf("")))
	if r.Verdict.Outcome != report.Replied || r.Verdict.Code != "OK" {
		t.Errorf("got %s %s, want a reply", r.Verdict.Outcome, r.Verdict.Code)
	}
	type translation struct{ Leg, Field, From, To, Chain string }
	var got []translation
	for _, tr := range r.Translations {
		if tr.Kind != "stateless" || tr.Confidence != report.Observed || tr.Rule == nil {
			t.Errorf("got %+v, want a stateless rule", tr)
			continue
		}
		got = append(got, translation{tr.Leg, tr.Field, tr.From, tr.To, tr.Rule.Chain})
	}
	tell(t, []translation{
		{"request", "destination", "8.8.8.8", "8.8.4.4", "out"},
		{"request", "source", "172.19.0.2", "203.0.113.1", "out"},
		{"reply", "destination", "203.0.113.1", "172.19.0.2", "in"},
		{"reply", "source", "8.8.4.4", "8.8.8.8", "in"},
	}, got)
	if t.Failed() {
		t.Logf("report:\n%s", text(t, r))
	}
}

// TestNATWithoutEvents: conntrack translates back also where it tells nobody.
func TestNATWithoutEvents(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"netns-by-hand", "docker-bridge", "ipv6-masquerade"} {
		t.Run(s, func(t *testing.T) {
			t.Parallel()
			n := build(t, s, lab.Options{})
			command(t, n.Host, "sysctl", "-qw", "net.netfilter.nf_conntrack_events=0")
			probes := []*lab.Probe{n.Scenario.ProbeOf(""), {Kind: "tcp", Source: n.Scenario.Source, Target: n.Scenario.Target, Port: 80}}
			if s == "docker-bridge" { // the published port, from outside and from the host itself
				host := netip.MustParseAddr("203.0.113.1")
				probes = append(probes, &lab.Probe{Kind: "tcp", Source: "client", Target: host, Port: 8080},
					&lab.Probe{Kind: "tcp", Source: lab.HostName, Target: host, Port: 8080})
			}
			for _, p := range probes {
				r := trace(t, n, probing(n, p))
				if r.Verdict.Outcome != report.Replied || r.Verdict.Code != "OK" || len(r.Findings) != 0 {
					t.Errorf("%s: got %s %s, want a reply", p.Kind, r.Verdict.Outcome, r.Verdict.Code)
				}
				for _, tr := range r.Translations {
					if tr.Kind == "unknown" {
						t.Errorf("%s: got %+v", p.Kind, tr)
					}
				}
				if t.Failed() {
					t.Logf("report:\n%s", text(t, r))
				}
			}
		})
	}
}

// TestHairpinNeeds measures what a turn back into one's own bridge needs: hairpin
// mode of the port only where br_netfilter keeps the packet on the bridge, and
// a translated source only where the sender is the target itself or where
// br_netfilter does not show the answer to conntrack.
func TestHairpinNeeds(t *testing.T) {
	t.Parallel()
	type network struct {
		bridgeNF, hairpin, masquerade, own bool
	}
	works := func(n network) bool {
		if n.own {
			return n.masquerade && (n.hairpin || !n.bridgeNF)
		}
		return n.bridgeNF // the rule masquerades the container's own requests only
	}
	for i := range 16 {
		of := network{bridgeNF: i&1 != 0, hairpin: i&2 != 0, masquerade: i&4 != 0, own: i&8 != 0}
		t.Run(fmt.Sprintf("%+v", of), func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{Backend: lab.IPTablesNFT, NoBridgeNF: !of.bridgeNF})
			iptables := func(words ...string) { command(t, n.Host, append([]string{"iptables-nft", "-t", "nat"}, words...)...) }
			iptables("-F", "DOCKER")
			iptables("-A", "DOCKER", "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", "172.17.0.2:80")
			if !of.masquerade {
				iptables("-D", "POSTROUTING", "-s", "172.17.0.2", "-d", "172.17.0.2", "-p", "tcp", "--dport", "80", "-j", "MASQUERADE")
			}
			if of.hairpin {
				command(t, n.Host, "bridge", "link", "set", "dev", "veth8c1f3e2", "hairpin", "on")
			}
			p := &lab.Probe{Kind: "tcp", Source: "cnt02", Target: netip.MustParseAddr("203.0.113.1"), Port: 8080}
			if of.own {
				p.Source = "cnt01"
			}
			r := trace(t, n, probing(n, p))
			want := "HAIRPIN_MISSING"
			if works(of) {
				want = "OK"
			}
			if r.Verdict.Code != want {
				t.Errorf("got %s, want %s:\n%s", r.Verdict.Code, want, text(t, r))
			}
		})
	}
}

// TestHairpinOffKnownNeighbour: once the host knows the container's hardware
// address, a packet that is to turn around is seen at its port only; what it was
// translated to is in the kernel's drop record.
func TestHairpinOffKnownNeighbour(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{Break: "hairpin-off"})
	if err := n.Host.Do(func() error {
		conn, err := net.Dial("tcp", "172.17.0.2:80")
		if err != nil {
			return err
		}
		return conn.Close()
	}); err != nil {
		t.Fatal(err)
	}
	fault := n.Scenario.Faults[slices.IndexFunc(n.Scenario.Faults, func(f lab.Fault) bool { return f.Name == "hairpin-off" })]
	named(t, n, &fault)
}

// TestSourceThatTheHostDoesNotHave: SNAT to an address that the host answers for
// by proxy, or that is routed to it, works and is explained as what it is.
func TestSourceThatTheHostDoesNotHave(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ source, in, tell string }{
		"proxied":   {"203.0.113.77", lab.HostName, "ip neigh add proxy 203.0.113.77 dev eth0"},
		"routed":    {"192.0.2.77", "internet", "ip route add 192.0.2.77/32 via 203.0.113.1"},
		"secondary": {"203.0.113.77", lab.HostName, "ip address add 203.0.113.77/24 dev eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{Backend: lab.IPTablesNFT})
			command(t, n.NetNS(tt.in), "sh", "-c", tt.tell)
			command(t, n.Host, "iptables-nft", "-t", "nat", "-I", "POSTROUTING", "-o", "eth0", "-j", "SNAT", "--to-source", tt.source)
			if name == "proxied" { // the kernel proxies for what it would send elsewhere only
				command(t, n.Host, "sh", "-c", "ip route add 203.0.113.77/32 dev veth0")
			}
			r := trace(t, n, probing(n, n.Scenario.ProbeOf("")))
			for _, problem := range healthy(r) {
				t.Error(problem)
			}
			if len(r.Translations) != 1 || r.Translations[0].Kind != "snat" || r.Translations[0].To != tt.source {
				t.Errorf("got %+v, want SNAT to %s", r.Translations, tt.source)
			}
			if t.Failed() {
				t.Logf("report:\n%s", text(t, r))
			}
		})
	}
}
