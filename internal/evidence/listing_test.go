package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/doctor"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
)

// told are the pieces of a bundle in words.
func told(f File) []string {
	var words []string
	for p, err := range Pieces(f) {
		switch {
		case err != nil:
			words = append(words, "error: "+err.Error())
		case p.Listing != nil:
			words = append(words, string(p.Listing.Command))
		case p.Event != nil:
			words = append(words, p.Event.Kind.String())
		case p.Ended:
			words = append(words, "end")
		default:
			words = append(words, p.Note)
		}
	}
	return words
}

// TestListing reads what is written after each step, before the file is closed,
// and tells it from a run.
func TestListing(t *testing.T) {
	const cut = "The bundle ends before the command did; this is what was known until then."
	name := filepath.Join(t.TempDir(), "flows.pcapng")
	w, err := Create(name, WriterConfig{Now: func() time.Time { return time.Unix(1, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	tell := func(want ...string) {
		t.Helper()
		file, err := capture.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if diff := cmp.Diff(want, told(file)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	tell("error: read bundle: it ends before it says what it is of")
	w.List(&Listing{Command: Conntrack})
	tell("conntrack", cut)
	w.Event(nat.Event{Kind: nat.Existing})
	w.Note("something is lost")
	w.Event(nat.Event{Kind: nat.New})
	tell("conntrack", "EXISTING", "something is lost", "NEW", cut)
	if _, err := readFile(t, name); !errors.Is(err, ErrListing) {
		t.Errorf("read as a run: %v", err)
	}
	w.Listed()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	tell("conntrack", "EXISTING", "something is lost", "NEW", "end")
}

// TestListingRefused: what is no listing, or lacks what it is about, is told and
// not printed.
func TestListingRefused(t *testing.T) {
	const known, later = recordVersion, recordVersion + 1
	written := func(version int, kind, data string) string {
		return fmt.Sprintf(`{"type":%q,"version":%d,"data":%s}`, kind, version, data)
	}
	broken := []string{
		"1 packets and records of the bundle could not be read and are missing here.",
		"The bundle ends before the command did; this is what was known until then.",
	}
	many := fmt.Sprintf(`{"command":"topology","topology":{"steps":[{}%s]}}`, strings.Repeat(",{}", maxSnapshot))
	tests := map[string]struct {
		records []string
		want    []string
	}{
		"a later version":         {[]string{written(later, "listing", `{"command":"conntrack"}`)}, []string{"error: read bundle: a later version of pathtrace wrote it"}},
		"an unknown command":      {[]string{written(known, "listing", `{"command":"x\u001b"}`)}, []string{`: the command "x\x1b" is not known`}},
		"no topology":             {[]string{written(known, "listing", `{"command":"topology"}`)}, []string{": topology without a topology"}},
		"nothing examined":        {[]string{written(known, "listing", `{"command":"doctor"}`)}, []string{": doctor without a topology"}},
		"no topology is examined": {[]string{written(known, "listing", `{"command":"doctor","examined":{}}`)}, []string{": doctor without a topology"}},
		"too much":                {[]string{written(known, "listing", many)}, []string{": topology with 0 namespaces and 4097 steps"}},
		"a run":                   {[]string{written(1, "run", `{"topology":{}}`)}, []string{": it stands before what the bundle is of"}},
		"two":                     {[]string{written(known, "listing", `{"command":"conntrack"}`), written(known, "listing", `{"command":"conntrack"}`)}, append([]string{"conntrack"}, broken...)},
		"no event":                {[]string{written(known, "listing", `{"command":"conntrack"}`), written(known, "event", `7`)}, append([]string{"conntrack"}, broken...)},
	}
	for name, tt := range tests {
		var b bytes.Buffer
		w, err := capture.NewWriter(&b, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.AddInterface(capture.FileInterface{Name: Interface, Link: recordLink}); err != nil {
			t.Fatal(err)
		}
		for _, r := range tt.records {
			if err := w.Write(&capture.Record{Data: []byte(r)}); err != nil {
				t.Fatal(err)
			}
		}
		file, err := capture.NewFile("a bundle", &b)
		if err != nil {
			t.Fatal(err)
		}
		got := told(file)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
			continue
		}
		for i := range got {
			if !strings.HasSuffix(got[i], tt.want[i]) {
				t.Errorf("%s: %q, want %q", name, got, tt.want)
			}
		}
	}
}

// TestListingTooLarge: what could not be read again is not written, and what is
// there stays good.
func TestListingTooLarge(t *testing.T) {
	name := filepath.Join(t.TempDir(), "doctor.pcapng")
	w, err := Create(name, WriterConfig{Now: func() time.Time { return time.Unix(1, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	w.List(&Listing{Command: Doctor, Examined: &doctor.Input{
		Topology: new(topology.Snapshot), Unread: map[string]string{"host": strings.Repeat("x", 16<<20)},
	}})
	w.Listed()
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "more than can be read again") {
		t.Errorf("close: %v", err)
	}
	file, err := capture.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got := told(file); len(got) != 1 || file.Problem() != nil {
		t.Errorf("%q, problem %v", got, file.Problem())
	}
}
