package testenv

import (
	"os"
	"strings"
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

// initialUser reports whether the process is root where every user id is
// mapped to itself, which is so in the initial user namespace.
func initialUser() bool {
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && os.Geteuid() == 0 && strings.Join(strings.Fields(string(uidMap)), " ") == "0 0 4294967295"
}
