package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Description is what an engine says of one container: plain data.
type Description struct {
	Engine string `json:"engine"`
	Owner  int    `json:"owner,omitempty"`
	// Container is the one that was asked for. With the network mode
	// "container:ID", Shares is the one whose network namespace, networks and ports
	// it has.
	Container Container  `json:"container"`
	Shares    *Container `json:"shares,omitempty"`
	// Networks are those that it is in.
	Networks []Network `json:"networks,omitempty"`
}

// Describe gathers what is said of the container with an id; nil when no engine
// knows it.
func Describe(views []View, id string) *Description {
	view, c := Find(views, id)
	if c == nil {
		return nil
	}
	d := &Description{Engine: view.Engine, Owner: view.Owner, Container: *c}
	if other, shared := strings.CutPrefix(c.Mode, "container:"); shared {
		if _, d.Shares = Find(views, other); d.Shares != nil {
			shares := *d.Shares
			d.Shares = &shares
		}
	}
	for _, a := range d.Connected().Networks {
		if n := view.Network(a.Network); n != nil {
			network := *n
			network.Members = nil
			d.Networks = append(d.Networks, network)
		}
	}
	return d
}

// Connected is the container whose networks and ports are meant.
func (d *Description) Connected() *Container {
	if d.Shares != nil {
		return d.Shares
	}
	return &d.Container
}

// Lines say all of it in words, a line each, without the container's name.
func (d *Description) Lines() []string {
	c := d.Connected()
	var lines []string
	switch {
	case d.Shares != nil:
		lines = append(lines, "network namespace shared with "+d.Shares.Name)
	case d.Container.Mode == "host":
		lines = append(lines, "network namespace of the host")
	case d.Container.Mode == "none":
		lines = append(lines, "no network")
	}
	for i := range d.Networks {
		lines = append(lines, "network "+d.Networks[i].words())
	}
	for _, p := range c.Published {
		line := "published " + p.String()
		if p.Proxy != 0 {
			line += fmt.Sprintf(", docker-proxy (pid %d) listens there", p.Proxy)
		}
		lines = append(lines, line)
	}
	for _, p := range c.Exposed {
		lines = append(lines, "exposed "+p.String()+", not published: reached by the container's own address only")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Container.Labels)) {
		lines = append(lines, fmt.Sprintf("label %s=%s", name, d.Container.Labels[name]))
	}
	return lines
}

// words say what a network is and what it does not let through.
func (n *Network) words() string {
	words := []string{n.Name}
	if n.Driver != "" {
		words[0] += " (" + n.Driver + ")"
	}
	if n.Bridge != "" {
		words = append(words, "bridge "+n.Bridge)
	}
	if len(n.Prefixes) > 0 {
		words = append(words, joined(n.Prefixes))
	}
	if len(n.Gateways) > 0 {
		words = append(words, "gateway "+joined(n.Gateways))
	}
	if n.addresses() && !n.IPv6 {
		words = append(words, "IPv6 off")
	}
	for _, is := range []struct {
		set  bool
		text string
	}{
		{n.Internal, "internal: nothing leaves it"},
		{n.Apart, "its containers are kept apart (icc off)"},
		{n.Unmasked, "not masqueraded"},
		{n.GatewayMode4 != "", "gateway_mode_ipv4 " + n.GatewayMode4},
		{n.GatewayMode6 != "", "gateway_mode_ipv6 " + n.GatewayMode6},
	} {
		if is.set {
			words = append(words, is.text)
		}
	}
	return strings.Join(words, ", ")
}

// addresses reports whether the network gives addresses: host and none do not.
func (n *Network) addresses() bool { return len(n.Prefixes) > 0 }

func joined[T netip.Addr | netip.Prefix](all []T) string {
	words := make([]string, len(all))
	for i, one := range all {
		words[i] = fmt.Sprint(one)
	}
	return strings.Join(words, " and ")
}
