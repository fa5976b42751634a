package ruletrace

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// judged is a rule's condition and how much of a connection from left to right
// to port 443 it takes.
type judged struct {
	condition string
	want      share
}

// crossing is a packet that the router forwards, and its class.
type crossing struct {
	name   string
	class  Class
	packet []byte
}

func crossings() []crossing {
	is := func(proto packet.Proto, source, target netip.Addr, from, to uint16) Class {
		return Class{
			IPv6: target.Is6(), Ingress: "left", Egress: "right", Source: source, Target: target, State: "new",
			Proto: proto, SourcePort: from, TargetPort: to,
		}
	}
	return []crossing{
		{"tcp", is(packet.TCP, clientAddr, serverAddr, 40000, 443), ipv4Packet(6, clientAddr, serverAddr, 0, tcpSegment(40000, 443, 2))},
		{"tcp6", is(packet.TCP, clientAddr6, serverAddr6, 40000, 443), ipv6Packet(6, clientAddr6, serverAddr6, tcpSegment(40000, 443, 2))},
		{"udp", is(packet.UDP, clientAddr, serverAddr, 40000, 53), ipv4Packet(17, clientAddr, serverAddr, 0, udpDatagram(40000, 53))},
		{"icmp", is(packet.ICMP, clientAddr, serverAddr, 0, 0), ipv4Packet(1, clientAddr, serverAddr, 0, icmpMessage(8, 0, 7))},
	}
}

// quiet is a router that forwards what comes from the left, whatever its
// checksum, and drops what comes back.
func quiet(t *testing.T) router {
	r := newRouter(t)
	r.router.nft("table inet quiet {\n chain pre {\n type filter hook prerouting priority -450\n iifname right drop\n }\n}")
	return r
}

// tally has packets meet rules that count, and wants no rule that takes a
// packet called one that takes none of its class, nor one that does not called
// one that takes all. counts are those of the rules, of which the last takes all.
func tally(t *testing.T, r router, table string, all []judged, load func(), counts func() []string) {
	t.Helper()
	for _, x := range crossings() {
		load()
		r.router.sysctl("net.netfilter.nf_conntrack_checksum", "0")
		set, err := r.router.resolver("router").Ruleset(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(set.Chains, func(c Chain) bool {
			return c.Table == table && c.Hook == Forward && (c.Family == "inet" || (c.Family == "ip6") == x.class.IPv6)
		})
		if at < 0 {
			continue // iptables has no rules for IPv6
		}
		chain := set.Chains[at]
		r.client.inject("eth0", r.router, "left", x.packet)
		var got []string
		eventually(t, "the packet is counted", func() bool { got = counts(); return got[len(all)] == "1" })
		for i, rule := range all {
			text := chain.Rules[i].Text
			m := set.meets(chain.Rules[i], x.class)
			if m.takes == whole && got[i] != "1" || m.takes == none && got[i] != "0" {
				t.Errorf("%s: %q takes share %d, and counted %s", x.name, text, m.takes, got[i])
			}
			if x.name == "tcp" && m.takes != rule.want {
				t.Errorf("%q takes share %d, want %d", text, m.takes, rule.want)
			}
			if m.verdict != Continue {
				t.Errorf("%q: verdict %q", text, m.verdict)
			}
		}
	}
}

// TestConditionsListed compares what is read of nft's rules with what the kernel
// does by them.
func TestConditionsListed(t *testing.T) {
	t.Parallel()
	all := []judged{
		{`meta l4proto . th dport { udp . 53, tcp . 443, tcp . 80 }`, some},
		{`meta l4proto . th dport != { udp . 53, tcp . 443, tcp . 80 }`, some},
		{`ip saddr . tcp dport @pairs`, some},
		{`udp dport . ip daddr { 53 . 10.2.0.2 }`, none},
		{`tcp dport { 80, 443 }`, whole},
		{`tcp dport != { 80, 443 }`, none},
		{`tcp dport != 80`, whole},
		{`udp dport != 80`, none},
		{`tcp dport 400-500`, whole},
		{`tcp dport != 400-500`, none},
		{`tcp dport > 400`, some},
		{`tcp dport { 22, 400-450 }`, whole},
		{`tcp dport @ports`, some},
		{`tcp dport != @ports`, some},
		{`th dport 443`, whole},
		{`th dport 53`, none},
		{`tcp sport 40000`, whole},
		{`tcp flags syn`, some},
		{`tcp flags & (fin | syn | rst | ack) == syn oifname "left"`, none},
		{`tcp flags syn / fin,syn,rst,ack oifname "left"`, none},
		{`tcp option maxseg size 1-500`, some},
		{`iifname "le*"`, whole},
		{`iifname { "left", "other" }`, whole},
		{`iifname != { "left", "other" }`, none},
		{`iifname { "accept", "drop" }`, none},
		{`iifname != "right"`, whole},
		{`iif left oif right`, whole},
		{`iifname . oifname { "left" . "right" }`, some},
		{`ip saddr 10.1.0.0/16`, whole},
		{`ip saddr != 10.1.0.0/16`, none},
		{`ip saddr != { 10.9.0.0/16, 10.8.0.1 }`, whole},
		{`ip saddr { 10.1.0.1-10.1.0.5, 10.7.0.0/16 }`, whole},
		{`ip saddr @addresses`, some},
		{`ip saddr != @addresses udp dport 443`, none},
		{`ip saddr & 255.0.255.0 == 10.0.0.0`, some},
		{`ip6 saddr != fd00::/8`, none},
		{`ip ttl < 64`, some},
		{`ip ttl < 64 iifname "right"`, none},
		{`ip frag-off & 0x1fff != 0`, some},
		{`ip protocol tcp`, whole},
		{`ip protocol { udp, icmp }`, none},
		{`ip6 nexthdr tcp`, none},
		{`meta l4proto { tcp, udp }`, whole},
		{`meta l4proto != tcp`, none},
		{`meta nfproto ipv4`, whole},
		{`meta nfproto != ipv4`, none},
		{`meta protocol ip6`, none},
		{`meta mark 0x1`, some},
		{`meta mark & 0xff == 0x0 iifname "right"`, none},
		{`meta mark != { 1, 2 }`, some},
		{`meta mark set 0x1 udp dport 53`, none},
		{`meta mark set 0x1 tcp dport 443`, whole},
		{`meta pkttype broadcast`, some},
		{`meta length 1-2000 meta cpu 0-200`, some},
		{`meta skuid 0`, some},
		{`ct state new`, whole},
		{`ct state { established, related }`, none},
		{`ct state != established`, whole},
		{`ct state != { established, new }`, none},
		{`ct state & (established | related) != 0`, none},
		{`ct state . tcp dport { new . 443 }`, some},
		{`ct original ip saddr 10.9.9.9`, some},
		{`ct original ip saddr 10.1.0.2`, some},
		{`tcp dport 443 ct original proto-dst 443`, some},
		{`ct mark 0x0`, some},
		{`ct mark & 0xff == 0x1 iifname "right"`, none},
		{`ct status dnat`, none},
		{`ct status snat,assured`, some},
		{`ct direction original`, some},
		{`ct direction reply oifname "left"`, none},
		{`fib daddr type local`, none},
		{`fib daddr type != { local, broadcast }`, some},
		{`fib daddr . iif type local`, some},
		{`fib saddr . iif oif missing`, some},
		{`fib saddr . iif oif exists`, some},
		{`fib saddr oifname "right" udp dport 443`, none},
		{`limit rate 1/second burst 5 packets`, some},
		{`limit rate over 1 mbytes/second burst 1 mbytes`, some},
		{`limit rate 10/second udp dport 443`, none},
		{`quota over 25 mbytes`, some},
		{`quota 25 mbytes iifname "left"`, some},
		{`update @seen { ip saddr limit rate over 10/second }`, some},
		{`add @seen6 { ip6 saddr }`, some},
		{`log prefix "accept" level debug flags tcp sequence,options`, whole},
		{`log prefix "udp dport 53 drop" tcp dport 443`, whole},
		{`ct helper "drop"`, some},
		{`@th,16,16 443`, whole},
		{`@th,48,16 53`, some},
		{`meta hour "00:00"-"23:59"`, some},
		{`icmp type redirect`, none},
		{`icmp type { echo-request, redirect }`, none},
		{`jhash ip saddr mod 2 0`, some},
		{`numgen inc mod 2 0`, some},
		{`ether type ip`, some},
		{`tcp dport 443 ip saddr 10.1.0.2 meta iifname "left"`, whole},
	}
	r := quiet(t)
	load := func() {
		rules := []string{}
		for _, rule := range all {
			rules = append(rules, rule.condition+" counter")
		}
		rules = append(rules, "counter")
		r.router.nft(`table inet fw
delete table inet fw
table inet fw {
	set pairs { type ipv4_addr . inet_service; elements = { 10.1.0.2 . 443 } }
	set ports { type inet_service; elements = { 443 } }
	set addresses { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 } }
	set seen { type ipv4_addr; flags dynamic; size 10; }
	set seen6 { type ipv6_addr; flags dynamic; size 10; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		` + strings.Join(rules, "\n\t\t") + "\n\t}\n}")
	}
	counted := regexp.MustCompile(`counter packets (\d+)`)
	tally(t, r, "fw", all, load, func() []string {
		var counts []string
		for _, found := range counted.FindAllStringSubmatch(r.router.tool("nft", "list", "chain", "inet", "fw", "forward"), -1) {
			counts = append(counts, found[1])
		}
		return counts
	})
}

// TestConditionsSaved does the same with rules of iptables.
func TestConditionsSaved(t *testing.T) {
	t.Parallel()
	all := []judged{
		{`-p tcp -m multiport --dports 80,443`, whole},
		{`-p tcp -m multiport ! --dports 80,443`, none},
		{`-p tcp -m multiport --ports 443`, some},
		{`-p tcp -m multiport --dports 22,400:450`, whole},
		{`-p tcp -m tcp ! --dport 443`, none},
		{`-p tcp -m tcp --dport 80:`, whole},
		{`-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN`, some},
		{`! -p tcp`, none},
		{`-p udp -m multiport ! --dports 80`, none},
		{`! -i right`, whole},
		{`! -i le+`, none},
		{`-i + -o rig+`, whole},
		{`! -s 10.1.0.0/16`, none},
		{`-s 10.0.0.0/255.0.255.0`, some},
		{`! -d 10.9.0.0/16`, whole},
		{`-m conntrack --ctstate NEW,RELATED`, whole},
		{`-m conntrack ! --ctstate NEW`, none},
		{`-m conntrack --ctstate SNAT`, some},
		{`-m conntrack --ctstate DNAT`, none},
		{`-m conntrack --ctorigdst 10.2.0.2`, some},
		{`-m conntrack ! --ctorigdst 10.2.0.2`, some},
		{`-m state --state ESTABLISHED`, none},
		{`-m comment --comment "-p udp -j DROP"`, whole},
		{`-m comment --comment -j`, whole},
		{`-m comment --comment "!" -p udp`, none},
		{`-m mark --mark 0x1/0xff`, some},
		{`-m mark ! --mark 0x1/0xff`, some},
		{`-m limit --limit 1/sec --limit-burst 5`, some},
		{`-m addrtype --dst-type LOCAL`, none},
		{`-m addrtype ! --dst-type LOCAL`, whole},
		{`-m addrtype --dst-type LOCAL,UNICAST`, some},
		{`-m addrtype ! --dst-type LOCAL --limit-iface-in`, some},
		{`-m iprange --src-range 10.1.0.1-10.1.0.9`, some},
		{`-m iprange ! --src-range 10.1.0.1-10.1.0.9`, some},
		{`-m length --length 1:100`, some},
		{`-m ttl --ttl-lt 64`, some},
		{`-m statistic --mode nth --every 2 --packet 0`, some},
		{`-m pkttype --pkt-type broadcast`, some},
		{`-m string --string -j --algo bm`, some},
		{`-m u32 --u32 "6&0xff=6"`, some},
		{`-m time --timestart 00:00 --timestop 23:59`, some},
		{`-m mac --mac-source 00:00:00:00:00:01`, some},
		{`-m mac ! --mac-source 00:00:00:00:00:01 -p udp`, none},
		{`-m recent --update --seconds 60 --name seen --rsource`, some},
		{`-m hashlimit --hashlimit-upto 5/sec --hashlimit-name x`, some},
		{`-m connlimit --connlimit-above 5`, some},
		{`-m physdev --physdev-in port`, some},
		{`-f`, some},
		{`! -f -p udp`, none},
	}
	for _, backend := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(backend, func(t *testing.T) {
			r := quiet(t)
			save := backend + "-save"
			load := func() {
				r.router.tool(backend, "-F")
				for _, rule := range all {
					r.router.tool(backend, append([]string{"-A", "FORWARD"}, words(rule.condition)...)...)
				}
				r.router.tool(backend, "-A", "FORWARD")
				r.router.tool(backend, "-Z")
			}
			tally(t, r, "filter", all, load, func() []string {
				var counts []string
				for l := range strings.Lines(r.router.tool(save, "-c")) {
					if count, _, is := strings.Cut(strings.TrimPrefix(l, "["), ":"); is && strings.HasPrefix(l, "[") {
						counts = append(counts, count)
					}
				}
				return counts
			})
		})
	}
}
