package ruletrace

import (
	"fmt"
	"testing"
)

func TestNATAddresses(t *testing.T) {
	for _, test := range []struct {
		line     string
		want     string
		complete bool
	}{
		{"-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80", "[172.17.0.2]", true},
		{"-A POSTROUTING -s 172.17.0.9/32 -o eth0 -j SNAT --to-source 203.0.113.1", "[203.0.113.1]", true},
		{"-A POSTROUTING -j SNAT --to-source 203.0.113.1-203.0.113.9", "[203.0.113.1 203.0.113.9]", false},
		{"-A POSTROUTING -j SNAT --to-source 203.0.113.1:1024-2047", "[203.0.113.1]", false},
		{"-A PREROUTING -d 10.0.0.0/24 -j NETMAP --to 172.17.0.0/24", "[]", false},
		{"-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "[]", true},
		{`-A POSTROUTING -m comment --comment "was --to-source 192.0.2.1" -j ACCEPT`, "[]", true},
		{"-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00::2]:80", "[fd00::2]", true},
		{"\t\ttcp dport 8080 counter packets 0 bytes 0 dnat to 172.17.0.2:80", "[172.17.0.2]", true},
		{"\t\tip saddr 10.0.0.1 snat ip to 203.0.113.1 fully-random", "[203.0.113.1]", true},
		{"\t\tdnat ip to tcp dport map { 8080 : 172.17.0.2 . 80, 8081 : 172.17.0.3 . 81 }", "[172.17.0.2 172.17.0.3]", true},
		{"\t\tdnat ip to tcp dport map { 8080 : 172.17.0.2 . 80,", "[172.17.0.2]", false},
		{"\t\tdnat to ip saddr map @services", "[]", false},
		{"\t\tsnat ip prefix to ip saddr map { 10.0.0.0/24 : 192.0.2.0/24 }", "[10.0.0.0 192.0.2.0]", false},
		{"\t\tct status dnat accept", "[]", true},
		{`		masquerade comment "no snat to 192.0.2.1"`, "[]", true},
	} {
		got := natAddresses([]string{test.line})
		if fmt.Sprint(got.Addresses) != test.want || got.Complete != test.complete {
			t.Errorf("%s: %v, complete %v; want %s, %v", test.line, got.Addresses, got.Complete, test.want, test.complete)
		}
	}
}
