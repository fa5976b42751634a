package ruletrace

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// Resolver finds for a hit the rule's text and the base chain's hook. It runs
// nft and the iptables-save tools in the namespace, for the chains that were
// hit only, and keeps what they said until the nftables ruleset changes; legacy
// tables, of which the kernel counts no changes, are read once. It is safe for
// concurrent use.
type Resolver struct {
	ns   *netns.NS
	name string
	look func(tool string) (path string, err error)

	mu         sync.Mutex
	conn       *netlink.Conn
	generation uint32
	chains     []chain
	contents   map[chainKey]*content
	listed     map[chainKey]bool // tables that list was tried for
	whole      map[chainKey]bool // tables that were listed, be they small or not
	iptables   map[string]saved  // by family and table
	legacy     map[string]saved
}

type chainKey struct{ family, table, chain string }

// content is what a chain holds.
type content struct {
	rules []rule
	texts map[uint64]string // by handle; nil where nft could not tell
	err   error             // why texts is nil
}

// saved is one table as a save tool prints it.
type saved struct {
	table *savedTable
	err   error
}

// NewResolver returns a resolver for a namespace, which it does not close; name
// is what reports call it.
func NewResolver(ns *netns.NS, name string) *Resolver {
	return &Resolver{ns: ns, name: name, look: lookTool, legacy: map[string]saved{}}
}

// Close ends the resolver's use of the kernel. It may be called twice.
func (r *Resolver) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil
	}
	err := r.conn.Close()
	r.conn = nil
	return err
}

// Resolve fills in what the trace did not tell: Rule's Backend, Text, Comment,
// Number; Hook, Priority, ChainType and Base; and for legacy hits Verdict and
// Target. A legacy "policy" or "return" that is in truth the chain's last rule
// (the kernel takes any rule without a match and with a plain verdict for it)
// becomes a rule's hit.
//
// An *UnresolvedError leaves Text as "table chain handle N" (legacy: "table
// chain rule N") and everything else as far as it is known.
func (r *Resolver) Resolve(ctx context.Context, hit *Hit) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if hit.Legacy {
		return r.resolveLegacy(ctx, hit)
	}
	if err := r.refresh(); err != nil {
		return err
	}
	return r.resolveNFT(ctx, hit)
}

// Base returns all base chains of the namespace, in the order hook, priority.
// Chains of armings are left out. With an error the list is as complete as it
// could be made.
func (r *Resolver) Base(ctx context.Context) ([]BaseChain, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []BaseChain
	var errs []error
	if err := r.refresh(); err != nil {
		errs = append(errs, err)
	}
	for _, ch := range r.chains {
		if !ch.base || ch.owned {
			continue
		}
		backend := NFT
		if r.managed(ctx, chainKey{ch.family, ch.table, ch.name}) != nil {
			backend = IPTablesNFT
		}
		list = append(list, BaseChain{
			Backend: backend, Family: ch.family, Table: ch.table, Name: ch.name,
			Type: ch.typ, Hook: ch.hook, Priority: ch.priority, Policy: ch.policy, Devices: ch.devices,
		})
	}
	ipv4, ipv6, err := LegacyTables(r.ns)
	if err != nil {
		errs = append(errs, err)
	}
	for family, tables := range map[string][]string{"ip": ipv4, "ip6": ipv6} {
		for _, table := range tables {
			s := r.legacyTable(ctx, family, table)
			if s.err != nil {
				errs = append(errs, s.err)
			}
			for _, hook := range legacyHooks(table) {
				base := BaseChain{
					Backend: IPTablesLegacy, Family: family, Table: table, Name: strings.ToUpper(string(hook)), Hook: hook,
				}
				base.Type, base.Priority = legacyChain(table, hook)
				if s.table != nil && s.table.chains[base.Name] != nil {
					base.Policy = policyVerdict(s.table.chains[base.Name].policy)
				}
				list = append(list, base)
			}
		}
	}
	order := []Hook{IngressHook, Prerouting, Input, Forward, Output, Postrouting, EgressHook}
	slices.SortStableFunc(list, func(a, b BaseChain) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.Hook), slices.Index(order, b.Hook)),
			cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Name, b.Name))
	})
	return list, errors.Join(errs...)
}

// refresh forgets what a change of the ruleset made old, and lists the chains.
func (r *Resolver) refresh() error {
	if r.conn == nil {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: r.ns.FD()})
		if err != nil {
			return fmt.Errorf("read the ruleset of %s: %w", r.name, err)
		}
		r.conn = conn
	}
	for range 3 {
		now, err := generation(r.conn)
		if err != nil {
			return fmt.Errorf("read the ruleset of %s: %w", r.name, err)
		}
		if r.contents != nil && now == r.generation {
			return nil
		}
		r.generation = now
		r.contents, r.iptables = map[chainKey]*content{}, map[string]saved{}
		r.listed, r.whole = map[chainKey]bool{}, map[chainKey]bool{}
		if r.chains, err = dumpChains(r.conn); err != nil {
			return fmt.Errorf("read the ruleset of %s: %w", r.name, err)
		}
	}
	return nil
}

func (r *Resolver) resolveNFT(ctx context.Context, hit *Hit) error {
	told := &hit.Rule
	told.Backend = NFT
	key := chainKey{told.Family, told.Table, told.Chain}
	if base := r.base(hit); base != nil {
		hit.Base, hit.Hook, hit.Priority, hit.ChainType = base.name, base.hook, base.priority, base.typ
	}
	table := r.managed(ctx, key)
	if table != nil {
		told.Backend = IPTablesNFT
	}
	if hit.Kind == HitPolicy {
		told.Text = "policy " + string(hit.Verdict)
		if table != nil {
			told.Text = fmt.Sprintf(":%s %s", told.Chain, strings.ToUpper(string(hit.Verdict)))
		}
		return nil
	}
	if hit.Kind != HitRule {
		return nil
	}
	unresolved := func(reason string, err error) error {
		told.Text = fmt.Sprintf("%s %s handle %d", told.Table, told.Chain, told.Handle)
		return &UnresolvedError{NetNS: r.name, Rule: *told, Reason: reason, Err: err}
	}
	c, err := r.content(key)
	if err != nil {
		return unresolved("the chain cannot be read", err)
	}
	at := slices.IndexFunc(c.rules, func(x rule) bool { return x.handle == told.Handle })
	if at < 0 {
		return unresolved("the rule is no longer there", nil)
	}
	told.Number = at + 1
	told.Comment = userComment(c.rules[at].userdata)
	if hit.Verdict == Drop && c.rules[at].rejects() {
		hit.Verdict = Reject
	}
	if table != nil {
		told.Text = table.chains[told.Chain].rules[at]
		told.Comment = savedComment(told.Text)
		return nil
	}
	r.list(ctx, key, c)
	if c.err != nil {
		return unresolved("nft did not tell", c.err)
	}
	told.Text = c.texts[told.Handle]
	told.Comment = listedComment(told.Text)
	return nil
}

// rejects reports whether the rule tells the sender about the drop.
func (r rule) rejects() bool {
	return slices.ContainsFunc(r.exprs, func(e expression) bool {
		if e.name == "target" {
			x, ok := compatExtension(e.data)
			return ok && x.name == "REJECT"
		}
		return e.name == "reject"
	})
}

// base returns the base chain that the packet was in.
func (r *Resolver) base(hit *Hit) *chain {
	find := func(name string) *chain {
		at := slices.IndexFunc(r.chains, func(ch chain) bool {
			return ch.family == hit.Rule.Family && ch.table == hit.Rule.Table && ch.name == name
		})
		if at < 0 || !r.chains[at].base {
			return nil
		}
		return &r.chains[at]
	}
	if own := find(hit.Rule.Chain); own != nil {
		return own
	}
	// The decoder saw where the packet came in, unless a rule of somebody else
	// began to trace in the middle of a user chain, or a message was lost.
	if told := find(hit.Base); told != nil {
		return told
	}
	var candidates []*chain
	for i := range r.chains {
		ch := &r.chains[i]
		if ch.base && ch.family == hit.Rule.Family && ch.table == hit.Rule.Table && fits(ch.hook, hit) {
			reaches, known := r.reaches(chainKey{ch.family, ch.table, ch.name}, hit.Rule.Chain, map[string]bool{})
			if !known {
				return nil
			}
			if reaches {
				candidates = append(candidates, ch)
			}
		}
	}
	if len(candidates) != 1 {
		return nil
	}
	return candidates[0]
}

// fits reports whether a packet with the hit's interfaces can be at the hook.
func fits(hook Hook, hit *Hit) bool {
	switch hook {
	case Prerouting, Input, IngressHook:
		return hit.Egress == ""
	case Forward:
		return hit.Ingress != "" && hit.Egress != "" || hit.Ingress == "" && hit.Egress == ""
	case Output, Postrouting, EgressHook:
		return hit.Egress != "" || hit.Ingress == ""
	}
	return true
}

// reaches reports whether a chain jumps to the target, directly or not. known
// is false where a map decides, which is not followed.
func (r *Resolver) reaches(from chainKey, target string, seen map[string]bool) (reaches, known bool) {
	if seen[from.chain] {
		return false, true
	}
	seen[from.chain] = true
	c, err := r.content(from)
	if err != nil {
		return false, false
	}
	for _, rule := range c.rules {
		for _, e := range rule.exprs {
			to, isMap := e.jumps()
			if isMap {
				return false, false
			}
			if to == "" {
				continue
			}
			if to == target {
				return true, true
			}
			if reaches, known := r.reaches(chainKey{from.family, from.table, to}, target, seen); reaches || !known {
				return reaches, known
			}
		}
	}
	return false, true
}

// jumps returns the chain that an expression jumps or goes to, and whether it
// looks its verdict up in a map.
func (e expression) jumps() (chain string, isMap bool) {
	d, err := netlink.NewAttributeDecoder(e.data)
	if err != nil {
		return "", false
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch {
		case e.name == "lookup" && d.Type() == unix.NFTA_LOOKUP_DREG:
			isMap = d.Uint32() == unix.NFT_REG_VERDICT
		case e.name == "immediate" && d.Type() == unix.NFTA_IMMEDIATE_DATA:
			d.Nested(func(data *netlink.AttributeDecoder) error {
				for data.Next() {
					if data.Type() != unix.NFTA_DATA_VERDICT {
						continue
					}
					data.Nested(func(v *netlink.AttributeDecoder) error {
						for v.Next() {
							if v.Type() == unix.NFTA_VERDICT_CHAIN {
								chain = v.String()
							}
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	return chain, isMap
}

// content lists a chain's rules.
func (r *Resolver) content(key chainKey) (*content, error) {
	if c := r.contents[key]; c != nil {
		return c, nil
	}
	rules, err := dumpRules(r.conn, familyNumber(key.family), key.table, key.chain)
	if err != nil {
		return nil, err
	}
	c := &content{rules: rules}
	r.contents[key] = c
	return c, nil
}

// A table with no more than this is listed as a whole: nft takes longer to
// start than to list it.
const (
	smallTableChains = 64
	smallTableRules  = 256
)

// list asks nft for the texts of a chain.
func (r *Resolver) list(ctx context.Context, key chainKey, c *content) {
	if c.texts != nil || c.err != nil {
		return
	}
	r.listTable(ctx, key)
	if c.texts != nil {
		return
	}
	// -a: with handles; -s: without counters and other state, which are not
	// part of the rule.
	text, err := r.run(ctx, "nft", "-a", "-s", "list", "chain", key.family, key.table, key.chain)
	if err != nil {
		if ctx.Err() == nil {
			c.err = err
		}
		return
	}
	for _, listed := range parseList(text) {
		if listed.name == key.chain {
			c.take(listed)
		}
	}
	if c.texts == nil {
		c.err = errors.New("its list does not agree with the kernel's")
	}
}

// listTable asks nft once for the texts of all chains of a chain's table when
// it is small: the packet has probably met several of them. What fails is left
// to list.
func (r *Resolver) listTable(ctx context.Context, key chainKey) {
	table := chainKey{family: key.family, table: key.table}
	if r.listed[table] {
		return
	}
	r.listed[table] = true
	chains := 0
	for _, ch := range r.chains {
		if ch.family == key.family && ch.table == key.table {
			chains++
		}
	}
	if chains > smallTableChains {
		return
	}
	rules, err := dumpRules(r.conn, familyNumber(key.family), key.table, "")
	if err != nil || len(rules) > smallTableRules {
		return
	}
	r.listWhole(ctx, table)
}

// listWhole asks nft for the texts of all chains of a table.
func (r *Resolver) listWhole(ctx context.Context, table chainKey) {
	text, err := r.run(ctx, "nft", "-a", "-s", "list", "table", table.family, table.table)
	if err != nil {
		return
	}
	for _, listed := range parseList(text) {
		if c, err := r.content(chainKey{table.family, table.table, listed.name}); err == nil && c.texts == nil {
			c.take(listed)
		}
	}
}

// take takes over the texts of a chain if the list agrees with the kernel's.
func (c *content) take(listed listedChain) {
	if len(listed.rules) != len(c.rules) {
		return
	}
	texts := map[uint64]string{}
	for i, rule := range listed.rules {
		// The order is checked too: a comment is anybody's text, and could
		// look like a handle.
		if rule.handle != c.rules[i].handle {
			return
		}
		texts[rule.handle] = rule.text
	}
	c.texts = texts
}

// userComment returns the comment in a rule's user data, which nft writes as
// type, length, value (NFTNL_UDATA_RULE_COMMENT, libnftnl/udata.h).
func userComment(data []byte) string {
	for len(data) >= 2 {
		kind, length := data[0], int(data[1])
		if len(data) < 2+length {
			return ""
		}
		if kind == 0 {
			return string(bytes.TrimRight(data[2:2+length], "\x00"))
		}
		data = data[2+length:]
	}
	return ""
}

// managed returns the table as iptables-nft-save prints it when iptables-nft
// manages the chain, else nil: the table has one of iptables' names, all its
// base chains are iptables' own, every rule has the counter that iptables-nft
// always adds, and the tool shows as many rules.
func (r *Resolver) managed(ctx context.Context, key chainKey) *savedTable {
	if key.family != "ip" && key.family != "ip6" || legacyHooks(key.table) == nil {
		return nil
	}
	for _, ch := range r.chains {
		if ch.family != key.family || ch.table != key.table || !ch.base {
			continue
		}
		_, priority := legacyChain(key.table, ch.hook)
		if !slices.Contains(legacyHooks(key.table), ch.hook) || ch.name != strings.ToUpper(string(ch.hook)) || ch.priority != priority {
			return nil
		}
	}
	c, err := r.content(key)
	if err != nil {
		return nil
	}
	for _, rule := range c.rules {
		if !slices.ContainsFunc(rule.exprs, func(e expression) bool { return e.name == "counter" }) {
			return nil
		}
	}
	id := key.family + " " + key.table
	s, ok := r.iptables[id]
	if !ok {
		s = r.save(ctx, key.family, key.table, "nft")
		if ctx.Err() == nil {
			r.iptables[id] = s
		}
	}
	if s.table == nil || s.table.chains[key.chain] == nil || len(s.table.chains[key.chain].rules) != len(c.rules) {
		return nil
	}
	return s.table
}

func (r *Resolver) resolveLegacy(ctx context.Context, hit *Hit) error {
	rule := &hit.Rule
	unresolved := func(reason string, err error) error {
		rule.Text = fmt.Sprintf("%s %s rule %d", rule.Table, rule.Chain, rule.Number)
		return &UnresolvedError{NetNS: r.name, Rule: *rule, Reason: reason, Err: err}
	}
	s := r.legacyTable(ctx, rule.Family, rule.Table)
	if s.err != nil {
		return unresolved("iptables-legacy-save did not tell", s.err)
	}
	if reason := s.table.tell(hit); reason != "" {
		return unresolved(reason, nil)
	}
	return nil
}

// legacyTable reads a legacy table that exists; asking for another one would
// make it.
func (r *Resolver) legacyTable(ctx context.Context, family, table string) saved {
	id := family + " " + table
	if s, ok := r.legacy[id]; ok {
		return s
	}
	tables, tables6, err := LegacyTables(r.ns)
	if err != nil {
		return saved{err: err}
	}
	if family == "ip6" {
		tables = tables6
	}
	if !slices.Contains(tables, table) {
		return saved{err: fmt.Errorf("there is no legacy table %s in family %s", table, family)}
	}
	s := r.save(ctx, family, table, "legacy")
	if ctx.Err() == nil {
		r.legacy[id] = s
	}
	return s
}

// save runs the save tool of a variant, "legacy" or "nft".
func (r *Resolver) save(ctx context.Context, family, table, variant string) saved {
	prefix := "iptables"
	if family == "ip6" {
		prefix = "ip6tables"
	}
	text, err := r.run(ctx, prefix+"-"+variant+"-save", "-t", table)
	if errors.Is(err, exec.ErrNotFound) {
		// Some distributions have one variant only, without its name.
		version, plain := r.run(ctx, prefix+"-save", "-V")
		if plain == nil && strings.Contains(version, "nf_tables") == (variant == "nft") {
			text, err = r.run(ctx, prefix+"-save", "-t", table)
		}
	}
	if err != nil {
		return saved{err: err}
	}
	t := parseSave(text)[table]
	if t == nil {
		return saved{err: fmt.Errorf("%s-%s-save shows no table %s", prefix, variant, table)}
	}
	return saved{table: t}
}

// nftName is what nft takes for a name (its scanner's "string").
var nftName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9/\\_.-]*$`)

// run runs a tool in the namespace, without a shell.
func (r *Resolver) run(ctx context.Context, name string, args ...string) (string, error) {
	// nft joins its arguments and parses them as one text, and the kernel
	// takes any name: without this a table's name could be a command.
	for i := slices.Index(args, "list") + 1; name == "nft" && i < len(args); i++ {
		if !nftName.MatchString(args[i]) {
			return "", fmt.Errorf("nft's command line cannot name %q", args[i])
		}
	}
	path, err := r.look(name)
	if err != nil {
		return "", err
	}
	var out []byte
	// The child is forked by this very thread, so it is in the namespace.
	err = r.ns.Do(func() error {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a terminal's interrupt is for pathtrace alone
		var err error
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			line, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
			return "", fmt.Errorf("%s: %w: %q", name, err, line)
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(out), nil
}

// lookTool finds a tool on PATH, or where administrators' tools are when PATH
// is an ordinary user's.
func lookTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if err == nil {
			break
		}
		var elsewhere error
		if path, elsewhere = exec.LookPath(dir + "/" + name); elsewhere == nil {
			err = nil
		}
	}
	return path, err
}
