package socket

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathtrace/pathtrace/packet"
)

func TestTaking(t *testing.T) {
	end := netip.MustParseAddrPort
	listen := func(local string) Socket { return Socket{Proto: packet.TCP, Local: end(local)} }
	connected := Socket{Proto: packet.TCP, Local: end("10.0.0.1:80"), Remote: end("10.0.0.2:4000")}
	only := listen("[::]:80")
	only.OnlyIPv6 = true
	udp := listen("0.0.0.0:80")
	udp.Proto = packet.UDP
	for name, tt := range map[string]struct {
		have, want []Socket
	}{
		"nothing":               {nil, nil},
		"any address":           {[]Socket{listen("0.0.0.0:80")}, []Socket{listen("0.0.0.0:80")}},
		"its address":           {[]Socket{listen("0.0.0.0:80"), listen("10.0.0.1:80")}, []Socket{listen("10.0.0.1:80")}},
		"another address":       {[]Socket{listen("127.0.0.1:80")}, nil},
		"another port":          {[]Socket{listen("0.0.0.0:81")}, nil},
		"another protocol":      {[]Socket{udp}, nil},
		"both versions":         {[]Socket{listen("[::]:80")}, []Socket{listen("[::]:80")}},
		"its version first":     {[]Socket{listen("[::]:80"), listen("0.0.0.0:80")}, []Socket{listen("0.0.0.0:80")}},
		"IPv6 only":             {[]Socket{only}, nil},
		"the connection itself": {[]Socket{listen("10.0.0.1:80"), connected}, []Socket{connected}},
		"shared":                {[]Socket{listen("10.0.0.1:80"), listen("10.0.0.1:80")}, []Socket{listen("10.0.0.1:80"), listen("10.0.0.1:80")}},
	} {
		tuple := packet.Tuple{Proto: packet.TCP, Src: end("10.0.0.2:4000").Addr(), SrcPort: 4000, Dst: end("10.0.0.1:80").Addr(), DstPort: 80}
		got := Taking(tt.have, tuple)
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The command lines are those of Docker 20.10 and 28.
func TestForwards(t *testing.T) {
	for line, want := range map[string]string{
		"/usr/sbin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80":       "172.17.0.2:80",
		"/usr/bin/docker-proxy -proto tcp -host-ip :: -host-port 8080 -container-ip fd00::2 -container-port 80 -use-listen-fd": "[fd00::2]:80",
		"docker-proxy --container-ip=172.17.0.2 --container-port=53":                                                           "172.17.0.2:53",
		"docker-proxy -container-ip 172.17.0.2 -container-port":                                                                "",
		"docker-proxy -container-ip nobody -container-port 80":                                                                 "",
		"docker-proxy -container-ip 172.17.0.2 -container-port 80000":                                                          "",
		"nginx -container-ip 172.17.0.2 -container-port 80":                                                                    "",
		"": "",
	} {
		got := forwards(strings.Fields(line))
		if got.IsValid() != (want != "") || got.IsValid() && got.String() != want {
			t.Errorf("%s: %s, want %q", line, got, want)
		}
	}
}
