package ruletrace

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// monitoredRule is what xtables-monitor prints behind "TRACE: ":
//
//	2 45c392d6 filter:FORWARD:rule:0x5:JUMP:user  -4 -t filter -A FORWARD -j user
//	2 45c392d6 filter:FORWARD:policy:ACCEPT
//	2 45c392d6 filter:user:return:
var monitoredRule = regexp.MustCompile(`^(\d+) ([0-9a-f]{8}) ([^: ]+):([^ ]+?):(?:rule:0x([0-9a-f]+)|(policy)|(return)):(\S*)\s*(.*)$`)

// monitored reads a line about a rule.
func (t *traceReader) monitored(m []string) error {
	number, err := strconv.ParseUint(m[1], 10, 8)
	family := familyName(uint8(number))
	id, idErr := strconv.ParseUint(m[2], 16, 32)
	if err != nil || family == "" || idErr != nil {
		return errors.New("no family")
	}
	if strings.HasPrefix(m[3], tablePrefix) {
		return nil
	}
	ofTables := (family == "ip" || family == "ip6") && legacyHooks(m[3]) != nil
	base := ofTables && savedHook(m[3], m[4]) != ""
	p := t.pass(uint32(id), family, m[3], m[4], base)
	hit := p.hit
	hit.TraceID = uint32(id)
	hit.Rule = Rule{Backend: NFT, Family: family, Table: m[3], Chain: m[4]}
	if ofTables {
		hit.Rule.Backend = IPTablesNFT
	}
	hit.Verdict, hit.Target = monitoredVerdict(m[8])
	switch {
	case m[6] != "":
		hit.Kind = HitPolicy
	case m[7] != "":
		if hit.Base == m[4] {
			return nil // the policy follows
		}
		hit.Kind, hit.Verdict = HitReturn, Return
	default:
		hit.Kind = HitRule
		if hit.Rule.Handle, err = strconv.ParseUint(m[5], 16, 64); err != nil {
			return errors.New("no handle")
		}
		// Of rules that are not iptables' own it prints something all the same.
		if _, text, found := strings.Cut(m[9], "-t "+m[3]+" "); found && ofTables {
			hit.Rule.Text, hit.Rule.Comment = text, savedComment(text)
		}
	}
	hookByName(&hit)
	t.add(hit)
	return nil
}

// hookByName fills in the hook of a hit in a table of iptables: its base chains are
// called as their hooks.
func hookByName(hit *Hit) {
	if hit.Rule.Family != "ip" && hit.Rule.Family != "ip6" {
		return
	}
	if hook := savedHook(hit.Rule.Table, hit.Base); hook != "" {
		hit.Hook = hook
		hit.ChainType, hit.Priority = legacyChain(hit.Rule.Table, hook)
	}
}

// monitoredVerdict reads "ACCEPT", "JUMP:chain", and a number for what the tool
// has no word for.
func monitoredVerdict(text string) (verdict Verdict, target string) {
	text, target, _ = strings.Cut(text, ":")
	switch text {
	case "ACCEPT":
		return Accept, ""
	case "DROP":
		return Drop, ""
	case "QUEUE":
		return Queue, ""
	case "STOLEN":
		return Stolen, ""
	case "CONTINUE", "BREAK":
		return Continue, ""
	case "JUMP":
		return Jump, target
	case "GOTO":
		return Goto, target
	}
	if code, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32); err == nil && strings.HasPrefix(text, "0x") {
		return verdictOf(int32(code)), ""
	}
	return VerdictUnknown, ""
}

// monitoredPacket reads a packet:
//
//	2 45c392d6 IN=in OUT=out MACSRC=… MACDST=… MACPROTO=0800 SRC=10.1.0.2 DST=192.0.2.2 LEN=60 TOS=0x0 TTL=63 ID=49841 DF SPORT=60044 DPORT=1234 SYN
//
// It stands before the lines about rules of a base chain. Old versions print it
// behind the first of them, and 0 in place of the family.
func (t *traceReader) monitoredPacket(text string) error {
	words := strings.Fields(text)
	if len(words) < 3 {
		return errors.New("no packet")
	}
	number, err := strconv.ParseUint(words[0], 10, 8)
	id, idErr := strconv.ParseUint(words[1], 16, 32)
	if err != nil || idErr != nil || number != 0 && familyName(uint8(number)) == "" {
		return errors.New("no family and trace id")
	}
	var hit Hit
	p, err := readMonitored(words[2:], &hit, familyName(uint8(number)) == "bridge")
	if err != nil {
		return err
	}
	hit.Header = p.header()
	if number != 0 {
		t.passes.put(uint32(id), &pass{family: uint8(number), hit: hit})
		return nil
	}
	before, ok := t.passes.get(uint32(id))
	if !ok || before.hit.Header.Version != 0 || len(t.log.Hits) == 0 {
		return errors.New("a packet without a rule before it")
	}
	hit.Base = before.hit.Base
	before.hit = hit
	if last := &t.log.Hits[len(t.log.Hits)-1]; last.TraceID == uint32(id) && last.Header.Version == 0 {
		last.Ingress, last.Egress, last.Mark, last.Header = hit.Ingress, hit.Egress, hit.Mark, hit.Header
	}
	return nil
}

// readMonitored reads the words about a packet. The tool does not print the
// protocol: ports with flags are TCP's; without they are UDP's, or, rarely,
// SCTP's or DCCP's, which then finds no packet that is like it. Of others nothing
// is known.
func readMonitored(words []string, hit *Hit, bridge bool) (*told, error) {
	l := logged{p: told{proto: unknownProto}, hit: hit}
	p := &l.p
	for len(words) > 0 && l.err == nil {
		key, value, _ := strings.Cut(words[0], "=")
		switch key {
		case "MACSRC":
			p.etherSource, _ = hardwareAddr(value)
		case "MACDST":
			p.etherTarget, _ = hardwareAddr(value)
		case "MACPROTO":
			p.etherType = uint16(l.number(value, 16, 16))
		case "SPORT":
			p.ports, p.sourcePort = true, uint16(l.number(value, 10, 16))
			p.proto = int(packet.UDP)
		case "DPORT":
			p.targetPort = uint16(l.number(value, 10, 16))
		default:
			if flag := tcpFlags[key]; flag != 0 && p.ports {
				p.proto, p.flags = int(packet.TCP), p.flags|flag
				break
			}
			words = l.word(words)
			continue
		}
		words = words[1:]
	}
	if hit.Egress != "" && !bridge {
		p.etherSource, p.etherTarget, p.etherType = packet.HardwareAddr{}, packet.HardwareAddr{}, 0
	}
	if p.src.Is6() {
		l.length += 20 // it adds the length of an IPv4 header to IPv6's, too
	}
	return l.finish()
}

// pass returns what hits of one packet in one base chain share. The first line
// behind the packet is about its base chain. Of a packet that was not told, or is
// told late, nothing else is known.
func (t *traceReader) pass(id uint32, family, table, chain string, base bool) *pass {
	number := familyNumber(family)
	p, ok := t.passes.get(id)
	switch {
	case ok && p.table == "" && p.family == number:
		p.table, p.hit.Base = table, chain
	case !ok || p.family != number || p.table != table || base && p.hit.Base != chain:
		p = &pass{family: number, table: table}
		if base {
			p.hit.Base = chain
		}
		t.passes.put(id, p)
	}
	return p
}
