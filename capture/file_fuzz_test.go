package capture

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/iotest"
)

// FuzzFile reads what may be a capture file, at once and byte by byte, which
// must give the same; memory is bounded by what the input has, and not by what
// it claims.
func FuzzFile(f *testing.F) {
	small, ng := smallPcap(), smallPcapng()
	for _, seed := range [][]byte{
		small, ng, small[:70], ng[:250], packGzip(f, small), packZstd(f, ng), packGzip(f, ng[:100], ng[100:]), packZstd(f, small)[:30],
		join(pcapStart(bigEndian, pcapNanoseconds, 5, 1), pcapRecord(bigEndian, 1<<31, 2, 3, "abc"), words(bigEndian, 1, 1, 1<<22, 1)),
		join(pcapStart(littleEndian, pcapModified, 9, 1), words(littleEndian, 1, 2, 3, 3, 5, 6), []byte("abc")),
		join(section(bigEndian, 1), description(bigEndian, 1, 0, option(bigEndian, optionResolution, "\x94"), option(bigEndian, optionOffset, "12345678")),
			obsolete(bigEndian, 0, 1<<40, 3, "abc", option(bigEndian, optionFlags, "\x00\x00\x00\x01")), enhanced(bigEndian, 1, 0, 1, "d"), simple(bigEndian, 9, "efg")),
	} {
		f.Add(seed)
	}
	recorded, err := filepath.Glob("../testdata/pcaps/netns-by-hand/*.pcap*")
	if err != nil || len(recorded) == 0 {
		f.Fatalf("no recorded captures: %v", err)
	}
	for _, name := range recorded {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	var b Batch
	b.reset(nil, 0)
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 64<<10 {
			return
		}
		var file *File
		var err error
		var unpacked int64
		got := allocated(func() {
			if file, err = NewFile("file", bytes.NewReader(content)); err != nil {
				return
			}
			defer file.Close()
			for file.Next(&b) == nil {
				check(t, file, &b)
			}
			unpacked = file.offset + int64(len(file.tail))
		})
		limit := 256<<10 + 16*uint64(max(unpacked, int64(len(content))))
		if compressionOf(content[:min(4, len(content))]) == "zstd" {
			limit += 4 * maxWindow
		}
		if got > limit {
			t.Errorf("%d bytes were allocated for %d bytes that unpack to %d", got, len(content), unpacked)
		}
		if err != nil || unpacked > 1<<20 { // reading a bomb byte by byte takes long
			return
		}
		if p := file.Problem(); p != nil && (p.Text == "" || p.Skipped < 0 || p.Offset < 0 || p.Offset > unpacked) {
			t.Errorf("problem %+v in %d bytes", p, unpacked)
		}
		again, err := NewFile("file", iotest.OneByteReader(bytes.NewReader(content)))
		if err != nil {
			t.Fatalf("byte by byte: %v", err)
		}
		defer again.Close()
		records, bytewise := rest(t, fileOf(t, content)), rest(t, again)
		if !reflect.DeepEqual(records, bytewise) || !reflect.DeepEqual(file.Problem(), again.Problem()) ||
			!reflect.DeepEqual(file.Interfaces(), again.Interfaces()) {
			t.Errorf("byte by byte:\n%s%+v\nat once:\n%s%+v", say(bytewise), again.Problem(), say(records), file.Problem())
		}
	})
}

// check holds what is true of all records.
func check(t *testing.T, f *File, b *Batch) {
	last := int64(-1)
	for i, r := range b.Records {
		switch {
		case r.Offset <= last:
			t.Fatalf("record %d is at byte %d, behind one at %d", i, r.Offset, last)
		case int(r.Length) < len(r.Data):
			t.Fatalf("record %d has %d bytes of %d", i, len(r.Data), r.Length)
		case r.Interface < 0 || int(r.Interface) >= len(f.Interfaces()) || f.Interfaces()[r.Interface].Link != r.Link:
			t.Fatalf("record %d is of interface %d, link type %d; there are %+v", i, r.Interface, r.Link, f.Interfaces())
		case !r.HasTime && r.Time != 0, r.Direction > Egress:
			t.Fatalf("record %d: %+v", i, r)
		}
		last = r.Offset
	}
	if last >= f.offset {
		t.Fatalf("the last record is at byte %d, the next batch begins at %d", last, f.offset)
	}
}

// BenchmarkFile reads a file of small packets, as headers that were captured.
func BenchmarkFile(b *testing.B) {
	const n = 500_000
	var pcapFile, pcapngFile bytes.Buffer
	pcapFile.Write(pcapStart(littleEndian, pcapMicroseconds, 0, 1))
	pcapngFile.Write(join(section(littleEndian, 1), description(littleEndian, 1, 0), description(littleEndian, 1, 0)))
	data := string(make([]byte, 90))
	for i := range n {
		pcapFile.Write(pcapRecord(littleEndian, 1, uint32(i), 90, data[:60+i%30]))
		pcapngFile.Write(enhanced(littleEndian, uint32(i&1), uint64(i), 90, data[:60+i%30]))
	}
	for _, bb := range []struct {
		name    string
		content []byte
	}{
		{"pcap", pcapFile.Bytes()},
		{"pcapng", pcapngFile.Bytes()},
		{"pcapng.gz", packGzip(b, pcapngFile.Bytes())},
		{"pcapng.zst", packZstd(b, pcapngFile.Bytes())},
	} {
		name := filepath.Join(b.TempDir(), bb.name)
		if err := os.WriteFile(name, bb.content, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			var batch Batch
			for b.Loop() {
				f, err := OpenFile(name)
				if err != nil {
					b.Fatal(err)
				}
				records := 0
				for f.Next(&batch) == nil {
					records += len(batch.Records)
				}
				if records != n || f.Problem() != nil {
					b.Fatalf("%d records, problem %v", records, f.Problem())
				}
				f.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
		})
	}
}
