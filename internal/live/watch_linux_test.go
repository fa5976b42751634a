package live_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// follow traces what a function does in a namespace of a network.
func follow(t *testing.T, n *lab.Network, source string, during func(ctx context.Context) error) *report.Report {
	t.Helper()
	return followWith(t, n, live.TraceConfig{}, source, during)
}

// followWith does so with further settings.
func followWith(t *testing.T, n *lab.Network, config live.TraceConfig, source string, during func(ctx context.Context) error) *report.Report {
	t.Helper()
	before := state(t, n)
	cfg := from(n, source, n.Scenario.Target)
	config.Kind, config.Target, config.Version = "exec", "test", "test"
	config.Source, config.Host, config.Candidates = cfg.Source, cfg.Host, cfg.Candidates
	r := traced(t, config, during)
	for _, problem := range flaws(r) {
		t.Error(problem)
	}
	eventually(t, "the network as it was before", func() string {
		for name, was := range state(t, n) {
			if before[name] != was {
				return was
			}
		}
		return ""
	})
	return r
}

// attempt does with ordinary sockets what a probe of the lab does, and gives up
// after a while: it returns no error of the network.
func attempt(ctx context.Context, n *lab.Network, p *lab.Probe, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if p.Kind == "tcp" {
		var conn net.Conn
		d := net.Dialer{}
		_ = n.NetNS(p.Source).Do(func() (err error) {
			conn, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(p.Target, p.Port).String())
			return err
		})
		if conn != nil {
			return conn.Close()
		}
		return nil
	}
	network, kind, protocol, any := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), 1, "0.0.0.0"
	if p.Target.Is6() {
		network, kind, protocol, any = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, 58, "::"
	}
	var conn *icmp.PacketConn
	if err := n.NetNS(p.Source).Do(func() (err error) {
		conn, err = icmp.ListenPacket(network, any)
		return err
	}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	defer conn.Close() //nolint:errcheck // it was only for this
	request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 4711, Seq: 1, Data: []byte("an echo of an ordinary program, with enough of data in it")}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: p.Target.AsSlice()}); err != nil {
		return nil
	}
	buffer := make([]byte, 1500)
	for {
		length, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return nil
		}
		m, err := icmp.ParseMessage(protocol, buffer[:length])
		if err != nil {
			return err
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == 4711 && m.Type != kind {
			return nil
		}
	}
}

// TestFollowCauses breaks networks, has an ordinary program do what the probe of
// the fault does, and wants the explanation that the truth of the lab is.
func TestFollowCauses(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, scenario := range lab.Scenarios() {
		for i, fault := range scenario.Faults {
			p := scenario.ProbeOf(fault.Name)
			plain := (p.Kind == "tcp" || p.Kind == "ping" || p.Kind == "ping6") && p.SendBytes == 0 && p.Size == 0 && len(p.Flags) == 0
			if seen[fault.Name] || !plain {
				continue
			}
			seen[fault.Name] = true
			number := len(seen) - 1
			options := lab.Options{Break: fault.Name, Backend: scenario.Backends[i%len(scenario.Backends)]}
			t.Run(name(scenario, options), func(t *testing.T) {
				t.Parallel()
				if fault.Root {
					testenv.Root(t)
				}
				third(t, number)
				n := build(t, scenario.Name, options)
				truth := n.Truth()
				if truth.Outcome == "unsent" {
					// What is no packet is seen where a program asks for it. Of a raw
					// socket that is not.
					testenv.Root(t)
					p = &lab.Probe{Kind: "tcp", Source: p.Source, Target: p.Target, Port: 80}
				}
				run := func() *report.Report {
					return follow(t, n, p.Source, func(ctx context.Context) error { return attempt(ctx, n, p, giveUp(&truth)) })
				}
				r := run()
				want := verdict{Outcome: report.Outcome(truth.Outcome), Leg: truth.Leg, Code: truth.Code, NetNS: truth.NetNS, Hook: truth.Hook}
				if truth.Rule.Text != "" {
					want.Rule = owned(ruleOf(t, n, truth.NetNS, truth.Rule))
				}
				if shorten(r).Code != want.Code && tunnelled(r) {
					r = run()
				}
				got := shorten(r)
				tell(t, want, verdict{Outcome: got.Outcome, Leg: got.Leg, Code: got.Code, NetNS: got.NetNS, Hook: got.Hook, Rule: got.Rule})
				if t.Failed() {
					t.Logf("report:\n%s", text(t, r))
				}
			})
		}
	}
}

// tunnelled reports whether a host's VPN sent something of its own meanwhile, such as
// what the kernel says of itself on a new device: what became of that comes first.
func tunnelled(r *report.Report) bool {
	return slices.ContainsFunc(r.Flows, func(f report.Flow) bool { return strings.HasSuffix(f.Tuple.Destination, ":1194") })
}

// giveUp is how long a program waits for what does not come: a second and a bit,
// or as long as the kernel may wait for a neighbour where no rule is the cause.
func giveUp(truth *lab.Truth) time.Duration {
	if truth.Rule.Text == "" {
		return 4 * time.Second
	}
	return 1500 * time.Millisecond
}

// TestFollowData has a program send data over a connection that is made, in
// networks that swallow large packets: in one write, as programs do, which the
// kernel sends in large frames.
func TestFollowData(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, scenario := range lab.Scenarios() {
		for i, fault := range scenario.Faults {
			p := scenario.ProbeOf(fault.Name)
			if seen[fault.Name] || p.SendBytes == 0 || len(p.Flags) > 0 {
				continue
			}
			seen[fault.Name] = true
			options := lab.Options{Break: fault.Name, Backend: scenario.Backends[i%len(scenario.Backends)]}
			t.Run(name(scenario, options), func(t *testing.T) {
				t.Parallel()
				n := build(t, scenario.Name, options)
				truth := n.Truth()
				r := follow(t, n, p.Source, func(ctx context.Context) error { return upload(ctx, n, p) })
				if truth.Outcome == "lost" {
					// Nothing small went behind the data, so no more is known than that it
					// was lost where nobody looks.
					if !slices.ContainsFunc(r.Findings, func(f report.Finding) bool { return f.Code == truth.Code && f.Severity == "note" }) {
						t.Error("the report does not mention " + truth.Code)
					}
					truth.Code = "NO_REPLY"
				}
				got, want := shorten(r), verdict{Outcome: report.Outcome(truth.Outcome), Leg: truth.Leg, Code: truth.Code, NetNS: truth.NetNS}
				tell(t, want, verdict{Outcome: got.Outcome, Leg: got.Leg, Code: got.Code, NetNS: got.NetNS})
				if t.Failed() {
					t.Logf("report:\n%s", text(t, r))
				}
			})
		}
	}
}

// upload sends data and waits for a while that the far end closes.
func upload(ctx context.Context, n *lab.Network, p *lab.Probe) error {
	var conn net.Conn
	d := net.Dialer{Timeout: timeout}
	if err := n.NetNS(p.Source).Do(func() (err error) {
		conn, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(p.Target, p.Port).String())
		return err
	}); err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it may be reset
	if err := conn.SetDeadline(time.Now().Add(4 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(make([]byte, p.SendBytes)); err != nil {
		return err
	}
	_, _ = conn.Read(make([]byte, 1)) // nothing comes, or the time is up
	return nil
}

// TestFollowVanish has the network change while a program runs: its container is
// cut off, an interface of another one gets a new name. That is told, and what was
// seen before is explained.
func TestFollowVanish(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	p := &lab.Probe{Kind: "tcp", Source: "cnt01", Target: n.Scenario.Target, Port: 80}
	r := follow(t, n, p.Source, func(ctx context.Context) error {
		if err := attempt(ctx, n, p, timeout); err != nil {
			return err
		}
		command(t, n.Host, "ip", "link", "set", "dev", "docker0", "down")
		command(t, n.Host, "ip", "link", "set", "dev", "docker0", "name", "docker9")
		command(t, n.NetNS("cnt01"), "ip", "link", "del", "eth0")
		return attempt(ctx, n, p, timeout)
	})
	for _, want := range []string{
		"All interfaces of cnt01 went away meanwhile: it was stopped, or moved to another network.",
		"The interface docker0 of host was renamed to docker9 meanwhile.",
	} {
		if !slices.Contains(r.Notes, want) {
			t.Errorf("no note %q among %q", want, r.Notes)
		}
	}
	if len(r.Flows) == 0 || r.Flows[0].Outcome != report.Replied {
		t.Errorf("flows %+v", r.Flows)
	}
	if t.Failed() {
		t.Logf("report:\n%s", text(t, r))
	}
}

// TestFollowOthers shows that flows of other processes of the namespace are listed
// apart from those of the command and of what it started.
func TestFollowOthers(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	n := build(t, "docker-bridge", lab.Options{})
	cfg := from(n, "cnt01", n.Scenario.Target)
	connect := func(port int) *exec.Cmd {
		return exec.Command("bash", "-c", fmt.Sprintf("(exec 3<>/dev/tcp/%s/%d; sleep 2)", n.Scenario.Target, port))
	}
	start := func(cmd *exec.Cmd) int {
		if err := n.NetNS("cnt01").Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	other, own := connect(53), connect(80)
	var command atomic.Int64
	r := traced(t, live.TraceConfig{
		Kind: "exec", Target: "test", Source: cfg.Source, Host: cfg.Host, Candidates: cfg.Candidates, Version: "test",
		Ran:     func() *report.Command { return &report.Command{Name: "bash", Elapsed: time.Second} },
		Command: func() int { return int(command.Load()) },
	}, func(context.Context) error {
		command.Store(int64(start(own)))
		start(other)
		return errors.Join(own.Wait(), other.Wait())
	})
	got := make(map[string]bool)
	for _, f := range r.Flows {
		got[f.Tuple.Destination] = f.Other
		if !strings.HasPrefix(f.Owner, "bash (pid ") && !strings.HasPrefix(f.Owner, "sleep (pid ") { // both hold the socket
			t.Errorf("%s belongs to %q", f.Tuple.Destination, f.Owner)
		}
	}
	want := map[string]bool{fmt.Sprintf("%s:80", n.Scenario.Target): false, fmt.Sprintf("%s:53", n.Scenario.Target): true}
	if diff := cmp.Diff(want, got); diff != "" || r.Traced.Others != 1 {
		t.Errorf("others' flows (-want +got), %d in all:\n%s\n%s", r.Traced.Others, diff, text(t, r))
	}
}
