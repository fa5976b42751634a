package capture

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pathtrace/pathtrace/packet"
)

// TestWriter reads with another program's library what was written.
func TestWriter(t *testing.T) {
	var file bytes.Buffer
	w, err := NewWriter(&file, "a comment")
	if err != nil {
		t.Fatal(err)
	}
	interfaces := []FileInterface{
		{Name: "cnt01/eth0", Description: "container", Link: packet.LinkEthernet, SnapLength: 432},
		{Name: "host/tun0", Link: packet.LinkRaw},
	}
	for i, one := range interfaces {
		if n, err := w.AddInterface(one); err != nil || n != int32(i) {
			t.Fatalf("interface %d: %d, %v", i, n, err)
		}
	}
	records := []Record{
		{Data: []byte("abcde"), Time: 1<<40 + 1, Length: 1500, Interface: 1, Direction: Egress},
		{Data: []byte("abcd"), Time: 1764_136_000_123_456_789, Length: 4, Direction: Ingress},
		{Data: nil, Length: 9},
		{Data: []byte("longer than on the wire"), Length: 3},
	}
	for i := range records {
		if err := w.Write(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Write(&Record{Interface: 2}); err == nil {
		t.Error("a packet of an interface that does not exist was written")
	}

	r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range records {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(i, err)
		}
		length := max(int(want.Length), len(want.Data))
		if !bytes.Equal(data, want.Data) || !info.Timestamp.Equal(time.Unix(0, want.Time)) || info.Length != length || info.InterfaceIndex != int(want.Interface) {
			t.Errorf("packet %d: %q %+v, want %+v", i, data, info, want)
		}
		direction := Direction(0)
		if options.Flags != nil {
			direction = map[pcapgo.NgEpbFlag]Direction{pcapgo.NgEpbFlagDirectionInbound: Ingress, pcapgo.NgEpbFlagDirectionOutbound: Egress}[options.Flags.Direction]
		}
		if direction != want.Direction {
			t.Errorf("packet %d: direction %s, want %s", i, direction, want.Direction)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last packet: %v", err)
	}
	for i, want := range interfaces {
		got, err := r.Interface(i)
		if err != nil || got.Name != want.Name || got.Description != want.Description || got.LinkType != layers.LinkType(want.Link) || got.SnapLength != want.SnapLength || got.TimestampResolution != 9 {
			t.Errorf("interface %d: %+v, %v, want %+v", i, got, err, want)
		}
	}
	if s := r.SectionInfo(); s.Comment != "a comment" || s.Application != "pathtrace" {
		t.Errorf("section %+v", s)
	}
}

// TestWriterLong cuts a name that does not fit.
func TestWriterLong(t *testing.T) {
	var file bytes.Buffer
	w, err := NewWriter(&file, strings.Repeat("x", 1<<17))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(FileInterface{Name: "eth0", Link: packet.LinkEthernet}); err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.SectionInfo().Comment); n != 1<<16-1 {
		t.Errorf("the comment has %d bytes", n)
	}
}
