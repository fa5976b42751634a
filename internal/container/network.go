package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/textlog"
)

// networkAnswer is what is read of the daemon's description of a network. It says
// more, among it labels that others have set.
type networkAnswer struct {
	ID         string `json:"Id"`
	Name       string
	Driver     string
	Internal   bool
	EnableIPv6 bool
	Options    map[string]string
	IPAM       struct {
		Config []struct{ Subnet, Gateway string }
	}
	Containers map[string]struct{ Name, IPv4Address, IPv6Address string }
}

// bridgeOption begins the names of the options of Docker's bridge driver.
const bridgeOption = "com.docker.network.bridge."

// network is what is known of it. Addresses that are not understood are left out.
func (a *networkAnswer) network() engine.Network {
	option := func(name string) string { return a.Options[bridgeOption+name] }
	n := engine.Network{
		Name: a.Name, ID: a.ID, Driver: a.Driver, Internal: a.Internal, IPv6: a.EnableIPv6,
		Apart: option("enable_icc") == "false", GatewayMode4: option("gateway_mode_ipv4"), GatewayMode6: option("gateway_mode_ipv6"),
	}
	n.Unmasked = option("enable_ip_masquerade") == "false" || strings.HasPrefix(n.GatewayMode4, "routed") || strings.HasPrefix(n.GatewayMode6, "routed")
	if a.Driver == "bridge" {
		if n.Bridge = option("name"); n.Bridge == "" {
			n.Bridge = "br-" + a.ID[:min(12, len(a.ID))]
		}
	}
	for _, c := range a.IPAM.Config {
		addRange(&n, c.Subnet, c.Gateway)
	}
	for _, c := range a.Containers {
		n.Members = append(n.Members, engine.Member{Name: c.Name, Addresses: addresses(c.IPv4Address, c.IPv6Address)})
	}
	slices.SortFunc(n.Members, compareMembers)
	return n
}

// addRange adds one of a network's ranges of addresses.
func addRange(n *engine.Network, subnet, gateway string) {
	if p, err := netip.ParsePrefix(subnet); err == nil {
		n.Prefixes = append(n.Prefixes, p.Masked())
	}
	n.Gateways = append(n.Gateways, addresses(gateway)...)
}

// addresses are those of texts that may have a length behind them; others are left
// out.
func addresses(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		text, _, _ = strings.Cut(text, "/")
		if address, err := netip.ParseAddr(text); err == nil {
			all = append(all, address)
		}
	}
	return all
}

// compareMembers sorts by name; two of one name by their addresses.
func compareMembers(a, b engine.Member) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare)
}

// The bounds of a file of networks: its bytes, and how many networks are taken.
const (
	maxNetworksFile = 16 << 20
	maxNetworks     = 4096
)

// ReadNetworks reads the saved output of docker network inspect, a list of networks
// in JSON, or of several such commands one after the other. Of what it does not know
// nothing is kept. name is the file's in errors.
func ReadNetworks(name string, r io.Reader) ([]engine.Network, error) {
	const want = "what docker network inspect prints"
	data, err := io.ReadAll(io.LimitReader(r, maxNetworksFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxNetworksFile {
		return nil, fmt.Errorf("read %s: more than %d MB; expected %s", name, maxNetworksFile>>20, want)
	}
	if looks := textlog.Looks(data[:min(len(data), 4<<10)]); looks != "JSON" {
		return nil, textlog.Unusable(name, looks, want)
	}
	var all []engine.Network
	for decoder := json.NewDecoder(bytes.NewReader(data)); ; {
		var answers networkAnswers
		err := decoder.Decode(&answers)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return all, fmt.Errorf("read %s: %w", name, err)
		}
		for i := range answers {
			if len(all) == maxNetworks {
				return all, fmt.Errorf("read %s: more than %d networks", name, maxNetworks)
			}
			// Other JSON has no networks.
			if n := answers[i].network(); n.Name != "" && answers[i].Driver != "" {
				all = append(all, n)
			}
		}
	}
	if len(all) == 0 {
		return nil, textlog.Unusable(name, "JSON without networks", want)
	}
	return all, nil
}

// networkAnswers are one network or a list of them.
type networkAnswers []networkAnswer

// UnmarshalJSON implements json.Unmarshaler.
func (a *networkAnswers) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		*a = make(networkAnswers, 1)
		return json.Unmarshal(data, &(*a)[0])
	}
	return json.Unmarshal(data, (*[]networkAnswer)(a))
}
