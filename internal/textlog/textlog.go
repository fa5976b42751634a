// Package textlog reads what the text logs of other programs have in common:
// their lines, the stamps that dmesg, the journal and syslog put before them,
// and what a file is that is no such log. The files may come from anybody: no
// line is kept longer than MaxLine, nothing is allocated for what a file merely
// claims. It observes nothing and changes nothing.
package textlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxLine is how many bytes of a line are kept.
const MaxLine = 64 << 10

// maxProblems is how many problems of a file are kept.
const maxProblems = 100

// Line is a line of a file.
type Line struct {
	// Number counts from 1.
	Number int
	// Text has no line end.
	Text string
	// Cut says that the line is longer than MaxLine, and Text its beginning.
	Cut bool
}

// Reader reads lines.
type Reader struct {
	r      *bufio.Reader
	number int
}

// NewReader returns a reader of r's lines.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, MaxLine)} }

// Looks says what the file is by its beginning, as Looks does. It is to be
// asked before the first Next.
func (r *Reader) Looks() string {
	// An error of the source is told by the first Next.
	head, _ := r.r.Peek(4 << 10)
	return Looks(head)
}

// Next returns the next line. The error is io.EOF behind the last one, and
// otherwise what the source said.
func (r *Reader) Next() (Line, error) {
	text, err := r.r.ReadSlice('\n')
	if len(text) == 0 && err != nil {
		return Line{}, err
	}
	r.number++
	line := Line{Number: r.number, Text: string(bytes.TrimRight(text, "\r\n"))}
	for errors.Is(err, bufio.ErrBufferFull) {
		line.Cut = true
		_, err = r.r.ReadSlice('\n')
	}
	return line, nil
}

// Problem is what is wrong with a line of a file.
type Problem struct {
	// Line is its number, counted from 1; 0 when it is about the whole file.
	Line int
	Text string
}

// String returns the problem as "line N: text".
func (p Problem) String() string {
	if p.Line == 0 {
		return p.Text
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Text)
}

// Problems are the first of a file's problems; further ones only count where
// their owner counts them.
type Problems []Problem

// Add notes a problem, unless there are enough.
func (p *Problems) Add(line int, text string) {
	if len(*p) < maxProblems {
		*p = append(*p, Problem{Line: line, Text: text})
	}
}

// Unusable is the error for a file in which nothing was understood. looks is
// what it is instead, "" when that is not known; want is what was expected.
func Unusable(name, looks, want string) error {
	if looks == "" {
		return fmt.Errorf("read %s: no line of it is understood; expected %s", name, want)
	}
	return fmt.Errorf("read %s: this is %s; expected %s", name, looks, want)
}

// Quote returns the start of a line for a problem's text. Control characters
// are escaped.
func Quote(text string) string {
	const most = 60
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return fmt.Sprintf("%q", text)
}
