package offline

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
)

func TestPointsNames(t *testing.T) {
	tests := []struct {
		paths       []string
		files, base []string
	}{
		{[]string{"/tmp/cnt.pcap"}, []string{"cnt.pcap"}, []string{"cnt"}},
		{[]string{"cnt.pcapng.gz", "up.cap"}, []string{"cnt.pcapng.gz", "up.cap"}, []string{"cnt", "up"}},
		{[]string{"a/cnt.pcap", "b/cnt.pcap"}, []string{"a/cnt.pcap", "b/cnt.pcap"}, []string{"a/cnt", "b/cnt"}},
		{[]string{"cnt.pcap", "cnt.pcap.gz"}, []string{"cnt.pcap", "cnt.pcap.gz"}, []string{"cnt", "cnt"}},
		{[]string{".pcap", "no-suffix"}, []string{".pcap", "no-suffix"}, []string{".pcap", "no-suffix"}},
	}
	for _, tt := range tests {
		var sources []Source
		for _, path := range tt.paths {
			sources = append(sources, Source{Path: path})
		}
		var files, base []string
		for _, p := range pointsOf(sources) {
			files, base = append(files, p.file), append(base, p.base)
		}
		if diff := cmp.Diff([][]string{tt.files, tt.base}, [][]string{files, base}); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.paths, diff)
		}
	}
}

func TestPoint(t *testing.T) {
	alone, beside := points{base: "cnt"}, points{base: "cnt", several: true}
	given := func(p points, name string) points {
		p.given = name
		return p
	}
	tests := []struct {
		points points
		index  int
		iface  string
		want   string
	}{
		{alone, 0, "", "cnt"},
		{alone, 1, "", "cnt/if1"},
		{alone, 0, "eth0", "eth0"},
		{beside, 0, "", "cnt"},
		{beside, 3, "eth0", "cnt/eth0"},
		{alone, 0, "host/ens192", "host/ens192"},
		{beside, 0, "host/ens192", "host/ens192"},
		{given(alone, "c1"), 0, "", "c1"},
		{given(beside, "c1"), 0, "eth0", "c1/eth0"},
		{given(beside, "c1/eth7"), 0, "eth0", "c1/eth7"},
		{given(beside, "c1/eth7"), 1, "eth1", "c1/eth1"},
		{given(beside, "c1/eth7"), 1, "", "c1/if1"},
		{given(beside, "vm1"), 0, "host/ens192", "vm1/ens192"},
	}
	for _, tt := range tests {
		if got := tt.points.point(tt.index, capture.FileInterface{Name: tt.iface}).String(); got != tt.want {
			t.Errorf("%+v, interface %d %q: %s, want %s", tt.points, tt.index, tt.iface, got, tt.want)
		}
	}
}

// TestMachine: of several bundles each is of a machine.
func TestMachine(t *testing.T) {
	bundle := []capture.FileInterface{{Name: "host/ens192", Link: 1}, {Name: "pathtrace", Link: linkUser0}}
	tests := []struct {
		points     points
		interfaces []capture.FileInterface
		want       string
	}{
		{points{base: "gw", several: true}, bundle, "gw"},
		{points{base: "gw"}, bundle, ""},
		{points{base: "gw", several: true}, bundle[:1], ""},
	}
	for _, tt := range tests {
		if got := tt.points.machine(tt.interfaces); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.points, got, tt.want)
		}
	}
}
