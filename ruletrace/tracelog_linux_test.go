package ruletrace

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// record runs a tool that prints traces, and returns when it listens; the result
// reads what it has printed.
func (s space) record(tool string, args ...string) func() string {
	s.t.Helper()
	path := testenv.Tool(s.t, tool)
	out, err := os.Create(filepath.Join(s.t.TempDir(), tool))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout = out
	before := s.traceListeners()
	s.do(cmd.Start)
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	eventually(s.t, tool+" listens", func() bool { return s.traceListeners() > before })
	return func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			s.t.Fatal(err)
		}
		return string(text)
	}
}

// traceListeners counts the sockets of the namespace that get nftables' trace.
func (s space) traceListeners() (count int) {
	s.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netlink")
		for l := range strings.Lines(string(text)) {
			// The groups are a bit mask: bit 8 is NFNLGRP_NFTRACE.
			if f := strings.Fields(l); len(f) > 3 && f[1] == "12" && len(f[3]) >= 3 && f[3][len(f[3])-3] == '1' {
				count++
			}
		}
		return err
	})
	return count
}

// send sends a datagram, or tries to open a connection, to a port of the server
// on which nobody listens.
func (s space) send(network string, to netip.AddrPort) {
	s.t.Helper()
	s.do(func() error {
		dialer := net.Dialer{Timeout: unanswered}
		conn, err := dialer.Dial(network, to.String())
		if err != nil {
			return nil // refused, or dropped on the way
		}
		_, err = conn.Write([]byte("hello, server"))
		_ = conn.Close()
		return err
	})
}

// tracedRouter is a router with tables of nft and of iptables-nft that translate,
// jump, look up, return, reject and drop.
func tracedRouter(t *testing.T) router {
	r := newRouter(t)
	r.router.nft(`table inet n {
	map verdicts {
		type inet_service : verdict
		elements = { 5353 : accept, 99 : jump refuse }
	}
	chain arm {
		type filter hook prerouting priority -350
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
		meta nftrace set 1
	}
	chain pre {
		type nat hook prerouting priority dstnat
		ip daddr 10.1.0.1 tcp dport 8080 dnat ip to 10.2.0.2:80 comment "published"
		ip6 daddr fd00:1::1 tcp dport 8080 dnat ip6 to [fd00:2::2]:80
	}
	chain refuse {
		counter
		meta l4proto udp reject
	}
	chain user {
		udp dport vmap @verdicts
		ip protocol icmp return
		tcp dport 1234 drop
		counter
		counter
	}
	chain forw {
		type filter hook forward priority filter + 5; policy accept;
		ct state established accept
		jump user
		meta mark set 7
	}
	chain post {
		type nat hook postrouting priority srcnat
		oifname "right" masquerade
	}
}`)
	for _, rule := range []string{
		"-N user", "-A FORWARD -p icmp -m comment --comment some -j user", "-A user -m mark --mark 9 -j DROP", "-A user -i left -j ACCEPT",
		"-P FORWARD ACCEPT",
	} {
		r.router.tool("iptables-nft", strings.Fields(rule)...)
	}
	return r
}

// TestReadTraceOfTools compares what is read of the outputs of nft monitor trace
// and xtables-monitor with what the kernel tells the decoder of the same packets.
func TestReadTraceOfTools(t *testing.T) {
	r := tracedRouter(t)
	nft := r.router.record("nft", "monitor", "trace")
	numeric := r.router.record("nft", "-n", "monitor", "trace")
	xtables := r.router.record("xtables-monitor", "--trace")
	l := r.router.listen("")
	if !r.client.ping(serverAddr, echoID, 1, answered) || !r.client.ping(serverAddr6, echoID, 2, answered) {
		t.Fatal("no answer")
	}
	for _, to := range []string{"10.1.0.1:8080", "[fd00:1::1]:8080", "10.2.0.2:1234"} {
		r.client.send("tcp", netip.MustParseAddrPort(to))
	}
	for _, to := range []string{"10.2.0.2:5353", "[fd00:2::2]:99", "10.2.0.2:77"} {
		r.client.send("udp", netip.MustParseAddrPort(to))
	}
	rules := r.router.savedRules("nft", "-a", "list", "ruleset")
	rules.Add(r.router.savedRules("iptables-nft-save"))
	plain := r.router.savedRules("nft", "-n", "list", "ruleset")
	plain.Add(r.router.savedRules("iptables-nft-save"))
	// The tools do not print the end of a chain.
	want := slices.DeleteFunc(l.hits(), func(h Hit) bool { return h.Kind == HitReturn })
	resolver := r.router.resolver("")
	for _, tool := range []struct {
		name    string
		printed func() string
		rules   *Rules
	}{{"nft", nft, rules}, {"nft -n", numeric, plain}, {"xtables-monitor", xtables, rules}} {
		var log *TraceLog
		eventually(t, tool.name+" has printed all", func() bool {
			log, _ = ReadTrace(tool.name, strings.NewReader(tool.printed()))
			return len(log.Hits) >= len(want)
		})
		if len(log.Hits) != len(want) || log.Skipped != 0 {
			t.Fatalf("%s: %d hits and %d lines skipped, the kernel told %d: %v", tool.name, len(log.Hits), log.Skipped, len(want), log.Problems)
		}
		for i, told := range want {
			got := log.Hits[i]
			wanted := told
			wanted.Seq = got.Seq
			if diff := cmp.Diff(asTold(wanted, tool.name), asTold(got, tool.name), compareAddrs, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s, hit %d (-kernel +text)\n%s", tool.name, i+1, diff)
			}
			if err := resolver.Resolve(context.Background(), &wanted); err != nil {
				t.Fatal(err)
			}
			err := tool.rules.Resolve(&got)
			if got.Rule.Text == "" || err != nil && !unlisted(tool.name, &wanted) {
				t.Errorf("%s, hit %d of %s: %q, %v", tool.name, i+1, wanted.Rule.Text, got.Rule.Text, err)
			}
			if err != nil {
				continue
			}
			if diff := cmp.Diff(asResolved(wanted, tool.name), asResolved(got, tool.name), compareAddrs); diff != "" {
				t.Errorf("%s, hit %d, its rule (-kernel +text)\n%s", tool.name, i+1, diff)
			}
		}
	}
}

// unlisted reports whether a text need not lead to its rule: nft prints rules of
// iptables in its own words, those that are new to it by their handles, and
// iptables-save tells no handle.
func unlisted(tool string, hit *Hit) bool {
	return strings.HasPrefix(tool, "nft") && hit.Rule.Backend == IPTablesNFT
}

// asTold leaves out of a hit what its tool does not print.
func asTold(h Hit, tool string) Hit {
	h.Rule = Rule{Family: h.Rule.Family, Table: h.Rule.Table, Chain: h.Rule.Chain}
	h.Hook, h.ChainType, h.Priority = "", "", 0
	h.ConntrackID, h.State, h.Reply = 0, "", false // until nft 1.1.2
	h.Mark = 0                                     // xtables-monitor tells it once for a base chain, nft with the policy
	p := &h.Header
	if tool != "xtables-monitor" {
		p.DontFragment = false
	}
	switch {
	case tool == "xtables-monitor" && p.Tuple.Proto != packet.TCP && p.Tuple.Proto != packet.UDP:
		p.Tuple.Proto, p.Tuple.ICMPType, p.Tuple.ICMPCode, p.Tuple.ICMPID, p.ICMPSeq = 0, 0, 0, 0, 0
		p.HeaderCut, p.DataLength, p.Payload, p.PayloadCut, p.Quoted, p.Neighbour = true, 0, nil, true, nil, nil
	case tool == "xtables-monitor":
		p.Payload = nil
		p.PayloadCut = true
	}
	if p.Tuple.Proto == packet.TCP {
		p.Seq, p.Ack, p.Flags, p.Window, p.DataLength, p.Payload, p.PayloadCut, p.HeaderCut = 0, 0, 0, 0, 0, nil, false, true
	}
	if p.Neighbour != nil {
		p.Neighbour = nil // 16 bytes, of which 12 are told
	}
	p.Checksum = 0
	return h
}

// asResolved is what the rules say about a hit. Where the same rule is there twice a
// text alone does not tell which it was.
func asResolved(h Hit, tool string) Hit {
	r := h.Rule
	if strings.HasPrefix(tool, "nft") && r.Text == "counter" && r.Chain == "user" {
		r.Number, r.Handle = 0, 0
	}
	if tool == "nft -n" && h.Kind == HitRule {
		r.Text = "" // with numbers for names
	}
	if tool == "nft -n" || r.Backend == IPTablesNFT || h.Kind != HitRule {
		r.Handle = 0
	}
	return Hit{Kind: h.Kind, Rule: r, Verdict: h.Verdict, Target: h.Target, Base: h.Base, Hook: h.Hook, Priority: h.Priority, ChainType: h.ChainType}
}

// savedRules reads what a tool prints in the namespace.
func (s space) savedRules(tool string, args ...string) *Rules {
	s.t.Helper()
	path := testenv.Tool(s.t, tool)
	var out []byte
	s.do(func() (err error) {
		out, err = exec.Command(path, args...).Output()
		return err
	})
	rules, err := ReadRules(tool, strings.NewReader(string(out)))
	if err != nil {
		s.t.Fatal(err)
	}
	if len(rules.Problems) > 0 {
		s.t.Errorf("%s %q: %v", tool, args, rules.Problems)
	}
	return rules
}

// TestReadRulesOfTools compares what is read of the tools' listings with what the
// resolver says about the same rules.
func TestReadRulesOfTools(t *testing.T) {
	r := tracedRouter(t)
	for _, rule := range []string{
		"-t nat -A POSTROUTING -s 10.1.0.0/24 ! -o left -j MASQUERADE", "-N legacy", "-A FORWARD -p tcp -j legacy", `-A legacy -m comment --comment x -j REJECT`,
	} {
		r.router.tool("iptables-legacy", strings.Fields(rule)...)
	}
	r.router.tool("ip6tables-legacy", "-A", "FORWARD", "-p", "udp", "-j", "DROP")
	want, err := r.router.resolver("").Ruleset(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	rules := r.router.savedRules("nft", "-a", "list", "ruleset")
	for _, tool := range []string{"iptables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		rules.Add(r.router.savedRules(tool))
	}
	// iptables-save prints the base chains that iptables-nft did not make yet.
	got := slices.DeleteFunc(rules.Chains, func(c Chain) bool {
		return c.Backend == IPTablesNFT && !slices.ContainsFunc(want.Chains, func(w Chain) bool { return w.id() == c.id() })
	})
	for i := range got {
		for j := range got[i].Rules {
			if got[i].Backend == IPTablesNFT {
				got[i].Rules[j].Handle = 0
			}
		}
	}
	if diff := cmp.Diff(want.Chains, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-kernel +text)\n%s", diff)
	}
	for _, spec := range []struct{ tool, table, family string }{
		{"iptables-legacy", "nat", "ip"}, {"iptables-legacy", "filter", "ip"},
	} {
		listed := r.router.savedRules(spec.tool, "-t", spec.table, "-S", "-v")
		for _, c := range listed.Chains {
			known := want.chain(c.id())
			if known == nil {
				t.Errorf("%s -S: chain %+v", spec.tool, c.BaseChain)
				continue
			}
			if diff := cmp.Diff(*known, c, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s -S (-kernel +text)\n%s", spec.tool, diff)
			}
		}
	}
}

// TestReadRulesLegacyHits: hits of legacy tables get from iptables-save what the
// resolver gives them.
func TestReadRulesLegacyHits(t *testing.T) {
	r := newRouter(t)
	for _, rule := range []string{
		"-t nat -A POSTROUTING -o right -j MASQUERADE", "-N user", "-A FORWARD -p icmp -j user", "-A user -p tcp -j DROP", "-A FORWARD -i left -m comment --comment out -j ACCEPT",
		"-A FORWARD -j ACCEPT",
	} {
		r.router.tool("iptables-legacy", strings.Fields(rule)...)
	}
	r.router.arm(ArmConfig{Match: echoMatch()})
	n := r.router.openNFLog(t.TempDir())
	if !r.client.ping(serverAddr, echoID, 1, answered) {
		t.Fatal("no answer")
	}
	rules := r.router.savedRules("iptables-legacy-save", "-c")
	resolver := r.router.resolver("")
	hits := n.drained(t)
	if len(hits) == 0 {
		t.Fatal("no hits")
	}
	for _, hit := range hits {
		want, got := hit, hit
		if err := resolver.Resolve(context.Background(), &want); err != nil {
			t.Fatal(err)
		}
		if err := rules.Resolve(&got); err != nil {
			t.Error(err)
		}
		want.NetNS, got.NetNS = "", ""
		if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
			t.Errorf("(-kernel +text)\n%s", diff)
		}
	}
}
