package ruletrace

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestDestinations(t *testing.T) {
	web := Match{Target: netip.MustParseAddr("203.0.113.1"), TargetPort: 8080}
	web6 := Match{Target: netip.MustParseAddr("2001:db8::1"), TargetPort: 8080}
	for _, test := range []struct {
		name  string
		line  string
		match Match
		want  string
	}{
		{"iptables", "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80", web, "[172.17.0.2]"},
		{"another port", "-A DOCKER -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80", web, "[]"},
		{"longer port", "-A DOCKER -p tcp -m tcp --dport 80801 -j DNAT --to-destination 172.17.0.2", web, "[]"},
		{"another destination", "-A PREROUTING -d 198.51.100.0/24 -j DNAT --to-destination 172.17.0.2", web, "[]"},
		{"this destination", "-A PREROUTING -d 203.0.113.1/32 -j DNAT --to-destination 172.17.0.2", web, "[172.17.0.2]"},
		{"range", "-A PREROUTING -j DNAT --to-destination 172.17.0.2-172.17.0.3:80", web, "[172.17.0.2 172.17.0.3]"},
		{"ip6tables", "-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00::2]:80", web6, "[fd00::2]"},
		{"nft", "\t\ttcp dport 8080 counter packets 0 bytes 0 dnat to 172.17.0.2:80", web, "[172.17.0.2]"},
		{"nft inet", "\t\tip daddr 203.0.113.1 tcp dport 8080 dnat ip to 172.17.0.2:80", web, "[172.17.0.2]"},
		{"nft ip6", "\t\ttcp dport 8080 dnat ip6 to [fd00::2]:80", web6, "[fd00::2]"},
		{"nft map", "\t\tdnat ip to tcp dport map { 8080 : 172.17.0.2 . 80, 8081 : 172.17.0.3 . 81 }", web, "[172.17.0.2 172.17.0.3]"},
		{"other family", "\t\tdnat ip6 to fd00::2", web, "[]"},
		{"no dnat", "-A POSTROUTING -s 172.17.0.2 -j MASQUERADE", web, "[]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fmt.Sprint(destinations([]string{test.line}, test.match)); got != test.want {
				t.Errorf("destinations(%q) = %s, want %s", test.line, got, test.want)
			}
		})
	}
}

func TestDestinationsAreBounded(t *testing.T) {
	var lines []string
	for i := range 100 {
		lines = append(lines, fmt.Sprintf("-A KUBE -j DNAT --to-destination 10.0.0.%d", i))
	}
	if got := len(destinations(lines, Match{Target: netip.MustParseAddr("10.96.0.1")})); got != maxDestinations {
		t.Errorf("got %d destinations, want %d", got, maxDestinations)
	}
}
