package evidence

import (
	"bytes"
	"slices"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// TestPayload keeps of each kind of packet what is to be kept, in a frame and in
// a header that a rule's hit carries.
func TestPayload(t *testing.T) {
	nonce := []byte("0123456789abcdef")
	echo := packet.Tuple{Proto: packet.ICMP, ICMPType: packet.EchoRequest}
	udp := func(port uint16) packet.Tuple { return packet.Tuple{Proto: packet.UDP, SrcPort: 4000, DstPort: port} }
	tcp := packet.Tuple{Proto: packet.TCP, SrcPort: 4000, DstPort: 80}
	quoting := func(quoted packet.Tuple, data string) packet.Header {
		return packet.Header{Tuple: packet.Tuple{Proto: packet.ICMP, ICMPType: 3}, Quoted: &packet.Header{Tuple: quoted, Payload: []byte(data)}}
	}
	plain := func(tuple packet.Tuple, data string) packet.Header {
		return packet.Header{Tuple: tuple, Payload: []byte(data)}
	}
	tests := map[string]struct {
		header packet.Header
		kept   bool
	}{
		"own ping":            {plain(echo, string(nonce)+"!"), true},
		"own ping, cut":       {plain(echo, string(nonce[:12])), true},
		"another's ping":      {plain(echo, "secret secret secret"), false},
		"DNS":                 {plain(udp(53), "query"), true},
		"UDP":                 {plain(udp(54), "secret"), false},
		"own datagram":        {plain(udp(54), string(nonce)), true},
		"own datagram, cut":   {plain(udp(54), string(nonce[:9])), true},
		"line ends":           {plain(tcp, "\n\n\n"), true},
		"TCP":                 {plain(tcp, "\nsecret\n"), false},
		"another protocol":    {plain(packet.Tuple{Proto: 47}, "secret"), false},
		"own ping, quoted":    {quoting(echo, string(nonce)), true},
		"another's, quoted":   {quoting(echo, "secret secret"), false},
		"quoted TCP":          {quoting(tcp, "secret"), false},
		"quoted DNS":          {quoting(udp(53), "query"), true},
		"without any payload": {plain(tcp, ""), true},
	}
	for name, tt := range tests {
		p := newPayload(false)
		p.sent = [][]byte{nonce}
		data, quoted := tt.header.Payload, tt.header.Quoted
		if quoted != nil {
			data = quoted.Payload
		}
		before := bytes.Clone(data)
		if got := p.keeps(&tt.header, data); got != tt.kept {
			t.Errorf("%s: kept %v, want %v", name, got, tt.kept)
		}
		kept := p.header(tt.header)
		got := kept.Payload
		if quoted != nil {
			got = kept.Quoted.Payload
		}
		if bytes.Equal(got, before) != tt.kept {
			t.Errorf("%s: %q remains of %q", name, got, before)
		}
		if !bytes.Equal(data, before) || quoted != nil && tt.header.Quoted != quoted {
			t.Errorf("%s: the header that was handed in has changed", name)
		}
		all := newPayload(true)
		if !all.keeps(&tt.header, data) {
			t.Errorf("%s: not kept where all is", name)
		}
	}
}

// TestCarried keeps of a packet in a VXLAN what makes the two known, and what would
// be kept of it outside, however little of it there is.
func TestCarried(t *testing.T) {
	nonce := []byte("0123456789abcdef")
	vxlan := []byte{8, 0, 0, 0, 0, 0, 42, 0}
	inside := func(proto packet.Proto, transport []byte, data string) []byte {
		ip := []byte{0x45, 0, 0, byte(20 + len(transport) + len(data)), 0, 1, 0, 0, 64, byte(proto), 0, 0, 10, 32, 0, 2, 10, 32, 0, 3}
		return slices.Concat(vxlan, make([]byte, 12), []byte{8, 0}, ip, transport, []byte(data))
	}
	echo, datagram := []byte{8, 0, 0, 0, 0, 1, 0, 1}, []byte{15, 160, 15, 161, 0, 14, 0, 0}
	const ends = len("secret")
	for name, tt := range map[string]struct {
		payload []byte
		kept    int  // bytes that are as they were
		left    bool // what follows is left out, and not veiled
	}{
		"own ping":            {payload: inside(packet.ICMP, echo, string(nonce)), kept: 8 + 14 + 20 + 8 + len(nonce)},
		"another's ping":      {payload: inside(packet.ICMP, echo, "secret"), kept: 8 + 14 + 20 + 8},
		"another's datagram":  {payload: inside(packet.UDP, datagram, "secret"), kept: 8 + 14 + 20 + 8},
		"TCP":                 {payload: inside(packet.TCP, append(make([]byte, 12), 0x50, 0x10, 0, 0, 0, 0, 0, 0), "secret"), kept: 8 + 14 + 20 + 20, left: true},
		"what a trace has":    {payload: inside(packet.ICMP, echo, "")[:12], kept: 12},
		"no VXLAN":            {payload: []byte("spoken secret words secret")},
		"no IP packet inside": {payload: append(slices.Clone(vxlan), make([]byte, 40)...)},
	} {
		p := newPayload(false)
		p.sent = [][]byte{nonce}
		got := p.header(packet.Header{Tuple: packet.Tuple{Proto: packet.UDP, SrcPort: 4000, DstPort: 4789}, Payload: tt.payload}).Payload
		want := len(tt.payload)
		if tt.left {
			want -= ends
		}
		if len(got) != want || !bytes.Equal(got[:tt.kept], tt.payload[:tt.kept]) {
			t.Errorf("%s: of %x remains %x", name, tt.payload, got)
		}
		if want > tt.kept && bytes.Equal(got[tt.kept:], tt.payload[tt.kept:want]) {
			t.Errorf("%s: %q is not veiled", name, got[tt.kept:])
		}
	}
}

// TestVeil tells apart what is veiled from the first byte on that differs, also
// when that is the last, in one bundle; another one has another veil.
func TestVeil(t *testing.T) {
	p, other := newPayload(false), newPayload(false)
	long := p.veil([]byte("secret one"))
	alike := func(veiled []byte) (n int) {
		for n < len(veiled) && veiled[n] == long[n] {
			n++
		}
		return n
	}
	for last := range 256 {
		data := append([]byte("secret on"), byte(last))
		want := 9
		if last == 'e' {
			want = 10
		}
		if n := alike(p.veil(data)); n != want {
			t.Errorf("%q: %d bytes are alike, want %d", data, n, want)
		}
	}
	if n := alike(p.veil([]byte("secret"))); n != 6 {
		t.Errorf("less of it: %d bytes are alike, want 6", n)
	}
	if n := alike(other.veil([]byte("secret one"))); n > 2 { // one byte in 256 is alike by chance
		t.Errorf("another bundle: %d bytes are alike", n)
	}
	if bytes.Contains(long, []byte("secret")) {
		t.Errorf("%q is no veil", long)
	}
}

// TestVeiledLikeness has headers compare as they did before: what tells packets
// apart does so behind the veil, and what does not, as padding, does not there
// either.
func TestVeiledLikeness(t *testing.T) {
	p := newPayload(false)
	datagram := func(payload string) packet.Header {
		return packet.Header{Version: 6, Tuple: packet.Tuple{Proto: packet.UDP, SrcPort: 1, DstPort: 2}, PayloadLength: 72, Payload: []byte(payload)}
	}
	payloads := []string{
		"", "a", "abc", "abcdefgh", "aaaaaaaaaaaa", "aaaaaaaaaaab", "\x00\x00\x00\x00\x00\x00\x00\x00", "secret", "hello", "number 1", "number 2", "number 12",
		"0123456789:;<=>?!", "aabbccdd", "aab",
	}
	seen := make(map[packet.Likeness]int)
	for _, a := range payloads {
		for _, b := range payloads {
			one, two := datagram(a), datagram(b)
			veiledOne, veiledTwo := p.header(one), p.header(two)
			want, got := one.Compare(&two), veiledOne.Compare(&veiledTwo)
			seen[want]++
			if got != want {
				t.Errorf("%q and %q are %s, behind the veil %s", a, b, want, got)
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("degrees %v, want all three", seen)
	}
}
