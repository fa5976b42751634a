package topology

import (
	"net/netip"
	"testing"
)

// TestFree wants a prefix that overlaps nothing that is known, wherever it is
// known from.
func TestFree(t *testing.T) {
	prefix := netip.MustParsePrefix
	everything := []netip.Prefix{prefix("192.168.0.0/16"), prefix("10.0.0.0/8"), prefix("172.16.0.0/12")}
	for name, test := range map[string]struct {
		known Namespace
		bits  int
		taken []netip.Prefix
		want  string
	}{
		"nothing known": {bits: 24, want: "192.168.51.0/24"},
		"an address": {
			known: Namespace{Links: []Link{{Addresses: []netip.Prefix{prefix("192.168.51.9/22")}}}}, bits: 24, want: "192.168.52.0/24",
		},
		"a route of some table": {
			known: Namespace{Routes: []Route{{Destination: prefix("192.168.0.0/16"), Table: 77}}}, bits: 24, want: "10.201.0.0/24",
		},
		"a policy rule": {
			known: Namespace{Policy: []Policy{{From: prefix("192.168.51.128/25")}}}, bits: 24, want: "192.168.52.0/24",
		},
		"a default route takes nothing": {
			known: Namespace{Routes: []Route{{Destination: prefix("0.0.0.0/0")}, {Destination: prefix("0.0.0.0/1")}}}, bits: 24, want: "192.168.51.0/24",
		},
		"a larger one":  {bits: 20, want: "192.168.64.0/20"},
		"a smaller one": {bits: 28, taken: []netip.Prefix{prefix("192.168.51.0/27")}, want: "192.168.51.32/28"},
		"a whole /16":   {bits: 16, want: "10.201.0.0/16"},
		"none":          {bits: 24, taken: everything, want: "invalid Prefix"},
	} {
		s := Snapshot{Namespaces: []Namespace{test.known}}
		if got := s.Free(test.bits, test.taken...); got.String() != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

// TestFreeIPv6 wants a unique local prefix, the same at each call.
func TestFreeIPv6(t *testing.T) {
	s := Snapshot{Namespaces: []Namespace{{Links: []Link{{MAC: "02:00:00:00:00:01"}}}}}
	p := s.FreeIPv6()
	if !netip.MustParsePrefix("fd00::/8").Overlaps(p) || p.Bits() != 64 || p != s.FreeIPv6() {
		t.Errorf("got %s, then %s", p, s.FreeIPv6())
	}
	if other := s.FreeIPv6(p); other.Overlaps(p) {
		t.Errorf("%s overlaps %s, which is taken", other, p)
	}
	if none := s.FreeIPv6(netip.MustParsePrefix("fd00::/8")); none.IsValid() {
		t.Errorf("got %s, and all unique local addresses are taken", none)
	}
}
