package resolve

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseHosts(t *testing.T) {
	const content = "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost # comment\n" +
		"# 192.0.2.9 web\n192.0.2.1 web web.example.com\r\n" +
		"not-an-address web\n192.0.2.2\n2001:db8::1 WEB\nfe80::1%eth0 router\n::ffff:192.0.2.3 mapped\n192.0.2.4 web"
	for name, want := range map[string][]string{
		"web":             {"192.0.2.1", "2001:db8::1", "192.0.2.4"},
		"Web.Example.com": {"192.0.2.1"},
		"web.":            {"192.0.2.1", "2001:db8::1", "192.0.2.4"},
		"localhost":       {"127.0.0.1", "::1"},
		"router":          {"fe80::1%eth0"},
		"mapped":          {"192.0.2.3"},
		"comment":         nil,
		"example.com":     nil,
	} {
		var got []string
		for _, address := range parseHosts([]byte(content), name) {
			got = append(got, address.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	addresses := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	for _, tt := range []struct {
		content string
		want    resolvConf
	}{
		{"", resolvConf{servers: addresses("127.0.0.1"), ndots: 1, timeout: 5 * time.Second, attempts: 2}},
		{
			"# made by somebody\nnameserver 192.0.2.53\n; nameserver 192.0.2.54\nnameserver fe80::1%eth0\nnameserver nonsense\n" +
				"nameserver 127.0.0.11\r\nnameserver 192.0.2.55\ndomain old.example\nsearch corp.example example.org\n" +
				"options ndots:2 timeout:1 attempts:3 use-vc rotate edns0\n",
			resolvConf{
				servers: addresses("192.0.2.53", "fe80::1%eth0", "127.0.0.11"), search: []string{"corp.example", "example.org"},
				ndots: 2, timeout: time.Second, attempts: 3, tcp: true,
			},
		},
		{
			"search a\ndomain b c\noptions ndots:99 timeout:0 attempts:0\noptions ndots:x timeout:-1 attempts\nnameserver\n",
			resolvConf{servers: addresses("127.0.0.1"), search: []string{"b"}, ndots: 15, timeout: time.Second, attempts: 1},
		},
		{"options timeout:999 attempts:999", resolvConf{servers: addresses("127.0.0.1"), ndots: 1, timeout: 30 * time.Second, attempts: 5}},
	} {
		got := parseResolvConf([]byte(tt.content))
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(resolvConf{}), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.content, diff)
		}
	}
}

func TestCandidates(t *testing.T) {
	conf := resolvConf{search: []string{"corp.example", "example.org.", "."}, ndots: 2}
	for name, want := range map[string][]string{
		"web":         {"web.corp.example.", "web.example.org.", "web."},
		"web.a":       {"web.a.corp.example.", "web.a.example.org.", "web.a."},
		"web.a.b":     {"web.a.b.", "web.a.b.corp.example.", "web.a.b.example.org."},
		"dns.google.": {"dns.google."},
	} {
		if got := conf.candidates(name); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n::1 localhost # comment\nfe80::1%eth0 router"), "localhost")
	f.Fuzz(func(t *testing.T, content []byte, name string) {
		for _, address := range parseHosts(content, name) {
			if !address.IsValid() || !strings.Contains(strings.ToLower(string(content)), strings.ToLower(strings.TrimSuffix(name, "."))) && strings.ToLower(name) == name {
				t.Errorf("address %v of a name that is not there", address)
			}
		}
	})
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch a b\noptions ndots:2 timeout:1 attempts:3 use-vc"))
	f.Fuzz(func(t *testing.T, content []byte) {
		conf := parseResolvConf(content)
		if len(conf.servers) == 0 || len(conf.servers) > maxServers || len(conf.search) > maxSearch ||
			conf.ndots < 0 || conf.ndots > maxNdots || conf.attempts < 1 || conf.attempts > maxAttempts ||
			conf.timeout < time.Second || conf.timeout > maxTimeout*time.Second {
			t.Errorf("out of bounds: %+v", conf)
		}
		if names := conf.candidates("web"); len(names) == 0 || len(names) > maxSearch+1 {
			t.Errorf("candidates %q", names)
		}
	})
}

// Docker writes the servers that its own one asks as a comment.
func TestParseExtServers(t *testing.T) {
	for conf, want := range map[string][]string{
		"nameserver 127.0.0.11\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [192.0.2.53 host(127.0.0.53)]\n": {"192.0.2.53", "127.0.0.53"},
		"# ExtServers: [host(2001:db8::53) nobody]":       {"2001:db8::53"},
		"# ExtServers: []":                                nil,
		"nameserver 192.0.2.1":                            nil,
		"# ExtServers: [1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4]": {"1.1.1.1", "2.2.2.2", "3.3.3.3"},
	} {
		var got []string
		for _, a := range parseExtServers([]byte(conf)) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", conf, got, want)
		}
	}
}
