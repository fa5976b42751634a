package diagnose

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// TestMissing shows what data of the far end that does not come proves: that it is
// lost for its size only where a full-size segment is missing, none of that size
// ever came, and smaller ones did all the time.
func TestMissing(t *testing.T) {
	probe := path.Probe{NetNS: "cnt01", Tuple: packet.Tuple{
		Proto: packet.TCP, Src: netip.MustParseAddr("172.17.0.2"), Dst: netip.MustParseAddr("172.20.0.5"), SrcPort: 40000, DstPort: 8888,
	}}
	lost := Missing{Bytes: 2896, MSS: 1460, Largest: 300, Since: 3 * time.Second}
	tests := []struct {
		name    string
		change  func(*Missing)
		mtu     int
		code    string
		words   string
		command string
	}{
		{"all", func(*Missing) {}, 1400, MTUBlackhole, "The MTU of tun0, by which its packets come to the host, is 1400.", "maxseg size set rt mtu"},
		{"all, and the narrow link is out of sight", func(*Missing) {}, 1500, MTUBlackhole, "packets of up to 300 bytes did", "maxseg size set 1240"},
		{"less is missing than a segment", func(m *Missing) { m.Bytes = 900 }, 1400, DataLost, "900 bytes of 172.20.0.5:8888 did not come", ""},
		{"it is not known how much is missing", func(m *Missing) { m.Bytes = 0 }, 1400, DataLost, "data of 172.20.0.5:8888 did not come", ""},
		{"one of the size came", func(m *Missing) { m.Largest = 1500 }, 1400, DataLost, "", ""},
		{"nothing came", func(m *Missing) { m.Largest = 0 }, 1400, DataLost, "", ""},
		{"nothing came any more", func(m *Missing) { m.Since = 100 * time.Millisecond }, 1400, DataLost, "", ""},
		{"small segments were asked for", func(m *Missing) { m.MSS = 1200 }, 1400, DataLost, "", ""},
		{"no size was asked for", func(m *Missing) { m.MSS = 0 }, 1400, DataLost, "", ""},
	}
	for _, tt := range tests {
		missing := lost
		tt.change(&missing)
		first := &capture.Sighting{Point: capture.Point{NetNS: topology.HostName, Interface: "tun0"}}
		in := &Input{
			Probe: probe, Missing: &missing, Path: &path.Path{Reply: path.Leg{First: first}},
			Topology: &topology.Snapshot{Namespaces: []topology.Namespace{{Name: topology.HostName, Links: []topology.Link{{Name: "tun0", MTU: tt.mtu}}}}},
		}
		d := Diagnosis{Verdict: report.Verdict{Outcome: report.Replied, Code: OK, Evidence: []string{}}}
		d.starved(in)
		if v := d.Verdict; v.Code != tt.code || v.Outcome != report.Lost || v.Leg != "reply" || !strings.Contains(v.Summary, tt.words) {
			t.Errorf("%s: %s %s %s: %s; want %s, %q", tt.name, v.Outcome, v.Leg, v.Code, v.Summary, tt.code, tt.words)
		}
		command := ""
		for _, f := range d.Findings {
			command += strings.Join(f.Fix, "\n")
		}
		if !strings.Contains(command, tt.command) || (tt.command == "") != (command == "") {
			t.Errorf("%s: %q is proposed, want %q", tt.name, command, tt.command)
		}
	}
}
