package offline

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/recording"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// lossy is a recorded capture without those packets of it that are like that.
func lossy(t *testing.T, network, name string, lost func(n int, h *packet.Header) bool) Source {
	t.Helper()
	return edited(t, network, name, func(n int, h *packet.Header) int { return one(!lost(n, h)) })
}

// edited is a recorded capture that has each packet so many times.
func edited(t *testing.T, network, name string, times func(n int, h *packet.Header) int) Source {
	t.Helper()
	const fileHeader, recordHeader = 24, 16
	b, err := os.ReadFile(filepath.Join(recording.Dir, network, name+".pcap"))
	if err != nil {
		t.Fatal(err)
	}
	kept, rest := slices.Clone(b[:fileHeader]), b[fileHeader:]
	for n := 0; len(rest) > 0; n++ {
		end := recordHeader + int(binary.LittleEndian.Uint32(rest[8:]))
		h, err := packet.DecodeInner(packet.LinkEthernet, rest[recordHeader:end], end-recordHeader)
		if err == nil {
			kept = append(kept, bytes.Repeat(rest[:end], times(n, &h))...)
		}
		rest = rest[end:]
	}
	path := filepath.Join(t.TempDir(), name+".pcap")
	if err := os.WriteFile(path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	return Source{Path: path}
}

func whole(int, *packet.Header) bool { return false }

// echoReply is the answer to the ping of a sequence number.
func echoReply(seq uint16) func(int, *packet.Header) bool {
	return func(_ int, h *packet.Header) bool {
		return h.Tuple.Proto == packet.ICMP && h.Tuple.ICMPType == packet.EchoReply && h.ICMPSeq == seq
	}
}

// published is what a server sends from the port that it is published on.
func published(_ int, h *packet.Header) bool {
	return h.Tuple.Proto == packet.TCP && h.Tuple.SrcPort == 8080 && h.DataLength > 0
}

func read(t *testing.T, sources ...Source) *Input {
	t.Helper()
	in, err := Read(t.Context(), sources, Logs{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestAnswersMissing: answers that one place saw, and not the next one, are
// explained with the request that they answer.
func TestAnswersMissing(t *testing.T) {
	for name, tt := range map[string]struct {
		network string
		names   []string
		lost    func(int, *packet.Header) bool
		proto   string
		at      string // where what is lost was seen last
		want    []string
	}{
		"echo": {"docker-bridge-outbound", []string{"cnt01-eth0", "host-docker0"}, echoReply(2), "icmp", "host-docker0", []string{
			"ICMP echo id 4242 seq 2 172.17.0.2 → 8.8.8.8 was seen at cnt01-eth0 and host-docker0.",
			"ICMP echo reply id 4242 seq 2 8.8.8.8 → 172.17.0.2 is the first packet that did not get as far as others. It was seen at host-docker0.",
			"On the way back 1 packet went missing between host-docker0 and cnt01-eth0.",
		}},
		"data": {"docker-bridge-hairpin", []string{"cnt01-eth0"}, published, "tcp", "cnt01-eth0", []string{
			"TCP PSH,ACK with 43 bytes 172.17.0.2:40005 → 203.0.113.1:8080 was seen at",
			"TCP PSH,ACK with 51 bytes 172.17.0.2:80 → 172.17.0.1:40005 is the first packet that did not get as far as others.",
			"On the way back 51 bytes of data went missing behind cnt01-eth0.",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var sources []Source
			for i, name := range tt.names {
				lost := whole
				if i == 0 {
					lost = tt.lost
				}
				sources = append(sources, lossy(t, tt.network, name, lost))
			}
			in := read(t, sources...)
			r := explained(t, in, func(f *report.Flow) bool { return f.Tuple.Protocol == tt.proto })
			v := &r.Verdict
			for _, want := range tt.want {
				if !strings.Contains(v.Summary, want) {
					t.Errorf("%q is not in %q", want, v.Summary)
				}
			}
			if v.Outcome != report.Replied || v.Leg != "reply" || v.NetNS+v.Interface != tt.at || v.Elapsed != 0 {
				t.Errorf("%+v", v)
			}
			if len(r.Legs.Request) != 2 || len(r.Legs.Reply) != 1 {
				t.Errorf("legs %+v", r.Legs)
			}
		})
	}
}

// TestNothingMissing: that nothing is missing is said where two places saw the
// same, and both could be read.
func TestNothingMissing(t *testing.T) {
	cnt, docker0 := lossy(t, "docker-bridge-outbound", "cnt01-eth0", whole), lossy(t, "docker-bridge-outbound", "host-docker0", whole)
	cut := lossy(t, "docker-bridge-outbound", "host-docker0", whole)
	b, err := os.ReadFile(cut.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut.Path, append(b, 1, 2, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		sources []Source
		want    string
	}{
		"one place":  {[]Source{cnt}, "All 2 flows went well."},
		"two places": {[]Source{cnt, docker0}, "All 2 flows went well, and nothing is missing."},
		"damaged":    {[]Source{cnt, cut}, "All 2 flows went well."},
		"one answer less at each": {
			[]Source{lossy(t, "docker-bridge-outbound", "cnt01-eth0", echoReply(2)), lossy(t, "docker-bridge-outbound", "host-docker0", echoReply(1))},
			"Packets are missing in 1 of 2 flows. The other 1 went well.",
		},
		"one answer less": {
			[]Source{lossy(t, "docker-bridge-outbound", "cnt01-eth0", echoReply(2))},
			"Not everything was answered in 1 of 2 flows. The other 1 went well.",
		},
	} {
		if got := Table(read(t, tt.sources...), Selection{}, 0).Verdict.Summary; got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// TestEchoTwice: a request that a capture of all interfaces saw twice wants one
// answer.
func TestEchoTwice(t *testing.T) {
	twice := edited(t, "ipv6-masquerade", "cnt01-eth0", func(_ int, h *packet.Header) int {
		return 1 + one(h.Tuple.Proto == packet.ICMPv6 && h.Tuple.ICMPType == packet.EchoRequestV6)
	})
	r := Table(read(t, twice), Selection{Proto: packet.ICMPv6}, 0)
	if len(r.Flows) != 1 || r.Flows[0].Unanswered != 0 || r.Flows[0].Points[0].Packets <= r.Flows[0].Points[1].Packets {
		t.Errorf("%+v", r.Flows)
	}
}
