package flows

import (
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// TestEdgesBounded: a tuple whose packets look like those of any number of others
// keeps no more than some.
func TestEdgesBounded(t *testing.T) {
	t.Parallel()
	links := newLinks()
	links.add(packet.Key{}, 0)
	const own = 0
	for peer := range int32(100_000) {
		more(&links.edgeTo(own, peer+1).weak)
	}
	n := 0
	links.edgesOf(own, func(e *edge) {
		if n++; e.weak != 1 {
			t.Errorf("edge to %d has %d", e.peer, e.weak)
		}
	})
	if n != maxEdges+len(links.at(own).edges) {
		t.Errorf("%d edges", n)
	}
}
