package nat

import (
	"fmt"

	"github.com/pathtrace/pathtrace/packet"
)

// Translations returns what NAT does to the flow's packets in the original
// direction, destination first, as the kernel does it. It compares the two
// tuples: a reply must be expected from where the request was sent to, or the
// destination was translated, and at the address that sent it, or the source
// was. The result is empty when nothing was translated.
//
// The status bits agree: the kernel sets StatusSrcNAT and StatusDstNAT when,
// and only when, a tuple changed. IPS_SRC_NAT_DONE and IPS_DST_NAT_DONE only
// say that NAT has looked at the flow; they are set without any translation.
func (f Flow) Translations() []Translation {
	before, after := f.Original, translated(f.Original, f.Reply)
	var list []Translation
	if before.Dst != after.Dst || before.DstPort != after.DstPort {
		list = append(list, Translation{Field: Destination, From: before.Destination(), To: after.Destination()})
	}
	switch {
	case before.ICMPID != after.ICMPID:
		// NAT treats the id as the port of the source.
		list = append(list, Translation{
			Field: Source,
			From:  fmt.Sprintf("%s id %d", before.Source(), before.ICMPID),
			To:    fmt.Sprintf("%s id %d", after.Source(), after.ICMPID),
		})
	case before.Src != after.Src || before.SrcPort != after.SrcPort:
		list = append(list, Translation{Field: Source, From: before.Source(), To: after.Source()})
	}
	return list
}

// Apply returns what NAT makes of a packet's tuple: of the original tuple on
// its way to the responder, or of the reply tuple on its way back. It reports
// false for every other tuple, also for one that was translated already.
//
// An ICMP error has a tuple of its own; apply the one that it quotes.
func (f Flow) Apply(t packet.Tuple) (packet.Tuple, bool) {
	switch t {
	case f.Original:
		return translated(f.Original, f.Reply), true
	case f.Reply:
		return translated(f.Reply, f.Original), true
	}
	return packet.Tuple{}, false
}

// Matches reports whether a packet with this tuple belongs to the flow, and in
// which direction it goes, wherever it was seen: before NAT, after it, or
// between the translation of the destination (prerouting, output) and that of
// the source (postrouting).
func (f Flow) Matches(t packet.Tuple) (reply, ok bool) {
	if matches(t, f.Original, f.Reply) {
		return false, true
	}
	if matches(t, f.Reply, f.Original) {
		return true, true
	}
	return false, false
}

// matches compares with the forms that one direction's packets have: forward
// is that direction's tuple before NAT, backward the other's.
func matches(t, forward, backward packet.Tuple) bool {
	after := translated(forward, backward)
	if t == forward || t == after {
		return true
	}
	between := forward
	between.Dst, between.DstPort = after.Dst, after.DstPort
	return t == between
}

// translated returns the tuple that packets of the direction forward have
// after NAT: the inverse of what the other direction expects. The ICMP type
// and code stay the packet's own.
func translated(forward, backward packet.Tuple) packet.Tuple {
	t := forward
	t.Src, t.SrcPort = backward.Dst, backward.DstPort
	t.Dst, t.DstPort = backward.Src, backward.SrcPort
	t.ICMPID = backward.ICMPID
	return t
}
