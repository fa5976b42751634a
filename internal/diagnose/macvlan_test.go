package diagnose

import (
	"testing"

	"github.com/pathtrace/pathtrace/internal/topology"
)

// TestMacvlanWithoutLower takes what a bundle that was made by hand may have: a mode
// without the link below, which is no macvlan.
func TestMacvlanWithoutLower(t *testing.T) {
	ns := &topology.Namespace{Name: "host", Links: []topology.Link{{Name: "eth0", Mode: "bridge"}, {Name: "eth1", Mode: "private"}}}
	a, b := place{ns, &ns.Links[0]}, place{ns, &ns.Links[1]}
	if onTopOf(a, b) || apart(a, b) || bridged(b) != nil {
		t.Error("a link without one below is a macvlan")
	}
}
