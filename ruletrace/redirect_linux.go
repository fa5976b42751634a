package ruletrace

import "context"

// Redirect returns the rule by which today's rules of prerouting would translate
// the destination of a flow's first packet. The bool is false when there is none,
// and when that is not certain; an error says what could not be read.
func (r *Resolver) Redirect(ctx context.Context, a Arrival) (Rule, bool, error) {
	class := a.class()
	family := "ip"
	if class.IPv6 {
		family = "ip6"
	}
	set, err := r.ruleset(ctx, func(of string, hook Hook) bool { return hook == Prerouting && (of == family || of == "inet") })
	rule, ok := set.redirect(class)
	return rule, ok, err
}
