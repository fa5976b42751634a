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
	tcp    []*probe.TCP // one for each try: each has a port of its own
	query  *probe.UDP   // the DNS query that was not answered

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
	case cfg.Unresolved != nil:
		config.SourcePort = 0
		p.query, err = probe.NewUDP(config, cfg.Unresolved.Query())
		return p, err
	case cfg.Kind != "tcp":
		p.ping, err = probe.NewPing(config)
		return p, err
	}
	for range cfg.Count {
		t, err := probe.NewTCP(config)
		if err != nil {
			p.close()
			return nil, err
		}
		p.tcp = append(p.tcp, t)
	}
	return p, nil
}

// match is what the rule trace is armed for. Several TCP probes have a port
// each, so they are matched by their target alone.
func (p *probes) match() ruletrace.Match {
	tuple := p.identity(0).Tuple
	m := ruletrace.Match{Proto: tuple.Proto, Source: tuple.Src, Target: tuple.Dst, TargetPort: tuple.DstPort, ICMPID: tuple.ICMPID}
	if p.ping != nil {
		m.Nonce = p.ping.Nonce
	}
	if len(p.tcp) == 1 || p.query != nil {
		m.SourcePort = tuple.SrcPort
	}
	return m
}

// identity is how try i is recognised.
func (p *probes) identity(i int) path.Probe {
	switch {
	case p.query != nil:
		return path.Probe{NetNS: p.netns, Tuple: p.query.Tuple(), Nonce: p.query.Payload}
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
	case p.query != nil:
		return p.query.Send(ctx)
	case p.ping != nil:
		return p.ping.Send(ctx, uint16(i+1))
	}
	return p.tcp[i].Start(ctx)
}

func (p *probes) close() {
	if p.query != nil {
		_ = p.query.Close()
	}
	if p.ping != nil {
		_ = p.ping.Close()
	}
	for _, t := range p.tcp {
		_ = t.Close() // for the second time where it was aborted
	}
}

// packet says whether a packet may belong to a probe, whatever NAT did to it.
func (p *probes) packet(h *packet.Header) bool {
	switch {
	case h.IsICMPError():
		return h.Quoted != nil && (p.mine(h.Quoted.Tuple) || p.carriesNonce(h.Quoted))
	case p.ping != nil:
		return p.carriesNonce(h)
	case p.query != nil:
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

func (p *probes) carriesNonce(h *packet.Header) bool {
	return p.ping != nil && bytes.HasPrefix(h.Payload, p.ping.Nonce)
}

// mine reports whether a tuple keeps something of a probe's that one NAT
// leaves alone: the id or a port of its own, or the target.
func (p *probes) mine(t packet.Tuple) bool {
	if p.ping != nil {
		return t.Proto == p.ping.Tuple().Proto && (t.ICMPID == p.ping.Tuple().ICMPID || t.Dst == p.target || t.Src == p.target)
	}
	return t.Proto == p.identity(0).Tuple.Proto && (p.ours(t) || (t.Dst == p.target && t.DstPort == p.port) || (t.Src == p.target && t.SrcPort == p.port))
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
	if p.query != nil {
		all = append(all, p.query.Tuple().SrcPort)
	}
	return all
}

// flow says whether a conntrack entry may be a probe's.
func (p *probes) flow(f *nat.Flow) bool { return p.mine(f.Original) || p.mine(f.Reply) }
