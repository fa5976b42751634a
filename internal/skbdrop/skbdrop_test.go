package skbdrop

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

func TestBenign(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason, function string
		proto            packet.Proto
		source           string
		want             bool
	}{
		{"NO_SOCKET", "ping_rcv", packet.ICMP, "192.0.2.1", true},
		{"NO_SOCKET", "icmpv6_rcv", packet.ICMPv6, "2001:db8::1", true},
		{"NO_SOCKET", "tcp_v4_rcv", packet.TCP, "192.0.2.1", false},
		{"NOT_SPECIFIED", "ip6_mc_input", packet.ICMPv6, "2001:db8::1", true},
		{"NOT_SPECIFIED", "tcp_v4_rcv", packet.TCP, "192.0.2.1", true},
		{"NOT_SPECIFIED", "ip_error", packet.ICMP, "192.0.2.1", false},
		{"QUEUE_PURGE", "inet_sock_destruct", packet.TCP, "192.0.2.1", true},
		{"QUEUE_PURGE", "neigh_destroy", packet.TCP, "192.0.2.1", false},
		{"OTHERHOST", "ip_rcv_core", packet.ICMP, "192.0.2.1", true},
		{"IP_INADDRERRORS", "ip6_forward", packet.ICMPv6, "fe80::1", true},
		{"IP_INADDRERRORS", "ip6_forward", packet.ICMPv6, "2001:db8::1", false},
		{"NETFILTER_DROP", "nft_do_chain", packet.ICMP, "192.0.2.1", false},
	}
	for _, tt := range tests {
		d := Drop{Reason: tt.reason, Function: tt.function, Header: packet.Header{Tuple: packet.Tuple{Proto: tt.proto, Src: netip.MustParseAddr(tt.source)}}}
		if got := Benign(d); got != tt.want {
			t.Errorf("%s of %s from %s: benign %v, want %v", d.Mechanism(), tt.proto, tt.source, got, tt.want)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, tt := range []struct{ err, kind error }{
		{&PermissionError{Err: cause}, fs.ErrPermission},
		{&NotSupportedError{Feature: "drop reasons", Err: cause}, errors.ErrUnsupported},
	} {
		if !errors.Is(tt.err, tt.kind) || !errors.Is(tt.err, cause) {
			t.Errorf("%v: is not %v of %v", tt.err, tt.kind, cause)
		}
	}
}
