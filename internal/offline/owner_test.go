package offline

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/recording"
	"github.com/pathtrace/pathtrace/report"
)

// TestOwner explains a recorded flow with what docker network inspect says beside
// the rules: the masquerade is Docker's, for its network by name.
func TestOwner(t *testing.T) {
	const inspected = `[{"Name": "bridge", "Id": "2", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]},
		"Options": {"com.docker.network.bridge.name": "docker0"}}]`
	all, err := recording.All(recording.Dir)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(r recording.Recording) bool { return r.Name == "docker-bridge-outbound" })
	for _, tt := range []struct {
		networks string
		want     report.Owner
	}{
		{"", report.Owner{}},
		{inspected, report.Owner{Tool: "docker", Network: "bridge", Bridge: "docker0", Purpose: "MASQUERADE"}},
	} {
		in := analyzed(t, &all[at])
		if tt.networks != "" {
			known, err := ReadLogs(LogFiles{Rules: []LogFile{{Name: "networks", Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(tt.networks)), nil }}}})
			if err != nil {
				t.Fatal(err)
			}
			in.Logs.Networks = known.Networks
		}
		explained, err := Explain(t.Context(), in, 0)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, hop := range explained.Legs.Request {
			for _, step := range hop.Steps {
				if step.Rule == nil || !strings.HasSuffix(step.Rule.Text, "-j MASQUERADE") {
					continue
				}
				if found++; step.Rule.Owner != tt.want {
					t.Errorf("%s is of %+v, want %+v", step.Rule.Text, step.Rule.Owner, tt.want)
				}
			}
		}
		if found == 0 {
			t.Errorf("no masquerade in %+v", explained.Legs.Request)
		}
	}
}
