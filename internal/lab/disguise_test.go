//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTranslatePrefix knows what the kernel made of this address
// (TestPrefixTranslation).
func TestTranslatePrefix(t *testing.T) {
	inside, outside := netip.MustParsePrefix("fd5a:ceb9:ed8d:fe0a::/64"), netip.MustParsePrefix("2001:db8:ff66::/64")
	if got := translatePrefix(masqueradeHost, inside, outside); got != masqueradePublic {
		t.Errorf("%s becomes %s, want %s", masqueradeHost, got, masqueradePublic)
	}
	if got := translatePrefix(masqueradePublic, outside, inside); got != masqueradeHost {
		t.Errorf("%s becomes %s, want %s", masqueradePublic, got, masqueradeHost)
	}
}

// TestDisguiseKeepsPrefixes moves addresses and prefixes that contain one
// another, or do not.
func TestDisguiseKeepsPrefixes(t *testing.T) {
	prefixes := []string{
		"172.16.0.0/12", "172.17.0.0/16", "172.17.0.0/17", "172.17.128.0/17", "172.18.0.0/16", "10.0.0.0/8", "10.254.10.0/24",
		"10.254.11.0/24", "192.168.0.0/24", "192.168.51.0/24", "203.0.113.0/24", "fd5a:ceb9:ed8d::/48", "fd5a:ceb9:ed8d:1::/64",
		"0.0.0.0/1", "128.0.0.0/1", "8.8.8.8/32", "2000::/3",
	}
	addresses := []string{"172.17.0.2", "172.17.255.1", "172.18.0.2", "10.254.10.252", "192.168.0.1", "203.0.113.254", "fd5a:ceb9:ed8d:1::2", "8.8.8.8"}
	for seed := range uint64(50) {
		d := newDisguise(seed+1, nil)
		for _, p := range prefixes {
			prefix := netip.MustParsePrefix(p)
			moved := d.prefix(prefix)
			if moved != moved.Masked() {
				t.Errorf("seed %d: %s becomes %s", d.seed, prefix, moved)
			}
			for _, a := range addresses {
				address := netip.MustParseAddr(a)
				other := d.address(address)
				if prefix.Contains(address) != moved.Contains(other) {
					t.Errorf("seed %d: %s in %s becomes %s in %s", d.seed, address, prefix, other, moved)
				}
				if address.IsPrivate() != other.IsPrivate() || !other.IsGlobalUnicast() {
					t.Errorf("seed %d: %s becomes %s", d.seed, address, other)
				}
			}
		}
	}
}

func TestDisguiseTexts(t *testing.T) {
	d := newDisguise(1, nil)
	names := make(map[string]bool)
	for _, name := range []string{"eth0", "eth1", "docker0", "br-5f1c3a9d2b7e", "veth8c1f3e2", "veth0", "tun0", "wg0", "zTrust", "lan"} {
		other := d.iface(name)
		if other == name || len(other) > 15 || names[other] {
			t.Errorf("%s becomes %s", name, other)
		}
		names[other] = true
		for text, want := range map[string]string{
			`oifname != "` + name + `" masquerade`:  `oifname != "` + other + `" masquerade`,
			"-A DOCKER ! -i " + name + " -j RETURN": "-A DOCKER ! -i " + other + " -j RETURN",
			"net/ipv4/conf/" + name + "/rp_filter":  "net/ipv4/conf/" + other + "/rp_filter",
			"fe80::1%" + name + " at " + name + ".": "fe80::1%" + other + " at " + other + ".",
			"host/" + name + " egress, 8.8.8.8:53.": "host/" + other + " egress, 8.8.8.8:53.",
			"filter_" + name + "_docker --ctstate":  "filter_" + name + "_docker --ctstate",
		} {
			if got := d.text(text); got != want {
				t.Errorf("%q becomes %q, want %q", text, got, want)
			}
		}
	}
	at := func(a string) string { return d.address(netip.MustParseAddr(a)).String() }
	for text, want := range map[string]string{
		"-d 172.17.0.2/32 --to-destination 172.17.0.2:80": "-d " + at("172.17.0.2") + "/32 --to-destination " + at("172.17.0.2") + ":80",
		"tcp [fd00:1::2]:53 fd00:1::":                     "tcp [" + at("fd00:1::2") + "]:53 " + at("fd00:1::"),
		"10.0.0.1-10.0.0.9":                               at("10.0.0.1") + "-" + at("10.0.0.9"),
		"172.17.0.1/16, 172.17.0.0/16":                    at("172.17.0.1") + "/16, " + at("172.17.0.0") + "/16",
		"lladdr 02:00:5e:10:00:07":                        "lladdr " + d.mac() + "07",
	} {
		if got := d.text(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	if err := d.problem(); err != nil {
		t.Error(err)
	}
}

// TestDisguiseFails hides names and addresses so that they are not recognised.
func TestDisguiseFails(t *testing.T) {
	for _, tt := range []struct {
		say  func(*disguise)
		want string
	}{
		{func(d *disguise) { d.iface("eth0"); d.text("eth0-eth1") }, `"eth0-eth1" speaks of the interface eth0 in a way that is not understood`},
		{func(d *disguise) { d.text("iifname eth0"); d.iface("eth0") }, `the interface eth0 is made after "eth0" spoke of it`},
		{func(d *disguise) { d.text("ip-172.17.0.2") }, `"ip-172.17.0.2" speaks of 172.17.0.2 in a way that is not understood`},
	} {
		d := newDisguise(1, nil)
		tt.say(d)
		if err := d.problem(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

// TestDisguisedScenarios looks for the authors' names and addresses in all that
// a disguised scenario says of itself.
func TestDisguisedScenarios(t *testing.T) {
	for _, s := range Scenarios() {
		d := newDisguise(1, s.prefixTranslated)
		for _, point := range append(s.Request, s.Reply...) {
			place, _, _ := strings.Cut(point, " ")
			_, name, _ := strings.Cut(place, "/")
			d.iface(name)
		}
		other := s.disguised(d)
		for _, backend := range s.Backends {
			for _, fault := range append([]Fault{{}}, s.Faults...) {
				options := Options{Backend: backend, Break: fault.Name}
				before, after := atoms(s.Truth(options)), atoms(other.Truth(options))
				for i := range before {
					if want := d.text(before[i]); after[i] != want {
						t.Errorf("%s %s %s: %s becomes %s, want %s", s.Name, backend, fault.Name, before[i], after[i], want)
					}
				}
				if before, after := atoms(*s.ProbeOf(fault.Name)), atoms(*other.ProbeOf(fault.Name)); !cmp.Equal(d.texts(before), after) {
					t.Error(cmp.Diff(d.texts(before), after))
				}
			}
		}
		if err := d.problem(); err != nil {
			t.Error(err)
		}
	}
}

// atoms are the values in a value, as text.
func atoms(value any) []string {
	var all []string
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		if s, ok := reflect.TypeAssert[fmt.Stringer](v); ok {
			all = append(all, s.String())
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for _, field := range v.Fields() {
				walk(field)
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		default:
			all = append(all, fmt.Sprint(v.Interface()))
		}
	}
	walk(reflect.ValueOf(value))
	return all
}
