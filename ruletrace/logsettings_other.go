//go:build !linux

package ruletrace

// GuardMain must be the first call of main. Without Linux there is no nf_log to
// guard.
func GuardMain() {}
