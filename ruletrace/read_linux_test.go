package ruletrace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestRuleset reads rules of all three tools, and finds what they do with a
// container's packets.
func TestRuleset(t *testing.T) {
	s := newSpace(t)
	s.nft(`table inet fw {
	chain user {
		oifname "eth0" accept
	}
	chain forward {
		type filter hook forward priority 5; policy drop;
		iifname "docker0" jump user
	}
}`)
	s.tool("iptables-nft", "-A", "FORWARD", "-i", "docker0", "!", "-o", "docker0", "-m", "comment", "--comment", "all of \"it\"", "-j", "ACCEPT")
	s.tool("iptables-legacy", "-P", "FORWARD", "DROP")
	s.tool("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")
	s.arm(ArmConfig{Match: echoMatch()})
	set, err := s.resolver("x").Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range set.Chains {
		for _, r := range c.Rules {
			got = append(got, fmt.Sprintf("%s %s %s %s %d %s", r.Backend, r.Family, r.Table, r.Chain, r.Number, r.Text))
		}
		if !c.Read {
			t.Errorf("chain %s %s was not read", c.Table, c.Name)
		}
	}
	want := []string{
		`nft inet fw user 1 oifname "eth0" accept`,
		`iptables-nft ip filter FORWARD 1 -A FORWARD -i docker0 ! -o docker0 -m comment --comment "all of \"it\"" -j ACCEPT`,
		`nft inet fw forward 1 iifname "docker0" jump user`,
		`iptables-legacy ip nat POSTROUTING 1 -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var says []string
	for _, hook := range []Hook{Forward, Postrouting} {
		courses, _ := set.Courses(hook, Class{Ingress: "docker0", Egress: "eth0", Source: netip.MustParseAddr("172.17.0.2"), State: "new"})
		for _, c := range courses {
			says = append(says, fmt.Sprintf("%s %s: lost %v, %d ends, %q", c.Base.Backend, c.Base.Name, c.Lost(), len(c.Ends), c.Ends[0].Translation))
		}
	}
	want = []string{
		`iptables-nft FORWARD: lost false, 1 ends, ""`,
		`iptables-legacy FORWARD: lost true, 1 ends, ""`,
		`nft forward: lost false, 1 ends, ""`,
		`iptables-legacy POSTROUTING: lost false, 1 ends, "masquerade"`,
	}
	slices.Sort(says)
	slices.Sort(want)
	if !slices.Equal(says, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(says, "\n"), strings.Join(want, "\n"))
	}
}
