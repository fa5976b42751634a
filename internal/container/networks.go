//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
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

// Running is a container of the Docker daemon that has a process.
type Running struct {
	Name string
	PID  int
	// NetNS is the inode number of its network namespace.
	NetNS uint64
}

// maxRunning bounds the requests: one for each container.
const maxRunning = 256

// Containers lists the containers of the Docker daemon at an address that run, at
// most 256; $DOCKER_HOST when empty. Where no daemon is it returns none, and no
// error.
func Containers(ctx context.Context, dockerHost string) ([]Running, error) {
	engine, err := newDocker(dockerHost)
	if err != nil {
		return nil, err
	}
	names, err := engine.names(ctx)
	if errors.Is(err, errNoDaemon) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Running
	for _, name := range names[:min(maxRunning, len(names))] {
		known, err := engine.inspect(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended meanwhile
		}
		if err != nil {
			return all, err
		}
		var stat unix.Stat_t
		if known.PID > 0 && unix.Stat(fmt.Sprintf("/proc/%d/ns/net", known.PID), &stat) == nil {
			all = append(all, Running{Name: known.Name, PID: known.PID, NetNS: stat.Ino})
		}
	}
	return all, nil
}
