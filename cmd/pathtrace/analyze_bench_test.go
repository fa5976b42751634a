package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/synth"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// analyzePairs is how often analyze and what it is compared with take turns.
const analyzePairs = 7

// BenchmarkAnalyze compares analyze, which joins a capture of two points and
// prints the table of its flows, with capinfos, which only counts packets: on the
// same file of two million packets of a hundred thousand flows, in turns. Beside
// it, for information, what tcpdump and tshark take to print all packets and to
// list the TCP conversations.
func BenchmarkAnalyze(b *testing.B) {
	for _, tool := range []string{"capinfos", "tcpdump", "tshark"} {
		testenv.Tool(b, tool)
	}
	folder := b.TempDir()
	program := filepath.Join(folder, "pathtrace")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	file := filepath.Join(folder, "two-points.pcapng")
	writeLarge(b, file)
	count := []string{"capinfos", "-c", file}
	b.Run("table", func(b *testing.B) {
		var ratios, seconds []float64
		for b.Loop() {
			for range analyzePairs {
				base, own := elapsed(b, count), elapsed(b, []string{program, "analyze", file})
				ratios, seconds = append(ratios, own.Seconds()/base.Seconds()), append(seconds, own.Seconds())
			}
		}
		b.ReportMetric(median(ratios), "x-capinfos")
		b.ReportMetric(median(seconds), "s/run")
		b.ReportMetric(0, "ns/op")
	})
	for name, words := range map[string][]string{
		"capinfos": count,
		"tcpdump":  {"tcpdump", "-Z", "root", "-nn", "-r", file},
		"tshark":   {"tshark", "-n", "-q", "-z", "conv,tcp", "-r", file},
	} {
		b.Run(name, func(b *testing.B) {
			var seconds []float64
			for b.Loop() {
				seconds = append(seconds, elapsed(b, words).Seconds())
			}
			b.ReportMetric(median(seconds), "s/run")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// elapsed is how long a command takes whose output nobody reads.
func elapsed(b *testing.B, words []string) time.Duration {
	b.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	cmd.Stdout = null
	started := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%q: %v", words, err)
	}
	return time.Since(started)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// writeLarge writes the file that is analysed.
func writeLarge(b *testing.B, name string) {
	b.Helper()
	scene := synth.Make(synth.Config{Seed: 1, Flows: 100_000, Packets: 5, Loss: 0.001, Plain: true})
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	if err := synth.WritePcapng(f, scene.Sightings); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d packets", len(scene.Sightings))
}
