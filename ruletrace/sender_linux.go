package ruletrace

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// senderMeta are the keys of nftables' meta expression that ask who sent a
// packet (include/uapi/linux/netfilter/nf_tables.h).
var senderMeta = []uint32{unix.NFT_META_SKUID, unix.NFT_META_SKGID, unix.NFT_META_CGROUP}

// Of the socket expression (include/uapi/linux/netfilter/nf_tables.h).
const (
	socketKey    = 1 // NFTA_SOCKET_KEY
	socketCgroup = 3 // NFT_SOCKET_CGROUPV2
)

// senderExtensions are the x_tables matches that do.
var senderExtensions = []string{"owner", "cgroup"}

// AsksSender reports whether a rule of the namespace looks at the user, group
// or cgroup that sent a packet: then an application may be treated differently
// from a probe.
func (r *Resolver) AsksSender() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(); err != nil {
		return false, err
	}
	found, err := anyRule(r.conn, func(r rule) bool { return slices.ContainsFunc(r.exprs, expression.asksSender) })
	if err != nil || found {
		return found, err
	}
	ipv4, ipv6, err := LegacyTables(r.ns)
	errs := []error{err}
	for i, tables := range [][]string{ipv4, ipv6} {
		for _, table := range tables {
			extensions, err := legacyExtensions(r.ns, i == 1, table)
			errs = append(errs, err)
			if slices.ContainsFunc(extensions, func(x extension) bool { return slices.Contains(senderExtensions, x.name) }) {
				return true, nil
			}
		}
	}
	return false, errors.Join(errs...)
}

func (e expression) asksSender() bool {
	switch e.name {
	case "meta":
		return slices.Contains(senderMeta, e.key(unix.NFTA_META_KEY))
	case "socket":
		return e.key(socketKey) == socketCgroup
	case "match":
		x, ok := compatExtension(e.data)
		return ok && slices.Contains(senderExtensions, x.name)
	}
	return false
}

// key returns a number among an expression's attributes; the largest number
// where it is missing.
func (e expression) key(attribute uint16) uint32 {
	missing := ^uint32(0)
	d, err := netlink.NewAttributeDecoder(e.data)
	if err != nil {
		return missing
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		if d.Type() == attribute {
			return d.Uint32()
		}
	}
	return missing
}
