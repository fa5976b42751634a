package owner_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/owner"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// app, bridge and others are networks as Docker tells them.
var (
	bridge = engine.Network{Name: "bridge", Bridge: "docker0", Prefixes: prefixes("172.17.0.0/16")}
	app    = engine.Network{Name: "app", Bridge: "br-5f1c3a9d2b7e", Prefixes: prefixes("172.18.0.0/16", "fd5a:ceb9:ed8d:1::/64")}
	apart  = engine.Network{Name: "apart", Bridge: "apart0", Prefixes: prefixes("172.21.0.0/16"), Apart: true}
	closed = engine.Network{Name: "closed", Bridge: "br-c105ed000000", Prefixes: prefixes("172.19.0.0/16"), Internal: true}
	routed = engine.Network{Name: "routed", Bridge: "br-0123456789ab", Prefixes: prefixes("172.20.0.0/16"), Unmasked: true}
	host   = engine.Network{Name: "host"}
	docker = []engine.Network{bridge, app, apart, closed, routed, host}
)

// rulesOf are the rules of a saved ruleset by their lines.
func rulesOf(t *testing.T, text string, networks []engine.Network) map[string]*report.Rule {
	t.Helper()
	rules, err := ruletrace.ReadRules("rules", strings.NewReader(text))
	if err != nil || len(rules.Problems) > 0 {
		t.Fatalf("%v, problems %v", err, rules.Problems)
	}
	all := make(map[string]*report.Rule)
	for _, chain := range rules.Chains {
		for _, rule := range chain.Rules {
			if rule.Backend == ruletrace.NFT {
				all[chain.Name+": "+rule.Text] = path.Rule(rule, networks)
			} else {
				all[chain.Table+": "+rule.Text] = path.Rule(rule, networks)
			}
		}
	}
	return all
}

// check compares the owners of rules, in words, by their lines.
func check(t *testing.T, rules map[string]*report.Rule, want map[string]string) {
	t.Helper()
	for line, owner := range want {
		r := rules[line]
		if r == nil {
			t.Errorf("there is no rule %q", line)
			continue
		}
		if got := r.Owner.String(); got != owner {
			t.Errorf("%s:\n got %q\nwant %q", line, got, owner)
		}
	}
}

// dockerRules are those of Docker 20.10 to 27 with an internal network, with rules
// of an administrator among them.
const dockerRules = `*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
:f2b-docker - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-5f1c3a9d2b7e -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-5f1c3a9d2b7e -j DOCKER
-A FORWARD -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j ACCEPT
-A FORWARD -i br-5f1c3a9d2b7e -o br-5f1c3a9d2b7e -j DROP
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A FORWARD -i apart0 -o apart0 -j DROP
-A FORWARD -i apart0 -o apart0 -j ACCEPT
-A FORWARD -i eth0 ! -o eth0 -j ACCEPT
-A FORWARD -s 172.17.0.0/16 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -s 192.0.2.1/32 -i eth0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 ! -s 172.19.0.0/16 -o br-c105ed000000 -j DROP
-A DOCKER-ISOLATION-STAGE-1 ! -d 172.19.0.0/16 -i br-c105ed000000 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o br-unknown00000 -j DROP
-A DOCKER-USER -i eth0 -j f2b-docker
-A DOCKER-USER -s 172.17.0.0/16 -m comment --comment "as I please -j DOCKER" -j DROP
-A DOCKER-USER -j RETURN
-A f2b-docker -s 192.0.2.7/32 -j REJECT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:36089
-A DOCKER_OUTPUT -d 192.0.2.53/32 -p udp -m udp --dport 53 -j DNAT --to-destination 192.0.2.1:53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 45283 -j SNAT --to-source :53
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.18.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/24 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.20.0.0/16 ! -o br-0123456789ab -j MASQUERADE
-A POSTROUTING -s 10.0.0.0/8 ! -o tun0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.3/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER -d 203.0.113.1/32 ! -i br-5f1c3a9d2b7e -p udp -m udp --dport 53 -j DNAT --to-destination 172.18.0.2:53
-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.18.0.2:80
COMMIT
`

func TestDocker(t *testing.T) {
	check(t, rulesOf(t, dockerRules, docker), map[string]string{
		"filter: -A FORWARD -j DOCKER-USER":                                                                                     "Docker",
		"filter: -A FORWARD -j DOCKER-ISOLATION-STAGE-1":                                                                        "Docker",
		"filter: -A FORWARD -o br-5f1c3a9d2b7e -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT":                            "Docker, network app",
		"filter: -A FORWARD -o br-5f1c3a9d2b7e -j DOCKER":                                                                       "Docker",
		"filter: -A FORWARD -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j ACCEPT":                                                  "Docker, network app, OUTGOING",
		"filter: -A FORWARD -i br-5f1c3a9d2b7e -o br-5f1c3a9d2b7e -j DROP":                                                      "", // somebody wants what Docker was not told
		"filter: -A FORWARD -i docker0 -o docker0 -j ACCEPT":                                                                    "Docker, network bridge, ICC",
		"filter: -A FORWARD -i apart0 -o apart0 -j DROP":                                                                        "Docker, network apart, ICC",
		"filter: -A FORWARD -i apart0 -o apart0 -j ACCEPT":                                                                      "",
		"filter: -A FORWARD -i eth0 ! -o eth0 -j ACCEPT":                                                                        "",
		"filter: -A FORWARD -s 172.17.0.0/16 -j ACCEPT":                                                                         "",
		"filter: -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT":                         "Docker, network bridge",
		"filter: -A DOCKER -s 192.0.2.1/32 -i eth0 -j DROP":                                                                     "Docker", // its chain, until it writes it anew
		"filter: -A DOCKER-ISOLATION-STAGE-1 ! -s 172.19.0.0/16 -o br-c105ed000000 -j DROP":                                     "Docker, network closed, INTERNAL NETWORK INGRESS",
		"filter: -A DOCKER-ISOLATION-STAGE-1 ! -d 172.19.0.0/16 -i br-c105ed000000 -j DROP":                                     "Docker, network closed, INTERNAL NETWORK EGRESS",
		"filter: -A DOCKER-ISOLATION-STAGE-1 -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j DOCKER-ISOLATION-STAGE-2":               "Docker, network app, ISOLATION",
		"filter: -A DOCKER-ISOLATION-STAGE-1 -j RETURN":                                                                         "Docker",
		"filter: -A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP":                                                        "Docker, network app, ISOLATION",
		"filter: -A DOCKER-ISOLATION-STAGE-2 -o br-unknown00000 -j DROP":                                                        "Docker, bridge br-unknown00000, ISOLATION",
		"filter: -A DOCKER-USER -i eth0 -j f2b-docker":                                                                          "fail2ban",
		`filter: -A DOCKER-USER -s 172.17.0.0/16 -m comment --comment "as I please -j DOCKER" -j DROP`:                          "",
		"filter: -A DOCKER-USER -j RETURN":                                                                                      "",
		"filter: -A f2b-docker -s 192.0.2.7/32 -j REJECT":                                                                       "fail2ban",
		"nat: -A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT":                                                                      "Docker",
		"nat: -A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:36089":             "Docker, DNS",
		"nat: -A DOCKER_OUTPUT -d 192.0.2.53/32 -p udp -m udp --dport 53 -j DNAT --to-destination 192.0.2.1:53":                 "Docker",
		"nat: -A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 45283 -j SNAT --to-source :53":                       "Docker, DNS",
		"nat: -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER":                                                             "Docker",
		"nat: -A POSTROUTING -s 172.18.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE":                                               "Docker, network app, MASQUERADE",
		"nat: -A POSTROUTING -s 172.17.0.0/16 ! -o br-5f1c3a9d2b7e -j MASQUERADE":                                               "", // of two networks
		"nat: -A POSTROUTING -s 172.17.0.0/24 ! -o docker0 -j MASQUERADE":                                                       "",
		"nat: -A POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE":                                                            "",
		"nat: -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE":                                                       "Docker, network bridge, MASQUERADE",
		"nat: -A POSTROUTING -s 172.20.0.0/16 ! -o br-0123456789ab -j MASQUERADE":                                               "", // Docker was told not to
		"nat: -A POSTROUTING -s 10.0.0.0/8 ! -o tun0 -j MASQUERADE":                                                             "",
		"nat: -A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE":                          "Docker, network bridge, MASQ TO OWN PORT",
		"nat: -A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.3/32 -p tcp -m tcp --dport 80 -j MASQUERADE":                          "", // not its own port
		"nat: -A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE":                                             "Docker, network bridge, MASQUERADE FROM HOST",
		"nat: -A DOCKER -i docker0 -j RETURN":                                                                                   "Docker, network bridge",
		"nat: -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80":                         "Docker, network bridge, DNAT",
		"nat: -A DOCKER -d 203.0.113.1/32 ! -i br-5f1c3a9d2b7e -p udp -m udp --dport 53 -j DNAT --to-destination 172.18.0.2:53": "Docker, network app, DNAT",
		"nat: -A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.18.0.2:80":                                      "Docker, network app, DNAT",
	})
}

// TestDockerUnasked: without the engine's word the bridge is named, and nothing is
// Docker's that only looks like it.
func TestDockerUnasked(t *testing.T) {
	check(t, rulesOf(t, dockerRules, nil), map[string]string{
		"filter: -A FORWARD -j DOCKER-USER":                                                             "Docker",
		"filter: -A FORWARD -i br-5f1c3a9d2b7e ! -o br-5f1c3a9d2b7e -j ACCEPT":                          "",
		"filter: -A FORWARD -i docker0 -o docker0 -j ACCEPT":                                            "",
		"filter: -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT": "Docker, bridge docker0",
		"filter: -A DOCKER -s 192.0.2.1/32 -i eth0 -j DROP":                                             "Docker",
		"filter: -A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP":                                "Docker, bridge br-5f1c3a9d2b7e, ISOLATION",
		"nat: -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE":                               "",
		"nat: -A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.18.0.2:80":              "Docker, DNAT",
	})
}

// moby reads the published rulesets of newer versions of Docker.
func moby(t *testing.T, pattern string, atLeast int) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testenv.SharedData(t), "moby", pattern))
	if err != nil || len(files) < atLeast {
		t.Fatalf("%d files %s, want %d: %v", len(files), pattern, atLeast, err)
	}
	texts := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(text)
	}
	return texts
}

// blocks are the indented parts of a document that begin with start.
func blocks(text, start string) (all []string) {
	var block []string
	for line := range strings.Lines(text + "\n") {
		code, indented := strings.CutPrefix(strings.ReplaceAll(line, "\t", "    "), "    ")
		if indented {
			block = append(block, code)
			continue
		}
		if len(block) > 0 && strings.HasPrefix(block[0], start) {
			all = append(all, strings.Join(block, ""))
		}
		block = nil
	}
	return all
}

// TestPublished: every rule in the published rulesets is Docker's, and of the
// network that its bridge or an address in it says, whether the engine was asked or
// not.
func TestPublished(t *testing.T) {
	texts := moby(t, "*.golden.txt", 16)
	for file, text := range moby(t, "*doc-*.md", 7) {
		for i, block := range append(blocks(text, "table "), blocks(text, "-P ")...) {
			texts[fmt.Sprintf("%s, block %d", file, i)] = block
		}
	}
	known := []engine.Network{
		{Name: "dummy", Bridge: "br-dummy", Prefixes: prefixes("192.168.0.0/24", "fd49:efd7:54aa::/64")},
		{Name: "bridge", Bridge: "docker0", Prefixes: prefixes("172.17.0.0/16")},
		{Name: "mine", Bridge: "bridge1", Prefixes: prefixes("192.0.2.0/24")},
		{Name: "icc", Bridge: "bridgeICC", Prefixes: prefixes("192.0.2.0/24"), Internal: true},
		{Name: "noicc", Bridge: "bridgeNoICC", Prefixes: prefixes("198.51.100.0/24"), Internal: true},
	}
	bridges := regexp.MustCompile(`\b(br-dummy|docker0|bridge1|bridgeICC|bridgeNoICC)\b`)
	named := 0
	for file, text := range texts {
		asked, unasked := rulesOf(t, text, known), rulesOf(t, text, nil)
		for line, r := range asked {
			if r.Owner.Tool != owner.Docker {
				t.Errorf("%s: %s is of %q", filepath.Base(file), line, r.Owner)
			}
			seen := bridges.FindString(strings.ReplaceAll(line, "__", " "))
			calls := regexp.MustCompile(`-j DOCKER$`).MatchString(line) && r.Chain == "FORWARD"
			if seen == "" || calls {
				continue
			}
			named++
			if r.Owner.Bridge != seen || r.Owner.Network == "" {
				t.Errorf("%s: %s is of %q", filepath.Base(file), line, r.Owner)
			}
			alone := unasked[line].Owner
			if built := r.Chain == "POSTROUTING" || r.Chain == "PREROUTING"; alone.Tool == "" != built || !built && alone.Bridge != seen {
				t.Errorf("%s: without the engine %s is of %q", filepath.Base(file), line, alone)
			}
		}
	}
	if named < 150 {
		t.Errorf("only %d rules name a bridge", named)
	}
}

// TestPublishedPurpose is what some of these rules are for.
func TestPublishedPurpose(t *testing.T) {
	dummy := []engine.Network{{Name: "dummy", Bridge: "br-dummy", Prefixes: prefixes("192.168.0.0/24", "fd49:efd7:54aa::/64")}}
	for pattern, want := range map[string]map[string]string{
		"nft_hairpin-false_internal-false_icc-true_masq-true_snat-false_*__ip.golden.txt": {
			`raw-PREROUTING: ip daddr 192.168.0.2 iifname != "br-dummy" counter drop comment "DROP DIRECT ACCESS"`:                 "Docker, network dummy, DROP DIRECT ACCESS",
			`filter-forward-in__br-dummy: counter drop comment "UNPUBLISHED PORT DROP"`:                                            "Docker, network dummy, UNPUBLISHED PORT DROP",
			`filter-forward-in__br-dummy: ip daddr 192.168.0.2 tcp dport 80 counter accept`:                                        "Docker, network dummy",
			`nat-prerouting-and-output: iifname != "br-dummy" tcp dport 8080 counter dnat to 192.168.0.2:80 comment "DNAT"`:        "Docker, network dummy, DNAT",
			`nat-postrouting-out__br-dummy: oifname != "br-dummy" ip saddr 192.168.0.0/24 counter masquerade comment "MASQUERADE"`: "Docker, network dummy, MASQUERADE",
			`filter-FORWARD: oifname vmap @filter-forward-in-jumps`:                                                                "Docker",
		},
		"nft_hairpin-true_internal-false_*__ip6.golden.txt": {
			`nat-prerouting-and-output: ip6 saddr != fe80::/10 tcp dport 8080 counter dnat to [fd49:efd7:54aa::1]:80 comment "DNAT"`: "Docker, network dummy, DNAT",
		},
		"ipt_hairpin-false_internal-false_icc-true_masq-true_snat-true_*__iptables.golden.txt": {
			"raw: -A PREROUTING -d 192.168.0.2/32 ! -i br-dummy -j DROP":                                      "Docker, network dummy, DROP DIRECT ACCESS",
			"filter: -A DOCKER ! -i br-dummy -o br-dummy -j DROP":                                             "Docker, network dummy, UNPUBLISHED PORT DROP",
			"filter: -A DOCKER-FORWARD -i br-dummy -j ACCEPT":                                                 "Docker, network dummy, OUTGOING",
			"nat: -A POSTROUTING -s 192.168.0.0/24 ! -o br-dummy -j SNAT --to-source 192.168.123.0":           "Docker, network dummy, SNAT",
			"nat: -A DOCKER ! -i br-dummy -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.0.2:80": "Docker, network dummy, DNAT",
		},
		"ipt_hairpin-false_internal-true_*__ip6tables.golden.txt": {
			"filter: -A DOCKER-INTERNAL ! -s fd49:efd7:54aa::/64 ! -i br-dummy -o br-dummy -j DROP": "Docker, network dummy, INTERNAL NETWORK INGRESS",
			"filter: -A DOCKER-INTERNAL ! -d fd49:efd7:54aa::/64 -i br-dummy ! -o br-dummy -j DROP": "Docker, network dummy, INTERNAL NETWORK EGRESS",
		},
	} {
		for _, text := range moby(t, pattern, 1) {
			check(t, rulesOf(t, text, dummy), want)
		}
	}
}

// TestTools has rules as these programs write them: firewalld 1.3 with either
// backend, ufw 0.36, kube-proxy, netavark 1.4, the plugins of CNI 1.1, libvirt. A
// rule has the form "family table: line" or "family table chain: line of nft".
func TestTools(t *testing.T) {
	for _, tt := range []struct{ rule, want string }{
		{`inet firewalld nat_POST_public_allow: meta nfproto ipv4 oifname != "lo" masquerade`, "firewalld, zone public"},
		{`ip6 firewalld nat_POST_public_allow: oifname != "lo" masquerade`, "firewalld, zone public"},
		{`inet firewalld filter_FWD_public: reject with icmpx admin-prohibited`, "firewalld, zone public"},
		{`inet firewalld filter_IN_public: jump filter_INPUT_POLICIES_pre`, "firewalld, zone public"},
		{`inet firewalld filter_INPUT_ZONES: iifname "eth0" goto filter_IN_public`, "firewalld, zone public"},
		{`inet firewalld filter_IN_policy_allow-host-ipv6_allow: icmpv6 type nd-redirect accept`, "firewalld, policy allow-host-ipv6"},
		{`inet firewalld mangle_PREROUTING_POLICIES_pre: jump mangle_PRE_policy_allow-host-ipv6`, "firewalld, policy allow-host-ipv6"},
		{`inet firewalld filter_FORWARD: reject with icmpx admin-prohibited`, "firewalld"},
		{`inet firewalld filter_FORWARD: jump filter_FORWARD_ZONES`, "firewalld"},
		{`inet firewalld filter_FWDO_home_log: accept`, "firewalld, zone home"},
		{`ip filter: -A IN_public_allow -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT`, "firewalld, zone public"},
		{`ip filter: -A IN_public -j IN_public_allow`, "firewalld, zone public"},
		{`ip filter: -A INPUT -j INPUT_ZONES`, "firewalld"},
		{`ip filter: -A INPUT_ZONES -i eth0 -g IN_public`, "firewalld, zone public"},
		{`ip nat: -A POST_policy_vpn_allow ! -o lo -j MASQUERADE`, "firewalld, policy vpn"},
		{`ip filter: -A IN_public -p icmp -j ACCEPT`, ""}, // a chain that anybody may call so
		{`ip filter: -A IN_lan -j IN_lan_tcp`, ""},
		{`inet filter filter_IN_public_allow: accept`, ""},

		{`ip filter: -A ufw-user-forward -s 172.17.0.0/16 -d 8.8.8.8/32 -p udp -m udp --dport 53 -j ACCEPT`, "ufw"},
		{`ip6 filter: -A ufw6-user-input -p tcp -m tcp --dport 22 -j ACCEPT`, "ufw"},
		{`ip filter: -A FORWARD -j ufw-before-forward`, "ufw"},
		{`ip filter: -A ufw-skip-to-policy-forward -j DROP`, "ufw"},
		{`ip filter: -A FORWARD -m comment --comment "ufw-before-forward" -j ACCEPT`, ""},

		{`ip nat: -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-ABCDEFGHIJKLMN23`, "kube-proxy, service default/web:http"},
		{`ip nat: -A KUBE-SVC-ABCDEFGHIJKLMN23 -m comment --comment "default/web:http -> 10.244.1.2:8080" -m statistic --mode random --probability 0.5 -j KUBE-SEP-ABCDEFGHIJKLMN27`, "kube-proxy, service default/web:http"},
		{`ip nat: -A KUBE-SEP-ABCDEFGHIJKLMN27 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.1.2:8080`, "kube-proxy, service default/web:http"},
		{`ip nat: -A KUBE-SEP-ABCDEFGHIJKLMN27 -p udp -m comment --comment "kube-system/dns" -j DNAT --to-destination 10.244.1.2:53`, "kube-proxy, service kube-system/dns"},
		{`ip filter: -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT`, "kube-proxy, service default/web:http"},
		{`ip nat: -A KUBE-EXT-ABCDEFGHIJKLMN23 -m comment --comment "masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ`, "kube-proxy, service default/web:http"},
		{`ip nat: -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully`, "kube-proxy"},
		{`ip nat: -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`, "kube-proxy"},
		{`ip filter: -A KUBE-FIREWALL -j DROP`, ""},       // kubelet's
		{`ip filter: -A KUBE-ROUTER-INPUT -j RETURN`, ""}, // kube-router's
		{`ip filter: -A FORWARD -m comment --comment "default/web:http" -j ACCEPT`, ""},
		{`ip kube-proxy service-ULMVA6XW-default/web/tcp/http: ip daddr 10.96.0.10 ip saddr != 10.0.0.0/8 jump mark-for-masquerade`, "kube-proxy, service default/web:http"},
		{`ip kube-proxy endpoint-5OJB2KTY-default/web/tcp/__10.244.1.2/80: meta l4proto tcp dnat to 10.244.1.2:80`, "kube-proxy, service default/web"},
		{`ip kube-proxy masquerading: masquerade fully-random`, "kube-proxy"},

		{`ip filter: -A NETAVARK_FORWARD -s 10.89.0.0/24 -j ACCEPT`, "Podman"},
		{`ip filter: -A NETAVARK_ISOLATION_1 -i podman1 ! -o podman1 -j NETAVARK_ISOLATION_2`, "Podman, bridge podman1, ISOLATION"},
		{`ip filter: -A NETAVARK_ISOLATION_2 -o podman1 -j DROP`, "Podman, bridge podman1, ISOLATION"},
		{`ip nat: -A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 8080 -m comment --comment "dnat name: app id: 8f3c0f7c2b1d" -j NETAVARK-DN-F43F799324A27`, "Podman, network app"},
		{`ip nat: -A NETAVARK-F43F799324A27 ! -d 224.0.0.0/4 -j MASQUERADE`, "Podman"},
		{`ip nat: -A POSTROUTING -s 10.89.0.0/24 -j NETAVARK-F43F799324A27`, "Podman"},
		{`inet netavark nv_2f259bab_10_88_0_0_nm16: ip daddr != 224.0.0.0/4 masquerade`, "Podman"},

		{`ip nat: -A CNI-797f1dae695cd89d5e1ef405 ! -d 224.0.0.0/4 -m comment --comment "name: \"podnet\" id: \"0123456789abcdef\"" -j MASQUERADE`, "CNI, network podnet"},
		{`ip nat: -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"podnet\" id: \"0123456789abcdef\"" -m multiport --dports 8080 -j CNI-DN-797f1dae695cd89d5e1ef`, "CNI, network podnet"},
		{`ip filter: -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN`, "CNI"},
		{`ip filter: -A CNI-ADMIN -j DROP`, ""},

		{`ip filter: -A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable`, "libvirt"},
		{`ip filter: -A FORWARD -j LIBVIRT_FWX`, "libvirt"},
		{`ip libvirt_network guest_nat: ip saddr 192.168.122.0/24 masquerade`, "libvirt"},
		{`inet f2b-table f2b-chain: tcp dport 22 ip saddr @addr-set-sshd reject`, "fail2ban"},

		{`inet guard DOCKER: drop`, ""},
		{`ip filter FORWARD: counter packets 1 bytes 60 jump DOCKER-ISOLATION-STAGE-1`, "Docker"}, // as nft lists iptables-nft
		{`ip filter FORWARD: drop comment "jump DOCKER"`, ""},
	} {
		place, line, _ := strings.Cut(tt.rule, ": ")
		words := strings.Fields(place)
		r := report.Rule{Backend: "nft", Family: words[0], Table: words[1], Text: line}
		if len(words) == 3 {
			r.Chain = words[2]
		} else {
			r.Backend, r.Chain = "iptables-nft", strings.Fields(line)[1]
			saved := fmt.Sprintf("*%s\n:%s - [0:0]\n%s\nCOMMIT\n", r.Table, r.Chain, line)
			for _, read := range rulesOf(t, saved, nil) {
				r.Comment = read.Comment
			}
		}
		if got := owner.Of(&r, docker).String(); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.rule, got, tt.want)
		}
	}
}

// FuzzOf names owners of rules that anybody has written: what it says is in the
// rule, or is a network that the engine has.
func FuzzOf(f *testing.F) {
	f.Add("ip", "nat", "KUBE-SEP-ABCDEFGHIJKLMN27", `-A KUBE-SEP-ABCDEFGHIJKLMN27 -j DNAT`, "default/web:http")
	f.Add("ip", "nat", "CNI-797f1dae695cd89d5e1ef405", `-A CNI-797f1dae695cd89d5e1ef405 -j ACCEPT`, `name: "podnet" id: "0123"`)
	f.Add("ip", "docker-bridges", "nat-prerouting-and-output", `tcp dport 80 dnat to [fd5a:ceb9:ed8d:1::2]:80 comment "DNAT"`, "DNAT")
	f.Add("inet", "firewalld", "filter_IN_policy_x_allow", `accept`, "")
	f.Add("ip", "nat", "POSTROUTING", "-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE", "")
	f.Fuzz(func(t *testing.T, family, table, chain, text, comment string) {
		r := report.Rule{Family: family, Table: table, Chain: chain, Text: text, Comment: comment}
		o := owner.Of(&r, docker)
		if o.Tool == "" && o != (report.Owner{}) {
			t.Errorf("%+v is nobody's", o)
		}
		network, _, _ := strings.Cut(comment, " id: ")
		for _, n := range docker {
			network += " " + n.Name + " " + n.Bridge
		}
		for what, said := range map[string]string{"network": o.Network, "bridge": o.Bridge} {
			if !strings.Contains(network+chain+text, said) {
				t.Errorf("%s %q is nowhere", what, said)
			}
		}
		for what, said := range map[string]string{"zone": o.Zone, "policy": o.Policy} {
			if !strings.Contains(chain+text, said) {
				t.Errorf("%s %q is nowhere", what, said)
			}
		}
		ns, name, _ := strings.Cut(o.Service, "/")
		if !strings.Contains(comment+chain+text, ns) || len(name) > 320 {
			t.Errorf("service %q is nowhere", o.Service)
		}
	})
}
