package topology

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// reader reads one namespace. The library reads links, addresses and
// neighbours; routes, policy rules and the rest are decoded here, because it
// leaves out what decides a lookup (a route's source, a rule's action).
type reader struct {
	ns *netns.NS
	// here says that the process is in the namespace, which then takes no
	// privilege to enter.
	here   bool
	handle *netlink.Handle
	// raw is opened by need: most namespaces are only looked into.
	raw *nl.NetlinkSocket
}

// timeout bounds each answer of the kernel.
const timeout = 5 * time.Second

func openReader(ns *netns.NS, here bool) (*reader, error) {
	r := &reader{ns: ns, here: here}
	err := r.inside(func() (err error) {
		r.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := r.handle.SetSocketTimeout(timeout); err != nil {
		r.close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return r, nil
}

// inside runs f in the namespace: a socket, and a file below /proc/sys/net,
// belong to the namespace of the thread that opens them.
func (r *reader) inside(f func() error) error {
	if r.here {
		return f()
	}
	return r.ns.Do(f)
}

func isOne(path string) bool {
	content, err := os.ReadFile(path)
	return err == nil && string(bytes.TrimSpace(content)) == "1"
}

func (r *reader) close() {
	r.handle.Close()
	if r.raw != nil {
		r.raw.Close()
	}
}

// complete repeats a dump that the kernel calls interrupted (something changed
// meanwhile); on a machine that never rests the last one has to do.
func complete[T any](dump func() (T, error)) (T, error) {
	for try := 0; ; try++ {
		result, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return result, err
		}
		if try == 3 {
			return result, nil
		}
	}
}

// dump returns the bodies of the kernel's answers to a dump request.
func (r *reader) dump(request int, header nl.NetlinkRequestData, answer uint16) ([][]byte, error) {
	if r.raw == nil {
		err := r.inside(func() (err error) {
			r.raw, err = nl.Subscribe(unix.NETLINK_ROUTE)
			return err
		})
		if err != nil {
			return nil, err
		}
		limit := unix.NsecToTimeval(timeout.Nanoseconds())
		if err := r.raw.SetReceiveTimeout(&limit); err != nil {
			return nil, err
		}
	}
	return complete(func() ([][]byte, error) {
		message := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
		message.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: r.raw, Seq: message.Seq}}
		message.AddData(header)
		return message.Execute(unix.NETLINK_ROUTE, answer)
	})
}

// dumpOptional is dump for what a kernel may have been built without: it has none
// of it then. rtnetlink answers EOPNOTSUPP where nobody handles a request.
func (r *reader) dumpOptional(request int, header nl.NetlinkRequestData, answer uint16) ([][]byte, error) {
	messages, err := r.dump(request, header, answer)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return messages, err
}

// wire is where a link leads: ends of pairs, links below others.
type wire struct {
	// index is that of the other link, nsid the kernel's id of its namespace
	// as seen from here; -1 is this one.
	index, nsid int
}

// look reads links and addresses: enough to say who owns an address. It
// returns the wires by the index of the link.
func (r *reader) look(n *Namespace) (map[int]wire, error) {
	links, err := complete(r.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	wires := make(map[int]wire)
	position := make(map[int]int, len(links))
	n.Links = make([]Link, len(links))
	for i, source := range links {
		attrs := source.Attrs()
		position[attrs.Index] = i
		link := &n.Links[i]
		*link = Link{
			Index: attrs.Index, Name: attrs.Name, Kind: source.Type(), MAC: attrs.HardwareAddr.String(), MTU: attrs.MTU,
			Up:      attrs.Flags&net.FlagUp != 0,
			Carrier: attrs.RawFlags&unix.IFF_LOWER_UP != 0,
			State:   strings.ReplaceAll(attrs.OperState.String(), "-", ""), Group: int(attrs.Group),
		}
		link.XDP, link.Overlay, link.Mode = xdpOf(attrs.Xdp), overlay(source), macvlanMode(source)
		switch {
		case attrs.Flags&net.FlagLoopback != 0:
			link.Kind = "loopback"
		case link.Kind == "device":
			link.Kind = ""
		case link.Kind == "tuntap": // the library's word
			link.Kind = "tun"
		}
		if vrf, ok := source.(*netlink.Vrf); ok {
			link.VRFTable = int(vrf.Table)
		}
		if attrs.ParentIndex == 0 || attrs.ParentIndex == attrs.Index && int32(attrs.NetNsID) < 0 {
			continue
		}
		switch link.Kind {
		case "veth", "netkit":
			link.Peer = &Peer{Index: attrs.ParentIndex}
		case "macvlan", "macvtap", "ipvlan", "ipvtap", "vlan":
			link.Lower = &Peer{Index: attrs.ParentIndex}
		default:
			continue
		}
		// The library widens the kernel's int32, whose -1 is "no id".
		wires[attrs.Index] = wire{index: attrs.ParentIndex, nsid: int(int32(attrs.NetNsID))}
	}
	for i, source := range links {
		master, found := position[source.Attrs().MasterIndex]
		if !found {
			continue
		}
		switch n.Links[master].Kind {
		case "bridge":
			n.Links[i].Bridge = n.Links[master].Name
		case "vrf":
			n.Links[i].VRF = n.Links[master].Name
		}
	}
	if err := r.tunnels(n, links); err != nil {
		return nil, err
	}
	addresses, err := complete(func() ([]netlink.Addr, error) { return r.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	for _, source := range addresses {
		i, found := position[source.LinkIndex]
		prefix := prefixOf(source.IPNet)
		if !found || !prefix.IsValid() {
			continue
		}
		link := &n.Links[i]
		link.Addresses = append(link.Addresses, prefix)
		if flags := bits(source.Flags, addressFlags); len(flags) > 0 {
			if link.AddressFlags == nil {
				link.AddressFlags = make(map[netip.Addr][]string)
			}
			link.AddressFlags[prefix.Addr()] = flags
		}
	}
	return wires, nil
}

// tunnels reads where VXLAN devices lead; links are in the order of the
// namespace's.
func (r *reader) tunnels(n *Namespace, links []netlink.Link) error {
	byIndex := make(map[int]*Tunnel)
	for i, source := range links {
		vxlan, ok := source.(*netlink.Vxlan)
		if !ok || !slices.Contains(packet.VXLANPorts, uint16(vxlan.Port)) {
			continue
		}
		t := &Tunnel{ID: uint32(vxlan.VxlanId), Port: uint16(vxlan.Port), Local: unicastOf(vxlan.SrcAddr)}
		n.Links[i].Tunnel, byIndex[n.Links[i].Index] = t, t
	}
	if len(byIndex) == 0 {
		return nil
	}
	// The entry for all is among them.
	entries, err := complete(func() ([]netlink.Neigh, error) { return r.handle.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("read where VXLANs lead: %w", err)
	}
	for _, entry := range entries {
		if t, remote := byIndex[entry.LinkIndex], unicastOf(entry.IP); t != nil && remote.IsValid() {
			t.Remotes = append(t.Remotes, Remote{MAC: entry.HardwareAddr.String(), Address: remote})
		}
	}
	return nil
}

// unicastOf is an address of one machine, invalid for any other.
func unicastOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	if a = a.Unmap(); a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}
	}
	return a
}

// hardwareAddresses are the addresses of single machines that a link receives
// frames for beside its own: those of the macvlans above it, which the kernel
// tells the link of (dev_uc_add in drivers/net/macvlan.c).
func (r *reader) hardwareAddresses(link *Link) ([]string, error) {
	entries, err := complete(func() ([]netlink.Neigh, error) { return r.handle.NeighList(link.Index, unix.AF_BRIDGE) })
	if err != nil {
		return nil, fmt.Errorf("read the hardware addresses of %s: %w", link.Name, err)
	}
	var all []string
	for _, e := range entries {
		mac := e.HardwareAddr
		if e.LinkIndex == link.Index && e.Flags&netlink.NTF_SELF != 0 && len(mac) > 0 && mac[0]&1 == 0 && mac.String() != link.MAC {
			all = append(all, mac.String())
		}
	}
	return all, nil
}

// macvlanModes are the kernel's words for the modes of macvlans.
var macvlanModes = map[netlink.MacvlanMode]string{
	netlink.MACVLAN_MODE_PRIVATE:  "private",
	netlink.MACVLAN_MODE_VEPA:     "vepa",
	netlink.MACVLAN_MODE_BRIDGE:   "bridge",
	netlink.MACVLAN_MODE_PASSTHRU: "passthru",
	netlink.MACVLAN_MODE_SOURCE:   "source",
}

// macvlanMode is the mode of a macvlan or macvtap; empty for other kinds.
func macvlanMode(link netlink.Link) string {
	switch link := link.(type) {
	case *netlink.Macvlan:
		return macvlanModes[link.Mode]
	case *netlink.Macvtap:
		return macvlanModes[link.Mode]
	}
	return ""
}

// overlay reports whether a tunnel has no single other end.
func overlay(link netlink.Link) bool {
	var remote net.IP
	switch tunnel := link.(type) {
	case *netlink.Vxlan:
		remote = tunnel.Group
	case *netlink.Geneve:
		remote = tunnel.Remote
	case *netlink.Iptun:
		remote = tunnel.Remote
	case *netlink.Gretun:
		remote = tunnel.Remote
	case *netlink.Sittun:
		remote = tunnel.Remote
	case *netlink.Ip6tnl:
		remote = tunnel.Remote
	default:
		return false
	}
	return len(remote) == 0 || remote.IsUnspecified() || remote.IsMulticast()
}

var addressFlags = []bit{
	{unix.IFA_F_SECONDARY, "secondary"},
	{unix.IFA_F_OPTIMISTIC, "optimistic"},
	{unix.IFA_F_DADFAILED, "dadfailed"},
	{unix.IFA_F_DEPRECATED, "deprecated"},
	{unix.IFA_F_TENTATIVE, "tentative"},
}

// read reads the rest of what look has begun. What cannot be read is returned
// as problems; the rest is there.
func (r *reader) read(n *Namespace) (problems []error) {
	for _, part := range []func(*Namespace) error{r.files, r.settings, r.ports, r.routes, r.policy, r.neighbours, r.forwarding, r.proxied, r.filters, r.counters} {
		if err := part(n); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// attributes calls f for each attribute behind a header of that length, which
// is aligned as netlink does.
func attributes(message []byte, header int, f func(kind uint16, value []byte)) error {
	header = (header + 3) &^ 3
	if len(message) < header {
		return unix.EBADMSG
	}
	parsed, err := nl.ParseRouteAttr(message[header:])
	if err != nil {
		return err
	}
	for _, attribute := range parsed {
		f(attribute.Attr.Type&^unix.NLA_F_NESTED, attribute.Value)
	}
	return nil
}

// The numbers of struct netconfmsg (include/uapi/linux/netconf.h).
const (
	netconfIndex          = 1    // NETCONFA_IFINDEX
	netconfForwarding     = 2    // NETCONFA_FORWARDING
	netconfRPFilter       = 3    // NETCONFA_RP_FILTER
	netconfProxy          = 5    // NETCONFA_PROXY_NEIGH
	netconfIgnoreLinkDown = 6    // NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN
	netconfAll            = -1   // NETCONFA_IFINDEX_ALL
	rtmNewNetconf         = 0x50 // RTM_NEWNETCONF
	rtmGetNetconf         = 0x52 // RTM_GETNETCONF
)

// settings reads the switches of all interfaces: one dump for each family in
// place of some thousand files.
func (r *reader) settings(n *Namespace) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		messages, err := r.dump(rtmGetNetconf, &nl.RtGenMsg{RtGenmsg: unix.RtGenmsg{Family: uint8(family)}}, rtmNewNetconf)
		if err != nil {
			return fmt.Errorf("read interface switches: %w", err)
		}
		for _, message := range messages {
			values := make(map[uint16]int)
			err := attributes(message, unix.SizeofRtGenmsg, func(kind uint16, value []byte) {
				values[kind] = int(int32(number(value)))
			})
			if err != nil || message[0] != uint8(family) {
				continue
			}
			index := values[netconfIndex]
			settings := &n.All
			if index != netconfAll {
				link := slices.IndexFunc(n.Links, func(l Link) bool { return l.Index == index })
				if link < 0 {
					continue
				}
				settings = &n.Links[link].Settings
			}
			if family == unix.AF_INET {
				settings.ForwardIPv4 = values[netconfForwarding] != 0
				settings.RPFilter = values[netconfRPFilter]
				settings.ProxyARP = values[netconfProxy] != 0
				settings.IgnoreLinkDownIPv4 = values[netconfIgnoreLinkDown] != 0
			} else {
				settings.ForwardIPv6 = values[netconfForwarding] != 0
				settings.ProxyNDP = values[netconfProxy] != 0
				settings.IgnoreLinkDownIPv6 = values[netconfIgnoreLinkDown] != 0
			}
		}
	}
	return nil
}

// bridgeNF reads br_netfilter's switches; without the module there are none.
// files reads the switches that no dump has.
func (r *reader) files(n *Namespace) error {
	return r.inside(func() error {
		n.BridgeNF = BridgeNF{
			IPv4: isOne("/proc/sys/net/bridge/bridge-nf-call-iptables"),
			IPv6: isOne("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
			ARP:  isOne("/proc/sys/net/bridge/bridge-nf-call-arptables"),
		}
		n.EchoIgnored = EchoIgnored{
			IPv4: isOne("/proc/sys/net/ipv4/icmp_echo_ignore_all"),
			IPv6: isOne("/proc/sys/net/ipv6/icmp/echo_ignore_all"),
		}
		return nil
	})
}

// portStates are the BR_STATE_* numbers (include/uapi/linux/if_bridge.h).
var portStates = []string{"disabled", "listening", "learning", "forwarding", "blocking"}

func (r *reader) ports(n *Namespace) error {
	if !slices.ContainsFunc(n.Links, func(l Link) bool { return l.Bridge != "" }) {
		return nil
	}
	messages, err := r.dump(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_BRIDGE), unix.RTM_NEWLINK)
	if err != nil {
		return fmt.Errorf("read bridge ports: %w", err)
	}
	for _, message := range messages {
		if len(message) < unix.SizeofIfInfomsg {
			continue
		}
		index := int(nl.DeserializeIfInfomsg(message).Index)
		link := slices.IndexFunc(n.Links, func(l Link) bool { return l.Index == index && l.Bridge != "" })
		if link < 0 {
			continue
		}
		_ = attributes(message, unix.SizeofIfInfomsg, func(kind uint16, value []byte) {
			if kind != unix.IFLA_PROTINFO {
				return
			}
			port := new(Port)
			_ = attributes(value, 0, func(kind uint16, value []byte) {
				switch {
				case len(value) != 1:
				case kind == nl.IFLA_BRPORT_STATE && int(value[0]) < len(portStates):
					port.State = portStates[value[0]]
				case kind == nl.IFLA_BRPORT_MODE:
					port.Hairpin = value[0] != 0
				case kind == nl.IFLA_BRPORT_ISOLATED:
					port.Isolated = value[0] != 0
				}
			})
			n.Links[link].Port = port
		})
	}
	return nil
}

var routeFlags = []bit{
	{unix.RTNH_F_DEAD, "dead"},
	{unix.RTNH_F_ONLINK, "onlink"},
	{unix.RTNH_F_PERVASIVE, "pervasive"},
	{unix.RTNH_F_OFFLOAD, "offload"},
	{unix.RTNH_F_LINKDOWN, "linkdown"},
}

func (r *reader) routes(n *Namespace) error {
	messages, err := r.dump(unix.RTM_GETROUTE, &nl.RtMsg{}, unix.RTM_NEWROUTE)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	names := n.linkNames()
	n.Routes = make([]Route, 0, len(messages))
	for _, message := range messages {
		if len(message) < unix.SizeofRtMsg {
			continue
		}
		header := nl.DeserializeRtMsg(message)
		if header.Family != unix.AF_INET && header.Family != unix.AF_INET6 || header.Flags&unix.RTM_F_CLONED != 0 {
			continue
		}
		if route, ok := routeOf(message, header, names); ok {
			n.Routes = append(n.Routes, route)
		}
	}
	return nil
}

func routeOf(message []byte, header *nl.RtMsg, names map[int]string) (Route, bool) {
	zero := zeroOf(header.Family)
	route := Route{
		Destination: netip.PrefixFrom(zero, int(header.Dst_len)),
		Table:       int(header.Table),
		Type:        at(types, int(header.Type)),
		Protocol:    named(protocols, int(header.Protocol)),
		Scope:       named(scopes, int(header.Scope)),
		TOS:         int(header.Tos),
		Flags:       bits(int(header.Flags), routeFlags),
	}
	if header.Src_len > 0 {
		route.From = netip.PrefixFrom(zero, int(header.Src_len))
	}
	err := attributes(message, unix.SizeofRtMsg, func(kind uint16, value []byte) {
		switch kind {
		case unix.RTA_DST:
			route.Destination = netip.PrefixFrom(address(value), int(header.Dst_len))
		case unix.RTA_SRC:
			route.From = netip.PrefixFrom(address(value), int(header.Src_len))
		case unix.RTA_GATEWAY:
			route.Gateway = address(value)
		case unix.RTA_VIA:
			route.Gateway = via(value)
		case unix.RTA_OIF:
			route.Interface = names[int(number(value))]
		case unix.RTA_PREFSRC:
			route.Source = address(value)
		case unix.RTA_PRIORITY:
			route.Metric = int(number(value))
		case unix.RTA_TABLE:
			route.Table = int(number(value))
		case unix.RTA_METRICS:
			_ = attributes(value, 0, func(kind uint16, value []byte) {
				if kind == unix.RTAX_MTU {
					route.MTU = int(number(value))
				}
			})
		case unix.RTA_MULTIPATH:
			route.NextHops = nextHops(value, names)
		}
	})
	route.Text = route.text()
	return route, err == nil && route.Destination.IsValid()
}

// nextHops decodes a row of struct rtnexthop, each with attributes of its own.
func nextHops(value []byte, names map[int]string) []NextHop {
	var hops []NextHop
	for len(value) >= unix.SizeofRtNexthop {
		header := nl.DeserializeRtNexthop(value)
		length := int(header.RtNexthop.Len)
		if length < unix.SizeofRtNexthop || length > len(value) {
			break
		}
		hop := NextHop{
			Interface: names[int(header.Ifindex)],
			Weight:    int(header.Hops) + 1,
			Flags:     bits(int(header.Flags), routeFlags),
		}
		_ = attributes(value[:length], unix.SizeofRtNexthop, func(kind uint16, value []byte) {
			switch kind {
			case unix.RTA_GATEWAY:
				hop.Gateway = address(value)
			case unix.RTA_VIA:
				hop.Gateway = via(value)
			}
		})
		hops = append(hops, hop)
		value = value[min((length+3)&^3, len(value)):]
	}
	return hops
}

// The numbers of struct fib_rule_hdr (include/uapi/linux/fib_rules.h) that the
// library has no names for.
const (
	ruleInvert = 0x2 // FIB_RULE_INVERT
	fraL3mdev  = 19  // FRA_L3MDEV
)

// ruleActions are the FR_ACT_* numbers.
var ruleActions = []string{"unspec", "lookup", "goto", "nop", "4", "5", "blackhole", "unreachable", "prohibit"}

func (r *reader) policy(n *Namespace) error {
	messages, err := r.dump(unix.RTM_GETRULE, &nl.RtMsg{}, unix.RTM_NEWRULE)
	if err != nil {
		return fmt.Errorf("read policy rules: %w", err)
	}
	n.Policy = make([]Policy, 0, len(messages))
	for _, message := range messages {
		if len(message) < unix.SizeofRtMsg {
			continue
		}
		// struct fib_rule_hdr has the shape of struct rtmsg; the action stands
		// in place of the type.
		header := nl.DeserializeRtMsg(message)
		if header.Family != unix.AF_INET && header.Family != unix.AF_INET6 {
			continue
		}
		if policy, ok := policyOf(message, header); ok {
			n.Policy = append(n.Policy, policy)
		}
	}
	// The kernel dumps each family in order already; equal priorities keep it.
	slices.SortStableFunc(n.Policy, func(a, b Policy) int { return a.Priority - b.Priority })
	return nil
}

func policyOf(message []byte, header *nl.RtMsg) (Policy, bool) {
	zero := zeroOf(header.Family)
	policy := Policy{
		IPv6:   header.Family == unix.AF_INET6,
		Action: at(ruleActions, int(header.Type)),
		Table:  int(header.Table),
		Invert: header.Flags&ruleInvert != 0,
		TOS:    int(header.Tos), SuppressPrefix: -1, SuppressGroup: -1,
	}
	if header.Src_len > 0 {
		policy.From = netip.PrefixFrom(zero, int(header.Src_len))
	}
	if header.Dst_len > 0 {
		policy.To = netip.PrefixFrom(zero, int(header.Dst_len))
	}
	err := attributes(message, unix.SizeofRtMsg, func(kind uint16, value []byte) {
		switch int(kind) {
		case nl.FRA_SRC:
			policy.From = netip.PrefixFrom(address(value), int(header.Src_len))
		case nl.FRA_DST:
			policy.To = netip.PrefixFrom(address(value), int(header.Dst_len))
		case nl.FRA_IIFNAME:
			policy.Ingress = unix.ByteSliceToString(value)
		case nl.FRA_OIFNAME:
			policy.Egress = unix.ByteSliceToString(value)
		case nl.FRA_GOTO:
			policy.Goto = int(number(value))
		case nl.FRA_PRIORITY:
			policy.Priority = int(number(value))
		case nl.FRA_FWMARK:
			policy.Mark = number(value)
		case nl.FRA_FWMASK:
			policy.MarkMask = number(value)
		case nl.FRA_TABLE:
			policy.Table = int(number(value))
		case nl.FRA_TUN_ID:
			if len(value) == 8 {
				policy.TunnelID = binary.BigEndian.Uint64(value)
			}
		case nl.FRA_SUPPRESS_IFGROUP:
			policy.SuppressGroup = int(int32(number(value)))
		case nl.FRA_SUPPRESS_PREFIXLEN:
			policy.SuppressPrefix = int(int32(number(value)))
		case fraL3mdev:
			policy.VRF = len(value) == 1 && value[0] != 0
		case nl.FRA_UID_RANGE:
			if len(value) == 8 {
				policy.UIDs = &[2]uint32{number(value), number(value[4:])}
			}
		case nl.FRA_IP_PROTO:
			if len(value) == 1 {
				policy.Proto = packet.Proto(value[0])
			}
		case nl.FRA_SPORT_RANGE:
			policy.SourcePorts = portRange(value)
		case nl.FRA_DPORT_RANGE:
			policy.TargetPorts = portRange(value)
		}
	})
	policy.Text = policy.text()
	return policy, err == nil
}

func portRange(value []byte) *[2]uint16 {
	if len(value) != 4 {
		return nil
	}
	return &[2]uint16{binary.NativeEndian.Uint16(value), binary.NativeEndian.Uint16(value[2:])}
}

var neighbourStates = []bit{
	{netlink.NUD_INCOMPLETE, "incomplete"},
	{netlink.NUD_REACHABLE, "reachable"},
	{netlink.NUD_STALE, "stale"},
	{netlink.NUD_DELAY, "delay"},
	{netlink.NUD_PROBE, "probe"},
	{netlink.NUD_FAILED, "failed"},
	{netlink.NUD_PERMANENT, "permanent"},
}

func (r *reader) neighbours(n *Namespace) error {
	entries, err := complete(func() ([]netlink.Neigh, error) { return r.handle.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("read neighbours: %w", err)
	}
	names := n.linkNames()
	n.Neighbours = make([]Neighbour, 0, len(entries))
	for _, entry := range entries {
		// Entries without a state, or that need no resolution (multicast), say
		// nothing.
		state := bits(entry.State, neighbourStates)
		if len(state) == 0 || !address(entry.IP).IsValid() {
			continue
		}
		n.Neighbours = append(n.Neighbours, Neighbour{
			Address: address(entry.IP), Interface: names[entry.LinkIndex],
			MAC: entry.HardwareAddr.String(), State: state[0],
		})
	}
	return nil
}

// forwarding reads the forwarding tables of bridges (br_fdb_dump,
// net/bridge/br_fdb.c).
func (r *reader) forwarding(n *Namespace) error {
	if !slices.ContainsFunc(n.Links, func(l Link) bool { return l.Kind == "bridge" }) {
		return nil
	}
	entries, err := complete(func() ([]netlink.Neigh, error) { return r.handle.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("read the forwarding tables of bridges: %w", err)
	}
	ports := make(map[int]*Link, len(n.Links))
	for i := range n.Links {
		ports[n.Links[i].Index] = &n.Links[i]
	}
	for _, entry := range entries {
		port := ports[entry.LinkIndex]
		if port == nil || port.Bridge == "" || entry.MasterIndex == 0 || entry.State&netlink.NUD_PERMANENT != 0 {
			continue
		}
		state := "learned"
		if entry.State&netlink.NUD_NOARP != 0 {
			state = "static"
		}
		n.Forwarding = append(n.Forwarding, Forwarding{MAC: entry.HardwareAddr.String(), Interface: port.Name, Bridge: port.Bridge, VLAN: entry.Vlan, State: state})
	}
	return nil
}

func (r *reader) proxied(n *Namespace) error {
	names := n.linkNames()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		entries, err := complete(func() ([]netlink.Neigh, error) { return r.handle.NeighProxyList(0, family) })
		if err != nil {
			return fmt.Errorf("read proxied neighbours: %w", err)
		}
		for _, entry := range entries {
			if a := address(entry.IP); a.IsValid() {
				n.Proxied = append(n.Proxied, Proxied{Address: a, Interface: names[entry.LinkIndex]})
			}
		}
	}
	return nil
}

func (n *Namespace) linkNames() map[int]string {
	names := make(map[int]string, len(n.Links))
	for i := range n.Links {
		names[n.Links[i].Index] = n.Links[i].Name
	}
	return names
}

func zeroOf(family uint8) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func at(names []string, number int) string {
	if number < len(names) {
		return names[number]
	}
	return fmt.Sprint(number)
}

func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

// address returns the address that an attribute holds; 4-byte and 16-byte ones
// stay what they are.
func address(value []byte) netip.Addr {
	result, _ := netip.AddrFromSlice(value)
	return result
}

// via decodes struct rtvia: a family of two bytes and an address.
func via(value []byte) netip.Addr {
	if len(value) < 2 {
		return netip.Addr{}
	}
	return address(value[2:])
}

func prefixOf(network *net.IPNet) netip.Prefix {
	if network == nil {
		return netip.Prefix{}
	}
	ones, _ := network.Mask.Size()
	return netip.PrefixFrom(address(network.IP), ones)
}
