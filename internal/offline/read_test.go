package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pings writes a pcap file of so many pings, a millisecond apart.
func pings(t *testing.T, name string, n int) Source {
	t.Helper()
	var b bytes.Buffer
	b.Write([]byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0})
	for i := range n {
		ip := []byte{0x45, 0, 0, 44, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7, 8, 0, 0, 0, 0, 9, 0, 0}
		binary.BigEndian.PutUint16(ip[4:], uint16(i%65535+1))
		binary.BigEndian.PutUint16(ip[26:], uint16(i))
		ip = binary.BigEndian.AppendUint64(ip, uint64(i)*0x9e3779b97f4a7c15)
		ip = binary.BigEndian.AppendUint64(ip, uint64(i)*0xd6e8feb86659fd93)
		for _, v := range []uint32{1_700_000_000 + uint32(i/1000), uint32(i%1000) * 1000, uint32(len(ip)), uint32(len(ip))} {
			b.Write(binary.LittleEndian.AppendUint32(nil, v))
		}
		b.Write(ip)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return Source{Path: path}
}

// TestReadInterrupted returns what was read until then.
func TestReadInterrupted(t *testing.T) {
	const all = 400_000
	a := pings(t, "a.pcap", all)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last Progress
	in, err := Read(ctx, []Source{a}, Logs{}, Config{Progress: func(p Progress) {
		last = p
		cancel()
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !in.Result.Interrupted || in.Result.Packets == 0 || in.Result.Packets == all || len(in.Result.Flows) != 1 {
		t.Errorf("interrupted %v, %d packets, %d flows", in.Result.Interrupted, in.Result.Packets, len(in.Result.Flows))
	}
	if last.Read == 0 || last.Read > last.Size || last.Packets == 0 {
		t.Errorf("progress %+v", last)
	}
}

// TestReadProgress grows over both passes.
func TestReadProgress(t *testing.T) {
	a, b := pings(t, "a.pcap", 70_000), pings(t, "b.pcap", 70_000)
	var all []Progress
	in, err := Read(t.Context(), []Source{a, b}, Logs{}, Config{Progress: func(p Progress) { all = append(all, p) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 4 || in.Result.Interrupted || len(in.Clocks) != 2 {
		t.Fatalf("%d calls, result %+v", len(all), in.Result)
	}
	info, err := os.Stat(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range all {
		if p.Size != 4*info.Size() || p.Read > p.Size || i > 0 && p.Read < all[i-1].Read {
			t.Errorf("call %d: %+v after %+v", i, p, all[max(i-1, 0)])
		}
	}
}

// TestReadRefused leaves out what is no capture, and fails when all are.
func TestReadRefused(t *testing.T) {
	a := pings(t, "a.pcap", 3)
	missing := Source{Path: filepath.Join(t.TempDir(), "missing.pcap")}
	in, err := Read(t.Context(), []Source{missing, a}, Logs{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Captures) != 1 || in.Captures[0].Name != "a.pcap" || in.Captures[0].Format != "pcap" || len(in.Refused) != 1 || in.Refused[0].Name != "missing.pcap" {
		t.Errorf("captures %+v, refused %+v", in.Captures, in.Refused)
	}
	if _, err := Read(t.Context(), []Source{missing}, Logs{}, Config{}); err == nil || !strings.HasPrefix(err.Error(), "read missing.pcap: ") {
		t.Errorf("all refused: %v", err)
	}
}
