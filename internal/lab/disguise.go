//go:build linux

package lab

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// disguise gives a network other addresses and interface names than its author
// did, the same ones wherever they are spoken of: in what is built, in the
// rules, in the truth. An explanation that rests on a name or on an address by
// accident becomes wrong. Each primitive of the builder disguises what it hands
// to the kernel or to a tool, so scenarios are written in their authors' words.
//
// A nil disguise changes nothing.
type disguise struct {
	seed uint64
	// names are the new names of interfaces; no two are the same.
	names map[string]string
	// translated are the addresses that follow from others by arithmetic.
	translated map[netip.Addr]netip.Addr
	// given are all new addresses.
	given map[netip.Addr]bool
	// plain are the words that were left as they are; nil when all is built.
	plain map[string]bool
	err   error
}

// prefixTranslation is what a prefix translator does to an address (RFC 6296).
type prefixTranslation struct {
	inside, outside netip.Prefix
	address         netip.Addr
}

func newDisguise(seed uint64, translations []prefixTranslation) *disguise {
	if seed == 0 {
		return nil
	}
	d := &disguise{
		seed: seed, names: make(map[string]string), given: make(map[netip.Addr]bool), plain: make(map[string]bool),
		translated: make(map[netip.Addr]netip.Addr),
	}
	for _, t := range translations {
		d.translated[translatePrefix(t.address, t.inside, t.outside)] = translatePrefix(d.address(t.address), d.prefix(t.inside), d.prefix(t.outside))
	}
	return d
}

// number is a random number for a purpose, always the same.
func (d *disguise) number(purpose string) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", d.seed, purpose))
	return binary.BigEndian.Uint64(sum[:])
}

// fail keeps the first problem.
func (d *disguise) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("disguise: "+format, args...)
	}
}

// problem is the first problem that there was.
func (d *disguise) problem() error {
	if d == nil {
		return nil
	}
	return d.err
}

// iface is the new name of an interface.
func (d *disguise) iface(name string) string {
	if d == nil || name == "lo" {
		return name
	}
	if other, ok := d.names[name]; ok {
		return other
	}
	for word := range d.plain {
		if speaksOf(word, name) {
			d.fail("the interface %s is made after %q spoke of it", name, word)
		}
	}
	for attempt := 0; ; attempt++ {
		other := restyle(name, d.number(fmt.Sprintf("interface %s %d", name, attempt)))
		if other != name && !slices.Contains(slices.Collect(maps.Values(d.names)), other) {
			d.names[name] = other
			return other
		}
	}
}

// restyle makes a name of the same kind: what the kernel, udev and Docker call
// such interfaces.
func restyle(name string, n uint64) string {
	small := n >> 32 % 9
	switch {
	case strings.HasPrefix(name, "veth"):
		return fmt.Sprintf("veth%07x", n&0xfffffff)
	case strings.HasPrefix(name, "br-"):
		return fmt.Sprintf("br-%012x", n&0xffffffffffff)
	case strings.HasPrefix(name, "docker"), strings.HasPrefix(name, "br"):
		return []string{fmt.Sprintf("br-%012x", n&0xffffffffffff), fmt.Sprintf("docker%d", small+1), fmt.Sprintf("virbr%d", small), fmt.Sprintf("br%d", n%4094)}[n%4]
	case strings.HasPrefix(name, "e"):
		return []string{fmt.Sprintf("eth%d", small), fmt.Sprintf("ens%d", n>>8%256), fmt.Sprintf("enp%ds%d", n>>8%32, small), fmt.Sprintf("eno%d", small+1)}[n%4]
	case strings.HasPrefix(name, "tun"), strings.HasPrefix(name, "tap"), strings.HasPrefix(name, "ppp"), strings.HasPrefix(name, "gre"):
		return fmt.Sprintf("%s%d", name[:3], n%100)
	case strings.HasPrefix(name, "wg"):
		return fmt.Sprintf("wg%d", n%100)
	}
	return fmt.Sprintf("%s%d", []string{"lan", "zone", "trunk", "seg", "link", "uplink"}[n%6], n>>8%1000)
}

// address is the new address of a machine.
func (d *disguise) address(a netip.Addr) netip.Addr {
	if d == nil || !a.IsValid() {
		return a
	}
	other, ok := d.translated[a]
	if !ok {
		other = d.move(a)
	}
	d.note(other)
	return other
}

func (d *disguise) note(a netip.Addr) {
	if d.plain != nil {
		d.given[a] = true
	}
}

// move changes the network of an address and keeps what two addresses have in
// common: those that share the first n bits do so afterwards, so that prefixes
// contain what they contained. (J. Fan, J. Xu, M. Ammar, S. Moon:
// Prefix-preserving IP address anonymization, 2004.)
func (d *disguise) move(a netip.Addr) netip.Addr {
	first, end := movable(a)
	bytes := a.AsSlice()
	for bit := first; bit < end; bit++ {
		common := netip.PrefixFrom(a, bit).Masked()
		if d.number("bit after "+common.String())&1 == 1 {
			bytes[bit/8] ^= 0x80 >> (bit % 8)
		}
	}
	other, _ := netip.AddrFromSlice(bytes)
	return other.WithZone(a.Zone())
}

// ranges are the addresses that may move, and between which bits so that they
// stay of their kind: private, documentation in the part of the world.
var ranges = []struct {
	prefix netip.Prefix
	end    int
}{
	{netip.MustParsePrefix("10.0.0.0/8"), 24},      // RFC 1918
	{netip.MustParsePrefix("172.16.0.0/12"), 16},   // RFC 1918: Docker takes a /16 each
	{netip.MustParsePrefix("192.168.0.0/16"), 24},  // RFC 1918
	{netip.MustParsePrefix("203.0.0.0/8"), 24},     // around RFC 5737's TEST-NET-3; all unicast
	{netip.MustParsePrefix("198.51.100.0/22"), 24}, // around TEST-NET-2
	{netip.MustParsePrefix("192.0.2.0/23"), 24},    // TEST-NET-1
	{netip.MustParsePrefix("fd00::/8"), 64},        // RFC 4193
	{netip.MustParsePrefix("2001:db8::/32"), 48},   // RFC 3849
}

// movable are the bits of an address that may change: none of those that have
// a meaning, as dns.google's.
func movable(a netip.Addr) (first, end int) {
	for _, r := range ranges {
		if r.prefix.Contains(a.WithZone("")) {
			return r.prefix.Bits(), r.end
		}
	}
	return 0, 0
}

// prefix is where the addresses of a prefix move to. One with host bits is an
// address with the length of its network.
func (d *disguise) prefix(p netip.Prefix) netip.Prefix {
	if d == nil {
		return p
	}
	if p != p.Masked() || p.IsSingleIP() {
		return netip.PrefixFrom(d.address(p.Addr()), p.Bits())
	}
	return netip.PrefixFrom(d.move(p.Addr()), p.Bits()).Masked()
}

// macPrefix is what the hardware addresses of the lab begin with.
const macPrefix = "02:00:5e:10:00:"

// mac is the new beginning of hardware addresses: of those that are
// administered locally.
func (d *disguise) mac() string {
	if d == nil {
		return macPrefix
	}
	n := d.number("mac")
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:", byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
}

// words finds what may be a name, an address or a prefix.
var words = regexp.MustCompile(`[A-Za-z0-9_.:-]+(/[0-9]+\b)?`)

// text is a text with new names and addresses.
func (d *disguise) text(text string) string {
	if d == nil {
		return text
	}
	return words.ReplaceAllStringFunc(strings.ReplaceAll(text, macPrefix, d.mac()), d.word)
}

func (d *disguise) texts(all []string) []string {
	other := slices.Clone(all)
	for i := range other {
		other[i] = d.text(other[i])
	}
	return other
}

func (d *disguise) word(word string) string {
	if other, ok := d.known(word); ok {
		return other
	}
	// At the end of a phrase.
	if core := strings.TrimRight(word, ".:-"); core != word {
		if other, ok := d.known(core); ok {
			return other + word[len(core):]
		}
	}
	if low, high, ok := strings.Cut(word, "-"); ok { // a range
		low, isLow := d.known(low)
		high, isHigh := d.known(high)
		if isLow && isHigh {
			return low + "-" + high
		}
	}
	d.keep(word)
	return word
}

// known is the new form of a name, an address or a prefix.
func (d *disguise) known(word string) (string, bool) {
	if other, ok := d.names[word]; ok {
		return other, true
	}
	if a, err := netip.ParseAddr(word); err == nil {
		return d.address(a).String(), true
	}
	if p, err := netip.ParsePrefix(word); err == nil {
		return d.prefix(p).String(), true
	}
	if a, err := netip.ParseAddrPort(word); err == nil {
		return netip.AddrPortFrom(d.address(a.Addr()), a.Port()).String(), true
	}
	return "", false
}

var ipv4Address = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)

// keep leaves a word as it is, and fails if it hides what should have changed.
func (d *disguise) keep(word string) {
	for name := range d.names {
		if speaksOf(word, name) {
			d.fail("%q speaks of the interface %s in a way that is not understood", word, name)
		}
	}
	if a, err := netip.ParseAddr(ipv4Address.FindString(word)); err == nil {
		if first, end := movable(a); first < end {
			d.fail("%q speaks of %s in a way that is not understood", word, a)
		}
	}
	if d.plain != nil {
		d.plain[word] = true
	}
}

// speaksOf reports whether a word contains a name that is not a part of a
// longer one.
func speaksOf(word, name string) bool {
	return strings.Contains(word, name) && regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).MatchString(word)
}

// translatePrefix is the address that a prefix translator makes of another, for
// prefixes longer than /48: the first 16 bits of the interface part that are
// not 0xffff take what keeps the checksum (RFC 6296, 3.5).
func translatePrefix(a netip.Addr, inside, outside netip.Prefix) netip.Addr {
	from, to, bytes := inside.Addr().As16(), outside.Addr().As16(), a.As16()
	word := func(b []byte, i int) uint32 { return uint32(binary.BigEndian.Uint16(b[2*i:])) }
	var sum uint32
	for i := range 4 {
		sum += word(from[:], i) + 0xffff - word(to[:], i)
	}
	copy(bytes[:8], to[:8])
	at := 4
	for at < 7 && word(bytes[:], at) == 0xffff {
		at++
	}
	sum += word(bytes[:], at)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		sum = 0
	}
	binary.BigEndian.PutUint16(bytes[2*at:], uint16(sum))
	return netip.AddrFrom16(bytes)
}

// disguised is the scenario in its new names and addresses.
func (s Scenario) disguised(d *disguise) Scenario {
	if d == nil {
		return s
	}
	s.Picture = d.text(s.Picture)
	s.Command = d.texts(s.Command)
	s.Try = slices.Clone(s.Try)
	for i := range s.Try {
		s.Try[i] = d.texts(s.Try[i])
	}
	s.Target, s.Resolver = d.address(s.Target), d.address(s.Resolver)
	s.Request, s.Reply, s.Carried = d.texts(s.Request), d.texts(s.Reply), d.texts(s.Carried)
	translations := s.translations
	s.translations = func(backend Backend) []Translation {
		all := slices.Clone(translations(backend))
		for i := range all {
			t := &all[i]
			t.From, t.To, t.Rule = d.address(t.From), d.address(t.To), d.rule(t.Rule)
		}
		return all
	}
	s.Faults = slices.Clone(s.Faults)
	for i := range s.Faults {
		s.Faults[i] = s.Faults[i].disguised(d)
	}
	return s
}

func (f Fault) disguised(d *disguise) Fault {
	f.Summary = d.text(f.Summary)
	if f.Probe != nil {
		probe := *f.Probe
		probe.Target, probe.Flags = d.address(probe.Target), d.texts(probe.Flags)
		f.Probe = &probe
	}
	f.outcome.Interface = d.text(f.outcome.Interface)
	if rule := f.rule; rule != nil {
		f.rule = func(backend Backend) Rule { return d.rule(rule(backend)) }
	}
	return f
}

func (d *disguise) rule(r Rule) Rule {
	r.Text, r.Comment = d.text(r.Text), d.text(r.Comment)
	return r
}

// disguiseScenario gives the scenario the names and addresses that were built, and
// fails if something got a name or an address that is not of them.
func (b *builder) disguiseScenario() {
	b.do("disguise", func() error {
		b.network.Scenario = b.network.Scenario.disguised(b.disguise)
		if b.disguise == nil {
			return nil
		}
		b.network.Truth()
		b.disguise.plain = nil
		return errors.Join(b.disguise.err, b.undisguised())
	})
}

// undisguised finds interfaces and addresses that were made without asking the
// disguise.
func (b *builder) undisguised() error {
	var problems []error
	names := slices.Collect(maps.Values(b.disguise.names))
	for _, node := range b.nodes {
		links, err := node.links()
		if err != nil {
			return err
		}
		for _, link := range links {
			name := link.Attrs().Name
			if name != "lo" && !slices.Contains(names, name) {
				problems = append(problems, fmt.Errorf("the interface %s in %s has not got its name from the disguise", name, node.name))
			}
			addrs, err := retry(func() ([]netlink.Addr, error) { return node.handle.AddrList(link, netlink.FAMILY_ALL) })
			if err != nil {
				return err
			}
			for _, addr := range addrs {
				a, _ := netip.AddrFromSlice(addr.IP)
				if a = a.Unmap(); a.IsGlobalUnicast() && !b.disguise.given[a] {
					problems = append(problems, fmt.Errorf("%s of %s in %s has not come from the disguise", a, name, node.name))
				}
			}
		}
	}
	return errors.Join(problems...)
}

// clutterTranslations puts rules that do nothing for the scenario's packets
// before and behind those that translate.
func (b *builder) clutterTranslations() {
	for _, translation := range b.network.Scenario.translations(b.network.Options.Backend) {
		b.clutter(translation.NetNS, translation.Rule)
	}
}

// clutterFault does so for the rule that ends a packet.
func (b *builder) clutterFault() {
	if truth := b.network.Truth(); truth.Rule.Chain != "" {
		b.clutter(truth.NetNS, truth.Rule)
	}
}

// clutter puts rules that do nothing for the scenario's packets into the chain
// of another, before and behind it.
func (b *builder) clutter(netns string, rule Rule) {
	if b.disguise == nil || rule.Chain == "" {
		return
	}
	place := fmt.Sprint(netns, rule.Backend, rule.Family, rule.Table, rule.Chain, rule.Text)
	n := b.disguise.number("rules beside " + place)
	for i := range n % 4 {
		b.nodes[netns].harmless(rule, true, b.disguise.number(fmt.Sprint("rule before ", i, place)))
	}
	for i := range n >> 8 % 3 {
		b.nodes[netns].harmless(rule, false, b.disguise.number(fmt.Sprint("rule behind ", i, place)))
	}
}

// harmless adds a rule that matches no packet of the scenarios first or last to
// the chain of another: they send to no such ports.
func (n *node) harmless(beside Rule, first bool, random uint64) {
	proto := []string{"tcp", "udp"}[random>>32%2]
	port := strconv.FormatUint(20000+random%10000, 10)
	if beside.Backend == NFT {
		verdict := []string{"", " accept", " return"}[random>>40%3]
		command := "add"
		if first {
			command = "insert"
		}
		n.nft(fmt.Sprintf("%s rule %s %s %s %s dport %s counter%s\n", command, beside.Family, beside.Table, beside.Chain, proto, port, verdict))
		return
	}
	verdict := []string{"", " -j ACCEPT", " -j RETURN"}[random>>40%3]
	command := "-A"
	if first {
		command = "-I"
	}
	n.iptables(beside.Backend, beside.Family == "ip6",
		fmt.Sprintf("*%s\n%s %s -p %s -m %s --dport %s%s\n", beside.Table, command, beside.Chain, proto, proto, port, verdict))
}
