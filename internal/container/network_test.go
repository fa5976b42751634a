package container

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/engine"
)

const inspected = `[
    {
        "Name": "shop",
        "Id": "0123456789abcdef0123456789abcdef",
        "Created": "2026-11-26T05:47:33.123456789+01:00",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": true,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [
            {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"},
            {"Subnet": "fd00:5::/64", "Gateway": "fd00:5::1/64"},
            {"Subnet": "what", "IPRange": "172.18.5.0/24"}
        ]},
        "Internal": false,
        "Containers": {
            "bbbb": {"Name": "web", "EndpointID": "x", "MacAddress": "02:42:ac:12:00:03", "IPv4Address": "172.18.0.3/16", "IPv6Address": "fd00:5::3/64"},
            "aaaa": {"Name": "db", "IPv4Address": "172.18.0.2/16", "IPv6Address": ""}
        },
        "Options": {"com.docker.network.bridge.enable_ip_masquerade": "false"},
        "Labels": {"token": "secret"}
    },
    {"Name": "none", "Id": "1", "Driver": "null", "IPAM": {"Config": null}, "Containers": {}, "Internal": true}
]
{"Name": "bridge", "Id": "2", "Driver": "bridge", "Options": {"com.docker.network.bridge.name": "docker0"}}
`

func TestReadNetworks(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	want := []engine.Network{
		{
			Name: "shop", ID: "0123456789abcdef0123456789abcdef", Driver: "bridge", Bridge: "br-0123456789ab", Unmasked: true, IPv6: true, Prefixes: []netip.Prefix{prefix("172.18.0.0/16"), prefix("fd00:5::/64")},
			Gateways: []netip.Addr{addr("172.18.0.1"), addr("fd00:5::1")},
			Members:  []engine.Member{{Name: "db", Addresses: []netip.Addr{addr("172.18.0.2")}}, {Name: "web", Addresses: []netip.Addr{addr("172.18.0.3"), addr("fd00:5::3")}}},
		},
		{Name: "none", ID: "1", Driver: "null", Internal: true},
		{Name: "bridge", ID: "2", Driver: "bridge", Bridge: "docker0"},
	}
	got, err := ReadNetworks("networks", strings.NewReader(inspected))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReadNetworksRefuses(t *testing.T) {
	const want = "; expected what docker network inspect prints"
	for content, is := range map[string]string{
		"":                                 "this is an empty file" + want,
		"\xd4\xc3\xb2\xa1\x02\x00\x04\x00": "this is a capture file" + want,
		"NETWORK ID NAME DRIVER SCOPE\n":   "no line of it is understood" + want,
		"[]":                               "this is JSON without networks" + want,
		`[{"Name": "/web", "State": {}}]`:  "this is JSON without networks" + want, // docker inspect
		`{"nftables": []}`:                 "this is JSON without networks" + want,
		`[{"Name": "shop", "Driver": `:     "unexpected EOF",
		`[{"Name": 7}]`:                    "json: cannot unmarshal number into Go struct field networkAnswer.Name of type string",
	} {
		if _, err := ReadNetworks("x", strings.NewReader(content)); err == nil || err.Error() != "read x: "+is {
			t.Errorf("%q: %v, want %s", content, err, is)
		}
	}
	many := "[" + strings.Repeat(`{"Name":"n","Driver":"d"},`, maxNetworks) + `{"Name":"n","Driver":"d"}]`
	if all, err := ReadNetworks("x", strings.NewReader(many)); err == nil || len(all) != maxNetworks {
		t.Errorf("%d networks, %v", len(all), err)
	}
	broken := errors.New("the disk is gone")
	if _, err := ReadNetworks("x", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func FuzzReadNetworks(f *testing.F) {
	f.Add(inspected)
	f.Add(`{"Name": "a", "Driver": "bridge", "Containers": {"x": {"Name": "c", "IPv4Address": "1.2.3.4"}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		networks, err := ReadNetworks("networks", strings.NewReader(text))
		again, err2 := ReadNetworks("networks", strings.NewReader(text))
		if !reflect.DeepEqual(networks, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatal("the second reading differs from the first")
		}
		if len(networks) > strings.Count(text, "{") {
			t.Fatalf("%d networks", len(networks))
		}
	})
}
