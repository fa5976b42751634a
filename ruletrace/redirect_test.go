package ruletrace

import (
	"net/netip"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// TestWalk finds the rule that redirects a packet, and is uncertain where
// something stands before it that it does not understand.
func TestWalk(t *testing.T) {
	a := Arrival{
		Tuple: packet.Tuple{
			Proto: packet.TCP, Src: netip.MustParseAddr("203.0.113.100"), Dst: netip.MustParseAddr("203.0.113.1"), SrcPort: 40000, DstPort: 8080,
		},
		Ingress: "eth0", Local: true,
	}
	const dnat = "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"
	docker := func(rules ...string) ruleset {
		return ruleset{"PREROUTING": {"-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"}, "DOCKER": rules}
	}
	listed := func(rules ...string) ruleset {
		return ruleset{"PREROUTING": rules, "zone": {"tcp dport 8080 dnat ip to 172.17.0.2:80"}, "empty": nil}
	}
	for _, tt := range []struct {
		name  string
		rules ruleset
		want  fate
	}{
		{"published", docker("-A DOCKER -i docker0 -j RETURN", dnat), redirects},
		{"returned before", docker("-A DOCKER -i eth0 -j RETURN", dnat), passes},
		{"accepted before", docker(`-A DOCKER -s 203.0.113.0/24 -m comment --comment "not -j DNAT" -j ACCEPT`, dnat), ends},
		{"something unknown before", docker("-A DOCKER -m set --match-set some src -j RETURN", dnat), uncertain},
		{"something unknown before that is for others", docker("-A DOCKER -p udp -m set --match-set some src -j RETURN", dnat), redirects},
		{"a target of an extension before", docker("-A DOCKER -j BALANCE", dnat), uncertain},
		{"a mark before", docker("-A DOCKER -j MARK --set-xmark 0x1/0x1", dnat), redirects},
		{"a wildcard", docker("-A DOCKER -i veth+ -j RETURN", dnat), uncertain},
		{"another port", docker("-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80"), passes},
		{"another source", docker("-A DOCKER ! -s 203.0.113.0/24 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"), passes},
		{"a loop", ruleset{"PREROUTING": {"-A PREROUTING -j PREROUTING"}}, uncertain},
		{"nft", listed(`iifname "eth0" ip daddr 203.0.113.1 tcp dport 8080 counter dnat to 172.17.0.2:80`), redirects},
		{"nft, another interface", listed(`iifname != "eth0" tcp dport 8080 dnat to 172.17.0.2:80`), passes},
		{"nft, jump", listed("jump empty", `fib daddr type local jump zone comment "x"`), redirects},
		{"nft, goto", listed("goto empty", "tcp dport 8080 dnat to 172.17.0.2"), passes},
		{"nft, a set", listed("tcp dport { 8080, 8081 } dnat to 172.17.0.2"), uncertain},
		{"nft, a set for others", listed("udp dport 8080 ip saddr @some accept", "meta l4proto tcp tcp dport 8080 dnat to 172.17.0.2"), redirects},
		{"nft, a state", listed("ct state new jump zone"), uncertain},
		{"nft, IPv6", listed("ip6 daddr fd00::/8 accept", "jump zone"), redirects},
		{"nft, prefix", listed("dnat ip prefix to ip daddr map @all"), uncertain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, rule := tt.rules.walk("PREROUTING", a, 0)
			if got == returns {
				got = passes
			}
			if got != tt.want || (got == redirects) != (rule.Text != "") {
				t.Errorf("%d by %q, want %d", got, rule.Text, tt.want)
			}
		})
	}
}
