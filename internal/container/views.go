//go:build linux

package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/pathtrace/pathtrace/internal/engine"
)

// Views asks the daemons of Docker and Podman for their networks and the
// containers that run. A daemon that is not there has no view, and is no problem;
// one that does not answer is, in words. Networks and containers of Podman without
// its service are not known.
func Views(ctx context.Context, config Config) (views []engine.View, problems []string) {
	services, problems := config.services()
	answers, errs := make([]engine.View, len(services)), make([]error, len(services))
	var asking sync.WaitGroup
	for i, s := range services {
		asking.Go(func() { answers[i], errs[i] = s.view(ctx) })
	}
	asking.Wait()
	proxies := proxies()
	for i := range answers {
		switch {
		case errors.Is(errs[i], errAbsent):
		case errs[i] != nil:
			problems = append(problems, errs[i].Error())
		case !slices.ContainsFunc(views, func(v engine.View) bool { return same(&v, &answers[i]) }):
			proxied(&answers[i], proxies)
			views = append(views, answers[i])
		}
	}
	return views, problems
}

// Describe asks the engine of a container for what it says of it. The error is in
// words for a user: a container is as good without.
func (s *Source) Describe(ctx context.Context) (*engine.Description, error) {
	if s.service == nil {
		return nil, fmt.Errorf("networks and ports of %s are not known: %s", s.Name, noAPI[s.Engine])
	}
	view, err := s.service.view(ctx)
	if err != nil {
		return nil, err
	}
	proxied(&view, proxies())
	return engine.Describe([]engine.View{view}, s.ID), nil
}

// same reports whether two sockets are of one daemon: Podman's may be at Docker's
// place, too.
func same(a, b *engine.View) bool {
	return a.Engine == b.Engine && a.Owner == b.Owner && slices.EqualFunc(a.Networks, b.Networks, func(m, n engine.Network) bool { return m.ID == n.ID })
}

// view is what a daemon says.
func (s *service) view(ctx context.Context) (engine.View, error) {
	var all []containerAnswer
	word, err := s.do(ctx, "GET", "/containers/json", nil, &all)
	if err != nil {
		return engine.View{}, err
	}
	v := engine.View{Engine: word, Owner: s.owner, Networks: []engine.Network{}, Containers: []engine.Container{}}
	for i := range all {
		v.Containers = append(v.Containers, all[i].container())
	}
	if word == podmanEngine {
		v.Networks, err = s.podmanNetworks(ctx)
		return v, err
	}
	var networks []networkAnswer
	if err = s.get(ctx, "/networks", &networks); err != nil {
		return v, fmt.Errorf("networks of %s: %w", word, err)
	}
	for i := range networks {
		v.Networks = append(v.Networks, networks[i].network())
	}
	return v, nil
}

// podmanNetworks asks Podman for its networks by its own API: what it answers in
// Docker's words has no interface, and calls the default network "bridge", which
// is "podman" where containers are in it (Podman 4.3).
func (s *service) podmanNetworks(ctx context.Context) ([]engine.Network, error) {
	var answers []struct {
		ID, Name, Driver string
		Interface        string `json:"network_interface"`
		Subnets          []struct{ Subnet, Gateway string }
		IPv6             bool `json:"ipv6_enabled"`
		Internal         bool
	}
	if err := s.get(ctx, "/v4.0.0/libpod/networks/json", &answers); err != nil {
		return nil, fmt.Errorf("networks of podman: %w", err)
	}
	all := []engine.Network{}
	for _, a := range answers {
		n := engine.Network{Name: a.Name, ID: a.ID, Driver: a.Driver, Internal: a.Internal, IPv6: a.IPv6}
		if a.Driver == "bridge" {
			n.Bridge = a.Interface
		}
		for _, r := range a.Subnets {
			addRange(&n, r.Subnet, r.Gateway)
		}
		all = append(all, n)
	}
	return all, nil
}

// containerAnswer is what is read of one container in a daemon's list.
type containerAnswer struct {
	listed
	Ports []struct {
		IP          string
		PrivatePort uint16
		PublicPort  uint16
		Type        string
	}
	Labels          map[string]string
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct {
		Networks map[string]struct {
			IPAddress, GlobalIPv6Address, Gateway, IPv6Gateway string
		}
	}
}

func (a *containerAnswer) container() engine.Container {
	c := engine.Container{ID: a.ID, Name: a.name(), Mode: a.HostConfig.NetworkMode, Labels: engine.Labelled(a.Labels)}
	for name, n := range a.NetworkSettings.Networks {
		c.Networks = append(c.Networks, engine.Attachment{
			Network: name, Addresses: addresses(n.IPAddress, n.GlobalIPv6Address), Gateways: addresses(n.Gateway, n.IPv6Gateway),
		})
	}
	slices.SortFunc(c.Networks, func(a, b engine.Attachment) int { return cmp.Compare(a.Network, b.Network) })
	for _, p := range a.Ports {
		port := engine.Port{Protocol: p.Type, Number: p.PrivatePort}
		if p.PublicPort == 0 {
			c.Exposed = append(c.Exposed, port)
			continue
		}
		address, _ := netip.ParseAddr(p.IP) // none is all addresses
		c.Published = append(c.Published, engine.Published{Address: address, Host: p.PublicPort, Port: port})
	}
	slices.SortFunc(c.Exposed, comparePorts)
	slices.SortFunc(c.Published, func(a, b engine.Published) int {
		return cmp.Or(comparePorts(a.Port, b.Port), cmp.Compare(a.Host, b.Host), a.Address.Compare(b.Address))
	})
	return c
}

func comparePorts(a, b engine.Port) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol))
}

// proxy is a docker-proxy that listens on the host for a container.
type proxy struct {
	pid int
	// listens is where, port is the container's.
	address netip.Addr
	host    uint16
	port    engine.Port
}

// proxies lists the processes that listen for Docker's containers: whether the
// daemon starts them (userland-proxy) is not in its API.
func proxies() []proxy {
	all, err := processes()
	if err != nil {
		return nil // then none is seen
	}
	var found []proxy
	for i := range all {
		if all[i].name != "docker-proxy" {
			continue
		}
		arguments := all[i].arguments()
		address, _ := netip.ParseAddr(after(arguments, "-host-ip"))
		host, _ := strconv.ParseUint(after(arguments, "-host-port"), 10, 16)
		port, _ := strconv.ParseUint(after(arguments, "-container-port"), 10, 16)
		found = append(found, proxy{
			pid: all[i].pid, address: address, host: uint16(host),
			port: engine.Port{Protocol: after(arguments, "-proto"), Number: uint16(port)},
		})
	}
	return found
}

// proxied adds the proxies to the published ports.
func proxied(v *engine.View, all []proxy) {
	for i := range v.Containers {
		for k := range v.Containers[i].Published {
			p := &v.Containers[i].Published[k]
			for _, q := range all {
				if q.host == p.Host && q.address == p.Address && q.port == p.Port {
					p.Proxy = q.pid
				}
			}
		}
	}
}

// Running is a container that has a process.
type Running struct {
	Name string
	PID  int
	// NetNS is the inode number of its network namespace.
	NetNS uint64
}

// maxRunning bounds the containers that are looked at: of a daemon's, each is a
// request.
const maxRunning = 256

// Containers lists the containers of all engines that run, at most 256 of each.
// Engines that are not there have none.
func Containers(ctx context.Context, config Config) ([]Running, error) {
	finders, _ := config.engines()
	var found []found
	var errs []error
	for _, f := range finders {
		all, err := f.running(ctx)
		if err != nil && !errors.Is(err, errAbsent) {
			errs = append(errs, err)
		}
		found = append(found, all[:min(maxRunning, len(all))]...)
	}
	var all []Running
	for _, f := range distinct(found) {
		if ns := netnsOf(f.pid); ns != 0 {
			all = append(all, Running{Name: f.name, PID: f.pid, NetNS: ns})
		}
	}
	return all, errors.Join(errs...)
}
