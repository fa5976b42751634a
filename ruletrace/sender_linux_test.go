package ruletrace

import "testing"

func TestAsksSender(t *testing.T) {
	nft := func(rule string) func(space) {
		return func(s space) {
			s.nft("table inet f {\n chain c {\n type filter hook output priority 0;\n " + rule + "\n }\n}")
		}
	}
	tool := func(args ...string) func(space) { return func(s space) { s.tool(args[0], args[1:]...) } }
	for _, tt := range []struct {
		name string
		set  func(space)
		want bool
	}{
		{"nothing", func(space) {}, false},
		{"nft user", nft("meta skuid 0 drop"), true},
		{"nft group", nft("meta skgid 0 drop"), true},
		{"nft cgroup", nft("meta cgroup 7 drop"), true},
		{"nft mark", nft("meta mark 10 drop"), false},
		{"nft interface", nft("oifname eth0 tcp dport 80 drop"), false},
		{"iptables-nft owner", tool("iptables-nft", "-A", "OUTPUT", "-m", "owner", "--uid-owner", "0", "-j", "DROP"), true},
		{"iptables-nft mark", tool("iptables-nft", "-A", "OUTPUT", "-m", "mark", "--mark", "1", "-j", "DROP"), false},
		{"legacy owner", tool("ip6tables-legacy", "-A", "OUTPUT", "-m", "owner", "--uid-owner", "0", "-j", "DROP"), true},
		{"legacy mark", tool("iptables-legacy", "-A", "OUTPUT", "-m", "mark", "--mark", "1", "-j", "DROP"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSpace(t)
			tt.set(s)
			r := NewResolver(s.ns, "host")
			defer r.Close() //nolint:errcheck // read only
			if got, err := r.AsksSender(); err != nil || got != tt.want {
				t.Errorf("AsksSender() = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}
