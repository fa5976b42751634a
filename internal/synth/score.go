package synth

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/packet"
)

// Score is how well captures of a scene were joined.
type Score struct {
	// Flows are pairs of tuples of one flow, Packets pairs of sightings of one
	// packet.
	Flows, Packets Pairs
	// Clock is what was found of the outside clock; nil for one capture.
	Clock *flows.Clock
	// Amiss says by kind of flow what was missed or wrong.
	Amiss map[string]int
}

// Pairs are what should have been joined.
type Pairs struct {
	// All there are. Right were joined, Flagged were reported as ambiguous, Missed
	// are the rest. Wrong were joined and are no pair.
	All, Right, Flagged, Missed, Wrong int
}

// Precision is the part of what was joined that is right.
func (p Pairs) Precision() float64 { return float64(p.Right) / float64(max(p.Right+p.Wrong, 1)) }

// Recall is the part of the pairs that was joined, of those that were not
// reported as ambiguous.
func (p Pairs) Recall() float64 { return float64(p.Right) / float64(max(p.All-p.Flagged, 1)) }

// Add adds the pairs of another scene.
func (p *Pairs) Add(o Pairs) {
	p.All, p.Right, p.Flagged, p.Missed, p.Wrong = p.All+o.All, p.Right+o.Right, p.Flagged+o.Flagged, p.Missed+o.Missed, p.Wrong+o.Wrong
}

// Join writes a scene into one capture, or into one for each point, joins them,
// and compares the result with the truth.
func Join(ctx context.Context, scene *Scene, several bool) (*Score, error) {
	captures, err := scene.captures(several)
	if err != nil {
		return nil, err
	}
	var clocks []flows.Clock
	if several {
		if clocks, err = flows.Measure(ctx, captures, nil); err != nil {
			return nil, err
		}
	}
	result, err := flows.Join(ctx, captures, flows.Config{Clocks: clocks})
	if err != nil {
		return nil, err
	}
	c := comparison{scene: scene, result: result, score: &Score{Amiss: make(map[string]int)}, clocks: clocks}
	if several {
		c.score.Clock = &clocks[Outside]
	}
	c.flows()
	all := make([]*flows.Flow, len(result.Flows))
	for i := range result.Flows {
		all[i] = &result.Flows[i]
	}
	courses, err := flows.Follow(ctx, captures, clocks, all...)
	if err != nil {
		return nil, err
	}
	return c.score, c.packets(courses)
}

// captures are the scene's sightings as files in memory.
func (s *Scene) captures(several bool) ([]flows.Capture, error) {
	files := [][]Sighting{s.Sightings}
	if several {
		files = make([][]Sighting, Points)
		for _, x := range s.Sightings {
			files[x.Point] = append(files[x.Point], x)
		}
	}
	var all []flows.Capture
	for i, sightings := range files {
		var b bytes.Buffer
		name, write := "both", WritePcapng
		if several {
			name, write = []string{"inside", "outside"}[i], WritePcap
		}
		if err := write(&b, sightings); err != nil {
			return nil, err
		}
		all = append(all, flows.Capture{
			Name: name,
			Open: func() (flows.Reader, error) { return capture.NewFile(name, bytes.NewReader(b.Bytes())) },
			Point: func(_ int, of capture.FileInterface) capture.Point {
				return capture.Point{NetNS: name, Interface: of.Name}
			},
		})
	}
	return all, nil
}

// comparison holds a result against the truth.
type comparison struct {
	scene  *Scene
	result *flows.Result
	clocks []flows.Clock
	score  *Score
}

// point is the point that a place of the result is.
func (c *comparison) point(place int) int {
	if p := c.result.Places[place].Point; p.Interface == "outside" || p.NetNS == "outside" {
		return Outside
	}
	return Inside
}

// tuple is a tuple at a point.
type tuple struct {
	point int
	key   packet.Key
}

type tuplePair struct{ a, b tuple }

// flows compares the flows that were joined with the truth: each pair of tuples
// of a flow in one direction.
func (c *comparison) flows() {
	owner := make(map[tuple]int)
	for i := range c.scene.Sightings {
		s := &c.scene.Sightings[i]
		owner[tuple{s.Point, s.Key}] = s.Flow
	}
	found, ambiguous := make(map[tuplePair]bool), make(map[tuple]bool)
	for i := range c.result.Flows {
		f := &c.result.Flows[i]
		for _, stops := range [][]flows.Stop{f.Out, f.Back} {
			for k := range stops {
				x := tuple{c.point(stops[k].Place), stops[k].Key}
				if len(f.Ambiguous) > 0 {
					ambiguous[x] = true
				}
				for m := range k {
					y := tuple{c.point(stops[m].Place), stops[m].Key}
					found[tuplePair{x, y}], found[tuplePair{y, x}] = true, true
				}
			}
		}
	}
	truth := c.tuples()
	s := &c.score.Flows
	for p, flow := range truth {
		s.All++
		switch {
		case found[p]:
			s.Right++
		case ambiguous[p.a] || ambiguous[p.b]:
			s.Flagged++
		default:
			s.Missed++
			c.score.Amiss[fmt.Sprintf("flow missed: %v %v", c.scene.Flows[flow].Kind, p.a.key.Proto)]++
		}
	}
	for p := range found {
		if _, ok := truth[p]; ok || owner[p.a] == owner[p.b] && c.scene.Flows[owner[p.a]].Kind != Relay {
			continue // also of one flow whose packets were all lost
		}
		s.Wrong++
		c.score.Amiss[fmt.Sprintf("flow wrong: %v with %v %v", c.scene.Flows[owner[p.a]].Kind, c.scene.Flows[owner[p.b]].Kind, p.a.key.Proto)]++
	}
}

// tuples are the pairs of tuples that share a packet, with their flow.
func (c *comparison) tuples() map[tuplePair]int {
	seen := make(map[uint64][]tuple)
	for i := range c.scene.Sightings {
		s := &c.scene.Sightings[i]
		if c.scene.Flows[s.Flow].Kind == Relay {
			continue
		}
		for _, n := range s.Packets {
			seen[n] = append(seen[n], tuple{s.Point, s.Key})
		}
	}
	truth := make(map[tuplePair]int)
	for i := range c.scene.Sightings {
		for _, n := range c.scene.Sightings[i].Packets {
			for _, x := range seen[n] {
				for _, y := range seen[n] {
					if x != y {
						truth[tuplePair{x, y}] = c.scene.Sightings[i].Flow
					}
				}
			}
		}
	}
	return truth
}

// identity is what a sighting is found by in the truth.
type identity struct {
	tuple
	time   int64
	id     uint32
	offset int
}

func (c *comparison) identity(point int, at int64, h *packet.Header) identity {
	return identity{tuple{point, h.Tuple.Key()}, at, h.IPID, h.FragmentOffset}
}

// packets compares the packets that were joined with the truth: each pair of
// sightings of a packet at different stops.
func (c *comparison) packets(courses []*flows.Course) error {
	numbers, flow := make(map[identity][]uint64), make(map[identity]int)
	for i := range c.scene.Sightings {
		o := &c.scene.Sightings[i]
		h, err := packet.Decode(packet.LinkEthernet, o.Data, len(o.Data))
		if err != nil {
			return err
		}
		at := o.Time
		if c.clocks != nil {
			at = c.clocks[o.Point].OnReference(at)
		}
		id := c.identity(o.Point, at, &h)
		numbers[id] = append(numbers[id], o.Packets...)
		flow[id] = o.Flow
	}
	for i, course := range courses {
		own, flowOf := make([][]uint64, len(course.Sights)), make([]int, len(course.Sights))
		for k := range course.Sights {
			x := &course.Sights[k]
			id := c.identity(c.point(x.Place), x.Time.UnixNano(), &x.Header)
			own[k], flowOf[k] = numbers[id], flow[id]
			if own[k] == nil {
				return fmt.Errorf("no truth about a packet of %s at %s", x.Header.Tuple, x.Time)
			}
		}
		c.course(&c.result.Flows[i], course, own, flowOf)
	}
	return nil
}

// course compares the packets of one flow.
func (c *comparison) course(f *flows.Flow, course *flows.Course, own [][]uint64, flowOf []int) {
	found, flagged := make(map[[2]int]bool), make([]bool, len(course.Sights))
	for _, p := range course.Packets {
		for _, a := range p.Sights {
			flagged[a] = p.Ambiguous || len(f.Ambiguous) > 0
			for _, b := range p.Sights {
				found[[2]int{a, b}] = true
			}
		}
	}
	s := &c.score.Packets
	for a := range course.Sights {
		for b := range course.Sights {
			x, y := &course.Sights[a], &course.Sights[b]
			if x.Stop >= y.Stop || x.Reply != y.Reply {
				continue
			}
			is, should := found[[2]int{a, b}], overlap(own[a], own[b])
			if should {
				s.All++
			}
			switch {
			case should && is:
				s.Right++
			case should && (flagged[a] || flagged[b]):
				s.Flagged++
			case should:
				s.Missed++
				c.score.Amiss[fmt.Sprintf("packet missed: %v %v", c.scene.Flows[flowOf[a]].Kind, x.Header.Tuple.Proto)]++
			case is && !sameWhole(own[a], own[b], own):
				s.Wrong++
				c.score.Amiss[fmt.Sprintf("packet wrong: %v %v", c.scene.Flows[flowOf[a]].Kind, x.Header.Tuple.Proto)]++
			}
		}
	}
}

// overlap reports whether two sightings have a packet in common.
func overlap(a, b []uint64) bool {
	return slices.ContainsFunc(a, func(n uint64) bool { return slices.Contains(b, n) })
}

// sameWhole reports whether two parts are parts of one packet.
func sameWhole(a, b []uint64, all [][]uint64) bool {
	return slices.ContainsFunc(all, func(whole []uint64) bool {
		return len(whole) > 1 && slices.Contains(whole, a[0]) && slices.Contains(whole, b[0])
	})
}
