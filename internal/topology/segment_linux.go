package topology

import (
	"context"
	"net/netip"
	"slices"
)

// maxSegment is how many namespaces are looked into to find the owner of one
// address: a bridge has at most 1024 ports.
const maxSegment = 1024

// end is a link that a frame reaches on its segment, and the namespaces that
// it crossed to get there.
type end struct {
	place   *place
	link    *Link
	crossed []*place
}

// segment finds who owns an address on the layer 2 segment behind a link: the
// namespace, and the interface by which the packet comes in there. It puts the
// namespaces that only bridge the packet on the way, too. Without an owner it
// puts what is directly behind the link there, where the search for the owner
// would be heard.
func (w *walker) segment(ctx context.Context, p *place, link *Link, address netip.Addr) (*place, string, error) {
	type seen struct {
		place *place
		index int
	}
	visited := map[seen]bool{{p, link.Index}: true}
	hardware := p.namespace.hardware(address, link.Name)
	queue := []end{{place: p, link: link}}
	push := func(e end, link *Link) {
		if link != nil && !visited[seen{e.place, link.Index}] {
			visited[seen{e.place, link.Index}] = true
			queue = append(queue, end{e.place, link, e.crossed})
		}
	}
	var first *place
	// queue holds links that the frame leaves by.
	for len(queue) > 0 && len(visited) < 2*maxSegment {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		out := queue[0]
		queue = queue[1:]
		if out.link.Kind == "bridge" {
			for _, port := range w.ports(out) {
				push(out, port)
			}
			continue
		}
		arrivals, err := w.arrivals(ctx, out)
		if err != nil {
			return nil, "", err
		}
		for _, a := range arrivals {
			far, arrived := a.place, a.link
			crossed := append(slices.Clone(out.crossed), far)
			if first == nil {
				first = far
			}
			by := arrived
			if out.link.Lower != nil {
				// Below a macvlan or VLAN the frame leaves again.
				push(end{place: far, crossed: crossed}, arrived)
			} else {
				visited[seen{far, arrived.Index}] = true
				if arrived.Bridge != "" {
					by = far.namespace.Link(arrived.Bridge)
				} else if len(out.crossed) == 0 {
					// Whether it is a proxy. (include reports what cannot be read.)
					_ = far.reader.settings(&far.namespace)
				}
				if by != nil && far.namespace.answers(address, by, hardware) {
					w.includeAll(crossed)
					return far, by.Name, nil
				}
				if arrived.Bridge != "" {
					push(end{place: far, crossed: crossed}, by)
				}
			}
			if out.link.Kind == "vlan" {
				continue // the frame has a tag there
			}
			if upper := w.bearer(far, by, address, hardware); upper != nil {
				w.includeAll(append(crossed, upper.place))
				if out.link.Lower == nil || out.link.Mode == "bridge" && upper.link.Mode == "bridge" {
					return upper.place, upper.link.Name, nil
				}
				return nil, "", nil
			}
		}
	}
	if first != nil {
		w.include(first)
	}
	// What is above the sender's own link does not hear it, and is worth seeing for
	// that.
	if upper := w.bearer(p, link, address, hardware); upper != nil {
		w.include(upper.place)
	}
	return nil, "", nil
}

func (w *walker) includeAll(places []*place) {
	for _, place := range places {
		w.include(place)
	}
}

// bearer is the macvlan above a link that answers for an address, in whatever
// namespace it is; nil when there is none. The link does not tell of macvlans
// elsewhere, only of their hardware addresses.
func (w *walker) bearer(p *place, link *Link, address netip.Addr, hardware string) *end {
	if link == nil || link.Kind == "loopback" || link.MAC == "" || p.reader == nil {
		return nil
	}
	above, err := p.reader.hardwareAddresses(link)
	if err != nil {
		w.problem("%s: %v", p.namespace.Name, err)
	}
	if len(above) == 0 {
		return nil
	}
	w.findAll()
	for _, c := range w.candidates[:min(len(w.candidates), maxSegment)] {
		place, err := w.enter(c)
		if err != nil {
			continue // it ended, or is another user's
		}
		for i := range place.namespace.Links {
			upper := &place.namespace.Links[i]
			wire, below := place.wires[upper.Index]
			if !below || upper.Mode == "" || wire.index != link.Index || !slices.Contains(above, upper.MAC) ||
				!place.namespace.answers(address, upper, hardware) {
				continue
			}
			if wire.nsid < 0 && place == p || wire.nsid >= 0 && w.beyond(place, wire.nsid) == p.from {
				return &end{place: place, link: upper}
			}
		}
	}
	return nil
}

// arrivals are the links that a frame may arrive at: that at the other end of a
// cable, or those at the other ends of a VXLAN. The way to these is that of the
// packets that carry it, so what is on it is looked into as well.
func (w *walker) arrivals(ctx context.Context, out end) ([]end, error) {
	if out.link.Tunnel == nil {
		far, arrived := w.across(out)
		if far == nil {
			return nil, nil
		}
		return []end{{place: far, link: arrived}}, nil
	}
	var all []end
	var asked []netip.Addr
	for _, remote := range out.link.Tunnel.Remotes {
		if slices.Contains(asked, remote.Address) || len(asked) == maxRemotes {
			continue
		}
		asked = append(asked, remote.Address)
		for _, place := range out.crossed {
			w.include(place)
		}
		if err := w.carry(ctx, out.place, remote.Address); err != nil {
			return nil, err
		}
		for _, far := range w.way {
			if far == out.place || far.namespace.Local(remote.Address) == nil {
				continue
			}
			for i := range far.namespace.Links {
				link := &far.namespace.Links[i]
				if t := link.Tunnel; t != nil && t.ID == out.link.Tunnel.ID && t.Port == out.link.Tunnel.Port {
					all = append(all, end{place: far, link: link})
				}
			}
		}
	}
	return all, nil
}

// maxRemotes bounds how many other ends of a tunnel are gone to for one address.
const maxRemotes = 64

// carry follows a tunnel's own packets to its other end. Their steps are not those
// of the packet that is followed.
func (w *walker) carry(ctx context.Context, p *place, remote netip.Addr) error {
	back, origin := w.back, w.origin
	w.back = true
	defer func() { w.back, w.origin = back, origin }()
	w.origin = netip.Addr{}
	return w.walk(ctx, p, "", remote, "")
}

// ports returns the ports of a bridge. Those that lead to namespaces which were
// looked into already stand first: a way back ends there, and the others need
// not be opened.
func (w *walker) ports(bridge end) []*Link {
	var known, others []*Link
	for i := range bridge.place.namespace.Links {
		port := &bridge.place.namespace.Links[i]
		if port.Bridge != bridge.link.Name {
			continue
		}
		wire, found := bridge.place.wires[port.Index]
		if found && wire.nsid >= 0 && w.entered(w.beyond(bridge.place, wire.nsid)) != nil {
			known = append(known, port)
		} else {
			others = append(others, port)
		}
	}
	return append(known, others...)
}

// entered returns the place of a namespace that was looked into, or nil.
func (w *walker) entered(c *candidate) *place {
	for _, place := range w.places {
		if place.from == c {
			return place
		}
	}
	return nil
}

// across returns the link that the frame arrives at, nil when that is not
// visible.
func (w *walker) across(out end) (*place, *Link) {
	wire, found := out.place.wires[out.link.Index]
	if !found {
		return nil, nil
	}
	far := out.place
	if wire.nsid >= 0 {
		to := w.beyond(out.place, wire.nsid)
		if to == nil {
			return nil, nil
		}
		var err error
		if far, err = w.enter(to); err != nil {
			w.problem("look into %s: %v", to.name, err)
			return nil, nil
		}
	}
	i := slices.IndexFunc(far.namespace.Links, func(l Link) bool { return l.Index == wire.index })
	if i < 0 {
		return nil, nil
	}
	return far, &far.namespace.Links[i]
}

// beyond returns the namespace that the kernel calls by an id in another one;
// nil when it is none that can be opened. Those that are open already are
// asked for first.
func (w *walker) beyond(p *place, nsid int) *candidate {
	for {
		if known := p.beyond[nsid]; known != nil {
			return known
		}
		if p.asked == len(w.candidates) {
			if w.find == nil {
				return nil
			}
			w.findAll()
			continue
		}
		c := w.candidates[p.asked]
		p.asked++
		if ns := c.open(); ns != nil {
			if id, err := p.reader.handle.GetNetNsIdByFd(ns.FD()); err == nil && id >= 0 {
				p.beyond[id] = c
			}
		}
	}
}

// findAll makes candidates of all namespaces that can be found.
func (w *walker) findAll() {
	if w.find == nil {
		return
	}
	for _, c := range w.find() {
		w.add(c)
	}
	w.find = nil
}

// neighbours puts the namespaces on the way that the links of one lead to.
func (w *walker) neighbours(p *place) {
	for i := range p.namespace.Links {
		if far, _ := w.across(end{place: p, link: &p.namespace.Links[i]}); far != nil {
			w.include(far)
		}
	}
}
