package path

import (
	"fmt"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/owner"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Describe names a packet as its protocol does: "ICMPv6 echo id 38 seq 1".
func Describe(h *packet.Header) string {
	if h.IsFragment() {
		return describe(h) + " (fragmented)"
	}
	return describe(h)
}

func describe(h *packet.Header) string {
	t := h.Tuple
	switch t.Proto {
	case packet.ICMP, packet.ICMPv6:
		name := "ICMP"
		if t.Proto == packet.ICMPv6 {
			name = "ICMPv6"
		}
		switch {
		case t == (packet.Tuple{Proto: t.Proto, Src: t.Src, Dst: t.Dst, ICMPType: t.ICMPType, ICMPID: t.ICMPID}) && IsEcho(t):
			word := "echo"
			if t.ICMPType == packet.EchoReply && t.Proto == packet.ICMP || t.ICMPType == packet.EchoReplyV6 {
				word = "echo reply"
			}
			return fmt.Sprintf("%s %s id %d seq %d", name, word, t.ICMPID, h.ICMPSeq)
		case h.IsICMPError():
			return fmt.Sprintf("%s error: %s", name, ErrorText(t))
		}
		return fmt.Sprintf("%s type %d code %d", name, t.ICMPType, t.ICMPCode)
	case packet.TCP:
		if h.DataLength > 0 {
			return fmt.Sprintf("TCP %s with %d bytes", flagNames(h.Flags), h.DataLength)
		}
		return "TCP " + flagNames(h.Flags)
	}
	return strings.ToUpper(t.Proto.String())
}

// IsEcho reports whether a tuple is that of an echo request or reply.
func IsEcho(t packet.Tuple) bool {
	if t.Proto == packet.ICMP {
		return t.ICMPType == packet.EchoRequest || t.ICMPType == packet.EchoReply
	}
	return t.ICMPType == packet.EchoRequestV6 || t.ICMPType == packet.EchoReplyV6
}

func flagNames(f packet.TCPFlags) string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if f.Has(1 << i) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// ErrorText says what an ICMP or ICMPv6 error message means (RFC 792, RFC
// 1812, RFC 4443), with its type and code.
func ErrorText(t packet.Tuple) string {
	texts := map[[2]uint8]string{
		{3, 0}: "network unreachable", {3, 1}: "host unreachable", {3, 2}: "protocol unreachable",
		{3, 3}: "port unreachable", {3, 4}: "fragmentation needed", {3, 9}: "network administratively prohibited",
		{3, 10}: "host administratively prohibited", {3, 13}: "administratively prohibited",
		{11, 0}: "TTL exceeded", {11, 1}: "reassembly time exceeded",
	}
	if t.Proto == packet.ICMPv6 {
		texts = map[[2]uint8]string{
			{1, 0}: "no route to destination", {1, 1}: "administratively prohibited", {1, 2}: "beyond scope of source address",
			{1, 3}: "address unreachable", {1, 4}: "port unreachable", {1, 5}: "source address failed policy",
			{1, 6}: "reject route to destination", {2, 0}: "packet too big", {3, 0}: "hop limit exceeded",
			{3, 1}: "reassembly time exceeded", {4, 0}: "erroneous header field", {4, 1}: "unrecognised next header",
		}
	}
	text, ok := texts[[2]uint8{t.ICMPType, t.ICMPCode}]
	if !ok {
		return fmt.Sprintf("type %d code %d", t.ICMPType, t.ICMPCode)
	}
	return fmt.Sprintf("%s (type %d code %d)", text, t.ICMPType, t.ICMPCode)
}

// ReportTuple turns a tuple into the report's form.
func ReportTuple(t packet.Tuple) report.Tuple {
	r := report.Tuple{Protocol: t.Proto.String(), Source: t.Source(), Destination: t.Destination()}
	if t.Proto.IsICMP() {
		kind, code := int(t.ICMPType), int(t.ICMPCode)
		r.ICMPType, r.ICMPCode = &kind, &code
		if IsEcho(t) {
			id := int(t.ICMPID)
			r.ICMPID = &id
		}
	}
	return r
}

// Rule turns a rule into the report's form. networks are Docker's on the host that
// it is of.
func Rule(r ruletrace.Rule, networks []engine.Network) *report.Rule {
	said := &report.Rule{
		Backend: string(r.Backend), Family: r.Family, Table: r.Table, Chain: r.Chain,
		Number: r.Number, Handle: r.Handle, Text: r.Text, Comment: r.Comment,
	}
	said.Owner = owner.Of(said, networks)
	return said
}

// Ledger numbers the evidence that statements rest on.
type Ledger struct {
	entries []report.Evidence
	counts  map[string]int
	ids     map[string]string // text of an entry → id: each is listed once
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{counts: make(map[string]int), ids: make(map[string]string)}
}

// Entries are all that was added.
func (l *Ledger) Entries() []report.Evidence { return l.entries }

// Add returns the id of a piece of evidence, which is new unless the same was
// added before. The time is zero where it is not known.
func (l *Ledger) Add(kind, netns string, at time.Time, text string) string {
	key := kind + "\x00" + netns + "\x00" + text
	if id, ok := l.ids[key]; ok {
		return id
	}
	l.counts[kind]++
	id := fmt.Sprintf("%s-%d", kind, l.counts[kind])
	l.ids[key] = id
	l.entries = append(l.entries, report.Evidence{ID: id, Kind: kind, Time: at, NetNS: netns, Text: text})
	return id
}

// Sighting adds a packet that was seen.
func (l *Ledger) Sighting(s *capture.Sighting) string {
	direction := ""
	if s.Direction != 0 {
		direction = s.Direction.String() + " "
	}
	at := ""
	if !s.Time.IsZero() {
		at = " at " + s.Time.UTC().Format("15:04:05.000000000")
	}
	in := ""
	if s.Carrier != nil {
		in = fmt.Sprintf(" in %s %s", tunnelName(&s.Header), s.Carrier.Tuple)
	}
	return l.Add("sighting", s.Point.NetNS, s.Time, fmt.Sprintf("%s %s%s %s ttl %d length %d",
		s.Point, direction, s.Header.Tuple, Describe(&s.Header), s.Header.TTL, s.Length)+in+at)
}

// Hit adds a rule that a packet met.
func (l *Ledger) Hit(h *ruletrace.Hit) string {
	source := "nft trace"
	if h.Legacy {
		source = "iptables TRACE"
	}
	place := fmt.Sprintf("%s %s %s", h.Rule.Family, h.Rule.Table, h.Rule.Chain)
	switch {
	case h.Kind == ruletrace.HitPolicy:
		place += " policy"
	case h.Rule.Handle != 0:
		place += fmt.Sprintf(" handle %d", h.Rule.Handle)
	case h.Rule.Number != 0:
		place += fmt.Sprintf(" rule %d", h.Rule.Number)
	}
	verdict := ""
	if h.Verdict != ruletrace.VerdictUnknown {
		verdict = ", verdict " + string(h.Verdict)
	}
	interfaces := ""
	if h.Ingress != "" {
		interfaces += " in " + h.Ingress
	}
	if h.Egress != "" {
		interfaces += " out " + h.Egress
	}
	rule := "" // a policy has no text
	if h.Rule.Text != "" {
		rule = ": " + h.Rule.Text
	}
	return l.Add("rule", h.NetNS, h.Time, fmt.Sprintf("%s: %s: %s %s%s%s%s", source, place, h.Header.Tuple, Describe(&h.Header), interfaces, rule, verdict))
}

// Event adds what conntrack said.
func (l *Ledger) Event(e *nat.Event) string {
	at := e.Time
	if at.IsZero() {
		at = e.Received
	}
	unreplied := ""
	if !e.Flow.Status.Has(nat.StatusSeenReply) {
		unreplied = " [UNREPLIED]"
	}
	return l.Add("conntrack", e.Flow.NetNS, at, fmt.Sprintf("[%s] %s%s%s%s id=%d", e.Kind, e.Flow.Original.Proto,
		conntrackTuple(e.Flow.Original), unreplied, conntrackTuple(e.Flow.Reply), e.Flow.ID))
}

// conntrackTuple prints a tuple as conntrack -E does.
func conntrackTuple(t packet.Tuple) string {
	text := fmt.Sprintf(" src=%s dst=%s", t.Src, t.Dst)
	if t.Proto.IsICMP() {
		return text + fmt.Sprintf(" type=%d code=%d id=%d", t.ICMPType, t.ICMPCode, t.ICMPID)
	}
	if t.SrcPort != 0 || t.DstPort != 0 {
		text += fmt.Sprintf(" sport=%d dport=%d", t.SrcPort, t.DstPort)
	}
	return text
}
