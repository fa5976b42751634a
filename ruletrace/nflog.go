package ruletrace

import (
	"fmt"
	"strconv"
	"strings"
)

// legacyTrace is what the prefix of an NFLOG message says.
type legacyTrace struct {
	table, chain string
	kind         HitKind
	number       int
}

// parseTracePrefix reads "TRACE: table:chain:rule:N ", where the third word is
// rule, return or policy. The bool is false for other prefixes: anybody may
// log to the group. A chain's name may contain colons, a table's not.
func parseTracePrefix(prefix string) (legacyTrace, bool) {
	rest, ok := strings.CutPrefix(strings.TrimRight(prefix, " \x00"), "TRACE: ")
	if !ok {
		return legacyTrace{}, false
	}
	var t legacyTrace
	if t.table, rest, ok = strings.Cut(rest, ":"); !ok || t.table == "" {
		return legacyTrace{}, false
	}
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return legacyTrace{}, false
	}
	number, err := strconv.ParseUint(rest[at+1:], 10, 31)
	if err != nil || number == 0 {
		return legacyTrace{}, false
	}
	t.number, rest = int(number), rest[:at]
	if at = strings.LastIndexByte(rest, ':'); at <= 0 {
		return legacyTrace{}, false
	}
	t.chain, t.kind = rest[:at], HitKind(rest[at+1:])
	switch t.kind {
	case HitRule, HitReturn, HitPolicy:
		return t, true
	}
	return legacyTrace{}, false
}

// Stats count what a source delivered and lost.
type Stats struct {
	// Received messages were delivered as hits.
	Received uint64
	// Lost messages are the gaps in the kernel's numbering; Overruns is how
	// often the kernel said that the socket was full.
	Lost, Overruns uint64
	// Undecodable messages were delivered but not understood.
	Undecodable uint64
}

// BusyError says that NFLOG group 0, to which the kernel sends legacy traces,
// belongs to somebody else in this namespace.
type BusyError struct {
	NetNS string
	// PortID is the holder's netlink address; PID and Process are its process,
	// 0 and empty where it cannot be seen (another pid namespace, or no
	// permission).
	PortID  uint32
	PID     int
	Process string
}

// Error implements error.
func (e *BusyError) Error() string {
	holder := fmt.Sprintf("a process that cannot be seen from here (netlink port %d)", e.PortID)
	if e.PID != 0 {
		holder = fmt.Sprintf("%s (pid %d)", e.Process, e.PID)
	}
	return fmt.Sprintf("NFLOG group 0 in %s is taken by %s", e.NetNS, holder)
}
