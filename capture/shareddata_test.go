package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

// published is a row of the tables of capture files in README.md of the shared
// data.
type published struct {
	path, format        string
	packets, interfaces int
}

func publishedFiles(t *testing.T) []published {
	data := testenv.SharedData(t)
	readme, err := os.ReadFile(filepath.Join(data, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var files []published
	folder := ""
	packets := regexp.MustCompile(`^(\d+)(?: on (\d+) if)?$`)
	for line := range strings.Lines(string(readme)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "### "); ok {
			folder = name
		}
		cells := strings.Split(line, " | ")
		if folder == "" || len(cells) < 6 || !strings.HasPrefix(cells[3], "pcap") {
			continue
		}
		m := packets.FindStringSubmatch(cells[5])
		if m == nil {
			t.Fatalf("README.md: how many packets are %q", cells[5])
		}
		p := published{path: filepath.Join(data, folder, strings.TrimPrefix(cells[0], "| ")), format: cells[3], interfaces: 1}
		p.packets, _ = strconv.Atoi(m[1])
		if m[2] != "" {
			p.interfaces, _ = strconv.Atoi(m[2])
		}
		files = append(files, p)
	}
	if len(files) < 100 {
		t.Fatalf("README.md lists %d capture files", len(files))
	}
	return files
}

// The published files with something wrong: why they are refused, or what the
// problem is. All others are whole.
var publishedFaults = map[string]string{
	"pcap-invalid-version-1.pcap":  "it is a pcap of version 1.4; what can be read is 2.x",
	"pcapng-invalid-vers-1.pcapng": "it is a pcapng whose header is of version 0.1; what can be read is 1.x",
	"bug-1450-04-bad-record.pcap":  "record 7 at byte 5035 claims 4325376 bytes, 645 are left; reading stopped there; 661 bytes skipped",
}

// TestPublishedFiles holds what is read against README.md and, record by
// record, against pcapgo.
func TestPublishedFiles(t *testing.T) {
	for _, p := range publishedFiles(t) {
		t.Run(filepath.Base(p.path), func(t *testing.T) {
			want := publishedFaults[filepath.Base(p.path)]
			f, err := OpenFile(p.path)
			if err != nil {
				if got := err.Error(); got != "read "+p.path+": "+want {
					t.Errorf("error %q", got)
				}
				return
			}
			defer f.Close()
			records := rest(t, f)
			got := ""
			if f.Problem() != nil {
				got = f.Problem().String()
			}
			if got != want {
				t.Errorf("problem %q, want %q", got, want)
			}
			if len(records) != p.packets || len(f.Interfaces()) != p.interfaces {
				t.Errorf("%d packets on %d interfaces, want %d on %d", len(records), len(f.Interfaces()), p.packets, p.interfaces)
			}
			format := strings.NewReplacer(" BE", ", big endian", " ns", ", nanoseconds").Replace(p.format)
			if f.Format() != format {
				t.Errorf("format %q, want %q", f.Format(), format)
			}
			if read, size := f.Position(); read != size || size == 0 {
				t.Errorf("%d of %d bytes were read", read, size)
			}
			oracle(t, p.path, f.Interfaces(), records)
		})
	}
}

// oracle compares with what pcapgo reads.
func oracle(t *testing.T, path string, interfaces []FileInterface, records []Record) {
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []Record
	var wantInterfaces []FileInterface
	if binary.LittleEndian.Uint32(content) == sectionHeaderBlock {
		want, wantInterfaces = oraclePcapng(t, content)
	} else {
		want, wantInterfaces = oraclePcap(t, content)
	}
	if diff := cmp.Diff(wantInterfaces, interfaces); diff != "" {
		t.Errorf("interfaces, pcapgo's and ours:\n%s", diff)
	}
	if len(want) != len(records) {
		t.Fatalf("pcapgo has %d records, we have %d", len(want), len(records))
	}
	for i, r := range records {
		r.Offset = 0 // pcapgo does not tell
		if filepath.Base(path) == "timestamp_invalid_micro.pcap" && i == 2 {
			r.Time -= 1 << 31 * 1000 // pcapgo's microseconds overflow
		}
		if !reflect.DeepEqual(want[i], r) {
			t.Errorf("record %d, pcapgo's and ours:\n%s", i+1, cmp.Diff(want[i], r))
		}
	}
}

func oraclePcap(t *testing.T, content []byte) (records []Record, interfaces []FileInterface) {
	r, err := pcapgo.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	link := packet.LinkType(r.LinkType())
	for {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			return records, []FileInterface{{Link: link, SnapLength: r.Snaplen()}}
		}
		records = append(records, Record{
			Data: data, Time: ci.Timestamp.UnixNano(), HasTime: true, Length: uint32(ci.Length), Link: link,
		})
	}
}

func oraclePcapng(t *testing.T, content []byte) (records []Record, interfaces []FileInterface) {
	keep := func(section []pcapgo.NgInterface) {
		for _, i := range section {
			interfaces = append(interfaces, FileInterface{
				Name: i.Name, Description: i.Description, Link: packet.LinkType(i.LinkType), SnapLength: i.SnapLength,
			})
		}
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(content), pcapgo.NgReaderOptions{
		WantMixedLinkType:  true,
		SectionEndCallback: func(section []pcapgo.NgInterface, _ pcapgo.NgSectionInfo) { keep(section) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, ci, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		record := Record{
			Data: data, Length: uint32(ci.Length),
			Interface: int32(len(interfaces) + ci.InterfaceIndex),
			Link:      packet.LinkType(ci.AncillaryData[0].(layers.LinkType)),
		}
		if ci.Timestamp != (time.Time{}) {
			record.Time, record.HasTime = ci.Timestamp.UnixNano(), true
		}
		if options.Flags != nil {
			record.Direction = Direction(options.Flags.Direction)
		}
		records = append(records, record)
	}
	var last []pcapgo.NgInterface
	for i := range r.NInterfaces() {
		n, err := r.Interface(i)
		if err != nil {
			t.Fatal(err)
		}
		last = append(last, n)
	}
	keep(last)
	return records, interfaces
}
