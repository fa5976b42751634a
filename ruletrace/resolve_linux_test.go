package ruletrace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// monitor runs nft's own trace monitor beside ours. It returns when the monitor
// listens; the result reads what it has printed.
func (s space) monitor() func() string {
	s.t.Helper()
	path := testenv.Tool(s.t, "nft")
	out, err := os.Create(filepath.Join(s.t.TempDir(), "monitor"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(path, "monitor", "trace")
	cmd.Stdout = out
	s.do(cmd.Start)
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	eventually(s.t, "nft monitors", func() bool {
		listening := false
		s.do(func() error {
			text, err := os.ReadFile("/proc/thread-self/net/netlink")
			for l := range strings.Lines(string(text)) {
				// The groups are a bit mask: bit 8 is NFNLGRP_NFTRACE.
				if f := strings.Fields(l); len(f) > 3 && f[1] == "12" && strings.HasSuffix(f[3], "100") {
					listening = true
				}
			}
			return err
		})
		return listening
	})
	return func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			s.t.Fatal(err)
		}
		return string(text)
	}
}

// TestTraceMonitor compares with nft monitor trace: same rules, in the same
// order, with the same verdicts.
func TestTraceMonitor(t *testing.T) {
	r := newRouter(t)
	r.router.nft(`table ip t {
	chain user {
		ip ttl 63 counter
		ip ttl 64 return comment "back"
	}
	chain in {
		type filter hook prerouting priority raw; policy accept;
		icmp type { echo-request, echo-reply } jump user
		ip protocol icmp goto last
	}
	chain last {
		ip daddr vmap { 10.2.0.2 : accept, 10.9.9.9 : drop }
	}
	chain through {
		type filter hook forward priority filter; policy drop;
		iifname "left" accept
	}
	chain tracked {
		type filter hook postrouting priority 0;
		ct state new accept
	}
}`)
	printed := r.router.monitor()
	r.router.arm(ArmConfig{Match: echoMatch()})
	l := r.router.listen("router")
	if r.client.ping(serverAddr, echoID, 1, unanswered) {
		t.Fatal("the policy did not drop")
	}
	hits := l.resolved(r.router.resolver("router"))
	if *update {
		record(t, l.raw)
	}
	var got []string
	for _, h := range hits {
		verdict := string(h.Verdict)
		if h.Target != "" {
			verdict += " " + h.Target
		}
		switch h.Kind {
		case HitPolicy:
			got = append(got, h.Rule.Chain+" policy "+verdict)
		case HitRule:
			got = append(got, h.Rule.Chain+" rule "+h.Rule.Text+" (verdict "+verdict+")")
		}
	}
	// The last packet's last line.
	eventually(t, "nft has printed all", func() bool { return strings.Contains(printed(), "through policy drop") })
	var want []string
	for l := range strings.Lines(printed()) {
		// trace id 1c2d3e4f ip t in rule ip protocol icmp jump user (verdict jump user)
		f := strings.SplitN(strings.TrimSpace(l), " ", 6)
		if len(f) == 6 && f[0] == "trace" && f[4] == "t" && !strings.Contains(f[5], " packet: ") {
			want = append(want, f[5])
		}
	}
	if len(want) != 11 || !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTraceVerdicts has one router for each way to let pass, drop or translate,
// in nftables' own rules and in those of iptables-nft, with a look at what a
// rule counted.
func TestTraceVerdicts(t *testing.T) {
	forward := func(rule string) string {
		return "table inet f {\n chain c {\n type filter hook forward priority filter; policy accept;\n " + rule + "\n }\n}"
	}
	nat := func(hook, priority, rule string) string {
		return "table ip n {\n chain c {\n type nat hook " + hook + " priority " + priority + "; policy accept;\n " + rule + "\n }\n}"
	}
	tests := []struct {
		name    string
		nft     string
		nftable string // iptables-nft commands, separated by ;
		hook    Hook
		passes  bool
		want    []string
		kind    string // of the translation
	}{
		{
			"nft accept", forward("ip saddr 10.1.0.2 accept"), "", Forward, true,
			[]string{"inet|f|c|c#1|rule|accept|ip saddr 10.1.0.2 accept"},
			"",
		},
		{
			"nft drop", forward("counter\n ip saddr 10.1.0.2 counter drop"), "", Forward, false,
			[]string{"inet|f|c|c#1|rule|continue|counter", "inet|f|c|c#2|rule|drop|ip saddr 10.1.0.2 counter drop"},
			"",
		},
		{
			"nft reject", forward("ip saddr 10.1.0.2 counter reject with icmp type admin-prohibited"), "", Forward, false,
			[]string{"inet|f|c|c#1|rule|reject|ip saddr 10.1.0.2 counter reject with icmp admin-prohibited"},
			"",
		},
		{
			"nft policy", strings.Replace(forward("tcp dport 1 accept"), "policy accept", "policy drop", 1), "", Forward, false,
			[]string{"inet|f|c|c|policy|drop|policy drop"},
			"",
		},
		{
			"nft masquerade", nat("postrouting", "srcnat", `oifname "right" counter masquerade`), "", Postrouting, true,
			[]string{`ip|n|c|c#1|rule|accept|oifname "right" counter masquerade`},
			"masquerade",
		},
		{
			"nft snat", nat("postrouting", "srcnat", `oifname "right" snat to 10.2.0.1`), "", Postrouting, true,
			[]string{`ip|n|c|c#1|rule|accept|oifname "right" snat to 10.2.0.1`},
			"snat",
		},
		{
			"nft dnat", nat("prerouting", "dstnat", `ip daddr 10.2.0.2 dnat to 10.2.0.2`), "", Prerouting, true,
			[]string{`ip|n|c|c#1|rule|accept|ip daddr 10.2.0.2 dnat to 10.2.0.2`},
			"dnat",
		},
		{
			"nft long set", forward("ip saddr { 10.1.0.2, 10.3.0.1, 10.3.0.2, 10.3.0.3, 10.3.0.4, 10.3.0.5, 10.3.0.6, 10.3.0.7, 10.3.0.8 } drop comment \"many\""), "", Forward, false,
			[]string{`inet|f|c|c#1|rule|drop|ip saddr { 10.1.0.2, 10.3.0.1, 10.3.0.2, 10.3.0.3, 10.3.0.4, 10.3.0.5, 10.3.0.6, 10.3.0.7, 10.3.0.8 } drop comment "many"`},
			"",
		},

		{
			"iptables-nft drop", "", `-A FORWARD -p tcp -j ACCEPT;-A FORWARD -s 10.1.0.2 -m comment --comment none-of-this -j DROP`, Forward, false,
			[]string{"ip|filter|FORWARD|FORWARD#2|rule|drop|-A FORWARD -s 10.1.0.2/32 -m comment --comment none-of-this -j DROP"},
			"",
		},
		{
			"iptables-nft policy", "", `-P FORWARD DROP`, Forward, false,
			[]string{"ip|filter|FORWARD|FORWARD|policy|drop|:FORWARD DROP"},
			"",
		},
		{
			"iptables-nft reject", "", `-A FORWARD -p icmp -j REJECT`, Forward, false,
			[]string{"ip|filter|FORWARD|FORWARD#1|rule|reject|-A FORWARD -p icmp -j REJECT --reject-with icmp-port-unreachable"},
			"",
		},
		{
			"iptables-nft user chain", "", `-N user;-A FORWARD -p icmp -j user;-A user -p icmp -j LOG;-A user -p icmp -j RETURN`, Forward, true,
			[]string{
				"ip|filter|FORWARD|FORWARD#1|rule|jump|-A FORWARD -p icmp -j user",
				"ip|filter|FORWARD|user#1|rule|continue|-A user -p icmp -j LOG",
				"ip|filter|FORWARD|user#2|rule|return|-A user -p icmp -j RETURN",
				"ip|filter|FORWARD|FORWARD|policy|accept|:FORWARD ACCEPT",
			},
			"",
		},
		{
			"iptables-nft masquerade", "", `-t nat -A POSTROUTING -s 10.1.0.0/24 ! -o left -j MASQUERADE`, Postrouting, true,
			[]string{"ip|nat|POSTROUTING|POSTROUTING#1|rule|accept|-A POSTROUTING -s 10.1.0.0/24 ! -o left -j MASQUERADE"},
			"masquerade",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t)
			backend := "nft"
			if tt.nft != "" {
				r.router.nft(tt.nft)
			} else {
				backend = "iptables-nft"
				for command := range strings.SplitSeq(tt.nftable, ";") {
					r.router.tool("iptables-nft", strings.Fields(command)...)
				}
			}
			r.router.arm(ArmConfig{Match: echoMatch()})
			l := r.router.listen("router")
			wait := unanswered
			if tt.passes {
				wait = answered
			}
			if got := r.client.ping(serverAddr, echoID, 1, wait); got != tt.passes {
				t.Fatalf("answered %v, want %v", got, tt.passes)
			}
			before := r.router.generation()
			var got []string
			var last Hit
			for _, h := range l.resolved(r.router.resolver("router")) {
				if h.Hook == tt.hook && h.Header.Tuple.ICMPType == packet.EchoRequest {
					got = append(got, strings.TrimPrefix(line(h), string(tt.hook)+"|"+backend+"|"))
					last = h
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if kind, ok := last.Rule.Translation(); kind != tt.kind || ok != (tt.kind != "") {
				t.Errorf("translation %q %v, want %q", kind, ok, tt.kind)
			}
			if after := r.router.generation(); after != before {
				t.Errorf("resolving changed the ruleset: generation %d, then %d", before, after)
			}
		})
	}
}

// generation returns the ruleset's generation.
func (s space) generation() uint32 {
	s.t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: s.ns.FD()})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // test
	now, err := generation(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return now
}

// TestBase lists base chains of all three backends in the order in which a
// packet meets them.
func TestBase(t *testing.T) {
	s := newSpace(t)
	s.nft(`table inet fw {
	chain early {
		type filter hook prerouting priority -310; policy accept;
	}
	chain user {
		accept
	}
	chain late {
		type filter hook forward priority 5; policy drop;
	}
}
table ip filter {
	chain mine {
		type filter hook forward priority filter; policy accept;
	}
}`)
	s.tool("ip6tables-nft", "-t", "mangle", "-A", "FORWARD", "-j", "ACCEPT")
	s.tool("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
	s.tool("iptables-legacy", "-P", "FORWARD", "DROP")
	s.arm(ArmConfig{Match: echoMatch()})
	chains, err := s.resolver("x").Base(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range chains {
		got = append(got, strings.Join([]string{string(c.Hook), strconv.Itoa(c.Priority), string(c.Backend), c.Family, c.Table, c.Name, c.Type, string(c.Policy)}, " "))
	}
	want := []string{
		"prerouting -310 nft inet fw early filter accept",
		"prerouting -100 iptables-legacy ip nat PREROUTING nat accept",
		"input 0 iptables-legacy ip filter INPUT filter accept",
		"input 100 iptables-legacy ip nat INPUT nat accept",
		"forward -150 iptables-nft ip6 mangle FORWARD filter accept",
		"forward 0 iptables-legacy ip filter FORWARD filter drop",
		"forward 0 nft ip filter mine filter accept",
		"forward 5 nft inet fw late filter drop",
		"output -100 iptables-legacy ip nat OUTPUT nat accept",
		"output 0 iptables-legacy ip filter OUTPUT filter accept",
		"postrouting 100 iptables-legacy ip nat POSTROUTING nat accept",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if ipv4, ipv6, err := LegacyTables(s.ns); err != nil || !slices.Equal(sorted(ipv4), []string{"filter", "nat"}) || len(ipv6) != 0 {
		t.Errorf("legacy tables %q and %q, %v: looking must not make any", ipv4, ipv6, err)
	}
}

// TestBaseDormant: the chains of a dormant table are in no hook, until it wakes.
// What a program that sends is told says whether the kernel asks them.
func TestBaseDormant(t *testing.T) {
	s := newSpace(t)
	s.nft(`table inet asleep {
	flags dormant
	chain out {
		type filter hook output priority 7; policy drop;
	}
}
table ip asleep {
	chain out {
		type filter hook output priority 8; policy accept;
	}
}`)
	r := s.resolver("x")
	for _, tt := range []struct {
		command string
		want    []string
		err     error
	}{
		{"", []string{"ip out accept"}, nil},
		{"table inet asleep", []string{"inet out drop", "ip out accept"}, unix.EPERM},
	} {
		s.nft(tt.command)
		s.do(func() error {
			conn, err := net.Dial("udp", "127.0.0.1:9")
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("x")); !errors.Is(err, tt.err) {
				t.Errorf("after %q: sent with %v, want %v", tt.command, err, tt.err)
			}
			return nil
		})
		chains, err := r.Base(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		rules, err := r.Ruleset(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range chains {
			got = append(got, strings.Join([]string{c.Family, c.Name, string(c.Policy)}, " "))
		}
		if !slices.Equal(got, tt.want) || len(rules.Chains) != len(tt.want) {
			t.Errorf("after %q: %q, %d chains; want %q", tt.command, got, len(rules.Chains), tt.want)
		}
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// TestResolveWithoutTools gives what the kernel alone tells.
func TestResolveWithoutTools(t *testing.T) {
	r := newRouter(t)
	r.router.nft(`table inet fw {
	chain block {
		counter
		icmp type echo-request counter reject comment "keep out"
	}
	chain through {
		type filter hook forward priority 10; policy accept;
		ip protocol icmp jump block
	}
}`)
	r.router.tool("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "icmp", "-j", "LOG")
	r.router.arm(ArmConfig{Match: echoMatch()})
	l := r.router.listen("router")
	n := r.router.openNFLog(t.TempDir())
	if r.client.ping(serverAddr, echoID, 1, unanswered) {
		t.Fatal("the rule did not drop")
	}
	resolver := r.router.resolver("router")
	resolver.look = func(tool string) (string, error) { return "", &exec.Error{Name: tool, Err: exec.ErrNotFound} }
	hits := l.hits()
	hit := hits[len(hits)-1]
	err := resolver.Resolve(context.Background(), &hit)
	var unresolved *UnresolvedError
	if !errors.As(err, &unresolved) || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	handle := strconv.FormatUint(hit.Rule.Handle, 10)
	if got, want := line(hit), "forward|nft|inet|fw|through|block#2|rule|reject|fw block handle "+handle; got != want || hit.Rule.Comment != "keep out" {
		t.Errorf("got %s (%q), want %s", got, hit.Rule.Comment, want)
	}
	legacy := n.drained(t)
	err = resolver.Resolve(context.Background(), &legacy[0])
	if !errors.As(err, &unresolved) || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if got, want := line(legacy[0]), "prerouting|iptables-legacy|ip|raw|PREROUTING|PREROUTING#1|rule||raw PREROUTING rule 1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestResolveBase finds the base chain of a user chain where the trace did not
// tell it, and admits it where the ruleset leaves it open.
func TestResolveBase(t *testing.T) {
	s := newSpace(t)
	s.nft(`table ip t {
	chain both {
		counter
	}
	chain one {
		jump deep
	}
	chain deep {
		counter
	}
	chain forwarding {
		type filter hook forward priority 0;
		jump both
		jump one
	}
	chain arriving {
		type filter hook input priority 0;
		jump both
	}
	chain leaving {
		type filter hook output priority 0;
		tcp dport 1 counter
	}
}
table ip m {
	chain mapped {
		counter
	}
	chain arriving {
		type filter hook input priority 0;
		tcp dport vmap { 1 : jump mapped, 2 : drop }
	}
}`)
	r := s.resolver("x")
	for _, tt := range []struct {
		table, chain, base, ingress, egress string
		want                                Hook
		wantBase                            string
	}{
		{"t", "deep", "", "", "", Forward, "forwarding"},
		{"t", "both", "", "", "", "", ""},
		{"t", "both", "", "eth0", "", Input, "arriving"},
		{"t", "both", "", "eth0", "eth1", Forward, "forwarding"},
		{"t", "both", "arriving", "", "", Input, "arriving"},
		// The trace began in the middle: what it took for the base is none.
		{"t", "both", "one", "eth0", "", Input, "arriving"},
		{"m", "mapped", "", "eth0", "", "", ""},
		{"m", "mapped", "arriving", "eth0", "", Input, "arriving"},
	} {
		hit := Hit{Kind: HitReturn, Rule: Rule{Family: "ip", Table: tt.table, Chain: tt.chain}, Base: tt.base, Ingress: tt.ingress, Egress: tt.egress}
		if err := r.Resolve(context.Background(), &hit); err != nil {
			t.Error(err)
		}
		if hit.Hook != tt.want || hit.Base != tt.wantBase {
			t.Errorf("%s %s from %q, %q to %q: hook %q of %q, want %q of %q", tt.table, tt.chain, tt.base, tt.ingress, tt.egress, hit.Hook, hit.Base, tt.want, tt.wantBase)
		}
	}
}

// TestResolveFollowsChanges: a changed ruleset is read anew, and a rule that is
// gone is not confused with another.
func TestResolveFollowsChanges(t *testing.T) {
	s := newSpace(t)
	s.nft("table ip t {\n chain c {\n tcp dport 1 drop\n tcp dport 2 drop\n }\n}")
	r := s.resolver("x")
	resolve := func(handle uint64) (Rule, error) {
		hit := Hit{Kind: HitRule, Rule: Rule{Family: "ip", Table: "t", Chain: "c", Handle: handle}}
		err := r.Resolve(context.Background(), &hit)
		return hit.Rule, err
	}
	first, err := resolve(2)
	if err != nil || first.Text != "tcp dport 1 drop" || first.Number != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	s.tool("nft", "delete", "rule", "ip", "t", "c", "handle", "2")
	if second, err := resolve(3); err != nil || second.Text != "tcp dport 2 drop" || second.Number != 1 {
		t.Errorf("%+v, %v", second, err)
	}
	gone, err := resolve(2)
	var unresolved *UnresolvedError
	if !errors.As(err, &unresolved) || gone.Text != "t c handle 2" || gone.Number != 0 {
		t.Errorf("%+v, %v", gone, err)
	}
}

// TestResolveSmallTable counts how often nft is started for the rules of two
// chains: once where their table is small, otherwise for each chain.
func TestResolveSmallTable(t *testing.T) {
	for _, test := range []struct{ rules, starts int }{{smallTableRules - 2, 1}, {smallTableRules - 1, 2}} {
		t.Run(strconv.Itoa(test.rules), func(t *testing.T) {
			s := newSpace(t)
			s.nft("table ip t {\n chain a {\n tcp dport 1 drop\n }\n chain b {\n tcp dport 2 drop\n }\n chain rest {\n" +
				strings.Repeat(" tcp dport 3 drop\n", test.rules) + " }\n}")
			r := s.resolver("x")
			starts, look := 0, r.look
			r.look = func(tool string) (string, error) {
				starts++
				return look(tool)
			}
			handles := strings.Fields(s.tool("sh", "-c", `nft -a list table ip t | sed -n 's/.* dport [12] drop # handle //p'`))
			for i, chain := range []string{"a", "b"} {
				handle, err := strconv.ParseUint(handles[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				hit := Hit{Kind: HitRule, Rule: Rule{Family: "ip", Table: "t", Chain: chain, Handle: handle}}
				err = r.Resolve(context.Background(), &hit)
				if want := fmt.Sprintf("tcp dport %d drop", i+1); err != nil || hit.Rule.Text != want {
					t.Errorf("%q, %v; want %q", hit.Rule.Text, err, want)
				}
			}
			if starts != test.starts {
				t.Errorf("nft was started %d times, want %d", starts, test.starts)
			}
		})
	}
}

// TestResolveHostileNames: the kernel takes any name, and nft parses its
// arguments as one text.
func TestResolveHostileNames(t *testing.T) {
	s := newSpace(t)
	conn, err := nftables.New(nftables.WithNetNSFd(s.ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"})
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "c; flush ruleset; list chain ip t c"})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	hostile := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t; flush ruleset; list table ip t"})
	conn.AddChain(&nftables.Chain{
		Table: hostile, Name: "c", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	before := s.generation()
	if _, err := s.resolver("x").Destinations(context.Background(), echoMatch()); err == nil {
		t.Error("the destinations of a table that cannot be named")
	}
	hit := Hit{Kind: HitRule, Rule: Rule{Family: "ip", Table: "t", Chain: chain.Name, Handle: 2}}
	var unresolved *UnresolvedError
	if err := s.resolver("x").Resolve(context.Background(), &hit); !errors.As(err, &unresolved) || hit.Rule.Number != 1 {
		t.Errorf("%+v, %v", hit.Rule, err)
	}
	if after := s.generation(); after != before {
		t.Error("the name was executed")
	}
}

// TestResolveRunsInside shows that tools run in the namespace and not beside
// it.
func TestResolveRunsInside(t *testing.T) {
	s := newSpace(t)
	path := t.TempDir()
	t.Setenv("PATH", path+":"+os.Getenv("PATH"))
	if err := os.WriteFile(path+"/where", []byte("#!/bin/sh\nreadlink /proc/self/ns/net\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := s.resolver("x").run(context.Background(), "where")
	if want := fmt.Sprintf("net:[%d]\n", s.ns.ID()); err != nil || got != want {
		t.Errorf("ran in %q, %v; want %q", got, err, want)
	}
}
