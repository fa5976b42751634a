package ruletrace

// Netfilter's numbers, from include/uapi/linux/netfilter.h. They are here and
// not taken from a Linux-only package because recorded messages are decoded
// anywhere.
const (
	protoINet   = 1  // NFPROTO_INET
	protoIPv4   = 2  // NFPROTO_IPV4
	protoARP    = 3  // NFPROTO_ARP
	protoNetdev = 5  // NFPROTO_NETDEV
	protoBridge = 7  // NFPROTO_BRIDGE
	protoIPv6   = 10 // NFPROTO_IPV6
)

// familyName returns nftables' word for an NFPROTO_* number.
func familyName(n uint8) string {
	switch n {
	case protoINet:
		return "inet"
	case protoIPv4:
		return "ip"
	case protoARP:
		return "arp"
	case protoNetdev:
		return "netdev"
	case protoBridge:
		return "bridge"
	case protoIPv6:
		return "ip6"
	}
	return ""
}

// familyNumber is the inverse of familyName; 0 (NFPROTO_UNSPEC) for any other.
func familyNumber(name string) uint8 {
	for _, n := range []uint8{protoINet, protoIPv4, protoARP, protoNetdev, protoBridge, protoIPv6} {
		if familyName(n) == name {
			return n
		}
	}
	return 0
}

// hookOf names a hook number: enum nf_inet_hooks (bridge numbers the first
// five alike), and those of arp and netdev.
func hookOf(family uint8, number uint32) Hook {
	var names []Hook
	switch family {
	case protoARP: // NF_ARP_*
		names = []Hook{Input, Output, Forward}
	case protoNetdev: // NF_NETDEV_*
		names = []Hook{IngressHook, EgressHook}
	default: // NF_INET_*
		names = []Hook{Prerouting, Input, Forward, Output, Postrouting, IngressHook}
	}
	if number < uint32(len(names)) {
		return names[number]
	}
	return ""
}

// verdictOf names a verdict: NF_* (the low byte; the upper half of a drop is
// an errno) and the negative NFT_* of nftables.
func verdictOf(code int32) Verdict {
	switch code {
	case -1, -2: // NFT_CONTINUE, NFT_BREAK
		return Continue
	case -3: // NFT_JUMP
		return Jump
	case -4: // NFT_GOTO
		return Goto
	case -5: // NFT_RETURN
		return Return
	}
	switch code & 0xff {
	case 0: // NF_DROP
		return Drop
	case 1, 5: // NF_ACCEPT, NF_STOP
		return Accept
	case 2: // NF_STOLEN
		return Stolen
	case 3: // NF_QUEUE
		return Queue
	}
	return VerdictUnknown
}
