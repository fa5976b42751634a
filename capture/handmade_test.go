package capture

import (
	"encoding/binary"
	"slices"
)

// order is a byte order that hand-made files are written in.
type order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

var (
	littleEndian order = binary.LittleEndian
	bigEndian    order = binary.BigEndian
)

// words are 32 bit numbers in a row.
func words(o order, numbers ...uint32) (b []byte) {
	for _, n := range numbers {
		b = o.AppendUint32(b, n)
	}
	return b
}

func halves(o order, numbers ...uint16) (b []byte) {
	for _, n := range numbers {
		b = o.AppendUint16(b, n)
	}
	return b
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// pcapStart is the header of a pcap file of version 2.4.
func pcapStart(o order, magic, snapLength, link uint32) []byte {
	return join(words(o, magic), halves(o, 2, 4), words(o, 0, 0, snapLength, link))
}

func pcapRecord(o order, seconds, fraction, wire uint32, data string) []byte {
	return join(words(o, seconds, fraction, uint32(len(data)), wire), []byte(data))
}

// block is a block of a pcapng file.
func block(o order, kind uint32, body ...[]byte) []byte {
	b := padding(join(body...))
	length := words(o, uint32(12+len(b)))
	return join(words(o, kind), length, b, length)
}

// padding adds what is missing to whole words, and not as zeros, so that it
// shows where it does not belong.
func padding(b []byte) []byte {
	return append(slices.Clip(b), "###"[:-len(b)&3]...)
}

func section(o order, version uint16, options ...[]byte) []byte {
	return block(o, sectionHeaderBlock, words(o, byteOrderMagic), halves(o, version, 0), words(o, 1<<32-1, 1<<32-1), join(options...))
}

func description(o order, link uint16, snapLength uint32, options ...[]byte) []byte {
	return block(o, interfaceBlock, halves(o, link, 0), words(o, snapLength), join(options...))
}

func option(o order, code uint16, value string) []byte {
	return join(halves(o, code, uint16(len(value))), padding([]byte(value)))
}

func enhanced(o order, number uint32, time uint64, wire uint32, data string, options ...[]byte) []byte {
	return block(o, enhancedPacketBlock,
		words(o, number, uint32(time>>32), uint32(time), uint32(len(data)), wire), padding([]byte(data)), join(options...))
}

func obsolete(o order, number uint16, time uint64, wire uint32, data string, options ...[]byte) []byte {
	return block(o, packetBlock, halves(o, number, 7),
		words(o, uint32(time>>32), uint32(time), uint32(len(data)), wire), padding([]byte(data)), join(options...))
}

func simple(o order, wire uint32, data string) []byte {
	return block(o, simplePacketBlock, words(o, wire), []byte(data))
}

// smallPcap and smallPcapng have a bit of everything, and nothing wrong.
func smallPcap() []byte {
	return join(pcapStart(littleEndian, pcapMicroseconds, 65535, 1),
		pcapRecord(littleEndian, 1, 2, 3, "abc"), pcapRecord(littleEndian, 4, 5, 60, ""), pcapRecord(littleEndian, 6, 7, 60, "defgh"))
}

func smallPcapng() []byte {
	return join(section(littleEndian, 1, option(littleEndian, 4, "by hand")),
		description(littleEndian, 1, 5, option(littleEndian, optionName, "eth0"), option(littleEndian, optionResolution, "\x09")),
		enhanced(littleEndian, 0, 1, 3, "abc"),
		block(littleEndian, 5, words(littleEndian, 0, 0, 0)),
		simple(littleEndian, 60, "defgh"),
		section(bigEndian, 1),
		description(bigEndian, 101, 0),
		enhanced(bigEndian, 0, 2, 9, "ijk", option(bigEndian, optionFlags, "\x00\x00\x00\x02")))
}
