package live_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// TestCount sends three pings of which the second is dropped, on its way there
// or back. The report explains that one. Its flow is known already, so it met no
// rule of the nat tables: the rule that translates it follows from the first
// packet's.
func TestCount(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.NFT, lab.IPTablesNFT, lab.IPTablesLegacy} {
		t.Run(string(backend)+" request", func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{Backend: backend})
			rule := dropSecond(t, n, "request")
			tellSecond(t, n, endedBy(report.Dropped, "FILTER_DROP", "host", "forward", rule, byHandThere[:2], nil))
		})
		t.Run(string(backend)+" reply", func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{Backend: backend})
			rule := dropSecond(t, n, "reply")
			tellSecond(t, n, verdict{
				Outcome: report.Dropped, Leg: "reply", Code: "FILTER_DROP", NetNS: "host", Hook: "forward",
				Rule: rule, Confidence: report.Observed, Request: byHandThere, Reply: byHandBack[:1],
				Translations: []string{"request reconstructed masquerade host postrouting source 172.19.0.2 → 203.0.113.1 " + masquerading(n)},
			})
		})
	}
}

// dropSecond has the host drop every second of three echo requests or replies,
// and returns the rule.
func dropSecond(t *testing.T, n *lab.Network, leg string) string {
	t.Helper()
	family, table, chain := forwardChain(n)
	if n.Options.Backend == lab.NFT {
		command(t, n.Host, "nft", "insert rule inet filter forward icmp type echo-"+leg+" numgen inc mod 3 1 drop")
	} else {
		command(t, n.Host, string(n.Options.Backend), "-I", chain, "-p", "icmp", "--icmp-type", "echo-"+leg,
			"-m", "statistic", "--mode", "nth", "--every", "3", "--packet", "1", "-j", "DROP")
	}
	dropping := rules(t, n.Host, string(n.Options.Backend), family, table, chain)[1]
	return fmt.Sprintf("[%s %s %s %s] %s", n.Options.Backend, family, table, chain, dropping.text)
}

// tellSecond sends three pings and compares what is said of the second.
func tellSecond(t *testing.T, n *lab.Network, want verdict) {
	t.Helper()
	cfg := probe(n)
	cfg.Count = 3
	r := trace(t, n, cfg)
	tell(t, want, shorten(r))
	if !strings.HasSuffix(r.Request.Packet, " seq 2") {
		t.Errorf("the explained packet is %s", r.Request.Packet)
	}
	tell(t, []report.Outcome{report.Replied, report.Dropped, report.Replied}, outcomes(r))
}

// outcomes are those of the tries.
func outcomes(r *report.Report) []report.Outcome {
	var all []report.Outcome
	for _, try := range r.Tries {
		all = append(all, try.Outcome)
	}
	return all
}

// masquerading is the rule that masquerades in the network made by hand.
func masquerading(n *lab.Network) string {
	rule := n.Truth().Translations[0].Rule
	return owned(&report.Rule{Backend: string(rule.Backend), Family: rule.Family, Table: rule.Table, Chain: rule.Chain, Text: rule.Text})
}

// TestCountHealthy sends three pings that are all answered. The first is
// explained.
func TestCountHealthy(t *testing.T) {
	t.Parallel()
	n := build(t, "ipv6-masquerade", lab.Options{})
	cfg := probe(n)
	cfg.Count = 3
	r := trace(t, n, cfg)
	tell(t, expected(t, n), said(r))
	for _, problem := range healthy(r) {
		t.Error(problem)
	}
	for i, try := range r.Tries {
		if try.Outcome != report.Replied || try.Elapsed <= 0 || !strings.HasSuffix(try.Packet, fmt.Sprintf(" seq %d", i+1)) {
			t.Errorf("try %d: %+v", i, try)
		}
	}
	if len(r.Tries) != 3 {
		t.Errorf("%d tries, want 3", len(r.Tries))
	}
}

// TestCountTCP opens three connections, each with a port and so a flow of its
// own.
func TestCountTCP(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.NFT, lab.IPTablesLegacy} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			n := build(t, "netns-by-hand", lab.Options{Backend: backend})
			if backend == lab.NFT {
				command(t, n.Host, "nft", "insert rule inet filter forward tcp flags syn / syn,ack numgen inc mod 3 2 drop")
			} else {
				command(t, n.Host, string(backend), "-I", "FORWARD", "-p", "tcp", "--syn",
					"-m", "statistic", "--mode", "nth", "--every", "3", "--packet", "2", "-j", "DROP")
			}
			family, table, chain := forwardChain(n)
			dropping := rules(t, n.Host, string(backend), family, table, chain)[1]
			cfg := connection(n, n.Scenario.Source, "8.8.8.8:80")
			cfg.Count = 3
			r := trace(t, n, cfg)
			tell(t, endedBy(report.Dropped, "FILTER_DROP", "host", "forward",
				fmt.Sprintf("[%s %s %s %s] %s", backend, family, table, chain, dropping.text), byHandThere[:2], nil), shorten(r))
			tell(t, []report.Outcome{report.Replied, report.Replied, report.Dropped}, outcomes(r))
		})
	}
}
