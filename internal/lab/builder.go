//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// readyWithin is how long links may take to come up. They take milliseconds.
const readyWithin = 10 * time.Second

// builder builds one network. The first error stays and makes the rest do
// nothing, so that scenarios read as a list of what there is.
type builder struct {
	ctx     context.Context
	network *Network
	nodes   map[string]*node
	macs    byte
	// resolvers are the DNS servers of namespaces that have another one than the
	// scenario's.
	resolvers map[string]netip.Addr
	// disguise changes the names and addresses that scenarios are written in,
	// wherever they are handed to the kernel or to a tool.
	disguise *disguise
	err      error
}

// node is a namespace under construction.
type node struct {
	*builder
	name   string
	ns     *netns.NS
	handle *netlink.Handle
}

// do runs f unless something went wrong before.
func (b *builder) do(what string, f func() error) {
	if b.err != nil {
		return
	}
	if b.err = b.ctx.Err(); b.err != nil {
		return
	}
	err := f()
	if err == nil {
		err = b.disguise.problem()
	}
	if err != nil {
		b.err = fmt.Errorf("%s: %w", what, err)
	}
}

// undo has f run when the network is closed, last first.
func (b *builder) undo(f func() error) { b.network.undo = append(b.network.undo, f) }

// close ends the construction: what remains is held by the network.
func (b *builder) close() {
	for _, node := range b.nodes {
		if node.handle != nil {
			node.handle.Close()
		}
	}
}

// namespace makes a namespace with its loopback up. Addresses are usable at
// once: there is no duplicate address detection, and nothing is taken from
// router advertisements.
func (b *builder) namespace(name string) *node {
	n := &node{builder: b, name: name}
	b.nodes[name] = n
	b.do("create namespace "+name, func() (err error) {
		if n.ns, err = netns.New(); err != nil {
			return err
		}
		b.undo(n.ns.Close)
		b.network.spaces[name] = n.ns
		b.network.names = append(b.network.names, name)
		if name == HostName {
			b.network.Host = n.ns
		}
		n.handle, err = netlink.NewHandleAt(vishnetns.NsHandle(n.ns.FD()), unix.NETLINK_ROUTE)
		return err
	})
	for _, conf := range []string{"all", "default"} {
		n.sysctl("net/ipv6/conf/"+conf+"/accept_dad", "0")
		n.sysctl("net/ipv6/conf/"+conf+"/accept_ra", "0")
	}
	n.sysctl("net/ipv6/conf/default/router_solicitations", "0")
	// As systemd sets it everywhere (50-default.conf): loose.
	n.sysctl("net/ipv4/conf/all/rp_filter", "0")
	n.sysctl("net/ipv4/conf/default/rp_filter", "2")
	n.up("lo")
	return n
}

// router makes the namespace forward.
func (n *node) router() {
	n.sysctl("net/ipv4/ip_forward", "1")
	n.sysctl("net/ipv6/conf/all/forwarding", "1")
}

// bridgeNF says whether bridged packets pass the IP hooks. Where br_netfilter
// is not loaded they never do.
func (n *node) bridgeNF(on bool) {
	value := "0"
	if on {
		value = "1"
	}
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		key := "net/bridge/bridge-nf-call-" + name
		if _, err := os.Stat("/proc/sys/" + key); err == nil {
			n.sysctl(key, value)
		}
	}
}

func (n *node) sysctl(key, value string) {
	n.do("set "+key+" in "+n.name, func() error {
		return n.ns.Do(func() error { return os.WriteFile("/proc/sys/"+n.disguise.text(key), []byte(value), 0o644) })
	})
}

// wire connects two namespaces with a veth pair.
func (b *builder) wire(left *node, leftName string, right *node, rightName string) {
	b.do(fmt.Sprintf("connect %s in %s to %s in %s", leftName, left.name, rightName, right.name), func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = b.disguise.iface(leftName)
		attrs.HardwareAddr = b.mac()
		return left.handle.LinkAdd(&netlink.Veth{
			LinkAttrs:        attrs,
			PeerName:         b.disguise.iface(rightName),
			PeerHardwareAddr: b.mac(),
			PeerNamespace:    netlink.NsFd(right.ns.FD()),
		})
	})
	left.up(leftName)
	right.up(rightName)
}

// mac returns the next address: the same in each network that is built, or
// that of the disguise.
func (b *builder) mac() net.HardwareAddr {
	b.macs++
	mac, err := net.ParseMAC(fmt.Sprintf("%s%02x", b.disguise.mac(), b.macs))
	if err != nil {
		panic(err) // the text is made here
	}
	return mac
}

// bridge makes a bridge.
func (n *node) bridge(name string) {
	n.do(fmt.Sprintf("create bridge %s in %s", name, n.name), func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.disguise.iface(name)
		attrs.HardwareAddr = n.mac()
		return n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	n.up(name)
}

// link finds a link by the name that the scenario gave it.
func (n *node) link(name string) (netlink.Link, error) {
	return n.handle.LinkByName(n.disguise.iface(name))
}

// port makes a link a port of a bridge.
func (n *node) port(name, bridge string) {
	n.do(fmt.Sprintf("make %s in %s a port of %s", name, n.name, bridge), func() error {
		link, err := n.link(name)
		if err != nil {
			return err
		}
		master, err := n.link(bridge)
		if err != nil {
			return err
		}
		return n.handle.LinkSetMaster(link, master)
	})
}

func (n *node) up(name string) {
	n.do(fmt.Sprintf("set %s in %s up", name, n.name), func() error {
		link, err := n.link(name)
		if err != nil {
			return err
		}
		return n.handle.LinkSetUp(link)
	})
}

// addr adds addresses, "192.0.2.1/24".
func (n *node) addr(name string, prefixes ...string) {
	for _, prefix := range prefixes {
		n.do(fmt.Sprintf("add %s to %s in %s", prefix, name, n.name), func() error {
			link, err := n.link(name)
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr(n.disguise.text(prefix))
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			return n.handle.AddrAdd(link, addr)
		})
	}
}

// route adds a route; destination is "default" for ::/0 and 0.0.0.0/0.
func (n *node) route(destination, gateway, name string) {
	n.routeFrom(destination, gateway, name, netip.Addr{})
}

// routeFrom adds a route with the source address that is preferred by it; an
// invalid one is none.
func (n *node) routeFrom(destination, gateway, name string, source netip.Addr) {
	n.do(fmt.Sprintf("add route %s via %s dev %s in %s", destination, gateway, name, n.name), func() error {
		link, err := n.link(name)
		if err != nil {
			return err
		}
		via, err := netip.ParseAddr(n.disguise.text(gateway))
		if err != nil {
			return err
		}
		if destination == "default" {
			destination = "0.0.0.0/0"
			if via.Is6() {
				destination = "::/0"
			}
		}
		_, dst, err := net.ParseCIDR(n.disguise.text(destination))
		if err != nil {
			return err
		}
		return n.handle.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       dst,
			Gw:        via.AsSlice(),
			Src:       n.disguise.address(source).AsSlice(),
			Protocol:  unix.RTPROT_STATIC,
		})
	})
}

// linkLocal returns the address that IPv6 gives to a link by itself, as soon
// as the link is up.
func (n *node) linkLocal(name string) string {
	var found string
	n.wait(fmt.Sprintf("wait for the link-local address of %s in %s", name, n.name), func() (bool, error) {
		addrs, err := n.addresses()
		for _, addr := range addrs {
			if addr.Label == n.disguise.iface(name) && addr.IP.IsLinkLocalUnicast() && addr.IP.To4() == nil {
				found = addr.IP.String()
			}
		}
		return found != "", err
	})
	return found
}

// addresses lists the IPv6 addresses, with the link's name in Label.
func (n *node) addresses() ([]netlink.Addr, error) {
	var all []netlink.Addr
	links, err := n.links()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		addrs, err := retry(func() ([]netlink.Addr, error) { return n.handle.AddrList(link, unix.AF_INET6) })
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			addr.Label = link.Attrs().Name
			all = append(all, addr)
		}
	}
	return all, nil
}

func (n *node) links() ([]netlink.Link, error) { return retry(n.handle.LinkList) }

// retry repeats a dump that changed while it was read.
func retry[T any](dump func() (T, error)) (T, error) {
	for range 10 {
		if all, err := dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return dump()
}

// ready waits until every link that was set up is up, and has an IPv6 address
// of its own that is not tentative.
func (b *builder) ready() {
	for _, node := range b.nodes {
		node.wait("wait for the links of "+node.name, node.isReady)
	}
}

func (n *node) isReady() (bool, error) {
	links, err := n.links()
	if err != nil {
		return false, err
	}
	pending := make(map[string]bool)
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagUp == 0 || attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		switch {
		case attrs.OperState == netlink.OperUnknown: // a tunnel: it has no carrier to wait for
			continue
		case attrs.OperState != netlink.OperUp:
			return false, nil
		}
		pending[attrs.Name] = true
	}
	addrs, err := n.addresses()
	if err != nil {
		return false, err
	}
	for _, addr := range addrs {
		if addr.Flags&unix.IFA_F_TENTATIVE != 0 {
			return false, nil
		}
		if addr.IP.IsLinkLocalUnicast() {
			delete(pending, addr.Label)
		}
	}
	return len(pending) == 0, nil
}

// wait waits for a condition that the kernel brings about by itself.
func (n *node) wait(what string, condition func() (bool, error)) {
	n.do(what, func() error {
		ctx, cancel := context.WithTimeout(n.ctx, readyWithin)
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			if done, err := condition(); done || err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	})
}

// publish gives the namespaces that can be found their names and files.
func (b *builder) publish() {
	n, s := b.network, &b.network.Scenario
	for _, name := range n.names {
		if name == HostName || !s.visible(n.Options, name) {
			continue
		}
		n.Named = append(n.Named, name)
		if n.Options.NamedDir != "" {
			path := filepath.Join(n.Options.NamedDir, name)
			b.do("name namespace "+name, func() error { return b.bind(n.spaces[name], path) })
		}
		if n.Options.EtcDir != "" {
			dir := filepath.Join(n.Options.EtcDir, "netns", name)
			resolver := s.Resolver
			if own, ok := b.resolvers[name]; ok {
				resolver = own
			}
			b.do("write "+dir, func() error { return writeEtc(dir, name, resolver) })
		}
	}
	if n.Options.EtcDir != "" {
		b.do("write "+n.Options.EtcDir, func() error { return writeEtc(n.Options.EtcDir, HostName, s.Resolver) })
	}
}

// bind mounts a namespace on a file, as "ip netns add" does.
func (b *builder) bind(ns *netns.NS, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	b.undo(func() error { return os.Remove(path) })
	if err := file.Close(); err != nil {
		return err
	}
	source := fmt.Sprintf("/proc/self/fd/%d", ns.FD())
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, path, err)
	}
	b.undo(func() error { return unix.Unmount(path, unix.MNT_DETACH) })
	return nil
}

// writeEtc writes the files that the resolver of a namespace reads.
func writeEtc(dir, name string, resolver netip.Addr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"resolv.conf": fmt.Sprintf("nameserver %s\n", resolver),
		"hosts":       strings.Join([]string{"127.0.0.1 localhost", "::1 localhost", "127.0.1.1 " + name, ""}, "\n"),
	} {
		path := filepath.Join(dir, file)
		// What is there may be a link that leads elsewhere.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
