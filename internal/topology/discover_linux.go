package topology

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/netns"
)

// Config says what is to be discovered.
type Config struct {
	// Host is the namespace that reports call "host"; nil is the one that the
	// process runs in.
	Host *netns.NS
	// Source is where the packet starts; nil is the host. SourceName is its
	// name, ignored when it is the host.
	Source     *netns.NS
	SourceName string
	// Target is where the packet goes. When it is invalid the way is that of
	// the source's default routes. Zone is the interface of a link-local
	// target.
	Target netip.Addr
	Zone   string
	// Candidates are the namespaces that may be looked into, beside source and
	// host; nil means all that can be found: those with a name and those of
	// processes.
	Candidates []Candidate
	// RunNetNS is the directory of the named namespaces; empty means
	// /run/netns.
	RunNetNS string
	// Containers lists the containers that run. It is asked once, when a namespace
	// without a name of its own is looked into, which then has the name of a
	// container in it; nil knows none.
	Containers func() ([]container.Running, error)
}

// Handles hold the namespaces of a snapshot open.
type Handles struct {
	walker *walker
}

// Get returns the namespace with that name of the snapshot, nil for none. It
// is valid until Close.
func (h *Handles) Get(name string) *netns.NS {
	for _, place := range h.walker.way {
		if place.namespace.Name == name {
			return place.from.ns
		}
	}
	return nil
}

// Close releases the namespaces. Those of the Config stay open. It may be
// called twice.
func (h *Handles) Close() error {
	var errs []error
	for _, place := range h.walker.places {
		place.close()
	}
	for _, candidate := range h.walker.candidates {
		if candidate.owned {
			errs = append(errs, candidate.ns.Close())
			candidate.owned, candidate.ns, candidate.gone = false, nil, true
		}
	}
	return errors.Join(errs...)
}

// Extend adds the namespaces on the way to another target, from each namespace
// of the snapshot: the new destination of a packet that was translated. It
// returns the names of those that it added; the snapshot that Discover
// returned is brought up to date.
func (h *Handles) Extend(ctx context.Context, target netip.Addr) (added []string, err error) {
	w := h.walker
	before := len(w.way)
	defer w.rest()
	for _, place := range slices.Clone(w.way) {
		if err := w.walk(ctx, place, "", target, ""); err != nil {
			return nil, err
		}
	}
	if err := w.walkBack(ctx); err != nil {
		return nil, err
	}
	w.finish()
	for _, place := range w.way[before:] {
		added = append(added, place.namespace.Name)
	}
	return added, nil
}

// Reread takes the same snapshot again: the namespaces, their names and roles
// are those of the first, everything in them is as it is now. Called after a
// probe it shows what the probe changed.
func (h *Handles) Reread() *Snapshot {
	w := h.walker
	again := *w.snapshot
	again.Problems = nil
	again.Namespaces = make([]Namespace, len(w.way))
	for i, p := range w.way {
		before := &p.namespace
		now := &again.Namespaces[i]
		*now = Namespace{Name: before.Name, ID: before.ID, PID: before.PID}
		var problems []error
		if _, err := p.reader.look(now); err != nil {
			problems = append(problems, err)
		}
		for _, err := range append(problems, p.reader.read(now)...) {
			again.Problems = append(again.Problems, fmt.Sprintf("%s: %v", before.Name, err))
		}
		for k := range now.Links {
			link := &now.Links[k]
			if known := before.Link(link.Name); known != nil && known.Index == link.Index {
				link.Role, link.Peer, link.Lower = known.Role, known.Peer, known.Lower
				link.Settings.AcceptRA = known.Settings.AcceptRA
			}
		}
	}
	return &again
}

// place is a namespace that was looked into.
type place struct {
	from      *candidate
	reader    *reader
	namespace Namespace
	// wires lead from links to other links; beyond are the namespaces behind
	// them by the kernel's id, nil for one that cannot be seen.
	wires  map[int]wire
	beyond map[int]*candidate
	// asked is how many of the candidates the kernel was asked about.
	asked int
	// sources are the addresses that packets are sent from on the way.
	sources []netip.Addr
	onWay   bool
}

func (p *place) close() {
	if p.reader != nil {
		p.reader.close()
		p.reader = nil
	}
}

// visit is a step that was done: it ends walks that circle.
type visit struct {
	place   *place
	ingress string
	target  netip.Addr
}

// walker follows a packet from namespace to namespace.
type walker struct {
	snapshot     *Snapshot
	host, source *candidate
	origin       netip.Addr
	candidates   []*candidate
	// find lists the rest of the candidates when a link leads to none of those
	// known; nil when that was done.
	find func() []*candidate
	// containers are Config.Containers, running what it said.
	containers func() ([]container.Running, error)
	running    []container.Running
	places     []*place
	way        []*place
	visited    map[visit]bool
	// here is the inode of the namespace that the process is in.
	here uint64
	// back says that an answer is followed.
	back bool
}

// Discover walks from the source towards the target, from namespace to
// namespace, and back, and takes a snapshot of each on the way and of the
// host. It sends no packet. The walk ends where nobody that can be seen owns
// the next address. What could not be read is told in the snapshot's problems.
// The snapshot does not change, except by Extend; the caller closes the
// handles.
func Discover(ctx context.Context, config Config) (*Snapshot, *Handles, error) {
	w := &walker{
		snapshot: &Snapshot{Target: config.Target, Zone: config.Zone},
		visited:  make(map[visit]bool),
	}
	handles := &Handles{walker: w}
	if err := w.begin(config); err != nil {
		return nil, nil, errors.Join(err, handles.Close())
	}
	if err := w.discover(ctx, config); err != nil {
		return nil, nil, errors.Join(err, handles.Close())
	}
	w.rest()
	return w.snapshot, handles, nil
}

// begin fills in what the configuration leaves open.
func (w *walker) begin(config Config) error {
	here, err := netns.Current()
	if err != nil {
		return err
	}
	w.here = here.ID()
	w.containers = config.Containers
	host := &candidate{name: HostName, ns: here, owned: true}
	if config.Host != nil {
		host.ns, host.owned = config.Host, false
		if err := here.Close(); err != nil {
			return err
		}
	}
	host.inode = host.ns.ID()
	w.host, w.source = host, host
	w.candidates = []*candidate{host}
	if config.Source != nil && config.Source.ID() != host.inode {
		w.source = &candidate{name: config.SourceName, inode: config.Source.ID(), ns: config.Source}
		w.candidates = append(w.candidates, w.source)
	}
	for _, given := range config.Candidates {
		w.add(&candidate{name: given.Name, inode: given.NetNS.ID(), ns: given.NetNS})
	}
	if config.Candidates == nil {
		w.find = func() []*candidate { return findCandidates(config.RunNetNS) }
	}
	return nil
}

// add takes a candidate unless its namespace is known by a better name.
func (w *walker) add(c *candidate) {
	if !slices.ContainsFunc(w.candidates, func(other *candidate) bool { return other.inode == c.inode }) {
		w.candidates = append(w.candidates, c)
	}
}

func (w *walker) discover(ctx context.Context, config Config) error {
	source, err := w.enter(w.source)
	if err != nil {
		return fmt.Errorf("look into %s: %w", w.source.name, err)
	}
	w.include(source)
	targets := []netip.Addr{config.Target}
	if !config.Target.IsValid() {
		// Only default routes contain the unspecified address.
		targets = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, target := range targets {
		if err := w.walk(ctx, source, "", target.WithZone(""), config.Zone); err != nil {
			return err
		}
	}
	if len(w.way) == 1 {
		// The packet may not leave the source at all. What its cables lead to
		// is worth seeing all the same.
		w.neighbours(source)
	}
	if err := w.walkBack(ctx); err != nil {
		return err
	}
	if host, err := w.enter(w.host); err == nil {
		w.include(host)
	} else {
		w.problem("look into %s: %v", HostName, err)
	}
	w.finish()
	return nil
}

func (w *walker) problem(format string, values ...any) {
	text := fmt.Sprintf(format, values...)
	if !slices.Contains(w.snapshot.Problems, text) {
		w.snapshot.Problems = append(w.snapshot.Problems, text)
	}
}

// enter looks into a namespace.
func (w *walker) enter(c *candidate) (*place, error) {
	if place := w.entered(c); place != nil {
		return place, nil
	}
	ns := c.open()
	if ns == nil {
		return nil, errors.New("the namespace cannot be opened")
	}
	reader, err := openReader(ns, c.inode == w.here)
	if err != nil {
		return nil, err
	}
	w.nameContainer(c)
	place := &place{
		from: c, reader: reader, beyond: make(map[int]*candidate),
		namespace: Namespace{Name: c.name, ID: c.inode, PID: c.pid},
	}
	if place.wires, err = reader.look(&place.namespace); err != nil {
		reader.close()
		return nil, err
	}
	w.places = append(w.places, place)
	return place, nil
}

// nameContainer gives a namespace that has no name of its own that of a container
// in it.
func (w *walker) nameContainer(c *candidate) {
	if !c.unnamed {
		return
	}
	if w.containers != nil {
		var err error
		if w.running, err = w.containers(); err != nil {
			w.problem("list the containers: %v", err)
		}
		w.containers = nil
	}
	for _, running := range w.running {
		if running.NetNS == c.inode {
			c.name, c.pid, c.unnamed = running.Name, running.PID, false
			return
		}
	}
}

// include puts a namespace on the way and reads all of it.
func (w *walker) include(p *place) {
	if p.onWay {
		return
	}
	p.onWay = true
	w.way = append(w.way, p)
	taken := func(name string) bool {
		return slices.ContainsFunc(w.way, func(other *place) bool { return other != p && other.namespace.Name == name }) ||
			name == HostName && p.from != w.host || name == ""
	}
	for number := 2; taken(p.namespace.Name); number++ {
		p.namespace.Name = strings.TrimSpace(fmt.Sprintf("%s #%d", p.from.name, number))
	}
	for _, err := range p.reader.read(&p.namespace) {
		w.problem("%s: %v", p.namespace.Name, err)
	}
}

// walk follows a packet that is in a namespace, until nobody visible owns the
// next address.
func (w *walker) walk(ctx context.Context, p *place, ingress string, target netip.Addr, zone string) error {
	step := visit{p, ingress, target}
	if w.visited[step] {
		return nil
	}
	w.visited[step] = true
	if err := ctx.Err(); err != nil {
		return err
	}
	w.include(p)
	at := ingress
	if zone != "" {
		at = zone
	}
	if p.namespace.has(target, at) {
		w.record(Step{NetNS: p.namespace.Name, Ingress: ingress, Target: target, Delivered: true})
		return nil
	}
	decision := p.namespace.Lookup(Query{Source: w.origin, Target: target, Ingress: ingress, Egress: zone})
	w.record(decision.step(p.namespace.Name, ingress, target))
	hops := decision.NextHops()
	if zone != "" && len(hops) == 0 {
		hops = []NextHop{{Interface: zone}}
	}
	for _, hop := range hops {
		link := p.namespace.Link(hop.Interface)
		if link == nil {
			continue
		}
		if decision.Route != nil {
			if address := p.namespace.source(hop, decision.Route, target); address.IsValid() && !slices.Contains(p.sources, address) {
				p.sources = append(p.sources, address)
				if !w.origin.IsValid() && p.from == w.source {
					w.origin = address
				}
			}
		}
		next := hop.Gateway
		if !next.IsValid() {
			next = target
		}
		owner, by, err := w.segment(ctx, p, link, next)
		if err != nil {
			return err
		}
		if owner != nil && owner != p {
			if err := w.walk(ctx, owner, by, target, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// record keeps a step of the way there.
func (w *walker) record(step Step) {
	if !w.back {
		w.snapshot.Steps = append(w.snapshot.Steps, step)
	}
}

func (d Decision) step(netns, ingress string, target netip.Addr) Step {
	step := Step{NetNS: netns, Ingress: ingress, Target: target, Undetermined: d.Why}
	if d.Route != nil {
		step.Route = d.Route.Text
	}
	if d.Policy != nil {
		step.Policy = d.Policy.Text
	}
	return step
}

// walkBack follows the answers: from each namespace on the way to the
// addresses that packets were sent from before it. Where the routes back
// differ they lead into further namespaces.
func (w *walker) walkBack(ctx context.Context) error {
	w.back = true
	defer func() { w.back = false }()
	for i := 0; i < len(w.way); i++ {
		for _, earlier := range w.way[:i] {
			for _, address := range slices.Clone(earlier.sources) {
				if address.IsLinkLocalUnicast() {
					continue
				}
				if err := w.walk(ctx, w.way[i], "", address, ""); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// hardware returns the MAC address that an address was last seen at, or "".
func (n *Namespace) hardware(address netip.Addr, link string) string {
	for _, neighbour := range n.Neighbours {
		if neighbour.Address == address && neighbour.Interface == link {
			return neighbour.MAC
		}
	}
	return ""
}

// answers reports whether the namespace answers for an address at a link:
// because it has it, because it was heard to, or as a proxy. A veth's far end
// that proxies is how some container networks make a gateway; behind a bridge
// nobody is asked.
func (n *Namespace) answers(address netip.Addr, link *Link, hardware string) bool {
	if n.has(address, link.Name) || hardware != "" && hardware == link.MAC {
		return true
	}
	return link.Kind == "veth" && (address.Is4() && link.Settings.ProxyARP || address.Is6() && link.Settings.ProxyNDP)
}

// has reports whether the namespace takes packets for an address that come in
// by a link. The same link-local address may be on many links.
func (n *Namespace) has(address netip.Addr, link string) bool {
	if !address.Is6() || !address.IsLinkLocalUnicast() {
		return n.Local(address) != nil
	}
	found := n.Link(link)
	return found != nil && slices.ContainsFunc(found.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
}

// rest closes what is open for reading only.
func (w *walker) rest() {
	keep := w.places[:0]
	for _, place := range w.places {
		if place.onWay {
			keep = append(keep, place)
		} else {
			place.close()
		}
	}
	clear(w.places[len(keep):])
	w.places = keep
	for _, c := range w.candidates {
		if c.owned && !slices.ContainsFunc(keep, func(p *place) bool { return p.from == c }) {
			_ = c.ns.Close()
			c.owned, c.ns = false, nil
		}
	}
}

// finish writes the snapshot.
func (w *walker) finish() {
	for _, place := range w.way {
		w.name(place)
		w.roles(place)
	}
	w.snapshot.Source = w.way[0].namespace.Name
	w.snapshot.Namespaces = make([]Namespace, len(w.way))
	for i, place := range w.way {
		w.snapshot.Namespaces[i] = place.namespace
	}
}

// name fills in what the wires lead to.
func (w *walker) name(p *place) {
	for i := range p.namespace.Links {
		link := &p.namespace.Links[i]
		wire, found := p.wires[link.Index]
		if !found {
			continue
		}
		peer := link.Peer
		if peer == nil {
			peer = link.Lower
		}
		to := p.from
		if wire.nsid >= 0 {
			if to = w.beyond(p, wire.nsid); to == nil {
				continue
			}
		}
		peer.NetNS = to.name
		for _, far := range w.places {
			if far.from == to {
				peer.NetNS = far.namespace.Name
				peer.Interface = far.namespace.linkNames()[wire.index]
			}
		}
	}
}

// tunnels are the kinds of links that carry packets inside others.
var tunnels = []string{
	"tun", "wireguard", "ppp", "ipip", "sit", "ip6tnl", "gre", "gretap", "ip6gre", "ip6gretap", "erspan",
	"vti", "vti6", "xfrm", "vxlan", "geneve", "bareudp", "gtp", "openvpn", "ovpn",
}

// roles says what each link is on the way.
func (w *walker) roles(p *place) {
	n := &p.namespace
	for i := range n.Links {
		link := &n.Links[i]
		pair := link.Peer != nil && p.wires[link.Index].nsid >= 0
		switch {
		case link.Kind == "loopback":
			link.Role = capture.RoleLoopback
		case slices.Contains(tunnels, link.Kind) && link.Bridge == "":
			link.Role = capture.RoleTunnel
		case p.from == w.source && p.from != w.host:
			link.Role = capture.RoleContainer
		case link.Kind == "bridge":
			link.Role = capture.RoleBridge
		case p.from == w.host && n.leadsOut(link):
			link.Role = capture.RoleUplink
		case p.from != w.host && link.Bridge == "" && (n.All.ForwardIPv4 || n.All.ForwardIPv6):
			link.Role = capture.RoleRouter
		case pair && (p.from == w.host || link.Bridge != ""):
			link.Role = capture.RoleVeth
		case pair && w.attached(p, link):
			link.Role = capture.RoleContainer
		default:
			link.Role = capture.RoleOther
		}
	}
}

// attached reports whether the far end of a pair is the port of a bridge, as
// a container's is.
func (w *walker) attached(p *place, link *Link) bool {
	far, peer := w.across(end{place: p, link: link})
	return far != nil && peer.Bridge != ""
}

// leadsOut reports whether a default route goes by the link, or by the bridge
// that it is a port of and that has no other way out.
func (n *Namespace) leadsOut(link *Link) bool {
	name := link.Name
	if link.Bridge != "" {
		if link.Peer != nil {
			return false
		}
		name = link.Bridge
	}
	return slices.ContainsFunc(n.Routes, func(route Route) bool {
		return route.Destination.Bits() == 0 && route.Type == "unicast" &&
			(route.Interface == name || slices.ContainsFunc(route.NextHops, func(hop NextHop) bool { return hop.Interface == name }))
	})
}
