package ruletrace

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/packet"
)

// entries returns the number of conntrack entries of the namespace.
func (s space) entries() string {
	s.t.Helper()
	var text []byte
	s.do(func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		return err
	})
	return strings.TrimSpace(string(text))
}

// TestTracked compares what the rules say with what the kernel does, before and
// after arming: an arming must not switch connection tracking on.
func TestTracked(t *testing.T) {
	tool := func(args ...string) func(space) {
		return func(s space) { s.tool(args[0], args[1:]...) }
	}
	nft := func(ruleset string) func(space) {
		return func(s space) { s.nft(ruleset) }
	}
	tests := []struct {
		name        string
		set         func(space)
		want, want6 bool
	}{
		{"nothing", func(space) {}, false, false},
		{"nft nat chain without a rule", nft("table ip n {\n chain c { type nat hook postrouting priority 100; }\n}"), false, false},
		{"nft masquerade", nft("table ip n {\n chain c {\n type nat hook postrouting priority 100;\n oifname nosuch masquerade\n }\n}"), true, false},
		{"nft redirect in inet", nft("table inet n {\n chain c {\n type nat hook output priority -100;\n tcp dport 1 redirect to :2\n }\n}"), true, true},
		{"nft dnat in ip6", nft("table ip6 n {\n chain c {\n type nat hook prerouting priority -100;\n tcp dport 1 dnat to [::2]:2\n }\n}"), false, true},
		{"nft ct state in inet", nft("table inet f {\n chain c {\n type filter hook input priority 0;\n ct state established accept\n }\n}"), true, true},
		{"nft ct mark set in ip", nft("table ip f {\n chain c {\n type filter hook input priority 0;\n ct mark set 1\n }\n}"), true, false},
		{"nft ct in an unused chain", nft("table ip6 f {\n chain c {\n ct state new accept\n }\n}"), false, true},
		{"nft notrack", nft("table ip f {\n chain c {\n type filter hook output priority -300;\n notrack\n }\n}"), false, false},
		{"nft connlimit", nft("table ip f {\n chain c {\n type filter hook input priority 0;\n ct count over 20 drop\n }\n}"), true, false},
		{"iptables-nft without conntrack", tool("iptables-nft", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"), false, false},
		{"iptables-nft conntrack", tool("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"), true, false},
		{"ip6tables-nft masquerade", tool("ip6tables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"), false, true},
		{"iptables-nft notrack", tool("iptables-nft", "-t", "raw", "-A", "OUTPUT", "-j", "CT", "--notrack"), false, false},
		{"legacy nat table without a rule", tool("iptables-legacy", "-t", "nat", "-L"), false, false},
		{"legacy nat table with plain rules", tool("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "RETURN"), false, false},
		{"legacy masquerade", tool("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "nosuch", "-j", "MASQUERADE"), true, false},
		{"legacy conntrack", tool("iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"), true, false},
		{"legacy state, IPv6", tool("ip6tables-legacy", "-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"), false, true},
		{"legacy notrack", tool("iptables-legacy", "-t", "raw", "-A", "OUTPUT", "-j", "CT", "--notrack"), false, false},
		{"legacy zone", tool("iptables-legacy", "-t", "raw", "-A", "OUTPUT", "-j", "CT", "--zone", "3"), true, false},
		{"legacy without conntrack", tool("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-m", "comment", "--comment", "state", "-j", "LOG"), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSpace(t)
			tt.set(s)
			for _, ip := range []struct {
				family, target string
				want           bool
			}{{"ip", "127.0.0.1", tt.want}, {"ip6", "::1", tt.want6}} {
				conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: s.ns.FD()})
				if err != nil {
					t.Fatal(err)
				}
				got, err := tracked(conn, s.ns, ip.family)
				if err != nil || got != ip.want {
					t.Errorf("%s: tracked %v, %v; want %v", ip.family, got, err, ip.want)
				}
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
				target := netip.MustParseAddr(ip.target)
				a := s.arm(ArmConfig{Match: Match{Proto: packet.ICMP, Target: target, ICMPID: echoID, Nonce: nonce}})
				if armed := strings.Contains(a.Describe(), "ct original"); armed != ip.want {
					t.Errorf("%s: conntrack's tuple armed %v, want %v", ip.family, armed, ip.want)
				}
				before := s.entries()
				if !s.ping(target, echoID, 1, answered) {
					t.Fatal("no answer")
				}
				if tracks := s.entries() != before; tracks != ip.want {
					t.Errorf("%s: the kernel tracks: %v, want %v", ip.family, tracks, ip.want)
				}
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
