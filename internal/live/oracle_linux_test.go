package live_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// TestCounters sends several packets into a fault: the rule that the report
// accuses has met each of them, and no other rule that drops has met any.
func TestCounters(t *testing.T) {
	t.Parallel()
	const tries = 3
	number := 0
	for _, scenario := range lab.Scenarios() {
		if scenario.Bridged {
			continue // it meets no rule
		}
		for _, backend := range scenario.Backends {
			for _, fault := range []string{lab.ForwardDrop, lab.ForwardPolicy, lab.Reject, lab.ReplyDrop} {
				number++
				t.Run(fmt.Sprintf("%s %s %s", scenario.Name, backend, fault), func(t *testing.T) {
					t.Parallel()
					third(t, number)
					n := build(t, scenario.Name, lab.Options{Backend: backend, Break: fault})
					truth := n.Truth()
					ns := n.NetNS(truth.NetNS)
					count(t, ns, truth.Rule)
					before := counters(t, ns, backend)
					cfg := probe(n)
					cfg.Count = tries
					r := trace(t, n, cfg)
					met := make(map[string]int)
					for rule, packets := range counters(t, ns, backend) {
						if packets != before[rule] {
							met[rule] = packets - before[rule]
						}
					}
					if r.Verdict.Rule == nil {
						t.Fatalf("no rule is accused:\n%s", text(t, r))
					}
					want := map[string]int{r.Verdict.Rule.Chain + " " + r.Verdict.Rule.Text: tries}
					if policy := fault == lab.ForwardPolicy; policy && backend == lab.NFT {
						want = map[string]int{} // nftables counts none of these
					}
					tell(t, want, met)
					if len(r.Tries) != tries {
						t.Errorf("%d tries are listed, want %d", len(r.Tries), tries)
					}
				})
			}
		}
	}
}

// count makes a rule of nftables count packets, as those of iptables do by
// themselves. A policy cannot.
func count(t *testing.T, ns *netns.NS, rule lab.Rule) {
	t.Helper()
	if rule.Backend != lab.NFT || strings.HasPrefix(rule.Text, "policy ") {
		return
	}
	old := find(t, rules(t, ns, "nft", rule.Family, rule.Table, rule.Chain), rule.Text)
	counting := regexp.MustCompile(` (drop|reject)`).ReplaceAllString(rule.Text, " counter $1")
	command(t, ns, "nft", fmt.Sprintf("replace rule %s %s %s handle %d %s", rule.Family, rule.Table, rule.Chain, old.handle, counting))
}

// counters reads how many packets each rule of a namespace that drops or
// rejects has met, by chain and text as reports have it.
func counters(t *testing.T, ns *netns.NS, backend lab.Backend) map[string]int {
	t.Helper()
	met := make(map[string]int)
	if backend == lab.NFT {
		chain := ""
		counter := regexp.MustCompile(`counter packets (\d+) bytes \d+`)
		for line := range strings.Lines(command(t, ns, "nft", "list", "ruleset")) {
			line = strings.TrimSpace(line)
			if name, ok := strings.CutPrefix(line, "chain "); ok {
				chain = strings.TrimSuffix(name, " {")
			}
			if found := counter.FindStringSubmatch(line); found != nil {
				packets, err := strconv.Atoi(found[1])
				if err != nil {
					t.Fatal(err)
				}
				met[chain+" "+counter.ReplaceAllString(line, "counter")] = packets
			}
		}
		return met
	}
	drops := regexp.MustCompile(`^\[(\d+):\d+\] -A (\S+) .*-j (DROP|REJECT)`)
	policy := regexp.MustCompile(`^:(\S+) DROP \[(\d+):\d+\]`)
	for _, family := range []string{"ip", "ip6"} {
		for line := range strings.Lines(command(t, ns, iptables(backend, family)+"-save", "-c")) {
			line = strings.TrimSpace(line)
			counters, chain, text := "", "", ""
			if found := drops.FindStringSubmatch(line); found != nil {
				counters, chain = found[1], found[2]
				_, text, _ = strings.Cut(line, " ")
			} else if found := policy.FindStringSubmatch(line); found != nil {
				counters, chain, text = found[2], found[1], ":"+found[1]+" DROP"
			} else {
				continue
			}
			packets, err := strconv.Atoi(counters)
			if err != nil {
				t.Fatal(err)
			}
			met[chain+" "+text] += packets
		}
	}
	return met
}

// TestConntrackTable compares what the reports say of conntrack with what
// "conntrack -L" lists afterwards.
func TestConntrackTable(t *testing.T) {
	t.Parallel()
	for _, scenario := range lab.Scenarios() {
		if scenario.Bridged {
			continue // conntrack sees nothing of it
		}
		for _, backend := range scenario.Backends {
			t.Run(fmt.Sprintf("%s %s", scenario.Name, backend), func(t *testing.T) {
				t.Parallel()
				testenv.Tool(t, "conntrack")
				n := build(t, scenario.Name, lab.Options{Backend: backend})
				family := "ipv4"
				if scenario.Target.Is6() {
					family = "ipv6"
				}
				told := make(map[string][]string)
				for _, r := range []*report.Report{
					trace(t, n, probe(n)),
					trace(t, n, connection(n, scenario.Source, netip.AddrPortFrom(scenario.Target, 53).String())),
				} {
					for _, e := range r.Evidence {
						if e.Kind == "conntrack" && strings.HasPrefix(e.Text, "[NEW] ") {
							told[e.NetNS] = append(told[e.NetNS], entry(strings.TrimPrefix(e.Text, "[NEW] ")))
						}
					}
				}
				if len(told[lab.HostName]) != 2 {
					t.Errorf("the reports tell of the entries %v on the host, want one each", told[lab.HostName])
				}
				for netns, got := range told {
					var listed []string
					for line := range strings.Lines(command(t, n.NetNS(netns), "conntrack", "-L", "-f", family, "-o", "id")) {
						if strings.Contains(line, " src=") {
							listed = append(listed, entry(line))
						}
					}
					for _, told := range got {
						if !slices.Contains(listed, told) {
							t.Errorf("conntrack of %s has no entry\n%s\namong\n%s", netns, told, strings.Join(listed, "\n"))
						}
					}
				}
			})
		}
	}
}

// entry is the protocol, the tuples and the id of an entry of conntrack.
func entry(line string) string {
	words := strings.Fields(line)
	parts := words[:1]
	for _, word := range words[1:] {
		if key, _, ok := strings.Cut(word, "="); ok && slices.Contains([]string{"src", "dst", "type", "code", "id", "sport", "dport"}, key) {
			parts = append(parts, word)
		}
	}
	return strings.Join(parts, " ")
}

// TestTcpdump has tcpdump watch in every namespace at the same time. It sees the
// packet where the report says that it was, with the same addresses, and
// nowhere else.
func TestTcpdump(t *testing.T) {
	t.Parallel()
	// tcpdump insists on setgroups(2), which user namespaces deny.
	testenv.Root(t)
	for _, scenario := range lab.Scenarios() {
		if len(scenario.Carried) > 0 {
			continue // tcpdump does not look into tunnels
		}
		for _, fault := range []string{"", lab.ForwardDrop, lab.Reject, lab.ReplyDrop} {
			if scenario.Bridged && fault != "" {
				continue // its host has none of these
			}
			t.Run(strings.TrimSpace(scenario.Name+" "+fault), func(t *testing.T) {
				t.Parallel()
				n := build(t, scenario.Name, lab.Options{Break: fault})
				dumps := make(map[string]*dump)
				for _, name := range append([]string{lab.HostName}, n.Named...) {
					dumps[name] = startDump(t, n.NetNS(name))
				}
				r := trace(t, n, probe(n))
				id, seq := 0, 0
				if _, err := fmt.Sscanf(r.Request.Packet[strings.Index(r.Request.Packet, "id "):], "id %d seq %d", &id, &seq); err != nil {
					t.Fatalf("packet %q: %v", r.Request.Packet, err)
				}
				want := make(map[string][]string)
				for _, hop := range slices.Concat(points(r.Legs.Request), points(r.Legs.Reply)) {
					what := ""
					switch *hop.Tuple.ICMPType {
					case 8, 128:
						what = fmt.Sprintf("echo request %d %d", id, seq)
					case 0, 129:
						what = fmt.Sprintf("echo reply %d %d", id, seq)
					default:
						what = "unreachable"
					}
					want[hop.NetNS] = append(want[hop.NetNS], fmt.Sprintf("%s %s %s > %s %s",
						hop.Interface, hop.Direction, hop.Tuple.Source, hop.Tuple.Destination, what))
				}
				for name, dump := range dumps {
					eventually(t, fmt.Sprintf("packets in %s (-report +tcpdump)", name), func() string {
						return cmp.Diff(want[name], dump.pings())
					})
				}
			})
		}
	}
}

// dump is a tcpdump that watches all interfaces of a namespace until the test
// ends.
type dump struct {
	mu   sync.Mutex
	seen []string
}

// pings are those that were seen so far: interface, direction, addresses and
// message.
func (d *dump) pings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.seen)
}

// startDump returns when tcpdump listens.
func startDump(t *testing.T, ns *netns.NS) *dump {
	t.Helper()
	// It prints each packet at once, stays the user that it is, and has more
	// packets in its ring the less it takes of each.
	cmd := exec.Command(testenv.Tool(t, "tcpdump"), "-Z", "root", "-n", "-i", "any", "-s", "256", "-l", "--immediate-mode", "icmp or icmp6")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	d := &dump{}
	var reading sync.WaitGroup
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("tcpdump: %v", err)
		}
	})
	listening := make(chan bool)
	reading.Go(func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "listening on") {
				close(listening)
			}
		}
	})
	reading.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if ping, ok := sawPing(lines.Text()); ok {
				d.mu.Lock()
				d.seen = append(d.seen, ping)
				d.mu.Unlock()
			}
		}
	})
	select {
	case <-listening:
	case <-time.After(settle):
		t.Fatal("tcpdump does not listen")
	}
	return d
}

var (
	// pingLine is, for example, one of
	// "12:31:56.084001 eth0  Out IP6 2001:db8::1 > 2001:db8::2: ICMP6, echo request, id 1, seq 1, length 64"
	// "12:31:56.084001 eth0  In  IP 192.0.2.1 > 192.0.2.2: ICMP echo reply, id 1, seq 1, length 64".
	// P is ingress, too: at the port of a bridge frames are for another host.
	pingLine  = regexp.MustCompile(`^\S+ (\S+) +(In|P|Out) +IP6? (\S+) > (\S+): ICMP6?,? echo (request|reply), id (\d+), seq (\d+), length \d+$`)
	errorLine = regexp.MustCompile(`^\S+ (\S+) +(In|P|Out) +IP6? (\S+) > (\S+): ICMP6?,? .*(unreachable|prohibited)`)
)

// sawPing puts a line of tcpdump into the words of a report.
func sawPing(line string) (string, bool) {
	direction := map[string]string{"In": "ingress", "P": "ingress", "Out": "egress"}
	if found := pingLine.FindStringSubmatch(line); found != nil {
		return fmt.Sprintf("%s %s %s > %s echo %s %s %s", found[1], direction[found[2]], found[3], found[4], found[5], found[6], found[7]), true
	}
	if found := errorLine.FindStringSubmatch(line); found != nil {
		return fmt.Sprintf("%s %s %s > %s unreachable", found[1], direction[found[2]], found[3], found[4]), true
	}
	return "", false
}
