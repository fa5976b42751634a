//go:build linux

package peer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/peer"
)

// The commands of the write-up about a container that is reached over IPv6 only
// through masquerade and NPTv6.
var (
	createNetwork = []string{
		"network", "create", "--ipv6", "--subnet=fd5a:ceb9:ed8d:1::/64", "br_ipv6_nw",
		"-o", "com.docker.network.bridge.name=br_ipv6_nw",
	}
	richRule = `--add-rich-rule=rule family="ipv6" masquerade`
	// writtenTable is the table that firewalld of the write-up's time had made.
	writtenTable = `table ip6 firewalld {
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10
		oifname "ens192" goto nat_POST_public_allow
	}
	chain nat_POST_public_allow {
		oifname != "lo" masquerade
	}
}
`
)

// uplink is the host's address.
const uplink = "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5"

// beyond is the way of a ping from the container to dns.google and back, as far
// as it can be seen, from an address of a network that the rule masquerades.
func beyond(from, bridge, rule string) answer {
	const (
		host   = uplink
		public = "2001:db8:ff66:0:77e5:61d8:20eb:aba5"
		google = "2001:4860:4860::8888"
		snpt   = "iptables-nft mangle POSTROUTING: -A POSTROUTING -s fd5a:ceb9:ed8d:fe0a::/64 -o zUntrust -j SNPT --src-pfx fd5a:ceb9:ed8d:fe0a::/64 --dst-pfx 2001:db8:ff66::/64"
		dnpt   = "iptables-nft mangle PREROUTING: -A PREROUTING -d 2001:db8:ff66::/64 -i zUntrust -j DNPT --src-pfx 2001:db8:ff66::/64 --dst-pfx fd5a:ceb9:ed8d:fe0a::/64"
	)
	return answer{
		Outcome: "replied", Code: "OK", Leg: "reply", NetNS: "cnt01", Interface: "eth0", Rule: unknown,
		Translations: []string{
			"observed host postrouting masquerade source " + from + " → " + host + " by " + rule,
			"observed gateway postrouting nptv6 source " + host + " → " + public + " by " + snpt,
			"observed gateway prerouting nptv6 destination " + public + " → " + host + " by " + dnpt,
		},
		Request: []string{
			"cnt01 eth0 egress, " + from + " → " + google,
			"host veth* ingress", "host " + bridge + " ingress",
			"host ens192 egress, " + host + " → " + google,
			"router eth0 ingress", "router eth1 egress",
			"gateway zTrust ingress",
			"gateway zUntrust egress, " + public + " → " + google,
		},
		Reply: []string{
			"gateway zUntrust ingress, " + google + " → " + public,
			"gateway zTrust egress, " + google + " → " + host,
			"router eth1 ingress", "router eth0 egress",
			"host ens192 ingress",
			"host " + bridge + " egress, " + google + " → " + from,
			"host veth* egress", "cnt01 eth0 ingress",
		},
	}
}

// TestMasqueradeFirewalld is the network of the write-up: Docker and firewalld
// with the commands that were given to them.
func TestMasqueradeFirewalld(t *testing.T) {
	t.Parallel()
	m := host(t, "ipv6-masquerade")
	m.Firewalld()
	m.Run("firewall-cmd", richRule)
	d := m.Docker()
	d.Run("docker", createNetwork...)
	d.Container("cnt01", "--network", "br_ipv6_nw")
	const from = "fd5a:ceb9:ed8d:1::2"

	// dockerd, at its first start, adds a zone of its own and reloads firewalld,
	// which forgets what was not said to be permanent.
	want := beyond(from, "br_ipv6_nw", "")
	want.Outcome, want.Code, want.Leg = "lost", "NAT_MISSING", "request"
	want.NetNS, want.Interface, want.Translations, want.Reply = "host", "ens192", nil, nil
	want.Request[3], want.Request[7] = "host ens192 egress", "gateway zUntrust egress"
	explain(t, m, want, "ping6", "dns.google", "--container", "cnt01")

	reaches(t, d, false)
	mend(t, m, "ping6", "dns.google", "--container", "cnt01")
	m.Run("firewall-cmd", richRule)
	reaches(t, d, true)
	explain(t, m, beyond(from, "br_ipv6_nw", `nft firewalld nat_POST_public_allow: meta nfproto ipv6 oifname != "lo" masquerade`),
		"ping6", "dns.google", "--container", "cnt01")
}

// TestMasqueradeByHand has the write-up's table, and networks besides its own.
func TestMasqueradeByHand(t *testing.T) {
	t.Parallel()
	m := host(t, "ipv6-masquerade")
	m.Write("/etc/nftables.conf", writtenTable)
	m.Run("nft", "-f", "/etc/nftables.conf")
	d := m.Docker("--ipv6", "--fixed-cidr-v6=fd5a:ceb9:ed8d:2::/64")
	d.Run("docker", createNetwork...)
	examine(t, m, "note LINK_DOWN", "note LINK_DOWN") // bridges without a container
	const masquerade = `nft firewalld nat_POST_public_allow: oifname != "lo" masquerade`

	t.Run("user-defined network", func(t *testing.T) {
		d.Container("cnt01", "--network", "br_ipv6_nw", "--publish", "8080:80")
		d.Run("docker", "exec", "cnt01", "httpd", "-h", "/etc", "-p", "80")
		defer d.Run("docker", "rm", "--force", "cnt01")
		explain(t, m, beyond("fd5a:ceb9:ed8d:1::2", "br_ipv6_nw", masquerade), "ping6", "dns.google", "--container", "cnt01")
		reaches(t, d, true)
		near(t, m)
		// Docker has no rules for IPv6 unless it is asked: docker-proxy listens.
		explain(t, m, replied("cnt01", "eth0", nil,
			[]string{"cnt01 eth0 egress, fd5a:ceb9:ed8d:1::2 → [" + uplink + "]:8080", "host veth* ingress", "host br_ipv6_nw ingress"},
			[]string{"host br_ipv6_nw egress, [" + uplink + "]:8080 → fd5a:ceb9:ed8d:1::2", "host veth* egress", "cnt01 eth0 ingress"},
		), "tcp", "["+uplink+"]:8080", "--container", "cnt01")
	})
	t.Run("default network", func(t *testing.T) {
		d.Container("cnt01")
		defer d.Run("docker", "rm", "--force", "cnt01")
		explain(t, m, beyond("fd5a:ceb9:ed8d:2:0:242:ac11:2", "docker0", masquerade), "ping6", "dns.google", "--container", "cnt01")
	})
	t.Run("nobody routes back", func(t *testing.T) {
		m.Run("nft", "delete", "table", "ip6", "firewalld")
		d.Run("docker", "network", "create", "--ipv6", "--subnet=2a0e:b107:1ef0:1::/64", "routed", "-o", "com.docker.network.bridge.name=routed")
		d.Container("cnt01", "--network", "routed")
		want := beyond("2a0e:b107:1ef0:1::2", "routed", "")
		want.Outcome, want.Code, want.Leg = "lost", "NO_REPLY", "request"
		want.NetNS, want.Interface, want.Translations, want.Reply = "gateway", "zUntrust", nil, nil
		want.Request[3], want.Request[7] = "host ens192 egress", "gateway zUntrust egress"
		explain(t, m, want, "ping6", "dns.google", "--container", "cnt01")
		reaches(t, d, false)
	})
}

// TestMasqueradeDocker has Docker write rules for IPv6, as it does for IPv4, and
// no proxy: a container that asks for its own published port is led back to
// itself.
func TestMasqueradeDocker(t *testing.T) {
	t.Parallel()
	m := host(t, "ipv6-masquerade")
	d := m.Docker("--experimental", "--ip6tables", "--userland-proxy=false", "--ipv6", "--fixed-cidr-v6=fd5a:ceb9:ed8d:2::/64")
	d.Run("docker", createNetwork...)
	d.Container("cnt01", "--network", "br_ipv6_nw", "--publish", "8080:80")
	d.Run("docker", "exec", "cnt01", "httpd", "-h", "/etc", "-p", "80")
	const from, bridge, published = "fd5a:ceb9:ed8d:1::2", "fd5a:ceb9:ed8d:1::1", "[" + uplink + "]:8080"
	explain(t, m, beyond(from, "br_ipv6_nw", "iptables-nft nat POSTROUTING: -A POSTROUTING -s fd5a:ceb9:ed8d:1::/64 ! -o br_ipv6_nw -j MASQUERADE"),
		"ping6", "dns.google", "--container", "cnt01")
	reaches(t, d, true)
	m.Run("ip", "neigh", "change", from, "dev", "br_ipv6_nw", "nud", "stale")
	explain(t, m, replied("cnt01", "eth0",
		[]string{
			"observed host prerouting dnat destination " + published + " → [" + from + "]:80 by iptables-nft nat DOCKER: -A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination [" + from + "]:80",
			"observed host postrouting masquerade source " + from + " → " + bridge + " by iptables-nft nat POSTROUTING: -A POSTROUTING -s " + from + "/128 -d " + from + "/128 -p tcp -m tcp --dport 80 -j MASQUERADE",
		},
		[]string{
			"cnt01 eth0 egress, " + from + " → " + published, "host veth* ingress",
			"host br_ipv6_nw egress, " + from + " → [" + from + "]:80",
			"host veth* egress, " + bridge + " → [" + from + "]:80", "cnt01 eth0 ingress",
		},
		[]string{
			"cnt01 eth0 egress, [" + from + "]:80 → " + bridge, "host veth* ingress",
			"host br_ipv6_nw egress, [" + from + "]:80 → " + from,
			"host veth* egress, " + published + " → " + from, "cnt01 eth0 ingress",
		},
	), "tcp", published, "--container", "cnt01")
	examine(t, m, "note LINK_DOWN") // docker0, without a container

	// Router and gateway are boxes that nobody can look into, as the author's were.
	m.Run("umount", "/run/netns/router", "/run/netns/gateway")
	m.Run("rm", "/run/netns/router", "/run/netns/gateway")
	opaque := beyond(from, "br_ipv6_nw", "iptables-nft nat POSTROUTING: -A POSTROUTING -s fd5a:ceb9:ed8d:1::/64 ! -o br_ipv6_nw -j MASQUERADE")
	opaque.Translations, opaque.Request = opaque.Translations[:1], opaque.Request[:4]
	opaque.Reply = append([]string{"host ens192 ingress, 2001:4860:4860::8888 → " + uplink}, opaque.Reply[5:]...)
	r := explain(t, m, opaque, "ping6", "dns.google", "--container", "cnt01")
	for _, part := range []string{"left the host at ens192 towards fe80::", "what lies beyond is not visible", "the answer came back"} {
		if !strings.Contains(r.Verdict.Summary, part) {
			t.Errorf("no %q in: %s", part, r.Verdict.Summary)
		}
	}
}

// reaches asks another ping in the container whether it has an answer.
func reaches(t *testing.T, d *peer.Docker, want bool) {
	t.Helper()
	if err := attempt(d, []string{"ping6", "2001:4860:4860::8888", "--container", "cnt01"}); (err == nil) != want {
		t.Errorf("an answer is there: %v, want %v: %v", err == nil, want, err)
	}
}

// near are the write-up's checks between the host and the container.
func near(t *testing.T, m *peer.Machine) {
	t.Helper()
	const gateway, container = "fd5a:ceb9:ed8d:1::1", "fd5a:ceb9:ed8d:1::2"
	toHost := replied("cnt01", "eth0", nil,
		[]string{"cnt01 eth0 egress, " + container + " → " + gateway, "host veth* ingress", "host br_ipv6_nw ingress"},
		[]string{"host br_ipv6_nw egress, " + gateway + " → " + container, "host veth* egress", "cnt01 eth0 ingress"},
	)
	explain(t, m, toHost, "ping6", gateway, "--container", "cnt01")

	m.Await("the link-local address of cnt01 can be used", func() error {
		addresses, err := m.Try("docker", "exec", "cnt01", "ip", "address", "show", "dev", "eth0")
		if err == nil && strings.Contains(addresses, "tentative") {
			err = errors.New(addresses)
		}
		return err
	})
	linkLocal := toHost
	linkLocal.Request = slices.Clone(toHost.Request)
	linkLocal.Reply = slices.Clone(toHost.Reply)
	linkLocal.Request[0] = "cnt01 eth0 egress, fe80::42:acff:fe12:2 → fe80::1"
	linkLocal.Reply[0] = "host br_ipv6_nw egress, fe80::1 → fe80::42:acff:fe12:2"
	explain(t, m, linkLocal, "ping6", "fe80::1%eth0", "--container", "cnt01")

	explain(t, m, replied("host", "br_ipv6_nw", nil,
		[]string{"host br_ipv6_nw egress, " + gateway + " → " + container, "host veth* egress", "cnt01 eth0 ingress"},
		[]string{"cnt01 eth0 egress, " + container + " → " + gateway, "host veth* ingress", "host br_ipv6_nw ingress"},
	), "ping6", container)

	explain(t, m, replied("cnt01", "lo", nil,
		[]string{"cnt01 lo egress, " + container + " → " + container, "cnt01 lo ingress"},
		[]string{"cnt01 lo egress, " + container + " → " + container, "cnt01 lo ingress"},
	), "ping6", container, "--container", "cnt01")
}
