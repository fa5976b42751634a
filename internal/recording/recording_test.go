package recording_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/recording"
)

// maxSize is how large a recording may be, in bytes: they are kept for ever.
const maxSize = 150_000

// TestRecordings holds what is kept against the truth beside it: each capture
// can be read by a library of others, has the link type, and has of each flow
// as many packets at each point as the truth says, with these addresses; and
// each log speaks of them.
func TestRecordings(t *testing.T) {
	all, err := recording.All(recording.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		t.Run(r.Name, func(t *testing.T) {
			captures := make(map[string]capture)
			for _, file := range r.Truth.Files {
				c := readCapture(t, r.Path(file.Name), file)
				if c.linkType != file.LinkType {
					t.Errorf("%s: link type %d, want %d", file.Name, c.linkType, file.LinkType)
				}
				captures[file.Name] = c
			}
			for _, problem := range problems(t, captures, &r.Truth) {
				t.Error(problem)
			}
			for _, problem := range untold(t, &r) {
				t.Error(problem)
			}
			size := 0
			files, err := os.ReadDir(filepath.Dir(r.Path(recording.TruthFile)))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				info, err := file.Info()
				if err != nil {
					t.Fatal(err)
				}
				size += int(info.Size())
			}
			if size > maxSize {
				t.Errorf("%d bytes, want no more than %d", size, maxSize)
			}
			if !r.Has(recording.NoteFile) {
				t.Error("nothing says how it was recorded")
			}
		})
	}
}

// sightings are those of all files.
func sightings(captures map[string]capture) (all []sighting) {
	for _, c := range captures {
		all = append(all, c.sightings...)
	}
	return all
}

// problems are where captures differ from the truth about them. A flow's
// packets must be where the truth says, and nowhere else.
func problems(t testing.TB, captures map[string]capture, truth *recording.Truth) (all []string) {
	t.Helper()
	seen := sightings(captures)
	for i := range truth.Flows {
		f := &truth.Flows[i]
		sum := make(map[string]int)
		for kind, stops := range legs(f) {
			for _, stop := range stops {
				found := at(seen, f, kind, stop)
				if len(found) != stop.Packets || stream(found) != stop.Stream {
					all = append(all, fmt.Sprintf("%s: %d packets %s > %s with %d bytes of TCP at %s, want %d with %d",
						f.What, len(found), stop.Source, stop.Destination, stream(found), stop.Point, stop.Packets, stop.Stream))
				}
				if kind != "error" {
					sum[stop.Point] += stop.Packets
				}
			}
		}
		for _, file := range truth.Files {
			for _, point := range file.Points {
				if got := ofFlow(seen, f, point); got != sum[point] {
					all = append(all, fmt.Sprintf("%s: %d packets at %s, want %d", f.What, got, point, sum[point]))
				}
			}
		}
	}
	return all
}

// ofFlow counts the packets of a flow at a point, whatever their addresses are.
// A flow has an ICMP id, or a port of its client, that no other flow of the
// recording has, and no NAT of a recording changes.
func ofFlow(all []sighting, f *recording.Flow, point string) (count int) {
	source := f.Request[0].Source
	client := source[strings.LastIndexByte(source, ':')+1:]
	for _, s := range all {
		mine := s.id == f.ID
		if f.ID == 0 {
			mine = strings.HasSuffix(s.source, ":"+client) || strings.HasSuffix(s.destination, ":"+client)
		}
		if mine && s.point == point && s.protocol == f.Protocol && s.kind != "error" {
			count++
		}
	}
	return count
}

// untold are the flows and rules that the logs do not speak of, though they
// must.
func untold(t testing.TB, r *recording.Recording) (all []string) {
	t.Helper()
	read := func(file string) string {
		if !r.Has(file) {
			return ""
		}
		text, err := os.ReadFile(r.Path(file))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	events, rules, trace := read(recording.ConntrackFile), read(recording.RulesFile), read(recording.TraceFile)
	for i := range r.Truth.Flows {
		f := &r.Truth.Flows[i]
		var owned []*recording.Rule
		for _, translation := range f.Translations {
			if translation.NetNS != onHost {
				continue
			}
			if translation.Rule != nil {
				owned = append(owned, translation.Rule)
			}
			if request, reply := first(f.Request), first(f.Reply); !slices.ContainsFunc(strings.Split(events, "\n"), func(line string) bool {
				return strings.Contains(line, "[NEW]") && strings.Contains(line, addresses(request)) && strings.Contains(line, "[UNREPLIED] "+addresses(reply))
			}) {
				all = append(all, fmt.Sprintf("%s has no new entry %s [UNREPLIED] %s", recording.ConntrackFile, addresses(request), addresses(reply)))
			}
		}
		if f.NetNS == onHost && f.Rule != nil {
			owned = append(owned, f.Rule)
			if nft := strings.HasPrefix(trace, "trace id "); nft && !strings.Contains(trace, " "+f.Rule.Chain+" rule ") {
				all = append(all, fmt.Sprintf("%s has no rule of chain %s", recording.TraceFile, f.Rule.Chain))
			}
		}
		for _, rule := range owned {
			if !strings.Contains(rules, rule.Text) {
				all = append(all, fmt.Sprintf("%s has no rule %s", recording.RulesFile, rule.Text))
			}
		}
	}
	return all
}

// onHost is the name of the namespace whose logs are kept.
const onHost = "host"

// first is where packets come to the host.
func first(stops []recording.Stop) recording.Stop {
	return stops[slices.IndexFunc(stops, func(s recording.Stop) bool { return strings.HasPrefix(s.Point, onHost+"/") })]
}

// addresses are those of a stop as conntrack prints them.
func addresses(s recording.Stop) string {
	return fmt.Sprintf("src=%s dst=%s ", bare(s.Source), bare(s.Destination))
}

// bare is the address of "address:port" or of "address".
func bare(text string) string {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return both.Addr().String()
	}
	return text
}
