package topology

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
)

// Free returns a private IPv4 prefix of a length from 16 to 30 that has no
// address in common with anything that the snapshot knows: addresses, the
// routes of all tables, what policy rules speak of, in every namespace, and
// further prefixes that are taken. It is invalid when there is none. The ranges
// are those of RFC 1918, the one that VPNs and Docker take last.
func (s *Snapshot) Free(bits int, taken ...netip.Prefix) netip.Prefix {
	taken = merged(append(s.taken(), taken...))
	for _, from := range []struct{ first, within netip.Prefix }{
		{netip.MustParsePrefix("192.168.51.0/24"), netip.MustParsePrefix("192.168.0.0/16")},
		{netip.MustParsePrefix("10.201.0.0/16"), netip.MustParsePrefix("10.0.0.0/8")},
		{netip.MustParsePrefix("172.24.0.0/16"), netip.MustParsePrefix("172.16.0.0/12")},
	} {
		p := netip.PrefixFrom(from.first.Addr(), bits).Masked()
		if p.Addr().Less(from.first.Addr()) {
			p = following(p)
		}
		for from.within.Contains(p.Addr()) {
			if from.within.Overlaps(p) && p.Bits() >= from.within.Bits() && !overlapsAny(p, taken) {
				return p
			}
			p = following(p)
		}
	}
	return netip.Prefix{}
}

// FreeIPv6 returns a /64 of a unique local prefix (RFC 4193) that overlaps
// nothing known. Its global ID comes from the hardware addresses that are there,
// so that it is the same at each call and another one on another machine.
// It is invalid when none is found, as where a route takes all unique local
// addresses.
func (s *Snapshot) FreeIPv6(taken ...netip.Prefix) netip.Prefix {
	taken = append(s.taken(), taken...)
	seed := sha256.New()
	for i := range s.Namespaces {
		for k := range s.Namespaces[i].Links {
			seed.Write([]byte(s.Namespaces[i].Links[k].MAC))
		}
	}
	for range 64 {
		sum := seed.Sum(nil)
		address := [16]byte{0: 0xfd}
		copy(address[1:6], sum)
		if p := netip.PrefixFrom(netip.AddrFrom16(address), 64); !overlapsAny(p, taken) {
			return p
		}
		seed.Write(sum)
	}
	return netip.Prefix{}
}

// taken are all prefixes that the snapshot knows, without those that stand for
// everything.
func (s *Snapshot) taken() []netip.Prefix {
	var all []netip.Prefix
	add := func(p netip.Prefix) {
		if p.IsValid() && p.Bits() > 1 {
			all = append(all, p.Masked())
		}
	}
	for i := range s.Namespaces {
		n := &s.Namespaces[i]
		for k := range n.Links {
			for _, p := range n.Links[k].Addresses {
				add(p)
			}
		}
		for k := range n.Routes {
			add(n.Routes[k].Destination)
			add(n.Routes[k].From)
		}
		for k := range n.Policy {
			add(n.Policy[k].From)
			add(n.Policy[k].To)
		}
	}
	return all
}

// merged leaves out what lies within another prefix, so that a host with
// thousands of routes is looked through in no time.
func merged(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	kept := all[:0]
	for _, p := range all {
		if len(kept) == 0 || !kept[len(kept)-1].Contains(p.Addr()) {
			kept = append(kept, p)
		}
	}
	return kept
}

func overlapsAny(p netip.Prefix, all []netip.Prefix) bool {
	return slices.ContainsFunc(all, p.Overlaps)
}

// following is the prefix of the same length behind p.
func following(p netip.Prefix) netip.Prefix {
	last := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.PrefixFrom(netip.AddrFrom4(last).Next(), p.Bits())
}
