// Package engine is what a container engine says of its networks and of the
// containers that run: plain data, wherever it was read. It is the engine's own
// view; what the kernel really does is for others to see.
package engine

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// View is what one engine says.
type View struct {
	// Engine is docker or podman.
	Engine string `json:"engine"`
	// Owner is the user whose engine it is, 0 for the system's.
	Owner      int         `json:"owner,omitempty"`
	Networks   []Network   `json:"networks"`
	Containers []Container `json:"containers"`
}

// Network is a network that an engine knows.
type Network struct {
	Name string `json:"name"`
	// ID and Driver are the engine's; a saved list may lack them.
	ID     string `json:"id,omitempty"`
	Driver string `json:"driver,omitempty"`
	// Bridge is the name of its interface on the host, empty for other drivers
	// than bridge.
	Bridge string `json:"bridge,omitempty"`
	// Internal networks lead nowhere else; Unmasked ones leave with the
	// containers' own addresses.
	Internal bool `json:"internal,omitempty"`
	Unmasked bool `json:"unmasked,omitempty"`
	// IPv6 says that containers get IPv6 addresses in it.
	IPv6 bool `json:"ipv6,omitempty"`
	// Apart says that its containers are kept from one another (Docker's
	// enable_icc=false, Podman's isolate does not mean that).
	Apart bool `json:"apart,omitempty"`
	// GatewayMode4 and GatewayMode6 are Docker's gateway_mode_ipv4 and
	// gateway_mode_ipv6 (nat, routed, isolated, nat-unprotected), empty where they
	// were not set.
	GatewayMode4 string         `json:"gateway_mode_ipv4,omitempty"`
	GatewayMode6 string         `json:"gateway_mode_ipv6,omitempty"`
	Prefixes     []netip.Prefix `json:"prefixes,omitempty"`
	// Gateways are the bridge's own addresses, as far as they were chosen.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Members are the containers in it, sorted by name; only an inspected network
	// tells them.
	Members []Member `json:"members,omitempty"`
}

// Member is a container in a network.
type Member struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Container is a container that runs.
type Container struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Mode is the engine's network mode: "host", "none", "container:ID", or the
	// first network.
	Mode     string       `json:"network_mode,omitempty"`
	Networks []Attachment `json:"networks,omitempty"`
	// Published are the ports of the host that lead to it, Exposed those of the
	// container that are declared and that no port of the host leads to.
	Published []Published `json:"published,omitempty"`
	Exposed   []Port      `json:"exposed,omitempty"`
	// Labels are those that say what it is part of (see Labelled).
	Labels map[string]string `json:"labels,omitempty"`
}

// Attachment is a container's place in a network.
type Attachment struct {
	Network   string       `json:"network"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Gateways  []netip.Addr `json:"gateways,omitempty"`
}

// Port is a port of a container.
type Port struct {
	// Protocol is tcp, udp or sctp.
	Protocol string `json:"protocol"`
	Number   uint16 `json:"port"`
}

func (p Port) String() string { return strconv.Itoa(int(p.Number)) + "/" + p.Protocol }

// Published is a port of the host that leads to one of a container.
type Published struct {
	// Host is the port of the host; its address is unspecified for all addresses
	// of the family, and not valid for all of both.
	Address netip.Addr `json:"address,omitzero"`
	Host    uint16     `json:"host_port"`
	Port
	// Proxy is the process that listens there for the engine (docker-proxy), 0
	// where none was seen.
	Proxy int `json:"proxy_pid,omitempty"`
}

func (p Published) String() string {
	host := "*:" + strconv.Itoa(int(p.Host))
	if p.Address.IsValid() {
		host = netip.AddrPortFrom(p.Address, p.Host).String()
	}
	return host + " for " + p.Port.String()
}

// Covers reports whether the port is published at an address of the host.
func (p Published) Covers(a netip.Addr) bool {
	switch {
	case !p.Address.IsValid():
		return true
	case p.Address.IsUnspecified():
		return p.Address.Is4() == a.Unmap().Is4()
	}
	return p.Address == a.Unmap()
}

// labels are the beginnings of the labels that say what a container is part of.
// Any other may hold a secret, and is not kept.
var labels = []string{
	"com.docker.compose.project", "com.docker.compose.service", "com.docker.swarm.service.name", "com.docker.stack.namespace",
	"io.kubernetes.", "io.podman.compose.project", "io.podman.compose.service",
}

// Labelled returns those of a container's labels that are kept, nil for none:
// what Compose, Swarm and Kubernetes call it.
func Labelled(all map[string]string) map[string]string {
	var kept map[string]string
	for name, value := range all {
		begins := func(begin string) bool {
			return name == begin || strings.HasSuffix(begin, ".") && strings.HasPrefix(name, begin)
		}
		if slices.ContainsFunc(labels, begins) {
			if kept == nil {
				kept = make(map[string]string)
			}
			kept[name] = value
		}
	}
	return kept
}

// Network returns the network with a name, nil when there is none.
func (v *View) Network(name string) *Network {
	i := slices.IndexFunc(v.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &v.Networks[i]
}

// Find returns the container with an id, and the view that knows it; nil when
// none does.
func Find(all []View, id string) (*View, *Container) {
	for i := range all {
		for k := range all[i].Containers {
			if all[i].Containers[k].ID == id {
				return &all[i], &all[i].Containers[k]
			}
		}
	}
	return nil, nil
}
