package traffic

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	dnsPort = 53
	// maxHosts is how many addresses are remembered with the name that they were
	// asked by, maxAnswers how many records of one message are read.
	maxHosts   = 4096
	maxAnswers = 64
)

// Host is the name by which the source asked for an address before; empty when it
// asked for none, as far as that was seen.
func (t *Table) Host(a netip.Addr) string { return t.hosts[a] }

// resolve reads a DNS message that was seen at the source: what a flow asks for,
// and which addresses a name has.
func (t *Table) resolve(f *Flow, s *capture.Sighting) {
	h := &s.Header
	if h.Tuple.Proto != packet.UDP || h.Tuple.SrcPort != dnsPort && h.Tuple.DstPort != dnsPort {
		return
	}
	start := packet.HeaderLength(s.Link, s.Frame)
	if start >= len(s.Frame) {
		return
	}
	var p dnsmessage.Parser
	header, err := p.Start(s.Frame[start:])
	if err != nil {
		return
	}
	question, err := p.Question()
	if err != nil {
		return
	}
	name := strings.TrimSuffix(question.Name.String(), ".")
	if f.Question == "" {
		f.Question = name + " " + strings.TrimPrefix(question.Type.String(), "Type")
	}
	if !header.Response || p.SkipAllQuestions() != nil {
		return
	}
	if f.Answer == "" && header.RCode != dnsmessage.RCodeSuccess {
		f.Answer = strings.TrimPrefix(header.RCode.String(), "RCode")
	}
	for range maxAnswers {
		r, err := p.Answer()
		if err != nil {
			return // no more, or cut by the snaplen
		}
		var a netip.Addr
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			a = netip.AddrFrom4(body.A)
		case *dnsmessage.AAAAResource:
			a = netip.AddrFrom16(body.AAAA)
		default:
			continue
		}
		if len(t.hosts) < maxHosts {
			t.hosts[a] = name
		}
	}
}
