package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxWindow is how far zstd data may refer back, which is the memory that
	// unpacking it may take: what the zstd command reads by default, and the most
	// that "zstd --long" writes by default.
	maxWindow = 128 << 20
	// maxRest bounds how much of a pipe is read only to count it.
	maxRest = 1 << 30
	// describeBytes of a file that cannot be read are enough to say what it is.
	describeBytes = 256
)

// source is the bytes of a file, unpacked.
type source struct {
	*bufio.Reader
	// compression is "gzip", "zstd" or empty.
	compression string
	// packed is the file as it is on disk, through disk; for a plain file the same
	// as the Reader.
	packed *bufio.Reader
	disk   disk
	size   int64 // on disk; 0 for what is not a regular file
	unpack *zstd.Decoder
}

// disk counts what is read of a file, and keeps to how it failed.
type disk struct {
	io.Reader
	read atomic.Int64
	err  error
}

func (d *disk) Read(p []byte) (int, error) {
	for range 100 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.Reader.Read(p)
		d.read.Add(int64(n))
		if err != nil && !errors.Is(err, io.EOF) {
			d.err = err
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	d.err = io.ErrNoProgress
	return 0, d.err
}

func newSource(r io.Reader) (*source, error) {
	s := &source{disk: disk{Reader: r}}
	if file, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
			s.size = info.Size()
		}
	}
	s.packed = bufio.NewReaderSize(&s.disk, readBytes/2)
	s.Reader = s.packed
	head, err := s.packed.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, s.explain(err)
	}
	var unpacked io.Reader
	switch s.compression = compressionOf(head); s.compression {
	case "gzip":
		unpacked, err = gzip.NewReader(s.packed)
	case "zstd":
		// One goroutine: this is the one that reads, beside those that decode.
		s.unpack, err = zstd.NewReader(s.packed, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		unpacked = s.unpack
	default:
		return s, nil
	}
	if err != nil {
		return nil, s.explain(err)
	}
	s.Reader = bufio.NewReaderSize(unpacked, readBytes/2)
	return s, nil
}

// compressionOf tells packed data by how it begins (RFC 1952, RFC 8878; zstd
// data may begin with a frame that is to be skipped).
func compressionOf(head []byte) string {
	switch h := string(head); {
	case strings.HasPrefix(h, "\x1f\x8b"):
		return "gzip"
	case h == "\x28\xb5\x2f\xfd", len(h) == 4 && h[0]&0xf0 == 0x50 && h[1:] == "\x2a\x4d\x18":
		return "zstd"
	}
	return ""
}

// header returns the first n bytes of a file of a format.
func (s *source) header(n int, format string) ([]byte, error) {
	head, err := s.Peek(n)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("it ends inside the header of a %s: %d of %d bytes", format, len(head), n)
	}
	if err != nil {
		return nil, s.explain(err)
	}
	return head, nil
}

// explain says what an error of reading means for who has the file.
func (s *source) explain(err error) error {
	var pathError *fs.PathError
	switch {
	case errors.As(s.disk.err, &pathError):
		return pathError.Err // who has the file has its name
	case s.disk.err != nil:
		return s.disk.err
	case s.compression == "":
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the %s data is cut off", s.compression)
	}
	return fmt.Errorf("the %s data is damaged: %w", s.compression, err)
}

// inside says how the file is packed, for behind what it is.
func (s *source) inside() string {
	if s.compression == "" {
		return ""
	}
	return " inside " + s.compression + " data"
}

// rest counts the bytes that are left: unpacked ones, or packed ones when
// unpacking failed.
func (s *source) rest(failed bool) int64 {
	from := s.Reader
	if failed {
		from = s.packed
	}
	if from == s.packed && s.size > 0 {
		return max(0, s.size-s.disk.read.Load()+int64(s.packed.Buffered()))
	}
	n, _ := io.CopyN(io.Discard, from, maxRest)
	return n
}

func (s *source) close() {
	if s.unpack != nil {
		s.unpack.Close()
	}
}

// notCaptures are files that one might take for a capture, by how they begin.
var notCaptures = []struct{ magic, what string }{
	{"\x1f\x8b", "gzip data"},
	{"\x28\xb5\x2f\xfd", "zstd data"},
	{"\xfd7zXZ\x00", "xz data"},
	{"BZh", "bzip2 data"},
	{"\x04\x22\x4d\x18", "lz4 data"},
	{"PK\x03\x04", "a zip archive"},
	{"snoop\x00\x00\x00", "a snoop capture"},
	{"GMBU", "a Network Monitor capture"},
	{"\x7fELF", "a program"},
}

// describe says what data is that is no capture.
func describe(head []byte) string {
	for _, n := range notCaptures {
		if strings.HasPrefix(string(head), n.magic) {
			return n.what
		}
	}
	if isText(head) {
		return "text"
	}
	return fmt.Sprintf("data that begins with % x", head[:min(8, len(head))])
}

// isText reports whether head begins a text. It may end inside a character.
func isText(head []byte) bool {
	for len(head) > 0 {
		r, size := utf8.DecodeRune(head)
		switch {
		case r == utf8.RuneError && size == 1:
			return !utf8.FullRune(head)
		case unicode.IsControl(r) && !strings.ContainsRune("\n\r\t\f\x1b", r):
			return false
		}
		head = head[size:]
	}
	return true
}
