package traffic

import (
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// maxKnocks is how many packets for the source are remembered that were seen to end
// before they came there.
const maxKnocks = 1 << 10

// knock remembers a stray that a rule met, or the kernel dropped, if it may be the
// first packet of a flow that others open to the source. Whether it is turns out
// later: another sensor may tell of a flow of the source's that it answers, and what
// the rule did with it may not be known yet.
func (t *Table) knock(netns string, s *stray) {
	h := s.header()
	if !t.cfg.Older || netns == t.cfg.NetNS || h.Tuple.Dst.IsLoopback() || !t.cfg.Own(h.Tuple.Dst) || t.cfg.Own(h.Tuple.Src) || !knocks(s) {
		return
	}
	if t.cfg.Leads != nil && !t.cfg.Leads(netns, h.Tuple.Dst) {
		return // the address is another machine's there
	}
	if len(t.knocks) == maxKnocks {
		t.knocks = slices.Delete(t.knocks, 0, 1)
		t.unfollowed.flows++
	}
	t.knocks = append(t.knocks, s)
}

// knocks reports whether a packet asks for something and answers nothing. Of a
// datagram only conntrack knows that.
func knocks(s *stray) bool {
	h := s.header()
	switch h.Tuple.Proto {
	case packet.TCP:
		return h.Flags&(packet.SYN|packet.ACK|packet.RST) == packet.SYN
	case packet.UDP:
		return h.FragmentOffset == 0 && s.hit != nil && s.hit.ConntrackID != 0 && !s.hit.Reply
	case packet.ICMP:
		return h.Tuple.ICMPType == packet.EchoRequest && h.FragmentOffset == 0
	}
	return h.Tuple.Proto == packet.ICMPv6 && h.Tuple.ICMPType == packet.EchoRequestV6 && h.FragmentOffset == 0
}

// Knocked says until when packets for the source ended before they came there that
// no sensor can tell more of at a time; it is zero when there are none.
func (t *Table) Knocked(now time.Time) time.Time {
	if until := now.Add(-lag); len(t.knocks) > 0 && !t.knocks[0].at.After(until) {
		return until
	}
	return time.Time{}
}

// Admit makes flows of the packets that ended until a time before they came to the
// source.
func (t *Table) Admit(until time.Time) bool {
	later := slices.IndexFunc(t.knocks, func(s *stray) bool { return s.at.After(until) })
	if later < 0 {
		later = len(t.knocks)
	}
	all := t.knocks[:later]
	t.knocks = slices.Clone(t.knocks[later:])
	// What the kernel tells of a drop may be too little to know the packet by under
	// another tuple, when a rule's hit has that.
	slices.SortStableFunc(all, func(a, b *stray) int {
		return boolInt(a.content == (content{})) - boolInt(b.content == (content{}))
	})
	for _, s := range all {
		if s.claimed || s.hit != nil && s.hit.Verdict != ruletrace.Drop && s.hit.Verdict != ruletrace.Reject {
			continue
		}
		if key := s.keys[0]; t.names[key] != nil || t.foreign[key] {
			continue // it was let go before the flow was known, or is of none
		}
		f := t.open(*s.header(), s.at, s.keys[0], true)
		if f == nil {
			continue
		}
		if !s.claimed {
			t.adopt(f, s) // it had to make room for others
		}
		for _, key := range t.strays.before(s) {
			t.learn(f, key)
		}
	}
	return len(all) > 0
}
