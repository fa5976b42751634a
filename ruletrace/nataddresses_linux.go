package ruletrace

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// NAT lists the addresses that the rules of the namespace's nat tables translate
// to. With an error the list is not complete. Where IPVS translates, no list is.
func (r *Resolver) NAT(ctx context.Context, ipv6 bool) (NATAddresses, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refresh(); err != nil {
		return NATAddresses{}, err
	}
	lines, err := r.natLines(ctx, ipv6, func(chain) bool { return true })
	found := natAddresses(lines)
	var balanced bool
	entered := r.ns.Do(func() error {
		balanced = unix.Access("/proc/thread-self/net/ip_vs", unix.F_OK) == nil
		return nil
	})
	found.Complete = found.Complete && err == nil && entered == nil && !balanced
	return found, errors.Join(err, entered)
}
