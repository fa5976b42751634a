// Package traffic finds the flows of one source in what the sensors of a host
// see: which flows there are, what of the evidence belongs to each, whatever
// NAT makes of them on the way, and how far each has come.
//
// It is pure: no I/O, no clock but that of the packets. Its memory is bounded by
// the number of flows that are followed and by a budget of packets for each; the
// rest is counted.
package traffic

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/attempt"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Config says whose flows are followed.
type Config struct {
	// NetNS is the source's namespace, as sightings name it.
	NetNS string
	// Own reports whether an address is one of the source's.
	Own func(netip.Addr) bool
	// Leads reports whether a namespace sends what is for an address of the source's
	// to the source: the same private address may be another machine's there. nil is
	// for always.
	Leads func(netns string, a netip.Addr) bool
	// Wanted says which flows are followed, by the tuple that their first packet
	// has at the source; nil means all. The others are not even counted.
	Wanted func(packet.Tuple) bool
	// Older says that flows which began before are followed as well, and those
	// that others open to the source.
	Older bool
	// MaxFlows is how many flows are followed at one time; 0 means 2048.
	MaxFlows int
}

// The bounds of what is kept.
const (
	defaultFlows = 2048
	// maxStrays is how much is kept that may turn out to belong to a flow, and
	// patience for how long: the sensors of a host deliver within milliseconds
	// of each other.
	maxStrays = 1 << 14
	patience  = 2 * time.Second
	// maxDiscovery is how much is kept of ARP and neighbour discovery.
	maxDiscovery = 1 << 10
	// maxForeign is how many flows of others are remembered.
	maxForeign = 1 << 14
)

// Table holds the flows. It is not safe for concurrent use.
type Table struct {
	cfg   Config
	flows []*Flow
	names map[packet.Tuple]*Flow
	// contents are the packets by which flows are recognised behind a NAT that
	// keeps no state.
	contents map[content][]*Flow
	// tracked are the flows by what conntrack calls them.
	tracked map[conntrackID]*Flow
	// errors are the flows that ICMP errors were about, by the errors' own
	// addresses.
	errors map[packet.Tuple]latestError
	// foreign are the names of flows that are none of the source's.
	foreign map[packet.Tuple]bool
	relays  []Relay
	strays  strays
	// knocks are the strays that may be flows which did not get to the source, the
	// oldest first.
	knocks []*stray
	// attempts are those that no packet is known of.
	attempts []attempt.Attempt
	hosts    map[netip.Addr]string
	// Discovery is what was seen of ARP and neighbour discovery, whoever asked;
	// the latest.
	discovery []capture.Sighting
	now       time.Time
	began     int    // flows of the source
	begun     int    // all
	passed    uint64 // packets of the flows at the source
	unfollowed
}

// conntrackID is the kernel's number of a flow in one namespace.
type conntrackID struct {
	netns string
	id    uint32
}

// latestError is the flow that an ICMP error was about, and when it was seen.
type latestError struct {
	flow *Flow
	at   time.Time
}

// unfollowed counts what there was no room for.
type unfollowed struct {
	flows   int
	packets uint64
}

// New returns an empty table.
func New(cfg Config) *Table {
	if cfg.MaxFlows <= 0 {
		cfg.MaxFlows = defaultFlows
	}
	if cfg.Wanted == nil {
		cfg.Wanted = func(packet.Tuple) bool { return true }
	}
	return &Table{
		cfg: cfg, names: make(map[packet.Tuple]*Flow), contents: make(map[content][]*Flow), tracked: make(map[conntrackID]*Flow), errors: make(map[packet.Tuple]latestError),
		foreign: make(map[packet.Tuple]bool), strays: newStrays(), hosts: make(map[netip.Addr]string),
	}
}

// Flows are those that are followed, in the order in which they began.
func (t *Table) Flows() []*Flow { return t.flows }

// Discovery is what was seen last of ARP and neighbour discovery.
func (t *Table) Discovery() []capture.Sighting { return t.discovery }

// Unfollowed is how many flows began while there was no room for them, and how
// many of their packets left the source.
func (t *Table) Unfollowed() (flows int, packets uint64) { return t.unfollowed.flows, t.packets }

// Begun is how many flows were followed so far, with those that carry others on.
func (t *Table) Begun() int { return t.begun }

// Packets is how many packets of the flows that are followed, or were, passed the
// place where the source sends them or receives them.
func (t *Table) Packets() uint64 { return t.passed }

// Sighting takes a packet. Like the other methods that take something it reports
// whether the table knows more by it: another table that is told only what this
// one took, in the same order, comes to the same flows.
func (t *Table) Sighting(s capture.Sighting) bool {
	h := &s.Header
	if h.ARP != nil || h.Neighbour != nil {
		t.discover(s)
		return true
	}
	key, ok := nameOf(h)
	if !ok || t.foreign[key] {
		return false
	}
	f := t.names[key]
	if f == nil && !opens(h) && !t.leaves(&s) && !t.arrives(&s) {
		return t.strays.follow(key, &s)
	}
	t.tick(s.Time)
	if f == nil {
		f = t.recognise(h, key)
	}
	if f == nil {
		f = t.begin(&s, key)
	}
	switch {
	case f != nil:
		t.add(f, &s)
		t.note(f, &s)
	case !t.foreign[key] && opens(h):
		kept := s // s itself stays off the heap: most packets are others'
		t.strays.add(&stray{keys: []packet.Tuple{key}, content: contentOf(h), at: t.now, sighting: &kept})
	}
	return true
}

// tick sets the clock of the table forward.
func (t *Table) tick(to time.Time) {
	if to.After(t.now) {
		t.now = to
	}
}

// Complete reports whether nothing was let go that may have been a flow's since
// shortly before it began.
func (t *Table) Complete(f *Flow) bool {
	return t.strays.lost.IsZero() || t.strays.lost.Before(f.Began.Add(-patience))
}

// Event takes what conntrack said of a flow; at is when that was told, as in the
// methods that follow.
func (t *Table) Event(e nat.Event, at time.Time) bool {
	keys := namesOf(&e.Flow)
	for _, key := range keys {
		if f := t.names[key]; f != nil {
			t.tick(at)
			t.learn(f, keys...)
			t.track(f, &e)
			return true
		}
	}
	if e.Kind == nat.Existing {
		return t.existing(e, keys)
	}
	if t.anyForeign(keys) {
		return false
	}
	t.tick(at)
	t.strays.add(&stray{keys: keys, at: t.now, event: &e})
	return true
}

// Hit takes a packet's meeting with a rule. The hit is kept as it is, so that
// what is found out about its rule later is seen by whoever asks then.
func (t *Table) Hit(h *ruletrace.Hit, at time.Time) bool {
	key, ok := nameOf(&h.Header)
	if !ok && h.Header.IsICMPError() {
		t.tick(at)
		t.errorHit(h)
		return true
	}
	if !ok || t.foreign[key] {
		return false
	}
	t.tick(at)
	f := t.names[key]
	if f == nil {
		f = t.recognise(&h.Header, key)
	}
	switch {
	case f != nil:
	case t.sends(h):
		f = t.open(h.Header, t.now, key, false)
	case h.Hook == ruletrace.Output:
		f = t.carry(h.NetNS, &h.Header, t.now, key)
	}
	if f != nil {
		f.hit(h)
		return true
	}
	one := &stray{keys: []packet.Tuple{key}, content: contentOf(&h.Header), at: t.now, hit: h}
	t.strays.add(one)
	t.knock(h.NetNS, one)
	return true
}

// errorHit takes a rule that an ICMP error met of which nftables shows too little
// to know what it quotes. Conntrack knows what it is about; otherwise it is the
// error with these addresses that is seen within a moment.
func (t *Table) errorHit(h *ruletrace.Hit) {
	f := t.tracked[conntrackID{h.NetNS, h.ConntrackID}]
	if h.ConntrackID == 0 || f == nil {
		latest := t.errors[h.Header.Tuple]
		if f = latest.flow; f != nil && t.now.Sub(latest.at) > settling {
			f = nil
		}
	}
	if f != nil {
		f.hit(h)
		return
	}
	t.strays.add(&stray{keys: []packet.Tuple{h.Header.Tuple}, at: t.now, hit: h})
}

// failed notes that an ICMP error is about a flow.
func (t *Table) failed(f *Flow, h *packet.Header) {
	if !h.IsICMPError() {
		return
	}
	if len(t.errors) >= maxForeign {
		clear(t.errors)
	}
	t.errors[h.Tuple] = latestError{f, t.now}
	for _, s := range t.strays.take(h.Tuple) {
		t.adopt(f, s)
	}
}

// Drop takes what the kernel threw away.
func (t *Table) Drop(d skbdrop.Drop, at time.Time) bool {
	key, ok := nameOf(&d.Header)
	if !ok || skbdrop.Benign(d) || t.foreign[key] {
		return false
	}
	t.tick(at)
	f := t.names[key]
	if f == nil {
		f = t.recognise(&d.Header, key)
	}
	if f == nil && d.NetNS == t.cfg.NetNS && t.cfg.Own(d.Header.Tuple.Src) && t.opening(&d.Header) {
		// It waited for its next hop's address, and never came to an interface.
		f = t.open(d.Header, d.Time, key, false)
	}
	if f == nil {
		f = t.carry(d.NetNS, &d.Header, d.Time, key)
	}
	if f != nil {
		t.dropped(f, &d)
		return true
	}
	one := &stray{keys: []packet.Tuple{key}, content: contentOf(&d.Header), at: t.now, drop: &d}
	t.strays.add(one)
	t.knock(d.NetNS, one)
	return true
}

// Forget gives up a flow: of its further packets nothing is kept. Its names are
// free again for a new one.
func (t *Table) Forget(f *Flow) {
	t.flows = without(t.flows, f)
	t.letCarriersGo(f)
	t.release(f)
}

// release frees the names of a flow.
func (t *Table) release(f *Flow) {
	for _, name := range f.names {
		delete(t.names, name)
	}
	for _, id := range f.ids {
		delete(t.tracked, id)
	}
	for _, c := range f.contents {
		t.contents[c] = without(t.contents[c], f)
		if len(t.contents[c]) == 0 {
			delete(t.contents, c)
		}
	}
}

func without(all []*Flow, f *Flow) []*Flow {
	return slices.DeleteFunc(slices.Clone(all), func(other *Flow) bool { return other == f })
}

// add gives a flow a packet.
func (t *Table) add(f *Flow, s *capture.Sighting) {
	f.add(s)
	t.failed(f, &s.Header)
	if s.Point.NetNS == f.NetNS && s.Time.Before(f.Began) && !f.Existing {
		f.Began = s.Time // the rule that it was known by was told later
		t.carriedOn(f)
	}
	if s.Point.NetNS == f.NetNS && f.Talk.hear(f, s) && f.Number > 0 {
		t.passed++
		t.resolve(f, s)
	}
}

func (t *Table) discover(s capture.Sighting) {
	s.Frame = nil
	if len(t.discovery) == maxDiscovery {
		t.discovery = append(t.discovery[:0], t.discovery[maxDiscovery/2:]...)
	}
	t.discovery = append(t.discovery, s)
}

// begin opens a flow for a packet that belongs to none, when it is on its way out
// of the source, or into it; otherwise it returns nil.
func (t *Table) begin(s *capture.Sighting, key packet.Tuple) *Flow {
	h := &s.Header
	if h.IsICMPError() || h.FragmentOffset > 0 {
		return nil
	}
	if accepts(h) && (t.leaves(s) || t.arrives(s)) && t.cfg.Older {
		return nil // of a flow that is not known yet, or no more
	}
	switch {
	case (t.leaves(s) || t.arrives(s)) && t.relayed(s):
		return nil // whose it is turns out where the relay is
	case t.leaves(s):
		if t.strays.passedThrough(h, t.cfg.NetNS) {
			t.disown(key)
			return nil
		}
	case t.arrives(s):
		if !t.cfg.Older {
			t.disown(key) // others' business: an answer of the source opens nothing
			return nil
		}
	case s.Direction == capture.Egress:
		return t.carry(s.Point.NetNS, h, s.Time, key)
	default:
		return nil
	}
	return t.open(*h, s.Time, key, s.Direction == capture.Ingress)
}

// leaves reports whether a packet is on its way out of the source, with an address
// of it, and arrives whether it comes in to one.
func (t *Table) leaves(s *capture.Sighting) bool {
	return s.Point.NetNS == t.cfg.NetNS && s.Direction == capture.Egress && t.cfg.Own(s.Header.Tuple.Src)
}

func (t *Table) arrives(s *capture.Sighting) bool {
	h := &s.Header
	return s.Point.NetNS == t.cfg.NetNS && s.Direction == capture.Ingress && t.cfg.Own(h.Tuple.Dst) && h.Tuple.Src != h.Tuple.Dst
}

// open follows a flow from its first packet on. Others opened it where it is inbound.
func (t *Table) open(h packet.Header, at time.Time, key packet.Tuple, inbound bool) *Flow {
	middle := h.Tuple.Proto == packet.TCP && h.Flags&(packet.SYN|packet.ACK) != packet.SYN
	if middle && !t.cfg.Older || !t.cfg.Wanted(h.Tuple) {
		if slices.ContainsFunc(t.relays, func(r Relay) bool { return r.sends(&h) }) {
			return t.carry(t.cfg.NetNS, &h, at, key)
		}
		t.disown(key)
		return nil
	}
	if len(t.flows) >= t.cfg.MaxFlows {
		t.unfollowed.flows++
		t.packets++
		t.disown(key)
		return nil
	}
	t.began++
	f := &Flow{Number: t.began, Tuple: h.Tuple, First: h, Began: at, Existing: middle, Inbound: inbound, NetNS: t.cfg.NetNS}
	t.flows = append(t.flows, f)
	t.follow(f, key)
	t.claim(f)
	t.carries(f)
	t.carriedOn(f)
	return f
}

// follow takes what is known of a flow that was just begun.
func (t *Table) follow(f *Flow, key packet.Tuple) *Flow {
	t.begun++
	t.learn(f, key)
	t.mark(f, &f.First)
	return f
}

// existing takes a flow of the table that was there before anybody looked.
func (t *Table) existing(e nat.Event, keys []packet.Tuple) bool {
	if e.Flow.NetNS != t.cfg.NetNS {
		return false // it is found when one of its packets comes by
	}
	out, in := t.cfg.Own(e.Flow.Original.Src), t.cfg.Own(e.Flow.Original.Dst)
	if !t.cfg.Older || !out && !in || !t.cfg.Wanted(e.Flow.Original) {
		for _, key := range keys {
			t.disown(key)
		}
		return true
	}
	if len(t.flows) >= t.cfg.MaxFlows {
		t.unfollowed.flows++
		return true
	}
	t.began++
	f := &Flow{
		Number: t.began, Tuple: e.Flow.Original, First: packet.Header{Tuple: e.Flow.Original}, Began: e.Received,
		Existing: true, Inbound: !out, NetNS: t.cfg.NetNS,
	}
	t.flows = append(t.flows, f)
	t.learn(f, keys...)
	t.track(f, &e)
	return true
}

// disown remembers that a flow is none of the source's.
func (t *Table) disown(key packet.Tuple) {
	if len(t.foreign) >= maxForeign {
		clear(t.foreign) // they are found out again
	}
	t.foreign[key] = true
	t.strays.drop(key)
}

func (t *Table) anyForeign(keys []packet.Tuple) bool {
	return slices.ContainsFunc(keys, func(key packet.Tuple) bool { return t.foreign[key] })
}

// sends reports whether a rule met a packet that the source sends: it may be
// dropped before it comes to an interface.
func (t *Table) sends(h *ruletrace.Hit) bool {
	return h.NetNS == t.cfg.NetNS && h.Ingress == "" && h.Egress != "" && t.cfg.Own(h.Header.Tuple.Src) && t.opening(&h.Header)
}

// opening reports whether a packet that no sensor at an interface has told of may open
// a flow. Where others open flows to the source, its answer to one opens none.
func (t *Table) opening(h *packet.Header) bool {
	return !h.IsICMPError() && opens(h) && !(t.cfg.Older && accepts(h))
}

// learn gives a flow further names, and what came under these before.
func (t *Table) learn(f *Flow, keys ...packet.Tuple) {
	for _, key := range keys {
		if other := t.names[key]; other != nil {
			continue // its own, or that of another flow: whoever had it first
		}
		if len(f.names) == maxNames {
			return
		}
		t.names[key] = f
		f.names = append(f.names, key)
		for _, s := range t.strays.take(key) {
			t.adopt(f, s)
		}
		t.claim(f)
	}
}

// adopt gives a flow what had been kept.
func (t *Table) adopt(f *Flow, s *stray) {
	switch {
	case s.sighting != nil:
		t.add(f, s.sighting)
		for i := range s.followers {
			t.add(f, &s.followers[i])
		}
	case s.hit != nil:
		f.hit(s.hit)
	case s.drop != nil:
		t.dropped(f, s.drop)
	case s.event != nil:
		t.learn(f, s.keys...)
		t.track(f, s.event)
	}
}

// dropped gives a flow a drop.
func (t *Table) dropped(f *Flow, d *skbdrop.Drop) {
	f.drop(*d)
	t.failed(f, &d.Header)
}

// track gives a flow an event.
func (t *Table) track(f *Flow, e *nat.Event) {
	f.event(*e)
	if id := (conntrackID{e.Flow.NetNS, e.Flow.ID}); e.Flow.ID != 0 && t.tracked[id] == nil {
		t.tracked[id] = f
		f.ids = append(f.ids, id)
	}
}

// note keeps what a packet tells of its flow's content, as long as that is new.
func (t *Table) note(f *Flow, s *capture.Sighting) {
	if opens(&s.Header) && len(f.contents) < maxContents {
		t.mark(f, &s.Header)
	}
}

// mark lets a flow be known by the content of a packet, and gives it what was
// seen of that packet before.
func (t *Table) mark(f *Flow, h *packet.Header) {
	c := contentOf(h)
	if c == (content{}) {
		return
	}
	if slices.Contains(f.contents, c) {
		return
	}
	f.contents = append(f.contents, c)
	t.contents[c] = append(t.contents[c], f)
	if len(t.contents[c]) > 1 {
		return
	}
	for _, key := range t.strays.like(h, c) {
		t.learn(f, key)
	}
}

// recognise finds the one flow that a packet with an unknown tuple is of by its
// content, and lets the flow have that name; nil when there is none, or more.
func (t *Table) recognise(h *packet.Header, key packet.Tuple) *Flow {
	if h.IsICMPError() || !opens(h) {
		return nil
	}
	known := t.contents[contentOf(h)]
	if len(known) != 1 || !known[0].has(h) {
		return nil
	}
	t.learn(known[0], key)
	return known[0]
}
