package ruletrace

import (
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// BenchmarkArm measures what a namespace costs before the probe is sent, and
// after.
func BenchmarkArm(b *testing.B) {
	s := newSpace(b)
	for b.Loop() {
		a, err := Arm(ArmConfig{NetNS: s.ns, Match: echoMatch()})
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpenNFLog includes the start and the end of the guard.
func BenchmarkOpenNFLog(b *testing.B) {
	s := newSpace(b)
	dir := b.TempDir()
	for b.Loop() {
		if err := s.openNFLog(dir).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOtherTraffic sends packets of another protocol through a namespace,
// armed and not: what the arming costs those that it is not about.
func BenchmarkOtherTraffic(b *testing.B) {
	for _, armed := range []bool{false, true} {
		name := "unarmed"
		if armed {
			name = "armed"
		}
		b.Run(name, func(b *testing.B) {
			from, to := newSpace(b), newSpace(b)
			veth(from, "out", to, "in")
			to.nft(seen)
			if armed {
				to.arm(ArmConfig{Match: Match{Proto: packet.TCP, Source: clientAddr, Target: serverAddr, SourcePort: 4000, TargetPort: 443}})
			}
			packets := make([][]byte, b.N)
			for i := range packets {
				packets[i] = ipv4Packet(17, clientAddr, serverAddr, 0, udpDatagram(1, 2))
			}
			b.ResetTimer()
			from.inject("out", to, "in", packets...)
		})
	}
}
