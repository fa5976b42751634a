//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/probe"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Lookup says how a name is looked up.
type Lookup struct {
	// Files are what the source's files say.
	Files resolve.Files
	// Server is asked in place of what they say; invalid means that they count.
	Server netip.Addr
	Want   resolve.Family
	// Wait is how long each answer is waited for; 0 means as long as the files say.
	Wait time.Duration
	// Behind are servers that those asked may ask in their turn, as far as that is
	// known: the way to them is looked into.
	Behind []netip.Addr
}

const (
	// The sockets that are opened for each server before the sensors are, so that
	// these know their ports: enough for both types of address, a search list, and
	// servers that want to be asked in another way.
	datagramsPerServer   = 16
	connectionsPerServer = 4
	// lookupLimit is how long looking up a name may take.
	lookupLimit = time.Minute
	// receiving is how long a busy machine may take to read an answer from its socket
	// that a sensor saw arrive, unseen how long one that no sensor saw.
	receiving = 5 * time.Second
	unseen    = 20 * time.Millisecond
)

func (l *Lookup) servers() []netip.Addr {
	if l.Server.IsValid() {
		return []netip.Addr{l.Server}
	}
	return l.Files.Servers
}

// known are the addresses that the hosts file has, where that counts.
func (l *Lookup) known() []netip.Addr {
	if l.Server.IsValid() {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(l.Files.Hosts), func(a netip.Addr) bool {
		return l.Want == resolve.IPv4 && a.Is6() || l.Want == resolve.IPv6 && a.Is4()
	})
}

// prepare sets what the rest of a run goes by.
func (l *Lookup) prepare(cfg *Config) {
	first := l.servers()[0]
	cfg.Resolved = resolve.Result{Address: first.WithZone(""), Zone: first.Zone()}
	cfg.Port, cfg.Count, cfg.Timeout = dnsPort, 1, l.Wait
	if cfg.Timeout == 0 {
		cfg.Timeout = l.Files.Timeout
	}
}

// saved is what the evidence has of it.
func (l *Lookup) saved() *evidence.Lookup {
	s := &evidence.Lookup{Servers: l.servers()}
	if !l.Server.IsValid() {
		s.From = l.Files.Path
		s.Hosts, s.HostsPath = l.known(), l.Files.HostsPath
	}
	return s
}

// fromFile answers with what the hosts file says, for which no packet is sent.
func (cfg *Config) fromFile() (*report.Report, error) {
	now := time.Now()
	r := &run{cfg: cfg, topo: &topology.Snapshot{Source: cfg.Source.Name}}
	known := &evidence.Run{
		Request: r.request(), Version: cfg.Version, Started: now, Finished: now, Topology: r.topo, Lookup: cfg.Lookup.saved(),
	}
	cfg.Save.Begin(known, nil)
	cfg.Save.End(known)
	out := answer.Report(known)
	if cfg.Print == nil {
		return out, nil
	}
	return out, cfg.Print(out)
}

// questions are the queries of a lookup.
type questions struct {
	servers []netip.Addr
	udp     map[netip.Addr][]*probe.UDP
	tcp     map[netip.Addr][]*probe.TCP

	mu    sync.Mutex
	asked [][]byte
}

// newQuestions opens sockets towards each server.
func newQuestions(config probe.Config, servers []netip.Addr) (*questions, error) {
	q := &questions{servers: servers, udp: make(map[netip.Addr][]*probe.UDP), tcp: make(map[netip.Addr][]*probe.TCP)}
	config.SourcePort = 0
	for _, server := range servers {
		config.Target, config.Zone, config.Port = server.WithZone(""), server.Zone(), dnsPort
		var err error
		if q.udp[server], err = several(datagramsPerServer, func() (*probe.UDP, error) { return probe.NewUDP(config, nil) }); err != nil {
			return q, err
		}
		if q.tcp[server], err = several(connectionsPerServer, func() (*probe.TCP, error) { return probe.NewTCP(config) }); err != nil {
			return q, err
		}
	}
	return q, nil
}

// sockets are those of all servers, for whoever closes them and wants their
// ports.
func (q *questions) sockets() (udp []*probe.UDP, tcp []*probe.TCP) {
	for _, server := range q.servers {
		udp, tcp = append(udp, q.udp[server]...), append(tcp, q.tcp[server]...)
	}
	return udp, tcp
}

// matches are what the queries are traced by: their server.
func (q *questions) matches() []ruletrace.Match {
	var all []ruletrace.Match
	for _, proto := range []packet.Proto{packet.UDP, packet.TCP} {
		for _, server := range q.servers {
			all = append(all, ruletrace.Match{Proto: proto, Target: server.WithZone(""), TargetPort: dnsPort})
		}
	}
	return all
}

// asks keeps a query as one of those that others may pass on.
func (q *questions) asks(query []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = append(q.asked, query)
}

// about reports whether a datagram has a question that was asked.
func (q *questions) about(h *packet.Header) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.asked, func(asked []byte) bool { return path.SameQuestion(h.Payload, asked) })
}

// take hands out a socket that was not used yet, the zero value when none is
// left.
func take[T any](all map[netip.Addr][]T, server netip.Addr) (one T) {
	if left := all[server]; len(left) > 0 {
		one, all[server] = left[0], left[1:]
	}
	return one
}

// followServers finds who listens where the queries go in a namespace that can be
// seen: such a server asks others, and its queries are watched, too.
func (r *run) followServers(ctx context.Context, handles *topology.Handles, probes *probes) {
	visible := false
	for _, server := range probes.questions.servers {
		to := packet.Tuple{Proto: packet.UDP, Dst: server.WithZone(""), DstPort: dnsPort}
		for i := range r.topo.Namespaces {
			if ns := &r.topo.Namespaces[i]; ns.Delivers(to.Dst) {
				visible = true
				r.holders.find(ctx, ns.Name, to, false)
			}
		}
	}
	if !visible {
		return
	}
	for _, to := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		probes.beyond = append(probes.beyond, ruletrace.Match{Proto: packet.UDP, Target: to, TargetPort: dnsPort})
	}
	for _, server := range r.cfg.Lookup.Behind {
		if _, err := handles.Extend(ctx, server.WithZone("")); err != nil {
			r.cfg.Log("find the way to %s, which may be asked in turn: %v", server, err)
		}
	}
}

// askAll looks the name up as the source would. Each query is a try.
func (r *run) askAll(ctx context.Context, q *questions) (tries []evidence.Try, err error) {
	l := r.cfg.Lookup
	_, err = resolve.Lookup(ctx, resolve.Config{
		Source: r.cfg.Source, Name: r.cfg.Target, Want: l.Want, Timeout: lookupLimit, Files: &l.Files, Server: l.Server, Wait: l.Wait, Once: true,
		Ask: func(ctx context.Context, network string, server netip.Addr, query []byte, accept func([]byte) bool) ([]byte, error) {
			t := evidence.Try{Query: &evidence.Query{Server: server, Over: network}}
			message, err := r.ask(ctx, q, &t, len(tries), query, accept)
			tries = append(tries, t)
			return message, err
		},
		Heard: func(said resolve.Said) {
			t := &tries[len(tries)-1]
			t.Query.Name, t.Query.Type, t.Query.Addresses, t.Query.Said = said.Question, said.Type, said.Addresses, said.Answer
			t.Interrupted = ctx.Err() != nil
			r.cfg.Save.Try(len(tries)-1, t)
		},
	})
	if _, ok := errors.AsType[*resolve.Error](err); ok || len(tries) > 0 {
		err = nil // the tries tell
	}
	return tries, err
}

// ask sends one query and returns the answer.
func (r *run) ask(ctx context.Context, q *questions, t *evidence.Try, i int, query []byte, accept func([]byte) bool) ([]byte, error) {
	q.asks(query)
	r.cfg.Save.Sends(query)
	t.Probe = path.Probe{NetNS: r.topo.Source}
	if t.Query.Over == "tcp" {
		return r.askStream(ctx, q, t, i, query, accept)
	}
	socket := take(q.udp, t.Query.Server)
	if socket == nil {
		return nil, fmt.Errorf("more than %d queries to one server: no more are asked", datagramsPerServer)
	}
	socket.Payload = query
	t.Probe.Tuple, t.Probe.Nonce = socket.Tuple(), query
	r.saveBegun(i, *t)
	if err := socket.Send(ctx); err != nil {
		refuse(t, err)
		return nil, err
	}
	r.await(ctx, ctx, t.Probe)
	patience := unseen
	if r.replied(t.Probe) {
		patience = receiving
	}
	soon, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer stop()
	refused := false
	message, err := socket.Receive(soon, func(message []byte) bool {
		if !accept(message) {
			refused = true
			time.AfterFunc(unseen, stop) // this was the answer, unless a better one is there
			return false
		}
		return true
	})
	switch {
	case err == nil:
		return message, nil
	case refused:
		return nil, errNoAnswer
	}
	return nil, r.unheard(ctx, t.Probe)
}

// askStream asks over TCP: the try is about the connection.
func (r *run) askStream(ctx context.Context, q *questions, t *evidence.Try, i int, query []byte, accept func([]byte) bool) ([]byte, error) {
	socket := take(q.tcp, t.Query.Server)
	if socket == nil {
		return nil, fmt.Errorf("more than %d connections to one server: no more are made", connectionsPerServer)
	}
	t.Probe.Tuple = socket.Tuple()
	r.saveBegun(i, *t)
	if err := socket.Start(ctx); err != nil {
		refuse(t, err)
		return nil, err
	}
	r.await(ctx, ctx, t.Probe)
	if !r.replied(t.Probe) {
		return nil, r.unheard(ctx, t.Probe)
	}
	if _, err := socket.Established(ctx); err != nil {
		return nil, err
	}
	message, err := socket.Exchange(ctx, query)
	if err == nil && !accept(message) {
		err = errNoAnswer
	}
	return message, err
}

// errNoAnswer is said of a message that is none to the query.
var errNoAnswer = errors.New("an answer that cannot be understood")

// unheard says why there is no answer to a query.
func (r *run) unheard(ctx context.Context, probe path.Probe) error {
	p := r.join(probe)
	switch {
	case p.Answer.Kind == path.Error || p.Answer.Kind == path.Reset:
		return errors.New(p.Answer.Text)
	case ctx.Err() != nil:
		return os.ErrDeadlineExceeded
	}
	return errors.New("the query or its answer was lost on the way")
}
