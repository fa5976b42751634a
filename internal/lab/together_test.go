//go:build linux

package lab

import "testing"

// TestFaultsTogether names two faults in both orders: the truth is that of the
// one that a packet meets first.
func TestFaultsTogether(t *testing.T) {
	for _, tt := range []struct {
		scenario, first, second string
		certain                 bool
	}{
		{"ipv6-masquerade", "output-drop@cnt01", ForwardDrop, true},
		{"ipv6-masquerade", ForwardDrop, "forward-drop@gateway", true},
		{"ipv6-masquerade", "forward-drop@gateway", ReplyDrop, true},
		{"ipv6-masquerade", ReplyDrop, "input-drop@cnt01", true},
		{"netns-by-hand", "no-forwarding", ReplyDrop, true},
		{"netns-by-hand", "no-forwarding", ForwardDrop, false},
		{"netns-by-hand", ForwardDrop, Reject, false},
		{"netns-by-hand", "no-forwarding", "no-masquerade", false},
		{"netns-by-hand", "no-masquerade", ReplyDrop, true},
		{"ipv6-masquerade", "snat-wrong-address", "reply-drop@gateway", false},
		{"netns-by-hand", DNSDrop, ForwardDrop, false},
	} {
		s, err := Find(tt.scenario)
		if err != nil {
			t.Fatal(err)
		}
		for _, both := range [][2]string{{tt.first, tt.second}, {tt.second, tt.first}} {
			a, _ := s.fault(both[0])
			b, _ := s.fault(both[1])
			if got := s.Certain(&a, &b); got != tt.certain {
				t.Errorf("%s: the order of %v is certain: %t, want %t", tt.scenario, both, got, tt.certain)
			}
			options := Options{Break: both[0] + "," + both[1]}
			if err := s.Check(options); err != nil {
				t.Error(err)
			}
			if !tt.certain {
				continue
			}
			want, got := s.Truth(Options{Break: tt.first}), s.Truth(options)
			if got.Code != want.Code || got.NetNS != want.NetNS || got.Leg != want.Leg || got.Rule != want.Rule {
				t.Errorf("%s with %v: %+v, want %+v", tt.scenario, both, got, want)
			}
		}
	}
}
