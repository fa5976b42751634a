package nat

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/textlog"
	"github.com/pathtrace/pathtrace/packet"
)

// eventWords are how conntrack -E begins its lines.
var eventWords = []struct {
	word string
	kind EventKind
}{{"[NEW] ", New}, {"[UPDATE] ", Update}, {"[DESTROY] ", Destroy}}

// parseLogLine reads a line about a flow:
//
//	[1795672052.752264] [NEW] ipv4 2 tcp 6 120 SYN_SENT src=10.1.0.2 dst=… sport=… dport=…
//	[UNREPLIED] src=… dst=… sport=… dport=… mark=0 use=1 id=3185271552
//
// in one line, where what is known stands in this order and the rest is left
// out. The kernel's own list is the same but for zone-orig= and zone-reply=,
// which the tool calls orig-zone= and reply-zone=.
func parseLogLine(text string) (Event, bool, error) {
	event := Event{Kind: Existing}
	prefix, body := "", text
	for _, e := range eventWords {
		if before, after, found := strings.Cut(text, e.word); found {
			event.Kind, prefix, body = e.kind, before, after
			break
		}
	}
	words := strings.Fields(body)
	first := 0
	for first < len(words) && !strings.HasPrefix(words[first], "src=") {
		if strings.HasPrefix(words[first], "proto=") || strings.HasPrefix(words[first], "l3proto") {
			return Event{}, false, errExpectation
		}
		first++
	}
	if first == len(words) {
		if event.Kind == Existing && isRemark(words) {
			return Event{}, false, nil
		}
		return Event{}, false, errors.New("no flow")
	}
	line := logLine{flow: &event.Flow}
	start, err := line.protocol(words[:first])
	if err != nil {
		return Event{}, false, err
	}
	if event.Kind == Existing {
		prefix = strings.Join(words[:start], " ")
	}
	event.Received = textlog.StampOf(prefix).Wall
	for _, word := range words[first:] {
		if err := line.word(word); err != nil {
			return Event{}, false, err
		}
	}
	if line.tuples != 2 {
		return Event{}, false, errors.New("a flow without a reply tuple")
	}
	if err := event.finish(line.unreplied); err != nil {
		return Event{}, false, err
	}
	return event, true, nil
}

// isRemark reports whether a line is about no flow: an empty one, the tool's
// count of entries, the frame around entries in XML.
func isRemark(words []string) bool {
	if len(words) == 0 {
		return true
	}
	switch words[0] {
	case "conntrack":
		return len(words) > 1 && strings.HasPrefix(words[1], "v")
	case "<?xml", "<conntrack>", "</conntrack>":
		return true
	}
	return false
}

// logLine is a line that is being read.
type logLine struct {
	flow      *Flow
	tuples    int  // how many have begun
	code      bool // the last word was code=: what follows is the ICMP id
	unreplied bool
}

// protocol reads what stands before the first tuple, from its end: the state of
// the protocol, if it has one, the timeout, unless the flow is offloaded or an
// old kernel destroyed it, the protocol's number and its name. It returns where
// these words begin.
func (l *logLine) protocol(words []string) (start int, err error) {
	at := len(words) - 1
	state := ""
	if at >= 0 && !isNumber(words[at]) {
		state = words[at]
		at--
	}
	last := at
	for at >= 0 && last-at < 2 && isNumber(words[at]) {
		at--
	}
	if at < 0 || last == at || isNumber(words[at]) {
		return 0, errors.New("no protocol before the first tuple")
	}
	number, err := strconv.ParseUint(words[at+1], 10, 8)
	if err != nil {
		return 0, errors.New("no number of a protocol")
	}
	l.flow.Original.Proto = packet.Proto(number)
	l.flow.Reply.Proto = packet.Proto(number)
	if last-at == 2 {
		seconds, err := strconv.ParseUint(words[last], 10, 32)
		if err != nil {
			return 0, errors.New("the timeout is too long")
		}
		l.flow.Timeout = time.Duration(seconds) * time.Second
	}
	if l.flow.Original.Proto == packet.TCP {
		l.flow.TCPState = state
	}
	if at >= 2 && (words[at-2] == "ipv4" || words[at-2] == "ipv6") {
		at -= 2
	}
	return at, nil
}

func isNumber(word string) bool {
	return word != "" && strings.Trim(word, "0123456789") == ""
}

// word reads one word of the tuples and of what follows them. Words that are not
// known are no error: new versions have new ones.
func (l *logLine) word(word string) error {
	code := l.code
	l.code = false
	key, value, found := strings.Cut(word, "=")
	if !found {
		switch word {
		case "[UNREPLIED]":
			l.unreplied = true
		case "[ASSURED]":
			l.flow.Status |= StatusAssured
		}
		return nil
	}
	if key == "mask-src" || key == "master-src" {
		return errExpectation
	}
	if key == "src" {
		l.tuples++
	}
	tuple := &l.flow.Original
	switch l.tuples {
	case 1:
	case 2:
		tuple = &l.flow.Reply
	default:
		return errors.New("more than two tuples")
	}
	var err error
	switch key {
	case "src":
		tuple.Src, err = logAddress(value)
	case "dst":
		tuple.Dst, err = logAddress(value)
	case "sport", "srckey": // GRE's keys stand where others have ports
		tuple.SrcPort, err = logNumber[uint16](value)
	case "dport", "dstkey":
		tuple.DstPort, err = logNumber[uint16](value)
	case "type":
		tuple.ICMPType, err = logNumber[uint8](value)
	case "code":
		tuple.ICMPCode, err = logNumber[uint8](value)
		l.code = true
	case "id":
		if code {
			tuple.ICMPID, err = logNumber[uint16](value)
		} else {
			l.flow.ID, err = logNumber[uint32](value)
		}
	case "mark":
		l.flow.Mark, err = logNumber[uint32](value)
	case "zone", "zone-orig", "zone-reply", "orig-zone", "reply-zone":
		var zone uint16
		zone, err = logNumber[uint16](value)
		l.flow.Zone = max(l.flow.Zone, zone)
	}
	if err != nil {
		return errors.New(key + " is not understood")
	}
	return nil
}

// logNumber reads a decimal number, or a hexadecimal one with 0x before it.
func logNumber[T uint8 | uint16 | uint32](text string) (T, error) {
	n, err := strconv.ParseUint(text, 0, 32)
	if err == nil && uint64(T(n)) != n {
		err = strconv.ErrRange
	}
	return T(n), err
}

// logAddress reads an address as tuples have it: without a zone, IPv4 as such.
func logAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errors.New("no address")
	}
	return a.Unmap(), nil
}

// finish checks an event that was read and sets the bits that follow from it.
func (e *Event) finish(unreplied bool) error {
	for _, t := range []packet.Tuple{e.Flow.Original, e.Flow.Reply} {
		if !t.Src.IsValid() || !t.Dst.IsValid() {
			return errors.New("a tuple without addresses")
		}
		if t.Src.Is4() != t.Dst.Is4() || t.Src.Is4() != e.Flow.Original.Src.Is4() {
			return errors.New("tuples of two address families")
		}
	}
	e.Flow.Status |= StatusConfirmed
	if !unreplied {
		e.Flow.Status |= StatusSeenReply
	}
	if e.Kind == Destroy {
		e.Flow.Status |= StatusDying
	}
	for _, t := range e.Flow.Translations() {
		if t.Field == Source {
			e.Flow.Status |= StatusSrcNAT
		} else {
			e.Flow.Status |= StatusDstNAT
		}
	}
	return nil
}
