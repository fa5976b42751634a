package report

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestJSONGolden(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, droppedByPolicy()); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "dropped-by-policy.json"), b.Bytes())
}

// TestJSONRoundTrip proves that what JSON writes, Decode reads unchanged.
func TestJSONRoundTrip(t *testing.T) {
	for name, sample := range samples() {
		if name == "hostile" { // JSON has no bytes that are not UTF-8
			continue
		}
		want := sample()
		var b bytes.Buffer
		if err := JSON(&b, want); err != nil {
			t.Fatal(err)
		}
		got, err := Decode(&b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestJSONLists proves that lists are never null and that JSON leaves the
// report as it is.
func TestJSONLists(t *testing.T) {
	r := &Report{
		Schema: Schema, Legs: Legs{Request: []Hop{{Steps: []Step{{}}}, {}}},
		Translations: []Translation{{}}, Findings: []Finding{{}},
	}
	var b bytes.Buffer
	if err := JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "null") {
		t.Errorf("null in:\n%s", b.String())
	}
	if r.Legs.Reply != nil || r.Legs.Request[0].Steps[0].Evidence != nil || r.Translations[0].Evidence != nil || r.Findings[0].Fix != nil {
		t.Error("JSON changed the report")
	}
}

func TestJSONKeepsHTML(t *testing.T) {
	r := replied()
	r.Verdict.Summary = "a <b> & c"
	var b bytes.Buffer
	if err := JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `"summary": "a <b> & c"`) {
		t.Errorf("no plain <, > and & in:\n%s", b.String())
	}
}

func TestDecodeErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{``, "read report: EOF"},
		{`[]`, "read report: json: cannot unmarshal array"},
		{`{"schema": "other/1"}`, `read report: its schema is "other/1", not "pathtrace/report/1"`},
		{`{"schema": "pathtrace/report/1"} {}`, "read report: something follows it"},
		{`{"schema": "pathtrace/report/1"} garbage`, "read report: something follows it"},
	}
	for _, tt := range tests {
		_, err := Decode(strings.NewReader(tt.in))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("Decode(%s): got %v, want %s", tt.in, err, tt.want)
		}
	}
	if _, err := Decode(strings.NewReader(`{"schema": "pathtrace/report/1", "later": true}`)); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, sample := range samples() {
		var b bytes.Buffer
		if err := JSON(&b, sample()); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, o := range []TextOptions{{}, {Width: 20, Color: true, Unicode: true, Detail: DetailFull}, {Detail: DetailMinimal}} {
			text(t, r, o)
		}
	})
}

// TestJSONNames guards the names that scripts rely on.
func TestJSONNames(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, replied()); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"schema", "tool", "started", "finished", "request", "verdict", "translations", "legs", "findings", "sensors", "evidence"} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
}

// TestJSONFlows proves that flow by flow the same is written as at once, wherever
// the flows are.
func TestJSONFlows(t *testing.T) {
	whole := manyFlows()
	for i := range whole.Flows {
		whole.Flows[i] = *flowWithLists(whole.Flows[i])
	}
	whole.Request.Target = "a \"flows\": []\n  \"flows\": []" // which is no field
	var want bytes.Buffer
	if err := encoder(&want, "").Encode(withLists(whole)); err != nil {
		t.Fatal(err)
	}
	for _, listed := range []int{0, 1, 40, len(whole.Flows)} {
		r := *whole
		r.Flows, r.Rest = whole.Flows[:listed], slices.Values(whole.Flows[listed:])
		var got bytes.Buffer
		if err := JSON(&got, &r); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Errorf("%d flows listed (-want +got):\n%s", listed, diff)
		}
		if len(r.Flows) != listed {
			t.Errorf("JSON changed the report")
		}
	}
	if err := JSON(broken{}, whole); err == nil || err.Error() != "write report: disk full" {
		t.Errorf("on a full disk: %v", err)
	}
}
