package capture

import (
	"errors"
	"fmt"
	"io"
)

// FileProblem says what is wrong with a capture file. What could be read of it
// is good all the same.
type FileProblem struct {
	// Offset is where the first thing that is wrong begins, in bytes after
	// decompression.
	Offset int64
	// Records are those that were left out because of what they say, while
	// reading went on behind them.
	Records int64
	// Stopped says that reading ended before the file did, or inside a record.
	Stopped bool
	// Skipped bytes gave no record: those of Records, and when Stopped the rest
	// of the file. Of packed data that is damaged they are what was unpacked and
	// not used, and as it is packed what follows. AtLeast says that there are
	// more: the rest of a pipe is counted up to 1 GiB.
	Skipped int64
	AtLeast bool
	// Text says in one line what is wrong and where: "record 7 at byte 5035
	// claims 4325376 bytes, 645 are left".
	Text string
}

// String returns the text and what came of it: "…; reading stopped there; 661
// bytes skipped".
func (p *FileProblem) String() string {
	text := p.Text
	if p.Stopped {
		text += "; reading stopped there"
	}
	if p.Skipped == 0 {
		return text
	}
	text += "; "
	if p.AtLeast {
		text += "at least "
	}
	return text + inBytes(p.Skipped) + " skipped"
}

// faults are what is wrong with a file so far.
type faults struct {
	FileProblem
	// first says what is wrong with the first record or block of count, after
	// which reading went on; end what made it stop.
	first string
	count int64
	end   string
}

// problem returns what is wrong, nil for nothing.
func (f *faults) problem() *FileProblem {
	if f.count == 0 && f.end == "" {
		return nil
	}
	p := f.FileProblem
	p.Text = f.first
	if f.count > 1 {
		p.Text += fmt.Sprintf(", and %d more have faults", f.count-1)
	}
	if f.count > 0 && f.end != "" {
		p.Text += "; "
	}
	p.Text += f.end
	return &p
}

// blame notes what is wrong with the record that begins at b.next. When it is
// left out it has size bytes, otherwise 0. Reading goes on.
func (f *File) blame(b *Batch, size int, text string) {
	if f.faults.count == 0 {
		f.faults.first = f.here(b) + text
		f.faults.Offset = b.offset()
	}
	f.faults.count++
	if size > 0 {
		f.faults.Records++
		f.faults.Skipped += int64(size)
	}
}

// stop ends reading at the record that begins at b.next, because what it says
// leaves open where the next one begins.
func (f *File) stop(b *Batch, text string) {
	f.finish(b, text, f.rest())
}

// overrun ends reading at a record that claims more bytes behind its header
// than there are, or than a record may have. It does nothing when the rest is
// still to be read, by the next batch.
func (f *File) overrun(b *Batch, header int, claimed int64) {
	if f.end == nil && claimed <= maxRecordBytes {
		return
	}
	rest := f.rest()
	left := int64(b.unread()-header) + rest
	switch {
	case f.end != nil && !errors.Is(f.end, io.EOF):
		f.fail(b, rest)
	case left < claimed && rest < maxRest:
		are := "are"
		if left == 1 {
			are = "is"
		}
		f.finish(b, fmt.Sprintf("claims %s, %d %s left", inBytes(claimed), left, are), rest)
	default:
		f.finish(b, fmt.Sprintf("claims %s, and what can be read is %d", inBytes(claimed), maxRecordBytes), rest)
	}
}

// ended ends reading at a record of which not even the header is there. It does
// nothing when that is still to be read, by the next batch.
func (f *File) ended(b *Batch, header int) {
	switch left := b.unread(); {
	case f.end == nil:
	case !errors.Is(f.end, io.EOF):
		f.fail(b, f.rest())
	case left == 0:
		f.done = true
	default:
		f.finish(b, fmt.Sprintf("ends inside its header: %d of %s", left, inBytes(int64(header))), 0)
	}
}

// fail ends reading because the source failed.
func (f *File) fail(b *Batch, rest int64) {
	f.finish(b, fmt.Sprintf("cannot be read: %v", f.source.explain(f.end)), rest)
}

func (f *File) finish(b *Batch, text string, rest int64) {
	if f.faults.count == 0 {
		f.faults.Offset = b.offset()
	}
	f.faults.end = f.here(b) + text
	f.faults.Stopped = true
	f.faults.Skipped += int64(b.unread()) + rest
	f.faults.AtLeast = rest == maxRest
	f.done = true
}

// rest counts the bytes behind what was read.
func (f *File) rest() int64 {
	if errors.Is(f.end, io.EOF) {
		return 0
	}
	return f.source.rest(f.end != nil)
}

// here names the record that begins at b.next.
func (f *File) here(b *Batch) string {
	return fmt.Sprintf("%s %d at byte %d ", f.unit, f.number, b.offset())
}

func inBytes(n int64) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}
