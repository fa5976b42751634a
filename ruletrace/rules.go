package ruletrace

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/textlog"
)

// maxRules bounds how many bytes of rules are read: a node with a hundred thousand
// services has some tens of megabytes.
const maxRules = 32 << 20

// Rules are the rules of a namespace as somebody saved them.
type Rules struct {
	// Ruleset has them in the form that a Resolver gives, with nothing but what the
	// text says: where it has only one table, there may be others.
	Ruleset
	Problems textlog.Problems

	saved map[savedKey]*savedTable
	maps  map[listedMap][]string
	// listed are chains that nft lists and that iptables has saved, too, as nft has
	// them: that is how nft traces them.
	listed map[chainID]*Chain
	// texts are the rules of chains by their words, made when they are asked for.
	texts map[*Chain]map[string][]int
}

// savedKey names a table of iptables.
type savedKey struct{ family, table string }

// ReadRules reads what iptables-save, ip6tables-save, iptables -S or nft list
// ruleset print, with -a or without, with counters or without, one after the other
// in one text. Whether the text of iptables is that of legacy tables is told by
// the heading that iptables-save writes; without it they are taken for legacy
// ones. iptables -S names no table: that follows from its built-in chains. Only
// addresses tell that rules without a heading are IPv6's.
//
// Lines that are not understood become problems, and the rest is read; name is the
// file's in the error that says that nothing was, or that the source failed.
func ReadRules(name string, r io.Reader) (*Rules, error) {
	const want = "the text of iptables-save, iptables -S or nft list ruleset"
	data, err := io.ReadAll(io.LimitReader(r, maxRules+1))
	rules := &Rules{saved: map[savedKey]*savedTable{}, maps: map[listedMap][]string{}}
	if err != nil {
		return rules, fmt.Errorf("read %s: %w", name, err)
	}
	looks := textlog.Looks(data[:min(len(data), 4<<10)])
	switch looks {
	case "", "a ruleset", "a trace of rules", "a list of conntrack entries":
	case "JSON":
		return rules, textlog.Unusable(name, "JSON", want+"; nft without -j")
	default:
		return rules, textlog.Unusable(name, looks, want)
	}
	if len(data) > maxRules {
		data = data[:maxRules]
		rules.Problems.Add(0, fmt.Sprintf("only the first %d MB are read", maxRules>>20))
	}
	s := sections{rules: rules, fallback: familyOf(string(data))}
	for line := range strings.Lines(string(data)) {
		s.line(strings.TrimRight(line, "\r\n"))
	}
	s.end()
	rules.sort()
	if len(rules.Chains) == 0 {
		if looks == "a ruleset" {
			looks = ""
		}
		return rules, textlog.Unusable(name, looks, want)
	}
	return rules, nil
}

// Add adds rules of the same namespace that another text has. A chain that both
// have is taken from the first, unless only the other has it in the words of
// iptables.
func (r *Rules) Add(more *Rules) {
	for _, c := range more.Chains {
		known := r.Ruleset.chain(c.id())
		switch {
		case known == nil:
			r.Chains = append(r.Chains, c)
		case known.Backend == NFT && c.Backend == IPTablesNFT:
			r.list(*known)
			*known = c
		case known.Backend == IPTablesNFT && c.Backend == NFT:
			r.list(c)
		}
	}
	r.texts = nil
	for key, table := range more.saved {
		if r.saved[key] == nil {
			r.saved[key] = table
		}
	}
	for key, elements := range more.maps {
		if r.maps[key] == nil {
			r.maps[key] = elements
		}
	}
	r.sort()
}

// list keeps a chain as nft lists it.
func (r *Rules) list(c Chain) {
	if r.listed == nil {
		r.listed = make(map[chainID]*Chain)
	}
	r.listed[c.id()] = &c
}

// sections takes a text apart into what the different tools have printed.
type sections struct {
	rules  *Rules
	number int // of the line
	// family and backend are what the last heading of iptables-save says; family is
	// empty where none does, and then fallback is that of the whole text.
	family, fallback string
	backend          Backend
	// text is the section so far, of the form; its first line has a number, too.
	text  strings.Builder
	form  form
	first int
	depth int // of braces in nft's
	rows  int // -A and -N lines of iptables -S
}

type form int

const (
	noForm form = iota
	savedForm
	specForm // iptables -S
	nftForm
)

func (s *sections) line(line string) {
	s.number++
	plain := strings.TrimSpace(line)
	switch s.form {
	case savedForm:
		s.keep(plain)
		if plain == "COMMIT" {
			s.end()
		}
		return
	case nftForm:
		s.keep(line)
		if s.depth += braces(opening(line)); s.depth <= 0 {
			s.end()
		}
		return
	case specForm:
		if isSpec(plain) && !(strings.HasPrefix(plain, "-P ") && s.rows > 0) {
			s.spec(plain)
			return
		}
		s.end()
	}
	switch {
	case plain == "":
	case strings.HasPrefix(plain, "#"):
		s.heading(plain)
	case strings.HasPrefix(plain, "*"):
		s.begin(savedForm, plain)
	case isSpec(plain):
		s.begin(specForm, "")
		s.spec(plain)
	case strings.HasPrefix(plain, "table ") && strings.HasSuffix(opening(plain), "{"):
		s.begin(nftForm, line)
		s.depth = 1
	default:
		s.rules.Problems.Add(s.number, "neither a table nor a rule: "+textlog.Quote(line))
	}
}

func isSpec(line string) bool {
	return strings.HasPrefix(line, "-P ") || strings.HasPrefix(line, "-N ") || strings.HasPrefix(line, "-A ")
}

// heading reads "# Generated by ip6tables-save v1.8.9 (nf_tables) on …".
func (s *sections) heading(line string) {
	if !strings.HasPrefix(line, "# Generated by ") {
		return
	}
	s.family, s.backend = "ip", IPTablesLegacy
	if strings.Contains(line, "ip6tables") {
		s.family = "ip6"
	}
	if strings.Contains(line, "nf_tables") {
		s.backend = IPTablesNFT
	}
}

func (s *sections) begin(f form, line string) {
	s.form, s.first, s.rows = f, s.number, 0
	s.text.Reset()
	s.keep(line)
}

func (s *sections) keep(line string) {
	s.text.WriteString(line)
	s.text.WriteByte('\n')
}

// spec turns a line of iptables -S into one of iptables-save.
func (s *sections) spec(line string) {
	w := strings.Fields(line)
	switch {
	case w[0] == "-P" && len(w) >= 3:
		s.keep(":" + w[1] + " " + w[2])
	case w[0] == "-N" && len(w) >= 2:
		s.rows++
		s.keep(":" + w[1] + " -")
	case w[0] == "-A":
		s.rows++
		s.keep(specCounters(line))
	default:
		s.rules.Problems.Add(s.number, "neither a chain nor a rule: "+textlog.Quote(line))
	}
}

// specCounters leaves out "-c packets bytes", which -v adds to a rule.
func specCounters(line string) string {
	before, after, found := strings.Cut(line, " -c ")
	f := strings.SplitN(after, " ", 3)
	if !found || len(f) < 2 || strings.Trim(f[0]+f[1], "0123456789") != "" || strings.Contains(before, `"`) {
		return line
	}
	return strings.Join(append([]string{before}, f[2:]...), " ")
}

// end takes the section over.
func (s *sections) end() {
	text, form := s.text.String(), s.form
	s.form = noForm
	switch form {
	case savedForm:
		s.tables(text)
	case specForm:
		if strings.TrimSpace(text) != "" {
			s.tables("*" + builtInTable(text) + text)
		}
	case nftForm:
		s.listed(text)
	}
}

// builtInTable is the table that has the built-in chains of a text of :CHAIN lines.
func builtInTable(text string) string {
	var chains []Hook
	for line := range strings.Lines(text) {
		name, policy, _ := strings.Cut(strings.TrimSpace(line), " ")
		if hook := Hook(strings.ToLower(strings.TrimPrefix(name, ":"))); strings.HasPrefix(name, ":") && policy != "-" {
			chains = append(chains, hook)
		}
	}
	for _, table := range []string{"filter", "nat", "mangle", "raw"} {
		hooks := legacyHooks(table)
		if len(chains) == len(hooks) && !slices.ContainsFunc(hooks, func(h Hook) bool { return !slices.Contains(chains, h) }) {
			return table
		}
	}
	if len(chains) == 3 && slices.Contains(chains, Postrouting) {
		return "nat" // before Linux 2.6.36 it had no INPUT
	}
	return ""
}

// tables takes tables of iptables over.
func (s *sections) tables(text string) {
	family := cmp.Or(s.family, familyOf(text), s.fallback, "ip")
	for name, table := range parseSave(text) {
		name, _, _ = strings.Cut(name, " ")
		key := savedKey{family, name}
		switch {
		case legacyHooks(name) == nil:
			s.rules.Problems.Add(s.first, "no table of iptables: "+textlog.Quote(name))
			continue
		case s.rules.saved[key] != nil:
			s.rules.Problems.Add(s.first, fmt.Sprintf("table %s %s is there twice; the first is taken", family, name))
			continue
		}
		lost := 0
		for line := range strings.Lines(text) {
			if strings.HasPrefix(strings.TrimLeft(line, "[0123456789:] "), "-A ") {
				lost++
			}
		}
		for _, c := range table.chains {
			lost -= len(c.rules)
		}
		if lost > 0 {
			s.rules.Problems.Add(s.first, fmt.Sprintf("table %s: %d rules of chains that it does not have", name, lost))
		}
		s.rules.saved[key] = table
		for _, c := range legacyChains(family, name, table) {
			if s.backend == IPTablesNFT {
				if !c.Read {
					continue // iptables-nft has a base chain only where it was used
				}
				c.Backend = IPTablesNFT
				for i := range c.Rules {
					c.Rules[i].Backend = IPTablesNFT
				}
			}
			s.rules.Chains = append(s.rules.Chains, c)
		}
	}
}

// familyOf tells rules of IPv4 and IPv6 by the first address in them, or by the name
// of a protocol; "" without either.
func familyOf(text string) string {
	for word := range strings.FieldsSeq(text) {
		if word == "ipv6-icmp" || word == "icmp6-port-unreachable" {
			return "ip6"
		}
		address, _, _ := strings.Cut(word, "/")
		if a, err := netip.ParseAddr(address); err == nil {
			if a.Is6() {
				return "ip6"
			}
			return "ip"
		}
	}
	return ""
}

// listed takes tables of nft over, without those of armings and those that are out
// of use.
func (s *sections) listed(text string) {
	maps.Copy(s.rules.maps, parseVerdictMaps(text))
	for _, l := range parseList(text) {
		if strings.HasPrefix(l.table, tablePrefix) || l.dormant {
			continue
		}
		c := Chain{Read: true, BaseChain: BaseChain{Backend: NFT, Family: l.family, Table: l.table, Name: l.name}}
		if l.hook != "" {
			if c.BaseChain, c.Base = l.base(); !c.Base {
				s.rules.Problems.Add(s.first, fmt.Sprintf("chain %s %s %s: its hook is not understood: %s", l.family, l.table, l.name, textlog.Quote(l.hook)))
				s.rules.Incomplete = true
			}
		}
		for i, rule := range l.rules {
			c.Rules = append(c.Rules, Rule{
				Backend: NFT, Family: l.family, Table: l.table, Chain: l.name,
				Number: i + 1, Handle: rule.handle, Text: withoutState(rule.text), Comment: listedComment(rule.text),
			})
		}
		s.rules.Chains = append(s.rules.Chains, c)
	}
}

// Resolve fills in what the rules say about a hit of a saved trace, as
// Resolver.Resolve does for one of this machine: Rule's Backend, Number, Text and
// Comment; Verdict and Target; Hook, Priority, ChainType and Base. A rule of nft is
// known by its handle where both tell it, otherwise by its text. Where several have
// the same text, Number is 0.
//
// An *UnresolvedError leaves everything as far as it is known.
func (r *Rules) Resolve(hit *Hit) error {
	if hit.Legacy {
		return r.resolveSaved(hit)
	}
	own := r.chain(hit.Rule.Family, hit.Rule.Table, hit.Rule.Chain)
	if own == nil {
		return r.unresolved(hit, "the rules have no such chain")
	}
	hit.Rule.Backend = own.Backend
	base := own
	if !own.Base {
		base = r.chain(hit.Rule.Family, hit.Rule.Table, hit.Base)
	}
	if base != nil && base.Base {
		hit.Base, hit.Hook, hit.Priority, hit.ChainType = base.Name, base.Hook, base.Priority, base.Type
	}
	switch hit.Kind {
	case HitPolicy:
		hit.Rule.Text = "policy " + string(hit.Verdict)
		if own.Backend != NFT {
			hit.Rule.Text = fmt.Sprintf(":%s %s", own.Name, strings.ToUpper(string(hit.Verdict)))
		}
		return nil
	case HitReturn:
		return nil
	}
	return r.match(hit, own)
}

// match finds the rule of a hit in its chain: where iptables saved that, by nft's
// listing of it.
func (r *Rules) match(hit *Hit, own *Chain) error {
	found := r.places(hit, own)
	if listed := r.listed[own.id()]; len(found) == 0 && listed != nil && len(listed.Rules) == len(own.Rules) {
		found = r.places(hit, listed)
	}
	if len(found) == 0 {
		return r.unresolved(hit, "the chain has no such rule")
	}
	handle := hit.Rule.Handle
	hit.Rule = own.Rules[found[0]]
	if len(found) > 1 {
		hit.Rule.Number, hit.Rule.Handle = 0, 0
	}
	if hit.Rule.Handle == 0 {
		hit.Rule.Handle = handle
	}
	if hit.Verdict == Drop && r.rejects(hit.Rule) {
		hit.Verdict = Reject
	}
	return nil
}

// places are the places in a chain of the rules that a hit may be of.
func (r *Rules) places(hit *Hit, c *Chain) []int {
	for i := range c.Rules {
		if hit.Rule.Handle != 0 && c.Rules[i].Handle == hit.Rule.Handle {
			return []int{i}
		}
	}
	if hit.Rule.Text == "" {
		return nil
	}
	return r.byText(c)[plainText(hit.Rule.Text)]
}

// rejects reports whether a rule tells the sender about a drop.
func (r *Rules) rejects(rule Rule) bool {
	verdict, _ := listedVerdict(listedWords(rule.Text))
	if rule.Backend != NFT {
		verdict, _ = savedVerdict(rule.Text, func(string) bool { return false })
	}
	return verdict == Reject
}

// resolveSaved resolves a hit that has the number of a rule of iptables.
func (r *Rules) resolveSaved(hit *Hit) error {
	table := r.saved[savedKey{hit.Rule.Family, hit.Rule.Table}]
	if table == nil {
		return r.unresolved(hit, "the rules have no such table")
	}
	if reason := table.tell(hit); reason != "" {
		return r.unresolved(hit, reason)
	}
	return nil
}

func (r *Rules) unresolved(hit *Hit, reason string) error {
	rule := &hit.Rule
	if rule.Text == "" {
		switch {
		case rule.Handle != 0:
			rule.Text = fmt.Sprintf("%s %s handle %d", rule.Table, rule.Chain, rule.Handle)
		case rule.Number != 0:
			rule.Text = fmt.Sprintf("%s %s rule %d", rule.Table, rule.Chain, rule.Number)
		}
	}
	return &UnresolvedError{Rule: *rule, Reason: reason}
}

// chain is a chain of nftables, be it listed by nft or by iptables. Rules without a
// heading are taken for legacy ones, and may be it as well.
func (r *Rules) chain(family, table, name string) *Chain {
	if c := r.Ruleset.chain(chainID{family, table, name, false}); c != nil {
		return c
	}
	return r.Ruleset.chain(chainID{family, table, name, true})
}

// byText are the places of a chain's rules by their texts.
func (r *Rules) byText(c *Chain) map[string][]int {
	if r.texts == nil {
		r.texts = make(map[*Chain]map[string][]int)
	}
	texts := r.texts[c]
	if texts == nil {
		texts = make(map[string][]int, len(c.Rules))
		for i, rule := range c.Rules {
			text := plainText(rule.Text)
			texts[text] = append(texts[text], i)
		}
		r.texts[c] = texts
	}
	return texts
}

// plainText is a rule's text without what it has counted and with one space between
// words: where a rule takes several lines, these are not always indented alike.
func plainText(text string) string { return strings.Join(strings.Fields(withoutState(text)), " ") }
