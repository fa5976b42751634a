//go:build linux

package live

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/probe"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// probes are the packets of one run. Their identity is known before they are
// sent, so that sensors can be armed for them and for nothing else.
type probes struct {
	netns  string
	target netip.Addr
	port   uint16
	ping   *probe.Ping
	// one for each try: each has a port of its own
	tcp []*probe.TCP
	udp []*probe.UDP
	// questions are what a name is looked up with; nil for all other runs.
	questions *questions

	// armed are all matches that sensors are armed for.
	armed []ruletrace.Match
	// beyond are the matches of flows that begin where the probes end.
	beyond []ruletrace.Match

	mu sync.Mutex
	// began are the sequence numbers with which the connections began, and the
	// ports that each was seen to come from: NAT may change the port, and then
	// their data is known by what it became.
	began map[uint32][]uint16
}

func newProbes(cfg *Config, netns string) (*probes, error) {
	p := &probes{netns: netns, target: cfg.Resolved.Address, port: cfg.Port}
	config := probe.Config{NetNS: cfg.Source.NetNS, Target: cfg.Resolved.Address, Zone: cfg.Resolved.Zone, Port: cfg.Port, SourcePort: cfg.SourcePort}
	config.Size, config.DontFragment = cfg.Size, cfg.DontFragment
	var err error
	switch {
	case cfg.Lookup != nil:
		p.questions, err = newQuestions(config, cfg.Lookup.servers())
		p.udp, p.tcp = p.questions.sockets()
	case cfg.Unresolved != nil:
		config.SourcePort = 0
		p.udp, err = several(1, func() (*probe.UDP, error) { return probe.NewUDP(config, cfg.Unresolved.Query()) })
	case cfg.Kind == "udp":
		p.udp, err = several(cfg.Count, func() (*probe.UDP, error) { return probe.NewUDP(config, cfg.Payload) })
	case cfg.Kind == "tcp":
		p.tcp, err = several(cfg.Count, func() (*probe.TCP, error) { return probe.NewTCP(config) })
	default:
		p.ping, err = probe.NewPing(config)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// several makes n probes, or as many as there are before the error.
func several[T any](n int, make func() (T, error)) (all []T, err error) {
	for range n {
		one, err := make()
		if err != nil {
			return all, err
		}
		all = append(all, one)
	}
	return all, nil
}

// match is what the rule trace is armed for. Several probes with a port each are
// matched by their target alone.
func (p *probes) match() ruletrace.Match {
	tuple := p.identity(0).Tuple
	m := ruletrace.Match{Proto: tuple.Proto, Source: tuple.Src, Target: tuple.Dst, TargetPort: tuple.DstPort, ICMPID: tuple.ICMPID}
	if p.ping != nil {
		m.Nonce = p.ping.Nonce
	}
	if len(p.tcp)+len(p.udp) == 1 {
		m.SourcePort = tuple.SrcPort
	}
	return m
}

// matches are what the rule trace is armed for, the probes themselves first.
func (p *probes) matches() []ruletrace.Match {
	if p.questions != nil {
		return append(p.questions.matches(), p.beyond...)
	}
	return append([]ruletrace.Match{p.match()}, p.beyond...)
}

// proto is the protocol of the probes; a lookup may go on over TCP.
func (p *probes) proto() packet.Proto {
	if p.questions != nil {
		return packet.UDP
	}
	return p.identity(0).Tuple.Proto
}

// identity is how try i is recognised.
func (p *probes) identity(i int) path.Probe {
	switch {
	case p.udp != nil:
		return path.Probe{NetNS: p.netns, Tuple: p.udp[i].Tuple(), Nonce: p.udp[i].Payload}
	case p.ping == nil:
		return path.Probe{NetNS: p.netns, Tuple: p.tcp[i].Tuple()}
	}
	return path.Probe{
		NetNS: p.netns, Tuple: p.ping.Tuple(), ICMPSeq: uint16(i + 1), Nonce: p.ping.Nonce,
		Length: path.Overhead(p.ping.Tuple()) + p.ping.Size,
	}
}

// send sends try i. It returns what the kernel told the socket, which is a
// hint and never the outcome.
func (p *probes) send(ctx context.Context, i int) error {
	switch {
	case p.udp != nil:
		return p.udp[i].Send(ctx)
	case p.ping != nil:
		return p.ping.Send(ctx, uint16(i+1))
	}
	return p.tcp[i].Start(ctx)
}

func (p *probes) close() {
	if p.ping != nil {
		_ = p.ping.Close()
	}
	for _, t := range p.tcp {
		_ = t.Close() // for the second time where it was aborted
	}
	for _, u := range p.udp {
		_ = u.Close()
	}
}

// packet says whether a packet may belong to a probe, whatever NAT did to it.
func (p *probes) packet(h *packet.Header) bool {
	switch {
	case h.IsICMPError():
		return h.Quoted != nil && (p.mine(h.Quoted.Tuple) || p.carriesNonce(h.Quoted))
	case p.ping != nil:
		return p.carriesNonce(h)
	case p.questions != nil:
		return p.mine(h.Tuple) && (h.Tuple.Proto == packet.TCP || p.ours(h.Tuple) || p.questions.about(h))
	case p.udp != nil:
		return p.mine(h.Tuple)
	}
	if h.Tuple.Proto != packet.TCP {
		return false
	}
	beginning := p.mine(h.Tuple) && (h.Flags.Has(packet.SYN) || h.Flags.Has(packet.RST))
	if beginning && h.Flags.Has(packet.SYN) && !h.Flags.Has(packet.ACK) {
		p.begins(h)
	}
	return beginning || p.ours(h.Tuple) || p.renamed(h.Tuple)
}

// begins keeps the port that a connection was seen to come from.
func (p *probes) begins(h *packet.Header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began == nil {
		p.began = make(map[uint32][]uint16)
	}
	if ports := p.began[h.Seq]; len(p.began) < maxKept && !slices.Contains(ports, h.Tuple.SrcPort) {
		p.began[h.Seq] = append(ports, h.Tuple.SrcPort)
	}
}

// renamed reports whether a tuple has the port that NAT gave to a probe.
func (p *probes) renamed(t packet.Tuple) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.ports()
	for _, ports := range p.began {
		if slices.ContainsFunc(ports, func(port uint16) bool { return slices.Contains(own, port) }) &&
			slices.ContainsFunc(ports, func(port uint16) bool { return t.SrcPort == port || t.DstPort == port }) {
			return true
		}
	}
	return false
}

// nonce begins the data of pings and of datagrams, nil when none are sent.
func (p *probes) nonce() []byte {
	switch {
	case p.ping != nil:
		return p.ping.Nonce
	case p.udp != nil:
		return p.udp[0].Payload // of a lookup it is not known yet
	}
	return nil
}

func (p *probes) carriesNonce(h *packet.Header) bool {
	return p.ping != nil && bytes.HasPrefix(h.Payload, p.ping.Nonce)
}

// mine reports whether a tuple keeps something of a probe's that one NAT
// leaves alone: the id or a port of its own, or the target.
func (p *probes) mine(t packet.Tuple) bool {
	if p.ping != nil {
		return t.Proto == p.ping.Tuple().Proto && (t.ICMPID == p.ping.Tuple().ICMPID || t.Dst == p.target || t.Src == p.target)
	}
	about := func(target netip.Addr, port uint16) bool {
		to := func(a netip.Addr) bool { return a == target || target.IsUnspecified() && a.Is6() == target.Is6() }
		return to(t.Dst) && t.DstPort == port || to(t.Src) && t.SrcPort == port
	}
	return slices.ContainsFunc(p.armed, func(m ruletrace.Match) bool {
		return t.Proto == m.Proto && (p.ours(t) || about(m.Target, m.TargetPort))
	})
}

// ours reports whether a tuple has a port that a probe is sent from.
func (p *probes) ours(t packet.Tuple) bool {
	return slices.ContainsFunc(p.ports(), func(port uint16) bool { return t.SrcPort == port || t.DstPort == port })
}

// ports are those that the probes are sent from; pings have none.
func (p *probes) ports() []uint16 {
	var all []uint16
	for _, t := range p.tcp {
		all = append(all, t.Tuple().SrcPort)
	}
	for _, u := range p.udp {
		all = append(all, u.Tuple().SrcPort)
	}
	return all
}

// flow says whether a conntrack entry may be a probe's.
func (p *probes) flow(f *nat.Flow) bool { return p.mine(f.Original) || p.mine(f.Reply) }
