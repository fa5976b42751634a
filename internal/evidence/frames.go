package evidence

import (
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// frameBytes is how much goes into one frame of Zstandard.
	frameBytes = 64 << 10
	// windowBytes is how far back it looks for what repeats.
	windowBytes = 128 << 10
)

// frames compresses what is written. Each Write is one Write of the underlying
// writer, so that a file of a process that was killed can be read to its end; a lazy
// one leaves that to Flush and to the end of a frame.
type frames struct {
	w       io.Writer
	lazy    bool
	packed  bytes.Buffer // of what is being written
	encoder *zstd.Encoder
	pending int  // bytes of the frame so far
	held    bool // some of them are not handed on
}

func newFrames(w io.Writer) (*frames, error) {
	f := &frames{w: w}
	var err error
	f.encoder, err = zstd.NewWriter(&f.packed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowBytes), zstd.WithLowerEncoderMem(true))
	return f, err
}

// Write implements io.Writer.
func (f *frames) Write(p []byte) (int, error) {
	n, err := f.encoder.Write(p)
	f.pending += n
	f.held = true
	switch {
	case f.pending >= frameBytes:
		return n, errors.Join(err, f.end())
	case f.lazy:
		return n, err
	}
	return n, errors.Join(err, f.Flush())
}

// Flush hands on what was written.
func (f *frames) Flush() error {
	if !f.held {
		return nil
	}
	return errors.Join(f.encoder.Flush(), f.hand())
}

// end ends the frame.
func (f *frames) end() error {
	err := errors.Join(f.encoder.Close(), f.hand())
	f.encoder.Reset(&f.packed)
	f.pending = 0
	return err
}

// hand writes what is packed.
func (f *frames) hand() error {
	_, err := f.packed.WriteTo(f.w)
	f.packed.Reset()
	f.held = false
	return err
}

// Close ends the last frame.
func (f *frames) Close() error {
	if f.pending == 0 {
		return nil
	}
	return f.end()
}
