package path_test

import (
	"net/netip"
	"testing"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
)

const otherAddr = "2001:4860:4860::8844"

// An answer is the probe's by its content, and it says when its source is
// another one than the request went to.
func TestAnswerFromElsewhere(t *testing.T) {
	type answer struct {
		from                 string
		expected             netip.AddrPort
		unexpected, returned bool
	}
	expected := netip.AddrPortFrom(netip.MustParseAddr(targetAddr), 0)
	for name, tt := range map[string]struct {
		build func(*bed)
		want  answer
	}{
		"from the target": {
			func(b *bed) { b.answer(targetAddr) }, answer{from: targetAddr, returned: true},
		},
		"from elsewhere": {
			func(b *bed) { b.answer(otherAddr) }, answer{from: otherAddr, expected: expected, unexpected: true, returned: true},
		},
		"both, the target's last": {
			func(b *bed) { b.answer(otherAddr); b.answer(targetAddr) }, answer{from: targetAddr, returned: true},
		},
		"both, the target's first": {
			func(b *bed) { b.answer(targetAddr); b.answer(otherAddr) }, answer{from: targetAddr, returned: true},
		},
		"from elsewhere, as far as the host": {
			func(b *bed) { b.see("host/ens192", capture.Ingress, header(echo(otherAddr, hostAddr, true))) },
			answer{from: otherAddr, expected: expected},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed()
			b.sendOut()
			b.masquerade()
			tt.build(b)
			p := path.Join(b.in)
			got := answer{
				p.Answer.By.String(), p.Answer.Expected, p.Answer.Unexpected,
				p.Reply.End.Kind == path.Delivered && p.Reply.End.NetNS == "cnt01",
			}
			if got != tt.want || p.Answer.Kind != path.Reply {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// answer brings an answer from a source back to the container.
func (b *bed) answer(from string) {
	h := header(echo(from, hostAddr, true))
	h.TTL -= uint8(len(b.in.Sightings)) // each is another packet
	b.see("host/ens192", capture.Ingress, h)
	h.Tuple = echo(from, containerAddr, true)
	for _, point := range []string{"host/br0", "host/veth0"} {
		b.see(point, capture.Egress, h)
	}
	b.see("cnt01/eth0", capture.Ingress, h)
}
