package flows

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"github.com/pathtrace/pathtrace/packet"
)

// group is the tracks of one exchange.
type group struct {
	members []member
	// doubts are what its tracks may have to do with others.
	unclear, relays int
	contradiction   bool
	last            int64
}

// member is a track and its direction: that of the group's first one or the
// other.
type member struct {
	track    int32
	opposite bool
	// about says that it is an ICMP error about the exchange.
	about bool
}

// forest joins tracks into groups and remembers which of two go the same way.
type forest struct {
	parent   []int32
	opposite []bool // to the parent
	broken   map[int32]bool
}

func newForest(n int) *forest {
	f := &forest{parent: make([]int32, n), opposite: make([]bool, n), broken: make(map[int32]bool)}
	for i := range f.parent {
		f.parent[i] = int32(i)
	}
	return f
}

// find is the root of a track, and whether the track goes the other way.
func (f *forest) find(i int32) (root int32, opposite bool) {
	for f.parent[i] != i {
		opposite = opposite != f.opposite[i]
		if up := f.parent[i]; f.parent[up] != up { // halve the path
			f.opposite[i] = f.opposite[i] != f.opposite[up]
			f.parent[i] = f.parent[up]
			opposite = opposite != f.opposite[up]
		}
		i = f.parent[i]
	}
	return i, opposite
}

// join puts two tracks into one group.
func (f *forest) join(a, b int32, opposite bool) {
	ra, oa := f.find(a)
	rb, ob := f.find(b)
	if ra == rb {
		if (oa != ob) != opposite {
			f.broken[ra] = true
		}
		return
	}
	if ra > rb { // the first track is the root
		ra, rb = rb, ra
	}
	f.parent[rb] = ra
	f.opposite[rb] = (oa != ob) != opposite
	if f.broken[rb] {
		f.broken[ra] = true
	}
}

// compareKeys orders tuples.
func compareKeys(a, b *packet.Key) int {
	switch {
	case a.Src != b.Src:
		return bytes.Compare(a.Src[:], b.Src[:])
	case a.SrcPort != b.SrcPort:
		return cmp.Compare(a.SrcPort, b.SrcPort)
	case a.Dst != b.Dst:
		return bytes.Compare(a.Dst[:], b.Dst[:])
	case a.DstPort != b.DstPort:
		return cmp.Compare(a.DstPort, b.DstPort)
	case a.Proto != b.Proto:
		return cmp.Compare(a.Proto, b.Proto)
	}
	return cmp.Compare(a.ICMPType, b.ICMPType)
}

// groups puts together what belongs to one exchange: tracks that are a pair, and
// those of one tuple and its inverse at one place.
func (j *join) groups() []group {
	var all []pair
	var pairing sync.WaitGroup
	pairing.Go(func() { all = j.pairs() })
	n := j.tracks.count
	f := newForest(n)
	x := newExchanges(j.tracks, j.places)
	for i := range int32(n) { // in the order of their first packets
		if _, isError := j.tracks.quoted[i]; isError {
			continue
		}
		t := j.tracks.at(i)
		e, inverse := x.of(t.key, j.places.list[t.place].base, i)
		if t.again && e.has(inverse, t.ttl) {
			*e = exchange{track: i, inverse: inverse}
		}
		f.join(e.track, i, inverse != e.inverse)
		e.add(inverse, t.ttl)
	}
	pairing.Wait()
	for i := range all {
		if all[i].verdict == accepted {
			f.join(all[i].a, all[i].b, false)
		}
	}
	errors := make(map[int32]int32)
	for i, q := range j.tracks.quoted {
		if e := x.find(q.key, j.places.list[j.tracks.at(i).place].base); e != nil {
			errors[i] = e.track
		}
	}
	return j.collectGroups(f, errors, all)
}

// exchanges are those that go on at each place, by their ends: a tuple and its
// inverse.
type exchanges struct {
	tracks *tracks
	places *places
	list   []exchange
	slots  []int32 // indexes into list plus one, by hash
}

func newExchanges(t *tracks, p *places) *exchanges {
	return &exchanges{tracks: t, places: p, list: make([]exchange, 0, t.count/2), slots: make([]int32, len(t.slots))}
}

// slot is where the exchange of a tuple is, or would be, and which of the
// two tuples this one is.
func (x *exchanges) slot(key packet.Key, place int32) (slot uint64, inverse bool) {
	back := key.Inverse()
	forth, reverse := hashKey(&key), hashKey(&back)
	mask := uint64(len(x.slots) - 1)
	for slot = slotHash(forth^reverse, place) & mask; x.slots[slot] != 0; slot = (slot + 1) & mask {
		t := x.tracks.at(x.list[x.slots[slot]-1].track)
		if x.places.list[t.place].base == place && (t.key == key || t.key == back) {
			break
		}
	}
	return slot, reverse < forth
}

// find is the exchange of a tuple; nil when there is none.
func (x *exchanges) find(key packet.Key, place int32) *exchange {
	slot, _ := x.slot(key, place)
	if x.slots[slot] == 0 {
		return nil
	}
	return &x.list[x.slots[slot]-1]
}

// of is the exchange of a track, made when there is none, and which of the two
// tuples the track has.
func (x *exchanges) of(key packet.Key, place, track int32) (e *exchange, inverse bool) {
	slot, inverse := x.slot(key, place)
	if x.slots[slot] == 0 {
		x.list = append(x.list, exchange{track: track, inverse: inverse})
		x.slots[slot] = int32(len(x.list))
	}
	return &x.list[x.slots[slot]-1], inverse
}

// exchange is one that goes on: one of its tracks, and which directions and TTLs
// it has.
type exchange struct {
	track   int32
	inverse bool
	count   uint8
	have    [6]uint16
}

func (x *exchange) has(inverse bool, ttl uint8) bool {
	return slices.Contains(x.have[:x.count], course(inverse, ttl))
}

func (x *exchange) add(inverse bool, ttl uint8) {
	if c := course(inverse, ttl); int(x.count) < len(x.have) && !x.has(inverse, ttl) {
		x.have[x.count] = c
		x.count++
	}
}

func course(inverse bool, ttl uint8) uint16 {
	if inverse {
		return 1<<8 | uint16(ttl)
	}
	return uint16(ttl)
}

func (j *join) collectGroups(f *forest, errors map[int32]int32, all []pair) []group {
	index := make([]int32, len(f.parent)) // of the group of a root, plus one
	groups := make([]group, 0, len(f.parent)/tracksPerFlow)
	roots, opposites := make([]int32, len(f.parent)), make([]bool, len(f.parent))
	sizes := make([]int32, 0, cap(groups))
	for i := range int32(len(f.parent)) {
		about, isError := errors[i]
		if !isError {
			about = i
		}
		roots[i], opposites[i] = f.find(about)
		g := index[roots[i]] - 1
		if g < 0 {
			g = int32(len(groups))
			index[roots[i]] = g + 1
			groups = append(groups, group{last: j.tracks.at(i).last, contradiction: f.broken[roots[i]]})
			sizes = append(sizes, 0)
		}
		sizes[g]++
		groups[g].last = max(groups[g].last, j.tracks.at(i).last)
	}
	members := make([]member, len(f.parent)) // of all groups
	for i := range groups {
		groups[i].members, members = members[:0:sizes[i]], members[sizes[i]:]
	}
	for i, root := range roots {
		_, about := errors[int32(i)]
		g := &groups[index[root]-1]
		g.members = append(g.members, member{track: int32(i), opposite: opposites[i], about: about})
	}
	for i := range all {
		for _, t := range [2]int32{all[i].a, all[i].b} {
			root, _ := f.find(t)
			switch all[i].verdict {
			case unclear:
				groups[index[root]-1].unclear++
			case relay:
				groups[index[root]-1].relays++
			}
		}
	}
	return groups
}
