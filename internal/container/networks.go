//go:build linux

package container

import (
	"context"
	"errors"
	"net/netip"
	"strings"
)

// Network is a network that the Docker daemon knows.
type Network struct {
	Name string
	// Bridge is the name of its interface on the host, empty for other drivers
	// than bridge.
	Bridge string
	// Internal networks lead nowhere else; Unmasked ones leave with the
	// containers' own addresses.
	Internal, Unmasked bool
	Prefixes           []netip.Prefix
}

// Networks lists the networks of the Docker daemon at an address, which is
// $DOCKER_HOST when empty. Where no daemon is it returns none, and no error.
func Networks(ctx context.Context, dockerHost string) ([]Network, error) {
	engine, err := newDocker(dockerHost)
	if err != nil {
		return nil, err
	}
	var answer []struct {
		ID       string `json:"Id"`
		Name     string
		Driver   string
		Internal bool
		Options  map[string]string
		IPAM     struct {
			Config []struct{ Subnet string }
		}
	}
	err = engine.get(ctx, "/networks", &answer)
	if errors.Is(err, errNoDaemon) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Network
	for _, known := range answer {
		const option = "com.docker.network.bridge."
		n := Network{Name: known.Name, Internal: known.Internal, Unmasked: known.Options[option+"enable_ip_masquerade"] == "false"}
		for _, mode := range []string{"gateway_mode_ipv4", "gateway_mode_ipv6"} {
			n.Unmasked = n.Unmasked || strings.HasPrefix(known.Options[option+mode], "routed")
		}
		if known.Driver == "bridge" {
			if n.Bridge = known.Options[option+"name"]; n.Bridge == "" {
				n.Bridge = "br-" + known.ID[:min(12, len(known.ID))]
			}
		}
		for _, c := range known.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil {
				n.Prefixes = append(n.Prefixes, p.Masked())
			}
		}
		all = append(all, n)
	}
	return all, nil
}
