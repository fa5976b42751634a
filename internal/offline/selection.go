package offline

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/packet"
)

// Selection says which flows are asked for: those of which some packet, before
// or after NAT, there or back, has all that is set. The zero value is all flows.
type Selection struct {
	// Flow is a flow's number.
	Flow             int
	Proto            packet.Proto
	Src, Dst         netip.Prefix
	SrcPort, DstPort uint16
}

// String is the selection as flags.
func (s *Selection) String() string {
	var words []string
	add := func(set bool, flag string, value any) {
		if set {
			words = append(words, fmt.Sprintf("%s %v", flag, value))
		}
	}
	add(s.Flow != 0, "--flow", s.Flow)
	add(s.Proto != 0, "-p", s.Proto)
	add(s.Src.IsValid(), "--src", prefixText(s.Src))
	add(s.SrcPort != 0, "--sport", s.SrcPort)
	add(s.Dst.IsValid(), "--dst", prefixText(s.Dst))
	add(s.DstPort != 0, "--dport", s.DstPort)
	return strings.Join(words, " ")
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// has reports whether a flow is asked for.
func (s *Selection) has(f *flows.Flow) bool {
	switch {
	case *s == Selection{}:
		return true
	case s.Flow != 0 && s.Flow != f.Number:
		return false
	}
	for _, stops := range [2][]flows.Stop{f.Out, f.Back} {
		for i := range stops {
			if s.matches(&stops[i].Key) {
				return true
			}
		}
	}
	return false
}

func (s *Selection) matches(k *packet.Key) bool {
	t := k.Tuple()
	return (s.Proto == 0 || s.Proto == t.Proto) &&
		(!s.Src.IsValid() || s.Src.Contains(t.Src)) && (!s.Dst.IsValid() || s.Dst.Contains(t.Dst)) &&
		(s.SrcPort == 0 || s.SrcPort == t.SrcPort) && (s.DstPort == 0 || s.DstPort == t.DstPort)
}

// Selected are the flows that are asked for, by their indexes in the result.
func (in *Input) Selected(s *Selection) []int {
	var all []int
	for i := range in.Result.Flows {
		if s.has(&in.Result.Flows[i]) {
			all = append(all, i)
		}
	}
	return all
}
