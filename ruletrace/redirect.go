package ruletrace

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// Arrival is the first packet of a flow as it would come to the nat rules of
// prerouting.
type Arrival struct {
	Tuple packet.Tuple
	// Ingress is the interface: the bridge's for what comes by a port of it.
	Ingress string
	// Local says that the destination is an address of the namespace.
	Local bool
}

// fate is what rules do with a packet.
type fate int

// The fates. Uncertain: a rule decides that is not understood, and all behind
// it is open.
const (
	passes fate = iota // the next rule is asked
	returns
	ends // nothing behind is asked, and nothing was translated
	redirects
	uncertain
	// A jump and a goto: the fate is that of the chain that they lead to.
	jumps
	leaves
)

// ruleset is chains of one table with their rules' texts.
type ruleset map[string][]string

// maxDepth bounds how far jumps are followed.
const maxDepth = 16

// walk has a packet meet the rules of a chain, and returns the rule that
// redirects it.
func (s ruleset) walk(chain string, a Arrival, depth int) (fate, Rule) {
	if depth == maxDepth {
		return uncertain, Rule{}
	}
	for _, text := range s[chain] {
		match, verdict, to := judge(text, a)
		switch match {
		case no:
			continue
		case unknown:
			return uncertain, Rule{}
		case yes:
		}
		switch verdict {
		case passes:
			continue
		case redirects:
			return redirects, Rule{Chain: chain, Text: text}
		case returns, ends, uncertain:
			return verdict, Rule{}
		case jumps, leaves:
		}
		if _, known := s[to]; !known {
			return uncertain, Rule{}
		}
		if f, rule := s.walk(to, a, depth+1); f != passes && f != returns || verdict == leaves {
			return f, rule
		}
	}
	return passes, Rule{}
}

// answer says whether a rule matches.
type answer int

// The answers: a rule of which one part surely does not match does not match,
// whatever else it asks.
const (
	yes answer = iota
	no
	unknown
)

func (a answer) and(b answer) answer {
	switch {
	case a == no || b == no:
		return no
	case a == unknown || b == unknown:
		return unknown
	}
	return yes
}

func sure(b bool) answer {
	if b {
		return yes
	}
	return no
}

func (a answer) inverted(invert bool) answer {
	if !invert || a == unknown {
		return a
	}
	return yes + no - a
}

// judge reads a rule, of iptables-save or of nft.
func judge(text string, a Arrival) (match answer, verdict fate, to string) {
	w := statements(text)
	if len(w) > 1 && w[0] == "-A" {
		return judgeSaved(w[2:], a)
	}
	return judgeListed(w, a)
}

func judgeSaved(w []string, a Arrival) (match answer, verdict fate, to string) {
	invert := false
	for i := 0; i < len(w); i++ {
		value := ""
		if i+1 < len(w) {
			value = w[i+1]
		}
		part := yes
		switch w[i] {
		case "!":
			invert = true
			continue
		case "-m", "--comment":
		case "-s":
			part = within(value, a.Tuple.Src)
		case "-d":
			part = within(value, a.Tuple.Dst)
		case "-i":
			part = through(value, a.Ingress)
		case "-p":
			part = ofProtocol(value, a)
		case "--dport":
			part = ofPort(value, a.Tuple.DstPort)
		case "--sport":
			part = ofPort(value, a.Tuple.SrcPort)
		case "--dst-type":
			if part = unknown; value == "LOCAL" {
				part = sure(a.Local)
			}
		case "-j", "-g":
			verdict, to = savedFate(w[i], value)
			return match, verdict, to
		default:
			part = unknown
		}
		match = match.and(part.inverted(invert))
		invert = false
		i++
	}
	return match, passes, ""
}

func savedFate(option, target string) (verdict fate, to string) {
	switch target {
	case "DNAT":
		return redirects, ""
	case "RETURN":
		return returns, ""
	case "ACCEPT":
		return ends, ""
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE":
		return passes, ""
	}
	// Another target of an extension is no chain of the table.
	if option == "-g" {
		return leaves, target
	}
	return jumps, target
}

func judgeListed(w []string, a Arrival) (match answer, verdict fate, to string) {
	for i := 0; i < len(w); {
		word, next, value := w[i], at(w, i+1), at(w, i+2)
		part, taken := yes, 3
		invert := value == "!="
		if invert {
			value, taken = at(w, i+3), 4
		}
		switch {
		case word == "counter":
			taken = 1
			if next == "packets" {
				taken = 5
			}
		case word == "ip" && next == "saddr", word == "ip6" && next == "saddr":
			part = ofVersion(word, a).and(within(value, a.Tuple.Src).inverted(invert))
		case word == "ip" && next == "daddr", word == "ip6" && next == "daddr":
			part = ofVersion(word, a).and(within(value, a.Tuple.Dst).inverted(invert))
		case (word == "tcp" || word == "udp") && next == "dport":
			part = ofProtocol(word, a).and(ofPort(value, a.Tuple.DstPort).inverted(invert))
		case (word == "tcp" || word == "udp") && next == "sport":
			part = ofProtocol(word, a).and(ofPort(value, a.Tuple.SrcPort).inverted(invert))
		case word == "meta" && next == "l4proto":
			part = ofProtocol(value, a).inverted(invert)
		case word == "iifname" || word == "iif":
			value, taken = next, 2
			if invert = next == "!="; invert {
				value, taken = at(w, i+2), 3
			}
			part = through(value, a.Ingress).inverted(invert)
		case word == "fib" && next == "daddr" && value == "type" && at(w, i+3) == "local":
			part, taken = sure(a.Local), 4
		case word == "dnat" && (next == "to" || value == "to"):
			return match, redirects, ""
		case word == "accept":
			return match, ends, ""
		case word == "return":
			return match, returns, ""
		case word == "jump":
			return match, jumps, next
		case word == "goto":
			return match, leaves, next
		default:
			return match.and(unknown), uncertain, ""
		}
		match = match.and(part)
		i += taken
	}
	return match, passes, ""
}

func at(w []string, i int) string {
	if i < len(w) {
		return w[i]
	}
	return ""
}

// within reports whether an address is that of a match, or in its prefix.
func within(text string, a netip.Addr) answer {
	if p, err := netip.ParsePrefix(text); err == nil {
		return sure(p.Contains(a))
	}
	if other, err := netip.ParseAddr(text); err == nil {
		return sure(other == a)
	}
	return unknown
}

// through compares an interface; a name may end in a wildcard.
func through(text, name string) answer {
	if strings.ContainsAny(text, "+*{@") || name == "" {
		return unknown
	}
	return sure(text == name)
}

func ofVersion(word string, a Arrival) answer { return sure((word == "ip6") == a.Tuple.Dst.Is6()) }

func ofProtocol(text string, a Arrival) answer {
	switch text {
	case "tcp", "udp", "icmp", "icmpv6":
		return sure(text == a.Tuple.Proto.String())
	case "ipv6-icmp":
		return sure(a.Tuple.Proto == packet.ICMPv6)
	}
	return unknown
}

func ofPort(text string, port uint16) answer {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return unknown
	}
	return sure(uint16(n) == port)
}
