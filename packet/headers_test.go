package packet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// withoutPayload is what must remain of a Header when its frame is cut behind
// the headers.
func withoutPayload(h Header) Header {
	h.Payload, h.PayloadCut = nil, false
	if h.Quoted != nil {
		quoted := withoutPayload(*h.Quoted)
		h.Quoted = &quoted
	}
	return h
}

// tellCut cuts a frame behind its headers, which must leave the same Header.
func tellCut(t *testing.T, frame []byte, wire int) {
	t.Helper()
	whole, err := Decode(LinkEthernet, frame, wire)
	if err != nil {
		return
	}
	n := HeaderLength(LinkEthernet, frame)
	got, err := Decode(LinkEthernet, frame[:n], wire)
	if err != nil {
		t.Errorf("cut to %d bytes: %v", n, err)
	}
	if !whole.IsICMPError() && whole.Tuple.Proto != ICMPv6 && len(got.Payload) > 0 {
		t.Errorf("cut to %d bytes there is payload: %x", n, got.Payload)
	}
	if diff := cmp.Diff(withoutPayload(whole), withoutPayload(got), cmpHeader); diff != "" {
		t.Errorf("cut to %d of %d bytes (-want +got):\n%s", n, len(frame), diff)
	}
}

// TestHeaderLength cuts frames of every kind, whole and cut anywhere before.
func TestHeaderLength(t *testing.T) {
	want := map[string]int{"tcp": 14 + 20 + 36, "udp options": 14 + 24 + 8, "echo": 14 + 20 + 8, "echo6": 14 + 40 + 8, "arp": 60, "too big": 14 + 40 + 8 + 40 + 8}
	for name, frame := range frames(t) {
		for n := ethernetBytes; n <= len(frame); n++ {
			tellCut(t, frame[:n], len(frame))
		}
		n := HeaderLength(LinkEthernet, frame)
		if want, ok := want[name]; ok && n != want {
			t.Errorf("%s: %d bytes of %d are headers, want %d", name, n, len(frame), want)
		}
		if got := HeaderLength(LinkRaw, frame[ethernetBytes:]); name == "tcp" && got != n-ethernetBytes {
			t.Errorf("%s without its link header: %d, want %d", name, got, n-ethernetBytes)
		}
	}
}

// FuzzHeaderLength looks for frames that decode to something else when they are
// cut behind their headers.
func FuzzHeaderLength(f *testing.F) {
	for _, frame := range frames(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) { tellCut(t, data, len(data)) })
}
