//go:build linux

package peer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/peer"
)

// bridges starts Docker with containers on all kinds of bridges. cnt01 serves on
// ports 80, which is published as 8080, and 81, which is only exposed.
func bridges(t *testing.T, backend string, flags ...string) *peer.Docker {
	t.Helper()
	m := host(t, "docker-bridge")
	m.Run("ln", "-sf", backend, "/usr/sbin/iptables")
	m.Run("ln", "-sf", backend+"-save", "/usr/sbin/iptables-save")
	// Docker's policy of FORWARD is DROP only where nobody forwarded before.
	m.Run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
	d := m.Docker(flags...)
	for _, network := range []string{
		"one", "two", "silent -o com.docker.network.bridge.enable_icc=false", "inner --internal",
	} {
		words := strings.Fields(network)
		d.Run("docker", append([]string{"network", "create", "-o", "com.docker.network.bridge.name=" + words[0]}, words...)...)
	}
	for _, container := range []string{
		"cnt01 --publish 8080:80 --expose 81", "cnt02", "cnt03 --network one", "cnt04 --network two",
		"cnt05 --network silent", "cnt06 --network silent", "cnt07 --network inner",
	} {
		words := strings.Fields(container)
		d.Container(words[0], words[1:]...)
	}
	for _, port := range []string{"80", "81"} {
		d.Run("docker", "exec", "cnt01", "httpd", "-h", "/etc", "-p", port)
	}
	m.Run("ip", "netns", "exec", "client", "ip", "route", "add", "172.17.0.0/16", "via", "203.0.113.1")
	return d
}

// check is a command and what it has to say.
type check struct {
	command string
	want    answer
	// neighbour is the state of cnt01 in the host's table of neighbours: where the
	// host is sure of it, a packet that is translated from a port of the bridge to
	// another one does not pass the bridge's device (br_nf_pre_routing_finish_bridge).
	// Empty makes no difference.
	neighbour string
}

// The containers' addresses, and what of Docker's rules its settings do not
// change.
const (
	isolation  = "iptables-nft filter DOCKER-ISOLATION-STAGE-2: -A DOCKER-ISOLATION-STAGE-2 -o "
	masquerade = "iptables-nft nat POSTROUTING: -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"
)

// replied is an answer that came, to an interface.
func replied(netns, iface string, translations, request, reply []string) answer {
	return answer{
		Outcome: "replied", Code: "OK", Leg: "reply", NetNS: netns, Interface: iface, Rule: unknown,
		Translations: translations, Request: request, Reply: reply,
	}
}

// dropped is a request that a rule dropped in forward, when it had come in by an
// interface.
func dropped(code, iface, rule string, translations, request []string) answer {
	return answer{
		Outcome: "dropped", Code: code, Leg: "request", NetNS: "host", Interface: iface, Hook: "forward", Rule: rule,
		Translations: translations, Request: request,
	}
}

// anyway is what Docker's settings do not change.
var anyway = []check{
	{"ping 8.8.8.8 --container cnt01", replied("cnt01", "eth0",
		[]string{"observed host postrouting masquerade source 172.17.0.2 → 203.0.113.1 by " + masquerade},
		[]string{"cnt01 eth0 egress, 172.17.0.2 → 8.8.8.8", "host veth* ingress", "host docker0 ingress", "host eth0 egress, 203.0.113.1 → 8.8.8.8"},
		[]string{"host eth0 ingress, 8.8.8.8 → 203.0.113.1", "host docker0 egress, 8.8.8.8 → 172.17.0.2", "host veth* egress", "cnt01 eth0 ingress"},
	), ""},
	{"ping 172.17.0.3 --container cnt01", replied("cnt01", "eth0", nil,
		[]string{"cnt01 eth0 egress, 172.17.0.2 → 172.17.0.3", "host veth* ingress", "host veth* egress", "cnt02 eth0 ingress"},
		[]string{"cnt02 eth0 egress, 172.17.0.3 → 172.17.0.2", "host veth* ingress", "host veth* egress", "cnt01 eth0 ingress"},
	), ""},
	{"ping 172.18.0.2 --container cnt01", dropped("FILTER_DROP", "docker0", isolation+"one -j DROP", nil,
		[]string{"cnt01 eth0 egress, 172.17.0.2 → 172.18.0.2", "host veth* ingress", "host docker0 ingress"},
	), ""},
	{"ping 172.19.0.2 --container cnt03", dropped("FILTER_DROP", "one", isolation+"two -j DROP", nil,
		[]string{"cnt03 eth0 egress, 172.18.0.2 → 172.19.0.2", "host veth* ingress", "host one ingress"},
	), ""},
	{"ping 172.20.0.3 --container cnt05", dropped("BRIDGE_FILTERED", "veth*", "iptables-nft filter FORWARD: -A FORWARD -i silent -o silent -j DROP", nil,
		[]string{"cnt05 eth0 egress, 172.20.0.2 → 172.20.0.3", "host veth* ingress"},
	), ""},
	{"ping 8.8.8.8 --container cnt07", dropped("FILTER_DROP", "inner",
		"iptables-nft filter DOCKER-ISOLATION-STAGE-1: -A DOCKER-ISOLATION-STAGE-1 ! -d 172.21.0.0/16 -i inner -j DROP", nil,
		[]string{"cnt07 eth0 egress, 172.21.0.2 → 8.8.8.8", "host veth* ingress", "host inner ingress"},
	), ""},
	// Exposed is not published: nobody listens at the host's port, and the
	// container can be reached from the host alone.
	{"tcp 203.0.113.1:81 --netns client", answer{
		Outcome: "rejected", Code: "NO_LISTENER", Leg: "request", NetNS: "host", Interface: "eth0", Rule: unknown,
		Request: []string{"client eth0 egress, 203.0.113.100 → 203.0.113.1:81", "host eth0 ingress"},
		Reply:   []string{"host eth0 egress, 203.0.113.1:81 → 203.0.113.100", "client eth0 ingress"},
	}, ""},
	{"tcp 172.17.0.2:81", replied("host", "docker0", nil,
		[]string{"host docker0 egress, 172.17.0.1 → 172.17.0.2:81", "host veth* egress", "cnt01 eth0 ingress"},
		[]string{"cnt01 eth0 egress, 172.17.0.2:81 → 172.17.0.1", "host veth* ingress", "host docker0 ingress"},
	), ""},
	{"tcp 172.17.0.2:81 --container cnt03", dropped("FILTER_DROP", "one", isolation+"docker0 -j DROP", nil,
		[]string{"cnt03 eth0 egress, 172.18.0.2 → 172.17.0.2:81", "host veth* ingress", "host one ingress"},
	), ""},
	{"tcp 172.17.0.2:81 --netns client", dropped("FILTER_POLICY_DROP", "eth0", "iptables-nft filter FORWARD: :FORWARD DROP", nil,
		[]string{"client eth0 egress, 203.0.113.100 → 172.17.0.2:81", "host eth0 ingress"},
	), ""},
}

// dnat is the rule of the published port, with what it asks of the packet.
func dnat(condition string) string {
	return "iptables-nft nat DOCKER: -A DOCKER " + condition + "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"
}

// TestBridgesProxied is Docker as it comes, with docker-proxy: what no DNAT rule
// takes ends at its socket on the host, and it connects to the container anew.
func TestBridgesProxied(t *testing.T) {
	t.Parallel()
	d := bridges(t, "iptables-nft")
	published := "destination 203.0.113.1:8080 → 172.17.0.2:80 by " + dnat("! -i docker0 ")
	checks := append([]check{
		{"tcp 203.0.113.1:8080 --netns client", replied("client", "eth0", []string{"observed host prerouting dnat " + published},
			[]string{"client eth0 egress, 203.0.113.100 → 203.0.113.1:8080", "host eth0 ingress", "host docker0 egress, 203.0.113.100 → 172.17.0.2:80", "host veth* egress", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 203.0.113.100", "host veth* ingress", "host docker0 ingress", "host eth0 egress, 203.0.113.1:8080 → 203.0.113.100", "client eth0 ingress"},
		), ""},
		{"tcp 203.0.113.1:8080", replied("host", "docker0", []string{"observed host output dnat " + published},
			[]string{"host docker0 egress, 203.0.113.1 → 172.17.0.2:80", "host veth* egress", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 203.0.113.1", "host veth* ingress", "host docker0 ingress"},
		), ""},
		{"tcp 127.0.0.1:8080", replied("host", "lo", nil,
			[]string{"host lo egress, 127.0.0.1 → 127.0.0.1:8080", "host lo ingress"},
			[]string{"host lo egress, 127.0.0.1:8080 → 127.0.0.1", "host lo ingress"},
		), ""},
		{"tcp 203.0.113.1:8080 --container cnt01", replied("cnt01", "eth0", nil,
			[]string{"cnt01 eth0 egress, 172.17.0.2 → 203.0.113.1:8080", "host veth* ingress", "host docker0 ingress"},
			[]string{"host docker0 egress, 203.0.113.1:8080 → 172.17.0.2", "host veth* egress", "cnt01 eth0 ingress"},
		), ""},
		{"tcp 203.0.113.1:8080 --container cnt02", replied("cnt02", "eth0", nil,
			[]string{"cnt02 eth0 egress, 172.17.0.3 → 203.0.113.1:8080", "host veth* ingress", "host docker0 ingress"},
			[]string{"host docker0 egress, 203.0.113.1:8080 → 172.17.0.3", "host veth* egress", "cnt02 eth0 ingress"},
		), ""},
		{"tcp 203.0.113.1:8080 --container cnt03", replied("cnt03", "eth0", nil,
			[]string{"cnt03 eth0 egress, 172.18.0.2 → 203.0.113.1:8080", "host veth* ingress", "host one ingress"},
			[]string{"host one egress, 203.0.113.1:8080 → 172.18.0.2", "host veth* egress", "cnt03 eth0 ingress"},
		), ""},
	}, anyway...)
	for _, c := range checks {
		t.Run(c.command, func(t *testing.T) { c.hold(t, d) })
	}
	// That a network is internal, and another one silent, is meant so.
	examine(t, d.Machine, "note BRIDGE_FILTERED")
	topology := d.Run("pathtrace", "topology")
	for _, container := range []string{"cnt01", "cnt02", "cnt03", "cnt04", "cnt05", "cnt06", "cnt07"} {
		if !strings.Contains(topology, "-> "+container+"/eth0\n") {
			t.Errorf("nothing leads to %s:\n%s", container, topology)
		}
	}
}

// TestBridgesHairpinned is Docker with --userland-proxy=false: a port is
// published by DNAT alone, also for the container itself. Its rules are those of
// iptables-legacy.
func TestBridgesHairpinned(t *testing.T) {
	t.Parallel()
	d := bridges(t, "iptables-legacy", "--userland-proxy=false")
	published := "destination 203.0.113.1:8080 → 172.17.0.2:80 by " + dnat("")
	const fromHost = "observed host postrouting masquerade source 203.0.113.1 → 172.17.0.1 by iptables-nft nat POSTROUTING: -A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE"
	hairpin := []string{
		"observed host prerouting dnat " + published,
		"observed host postrouting masquerade source 172.17.0.2 → 172.17.0.1 by iptables-nft nat POSTROUTING: -A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE",
	}
	checks := append([]check{
		{"tcp 203.0.113.1:8080 --netns client", replied("client", "eth0", []string{"observed host prerouting dnat " + published},
			[]string{"client eth0 egress, 203.0.113.100 → 203.0.113.1:8080", "host eth0 ingress", "host docker0 egress, 203.0.113.100 → 172.17.0.2:80", "host veth* egress", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 203.0.113.100", "host veth* ingress", "host docker0 ingress", "host eth0 egress, 203.0.113.1:8080 → 203.0.113.100", "client eth0 ingress"},
		), ""},
		{"tcp 203.0.113.1:8080", replied("host", "docker0", []string{"observed host output dnat " + published, fromHost},
			[]string{"host docker0 egress, 172.17.0.1 → 172.17.0.2:80", "host veth* egress", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 172.17.0.1", "host veth* ingress", "host docker0 ingress, 172.17.0.2:80 → 203.0.113.1"},
		), ""},
		{"tcp 127.0.0.1:8080", replied("host", "docker0",
			[]string{
				"observed host output dnat " + strings.Replace(published, "203.0.113.1", "127.0.0.1", 1),
				strings.Replace(fromHost, "203.0.113.1", "127.0.0.1", 1),
			},
			[]string{"host docker0 egress, 172.17.0.1 → 172.17.0.2:80", "host veth* egress", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 172.17.0.1", "host veth* ingress", "host docker0 ingress, 172.17.0.2:80 → 127.0.0.1"},
		), ""},
		// The bridge has the packet with one address as source and destination.
		{"tcp 203.0.113.1:8080 --container cnt01", replied("cnt01", "eth0", hairpin,
			[]string{"cnt01 eth0 egress, 172.17.0.2 → 203.0.113.1:8080", "host veth* ingress", "host docker0 egress, 172.17.0.2 → 172.17.0.2:80", "host veth* egress, 172.17.0.1 → 172.17.0.2:80", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 172.17.0.1", "host veth* ingress", "host docker0 egress, 172.17.0.2:80 → 172.17.0.2", "host veth* egress, 203.0.113.1:8080 → 172.17.0.2", "cnt01 eth0 ingress"},
		), "stale"},
		{"tcp 203.0.113.1:8080 --container cnt01", replied("cnt01", "eth0", hairpin,
			[]string{"cnt01 eth0 egress, 172.17.0.2 → 203.0.113.1:8080", "host veth* ingress", "host veth* egress, 172.17.0.1 → 172.17.0.2:80", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 172.17.0.1", "host veth* ingress", "host veth* egress, 203.0.113.1:8080 → 172.17.0.2", "cnt01 eth0 ingress"},
		), "reachable"},
		{"tcp 203.0.113.1:8080 --container cnt02", replied("cnt02", "eth0", []string{"observed host prerouting dnat " + published},
			[]string{"cnt02 eth0 egress, 172.17.0.3 → 203.0.113.1:8080", "host veth* ingress", "host docker0 egress, 172.17.0.3 → 172.17.0.2:80", "host veth* egress", "cnt01 eth0 ingress"},
			[]string{"cnt01 eth0 egress, 172.17.0.2:80 → 172.17.0.3", "host veth* ingress", "host veth* egress, 203.0.113.1:8080 → 172.17.0.3", "cnt02 eth0 ingress"},
		), "stale"},
		// Docker's two kinds of rules in each other's way: the port is published on
		// the host for all, and containers of other networks may not come near.
		{"tcp 203.0.113.1:8080 --container cnt03", dropped("FILTER_DROP", "one", isolation+"docker0 -j DROP", []string{"observed host prerouting dnat " + published},
			[]string{"cnt03 eth0 egress, 172.18.0.2 → 203.0.113.1:8080", "host veth* ingress", "host one ingress, 172.18.0.2 → 172.17.0.2:80"},
		), ""},
	}, anyway...)
	for _, c := range checks {
		c.want = c.want.legacy()
		t.Run(c.command, func(t *testing.T) { c.hold(t, d) })
	}
	for _, c := range []string{
		"ping 172.18.0.2 --container cnt01", "ping 172.20.0.3 --container cnt05",
		"tcp 203.0.113.1:8080 --container cnt03", "tcp 172.17.0.2:81 --netns client",
	} {
		t.Run("mend "+c, func(t *testing.T) { mend(t, d.Machine, strings.Fields(c)...) })
	}
}

// legacy is the answer with iptables-legacy for iptables-nft.
func (a answer) legacy() answer {
	replace := strings.NewReplacer("iptables-nft", "iptables-legacy")
	a.Rule = replace.Replace(a.Rule)
	a.Translations = slices.Clone(a.Translations)
	for i, translation := range a.Translations {
		a.Translations[i] = replace.Replace(translation)
	}
	return a
}

// hold holds what pathtrace says against what is wanted, against a program in the
// same place that tries the same, and against the counters of the rules.
func (c check) hold(t *testing.T, d *peer.Docker) {
	t.Helper()
	words := strings.Fields(c.command)
	if err := attempt(d, words); (err == nil) != (c.want.Outcome == "replied") {
		t.Errorf("it should be %s, and busybox has another answer: %v", c.want.Outcome, err)
	}
	if c.neighbour != "" {
		d.Run("ip", "neigh", "change", "172.17.0.2", "dev", "docker0", "nud", c.neighbour)
	}
	before := counters(d.Machine)
	explain(t, d.Machine, c.want, words...)
	after := counters(d.Machine)
	for _, named := range append([]string{c.want.Rule}, c.want.Translations...) {
		_, rule, _ := strings.Cut(named, ": -A ")
		if rule != "" && after[rule] == before[rule] {
			t.Errorf("no packet has met the rule %s", rule)
		}
	}
}

// attempt does with busybox what a probe of pathtrace's does, in the same place.
func attempt(d *peer.Docker, probe []string) error {
	var how []string
	if len(probe) == 4 {
		enter := map[string][]string{"--container": {"docker", "exec"}, "--netns": {"ip", "netns", "exec"}}[probe[2]]
		how = append(how, append(enter, probe[3])...)
	}
	switch probe[0] {
	case "ping", "ping6":
		how = append(how, "busybox", probe[0], "-c", "1", "-W", "1", probe[1])
	case "tcp":
		address, port, _ := strings.Cut(probe[1], ":")
		how = append(how, "sh", "-c", fmt.Sprintf(`printf 'GET /passwd HTTP/1.0\r\n\r\n' | busybox nc -w 1 %s %s | grep root:`, address, port))
	}
	_, err := d.Try(how[0], how[1:]...)
	return err
}

// counters are how many packets and bytes have met each rule of the host.
func counters(m *peer.Machine) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(m.Run("iptables-save", "--counters")) {
		if counter, rule, ok := strings.Cut(strings.TrimSpace(line), " -A "); ok {
			all[rule] = counter
		}
	}
	return all
}
