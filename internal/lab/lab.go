//go:build linux

// Package lab builds networks in private network namespaces: the scenarios of
// "pathtrace demo", with and without a fault, and the beds of the tests that
// run on the real kernel. What each network must be explained as is stored
// beside it, as data.
//
// A network is held by the file descriptors and sockets of the process that
// built it and is gone when that process ends, however it ends. Build needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN, which Isolate gives to an ordinary user in
// a user namespace, and the tools nft or iptables on PATH. Nothing of the
// machine's own network is touched.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// Backend is the tool that a scenario's rules are written with.
type Backend string

// The backends, as reports print them.
const (
	NFT            Backend = "nft"
	IPTablesNFT    Backend = "iptables-nft"
	IPTablesLegacy Backend = "iptables-legacy"
)

// HostName is the name of the namespace that plays the machine itself.
const HostName = "host"

// Options choose a variant of a scenario. The zero value is the healthy
// network as its users have it.
type Options struct {
	// Break is the name of one of the scenario's faults, or several, separated by
	// commas; empty breaks nothing.
	Break string
	// Backend writes the host's rules; empty means the scenario's first.
	Backend Backend
	// Opaque gives no names to the machines behind the host, so that nothing
	// leads into them.
	Opaque bool
	// NoBridgeNF keeps bridged packets from the host's IP hooks
	// (net.bridge.bridge-nf-call-* = 0). Otherwise it is as Docker leaves it.
	NoBridgeNF bool
	// Engine leaves out the containers, their bridges, the host's rules and the
	// VPN's tunnel, for a container engine and a VPN that are run in the namespaces.
	Engine bool
	// NamedDir is where the namespaces that can be found get their names, as
	// "ip netns" does in /run/netns; empty names none. The names are mounts, so
	// it is for processes with a mount namespace of their own (Isolate).
	NamedDir string
	// EtcDir is where netns/NAME/resolv.conf and hosts are written for each
	// namespace that can be found, and resolv.conf and hosts for the host: /etc
	// in the demo. Empty writes none.
	EtcDir string
	// OSPF has the routers of pipework-ospf learn their routes by OSPF where FRR's
	// daemons can be run. Otherwise, and where the fault takes away a route that a
	// daemon would put back, they are static.
	OSPF bool
	// Peers is a root tree that FRR's daemons are taken from, with all that they
	// need; empty means those of the machine.
	Peers string
	// Seed draws other addresses, interface names and positions of the rules,
	// which Network.Scenario then speaks of, and oddities of the host that
	// concern none of its packets. 0 keeps all as the authors have it.
	Seed uint64
}

// Scenario is a network that can be built.
type Scenario struct {
	Name string
	// Summary is one line.
	Summary string
	// Picture shows the network in a few lines.
	Picture string
	// Command are pathtrace's arguments that the scenario is made for, Try
	// others that are worth a look.
	Command []string
	Try     [][]string
	// Source is the namespace that Command sends from, Target the address that
	// it sends to, Resolver the DNS server of Source.
	Source   string
	Target   netip.Addr
	Resolver netip.Addr
	// Backends are those that the rules can be written with, the usual first.
	Backends []Backend
	// Opaque says that Options.Opaque makes a difference.
	Opaque bool
	// Engine says that there is a form for Options.Engine.
	Engine bool
	Faults []Fault
	// Request and Reply are the points that a packet passes on a healthy
	// network, as "namespace/interface direction".
	Request, Reply []string
	// Carried are those of them at which the packet is inside of another one, in a
	// tunnel.
	Carried []string
	// Bridged says that the host passes the packet on below IP, so that its rules
	// for IP and its connection tracking see nothing of it: it has none of the
	// faults that the hosts of all other scenarios have.
	Bridged bool

	// hidden can be entered by nobody; opaque ones also not with
	// Options.Opaque.
	hidden, opaque []string
	// prefixTranslated are the addresses that prefix translation changes.
	prefixTranslated []prefixTranslation
	build            func(*builder)
	translations     func(Backend) []Translation
}

// Truth is what a network must be explained as. The words are those of the
// report.
type Truth struct {
	Outcome, Leg, Code string
	// NetNS and Hook are where the packet ended; empty when it was answered.
	NetNS, Hook string
	// Interface is where in NetNS, if it is said.
	Interface string
	// Rule is what ended it.
	Rule Rule
	// Uncounted says that no counter of the kernel's grows for the code there.
	Uncounted bool
	// Translations are what NAT did to the packets that got that far; unset for
	// a fault that is no filter rule.
	Translations []Translation
}

// Rule is a rule, or a policy, as its owner finds it.
type Rule struct {
	Backend              Backend
	Family, Table, Chain string
	// Text is the line of "nft list ruleset" or "iptables-save"; for a policy
	// "policy drop" or ":FORWARD DROP".
	Text, Comment string
}

// Translation is what NAT did to one field of a packet.
type Translation struct {
	Kind, NetNS, Hook, Leg, Field string
	From, To                      netip.Addr
	// Rule has no chain where conntrack undoes a translation.
	Rule Rule
}

// Scenarios returns all scenarios, the default first.
func Scenarios() []Scenario {
	return []Scenario{ipv6Masquerade(), dockerBridge(), vpnOverlap(), netnsByHand(), pipeworkOSPF(), kubernetes(), vxlanOverlay(), macvlan()}
}

// Find returns a scenario by name.
func Find(name string) (Scenario, error) {
	var names []string
	for _, scenario := range Scenarios() {
		if scenario.Name == name {
			return scenario, nil
		}
		names = append(names, scenario.Name)
	}
	return Scenario{}, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(names, ", "))
}

// Check says what of the options the scenario does not have.
func (s *Scenario) Check(options Options) error {
	if options.Backend != "" && !slices.Contains(s.Backends, options.Backend) {
		return fmt.Errorf("%s has no backend %q; it has %s", s.Name, options.Backend, join(s.Backends))
	}
	if options.Opaque && !s.Opaque {
		return fmt.Errorf("%s has no opaque form", s.Name)
	}
	if options.Engine && (!s.Engine || options.Break != "" || options.Seed != 0) {
		return fmt.Errorf("%s has no form for a container engine, or none with faults or a seed", s.Name)
	}
	if options.Break == "" {
		return nil
	}
	var names []string
	for _, fault := range s.Faults {
		names = append(names, fault.Name)
	}
	for name := range strings.SplitSeq(options.Break, ",") {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%s has no fault %q; it has %s", s.Name, name, join(alike(names, name)))
		}
	}
	return nil
}

// alike are the names that have a word in common with another one, or else the
// first few, with dots for the rest.
func alike(names []string, other string) []string {
	words := strings.FieldsFunc(other, func(r rune) bool { return r == '-' || r == '@' })
	var found []string
	for _, name := range names {
		if slices.ContainsFunc(words, func(word string) bool { return len(word) > 2 && strings.Contains(name, word) }) {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		found = names
	}
	if len(found) > 8 {
		found = append(slices.Clone(found[:8]), "…")
	}
	return found
}

// Tools are the programs that must be on PATH to build the network.
func (s *Scenario) Tools(options Options) []string {
	backend := s.backend(options)
	tools := []string{string(backend)}
	for _, rules := range []Backend{backend, beside(backend)} {
		if rules != NFT {
			tools = append(tools, rules.tool(false), rules.tool(true))
		}
	}
	for _, fault := range s.Broken(options.Break) {
		tools = append(tools, fault.tools...)
	}
	if options.Seed != 0 {
		tools = append(tools, "ip", "tc") // decoys
	}
	slices.Sort(tools)
	return slices.Compact(tools)
}

// Truth returns what the network with these options must be explained as: of
// several faults the first that a packet meets.
func (s *Scenario) Truth(options Options) Truth {
	backend := s.backend(options)
	translations := s.translations(backend)
	broken := s.Broken(options.Break)
	if len(broken) == 0 {
		return Truth{Outcome: "replied", Leg: "reply", Code: "OK", Translations: s.seen(options, translations)}
	}
	fault := broken[0]
	truth := fault.outcome
	truth.NetNS = fault.where()
	if fault.rule != nil {
		truth.Rule = fault.rule(backend)
	}
	if !fault.ByRule() {
		return truth
	}
	if !s.visible(options, fault.netns) {
		truth = Truth{Outcome: "lost", Leg: "request", Code: "NO_REPLY"}
	}
	for _, translation := range s.seen(options, translations) {
		if s.reached(fault, truth, translation) {
			truth.Translations = append(truth.Translations, translation)
		}
	}
	return truth
}

// Path returns the points of Request and Reply that can be seen.
func (s *Scenario) Path(options Options) (request, reply []string) {
	seen := func(points []string) []string {
		return slices.DeleteFunc(slices.Clone(points), func(point string) bool {
			netns, _, _ := strings.Cut(point, "/")
			return !s.visible(options, netns)
		})
	}
	return seen(s.Request), seen(s.Reply)
}

// seen are the translations in namespaces that can be entered.
func (s *Scenario) seen(options Options, all []Translation) []Translation {
	return slices.DeleteFunc(slices.Clone(all), func(t Translation) bool { return !s.visible(options, t.NetNS) })
}

// reached reports whether the packet came as far as a translation before the
// fault ended it.
func (s *Scenario) reached(fault Fault, truth Truth, translation Translation) bool {
	leg := truth.Leg
	if translation.Leg != leg {
		return translation.Leg == "request"
	}
	if translation.NetNS != fault.netns {
		return s.position(leg, translation.NetNS) < s.position(leg, fault.netns)
	}
	return slices.Index(hooks, translation.Hook) < slices.Index(hooks, truth.Hook)
}

// position is where on a leg a namespace has the packet's IP header in its
// hands; -1 when it is not on the way. A host whose bridges connect its
// containers has the same packet several times, and routes it where it is
// nearest to the target.
func (s *Scenario) position(leg, netns string) int {
	within := func(point string) bool { return strings.HasPrefix(point, netns+"/") }
	if leg == "reply" {
		return slices.IndexFunc(s.Reply, within)
	}
	for i, point := range slices.Backward(s.Request) {
		if within(point) {
			return i
		}
	}
	return -1
}

func (s *Scenario) backend(options Options) Backend {
	if options.Backend == "" {
		return s.Backends[0]
	}
	return options.Backend
}

func (s *Scenario) fault(name string) (Fault, bool) {
	i := slices.IndexFunc(s.Faults, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return Fault{}, false
	}
	return s.Faults[i], true
}

func (s *Scenario) visible(options Options, name string) bool {
	return !slices.Contains(s.hidden, name) && (!options.Opaque || !slices.Contains(s.opaque, name))
}

func join[T ~string](words []T) string {
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = string(word)
	}
	return strings.Join(all, ", ")
}

// Network is a scenario that was built. Its methods may be called from several
// goroutines.
type Network struct {
	// Scenario speaks of the addresses and names that were built.
	Scenario Scenario
	Options  Options
	// Host plays the machine that pathtrace runs on.
	Host *netns.NS
	// Named are the namespaces that can be found, without the host.
	Named []string
	// Remarks say in words what could not be built as it should be here.
	Remarks []string

	names    []string
	spaces   map[string]*netns.NS
	services sync.WaitGroup
	undo     []func() error
	// refuseDNS makes the name server refuse to answer.
	refuseDNS atomic.Bool
	// stopOSPF ends OSPF in the router of that name; nil when none runs.
	stopOSPF func(router string)
	once     sync.Once
	closed   error
}

// NetNS returns a namespace by name, also one that cannot be found from
// outside, or nil.
func (n *Network) NetNS(name string) *netns.NS { return n.spaces[name] }

// Names returns the names of all namespaces in the order in which a packet
// reaches them.
func (n *Network) Names() []string { return slices.Clone(n.names) }

// Truth returns what the network must be explained as.
func (n *Network) Truth() Truth { return n.Scenario.Truth(n.Options) }

// Close removes the network. It may be called twice.
func (n *Network) Close() error {
	n.once.Do(func() {
		for _, undo := range slices.Backward(n.undo) {
			n.closed = errors.Join(n.closed, undo())
		}
		n.services.Wait()
	})
	return n.closed
}

// Build builds the network of a scenario and returns when it is ready: every
// link has its carrier and every address can be used. Nothing has been sent
// through it: neighbours are still unknown.
func Build(ctx context.Context, scenario string, options Options) (*Network, error) {
	s, err := Find(scenario)
	if err != nil {
		return nil, err
	}
	if err := s.Check(options); err != nil {
		return nil, err
	}
	options.Backend = s.backend(options)
	n := &Network{Scenario: s, Options: options, spaces: make(map[string]*netns.NS)}
	b := &builder{ctx: ctx, network: n, nodes: make(map[string]*node), resolvers: make(map[string]netip.Addr), disguise: newDisguise(options.Seed, s.prefixTranslated)}
	defer b.close()
	s.build(b)
	b.clutterTranslations()
	b.ready() // before a fault: what is down is never ready
	b.breakWith(options)
	b.clutterFault()
	b.decoys()
	b.disguiseScenario()
	b.publish()
	if b.err != nil {
		return nil, errors.Join(fmt.Errorf("build %s: %w", scenario, b.err), n.Close())
	}
	return n, nil
}
