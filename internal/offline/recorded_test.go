package offline

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/recording"
	"github.com/pathtrace/pathtrace/report"
)

var update = flag.Bool("update", false, "write the golden files")

// TestRecorded analyses what the lab's networks left in captures and logs, and
// holds it against the truth beside it and against how it read before.
func TestRecorded(t *testing.T) {
	all, err := recording.All(recording.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		r := &all[i]
		t.Run(r.Name, func(t *testing.T) {
			in := analyzed(t, r)
			var text bytes.Buffer
			write := func(r *report.Report) {
				r.Started, r.Finished = time.Time{}, time.Time{}
				if err := report.Text(&text, r, report.TextOptions{Detail: report.DetailSummary, Unicode: true, Width: 100}); err != nil {
					t.Fatal(err)
				}
			}
			table := Table(in, Selection{}, 0)
			write(table)
			for k := range r.Truth.Flows {
				want := &r.Truth.Flows[k]
				at := slices.IndexFunc(table.Flows, func(f report.Flow) bool { return isOf(&f, want) })
				if at < 0 {
					t.Errorf("no flow for %s", want.What)
					continue
				}
				got, err := Explain(t.Context(), in, table.Flows[at].Number-1)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&text, "\n----- %s\n\n", want.What) //nolint:errcheck // into memory
				write(got)
				hold(t, want, got)
				if row, v := &table.Flows[at], &got.Verdict; row.Outcome != v.Outcome || row.Leg != v.Leg || row.Code != v.Code {
					t.Errorf("%s: %s %s %s in the table, %s %s %s explained", want.What, row.Outcome, row.Leg, row.Code, v.Outcome, v.Leg, v.Code)
				}
			}
			golden(t, r.Name+".txt", text.Bytes())
		})
	}
}

// analyzed reads a recording as analyze does.
func analyzed(t *testing.T, r *recording.Recording) *Input {
	t.Helper()
	var sources []Source
	for _, file := range r.Truth.Files {
		s := Source{Path: r.Path(file.Name), Name: file.Name}
		if len(file.Points) == 1 {
			s.Point = file.Points[0]
		}
		sources = append(sources, s)
	}
	log := func(names ...string) (all []LogFile) {
		for _, name := range names {
			if r.Has(name) {
				all = append(all, LogFile{Name: name, Open: func() (io.ReadCloser, error) { return os.Open(r.Path(name)) }})
			}
		}
		return all
	}
	logs, err := ReadLogs(LogFiles{
		Conntrack: log(recording.ConntrackFile, recording.TableFile), Trace: log(recording.TraceFile), Rules: log(recording.RulesFile, recording.RulesetFile),
	})
	if err != nil {
		t.Fatal(err)
	}
	in, err := Read(t.Context(), sources, logs, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// isOf reports whether a flow is that of the truth.
func isOf(f *report.Flow, want *recording.Flow) bool {
	first := want.Request[0]
	return f.Tuple.Protocol == want.Protocol && f.Tuple.Source == first.Source && f.Tuple.Destination == first.Destination
}

// hold compares an explanation with the truth: how it ended, where the packets
// were seen, what was translated, and the rule that dropped them.
func hold(t *testing.T, want *recording.Flow, got *report.Report) {
	t.Helper()
	v := &got.Verdict
	outcome := string(v.Outcome)
	soon := strings.Contains(v.Summary, "it would not show a later answer")
	if outcome != want.Outcome && !(want.Outcome == "lost" && outcome == "inconclusive" && soon) && !(want.Outcome == "dropped" && outcome == "lost") {
		t.Errorf("%s: %s (%s), want %s", want.What, outcome, v.Summary, want.Outcome)
	}
	if v.Outcome == report.Dropped && want.Rule != nil && (v.Rule == nil || v.Rule.Chain != want.Rule.Chain || v.Rule.Text != want.Rule.Text) {
		t.Errorf("%s: dropped by %+v, want %+v", want.What, v.Rule, want.Rule)
	}
	for leg, stops := range map[string][]recording.Stop{"request": want.Request, "reply": want.Reply} {
		if strings.HasSuffix(want.Request[0].Point, "/any") {
			continue // the truth does not tell its interfaces apart
		}
		wanted, seen := stopsOf(stops), pointsOfLeg(&got.Flows[0], leg)
		if bridged(stops) {
			// The copy for a promiscuous bridge is made when the packet has been sent
			// on: its place is beside the way.
			copied := func(stop string) bool { return strings.HasPrefix(stop, "host/docker0 ") }
			wanted, seen = slices.DeleteFunc(wanted, copied), slices.DeleteFunc(seen, copied)
		}
		if diff := cmp.Diff(wanted, seen); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", want.What, leg, diff)
		}
	}
	for _, tr := range want.Translations {
		if !slices.ContainsFunc(got.Translations, func(g report.Translation) bool {
			return g.Leg == tr.Leg && g.Field == tr.Field && g.From == tr.From && g.To == tr.To && (tr.Leg == "reply" || g.Kind == tr.Kind || g.Rule == nil)
		}) {
			t.Errorf("%s: no translation %+v among %+v", want.What, tr, got.Translations)
		}
	}
}

// bridged reports whether packets went from one port of docker0 to another.
func bridged(stops []recording.Stop) bool {
	ports := 0
	for _, s := range stops {
		if strings.HasPrefix(s.Point, "host/veth") {
			ports++
		}
	}
	return ports > 1
}

func stopsOf(stops []recording.Stop) (all []string) {
	for _, s := range stops {
		all = append(all, fmt.Sprintf("%s %s → %s %s", s.Point, s.Source, s.Destination, s.Tunnel))
	}
	return all
}

func pointsOfLeg(f *report.Flow, leg string) (all []string) {
	for _, p := range f.Points {
		if p.Leg != leg || p.Tuple == nil {
			continue
		}
		place := p.Interface
		if p.NetNS != "" {
			place = p.NetNS + "/" + p.Interface
		}
		stop := fmt.Sprintf("%s %s → %s %s", place, p.Tuple.Source, p.Tuple.Destination, strings.Join(p.Tunnels, " "))
		if !slices.Contains(all, stop) { // once more where it is sent back
			all = append(all, stop)
		}
	}
	return all
}

// golden compares with a file, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", "recorded", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
