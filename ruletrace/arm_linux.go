package ruletrace

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// The priorities of the arming chains, include/uapi/linux/netfilter_ipv4.h.
const (
	statelessPriority = -350 // before raw (-300), after defragmentation (-400)
	conntrackPriority = -199 // just after conntrack (-200)
)

// ArmConfig says what to arm.
type ArmConfig struct {
	// NetNS is the namespace, which Arm does not close. Name is what reports
	// call it.
	NetNS *netns.NS
	Name  string
	Match Match
	// Traffic is armed for in place of Match when it is set; Budget and Conntrack
	// do not count then.
	Traffic *Traffic
	// Budget is how many packets each part traces at most (the stateless
	// chains, those on conntrack's tuple, and the bridge chain have a budget
	// each); 0 means DefaultBudget.
	Budget int
	// Conntrack says whether conntrack's tuple is matched too.
	Conntrack ConntrackRules
}

// Arming makes one namespace trace one flow, until Close. It belongs to the
// socket that it holds: when the process dies the kernel removes it.
type Arming struct {
	name    string
	parts   []part
	missing []error

	once sync.Once
	conn *nftables.Conn
	err  error
}

// part is one table.
type part struct {
	table  nftables.Table
	sets   []set
	chains []armingChain
}

type armingChain struct {
	name     string
	hook     Hook   // empty for a chain that rules jump to
	device   string // in the hooks ingress and egress
	priority int
	rules    []selector
}

// armings numbers the armings of this process.
var armings atomic.Uint32

// Arm adds the tables that set nftrace for the flow: one of the flow's family
// with stateless chains below every base chain in prerouting and output, and,
// where connection tracking is on already, chains at -199 that match
// conntrack's original tuple; and where others have chains of family bridge,
// one of that family with a chain in prerouting (a frame that leaves by a bridge
// was marked on its way in, or in output); and where others have chains at a
// device, one of family netdev with a chain before theirs. nftables and legacy
// tables both look at the mark, in every later hook of the namespace.
//
// An arming changes no packet's fate: its chains accept, which ends only the
// chain itself. Everything is in place when Arm returns. Errors are
// *PermissionError, *NotSupportedError, or what the kernel answered. What could
// not be armed although the rest could is in Missing.
func Arm(cfg ArmConfig) (*Arming, error) {
	a := &Arming{name: cfg.Name}
	switch {
	case cfg.Traffic != nil:
		if len(cfg.Traffic.versions()) == 0 {
			return nil, fmt.Errorf("arm %s: the source has no address", cfg.Name)
		}
	case !cfg.Match.Target.IsValid():
		return nil, fmt.Errorf("arm %s: the flow has no target address", cfg.Name)
	}
	if cfg.Match.Target.IsUnspecified() && (cfg.Match.TargetPort == 0 || cfg.Match.SourcePort != 0) {
		return nil, fmt.Errorf("arm %s: a flow to any address is known by its target's port alone", cfg.Name)
	}
	if cfg.Budget <= 0 {
		cfg.Budget = DefaultBudget
	}

	// The library sends table flags as 0, so the tables are made on its socket
	// by hand: the owner flag ties a table to the socket that made it.
	setUp := func(c *netlink.Conn) error {
		chains, err := dumpChains(c)
		if err != nil {
			return err
		}
		tables, err := a.plan(c, &cfg, chains)
		if err != nil {
			return err
		}
		name := freeName(chains)
		for i := range tables {
			p := &tables[i]
			p.table.Name = name
			switch err := createOwned(c, p.table); {
			case err == nil:
				a.parts = append(a.parts, *p)
			case i == 0:
				return err
			default:
				a.missing = append(a.missing, fmt.Errorf("table %s %s: %w", familyName(uint8(p.table.Family)), name, a.classify(err)))
			}
		}
		return nil
	}
	var err error
	a.conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(cfg.NetNS.FD()),
		nftables.WithSockOptions(setUp))
	if err != nil {
		return nil, a.classify(err)
	}
	made := a.parts
	a.parts = nil
	for i := range made {
		switch err := a.fill(&made[i]); {
		case err == nil:
			a.parts = append(a.parts, made[i])
		case i == 0:
			_ = a.Close()
			return nil, a.classify(err)
		default:
			a.missing = append(a.missing, a.classify(err))
		}
	}
	return a, nil
}

// plan is what is to be added beside the chains of others.
func (a *Arming) plan(c *netlink.Conn, cfg *ArmConfig, chains []chain) ([]part, error) {
	track := func(family string) bool {
		on, err := tracked(c, cfg.NetNS, family)
		if err != nil {
			a.missing = append(a.missing, fmt.Errorf("whether connection tracking is on: %w", err))
		}
		return on
	}
	if cfg.Traffic != nil {
		return cfg.Traffic.parts(chains, map[string]bool{"ip": track("ip"), "ip6": track("ip6")}), nil
	}
	family := "ip"
	if cfg.Match.Target.Is6() {
		family = "ip6"
	}
	tables := []part{{
		table:  nftables.Table{Family: nftables.TableFamily(familyNumber(family))},
		chains: statelessChains(*cfg, lowest(chains, family, Prerouting, Output), Prerouting, Output),
	}}
	if slices.ContainsFunc(chains, func(ch chain) bool { return ch.family == "bridge" && ch.base && !ch.owned }) {
		tables = append(tables, part{
			table:  nftables.Table{Family: nftables.TableFamilyBridge},
			chains: statelessChains(*cfg, lowest(chains, "bridge", Prerouting, Output), Prerouting),
		})
	}
	if chains := deviceChains(*cfg, chains); chains != nil {
		tables = append(tables, part{table: nftables.Table{Family: nftables.TableFamilyNetdev}, chains: chains})
	}
	if cfg.Conntrack == ConntrackAlways || cfg.Conntrack == ConntrackAuto && track(family) {
		tables[0].chains = append(tables[0].chains, conntrackChains(*cfg)...)
	}
	return tables, nil
}

// Close removes what Arm added. It may be called twice.
func (a *Arming) Close() error {
	a.once.Do(func() {
		// The tables go with the socket that owns them.
		if err := a.conn.CloseLasting(); err != nil {
			a.err = fmt.Errorf("disarm %s: %w", a.name, err)
		}
	})
	return a.err
}

// Missing returns what could not be armed although the rest could.
func (a *Arming) Missing() []error { return a.missing }

// Tables returns "family name" of each table that was added.
func (a *Arming) Tables() []string {
	var names []string
	for _, p := range a.parts {
		names = append(names, familyName(uint8(p.table.Family))+" "+p.table.Name)
	}
	return names
}

// Describe returns what was added, in nft's own syntax.
func (a *Arming) Describe() string {
	var b strings.Builder
	for _, p := range a.parts {
		fmt.Fprintf(&b, "table %s %s { # in %s, owned by pathtrace's socket\n", familyName(uint8(p.table.Family)), p.table.Name, a.name)
		for i := range p.sets {
			fmt.Fprintf(&b, "\t%s\n", p.sets[i].words())
		}
		for _, ch := range p.chains {
			fmt.Fprintf(&b, "\tchain %s {\n", ch.name)
			if ch.hook != "" {
				hook := string(ch.hook)
				if ch.device != "" {
					hook += fmt.Sprintf(" device %q", ch.device)
				}
				fmt.Fprintf(&b, "\t\ttype filter hook %s priority %d; policy accept;\n", hook, ch.priority)
			}
			for _, r := range ch.rules {
				fmt.Fprintf(&b, "\t\t%s\n", r.text)
			}
			b.WriteString("\t}\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// classify tells apart the errors on which a caller decides.
func (a *Arming) classify(err error) error {
	var supported *NotSupportedError
	switch {
	case errors.As(err, &supported):
		return err
	case errors.Is(err, unix.EPERM):
		return &PermissionError{Op: "arm the rule trace", NetNS: a.name, Err: err}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return &NotSupportedError{Feature: "the nftables rules of the trace (nf_tables of the flow's family, with payload, meta, limit and ct)", Err: err}
	}
	return fmt.Errorf("arm %s: %w", a.name, err)
}

// lowest returns the priority of the stateless chains: one below every base
// chain of the hooks, which they must precede.
func lowest(chains []chain, family string, hooks ...Hook) int {
	priority := statelessPriority
	for _, ch := range chains {
		same := ch.family == family || ch.family == "inet" && family != "bridge"
		if same && ch.base && !ch.owned && slices.Contains(hooks, ch.hook) {
			priority = min(priority, ch.priority-1)
		}
	}
	return max(priority, -1<<31)
}

// freeName returns a table name that nobody in the namespace uses. The pid says
// whose it is; a process of another pid namespace may have the same.
func freeName(chains []chain) string {
	for {
		name := fmt.Sprintf("%s%d-%d", tablePrefix, os.Getpid(), armings.Add(1))
		if !slices.ContainsFunc(chains, func(ch chain) bool { return ch.table == name }) {
			return name
		}
	}
}

// createOwned makes a table that belongs to the socket.
func createOwned(c *netlink.Conn, t nftables.Table) error {
	const owner = 0x2 // NFT_TABLE_F_OWNER, since Linux 5.12
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binaryutil.BigEndian.PutUint32(owner)},
	})
	if err != nil {
		return err
	}
	batch := []netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: nfgenmsg(0, unix.NFNL_SUBSYS_NFTABLES)},
		{
			Header: netlink.Header{
				Type:  nftMessage(unix.NFT_MSG_NEWTABLE),
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append(nfgenmsg(uint8(t.Family), 0), attributes...),
		},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: nfgenmsg(0, unix.NFNL_SUBSYS_NFTABLES)},
	}
	if _, err := c.SendMessages(batch); err != nil {
		return err
	}
	_, err = c.Receive()
	if errors.Is(err, unix.EINVAL) {
		return &NotSupportedError{Feature: "nftables tables that are removed with their owner (Linux 5.12)", Err: err}
	}
	return err
}

// fill adds a part's chains and rules, all at once: the kernel commits a batch
// as a whole.
func (a *Arming) fill(p *part) error {
	policy := nftables.ChainPolicyAccept
	for i := range p.sets {
		if err := p.sets[i].add(a.conn, &p.table, uint32(i+1)); err != nil {
			return err
		}
	}
	for _, ch := range p.chains {
		added := &nftables.Chain{Name: ch.name, Table: &p.table}
		if ch.hook != "" {
			added.Hooknum = map[Hook]*nftables.ChainHook{
				Prerouting: nftables.ChainHookPrerouting, Output: nftables.ChainHookOutput, Forward: nftables.ChainHookForward,
				IngressHook: nftables.ChainHookIngress, EgressHook: nftables.ChainHookEgress,
			}[ch.hook]
			added.Device = ch.device
			added.Priority = new(nftables.ChainPriority(ch.priority))
			added.Type = nftables.ChainTypeFilter
			added.Policy = &policy
		}
		a.conn.AddChain(added)
		for _, r := range ch.rules {
			a.conn.AddRule(&nftables.Rule{Table: &p.table, Chain: added, Exprs: r.exprs})
		}
	}
	return a.conn.Flush()
}

// statelessChains returns the chains that match on the packet alone.
func statelessChains(cfg ArmConfig, priority int, hooks ...Hook) []armingChain {
	// A bridge sees both versions.
	l, entry := stateless(cfg, slices.Equal(hooks, []Hook{Prerouting}))
	return l.hooked("", priority, entry, hooks)
}

// stateless returns the chains that match on the packet alone, and the rules
// that lead to them. Where both versions of IP pass, those ask for it first.
func stateless(cfg ArmConfig, bothVersions bool) (l limits, entry []selector) {
	f := cfg.Match.flow()
	tight, loose := f.selectors()
	l = limited(cfg.Budget, "", tight, loose)
	for _, p := range f.protocols() {
		var rules []selector
		for _, s := range f.others(p) {
			rules = append(rules, s.and(accept))
		}
		for _, r := range l.rules {
			if r.proto == p {
				rules = append(rules, r)
			}
		}
		l.chains = append(l.chains, gated(p.String(), rules)...)
	}
	for _, p := range f.protocols() {
		rule := ofProto(p).and(jump(p.String()))
		if bothVersions {
			rule = f.ofVersion().and(rule)
		}
		entry = append(entry, rule)
	}
	return l, entry
}

// deviceChains returns the chains that mark packets at a device, before the
// chains that others have there; nil when nobody has any.
func deviceChains(cfg ArmConfig, chains []chain) []armingChain {
	places := devicePlaces(chains)
	if places == nil {
		return nil
	}
	l, entry := stateless(cfg, true)
	for i, at := range places {
		l.chains = append(l.chains, armingChain{
			name: fmt.Sprintf("%s-%d", at.hook, i), hook: at.hook, device: at.device, priority: at.priority, rules: entry,
		})
	}
	return l.chains
}

// devicePlace is a hook of a device, and the priority below that of every chain
// there.
type devicePlace struct {
	hook     Hook
	device   string
	priority int
}

// devicePlaces are those where others have chains.
func devicePlaces(chains []chain) []devicePlace {
	var places []devicePlace
	for _, ch := range chains {
		if !ch.base || ch.owned || ch.hook != IngressHook && ch.hook != EgressHook {
			continue
		}
		for _, device := range ch.devices {
			at := slices.IndexFunc(places, func(p devicePlace) bool { return p.hook == ch.hook && p.device == device })
			if at < 0 {
				at = len(places)
				places = append(places, devicePlace{ch.hook, device, statelessPriority})
			}
			places[at].priority = max(min(places[at].priority, ch.priority-1), -1<<31)
		}
	}
	return places
}

// conntrackChains returns the chains that match conntrack's original tuple. It
// is the same for the flow's packets and for the ICMP errors about them.
func conntrackChains(cfg ArmConfig) []armingChain {
	f := cfg.Match.flow()
	f.Carried = false // conntrack knows the outer packets by tuples of their own
	tight, loose := f.conntrackSelectors()
	const prefix = "ct-"
	l := limited(cfg.Budget, prefix, tight, loose)
	l.chains = append(l.chains, armingChain{name: prefix + "flow", rules: l.rules})
	var entry []selector
	for _, p := range f.protocols() {
		entry = append(entry, ofProto(p).and(jump(prefix+"flow")))
	}
	return l.hooked(prefix, conntrackPriority, entry, []Hook{Prerouting, Output})
}

// gated returns a chain of rules, after the chains of those that have a
// gate.
func gated(name string, rules []selector) []armingChain {
	main := armingChain{name: name}
	var chains []armingChain
	for _, r := range rules {
		if r.gate == nil {
			main.rules = append(main.rules, r)
			continue
		}
		behind := name + "-" + r.gate.name
		at := slices.IndexFunc(chains, func(ch armingChain) bool { return ch.name == behind })
		if at < 0 {
			at = len(chains)
			chains = append(chains, armingChain{name: behind})
			main.rules = append(main.rules, r.gate.and(jump(behind)))
		}
		chains[at].rules = append(chains[at].rules, r)
	}
	return append(chains, main)
}

// limits are chains that hold the budgets, and the rules that go to them. All
// rules of one strength share a budget.
type limits struct {
	chains []armingChain
	rules  []selector
}

func limited(budget int, prefix string, tight, loose []selector) limits {
	l := limits{chains: []armingChain{budgetChain(prefix+"trace", budget)}}
	for _, s := range tight {
		l.rules = append(l.rules, s.and(jump(prefix+"trace")))
	}
	if len(loose) > 0 {
		l.chains = append(l.chains, budgetChain(prefix+"trace-loose", min(budget, looseBudget)))
		for _, s := range loose {
			l.rules = append(l.rules, s.and(jump(prefix+"trace-loose")))
		}
	}
	return l
}

// hooked adds the base chains. Their rules only sort by protocol, so that other
// traffic pays for two comparisons (BenchmarkOtherTraffic).
func (l limits) hooked(prefix string, priority int, entry []selector, hooks []Hook) []armingChain {
	for _, hook := range hooks {
		l.chains = append(l.chains, armingChain{name: prefix + string(hook), hook: hook, priority: priority, rules: entry})
	}
	return l.chains
}

// budgetChain traces the first packets that come to it. It ends the arming's
// evaluation for all others too, so that a packet cannot take from the loose
// budget what the tight one no longer gives. The accept costs one trace message
// a pass instead of three.
func budgetChain(name string, budget int) armingChain {
	trace := selector{
		text: fmt.Sprintf("limit rate 1/day burst %d packets meta nftrace set 1 accept", budget),
		exprs: []expr.Any{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeDay, Burst: uint32(budget)},
			&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte{1}},
			&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: unix.NFT_REG_1},
			&expr.Verdict{Kind: expr.VerdictAccept},
		},
	}
	return armingChain{name: name, rules: []selector{trace, accept}}
}

var accept = selector{text: "accept", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}

func jump(chain string) selector {
	return selector{text: "jump " + chain, exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}
