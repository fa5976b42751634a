package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// protocols are the names of /etc/iproute2/rt_protos as iproute2 ships it.
var protocols = map[int]string{
	0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt",
	11: "zebra", 12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 18: "keepalived",
	42: "babel", 99: "openr", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}

// types are the RTN_* numbers (include/uapi/linux/rtnetlink.h).
var types = []string{
	"unspec", "unicast", "local", "broadcast", "anycast", "multicast",
	"blackhole", "unreachable", "prohibit", "throw", "nat",
}

var scopes = map[int]string{0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}

var tables = map[int]string{tableDefault: "default", tableMain: "main", tableLocal: "local"}

func named(names map[int]string, number int) string {
	if name, found := names[number]; found {
		return name
	}
	return strconv.Itoa(number)
}

func destinationText(prefix netip.Prefix) string {
	switch {
	case prefix.Bits() == 0:
		return "default"
	case prefix.IsSingleIP():
		return prefix.Addr().String()
	}
	return prefix.String()
}

// text returns the route in the syntax of "ip route".
func (r *Route) text() string {
	var b strings.Builder
	word := func(format string, values ...any) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, format, values...)
	}
	if r.Type != "unicast" {
		word("%s", r.Type)
	}
	word("%s", destinationText(r.Destination))
	if r.From.IsValid() {
		word("from %s", destinationText(r.From))
	}
	if r.TOS != 0 {
		word("tos %#x", r.TOS)
	}
	via := func(gateway netip.Addr) {
		switch {
		case !gateway.IsValid():
		case gateway.Is6() != r.Destination.Addr().Is6():
			word("via inet6 %s", gateway)
		default:
			word("via %s", gateway)
		}
	}
	via(r.Gateway)
	if r.Interface != "" {
		word("dev %s", r.Interface)
	}
	if r.Table != tableMain {
		word("table %s", named(tables, r.Table))
	}
	if r.Protocol != "boot" {
		word("proto %s", r.Protocol)
	}
	if r.Scope != "global" {
		word("scope %s", r.Scope)
	}
	if r.Source.IsValid() {
		word("src %s", r.Source)
	}
	if r.Metric != 0 {
		word("metric %d", r.Metric)
	}
	for _, flag := range r.Flags {
		word("%s", flag)
	}
	if r.MTU != 0 {
		word("mtu %d", r.MTU)
	}
	for _, hop := range r.NextHops {
		word("nexthop")
		via(hop.Gateway)
		if hop.Interface != "" {
			word("dev %s", hop.Interface)
		}
		word("weight %d", hop.Weight)
		for _, flag := range hop.Flags {
			word("%s", flag)
		}
	}
	return b.String()
}

// text returns the rule in the syntax of "ip rule".
func (p *Policy) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", p.Priority)
	word := func(format string, values ...any) { fmt.Fprintf(&b, " "+format, values...) }
	if p.Invert {
		word("not")
	}
	if p.From.IsValid() {
		word("from %s", destinationText(p.From))
	} else {
		word("from all")
	}
	if p.To.IsValid() {
		word("to %s", destinationText(p.To))
	}
	if p.TOS != 0 {
		word("tos %#x", p.TOS)
	}
	switch {
	case p.MarkMask == 1<<32-1:
		word("fwmark %#x", p.Mark)
	case p.MarkMask != 0:
		word("fwmark %#x/%#x", p.Mark, p.MarkMask)
	}
	if p.Ingress != "" {
		word("iif %s", p.Ingress)
	}
	if p.Egress != "" {
		word("oif %s", p.Egress)
	}
	if p.VRF {
		word("lookup [l3mdev-table]")
	}
	if p.UIDs != nil {
		word("uidrange %d-%d", p.UIDs[0], p.UIDs[1])
	}
	if p.Proto != 0 {
		word("ipproto %s", p.Proto)
	}
	ports := func(name string, ports *[2]uint16) {
		switch {
		case ports == nil:
		case ports[0] == ports[1]:
			word("%s %d", name, ports[0])
		default:
			word("%s %d-%d", name, ports[0], ports[1])
		}
	}
	ports("sport", p.SourcePorts)
	ports("dport", p.TargetPorts)
	if p.TunnelID != 0 {
		word("tun_id %d", p.TunnelID)
	}
	switch {
	case p.Action == "lookup" && !p.VRF:
		word("lookup %s", named(tables, p.Table))
		if p.SuppressPrefix >= 0 {
			word("suppress_prefixlength %d", p.SuppressPrefix)
		}
		if p.SuppressGroup >= 0 {
			word("suppress_ifgroup %d", p.SuppressGroup)
		}
	case p.Action == "goto":
		word("goto %d", p.Goto)
	case p.Action != "lookup":
		word("%s", p.Action)
	}
	return b.String()
}

// bits names the bits that are set, in order of the names.
func bits(value int, names []bit) []string {
	var set []string
	for _, name := range names {
		if value&name.mask != 0 {
			set = append(set, name.name)
		}
	}
	return slices.Clip(set)
}

type bit struct {
	mask int
	name string
}
