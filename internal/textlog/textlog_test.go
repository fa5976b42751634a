package textlog

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	long := strings.Repeat("x", 3*MaxLine)
	r := NewReader(strings.NewReader("one\r\n\n" + long + "\nlast"))
	for i, want := range []Line{{1, "one", false}, {2, "", false}, {3, long[:MaxLine], true}, {4, "last", false}} {
		got, err := r.Next()
		if err != nil || got != want {
			t.Errorf("line %d: number %d, %d bytes, cut %v, %v", i+1, got.Number, len(got.Text), got.Cut, err)
		}
	}
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("behind the last line: %v", err)
		}
	}
}

func TestLooks(t *testing.T) {
	tests := []struct{ head, want string }{
		{"", "an empty file"},
		{" \n", "an empty file"},
		{"\xd4\xc3\xb2\xa1\x02\x00\x04\x00", "a capture file"},
		{"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00", "a capture file"},
		{"\x1f\x8b\x08", "compressed with gzip"},
		{"\xff\xfet\x00c\x00p\x00", "text in UTF-16"},
		{"tcp\x00", "a binary file"},
		{"\n[ {", "JSON"},
		{"[]", "JSON"},
		{"[", ""},
		{"{}", "JSON"},
		{"[12.3] TRACE: raw:PREROUTING:policy:2 IN=", "a trace of rules"},
		{"# Generated\n*filter\n", "a ruleset"},
		{"tcp 6 1 [UNREPLIED] src=", "a list of conntrack entries"},
		{"<html>", "XML or HTML"},
		{"[1795672052.752264] hello", ""},
	}
	for _, tt := range tests {
		if got := Looks([]byte(tt.head)); got != tt.want {
			t.Errorf("%q looks like %q, want %q", tt.head, got, tt.want)
		}
	}
}

func TestStampOf(t *testing.T) {
	wall := time.Date(2026, 11, 26, 4, 47, 33, 123456000, time.UTC)
	tests := []struct {
		prefix string
		want   Stamp
	}{
		{"", Stamp{}},
		{"[5121056.357116] ", Stamp{Uptime: 5121056*time.Second + 357116*time.Microsecond}},
		{"[   12.5] ", Stamp{Uptime: 12500 * time.Millisecond}},
		{"Nov 26 05:47:33 host kernel: [   12.500000] ", Stamp{Uptime: 12500 * time.Millisecond}},
		{"Nov 26 05:47:33 host kernel: ", Stamp{}},
		{"[Thu Nov 26 05:47:33 2026] ", Stamp{}},
		{"2026-11-26T05:47:33.123456+01:00 host kernel: [12.500000] ", Stamp{Wall: wall, Uptime: 12500 * time.Millisecond}},
		{"2026-11-26T05:47:33.123456+0100 host kernel: ", Stamp{Wall: wall}},
		{"2026-11-26T04:47:33,123456Z ", Stamp{Wall: wall}},
		{"1795668453.123456 host kernel: ", Stamp{Wall: wall}},
		{"[1795668453.123456]\t   ", Stamp{Wall: wall}},
		{"[99999999999999999999.1] ", Stamp{}},
		{"[999999999999.1] ", Stamp{}},
		{"[12.-5] ", Stamp{}},
		{"[12.1234567890] ", Stamp{}},
		{"host conntrack[12]: ", Stamp{}},
	}
	for _, tt := range tests {
		if got := StampOf(tt.prefix); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.prefix, got, tt.want)
		}
	}
}

func TestProblems(t *testing.T) {
	var p Problems
	for i := range 2 * maxProblems {
		p.Add(i+1, "broken")
	}
	if len(p) != maxProblems || p[0].String() != "line 1: broken" {
		t.Errorf("%d problems, the first %q", len(p), p[0])
	}
	if got := Quote("a\x1b" + strings.Repeat("é", 100)); len(got) > 80 || strings.Contains(got, "\x1b") {
		t.Errorf("quoted as %s", got)
	}
}

func TestUnusable(t *testing.T) {
	for looks, want := range map[string]string{
		"":               "read x: no line of it is understood; expected a log",
		"a capture file": "read x: this is a capture file; expected a log",
	} {
		if got := Unusable("x", looks, "a log").Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
