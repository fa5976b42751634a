package ruletrace

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/packet"
)

// save makes a ruleset of what a save tool prints for the table filter.
func save(backend Backend, family, text string) *Ruleset {
	set := new(Ruleset)
	for name, table := range parseSave(text) {
		for _, c := range legacyChains(family, name, table) {
			c.Backend = backend
			for i := range c.Rules {
				c.Rules[i].Backend = backend
			}
			set.Chains = append(set.Chains, c)
		}
	}
	set.sort()
	return set
}

// listed makes a ruleset of one base chain of nft and further ones.
func listed(policy Verdict, chains map[string][]string) *Ruleset {
	set := new(Ruleset)
	for name, rules := range chains {
		c := Chain{Read: true, Base: name == "base", BaseChain: BaseChain{Backend: NFT, Family: "inet", Table: "fw", Name: name}}
		if c.Base {
			c.Type, c.Hook, c.Policy = "filter", Forward, policy
		}
		for i, text := range rules {
			c.Rules = append(c.Rules, Rule{Backend: NFT, Family: "inet", Table: "fw", Chain: name, Number: i + 1, Handle: uint64(i + 1), Text: text})
		}
		set.Chains = append(set.Chains, c)
	}
	set.sort()
	return set
}

// finishes are the ends of the first chain of forward in words.
func finishes(t *testing.T, set *Ruleset, class Class) []string {
	t.Helper()
	courses, ok := set.Courses(Forward, class)
	if !ok || len(courses) == 0 {
		t.Fatalf("%d courses, complete %v", len(courses), ok)
	}
	words := []string{}
	for _, e := range courses[0].Ends {
		word := string(e.Verdict)
		if e.Verdict == VerdictUnknown {
			word = "unknown"
		}
		if e.Sure {
			word += " sure"
		}
		word += " " + e.Rule.Chain
		if e.Policy {
			word += " policy"
		} else {
			word += fmt.Sprintf(" %d", e.Rule.Number)
		}
		words = append(words, strings.TrimSuffix(word+" "+e.Translation, " "))
	}
	return words
}

var outward = Class{Ingress: "docker0", Egress: "eth0", Source: netip.MustParseAddr("172.17.0.2"), State: "new"}

var web = Class{Ingress: "docker0", Egress: "eth0", Source: netip.MustParseAddr("172.17.0.2"), State: "new", Proto: packet.TCP, TargetPort: 443}

func TestCoursesSaved(t *testing.T) {
	t.Parallel()
	back := Class{Ingress: "eth0", Egress: "docker0", Target: netip.MustParseAddr("172.17.0.2"), State: "established"}
	for _, tt := range []struct {
		name, rules string
		class       Class
		want        []string
	}{
		{"policy", ":FORWARD DROP [0:0]", outward, []string{"drop sure FORWARD policy"}},
		{"docker", `:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:STAGE-1 - [0:0]
:STAGE-2 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A STAGE-1 -i docker0 ! -o docker0 -j STAGE-2
-A STAGE-1 -j RETURN
-A STAGE-2 -o docker0 -j DROP
-A STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN`, outward, []string{"accept sure FORWARD 5"}},
		{"answers", `:FORWARD DROP [0:0]
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`, back, []string{"accept sure FORWARD 1"}},
		{"new is no answer", `:FORWARD DROP [0:0]
-A FORWARD -o eth0 -m state --state RELATED,ESTABLISHED -j ACCEPT`, outward, []string{"drop sure FORWARD policy"}},
		{"a port may be meant", `:FORWARD DROP [0:0]
-A FORWARD -p udp -m udp --dport 53 -j ACCEPT`, outward, []string{"accept FORWARD 1", "drop FORWARD policy"}},
		{"pings are not all", `:FORWARD ACCEPT [0:0]
-A FORWARD -p icmp -m icmp --icmp-type 8 -j DROP`, outward, []string{"drop FORWARD 1", "accept FORWARD policy"}},
		{"other interface", `:FORWARD ACCEPT [0:0]
-A FORWARD -i docker1 -j DROP
-A FORWARD -i doc+ ! -s 172.17.0.0/16 -j DROP`, outward, []string{"accept sure FORWARD policy"}},
		{"wildcard", `:FORWARD ACCEPT [0:0]
-A FORWARD -i doc+ -s 172.17.0.0/16 -j REJECT --reject-with icmp-port-unreachable`, outward, []string{"reject sure FORWARD 1"}},
		{"private is not the internet", `:FORWARD ACCEPT [0:0]
-A FORWARD -d 10.0.0.0/8 -j DROP
-A FORWARD ! -d 192.168.0.0/16 -m comment --comment "-j DROP" -j ACCEPT`, outward, []string{"accept sure FORWARD 2"}},
		{"somewhere out there", `:FORWARD ACCEPT [0:0]
-A FORWARD -d 8.8.8.0/24 -j DROP`, outward, []string{"drop FORWARD 1", "accept FORWARD policy"}},
		{"goto", `:FORWARD ACCEPT [0:0]
:last - [0:0]
-A FORWARD -g last
-A FORWARD -j ACCEPT
-A last -m limit --limit 1/sec -j LOG
-A last -j DROP`, outward, []string{"drop sure last 2"}},
		{"goto that returns ends in the policy", `:FORWARD ACCEPT [0:0]
:last - [0:0]
-A FORWARD -g last
-A FORWARD -j DROP
-A last -j RETURN`, outward, []string{"accept sure FORWARD policy"}},
		{"unknown target", `:FORWARD DROP [0:0]
-A FORWARD -j SOMETHING`, outward, []string{"unknown FORWARD 1", "drop FORWARD policy"}},
		{"queue", `:FORWARD DROP [0:0]
-A FORWARD -j NFQUEUE --queue-num 0`, outward, []string{"unknown FORWARD 1", "drop FORWARD policy"}},
		{"ports of the class", `:FORWARD DROP [0:0]
-A FORWARD -p udp -m udp --dport 53 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 1:442 -j ACCEPT
-A FORWARD ! -p tcp -j ACCEPT
-A FORWARD -p tcp -m multiport --dports 80,443 -j REJECT`, web, []string{"reject sure FORWARD 4"}},
		{"pings of the class", `:FORWARD DROP [0:0]
-A FORWARD -p tcp -m tcp --dport 443 -j ACCEPT
-A FORWARD -p icmp -m icmp --icmp-type 8 -j ACCEPT`, Class{Ingress: "docker0", Egress: "eth0", Proto: packet.ICMP, State: "new"}, []string{"accept FORWARD 2", "drop FORWARD policy"}},
		{"a comment like a target", `:FORWARD ACCEPT [0:0]
-A FORWARD -m comment --comment -j -j DROP`, outward, []string{"drop sure FORWARD 1"}},
		{"a text like a target", `:FORWARD ACCEPT [0:0]
-A FORWARD -m string --string "-j" --algo bm -j DROP`, outward, []string{"drop FORWARD 1", "accept FORWARD policy"}},
		{"extensions that ask by themselves", `:FORWARD ACCEPT [0:0]
-A FORWARD -m rpfilter -j DROP
-A FORWARD -m socket -j REJECT`, outward, []string{"drop FORWARD 1", "reject FORWARD 2", "accept FORWARD policy"}},
		{"private and more", `:FORWARD ACCEPT [0:0]
-A FORWARD -d 10.0.0.0/7 -j DROP
-A FORWARD -d 172.16.0.0/13 -j DROP
-A FORWARD -d 0.0.0.0/0 -j REJECT`, outward, []string{"drop FORWARD 1", "reject FORWARD 3"}},
		{"an answer to what was masqueraded", `:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate SNAT -j ACCEPT`, back, []string{"accept FORWARD 1", "drop FORWARD policy"}},
		{"types for an interface alone", `:FORWARD ACCEPT [0:0]
-A FORWARD -m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP`, outward, []string{"drop FORWARD 1", "accept FORWARD policy"}},
		{"to itself", `:FORWARD ACCEPT [0:0]
-A FORWARD -m addrtype --dst-type LOCAL -j DROP
-A FORWARD -m set --match-set blocked dst -j DROP`, outward, []string{"drop FORWARD 2", "accept FORWARD policy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := save(IPTablesNFT, "ip", "*filter\n"+tt.rules+"\nCOMMIT\n")
			if diff := cmp.Diff(tt.want, finishes(t, set, tt.class)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestCoursesListed(t *testing.T) {
	t.Parallel()
	six := Class{IPv6: true, Ingress: "br0", Egress: "ens192", Source: netip.MustParseAddr("fd00::2"), State: "new"}
	for _, tt := range []struct {
		name   string
		policy Verdict
		rules  []string
		class  Class
		want   []string
	}{
		{"states", Drop, []string{`ct state { established, related } accept`, `ct state established,related accept`}, outward, []string{"drop sure base policy"}},
		{"not invalid", Accept, []string{`ct state != invalid counter packets 3 bytes 84 accept`}, outward, []string{"accept sure base 1"}},
		{"interfaces", Drop, []string{`iifname "docker1" accept`, `iifname { "a", "docker0" } oifname != "docker0" log prefix "drop" counter accept`}, outward, []string{"accept sure base 2"}},
		{"wildcard", Drop, []string{`meta iifname "dock*" accept`}, outward, []string{"accept sure base 1"}},
		{"addresses", Drop, []string{`ip saddr 10.0.0.0/8 drop`, `ip saddr != 172.17.0.0/16 drop`, `ip saddr 172.17.0.1-172.17.0.9 ip daddr != { 10.0.0.0/8, 192.168.0.0/16 } accept`}, outward, []string{"accept sure base 3"}},
		{"family", Drop, []string{`ip saddr 0.0.0.0/0 accept`, `meta nfproto ipv4 accept`, `ip6 saddr fd00::/8 accept`}, six, []string{"accept sure base 3"}},
		{"wrong family is no negation", Drop, []string{`ip saddr != 10.0.0.0/8 accept`}, six, []string{"drop sure base policy"}},
		{"sets are not known", Drop, []string{`ip saddr @good accept`, `tcp dport { 80, 443 } accept`}, outward, []string{"accept base 1", "accept base 2", "drop base policy"}},
		{"maps are not known", Drop, []string{`iifname vmap { "docker0" : accept }`}, outward, []string{"unknown base 1", "drop base policy"}},
		{"state maps", Drop, []string{`ct state vmap { established : accept, invalid : drop }`}, outward, []string{"unknown base 1", "drop base policy"}},
		{"jump", Drop, []string{`iifname "docker0" goto user`, `accept`}, outward, []string{"reject sure user 1"}},
		{"missing chain", Drop, []string{`jump nowhere`}, outward, []string{"unknown base 1", "drop base policy"}},
		{"fib", Accept, []string{`fib daddr type local drop`, `ct status dnat drop`, `ct mark 1 drop`}, outward, []string{"drop base 3", "accept base policy"}},
		{"ports of the class", Drop, []string{`udp dport 53 accept`, `tcp dport 80 accept`, `tcp sport 443 accept`, `meta l4proto { icmp, udp } accept`, `tcp dport { 80, 400-450 } tcp flags syn accept`}, web, []string{"accept base 3", "accept base 5", "drop base policy"}},
		{"concatenations", Drop, []string{`meta l4proto . th dport { udp . 53, tcp . 443, tcp . 80 } accept`, `ip saddr . tcp dport @good drop`, `meta l4proto . @th,16,16 != { udp . 0x35 } reject`}, web, []string{"accept base 1", "drop base 2", "reject base 3", "drop base policy"}},
		{"concatenations in maps", Accept, []string{`iifname . oifname vmap { "docker1" . "eth0" : accept, "docker0" . "eth0" : drop }`}, web, []string{"unknown base 1", "accept base policy"}},
		{"pings of the class", Drop, []string{`icmp type echo-request accept`, `tcp dport 443 accept`, `ip protocol icmp accept`}, Class{Ingress: "a", Egress: "b", Proto: packet.ICMP, State: "new"}, []string{"accept base 1", "accept base 3"}},
		{"a range that is private and more", Accept, []string{`ip daddr 10.0.0.1-10.255.255.255 drop`, `ip daddr 10.0.0.1-200.0.0.1 reject`}, outward, []string{"reject base 2", "accept base policy"}},
		{"a lookup with an interface", Accept, []string{`fib saddr . iif oif missing drop`}, outward, []string{"drop base 1", "accept base policy"}},
		{"what conntrack saw first", Drop, []string{`ct original ip saddr 10.0.0.1 accept`}, outward, []string{"accept base 1", "drop base policy"}},
		{"names like words", Accept, []string{`iifname "accept" accept`, `meta oifkind "drop" log prefix "return" level warn flags tcp sequence,options drop`, `ct helper "jump" reject`}, outward, []string{"drop base 2", "reject base 3", "accept base policy"}},
		{"names like translations", Drop, []string{`log prefix "redirect" accept`}, outward, []string{"accept sure base 1"}},
		{"icmp redirects", Accept, []string{`icmp type redirect drop`, `icmp type { echo-request, redirect } counter packets 1 bytes 2 drop`, `icmp type != redirect accept`}, outward, []string{"drop base 1", "drop base 2", "accept base 3", "accept base policy"}},
		{"what was translated", Accept, []string{`ct status snat,dnat ip saddr 172.17.0.2 drop`, `ct status snat ip daddr 8.8.8.8 drop`, `ct status != dnat drop`}, outward, []string{"drop base 1", "drop base 2", "drop base 3"}},
		{"a set that grows", Accept, []string{`add @seen { iifname } drop`, `update @seen { ip saddr . tcp dport limit rate 3/minute } reject`, `meter m size 65535 { ip6 saddr limit rate over 1/second } drop`}, outward, []string{"drop base 1", "reject base 2", "drop base 3", "accept base policy"}},
		{"elements of several words", Accept, []string{`iifname { "docker0" comment "drop", "br1" } drop`, `ip saddr { 10.0.0.1 timeout 1h, 10.0.0.2 } reject`}, outward, []string{"drop base 1", "reject base 2", "accept base policy"}},
		{"a chain without a name", Accept, []string{`iifname "docker0" jump { counter packets 0 bytes 0 accept`, `}`, ``}, outward, []string{"unknown base 1", "unknown base 2", "unknown base 3", "accept base policy"}},
		{"others' chains without a name", Accept, []string{`iifname "docker1" jump { accept`}, outward, []string{"accept sure base policy"}},
		{"translated by a map", Accept, []string{`dnat ip to tcp dport map { 443 : 10.0.0.1 }`, `dnat ip to 10.0.0.1`}, outward, []string{"accept base 1 dnat", "accept base 2 dnat"}},
		{"translated in the other family", Accept, []string{`dnat ip6 to fd00::1`, `masquerade`}, outward, []string{"accept sure base 2 masquerade"}},
		{"rewritten", Accept, []string{`ip saddr set 192.0.2.1`, `ip saddr 10.0.0.0/8 drop`, `iifname "docker1" drop`, `ip saddr 0.0.0.0/0 reject`}, outward, []string{"accept base 1 stateless", "drop base 2", "reject base 4"}},
		{"marks and limits", Accept, []string{`meta mark set 0x1 iifname "docker1" drop`, `meta mark set 0x1 iifname "docker0" limit rate over 5/second burst 5 packets drop`, `meta mark & 0xff == 0x1 reject`}, outward, []string{"drop base 2", "reject base 3", "accept base policy"}},
		{"commented", Accept, []string{`iifname "docker0" drop comment "accept"`}, outward, []string{"drop sure base 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := listed(tt.policy, map[string][]string{"base": tt.rules, "user": {"reject with icmpx admin-prohibited"}})
			if diff := cmp.Diff(tt.want, finishes(t, set, tt.class)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// FuzzMeets: no text of a rule stops the reader, and one that begins with what is
// not understood is not said to take all packets.
func FuzzMeets(f *testing.F) {
	for _, text := range []string{
		`meta l4proto . th dport { udp . 53, tcp . 443 } accept`, `tcp flags & (fin | syn) == syn / fin drop`, `log prefix "a\"b" flags tcp`,
		`fib daddr . iif type != { local } jump x`, `limit rate over 1 mbytes/second burst 5`, `add @x { ip saddr } dnat ip to 10.0.0.1`,
		`meta mark set 0x1 ct state . @th,16,16 vmap @m`, `-A FORWARD ! -i a+ -m comment --comment "x" -d 10.0.0.0/7 -j DROP`, `ip daddr 1.2.3.4-fd00::1 } {`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, class := range []Class{outward, web, {IPv6: true, Target: netip.MustParseAddr("fd00::1"), Local: true}} {
			new(Ruleset).meets(Rule{Backend: NFT, Text: text}, class)
			if m := class.listed(listedWords("mystery " + text)); m.takes == whole {
				t.Errorf("%q takes all", text)
			}
		}
		_, _ = Rule{Backend: NFT, Text: text}.Translation()
	})
}

// TestCoursesBound: a ruleset that calls itself, which the kernel refuses, ends.
func TestCoursesBound(t *testing.T) {
	t.Parallel()
	loop := make([]string, 8)
	for i := range loop {
		loop[i] = "jump user"
	}
	courses, _ := listed(Drop, map[string][]string{"base": loop, "user": loop}).Courses(Forward, outward)
	if len(courses) != 1 || courses[0].Lost() {
		t.Errorf("a walk without an end is taken for a loss")
	}
}

func TestLost(t *testing.T) {
	t.Parallel()
	set := save(IPTablesLegacy, "ip", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i br1 -j ACCEPT\nCOMMIT\n")
	for ingress, want := range map[string]bool{"br1": false, "br2": true} {
		courses, _ := set.Courses(Forward, Class{Ingress: ingress, Egress: "eth0", State: "new"})
		if courses[0].Lost() != want || (courses[0].Accepts() != nil) == want {
			t.Errorf("%s: %+v", ingress, courses[0])
		}
	}
	set.Chains[0].Read, set.Chains[1].Read, set.Chains[2].Read = false, false, false
	if courses, _ := set.Courses(Forward, outward); courses[0].Lost() {
		t.Error("a chain that was not read is taken for a loss")
	}
	if _, ok := (*Ruleset)(nil).Courses(Forward, outward); ok {
		t.Error("no ruleset is taken for an empty one")
	}
}
