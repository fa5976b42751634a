package flows

import "testing"

// TestWindowAlike looks at no more packets than were seen at about the time.
func TestWindowAlike(t *testing.T) {
	t.Parallel()
	const n, limit = 50_000, 1_000_000
	w := newWindow()
	var s *seen
	for i := range n { // of one content
		s = w.put(&seen{mark: 7, time: int64(i) * 10 * limit, track: int32(i)})
	}
	// The packets before would be found if they were looked at.
	for i := uint32(1); i < n-10_000; i++ {
		w.at(i).time = s.time
	}
	if alike := w.alike(s, limit, nil); len(alike) != 1 || alike[0] != s {
		t.Errorf("%d packets are alike, want the packet itself", len(alike))
	}
}
