package ruletrace

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxDestinations bounds how many destinations are taken from a ruleset: a
// load balancer may have thousands, and each is a namespace to look into.
const maxDestinations = 16

// A DNAT rule in both syntaxes, and what it asks of a packet.
var (
	dnatRule    = regexp.MustCompile(`-j DNAT .*--to-destination (\S+)|\bdnat (?:ip6? )?to (.+)$`)
	dportMatch  = regexp.MustCompile(`(?:--dport|\bdport(?: ==)?) (\d+)(?:\s|$)`)
	targetMatch = regexp.MustCompile(`(?:^|\s)(?:-d|ip6? daddr) ([0-9a-fA-F.:/]+)(?:\s|$)`)
	addressText = regexp.MustCompile(`[0-9a-fA-F.:\[\]]*[.:][0-9a-fA-F.:\[\]]*`)
)

// destinations lists the addresses that the DNAT rules among lines could send
// the flow to. A line is left out only when it surely asks for another port or
// another destination; what else it asks for is not looked at, so the list may
// be too long, and it is no statement about the flow.
func destinations(lines []string, m Match) []netip.Addr {
	var all []netip.Addr
	for _, line := range lines {
		rule := dnatRule.FindStringSubmatch(line)
		if rule == nil || asksForAnother(line, m) {
			continue
		}
		for _, text := range addressText.FindAllString(rule[1]+rule[2], -1) {
			if a, ok := destination(text); ok && a.Is6() == m.Target.Is6() && !slices.Contains(all, a) && len(all) < maxDestinations {
				all = append(all, a)
			}
		}
	}
	return all
}

func asksForAnother(line string, m Match) bool {
	if port := dportMatch.FindStringSubmatch(line); port != nil && port[1] != strconv.Itoa(int(m.TargetPort)) {
		return true
	}
	to := targetMatch.FindStringSubmatch(line)
	if to == nil {
		return false
	}
	if prefix, err := netip.ParsePrefix(to[1]); err == nil {
		return !prefix.Contains(m.Target)
	}
	address, err := netip.ParseAddr(to[1])
	return err == nil && address != m.Target
}

// destination reads "address", "address:port" and "[address]:port".
func destination(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]:")); err == nil {
		return a, true
	}
	ap, err := netip.ParseAddrPort(text)
	return ap.Addr(), err == nil
}
