package packet

import (
	"encoding/binary"
	"math/bits"
)

// MarkPayload is how much of the payload a Mark covers.
const MarkPayload = 16

// The hashes multiply 64 by 64 bits and fold the product, with constants that
// are the fractions of the square roots of 2, 3, 5 and 7. They are no defence
// against somebody who wants two packets to have one hash: he may as well send
// one packet twice.
const (
	root2 = 0x6a09e667f3bcc908
	root3 = 0xbb67ae8584caa73b
	root5 = 0x3c6ef372fe94f82b
	root7 = 0xa54ff53a5f1d36f1
)

func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// markOf is the hash of the numbers that a Mark covers, and of a payload of up
// to MarkPayload bytes.
func markOf(head, numbers uint64, payload []byte) uint64 {
	h := fold(head^root2, numbers^root3)
	if len(payload) > 0 {
		a, b := words(payload)
		h = fold(a^h, b^uint64(len(payload))^root5)
	}
	return fold(h^root5, root7)
}

// bodyOf is the hash of a payload.
func bodyOf(payload []byte) uint32 {
	h := uint64(len(payload)) ^ root2
	for len(payload) > 16 {
		h = fold(binary.LittleEndian.Uint64(payload)^root3, binary.LittleEndian.Uint64(payload[8:])^h)
		payload = payload[16:]
	}
	a, b := words(payload)
	h = fold(fold(a^root3, b^h)^root5, root7)
	return uint32(h ^ h>>32)
}

// words returns up to 16 bytes as two words. Of fewer than 16 bytes the words
// overlap; with the length they still tell any two apart.
func words(p []byte) (a, b uint64) {
	switch n := len(p); {
	case n >= 8:
		return binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[n-8:])
	case n >= 4:
		return uint64(binary.LittleEndian.Uint32(p)), uint64(binary.LittleEndian.Uint32(p[n-4:]))
	case n > 0:
		return uint64(p[0]) | uint64(p[n/2])<<8 | uint64(p[n-1])<<16, 0
	}
	return 0, 0
}
