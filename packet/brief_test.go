package packet

import (
	"net/netip"
	"testing"
)

func TestKey(t *testing.T) {
	tcp := Tuple{Proto: TCP, Src: src4, Dst: dst4, SrcPort: 40000, DstPort: 443}
	ping := Tuple{Proto: ICMP, Src: src4, Dst: dst4, ICMPType: EchoRequest, ICMPID: 77}
	ping6 := Tuple{Proto: ICMPv6, Src: src6, Dst: dst6, ICMPType: EchoReplyV6, ICMPID: 9}
	mapped4 := func(a byte, rest ...byte) [16]byte {
		return [16]byte{10: 0xff, 11: 0xff, 12: a, 13: rest[0], 14: rest[1], 15: rest[2]}
	}
	tests := map[string]struct {
		tuple Tuple
		key   Key
	}{
		"tcp":     {tcp, Key{Src: mapped4(192, 0, 2, 1), Dst: mapped4(198, 51, 100, 2), SrcPort: 40000, DstPort: 443, Proto: TCP}},
		"ping":    {ping, Key{Src: mapped4(192, 0, 2, 1), Dst: mapped4(198, 51, 100, 2), SrcPort: 77, Proto: ICMP, ICMPType: 8}},
		"ping6":   {ping6, Key{Src: src6.As16(), Dst: dst6.As16(), SrcPort: 9, Proto: ICMPv6, ICMPType: 129}},
		"nothing": {Tuple{}, Key{}},
		"DHCP": {
			Tuple{Proto: UDP, Src: netip.IPv4Unspecified(), Dst: dst4, SrcPort: 68, DstPort: 67},
			Key{Src: mapped4(0, 0, 0, 0), Dst: mapped4(198, 51, 100, 2), SrcPort: 68, DstPort: 67, Proto: UDP},
		},
		"DAD": {
			Tuple{Proto: ICMPv6, Src: netip.IPv6Unspecified(), Dst: dst6, ICMPType: 135},
			Key{Dst: dst6.As16(), Proto: ICMPv6, ICMPType: 135},
		},
	}
	for name, tt := range tests {
		if got := tt.tuple.Key(); got != tt.key {
			t.Errorf("%s: key %+v, want %+v", name, got, tt.key)
		}
		if got := tt.key.Tuple(); got != tt.tuple {
			t.Errorf("%s: tuple %+v, want %+v", name, got, tt.tuple)
		}
		if got, want := tt.key.Inverse().Tuple(), tt.tuple.Inverse(); got != want {
			t.Errorf("%s: inverse %+v, want %+v", name, got, want)
		}
		if got := tt.key.Inverse().Inverse(); got != tt.key {
			t.Errorf("%s: the inverse of the inverse is %+v", name, got)
		}
	}
}
