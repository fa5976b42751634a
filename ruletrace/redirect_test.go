package ruletrace

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// TestRedirect finds the rule that translates a packet's destination, and none
// where something stands before it that it does not understand. A ruleset that was
// saved and read again gives the same.
func TestRedirect(t *testing.T) {
	t.Parallel()
	a := Arrival{
		Tuple: packet.Tuple{
			Proto: packet.TCP, Src: netip.MustParseAddr("203.0.113.100"), Dst: netip.MustParseAddr("203.0.113.1"), SrcPort: 40000, DstPort: 8080,
		},
		Ingress: "eth0", Local: true,
	}
	const dnat = "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"
	saved := func(lines ...string) *Ruleset {
		return save(IPTablesLegacy, "ip", "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n"+strings.Join(lines, "\n")+"\nCOMMIT\n")
	}
	docker := func(rules ...string) *Ruleset {
		return saved(append([]string{"-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"}, rules...)...)
	}
	nft := func(rules ...string) *Ruleset {
		set := listed(Accept, map[string][]string{"base": rules, "zone": {"tcp dport 8080 dnat ip to 172.17.0.2:80"}, "empty": nil})
		set.Chains[len(set.Chains)-1].Type, set.Chains[len(set.Chains)-1].Hook, set.Chains[len(set.Chains)-1].Priority = "nat", Prerouting, -100
		return set
	}
	at := func(set *Ruleset, typ string, priority int) *Ruleset {
		base := &set.Chains[len(set.Chains)-1]
		base.Type, base.Priority = typ, priority
		return set
	}
	both := func(sets ...*Ruleset) *Ruleset {
		all := new(Ruleset)
		for _, set := range sets {
			all.Chains = append(all.Chains, set.Chains...)
		}
		all.sort()
		return all
	}
	const listedDNAT = "tcp dport 8080 dnat ip to 172.17.0.2:80"
	elsewhere := a
	elsewhere.Local = false
	for _, tt := range []struct {
		name   string
		set    *Ruleset
		packet Arrival
		want   string
	}{
		{"published", docker(dnat), a, dnat},
		{"published, to another machine", docker(dnat), elsewhere, ""},
		{"to another machine", saved("-A PREROUTING -m addrtype ! --dst-type LOCAL -j DOCKER", dnat), elsewhere, dnat},
		{"returned before", docker("-A DOCKER -i eth0 -j RETURN", dnat), a, ""},
		{"accepted before", docker(`-A DOCKER -s 203.0.113.0/24 -m comment --comment "not -j DNAT" -j ACCEPT`, dnat), a, ""},
		{"something unknown before", docker("-A DOCKER -m set --match-set some src -j RETURN", dnat), a, ""},
		{"something unknown before that is for others", docker("-A DOCKER -p udp -m set --match-set some src -j RETURN", dnat), a, dnat},
		{"a target of an extension before", docker("-A DOCKER -j BALANCE", dnat), a, ""},
		{"a mark before", docker("-A DOCKER -j MARK --set-xmark 0x1/0x1", dnat), a, dnat},
		{"a wildcard", docker("-A DOCKER -i eth+ -j RETURN", dnat), a, ""},
		{"a wildcard for others", docker("-A DOCKER -i veth+ -j RETURN", dnat), a, dnat},
		{"another port", docker("-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80"), a, ""},
		{"another source", docker("-A DOCKER ! -s 203.0.113.0/24 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"), a, ""},
		{"to a port of the machine", saved("-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80"), a, "-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80"},
		{"a loop", saved("-A PREROUTING -j DOCKER", "-A DOCKER -j DOCKER"), a, ""},
		{"nft", nft(`iifname "eth0" ip daddr 203.0.113.1 tcp dport 8080 counter dnat to 172.17.0.2:80`), a, `iifname "eth0" ip daddr 203.0.113.1 tcp dport 8080 counter dnat to 172.17.0.2:80`},
		{"nft, another interface", nft(`iifname != "eth0" tcp dport 8080 dnat to 172.17.0.2:80`), a, ""},
		{"nft, jump", nft("jump empty", `fib daddr type local jump zone comment "x"`), a, listedDNAT},
		{"nft, goto", nft("goto empty", listedDNAT), a, ""},
		{"nft, a set", nft("tcp dport { 8080, 8081 } dnat to 172.17.0.2"), a, "tcp dport { 8080, 8081 } dnat to 172.17.0.2"},
		{"nft, a set with a name", nft("tcp dport @published dnat to 172.17.0.2"), a, ""},
		{"nft, a set for others", nft("udp dport 8080 ip saddr @some accept", "meta l4proto tcp tcp dport 8080 dnat to 172.17.0.2"), a, "meta l4proto tcp tcp dport 8080 dnat to 172.17.0.2"},
		{"nft, a state", nft("ct state new jump zone"), a, listedDNAT},
		{"nft, a state of others", nft("ct state established,related jump zone"), a, ""},
		{"nft, IPv6", nft("ip6 daddr fd00::/8 accept", "jump zone"), a, listedDNAT},
		{"nft, prefix", nft("dnat ip prefix to ip daddr map @all"), a, ""},
		{"nft, a map", nft("dnat ip to tcp dport map { 8080 : 172.17.0.2 }"), a, ""},
		{"nft, the other family", nft("dnat ip6 to fd00::2", listedDNAT), a, listedDNAT},
		{"nft, verdicts of a map", nft("ip daddr vmap { 203.0.113.1 : jump zone }"), a, ""},
		{"nft, a log prefix", nft(`log prefix "redirect" accept`), a, ""},
		{"a chain that was not read", func() *Ruleset { set := nft(listedDNAT); set.Chains[len(set.Chains)-1].Read = false; return set }(), a, ""},
		{"not all chains are known", func() *Ruleset { set := nft(listedDNAT); set.Incomplete = true; return set }(), a, ""},
		{"an earlier chain accepts", both(at(nft("accept"), "nat", -110), docker(dnat)), a, dnat},
		{"an earlier chain may translate", both(at(nft("tcp dport @ports dnat to 192.0.2.1"), "nat", -110), docker(dnat)), a, ""},
		{"an earlier chain translates", both(at(nft(listedDNAT), "nat", -110), docker(dnat)), a, listedDNAT},
		{"a later chain translates too", both(at(nft(listedDNAT), "nat", -90), docker(dnat)), a, dnat},
		{"a chain beside it translates too", both(nft(listedDNAT), docker(dnat)), a, ""},
		{"a chain beside it is for others", both(nft("tcp dport 8081 dnat ip to 172.17.0.2:80"), docker(dnat)), a, dnat},
		{"a filter before", both(at(nft("tcp flags syn drop", "accept"), "filter", -150), docker(dnat)), a, dnat},
		{"an unknown verdict before", both(at(nft("queue num 0"), "filter", -150), docker(dnat)), a, ""},
		{"rewritten before", both(at(nft("tcp dport set 80"), "filter", -300), docker(dnat)), a, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rule, ok := tt.set.redirect(tt.packet.class())
			if rule.Text != tt.want || ok != (tt.want != "") {
				t.Errorf("%v by %q, want %q", ok, rule.Text, tt.want)
			}
			again := new(Ruleset)
			if packed, err := json.Marshal(tt.set); err != nil {
				t.Error(err)
			} else if err := json.Unmarshal(packed, again); err != nil {
				t.Error(err)
			}
			if saved, found := again.redirect(tt.packet.class()); saved != rule || found != ok {
				t.Errorf("once saved %v by %q, want %q", found, saved.Text, tt.want)
			}
		})
	}
}
