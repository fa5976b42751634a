package textlog

import (
	"bytes"
	"encoding/binary"
)

// magics are the beginnings of files that are no text.
var magics = []struct {
	bytes string
	is    string
}{
	{"\xa1\xb2\xc3\xd4", "a capture file"}, // pcap, microseconds, in both byte orders
	{"\xd4\xc3\xb2\xa1", "a capture file"},
	{"\xa1\xb2\x3c\x4d", "a capture file"}, // nanoseconds
	{"\x4d\x3c\xb2\xa1", "a capture file"},
	{"\xa1\xb2\xcd\x34", "a capture file"}, // Kuznetzov's variant
	{"\x34\xcd\xb2\xa1", "a capture file"},
	{"\x0a\x0d\x0d\x0a", "a capture file"}, // pcapng
	{"\x1f\x8b", "compressed with gzip"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd"},
	{"\xfd7zXZ\x00", "compressed with xz"},
	{"BZh", "compressed with bzip2"},
	{"PK\x03\x04", "a zip file"},
	{"\x7fELF", "a program"},
}

// texts are words by which other text files are known.
var texts = []struct {
	word string
	is   string
}{
	{"TRACE: ", "a trace of rules"},
	{"trace id ", "a trace of rules"},
	{"*filter", "a ruleset"},
	{"*nat", "a ruleset"},
	{"*raw", "a ruleset"},
	{"*mangle", "a ruleset"},
	{"-P INPUT ", "a ruleset"},
	{"table ip", "a ruleset"},
	{"table inet ", "a ruleset"},
	{"[UNREPLIED]", "a list of conntrack entries"},
	{"[ASSURED]", "a list of conntrack entries"},
	{"<conntrack>", "a list of conntrack entries"},
}

// Looks says what a file is by its beginning: "a capture file", "compressed
// with gzip", "JSON", "empty" and so on. It is "" for a text of no known kind.
func Looks(head []byte) string {
	if len(head) == 0 {
		return "an empty file"
	}
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.is
		}
	}
	// A pcapng section may have been cut off its header, or a disk image begin
	// with zeros: no text has those.
	if bytes.IndexByte(head, 0) >= 0 {
		if len(head) >= 2 && (binary.BigEndian.Uint16(head) == 0xfeff || binary.LittleEndian.Uint16(head) == 0xfeff) {
			return "text in UTF-16"
		}
		return "a binary file"
	}
	for _, t := range texts {
		if bytes.Contains(head, []byte(t.word)) {
			return t.is
		}
	}
	const spaces = " \t\r\n\ufeff"
	switch text := bytes.TrimLeft(head, spaces); {
	case len(text) == 0:
		return "an empty file"
	case text[0] == '{', text[0] == '[' && isElement(bytes.TrimLeft(text[1:], spaces)):
		return "JSON"
	case text[0] == '<':
		return "XML or HTML"
	}
	return ""
}

// isElement reports whether a JSON list may go on so; a time stamp does not.
func isElement(text []byte) bool {
	return len(text) > 0 && bytes.IndexByte([]byte(`{["]`), text[0]) >= 0
}
