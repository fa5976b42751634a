package ruletrace

import (
	"errors"
	"fmt"
)

// NotSupportedError says that this kernel lacks something. errors.Is with
// errors.ErrUnsupported reports true for it.
type NotSupportedError struct {
	// Feature is what is missing and what would provide it.
	Feature string
	// Err is what the kernel answered.
	Err error
}

// Error implements error.
func (e *NotSupportedError) Error() string {
	return fmt.Sprintf("this kernel does not support %s: %v", e.Feature, e.Err)
}

// Unwrap returns the kernel's answer.
func (e *NotSupportedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, errors.ErrUnsupported) true.
func (e *NotSupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// PermissionError says that a capability is missing in the user namespace that
// owns the network namespace. errors.Is with fs.ErrPermission reports true for
// it.
type PermissionError struct {
	// Op is what was tried, NetNS where.
	Op, NetNS string
	Err       error
}

// Error implements error.
func (e *PermissionError) Error() string {
	return fmt.Sprintf("%s in %s: needs CAP_NET_ADMIN in the namespace's user namespace: %v", e.Op, e.NetNS, e.Err)
}

// Unwrap returns the kernel's answer.
func (e *PermissionError) Unwrap() error { return e.Err }

// UnresolvedError says that a rule's text is not known: the tool that prints
// it is missing or failed, or the rule is no longer there. The hit has what is
// known without it.
type UnresolvedError struct {
	// NetNS is empty for rules that were read from a file.
	NetNS string
	Rule  Rule
	// Reason says why, as a clause.
	Reason string
	// Err is nil when no tool failed.
	Err error
}

// Error implements error.
func (e *UnresolvedError) Error() string {
	text := fmt.Sprintf("rule text of %s %s %s", e.Rule.Family, e.Rule.Table, e.Rule.Chain)
	if e.NetNS != "" {
		text += " in " + e.NetNS
	}
	text += ": " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *UnresolvedError) Unwrap() error { return e.Err }
