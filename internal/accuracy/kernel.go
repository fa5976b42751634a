//go:build linux

package accuracy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/internal/lab"
)

// counted are the kernel's counters that a cause moves, one for each version
// of IP (Documentation/networking/snmp_counter.rst).
var counted = map[string][2]string{
	"FORWARDING_OFF": {"IpInAddrErrors", "Ip6InAddrErrors"},
	"RP_FILTER":      {"TcpExtIPReversePathFilter", ""},
	"MTU_EXCEEDED":   {"IpFragFails", "Ip6InTooBigErrors"},
	"MTU_BLACKHOLE":  {"IpFragFails", "Ip6InTooBigErrors"},
	"TTL_EXPIRED":    {"IpInHdrErrors", "Ip6InHdrErrors"},
	"ROUTING_LOOP":   {"IpInHdrErrors", "Ip6InHdrErrors"},
}

// counters are those of each namespace: "host IpInAddrErrors".
type counters map[string]uint64

func readCounters(n *lab.Network) (counters, error) {
	all := make(counters)
	for _, name := range n.Names() {
		err := n.NetNS(name).Do(func() error {
			for _, file := range []string{"snmp", "netstat", "snmp6"} {
				text, err := os.ReadFile("/proc/thread-self/net/" + file)
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				all.add(name, string(text))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// add reads lines of names, each followed by one of values, both of which begin
// with a group; or of one name and one value.
func (c counters) add(netns, text string) {
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 2 && !strings.HasSuffix(words[0], ":") {
			c[netns+" "+words[0]], _ = strconv.ParseUint(words[1], 10, 64)
			continue
		}
		if len(names) != len(words) || names[0] != words[0] {
			names = words
			continue
		}
		for i := 1; i < len(words); i++ {
			c[netns+" "+strings.TrimSuffix(words[0], ":")+names[i]], _ = strconv.ParseUint(words[i], 10, 64)
		}
	}
}

// doubt asks the kernel whether the truth came about: the rule has met packets,
// the counter of the cause has grown, a healthy network takes a connection.
func doubt(ctx context.Context, n *lab.Network, c Case, truth lab.Truth, before counters) error {
	if c.Options.Break == "" {
		return connect(ctx, n)
	}
	if name := counterOf(n, truth); name != "" {
		after, err := readCounters(n)
		if err != nil {
			return err
		}
		if key := truth.NetNS + " " + name; after[key] == before[key] {
			return fmt.Errorf("%s in %s has not grown", name, truth.NetNS)
		}
	}
	if rule := truth.Rule; rule.Text != "" && rule.Backend != lab.NFT {
		line, _, err := listed(ctx, n, truth)
		if err != nil {
			return err
		}
		if met := packetCount.FindStringSubmatch(line); met == nil || met[1] == "0" {
			return fmt.Errorf("no packet has met the rule: %s", line)
		}
	}
	return nil
}

func counterOf(n *lab.Network, truth lab.Truth) string {
	if truth.Rule.Text != "" || truth.Outcome == "unsent" {
		return "" // the rule counts, or it was the question for a hardware address, which nothing counts
	}
	names := counted[truth.Code]
	if truth.Uncounted {
		return ""
	}
	if n.Scenario.ProbeOf(n.Options.Break).Target.Is6() {
		return names[1]
	}
	return names[0]
}

// connect makes a connection as any program does.
func connect(ctx context.Context, n *lab.Network) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return n.NetNS(n.Scenario.Source).Do(func() error {
		conn, err := new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(n.Scenario.Target, connectPort))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// packetCount is what iptables-save -c says.
var packetCount = regexp.MustCompile(`\[(\d+):\d+\]`)

// placeOf is what tells the rule of a truth from others with the same text: its
// handle, or its number. A policy has none.
func placeOf(ctx context.Context, n *lab.Network, truth lab.Truth) (string, error) {
	if strings.HasPrefix(truth.Rule.Text, ":") || strings.HasPrefix(truth.Rule.Text, "policy") {
		return "", nil
	}
	_, place, err := listed(ctx, n, truth)
	return place, err
}

// listed finds the rule of a truth in what the tool that owns it lists, and says
// where it stands.
func listed(ctx context.Context, n *lab.Network, truth lab.Truth) (line, place string, err error) {
	rule := truth.Rule
	words := []string{"nft", "-a", "list", "chain", rule.Family, rule.Table, rule.Chain}
	if rule.Backend != lab.NFT {
		tool := string(rule.Backend)
		if rule.Family == "ip6" {
			tool = strings.Replace(tool, "ip", "ip6", 1)
		}
		words = []string{tool + "-save", "-c", "-t", rule.Table}
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	// The usual lock of iptables-legacy is the machine's.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/proc/self/ns/net")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := n.NetNS(truth.NetNS).Do(cmd.Run); err != nil {
		return "", "", fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, output.Bytes())
	}
	number := 0
	for line := range strings.Lines(output.String()) {
		line = strings.TrimSpace(line)
		if text, handle, ok := strings.Cut(line, " # handle "); ok && text == rule.Text {
			return line, " # handle " + handle, nil
		}
		text := packetCount.ReplaceAllString(line, "")
		if strings.HasPrefix(text, " -A "+rule.Chain+" ") {
			number++
		}
		if strings.TrimSpace(text) == rule.Text {
			return line, fmt.Sprintf(" # rule %d", number), nil
		}
	}
	return "", "", fmt.Errorf("no rule %q in %s:\n%s", rule.Text, truth.NetNS, output.Bytes())
}
