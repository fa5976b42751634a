package capture

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/pathtrace/pathtrace/packet"
)

// FileInterface is what a capture file says of one of its interfaces. A pcap
// file has one, of a pcapng file each section adds its own.
type FileInterface struct {
	// Name is if_name, Description if_description, of each no more than 256
	// bytes; empty where the file does not tell.
	Name, Description string
	Link              packet.LinkType
	// SnapLength is the most that was captured of a packet; 0 is no limit. Files
	// do not always keep to it.
	SnapLength uint32
}

// Record is one packet of a capture file, not decoded.
type Record struct {
	// Data is what was captured. It belongs to the Batch and is overwritten when
	// that is filled again.
	Data []byte
	// Time is in nanoseconds since 1970-01-01 UTC; meaningless unless HasTime. A
	// time that does not fit (before 1677, after 2262) is none.
	Time    int64
	HasTime bool
	// Length is the packet's length on the wire in bytes, never less than that of
	// Data.
	Length uint32
	// Interface is an index into File.Interfaces.
	Interface int32
	Link      packet.LinkType
	// Direction is zero where the file does not tell.
	Direction Direction
	// Offset is where the record begins in the file, after decompression.
	Offset int64
}

// maxInterfaces bounds what a File keeps of a file that describes interfaces
// without end.
const maxInterfaces = 1 << 16

// File reads a capture file once, from its beginning to its end: pcap or
// pcapng, plain or packed by gzip or zstd. What is wrong with one record costs
// that record; where the next one begins is unknown, reading ends. Either way
// Problem says so.
//
// Its methods are for one goroutine, but for Position.
type File struct {
	source *source
	format string
	// carve fills a batch, as the format wants it; unit is what it counts.
	carve  func(*File, *Batch)
	unit   string    // "record" or "block"
	closer io.Closer // nil when the reader is the caller's

	interfaces []FileInterface
	// tail was read and is for the next batch; it begins at offset.
	tail   []byte
	offset int64
	// number is that of the next unit, from 1.
	number int64
	// end is why the source has no more: io.EOF, or what it failed with.
	end    error
	done   bool
	faults faults
}

// OpenFile opens a capture file and reads its header. The error says what the
// file is instead when it is none.
func OpenFile(name string) (*File, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	f, err := NewFile(name, file)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	f.closer = file
	return f, nil
}

// NewFile is OpenFile for what is open already, such as standard input; the
// name is for errors. Close leaves r open.
func NewFile(name string, r io.Reader) (*File, error) {
	f := &File{number: 1}
	var err error
	if f.source, err = newSource(r); err == nil {
		if err = f.readHeader(); err != nil {
			f.source.close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return f, nil
}

// readHeader finds out what the file is.
func (f *File) readHeader() error {
	head, err := f.source.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return f.source.explain(err)
	}
	if len(head) == 0 {
		return fmt.Errorf("it is empty%s", f.source.inside())
	}
	for _, begin := range []func(*File, []byte) (bool, error){beginPcap, beginPcapng} {
		if is, err := begin(f, head); is || err != nil {
			if f.source.compression != "" {
				f.format += ", " + f.source.compression
			}
			return err
		}
	}
	head, _ = f.source.Peek(describeBytes)
	return fmt.Errorf("it is %s%s; what can be read is pcap and pcapng, also packed by gzip or zstd",
		describe(head), f.source.inside())
}

// Next fills b with the next records, in the order of the file, at least one.
// The error is io.EOF when there are no more, also where reading ended early.
func (f *File) Next(b *Batch) error {
	b.reset(f.tail, f.offset)
	if !f.done {
		f.carve(f, b)
	}
	f.offset = b.offset()
	f.tail = append(f.tail[:0], b.memory[b.next:]...)
	if len(b.Records) == 0 {
		return io.EOF
	}
	return nil
}

// Interfaces returns those that the file has described so far. What was
// returned is not written to again, and an index stays what it is over
// sections.
func (f *File) Interfaces() []FileInterface {
	return slices.Clip(f.interfaces)
}

// Problem returns what is wrong with the file as far as it was read, and nil
// when nothing is.
func (f *File) Problem() *FileProblem { return f.faults.problem() }

// Format returns what the file is: "pcap" or "pcapng", followed by what is not
// usual about it: "pcap, big endian, nanoseconds, gzip".
func (f *File) Format() string { return f.format }

// Position returns how many bytes were read of the file as it is on disk, and
// its size; that is 0 for a pipe. It may be called at any time.
func (f *File) Position() (read, size int64) { return f.source.disk.read.Load(), f.source.size }

// Close gives back what OpenFile opened. It may be called again.
func (f *File) Close() error {
	f.source.close()
	if f.closer == nil {
		return nil
	}
	err := f.closer.Close()
	f.closer = nil
	return err
}

// more makes b hold the next n bytes of the file. Where it reports false, b is
// full, or f.end says why there are no more. What it holds may have moved.
func (f *File) more(b *Batch, n int) bool {
	for b.unread() < n {
		if f.end != nil || !b.room(n) {
			return false
		}
		f.end = b.read(f.source)
	}
	return true
}

// addInterface adds an interface and reports whether there was a place for it.
func (f *File) addInterface(i FileInterface) bool {
	if len(f.interfaces) == maxInterfaces {
		return false
	}
	f.interfaces = append(f.interfaces, i)
	return true
}
