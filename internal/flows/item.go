package flows

import (
	"encoding/binary"
	"math/bits"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// item is a record as the join takes it. It is small, because millions of them
// are handed from one core to another.
type item struct {
	key  packet.Key
	ipid uint16
	hash uint64 // of key and, for an ICMP error, of the quoted key
	mark uint64
	time int64

	body       uint32
	length     uint32
	data       uint32
	seq, ack   uint32
	iface      int32
	rare       int16 // index into chunk.rare, -1 for none
	flags      packet.TCPFlags
	ttl        uint8
	bodyLength uint8
	bits       itemBits
}

// itemBits are what else an item says.
type itemBits uint8

const (
	isIP itemBits = 1 << iota
	isBad
	timed
	distinctive
	fragment
	laterFragment
	cutShort
)

func (i *item) has(b itemBits) bool { return i.bits&b != 0 }

// rare is what few packets have: it is kept beside the items.
type rare struct {
	scope scope
	// quoted is the packet that an ICMP error is about.
	quoted packet.Key
	code   uint8
}

// scope tells apart what one interface carries. It is comparable.
type scope struct {
	vlans   [packet.MaxVLANs]uint16
	layers  [packet.MaxLayers]packet.Layer
	tunnels uint8
	tags    uint8
	index   uint32 // of the interface, in captures of all
}

// brief turns a decoded record into an item.
func (c *chunk) brief(r *capture.Record, b *packet.Brief) item {
	i := item{
		key: b.Key, mark: b.Mark, time: r.Time, body: b.Body, length: b.Length, data: b.DataLength, seq: b.Seq, ack: b.Ack,
		iface: r.Interface, rare: -1, ipid: uint16(b.IPID), flags: b.Flags, ttl: b.TTL, bodyLength: b.BodyLength,
	}
	switch b.Kind {
	case packet.BriefIP:
		i.bits |= isIP
	case packet.BriefCut:
		i.bits |= isIP | cutShort
	case packet.BriefBad:
		i.bits |= isBad
	}
	if r.HasTime {
		i.bits |= timed
	}
	if b.Distinctive {
		i.bits |= distinctive
	}
	if b.IsFragment {
		i.bits |= fragment
		if b.FragmentOffset > 0 {
			i.bits |= laterFragment
		}
	}
	if b.Version != 4 {
		i.ipid = 0 // of an IPv6 fragment: every host that cuts it anew gives another
	}
	if b.VLANCount > 0 || b.Tunnels > 0 || b.SLLInterface > 0 || b.Quoted != (packet.Key{}) {
		i.rare = int16(len(c.rare))
		c.rare = append(c.rare, rare{
			scope:  scope{vlans: b.VLANs, layers: b.Layers, tunnels: b.Tunnels, tags: b.VLANCount, index: b.SLLInterface},
			quoted: b.Quoted, code: b.ICMPCode,
		})
	}
	i.hash = hashKey(&b.Key)
	if b.Quoted != (packet.Key{}) {
		i.hash = mix(i.hash, hashKey(&b.Quoted))
	}
	return i
}

// hashKey is a hash of a tuple for this process and every other.
func hashKey(k *packet.Key) uint64 {
	h := mix(binary.LittleEndian.Uint64(k.Src[:]), binary.LittleEndian.Uint64(k.Src[8:])^0x9e3779b97f4a7c15)
	h = mix(h^binary.LittleEndian.Uint64(k.Dst[:]), binary.LittleEndian.Uint64(k.Dst[8:])^0xd6e8feb86659fd93)
	rest := uint64(k.SrcPort)<<48 | uint64(k.DstPort)<<32 | uint64(k.Proto)<<8 | uint64(k.ICMPType)
	return mix(h, rest^0xa0761d6478bd642f)
}

// mix folds the product of two words.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0xe7037ed1a0b428db, b^0x8ebc6af09c88c6e3)
	return hi ^ lo
}
