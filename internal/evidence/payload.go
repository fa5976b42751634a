package evidence

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// domain is the port of name servers.
const domain = 53

// payload decides what of the packets' payload is kept: what pathtrace itself
// sent, which tells its packets from others, and DNS. The rest belongs to others.
// Of datagrams and echoes, also of those that an ICMP error quotes, the start is
// veiled, because one is known by its payload alone where it has no IPv4 id; of all
// else it is left out.
type payload struct {
	all bool
	// sent begins the data of the run's own pings and datagrams.
	sent [][]byte
	// key is what payload is veiled with. It is saved nowhere.
	key [sha256.Size]byte
	// left counts the packets whose payload was left out or veiled.
	left int
}

func newPayload(all bool) payload {
	p := payload{all: all}
	_, _ = rand.Read(p.key[:]) // never fails
	return p
}

// veil returns as many bytes as there are, of which nobody can tell what they
// were. Payloads that begin alike do so behind the veil, and there they differ from
// the same byte on. A byte that goes on as the two before it did still does so:
// what merely repeats or counts up tells no packet from another
// (packet.Header.Compare), and must not seem to behind the veil.
func (p *payload) veil(data []byte) []byte {
	veiled := make([]byte, len(data))
	hash := sha256.New()
	hash.Write(p.key[:])
	var drawn [sha256.Size]byte
	expected := func(of []byte, i int) byte {
		if i < 2 {
			return 0
		}
		return 2*of[i-1] - of[i-2]
	}
	for i := range data {
		draw := hash.Sum(drawn[:0])
		surprise := data[i] - expected(data, i)
		if i < 2 || surprise != 0 {
			surprise = permuted(surprise, draw)
			if i >= 2 && surprise == 0 {
				surprise = permuted(0, draw) // to none but itself goes what is no surprise
			}
		}
		veiled[i] = expected(veiled, i) + surprise
		hash.Write(data[i : i+1])
	}
	return veiled
}

// permuted is a byte's place in a permutation that the 32 random bytes draw: four
// rounds of a Feistel network whose functions are tables of half bytes.
func permuted(b byte, random []byte) byte {
	left, right := b>>4, b&0xf
	for round := range 4 {
		table := random[round*8 : round*8+8]
		value := table[right/2] >> (right % 2 * 4) & 0xf
		left, right = right, left^value
	}
	return left<<4 | right
}

// keeps reports whether the payload of a packet is kept.
func (p *payload) keeps(h *packet.Header, data []byte) bool {
	switch {
	case p.all || len(data) == 0:
		return true
	case h.IsICMPError():
		return h.Quoted != nil && p.keeps(h.Quoted, data)
	case h.Tuple.Proto == packet.UDP:
		return h.Tuple.SrcPort == domain || h.Tuple.DstPort == domain || p.own(data)
	case h.Tuple.Proto.IsICMP():
		return p.own(data)
	}
	return h.Tuple.Proto == packet.TCP && len(bytes.Trim(data, "\n")) == 0
}

// veils reports whether the start of a packet's payload is kept behind the veil.
func veils(h *packet.Header) bool {
	if h.IsICMPError() {
		return h.Quoted != nil && veils(h.Quoted)
	}
	return h.Tuple.Proto == packet.UDP || h.Tuple.Proto.IsICMP()
}

// own reports whether data, of which less may have been captured, is what the
// run sends.
func (p *payload) own(data []byte) bool {
	return slices.ContainsFunc(p.sent, func(sent []byte) bool {
		n := min(len(data), len(sent))
		return n > 0 && bytes.Equal(data[:n], sent[:n])
	})
}

// kept returns what is kept of a packet's payload, and whether that is all of it.
// Of a datagram of VXLAN the headers inside are kept, and of the rest what would be
// without a tunnel: it is by what is inside that such a packet is known.
func (p *payload) kept(h *packet.Header, data []byte) (kept []byte, all bool) {
	if p.keeps(h, data) {
		return data, true
	}
	if inner, n := carried(h, data); n > 0 {
		inside, all := p.kept(&inner, data[n:])
		return append(data[:n:n], inside...), all
	}
	if veils(h) {
		return p.veil(data[:min(len(data), packet.PayloadBytes)]), false
	}
	return nil, false
}

// carried decodes what a datagram of VXLAN carries, also one that an ICMP error
// quotes; n is the number of bytes of its payload that are headers, and 0 for all
// else.
func carried(h *packet.Header, data []byte) (inner packet.Header, n int) {
	if h.IsICMPError() && h.Quoted != nil {
		h = h.Quoted
	}
	return h.DecodeVXLAN(data)
}

// frame returns what is kept of a frame.
func (p *payload) frame(s *capture.Sighting) []byte {
	h := &s.Header
	if s.Carrier != nil {
		h = s.Carrier
	}
	n := packet.HeaderLength(s.Link, s.Frame)
	kept, all := p.kept(h, s.Frame[n:])
	if all {
		return s.Frame
	}
	p.left++
	return append(s.Frame[:n:n], kept...)
}

// header returns what is kept of a header.
func (p *payload) header(h packet.Header) packet.Header {
	if h.Quoted != nil {
		quoted := p.header(*h.Quoted)
		h.Quoted = &quoted
		return h
	}
	kept, all := p.kept(&h, h.Payload)
	h.PayloadCut = h.PayloadCut || !all && len(kept) < len(h.Payload)
	h.Payload = kept
	return h
}

// notes says how much was left out, if anything was.
func (p *payload) notes() []string {
	switch p.left {
	case 0:
		return nil
	case 1:
		return []string{"The payload of 1 packet that pathtrace did not send is not in the bundle; --save-payload keeps it."}
	}
	return []string{fmt.Sprintf("The payload of %d packets that pathtrace did not send is not in the bundle; --save-payload keeps it.", p.left)}
}
