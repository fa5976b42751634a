// Package attempt sees what programs of a network namespace want to send to,
// whether or not a packet comes of it: small BPF programs where the kernel has
// been asked to connect a socket or to send a datagram, and has not yet looked
// for a route.
//
// It needs Linux 5.8, cgroup v2, and CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN)
// in the initial user namespace. The programs let everything through. They belong
// to descriptors, and are gone when these close.
package attempt

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Attempt is one system call that asked for a connection, or to send a datagram.
type Attempt struct {
	// Time is the kernel's, on the wall clock of packet captures.
	Time time.Time
	// PID and Command are the process. The programs see its number in the initial
	// PID namespace: it is 0 when the sensor runs in another one.
	PID     int
	Command string
	Proto   packet.Proto
	To      netip.AddrPort
	// Connect is set for connect(2), which sends nothing for UDP; otherwise a
	// datagram was to be sent.
	Connect bool
}

// Stats count what the sensor delivered and lost.
type Stats struct{ Received, Lost uint64 }

// NotSupportedError says that this machine lacks something. errors.Is with
// errors.ErrUnsupported reports true for it.
type NotSupportedError struct {
	// Feature is what is missing.
	Feature string
	Err     error
}

// Error implements error.
func (e *NotSupportedError) Error() string {
	return fmt.Sprintf("this machine does not have %s: %v", e.Feature, e.Err)
}

// Unwrap returns the cause.
func (e *NotSupportedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, errors.ErrUnsupported) true.
func (e *NotSupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// PermissionError says that BPF programs may not be loaded. errors.Is with
// fs.ErrPermission reports true for it.
type PermissionError struct{ Err error }

// Error implements error.
func (e *PermissionError) Error() string {
	return fmt.Sprintf("seeing what programs want to send to needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, outside of user namespaces: %v", e.Err)
}

// Unwrap returns the kernel's answer.
func (e *PermissionError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, fs.ErrPermission) true.
func (e *PermissionError) Is(target error) bool { return target == fs.ErrPermission }
