package testenv

import (
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// privileged tries it out: where user namespaces are restricted, capabilities
// are shown and missing all the same.
var privileged = sync.OnceValue(func() error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // read-only descriptor
	return ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "probe1"})
	})
})
