package ruletrace

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pathtrace/pathtrace/internal/textlog"
	"github.com/pathtrace/pathtrace/packet"
)

// maxLogHits is how many hits of a log are kept, some 100 MB of them. A packet
// makes about twenty.
const maxLogHits = 1 << 17

// Clock says what the times of a log are.
type Clock string

// The clocks.
const (
	// NoClock: the log has no times, or dates without a time zone.
	NoClock Clock = ""
	// BootClock: seconds since the machine was started, in Hit.Uptime.
	BootClock Clock = "boot"
	// WallClock: the time of day, in Hit.Time. It is when the line was written.
	WallClock Clock = "wall"
)

// TraceLog is what a text says about the rules that packets met.
type TraceLog struct {
	// Hits are in the order of the lines, numbered by Seq. NetNS is empty, for the
	// text does not tell it. What only the rules tell is left to Rules.Resolve: of
	// nft's lines the hook of a chain that is not of iptables, of the kernel's the
	// verdict.
	Hits []Hit
	// Clock is the better of those that a line has.
	Clock Clock
	// Lines is how many lines the file has, Skipped how many of them are no trace,
	// as other messages of the kernel, or were not understood.
	Lines, Skipped int
	// Excess is how many hits are not among Hits because there are too many.
	Excess int
	// Problems are about lines that are a trace and were not understood.
	Problems textlog.Problems
}

// ReadTrace reads what traced packets left in a text:
//
//   - lines "TRACE: table:chain:rule:N IN=…" of the kernel, for the iptables target
//     TRACE, as dmesg, the journal or syslog have them; and lines "TRACE: eb:…",
//     by which rules of ebtables that log with such a prefix show where a frame is;
//   - the output of nft monitor trace;
//   - the output of xtables-monitor --trace.
//
// What is not understood is counted, and the rest is read; name is the file's in
// the error that says that nothing was, or that the source failed.
func ReadTrace(name string, r io.Reader) (*TraceLog, error) {
	lines := textlog.NewReader(r)
	looks := lines.Looks()
	t := traceReader{log: &TraceLog{}}
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t.log, fmt.Errorf("read %s: %w", name, err)
		}
		t.log.Lines++
		if err := t.line(line); errors.Is(err, errNoTrace) {
			t.log.Skipped++
		} else if err != nil {
			t.log.Skipped++
			t.log.Problems.Add(line.Number, err.Error()+": "+textlog.Quote(line.Text))
		}
	}
	if t.open != nil {
		t.unfinished(t.log.Lines)
	}
	if len(t.log.Hits) == 0 {
		if looks == "a trace of rules" {
			looks = "" // and yet nothing was understood
		}
		return t.log, textlog.Unusable(name, looks,
			`lines "TRACE: …" of the kernel, or the output of nft monitor trace or xtables-monitor --trace`)
	}
	return t.log, nil
}

// traceReader is a log that is being read.
type traceReader struct {
	log   *TraceLog
	stamp textlog.Stamp // of the line
	// bases are the base chains in which packets are, by what the kernel's lines
	// say of them.
	bases recent[passKey, string]
	// passes are the packets in a base chain of nftables, by trace id.
	passes recent[uint32, *pass]
	// tracked is the last line of nft about connection tracking.
	tracked trackedLine
	// open are the lines so far of a rule of nft that takes several, openBytes
	// their length.
	open      []string
	openBytes int
}

// errNoTrace is a line that is no trace.
var errNoTrace = errors.New("no trace")

// line reads a line. What stands before its own text is its stamp.
func (t *traceReader) line(line textlog.Line) error {
	text := line.Text
	if line.Cut {
		t.open = nil
		return errors.New("the line is too long")
	}
	if t.open != nil && strings.Contains(text, "trace id ") {
		t.unfinished(line.Number - 1)
	}
	if t.open != nil {
		return t.goOn(strings.TrimSpace(text))
	}
	t.stamp = textlog.Stamp{}
	for _, form := range []struct {
		word string
		read func(string) error
	}{
		{"trace id ", t.nftMonitor},
		{"PACKET: ", t.monitoredPacket},
		{"TRACE: ", t.traced},
	} {
		if prefix, rest, found := strings.Cut(text, form.word); found {
			t.stamp = textlog.StampOf(prefix)
			return form.read(rest)
		}
	}
	if strings.TrimSpace(text) == "" {
		return nil
	}
	return errNoTrace
}

// goOn takes a further line of a rule.
func (t *traceReader) goOn(text string) error {
	t.open = append(t.open, text)
	t.openBytes += len(text)
	switch {
	case t.openBytes > textlog.MaxLine:
		t.open = nil
		return errors.New("the rule is too long")
	case !strings.Contains(text, verdictWords):
		return nil
	}
	rule := strings.Join(t.open, " ")
	t.open = nil
	return t.nftMonitor(rule)
}

// unfinished counts a rule that ends in a line without a verdict.
func (t *traceReader) unfinished(number int) {
	t.open = nil
	t.log.Skipped++
	t.log.Problems.Add(number, "the rule has no verdict")
}

// traced reads what follows "TRACE: ", which the kernel and xtables-monitor have.
func (t *traceReader) traced(text string) error {
	if m := monitoredRule.FindStringSubmatch(text); m != nil {
		return t.monitored(m)
	}
	if rest, found := strings.CutPrefix(text, "eb:"); found {
		return t.frame(rest)
	}
	return t.kernel(text)
}

// add keeps a hit, with the time of its line.
func (t *traceReader) add(hit Hit) {
	hit.Time, hit.Uptime = t.stamp.Wall, t.stamp.Uptime
	switch {
	case !hit.Time.IsZero():
		t.log.Clock = WallClock
	case hit.Uptime != 0 && t.log.Clock == NoClock:
		t.log.Clock = BootClock
	}
	if len(t.log.Hits) == maxLogHits {
		if t.log.Excess++; t.log.Excess == 1 {
			t.log.Problems.Add(t.log.Lines, fmt.Sprintf("more than %d hits: this one and what follows is left out", maxLogHits))
		}
		return
	}
	hit.Seq = uint64(len(t.log.Hits) + 1)
	t.log.Hits = append(t.log.Hits, hit)
}

// passKey is what the kernel's lines about one packet in one base chain share.
type passKey struct {
	family, table, ingress, egress string
	tuple                          packet.Tuple
	ttl                            uint8
	icmpSeq                        uint16
	id, seq                        uint32
}

// place fills in the base chain of a hit in a table of iptables: the chain itself
// when it is one of those that hooks call, and otherwise the one in which the
// packet was when it came to the user chain.
func (t *traceReader) place(hit *Hit) {
	h := &hit.Header
	key := passKey{hit.Rule.Family, hit.Rule.Table, hit.Ingress, hit.Egress, h.Tuple, h.TTL, h.ICMPSeq, h.IPID, h.Seq}
	base := hit.Rule.Chain
	if hook := savedHook(hit.Rule.Table, base); hook != "" {
		t.bases.put(key, base)
	} else {
		base, _ = t.bases.get(key)
	}
	if hook := savedHook(hit.Rule.Table, base); hook != "" {
		hit.Base, hit.Hook = base, hook
		hit.ChainType, hit.Priority = legacyChain(hit.Rule.Table, hook)
	}
}
