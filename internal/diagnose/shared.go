package diagnose

import (
	"net/netip"

	"github.com/pathtrace/pathtrace/internal/topology"
)

// What doctor says in the same words, and tells apart in the same way.

// MainTable is the routing table main (include/uapi/linux/rtnetlink.h).
const MainTable = mainTable

// The names a namespace within a sentence.
func The(netns string) string { return the(netns) }

// StateOf says what is known of a link's state.
func StateOf(link *topology.Link) string { return stateOf(link) }

// HasGlobal reports whether a link has an address that is not link-local.
func HasGlobal(link *topology.Link) bool { return hasGlobal(link) }

// Everywhere reports whether a prefix is that of a default route, or one of the
// two that together stand for it.
func Everywhere(p netip.Prefix) bool { return everywhere(p) }

// IPCommand is iproute2's command for an address.
func IPCommand(a netip.Addr) string { return ipCommand(a) }

// PlainName reports whether a shell and nft take a name for a single word.
func PlainName(name string) bool { return plainName.MatchString(name) }
