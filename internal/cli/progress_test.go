package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/offline"
)

func TestProgressBar(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	bar := &progressBar{w: &out, now: func() time.Time { return now }}
	bar.start()
	step := func(after time.Duration, read int64, want string) {
		t.Helper()
		out.Reset()
		now = now.Add(after)
		bar.update(offline.Progress{Read: read, Size: 1000, Packets: 1_250_000})
		if out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
	bar.clear()
	step(900*time.Millisecond, 100, "")
	step(1100*time.Millisecond, 250, "\r\x1b[Kreading [#####...............]  25 %, 1.2 M packets, 6s left")
	step(100*time.Millisecond, 300, "") // not so often
	step(1900*time.Millisecond, 2000, "\r\x1b[Kreading [####################] 100 %, 1.2 M packets, 0s left")
	out.Reset()
	if bar.clear(); out.String() != "\r\x1b[K" {
		t.Errorf("clear wrote %q", out.String())
	}
	if got := progressText(offline.Progress{Packets: 3_000_000}, time.Second); got != "reading: 3.0 M packets" {
		t.Errorf("of an unknown size: %q", got)
	}
}

// TestProgressUnseen draws nothing where nobody looks.
func TestProgressUnseen(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	bar := newProgressBar(&environment{err: &errs})
	bar.next = time.Time{}
	bar.update(offline.Progress{})
	if bar.clear(); errs.Len() > 0 {
		t.Errorf("wrote %q", errs.String())
	}
}
