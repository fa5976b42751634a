package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// conntrackStale: the packet belongs to a flow that was in the table before it,
// so no rule of the nat tables was asked; the flow's translation leads to an
// address that no rule leads to today and that is none of the namespace's own,
// and the packet was seen to be translated so.
func conntrackStale(s *scene) *cause {
	for i := range s.in.Path.Older {
		older := &s.in.Path.Older[i]
		if t := s.outdated(older); t != nil {
			return s.stale(older, t)
		}
	}
	return nil
}

// outdated is the translation that an older flow did and no rule would do today;
// nil when there is none, or that is not certain.
func (s *scene) outdated(older *path.Older) *report.Translation {
	netns := older.Flow.NetNS
	ns, today := s.now(netns), s.in.NAT[netns]
	if ns == nil || !today.Complete {
		return nil
	}
	for _, done := range older.Flow.Translations() {
		to := addressOf(done.To)
		if !to.IsValid() || to == addressOf(done.From) || ns.Local(to) != nil || slices.Contains(today.Addresses, to) {
			continue
		}
		for k := range s.in.Path.Translations {
			t := &s.in.Path.Translations[k]
			if t.NetNS == netns && t.Leg == "request" && t.Field == string(done.Field) && addressOf(t.To) == to && t.Rule == nil {
				return t
			}
		}
	}
	return nil
}

func (s *scene) stale(older *path.Older, t *report.Translation) *cause {
	netns, to := older.Flow.NetNS, addressOf(t.To)
	verb := "was sent on to"
	if t.Field == string(nat.Source) {
		verb = "was given the source"
	}
	c := &cause{
		code: ConntrackStale, confidence: report.Reconstructed, byRule: true,
		summary: fmt.Sprintf("%s %s %s %s by an entry of conntrack that was there before it: the rules for translation were not asked, and none of them leads to that address today.",
			"The request", verb, to, where(netns)),
		evidence: append([]string{older.Evidence}, t.Evidence...),
		advice:   "Delete the old entry; the next packet is then translated as the rules say:",
	}
	if t.Field == string(nat.Destination) && s.owner(to) == "" {
		c.summary += " No visible namespace has it."
	}
	if s.seen.NetNS != netns {
		c.netns = netns
	}
	if s.leg == "reply" {
		c.summary += " " + s.seen.Summary
	}
	if line, ok := s.command(netns, "conntrack -D %s", entryOptions(older.Flow.Original)); ok {
		c.fix = []string{line}
	}
	return c
}

// owner is the namespace that has an address, empty when none is visible.
func (s *scene) owner(a netip.Addr) string {
	for i := range s.in.Topology.Namespaces {
		if ns := s.now(s.in.Topology.Namespaces[i].Name); ns.Local(a) != nil {
			return ns.Name
		}
	}
	return ""
}

// entryOptions are those of conntrack(8) that name one entry.
func entryOptions(t packet.Tuple) string {
	text := ""
	if t.Src.Is6() {
		text = "-f ipv6 "
	}
	text += fmt.Sprintf("-p %s -s %s -d %s", t.Proto, t.Src.WithZone(""), t.Dst.WithZone(""))
	if t.Proto.IsICMP() {
		option := "icmp"
		if t.Proto == packet.ICMPv6 {
			option = "icmpv6"
		}
		return text + fmt.Sprintf(" --%s-type %d --%s-code %d --%s-id %d", option, t.ICMPType, option, t.ICMPCode, option, t.ICMPID)
	}
	return text + fmt.Sprintf(" --sport %d --dport %d", t.SrcPort, t.DstPort)
}
