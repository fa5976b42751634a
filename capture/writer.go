package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Writer writes a pcapng file (draft-ietf-opsawg-pcapng), in the byte order of
// most machines and with times in nanoseconds. Each block is one Write of the
// underlying writer, so a file that is cut has all that was written but the last.
type Writer struct {
	w          io.Writer
	interfaces int32
	block      []byte
}

// The options that are written and not read.
const (
	optionComment     = 1 // opt_comment
	optionApplication = 4 // shb_userappl
)

// NewWriter begins a file with a section whose comment says what it is.
func NewWriter(w io.Writer, comment string) (*Writer, error) {
	file := &Writer{w: w}
	b := binary.LittleEndian.AppendUint32(file.begin(sectionHeaderBlock), byteOrderMagic)
	b = append(b, 1, 0, 0, 0)                               // version 1.0
	b = binary.LittleEndian.AppendUint64(b, math.MaxUint64) // the section's length is not known
	b = appendOption(b, optionComment, comment)
	b = appendOption(b, optionApplication, "pathtrace")
	if err := file.end(appendOption(b, optionEnd, "")); err != nil {
		return nil, fmt.Errorf("begin capture file: %w", err)
	}
	return file, nil
}

// AddInterface adds an interface and returns its number, which counts from 0.
func (w *Writer) AddInterface(i FileInterface) (int32, error) {
	b := binary.LittleEndian.AppendUint16(w.begin(interfaceBlock), uint16(i.Link))
	b = binary.LittleEndian.AppendUint32(append(b, 0, 0), i.SnapLength)
	b = appendOption(b, optionName, i.Name)
	b = appendOption(b, optionDescription, i.Description)
	b = appendOption(b, optionResolution, "\x09")
	if err := w.end(appendOption(b, optionEnd, "")); err != nil {
		return 0, fmt.Errorf("add interface %s: %w", i.Name, err)
	}
	w.interfaces++
	return w.interfaces - 1, nil
}

// Write writes a packet. Of the record it takes all but Link, which is the
// interface's, and Offset.
func (w *Writer) Write(r *Record) error {
	if r.Interface < 0 || r.Interface >= w.interfaces {
		return fmt.Errorf("write packet: there is no interface %d", r.Interface)
	}
	b := w.begin(enhancedPacketBlock)
	for _, word := range []uint32{
		uint32(r.Interface), uint32(r.Time >> 32), uint32(r.Time),
		uint32(len(r.Data)), max(r.Length, uint32(len(r.Data))),
	} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	b = pad(append(b, r.Data...))
	if r.Direction != 0 { // 1 is inbound and 2 outbound there, too
		b = appendOption(b, optionFlags, string([]byte{byte(r.Direction), 0, 0, 0}))
		b = appendOption(b, optionEnd, "")
	}
	if err := w.end(b); err != nil {
		return fmt.Errorf("write packet: %w", err)
	}
	return nil
}

// begin begins a block; its length is filled in by end.
func (w *Writer) begin(kind uint32) []byte {
	return append(binary.LittleEndian.AppendUint32(w.block[:0], kind), 0, 0, 0, 0)
}

// end ends a block and writes it, unless no reader would take it.
func (w *Writer) end(b []byte) error {
	if len(b)+4 > maxRecordBytes {
		return fmt.Errorf("%s are more than can be read again, %d", inBytes(int64(len(b)+4)), maxRecordBytes)
	}
	length := uint32(len(b) + 4)
	binary.LittleEndian.PutUint32(b[4:], length)
	w.block = binary.LittleEndian.AppendUint32(b, length)
	_, err := w.w.Write(w.block)
	return err
}

// appendOption adds an option; one without a value is left out, unless it ends them.
// A value that is too long for an option is cut.
func appendOption(b []byte, code uint16, value string) []byte {
	if value == "" && code != optionEnd {
		return b
	}
	value = value[:min(len(value), math.MaxUint16)]
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...))
}

// pad fills up to a multiple of four bytes.
func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
