package capture

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/pathtrace/pathtrace/packet"
)

// The format is that of draft-ietf-opsawg-pcap.
const (
	pcapHeader   = 24
	recordHeader = 16

	pcapMicroseconds = 0xa1b2c3d4
	pcapNanoseconds  = 0xa1b23c4d
	// pcapModified is a format of old Linux distributions: eight bytes more in
	// the header of a record.
	pcapModified         = 0xa1b2cd34
	modifiedRecordHeader = 24
)

// byteOrder is the order of the bytes of a number; the zero value is little
// endian. It is faster than a binary.ByteOrder.
type byteOrder struct{ big bool }

func (o byteOrder) uint16(b []byte) uint16 {
	n := binary.LittleEndian.Uint16(b)
	if o.big {
		n = bits.ReverseBytes16(n)
	}
	return n
}

func (o byteOrder) uint32(b []byte) uint32 {
	n := binary.LittleEndian.Uint32(b)
	if o.big {
		n = bits.ReverseBytes32(n)
	}
	return n
}

// pcap is how the records of a pcap file are laid out.
type pcap struct {
	byteOrder
	header int
	// unit is that of the fraction of a second, in nanoseconds.
	unit int64
	link packet.LinkType
}

// beginPcap reads the file header, and reports false when it is not that of a
// pcap file.
func beginPcap(f *File, magic []byte) (bool, error) {
	if len(magic) < 4 {
		return false, nil
	}
	p := pcap{header: recordHeader, unit: 1000}
	known := func() bool {
		switch p.uint32(magic) {
		case pcapMicroseconds:
		case pcapNanoseconds:
			p.unit = 1
		case pcapModified:
			p.header = modifiedRecordHeader
		default:
			return false
		}
		return true
	}
	if !known() {
		if p.big = true; !known() {
			return false, nil
		}
	}
	head, err := f.source.header(pcapHeader, "pcap")
	if err != nil {
		return true, err
	}
	if major, minor := p.uint16(head[4:]), p.uint16(head[6:]); major != 2 {
		return true, fmt.Errorf("it is a pcap of version %d.%d; what can be read is 2.x", major, minor)
	}
	// The upper half of the link type says how long the frame check sequence is.
	p.link = packet.LinkType(p.uint32(head[20:]))
	f.addInterface(FileInterface{Link: p.link, SnapLength: p.uint32(head[16:])})
	f.format, f.unit, f.carve = "pcap", "record", p.carve
	if p.big {
		f.format += ", big endian"
	}
	if p.unit == 1 {
		f.format += ", nanoseconds"
	}
	f.offset = pcapHeader
	_, err = f.source.Discard(pcapHeader)
	return true, err
}

// carve fills b with records.
func (p pcap) carve(f *File, b *Batch) {
	for len(b.Records) < BatchRecords {
		if b.unread() < p.header && !f.more(b, p.header) {
			f.ended(b, p.header)
			return
		}
		captured := p.uint32(b.memory[b.next+8:])
		if captured > maxRecordBytes {
			f.overrun(b, p.header, int64(captured))
			return
		}
		size := p.header + int(captured)
		if b.unread() < size && !f.more(b, size) {
			f.overrun(b, p.header, int64(captured))
			return
		}
		record := b.memory[b.next : b.next+size : b.next+size]
		b.Records = append(b.Records, Record{
			Data: record[p.header:],
			// Seconds are unsigned, and the fraction may be a second and more.
			Time:    int64(p.uint32(record))*1e9 + int64(p.uint32(record[4:]))*p.unit,
			HasTime: true,
			Length:  max(p.uint32(record[12:]), captured),
			Link:    p.link,
			Offset:  b.offset(),
		})
		b.next += size
		f.number++
	}
}
