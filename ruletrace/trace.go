package ruletrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"

	"github.com/pathtrace/pathtrace/packet"
)

// TraceGroup is the multicast group of nftables' trace messages
// (NFNLGRP_NFTRACE) on a NETLINK_NETFILTER socket.
const TraceGroup = 9

// traceMessage is the type of a trace message: NFNL_SUBSYS_NFTABLES and
// NFT_MSG_TRACE.
const traceMessage netlink.HeaderType = 10<<8 | 0x11

// tablePrefix starts the name of every table that an Arming adds.
const tablePrefix = "pathtrace-"

// The attributes of a trace message, enum nft_trace_attributes of include/uapi/
// linux/netfilter/nf_tables.h. All numbers are big-endian.
const (
	attrTable           = 1
	attrChain           = 2
	attrRuleHandle      = 3
	attrType            = 4
	attrVerdict         = 5
	attrID              = 6
	attrLinkHeader      = 7
	attrNetworkHeader   = 8
	attrTransportHeader = 9
	attrIngress         = 10
	attrIngressType     = 11
	attrEgress          = 12
	attrMark            = 14 // not told when it is 0
	attrPolicy          = 16
	attrConntrackID     = 18 // these four since Linux 6.15
	attrDirection       = 19
	attrState           = 21

	verdictCode  = 1 // NFTA_VERDICT_CODE
	verdictChain = 2 // NFTA_VERDICT_CHAIN

	typePolicy = 1 // NFT_TRACETYPE_POLICY
)

// A TraceDecoder turns nftables' trace messages into hits. It belongs to one
// socket of one namespace and is not safe for concurrent use.
//
// The kernel sends a packet's headers, interfaces and conntrack entry once for
// each base chain, with the first message there. The decoder repeats them in
// the later hits of that packet in that chain.
type TraceDecoder struct {
	netns  string
	ifname func(index uint32) string
	// passes are the packets in a base chain, by trace id.
	passes recent[uint32, *pass]
}

// pass is one packet in one base chain.
type pass struct {
	family uint8
	table  string
	hit    Hit // what all hits of the pass share
}

// NewTraceDecoder returns a decoder. netns is the namespace's name as reports
// print it; ifname turns an interface index of the namespace into its name,
// and may return "" for one it does not know. A nil ifname leaves the names
// out.
func NewTraceDecoder(netns string, ifname func(index uint32) string) *TraceDecoder {
	if ifname == nil {
		ifname = func(uint32) string { return "" }
	}
	return &TraceDecoder{netns: netns, ifname: ifname}
}

// IsTrace reports whether a message of a NETLINK_NETFILTER socket is one of
// nftables' trace.
func IsTrace(m netlink.Message) bool { return m.Header.Type == traceMessage }

// message is a trace message taken apart.
type message struct {
	family                   uint8
	table, chain             string
	handle                   uint64
	kind                     uint32
	verdict                  Verdict
	target                   string
	policy                   Verdict
	id                       uint32
	link, network, transport []byte
	ingress, egress          uint32
	mark                     uint32
	ethernet                 bool
	conntrackID              uint32
	reply                    bool
	state                    uint32
	hasState                 bool
}

// Decode decodes one message, the socket's seq-th. The bool is false when it is
// no trace message, one about an arming table (of this run or another), or the
// end of a base chain, which its policy's message repeats.
// What an error is about is one message only; the next can be decoded.
func (d *TraceDecoder) Decode(m netlink.Message, seq uint64) (Hit, bool, error) {
	if !IsTrace(m) {
		return Hit{}, false, nil
	}
	msg, err := parseTrace(m.Data)
	if err != nil {
		return Hit{}, false, fmt.Errorf("decode nftables trace message: %w", err)
	}
	if strings.HasPrefix(msg.table, tablePrefix) {
		return Hit{}, false, nil
	}
	p := d.pass(msg)
	atEnd := msg.handle == 0 && msg.kind != typePolicy
	if atEnd && msg.chain == p.hit.Base {
		return Hit{}, false, nil // the policy follows
	}
	hit := p.hit
	hit.NetNS, hit.Seq, hit.TraceID, hit.Mark = d.netns, seq, msg.id, msg.mark
	hit.Rule = Rule{Backend: NFT, Family: familyName(msg.family), Table: msg.table, Chain: msg.chain, Handle: msg.handle}
	switch {
	case msg.kind == typePolicy:
		hit.Kind, hit.Verdict = HitPolicy, msg.policy
	case atEnd:
		// The end of a chain comes with the type of a rule, and no handle.
		hit.Kind, hit.Verdict = HitReturn, Return
	default:
		hit.Kind, hit.Verdict, hit.Target = HitRule, msg.verdict, msg.target
	}
	return hit, true, nil
}

// pass returns what the hits of one packet in one base chain share.
func (d *TraceDecoder) pass(msg message) *pass {
	if msg.network == nil && msg.link == nil {
		p, ok := d.passes.get(msg.id)
		if !ok || p.family != msg.family || p.table != msg.table {
			return &pass{} // its first message was lost
		}
		return p
	}
	p := &pass{family: msg.family, table: msg.table}
	p.hit.Base = msg.chain
	p.hit.Ingress, p.hit.Egress = d.name(msg.ingress), d.name(msg.egress)
	p.hit.Header = msg.header()
	p.hit.ConntrackID, p.hit.Reply = msg.conntrackID, msg.reply
	if msg.hasState {
		p.hit.State = stateName(msg.state)
	}
	d.passes.put(msg.id, p)
	return p
}

func (d *TraceDecoder) name(index uint32) string {
	if index == 0 {
		return ""
	}
	return d.ifname(index)
}

// stateName names the bit of NF_CT_STATE_BIT, as nft does.
func stateName(bits uint32) string {
	switch {
	case bits&(1<<0) != 0:
		return "invalid"
	case bits&(1<<1) != 0:
		return "established"
	case bits&(1<<2) != 0:
		return "related"
	case bits&(1<<3) != 0:
		return "new"
	case bits&(1<<6) != 0:
		return "untracked"
	}
	return ""
}

func parseTrace(data []byte) (message, error) {
	if len(data) < 4 {
		return message{}, errors.New("shorter than its header")
	}
	msg := message{family: data[0]}
	d, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return message{}, err
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case attrTable:
			msg.table = d.String()
		case attrChain:
			msg.chain = d.String()
		case attrRuleHandle:
			msg.handle = d.Uint64()
		case attrType:
			msg.kind = d.Uint32()
		case attrVerdict:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				n.ByteOrder = binary.BigEndian
				for n.Next() {
					switch n.Type() {
					case verdictCode:
						msg.verdict = verdictOf(int32(n.Uint32()))
					case verdictChain:
						msg.target = n.String()
					}
				}
				return nil
			})
		case attrPolicy:
			msg.policy = verdictOf(int32(d.Uint32()))
		case attrID:
			msg.id = d.Uint32()
		case attrLinkHeader:
			msg.link = d.Bytes()
		case attrNetworkHeader:
			msg.network = d.Bytes()
		case attrTransportHeader:
			msg.transport = d.Bytes()
		case attrIngress:
			msg.ingress = d.Uint32()
		case attrIngressType:
			msg.ethernet = d.Uint16() == 1 // ARPHRD_ETHER
		case attrEgress:
			msg.egress = d.Uint32()
		case attrMark:
			msg.mark = d.Uint32()
		case attrConntrackID:
			msg.conntrackID = d.Uint32()
		case attrDirection:
			msg.reply = d.Uint8() == 1 // IP_CT_DIR_REPLY
		case attrState:
			msg.state, msg.hasState = d.Uint32(), true
		}
	}
	if err := d.Err(); err != nil {
		return message{}, err
	}
	if msg.table == "" || msg.chain == "" {
		return message{}, errors.New("no table or chain")
	}
	return msg, nil
}

// header decodes the packet from the three pieces that the kernel tells: the
// link header, up to 40 bytes of network header and up to 20 of transport
// header.
func (m *message) header() packet.Header {
	var etherType uint16
	var h packet.Header
	if m.ethernet && len(m.link) >= 14 {
		etherType = binary.BigEndian.Uint16(m.link[12:])
		// A forwarded packet still has the header that it came in with: it is
		// this packet's only where there is no egress yet, and on a bridge.
		if m.egress == 0 || m.family == protoBridge {
			copy(h.EtherDst[:], m.link)
			copy(h.EtherSrc[:], m.link[6:])
			h.EtherType = etherType
		}
		if etherType == 0x8100 && len(m.link) >= 18 {
			h.VLANs = []uint16{binary.BigEndian.Uint16(m.link[14:]) & 0x0fff}
			etherType = binary.BigEndian.Uint16(m.link[16:])
			h.EtherType = etherType
		}
	}
	switch m.family {
	case protoIPv4:
		etherType = packet.EtherTypeIPv4
	case protoIPv6:
		etherType = packet.EtherTypeIPv6
	case protoARP:
		etherType = packet.EtherTypeARP
	case protoINet:
		etherType = 0 // the IP version tells
	case protoBridge, protoNetdev:
		if m.family == protoNetdev && len(m.link) == 0 {
			break // on the way out the kernel tells no link header; the IP version tells
		}
		if etherType != packet.EtherTypeIPv4 && etherType != packet.EtherTypeIPv6 && etherType != packet.EtherTypeARP {
			return h
		}
	}
	data := m.network
	switch {
	case len(data) == 0:
		return h
	case etherType == packet.EtherTypeARP:
	case data[0]>>4 == 4:
		// Options beyond 40 bytes are missing: No-Operation (1) in their place.
		data = append([]byte(nil), data...)
		for length := int(data[0]&0x0f) * 4; len(data) < length; {
			data = append(data, 1)
		}
		data = append(data, m.transport...)
	case data[0]>>4 == 6 && len(data) >= 40 && !isExtension(data[6]):
		data = append(data[:40:40], m.transport...)
	}
	// What cannot be decoded, or only in part, is what the packet is: a rule
	// was hit all the same.
	decoded, _ := packet.DecodeNetwork(etherType, data, len(data))
	decoded.EtherSrc, decoded.EtherDst, decoded.VLANs = h.EtherSrc, h.EtherDst, h.VLANs
	if h.EtherType != 0 {
		decoded.EtherType = h.EtherType
	}
	return decoded
}

// isExtension reports whether an IPv6 next header is an extension header. The
// kernel leaves those out between the two pieces, and with them the protocol.
func isExtension(next byte) bool {
	switch next {
	case 0, 43, 44, 51, 60, 135:
		return true
	}
	return false
}
