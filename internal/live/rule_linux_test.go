package live_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestPlaces drops packets at every hook, in tables of every kind, in verdict
// maps and by policies. The report names the place, and what it proposes helps.
func TestPlaces(t *testing.T) {
	t.Parallel()
	const (
		there = iota
		back
	)
	tests := []struct {
		name     string
		commands []string // on the host
		target   string
		code     string
		hook     string
		rule     string
		leg      int
		request  []string
		reply    []string
	}{
		{
			name:     "legacy raw, with a comment that is hard to quote",
			commands: []string{`iptables-legacy -t raw -A PREROUTING -p icmp --icmp-type echo-request -m comment --comment 'a "b" \ %s' -j DROP`},
			code:     "FILTER_DROP", hook: "prerouting",
			rule: `[iptables-legacy ip raw PREROUTING] -A PREROUTING -p icmp -m icmp --icmp-type 8 -m comment --comment "a \"b\" \\ %s" -j DROP`,
		}, {
			name:     "legacy mangle policy behind the routing",
			commands: []string{"iptables-legacy -t mangle -P POSTROUTING DROP"},
			code:     "FILTER_POLICY_DROP", hook: "postrouting", rule: "[iptables-legacy ip mangle POSTROUTING] :POSTROUTING DROP",
		}, {
			name:     "iptables-nft mangle",
			commands: []string{"iptables-nft -t mangle -A FORWARD -p icmp --icmp-type echo-request -j DROP"},
			code:     "FILTER_DROP", hook: "forward", rule: "[iptables-nft ip mangle FORWARD] -A FORWARD -p icmp -m icmp --icmp-type 8 -j DROP",
		}, {
			name: "nft raw",
			commands: []string{
				"nft 'add table inet z; add chain inet z c { type filter hook prerouting priority raw; }'",
				"nft add rule inet z c icmp type echo-request drop",
			},
			code: "FILTER_DROP", hook: "prerouting", rule: "[nft inet z c] icmp type echo-request drop",
		}, {
			name: "nft before everything else",
			commands: []string{
				"nft 'add table ip z; add chain ip z c { type filter hook prerouting priority -2147483648; }'",
				"nft add rule ip z c icmp type echo-request drop",
			},
			code: "FILTER_DROP", hook: "prerouting", rule: "[nft ip z c] icmp type echo-request drop",
		}, {
			name: "nft policy before the translation",
			commands: []string{
				"nft 'add table inet z; add chain inet z c { type filter hook postrouting priority 0; policy drop; }'",
				"nft add rule inet z c udp dport 3 accept",
			},
			code: "FILTER_POLICY_DROP", hook: "postrouting", rule: "[nft inet z c] policy drop",
		}, {
			name: "nft set and map",
			commands: []string{
				"nft 'add table inet z; add set inet z bad { type ipv4_addr; elements = { 8.8.8.8 }; }; add chain inet z x'",
				"nft 'add rule inet z x counter drop; add chain inet z c { type filter hook forward priority 0; }'",
				"nft 'add rule inet z c ip daddr @bad meta l4proto vmap { icmp : goto x, tcp : accept }'",
			},
			code: "FILTER_DROP", hook: "forward", rule: "[nft inet z x] counter drop",
		}, {
			name: "nft map of verdicts",
			commands: []string{
				"nft 'add table inet z; add chain inet z c { type filter hook forward priority 0; }'",
				"nft 'add rule inet z c icmp type vmap { echo-reply : accept, echo-request : drop }'",
			},
			code: "FILTER_DROP", hook: "forward", rule: "[nft inet z c] icmp type vmap { echo-reply : accept, echo-request : drop }",
		}, {
			name: "accepted by one table, dropped by the next",
			commands: []string{
				"nft 'add table inet z; add chain inet z a { type filter hook forward priority -5; }; add rule inet z a accept'",
				"nft 'add chain inet z b { type filter hook forward priority 5; }; add rule inet z b icmp type echo-request drop'",
			},
			code: "FILTER_DROP", hook: "forward", rule: "[nft inet z b] icmp type echo-request drop",
		}, {
			name: "input policy", target: "172.19.0.1",
			commands: []string{
				"nft 'add table inet z; add chain inet z c { type filter hook input priority 0; policy drop; }'",
				"nft add rule inet z c udp dport 3 accept",
			},
			code: "FILTER_POLICY_DROP", hook: "input", rule: "[nft inet z c] policy drop",
		}, {
			name: "output of the answer", target: "172.19.0.1", leg: back,
			commands: []string{
				"nft 'add table inet z; add chain inet z c { type filter hook output priority 0; }'",
				"nft add rule inet z c icmp type echo-reply drop",
			},
			code: "FILTER_DROP", hook: "output", rule: "[nft inet z c] icmp type echo-reply drop", reply: []string{"host/ egress"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{})
			for _, line := range tt.commands {
				command(t, n.Host, "sh", "-c", line)
			}
			cfg := probe(n)
			if tt.target != "" {
				cfg = ping(n, tt.target)
			}
			r := heal(t, n, cfg)
			want := endedBy(report.Dropped, tt.code, "host", tt.hook, tt.rule, byHandThere[:2], tt.reply)
			if tt.leg == back {
				want.Leg = "reply"
			}
			tell(t, want, shorten(r))
		})
	}
}

// TestBridged drops what goes from one port of a bridge to another.
func TestBridged(t *testing.T) {
	t.Parallel()
	const (
		family  = "nft 'add table bridge z; add chain bridge z c { type filter hook forward priority 0; }; add rule bridge z c ip saddr 172.17.0.2 counter drop'"
		forward = "iptables-nft -I FORWARD -s 172.17.0.2 -d 172.17.0.3 -j DROP"
	)
	tests := []struct {
		name    string
		options lab.Options
		command string
		rule    string // empty: it passes
	}{
		{"bridge table", lab.Options{}, family, "[nft bridge z c] ip saddr 172.17.0.2 counter drop"},
		{"bridge table without bridge-nf", lab.Options{NoBridgeNF: true}, family, "[nft bridge z c] ip saddr 172.17.0.2 counter drop"},
		{"ip table", lab.Options{}, forward, "[iptables-nft ip filter FORWARD] -A FORWARD -s 172.17.0.2/32 -d 172.17.0.3/32 -j DROP"},
		{"ip table without bridge-nf", lab.Options{NoBridgeNF: true}, forward, ""},
		{
			"legacy ip table",
			lab.Options{Backend: lab.IPTablesLegacy},
			strings.Replace(forward, "nft", "legacy", 1),
			"[iptables-legacy ip filter FORWARD] -A FORWARD -s 172.17.0.2/32 -d 172.17.0.3/32 -j DROP",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", tt.options)
			command(t, n.Host, "sh", "-c", tt.command)
			cfg := ping(n, "172.17.0.3")
			there := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/vethd04b7a9 egress", "cnt02/eth0 ingress"}
			back := []string{"cnt02/eth0 egress", "host/vethd04b7a9 ingress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}
			if tt.rule == "" {
				r := trace(t, n, cfg)
				tell(t, answeredAt("cnt01", there, back), shorten(r))
				return
			}
			r := heal(t, n, cfg)
			tell(t, endedBy(report.Dropped, "BRIDGE_FILTERED", "host", "forward", tt.rule, there[:2], nil), shorten(r))
		})
	}
}

// TestTranslations has the host translate in every way.
func TestTranslations(t *testing.T) {
	t.Parallel()
	const (
		masquerade = "request observed masquerade host postrouting source 172.19.0.2 → 203.0.113.1 [nft ip nat postrouting] ip saddr 172.19.0.0/24 masquerade"
		before     = "nft 'add table ip z; add chain ip z c { type nat hook prerouting priority -110; }'"
		after      = "nft 'add table ip z; add chain ip z c { type nat hook postrouting priority 90; }'"
	)
	tests := []struct {
		name         string
		target       string // empty: the scenario's
		commands     []string
		reply        []string // nil: the usual way
		request      []string
		translations []string
	}{
		{
			name: "SNAT", commands: []string{after, "nft add rule ip z c ip daddr 8.8.8.8 snat to 203.0.113.1"},
			translations: []string{"request observed snat host postrouting source 172.19.0.2 → 203.0.113.1 [nft ip z c] ip daddr 8.8.8.8 snat to 203.0.113.1"},
		}, {
			name: "DNAT", commands: []string{before, "nft add rule ip z c ip daddr 8.8.8.8 dnat to 8.8.4.4"},
			translations: []string{
				"request observed dnat host prerouting destination 8.8.8.8 → 8.8.4.4 [nft ip z c] ip daddr 8.8.8.8 dnat to 8.8.4.4",
				masquerade,
			},
		}, {
			name: "redirect", commands: []string{before, "nft add rule ip z c ip daddr 8.8.8.8 redirect"},
			translations: []string{"request observed redirect host prerouting destination 8.8.8.8 → 172.19.0.1 [nft ip z c] ip daddr 8.8.8.8 redirect"},
			request:      byHandThere[:2], reply: byHandBack[1:],
		}, {
			name: "NETMAP", target: "9.9.9.8", commands: []string{"iptables-legacy -t nat -A PREROUTING -d 9.9.9.0/24 -j NETMAP --to 8.8.8.0/24"},
			translations: []string{
				"request observed netmap host prerouting destination 9.9.9.8 → 8.8.8.8 [iptables-legacy ip nat PREROUTING] -A PREROUTING -d 9.9.9.0/24 -j NETMAP --to 8.8.8.0/24",
				masquerade,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{})
			for _, line := range tt.commands {
				command(t, n.Host, "sh", "-c", line)
			}
			cfg := probe(n)
			if tt.target != "" {
				cfg = ping(n, tt.target)
			}
			r := trace(t, n, cfg)
			request, reply := byHandThere, byHandBack
			if tt.reply != nil {
				request, reply = tt.request, tt.reply
			}
			tell(t, answeredAt("mynamespace", request, reply, tt.translations...), shorten(r))
			for _, problem := range healthy(r) {
				t.Error(problem)
			}
		})
	}
}

// TestRewrittenID has the host choose another ICMP id, or port, for every flow,
// as it does when two flows collide. The packets are recognised all the same,
// with the id that conntrack lists.
func TestRewrittenID(t *testing.T) {
	t.Parallel()
	n := build(t, "netns-by-hand", lab.Options{})
	command(t, n.Host, "nft", "flush chain ip nat postrouting; add rule ip nat postrouting ip saddr 172.19.0.0/24 masquerade fully-random")
	pinged := trace(t, n, probe(n))
	ids := func(leg []report.Hop) []int {
		var all []int
		for _, hop := range leg {
			all = append(all, *hop.Tuple.ICMPID)
		}
		return all
	}
	request := ids(pinged.Legs.Request)
	if len(request) != 3 || request[0] == request[2] {
		t.Fatalf("ids on the way there: %v", request)
	}
	sent, changed := request[0], request[2]
	tell(t, []int{sent, sent, changed}, request)
	tell(t, []int{changed, sent, sent}, ids(pinged.Legs.Reply))

	connected := trace(t, n, connection(n, n.Scenario.Source, "8.8.8.8:80"))
	if got := len(connected.Translations); got != 1 {
		t.Fatalf("%d translations", got)
	}
	_, port, _ := strings.Cut(connected.Translations[0].To, ":")
	if connected.Legs.Request[2].Tuple.Source != "203.0.113.1:"+port || port == "" || connected.Legs.Request[0].Tuple.Source == "172.19.0.2:"+port {
		t.Errorf("translation %+v, hop %+v", connected.Translations[0], connected.Legs.Request[2].Tuple)
	}
	table := command(t, n.Host, "conntrack", "-L")
	for _, want := range []string{fmt.Sprintf("id=%d ", changed), fmt.Sprintf("dport=%s ", port)} {
		if !strings.Contains(table, want) {
			t.Errorf("conntrack -L has no %q:\n%s", want, table)
		}
	}
	for _, r := range []*report.Report{pinged, connected} {
		if r.Translations[0].Kind != "masquerade" || owned(r.Translations[0].Rule) != "[nft ip nat postrouting] ip saddr 172.19.0.0/24 masquerade fully-random" {
			t.Errorf("translation %+v", r.Translations[0])
		}
		for _, problem := range healthy(r) {
			t.Error(problem)
		}
	}
}
