package offline

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// TestPublished: captures that others published, of which it is known what they
// do not show.
func TestPublished(t *testing.T) {
	folder := testenv.SharedData(t)
	tests := map[string]struct {
		outcome    report.Outcome
		says, hide string
	}{
		"packets/tcp_retransmissions.pcapng": { // nothing but one segment, six times
			report.Inconclusive, "the sender acknowledges nothing new", "another way",
		},
		"ndpi/http_asymmetric.pcapng": { // each direction by itself
			report.Inconclusive, "although the sender acknowledges what it gets: it takes another way, or was left out", "",
		},
		"packets/icmp_traceroute.pcapng": { // the first three get no further than a router
			report.Replied, `192.168.100.1 answered this one with "TTL exceeded`, "The answer came back",
		},
		"zeek/icmp-destunreach-udp.pcap": { // an error and not what it is about
			report.Inconclusive, "192.168.1.102 → 192.168.1.1 was seen", "could be followed",
		},
		"skydive/ping-with-without-ethernet.pcap": { // ends with the request
			report.Inconclusive, "it would not show a later answer", "What lies behind",
		},
		"zeek/vlan-collisions.pcap": { // on three VLANs of one interface
			report.Replied, "seen at vlan-collisions, vlan-collisions (VLAN 42) and vlan-collisions (VLAN 10, in it 20)", "",
		},
	}
	for name, tt := range tests {
		in, err := Read(t.Context(), []Source{{Path: filepath.Join(folder, name)}}, Logs{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Explain(t.Context(), in, 0)
		if err != nil {
			t.Fatal(err)
		}
		v := &r.Verdict
		if v.Outcome != tt.outcome || !strings.Contains(v.Summary, tt.says) || tt.hide != "" && strings.Contains(v.Summary, tt.hide) {
			t.Errorf("%s: %s: %s", name, v.Outcome, v.Summary)
		}
	}
}

// TestPublishedEchoes: a request got its answer by an ICMP error, too; one that
// got neither is counted.
func TestPublishedEchoes(t *testing.T) {
	folder := testenv.SharedData(t)
	for name, want := range map[string]uint64{
		"packets/icmp_traceroute.pcapng":              0,
		"skydive/icmpv4-4vlanQinQ-id-8-10-20-30.pcap": 2,
	} {
		in, err := Read(t.Context(), []Source{{Path: filepath.Join(folder, name)}}, Logs{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if got := in.Result.Flows[0].Unanswered; got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}
