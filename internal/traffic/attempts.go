package traffic

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/internal/attempt"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	// maxAttempts is how many attempts are kept that no packet is known of.
	maxAttempts = 1 << 10
	// clockError is how much later an attempt may seem than the packet that came of
	// it: the two times come from different clocks.
	clockError = 5 * time.Millisecond
)

// Attempt takes what a program wanted to send to. Who did it is the owner of the
// flow that came of it.
func (t *Table) Attempt(a attempt.Attempt) bool {
	if a.To.Port() == 0 && !a.Proto.IsICMP() || a.To.Addr().IsUnspecified() || !unicast(a.To.Addr()) {
		return false // nothing is sent to port 0: it is asked which address would be used
	}
	// Of several flows it is the first that began after it: what was told late may
	// fit later ones, too, and these have attempts of their own.
	var first *Flow
	for _, f := range t.flows {
		if !f.attempted && f.cameOf(&a) && (first == nil || f.Began.Before(first.Began)) {
			first = f
		}
	}
	if first != nil {
		first.owned(&a)
		return true
	}
	if len(t.attempts) == maxAttempts {
		t.attempts = slices.Delete(t.attempts, 0, 1)
	}
	t.attempts = append(t.attempts, a)
	return true
}

// claim gives a flow the attempt that it came of, the latest that fits.
func (t *Table) claim(f *Flow) {
	if f.attempted || f.Existing || f.Inbound || f.Number == 0 {
		return
	}
	for i := range slices.Backward(t.attempts) {
		if f.cameOf(&t.attempts[i]) {
			f.owned(&t.attempts[i])
			t.attempts = slices.Delete(t.attempts, i, i+1)
			return
		}
	}
}

// cameOf reports whether a flow may be what became of an attempt. A rule of the
// source may have sent it elsewhere; then conntrack tells where it was to go.
func (f *Flow) cameOf(a *attempt.Attempt) bool {
	if f.Tuple.Proto != a.Proto || a.Time.After(f.Began.Add(clockError)) {
		return false
	}
	to := func(t packet.Tuple) bool {
		return netip.AddrPortFrom(t.Dst, t.DstPort) == a.To || netip.AddrPortFrom(t.Src, t.SrcPort) == a.To
	}
	return to(f.Tuple) || slices.ContainsFunc(f.names, to)
}

func (f *Flow) owned(a *attempt.Attempt) {
	f.attempted, f.PID, f.Command = true, a.PID, a.Command
	if a.Time.Before(f.Began) {
		f.Began = a.Time
	}
}

// Attempted are the targets of the attempts of which no packet was seen, some of
// them more than once.
func (t *Table) Attempted() []netip.Addr {
	var targets []netip.Addr
	for i := range t.attempts {
		targets = append(targets, t.attempts[i].To.Addr())
	}
	return targets
}

// Unsent are the attempts of which no packet was seen, one for each destination
// and process, as flows without packets. That a UDP socket was connected means
// nothing: programs do that to learn their own address. source says which address
// the source would send from, invalid when it knows none.
func (t *Table) Unsent(source func(netip.Addr) netip.Addr) []*Flow {
	var all []*Flow
	for i := range t.attempts {
		a := &t.attempts[i]
		same := func(f *Flow) bool {
			return f.Tuple.Proto == a.Proto && f.Tuple.Dst == a.To.Addr() && f.Tuple.DstPort == a.To.Port() && f.PID == a.PID && f.Command == a.Command
		}
		if a.Connect && a.Proto == packet.UDP || slices.ContainsFunc(all, same) {
			continue
		}
		tuple := packet.Tuple{Proto: a.Proto, Src: source(a.To.Addr()), Dst: a.To.Addr(), DstPort: a.To.Port()}
		if !t.cfg.Wanted(tuple) {
			continue
		}
		t.began++
		f := &Flow{Number: t.began, Tuple: tuple, First: packet.Header{Tuple: tuple}, Began: a.Time, kept: make(map[place]*packets)}
		f.owned(a)
		all = append(all, f)
	}
	return all
}
