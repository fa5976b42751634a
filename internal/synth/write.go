package synth

import (
	"bufio"
	"encoding/binary"
	"io"
)

// WritePcap writes sightings as a pcap file with nanoseconds.
func WritePcap(w io.Writer, sightings []Sighting) error {
	b := bufio.NewWriterSize(w, 1<<20)
	head := make([]byte, 24)
	binary.LittleEndian.PutUint32(head, 0xa1b23c4d)
	binary.LittleEndian.PutUint16(head[4:], 2)
	binary.LittleEndian.PutUint16(head[6:], 4)
	binary.LittleEndian.PutUint32(head[16:], 1<<18)
	binary.LittleEndian.PutUint32(head[20:], 1)
	_, _ = b.Write(head)
	for i := range sightings {
		s := &sightings[i]
		var r [16]byte
		binary.LittleEndian.PutUint32(r[0:], uint32(s.Time/1e9))
		binary.LittleEndian.PutUint32(r[4:], uint32(s.Time%1e9))
		binary.LittleEndian.PutUint32(r[8:], uint32(len(s.Data)))
		binary.LittleEndian.PutUint32(r[12:], uint32(len(s.Data)))
		_, _ = b.Write(r[:])
		_, _ = b.Write(s.Data)
	}
	return b.Flush()
}

// WritePcapng writes sightings as one pcapng file with an interface for each
// point, "inside" and "outside".
func WritePcapng(w io.Writer, sightings []Sighting) error {
	b := bufio.NewWriterSize(w, 1<<20)
	section := []byte{0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	block(b, 0x0a0d0d0a, section)
	for _, name := range []string{"inside", "outside"} {
		body := []byte{1, 0, 0, 0, 0, 0, 4, 0, 2, 0, byte(len(name)), 0}
		body = append(body, name...)
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		body = append(body, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0) // if_tsresol: nanoseconds
		block(b, 1, body)
	}
	var body []byte
	for i := range sightings {
		s := &sightings[i]
		body = binary.LittleEndian.AppendUint32(body[:0], uint32(s.Point))
		body = binary.LittleEndian.AppendUint32(body, uint32(uint64(s.Time)>>32))
		body = binary.LittleEndian.AppendUint32(body, uint32(s.Time))
		body = binary.LittleEndian.AppendUint32(body, uint32(len(s.Data)))
		body = binary.LittleEndian.AppendUint32(body, uint32(len(s.Data)))
		body = append(body, s.Data...)
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		block(b, 6, body)
	}
	return b.Flush()
}

func block(b *bufio.Writer, kind uint32, body []byte) {
	var h [8]byte
	binary.LittleEndian.PutUint32(h[:], kind)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(body)+12))
	_, _ = b.Write(h[:])
	_, _ = b.Write(body)
	_, _ = b.Write(h[4:])
}
