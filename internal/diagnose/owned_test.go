package diagnose

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// TestByOwner: what is proposed where rules of a program dropped a packet. That it
// helps is for the tests of package live, which run it.
func TestByOwner(t *testing.T) {
	rule := func(family, chain, text string, owner report.Owner) *report.Rule {
		return &report.Rule{Backend: "iptables-nft", Family: family, Table: "filter", Chain: chain, Text: text, Owner: owner}
	}
	docker := report.Owner{Tool: "docker", Bridge: "docker0", Purpose: "UNPUBLISHED PORT DROP"}
	dropped := rule("ip", "DOCKER", "-A DOCKER ! -i docker0 -o docker0 -j DROP", docker)
	policy := rule("ip", "FORWARD", ":FORWARD DROP", report.Owner{})
	callsUser := rule("ip", "FORWARD", "-A FORWARD -j DOCKER-USER", report.Owner{Tool: "docker"})
	callsUFW := rule("ip", "ufw-before-forward", "-A ufw-before-forward -j ufw-user-forward", report.Owner{Tool: "ufw"})
	callsUFW6 := rule("ip6", "ufw6-before-input", "-A ufw6-before-input -j ufw6-user-input", report.Owner{Tool: "ufw"})
	zone := func(chain string) *report.Rule {
		return &report.Rule{Backend: "nft", Family: "inet", Table: "firewalld", Chain: chain, Text: "drop", Owner: report.Owner{Tool: "firewalld", Zone: "public"}}
	}
	tcp := packet.Tuple{Proto: packet.TCP, Src: netip.MustParseAddr("172.17.0.2"), SrcPort: 40000, Dst: netip.MustParseAddr("192.0.2.1"), DstPort: 80}
	udp6 := packet.Tuple{Proto: packet.UDP, Src: netip.MustParseAddr("fd00::2"), SrcPort: 40000, Dst: netip.MustParseAddr("fd00::1"), DstPort: 53}
	ping6 := packet.Tuple{Proto: packet.ICMPv6, Src: netip.MustParseAddr("fd00::2"), Dst: netip.MustParseAddr("fd00::1"), ICMPType: packet.EchoRequestV6}
	for name, tt := range map[string]struct {
		netns, leg, hook string
		rule             *report.Rule
		policy           bool
		met              []*report.Rule
		tuple            packet.Tuple
		want             []string
	}{
		"Docker's rule": {rule: dropped, met: []*report.Rule{callsUser}, tuple: tcp, want: []string{
			"iptables-nft -I DOCKER-USER -s 172.17.0.2 -d 192.0.2.1 -p tcp --dport 80 -j ACCEPT",
			"iptables-nft -I DOCKER-USER -s 192.0.2.1 -d 172.17.0.2 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		}},
		"Docker's rule, the answer": {leg: "reply", rule: dropped, met: []*report.Rule{callsUser}, tuple: tcp.Inverse(), want: []string{
			"iptables-nft -I DOCKER-USER -s 192.0.2.1 -d 172.17.0.2 -p tcp --sport 80 -j ACCEPT",
		}},
		"Docker's rule, without DOCKER-USER": {rule: dropped, tuple: tcp},
		"Docker's rule, elsewhere": {netns: "vm", rule: dropped, met: []*report.Rule{callsUser}, tuple: tcp, want: []string{
			"ip netns exec vm iptables-nft -I DOCKER-USER -s 172.17.0.2 -d 192.0.2.1 -p tcp --dport 80 -j ACCEPT",
			"ip netns exec vm iptables-nft -I DOCKER-USER -s 192.0.2.1 -d 172.17.0.2 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		}},
		"somebody's rule":  {rule: rule("ip", "FORWARD", "-A FORWARD -j DROP", report.Owner{}), met: []*report.Rule{callsUser, callsUFW}, tuple: tcp},
		"policy with ufw":  {rule: policy, policy: true, met: []*report.Rule{callsUser, callsUFW}, tuple: tcp, want: []string{"ufw route prepend allow proto tcp from 172.17.0.2 to 192.0.2.1 port 80"}},
		"answer with ufw":  {leg: "reply", rule: policy, policy: true, met: []*report.Rule{callsUFW}, tuple: tcp.Inverse()},
		"ufw of another":   {netns: "vm", rule: policy, policy: true, met: []*report.Rule{callsUFW}, tuple: tcp},
		"ufw before users": {rule: rule("ip", "ufw-before-forward", "-A ufw-before-forward -j DROP", report.Owner{Tool: "ufw"}), tuple: tcp},
		"ufw, UDP6": {hook: "input", rule: rule("ip6", "INPUT", ":INPUT DROP", report.Owner{}), policy: true, met: []*report.Rule{callsUFW6}, tuple: udp6, want: []string{
			"ufw prepend allow proto udp from fd00::2 to fd00::1 port 53",
		}},
		"ufw, ping6": {hook: "input", rule: rule("ip6", "INPUT", ":INPUT DROP", report.Owner{}), policy: true, met: []*report.Rule{callsUFW6}, tuple: ping6, want: []string{
			"ufw prepend allow from fd00::2 to fd00::1",
		}},
		"firewalld": {hook: "input", rule: zone("filter_IN_public_deny"), tuple: ping6, want: []string{
			`firewall-cmd --zone=public --add-rich-rule='rule priority="-1" family="ipv6" source address="fd00::2" destination address="fd00::1" protocol value="ipv6-icmp" accept'`,
		}},
		"firewalld, the answer": {leg: "reply", rule: zone("filter_FWD_public"), tuple: tcp.Inverse(), want: []string{
			"firewall-cmd --permanent --new-policy=pathtrace",
			"firewall-cmd --permanent --policy=pathtrace --add-ingress-zone=ANY",
			"firewall-cmd --permanent --policy=pathtrace --add-egress-zone=ANY",
			`firewall-cmd --permanent --policy=pathtrace --add-rich-rule='rule priority="-1" family="ipv4" source address="192.0.2.1" destination address="172.17.0.2" source-port port="80" protocol="tcp" accept'`,
			"firewall-cmd --reload",
		}},
		"firewalld before others": {rule: zone("filter_FWD_public_pre"), tuple: tcp},
		"firewalld of old":        {rule: zone("filter_FWDI_public_deny"), tuple: tcp},
		"firewalld elsewhere":     {netns: "vm", rule: zone("filter_FWD_public"), tuple: tcp},
		"a zone with a bad name": {rule: &report.Rule{
			Backend: "nft", Table: "firewalld", Chain: "filter_IN_$(reboot)", Owner: report.Owner{Tool: "firewalld", Zone: "$(reboot)"},
		}, hook: "input", tuple: tcp},
	} {
		v := report.Verdict{NetNS: "host", Leg: "request", Hook: "forward", Rule: tt.rule}
		for value, field := range map[string]*string{tt.netns: &v.NetNS, tt.leg: &v.Leg, tt.hook: &v.Hook} {
			if value != "" {
				*field = value
			}
		}
		leg := path.Leg{End: path.End{Policy: tt.policy, Tuple: tt.tuple}, Hops: []report.Hop{{NetNS: v.NetNS}}}
		for _, r := range tt.met {
			leg.Hops[0].Steps = append(leg.Hops[0].Steps, report.Step{Rule: r})
		}
		advice, got := byOwner(&Input{Enter: map[string]string{"vm": "ip netns exec vm"}}, &v, &leg)
		if diff := cmp.Diff(tt.want, got); diff != "" || (advice == "") != (tt.want == nil) {
			t.Errorf("%s: %q (-want +got):\n%s", name, advice, diff)
		}
	}
	v := report.Verdict{NetNS: "host", Leg: "request", Hook: "forward", Rule: rule("ip", "DOCKER-INTERNAL", "", report.Owner{Tool: "docker", Purpose: "INTERNAL NETWORK EGRESS"})}
	if advice, fix := byOwner(&Input{}, &v, &path.Leg{}); !strings.Contains(advice, "--internal") || len(fix) != 0 {
		t.Errorf("an internal network: %q, %q", advice, fix)
	}
}
