package topology

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pathtrace/pathtrace/capture"
)

// TestSurvey looks into what the host's pairs lead to; with a source, only into
// what is behind its own and behind the ways out.
func TestSurvey(t *testing.T) {
	c := newChain(t)
	c.host.sysctl("ipv6/conf/ens0/accept_ra", "2")
	config := Config{Host: c.host.NS, Candidates: c.all}
	for _, tt := range []struct {
		source *space
		want   []string
	}{
		{nil, []string{"cnt", "host", "other", "router"}},
		{c.cnt, []string{"cnt", "host", "router"}},
	} {
		if tt.source != nil {
			config.Source, config.SourceName = tt.source.NS, "cnt"
		}
		snapshot, handles, left, err := Survey(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		got := names(snapshot)
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, got); diff != "" || left != 0 {
			t.Errorf("%d left out (-want +got):\n%s", left, diff)
		}
		if link := snapshot.Namespace("host").Link("ens0"); link.Settings.AcceptRA != 2 || link.Role != capture.RoleUplink {
			t.Errorf("ens0 is %+v", link)
		}
		if link := handles.Reread().Namespace("host").Link("ens0"); link.Settings.AcceptRA != 2 {
			t.Errorf("read again, ens0 is %+v", link)
		}
		if err := handles.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnsettled(t *testing.T) {
	t.Parallel()
	a := netip.MustParseAddr("fd00::1")
	for _, tt := range []struct {
		link Link
		want bool
	}{
		{Link{Up: true, Carrier: true}, false},
		{Link{Up: true, Carrier: true, AddressFlags: map[netip.Addr][]string{a: {"tentative"}}}, true},
		{Link{Up: true, AddressFlags: map[netip.Addr][]string{a: {"tentative"}}}, false},
		{Link{Up: true, Carrier: true, AddressFlags: map[netip.Addr][]string{a: {"dadfailed", "tentative"}}}, false},
		{Link{Up: true, Carrier: true, Port: &Port{State: "learning"}}, true},
		{Link{Up: true, Carrier: true, Port: &Port{State: "disabled"}}, true},
		{Link{Up: true, Port: &Port{State: "disabled"}}, false},
		{Link{Up: true, Carrier: true, Port: &Port{State: "forwarding"}}, false},
	} {
		s := Snapshot{Namespaces: []Namespace{{Links: []Link{tt.link}}}}
		if got := s.Unsettled(); got != tt.want {
			t.Errorf("%+v: %v", tt.link, got)
		}
	}
}
