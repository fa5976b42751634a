package flows

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Config bounds a join.
type Config struct {
	// MaxFlows is how many flows are kept at a time, about; 0 means
	// DefaultMaxFlows. Those that have been idle longest give way and are counted.
	MaxFlows int
	// Clocks are those of the captures, from Measure; nil takes all for one.
	Clocks []Clock
	// Patience is how long a capture has to go on for an answer to be missed, at
	// least; 0 leaves that to how long others waited.
	Patience time.Duration
	// Progress is called now and then with the number of packets so far; nil for
	// none.
	Progress func(packets uint64)
}

// Patience is the usual Config.Patience: TCP sends a SYN again after as much (RFC
// 6298), since nearly no round trip takes longer, and ping its next request.
const Patience = time.Second

// DefaultMaxFlows keeps memory below some 300 MB.
const DefaultMaxFlows = 200_000

// tracksPerFlow is how many tracks a flow has that is seen at two places, there
// and back.
const tracksPerFlow = 4

// horizon is how long a packet may take from one place to another, in
// nanoseconds.
const horizon = 2_000_000_000

// progressEvery is how many packets pass between two calls of Config.Progress.
const progressEvery = 1 << 16

// Join reads the captures and joins what they saw. When ctx ends it returns what
// is known until then.
func Join(ctx context.Context, captures []Capture, cfg Config) (*Result, error) {
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = DefaultMaxFlows
	}
	src, err := open(ctx, captures)
	if err != nil {
		return nil, err
	}
	defer src.close()
	j := &join{cfg: &cfg, tracks: newTracks(), links: newLinks(), fragments: make(map[fragmentKey]int32)}
	j.places = newPlaces(captures)
	j.common.from, j.common.to = common(cfg.Clocks)
	slack := slackOf(cfg.Clocks)
	j.recogniser = &recogniser{links: j.links, window: newWindow(), slack: slack}
	j.handover = newHandover(j.recogniser)
	if cfg.Clocks != nil { // by the least that is certain of the clocks
		j.common.from, j.common.to = j.common.from+slack, j.common.to-slack
	}
	defer j.release()
	err = walk(ctx, src, cfg.Clocks, j.warm, j.packet)
	j.handover.close()
	switch {
	case err != nil && errors.Is(err, ctx.Err()):
		j.result.Interrupted = true
	case err != nil:
		return nil, err
	}
	j.recogniser.catchUp(math.MaxInt64)
	j.finish()
	return &j.result, nil
}

// join is a join under way.
type join struct {
	cfg    *Config
	places *places
	tracks *tracks
	links  *links
	// recogniser and handover belong to another goroutine while the captures are
	// read.
	recogniser *recogniser
	handover   *handover
	// fragments are the tracks of first fragments, for those that follow.
	fragments map[fragmentKey]int32
	// common is when all captures ran.
	common struct{ from, to int64 }
	// touched keeps the compiler from leaving out what has no other effect.
	touched uint64
	kept    []Flow // of flows that were given up
	result  Result
}

// release gives back the memory of the tables. Nothing in the result is of it.
func (j *join) release() {
	j.recogniser.window.arena.Release()
	j.links.arena.Release()
	j.tracks.arena.Release()
}

type fragmentKey struct {
	src, dst [16]byte
	proto    packet.Proto
	ipid     uint16
	place    int32
}

// maxFragments bounds how many fragmented packets are waited for.
const maxFragments = 1 << 14

// warm touches the memory that the packets of a chunk will need. The processor
// fetches it for many packets at a time then, and not for one after the other,
// which is most of what a join takes.
func (j *join) warm(captureIndex int, c *chunk) {
	var touched uint64
	mask := uint64(len(j.tracks.slots) - 1)
	for i := range c.items {
		it := &c.items[i]
		place := int32(0)
		if plain := j.places.plain[captureIndex]; int(it.iface) < len(plain) {
			place = plain[it.iface]
		}
		touched += uint64(j.tracks.slots[slotHash(it.hash, place)&mask])
	}
	for i := range c.items {
		it := &c.items[i]
		place := int32(0)
		if plain := j.places.plain[captureIndex]; int(it.iface) < len(plain) {
			place = plain[it.iface]
		}
		if index := j.tracks.slots[slotHash(it.hash, place)&mask]; index != 0 {
			tr := j.tracks.at(index - 1)
			touched += tr.lastMark
		}
	}
	j.touched = touched
}

// packet takes one packet.
func (j *join) packet(captureIndex int, c *chunk, at int) {
	i := &c.items[at]
	place := j.places.at(captureIndex, c, i)
	if place < 0 {
		return
	}
	p := &j.places.list[place]
	j.result.Packets++
	if j.cfg.Progress != nil && j.result.Packets%progressEvery == 0 {
		j.cfg.Progress(j.result.Packets)
	}
	p.Packets++
	p.Bytes += uint64(i.length)
	if !i.has(timed) {
		j.result.Untimed++
		return
	}
	p.First, p.Last = min(p.First, i.time), max(p.Last, i.time)
	switch {
	case i.has(isBad):
		j.result.Bad++
		return
	case !i.has(isIP), housekeeping(&i.key):
		p.Others++
		j.result.Others++
		return
	}
	tr, index := j.track(c, i, place)
	if !tr.count(i, i.time >= j.common.from && i.time <= j.common.to) {
		return
	}
	if i.mark != 0 {
		j.handover.packet(i, index)
	}
}

// housekeeping reports whether a packet is one of those by which the machines of
// a link find each other: ICMPv6's neighbour discovery and multicast listeners
// (RFC 4861, RFC 2710, RFC 3810), and IGMP.
func housekeeping(k *packet.Key) bool {
	const igmp = 2
	return k.Proto == packet.ICMPv6 && (k.ICMPType >= 130 && k.ICMPType <= 137 || k.ICMPType == 143) || k.Proto == igmp
}

// track is the track of a packet.
func (j *join) track(c *chunk, i *item, place int32) (*track, int32) {
	if i.has(fragment) {
		key := fragmentKey{i.key.Src, i.key.Dst, i.key.Proto, i.ipid, place}
		if i.has(laterFragment) {
			if index, ok := j.fragments[key]; ok {
				return j.tracks.at(index), index
			}
		} else {
			if len(j.fragments) >= maxFragments {
				clear(j.fragments)
			}
			tr, index := j.find(c, i, place)
			j.fragments[key] = index
			return tr, index
		}
	}
	return j.find(c, i, place)
}

func (j *join) find(c *chunk, i *item, place int32) (*track, int32) {
	if j.tracks.count >= j.cfg.MaxFlows*tracksPerFlow {
		j.evict()
	}
	var q *quote
	if i.rare >= 0 && c.rare[i.rare].quoted != (packet.Key{}) {
		q = &quote{c.rare[i.rare].quoted, c.rare[i.rare].code}
	}
	before := j.tracks.count
	tr, index := j.tracks.find(i, q, place)
	if j.tracks.count > before {
		j.handover.begins(tr.key, place)
	}
	return tr, index
}
