package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
)

// words are the values of the fields that take one of a few, by type or by
// "Type.field".
var words = map[string][]any{
	"Outcome":             {Replied, Delivered, Dropped, Rejected, Lost, Unsent, Inconclusive},
	"Confidence":          {Observed, Reconstructed, Assumed},
	"Source.kind":         {"host", "netns", "pid", "container", "capture"},
	"Verdict.leg":         {"request", "reply"},
	"Translation.kind":    {"masquerade", "snat", "dnat", "redirect", "netmap", "nptv6", "stateless", "unknown"},
	"Translation.field":   {"source", "destination"},
	"Hop.role":            {"container", "veth", "bridge", "uplink", "tunnel", "router", "loopback", "other"},
	"Hop.direction":       {"ingress", "egress"},
	"Place.direction":     {"ingress", "egress"},
	"Flow.leg":            {"request", "reply"},
	"Flow.unacknowledged": {"request", "reply"},
	"FlowPoint.leg":       {"request", "reply"},
	"Fall.leg":            {"request", "reply"},
	"Continuation.kind":   {"proxy", "resolver"},
	"Query.over":          {"udp", "tcp"},
	"Step.kind":           {"rule", "policy", "conntrack", "nat", "route", "bridge", "neighbour", "proxy", "drop", "reject", "deliver"},
	"Finding.severity":    {"error", "warning", "note"},
	"Sensor.state":        {"ok", "degraded", "absent"},
	"Rule.backend":        {"nft", "iptables-nft", "iptables-legacy"},
}

// reportSchema derives the JSON Schema of a report from the Go types.
func reportSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	root, used := schemaOf[Report](t, "A report of pathtrace", Schema)
	for name := range words {
		if !used[name] {
			t.Errorf("%s is no field or type of a report", name)
		}
	}
	return root
}

// schemaOf derives the JSON Schema of a form from its Go type, and tells which of
// the words it uses.
func schemaOf[T any](t *testing.T, title, name string) (*jsonschema.Schema, map[string]bool) {
	t.Helper()
	root, err := jsonschema.For[T](nil)
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	refine(root, reflect.TypeFor[T](), used)
	root.Schema, root.Title = "https://json-schema.org/draft/2020-12/schema", title
	root.Properties["schema"].Enum = []any{name}
	return root, used
}

// refine adapts what was derived from a type to the contract: lists and
// objects are never null, later versions may add fields, times are RFC 3339,
// and some fields take a few words only.
func refine(s *jsonschema.Schema, of reflect.Type, used map[string]bool) {
	s.Types = slices.DeleteFunc(s.Types, func(name string) bool { return name == "null" })
	if len(s.Types) == 1 {
		s.Type, s.Types = s.Types[0], nil
	}
	choose := func(s *jsonschema.Schema, name string) {
		if values, ok := words[name]; ok {
			s.Enum = values
			used[name] = true
		}
	}
	switch of.Kind() {
	case reflect.Pointer:
		refine(s, of.Elem(), used)
	case reflect.Slice:
		refine(s.Items, of.Elem(), used)
	case reflect.Struct:
		if of == reflect.TypeFor[time.Time]() {
			s.Format = "date-time"
			return
		}
		s.AdditionalProperties = nil
		for field := range of.Fields() {
			if field.Anonymous { // its fields are those of the whole
				refine(s, field.Type, used)
				continue
			}
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			refine(s.Properties[name], field.Type, used)
			choose(s.Properties[name], of.Name()+"."+name)
		}
	default:
		choose(s, of.Name())
	}
}

// TestSchema keeps the schema that others read the same as the Go types.
func TestSchema(t *testing.T) {
	checkup, _ := schemaOf[Checkup](t, "What pathtrace doctor found", CheckupSchema)
	for file, schema := range map[string]*jsonschema.Schema{"report.schema.json": reportSchema(t), "doctor.schema.json": checkup} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(schema); err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("..", "docs", file), b.Bytes())
	}
}

// TestCheckupSchemaValidates proves that the schema says yes to a checkup, and no
// to what is none.
func TestCheckupSchemaValidates(t *testing.T) {
	root, _ := schemaOf[Checkup](t, "", CheckupSchema)
	schema, err := root.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"checkup-well.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		var value map[string]any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		value["findings"] = nil
		if schema.Validate(value) == nil {
			t.Errorf("%s: the schema says yes to null for a list", file)
		}
	}
}

// TestSchemaValidates proves that the schema says yes to reports, and no to
// what is none.
func TestSchemaValidates(t *testing.T) {
	schema, err := reportSchema(t).Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	decoded := func(r *Report) map[string]any {
		var b bytes.Buffer
		if err := JSON(&b, r); err != nil {
			t.Fatal(err)
		}
		var value map[string]any
		if err := json.Unmarshal(b.Bytes(), &value); err != nil {
			t.Fatal(err)
		}
		return value
	}
	for name, sample := range samples() {
		if name == "hostile" { // its kinds are none of the words
			continue
		}
		value := decoded(sample())
		value["later"] = true
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := map[string]func(map[string]any){
		"no verdict":        func(v map[string]any) { delete(v, "verdict") },
		"null for a list":   func(v map[string]any) { v["findings"] = nil },
		"another schema":    func(v map[string]any) { v["schema"] = "pathtrace/report/2" },
		"unknown outcome":   func(v map[string]any) { v["verdict"].(map[string]any)["outcome"] = "perhaps" }, //nolint:errcheck // a report has it
		"number for a text": func(v map[string]any) { v["started"] = 1.0 },
	}
	for name, change := range wrong {
		value := decoded(replied())
		change(value)
		if err := schema.Validate(value); err == nil {
			t.Errorf("%s: the schema says yes", name)
		}
	}
}
