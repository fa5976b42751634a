package report

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// checkup is one with all that a checkup can have.
func checkup() *Checkup {
	return &Checkup{
		Schema: CheckupSchema, Tool: Tool{Version: "1.2.3"}, Source: Source{Kind: "host", Name: "host", NetNS: "host"},
		Findings: []Finding{
			{
				Code: "SUBNET_OVERLAP", Severity: "error", Fix: []string{"ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1"}, Evidence: []string{"fact-1"},
				Summary: "What is for 172.17.0.2 of cnt01 leaves the host by tun0, by the route \"172.16.0.0/12 dev tun0\". To lead what is for 172.17.0.0/16 to docker0 again:",
			},
			{Code: "MTU_EXCEEDED", Severity: "warning", Summary: "The MTU of eth0\x1b[2J in cnt01 is 1500, that of tun0 1400.", Evidence: []string{"fact-2"}},
			{Code: "LINK_DOWN", Severity: "note", Summary: "The bridge docker0 has no carrier.", Evidence: []string{"fact-3"}},
		},
		Evidence: []Evidence{
			{ID: "fact-1", Kind: "route", NetNS: "host", Text: "172.16.0.0/12 dev tun0"},
			{ID: "fact-2", Kind: "link", NetNS: "cnt01", Text: "eth0: mtu 1500"},
			{ID: "fact-3", Kind: "link", NetNS: "host", Text: "docker0: up, no carrier"},
		},
		Checked:   []string{"addresses", "forwarding", "conntrack table", "DNS servers", "filter rules", "router advertisements"},
		Unchecked: []Unchecked{{Check: "namespaces", Reason: "what is behind veth1\u202e cannot be looked into"}},
	}
}

func TestCheckupGolden(t *testing.T) {
	well := checkup()
	well.Findings, well.Unchecked, well.Evidence = nil, nil, nil
	for name, tt := range map[string]struct {
		c *Checkup
		o TextOptions
	}{
		"checkup":        {checkup(), TextOptions{Unicode: true}},
		"checkup-narrow": {checkup(), TextOptions{Width: 40, Detail: DetailFull}},
		"checkup-color":  {checkup(), TextOptions{Unicode: true, Color: true}},
		"checkup-well":   {well, TextOptions{}},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := CheckupText(&b, tt.c, tt.o); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(b.String(), "\x1b\u202e") && !tt.o.Color {
				t.Errorf("what is not plain text got through: %q", b.String())
			}
			golden(t, filepath.Join("testdata", name+".txt"), b.Bytes())
		})
	}
	var b bytes.Buffer
	if err := CheckupJSON(&b, well); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "checkup-well.json"), b.Bytes())
	if well.Failed() || !checkup().Failed() {
		t.Error("Failed does not tell an error from none")
	}
}
