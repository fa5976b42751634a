package flows

import (
	"cmp"
	"slices"
)

// maxKept is how many flows that failed are kept of those that are given up.
const maxKept = 1000

// evict gives up the half of the flows that has been idle longest. What they
// were is counted; those that failed are kept, up to a number.
func (j *join) evict() {
	j.handover.wait()
	groups := j.groups()
	slices.SortStableFunc(groups, func(a, b group) int { return cmp.Compare(a.last, b.last) })
	tracks := 0
	stay := len(groups)
	for i := range groups {
		if tracks += len(groups[i].members); tracks > j.tracks.count/2 {
			stay = i + 1
			break
		}
	}
	var d describer
	for i := range groups[:stay] {
		f := j.flow(&groups[i], &d)
		if f.severity() <= 2 && len(j.kept) < maxKept {
			j.kept = append(j.kept, f)
			continue
		}
		j.result.Evicted++
		j.result.EvictedPackets += f.packets()
	}
	j.compact(groups[stay:])
}

// compact keeps only the tracks of some groups.
func (j *join) compact(groups []group) {
	renamed := make([]int32, j.tracks.count) // new index plus one
	keep := make([]int32, 0, j.tracks.count/2)
	for i := range groups {
		for _, m := range groups[i].members {
			keep = append(keep, m.track)
		}
	}
	slices.Sort(keep)
	for to, from := range keep {
		renamed[from] = int32(to) + 1
	}
	more, quoted := j.links.more, j.tracks.quoted
	j.links.more, j.tracks.quoted = make(map[int32][]edge), make(map[int32]quote)
	for to, from := range keep {
		*j.tracks.at(int32(to)) = *j.tracks.at(from)
		l := j.links.at(int32(to))
		*l = *j.links.at(from)
		edges := l.edges
		clear(l.edges[:])
		for _, e := range slices.Concat(edges[:], more[from]) {
			if e.peer == 0 || renamed[e.peer-1] == 0 {
				continue
			}
			e.peer = renamed[e.peer-1]
			*j.links.edgeTo(int32(to), e.peer-1) = e
		}
		if q, ok := quoted[from]; ok {
			j.tracks.quoted[int32(to)] = q
		}
	}
	j.tracks.count, j.links.count = len(keep), len(keep)
	j.tracks.rehash(len(j.tracks.slots))
	for i := range j.recogniser.window.ring {
		s := &j.recogniser.window.ring[i]
		if s.track >= 0 && int(s.track) < len(renamed) {
			s.track = renamed[s.track] - 1
		}
	}
	clear(j.fragments)
}
