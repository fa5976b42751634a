package ruletrace

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// share is how much of a class a condition takes.
type share int

const (
	none share = iota
	some
	whole
)

func (s share) not() share { return whole - s }

// both is the share of two conditions together.
func both(a, b share) share { return min(a, b) }

// anyOf is the share of conditions of which one is enough. An element of a set
// that has several words is not understood.
func anyOf(values []string, condition func(string) share) share {
	takes := none
	for _, v := range values {
		if strings.Contains(v, " ") {
			takes = max(takes, some)
			continue
		}
		takes = max(takes, condition(v))
	}
	return takes
}

// interfaceIs compares an interface with a name or, with the wildcard at its
// end, the beginning of one.
func interfaceIs(name, pattern, wildcard string) share {
	beginning, wild := strings.CutSuffix(pattern, wildcard)
	switch {
	case name == "":
		return some
	case name == pattern || wild && strings.HasPrefix(name, beginning):
		return whole
	}
	return none
}

// proto compares the protocol with a name or a number.
func (c Class) proto(name string) share {
	if name == "all" {
		return whole
	}
	number, err := strconv.Atoi(name)
	if known, found := protocols[name]; found {
		number, err = int(known), nil
	}
	switch {
	case c.Proto == 0 || err != nil:
		return some
	case int(c.Proto) == number:
		return whole
	}
	return none
}

// protocols are the names that the tools print (protocols(5)).
var protocols = map[string]packet.Proto{
	"icmp": packet.ICMP, "icmpv6": packet.ICMPv6, "ipv6-icmp": packet.ICMPv6,
	"tcp": packet.TCP, "udp": packet.UDP, "sctp": packet.SCTP,
}

// portIs compares a port with a number or a range.
func (c Class) portIs(number uint16, text, to string) share {
	first, last, found := strings.Cut(text, to)
	if !found {
		last = first
	}
	from, err := strconv.Atoi(first)
	until, err2 := strconv.Atoi(last)
	switch {
	case number == 0 || c.rewritten || err != nil || err2 != nil:
		return some
	case from <= int(number) && int(number) <= until:
		return whole
	}
	return none
}

// states are conntrack's, as the tools print them.
var states = []string{"new", "established", "related", "invalid", "untracked"}

// state compares conntrack's state. Of what iptables calls states beside them,
// SNAT may be any packet's, and DNAT none's, by what a class is.
func (c Class) state(text string) share {
	switch {
	case c.State == "":
		return some
	case text == c.State:
		return whole
	case slices.Contains(states, text) || text == "dnat" && !c.redirected:
		return none
	}
	return some
}

// address compares an address with a prefix, an address or a range.
func (c Class) address(a netip.Addr, text string) share {
	if first, last, found := strings.Cut(text, "-"); found {
		from, err := netip.ParseAddr(first)
		to, err2 := netip.ParseAddr(last)
		switch {
		case err != nil || err2 != nil || c.rewritten:
			return some
		case !a.IsValid():
			return internet(from, to)
		case from.Compare(a) <= 0 && a.Compare(to) <= 0:
			return whole
		}
		return none
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		one, err := netip.ParseAddr(text)
		if err != nil {
			return some
		}
		prefix = netip.PrefixFrom(one, one.BitLen())
	}
	switch {
	case prefix.Bits() == 0 && c.IPv6 == prefix.Addr().Is6():
		return whole
	case c.rewritten:
		return some
	case !a.IsValid():
		return internet(prefix.Masked().Addr(), last(prefix))
	case prefix.Contains(a):
		return whole
	}
	return none
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	to, _ := netip.AddrFromSlice(a)
	return to
}

// elsewhere are the addresses that are not out in the internet.
var elsewhere = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// internet is how much of what is out in the internet a range takes.
func internet(from, to netip.Addr) share {
	if slices.ContainsFunc(elsewhere, func(p netip.Prefix) bool { return p.Contains(from) && p.Contains(to) }) {
		return none
	}
	return some
}

// targetIs compares the kernel's type of the destination.
func (c Class) targetIs(kind string) share {
	switch {
	case kind != "LOCAL" || c.rewritten:
	case c.Local:
		return whole
	case c.Foreign:
		return none
	}
	return c.typeOf(c.Target, kind)
}

// typeOf compares the kernel's type of an address. What is out in the internet,
// and what is forwarded, is none of this machine's.
func (c Class) typeOf(a netip.Addr, kind string) share {
	switch {
	case c.rewritten:
		return some
	case a.IsValid() && kind == "LOCAL" && c.Ingress != "" && c.Egress != "":
		return none
	case a.IsValid():
		return some
	case kind == "LOCAL" || kind == "BROADCAST" || kind == "MULTICAST":
		return none
	case kind == "UNICAST":
		return whole
	}
	return some
}
