package ruletrace

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// kernel reads what the kernel logs about a packet that has the trace bit
// (net/netfilter/nf_log_syslog.c):
//
//	filter:FORWARD:rule:2 IN=virbr0 OUT=bond0 MAC=… SRC=192.168.122.17 DST=10.44.32.217 LEN=60 … SYN URGP=0
func (t *traceReader) kernel(text string) error {
	prefix, rest, found := strings.Cut(text, " ")
	trace, ok := parseTracePrefix("TRACE: " + prefix)
	if !found || !ok {
		return errors.New("no table, chain and number")
	}
	hit := Hit{Kind: trace.kind, Legacy: true}
	p, err := readLogged(strings.Fields(rest), &hit)
	if err != nil {
		return err
	}
	hit.Header = p.header()
	hit.Rule = Rule{Backend: IPTablesLegacy, Family: "ip", Table: trace.table, Chain: trace.chain, Number: trace.number}
	if p.src.Is6() {
		hit.Rule.Family = "ip6"
	}
	t.place(&hit)
	t.add(hit)
	return nil
}

// frame reads what a rule of ebtables logs with the prefix "TRACE: eb:table:chain "
// (net/bridge/netfilter/ebt_log.c): which chain, which ports of the bridge, which
// addresses. No number of a rule, no verdict; and no length, so that the packet
// cannot be compared with others: only its addresses are kept.
//
//	filter:FORWARD IN=veth1 OUT=veth2 MAC source = 02:… MAC dest = 02:… proto = 0x0800 IP SRC=192.168.0.2 IP DST=192.168.0.3, IP tos=0x00, IP proto=1
func (t *traceReader) frame(text string) error {
	prefix, rest, _ := strings.Cut(text, " ")
	table, chain, found := strings.Cut(prefix, ":")
	if !found || table == "" || chain == "" {
		return errors.New("no table and chain")
	}
	hit := Hit{Kind: HitRule, Rule: Rule{Family: "bridge", Table: table, Chain: chain}, Header: packet.Header{HeaderCut: true, PayloadCut: true}}
	h := &hit.Header
	words := strings.Fields(rest)
	for i, word := range words {
		value := ""
		if i+2 < len(words) && words[i+1] == "=" {
			value = words[i+2]
		}
		switch word {
		case "source":
			h.EtherSrc, _ = hardwareAddr(value)
		case "dest":
			h.EtherDst, _ = hardwareAddr(value)
		case "proto":
			number, _ := strconv.ParseUint(value, 0, 16)
			h.EtherType = uint16(number)
		}
		key, value, _ := strings.Cut(strings.TrimRight(word, ","), "=")
		switch key {
		case "IN":
			hit.Ingress = value
		case "OUT":
			hit.Egress = value
		case "SRC", "DST":
			a, err := loggedAddr(value)
			if err != nil {
				continue // of ARP, whose addresses are not these
			}
			h.Version = 4
			if a.Is6() {
				h.Version = 6
			}
			if key == "SRC" {
				h.Tuple.Src = a
			} else {
				h.Tuple.Dst = a
			}
		}
	}
	if hit.Ingress == "" && hit.Egress == "" {
		return errors.New("no interface")
	}
	switch chain {
	case "BROUTING", "PREROUTING":
		hit.Hook = Prerouting
	case "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		hit.Hook = Hook(strings.ToLower(chain))
	}
	if hit.Hook != "" {
		hit.Base = chain
	}
	t.add(hit)
	return nil
}

// readLogged reads the words about a packet. What belongs to its way is put into
// the hit.
func readLogged(words []string, hit *Hit) (*told, error) {
	l := logged{p: told{proto: unknownProto}, hit: hit}
	for len(words) > 0 && l.err == nil {
		words = l.word(words)
	}
	return l.finish()
}

// logged is a packet whose words are being read.
type logged struct {
	p told
	// hit is nil for the packet that an ICMP error quotes.
	hit *Hit
	// length is as logged: IPv6's is that of the whole packet, too.
	length    int
	transport bool // PROTO= has been read
	id, seq   uint16
	echo      bool
	mtu       uint16
	err       error
}

// word reads the first of the words and returns those behind it.
func (l *logged) word(words []string) []string {
	word, rest := words[0], words[1:]
	key, value, found := strings.Cut(word, "=")
	switch {
	case strings.HasPrefix(word, "[SRC="):
		return l.quote(words)
	case word == "OPT":
		return l.options(rest)
	case word == "INCOMPLETE" && len(rest) > 1 && strings.HasPrefix(rest[0], "["):
		return rest[2:] // [N bytes]
	case strings.HasPrefix(word, "FRAG:"):
		l.fragment(word[len("FRAG:"):])
	case strings.HasPrefix(word, "ID:"):
		l.p.id = uint32(l.number(word[len("ID:"):], 16, 32))
	case !found:
		l.flag(word)
	case !l.transport:
		l.network(key, value)
	default:
		l.upper(key, value)
	}
	return rest
}

// network reads a word before PROTO=.
func (l *logged) network(key, value string) {
	p := &l.p
	switch key {
	case "SRC":
		p.src = l.addr(value)
	case "DST":
		p.dst = l.addr(value)
	case "LEN":
		l.length = int(l.number(value, 10, 17))
	case "TTL", "HOPLIMIT":
		p.ttl = uint8(l.number(value, 10, 8))
	case "FLOWLBL":
		p.flowLabel = uint32(l.number(value, 10, 20))
	case "ID":
		// An old xtables-monitor leaves no space behind it: "ID=38349DF".
		digits := strings.TrimRight(value, "CDEFM")
		p.id = uint32(l.number(digits, 10, 16))
		p.df = p.df || strings.Contains(value[len(digits):], "DF")
		p.mf = p.mf || strings.Contains(value[len(digits):], "MF")
	case "PROTO":
		l.transport = true
		p.proto = l.proto(value)
	default:
		l.way(key, value)
	}
}

// way reads a word about where the packet is.
func (l *logged) way(key, value string) {
	if l.hit == nil {
		return
	}
	switch key {
	case "IN":
		l.hit.Ingress = value
	case "OUT":
		l.hit.Egress = value
	case "PHYSIN":
		l.hit.BridgePort = value
	case "PHYSOUT":
		l.hit.BridgeOutPort = value
	case "MARK":
		l.hit.Mark = uint32(l.number(value, 0, 32))
	case "MAC":
		l.mac(value)
	}
}

// mac reads the Ethernet header "dst:src:type". A packet that is on its way out
// still has the one that it came in with, which is not its own there.
func (l *logged) mac(value string) {
	header, err := hex.DecodeString(strings.ReplaceAll(value, ":", ""))
	if err != nil || len(header) != 14 || l.hit.Egress != "" {
		return
	}
	l.p.etherTarget, l.p.etherSource = packet.HardwareAddr(header[:6]), packet.HardwareAddr(header[6:12])
	l.p.etherType = uint16(header[12])<<8 | uint16(header[13])
}

// upper reads a word behind PROTO=.
func (l *logged) upper(key, value string) {
	p := &l.p
	switch key {
	case "SPT":
		p.ports, p.sourcePort = true, uint16(l.number(value, 10, 16))
	case "DPT":
		p.targetPort = uint16(l.number(value, 10, 16))
	case "SEQ":
		if packet.Proto(max(p.proto, 0)).IsICMP() {
			l.echo, l.seq = true, uint16(l.number(value, 10, 16))
		} else {
			p.numbers, p.seq = true, uint32(l.number(value, 10, 32))
		}
	case "ACK":
		p.ack = uint32(l.number(value, 10, 32))
	case "WINDOW":
		p.window = uint16(l.number(value, 10, 16))
	case "TYPE":
		p.icmp, p.icmpType = true, uint8(l.number(value, 10, 8))
	case "CODE":
		p.icmpCode = uint8(l.number(value, 10, 8))
	case "ID":
		l.echo, l.id = true, uint16(l.number(value, 10, 16))
	case "MTU":
		l.mtu = uint16(l.number(value, 10, 16))
	default:
		l.way(key, value)
	}
}

// flag reads a word without a value.
func (l *logged) flag(word string) {
	if !l.transport {
		switch word {
		case "DF":
			l.p.df = true
		case "MF", "INCOMPLETE": // the latter in an IPv6 fragment header
			l.p.mf = true
		}
		return
	}
	l.p.flags |= tcpFlags[word]
}

// tcpFlags are the names of TCP's flags, as the kernel prints them.
var tcpFlags = map[string]packet.TCPFlags{
	"FIN": packet.FIN, "SYN": packet.SYN, "RST": packet.RST, "PSH": packet.PSH,
	"ACK": packet.ACK, "URG": packet.URG, "ECE": packet.ECE, "CWR": packet.CWR,
}

// options reads "OPT (020405B4…) ", of TCP or of IPv4. In IPv6 it is "OPT ( … ) "
// around each extension header.
func (l *logged) options(words []string) []string {
	if len(words) == 0 || !strings.HasPrefix(words[0], "(") {
		return words
	}
	if words[0] == "(" {
		if len(words) > 1 && strings.HasPrefix(words[1], "FRAG:") {
			return words[1:]
		}
		l.p.extended = true
		return words[1:]
	}
	options, err := hex.DecodeString(strings.Trim(words[0], "()"))
	switch {
	case err != nil:
		l.err = errors.New("options are no hexadecimal digits")
	case l.transport:
		l.p.tcpOptions = options
	default:
		l.p.options = options
	}
	return words[1:]
}

// fragment reads an offset: in units of eight bytes in IPv4, in bytes in IPv6.
func (l *logged) fragment(text string) {
	l.p.offset = int(l.number(text, 10, 16))
	if l.p.src.Is6() {
		l.p.fragment = true
		return
	}
	l.p.offset = (l.p.offset & 0x1fff) * 8
}

// quote reads "[SRC=… ] ", the packet that an ICMP error is about.
func (l *logged) quote(words []string) []string {
	end := 0
	for end < len(words) && words[end] != "]" {
		end++
	}
	if end == len(words) || l.hit == nil {
		l.err = errors.New("the quoted packet has no end")
		return nil
	}
	words[0] = words[0][1:]
	quoted := logged{p: told{proto: unknownProto}}
	for inner := words[:end]; len(inner) > 0 && quoted.err == nil; {
		inner = quoted.word(inner)
	}
	l.p.quoted, l.err = quoted.finish()
	return words[end+1:]
}

// finish checks the packet.
func (l *logged) finish() (*told, error) {
	p := &l.p
	switch {
	case l.err != nil:
		return nil, l.err
	case !p.src.IsValid() || !p.dst.IsValid() || p.src.Is4() != p.dst.Is4():
		return nil, errors.New("no source and destination")
	}
	p.length = l.length
	if p.src.Is6() {
		p.length = max(l.length-40, 0)
	}
	if p.length > 0xffff {
		return nil, errors.New("the length is too big")
	}
	switch {
	case l.echo:
		p.word, p.wordTold = uint32(l.id)<<16|uint32(l.seq), true
	case p.icmp:
		// ICMP's MTU is 16 bits long, ICMPv6's 32; here it is the lower half.
		h := packet.Header{Tuple: packet.Tuple{Proto: packet.Proto(max(p.proto, 0)), ICMPType: p.icmpType}}
		p.word, p.wordTold = uint32(l.mtu), h.IsICMPError()
	}
	return p, nil
}

// number reads a number of so many bits.
func (l *logged) number(text string, base, bits int) uint64 {
	n, err := strconv.ParseUint(text, base, bits)
	if err != nil && l.err == nil {
		l.err = errors.New("a number is not understood")
	}
	return n
}

func (l *logged) addr(text string) netip.Addr {
	a, err := loggedAddr(text)
	if err != nil && l.err == nil {
		l.err = err
	}
	return a
}

// proto reads the kernel's name of a protocol.
func (l *logged) proto(text string) int {
	switch text {
	case "TCP":
		return int(packet.TCP)
	case "UDP":
		return int(packet.UDP)
	case "UDPLITE":
		return 136
	case "ICMP":
		return int(packet.ICMP)
	case "ICMPv6":
		return int(packet.ICMPv6)
	case "ESP":
		return 50
	case "AH":
		return 51
	}
	return int(l.number(text, 10, 8))
}

// loggedAddr reads an address as tuples have it.
func loggedAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, errors.New("an address is not understood")
	}
	return a, nil
}

// hardwareAddr reads an Ethernet address; ether_ntoa(3) leaves leading zeros out.
func hardwareAddr(text string) (a packet.HardwareAddr, ok bool) {
	parts := strings.Split(text, ":")
	if len(parts) != len(a) {
		return packet.HardwareAddr{}, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 16, 8)
		if err != nil {
			return packet.HardwareAddr{}, false
		}
		a[i] = byte(n)
	}
	return a, true
}
