package capture

import "io"

// BatchRecords is the most that one Batch holds.
const BatchRecords = 2048

const (
	// batchBytes is the memory of a batch, which grows only for a record that is
	// larger.
	batchBytes = 1 << 20
	// readBytes are read at once: large enough to make the calls cheap, small
	// enough to be in the processor's cache when records are carved out of them,
	// and to leave little that is to be carried to the next batch when this one
	// has all its records.
	readBytes = 64 << 10
	// maxRecordBytes bounds a record. Packets have up to half a megabyte (BIG
	// TCP); records that carry something else may have more.
	maxRecordBytes = 16 << 20
)

// Batch holds the records that File.Next put into it, and their memory. It can
// be handed to another goroutine and filled again. The zero Batch is ready.
type Batch struct {
	Records []Record
	// memory is what was read; base is where it begins in the file. The next
	// record begins at next.
	memory []byte
	next   int
	base   int64
}

// reset empties the batch and has it begin with what was read before.
func (b *Batch) reset(tail []byte, offset int64) {
	if cap(b.memory) != batchBytes { // none yet, or that of an unusual record
		b.memory = make([]byte, 0, batchBytes)
		b.Records = make([]Record, 0, BatchRecords)
	}
	b.Records = b.Records[:0]
	b.memory = append(b.memory[:0], tail...)
	b.next, b.base = 0, offset
}

// offset is where the next record begins in the file, unread how many bytes
// from there on are in memory.
func (b *Batch) offset() int64 { return b.base + int64(b.next) }
func (b *Batch) unread() int   { return len(b.memory) - b.next }

// room makes place for the next bytes of a record of n. It reports false when
// there is none, and the record is for the next batch. For that it is the
// first, and memory grows as its bytes arrive.
func (b *Batch) room(n int) bool {
	if len(b.Records) > 0 {
		return b.next+n <= cap(b.memory)
	}
	if len(b.memory) < cap(b.memory) {
		return true
	}
	memory := b.memory
	if b.next == 0 {
		memory = make([]byte, len(b.memory), 2*cap(b.memory))
	}
	b.memory = memory[:copy(memory, b.memory[b.next:])]
	b.base, b.next = b.offset(), 0
	return true
}

// read reads once from r.
func (b *Batch) read(r io.Reader) error {
	free := b.memory[len(b.memory):cap(b.memory)]
	n, err := r.Read(free[:min(len(free), readBytes)])
	b.memory = b.memory[:len(b.memory)+n]
	return err
}
