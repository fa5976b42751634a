package textlog

import (
	"strconv"
	"strings"
	"time"
)

// Stamp is when a line was written, as far as what stands before it tells.
type Stamp struct {
	// Wall is zero where no date with a time zone is told. Dates without one,
	// as "Nov 26 05:47:33" of syslog and what dmesg -T prints, are left out: the
	// machine that reads a log need not be where it was written, and dmesg -T
	// is wrong after a suspend.
	Wall time.Time
	// Uptime is the time since the machine was started, which dmesg prints; 0
	// where it is not told. It says nothing about the time of day.
	Uptime time.Duration
}

// epoch tells seconds since 1970 from seconds since boot: no machine runs for 31
// years.
const epoch = 1_000_000_000

// maxSeconds is the last second that RFC 3339 can print.
const maxSeconds = 253_402_300_799

// StampOf reads what stands before a line's own text: "[12.345678] " of dmesg,
// "2026-11-26T05:47:33.123456+01:00 host kernel: " of syslog and journalctl -o
// short-iso-precise, "1795672053.123456 host kernel: " of -o short-unix, and what
// conntrack -o timestamp prints. A line may have several of them.
func StampOf(prefix string) Stamp {
	var s Stamp
	prefix = strings.ReplaceAll(prefix, "[", " [ ")
	fields := strings.Fields(strings.ReplaceAll(prefix, "]", " ] "))
	for i, field := range fields {
		switch {
		case i > 0 && fields[i-1] == "[" && i+1 < len(fields) && fields[i+1] == "]":
			s.seconds(field)
		case i == 0:
			if !s.seconds(field) {
				s.date(field)
			}
		}
	}
	return s
}

// seconds reads "12.345678".
func (s *Stamp) seconds(text string) bool {
	whole, fraction, found := strings.Cut(text, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || !found || fraction == "" || len(fraction) > 9 || n > maxSeconds {
		return false
	}
	nanoseconds, err := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 32)
	if err != nil {
		return false
	}
	if n < epoch {
		s.Uptime = time.Duration(n)*time.Second + time.Duration(nanoseconds)
	} else {
		s.Wall = time.Unix(int64(n), int64(nanoseconds)).UTC()
	}
	return true
}

// date reads RFC 3339, and the forms of it that journalctl and dmesg have: a
// zone without a colon, a comma before the fraction.
func (s *Stamp) date(text string) {
	text = strings.Replace(text, ",", ".", 1)
	for _, layout := range []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700"} {
		if at, err := time.Parse(layout, text); err == nil {
			s.Wall = at.UTC()
			return
		}
	}
}
