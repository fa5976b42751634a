package synth

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
)

// BenchmarkJoin joins a file of two million packets of a hundred thousand flows
// that were seen at two points.
func BenchmarkJoin(b *testing.B) {
	name := filepath.Join(b.TempDir(), "two-points.pcapng")
	packets := writeLarge(b, name)
	c := []flows.Capture{{
		Name: "two-points",
		Open: func() (flows.Reader, error) { return capture.OpenFile(name) },
		Point: func(_ int, of capture.FileInterface) capture.Point {
			return capture.Point{NetNS: "router", Interface: of.Name}
		},
	}}
	for b.Loop() {
		result, err := flows.Join(context.Background(), c, flows.Config{})
		if err != nil {
			b.Fatal(err)
		}
		if len(result.Flows) < 90_000 {
			b.Fatalf("%d flows", len(result.Flows))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(packets), "ns/packet")
}

// writeLarge writes the file that speed is measured on.
func writeLarge(tb testing.TB, name string) (packets int) {
	tb.Helper()
	scene := Make(Config{Seed: 1, Flows: 100_000, Packets: 5, Loss: 0.001, Plain: true})
	f, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	if err := WritePcapng(f, scene.Sightings); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	return len(scene.Sightings)
}
