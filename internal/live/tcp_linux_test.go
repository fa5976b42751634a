package live_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// connection is a TCP probe.
func connection(n *lab.Network, source, target string) live.Config {
	to := netip.MustParseAddrPort(target)
	cfg := from(n, source, to.Addr())
	cfg.Kind, cfg.Target, cfg.Port = "tcp", target, to.Port()
	return cfg
}

// The ways of the lab's networks.
var (
	byHandThere = []string{"mynamespace/veth1 egress", "host/veth0 ingress", "host/eth0 egress"}
	byHandBack  = []string{"host/eth0 ingress", "host/veth0 egress", "mynamespace/veth1 ingress"}
	dockerThere = []string{"client/eth0 egress", "host/eth0 ingress", "host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}
	dockerBack  = []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress", "host/eth0 egress", "client/eth0 ingress"}
)

// tcpTest is a connection with what must be said of it.
type tcpTest struct {
	name, scenario string
	backend        lab.Backend
	// change is a command that breaks the network, run in the namespace in; none
	// leaves it as it is.
	in             string
	change         []string
	source, target string
	want           verdict
}

// TestTCP connects: where it works, where nobody listens and where rules are in
// the way.
func TestTCP(t *testing.T) {
	t.Parallel()
	var tests []tcpTest
	for _, backend := range []lab.Backend{lab.NFT, lab.IPTablesNFT, lab.IPTablesLegacy} {
		tests = append(tests, throughMasquerade(backend)...)
		if backend != lab.NFT {
			tests = append(tests, toPublishedPort(backend)...)
		}
		tests = append(tests, rejected(backend)...)
	}
	for i, tt := range append(tests, droppedAtSource()...) {
		t.Run(fmt.Sprintf("%s %s", tt.name, tt.backend), func(t *testing.T) {
			t.Parallel()
			third(t, i)
			n := build(t, tt.scenario, lab.Options{Backend: tt.backend})
			if len(tt.change) > 0 {
				command(t, n.NetNS(tt.in), tt.change...)
			}
			r := trace(t, n, connection(n, tt.source, tt.target))
			tell(t, tt.want, shorten(r))
			if tt.want.Outcome == report.Replied {
				for _, problem := range healthy(r) {
					t.Error(problem)
				}
			}
		})
	}
}

// answeredAt is the verdict on a connection that was made.
func answeredAt(source string, there, back []string, translations ...string) verdict {
	return verdict{
		Outcome: report.Replied, Leg: "reply", Code: "OK", NetNS: source, Confidence: report.Observed,
		Translations: translations, Request: there, Reply: back,
	}
}

// refusedBy is the verdict on a connection that a reset ended.
func refusedBy(netns string, there, back []string, translations ...string) verdict {
	v := answeredAt(netns, there, back, translations...)
	v.Outcome, v.Leg, v.Code = report.Rejected, "request", "NO_LISTENER"
	return v
}

// endedBy is the verdict on a request that a rule ended.
func endedBy(outcome report.Outcome, code, netns, hook, rule string, there, back []string) verdict {
	return verdict{
		Outcome: outcome, Leg: "request", Code: code, NetNS: netns, Hook: hook, Rule: rule,
		Confidence: report.Observed, Request: there, Reply: back,
	}
}

// throughMasquerade are connections to the internet.
func throughMasquerade(backend lab.Backend) []tcpTest {
	byHand := "[nft ip nat postrouting] ip saddr 172.19.0.0/24 masquerade"
	firewalld := `[nft ip6 firewalld nat_POST_public_allow] oifname != "lo" masquerade`
	npt := lab.IPTablesLegacy
	if backend != lab.NFT {
		byHand = fmt.Sprintf("[%s ip nat POSTROUTING] -A POSTROUTING -s 172.19.0.0/24 -j MASQUERADE", backend)
		firewalld = fmt.Sprintf("[%s ip6 nat POST_public_allow] -A POST_public_allow ! -o lo -j MASQUERADE", backend)
	}
	if backend != lab.IPTablesLegacy {
		npt = lab.IPTablesNFT
	}
	const (
		container = "[fd5a:ceb9:ed8d:1::2]:port"
		host      = "[fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5]:port"
		public    = "[2001:db8:ff66:0:77e5:61d8:20eb:aba5]:port"
	)
	translations := []string{
		"request observed masquerade host postrouting source " + container + " → " + host + " " + firewalld,
		"request observed nptv6 gateway postrouting source " + host + " → " + public + " " + fmt.Sprintf("[%s ip6 mangle POSTROUTING] "+
			"-A POSTROUTING -s fd5a:ceb9:ed8d:fe0a::/64 -o zUntrust -j SNPT --src-pfx fd5a:ceb9:ed8d:fe0a::/64 --dst-pfx 2001:db8:ff66::/64", npt),
		"reply observed nptv6 gateway prerouting destination " + public + " → " + host + " " + fmt.Sprintf("[%s ip6 mangle PREROUTING] "+
			"-A PREROUTING -d 2001:db8:ff66::/64 -i zUntrust -j DNPT --src-pfx 2001:db8:ff66::/64 --dst-pfx fd5a:ceb9:ed8d:fe0a::/64", npt),
	}
	masquerade := "request observed masquerade host postrouting source 172.19.0.2:port → 203.0.113.1:port " + byHand
	six, err := lab.Find("ipv6-masquerade")
	if err != nil {
		panic(err) // the scenario is there
	}
	return []tcpTest{
		{
			name: "IPv4", scenario: "netns-by-hand", backend: backend, source: "mynamespace", target: "8.8.8.8:80",
			want: answeredAt("mynamespace", byHandThere, byHandBack, masquerade),
		}, {
			name: "IPv4 refused", scenario: "netns-by-hand", backend: backend, source: "mynamespace", target: "8.8.8.8:81",
			want: refusedBy("host", byHandThere, byHandBack, masquerade),
		}, {
			name: "IPv6", scenario: "ipv6-masquerade", backend: backend, source: "cnt01", target: "[2001:4860:4860::8888]:53",
			want: answeredAt("cnt01", six.Request, six.Reply, translations...),
		}, {
			name: "IPv6 refused", scenario: "ipv6-masquerade", backend: backend, source: "cnt01", target: "[2001:4860:4860::8888]:81",
			want: refusedBy("gateway", six.Request, six.Reply, translations...),
		},
	}
}

// toPublishedPort are connections to a container's port 80, published as 8080
// with the userland proxy, as networks.md has them.
func toPublishedPort(backend lab.Backend) []tcpTest {
	rule := fmt.Sprintf("[%s ip nat DOCKER] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80", backend)
	all := []tcpTest{
		{
			name: "published", source: "client", target: "203.0.113.1:8080",
			want: answeredAt("client", dockerThere, dockerBack,
				"request observed dnat host prerouting destination 203.0.113.1:8080 → 172.17.0.2:80 "+rule),
		}, {
			name: "published, from the host", source: "host", target: "203.0.113.1:8080",
			want: answeredAt("host", dockerThere[2:], dockerBack[:3],
				"request observed dnat host output destination 203.0.113.1:8080 → 172.17.0.2:80 "+rule),
		}, {
			name: "published, from itself", source: "cnt01", target: "203.0.113.1:8080",
			want: answeredAt("cnt01", dockerBack[:3], dockerThere[2:]),
		}, {
			name: "exposed, not published", source: "client", target: "203.0.113.1:80",
			want: refusedBy("host", dockerThere[:2], dockerBack[3:]),
		}, {
			name: "exposed, from the host", source: "host", target: "172.17.0.2:80",
			want: answeredAt("host", dockerThere[2:], dockerBack[:3]),
		}, {
			name: "neighbour", source: "cnt01", target: "172.17.0.3:80",
			want: refusedBy("cnt02",
				[]string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/vethd04b7a9 egress", "cnt02/eth0 ingress"},
				[]string{"cnt02/eth0 egress", "host/vethd04b7a9 ingress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}),
		}, {
			name: "isolated", source: "cnt01", target: "172.18.0.2:80",
			want: endedBy(report.Dropped, "FILTER_DROP", "host", "forward",
				fmt.Sprintf("[%s ip filter DOCKER-ISOLATION-STAGE-2] -A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP", backend),
				dockerBack[:3], nil),
		},
	}
	for i := range all {
		all[i].scenario, all[i].backend = "docker-bridge", backend
	}
	return all
}

// rejected are connections that a rule on the host ends with a reset or an ICMP
// error.
func rejected(backend lab.Backend) []tcpTest {
	type form struct{ name, nft, ipv4, ipv6 string }
	var all []tcpTest
	for _, with := range []form{
		{"reset", "reject with tcp reset", "tcp-reset", "tcp-reset"},
		{"prohibited", "reject with icmpx admin-prohibited", "icmp-admin-prohibited", "icmp6-adm-prohibited"},
	} {
		four := tcpTest{
			name: "IPv4 " + with.name, scenario: "netns-by-hand", backend: backend, source: "mynamespace", target: "8.8.8.8:80", in: "host",
			change: []string{"nft", "insert rule inet filter forward tcp dport 80 " + with.nft},
			want: endedBy(report.Rejected, "FILTER_REJECTED", "host", "forward", "[nft inet filter forward] tcp dport 80 "+with.nft,
				byHandThere[:2], byHandBack[1:]),
		}
		six := tcpTest{
			name: "IPv6 " + with.name, scenario: "ipv6-masquerade", backend: backend, source: "cnt01", target: "[2001:4860:4860::8888]:53", in: "host",
			change: []string{"nft", "insert rule inet firewalld filter_FWDI_docker_deny tcp dport 53 " + with.nft},
			want: endedBy(report.Rejected, "FILTER_REJECTED", "host", "forward", "[nft inet firewalld filter_FWDI_docker_deny] tcp dport 53 "+with.nft,
				[]string{"cnt01/eth0 egress", "host/veth671b926 ingress", "host/br_ipv6_nw ingress"},
				[]string{"host/br_ipv6_nw egress", "host/veth671b926 egress", "cnt01/eth0 ingress"}),
		}
		if with.name == "reset" {
			// Under br_netfilter a reset is put on the port, past the bridge.
			six.want.Reply = six.want.Reply[1:]
		}
		if backend != lab.NFT {
			line := "-A FORWARD -p tcp -m tcp --dport 80 -j REJECT --reject-with " + with.ipv4
			four.change = append([]string{string(backend)}, strings.Fields(line)...)
			four.want.Rule = fmt.Sprintf("[%s ip filter FORWARD] %s", backend, line)
			line = "-A FWDI_docker_deny -p tcp -m tcp --dport 53 -j REJECT --reject-with " + with.ipv6
			six.change = append([]string{strings.Replace(string(backend), "ip", "ip6", 1)}, strings.Fields(line)...)
			six.want.Rule = fmt.Sprintf("[%s ip6 filter FWDI_docker_deny] %s", backend, line)
		}
		all = append(all, four, six)
	}
	return all
}

// droppedAtSource are connections that the rules of their own namespace drop.
func droppedAtSource() []tcpTest {
	all := []tcpTest{
		{
			name: "output", backend: lab.NFT,
			change: []string{"nft", "add table inet own; add chain inet own out { type filter hook output priority 0; }; add rule inet own out tcp dport 80 drop"},
			want:   endedBy(report.Dropped, "FILTER_DROP", "mynamespace", "output", "[nft inet own out] tcp dport 80 drop", []string{"mynamespace/ egress"}, nil),
		}, {
			name: "output", backend: lab.IPTablesLegacy,
			change: []string{"iptables-legacy", "-A", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"},
			want: endedBy(report.Dropped, "FILTER_DROP", "mynamespace", "output",
				"[iptables-legacy ip filter OUTPUT] -A OUTPUT -p tcp -m tcp --dport 80 -j DROP", []string{"mynamespace/ egress"}, nil),
		}, {
			name: "postrouting", backend: lab.IPTablesNFT,
			change: []string{"iptables-nft", "-t", "mangle", "-A", "POSTROUTING", "-p", "tcp", "--dport", "80", "-j", "DROP"},
			want: endedBy(report.Dropped, "FILTER_DROP", "mynamespace", "postrouting",
				"[iptables-nft ip mangle POSTROUTING] -A POSTROUTING -p tcp -m tcp --dport 80 -j DROP", []string{"mynamespace/ egress"}, nil),
		},
	}
	for i := range all {
		all[i].scenario, all[i].in, all[i].source, all[i].target = "netns-by-hand", "mynamespace", "mynamespace", "8.8.8.8:80"
	}
	return all
}

// TestHairpin connects a container to its own published port where Docker runs
// no proxy: the packet goes back out of the port that it came from, if the
// bridge lets it.
func TestHairpin(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.IPTablesNFT, lab.IPTablesLegacy} {
		dnat := fmt.Sprintf("request observed dnat host prerouting destination 203.0.113.1:8080 → 172.17.0.2:80 "+
			"[%s ip nat DOCKER] -A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80", backend)
		masquerade := fmt.Sprintf("request observed masquerade host postrouting source 172.17.0.2:port → 172.17.0.1:port "+
			"[%s ip nat POSTROUTING] -A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE", backend)
		round := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}
		for name, tt := range map[string]struct {
			on   bool
			want verdict
		}{
			"on": {true, answeredAt("cnt01", round, round, dnat, masquerade)},
			"off": {false, verdict{
				Outcome: report.Dropped, Leg: "request", Code: "HAIRPIN_MISSING", NetNS: "host", Confidence: report.Reconstructed,
				Translations: []string{dnat}, Request: round[:3],
			}},
		} {
			t.Run(fmt.Sprintf("%s %s", backend, name), func(t *testing.T) {
				t.Parallel()
				n := build(t, "docker-bridge", lab.Options{Backend: backend})
				command(t, n.Host, string(backend), "-t", "nat", "-D", "DOCKER", "-i", "docker0", "-j", "RETURN")
				command(t, n.Host, string(backend), "-t", "nat", "-R", "DOCKER", "2",
					"-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", "172.17.0.2:80")
				h := handle(t, n.Host)
				port, err := h.LinkByName("veth8c1f3e2")
				if err != nil {
					t.Fatal(err)
				}
				if err := h.LinkSetHairpin(port, tt.on); err != nil {
					t.Fatal(err)
				}
				cfg := connection(n, "cnt01", "203.0.113.1:8080")
				cfg.Timeout = patient
				r := trace(t, n, cfg)
				mechanism := "vanished between host/docker0 and a port of docker0"
				if !tt.on && told(t, r) {
					mechanism = "NOT_SPECIFIED@br_handle_frame_finish"
				}
				tell(t, tt.want, shorten(r))
				if !tt.on && r.Verdict.Mechanism != mechanism {
					t.Errorf("mechanism %q, want %q", r.Verdict.Mechanism, mechanism)
				}
			})
		}
	}
}
