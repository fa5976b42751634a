package capture

import (
	"fmt"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// The format is that of draft-ietf-opsawg-pcapng.
const (
	sectionHeaderBlock  = 0x0a0d0d0a // the same in both byte orders
	interfaceBlock      = 1
	packetBlock         = 2 // obsolete
	simplePacketBlock   = 3
	enhancedPacketBlock = 6

	byteOrderMagic = 0x1a2b3c4d

	blockHeader   = 12 // type, length, and what is shortest behind them: the length again
	sectionHeader = 28

	optionEnd         = 0
	optionName        = 2  // if_name
	optionDescription = 3  // if_description
	optionResolution  = 9  // if_tsresol
	optionOffset      = 14 // if_tsoffset
	optionFlags       = 2  // epb_flags, pack_flags

	defaultResolution = 6 // microseconds
	maxNameBytes      = 256
)

// pcapng is the section of a pcapng file that is being read.
type pcapng struct {
	byteOrder
	// interfaces are those of the section; the first is the file's interface
	// number base.
	interfaces []sectionInterface
	base       int32
}

// sectionInterface is what the records of an interface need of it.
type sectionInterface struct {
	clock
	link       packet.LinkType
	snapLength uint32
}

// beginPcapng reports whether the file is pcapng. The section header is left to
// be read as all others are.
func beginPcapng(f *File, magic []byte) (bool, error) {
	s := &pcapng{}
	if len(magic) < 4 || s.uint32(magic) != sectionHeaderBlock {
		return false, nil
	}
	head, err := f.source.header(sectionHeader, "pcapng")
	if err != nil {
		return true, err
	}
	if fault := s.begin(head); fault != "" {
		return true, fmt.Errorf("it is a pcapng whose header %s", fault)
	}
	f.format, f.unit, f.carve = "pcapng", "block", s.carve
	if s.big {
		f.format += ", big endian"
	}
	return true, nil
}

// begin begins a section with the first bytes of its header, and returns what
// keeps it from being read.
func (s *pcapng) begin(head []byte) (fault string) {
	s.big = false
	if s.uint32(head[8:]) != byteOrderMagic {
		if s.big = true; s.uint32(head[8:]) != byteOrderMagic {
			return fmt.Sprintf("has no byte order mark but % x", head[8:12])
		}
	}
	if major, minor := s.uint16(head[12:]), s.uint16(head[14:]); major != 1 {
		return fmt.Sprintf("is of version %d.%d; what can be read is 1.x", major, minor)
	}
	return ""
}

// carve fills b with the records of blocks.
func (s *pcapng) carve(f *File, b *Batch) {
	for len(b.Records) < BatchRecords {
		if b.unread() < blockHeader && !f.more(b, blockHeader) {
			f.ended(b, blockHeader)
			return
		}
		head := b.memory[b.next:]
		if s.uint32(head) == sectionHeaderBlock {
			if b.unread() < sectionHeader && !f.more(b, sectionHeader) {
				f.ended(b, sectionHeader)
				return
			}
			if fault := s.begin(b.memory[b.next:]); fault != "" {
				f.stop(b, fault)
				return
			}
			head = b.memory[b.next:]
		}
		length := s.uint32(head[4:])
		switch {
		case length < blockHeader || length%4 != 0:
			f.stop(b, fmt.Sprintf("has a length that no block has: %d", length))
			return
		case length > maxRecordBytes, b.unread() < int(length) && !f.more(b, int(length)):
			f.overrun(b, 0, int64(length))
			return
		}
		block := b.memory[b.next:][:length:length]
		if again := s.uint32(block[length-4:]); again != length {
			f.stop(b, fmt.Sprintf("has two lengths: %d where it begins, %d where it ends", length, again))
			return
		}
		if fault := s.read(f, b, s.uint32(block), block[8:length-4]); fault != "" {
			f.stop(b, fault)
			return
		}
		b.next += int(length)
		f.number++
	}
}

// read reads one block, and returns what makes it impossible to go on.
func (s *pcapng) read(f *File, b *Batch, kind uint32, body []byte) (fault string) {
	switch kind {
	case enhancedPacketBlock:
		if len(body) < 20 {
			f.blame(b, len(body)+blockHeader, "is too short for a packet")
			break
		}
		s.packet(f, b, s.uint32(body), body)
	case packetBlock:
		if len(body) < 20 {
			f.blame(b, len(body)+blockHeader, "is too short for a packet")
			break
		}
		s.packet(f, b, uint32(s.uint16(body)), body)
	case simplePacketBlock:
		s.simplePacket(f, b, body)
	case interfaceBlock:
		return s.describe(f, b, body)
	case sectionHeaderBlock:
		if len(body) < sectionHeader-blockHeader {
			return "is too short for a section header"
		}
		s.interfaces = s.interfaces[:0]
		s.base = int32(len(f.interfaces))
	}
	return ""
}

// packet adds the packet of an enhanced packet block, or of its predecessor:
// they differ in how they name the interface.
func (s *pcapng) packet(f *File, b *Batch, number uint32, body []byte) {
	size := len(body) + blockHeader
	if int64(number) >= int64(len(s.interfaces)) {
		f.blame(b, size, s.noInterface(number))
		return
	}
	i := &s.interfaces[number]
	captured, data := s.uint32(body[12:]), body[20:]
	if int64(captured) > int64(len(data)) {
		f.blame(b, size, tooMuch(captured, data))
		return
	}
	b.Records = append(b.Records, Record{
		Data:      data[:captured:captured],
		Length:    max(s.uint32(body[16:]), captured),
		Interface: s.base + int32(number),
		Link:      i.link,
		Offset:    b.offset(),
	})
	r := &b.Records[len(b.Records)-1]
	r.Time, r.HasTime = i.nanoseconds(uint64(s.uint32(body[4:]))<<32 | uint64(s.uint32(body[8:])))
	if end := padded(int(captured)); end < len(data) {
		var intact bool
		if r.Direction, intact = s.direction(data[end:]); !intact {
			f.blame(b, 0, brokenOptions)
		}
	}
}

// direction finds a packet's direction among the options of its block.
func (s *pcapng) direction(options []byte) (d Direction, intact bool) {
	intact = s.options(options, func(code uint16, value []byte) {
		if code == optionFlags && len(value) == 4 {
			d = [...]Direction{0, Ingress, Egress, 0}[s.uint32(value)&3]
		}
	})
	return d, intact
}

// simplePacket adds the packet of a simple packet block, which has neither a
// time nor a captured length, and is of the section's first interface.
func (s *pcapng) simplePacket(f *File, b *Batch, body []byte) {
	size := len(body) + blockHeader
	switch {
	case len(body) < 4:
		f.blame(b, size, "is too short for a packet")
		return
	case len(s.interfaces) == 0:
		f.blame(b, size, s.noInterface(0))
		return
	}
	i := &s.interfaces[0]
	wire, data := s.uint32(body), body[4:]
	captured := wire
	if i.snapLength > 0 {
		captured = min(wire, i.snapLength)
	}
	if int64(captured) > int64(len(data)) {
		f.blame(b, size, tooMuch(captured, data))
		return
	}
	b.Records = append(b.Records, Record{
		Data: data[:captured:captured], Length: wire, Interface: s.base, Link: i.link, Offset: b.offset(),
	})
}

// describe adds the interface of an interface description block. The numbers of
// those that follow depend on it, so there is no going on without.
func (s *pcapng) describe(f *File, b *Batch, body []byte) (fault string) {
	if len(body) < 8 {
		return "is too short for an interface"
	}
	i := sectionInterface{link: packet.LinkType(s.uint16(body)), snapLength: s.uint32(body[4:])}
	described := FileInterface{Link: i.link, SnapLength: i.snapLength}
	resolution, offset := byte(defaultResolution), int64(0)
	intact := s.options(body[8:], func(code uint16, value []byte) {
		switch {
		case code == optionName:
			described.Name = optionText(value)
		case code == optionDescription:
			described.Description = optionText(value)
		case code == optionResolution && len(value) == 1:
			resolution = value[0]
		case code == optionOffset && len(value) == 8:
			offset = s.int64(value)
		}
	})
	if !intact {
		f.blame(b, 0, brokenOptions)
	}
	if !f.addInterface(described) {
		return fmt.Sprintf("describes an interface, and what can be read is %d of them", maxInterfaces)
	}
	i.clock = newClock(resolution, offset)
	s.interfaces = append(s.interfaces, i)
	return ""
}

const brokenOptions = "has options that end beyond it"

func (s *pcapng) noInterface(number uint32) string {
	return fmt.Sprintf("names interface %d, of %d", number, len(s.interfaces))
}

func tooMuch(captured uint32, data []byte) string {
	return fmt.Sprintf("claims %s of a packet and has %d", inBytes(int64(captured)), len(data))
}

// options calls f with each option of a block and its value. It reports false
// when one of them ends beyond the block.
func (s *pcapng) options(list []byte, f func(code uint16, value []byte)) (intact bool) {
	for len(list) >= 4 {
		code, length := s.uint16(list), int(s.uint16(list[2:]))
		if code == optionEnd {
			return true
		}
		list = list[4:]
		if length > len(list) {
			return false
		}
		f(code, list[:length])
		list = list[min(padded(length), len(list)):]
	}
	return len(list) == 0
}

// int64 is in two words, the lower first in a little endian section.
func (o byteOrder) int64(b []byte) int64 {
	low, high := o.uint32(b), o.uint32(b[4:])
	if o.big {
		low, high = high, low
	}
	return int64(high)<<32 | int64(low)
}

// padded is the length of what takes n bytes of a block.
func padded(n int) int { return (n + 3) &^ 3 }

// optionText returns text of the file, of which only so much is kept. Some writers
// end it as C does.
func optionText(value []byte) string {
	text := string(value[:min(len(value), maxNameBytes)])
	text, _, _ = strings.Cut(text, "\x00")
	return strings.ToValidUTF8(text, "")
}
