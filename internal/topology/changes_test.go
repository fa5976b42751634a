package topology

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChanges(t *testing.T) {
	link := func(name string, index int, up bool) Link {
		l := Link{Name: name, Index: index, Up: up, Kind: "veth"}
		if name == "lo" {
			l.Kind = "loopback"
		}
		return l
	}
	snapshot := func(cnt, host []Link) *Snapshot {
		return &Snapshot{Namespaces: []Namespace{{Name: "cnt", Links: cnt}, {Name: "host", Links: host}}}
	}
	cnt, host := []Link{link("lo", 1, true), link("eth0", 2, true)}, []Link{link("lo", 1, true), link("br0", 2, true), link("veth0", 3, true)}
	tests := []struct {
		name      string
		cnt, host []Link
		want      []string
	}{
		{"nothing", cnt, host, nil},
		{"something new", append(cnt[:2:2], link("eth1", 9, true)), host, nil},
		{"renamed", cnt, []Link{host[0], link("br9", 2, true), host[2]}, []string{"The interface br0 of host was renamed to br9 meanwhile."}},
		{"down", cnt, []Link{host[0], host[1], link("veth0", 3, false)}, []string{"The interface veth0 of host went down meanwhile."}},
		{"gone", cnt, host[:2], []string{"The interface veth0 of host went away meanwhile."}},
		{"stopped", cnt[:1], host[:2], []string{
			"All interfaces of cnt went away meanwhile: it was stopped, or moved to another network.",
			"The interface veth0 of host went away meanwhile.",
		}},
		{"another one of that name", []Link{cnt[0], link("eth0", 7, true)}, host, []string{"The interface eth0 of cnt went away meanwhile."}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, Changes(snapshot(cnt, host), snapshot(tt.cnt, tt.host))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := Changes(snapshot(cnt, host), nil); got != nil {
		t.Errorf("without a second snapshot: %q", got)
	}
}
