package nat

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func watch(t testing.TB, config Config) *Watcher {
	t.Helper()
	w, err := Watch(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// events runs the watcher with a context that is done when it has read the
// table: what happened before is queued already.
func events(t testing.TB, w *Watcher) (list []Event) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if w.config.Existing {
		// The table is read before the context is looked at.
		w.config.Existing = false
		if err := w.read(ctx, func(e Event) { list = append(list, e) }, false); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := w.Run(ctx, func(e Event) { list = append(list, e) }); err != nil {
		t.Fatal(err)
	}
	return list
}

func kinds(list []Event) string {
	var words []string
	for _, e := range list {
		words = append(words, e.Kind.String())
	}
	return strings.Join(words, " ")
}

func TestEventsOfMasqueradedEcho(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	n.ping(t, client6, server6, 38)
	n.tool(t, "-D", "-p", "icmpv6")
	list := events(t, w)
	if got, want := kinds(list), "NEW UPDATE DESTROY"; got != want {
		t.Fatalf("events %q, want %q", got, want)
	}
	for i, e := range list {
		want := Flow{
			NetNS:    "router",
			ID:       list[0].Flow.ID,
			Original: echo(128, 38, "fd5a::2", "2001:db8::2"),
			Reply:    echo(129, 38, "2001:db8::2", "2001:db8::1"),
			Status:   e.Flow.Status,
			Timeout:  e.Flow.Timeout,
		}
		if diff := cmp.Diff(want, e.Flow, cmp.Comparer(equal[netip.Addr])); diff != "" {
			t.Errorf("%v (-want +got)\n%s", e.Kind, diff)
		}
		if !e.Flow.Status.Has(StatusSrcNAT|StatusConfirmed) || e.Flow.Status.Has(StatusDstNAT) {
			t.Errorf("%v: status %#x", e.Kind, uint32(e.Flow.Status))
		}
		if got, want := e.Flow.Status.Has(StatusSeenReply), e.Kind != New; got != want {
			t.Errorf("%v: reply seen: %v", e.Kind, got)
		}
		if e.Seq != uint64(i+1) || e.Received.IsZero() || !e.Time.IsZero() || e.Resync {
			t.Errorf("%v: %+v", e.Kind, e)
		}
	}
	if list[0].Flow.ID == 0 {
		t.Error("no id")
	}
}

func equal[T comparable](a, b T) bool { return a == b }

func TestEventsOfTCP(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		from, to     netip.AddrPort
		translations []Translation
	}{
		{
			"masquerade",
			netip.AddrPortFrom(client6, 4000), netip.AddrPortFrom(server6, 80),
			[]Translation{{Source, "[fd5a::2]:4000", "[2001:db8::1]:4000"}},
		},
		{
			"DNAT and masquerade, IPv4",
			netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(inside4, 8080),
			[]Translation{
				{Destination, "10.1.0.1:8080", "192.0.2.2:80"},
				{Source, "10.1.0.2:4000", "192.0.2.1:4000"},
			},
		},
		{
			"DNAT and masquerade, IPv6",
			netip.AddrPortFrom(client6, 4000), netip.AddrPortFrom(inside6, 8080),
			[]Translation{
				{Destination, "[fd5a::1]:8080", "[2001:db8::2]:80"},
				{Source, "[fd5a::2]:4000", "[2001:db8::1]:4000"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.rules(t, masquerade)
			w := watch(t, Config{NetNS: n.router, Name: "router"})
			n.exchange(t, tt.from, tt.to)
			n.tool(t, "-D", "-p", "tcp")
			list := events(t, w)
			var states []string
			for _, e := range list {
				states = append(states, e.Kind.String()+" "+e.Flow.TCPState)
				if diff := cmp.Diff(tt.translations, e.Flow.Translations()); diff != "" {
					t.Errorf("%v (-want +got)\n%s", e.Kind, diff)
				}
			}
			begin := []string{"NEW SYN_SENT", "UPDATE SYN_RECV", "UPDATE ESTABLISHED"}
			if len(states) < 4 || !slices.Equal(states[:3], begin) || !strings.HasPrefix(states[len(states)-1], "DESTROY ") {
				t.Errorf("events %q, want %q and at last DESTROY", states, begin)
			}
		})
	}
}

// TestCollision: what is a port elsewhere is the id of an echo, and NAT
// changes either when it is taken.
func TestCollision(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	w := watch(t, Config{NetNS: n.router, Name: "router", Filter: Filter{Proto: packet.ICMPv6}})
	n.ping(t, client6, server6, 77)
	n.ping(t, other6, server6, 77)
	var second Flow
	for _, e := range events(t, w) {
		if e.Kind == New && e.Flow.Original.Src == other6 {
			second = e.Flow
		}
	}
	id := second.Reply.ICMPID
	if second.Original.ICMPID != 77 || id == 77 || id == 0 {
		t.Fatalf("id %d → %d, want 77 → another", second.Original.ICMPID, id)
	}
	want := []Translation{{Source, "fd5a::3 id 77", fmt.Sprintf("2001:db8::1 id %d", id)}}
	if diff := cmp.Diff(want, second.Translations()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// The server saw what Apply says, and the reply came back to the client.
	sent, _ := second.Apply(second.Original)
	if sent != echo(128, id, "2001:db8::1", "2001:db8::2") {
		t.Errorf("sent %+v", sent)
	}
}

// TestUpdateTellsWhatChanged: when a rule sets the mark of a connection, the
// event does not say in which state the connection is.
func TestUpdateTellsWhatChanged(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade+`
table inet m {
	chain forward { type filter hook forward priority 0; tcp flags & (psh|fin) == psh ct mark set 5; }
}`)
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	n.exchange(t, netip.AddrPortFrom(client6, 4000), netip.AddrPortFrom(server6, 80))
	list := events(t, w)
	marked := slices.IndexFunc(list, func(e Event) bool { return e.Flow.Mark == 5 })
	if marked < 0 {
		t.Fatalf("no event with the mark: %q", kinds(list))
	}
	if e := list[marked]; e.Kind != Update || e.Flow.TCPState != "" {
		t.Errorf("%v of a flow in state %q, want an update without", e.Kind, e.Flow.TCPState)
	}
}

// TestDropped: a packet that is dropped before it is confirmed leaves no event.
func TestDropped(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade+`
table inet d {
	chain forward { type filter hook forward priority 0; udp dport 666 drop; }
}`)
	w := watch(t, Config{NetNS: n.router, Name: "router", Filter: Filter{Proto: packet.UDP}})
	n.datagrams(t, 666, 2)
	var ports []uint16
	for _, e := range events(t, w) {
		if e.Kind == New {
			ports = append(ports, e.Flow.Original.DstPort)
		}
	}
	if want := []uint16{667}; !slices.Equal(ports, want) {
		t.Errorf("NEW for the ports %d, want %d", ports, want)
	}
}

// TestStatusBits: the *_DONE bits are set on a flow that no rule translated,
// and the others are not.
func TestStatusBits(t *testing.T) {
	t.Parallel()
	const srcNATDone, dstNATDone = 1 << 7, 1 << 8 // IPS_SRC_NAT_DONE, IPS_DST_NAT_DONE
	n := newNetwork(t)
	n.rules(t, `table inet n {
	chain prerouting { type nat hook prerouting priority -100; }
	chain postrouting { type nat hook postrouting priority 100; ip daddr 198.51.100.1 masquerade; }
}`)
	n.ping(t, client4, server4, 9)
	flow, ok, err := Get(n.router, "router", packet.Tuple{
		Proto: packet.ICMP, Src: client4, Dst: server4, ICMPType: packet.EchoRequest, ICMPID: 9,
	})
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	if !flow.Status.Has(srcNATDone|dstNATDone) || flow.Status&(StatusSrcNAT|StatusDstNAT) != 0 {
		t.Errorf("status %#x", uint32(flow.Status))
	}
	if got := flow.Translations(); got != nil {
		t.Errorf("translations %v", got)
	}
}

// TestTable compares dumps, lookups and status with what conntrack prints.
func TestTable(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	n.ping(t, client4, server4, 77)
	n.ping(t, other4, server4, 77)
	n.ping(t, client6, server6, 78)
	n.exchange(t, netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(inside4, 8080))
	n.exchange(t, netip.AddrPortFrom(client6, 4000), netip.AddrPortFrom(server6, 80))
	n.datagrams(t, 53, 1)

	all, err := Dump(t.Context(), n.router, "router", Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, flow := range all {
		got = append(got, asTool(flow))
	}
	var want []string
	// What conntrack prints beyond what is compared.
	rest := regexp.MustCompile(` (mark|use|secctx)=\S+`)
	number := regexp.MustCompile(`^(\S+) +\d+ \d+ `)
	for line := range strings.Lines(n.tool(t, "-L", "-f", "ipv4", "-o", "id") + n.tool(t, "-L", "-f", "ipv6", "-o", "id")) {
		line = rest.ReplaceAllString(strings.TrimSpace(line), "")
		want = append(want, number.ReplaceAllString(line, "$1 "))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || len(want) != 6 {
		t.Errorf("%d flows (-conntrack +Dump)\n%s", len(want), diff)
	}

	some, err := Dump(t.Context(), n.router, "router", Filter{Proto: packet.ICMP})
	if err != nil || len(some) != 2 {
		t.Errorf("%d ICMP flows, %v; want 2", len(some), err)
	}
	for _, flow := range all {
		for _, tuple := range []packet.Tuple{flow.Original, flow.Reply} {
			found, ok, err := Get(n.router, "router", tuple)
			if err != nil || !ok || found.ID != flow.ID || found.Reply != flow.Reply {
				t.Errorf("lookup of %v: %+v, %v, %v", tuple, found, ok, err)
			}
		}
	}
	if _, ok, err := Get(n.router, "router", tcp("192.0.2.9:1", "192.0.2.2:80")); ok || err != nil {
		t.Errorf("lookup of nothing: %v, %v", ok, err)
	}
}

// asTool returns the flow as "conntrack -L -o id" prints it, without numbers
// of protocol and time.
func asTool(f Flow) string {
	tuple := func(t packet.Tuple) string {
		s := fmt.Sprintf("src=%v dst=%v ", t.Src, t.Dst)
		if t.Proto.IsICMP() {
			return s + fmt.Sprintf("type=%d code=%d id=%d", t.ICMPType, t.ICMPCode, t.ICMPID)
		}
		return s + fmt.Sprintf("sport=%d dport=%d", t.SrcPort, t.DstPort)
	}
	words := []string{f.Original.Proto.String()}
	if f.TCPState != "" {
		words = append(words, f.TCPState)
	}
	words = append(words, tuple(f.Original))
	if !f.Status.Has(StatusSeenReply) {
		words = append(words, "[UNREPLIED]")
	}
	words = append(words, tuple(f.Reply))
	if f.Status.Has(StatusAssured) {
		words = append(words, "[ASSURED]")
	}
	return strings.Join(append(words, fmt.Sprintf("id=%d", f.ID)), " ")
}

// events switches the router's conntrack events off (0), on (1) or on for flows
// that begin while somebody listens (2, the default).
func (n *network) events(t testing.TB, mode string) {
	t.Helper()
	n.do(t, n.router, func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_events", []byte(mode), 0)
	})
}

// TestOlderFlow: a flow that began unheard sends no event, not even at its end,
// and is known from the table alone.
func TestOlderFlow(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	// Other tests listen at the same time, see TestListenerElsewhere.
	n.events(t, "0")
	n.ping(t, client6, server6, 1)
	n.events(t, "2")
	w := watch(t, Config{NetNS: n.router, Name: "router", Existing: true})
	deaf := watch(t, Config{NetNS: n.router, Name: "router"})
	n.ping(t, client6, server6, 1) // the same flow
	n.ping(t, client6, server6, 2)
	list := events(t, w)
	n.tool(t, "-D", "-p", "icmpv6")
	list = append(list, events(t, w)...)
	if got, want := kinds(list), "EXISTING NEW UPDATE DESTROY"; got != want {
		t.Fatalf("events %q, want %q", got, want)
	}
	for i, id := range []uint16{1, 2, 2, 2} {
		if got := list[i].Flow.Original.ICMPID; got != id {
			t.Errorf("%v of the flow with id %d, want %d", list[i].Kind, got, id)
		}
	}
	if e := list[0]; e.Resync || e.Seq != 0 || e.Received.IsZero() || !e.Flow.Status.Has(StatusSeenReply) {
		t.Errorf("existing: %+v", e)
	}
	for _, e := range events(t, deaf) {
		if e.Flow.Original.ICMPID == 1 {
			t.Errorf("%v of the older flow", e.Kind)
		}
	}
}

// TestListenerElsewhere: a listener in any namespace of the machine makes the
// flows of all of them send events, to whoever listens later.
func TestListenerElsewhere(t *testing.T) {
	t.Parallel()
	n, elsewhere := newNetwork(t), newNetwork(t)
	watch(t, Config{NetNS: elsewhere.router, Name: "elsewhere"})
	n.rules(t, masquerade)
	n.ping(t, client6, server6, 1)
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	n.tool(t, "-D", "-p", "icmpv6")
	if got, want := kinds(events(t, w)), "DESTROY"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestProtocolFilter: events of other protocols do not even reach the socket.
func TestProtocolFilter(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	n.ping(t, client4, server4, 5)
	n.datagrams(t, 1000, 1)
	w := watch(t, Config{NetNS: n.router, Name: "router", Existing: true, Filter: Filter{Proto: packet.UDP}})
	n.ping(t, client4, server4, 6)
	n.datagrams(t, 2000, 3)
	list := events(t, w)
	for _, e := range list {
		if e.Flow.Original.Proto != packet.UDP {
			t.Errorf("%v of %v", e.Kind, e.Flow.Original.Proto)
		}
	}
	if got := strings.Count(kinds(list), "NEW"); got != 3 {
		t.Errorf("%d NEW, want 3", got)
	}
	if list[0].Kind != Existing || list[0].Flow.Original.DstPort != 1000 {
		t.Errorf("first %+v", list[0])
	}
	if got := w.Stats().Received; got != uint64(len(list)-1) {
		t.Errorf("%d messages read, %d told", got, len(list)-1)
	}
}

// TestResync loses events on purpose: afterwards the watcher knows exactly
// what the table shows.
func TestResync(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	overruns := 0
	w := watch(t, Config{
		NetNS: n.router, Name: "router", Existing: true, ReadBuffer: 16 << 10,
		Overrun: func() { overruns++ },
	})
	n.ping(t, client4, server4, 1)
	n.exchange(t, netip.AddrPortFrom(client6, 4000), netip.AddrPortFrom(server6, 80))
	alive := make(map[identity]Flow)
	var resynced []Event
	apply := func(list []Event) {
		for _, e := range list {
			id := identityOf(&e.Flow)
			_, known := alive[id]
			switch {
			case (e.Kind == New || e.Kind == Existing) && known:
				t.Errorf("%v of a flow that was told before: %v", e.Kind, e.Flow.Original)
			case (e.Kind == Update || e.Kind == Destroy) && !known:
				t.Errorf("%v of a flow that was never told: %v", e.Kind, e.Flow.Original)
			}
			if e.Resync {
				resynced = append(resynced, e)
			}
			if alive[id] = e.Flow; e.Kind == Destroy {
				delete(alive, id)
			}
		}
	}
	apply(events(t, w))
	if len(alive) != 2 || overruns != 0 {
		t.Fatalf("%d flows, %d overruns before the burst", len(alive), overruns)
	}

	// Enough for the queue to be full, then what nobody is told: one flow
	// ends, one is answered, some begin.
	n.datagrams(t, 1000, 300)
	n.tool(t, "-D", "-p", "icmp")
	n.ping(t, client4, server4, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var list []Event
	seen, done := make(chan struct{}), make(chan error)
	go func() {
		done <- w.Run(ctx, func(e Event) {
			if list = append(list, e); e.Flow.Original.DstPort == 9999 {
				close(seen)
			}
		})
	}()
	// Whether its event is lost or not, this flow is told: as the only one, so
	// that there is no second overrun.
	n.datagrams(t, 9999, 1)
	select {
	case <-seen:
	case <-time.After(10 * time.Second):
		t.Error("a flow was not told after the overrun")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	apply(list)

	if overruns == 0 || w.Stats().Overruns == 0 {
		t.Errorf("%d overruns told, %d counted", overruns, w.Stats().Overruns)
	}
	table, err := Dump(t.Context(), n.router, "router", Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, flow := range table {
		if _, ok := alive[identityOf(&flow)]; !ok {
			t.Errorf("not told: %v", flow.Original)
		}
		delete(alive, identityOf(&flow))
	}
	for _, flow := range alive {
		t.Errorf("told, and not in the table: %v", flow.Original)
	}
	var gone, found int
	for _, e := range resynced {
		if e.Seq != 0 || !e.Time.IsZero() || e.Received.IsZero() {
			t.Errorf("resync: %+v", e)
		}
		switch {
		case e.Kind == Destroy && e.Flow.Original.ICMPID == 1:
			gone++
		case e.Kind == Existing && e.Flow.Original.ICMPID == 2:
			found++
		}
	}
	if gone != 1 || found != 1 {
		t.Errorf("the flow that ended was told %d times, the one that began %d times", gone, found)
	}
}

// TestTimestamps: with nf_conntrack_timestamp the kernel tells when an event
// happened and when the flow began.
func TestTimestamps(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	n.do(t, n.router, func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_timestamp", []byte("1"), 0)
	})
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	before := time.Now()
	n.ping(t, client4, server4, 3)
	after := time.Now()
	n.tool(t, "-D", "-p", "icmp")
	list := events(t, w)
	if len(list) != 3 {
		t.Fatalf("events %q", kinds(list))
	}
	for _, e := range list[:2] {
		if e.Time.Before(before) || e.Time.After(after) {
			t.Errorf("%v at %v, want between %v and %v", e.Kind, e.Time, before, after)
		}
	}
	last := list[2]
	if last.Time.Before(after) || last.Time.After(last.Received) {
		t.Errorf("DESTROY at %v, want between %v and %v", last.Time, after, last.Received)
	}
	if s := last.Flow.Started; s.Before(before) || s.After(after) {
		t.Errorf("began at %v, want between %v and %v", s, before, after)
	}
}

// TestEventsOff: without events a watcher would be blind.
func TestEventsOff(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.events(t, "0")
	_, err := Watch(Config{NetNS: n.router, Name: "router"})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "nf_conntrack_events") {
		t.Errorf("got %v", err)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	done := make(chan error)
	go func() { done <- w.Run(t.Context(), func(Event) {}) }()
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("run ended with %v, want os.ErrClosed", err)
	}
}

// TestOddProtocol: conntrack tracks protocols without ports, too.
func TestOddProtocol(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.rules(t, masquerade)
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	n.do(t, n.client, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, 89) // OSPF
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // nothing is buffered
		return unix.Sendto(fd, make([]byte, 8), 0, &unix.SockaddrInet4{Addr: server4.As4()})
	})
	var original []packet.Tuple
	for _, e := range events(t, w) {
		if e.Kind == New {
			original = append(original, e.Flow.Original)
		}
	}
	want := []packet.Tuple{{Proto: 89, Src: client4, Dst: server4}}
	if !slices.Equal(original, want) || w.Stats().Undecodable != 0 {
		t.Errorf("NEW of %v, want %v; %+v", original, want, w.Stats())
	}
}

// TestUserNamespace runs tests above as an ordinary user does: as root of a
// user namespace.
func TestUserNamespace(t *testing.T) {
	const inside = "PATHTRACE_TEST_USERNS"
	if os.Getenv(inside) != "" {
		t.Skip("inside")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^Test(EventsOfM|EventsOfT|Table|Older|Resync)", "-test.v", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, os.ErrPermission) || strings.Contains(string(out), "--- SKIP: TestResync"):
		testenv.Skip(t, "needs an unprivileged user namespace")
	case err != nil || !strings.Contains(string(out), "--- PASS: TestResync"):
		t.Errorf("%v\n%s", err, out)
	}
}
