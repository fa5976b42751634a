package ruletrace

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// trackedLine is a line of nft about connection tracking. It is about the packet
// and the base chain of the lines around it.
type trackedLine struct {
	id            uint32
	family, table string
	chain         string
	conntrackID   uint32
	reply         bool
	state         string
}

// verdictWords begin what nft prints behind a rule.
const verdictWords = " (verdict "

// nftMonitor reads what follows "trace id ", which nft monitor trace prints:
//
//	45c392d6 inet n forw packet: iif "in" oif "out" ether saddr … ip saddr 10.1.0.2 … icmp id 77 icmp sequence 1
//	45c392d6 inet n forw conntrack: ct direction original ct state new ct id 2641368242
//	45c392d6 inet n forw rule jump user (verdict jump user)
//	45c392d6 inet n forw unknown rule handle 5 (verdict jump user)
//	45c392d6 inet n forw policy accept meta mark 0x00000007
//	45c392d6 inet n user verdict return
//
// A rule may take several lines, as it does in a listing.
func (t *traceReader) nftMonitor(text string) error {
	f := strings.SplitN(strings.TrimSpace(text), " ", 5)
	if len(f) < 5 || f[2] == "" || f[3] == "" {
		return errors.New("no family, table and chain")
	}
	number, err := strconv.ParseUint(f[0], 16, 32)
	if err != nil || familyNumber(f[1]) == 0 {
		return errors.New("no trace id and family")
	}
	id, family, table, chain, rest := uint32(number), f[1], f[2], f[3], strings.TrimSpace(f[4])
	if strings.HasPrefix(table, tablePrefix) {
		return nil
	}
	if words, found := strings.CutPrefix(rest, "packet: "); found {
		return t.nftPacket(id, family, table, chain, split(words, quote))
	}
	if words, found := strings.CutPrefix(rest, "conntrack: "); found {
		return t.nftTracked(id, family, table, chain, strings.Fields(words))
	}
	hit := Hit{}
	if p, ok := t.passes.get(id); ok && p.family == familyNumber(family) && p.table == table {
		hit = p.hit
	}
	hit.TraceID = id
	hit.Rule = Rule{Backend: NFT, Family: family, Table: table, Chain: chain}
	word, rest, _ := strings.Cut(rest, " ")
	switch word {
	case "rule", "unknown":
		end := strings.LastIndex(rest, verdictWords)
		if end < 0 || !strings.HasSuffix(rest, ")") {
			t.open, t.openBytes = []string{text}, len(text)
			return nil
		}
		hit.Kind = HitRule
		if hit.Verdict, hit.Target = nftVerdict(strings.TrimSuffix(rest[end+len(verdictWords):], ")")); hit.Verdict == VerdictUnknown {
			return errors.New("the verdict is not understood")
		}
		if word == "rule" {
			hit.Rule.Text = rest[:end]
			hit.Rule.Comment = listedComment(rest[:end])
		} else if hit.Rule.Handle, err = strconv.ParseUint(strings.TrimPrefix(rest[:end], "rule handle "), 10, 64); err != nil {
			return errors.New("no handle")
		}
	case "policy":
		hit.Kind = HitPolicy
		verdict, mark, marked := strings.Cut(rest, "mark ")
		if hit.Verdict, _ = nftVerdict(strings.TrimSuffix(strings.TrimSpace(verdict), " meta")); hit.Verdict == VerdictUnknown {
			return errors.New("the policy is not understood")
		}
		if marked {
			n, _ := strconv.ParseUint(strings.TrimSpace(mark), 0, 32)
			hit.Mark = uint32(n)
		}
	case "verdict", "return":
		if hit.Base == chain {
			return nil // the policy follows
		}
		hit.Kind, hit.Verdict = HitReturn, Return
	default:
		return errors.New("neither packet, rule nor policy")
	}
	hookByName(&hit)
	t.add(hit)
	return nil
}

// nftVerdict reads "accept", "jump chain", "queue to 7".
func nftVerdict(text string) (verdict Verdict, target string) {
	word, rest, _ := strings.Cut(text, " ")
	switch v := Verdict(word); v {
	case Accept, Drop, Continue, Return, Stolen, Queue:
		return v, ""
	case Jump, Goto:
		return v, rest
	}
	if word == "break" {
		return Continue, ""
	}
	return VerdictUnknown, ""
}

// nftTracked reads "ct direction original ct state new ct id 2641368242".
func (t *traceReader) nftTracked(id uint32, family, table, chain string, w []string) error {
	line := trackedLine{id: id, family: family, table: table, chain: chain}
	for i := 0; i+2 < len(w); i += 3 {
		switch w[i+1] {
		case "direction":
			line.reply = w[i+2] == "reply"
		case "state":
			line.state = w[i+2]
		case "id":
			n, err := strconv.ParseUint(w[i+2], 0, 32)
			if err != nil {
				return errors.New("no conntrack id")
			}
			line.conntrackID = uint32(n)
		}
	}
	t.tracked = line
	if p, ok := t.passes.get(id); ok && p.family == familyNumber(family) && p.table == table && p.hit.Base == chain {
		line.tell(&p.hit)
	}
	return nil
}

func (l *trackedLine) tell(hit *Hit) {
	hit.ConntrackID, hit.Reply, hit.State = l.conntrackID, l.reply, l.state
}

// nftPacket reads a packet. It comes with the first message in a base chain. The
// tool prints neither flags nor offset of fragments, so DontFragment is false.
func (t *traceReader) nftPacket(id uint32, family, table, chain string, words []string) error {
	m := monitoredHeader{p: told{proto: unknownProto}}
	for at := 0; at < len(words) && m.err == nil; {
		at += m.selector(words[at:])
	}
	if m.err != nil {
		return m.err
	}
	p := &pass{family: familyNumber(family), table: table}
	p.hit.Base, p.hit.Ingress, p.hit.Egress = chain, m.ingress, m.egress
	p.hit.Header = m.header(family == "bridge")
	if l := &t.tracked; l.id == id && l.family == family && l.table == table && l.chain == chain {
		l.tell(&p.hit)
	}
	t.tracked = trackedLine{}
	t.passes.put(id, p)
	return nil
}

// monitoredHeader is a packet in nft's words that is being read.
type monitoredHeader struct {
	p               told
	ingress, egress string
	err             error
}

// header decodes the packet. Ethernet addresses are this packet's only where there
// is no egress yet, and on a bridge; see message.header.
func (m *monitoredHeader) header(bridge bool) packet.Header {
	p := &m.p
	if m.egress != "" && !bridge {
		p.etherSource, p.etherTarget = packet.HardwareAddr{}, packet.HardwareAddr{}
	}
	if p.src.IsValid() && p.dst.IsValid() && p.src.Is4() == p.dst.Is4() {
		return p.header()
	}
	// ARP, or a frame of which only the Ethernet header was told.
	return packet.Header{
		EtherSrc: p.etherSource, EtherDst: p.etherTarget, EtherType: p.etherType, VLANs: p.vlans,
		HeaderCut: true, PayloadCut: true,
	}
}

// selector reads what begins with the first word, as "ip saddr 10.1.0.2", and
// returns how many words it has. What is not known is stepped over, word by word.
func (m *monitoredHeader) selector(w []string) int {
	value := func(at int) string {
		if at < len(w) {
			return strings.TrimPrefix(w[at], quote)
		}
		return ""
	}
	switch w[0] {
	case "iif":
		m.ingress = value(1)
		return 2
	case "oif":
		m.egress = value(1)
		return 2
	case "ether", "vlan", "ip", "ip6", "tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "arp":
		at := 2
		if value(at) == "==" || value(at) == "!=" {
			at++
		}
		m.field(w[0], value(1), value(at))
		return at + 1
	}
	if bits, found := strings.CutPrefix(w[0], "@th,"); found {
		m.raw(bits, value(1))
		return 2
	}
	return 1
}

// field reads a field of a header.
func (m *monitoredHeader) field(header, field, value string) {
	p := &m.p
	switch header + " " + field {
	case "ether saddr":
		p.etherSource, _ = hardwareAddr(value)
	case "ether daddr":
		p.etherTarget, _ = hardwareAddr(value)
	case "vlan id":
		p.vlans = append(p.vlans, uint16(m.number(value, 16)))
	case "ip saddr", "ip6 saddr":
		p.src = m.addr(value)
	case "ip daddr", "ip6 daddr":
		p.dst = m.addr(value)
	case "ip ttl", "ip6 hoplimit":
		p.ttl = uint8(m.number(value, 8))
	case "ip id":
		p.id = uint32(m.number(value, 16))
	case "ip length", "ip6 length":
		p.length = int(m.number(value, 16))
	case "ip frag-off":
		place := m.number(value, 16)
		p.df, p.mf, p.offset = place>>14&1 != 0, place>>13&1 != 0, int(place&0x1fff)*8
	case "ip6 flowlabel":
		p.flowLabel = uint32(m.number(value, 20))
	case "ip protocol", "ip6 nexthdr":
		p.proto = nftProto(value)
	case "tcp sport", "udp sport", "udplite sport", "sctp sport", "dccp sport":
		p.ports, p.sourcePort = true, uint16(m.number(value, 16))
		p.proto = nftProto(header)
	case "tcp dport", "udp dport", "udplite dport", "sctp dport", "dccp dport":
		p.targetPort = uint16(m.number(value, 16))
	case "tcp flags":
		p.flags = nftFlags(value)
	case "tcp window":
		p.window = uint16(m.number(value, 16))
	default:
		if header == "icmp" || header == "icmpv6" {
			m.message(header, field, value)
		}
	}
}

// message reads a field of an ICMP message. nft names the second word after the
// first field that may be there, whatever the type is.
func (m *monitoredHeader) message(header, field, value string) {
	p := &m.p
	p.proto = nftProto(header)
	switch field {
	case "type":
		p.icmp, p.icmpType = true, m.named(value, icmpTypes[header])
	case "code":
		p.icmpCode = m.named(value, icmpCodes[header])
	case "id":
		p.word, p.wordTold = p.word|uint32(m.number(value, 16))<<16, true
	case "sequence", "mtu":
		p.word, p.wordTold = p.word|uint32(m.number(value, 16)), true
	case "parameter-problem", "packet-too-big", "gateway":
		if n, err := strconv.ParseUint(value, 0, 32); err == nil { // a gateway is an address
			p.word, p.wordTold = uint32(n), true
		}
	}
}

// raw reads "@th,64,96 0x3031…", bits of the transport header that nft has no name
// for; those behind the first 64 are the payload of UDP and ICMP.
func (m *monitoredHeader) raw(bits, value string) {
	offset, length, _ := strings.Cut(bits, ",")
	digits, found := strings.CutPrefix(value, "0x")
	n, err := strconv.ParseUint(length, 10, 12)
	if offset != "64" || !found || err != nil || n%8 != 0 || len(digits) > int(n/4) {
		return
	}
	digits = strings.Repeat("0", int(n/4)-len(digits)) + digits // a number, without leading zeros
	m.p.payload, _ = hex.DecodeString(digits)
}

// number reads a number of so many bits.
func (m *monitoredHeader) number(text string, bits int) uint64 {
	n, err := strconv.ParseUint(text, 0, bits)
	if err != nil && m.err == nil {
		m.err = errors.New("a number is not understood")
	}
	return n
}

// named reads a byte, or one of its names.
func (m *monitoredHeader) named(text string, names map[string]uint8) uint8 {
	if n, ok := names[text]; ok {
		return n
	}
	return uint8(m.number(text, 8))
}

func (m *monitoredHeader) addr(text string) netip.Addr {
	a, err := loggedAddr(text)
	if err != nil && m.err == nil {
		m.err = err
	}
	return a
}

// nftProto is a protocol by name or number.
func nftProto(text string) int {
	if p, ok := protocols[text]; ok {
		return int(p)
	}
	if n, ok := otherProtocols[text]; ok {
		return n
	}
	if n, err := strconv.ParseUint(text, 10, 8); err == nil {
		return int(n)
	}
	return unknownProto
}

// otherProtocols are names of protocols(5) that nft prints of a packet: those of
// extension headers, and of what may be met behind a container.
var otherProtocols = map[string]int{
	"ip": 0, "igmp": 2, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "gre": 47, "esp": 50, "ah": 51,
	"ipv6-nonxt": 59, "ipv6-opts": 60, "udplite": 136,
}

// nftFlags reads TCP's flags: a number, or names with commas between them.
func nftFlags(text string) (flags packet.TCPFlags) {
	if n, err := strconv.ParseUint(text, 0, 8); err == nil {
		return packet.TCPFlags(n)
	}
	for name := range strings.SplitSeq(text, ",") {
		if name == "ecn" {
			name = "ece"
		}
		flags |= tcpFlags[strings.ToUpper(name)]
	}
	return flags
}

// icmpTypes and icmpCodes are nft's names (its src/proto.c and src/datatype.c).
// The names of codes are those of unreachable destinations, which it prints of
// messages of every type.
var (
	icmpTypes = map[string]map[string]uint8{
		"icmp": {
			"echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
			"router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
			"timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16,
			"address-mask-request": 17, "address-mask-reply": 18,
		},
		"icmpv6": {
			"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
			"echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
			"mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134,
			"nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
			"ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143,
		},
	}
	icmpCodes = map[string]map[string]uint8{
		"icmp": {
			"net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3,
			"frag-needed": 4, "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
		},
		"icmpv6": {
			"no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5,
			"reject-route": 6,
		},
	}
)
