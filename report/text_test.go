package report

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares output with a file of testdata, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func text(t *testing.T, r *Report, o TextOptions) string {
	t.Helper()
	var b bytes.Buffer
	if err := Text(&b, r, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTextGolden(t *testing.T) {
	for name, sample := range samples() {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Join("testdata", name+".txt"), []byte(text(t, sample(), TextOptions{Unicode: true})))
		})
	}
	variants := map[string]TextOptions{
		"replied-minimal": {Unicode: true, Detail: DetailMinimal},
		"replied-full":    {Unicode: true, Detail: DetailFull},
		"replied-ascii":   {},
		"replied-wide":    {Unicode: true, Width: 160},
		"replied-narrow":  {Unicode: true, Width: 50},
		"replied-color":   {Unicode: true, Color: true},
	}
	for name, o := range variants {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Join("testdata", name+".txt"), []byte(text(t, replied(), o)))
		})
	}
	tables := map[string]TextOptions{
		"flows-minimal": {Unicode: true, Detail: DetailMinimal},
		"flows-full":    {Unicode: true, Detail: DetailFull},
		"flows-ascii":   {Detail: DetailMinimal},
		"flows-wide":    {Unicode: true, Detail: DetailMinimal, Width: 160},
		"flows-color":   {Unicode: true, Detail: DetailMinimal, Color: true},
	}
	for name, o := range tables {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Join("testdata", name+".txt"), []byte(text(t, manyFlows(), o)))
		})
	}
}

// TestTextWidth proves that nothing but rules and commands is longer than the
// line, at any detail.
// TestTextOne counts one of a thing as one.
func TestTextOne(t *testing.T) {
	r := manyFlows()
	r.Totals.Evicted, r.Totals.EvictedPackets = 1, 1
	if got, want := text(t, r, TextOptions{Width: 200}), "  1 flow with 1 packet given up to bound memory, and not listed;"; !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
}

func TestTextWidth(t *testing.T) {
	for name, sample := range samples() {
		if name == "hostile" { // its addresses are longer than a line
			continue
		}
		r := sample()
		var whole []string
		add := func(rule *Rule) {
			if rule != nil {
				whole = append(whole, rule.Text)
			}
		}
		add(r.Verdict.Rule)
		for _, hop := range append(r.Legs.Request, r.Legs.Reply...) {
			for _, s := range hop.Steps {
				add(s.Rule)
			}
		}
		for _, translation := range r.Translations {
			add(translation.Rule)
		}
		for _, f := range r.Findings {
			whole = append(whole, f.Fix...)
		}
		for _, detail := range []Detail{DetailMinimal, DetailSummary, DetailFull} {
			for _, width := range []int{0, 60, 80, 132} {
				limit := width
				if width == 0 {
					limit = 80
				}
				for line := range strings.Lines(text(t, r, TextOptions{Unicode: true, Width: width, Detail: detail})) {
					line = strings.TrimSuffix(line, "\n")
					rest := line
					for _, w := range whole {
						// These end their line, as long as they are.
						if before, ok := strings.CutSuffix(line, w); ok {
							rest = before
						}
					}
					if lipgloss.Width(rest) > limit {
						t.Errorf("%s, detail %s, width %d: longer than the line: %q", name, detail, width, line)
					}
					if strings.TrimRight(line, " ") != line {
						t.Errorf("%s, detail %s, width %d: ends with spaces: %q", name, detail, width, line)
					}
				}
			}
		}
	}
}

// TestTextWholeCommands proves that commands and rules can be copied as they
// are, however narrow the terminal.
func TestTextWholeCommands(t *testing.T) {
	r := droppedByPolicy()
	got := text(t, r, TextOptions{Width: 40})
	for _, command := range r.Findings[0].Fix {
		if !strings.Contains(got, "\n      "+command+"\n") {
			t.Errorf("%q is not on a line of its own in:\n%s", command, got)
		}
	}
}

// TestTextHostile proves that no text of a report reaches the terminal as
// anything but printable characters, at any detail.
func TestTextHostile(t *testing.T) {
	for name, sample := range map[string]func() *Report{"one packet": hostile, "flows": hostileTable} {
		for _, detail := range []Detail{DetailMinimal, DetailSummary, DetailFull} {
			got := text(t, sample(), TextOptions{Unicode: true, Detail: detail})
			for _, r := range got {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("%s, detail %s: %U is printed as it is", name, detail, r)
				}
			}
			if regexp.MustCompile(`(?m)^REPLIED`).MatchString(got) {
				t.Errorf("%s, detail %s: a line break of the input starts a line:\n%s", name, detail, got)
			}
			for _, r := range text(t, sample(), TextOptions{Detail: detail}) {
				if r > unicode.MaxASCII {
					t.Errorf("%s, detail %s: %U in ASCII output", name, detail, r)
				}
			}
		}
	}
}

// TestTextColor proves that colours add nothing but themselves.
func TestTextColor(t *testing.T) {
	for name, sample := range samples() {
		colored := text(t, sample(), TextOptions{Unicode: true, Color: true})
		if !strings.Contains(colored, "\x1b[") {
			t.Errorf("%s: no colour", name)
		}
		bare := regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(colored, "")
		if diff := cmp.Diff(text(t, sample(), TextOptions{Unicode: true}), bare); diff != "" {
			t.Errorf("%s: with colours (-without +with):\n%s", name, diff)
		}
	}
}

func TestTextOutcomes(t *testing.T) {
	tests := []struct {
		outcome Outcome
		leg     string
		want    string
	}{
		{Replied, "reply", "REPLIED. Said."},
		{Delivered, "request", "DELIVERED. Said."},
		{Dropped, "request", "DROPPED on the way there. Said."},
		{Dropped, "reply", "DROPPED on the way back. Said."},
		{Rejected, "request", "REJECTED. Said."},
		{Lost, "request", "NO ANSWER. Said."},
		{Unsent, "request", "NOT SENT. Said."},
		{Inconclusive, "", "INCONCLUSIVE. Said."},
	}
	for _, tt := range tests {
		r := replied()
		r.Verdict = Verdict{Outcome: tt.outcome, Leg: tt.leg, Summary: "Said.", Confidence: Observed}
		if got := text(t, r, TextOptions{}); !strings.Contains(got, "\n"+tt.want+"\n") {
			t.Errorf("outcome %s, leg %s: no line %q in:\n%s", tt.outcome, tt.leg, tt.want, got)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteErrors(t *testing.T) {
	const want = "write report: disk full"
	if err := Text(broken{}, replied(), TextOptions{}); err == nil || err.Error() != want {
		t.Errorf("Text: got %v, want %s", err, want)
	}
	if err := JSON(broken{}, replied()); err == nil || err.Error() != want {
		t.Errorf("JSON: got %v, want %s", err, want)
	}
}

func TestEscape(t *testing.T) {
	tests := []struct{ in, want string }{
		{`iifname "eth0" drop # naïve → 日本`, `iifname "eth0" drop # naïve → 日本`},
		{"a\tb\nc\x1b[31m\x7f", `a\x09b\x0ac\x1b[31m\x7f`},
		{"\u202eabc\u2066\u200b\u2028\ufeff\u0085", `\u202eabc\u2066\u200b\u2028\ufeff\u0085`},
		{"\xff\xc3", `\xff\xc3`},
		{"\ufffd\U000e0041\u00a0", `\ufffd\U000e0041\u00a0`},
		{"", ""},
	}
	for _, tt := range tests {
		if got := Escape(tt.in); got != tt.want {
			t.Errorf("Escape(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("abc\x1b\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := Escape(s)
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("Escape(%q) = %q has %U", s, got, r)
			}
		}
		if again := Escape(got); again != got {
			t.Fatalf("Escape(%q) = %q, but again it is %q", s, got, again)
		}
	})
}

// TestTextLoop leaves out all rounds of a packet that goes in circles but the
// first and the last, unless everything is asked for.
func TestTextLoop(t *testing.T) {
	var r Report
	for range 5 {
		r.Legs.Request = append(r.Legs.Request,
			Hop{NetNS: "a", Interface: "eth0", Direction: "ingress"}, Hop{NetNS: "a", Interface: "eth1", Direction: "egress"})
	}
	for detail, want := range map[Detail]int{DetailSummary: 2, DetailFull: 5} {
		var b strings.Builder
		if err := Text(&b, &r, TextOptions{Detail: detail, Width: 80}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(b.String(), "eth1"); got != want || strings.Contains(b.String(), "3 times") != (want == 2) {
			t.Errorf("%d rounds, want %d:\n%s", got, want, b.String())
		}
	}
}

// TestHeadlineLacks: an answer is not all where packets are missing, or something
// was not answered.
func TestHeadlineLacks(t *testing.T) {
	for want, f := range map[string]Flow{
		"REPLIED, packets MISSING.":                 {Fall: &Fall{}},
		"REPLIED, packets MISSING, 1 NOT ANSWERED.": {Fall: &Fall{}, Unanswered: 1},
		"REPLIED, data there NOT ACKNOWLEDGED.":     {Unacknowledged: "request"},
		"REPLIED, data back NOT ACKNOWLEDGED.":      {Unacknowledged: "reply"},
	} {
		f.Outcome = Replied
		r := &Report{Verdict: Verdict{Outcome: Replied, Elapsed: 1}, Flows: []Flow{f}}
		if got, tone := headlineOf(r); got != want || tone != bad || f.grade() == well {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestMissingText: how much is missing, or at least how much.
func TestMissingText(t *testing.T) {
	for want, f := range map[string]Fall{
		"2 MISSING":                       {Packets: 2},
		"1720 B of data MISSING":          {Bytes: 1720},
		"at least 1 MISSING":              {Packets: 1, Least: true},
		"at least 7240 B of data MISSING": {Bytes: 7240, Least: true},
	} {
		if got := missingText(&f); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
