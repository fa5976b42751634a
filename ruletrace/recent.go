package ruletrace

// maxRecent bounds each of the two halves of a recent map.
const maxRecent = 1024

// recent is a map that remembers at least the last 1024 keys that were put, and
// at most twice as many: the older half is forgotten when the newer is full.
type recent[K comparable, V any] struct{ newer, older map[K]V }

func (r *recent[K, V]) get(key K) (V, bool) {
	v, ok := r.newer[key]
	if !ok {
		v, ok = r.older[key]
	}
	return v, ok
}

func (r *recent[K, V]) put(key K, value V) {
	if r.newer == nil || len(r.newer) >= maxRecent {
		r.newer, r.older = map[K]V{}, r.newer
	}
	r.newer[key] = value
}
