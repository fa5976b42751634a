package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/pathtrace/pathtrace/packet"
)

// fileOf reads content as a pipe.
func fileOf(t testing.TB, content []byte) *File {
	t.Helper()
	f, err := NewFile("file", bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// rest reads all records that f has left, and keeps them.
func rest(t testing.TB, f *File) (records []Record) {
	t.Helper()
	var b Batch
	for {
		switch err := f.Next(&b); {
		case errors.Is(err, io.EOF):
			return records
		case err != nil:
			t.Fatal(err)
		case len(b.Records) == 0 || len(b.Records) > BatchRecords:
			t.Fatalf("a batch of %d records", len(b.Records))
		}
		for _, r := range b.Records {
			r.Data = bytes.Clone(r.Data)
			records = append(records, r)
		}
	}
}

// say says what records are, one in a line.
func say(records []Record) string {
	var b strings.Builder
	for _, r := range records {
		fmt.Fprintf(&b, "%d: %q of %d, link %d, interface %d", r.Offset, r.Data, r.Length, r.Link, r.Interface)
		if r.HasTime {
			fmt.Fprintf(&b, ", %d", r.Time)
		}
		if r.Direction != 0 {
			fmt.Fprintf(&b, ", %s", r.Direction)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// save writes a file and returns its name.
func save(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func sayProblem(f *File) string {
	if f.Problem() == nil {
		return ""
	}
	return f.Problem().String()
}

func TestFile(t *testing.T) {
	tests := []struct {
		name       string
		content    []byte
		format     string
		interfaces []FileInterface
		records    string
		problem    string
	}{
		{
			"pcap", smallPcap(), "pcap",
			[]FileInterface{{Link: 1, SnapLength: 65535}},
			`24: "abc" of 3, link 1, interface 0, 1000002000
43: "" of 60, link 1, interface 0, 4000005000
59: "defgh" of 60, link 1, interface 0, 6000007000
`, "",
		},
		{
			"pcap without a packet", pcapStart(littleEndian, pcapMicroseconds, 0, 1), "pcap", []FileInterface{{Link: 1}}, "", "",
		},
		{
			"pcap, big endian", join(pcapStart(bigEndian, pcapMicroseconds, 9, 276), pcapRecord(bigEndian, 1, 2, 3, "abc")),
			"pcap, big endian",
			[]FileInterface{{Link: packet.LinkType(276), SnapLength: 9}},
			"24: \"abc\" of 3, link 276, interface 0, 1000002000\n", "",
		},
		{
			"pcap, nanoseconds", join(pcapStart(bigEndian, pcapNanoseconds, 9, 1), pcapRecord(bigEndian, 1, 2, 3, "abc")),
			"pcap, big endian, nanoseconds",
			[]FileInterface{{Link: 1, SnapLength: 9}},
			"24: \"abc\" of 3, link 1, interface 0, 1000000002\n", "",
		},
		{
			"pcap, modified", join(pcapStart(littleEndian, pcapModified, 9, 1), words(littleEndian, 1, 2, 3, 3, 5, 6), []byte("abc")),
			"pcap",
			[]FileInterface{{Link: 1, SnapLength: 9}},
			"24: \"abc\" of 3, link 1, interface 0, 1000002000\n", "",
		},
		{
			"pcap with check sequences", pcapStart(littleEndian, pcapMicroseconds, 0, 0x24000001), "pcap", []FileInterface{{Link: 1}}, "", "",
		},
		{
			"pcap, seconds and fractions that are large",
			join(pcapStart(littleEndian, pcapMicroseconds, 0, 1), pcapRecord(littleEndian, 1<<31, 0, 0, ""),
				pcapRecord(littleEndian, math.MaxUint32, 999999, 0, ""), pcapRecord(littleEndian, 1, 1000000, 0, ""), pcapRecord(littleEndian, 1, math.MaxUint32, 0, "")),
			"pcap",
			[]FileInterface{{Link: 1}},
			`24: "" of 0, link 1, interface 0, 2147483648000000000
40: "" of 0, link 1, interface 0, 4294967295999999000
56: "" of 0, link 1, interface 0, 2000000000
72: "" of 0, link 1, interface 0, 4295967295000
`, "",
		},
		{
			"pcap that captured more than it says",
			join(pcapStart(littleEndian, pcapMicroseconds, 2, 1), pcapRecord(littleEndian, 0, 0, 1, "abc")),
			"pcap",
			[]FileInterface{{Link: 1, SnapLength: 2}},
			"24: \"abc\" of 3, link 1, interface 0, 0\n", "",
		},
		{
			"pcap with a length that is not there",
			join(pcapStart(littleEndian, pcapMicroseconds, 0, 1), pcapRecord(littleEndian, 0, 0, 1, "a"), words(littleEndian, 1, 1, 1000, 1000), []byte("b")),
			"pcap",
			[]FileInterface{{Link: 1}},
			"24: \"a\" of 1, link 1, interface 0, 0\n",
			"record 2 at byte 41 claims 1000 bytes, 1 is left; reading stopped there; 17 bytes skipped",
		},
		{
			"pcap with a length beyond all bounds",
			join(pcapStart(littleEndian, pcapMicroseconds, 0, 1), words(littleEndian, 1, 1, math.MaxUint32, 1), make([]byte, 100000)),
			"pcap",
			[]FileInterface{{Link: 1}},
			"",
			"record 1 at byte 24 claims 4294967295 bytes, 100000 are left; reading stopped there; 100016 bytes skipped",
		},
		{
			"pcap with a length that is too large",
			join(pcapStart(littleEndian, pcapMicroseconds, 0, 1), words(littleEndian, 1, 1, maxRecordBytes+1, 1), make([]byte, maxRecordBytes+1)),
			"pcap",
			[]FileInterface{{Link: 1}},
			"",
			"record 1 at byte 24 claims 16777217 bytes, and what can be read is 16777216; reading stopped there; 16777233 bytes skipped",
		},
		{
			"pcap with half a header", append(smallPcap(), "end"...), "pcap",
			[]FileInterface{{Link: 1, SnapLength: 65535}},
			`24: "abc" of 3, link 1, interface 0, 1000002000
43: "" of 60, link 1, interface 0, 4000005000
59: "defgh" of 60, link 1, interface 0, 6000007000
`,
			"record 4 at byte 80 ends inside its header: 3 of 16 bytes; reading stopped there; 3 bytes skipped",
		},
		{
			"pcapng", smallPcapng(), "pcapng",
			[]FileInterface{{Name: "eth0", Link: 1, SnapLength: 5}, {Link: 101}},
			`76: "abc" of 3, link 1, interface 0, 1
136: "defgh" of 60, link 1, interface 0
208: "ijk" of 9, link 101, interface 1, 2000, egress
`, "",
		},
		{
			"pcapng without a packet", section(bigEndian, 1), "pcapng, big endian", nil, "", "",
		},
		{
			"pcapng, the obsolete packet block and directions",
			join(section(bigEndian, 1), description(bigEndian, 1, 0),
				obsolete(bigEndian, 0, 3, 4, "abc", option(bigEndian, optionFlags, "\x00\x00\x00\x01"), option(bigEndian, optionEnd, "")),
				enhanced(bigEndian, 0, 3, 4, "abcd", option(bigEndian, 1, "comment"), option(bigEndian, optionFlags, "\xff\xff\xff\xfe"), option(bigEndian, optionEnd, "")),
				enhanced(bigEndian, 0, 3, 4, "a", option(bigEndian, optionFlags, "\x00\x00\x00\x03")),
				enhanced(bigEndian, 0, 3, 4, "", option(bigEndian, optionFlags, "\x01")),
				enhanced(bigEndian, 0, 3, 4, "", option(bigEndian, optionEnd, ""), option(bigEndian, optionFlags, "\x00\x00\x00\x01"))),
			"pcapng, big endian",
			[]FileInterface{{Link: 1}},
			`48: "abc" of 4, link 1, interface 0, 3000, ingress
96: "abcd" of 4, link 1, interface 0, 3000, egress
156: "a" of 4, link 1, interface 0, 3000
200: "" of 4, link 1, interface 0, 3000
240: "" of 4, link 1, interface 0, 3000
`, "",
		},
		{
			"pcapng, offsets of time, in both byte orders",
			join(section(littleEndian, 1), description(littleEndian, 1, 0, option(littleEndian, optionOffset, "\x02\x01\x00\x00\x00\x00\x00\x00")),
				enhanced(littleEndian, 0, 3, 0, ""),
				section(bigEndian, 1), description(bigEndian, 1, 0, option(bigEndian, optionOffset, "\xff\xff\xff\xff\xff\xff\xff\xfe")),
				enhanced(bigEndian, 0, 3, 0, "")),
			"pcapng",
			[]FileInterface{{Link: 1}, {Link: 1}},
			`60: "" of 0, link 1, interface 0, 258000003000
152: "" of 0, link 1, interface 1, -1999997000
`, "",
		},
		{
			"pcapng, names",
			join(section(littleEndian, 1),
				description(littleEndian, 1, 0, option(littleEndian, optionName, "eth0\x00\x00"), option(littleEndian, optionDescription, strings.Repeat("é", 200))),
				description(littleEndian, 1, 0, option(littleEndian, optionEnd, ""), option(littleEndian, optionName, "behind the end")),
				description(littleEndian, 1, 0, option(littleEndian, optionName, strings.Repeat("x", 255)+"é"))),
			"pcapng",
			[]FileInterface{
				{Name: "eth0", Description: strings.Repeat("é", 128), Link: 1}, {Link: 1}, {Name: strings.Repeat("x", 255), Link: 1},
			},
			"", "",
		},
		{
			"pcapng, wrong interfaces",
			join(section(littleEndian, 1), simple(littleEndian, 1, "x"), description(littleEndian, 1, 0), enhanced(littleEndian, 1, 0, 1, "a"),
				enhanced(littleEndian, math.MaxUint32, 0, 1, "b"), enhanced(littleEndian, 0, 0, 1, "c"), obsolete(littleEndian, 1, 0, 1, "d")),
			"pcapng",
			[]FileInterface{{Link: 1}},
			"140: \"c\" of 1, link 1, interface 0, 0\n",
			"block 2 at byte 28 names interface 0, of 0, and 3 more have faults; 128 bytes skipped",
		},
		{
			"pcapng, interfaces of another section",
			join(section(littleEndian, 1), description(littleEndian, 1, 0), section(littleEndian, 1), enhanced(littleEndian, 0, 0, 1, "a")),
			"pcapng",
			[]FileInterface{{Link: 1}},
			"",
			"block 4 at byte 76 names interface 0, of 0; 36 bytes skipped",
		},
		{
			"pcapng, packets that their blocks cannot hold",
			join(section(littleEndian, 1), description(littleEndian, 1, 0),
				block(littleEndian, enhancedPacketBlock, words(littleEndian, 0, 0, 0, 5, 5), []byte("abcd")),
				block(littleEndian, enhancedPacketBlock, words(littleEndian, 0, 0, 0, 5)),
				block(littleEndian, packetBlock, words(littleEndian, 0, 0, 0, 5)),
				block(littleEndian, simplePacketBlock),
				simple(littleEndian, 5, "abcd"),
				enhanced(littleEndian, 0, 0, 1, "a")),
			"pcapng",
			[]FileInterface{{Link: 1}},
			"172: \"a\" of 1, link 1, interface 0, 0\n",
			"block 3 at byte 48 claims 5 bytes of a packet and has 4, and 4 more have faults; 124 bytes skipped",
		},
		{
			"pcapng, options that end beyond their block",
			join(section(littleEndian, 1), description(littleEndian, 1, 0, halves(littleEndian, optionName, 5), []byte("abcd")),
				enhanced(littleEndian, 0, 0, 1, "a", halves(littleEndian, optionFlags, 8), words(littleEndian, 1))),
			"pcapng",
			[]FileInterface{{Link: 1}},
			"56: \"a\" of 1, link 1, interface 0, 0\n",
			"block 2 at byte 28 has options that end beyond it, and 1 more have faults",
		},
		{
			"pcapng, a packet of unusual length behind a wrong one",
			join(section(littleEndian, 1), description(littleEndian, 1, 0), enhanced(littleEndian, 3, 0, 1, "a"), words(littleEndian, 6, 13, 0)),
			"pcapng",
			[]FileInterface{{Link: 1}},
			"",
			"block 3 at byte 48 names interface 3, of 1; block 4 at byte 84 has a length that no block has: 13; reading stopped there; 48 bytes skipped",
		},
		{
			"pcapng, a block without a length", join(section(littleEndian, 1), make([]byte, 16)), "pcapng", nil, "",
			"block 2 at byte 28 has a length that no block has: 0; reading stopped there; 16 bytes skipped",
		},
		{
			"pcapng, two lengths", join(section(littleEndian, 1), words(littleEndian, 9, 16, 0, 12)), "pcapng", nil, "",
			"block 2 at byte 28 has two lengths: 16 where it begins, 12 where it ends; reading stopped there; 16 bytes skipped",
		},
		{
			"pcapng, a length that is not there", join(section(littleEndian, 1), words(littleEndian, 9, 1<<20, 0, 12)), "pcapng", nil, "",
			"block 2 at byte 28 claims 1048576 bytes, 16 are left; reading stopped there; 16 bytes skipped",
		},
		{
			"pcapng, a block without a number", join(section(littleEndian, 1), block(littleEndian, interfaceBlock)), "pcapng", nil, "",
			"block 2 at byte 28 is too short for an interface; reading stopped there; 12 bytes skipped",
		},
		{
			"pcapng, a section of another version", join(section(littleEndian, 1), section(littleEndian, 2)), "pcapng", nil, "",
			"block 2 at byte 28 is of version 2.0; what can be read is 1.x; reading stopped there; 28 bytes skipped",
		},
		{
			"pcapng, a section without a byte order", join(section(littleEndian, 1), unordered(section(bigEndian, 1))), "pcapng", nil, "",
			"block 2 at byte 28 has no byte order mark but 00 00 00 00; reading stopped there; 28 bytes skipped",
		},
		{
			"pcapng, a section header that is short",
			join(section(littleEndian, 1), words(littleEndian, sectionHeaderBlock, 20, byteOrderMagic), halves(littleEndian, 1, 0), words(littleEndian, 20, 0, 0)), "pcapng", nil, "",
			"block 2 at byte 28 is too short for a section header; reading stopped there; 28 bytes skipped",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fileOf(t, tt.content)
			if got := say(rest(t, f)); got != tt.records {
				t.Errorf("records:\n%swant:\n%s", got, tt.records)
			}
			if f.Format() != tt.format {
				t.Errorf("format %q, want %q", f.Format(), tt.format)
			}
			if diff := cmp.Diff(tt.interfaces, f.Interfaces()); diff != "" {
				t.Errorf("interfaces, wanted and got:\n%s", diff)
			}
			if got := sayProblem(f); got != tt.problem {
				t.Errorf("problem %q,\nwant    %q", got, tt.problem)
			}
			if err := f.Next(new(Batch)); !errors.Is(err, io.EOF) {
				t.Errorf("behind the end: %v", err)
			}
			// What a pipe is read for, a file's size tells.
			saved, err := OpenFile(save(t, tt.content))
			if err != nil {
				t.Fatal(err)
			}
			defer saved.Close()
			if got := say(rest(t, saved)); got != tt.records || sayProblem(saved) != tt.problem {
				t.Errorf("as a file: problem %q, records:\n%s", sayProblem(saved), got)
			}
		})
	}
}

// TestFileRefused holds what is said of files that are no captures, or none
// that can be read.
func TestFileRefused(t *testing.T) {
	const readable = "; what can be read is pcap and pcapng, also packed by gzip or zstd"
	tests := []struct {
		name    string
		content []byte
		want    string
	}{
		{"empty", nil, "it is empty"},
		{"empty inside gzip", packGzip(t, nil), "it is empty inside gzip data"},
		{"text", []byte("TRACE: raw:PREROUTING:policy:2 IN=br0\n"), "it is text" + readable},
		{"short text", []byte("hi"), "it is text" + readable},
		{"text that ends inside a character", []byte(strings.Repeat("é", describeBytes)[1:] + "x")[1:], "it is text" + readable},
		{"long text", []byte("x" + strings.Repeat("é", describeBytes)), "it is text" + readable},
		{"text inside zstd", packZstd(t, []byte("hello")), "it is text inside zstd data" + readable},
		{"gzip inside gzip", packGzip(t, packGzip(t, smallPcap())), "it is gzip data inside gzip data" + readable},
		{"xz", []byte("\xfd7zXZ\x00\x00\x04"), "it is xz data" + readable},
		{"program", []byte("\x7fELF\x02\x01\x01"), "it is a program" + readable},
		{"bytes", []byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"), "it is data that begins with 00 01 02 03 04 05 06 07" + readable},
		{"a byte", []byte("\x0a\x0d\x0d\xff"), "it is data that begins with 0a 0d 0d ff" + readable},
		{"old pcap", join(words(littleEndian, pcapMicroseconds), halves(littleEndian, 1, 4), make([]byte, 16)), "it is a pcap of version 1.4; what can be read is 2.x"},
		{"pcapng of the future", section(bigEndian, 2), "it is a pcapng whose header is of version 2.0; what can be read is 1.x"},
		{"pcapng without byte order", unordered(section(bigEndian, 1)), "it is a pcapng whose header has no byte order mark but 00 00 00 00"},
		{"short pcap", smallPcap()[:23], "it ends inside the header of a pcap: 23 of 24 bytes"},
		{"short pcapng", smallPcapng()[:4], "it ends inside the header of a pcapng: 4 of 28 bytes"},
		{"short gzip", packGzip(t, smallPcap())[:5], "the gzip data is cut off"},
		{"damaged gzip", []byte("\x1f\x8b\x07 hello, world"), "the gzip data is damaged: gzip: invalid header"},
		{"damaged zstd", []byte("\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff\xff"), "the zstd data is damaged: reserved bit set on frame header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := save(t, tt.content)
			f, err := OpenFile(name)
			if err == nil {
				f.Close()
				t.Fatal("it was opened")
			}
			if got, want := err.Error(), "read "+name+": "+tt.want; got != want {
				t.Errorf("error %q,\nwant  %q", got, want)
			}
		})
	}
	if _, err := OpenFile(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	folder := t.TempDir()
	if _, err := OpenFile(folder); err == nil || strings.Count(err.Error(), folder) != 1 {
		t.Errorf("a folder: %v", err)
	}
	failed := errors.New("the cable is out")
	if _, err := NewFile("pipe", iotest.ErrReader(failed)); !errors.Is(err, failed) || !strings.HasPrefix(err.Error(), "read pipe: ") {
		t.Errorf("a pipe that fails: %v", err)
	}
}

// unordered takes the byte order mark out of a section header.
func unordered(header []byte) []byte {
	copy(header[8:], make([]byte, 4))
	return header
}

func packGzip(t testing.TB, parts ...[]byte) []byte {
	var b bytes.Buffer
	for _, p := range append(parts, nil)[:max(1, len(parts))] {
		w := gzip.NewWriter(&b)
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func packZstd(t testing.TB, parts ...[]byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var b []byte
	for _, p := range parts {
		b = w.EncodeAll(p, b)
	}
	return b
}

// TestFilePacked reads a file packed in several ways.
func TestFilePacked(t *testing.T) {
	content := smallPcapng()
	want := say(rest(t, fileOf(t, content)))
	skippable := []byte("\x52\x2a\x4d\x18\x03\x00\x00\x00abc")
	for name, tt := range map[string]struct {
		content []byte
		format  string
	}{
		"gzip":          {packGzip(t, content), "pcapng, gzip"},
		"gzip, members": {packGzip(t, content[:2], content[2:50], nil, content[50:]), "pcapng, gzip"},
		"zstd":          {packZstd(t, content), "pcapng, zstd"},
		"zstd, frames":  {join(skippable, packZstd(t, content[:2], content[2:50]), skippable, packZstd(t, content[50:]), skippable), "pcapng, zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			f := fileOf(t, tt.content)
			defer f.Close()
			if got := say(rest(t, f)); got != want || f.Format() != tt.format || f.Problem() != nil {
				t.Errorf("%q, problem %v, records:\n%swant:\n%s", f.Format(), f.Problem(), got, want)
			}
			if read, size := f.Position(); read != int64(len(tt.content)) || size != 0 {
				t.Errorf("read %d of %d bytes, want %d of 0", read, size, len(tt.content))
			}
		})
	}
}

// TestFilePackedDamaged reads packed files that are damaged: what was unpacked
// is there.
func TestFilePackedDamaged(t *testing.T) {
	content := smallPcap() // records end at 43, 59 and 80
	flip := func(b []byte, i int) []byte { b[i] ^= 0xff; return b }
	tests := []struct {
		name    string
		content []byte
		records int
		problem string
	}{
		{"gzip, cut", packGzip(t, content[:50], content[50:])[:100], 2, "record 3 at byte 59 cannot be read: the gzip data is cut off; reading stopped there; 1 byte skipped"},
		{"gzip, checksum", func() []byte { b := packGzip(t, content); return flip(b, len(b)-5) }(), 3, "record 4 at byte 80 cannot be read: the gzip data is damaged: gzip: invalid checksum; reading stopped there"},
		{"gzip, trailer missing", packGzip(t, content)[:len(packGzip(t, content))-1], 3, "record 4 at byte 80 cannot be read: the gzip data is cut off; reading stopped there"},
		{"gzip, followed by text", join(packGzip(t, content), []byte("hello, world, this is text")), 3, "record 4 at byte 80 cannot be read: the gzip data is damaged: gzip: invalid header; reading stopped there; 16 bytes skipped"},
		{"zstd, frames, cut", packZstd(t, content[:60], content[60:])[:75], 2, "record 3 at byte 59 cannot be read: the zstd data is cut off; reading stopped there; 1 byte skipped"},
		{"zstd, followed by text", join(packZstd(t, content), []byte("hello, world")), 3, "record 4 at byte 80 cannot be read: the zstd data is damaged: invalid input: magic number mismatch; reading stopped there; 8 bytes skipped"},
		{"zstd, window", join(packZstd(t, content), []byte("\x28\xb5\x2f\xfd\x00\x90\x00\x00\x00")), 3, "record 4 at byte 80 cannot be read: the zstd data is damaged: window size exceeded; reading stopped there; 3 bytes skipped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := OpenFile(save(t, tt.content))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got := len(rest(t, f)); got != tt.records {
				t.Errorf("%d records, want %d", got, tt.records)
			}
			if got := sayProblem(f); got != tt.problem {
				t.Errorf("problem %q,\nwant    %q", got, tt.problem)
			}
		})
	}
}

// TestFileCut cuts files everywhere: the records before the cut are there, and
// it is a problem unless it is between two records.
func TestFileCut(t *testing.T) {
	for name, tt := range map[string]struct {
		content []byte
		ends    []int // where the header, records and blocks end
		records []int // how many there are up to there
		header  int   // shorter files are refused
	}{
		"pcap":   {smallPcap(), []int{24, 43, 59, 80}, []int{0, 1, 2, 3}, pcapHeader},
		"pcapng": {smallPcapng(), []int{0, 40, 76, 112, 136, 160, 188, 208, 252}, []int{0, 0, 0, 1, 1, 2, 2, 2, 3}, sectionHeader},
	} {
		t.Run(name, func(t *testing.T) {
			if last := tt.ends[len(tt.ends)-1]; last != len(tt.content) {
				t.Fatalf("the file has %d bytes, the test %d", len(tt.content), last)
			}
			whole := rest(t, fileOf(t, tt.content))
			for n := range tt.content {
				f, err := NewFile(name, bytes.NewReader(tt.content[:n]))
				if n < tt.header {
					if err == nil {
						t.Errorf("%d bytes of a header are read as a file", n)
					}
					continue
				}
				if err != nil {
					t.Fatalf("cut to %d: %v", n, err)
				}
				last := 0
				for last+1 < len(tt.ends) && tt.ends[last+1] <= n {
					last++
				}
				end, records := tt.ends[last], whole[:tt.records[last]]
				if got, want := say(rest(t, f)), say(records); got != want {
					t.Errorf("cut to %d: records\n%swant:\n%s", n, got, want)
				}
				switch p := f.Problem(); {
				case n == end && p != nil:
					t.Errorf("cut to %d, where a record ends: %v", n, p)
				case n != end && (p == nil || !p.Stopped || p.Offset != int64(end) || p.Skipped != int64(n-end)):
					t.Errorf("cut to %d, a record began at %d: problem %+v", n, end, p)
				}
			}
		})
	}
}

// generate makes a pcapng of n packets of random lengths on two interfaces;
// one in some thousand may be larger than a batch, and some blocks are none of
// packets.
func generate(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	content := join(section(littleEndian, 1),
		description(littleEndian, 1, 0, option(littleEndian, optionName, "a"), option(littleEndian, optionResolution, "\x09")),
		description(littleEndian, 1, 0, option(littleEndian, optionName, "b")))
	filler := strings.Repeat("0123456789abcdef", 3<<20/16)
	for i := range n {
		length := r.IntN(1500)
		switch r.IntN(2000) {
		case 0:
			length = r.IntN(3 << 20)
		case 1:
			content = append(content, block(littleEndian, 5, []byte(filler[:r.IntN(2<<20)]))...)
		}
		if length > 0 {
			content = append(content, enhanced(littleEndian, uint32(i&1), uint64(i), uint32(length), filler[i%7:][:max(0, length-i%7)])...)
		}
	}
	return content
}

// TestFileReads reads files in reads of several sizes, which must not matter.
func TestFileReads(t *testing.T) {
	for name, content := range map[string][]byte{
		"pcap":        smallPcap(),
		"pcapng":      smallPcapng(),
		"pcapng, cut": smallPcapng()[:250],
		"gzip":        packGzip(t, smallPcapng()),
		"zstd":        packZstd(t, smallPcapng()),
		"large":       generate(1500, 7),
		"large, cut":  generate(1500, 11)[:1<<20],
		"tiny":        join(pcapStart(littleEndian, pcapNanoseconds, 0, 1), bytes.Repeat(pcapRecord(littleEndian, 1, 2, 3, "a"), 20_000)),
	} {
		t.Run(name, func(t *testing.T) {
			f := fileOf(t, content)
			want := rest(t, f)
			if len(want) == 0 {
				t.Fatal("nothing was read")
			}
			for how, reader := range map[string]func(io.Reader) io.Reader{
				"bytes":     iotest.OneByteReader,
				"halves":    iotest.HalfReader,
				"end early": iotest.DataErrReader,
			} {
				g, err := NewFile(name, reader(bytes.NewReader(content)))
				if err != nil {
					t.Fatal(err)
				}
				got := rest(t, g)
				if !reflect.DeepEqual(want, got) {
					t.Errorf("by %s: %d records, want %d", how, len(got), len(want))
				}
				if a, b := sayProblem(f), sayProblem(g); a != b {
					t.Errorf("by %s: problem %q, want %q", how, b, a)
				}
			}
		})
	}
}

// TestFileReadFails has a pipe that fails, and one that gives nothing.
func TestFileReadFails(t *testing.T) {
	for name, tt := range map[string]struct {
		then    io.Reader
		problem string
	}{
		"fails":   {iotest.ErrReader(errors.New("the cable is out")), "record 4 at byte 80 cannot be read: the cable is out; reading stopped there"},
		"nothing": {nothing{}, "record 4 at byte 80 cannot be read: multiple Read calls return no data or error; reading stopped there"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewFile("pipe", io.MultiReader(bytes.NewReader(smallPcap()), tt.then))
			if err != nil {
				t.Fatal(err)
			}
			if got := len(rest(t, f)); got != 3 || sayProblem(f) != tt.problem {
				t.Errorf("%d records, problem %q, want %q", got, sayProblem(f), tt.problem)
			}
		})
	}
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, nil }

// TestFileEndless has a pipe without an end, behind a length that is wrong.
func TestFileEndless(t *testing.T) {
	f, err := NewFile("pipe", io.MultiReader(bytes.NewReader(join(smallPcap(), words(littleEndian, 0, 0, 1<<31, 0))), endless{}))
	if err != nil {
		t.Fatal(err)
	}
	records := rest(t, f)
	const want = "record 4 at byte 80 claims 2147483648 bytes, and what can be read is 16777216; reading stopped there; at least 107"
	if len(records) != 3 || f.Problem().Skipped < maxRest || !strings.HasPrefix(sayProblem(f), want) {
		t.Errorf("%d records, problem %q,\nwant %q", len(records), sayProblem(f), want)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// TestFileInterfaces reads as many interfaces as there may be, and one more.
func TestFileInterfaces(t *testing.T) {
	for name, tt := range map[string]struct {
		interfaces int
		problem    string
	}{
		"126": {126, ""}, "65536": {65536, ""},
		"65537": {65537, "block 65538 at byte 1310748 describes an interface, and what can be read is 65536 of them; reading stopped there; 56 bytes skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			f := fileOf(t, join(section(littleEndian, 1), bytes.Repeat(description(littleEndian, 1, 0), tt.interfaces), enhanced(littleEndian, uint32(tt.interfaces-1), 0, 1, "a")))
			records := rest(t, f)
			if got := sayProblem(f); got != tt.problem || len(f.Interfaces()) != min(tt.interfaces, maxInterfaces) {
				t.Errorf("%d interfaces, problem %q, want %q", len(f.Interfaces()), got, tt.problem)
			}
			if tt.problem == "" && records[0].Interface != int32(tt.interfaces-1) {
				t.Errorf("the packet's interface is %d", records[0].Interface)
			}
		})
	}
}

// TestFileBatches hands batches on, and fills others meanwhile.
func TestFileBatches(t *testing.T) {
	content := generate(4000, 4)
	want := rest(t, fileOf(t, content))
	f := fileOf(t, content)
	first := f.Interfaces()
	var batches []*Batch
	for {
		b := new(Batch)
		if err := f.Next(b); err != nil {
			break
		}
		batches = append(batches, b)
	}
	var got []Record
	for _, b := range batches {
		got = append(got, b.Records...)
	}
	if !reflect.DeepEqual(want, got) || len(batches) < 3 {
		t.Errorf("%d batches have other records than one at a time", len(batches))
	}
	if len(first) != 0 || len(f.Interfaces()) != 2 {
		t.Errorf("%d interfaces before, %d behind", len(first), len(f.Interfaces()))
	}
}

// TestFileBatchShared fills one batch from two files by turns, as a pool of
// batches may.
func TestFileBatchShared(t *testing.T) {
	contents := [][]byte{generate(4000, 4), generate(4000, 6)}
	files := []*File{fileOf(t, contents[0]), fileOf(t, contents[1])}
	got := make([][]Record, 2)
	var b Batch
	for i, ended := 0, 0; ended < 2; i = 1 - i {
		if files[i].Next(&b) != nil {
			ended++
			continue
		}
		ended = 0
		for _, r := range b.Records {
			r.Data = bytes.Clone(r.Data)
			got[i] = append(got[i], r)
		}
	}
	for i := range files {
		if want := rest(t, fileOf(t, contents[i])); !reflect.DeepEqual(want, got[i]) {
			t.Errorf("file %d has other records than alone", i)
		}
	}
}

// allocated returns the bytes that are allocated by f, whether freed or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestFileMemory reads files that claim or hold more than fits.
func TestFileMemory(t *testing.T) {
	zeros := func(n int) []byte { return join(pcapStart(littleEndian, pcapMicroseconds, 0, 1), make([]byte, n)) }
	for name, tt := range map[string]struct {
		content []byte
		records int
		limit   uint64
	}{
		"claims":    {join(pcapStart(littleEndian, pcapMicroseconds, 0, 1), words(littleEndian, 0, 0, maxRecordBytes, 0)), 0, 64 << 10},
		"gzip bomb": {packGzip(t, zeros(16<<20)), 1 << 20, 256 << 10},
		"zstd bomb": {packZstd(t, zeros(16<<20)), 1 << 20, 24 << 20},
		"many":      {generate(5000, 4), 4995, 12 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			b := new(Batch)
			b.reset(nil, 0)
			records := 0
			got := allocated(func() {
				f := fileOf(t, tt.content)
				defer f.Close()
				for f.Next(b) == nil {
					records += len(b.Records)
				}
			})
			if got > tt.limit || records != tt.records {
				t.Errorf("%d bytes were allocated for %d records; want at most %d for %d", got, records, tt.limit, tt.records)
			}
		})
	}
}

// TestFileClose closes more than once, and leaves open what it did not open.
func TestFileClose(t *testing.T) {
	name := save(t, packZstd(t, smallPcap()))
	f, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if f, err = NewFile(name, file); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := file.Stat(); err != nil {
		t.Errorf("the caller's file: %v", err)
	}
}
