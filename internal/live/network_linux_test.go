package live_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// timeout is how long an answer is waited for.
const timeout = 10 * time.Second

// impatient is the timeout of probes that are known to stay unanswered: many
// times what the answers of these networks take.
const impatient = time.Second

// third leaves tests that are the same with other tools and networks to root's
// run, but for every third: what an ordinary user lacks is the same in all.
func third(t *testing.T, number int) {
	t.Helper()
	if number%3 != 0 {
		testenv.LeftToRoot(t)
	}
}

// build builds a network of the lab.
func build(t *testing.T, scenario string, options lab.Options) *lab.Network {
	t.Helper()
	testenv.Privileged(t)
	s, err := lab.Find(scenario)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range append(s.Tools(options), "nft", "iptables-legacy", "iptables-nft") {
		testenv.Tool(t, tool)
	}
	network, err := lab.Build(t.Context(), scenario, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A proxy may have closed a connection itself.
		if err := network.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return network
}

// probe is a ping of the scenario's target from its source.
func probe(n *lab.Network) live.Config { return ping(n, n.Scenario.Target.String()) }

// ping is a ping of any target from the scenario's source.
func ping(n *lab.Network, target string) live.Config {
	cfg := from(n, n.Scenario.Source, netip.MustParseAddr(target))
	cfg.Kind = "ping"
	if cfg.Resolved.Address.Is6() {
		cfg.Kind = "ping6"
	}
	return cfg
}

// from is the configuration of a run that starts in a namespace and finds those
// that have a name.
func from(n *lab.Network, source string, target netip.Addr) live.Config {
	cfg := live.Config{
		Source: &container.Source{Kind: container.KindNetNS, Name: source, NetNS: n.NetNS(source)},
		Host:   n.Host, Candidates: []topology.Candidate{},
		Target: target.String(), Resolved: resolve.Result{Address: target},
		Timeout: timeout, Version: "test",
	}
	if source == lab.HostName {
		cfg.Source.Kind = container.KindHost
	}
	for _, name := range n.Named {
		cfg.Candidates = append(cfg.Candidates, topology.Candidate{Name: name, NetNS: n.NetNS(name)})
	}
	return cfg
}

// trace runs a probe, checks that its report keeps what every report promises,
// that it left the network as it was, and that its bundle gives the same report.
func trace(t *testing.T, n *lab.Network, cfg live.Config) *report.Report {
	t.Helper()
	before := state(t, n)
	replay := func(*report.Report) {}
	// Each run as root is saved and replayed; as an ordinary user some have to do.
	if testenv.IsRoot() || crc32.ChecksumIEEE([]byte(t.Name()))%8 == 0 {
		replay = saved(t, &cfg, false)
	}
	r, err := live.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	replay(r)
	for _, problem := range flaws(r) {
		t.Error(problem)
	}
	// A program that another test starts holds a copy of every socket for the
	// moment until it runs.
	eventually(t, "the network as it was before", func() string { return cmp.Diff(before, state(t, n)) })
	if t.Failed() {
		t.Logf("report:\n%s", text(t, r))
	}
	return r
}

// text is the report as people read it.
func text(t *testing.T, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.Text(&b, r, report.TextOptions{Detail: report.DetailFull, Width: 200}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// state is what a run may change in the namespaces of a network and must put
// back: tables, legacy ones too, and the loggers.
func state(t *testing.T, n *lab.Network) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, name := range n.Names() {
		conn, err := nftables.New(nftables.WithNetNSFd(n.NetNS(name).FD()))
		if err != nil {
			t.Fatal(err)
		}
		tables, err := conn.ListTables()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, table := range tables {
			names = append(names, fmt.Sprintf("%d %s", table.Family, table.Name))
		}
		slices.Sort(names)
		all[name+" tables"] = strings.Join(names, ", ")
		for _, file := range []string{
			"/proc/sys/net/netfilter/nf_log/0", "/proc/sys/net/netfilter/nf_log/2", "/proc/sys/net/netfilter/nf_log/10",
			"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names",
		} {
			all[name+" "+file] = read(t, n.NetNS(name), file)
		}
	}
	return all
}

// read reads a file of the kernel as a namespace shows it.
func read(t *testing.T, ns *netns.NS, file string) string {
	t.Helper()
	var text []byte
	if err := ns.Do(func() (err error) {
		text, err = os.ReadFile(file)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// settle is how long something may take that comes about by itself, on the
// busiest machine.
const settle = 30 * time.Second

// eventually waits until nothing is missing any more, and reports whether that
// came about.
func eventually(t *testing.T, what string, missing func() string) bool {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(settle); ; <-tick.C {
		lack := missing()
		if lack == "" {
			return true
		}
		if time.Now().After(deadline) {
			t.Errorf("%s, after %s:\n%s", what, settle, lack)
			return false
		}
	}
}

// command runs a program in a namespace and returns what it prints.
func command(t *testing.T, ns *netns.NS, words ...string) string {
	t.Helper()
	output, err := try(t, ns, words...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, output)
	}
	return output
}

// try runs a program in a namespace and returns what it prints on both outputs.
func try(t *testing.T, ns *netns.NS, words ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, words[0]), words[1:]...)
	// The usual lock of iptables-legacy is the machine's.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/proc/self/ns/net")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := ns.Do(cmd.Run)
	return output.String(), err
}

// listed is a rule as the tool that owns it lists it.
type listed struct {
	text    string
	number  int
	handle  uint64
	packets int // that it has met; only iptables counts by itself
}

// rules lists a chain with the tool that owns it, its policy first.
func rules(t *testing.T, ns *netns.NS, backend, family, table, chain string) []listed {
	t.Helper()
	if backend == string(lab.NFT) {
		return nftRules(t, ns, family, table, chain)
	}
	save := strings.Replace(backend, "iptables", map[string]string{"ip": "iptables", "ip6": "ip6tables"}[family], 1) + "-save"
	var handles []listed
	if backend == string(lab.IPTablesNFT) {
		handles = nftRules(t, ns, family, table, chain)[1:]
	}
	var all []listed
	for line := range strings.Lines(command(t, ns, save, "-c", "-t", table)) {
		// [packets:bytes] -A CHAIN ..., :CHAIN POLICY [packets:bytes]
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, ":"+chain+" "); ok {
			policy, counters, _ := strings.Cut(rest, " ")
			all = append(all, listed{text: ":" + chain + " " + policy, packets: packets(t, counters)})
		}
		counters, rule, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(rule, "-A "+chain+" ") {
			continue
		}
		l := listed{text: rule, number: len(all), packets: packets(t, counters)}
		if handles != nil {
			l.handle = handles[len(all)-1].handle
		}
		all = append(all, l)
	}
	return all
}

// packets reads the first of the counters "[packets:bytes]".
func packets(t *testing.T, counters string) int {
	t.Helper()
	number, _, _ := strings.Cut(strings.TrimPrefix(counters, "["), ":")
	value, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("counters %q: %v", counters, err)
	}
	return value
}

// nftRules lists a chain of nftables; the first entry is the policy of a base
// chain, empty for others.
func nftRules(t *testing.T, ns *netns.NS, family, table, chain string) []listed {
	t.Helper()
	all := []listed{{}}
	for line := range strings.Lines(command(t, ns, "nft", "-a", "list", "chain", family, table, chain)) {
		line = strings.TrimSpace(line)
		if _, policy, ok := strings.Cut(line, "; policy "); ok && strings.HasPrefix(line, "type ") {
			all[0].text = "policy " + strings.TrimSuffix(policy, ";")
			continue
		}
		rule, handle, ok := strings.Cut(line, " # handle ")
		if !ok || strings.HasSuffix(rule, "{") {
			continue
		}
		number, err := strconv.ParseUint(handle, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, listed{text: rule, number: len(all), handle: number})
	}
	return all
}

// find returns the rule with that text.
func find(t *testing.T, all []listed, text string) listed {
	t.Helper()
	i := slices.IndexFunc(all, func(l listed) bool { return l.text == text })
	if i < 0 {
		t.Fatalf("no rule %q among %+v", text, all)
	}
	return all[i]
}

// handle is for questions to the kernel about links and routes of a namespace.
func handle(t *testing.T, ns *netns.NS) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// route asks the kernel how a packet would leave a namespace: from which
// address and to which next hop.
func route(t *testing.T, ns *netns.NS, target netip.Addr) (source, next netip.Addr) {
	t.Helper()
	routes, err := handle(t, ns).RouteGet(target.AsSlice())
	if err != nil || len(routes) != 1 {
		t.Fatalf("route to %s: %v, %v", target, routes, err)
	}
	source, _ = netip.AddrFromSlice(routes[0].Src)
	next, ok := netip.AddrFromSlice(routes[0].Gw)
	if !ok {
		next = target
	}
	return source.Unmap(), next.Unmap()
}

// tell is where a probe's report differs from what is wanted, field by field.
func tell(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// verdict is a report in short.
type verdict struct {
	Outcome                report.Outcome
	Leg, Code, NetNS, Hook string
	Rule                   string
	Confidence             report.Confidence
	Translations           []string
	Request, Reply         []string
}

// shorten leaves out what a random port or id makes different each time.
func shorten(r *report.Report) verdict {
	v := verdict{
		Outcome: r.Verdict.Outcome, Leg: r.Verdict.Leg, Code: r.Verdict.Code, NetNS: r.Verdict.NetNS, Hook: r.Verdict.Hook,
		Rule: owned(r.Verdict.Rule), Confidence: r.Verdict.Confidence,
	}
	port := ""
	if len(r.Legs.Request) > 0 {
		if source, err := netip.ParseAddrPort(r.Legs.Request[0].Tuple.Source); err == nil {
			port = fmt.Sprintf(":%d", source.Port())
		}
	}
	for _, t := range r.Translations {
		text := fmt.Sprintf("%s %s %s %s %s %s %s → %s %s", t.Leg, t.Confidence, t.Kind, t.NetNS, t.Hook, t.Field, t.From, t.To, owned(t.Rule))
		if port != "" {
			text = strings.ReplaceAll(text, port, ":port")
		}
		v.Translations = append(v.Translations, text)
	}
	for _, hop := range points(r.Legs.Request) {
		v.Request = append(v.Request, place(hop))
	}
	for _, hop := range points(r.Legs.Reply) {
		v.Reply = append(v.Reply, place(hop))
	}
	return v
}

// owned is a rule with the tool and the chain that it belongs to.
func owned(r *report.Rule) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("[%s %s %s %s] %s", r.Backend, r.Family, r.Table, r.Chain, r.Text)
}
